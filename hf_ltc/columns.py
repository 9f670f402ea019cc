"""Read and add columns of a `datasets.Dataset` without decoding an image or rewriting a row."""

import copy
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features
from datasets.fingerprint import Hasher
from datasets.table import concat_tables

from .errors import InputError


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
    column = dataset.data.column(name)
    return column if dataset._indices is None else column.take(dataset._indices.column(0))


def with_columns(dataset: Dataset, columns: Mapping[str, tuple[pa.Array | pa.ChunkedArray, object]]) -> Dataset:
    """Adds columns beside the stored ones, replacing any of the same name; no row is rewritten, the format is kept.

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
    arrays = [pa.chunked_array(values) if isinstance(values, list) else values for values, _ in columns.values()]
    fingerprint = Hasher.hash((plain._fingerprint, [(n, str(features[n]), a) for n, a in zip(columns, arrays)]))

    indices = plain._indices
    if indices is not None:
        stored = np.asarray(indices.column(0), dtype=np.int64)
        where = np.full(len(plain._data), -1, dtype=np.int64)
        where[stored] = np.arange(len(stored))
        if (where[stored] != np.arange(len(stored))).any():
            # A row selected twice can have two values, which one stored row cannot hold.
            plain, indices = plain.flatten_indices(), None
        else:
            take = pa.array(where, mask=where < 0)
            arrays = [values.take(take) for values in arrays]
            plain = copy.copy(plain)
            plain._indices = None

    added = Dataset(pa.table(arrays, schema=features.arrow_schema))
    # Not concatenate_datasets, which leaves out datasets without rows.
    table = concat_tables([plain.data, added.data], axis=1)
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
