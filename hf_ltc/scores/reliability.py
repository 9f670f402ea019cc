"""How far scores can be relied on: agreement between seeds, hard rows first, validation samples that mislead."""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ..utils.errors import LTCWarning
from ..utils.files import finite
from .ltc import ltc_scores, score_variant, variant_of_all
from .protocol import RecordedColumns, Validated
from .rise import find_rise
from .scorers import baseline_scores
from .typical_rows import usual_typical

logger = logging.getLogger(__name__)

# Below it, chance has more say in a ranking than the data.
LOW = 0.5
# Above this place a coreset is made of hard rows, and below this share of the rows these are worth less than random
# ones (docs/results.md, "Where it is close").
_HARD, _SMALL = 0.75, 0.2


def within_class_spearman(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> float:
    """Spearman correlation of two scores within classes, averaged over the classes by their numbers of rows.

    Args:
        first (`np.ndarray`): float `(N,)`; NaN for rows without a score, which are left out.
        second (`np.ndarray`): float `(N,)`.
        labels (`np.ndarray`): int `(N,)`, the class of every row.

    Returns:
        `float`: in [-1, 1]; NaN if no class has two rows with different scores.
    """
    known = np.flatnonzero(np.isfinite(first) & np.isfinite(second))
    known = known[np.argsort(labels[known], kind="stable")]
    total = weight = 0.0
    for members in np.split(known, np.flatnonzero(np.diff(labels[known])) + 1):
        # By pandas, which is imported anyway: scipy.stats would add a tenth to the time that a command takes to start.
        both = (pd.Series(scores[members]).rank().to_numpy() for scores in (first, second))
        one, two = (ranks - (len(members) + 1) / 2 for ranks in both)
        norm = float(np.linalg.norm(one) * np.linalg.norm(two))
        if norm > 0:
            total += len(members) * float(one @ two) / norm
            weight += len(members)
    return total / weight if weight else float("nan")


@dataclass(frozen=True)
class Reliability:
    """How far a ranking depends on the seed.

    Args:
        one (`float`): Mean within-class Spearman correlation of the scores of two runs.
        mean (`float`): The same for the mean of all runs and another such mean, by the Spearman-Brown formula.
        runs (`int`): How many runs.
        pairs (`list[float]`): The correlation of each pair, NaN where no class has two rows with different scores.
    """

    one: float
    mean: float
    runs: int
    pairs: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with `None` for NaN, which JSON does not have."""
        return finite(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Reliability":
        """Back from [`Reliability.to_dict`]."""
        pairs = [_number(pair) for pair in values["pairs"]]
        return cls(_number(values["one"]), _number(values["mean"]), values["runs"], pairs)

    def __str__(self) -> str:
        if math.isnan(self.one):
            return "Reliability undefined: no class has two rows with different scores."
        said = f"Reliability {self.one:.2f} for one run"
        return said + (f", {self.mean:.2f} for the mean of {self.runs}." if self.runs > 1 else ".")


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def reliability_of(scores: Sequence[np.ndarray], labels: np.ndarray) -> Reliability:
    """Like [`reliability`], for scores of any kind.

    Args:
        scores (`Sequence[np.ndarray]`): float `(N,)` each, of two runs or more.
        labels (`np.ndarray`): int `(N,)`, the class of every row.

    Returns:
        [`Reliability`]
    """
    pairs = [within_class_spearman(one, two, labels) for one, two in combinations(scores, 2)]
    return Reliability(float(np.mean(pairs)), spearman_brown(float(np.mean(pairs)), len(scores)), len(scores), pairs)


def scores_by_run(runs: Sequence[RecordedColumns], rows: np.ndarray, **variant: Any) -> list[np.ndarray]:
    """The scores of all rows by each of several runs.

    Args:
        runs (`Sequence[Trajectories]`): The runs.
        rows (`np.ndarray`): int64 `(N,)`, the row numbers of all of them, increasing.
        **variant: As for [`ltc_scores`].

    Returns:
        `list[np.ndarray]`: float32 `(N,)` each, NaN for rows that the run did not record.
    """
    found, member = [], variant_of_all(runs, **variant)
    for run in runs:
        scores = np.full(len(rows), np.nan, dtype=np.float32)
        scores[np.searchsorted(rows, run.rows)] = ltc_scores(run, **member)
        found.append(scores)
    return found


def spearman_brown(one: float, count: int) -> float:
    """Reliability of the mean of several scores from that of one: r_n = n r / (1 + (n - 1) r).

    Spearman, "Correlation calculated from faulty data", and Brown, "Some experimental results in the correlation of
    mental abilities" (British Journal of Psychology 3, 1910).

    Args:
        one (`float`): Correlation of two scores.
        count (`int`): How many are averaged.

    Returns:
        `float`: `one` itself if it is not positive, where the formula does not apply.
    """
    return count * one / (1 + (count - 1) * one) if one > 0 else one


def warn_of_reliability(found: Reliability, stacklevel: int = 2) -> None:
    """Warns of a reliability below 0.5, where chance ranks the rows more than the data do.

    Args:
        found ([`Reliability`]): The reliability.
        stacklevel (`int`, *optional*, defaults to `2`): As for `warnings.warn`.
    """
    if not found.mean >= LOW:
        warnings.warn(
            f"{found} Below {LOW}, the ranking depends more on chance than on the data: record with "
            "`RecordConfig.weights` averaged, more `RecordConfig.runs`, a lower `RecordConfig.learning_rate` or more "
            "`RecordConfig.epochs`.",
            LTCWarning,
            stacklevel=stacklevel + 1,
        )


def say_unknown() -> None:
    """Logs that the reliability of one run is not known."""
    logger.info("Reliability unknown: it takes two seeds to measure it. Record with `RecordConfig.runs` 2 or more.")


def hardness(kept: np.ndarray, mean_losses: np.ndarray, labels: np.ndarray) -> float:
    """How hard the rows of a coreset are among those of their class.

    Args:
        kept (`np.ndarray`): bool `(N,)`, the rows of the coreset.
        mean_losses (`np.ndarray`): float `(N,)`, the mean loss of each row, `baseline_scores(run, "mean_loss")`.
        labels (`np.ndarray`): int `(N,)`.

    Returns:
        `float`: the mean place of the rows by mean loss, 0 the lowest of the class and 1 the highest; 0.5 of random
        rows; NaN if no row is kept of a class of two or more.
    """
    order = np.lexsort((mean_losses, labels))
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(first, counts)
    with np.errstate(invalid="ignore"):
        share = (place / np.repeat(counts - 1, counts))[kept[order]]
    share = share[np.isfinite(share)]
    return float(share.mean()) if len(share) else float("nan")


def warn_of_scores(
    trajectories: RecordedColumns,
    runs: Sequence[RecordedColumns],
    variant: Mapping[str, Any],
    kept: np.ndarray,
) -> None:
    """Warns the caller's caller of doubts about scores by trajectories, of each once.

    Args:
        trajectories ([`Trajectories`]): The recording that was scored.
        runs (`Sequence[Trajectories]`): Its runs.
        variant (`Mapping`): The score variant: `preset`, `of`, `aggregate`, `scope`, `weighting`, as for
            [`ltc_scores`].
        kept (`np.ndarray`): bool `(N,)`, a small coreset by these scores.
    """
    found = None
    if len(runs) > 1:
        found = reliability_of(scores_by_run(runs, trajectories.rows, **variant), trajectories.labels)
    mean_losses = baseline_scores(trajectories, "mean_loss")
    warn_of_doubts(found, doubts_of(mean_losses, kept, trajectories.labels, runs, variant), stacklevel=4)


def doubts_of(
    mean_losses: np.ndarray,
    kept: np.ndarray,
    labels: np.ndarray,
    runs: Sequence[Validated],
    variant: Mapping[str, Any],
) -> list[str | None]:
    """All that warnings of scores say, `None` where there is nothing to say.

    Args:
        mean_losses (`np.ndarray`): float `(N,)`, of the recorded rows.
        kept (`np.ndarray`): bool `(N,)`, a small coreset by these scores.
        labels (`np.ndarray`): int64 `(N,)`.
        runs (`Sequence[Trajectories]`): The runs.
        variant (`Mapping`): The score variant, as for [`ltc_scores`].
    """
    return [
        few_differences(runs, variant),
        doubt_of_hard(kept, mean_losses, labels),
        doubt_of_validation(runs),
    ]


def warn_of_doubts(found: Reliability | None, doubts: Sequence[str | None], stacklevel: int = 2) -> None:
    """Warns of a low reliability, or logs that it is not known, and warns of further doubts.

    Args:
        found ([`Reliability`], *optional*): The reliability; `None` of one run.
        doubts (`Sequence[str or None]`): The further ones, `None` where there is none.
        stacklevel (`int`, *optional*, defaults to `2`): As for `warnings.warn`.
    """
    if found is None:
        say_unknown()
    else:
        warn_of_reliability(found, stacklevel=stacklevel)
    for doubt in doubts:
        if doubt is not None:
            warnings.warn(doubt, LTCWarning, stacklevel=stacklevel)


def doubt_of_hard(kept: np.ndarray, mean_losses: np.ndarray, labels: np.ndarray) -> str | None:
    """The warning that a small coreset is made of hard rows, if it is.

    Args:
        kept, mean_losses, labels (`np.ndarray`): As for [`hardness`].
    """
    rows, found = int(np.count_nonzero(kept)), hardness(kept, mean_losses, labels)
    if not (rows < _SMALL * len(kept) and found > _HARD):
        return None
    return (
        f"The coreset of {rows:,} rows consists of the hardest ones (mean place {found:.2f} by mean loss, from 0 to "
        "1): random rows may be better. hf-ltc evaluate shows whether they are."
    )


def doubt_of_validation(runs: Sequence[Validated]) -> str | None:
    """The warning that the mean validation loss, which scores follow, does not fall or rises again, if it does so.

    Args:
        runs (`Sequence[Trajectories]`): Runs; the warning is about the first of which this is true.
    """
    for run in runs:
        if rise := find_rise(run):
            # As usual_typical decides.
            without = (
                " By default such rows are ranked by typicality alone, which needs no validation samples."
                if usual_typical(run) == 1
                else ""
            )
            return (
                f"The mean validation loss rose from {rise.lowest:.2f} after epoch {rise.epoch} to {rise.last:.2f} "
                "after the last one, and the scores follow it: look for wrong labels or different data among the "
                f"validation samples, or record fewer epochs.{without}"
            )
    return None


def few_differences(runs: Sequence[Validated], variant: Mapping[str, Any]) -> str | None:
    """The warning that two differences are all there are, if they are what is correlated.

    Args:
        runs (`Sequence[Trajectories]`): The runs.
        variant (`Mapping`): The score variant, as for [`ltc_scores`].
    """
    if min(length for run in runs for length in run.lengths) > 3 or score_variant(**variant)["of"] == "levels":
        return None
    return "With two differences, every correlation is 1 or -1: record more epochs to tell rows apart."
