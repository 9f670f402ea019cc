"""Read and add columns of a `datasets.Dataset` without decoding an image or rewriting a row."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List
from datasets.fingerprint import Hasher
from datasets.table import InMemoryTable, concat_tables
from datasets.utils.file_utils import xopen

from ..utils.errors import InputError

# The columns that a recording adds: losses and their score.
LOSS_TRAJECTORY, LTC_SCORE = "loss_trajectory", "ltc_score"
# Of per-sample metrics: margin_trajectory.
TRAJECTORY_SUFFIX = "_trajectory"
# Bytes of the rows that are taken at once.
_TAKEN_BYTES = 2**25


def rank_name(score_column: str) -> str:
    """The column that ranks rows by a score: `ltc_rank` for `ltc_score`."""
    return f"{score_column.removesuffix('_score')}_rank"


def typicality_name(score_column: str) -> str:
    """The column that says which rows come before the best ones, those with the highest values first:
    `ltc_typicality` for `ltc_score`."""
    return f"{score_column.removesuffix('_score')}_typicality"


def read_column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """Reads one column as stored, in the dataset's row order.

    Formats and transforms of the dataset are ignored, so nothing is decoded.

    Args:
        dataset (`datasets.Dataset`): Any dataset; shuffled, selected and formatted ones included.
        name (`str`): The column.

    Returns:
        `pyarrow.ChunkedArray`: the stored values, `len(dataset)` long.

    Raises:
        InputError: if there is no such column.
    """
    if name not in dataset.column_names:
        raise InputError(f"no column {name!r} in the dataset: it has {', '.join(map(repr, dataset.column_names))}")
    column, rows = dataset.data.column(name), stored_rows(dataset)
    return column if rows is None else take_rows(column, rows)


def encoded_image(value: Mapping[str, Any]) -> bytes | None:
    """The encoded bytes of an image as `datasets` stores it, `{"bytes": ..., "path": ...}`; `None` if it is null."""
    content, path = value.get("bytes"), value.get("path")
    if content is None and path is not None:
        with xopen(path, "rb") as file:
            return file.read()
    return content


def stored_rows(dataset: Dataset) -> np.ndarray | None:
    """Which stored row each row of a dataset is, int64 `(N,)`; `None` where they are the same."""
    return None if dataset._indices is None else np.asarray(dataset._indices.column(0), dtype=np.int64)


def take_rows(column: pa.ChunkedArray, rows: np.ndarray) -> pa.ChunkedArray:
    """Takes rows out of a column of any size, with memory for these rows alone.

    `ChunkedArray.take` joins all chunks of the column first, which copies all images, and fails above 2 GB, the most
    that an array of bytes or strings can hold.

    Args:
        column (`pyarrow.ChunkedArray`): The column.
        rows (`np.ndarray`): int `(n,)`, from 0 to `len(column) - 1`, in any order; -1 for a null.

    Returns:
        `pyarrow.ChunkedArray`: `n` long, in several chunks if one cannot hold them.
    """
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    # Of the values themselves, even where a file of them is mapped.
    a_row = sum(chunk.nbytes for chunk in chunks) / max(1, len(column))
    most = max(1, int(_TAKEN_BYTES / max(1.0, a_row)))
    starts = np.cumsum([0, *(len(chunk) for chunk in chunks)])
    rows = rows.astype(np.int64)
    taken: list[pa.Array] = []
    for first in range(0, len(rows), most):
        taken += _taken(chunks, starts, column.type, rows[first : first + most])
    return pa.chunked_array(taken, column.type)


def _taken(chunks: list[pa.Array], starts: np.ndarray, kind: pa.DataType, rows: np.ndarray) -> list[pa.Array]:
    place = np.searchsorted(starts, rows, side="right") - 1
    # Chunk by chunk, in the order of the table, and what came out of them is then put into the order asked for.
    order = np.argsort(place, kind="stable")
    try:
        parts = []
        for part in np.split(order, np.flatnonzero(np.diff(place[order])) + 1):
            if (chunk := place[part[0]]) < 0:
                parts.append(pa.nulls(len(part), kind))
            else:
                parts.append(chunks[chunk].take(pa.array(rows[part] - starts[chunk])))
        if np.array_equal(order, np.arange(len(order))):
            return parts
        return pa.chunked_array(parts, kind).take(pa.array(np.argsort(order))).chunks
    except pa.ArrowInvalid:
        # Some rows are far longer than most: together they are more than one array can hold.
        if len(rows) == 1:
            raise
        half = len(rows) // 2
        return [*_taken(chunks, starts, kind, rows[:half]), *_taken(chunks, starts, kind, rows[half:])]


def any_length(column: pa.ChunkedArray, feature: object) -> tuple[pa.ChunkedArray, object]:
    """Turns lists of a fixed size, which older versions wrote, into lists of any length; other columns stay.

    Parquet files in which some lists of a fixed size are null cannot be read by pyarrow 25 and older.
    """
    if isinstance(feature, List) and feature.length >= 0:
        return without_null_lengths(column.cast(pa.list_(column.type.value_type))), List(feature.feature)
    return column, feature


def without_null_lengths(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column whose null lists have length 0, without which pyarrow 25 and older cannot write a Parquet file.

    After a cast from lists of a fixed size, nulls keep that length.
    """
    return pa.chunked_array([chunk.take(np.arange(len(chunk))) for chunk in column.chunks], column.type)


