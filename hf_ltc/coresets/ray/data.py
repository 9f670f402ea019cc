"""The coreset of a dataset that no machine holds: on Ray Data, without sorting or moving a row.

Scoring needs nothing from here: a scorer is a callable for `map_batches`. Which rows of each class a budget keeps is
found from histograms of the scores by class, as bounds that any worker can check its rows against.

    rows = ray.data.read_parquet("trajectories/")                   # row, label, loss_trajectory
    scored = rows.map_batches(scorer, batch_format="pyarrow")       # + ltc_score
    bounds = coreset_bounds(scored, fraction=0.1)                   # a few numbers a class
    coreset = scored.map_batches(bounds, batch_format="pyarrow")    # the rows that select_coreset keeps
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from ...data.columns import LOSS_TRAJECTORY, rank_name, typicality_name
from ...scores.typical_places import typical_places
from ...scores.typical_rows import usual_by_column
from ...utils.errors import InputError, as_input_error
from ..choose import Selection, coreset_size
from ..order import Keep
from ..scored import check_numbers
from .keys import Counts, candidate_rows, count_classes, key_columns, keys_of
from .search import Blocks, Search, by_row, group_of, row_at

if TYPE_CHECKING:
    import ray.data

_EVERY = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Bound:
    """Of each class a place in an order of its rows: those with a higher value, or the same and a lower row number.

    Args:
        column (`str`, *optional*): The key of rows that is the value: `"typicality"` or `"score"`; the number alone
            if not given.
        values (`np.ndarray`): float64 `(C,)`; infinite for no row, negative infinity for all.
        rows (`np.ndarray`): int64 `(C,)`.
    """

    column: str | None
    values: np.ndarray
    rows: np.ndarray

    @classmethod
    def nothing(cls, column: str | None, classes: int) -> "Bound":
        return cls(column, np.full(classes, np.inf), np.zeros(classes, dtype=np.int64))

    @classmethod
    def everything(cls, column: str | None, classes: int) -> "Bound":
        return cls(column, np.full(classes, -np.inf), np.full(classes, _EVERY))

    def before(self, keys: pa.Table, group: np.ndarray) -> np.ndarray:
        """Which rows of a block come before it, given the class of each."""
        row = keys["row"].to_numpy()
        if self.column is None:
            return row < self.rows[group]
        # Comparisons with NaN are false, which is right.
        value, bound = keys[self.column].to_numpy(), self.values[group]
        return (value > bound) | ((value == bound) & (row < self.rows[group]))


@dataclass(frozen=True, eq=False)
class CoresetBounds:
    """Which rows a coreset keeps, as bounds by class: a callable for `map_batches`, picklable and without state.

    Of a class it keeps the typical rows that come before `first`, the other rows with a score that come before
    `scores`, and those without a score that come before `flat`. The typical rows are those that come before `typical`.
    Make it with [`coreset_bounds`].

    Args:
        size (`int`): Rows that it keeps of the dataset it was made from.
        pool (`int`): Candidate rows of that dataset.
        labels (`pyarrow.Array`): `(C,)`, the classes; 0 if all rows are one class.
        typical, first ([`Bound`]): By typicality.
        scores ([`Bound`]): By score, negated if the lowest scores are best.
        flat ([`Bound`]): By row number.
        options (`dict`): Names of the columns, and what is best, as given to [`coreset_bounds`].
    """

    size: int
    pool: int
    labels: pa.Array
    typical: Bound
    first: Bound
    scores: Bound
    flat: Bound
    options: dict[str, Any]

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Keeps the rows of a batch that belong to the coreset.

        Args:
            batch (`pyarrow.Table`): Rows with the columns that the bounds were made from.

        Returns:
            `pyarrow.Table`: those that are kept, in their order.

        Raises:
            InputError: if a column is missing, or the batch is no Arrow table.
        """
        if not isinstance(batch, pa.Table):
            raise InputError(f"the bounds take Arrow tables, not {type(batch).__name__}: batch_format='pyarrow'")
        for name in key_columns(self.options):
            if name not in batch.column_names:
                raise InputError(f"no column {name!r} in the batch: it has {', '.join(map(repr, batch.column_names))}")
        candidates = candidate_rows(batch, **self.options)
        keys = keys_of(batch, **self.options)
        group = group_of(keys, self.labels)
        score = keys["score"].to_numpy()
        typical = self.typical.before(keys, group)
        kept = typical & self.first.before(keys, group)
        kept |= ~typical & self.scores.before(keys, group)
        kept |= np.isnan(score) & self.flat.before(keys, group)
        # A class that the dataset did not have keeps nothing.
        kept &= group >= 0
        rows = np.zeros(len(batch), dtype=bool)
        rows[np.flatnonzero(candidates.to_numpy(zero_copy_only=False))[kept]] = True
        # Not take, which joins the chunks of the images.
        return batch.filter(pa.array(rows))


