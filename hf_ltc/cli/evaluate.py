"""The command `evaluate`: what coresets are worth."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..config import EvaluateConfig, option
from ..utils.errors import InputError
from .command import (
    DATASET_HELP,
    LOSSES_HELP,
    Command,
    Losses,
    Results,
    next_command,
    options_of,
    recorded_split,
    repository_name,
)
from .parsing import LocalPath, argument
from .push import Push
from .terminal import is_first

if TYPE_CHECKING:
    from datasets import Dataset

    from ..trajectories.value import Trajectories


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Train models on coresets, random subsets and all rows, and test what each is worth."""

    runs: list[LocalPath] = argument("RUN", "run directories of hf-ltc record")
    config: EvaluateConfig
    dataset: str | None = option(None, DATASET_HELP)
    validation_split: str | None = option(
        None,
        "the split of the validation samples, where they are of another one than the train rows; as recorded if not "
        "given",
    )
    losses: Losses | None = option(None, LOSSES_HELP)

    PARAMETERS: ClassVar = {
        "validation": "validation_split",
        "test": "test_split",
        "model": "models",
        "fraction": "fractions",
    }

    def execute(self) -> Results | None:
        from ..evaluation.evaluate import evaluate_coresets
        from ..evaluation.methods import METHODS
        from ..evaluation.pictures import PICTURE, RESULTS, TABLE, markdown

        folder = self.config.output_dir or str(Path(self.runs[0]) / "evaluation")
        config = dataclasses.replace(self.config, output_dir=folder)
        runs = self._named_runs()
        first = next(iter(runs.values()))
        train = self._split(first)
        try:
            test = self._split(first, config.test_split)
        except InputError as error:
            raise InputError(f"--test-split {config.test_split!r}: {error}") from error
        evaluation = evaluate_coresets(config, runs, train, test, self._validation_split(first))
        if not is_first():
            return None
        made = [name for name in (RESULTS, TABLE, PICTURE) if (Path(folder) / name).is_file()]
        variants = [METHODS[name].family for name in config.members]
        pushing = Push(
            run=self.runs[0],
            repo_id=repository_name(first.recipe.get("dataset") or {}),
            fractions=list(config.fractions),
            dataset=self.dataset,
            evaluation=str(Path(folder) / RESULTS),
            private=True,
            variant=options_of(variants[0] if variants else {}),
            losses=self.losses,
            balance=config.balance,
        )
        text = [markdown(evaluation), f"In {folder}: {', '.join(made)}."]
        return Results({"output_dir": folder, **evaluation.to_dict()}, text, [next_command(pushing)])

    def _named_runs(self) -> "dict[str, Trajectories]":
        """The recordings by their source model, and as much of their folder as tells those of one model apart."""
        from ..evaluation.scores import source_model
        from ..trajectories.value import Trajectories

        paths = [Path(path).resolve() for path in self.runs]
        if len(set(paths)) < len(paths):
            raise InputError(f"the same RUN is given twice: {' '.join(self.runs)}")
        runs = [Trajectories.load(path, losses=self.losses) for path in self.runs]
        names: list[str] = []
        for depth in range(1 + max(len(path.parts) for path in paths)):
            folders = [path.parts[max(0, len(path.parts) - depth) :] for path in paths]
            names = ["-".join([source_model(run) or "run", *folder]) for run, folder in zip(runs, folders)]
            if len(set(names)) == len(names):
                break
        return dict(zip(names, runs))

    def _validation_split(self, run: "Trajectories") -> "Dataset | None":
        """The validation samples, where they are a split of the recorded dataset."""
        if self.validation_split is not None:
            return self._split(run, self.validation_split)
        recorded = run.recipe.get("validation") or {}
        if recorded.get("split") is None:
            return None
        try:
            split = self._split(run, recorded["split"])
        except InputError:
            # Of another dataset, which only Python takes.
            return None
        # A recipe may name the split without the slice of it that was taken.
        return split if len(split) == recorded["rows"] else None

    def _split(self, run: "Trajectories", split: str | None = None) -> "Dataset":
        return recorded_split(run, self.runs[0], self.dataset, split)
