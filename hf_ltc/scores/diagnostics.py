"""Doubts about scores that users are warned of: hard rows come first, or validation samples mislead."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..utils.errors import LTCWarning
from .ltc import ltc_scores, score_variant
from .protocol import RecordedColumns
from .reliability import reliability_of, say_unknown, warn_of_reliability, within_class_spearman
from .scorers import baseline_scores

# Above this place a coreset is made of hard rows, and below this share of the rows these are worth less than random
# ones (docs/choosing.md, "Where it is close").
_HARD, _SMALL = 0.75, 0.2
# Of what the validation loss fell by, the part that it may rise by again.
_RISE = 0.2


def hard_first(scores: np.ndarray, trajectories: RecordedColumns) -> float:
    """How far hard rows come first: the Spearman correlation, within classes, of scores with the mean loss.

    Args:
        scores (`np.ndarray`): float `(N,)`, the highest of which are kept; NaN for rows without a score.
        trajectories ([`Trajectories`]): Their recording.

    Returns:
        `float`: in [-1, 1]; NaN if no class has two rows with different scores.
    """
    return within_class_spearman(scores, baseline_scores(trajectories, "mean_loss"), trajectories.labels)


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
    scores: np.ndarray,
    variant: Mapping[str, Any],
    kept: np.ndarray,
) -> None:
    """Warns the caller's caller of doubts about scores, of each once.

    Args:
        trajectories ([`Trajectories`]): The recording that was scored.
        runs (`Sequence[Trajectories]`): Its runs.
        scores (`np.ndarray`): float `(N,)`, its scores.
        variant (`Mapping`): The score variant: `preset`, `of`, `aggregate`, `scope`, `weighting`, as for
            [`ltc_scores`].
        kept (`np.ndarray`): bool `(N,)`, a small coreset by these scores.
    """
    if len(runs) > 1:
        found = reliability_of([ltc_scores(run, **variant) for run in runs], trajectories.labels)
        warn_of_reliability(found, stacklevel=3)
    else:
        say_unknown()
    for doubt in (
        _few_differences(runs, variant),
        doubt_of_hard(kept, baseline_scores(trajectories, "mean_loss"), trajectories.labels),
        doubt_of_validation(runs),
    ):
        if doubt is not None:
            warnings.warn(doubt, LTCWarning, stacklevel=3)


def doubt_of_hard(kept: np.ndarray, mean_losses: np.ndarray, labels: np.ndarray) -> str | None:
    """The warning that a small coreset is made of hard rows, if it is.

    Args:
        kept, mean_losses, labels (`np.ndarray`): As for [`hardness`].
    """
    rows, found = int(np.count_nonzero(kept)), hardness(kept, mean_losses, labels)
    if not (rows < _SMALL * len(kept) and found > _HARD):
        return None
    return (
        f"The coreset of {rows:,} rows has the hardest ones (mean place {found:.2f} among the mean losses of their "
        "class, from 0 to 1): random rows may be worth more. hf-ltc evaluate tells."
    )


def doubt_of_validation(runs: Sequence[RecordedColumns]) -> str | None:
    """The warning that the mean validation loss, which scores follow, does not fall or rises again, if it does so.

    Args:
        runs (`Sequence[Trajectories]`): Runs; the warning is about the first of which this is true.
    """
    for run in runs:
        means = np.asarray(run.validation_losses, dtype=np.float64).mean(axis=1)
        best = int(means.argmin())
        if means[-1] - means[best] > _RISE * (means[0] - means[best]):
            return (
                f"The mean validation loss rose from {means[best]:.2f} after epoch {run.epochs[best]} to "
                f"{means[-1]:.2f} after the last one, and scores follow it: look for wrong labels and other images "
                "among the validation samples, or record fewer epochs."
            )
    return None


def _few_differences(runs: Sequence[RecordedColumns], variant: Mapping[str, Any]) -> str | None:
    if min(length for run in runs for length in run.lengths) > 3 or score_variant(**variant)["of"] == "levels":
        return None
    return "Two differences can only correlate at 1 or -1: record more epochs for scores that tell rows apart."
