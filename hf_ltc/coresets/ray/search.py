"""The search for one row of each class by histograms of blocks, without sorting or moving a row."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...utils.errors import InputError

# Counts that the driver holds, 24 bytes each, and bins of a class at most.
_COUNTS, _BINS = 4_194_304, 1024
# Rows that come to the driver in the end, 24 bytes each.
_CANDIDATES = 1_000_000
# Calls a function with each block of keys, on the workers, and yields what it makes, in any order.
Blocks = Callable[..., Iterator[pa.Table]]


@dataclass(frozen=True, eq=False)
class Search:
    """Where the row that is looked for lies, for some classes: from `low` to `high`, both included.

    These are negated scores, or, where `tied` is given, numbers of the rows with that score (NaN: without a score).
    """

    labels: pa.Array
    low: np.ndarray
    high: np.ndarray
    tied: np.ndarray | None = None


def by_row(labels: pa.Array, tied: np.ndarray) -> Search:
    return Search(labels, np.zeros(len(labels)), np.full(len(labels), 2.0**63), tied)


def row_at(over_blocks: Blocks, search: Search, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Score and number of one row of each class: the one with `turns` better rows in its class."""
    if len(turns) == 0:
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    search, turns, count = _narrow(over_blocks, search, turns)
    if count > _CANDIDATES and search.tied is None:
        # So many rows have the same scores that their numbers are to be narrowed down too.
        search, turns, count = _narrow(over_blocks, by_row(search.labels, -search.low), turns)
    found = pa.concat_tables(part for part in over_blocks(_candidates, search=search) if len(part))
    group, score, row = (found[name].to_numpy() for name in ("group", "score", "row"))
    order = np.lexsort((row, -score, group))
    first = np.searchsorted(group[order], np.arange(len(turns)))
    at = order[first + turns]
    for beside in (order[np.minimum(first + turns + 1, len(order) - 1)], order[np.maximum(first + turns - 1, 0)]):
        twice = (beside != at) & (group[beside] == group[at]) & (row[beside] == row[at])
        if twice.any():
            raise InputError(f"row number {row[at][twice][0]} occurs twice: rows need unique numbers to break ties by")
    return score[at], row[at]


def _narrow(over_blocks: Blocks, search: Search, turns: np.ndarray) -> tuple[Search, np.ndarray, int]:
    """Narrows the search by histograms until few rows are left, or only equal ones; returns how many."""
    classes = np.arange(len(turns))
    bins = max(2, min(_BINS, _COUNTS // len(turns)))
    while True:
        counts = np.zeros((len(turns), bins), dtype=np.int64)
        low, high = np.full(counts.shape, np.inf), np.full(counts.shape, -np.inf)
        for part in over_blocks(_histogram, search=search, bins=bins):
            at = part["group"].to_numpy(), part["bin"].to_numpy()
            counts[at] += part["count"].to_numpy()
            low[at] = np.minimum(low[at], part["low"].to_numpy())
            high[at] = np.maximum(high[at], part["high"].to_numpy())
        through = np.cumsum(counts, axis=1)
        there = (through <= turns[:, None]).sum(axis=1)
        turns = turns - (through - counts)[classes, there]
        search = dataclasses.replace(search, low=low[classes, there], high=high[classes, there])
        left = int(counts[classes, there].sum())
        if left <= _CANDIDATES or (search.low == search.high).all():
            return search, turns, left


def group_of(keys: pa.Table, labels: pa.Array) -> np.ndarray:
    """The position of each row's label among the given ones, or -1."""
    return pc.fill_null(pc.index_in(keys["label"], value_set=labels.cast(keys["label"].type)), -1).to_numpy()


def _within(keys: pa.Table, search: Search) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The positions in a block of the rows searched, their class, and what they are ordered by."""
    group, score = group_of(keys, search.labels), keys["score"].to_numpy()
    if search.tied is None:
        place, searched = -score, ~np.isnan(score)
    else:
        place, tied = keys["row"].to_numpy(), search.tied[group]
        searched = (score == tied) | (np.isnan(score) & np.isnan(tied))
    # Comparisons with NaN are false, which is right.
    searched &= (group >= 0) & (place >= search.low[group]) & (place <= search.high[group])
    at = np.flatnonzero(searched)
    return at, group[at], place[at]


def _histogram(keys: pa.Table, search: Search, bins: int) -> pa.Table:
    _, group, place = _within(keys, search)
    # Quarters of finite numbers, so that no difference of two is infinite.
    most = np.finfo(np.float64).max
    quarter, low, high = (np.clip(v, -most, most) / 4 for v in (place, search.low[group], search.high[group]))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (quarter - low) / (high - low)
    # An interval too small to be divided has two parts: its lower end and the rest.
    share = np.where(high > low, share, place > search.low[group])
    number = np.minimum((share * bins).astype(np.int64), bins - 1)
    one, where, count = np.unique(group * bins + number, return_inverse=True, return_counts=True)
    least, largest = np.full(len(one), np.inf), np.full(len(one), -np.inf)
    np.minimum.at(least, where, place)
    np.maximum.at(largest, where, place)
    return pa.table({"group": one // bins, "bin": one % bins, "count": count, "low": least, "high": largest})


def _candidates(keys: pa.Table, search: Search) -> pa.Table:
    at, group, _ = _within(keys, search)
    return pa.table({"group": group, "score": keys["score"].to_numpy()[at], "row": keys["row"].to_numpy()[at]})
