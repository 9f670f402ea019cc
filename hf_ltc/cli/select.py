"""The command `select`: from a scored dataset to the coreset of a budget."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..config import TYPICAL_ROWS, EvaluateConfig, seen_as_recorded
from ..coresets.choose import Coverage, Selection
from ..coresets.order import Balance, Keep
from ..recipe import Identity, Recipe
from ..utils.errors import InputError, one_line
from ..utils.settings import option
from .command import (
    CORESET,
    HOW_OFTEN,
    JUDGED,
    SCORED,
    Command,
    Losses,
    Results,
    VariantOptions,
    as_scored,
    balance_given,
    balance_option,
    check_output,
    has_test_rows,
    recipe_beside,
    recorded_validation,
    save,
    selection_option,
)
from .evaluate import Evaluate
from .parsing import Flag, LocalPath, argument, either
from .push import Push, repository_name, some_fraction

if TYPE_CHECKING:
    from datasets import Dataset

    from ..evaluation.judge.verdict import Judgement


# docs/results.md, "At convergence" and "Typical rows first".
HALF_OR_MORE = (
    "For half of the rows or more, models that converge did better on draws by DUAL from easy images, and as well on "
    "those from others; after few steps they did worse. To compare: score with --baseline dual, then select with "
    "--score-column dual_score --coverage beta."
)


@dataclass(frozen=True, kw_only=True)
class Select(Command):
    """Keep the coreset of a budget."""

    scored: LocalPath = argument("SCORED", "folder of hf-ltc score")
    fraction: float | None = either("share of the candidate rows, in (0, 1]")
    size: int | None = either("number of rows")
    output: LocalPath = option(MISSING, "folder for the coreset", metavar="CORESET")
    score_column: str = option("ltc_score", "the score to choose by")
    label_column: str | None = option(None, "column with the class labels; found by its type if not given")
    keep: Keep = selection_option("keep")
    coverage: Coverage | None = selection_option("coverage")
    min_per_class: int = selection_option("min_per_class")
    exclude_negative: Flag = selection_option("exclude_negative")
    seed: int = selection_option("seed")
    balance: Balance | None = balance_option("balance")
    balance_column: str | None = balance_option("balance_column")
    typical: float | None = selection_option("typical")
    judge: Flag = option(
        False,
        "keep the best of this coreset, others from the same recording, and random rows: small models are trained on "
        "each, and tested on held-out rows",
    )
    judge_steps: int | None = option(
        None, "with --judge: training steps of these models; chosen by the recording if not given"
    )

    IS_SHORT: ClassVar = True

    def execute(self) -> Results:
        from datasets import load_from_disk

        if self.judge_steps is not None and not self.judge:
            raise InputError(f"`judge_steps` {self.judge_steps} goes with --judge: add it, or leave the steps out")
        output = check_output(self.output, CORESET, self.scored)
        if not (Path(self.scored) / "state.json").is_file():
            raise InputError(
                f"no scored dataset {self.scored!r}: make one with hf-ltc score RUN --output {self.scored}"
            )
        try:
            scored = load_from_disk(self.scored)
        except Exception as error:
            raise InputError(
                f"cannot load the scored dataset {self.scored!r} ({one_line(error)}): make it again with hf-ltc score"
            ) from error
        beside_rows = recipe_beside(self.scored)
        return replace(self, **as_scored(vars(self), beside_rows))._select(scored, beside_rows, output)

    def _select(self, scored: "Dataset", beside_rows: dict[str, Any], output: Path) -> Results:
        from ..coresets.scored import decided, usual_balance
        from ..coresets.select import select_coreset
        from ..coresets.summary import describe_coreset

        if self.judge and self.balance_column is not None:
            raise InputError(
                "`judge` trains classifiers of the recorded classes, and `balance_column` is "
                f"{self.balance_column!r}: leave one of them out, or give `balance`"
            )
        recipe = Recipe.from_dict(beside_rows)
        others = ("scored", "output", "judge", "judge_steps", "balance_column")
        kept: dict[str, Any] = {name: value for name, value in vars(self).items() if name not in others}
        given, column = balance_given(self.balance, self.balance_column, scored)
        if column is not None and self.label_column not in (None, column):
            raise InputError(
                f"`balance_column` {column!r} takes the place of the classes, and `label_column` is "
                f"{self.label_column!r}: leave one of them out"
            )
        way, label_column = usual_balance(recipe.dataset, given, column or self.label_column)
        if self.label_column is None and label_column not in scored.column_names:
            label_column = None
        kept["balance"], kept["label_column"] = way, label_column
        # As the dataset is ranked, for the recipe and for what comes next.
        made = beside_rows.get(SCORED) or {}
        options = Selection(
            keep=self.keep,
            exclude_negative=self.exclude_negative,
            coverage=self.coverage,
            typical=self.typical,
        )
        kept["typical"] = decided(scored, self.score_column, options, recipe.dataset).typical
        told: dict[str, Any] = {}
        text: list[str] = []
        if self.judge:
            scored, kept, judgement = self._judged(scored, beside_rows, made, kept)
            told, text = {JUDGED: judgement.to_dict()}, [str(judgement), HOW_OFTEN]
        coreset = select_coreset(scored, **kept)
        summary = describe_coreset(
            coreset,
            scored,
            score_column=kept["score_column"],
            label_column=kept["label_column"],
            exclude_negative=kept["exclude_negative"],
        )
        save(coreset, output, {**beside_rows, CORESET: {**kept, "rows": summary.rows, "pool": summary.pool, **told}})
        # As it was compared: not after short recordings, nor where the validation loss rises.
        usual = ("ltc_score", TYPICAL_ROWS, None, False)
        is_usual = (self.score_column, kept["typical"], self.coverage, self.judge) == usual
        if is_usual and round(summary.pool / 2) <= summary.rows < summary.pool:
            text.append(HALF_OR_MORE)
        following: list[Command | str] = [f"import datasets; coreset = datasets.load_from_disk({self.output!r})"]
        if "run" in made:
            fraction = self.fraction or round(summary.rows / summary.pool, 6)
            following.insert(0, self._next(recipe, made, fraction, summary.pool, kept))
        return Results({"output": self.output, **summary.to_dict(), **told}, [*text, str(summary)], following)

    def _judged(
        self, scored: "Dataset", recipe: dict[str, Any], made: Mapping[str, Any], kept: dict[str, Any]
    ) -> "tuple[Dataset, dict[str, Any], Judgement]":
        """Compares the coreset with others; returns the rows with the scores of the one to keep, and its options."""
        from ..evaluation.judge.choices import OTHERS, run_of_columns, with_scores_of
        from ..evaluation.judge.rows import judge_coresets
        from ..evaluation.methods import METHODS, methods_of
        from ..trajectories.run_dir import SUMS_OF

        if not recipe:
            raise InputError(
                f"there is no recipe with the rows of {self.scored!r}, so it is unknown how the source model was "
                "trained: --judge needs a folder of hf-ltc score"
            )
        if Recipe.from_dict(recipe).dataset.classes == 0:
            raise InputError("--judge trains classifiers, and these rows have no classes: leave it out")
        if SUMS_OF in recipe:
            raise InputError(
                f"`judge` chooses other coresets by trajectories, and {self.scored!r} was scored by running sums "
                "(`RecordConfig.store` summary): leave it out, or record with `RecordConfig.store` trajectories"
            )
        label_column, columns = kept["label_column"], self._with_margins(scored, made)
        run = run_of_columns(columns, recipe, label_column)
        is_usual = self.score_column == "ltc_score" and (self.coverage, self.keep) == (None, "highest")
        recorded = Recipe.from_dict(recipe).dataset
        named = methods_of(made.get("family") or {}, kept["typical"], _usual(made, recorded)) if is_usual else []
        name = named[0] if named else self.score_column
        options = {each: value for each, value in kept.items() if each not in ("score_column", "label_column")}
        judgement = judge_coresets(
            scored,
            run,
            Selection(**options),
            name=name,
            score_column=self.score_column,
            validation=recorded_validation(Recipe.from_dict(recipe), made.get("dataset")),
            label_column=label_column,
            judge_steps=self.judge_steps,
        )
        if judgement.kept == name or judgement.kept not in OTHERS:
            return scored, kept, judgement
        scored, column = with_scores_of(scored, run, judgement.kept, self.seed)
        method = METHODS[judgement.kept]
        options = method.selection(run, kept["balance"], self.min_per_class, self.seed).to_dict()
        budget = {"fraction": None, "size": judgement.rows} if self.exclude_negative else {}
        changed = {each: options[each] for each in kept if each in options}
        return scored, {**kept, **changed, **budget, "score_column": column}, judgement

    def _with_margins(self, scored: "Dataset", made: Mapping[str, Any]) -> "Dataset":
        """The rows with their margins, if the run directory is where it was and still has the recording of them."""
        import numpy as np

        from ..data.columns import LOSS_TRAJECTORY
        from ..trajectories.tables import by_epoch
        from ..trajectories.value import Trajectories

        with suppress(InputError):
            if "run" in made:
                run = Trajectories.load(made["run"], losses=_losses(made))
                with_margins = run.attach(scored, ["margin"])
                rows = np.flatnonzero(run.positions(scored) >= 0)
                one, other = (by_epoch(each.select(rows), LOSS_TRAJECTORY) for each in (scored, with_margins))
                if np.array_equal(one, other, equal_nan=True):
                    return with_margins
        return scored

    def _next(
        self, recipe: Recipe, made: Mapping[str, Any], fraction: float, pool: int, kept: Mapping[str, Any]
    ) -> Evaluate | Push:
        """Training models on the coreset if there are test rows, or else pushing it, as if it was judged."""
        from ..evaluation.methods import methods_of

        source, run, dataset = recipe.dataset, _from_here(made["run"]), made["dataset"]
        is_variant, typical, losses = kept["score_column"] == "ltc_score", kept["typical"], _losses(made)
        if self.judge:
            return Push(
                run=run,
                repo_id=repository_name(source),
                dataset=dataset,
                scored=None if is_variant or kept["score_column"] != self.score_column else self.scored,
                judged=self.output,
                private=True,
                variant=VariantOptions.of_variant(made["family"] if is_variant else {}),
                losses=losses,
            )
        methods = methods_of(made["family"], typical, _usual(made, source)) if is_variant else []
        if (
            methods
            and self.balance_column is None
            and recipe.config.model
            and (source.image_column or source.text_column)
            and has_test_rows(source, dataset)
        ):
            config = EvaluateConfig(
                models=[recipe.config.model],
                **seen_as_recorded(recipe),
                # An evaluation refuses budgets that have no row of some class.
                fractions=[some_fraction(pool, len(source.names or [None]), fraction)],
                members=methods[:1],
                balance=kept["balance"],
            )
            return Evaluate(runs=[run], config=config, dataset=dataset, losses=losses)
        return Push(
            run=run,
            repo_id=repository_name(source),
            fractions=[fraction],
            dataset=dataset,
            scored=None if is_variant else self.scored,
            score_column=self.score_column,
            keep="highest" if is_variant else self.keep,
            private=True,
            variant=VariantOptions.of_variant(made["family"] if is_variant else {}),
            losses=losses,
            balance=self.balance,
            balance_column=self.balance_column,
            typical=typical,
        )


def _usual(made: Mapping[str, Any], recorded: Identity) -> float:
    """How many typical rows come first where any do, which folders of before do not say."""
    from ..scores.typical_rows import some_typical

    return made.get("usual_typical") or some_typical(recorded)


def _losses(made: Mapping[str, Any]) -> Losses | None:
    return "evaluation" if made.get("losses") == "evaluation_loss" else None


def _from_here(path: str) -> str:
    """A path, relative to the current folder if it is inside."""
    whole, here = Path(path), Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)
