"""The command `evaluate`: what coresets are worth."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..config import EvaluateConfig, option
from ..recipe import Recipe
from ..utils.errors import InputError
from .command import DATASET_HELP, LOSSES_HELP, Command, Losses, Results, VariantOptions, recorded_split
from .parsing import LocalPath, argument
from .push import Push, repository_name
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
        None, "split of the validation samples, if it is not that of the train rows; as recorded if not given"
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
        recipe = Recipe.from_dict(next(iter(runs.values())).recipe)
        train = recorded_split(recipe.dataset, self.dataset)
        try:
            test = recorded_split(recipe.dataset, self.dataset, config.test_split)
        except InputError as error:
            raise InputError(f"--test-split {config.test_split!r}: {error}") from error
        evaluation = evaluate_coresets(config, runs, train, test, self._validation_split(recipe))
        if not is_first():
            return None
        made = [name for name in (RESULTS, TABLE, PICTURE) if (Path(folder) / name).is_file()]
        methods = [METHODS[name] for name in config.members]
        pushing = Push(
            run=self.runs[0],
            repo_id=repository_name(recipe.dataset),
            fractions=list(config.fractions),
            dataset=self.dataset,
            evaluation=str(Path(folder) / RESULTS),
            private=True,
            variant=VariantOptions.of_variant(methods[0].variant if methods else {}),
            losses=self.losses,
            balance=config.balance,
            typical=methods[0].typical if methods else None,
        )
        text = [markdown(evaluation), f"In {folder}: {', '.join(made)}."]
        return Results({"output_dir": folder, **evaluation.to_dict()}, text, [pushing])

    def _named_runs(self) -> "dict[str, Trajectories]":
        """The recordings by name: the source model, and as much of the folder as tells those of one model apart."""
        from ..evaluation.sources import source_model
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

    def _validation_split(self, recipe: Recipe) -> "Dataset | None":
        """The validation samples, where they are a split of the recorded dataset."""
        recorded = recipe.validation
        if self.validation_split is None and recorded.split is None:
            return None
        try:
            split = recorded_split(recipe.dataset, self.dataset, self.validation_split or recorded.split)
        except InputError:
            if self.validation_split is not None:
                raise
            # It is of another dataset, which only Python code can give.
            return None
        # A recipe may name a split of which only a slice was used.
        return split if self.validation_split is not None or len(split) == recorded.rows else None