def coreset_bounds(
    dataset: "ray.data.Dataset",
    fraction: float | None = None,
    size: int | None = None,
    *,
    balance: Literal["class", "none"] = "class",
    score_column: str = "ltc_score",
    label_column: str = "label",
    row_column: str = "row",
    keep: Keep = "highest",
    exclude_negative: bool = False,
    typical: float | None = None,
) -> CoresetBounds:
    """Finds which rows of each class the coreset of a budget keeps: exactly those of [`select_coreset`].

    The dataset is read once, for its scores, labels and row numbers (32 bytes per row, in Ray's object store). One
    pass over these counts the rows of each class, to know how many of each to keep. Others narrow down the last score
    kept with histograms, until at most a million rows are left to sort. Nothing else is sorted or moved; the driver
    holds at most 4 million counts.

    Args:
        dataset (`ray.data.Dataset`):
            Scored rows. As for [`rank_coreset`], rows held out as validation samples are not candidates, and candidate
            rows without a score come last.
        fraction (`float`, *optional*): Share in (0, 1] of the candidate rows (see [`coreset_size`]).
        size (`int`, *optional*): Rows to keep, instead of a fraction.
        balance (`str`, *optional*, defaults to `"class"`):
            `"class"` or `"none"`. `"proportional"` works only on a single machine, because the class of the next row
            depends on all rows before it.
        score_column (`str`, *optional*, defaults to `"ltc_score"`): Any column of numbers.
        label_column (`str`, *optional*, defaults to `"label"`): Classes: integers from 0 or strings.
        row_column (`str`, *optional*, defaults to `"row"`):
            Unique row numbers from 0, to break ties: rows have no position in a distributed dataset.
        keep (`str`, *optional*, defaults to `"highest"`): Which scores are best: `"highest"` or `"lowest"`.
        exclude_negative (`bool`, *optional*, defaults to `False`): Leave rows with a negative score out.
        typical (`float`, *optional*): As for [`rank_coreset`].

    Returns:
        [`CoresetBounds`]

    Raises:
        InputError: if a column is missing or of another type, for a null label or row number, for row numbers that
            occur twice, for a budget out of range, for a dataset of another kind, and where Ray is not installed.
    """
    with as_input_error("coreset_bounds needs Ray", "pip install 'hf-ltc[ray]'", ImportError):
        import ray.data
    if not isinstance(dataset, ray.data.Dataset):
        kind = f"{type(dataset).__module__}.{type(dataset).__qualname__}"
        raise InputError(
            f"`dataset` is a {kind}: coreset_bounds takes a ray.data.Dataset; select_coreset takes a datasets.Dataset"
        )
    if balance not in ("class", "none"):
        one = {"proportional": "; rank_coreset on one machine has proportional"}.get(balance, "")
        raise InputError(f"`balance` is {balance!r}: on Ray it must be one of class, none{one}")
    selection = Selection(fraction, size, balance, keep, exclude_negative, typical=typical)
    schema = dataset.schema()
    columns = dict(zip(schema.names, schema.types)) if schema else {}
    typicality = typicality_name(score_column)
    if typicality not in columns or keep == "lowest":
        selection = selection.decided(0.0)
    options: dict[str, Any] = {
        "score_column": score_column,
        "typicality_column": None if selection.typical == 0 else typicality,
        "label_column": label_column if balance == "class" else None,
        "row_column": row_column,
        "keep": keep,
        "exclude_negative": exclude_negative,
    }
    needed = key_columns(options)
    for name in needed:
        if name not in columns:
            raise InputError(f"no column {name!r} in the dataset: it has {', '.join(map(repr, columns))}")
    check_numbers(columns[score_column], score_column)
    recorded = [name for name in (LOSS_TRAJECTORY, rank_name(score_column)) if name in columns]
    keys = dataset.select_columns([*needed, *recorded]).map_batches(
        keys_of, fn_kwargs=options, batch_format="pyarrow", batch_size=None
    )
    # Kept, since each pass goes over them.
    keys = keys.materialize()

    def over_blocks(function: Callable[..., pa.Table], **given: Any) -> Iterator[pa.Table]:
        made = keys.map_batches(function, fn_kwargs=given, batch_format="pyarrow", batch_size=None)
        yield from made.iter_batches(batch_format="pyarrow", batch_size=None)

    return _bounds(over_blocks, options, selection)


