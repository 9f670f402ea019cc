"""Typicality: which rows a small coreset should begin with, drawn once and for all from their loss trajectories.

A score that follows the validation losses puts the rows first that are learned as late as the average one. Where most
rows are learned at once, these are the hardest ones, and a few of them teach a model less than random rows do. DUAL
(Cho et al., ICML 2025, arXiv 2502.06905) draws a small coreset with odds that fit the data: nearly at random where
most rows are easy, from a few of them where most are hard; and the fewer rows it draws, the easier they are. The draw
here has those odds, which move while the coreset grows, so that its first rows alone are a coreset too.

A draw without replacement whose odds move is a race: each row waits until an exponentially distributed amount of its
odds has gone by. The random amounts are hashes of the trajectories, so the draw is the same in any order of rows,
batch, process or machine.
"""

import itertools
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..config import TYPICAL_ROWS, TYPICAL_SHARE
from ..data.splits import evenly_spaced
from ..recipe import Identity, Recipe
from ..utils.errors import InputError
from .baselines import mixed
from .kernels import each_part, run_spans
from .protocol import Recorded, Validated, check_recorded, is_short, losses_not_finite
from .windows import WINDOW

# DUAL looks at epochs 1 to 30, and has Beta densities of concentration 15 and, on CIFAR-100, an exponent of 4.
CHECKPOINTS, _CONCENTRATION, _EXPONENT = 30, 15.0, 4.0
# The odds depend on the ten rows of the highest DUAL score. They move from those of its smallest coreset to those of
# its coreset of a tenth while the first 15 rows of an average class are drawn: that number was chosen on digits,
# Fashion-MNIST and CIFAR-100 (benchmarks/converged.py).
_BEST, _KEPT, _ROWS, _STEPS = 10, 0.1, 15, 5
# At 0 and 1 a Beta density may have no finite value.
_LEAST = 1e-7
# Rows among which those of the highest DUAL score are looked for: all, or evenly spaced ones of a larger recording.
_SEARCHED = 2**21
# Epochs that are worked on at once, and rows that are drawn at once.
_STEP, _PART = 16, 2**17


def ltc_typicality(trajectories: Recorded) -> np.ndarray:
    """The typicality of every recorded row, by which the first rows of a coreset are chosen.

    Args:
        trajectories ([`Trajectories`]): The recording.

    Returns:
        `np.ndarray`: float32 `(N,)`, minus the logarithm of the time at which the row is drawn; the unit of time is
            that in which the average row is drawn once. The rows with the highest values are a draw without
            replacement. NaN for rows without odds, whose trajectory is flat.

    Raises:
        InputError: as [`ltc_scores`].
    """
    check_recorded(trajectories)
    found = _read(trajectories.losses, typical_spans(trajectories))
    _require_finite(found, trajectories)
    return _of_all(found, trajectories.labels)


def typicality_by_sums(
    probability: np.ndarray, dual: np.ndarray, hashed: np.ndarray, labels: np.ndarray, typical: float = 1.0
) -> np.ndarray:
    """The same of a recording without trajectories.

    Args:
        probability (`np.ndarray`): float64 `(N,)`, the mean of the label's probability over all checkpoints.
        dual (`np.ndarray`): float64 `(N,)`, the DUAL score, the mean over runs.
        hashed (`np.ndarray`): uint64 `(N,)`, a hash of the losses.
        labels (`np.ndarray`): int64 `(N,)`.
        typical (`float`, *optional*, defaults to `1.0`): As for [`Reading.typicality`].

    Returns:
        `np.ndarray`: float32 `(N,)`.
    """
    return _of_all(_Found(probability, dual, _chance(hashed)), labels, typical)


def _of_all(found: "_Found", labels: np.ndarray, typical: float = 1.0) -> np.ndarray:
    n = len(found.dual)
    stages = _stages(found if n <= _SEARCHED else found.take(evenly_spaced(n, _SEARCHED)), labels)
    # Part by part, since there are many arrays of as many rows.
    parts = (found.take(slice(start, start + _PART)) for start in range(0, n, _PART))
    keys = np.concatenate([_keys(part, stages) for part in parts])
    if typical > 1:
        first = np.sort(found.chance[_first_of_each(keys, labels, int(typical))])
        keys[~_is_among(found.chance, first)] = np.nan
    return keys


