"""A dataset as it is recorded: which rows can be chosen, which are validation samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from .columns import read_column
from .config import RecordConfig
from .data import class_names, find_image_column, find_label_column, hold_out, read_labels
from .errors import InputError
from .given import require_dataset
from .identity import dataset_identity
from .images import image_size
from .sharedrows import check_apart


@dataclass(frozen=True)
class RecordedDataset:
    """A dataset as it is recorded: which rows can be chosen, which are validation samples."""

    train: Dataset
    validation: Dataset
    image_column: str
    validation_image_column: str
    names: list[str]
    rows: np.ndarray
    labels: np.ndarray
    validation_rows: np.ndarray | None
    validation_labels: np.ndarray
    ids: pa.Array | None
    identity: dict[str, Any]
    validation_identity: dict[str, Any]
    size: int


def recorded_dataset(
    config: RecordConfig, train: Dataset, validation: Dataset | None, source: Mapping[str, Any] | None = None
) -> RecordedDataset:
    """Finds the columns, reads the labels and holds validation samples out; nothing is decoded.

    Raises:
        InputError: for a dataset that cannot be recorded, naming the column, row or class.
    """
    require_dataset(train, "train")
    if validation is not None:
        require_dataset(validation, "validation")
    label_column = find_label_column(train, config.label_column)
    image_column = find_image_column(train, config.image_column)
    names = class_names(train, label_column)
    labels = read_labels(train, label_column)
    where = dict(source or {})
    validation_split = where.pop("validation_split", None)
    identity = dataset_identity(train, label_column, image_column, **where)
    identity |= {"image_column": image_column, "id_column": config.id_column, "names": names}
    ids = None
    if config.id_column is not None:
        ids = read_column(train, config.id_column).combine_chunks()
        if ids.null_count or len(ids.unique()) < len(ids):
            raise InputError(
                f"`id_column` {config.id_column!r} has ids that occur twice or are null: rows need their own"
            )
    size = image_size(train, image_column, config.image_size)
    if validation is not None:
        other_label = find_label_column(validation, config.label_column)
        other_image = find_image_column(validation, config.image_column)
        other = read_labels(validation, other_label, names)
        check_apart(validation, train, [(other_image, image_column)], allow_shared_rows=config.allow_shared_rows)
        return RecordedDataset(
            train=train,
            validation=validation,
            image_column=image_column,
            validation_image_column=other_image,
            names=names,
            rows=np.arange(len(train)),
            labels=labels,
            validation_rows=None,
            validation_labels=other,
            ids=ids,
            identity=identity,
            validation_identity=dataset_identity(validation, other_label, other_image, split=validation_split),
            size=size,
        )
    rows, held = hold_out(
        labels, config.validation_fraction, config.validation_per_class, config.validation_seed, names
    )
    keys = ("validation_fraction", "validation_per_class", "validation_seed")
    plain = train.with_format(None)
    return RecordedDataset(
        train=plain.select(rows),
        validation=plain.select(held),
        image_column=image_column,
        validation_image_column=image_column,
        names=names,
        rows=rows,
        labels=labels[rows],
        validation_rows=held,
        validation_labels=labels[held],
        ids=None if ids is None else ids.take(pa.array(rows)),
        identity=identity,
        validation_identity={"held_out": len(held), **{key: getattr(config, key) for key in keys}},
        size=size,
    )
