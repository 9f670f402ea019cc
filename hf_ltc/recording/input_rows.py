"""Rows that models trained elsewhere get: of classes, or of language models, as a collator makes inputs of them."""

from dataclasses import dataclass

import numpy as np
import torch
from datasets import ClassLabel, Dataset
from torch import nn

from ..config import RecordConfig
from ..data.labels import class_names, find_label_column
from ..data.shared_rows import input_columns
from ..recipe import TEXT_GENERATION
from ..training.batches import LABELS, Collate, CollatedBatches, accepted_columns
from ..utils.errors import InputError
from .recorder import TRAIN, VALIDATION
from .rows import Part, RecordedRows, recorded_rows, require_rows

_HELD_OUT, _HELD_OUT_OF_ALL = 50, 500
# The columns that language models are trained on, as TRL knows them.
_SEQUENCES = ("messages", "conversations", "prompt", "completion", "text", "input_ids")


@dataclass(frozen=True)
class InputRows:
    """Recorded rows of any kind that a collator makes inputs from.

    `targets` are the labels as the model gets them; they differ from those numbered by class if a column of integers
    leaves some out. `outputs` are these numbers of the model, one for each class.
    """

    recorded: RecordedRows
    targets: np.ndarray
    validation_targets: np.ndarray
    outputs: np.ndarray

    def batches(
        self, collate: Collate, device: torch.device, num_workers: int, model: nn.Module | None
    ) -> dict[str, CollatedBatches]:
        """The rows and the validation samples in batches, of the columns that a model accepts if one is given."""

        def made(dataset: Dataset, targets: np.ndarray) -> CollatedBatches:
            shown = dataset if model is None else accepted_columns(model, dataset)
            return CollatedBatches(shown, torch.from_numpy(targets).to(device), collate, num_workers)

        return {
            TRAIN: made(self.recorded.train, self.targets),
            VALIDATION: made(self.recorded.validation, self.validation_targets),
        }


def input_rows(config: RecordConfig, train: Dataset, validation: Dataset | None) -> InputRows:
    """Reads the labels and holds validation samples out.

    Besides labels, a few rows are read for the identity, and what tells rows of a validation split from train rows.

    Args:
        config ([`RecordConfig`]): The settings; those of models, training and images do not count.
        train (`datasets.Dataset`): The dataset.
        validation (`datasets.Dataset`, *optional*): Validation samples; held out of `train` if not given.

    Raises:
        InputError: for a column or labels that cannot be recorded.
    """
    require_rows(train, validation)
    label = _label_column(train, config.label_column)
    numbers = _model_labels(train, label)
    part, other = Part(train, label), None
    if validation is not None:
        other = Part(validation, _label_column(validation, label if label in validation.column_names else None))
    compared = input_columns(train, train if validation is None else validation, label, config.id_column)
    rows = recorded_rows(part, other, compared, config)
    return InputRows(rows, numbers[rows.labels], numbers[rows.validation_labels], numbers)


def sequence_rows(config: RecordConfig, train: Dataset, validation: Dataset | None) -> RecordedRows:
    """Rows of a causal language model, which have classes only if a column is named as `config.label_column`.

    Args:
        config ([`RecordConfig`]): The settings, as for [`input_rows`].
        train (`datasets.Dataset`): The dataset.
        validation (`datasets.Dataset`, *optional*): Validation samples; held out of `train` if not given.

    Raises:
        InputError: for a column or classes that cannot be recorded.
    """
    require_rows(train, validation)
    label = None if config.label_column is None else find_label_column(train, config.label_column)
    texts = [name for name in _SEQUENCES if name in train.column_names]
    held, other = train if validation is None else validation, None
    shared = [(name, name) for name in texts if name in held.column_names]
    if validation is not None:
        other = Part(validation, label and find_label_column(validation, label), texts=[name for name, _ in shared])
    compared = shared or input_columns(train, held, label, config.id_column)
    rows = recorded_rows(Part(train, label, texts=texts), other, compared, config)
    rows.identity["task"] = TEXT_GENERATION
    return rows


def most_held_out(per_class: int | None, has_classes: bool) -> int:
    """How many rows are held out of a class at most, or of all rows without classes, if that is not said."""
    return (_HELD_OUT if has_classes else _HELD_OUT_OF_ALL) if per_class is None else per_class


def _label_column(dataset: Dataset, name: str | None) -> str:
    known = [column for column in LABELS if column in dataset.column_names]
    return find_label_column(dataset, known[0] if name is None and known else name)


def _model_labels(dataset: Dataset, column: str) -> np.ndarray:
    """The number that the model was given for each class."""
    feature, names = dataset.features[column], class_names(dataset, column)
    if isinstance(feature, ClassLabel):
        return np.arange(len(names))
    if "string" in feature.dtype:
        raise InputError(
            f"column {column!r} holds strings, and how the model numbers them is not known: encode them with "
            f"dataset.class_encode_column({column!r}) and train on that"
        )
    return np.array([{"False": 0, "True": 1}.get(name) if feature.dtype == "bool" else int(name) for name in names])