def _first_of_each(keys: np.ndarray, labels: np.ndarray, most: int) -> np.ndarray:
    """The rows of the highest keys of each class, so many at most; of equal ones the first."""
    classes = int(labels.max(initial=-1)) + 1
    near = np.flatnonzero(~np.isnan(keys))
    wanted = 4 * most * int(np.count_nonzero(np.bincount(labels)))
    if 0 < wanted < len(near):
        # Sorting few is faster: nearly all classes have enough rows among the highest keys of all.
        high = keys[near] >= np.partition(keys[near], -wanted)[-wanted]
        enough = np.bincount(labels[near[high]], minlength=classes) >= most
        near = near[high | ~enough[labels[near]]]
    order = near[np.lexsort((-keys[near], labels[near]))]
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    turn = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return order[turn < most]


def _is_among(chance: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Which rows are among some that are known by their chance, which is a hash of the trajectory; sorted."""
    if not len(first):
        return np.zeros(len(chance), dtype=bool)
    return first[np.minimum(np.searchsorted(first, chance), len(first) - 1)] == chance


class Stage(NamedTuple):
    """A stretch of the draw in which the odds stay the same.

    Args:
        start (`float`): The time at which it begins.
        b (`float`): The second parameter of the odds' Beta density, whose first is 16 less b: low draws easy rows.
        scale (`float`): The logarithm of the average row's odds.
    """

    start: float
    b: float
    scale: float


def typicality_for(trajectories: Recorded, typical: float) -> np.ndarray:
    """The column of typicality: [`ltc_typicality`], and NaN for rows that never come first.

    Args:
        trajectories ([`Trajectories`]): The recording.
        typical (`float`): As for [`Reading.typicality`].

    Returns:
        `np.ndarray`: float32 `(N,)`.
    """
    check_recorded(trajectories)
    found = _read(trajectories.losses, typical_spans(trajectories))
    _require_finite(found, trajectories)
    return _of_all(found, trajectories.labels, typical)


def first_drawn(trajectories: Recorded, stages: Sequence[Stage], typical: float) -> np.ndarray | None:
    """By what a row is known, wherever it is met, to be among the most typical ones of its class.

    Args:
        trajectories ([`Trajectories`]): The recording; its losses are read once.
        stages (`Sequence[Stage]`): As [`typical_stages`] gives them.
        typical (`float`): As for [`Reading.typicality`].

    Returns:
        `np.ndarray`: float64, sorted: a hash of the trajectory of each of them. `None` if all rows may come first.
    """
    if typical <= 1:
        return None
    labels, spans, lock = trajectories.labels, typical_spans(trajectories), threading.Lock()
    met: list[_Drawn] = []

    def best() -> _Drawn:
        joined = _Drawn(*map(np.concatenate, zip(*met)))
        # Threads come in any order, and ties go by row number.
        joined = joined.take(np.argsort(joined.row, kind="stable"))
        return joined.take(_first_of_each(joined.key, joined.label, int(typical)))

    def add(losses: np.ndarray, part: slice) -> None:
        some = Reading(losses.shape[1], spans)
        some.add(losses, slice(0, losses.shape[1]))
        rows = np.arange(part.start, part.stop)
        drawn = _Drawn(rows, _keys(some.found, stages), labels[part], some.found.chance)
        with lock:
            met.append(drawn)
            if sum(len(each.row) for each in met) > _SEARCHED:
                met[:] = [best()]

    each_part(trajectories.losses, add)
    return np.sort(best().chance)


class _Drawn(NamedTuple):
    """Rows that were drawn."""

    row: np.ndarray  # int64 (N,)
    key: np.ndarray  # float32 (N,)
    label: np.ndarray  # int64 (N,)
    chance: np.ndarray  # float64 (N,)

    def take(self, rows: np.ndarray) -> "_Drawn":
        return _Drawn(*(each[rows] for each in self))


def typical_stages(trajectories: Recorded) -> tuple[Stage, ...]:
    """The odds while a coreset grows: all that typicality needs of the other rows.

    The losses are read once; in memory are those of 2 million rows at most.

    Args:
        trajectories ([`Trajectories`]): The recording.

    Returns:
        `tuple[Stage, ...]`: in the order of time; the last one has no end.

    Raises:
        InputError: as [`ltc_scores`].
    """
    check_recorded(trajectories)
    searched = evenly_spaced(trajectories.losses.shape[1], _SEARCHED)
    found = _read(trajectories.losses, typical_spans(trajectories), searched)
    _require_finite(found, trajectories)
    return _stages(found, trajectories.labels)


def typicality_of(
    table: Any, spans: Sequence[tuple[int, int, int]], stages: Sequence[Stage], first: np.ndarray | None = None
) -> np.ndarray:
    """The typicality of some rows of a recording.

    Args:
        table (`np.ndarray`): float32 `(L, N)`, their losses.
        spans (`Sequence[tuple[int, int, int]]`): Of each run, as [`typical_spans`] gives them.
        stages (`Sequence[Stage]`): As [`typical_stages`] gives them.
        first (`np.ndarray`, *optional*): As [`first_drawn`] gives it.

    Returns:
        `np.ndarray`: float32 `(N,)`, as [`typicality_for`] gives it.
    """
    found = _read(table, spans)
    keys = _keys(found, stages)
    if first is not None:
        keys[~_is_among(found.chance, first)] = np.nan
    return keys


def usual_typical(trajectories: Validated) -> float:
    """How many typical rows of each class a coreset of a recording begins with, where nothing else is said.

    None where images were recorded for fewer than 15 epochs: there the odds were worse than the score
    (benchmarks/coresets.py, weight). None for language models either. The odds are of a label's probability among the
    classes. By the mean probability of its tokens instead, the first texts are the easiest to predict, and worth less
    to a language model than random ones (benchmarks/language.py).

    Args:
        trajectories ([`Trajectories`] or [`LossSummary`]): The recording.

    Returns:
        `float`: as `typical` of [`rank_coreset`].
    """
    recorded = Recipe.from_dict(trajectories.recipe).dataset
    if recorded.classes == 0 or recorded.is_of_language_model:
        return 0.0
    return 0.0 if is_short(trajectories) and not recorded.is_text else some_typical(recorded)


def some_typical(recorded: Identity) -> float:
    """How many there are where coresets of a dataset begin with any: few only if it is known to be of images."""
    of_images = recorded.image_column or any(
        isinstance(feature, Mapping) and feature.get("_type") == "Image" for feature in recorded.features.values()
    )
    return TYPICAL_ROWS if of_images and not recorded.is_text else TYPICAL_SHARE


def typical_spans(trajectories: Recorded) -> tuple[tuple[int, int, int], ...]:
    """Of each run the first checkpoint, the first after training, and the one after the last."""
    spans = run_spans(trajectories.lengths)
    return tuple((start, start + int(trajectories.epochs[start] == 0), stop) for start, stop in spans)


@dataclass(frozen=True, eq=False)
class _Found:
    """What the odds and the draw of rows depend on, float64 `(N,)` each."""

    probability: np.ndarray  # the mean of the label's probability over all checkpoints
    dual: np.ndarray  # uncertainty times difficulty, the mean over runs
    chance: np.ndarray  # inside (0, 1)

    def take(self, rows: np.ndarray | slice) -> "_Found":
        return _Found(self.probability[rows], self.dual[rows], self.chance[rows])


class Reading:
    """What the odds and the draw of rows depend on, found as their losses are read part by part.

    Args:
        n (`int`): Rows.
        spans (`Sequence[tuple[int, int, int]]`): Of each run, as [`typical_spans`] gives them.
    """

    def __init__(self, n: int, spans: Sequence[tuple[int, int, int]]) -> None:
        self.spans = spans
        self.found = _Found(np.zeros(n), np.zeros(n), np.zeros(n))

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
        self.found.chance[part] = _chance(hashed)

    def typicality(self, trajectories: Recorded, typical: float) -> np.ndarray:
        """Once all rows were added.

        Args:
            trajectories ([`Trajectories`]): The recording.
            typical (`float`): How many rows come first, as for [`rank_coreset`]. If it is a number of rows of each
                class, the others are told by having no typicality.

        Returns:
            `np.ndarray`: float32 `(N,)`, as [`typicality_for`] gives it.
        """
        _require_finite(self.found, trajectories)
        return _of_all(self.found, trajectories.labels, typical)


def _read(table: Any, spans: Sequence[tuple[int, int, int]], rows: np.ndarray | None = None) -> _Found:
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


def _chance(hashed: np.ndarray) -> np.ndarray:
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


def _require_finite(found: _Found, trajectories: Recorded) -> None:
    if not np.isfinite(found.probability).all():
        raise losses_not_finite(trajectories, trajectories.losses)


def _stages(found: _Found, labels: np.ndarray, rows: int = _ROWS) -> tuple[Stage, ...]:
    if not len(labels):
        raise InputError("the recording has no rows, and typicality is relative to the others: keep some rows")
    hardness = _hardness(found)
    moving = rows * int(np.count_nonzero(np.bincount(labels))) / len(labels)
    offset, slope = _odds(found)
    stages = []
    for step in range(_STEPS + 1):
        kept = _KEPT * min(1, (step + 0.5) / _STEPS)
        b = _CONCENTRATION * hardness * (1 - (1 - kept) ** _EXPONENT)
        stages.append(Stage(moving * step / _STEPS, b, _log_mean(offset + b * slope)))
    return tuple(stages)


def _hardness(found: _Found) -> float:
    """How improbable the labels of the rows are that DUAL scores highest."""
    # Sorting the few that may be among them is faster than sorting all.
    near = np.argpartition(-found.dual, min(_BEST, len(found.dual)) - 1)[:_BEST]
    near = np.flatnonzero(~(found.dual < found.dual[near].min()))
    best = near[np.lexsort((-found.probability[near], -found.dual[near]))[:_BEST]]
    return 1 - float(found.probability[best].mean())


# The logarithm of the odds is the first of these plus b times the second.
_Odds = tuple[np.ndarray, np.ndarray]


def _odds(found: _Found) -> _Odds:
    inside = np.clip(found.probability, _LEAST, 1 - _LEAST)
    easy, hard = np.log(inside), np.log1p(-inside)
    # Negative losses, which are not cross-entropies, may have a negative score: no odds.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(found.dual) + _CONCENTRATION * easy - hard, hard - easy


def _log_mean(logarithms: np.ndarray) -> float:
    """The logarithm of the mean of what these are the logarithms of (NaN of 0), in any order the same."""
    known = logarithms[np.isfinite(logarithms)]
    if not len(known):
        return 0.0
    highest = float(known.max())
    known -= highest
    np.exp(known, out=known)
    known *= 2.0**40
    # Whole numbers, whose sum does not depend on the order; of 2 million it stays below 2**62.
    whole = np.rint(known, out=known).astype(np.int64)
    return highest + math.log(int(whole.sum()) / len(logarithms) / 2.0**40)


def _keys(found: _Found, stages: Sequence[Stage]) -> np.ndarray:
    offset, slope = _odds(found)
    # How much of its own odds a row still waits for; it comes in the stage in which that much goes by.
    left = -np.log(found.chance)
    keys = np.full(len(left), np.nan)
    waiting = np.ones(len(left), dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for stage, after in itertools.pairwise(stages):
            passing = np.exp(offset + stage.b * slope - stage.scale) * (after.start - stage.start)
            comes = waiting & (passing >= left)
            keys[comes] = -np.log(stage.start + left[comes] / passing[comes] * (after.start - stage.start))
            waiting &= ~comes
            left -= passing
        # Of rows that hardly have odds, the time may be larger than a number can be.
        last = stages[-1]
        more = np.log(left) - (offset + last.b * slope - last.scale)
        keys[waiting] = -np.logaddexp(np.log(last.start), more)[waiting]
    keys[~np.isfinite(keys)] = np.nan
    return keys.astype(np.float32)
