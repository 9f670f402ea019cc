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
import pyarrow.compute as pc

from ..data.columns import LOSS_TRAJECTORY, rank_name
from ..utils.errors import InputError, as_input_error
from .choose import Selection, coreset_size
from .order import Keep
from .ray_search import Blocks, Search, by_row, group_of, row_at
from .select import check_numbers, recorded_rows

if TYPE_CHECKING:
    import ray.data

_EVERY = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class CoresetBounds:
    """Which rows a coreset keeps, as bounds by class: a callable for `map_batches`, picklable and without state.

    It keeps a row if its score is better than `scores[c]`, or equal with a row number below `rows[c]`; one without a
    score if its row number is below `flat_rows[c]`. Make it with [`coreset_bounds`].

    Args:
        size (`int`): Rows that it keeps of the dataset it was made from.
        pool (`int`): Candidate rows of that dataset.
        labels (`pyarrow.Array`): `(C,)`, the classes; 0 if all rows are one class.
        scores (`np.ndarray`): float64 `(C,)`; negated if the lowest scores are best.
        rows (`np.ndarray`): int64 `(C,)`.
        flat_rows (`np.ndarray`): int64 `(C,)`.
        options (`dict`): Names of the columns, and what is best, as given to [`coreset_bounds`].
    """

    size: int
    pool: int
    labels: pa.Array
    scores: np.ndarray
    rows: np.ndarray
    flat_rows: np.ndarray
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
        for name in (self.options[f"{kind}_column"] for kind in ("score", "label", "row")):
            if name is not None and name not in batch.column_names:
                raise InputError(f"no column {name!r} in the batch: it has {', '.join(map(repr, batch.column_names))}")
        candidates = _candidate_rows(batch, **self.options)
        keys = _project(batch, **self.options)
        group = group_of(keys, self.labels)
        score, row = keys["score"].to_numpy(), keys["row"].to_numpy()
        bound = self.scores[group]
        kept = (score > bound) | ((score == bound) & (row < self.rows[group]))
        kept |= np.isnan(score) & (row < self.flat_rows[group])
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
) -> CoresetBounds:
    """Finds which rows of each class the coreset of a budget keeps: exactly those of [`select_coreset`].

    The dataset is read once, to take score, label and row number from it (24 bytes a row, in Ray's object store). Some
    passes go over these: one counts the rows of each class, which says how many of each are kept; the others narrow
    down the score of the last one by histograms, until at most a million rows are left to sort. Nothing else is sorted
    or moved; the driver holds at most 4 million counts.

    Args:
        dataset (`ray.data.Dataset`):
            Scored rows. As for [`rank_coreset`], rows held out as validation samples are no candidates, and candidate
            rows without a score come last.
        fraction (`float`, *optional*): Share in (0, 1] of the candidate rows (see [`coreset_size`]).
        size (`int`, *optional*): Rows to keep, instead of a fraction.
        balance (`str`, *optional*, defaults to `"class"`):
            `"class"` or `"none"`; `"proportional"` is for a dataset on one machine.
        score_column (`str`, *optional*, defaults to `"ltc_score"`): Any column of numbers.
        label_column (`str`, *optional*, defaults to `"label"`): Classes: integers from 0 or strings.
        row_column (`str`, *optional*, defaults to `"row"`):
            Unique row numbers from 0, to break ties by: rows have no position in a distributed dataset.
        keep (`str`, *optional*, defaults to `"highest"`): Which scores are best: `"highest"` or `"lowest"`.
        exclude_negative (`bool`, *optional*, defaults to `False`): Leave rows with a negative score out.

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
        raise InputError(f"`balance` is {balance!r}: on Ray it must be one of class, none")
    selection = Selection(fraction, size, balance, keep, exclude_negative)
    options = {
        "score_column": score_column,
        "label_column": label_column if balance == "class" else None,
        "row_column": row_column,
        "keep": keep,
        "exclude_negative": exclude_negative,
    }
    schema = dataset.schema()
    columns = dict(zip(schema.names, schema.types)) if schema else {}
    needed = [score_column, row_column, *([label_column] if balance == "class" else [])]
    for name in needed:
        if name not in columns:
            raise InputError(f"no column {name!r} in the dataset: it has {', '.join(map(repr, columns))}")
    held = columns[score_column]
    check_numbers(held, score_column)
    recorded = [name for name in (LOSS_TRAJECTORY, rank_name(score_column)) if name in columns]
    keys = dataset.select_columns([*needed, *recorded]).map_batches(
        _project, fn_kwargs=options, batch_format="pyarrow", batch_size=None
    )
    # Kept, since each pass goes over them.
    keys = keys.materialize()

    def over_blocks(function: Callable[..., pa.Table], **given: Any) -> Iterator[pa.Table]:
        made = keys.map_batches(function, fn_kwargs=given, batch_format="pyarrow", batch_size=None)
        yield from made.iter_batches(batch_format="pyarrow", batch_size=None)

    return _bounds(over_blocks, options, selection)


def _bounds(over_blocks: Blocks, options: dict[str, Any], selection: Selection) -> CoresetBounds:
    labels, scored, flat, best, worst = _count(over_blocks, options)
    pool = int(scored.sum() + flat.sum())
    rows = coreset_size(pool, selection.fraction, selection.size)
    scores, bounds = np.full(len(labels), -np.inf), np.full(len(labels), _EVERY)
    flat_rows = np.zeros(len(labels), dtype=np.int64)
    if rows <= scored.sum():
        turns, spare = _deal(np.zeros_like(scored), scored, rows)
        left = np.flatnonzero(turns < scored)
        search = Search(labels.take(pa.array(left)), -best[left], -worst[left])
        scores[left], bounds[left] = row_at(over_blocks, search, turns[left])
        # The spare rows go to the classes whose next row is best.
        next_best = left[np.lexsort((bounds[left], -scores[left]))]
        bounds[next_best[:spare]] += 1
    else:
        turns, spare = _deal(scored, scored + flat, rows - int(scored.sum()))
        flat_rows[turns > scored] = _EVERY
        left = np.flatnonzero((turns >= scored) & (turns < scored + flat))
        search = by_row(labels.take(pa.array(left)), np.full(len(left), np.nan))
        _, flat_rows[left] = row_at(over_blocks, search, (turns - scored)[left])
        next_best = left[np.argsort(flat_rows[left])]
        flat_rows[next_best[:spare]] += 1
    return CoresetBounds(rows, pool, labels, scores, bounds, flat_rows, options)


def _candidate_rows(batch: pa.Table, *, score_column: str, exclude_negative: bool, **_: Any) -> pa.ChunkedArray:
    known = (
        batch[name] if name in batch.column_names else None for name in (LOSS_TRAJECTORY, rank_name(score_column))
    )
    candidates = recorded_rows(batch[score_column], *known)
    if exclude_negative:
        candidates = pc.and_not(candidates, pc.fill_null(pc.less(batch[score_column], 0), False))
    return candidates


def _project(batch: pa.Table, **options: Any) -> pa.Table:
    """What candidate rows are chosen by: label; score, the highest best and NaN where there is none; row number."""
    score, label, row = (options[f"{kind}_column"] for kind in ("score", "label", "row"))
    # Of these alone: filtering copies, and there may be images beside them.
    kept = batch.select([name for name in (score, label, row) if name]).filter(_candidate_rows(batch, **options))
    scores = pc.fill_null(kept[score].cast(pa.float64(), safe=False), float("nan"))
    return pa.table(
        {
            "label": kept[label] if label else pa.array(np.zeros(len(kept), dtype=np.int64)),
            "score": pc.negate(scores) if options["keep"] == "lowest" else scores,
            "row": kept[row].cast(pa.int64()),
        }
    )


def _count(over_blocks: Blocks, options: dict[str, Any]) -> tuple[pa.Array, ...]:
    """The classes; of each, how many rows have a score and how many not, and the best and the worst score."""
    parts = [part for part in over_blocks(_count_block) if len(part)]
    if not parts:
        raise InputError("the dataset has no candidate rows: score it first")
    counted = {"count_all": "sum", "row_count": "sum", "score_count": "sum", "score_max": "max", "score_min": "min"}
    total = pa.concat_tables(parts).group_by("label", use_threads=False).aggregate(list(counted.items()))
    labels = total["label"].combine_chunks()
    rows, numbered, scored, best, worst = (total[f"{name}_{how}"].to_numpy() for name, how in counted.items())
    nulls = {"label": rows[labels.is_null().to_numpy(zero_copy_only=False)].sum(), "row": (rows - numbered).sum()}
    for name, count in nulls.items():
        if count:
            raise InputError(f"column {options[f'{name}_column']!r} has {count} null rows: leave them out")
    if pa.types.is_integer(labels.type) and pc.min(labels).as_py() < 0:
        raise InputError(f"column {options['label_column']!r} has labels below 0: leave rows without a class out")
    return labels, scored, rows - scored, best, worst


def _count_block(keys: pa.Table) -> pa.Table:
    # What is counted leaves nulls out, and NaN not.
    known = pc.if_else(pc.is_nan(keys["score"]), pa.scalar(None, pa.float64()), keys["score"])
    block = pa.table({"label": keys["label"], "row": keys["row"], "score": known})
    counts = [([], "count_all"), ("row", "count"), ("score", "count"), ("score", "max"), ("score", "min")]
    return block.group_by("label", use_threads=False).aggregate(counts)


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
