"""From a recording to a coreset: the commands `score` and `select`."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from ..config import EvaluateConfig, option
from ..utils.errors import InputError, one_line
from ..utils.files import expanded, finite
from .command import (
    BALANCE_HELP,
    CORESET,
    DATASET_HELP,
    LOSSES_HELP,
    SCORED,
    Balance,
    Command,
    Losses,
    Results,
    VariantOptions,
    beside,
    check_output,
    next_command,
    next_in_python,
    options_of,
    recipe_beside,
    recorded_split,
    repository_name,
    save,
    some_fraction,
)
from .evaluate import Evaluate
from .parsing import LocalPath, argument, either, flag, needed
from .push import Push


@dataclass(frozen=True, kw_only=True)
class Score(Command):
    """Add loss_trajectory, ltc_score and ltc_rank to the recorded dataset."""

    run: LocalPath = argument("RUN", "run directory of hf-ltc record")
    output: LocalPath = needed("SCORED", "folder for the scored dataset")
    dataset: str | None = option(None, DATASET_HELP)
    variant: VariantOptions = dataclasses.field(default_factory=VariantOptions)
    losses: Losses | None = option(None, LOSSES_HELP)
    balance: Balance = option("class", BALANCE_HELP)

    IS_SHORT: ClassVar = True

    def execute(self) -> Results:
        import pyarrow.compute as pc

        from ..data.columns import read_column
        from ..scores.diagnostics import hard_first
        from ..scores.ltc import ltc_scores, score_variant
        from ..scores.reliability import reliability_of
        from ..trajectories.value import Trajectories

        run = Trajectories.load(self.run, losses=self.losses)
        source = run.recipe.get("dataset") or {}
        output = check_output(self.output, SCORED, self.run, self.dataset or source.get("path"))
        train = recorded_split(run, self.run, self.dataset)
        variant = self.variant.given()
        scored = run.score(train, balance=self.balance, **variant)
        each = [ltc_scores(one, **variant) for one in run.runs]
        found = reliability_of(each, run.labels) if len(each) > 1 else None
        scores = read_column(scored, "ltc_score")
        hard = hard_first(ltc_scores(run, **variant), run)
        count, held = len(scores) - scores.null_count, read_column(scored, "loss_trajectory").null_count
        values = {
            "output": self.output,
            "rows": len(scored),
            "scored": count,
            "flat": len(scored) - held - count,
            "held_out": held,
            "mean": pc.mean(scores).as_py(),
            "reliability": found and found.to_dict(),
            "mean_loss_correlation": finite(hard),
        }
        made = {
            # As it is now, whatever the default will be.
            "family": score_variant(**variant),
            "losses": run.loss_name,
            "balance": self.balance,
            "reliability": values["reliability"],
            # What the next commands have to be given, which never leaves this machine.
            "run": str(Path(self.run).resolve()),
            "dataset": _found_anywhere(self.dataset),
        }
        save(scored, output, {**run.recipe, SCORED: made})
        text = [
            f"Scored {count:,} of {len(scored):,} rows ({held:,} held out, {values['flat']:,} flat), "
            f"mean {values['mean']:.3f}."
            if count
            else "No row has a score: all trajectories are flat.",
            *([str(found)] if found else []),
        ]
        fraction = some_fraction(len(scored) - held, source)
        selecting = Select(
            scored=self.output,
            fraction=fraction,
            output=beside(self.output, f"-{100 * fraction:g}pct"),
            balance=self.balance,
        )
        return Results(values, text, [next_command(selecting)])


@dataclass(frozen=True, kw_only=True)
class Select(Command):
    """Keep the coreset of a budget."""

    scored: LocalPath = argument("SCORED", "folder of hf-ltc score")
    fraction: float | None = either("share of the candidate rows, inside (0, 1]")
    size: int | None = either("number of rows")
    output: LocalPath = needed("CORESET", "folder for the coreset")
    score_column: str = option("ltc_score", "the score to choose by")
    label_column: str | None = option(None, "the classes; found by its type if not given")
    keep: Literal["highest", "lowest"] = option("highest", "which scores are kept")
    coverage: Literal["stratified", "beta"] | None = option(None, "draw over all scores")
    min_per_class: int = option(0, "rows that each class keeps at least")
    exclude_negative: bool = flag("never choose rows with a negative score")
    seed: int = option(0, "seed of the draws of --coverage")
    balance: Balance = option("class", BALANCE_HELP)

    IS_SHORT: ClassVar = True

    def execute(self) -> Results:
        from datasets import load_from_disk

        from ..coresets.select import select_coreset
        from ..coresets.summary import describe_coreset

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
        recipe = recipe_beside(self.scored)
        recorded = (recipe.get("dataset") or {}).get("label_column")
        kept = {name: value for name, value in vars(self).items() if name not in ("scored", "output")}
        if self.label_column is None and recorded in scored.column_names:
            kept["label_column"] = recorded
        coreset = select_coreset(scored, **kept)
        summary = describe_coreset(
            coreset,
            scored,
            score_column=self.score_column,
            label_column=kept["label_column"],
            exclude_negative=self.exclude_negative,
        )
        save(coreset, output, {**recipe, CORESET: {**kept, "rows": summary.rows, "pool": summary.pool}})
        following = [next_in_python(f"import datasets; coreset = datasets.load_from_disk({self.output!r})")]
        if "run" in recipe.get(SCORED, {}):
            fraction = self.fraction or round(summary.rows / summary.pool, 6)
            following.insert(0, next_command(self._next(recipe, fraction, summary.pool)))
        return Results({"output": self.output, **summary.to_dict()}, [str(summary)], following)

    def _next(self, recipe: Mapping[str, Any], fraction: float, pool: int) -> Evaluate | Push:
        """Training models on the coreset where there are test rows, or else pushing it."""
        from ..evaluation.methods import METHODS

        made, source = recipe[SCORED], recipe.get("dataset") or {}
        run, is_variant = _from_here(made["run"]), self.score_column == "ltc_score"
        losses: Losses | None = "evaluation" if made["losses"] == "evaluation_loss" else None
        model = (recipe.get("config") or {}).get("model")
        if is_variant and model and source.get("image_column") and _has_test_rows(made, source):
            member = next(name for name, method in METHODS.items() if method.family == made["family"])
            config = EvaluateConfig(
                models=[model],
                # Which takes no budget without a row of each class.
                fractions=[some_fraction(pool, source, fraction)],
                members=[member],
                balance=self.balance,
            )
            return Evaluate(runs=[run], config=config, dataset=made["dataset"], losses=losses)
        return Push(
            run=run,
            repo_id=repository_name(source),
            fractions=[fraction],
            dataset=made["dataset"],
            scored=None if is_variant else self.scored,
            score_column=self.score_column,
            keep="highest" if is_variant else self.keep,
            private=True,
            variant=options_of(made["family"]) if is_variant else VariantOptions(),
            losses=losses,
            balance=self.balance,
        )


def _found_anywhere(dataset: str | None) -> str | None:
    """A dataset as it was named on the command line, for a command in another folder."""
    if dataset is None:
        return None
    place = Path(expanded(dataset))
    return str(place.resolve()) if place.exists() else dataset


def _from_here(path: str) -> str:
    """A path as one who is in this folder says it."""
    whole, here = Path(path), Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)


def _has_test_rows(made: Mapping[str, Any], source: Mapping[str, Any]) -> bool:
    from ..data.load import load_split

    place = str(made["dataset"] or source.get("path") or source.get("repo_id"))
    try:
        load_split(place, EvaluateConfig().test_split, name=source.get("config"), revision=source.get("revision"))
    except InputError:
        return False
    return True
