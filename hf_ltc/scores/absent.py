"""Rows that one of several runs did not record: those that it held out, where validation samples rotate.

In a table of several runs such a row is NaN at every checkpoint of the run, and in some other run it is not. Anything
else that is not finite is a fault.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .kernels import run_spans


def absent_from_runs(table: Any, lengths: Sequence[int]) -> list[np.ndarray]:
    """Which rows each run did not record.

    Only the first checkpoint of each run is read where there are none.

    Args:
        table (`np.ndarray`): float32 `(L, N)`, or read from disk epoch by epoch.
        lengths (`Sequence[int]`): Checkpoints of each run.

    Returns:
        `list[np.ndarray]`: for each run bool `(N,)`; none of a single run, and no row that no run recorded.
    """
    found = [np.zeros(table.shape[1], dtype=bool) for _ in lengths]
    if len(lengths) > 1:
        for gone, (start, stop) in zip(found, run_spans(lengths)):
            gone[_absent_columns(table, start, stop)] = True
        if len(nowhere := np.flatnonzero(np.logical_and.reduce(found))):
            for gone in found:
                gone[nowhere] = False
    return found


def all_finite(table: np.ndarray, lengths: Sequence[int]) -> bool:
    """Whether all losses are finite but those of rows that a run did not record.

    Args:
        table (`np.ndarray`): float32 `(L, N)`.
        lengths (`Sequence[int]`): Checkpoints of each run.
    """
    fine = np.isfinite(table)
    if fine.all():
        return True
    for gone, (start, stop) in zip(absent_from_runs(table, lengths), run_spans(lengths)):
        fine[start:stop, gone] = True
    return bool(fine.all())


def _absent_columns(table: Any, start: int, stop: int) -> np.ndarray:
    """Which columns of a table are NaN from checkpoint `start` to before `stop`: int64, increasing."""
    found = np.arange(table.shape[1])
    for t in range(start, stop):
        if not len(found):
            break
        found = found[np.isnan(np.asarray(table[t])[found])]
    return found
