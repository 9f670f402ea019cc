"""Reliability: whether another seed would give the same ranking; and stability within a run."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..scores.kernels import run_spans
from ..scores.ltc import ltc_scores, variant_of_all
from ..scores.reliability import (
    Reliability,
    reliability_of,
    scores_by_run,
    warn_of_reliability,
    within_class_spearman,
)
from ..utils.errors import InputError
from .combine import take_checkpoints
from .value import Trajectories


def reliability(runs: Trajectories | Sequence[Trajectories], **variant: Any) -> Reliability:
    """The Spearman correlation, within classes, between the scores of runs that differ only in the seed.

    Args:
        runs (`Trajectories` or `Sequence[Trajectories]`): Two or more runs, or one value that holds them.
        **variant: `preset`, `of`, `aggregate`, `scope`, `weighting`, as for [`ltc_scores`].

    Returns:
        [`Reliability`]

    Warns:
        LTCWarning: if it is below 0.5: the ranking depends more on chance than on the data.

    Raises:
        InputError: for fewer than two runs, or runs of different datasets.
    """
    together = runs if isinstance(runs, Trajectories) else Trajectories.average(runs)
    if len(together.lengths) < 2:
        raise InputError(
            "reliability needs two runs or more of different seeds: record with `RecordConfig.runs` 2 or more"
        )
    found = reliability_of(scores_by_run(together.runs, together.rows, **variant), together.labels)
    warn_of_reliability(found)
    return found


def stability(trajectories: Trajectories, **variant: Any) -> float:
    """Within-class Spearman of the scores of all checkpoints with those of the first half of them.

    This is stability within a run, and no evidence that another seed would rank the rows alike. Where half of the
    checkpoints are too few for the weight of uncertainty, both scores are without it.

    Args:
        trajectories ([`Trajectories`]): A run, or several, of each of which the first half is taken.
        **variant: As for [`ltc_scores`].

    Returns:
        `float`: NaN while half of the checkpoints give fewer than two differences.
    """
    halves = [(length + 1) // 2 for length in trajectories.lengths]
    if min(halves) < 3:
        return float("nan")
    starts = [start for start, _ in run_spans(trajectories.lengths)]
    first = np.concatenate([np.arange(start, start + half) for start, half in zip(starts, halves)])
    half = take_checkpoints(trajectories, first)
    member = variant_of_all([half], **variant)
    return within_class_spearman(ltc_scores(trajectories, **member), ltc_scores(half, **member), trajectories.labels)
