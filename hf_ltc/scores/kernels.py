"""One pass over a table of losses: each row's correlation with a reference trajectory, weighted or not, run by run."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .windows import Uncertainty

# A deviation below this share of the losses is less than one float32 rounding in a trajectory of a million
# checkpoints, and more than float64 needs to give the score to 1e-5.
FLAT = 2.0**-34
# Sums of squares of float32 values that neither underflow nor overflow.
_TINY, _HUGE = 1e-20, 1e30
# Bytes of a thread's working block (it stays in cache), the epochs in it, and bytes read of a table on disk at once.
BLOCK, _STEP, _READ = 2**21, 16, 2**25
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

    `table` (L, N) is read epoch by epoch, and memory is O(N). `trained` are the checkpoints of the untrained model in
    each run, where scores are weighted. Of several runs, those count in which a row is not NaN throughout.
    """
    scores, finite = np.zeros(table.shape[1]), True
    defined, missed = np.zeros(table.shape[1], dtype=np.int32), np.zeros(0, dtype=np.int64)
    for number, ((start, stop), reference) in enumerate(zip(run_spans(lengths), runs)):
        first = None if trained is None else trained[number]
        run = _Run(table, start, stop, reference, groups, of == "levels", first)
        one, fine, gone = _correlations(run, len(runs) > 1)
        missed = gone if number == 0 else np.intersect1d(missed, gone, assume_unique=True)
        found = ~np.isnan(one)
        np.add(scores, one, out=scores, where=found)
        defined += found
        finite &= fine
    # A row that no run recorded.
    finite &= not len(missed)
    with np.errstate(invalid="ignore"):
        scores /= defined
    return np.clip(scores, -1, 1, out=scores).astype(np.float32), finite


@dataclass(frozen=True, eq=False)
class _Run:
    """One run of a table (L, N), from checkpoint `start` to before `stop`, and what its rows are multiplied with."""

    table: Any
    start: int
    stop: int
    reference: np.ndarray  # float64 (T, G), or (T + 1, G) of levels
    groups: np.ndarray | None  # which of the G is a row's
    levels: bool
    trained: int | None  # the first checkpoint, from `start` on, that counts for the weight, if there is one

    @property
    def in_memory(self) -> bool:
        return isinstance(self.table, np.ndarray)


def _correlations(run: _Run, may_miss: bool) -> tuple[np.ndarray, bool, np.ndarray]:
    """u . r_g of one run, weighted or not, float64 (N,), whether all losses are finite, and the rows that are NaN
    throughout if it may miss some.

    Float32 is twice as fast, and exact to about 1e-7 for rows of an ordinary recording. Rows for which it may miss
    1e-6 (nearly flat, tiny or huge losses) are recognized by their sums and computed again in float64.
    """
    n, count = run.table.shape[1], len(run.reference)
    first, last = np.asarray(run.table[run.start]), np.asarray(run.table[run.stop - 1])
    # Levels are taken relative to the last one. A member of the data as the shift keeps the sum of squares within a
    # factor T of the centered one, so float64 has nothing to lose in one pass.
    shift = last if run.levels else None
    sums = _Sums(np.zeros(n), np.zeros(n), np.zeros(n if run.levels else 0))
    rough = np.zeros(n, dtype=bool)
    weight = None
    if run.trained is not None:
        weight = Uncertainty(n, run.stop - run.start - run.trained, whole=run.in_memory)

    def divide(part: slice) -> None:
        square = sums.square[part]
        total = sums.total[part] if run.levels else np.subtract(last[part], first[part], dtype=np.float64)
        norm = square - total * total / count
        # Cancellation may double the error of a sum, not more.
        rough[part] = ~((norm > 0.25 * square) & (square > _TINY) & (square < _HUGE))
        sums.product[part] /= np.sqrt(norm)

    _add_up(run, sums, np.dtype(np.float32), shift, weight=weight, then=divide)
    scores, finite, again = sums.product, True, np.flatnonzero(rough)
    gone = absent_columns(run.table, run.start, run.stop, again) if may_miss else again[:0]
    if len(gone):
        again = np.setdiff1d(again, gone, assume_unique=True)
    if len(again):
        scores[again], finite = _in_double(run, again, first[again].astype(np.float64), last[again].astype(np.float64))
    if weight is not None:
        scores *= np.sqrt(weight.mean())
    return scores, finite, gone


