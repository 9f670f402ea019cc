"""Recorded losses as columns, one trajectory a row: in datasets and in Parquet files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from ..data.columns import LOSS_TRAJECTORY, TRAJECTORY_SUFFIX, read_column
from ..recipe import Recipe
from ..scores.protocol import RecordedColumns
from ..utils import files
from ..utils.errors import InputError, one_line
from .features import feature_columns, require_features

# In the recipe of Parquet files: epochs, lengths, loss_name.
LAYOUT = "layout"
_CHUNK = 65_536
Column = tuple[Any, Any]


def trajectory_column(table: Any, where: np.ndarray) -> Column:
    """Rows of an epoch-major table as a column of lists, with its feature.

    Not lists of a fixed size: Parquet files in which some of those are null cannot be read by pyarrow 25 and older.

    Args:
        table (`np.ndarray`): float32 `(L, N)`, or read from disk epoch by epoch.
        where (`np.ndarray`): int64 `(R,)`, for each row of the column its place in the table, or -1.

    Returns:
        `tuple[pyarrow.ChunkedArray, FeatureType]`: R lists of L float32, null where `where` is -1.
    """
    table = np.asarray(table)
    kind = pa.list_(pa.float32())
    chunks = []
    # Block by block, so that the table is held twice and not three times.
    step = min(_CHUNK, np.iinfo(np.int32).max // max(1, len(table)))
    for start in range(0, len(where), step):
        here = where[start : start + step]
        known = here >= 0
        block = np.ascontiguousarray(table[:, here[known]].T)
        ends = np.cumsum(known) * len(table)
        # Of a list without values the offset is null where the list is.
        offsets = pa.array(np.append(0, ends).astype(np.int32), mask=np.append(~known, False))
        chunks.append(pa.ListArray.from_arrays(offsets, pa.array(block.reshape(-1)), type=kind))
    return pa.chunked_array(chunks, type=kind), List(Value("float32"))


def to_dataset(run: RecordedColumns, features: bool = False, projection: str | None = None) -> DatasetDict:
    """Splits `train` and `validation` with `row`, `label` and trajectories; ids in a column `id`.

    Args:
        run ([`Trajectories`]): The recording.
        features (`bool`, *optional*, defaults to `False`): Add what the source model's last layer saw of each sample.
        projection (`str`, *optional*): `"pca"` or `"umap"`: add `projection_x` and `projection_y`.
    """
    names = Recipe.from_dict(run.recipe).dataset.names
    label = ClassLabel(names=names) if names else Value("int64")
    everything = np.arange(len(run.rows))
    train: dict[str, Column] = {
        "row": (pa.array(run.rows), Value("int64")),
        "label": (pa.array(run.labels), label),
        LOSS_TRAJECTORY: trajectory_column(run.losses, everything),
    }
    for name, values in run.signals.items():
        train[name + TRAJECTORY_SUFFIX] = trajectory_column(values, everything)
    if run.ids is not None:
        train["id"] = (run.ids, Value(str(run.ids.type)))
    validation: dict[str, Column] = {
        "row": (pa.array(run.validation_rows), Value("int64")),
        "label": (pa.array(run.validation_labels), label),
        LOSS_TRAJECTORY: trajectory_column(run.validation_losses, np.arange(len(run.validation_rows))),
    }
    if features or projection:
        found = require_features(run.features)
        n = len(run.rows)
        held = found.validation if (run.validation_rows < 0).any() else found.of(run.validation_rows)
        both = np.concatenate([found.of(run.rows), held])
        columns = feature_columns(both, np.ones(len(both), dtype=bool), features, projection)
        train |= {name: (values[:n], kind) for name, (values, kind) in columns.items()}
        validation |= {name: (values[n:], kind) for name, (values, kind) in columns.items()}
    return DatasetDict({"train": _dataset(train), "validation": _dataset(validation)})


def read_dataset(
    dataset: DatasetDict, epochs: Sequence[int] | None = None, lengths: Sequence[int] | None = None
) -> dict[str, Any]:
    """Back from what [`to_dataset`] made: the fields of [`Trajectories`] but its recipe, rows increasing.

    Args:
        dataset (`datasets.DatasetDict`): Splits `train` and `validation`.
        epochs (`Sequence[int]`, *optional*): Epoch of each checkpoint; 0, 1, ... if not given.
        lengths (`Sequence[int]`, *optional*): Checkpoints of each run; one run if not given.

    Raises:
        InputError: for a split or column that is missing, a row without a trajectory or with one of another length,
            and rows that occur twice.
    """
    if not isinstance(dataset, Mapping):
        raise InputError(
            f"`dataset` is a {type(dataset).__name__}: give a datasets.DatasetDict with the splits 'train' and "
            "'validation'"
        )
    for split in ("train", "validation"):
        if split not in dataset:
            raise InputError(f"no split {split!r} among {', '.join(dataset)}: trajectories have train and validation")
    train, validation = dataset["train"], dataset["validation"]
    rows = _integers(train, "row")
    order = np.argsort(rows, kind="stable")
    if (repeated := rows[order][1:][np.diff(rows[order]) == 0]).size:
        raise InputError(f"column 'row' has the row {repeated[0]} twice: leave one of them out")
    signals = [name for name in train.column_names if name.endswith(TRAJECTORY_SUFFIX) and name != LOSS_TRAJECTORY]
    losses = by_epoch(train, LOSS_TRAJECTORY)[:, order]
    return {
        "losses": losses,
        "validation_losses": by_epoch(validation, LOSS_TRAJECTORY),
        "labels": _integers(train, "label")[order],
        "validation_labels": _integers(validation, "label"),
        "rows": rows[order],
        "validation_rows": _integers(validation, "row"),
        "epochs": np.arange(len(losses)) if epochs is None else np.asarray(epochs, dtype=np.int64),
        "lengths": (len(losses),) if lengths is None else tuple(lengths),
        "signals": {name.removesuffix(TRAJECTORY_SUFFIX): by_epoch(train, name)[:, order] for name in signals},
        "ids": read_column(train, "id").combine_chunks().take(order) if "id" in train.column_names else None,
    }


def write_parquet(run: RecordedColumns, folder: Path) -> None:
    """Writes `train.parquet`, `validation.parquet` and `recipe.json` into a new or empty folder."""
    files.check_free(folder, lambda _: False)
    for split, rows in to_dataset(run).items():
        with files.replacing(folder / f"{split}.parquet") as temporary:
            rows.to_parquet(temporary)
    layout = {"epochs": run.epochs.tolist(), "lengths": list(run.lengths), "loss_name": run.loss_name}
    files.write_json(folder / files.RECIPE, {**run.recipe, LAYOUT: layout})


def read_parquet(folder: Path) -> tuple[DatasetDict, dict[str, Any]]:
    """Reads what [`write_parquet`] wrote: the splits, and the recipe with the layout in it.

    Raises:
        InputError: for a file that is missing or damaged, naming it.
    """
    recipe = files.read_json(folder / files.RECIPE)
    # Warns at the line that called `Trajectories.from_parquet`.
    Recipe.load(recipe, folder / files.RECIPE, stacklevel=3)
    splits = {}
    for split in ("train", "validation"):
        path = folder / f"{split}.parquet"
        try:
            splits[split] = Dataset(pq.read_table(path))
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"cannot read {str(path)!r} ({one_line(error)}): restore it") from error
    return DatasetDict(splits), recipe


def by_epoch(dataset: Dataset, column: str) -> np.ndarray:
    """A column of lists as a table: float32 `(L, N)`."""
    values = read_column(dataset, column)
    if values.null_count:
        raise InputError(
            f"column {column!r} has {values.null_count} rows without a trajectory: leave them out with dataset.filter"
        )
    lengths = np.unique(pc.list_value_length(values).to_numpy())
    if len(lengths) != 1:
        shown = ", ".join(str(length) for length in lengths)
        raise InputError(f"column {column!r} has trajectories of different lengths ({shown}), or no rows")
    flat = pc.list_flatten(values).to_numpy().astype(np.float32)
    return np.ascontiguousarray(flat.reshape(len(values), -1).T)


def _integers(dataset: Dataset, column: str) -> np.ndarray:
    values = read_column(dataset, column)
    if values.null_count or not pa.types.is_integer(values.type):
        raise InputError(
            f"column {column!r} holds {values.type} with {values.null_count} nulls: it must hold integers"
        )
    return values.cast(pa.int64()).to_numpy()


def _dataset(columns: Mapping[str, Column]) -> Dataset:
    features = Features({name: feature for name, (_, feature) in columns.items()})
    arrays = [values for values, _ in columns.values()]
    return Dataset(pa.table(arrays, schema=features.arrow_schema))
