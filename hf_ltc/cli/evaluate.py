"""The command `evaluate`: what coresets are worth."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..config import EvaluateConfig, seen_as_recorded
from ..recipe import Recipe
from ..utils.errors import InputError
from ..utils.files import write_json
from ..utils.settings import option
from .command import (
    DATASET_HELP,
    HOW_OFTEN,
    LOSSES_HELP,
    VALIDATION_HELP,
    Command,
    Losses,
    Results,
    VariantOptions,
    has_test_rows,
    importing,
    recorded_split,
    recorded_validation,
    warn_of_unfinished,
)
from .parsing import Flag, LocalPath, argument, command_line
from .push import Push, repository_name
from .report import Report
from .terminal import is_first

if TYPE_CHECKING:
    from ..trajectories.value import Trajectories


# Settings of an evaluation that --quick heeds.
_QUICK = {
    *("fractions", "members", "balance", "seed", "output_dir", "image_column", "label_column", "id_column"),
    *("text_column", "text_pair_column"),
    *("test_split", "allow_shared_rows"),
}


@dataclass(frozen=True, kw_only=True)
class Evaluate(Command):
    """Train models on coresets, random subsets and all rows, and test what each is worth."""

    runs: list[LocalPath] = argument("RUN", "run directories of hf-ltc record")
    config: EvaluateConfig
    dataset: str | None = option(None, DATASET_HELP)
    validation_split: str | None = option(None, VALIDATION_HELP)
    losses: Losses | None = option(None, LOSSES_HELP)
    quick: Flag = option(
        False,
        "without test rows: compare coresets by source models, trained for few steps and tested on rows held out",
    )
    judge_steps: int | None = option(None, "with --quick: steps of each model; by the recording if not given")

    PARAMETERS: ClassVar = {
        "validation": "validation_split",
        "test": "test_split",
        "model": "models",
        "fraction": "fractions",
    }

    def execute(self) -> Results | None:
        if self.quick:
            return self._quick()
        if self.judge_steps is not None:
            raise InputError(f"`judge_steps` {self.judge_steps} goes with --quick: add it, or leave the steps out")
        return self._evaluation()

    def _quick(self) -> Results:
        from ..evaluation.folder import JUDGEMENTS, check_free
        from ..evaluation.judge.rows import judge_fractions
        from ..evaluation.methods import METHODS, members_of
        from ..trajectories.value import Trajectories

        usual = EvaluateConfig()
        for name, value in vars(self.config).items():
            if name not in _QUICK and value != getattr(usual, name):
                raise InputError(
                    f"`{name}` {value!r} goes not with --quick, which trains the source model as it was recorded: "
                    "leave it out"
                )
        if len(self.runs) > 1:
            raise InputError(f"--quick takes one RUN, and {len(self.runs)} are given: give one after the other")
        (path,) = self.runs
        folder = Path(self.config.output_dir or Path(path) / "evaluation")
        check_free(folder)
        run = Trajectories.load(path, losses=self.losses)
        warn_of_unfinished(path)
        recipe = Recipe.from_dict(run.recipe)
        train = recorded_split(recipe.dataset, self.dataset)
        validation = recorded_validation(recipe, self.dataset, self.validation_split)
        found = judge_fractions(self.config, run, train, validation, judge_steps=self.judge_steps)
        values = {"judgements": [each.to_dict() for each in found]}
        write_json(folder / JUDGEMENTS, values)
        text = [*map(str, found), HOW_OFTEN, f"In {folder}: {JUDGEMENTS}."]
        names = [each.name for each in found[0].candidates]
        members = members_of(self.config, [run])
        following: list[Command | str] = []
        if recipe.config.model and has_test_rows(recipe.dataset, self.dataset):
            others = [name for name in names if name not in members]
            as_was = seen_as_recorded(recipe)
            config = dataclasses.replace(self.config, models=[recipe.config.model], baselines=others, **as_was)
            following.append(dataclasses.replace(self, config=config, quick=False, judge_steps=None))
        elif {each.kept for each in found} == {names[0]}:
            method = METHODS[names[0]]
            following.append(
                Push(
                    run=path,
                    repo_id=repository_name(recipe.dataset),
                    fractions=list(self.config.fractions),
                    dataset=self.dataset,
                    private=True,
                    variant=VariantOptions.of_variant(method.variant),
                    losses=self.losses,
                    balance=None if self.config.balance == "class" else self.config.balance,
                    typical=method.typical(run),
                )
            )
        else:
            text.append("To keep what is ahead: hf-ltc score this run, then hf-ltc select --judge.")
        return Results({"output_dir": str(folder), **values}, text, following)

    def _evaluation(self) -> Results | None:
        with importing():
            from ..evaluation.evaluate import evaluate_coresets
            from ..evaluation.methods import METHODS, members_of
            from ..evaluation.pictures import PICTURE, RESULTS, TABLE, markdown

        folder = self.config.output_dir or str(Path(self.runs[0]) / "evaluation")
        runs = self._named_runs()
        members = members_of(self.config, runs.values())
        config = dataclasses.replace(self.config, output_dir=folder, members=members)
        first = next(iter(runs.values()))
        recipe = Recipe.from_dict(first.recipe)
        train = recorded_split(recipe.dataset, self.dataset)
        try:
            test = recorded_split(recipe.dataset, self.dataset, config.test_split)
        except InputError as error:
            raise InputError(f"--test-split {config.test_split!r}: {error}") from error
        evaluation = evaluate_coresets(
            config, runs, train, test, recorded_validation(recipe, self.dataset, self.validation_split)
        )
        if not is_first():
            return None
        made = [name for name in (RESULTS, TABLE, PICTURE) if (Path(folder) / name).is_file()]
        methods = [METHODS[name] for name in members]
        best = evaluation.recommendation["fraction"] if config.recommend and evaluation.recommendation else None
        pushing = Push(
            run=self.runs[0],
            repo_id=repository_name(recipe.dataset),
            fractions=list(config.fractions) if best is None else [best],
            dataset=self.dataset,
            evaluation=str(Path(folder) / RESULTS),
            private=True,
            variant=VariantOptions.of_variant(methods[0].variant if methods else {}),
            losses=self.losses,
            balance=None if config.balance == "class" else config.balance,
            typical=methods[0].typical(first) if methods else None,
        )
        seeing = Report(
            run=self.runs[0],
            dataset=self.dataset,
            evaluation=str(Path(folder) / RESULTS),
            variant=pushing.variant,
            losses=self.losses,
            balance=config.balance,
            typical=pushing.typical,
        )
        text = [markdown(evaluation), f"Written to {folder}: {', '.join(made)}.", f"To see it: {command_line(seeing)}"]
        # Where all rows are needed there is nothing to push.
        following = [] if config.recommend and best is None else [pushing]
        return Results({"output_dir": folder, **evaluation.to_dict()}, text, list(following))

    def _named_runs(self) -> "dict[str, Trajectories]":
        """The recordings by name: the source model, and as much of the folder as tells those of one model apart."""
        from ..evaluation.sources import source_model
        from ..trajectories.value import Trajectories

        paths = [Path(path).resolve() for path in self.runs]
        if len(set(paths)) < len(paths):
            raise InputError(f"the same RUN is given twice: {' '.join(self.runs)}")
        runs = [Trajectories.load(path, losses=self.losses) for path in self.runs]
        warn_of_unfinished(*self.runs)
        names: list[str] = []
        for depth in range(1 + max(len(path.parts) for path in paths)):
            folders = [path.parts[max(0, len(path.parts) - depth) :] for path in paths]
            names = ["-".join([source_model(run) or "run", *folder]) for run, folder in zip(runs, folders)]
            if len(set(names)) == len(names):
                break
        return dict(zip(names, runs))
