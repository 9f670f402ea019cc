"""The command `score`: from a recording to the recorded dataset with scores and ranks."""

import dataclasses
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from ..coresets.order import Balance
from ..recipe import Recipe
from ..utils.errors import InputError
from ..utils.files import expanded, finite
from ..utils.settings import option
from .command import (
    BASELINE_NAMES,
    DATASET_HELP,
    LOSSES_HELP,
    SCORED,
    Command,
    Losses,
    Results,
    VariantOptions,
    balance_given,
    balance_option,
    beside,
    check_output,
    recorded_split,
    save,
    selection_option,
    warn_of_unfinished,
)
from .parsing import LocalPath, argument
from .push import some_fraction
from .select import Select


@dataclass(frozen=True, kw_only=True)
class Score(Command):
    """Add loss_trajectory, ltc_score, ltc_typicality and ltc_rank to the recorded dataset, and known scores too."""

    run: LocalPath = argument("RUN", "run directory of hf-ltc record")
    output: LocalPath = option(MISSING, "folder for the scored dataset", metavar="SCORED")
    dataset: str | None = option(None, DATASET_HELP)
    variant: VariantOptions = dataclasses.field(default_factory=VariantOptions)
    losses: Losses | None = option(None, LOSSES_HELP)
    balance: Balance | None = balance_option("balance")
    balance_column: str | None = balance_option("balance_column")
    typical: float | None = selection_option("typical")
    baseline: list[str] = option([], f"known scores to add as well, as NAME_score: {BASELINE_NAMES}")

    PARAMETERS: ClassVar = {"baselines": "baseline"}
    IS_SHORT: ClassVar = True

    def execute(self) -> Results:
        import pyarrow.compute as pc

        from ..coresets.choose import Selection
        from ..coresets.scored import decided, usual_balance
        from ..data.columns import LTC_SCORE, read_column
        from ..scores.ltc import is_weighted, score_variant
        from ..scores.protocol import LEAST_EPOCHS
        from ..scores.reliability import reliability_of, within_class_spearman
        from ..scores.scorers import BaselineScorer
        from ..scores.typical_rows import typical_of
        from ..trajectories.ranked import score_trajectories
        from ..trajectories.summary import LossSummary, load_recording

        run = load_recording(self.run, losses=self.losses)
        warn_of_unfinished(self.run)
        source = Recipe.from_dict(run.recipe).dataset
        output = check_output(self.output, SCORED, self.run, self.dataset or source.path)
        train = recorded_split(source, self.dataset)
        variant = self.variant.given()
        balance, label_column = balance_given(self.balance, self.balance_column, train)
        options: dict[str, Any] = {
            "balance": balance,
            "label_column": label_column,
            "typical": self.typical,
            **variant,
        }
        if isinstance(run, LossSummary):
            if self.baseline:
                raise InputError(
                    f"`baseline` {self.baseline[0]!r} needs trajectories, and {self.run!r} has running sums "
                    "(`RecordConfig.store` summary): leave it out, or record with `RecordConfig.store` trajectories"
                )
            scored = run.score(train, **options)
            known, each = {}, run.scores_by_run(**variant)
            whole, losses = each[0] if len(each) == 1 else run.scores(**variant), run.mean_losses()
        else:
            scored, rows = score_trajectories(run, train, baselines=self.baseline, **options)
            known = {name: BaselineScorer.from_trajectories(run, name) for name in self.baseline}
            each, whole, losses = rows.by_run, rows.scores, rows.mean_losses
        # How far hard rows come first.
        hard = within_class_spearman(whole, losses, run.labels)
        found = reliability_of(each, run.labels) if len(each) > 1 else None
        scores = read_column(scored, LTC_SCORE)
        member = score_variant(**variant)
        weighted = is_weighted(run, member)
        # Balanced by another column, there are no 25 rows of each of its values.
        of_classes = source if self.balance_column is None else None
        typical = decided(scored, LTC_SCORE, Selection(typical=self.typical), of_classes).typical
        count, held = len(scores) - scores.null_count, read_column(scored, "ltc_rank").null_count
        values = {
            "output": self.output,
            "rows": len(scored),
            "scored": count,
            "flat": len(scored) - held - count,
            "held_out": held,
            "mean": pc.mean(scores).as_py(),
            "weighted": weighted,
            "reliability": found and found.to_dict(),
            "mean_loss_correlation": finite(hard),
            "baselines": {
                name: {
                    "column": scorer.column,
                    "keep": scorer.keeps,
                    "mean": pc.mean(read_column(scored, scorer.column)).as_py(),
                }
                for name, scorer in known.items()
            },
        }
        made = {
            # In full, as the default may be another one in later versions.
            "family": member,
            "losses": run.loss_name,
            "balance": usual_balance(source, balance)[0],
            "balance_column": self.balance_column,
            "typical": typical,
            "reliability": values["reliability"],
            "baselines": {
                name: {"column": scorer.column, "keep": scorer.keeps, "options": dict(scorer.options)}
                for name, scorer in known.items()
            },
            # What the next commands need; it is never pushed.
            "usual_typical": typical_of(run),
            **({} if isinstance(run, LossSummary) else {"run": str(Path(self.run).resolve())}),
            "dataset": _found_anywhere(self.dataset),
        }
        save(scored, output, {**run.recipe, SCORED: made})
        text = [
            f"Scored {count:,} of {len(scored):,} rows ({held:,} held out, {values['flat']:,} flat), "
            f"mean score {values['mean']:.3f}."
            if count
            else "No row has a score: all trajectories are flat.",
            *(
                [
                    "Not weighted by uncertainty: the weight makes coresets of texts worse."
                    if source.is_text
                    else "Not weighted by uncertainty"
                    + (
                        " and without typical rows first"
                        if self.typical is None and not typical and source.classes != 0
                        else ""
                    )
                    + f": that needs {LEAST_EPOCHS} epochs per run. Short recordings make weaker coresets: record "
                    "more if you can."
                ]
                if member["weighting"] == "uncertainty" and not weighted
                else []
            ),
            *([str(found)] if found else []),
            *(
                f"Added {scorer.column}, mean {values['baselines'][name]['mean']:.3f}; its {scorer.keeps} are kept."
                for name, scorer in known.items()
            ),
        ]
        fraction = some_fraction(len(scored) - held, len(source.names or [None]))
        selecting = Select(
            scored=self.output,
            fraction=fraction,
            output=beside(self.output, f"-{100 * fraction:g}pct"),
            balance=self.balance,
            balance_column=self.balance_column,
            typical=self.typical,
        )
        others = [
            replace(
                selecting,
                output=beside(self.output, f"-{name}-{100 * fraction:g}pct"),
                score_column=scorer.column,
                keep=scorer.keeps,
                typical=None,
            )
            for name, scorer in known.items()
        ]
        return Results(values, text, [selecting, *others])


def _found_anywhere(dataset: str | None) -> str | None:
    """The name of a dataset on the command line, made absolute if it is a path, for use from any folder."""
    if dataset is None:
        return None
    place = Path(expanded(dataset))
    return str(place.resolve()) if place.exists() else dataset
