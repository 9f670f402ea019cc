"""What a row's odds to come first in a small coreset depend on, read from its losses part by part."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .baselines import mixed
from .kernels import each_part, run_spans
from .protocol import Recorded
from .windows import WINDOW

# DUAL looks at epochs 1 to 30.
CHECKPOINTS = 30
# Epochs that are worked on at once.
_STEP = 16


def typical_spans(trajectories: Recorded) -> tuple[tuple[int, int, int], ...]:
    """Of each run the first checkpoint, the first after training, and the one after the last."""
    spans = run_spans(trajectories.lengths)
    return tuple((start, start + int(trajectories.epochs[start] == 0), stop) for start, stop in spans)


@dataclass(frozen=True, eq=False)
class Found:
    """What the odds and the draw of rows depend on, float64 `(N,)` each."""

    probability: np.ndarray  # the mean of the label's probability over all checkpoints
    dual: np.ndarray  # uncertainty times difficulty, the mean over runs
    chance: np.ndarray  # inside (0, 1)

    def take(self, rows: np.ndarray | slice) -> "Found":
        return Found(self.probability[rows], self.dual[rows], self.chance[rows])


class Reading:
    """What the odds and the draw of rows depend on, found as their losses are read part by part.

    Args:
        n (`int`): Rows.
        spans (`Sequence[tuple[int, int, int]]`): Of each run, as [`typical_spans`] gives them.
    """

    def __init__(self, n: int, spans: Sequence[tuple[int, int, int]]) -> None:
        self.spans = spans
        self.found = Found(np.zeros(n), np.zeros(n), np.zeros(n))

    def add(self, losses: np.ndarray, part: slice) -> None:
        """Adds all the losses `(L, C)` of some rows, and which rows these are."""
        length, n = losses.shape
        summed, hashed, dual = np.zeros(n), np.zeros(n, dtype=np.uint64), np.zeros(n)
        finite = np.ones(n, dtype=bool)
        # Checkpoints and runs in which a row was recorded.
        seen, runs = np.full(n, length), np.full(n, len(self.spans))
        factors = hash_factors(length)
        # Losses that are not finite are the caller's to name.
        with np.errstate(all="ignore"):
            for start, trained, stop in self.spans:
                # Rows that this one of several runs did not record.
                absent = np.isnan(losses[start]) if len(self.spans) > 1 else np.zeros(n, dtype=bool)
                misses = absent.any()
                seen[absent] -= stop - start
                runs[absent] -= 1
                windows = _Windows(min(WINDOW, stop - trained), n)
                for left in range(start, stop, _STEP):
                    right = min(left + _STEP, stop)
                    # Zero may have a sign.
                    table = np.add(losses[left:right], np.float32(0), dtype=np.float32)
                    if misses:
                        finite &= ~absent | np.isnan(table).all(axis=0)
                        # Of probability 0, they add nothing to the sums.
                        table[:, absent] = np.inf
                    if not (fine := np.isfinite(table)).all():
                        finite &= absent | fine.all(axis=0)
                    added = np.einsum("t,tc->c", factors[left:right], table.view(np.uint32))
                    hashed += np.where(absent, np.uint64(0), added) if misses else added
                    for t in range(left, right):
                        probability = np.negative(table[t - left], dtype=np.float64)
                        np.exp(probability, out=probability)
                        summed += probability
                        if trained <= t < trained + CHECKPOINTS:
                            windows.add(probability)
                dual += windows.dual / windows.count
            self.found.probability[part] = np.where(finite, summed / seen, np.nan)
            self.found.dual[part] = dual / runs
        self.found.chance[part] = chance_of(hashed)


def read_odds(table: Any, spans: Sequence[tuple[int, int, int]], rows: np.ndarray | None = None) -> Found:
    """Reads a table, or some rows of it, once."""
    if rows is None or len(rows) == table.shape[1]:
        reading = Reading(table.shape[1], spans)
        each_part(table, reading.add)
        return reading.found
    some = Reading(len(rows), spans)

    def add(losses: np.ndarray, part: slice) -> None:
        first, last = np.searchsorted(rows, (part.start, part.stop)).tolist()
        some.add(losses[:, rows[first:last] - part.start], slice(first, last))

    each_part(table, add)
    return some.found


def chance_of(hashed: np.ndarray) -> np.ndarray:
    return np.maximum(mixed(hashed), 2.0**-54)


def hash_factors(length: int) -> np.ndarray:
    """Odd numbers, uint64: a hash of a trajectory's bits is the sum of their products, in whole numbers, so in any
    order the same."""
    return np.random.SeedSequence(0).generate_state(length, np.uint64) | np.uint64(1)


class _Windows:
    """The mean over sliding windows of successive probabilities of their deviation times one less their mean."""

    def __init__(self, window: int, n: int) -> None:
        self.window, self.count, self.dual = window, 0, np.zeros(n)
        self._first, self._seen, self._recent = np.zeros(n), 0, np.zeros((window, n))
        self._summed, self._squared = np.zeros(n), np.zeros(n)

    def add(self, probability: np.ndarray) -> None:
        if self._seen == 0:
            # Relative to the first one: a row whose probability hardly varies then has nothing to cancel.
            self._first = probability
        relative = probability - self._first
        gone = self._recent[self._seen % self.window]
        self._summed += relative - gone
        self._squared += relative * relative - gone * gone
        gone[:] = relative
        self._seen += 1
        if self._seen >= self.window:
            mean = self._summed / self.window
            variance = (self._squared - self._summed * mean) / (self.window - 1)
            # What rounding leaves of windows in which nothing varies may be negative.
            self.dual += np.sqrt(np.maximum(variance, 0)) * (1 - (self._first + mean))
            self.count += 1
