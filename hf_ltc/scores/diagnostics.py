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

# Above it, hard rows come so far first that a small coreset is made of them (docs/choosing.md, "Where it loses").
_HARD = 0.5
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


def warn_of_scores(
    trajectories: RecordedColumns, runs: Sequence[RecordedColumns], scores: np.ndarray, variant: Mapping[str, Any]
) -> None:
    """Warns the caller's caller of doubts about scores, of each once.

    Args:
        trajectories ([`Trajectories`]): The recording that was scored.
        runs (`Sequence[Trajectories]`): Its runs.
        scores (`np.ndarray`): float `(N,)`, its scores.
        variant (`Mapping`): The score variant: `preset`, `of`, `aggregate`, `scope`, `weighting`, as for
            [`ltc_scores`].
    """
    if len(runs) > 1:
        found = reliability_of([ltc_scores(run, **variant) for run in runs], trajectories.labels)
        warn_of_reliability(found, stacklevel=3)
    else:
        say_unknown()
    for doubt in (
        _few_differences(runs, variant),
        doubt_of_hard(hard_first(scores, trajectories)),
        doubt_of_validation(runs),
    ):
        if doubt is not None:
            warnings.warn(doubt, LTCWarning, stacklevel=3)


def doubt_of_hard(found: float) -> str | None:
    """The warning that hard rows come first, if they do.

    Args:
        found (`float`): What [`hard_first`] gives.
    """
    if not found > _HARD:
        return None
    return (
        f"Rows of high mean loss come first (Spearman {found:.2f} within classes): a small coreset has the hardest "
        "rows, and random ones may be worth more. hf-ltc evaluate tells."
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
