"""Batches as the `map` of any engine passes them to a scorer: lists, arrays, tensors, Arrow tables, pandas frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets.formatting.formatting import LazyRow

from ..utils.errors import InputError, listed, some_rows
from .absent import absent_from_runs
from .kernels import run_spans


@dataclass(frozen=True, eq=False)
class Rows:
    """The trajectories of a batch of rows, whatever kind of batch it was.

    Args:
        values (`np.ndarray`): float32 `(L, B)`, epoch-major, of the B rows that have one.
        present (`np.ndarray`): bool, which rows have one.
        single (`bool`): Whether the batch is one row, not a batch of them.
    """

    values: np.ndarray
    present: np.ndarray
    single: bool

    def not_finite(self, column: str, lengths: Sequence[int]) -> InputError:
        bad = ~np.isfinite(self.values)
        for gone, (start, stop) in zip(absent_from_runs(self.values, lengths), run_spans(lengths)):
            bad[start:stop, gone] = False
        t = int(np.flatnonzero(bad.any(axis=1))[0])
        where = np.flatnonzero(self.present)[np.flatnonzero(bad[t])]
        return InputError(
            f"column {column!r} has {len(where)} values that are not finite at checkpoint {t} (rows "
            f"{some_rows(where)} of the batch): record again with a lower learning rate, or leave these rows out"
        )

    def with_columns(self, batch: Any, columns: Mapping[str, np.ndarray]) -> Any:
        """Adds columns to the batch: null where there is no number, and float32 even if there is none at all.

        `datasets` takes a column's type from the first values that it writes, and `None` has no type. So a list with
        `None` tells Arrow its type, and a row of `Dataset.map`, which may hold Arrow arrays of one value, gets a null
        of that type.

        Args:
            batch (`Mapping`, `pyarrow.Table`, or frame of pandas or polars): The batch.
            columns (`Mapping[str, np.ndarray]`): float32 `(B,)`, of the rows that have a trajectory; NaN for none.
        """
        wide = {}
        for column, values in columns.items():
            wide[column] = np.full(len(self.present), np.nan, dtype=np.float32)
            wide[column][self.present] = values
        if isinstance(batch, pa.Table):
            for column, full in wide.items():
                stored = pa.array(full, mask=np.isnan(full))
                there = column in batch.column_names
                at = batch.column_names.index(column) if there else batch.num_columns
                batch = (batch.set_column if there else batch.add_column)(at, column, stored)
            return batch
        if isinstance(batch, pd.DataFrame):
            return batch.assign(**{name: pd.arrays.FloatingArray(full, np.isnan(full)) for name, full in wide.items()})
        if not isinstance(batch, Mapping):
            import polars

            return batch.with_columns(
                *(polars.Series(name, pa.array(full, mask=np.isnan(full))) for name, full in wide.items())
            )
        return {name: self._of_mapping(batch, full) for name, full in wide.items()}

    def _of_mapping(self, batch: Mapping[str, Any], full: np.ndarray) -> Any:
        none = np.isnan(full)
        if self.single:
            nothing = pa.nulls(1, pa.float32()) if isinstance(batch, LazyRow) else None
            return nothing if none[0] else full[0]
        return Numbers(None if gone else value for value, gone in zip(full, none)) if none.any() else full


class Numbers(list[Any]):
    """Numbers, some of them missing: a list that Arrow reads as float32 even if all of it is `None`."""

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        return pa.array(list(self), type or pa.float32())


ARROW = (pa.Array, pa.ChunkedArray)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def read_rows(batch: Any, column: str, length: int, fix: str | None = None) -> Rows:
    """Reads a trajectory column of a row or a batch of rows of any kind.

    Args:
        batch (`Mapping`, `pyarrow.Table`, or frame of pandas or polars): A row or a batch of rows.
        column (`str`): The column.
        length (`int`): The length that its trajectories must have.
        fix (`str`, *optional*): What to do where there is no such column.

    Returns:
        [`Rows`]

    Raises:
        InputError: if there is no such column, or for trajectories of another length.
    """
    if not isinstance(batch, Mapping | pa.Table) and type(batch).__name__ != "DataFrame":
        raise InputError(
            f"a scorer got a {type(batch).__name__}, not rows of a dataset: give it to map, scored.map(scorer, "
            "batched=True), or call it with a batch such as scored[:100]"
        )
    if column not in columns_of(batch):
        fix = fix or "attach the recorded losses first, scored = run.attach(dataset)"
        raise InputError(f"no column {column!r} in the dataset, which has {listed(columns_of(batch), most=20)}: {fix}")
    stored = on_host(batch[column])
    if isinstance(stored, ARROW):
        return _read_arrow(stored, column, length)
    if isinstance(stored, np.ndarray) and stored.dtype != object:
        table = stored.reshape(1, -1) if stored.ndim == 1 else stored
        _check_length(table.shape[1:], length, column, 0)
        values = np.ascontiguousarray(table.T, dtype=np.float32)
        return Rows(values, np.ones(len(table), dtype=bool), stored.ndim == 1)
    if stored is None or (isinstance(stored, Sequence) and len(stored) and np.isscalar(stored[0])):
        rows, single = [stored], True
    else:
        rows, single = list(stored), False
    # pandas has NaN or NA for a null.
    present = np.array([row is not None and row is not pd.NA and not np.isscalar(row) for row in rows], dtype=bool)
    kept = [np.asarray(on_host(row), dtype=np.float32) for row, here in zip(rows, present) if here]
    for row, values in zip(np.flatnonzero(present), kept):
        _check_length(values.shape, length, column, int(row))
    table = np.stack(kept, axis=1) if kept else np.empty((length, 0), dtype=np.float32)
    return Rows(table, present, single)


def on_host(stored: Any) -> Any:
    # Told by their names, so that scoring needs neither: a worker that maps rows may have none.
    if type(stored).__module__ == "torch":
        return stored.cpu().numpy()[()]
    return stored.to_arrow() if type(stored).__module__.startswith("polars.") else stored


def _read_arrow(stored: pa.Array | pa.ChunkedArray, column: str, length: int) -> Rows:
    chunks = stored.chunks if isinstance(stored, pa.ChunkedArray) else [stored]
    # Ray keeps lists of one length as tensors, an extension type with lists underneath.
    chunks = [chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk for chunk in chunks]
    present = np.concatenate([chunk.is_valid().to_numpy(False) for chunk in chunks] or [np.empty(0, dtype=bool)])
    kept, row = [], 0
    for chunk in chunks:
        if not pa.types.is_null(chunk.type) and chunk.null_count < len(chunk):
            if not any(is_list(chunk.type) for is_list in _LISTS):
                raise InputError(f"column {column!r} holds {chunk.type}, not lists of numbers: name another column")
            sizes = pc.list_value_length(chunk).fill_null(-1).to_numpy(False)
            for wrong in np.flatnonzero((sizes >= 0) & (sizes != length))[:1]:
                _check_length((int(sizes[wrong]),), length, column, row + int(wrong))
            flat = pc.list_flatten(chunk).to_numpy(False)
            kept.append(np.asarray(flat, dtype=np.float32).reshape(-1, length).T)
        row += len(chunk)
    table = np.ascontiguousarray(np.concatenate(kept, axis=1)) if kept else np.empty((length, 0), np.float32)
    return Rows(table, present, False)


def _check_length(shape: tuple[int, ...], length: int, column: str, row: int) -> None:
    if shape != (length,):
        found = shape[0] if len(shape) == 1 else list(shape)
        raise InputError(
            f"column {column!r} has a trajectory of length {found} (row {row} of the batch), the scorer was made from "
            f"one of length {length}: attach the same run, scored = run.attach(dataset)"
        )


def columns_of(batch: Any) -> list[str]:
    if isinstance(batch, pa.Table):
        return batch.column_names
    return [str(column) for column in (batch if isinstance(batch, Mapping) else batch.columns)]
