"""One pass over a table of losses: each row's correlation with a reference trajectory, weighted or not, run by run."""

import itertools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from .windows import uncertainty

# A deviation below this share of the losses is less than one float32 rounding in a trajectory of a million
# checkpoints, and more than float64 needs to give the score to 1e-5.
FLAT = 2.0**-34
# Sums of squares of float32 values that neither underflow nor overflow.
_TINY, _HUGE = 1e-20, 1e30
# Bytes that are worked on at once, so that they stay in the cache; rows that a thread works on at once, and epochs.
BLOCK, _PART, _STEP = 2**21, 2**14, 16
# Bytes that are read of a table on disk at once.
_READ = 2**25
_THREADS = 8


def pass_over(
    table: Any,
    lengths: Sequence[int],
    runs: Sequence[np.ndarray],
    groups: np.ndarray | None,
    of: str,
    trained: Sequence[int] | None,
) -> tuple[np.ndarray, bool]:
    """Mean over runs of u . r_g, weighted by uncertainty or not, float32 (N,), and whether all losses are finite.

    `table` (L, N) is read once. `trained` are the checkpoints of the untrained model in each run, where scores are
    weighted. Of several runs, those count in which a row is not NaN throughout.
    """
    scores, finite = np.empty(table.shape[1], dtype=np.float32), []

    def work(losses: np.ndarray, part: slice) -> None:
        each, fine = correlations(losses, lengths, runs, None if groups is None else groups[part], of, trained)
        scores[part] = mean_of_runs(each)
        finite.append(fine)

    each_part(table, work)
    return scores, all(finite)


