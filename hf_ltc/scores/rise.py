"""Whether the mean validation loss, which scores follow, rises while the train rows are learned."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .absent import absent_from_runs
from .kernels import run_spans
from .protocol import Validated

# Of what the validation loss fell by, the part that it may rise by again.
_RISE = 0.2


class Rise(NamedTuple):
    """The rise of a run's mean validation loss, from the lowest one to the last one."""

    epoch: int
    lowest: float
    last: float


def find_rise(trajectories: Validated) -> Rise | None:
    """The first run of a recording whose mean validation loss does not fall, or rises again.

    Args:
        trajectories ([`Trajectories`] or [`LossSummary`]): The recording.

    Returns:
        [`Rise`]: `None` if it falls in all runs, and rises again by a fifth of that at most.
    """
    return next(_rises(trajectories), None)


def _rises(trajectories: Validated) -> Iterator[Rise]:
    table = trajectories.validation_losses
    absent = absent_from_runs(table, trajectories.lengths)
    for gone, (start, stop) in zip(absent, run_spans(trajectories.lengths)):
        if gone.all() or start == stop:
            continue
        means = np.array([np.asarray(table[t])[~gone].mean(dtype=np.float64) for t in range(start, stop)])
        best = int(means.argmin())
        # Of losses that are not finite, scores tell.
        with np.errstate(invalid="ignore"):
            rises = means[-1] - means[best] > _RISE * (means[0] - means[best])
        if rises:
            yield Rise(int(trajectories.epochs[start + best]), float(means[best]), float(means[-1]))
