"""Rows of any dataset as a collator and a classifier take them: which are recorded, and a pass over them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from accelerate import Accelerator, PartialState
from datasets import ClassLabel, Dataset

from .batches import LABELS
from .columns import read_column
from .data import class_names, find_label_column, hold_out, read_labels
from .errors import InputError
from .given import require_dataset
from .identity import dataset_identity
from .provenance import hardware, versions
from .recording import TrajectoryRecorder
from .sharedrows import check_apart, input_columns


@dataclass(frozen=True)
class RowsToRecord:
    """Which rows of a dataset can be chosen and which are validation samples, with their labels.

    `labels` are numbered by class, `targets` are the numbers that the model was given: they differ where a column of
    integers leaves some out.
    """

    train: Dataset
    validation: Dataset
    rows: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    validation_rows: np.ndarray | None
    validation_labels: np.ndarray
    validation_targets: np.ndarray
    names: list[str]
    ids: pa.Array | None
    identity: dict[str, Any]
    validation_identity: dict[str, Any]

    @property
    def sizes(self) -> dict[str, int]:
        """For the recipe."""
        return {
            "classes": len(self.names),
            "rows": len(self.rows),
            "validation_rows": len(self.validation_labels),
        }

    def recorder(
        self, output_dir: str | Path, losses: Sequence[str], state: Accelerator | PartialState, **recipe: Any
    ) -> TrajectoryRecorder:
        """The recorder of these rows, its recipe with all that is known of them and of the machine."""
        return TrajectoryRecorder(
            output_dir,
            rows=self.rows,
            labels=self.labels,
            validation_rows=self.validation_rows,
            validation_labels=self.validation_labels,
            losses=losses,
            ids=self.ids,
            accelerator=state,
            recipe={
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "dataset": self.identity,
                "validation": self.validation_identity,
                "hardware": hardware(state),
                "versions": versions(),
                **recipe,
            },
        )


def rows_to_record(
    train: Dataset,
    validation: Dataset | None,
    *,
    label_column: str | None = None,
    id_column: str | None = None,
    validation_fraction: float = 0.1,
    validation_per_class: int = 50,
    validation_seed: int = 0,
    allow_shared_rows: bool = False,
) -> RowsToRecord:
    """Reads the labels and holds validation samples out; beside these a few rows are read for the identity, and of
    validation samples that are given what tells that they are no train rows.

    Raises:
        InputError: for a column or labels that cannot be recorded.
    """
    for name, given in (("train", train), ("validation", validation)):
        if name == "train" or given is not None:
            require_dataset(given, name)
    column = _label_column(train, label_column)
    names = class_names(train, column)
    labels = read_labels(train, column)
    values = _targets(train, column, names)
    identity = dataset_identity(train, column) | {"id_column": id_column, "names": names}
    ids = None
    if id_column is not None:
        ids = read_column(train, id_column).combine_chunks()
        if ids.null_count or len(ids.unique()) < len(ids):
            raise InputError(f"`id_column` {id_column!r} has ids that occur twice or are null: rows need their own")
    if validation is not None:
        other = _label_column(validation, column if column in validation.column_names else None)
        number = read_labels(validation, other, names)
        columns = input_columns(train, validation, column, id_column)
        check_apart(validation, train, columns, allow_shared_rows=allow_shared_rows)
        return RowsToRecord(
            train=train,
            validation=validation,
            rows=np.arange(len(train)),
            labels=labels,
            targets=values[labels],
            validation_rows=None,
            validation_labels=number,
            validation_targets=values[number],
            names=names,
            ids=ids,
            identity=identity,
            validation_identity=dataset_identity(validation, other),
        )
    rows, held = hold_out(labels, validation_fraction, validation_per_class, validation_seed, names)
    return RowsToRecord(
        train=train.select(rows),
        validation=train.select(held),
        rows=rows,
        labels=labels[rows],
        targets=values[labels[rows]],
        validation_rows=held,
        validation_labels=labels[held],
        validation_targets=values[labels[held]],
        names=names,
        ids=None if ids is None else ids.take(pa.array(rows)),
        identity=identity,
        validation_identity={
            "held_out": len(held),
            "validation_fraction": validation_fraction,
            "validation_per_class": validation_per_class,
            "validation_seed": validation_seed,
        },
    )


def _label_column(dataset: Dataset, name: str | None) -> str:
    known = [column for column in LABELS if column in dataset.column_names]
    return find_label_column(dataset, known[0] if name is None and known else name)


def _targets(dataset: Dataset, column: str, names: list[str]) -> np.ndarray:
    """The number that the model was given for each class."""
    feature = dataset.features[column]
    if isinstance(feature, ClassLabel):
        return np.arange(len(names))
    if "string" in feature.dtype:
        raise InputError(
            f"column {column!r} holds strings, and how the model numbers them is not known: encode them with "
            f"dataset.class_encode_column({column!r}) and train on that"
        )
    return np.array([{"False": 0, "True": 1}.get(name) if feature.dtype == "bool" else int(name) for name in names])