def each_part(table: Any, work: Callable[[np.ndarray, slice], None]) -> None:
    """Calls `work` with the losses `(L, C)` of some rows and which rows these are, until all rows had their turn.

    It is called by several threads, and what it makes of a row must depend on nothing but the row: parts have any
    size.

    Args:
        table (`np.ndarray`): float32 `(L, N)`, or read from disk: `table[:, left:right]` reads some rows.
        work (`Callable[[np.ndarray, slice], None]`): What to do.
    """
    n, length = table.shape[1], table.shape[0]
    threads = count_threads(n * length)
    # Of a table on disk, as many rows as there is memory for.
    held = n if isinstance(table, np.ndarray) else max(_PART, _READ // (4 * length))
    with ThreadPoolExecutor(threads) as pool:
        for left, right in _evenly(0, n, held):
            losses = table[:, left:right]

            def some(part: tuple[int, int], losses: np.ndarray = losses, left: int = left) -> None:
                work(losses[:, part[0] - left : part[1] - left], slice(*part))

            parts = _evenly(left, right, min(_PART, math.ceil((right - left) / threads)))
            list(map(some, parts) if threads == 1 else pool.map(some, parts))


def _evenly(left: int, right: int, most: int) -> list[tuple[int, int]]:
    """Parts of a range of about the same size: of a single row, numpy would add up losses in another order."""
    count = math.ceil((right - left) / max(1, most))
    ends = [left + (right - left) * i // max(1, count) for i in range(count + 1)]
    return list(itertools.pairwise(ends))


def mean_of_runs(each: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of the scores by each run over those that have one, inside [-1, 1], float32 (N,)."""
    scores, defined = np.zeros(len(each[0])), np.zeros(len(each[0]), dtype=np.int32)
    for one in each:
        found = ~np.isnan(one)
        np.add(scores, one, out=scores, where=found)
        defined += found
    with np.errstate(invalid="ignore"):
        scores /= defined
    return np.clip(scores, -1, 1, out=scores).astype(np.float32)


def correlations(
    table: np.ndarray,
    lengths: Sequence[int],
    runs: Sequence[np.ndarray],
    groups: np.ndarray | None,
    of: str,
    trained: Sequence[int] | None,
) -> tuple[list[np.ndarray], bool]:
    """u . r_g of each run, weighted or not, float64 (N,), NaN where a row is flat or not in the run, and whether all
    losses are finite; of a table in memory, as [`pass_over`]."""
    found, finite, missed = [], True, np.zeros(0, dtype=np.int64)
    for number, ((start, stop), reference) in enumerate(zip(run_spans(lengths), runs)):
        losses = table[start:stop]
        one, fine, gone = _correlations(losses, reference, groups, of == "levels", len(runs) > 1)
        if trained is not None:
            one *= np.sqrt(uncertainty(losses[trained[number] :]))
        missed = gone if number == 0 else np.intersect1d(missed, gone, assume_unique=True)
        found.append(one)
        finite &= fine
    # A row that no run recorded.
    return found, finite and not len(missed)


def _correlations(
    losses: np.ndarray, reference: np.ndarray, groups: np.ndarray | None, levels: bool, may_miss: bool
) -> tuple[np.ndarray, bool, np.ndarray]:
    """u . r_g of one run, float64 (N,), whether all losses are finite, and the rows that are NaN throughout if it may
    miss some.

    Float32 is twice as fast, and exact to about 1e-7 for rows of an ordinary recording. Rows for which it may miss
    1e-6 (nearly flat, tiny or huge losses) are recognized by their sums and computed again in float64.
    """
    count, first, last = len(reference), losses[0], losses[-1]
    # Levels are taken relative to the last one. A member of the data as the shift keeps the sum of squares within a
    # factor T of the centered one, so float64 has nothing to lose in one pass.
    with np.errstate(all="ignore"):
        sums = _add_up(losses, reference, groups, levels, np.dtype(np.float32), last if levels else None)
        total = sums.total if levels else np.subtract(last, first, dtype=np.float64)
        norm = sums.square - total * total / count
        # Cancellation may double the error of a sum, not more.
        rough = ~((norm > 0.25 * sums.square) & (sums.square > _TINY) & (sums.square < _HUGE))
        scores, finite, again = sums.product / np.sqrt(norm), True, np.flatnonzero(rough)
    gone = again[:0]
    if may_miss and len(again):
        gone = again[np.isnan(losses[:, again]).all(axis=0)]
        again = np.setdiff1d(again, gone, assume_unique=True)
    if len(again):
        scores[again], finite = _in_double(
            losses[:, again], reference, None if groups is None else groups[again], levels
        )
    return scores, finite, gone


def _in_double(
    losses: np.ndarray, reference: np.ndarray, groups: np.ndarray | None, levels: bool
) -> tuple[np.ndarray, bool]:
    """u . r_g in float64, NaN of flat rows, and whether all losses are finite."""
    count, first, last = len(reference), losses[0].astype(np.float64), losses[-1].astype(np.float64)
    with np.errstate(all="ignore"):
        shift = last if levels else (last - first) / count
        sums = _add_up(losses, reference, groups, levels, np.dtype(np.float64), shift)
        # Differences are shifted by their mean, which the first and the last loss give.
        norm = sums.square - sums.total**2 / count if levels else sums.square
        finite = bool(np.isfinite(norm).all())
        scale = np.abs(last) if levels else np.maximum(np.abs(first), np.abs(last))
        norm[norm <= count * (FLAT * scale) ** 2] = np.nan
        return sums.product / np.sqrt(norm), finite


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over t, float64 (N,), of x r_g, of x x and, of levels, of x."""

    product: np.ndarray
    square: np.ndarray
    total: np.ndarray


def _add_up(
    losses: np.ndarray,
    reference: np.ndarray,
    groups: np.ndarray | None,
    levels: bool,
    dtype: np.dtype,
    shift: np.ndarray | None,
) -> _Sums:
    """The sums that x, the levels or differences less `shift`, gives in float32 or float64."""
    count, n = len(reference), losses.shape[1]
    weights = np.ascontiguousarray(reference, dtype=dtype)
    sums = _Sums(np.zeros(n), np.zeros(n), np.zeros(n if levels else 0))
    held = np.empty((min(_STEP, count), n), dtype=dtype)
    gathered = np.empty(held.shape if groups is not None else (0, 0), dtype=dtype)
    for step in range(0, count, _STEP):
        # Sums of a few epochs in the precision asked for, of all epochs in float64.
        size = min(_STEP, count - step)
        x = held[:size]
        if levels:
            assert shift is not None
            np.subtract(losses[step : step + size], shift, out=x, dtype=dtype)
            sums.total[:] += x.sum(axis=0)
        else:
            np.subtract(losses[step + 1 : step + size + 1], losses[step : step + size], out=x, dtype=dtype)
            if shift is not None:
                x -= shift
        sums.square[:] += np.einsum("tc,tc->c", x, x)
        if groups is None:
            sums.product[:] += np.einsum("t,tc->c", weights[step : step + size, 0], x)
            continue
        w = gathered[:size]
        for i in range(size):
            # Groups are in range, and this is the mode that takes them fastest.
            np.take(weights[step + i], groups, out=w[i], mode="wrap")
        sums.product[:] += np.einsum("tc,tc->c", x, w)
    return sums


def standardized(table: np.ndarray, of: str) -> np.ndarray:
    """u: differences (or levels) of trajectories, centered, of norm one; in two passes.

    Args:
        table (`np.ndarray`): `(L, N)` losses of one run.
        of (`str`): `"differences"` or `"levels"`.

    Returns:
        `np.ndarray`: float64 `(T, N)`, or `(T + 1, N)` of levels; NaN where the trajectory is flat.
    """
    table = table.astype(np.float64)
    x = np.diff(table, axis=0) if of == "differences" else table.copy()
    x -= x.mean(axis=0)
    square = np.einsum("tc,tc->c", x, x)
    scale = np.maximum(np.abs(table[0]), np.abs(table[-1])) if of == "differences" else np.abs(table[0])
    square[square <= len(x) * (FLAT * scale) ** 2] = np.nan
    x /= np.sqrt(square)
    return x


def count_threads(losses: int) -> int:
    """Threads for so many losses: starting one costs as much as a million of them."""
    return max(1, min(os.cpu_count() or 1, _THREADS, losses // 2**20))


def count_of(length: int, of: str) -> int:
    return length if of == "levels" else length - 1


def run_spans(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """First checkpoint of each run, and the one after its last.

    Args:
        lengths (`Sequence[int]`): Checkpoints of each run.

    Returns:
        `list[tuple[int, int]]`
    """
    ends = np.cumsum([0, *lengths]).tolist()
    return list(itertools.pairwise(ends))