def with_columns(dataset: Dataset, columns: Mapping[str, tuple[pa.Array | pa.ChunkedArray, object]]) -> Dataset:
    """Adds columns to the stored ones, replacing any of the same name; no row is rewritten, the format is kept.

    `Dataset.add_column` flattens a shuffled or selected dataset, which rewrites every image. Here the new values are
    put at their rows of the table underneath instead, and the row selection stays in place.

    Args:
        dataset (`datasets.Dataset`): Any dataset; shuffled, selected and formatted ones included.
        columns (`Mapping[str, tuple[pyarrow.Array, FeatureType]]`):
            For each new column its values in the dataset's row order, and its `datasets` feature.

    Returns:
        `datasets.Dataset`: same rows, same order, same format, with the new columns last.
    """
    shown = dataset.format
    plain = dataset.with_format(None)
    if replaced := [name for name in columns if name in plain.column_names]:
        plain = plain.remove_columns(replaced)
    features = Features({name: feature for name, (_, feature) in columns.items()})
    given = [values for values, _ in columns.values()]
    arrays = [values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values]) for values in given]
    fingerprint = Hasher.hash((plain._fingerprint, [(n, str(features[n]), a) for n, a in zip(columns, arrays)]))

    indices, stored = plain._indices, stored_rows(plain)
    if stored is not None:
        where = np.full(len(plain._data), -1, dtype=np.int64)
        where[stored] = np.arange(len(stored))
        if (where[stored] != np.arange(len(stored))).any():
            # A row selected twice can have two values, which one stored row cannot hold.
            plain, indices = plain.flatten_indices(), None
        else:
            arrays = [take_rows(values, where) for values in arrays]
            plain = copy.copy(plain)
            plain._indices = None

    # No Dataset of them, which would join the chunks for its fingerprint, and not concatenate_datasets, which leaves
    # out datasets without rows.
    added = InMemoryTable(pa.table(arrays, schema=features.arrow_schema))
    table = concat_tables([plain.data, added], axis=1)
    info = plain.info.copy()
    info.features = Features({**plain.features, **features})
    result = Dataset(table, info=info, split=plain.split, indices_table=indices, fingerprint=fingerprint)
    if shown["type"] is None and list(shown["columns"]) == dataset.column_names:
        return result
    visible = [c for c in shown["columns"] if c not in columns] + list(columns)
    return result.with_format(
        shown["type"],
        columns=visible,
        output_all_columns=shown["output_all_columns"],
        **shown["format_kwargs"],
    )