def _bounds(over_blocks: Blocks, options: dict[str, Any], selection: Selection) -> CoresetBounds:
    found = count_classes(over_blocks, options)
    classes, pool = len(found.labels), int(found.scored.sum() + found.flat.sum())
    rows = coreset_size(pool, selection.fraction, selection.size)
    selection = selection.decided(usual_by_column(int(found.known.sum()), int(found.scored.sum())))
    places = np.zeros(classes, dtype=np.int64)
    typical = Bound.nothing("typicality", classes)
    if selection.typical:
        places = np.minimum(typical_places(found.scored, selection.typical, selection.balance != "none"), found.known)
        typical = _bound_at(_ordered(over_blocks, "typicality"), found, "typicality", places, found.known)
    first, scores = Bound.everything("typicality", classes), Bound.everything("score", classes)
    flat = Bound.nothing(None, classes)
    if rows > found.scored.sum():
        start, stop = found.scored, found.scored + found.flat
        turns, spare = _deal(start, stop, rows - int(start.sum()))
        flat = _bound_at(over_blocks, found, None, turns - start, found.flat)
        # The spare rows go to the classes whose next row is the first.
        left = np.flatnonzero((turns >= start) & (turns < stop))
        flat.rows[left[np.argsort(flat.rows[left])][:spare]] += 1
        return CoresetBounds(rows, pool, found.labels, typical, first, scores, flat, options)
    turns, spare = _deal(np.zeros_like(found.scored), found.scored, rows)
    # Within a class the typical rows come first, and the others are chosen from what these leave.
    first = _bound_at(_ordered(over_blocks, "typicality"), found, "typicality", turns, places)
    others = _ordered(over_blocks, "score", found.labels, typical)
    scores = _bound_at(others, found, "score", np.maximum(turns - places, 0), found.scored - places)
    # The spare rows go to the classes whose next row is best: a typical one, or else one by score.
    early, late = (np.flatnonzero(at) for at in (turns < places, (turns >= places) & (turns < found.scored)))
    for bound, left in ((first, early), (scores, late)):
        best = left[np.lexsort((bound.rows[left], -bound.values[left]))]
        bound.rows[best[:spare]] += 1
        spare -= min(spare, len(best))
    return CoresetBounds(rows, pool, found.labels, typical, first, scores, flat, options)


def _bound_at(over_blocks: Blocks, found: Counts, column: str | None, turns: np.ndarray, counts: np.ndarray) -> Bound:
    """The bound of so many rows of each class, `turns`, of those that it has, `counts`."""
    bound = Bound.everything(column, len(turns))
    bound.rows[turns < 0] = 0
    left = np.flatnonzero((turns >= 0) & (turns < counts))
    labels = found.labels.take(pa.array(left))
    if column is None:
        search = by_row(labels, np.full(len(left), np.nan))
    else:
        search = Search(labels, -found.best[column][left], -found.worst[column][left])
    bound.values[left], bound.rows[left] = row_at(over_blocks, search, turns[left])
    return bound


def _ordered(over_blocks: Blocks, column: str, labels: pa.Array | None = None, typical: Bound | None = None) -> Blocks:
    """The blocks with rows ordered by a column, and without the typical rows where a bound of them is given."""

    def over_ordered(function: Callable[..., pa.Table], **given: Any) -> Iterator[pa.Table]:
        how = {"column": column, "labels": labels, "typical": typical}
        return over_blocks(_of_ordered, then=function, given=given, **how)

    return over_ordered


def _of_ordered(
    keys: pa.Table,
    then: Callable[..., pa.Table],
    given: dict[str, Any],
    column: str,
    labels: pa.Array | None,
    typical: Bound | None,
) -> pa.Table:
    if typical is not None:
        keys = keys.filter(pa.array(~typical.before(keys, group_of(keys, labels))))
    return then(keys.set_column(keys.column_names.index("score"), "score", keys[column]), **given)


def _deal(start: np.ndarray, stop: np.ndarray, rows: int) -> tuple[np.ndarray, int]:
    """Deals rows, one a class and round, to classes that have them from round `start` to round `stop`.

    Returns the turn of each class after the last whole round, -1 where its first is yet to come, and the rows that are
    left for the next round.
    """
    low, high = 0, int(stop.max())
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.clip(middle - start, 0, stop - start).sum()) <= rows:
            low = middle
        else:
            high = middle - 1
    dealt = np.clip(low - start, 0, stop - start)
    return np.where(low < start, -1, start + dealt), rows - int(dealt.sum())
