"""Which row of a dataset is which recorded one: by number where it is the recorded dataset, or by id."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Value

from ..data.columns import read_column
from ..data.identity import check_identity
from ..data.inputs import require_dataset
from ..data.labels import find_label_column, read_labels
from ..recipe import Identity, Recipe
from ..utils.errors import InputError, some_rows

# As columns of labels are called.
_LABELS = ("label", "labels", "label_ids")

if TYPE_CHECKING:
    from .summary import LossSummary
    from .value import Trajectories


def row_places(
    run: "Trajectories | LossSummary", dataset: Dataset, id_column: str | None, identity: Mapping[str, Any] | None
) -> np.ndarray:
    """For each row of a dataset its place among the recorded rows, or -1, int64; as [`Trajectories.positions`]."""
    require_dataset(dataset, "dataset")
    recorded = Recipe.from_dict(run.recipe).dataset
    if run.ids is None:
        if id_column is not None:
            raise InputError(
                f"no ids were recorded to join column {id_column!r} with: record with `RecordConfig.id_column`"
            )
        return _by_number(run, dataset, recorded, identity)
    column = id_column or recorded.id_column
    if column is None:
        raise InputError("the rows were recorded by id: name the column with the ids by attach(..., id_column=...)")
    where = _by_id(run, dataset, column)
    if recorded.label_column:
        _check_labels(run, dataset, where, recorded)
    return where


def _by_number(
    run: "Trajectories | LossSummary", dataset: Dataset, recorded: Identity, identity: Mapping[str, Any] | None
) -> np.ndarray:
    if recorded.content:
        check_identity(dataset, recorded.to_dict(), known=identity)
    if len(run.rows) and len(dataset) <= run.rows[-1]:
        raise InputError(
            f"the dataset has {len(dataset)} rows, but row {run.rows[-1]} was recorded: give the dataset as it "
            "was recorded"
        )
    where = np.full(len(dataset), -1, dtype=np.int64)
    where[run.rows] = np.arange(len(run.rows))
    if not recorded.content:
        _check_numbered_labels(run, dataset, where, recorded)
    return where


def _check_numbered_labels(
    run: "Trajectories | LossSummary", dataset: Dataset, where: np.ndarray, recorded: Identity
) -> None:
    """Of losses from elsewhere nothing else tells whether they are of these rows."""
    if recorded.label_column is not None:
        return
    labels = [name for name, feature in dataset.features.items() if isinstance(feature, ClassLabel)]
    if len(labels) == 1:
        _check_labels(run, dataset, where, dataclasses.replace(recorded, label_column=labels[0]))
        return
    # Of several columns one has to tell the classes, and so has one that is called as labels are.
    labels = labels or [name for name in _LABELS if isinstance(dataset.features.get(name), Value)]
    known = np.flatnonzero(where >= 0)
    classes = run.labels[where[known]]
    if labels and not any(_tells(read_column(dataset, name).take(pa.array(known)), classes) for name in labels):
        shown = ", ".join(map(repr, labels))
        raise InputError(
            f"rows of one label in column {shown} were recorded with labels of several classes (shuffled, or another "
            "dataset?): give the dataset as it was recorded"
        )


def _tells(labels: pa.ChunkedArray, classes: np.ndarray) -> bool:
    """Whether rows of one label are all of one class."""
    codes = np.unique(labels.combine_chunks().dictionary_encode().indices.fill_null(-1), return_inverse=True)[1]
    pairs = np.unique(np.stack([codes, classes]), axis=1)
    return pairs.shape[1] == len(np.unique(codes))


def _check_labels(run: "Trajectories | LossSummary", dataset: Dataset, where: np.ndarray, recorded: Identity) -> None:
    column = find_label_column(dataset, recorded.label_column)
    labels = read_labels(dataset, column, recorded.names)
    known = np.flatnonzero(where >= 0)
    wrong = known[labels[known] != run.labels[where[known]]]
    if wrong.size:
        raise InputError(
            f"{wrong.size} rows have another label in column {column!r} than when they were recorded (rows "
            f"{some_rows(wrong)}): give the dataset as it was recorded"
        )


def _by_id(run: "Trajectories | LossSummary", dataset: Dataset, column: str) -> np.ndarray:
    ids = read_column(dataset, column)
    if pc.count_distinct(ids).as_py() < len(ids):
        raise InputError(f"column {column!r} has ids that occur twice or are null: rows are joined by unique ids")
    try:
        found = pc.index_in(ids, value_set=run.ids.cast(ids.type))
    except pa.ArrowInvalid as error:
        raise InputError(f"column {column!r} holds {ids.type}, the recorded ids are {run.ids.type}") from error
    where = np.asarray(pc.fill_null(found, -1).to_numpy(), dtype=np.int64)
    if len(where) and (where < 0).all():
        raise InputError(f"no id of column {column!r} was recorded: give the dataset that was, or its id column")
    return where


def dataset_places(run: "Trajectories | LossSummary", dataset: Dataset, id_column: str | None = None) -> np.ndarray:
    """Where each recorded row stands in a dataset: int64 `(N,)`, -1 for rows that one joined by id has not.

    Args:
        run ([`Trajectories`]): The recording.
        dataset (`datasets.Dataset`): As for [`Trajectories.attach`].
        id_column (`str`, *optional*): Likewise.
    """
    where = row_places(run, dataset, id_column, None)
    places = np.full(len(run.rows), -1)
    there = np.flatnonzero(where >= 0)
    places[where[there]] = there
    return places


def held_out_rows(run: "Trajectories", dataset: Dataset, places: np.ndarray) -> np.ndarray | None:
    """Where the rows that were held out stand in a dataset: int64 `(Q,)`; `None` where nothing tells.

    They have numbers and no ids. So in a dataset joined by id they are known only if its rows stand where they did
    when they were recorded.

    Args:
        run ([`Trajectories`]): The recording.
        dataset (`datasets.Dataset`): As for [`Trajectories.attach`].
        places (`np.ndarray`): From [`dataset_places`].
    """
    held = run.validation_rows
    known = len(held) and held.min() >= 0 and held.max() < len(dataset) and np.array_equal(places, run.rows)
    return held if known else None
