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
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..data.splits import evenly_spaced
from ..utils.errors import InputError
from .kernels import each_part
from .odds import Found, Reading, chance_of, read_odds, typical_spans
from .protocol import Recorded, check_recorded, losses_not_finite
from .typical_places import typical_places

# DUAL has Beta densities of concentration 15 and, on CIFAR-100, an exponent of 4.
_CONCENTRATION, _EXPONENT = 15.0, 4.0
# The odds depend on the ten rows of the highest DUAL score. They move from those of its smallest coreset to those of
# its coreset of a tenth while the first 15 rows of an average class are drawn: that number was chosen on digits,
# Fashion-MNIST and CIFAR-100 (benchmarks/converged.py).
_BEST, _KEPT, _ROWS, _STEPS = 10, 0.1, 15, 5
# At 0 and 1 a Beta density may have no finite value.
_LEAST = 1e-7
# Rows among which those of the highest DUAL score are looked for: all, or evenly spaced ones of a larger recording.
_SEARCHED = 2**21
# Rows that are drawn at once.
_PART = 2**17


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
    return typicality_for(trajectories, 1.0)


def typicality_by_sums(
    probability: np.ndarray, dual: np.ndarray, hashed: np.ndarray, labels: np.ndarray, typical: float = 1.0
) -> np.ndarray:
    """The same of a recording without trajectories.

    Args:
        probability (`np.ndarray`): float64 `(N,)`, the mean of the label's probability over all checkpoints.
        dual (`np.ndarray`): float64 `(N,)`, the DUAL score, the mean over runs.
        hashed (`np.ndarray`): uint64 `(N,)`, a hash of the losses.
        labels (`np.ndarray`): int64 `(N,)`.
        typical (`float`, *optional*, defaults to `1.0`): As for [`typicality_of_read`].

    Returns:
        `np.ndarray`: float32 `(N,)`.
    """
    return _of_all(Found(probability, dual, chance_of(hashed)), labels, typical)


def _of_all(found: Found, labels: np.ndarray, typical: float = 1.0) -> np.ndarray:
    n = len(found.dual)
    stages = _stages(found if n <= _SEARCHED else found.take(evenly_spaced(n, _SEARCHED)), labels)
    # Part by part, since there are many arrays of as many rows.
    parts = (found.take(slice(start, start + _PART)) for start in range(0, n, _PART))
    keys = np.concatenate([_keys(part, stages) for part in parts])
    if typical != 1:
        first = np.sort(found.chance[_first_of_each(keys, labels, _most(labels, typical))])
        keys[~_is_among(found.chance, first)] = np.nan
    return keys


def _most(labels: np.ndarray, typical: float) -> np.ndarray:
    """How many rows of each class may come first: int64, by class."""
    return typical_places(np.bincount(labels), typical)


def _first_of_each(keys: np.ndarray, labels: np.ndarray, most: np.ndarray) -> np.ndarray:
    """The rows of the highest keys of each class, so many at most; of equal ones the first."""
    classes = len(most)
    near = np.flatnonzero(~np.isnan(keys))
    wanted = 4 * int(most[labels].max(initial=0)) * int(np.count_nonzero(np.bincount(labels)))
    if 0 < wanted < len(near):
        # Sorting few is faster: nearly all classes have enough rows among the highest keys of all.
        high = keys[near] >= np.partition(keys[near], -wanted)[-wanted]
        enough = np.bincount(labels[near[high]], minlength=classes) >= most
        near = near[high | ~enough[labels[near]]]
    order = near[np.lexsort((-keys[near], labels[near]))]
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    turn = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return order[turn < most[labels[order]]]


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
        typical (`float`): As for [`typicality_of_read`].

    Returns:
        `np.ndarray`: float32 `(N,)`.
    """
    check_recorded(trajectories)
    return typicality_of_read(read_odds(trajectories.losses, typical_spans(trajectories)), trajectories, typical)


def typicality_of_read(found: Found, trajectories: Recorded, typical: float) -> np.ndarray:
    """The column of typicality, once all rows were read.

    Args:
        found ([`Found`]): What was read.
        trajectories ([`Trajectories`]): The recording.
        typical (`float`): How many rows of each class come first, as for [`rank_coreset`]: the others are told by
            having no typicality.

    Returns:
        `np.ndarray`: float32 `(N,)`.
    """
    _require_finite(found, trajectories)
    return _of_all(found, trajectories.labels, typical)


def first_drawn(trajectories: Recorded, stages: Sequence[Stage], typical: float) -> np.ndarray | None:
    """By what a row is known, wherever it is met, to be among the most typical ones of its class.

    Args:
        trajectories ([`Trajectories`]): The recording; its losses are read once.
        stages (`Sequence[Stage]`): As [`typical_stages`] gives them.
        typical (`float`): As for [`typicality_of_read`].

    Returns:
        `np.ndarray`: float64, sorted: a hash of the trajectory of each of them. `None` if all rows may come first.
    """
    if typical == 1:
        return None
    labels, spans, lock = trajectories.labels, typical_spans(trajectories), threading.Lock()
    most = _most(labels, typical)
    met: list[_Drawn] = []
    most_met = _SEARCHED

    def best() -> _Drawn:
        joined = _Drawn(*map(np.concatenate, zip(*met)))
        # Threads come in any order, and ties go by row number.
        joined = joined.take(np.argsort(joined.row, kind="stable"))
        return joined.take(_first_of_each(joined.key, joined.label, most))

    def add(losses: np.ndarray, part: slice) -> None:
        some = Reading(losses.shape[1], spans)
        some.add(losses, slice(0, losses.shape[1]))
        rows = np.arange(part.start, part.stop)
        drawn = _Drawn(rows, _keys(some.found, stages), labels[part], some.found.chance)
        nonlocal most_met
        with lock:
            met.append(drawn)
            if sum(len(each.row) for each in met) > most_met:
                met[:] = [best()]
                # Of a share of very many rows even these are many.
                most_met = max(_SEARCHED, 2 * len(met[0].row))

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
    found = read_odds(trajectories.losses, typical_spans(trajectories), searched)
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
    found = read_odds(table, spans)
    keys = _keys(found, stages)
    if first is not None:
        keys[~_is_among(found.chance, first)] = np.nan
    return keys


def _require_finite(found: Found, trajectories: Recorded) -> None:
    if not np.isfinite(found.probability).all():
        raise losses_not_finite(trajectories, trajectories.losses)


def _stages(found: Found, labels: np.ndarray, rows: int = _ROWS) -> tuple[Stage, ...]:
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


def _hardness(found: Found) -> float:
    """How improbable the labels of the rows are that DUAL scores highest."""
    # Sorting the few that may be among them is faster than sorting all.
    near = np.argpartition(-found.dual, min(_BEST, len(found.dual)) - 1)[:_BEST]
    near = np.flatnonzero(~(found.dual < found.dual[near].min()))
    best = near[np.lexsort((-found.probability[near], -found.dual[near]))[:_BEST]]
    return 1 - float(found.probability[best].mean())


# The logarithm of the odds is the first of these plus b times the second.
_Odds = tuple[np.ndarray, np.ndarray]


def _odds(found: Found) -> _Odds:
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


def _keys(found: Found, stages: Sequence[Stage]) -> np.ndarray:
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