def _in_double(run: _Run, rows: np.ndarray, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, bool]:
    """u . r_g of some rows in float64, NaN of flat ones, and whether all their losses are finite."""
    n, count = len(rows), len(run.reference)
    sums = _Sums(np.zeros(n), np.zeros(n), np.zeros(n if run.levels else 0))
    with np.errstate(invalid="ignore", over="ignore"):
        shift = last if run.levels else (last - first) / count
        _add_up(run, sums, np.dtype(np.float64), shift, rows=rows)
        # Differences are shifted by their mean, which the first and the last loss give.
        norm = sums.square - sums.total**2 / count if run.levels else sums.square
        finite = bool(np.isfinite(norm).all())
        scale = np.abs(last) if run.levels else np.maximum(np.abs(first), np.abs(last))
        norm[norm <= count * (FLAT * scale) ** 2] = np.nan
        return sums.product / np.sqrt(norm), finite


def absent_columns(table: Any, start: int, stop: int, among: np.ndarray | None = None) -> np.ndarray:
    """Which columns of a table, all or some, are NaN from checkpoint `start` to before `stop`: int64, increasing."""
    found = np.arange(table.shape[1]) if among is None else among
    for t in range(start, stop):
        if not len(found):
            break
        found = found[np.isnan(np.asarray(table[t])[found])]
    return found


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over t, float64 (N,), of x r_g, of x x and, of levels, of x."""

    product: np.ndarray
    square: np.ndarray
    total: np.ndarray


def _add_up(
    run: _Run,
    sums: _Sums,
    dtype: np.dtype,
    shift: np.ndarray | None,
    *,
    rows: np.ndarray | None = None,
    weight: Uncertainty | None = None,
    then: Callable[[slice], None] | None = None,
) -> None:
    """Adds to the sums of all rows, or some, what x (float32 or float64) gives, and to the weight what the losses
    give; calls `then` on rows that are done."""
    n = len(sums.product)
    weights = np.ascontiguousarray(run.reference, dtype=dtype)
    groups = run.groups[rows] if run.groups is not None and rows is not None else run.groups
    # Where losses are looked at twice, all of some rows stay in the cache.
    width = BLOCK // ((_STEP if weight is None else 4 * _STEP) * dtype.itemsize)

    def work(block: np.ndarray, t: int, begin: int, end: int) -> None:
        count = len(block) if run.levels else len(block) - 1
        done = t + count == len(weights)
        held = np.empty((min(_STEP, count), min(width, end - begin)), dtype=dtype)
        gathered = np.empty(held.shape if groups is not None else (0, 0), dtype=dtype)
        with np.errstate(all="ignore"):
            for left in range(begin, end, width):
                part = slice(left, min(left + width, end))
                for step in range(0, count, _STEP):
                    # Sums of a few epochs in the precision asked for, of all epochs in float64.
                    size = min(_STEP, count - step)
                    x = held[:size, : part.stop - left]
                    losses = block[step : step + size + (0 if run.levels else 1)]
                    losses = losses[:, part] if rows is None else losses[:, rows[part]]
                    if run.levels:
                        assert shift is not None
                        np.subtract(losses, shift[part], out=x, dtype=dtype)
                        sums.total[part] += x.sum(axis=0)
                    else:
                        np.subtract(losses[1:], losses[:-1], out=x, dtype=dtype)
                        if shift is not None:
                            x -= shift[part]
                    sums.square[part] += np.einsum("tc,tc->c", x, x)
                    if groups is None:
                        sums.product[part] += np.einsum("t,tc->c", weights[t + step : t + step + size, 0], x)
                    else:
                        w = gathered[:size, : part.stop - left]
                        for i in range(size):
                            # Groups are in range, and this is the mode that takes them fastest.
                            np.take(weights[t + step + i], groups[part], out=w[i], mode="wrap")
                        sums.product[part] += np.einsum("tc,tc->c", x, w)
                if weight is not None:
                    assert run.trained is not None
                    new = max(0 if run.levels or t == 0 else 1, run.trained - t)
                    weight.add(block[new:, part], t + new - run.trained, part)
                if done and then is not None:
                    then(part)

    threads = count_threads(n * len(weights))
    ends = [n * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for t, block in _blocks(run):
            if threads == 1:
                work(block, t, 0, n)
            else:
                list(pool.map(partial(work, block, t), ends[:-1], ends[1:]))


def _blocks(run: _Run) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of consecutive epochs `(t, block)`; for differences each begins with the last epoch of the one before."""
    if run.in_memory:
        yield 0, run.table[run.start : run.stop]
        return
    n, length = run.table.shape[1], run.stop - run.start
    overlap = 0 if run.levels else 1
    size = max(2, min(_STEP, _READ // max(1, 4 * n))) + overlap
    block = np.empty((min(size, length), n), dtype=np.float32)
    filled = 0
    for t in range(length):
        block[filled] = run.table[run.start + t]
        filled += 1
        if filled == len(block) or t == length - 1:
            yield t - filled + 1, block[:filled]
            block[:overlap] = block[filled - overlap : filled]
            filled = overlap


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
