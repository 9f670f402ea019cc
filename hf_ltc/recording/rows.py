"""Which rows of a dataset are recorded: the candidate rows and the validation samples, with what is known of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from accelerate import Accelerator
from datasets import Dataset

from ..config import RecordConfig, Store
from ..data.columns import read_column
from ..data.identity import dataset_identity
from ..data.inputs import require_dataset
from ..data.labels import InputColumns, class_names, find_input_columns, find_label_column, read_labels
from ..data.shared_rows import check_apart, warn_of_copies
from ..data.splits import hold_out
from ..recipe import TURN, Recipe
from ..training.images import StoredImages
from ..training.inputs import (
    Batches,
    Form,
    Stored,
    form_of,
    form_told,
    input_batches,
    input_form,
    settled,
    stored_inputs,
)
from ..training.pixels.grey import find_grey_range, recorded_grey_range
from ..training.text.tokens import TokenBatches
from ..utils.environment import hardware, versions
from ..utils.errors import InputError
from ..utils.processes import Processes, progress_bar
from .recorder import TRAIN, VALIDATION, TrajectoryRecorder


@dataclass(frozen=True)
class RecordedRows:
    """The candidate rows and the validation samples of a recording, with their labels, numbered by class."""

    train: Dataset
    validation: Dataset
    names: list[str]
    rows: np.ndarray
    labels: np.ndarray
    validation_rows: np.ndarray | None
    validation_labels: np.ndarray
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

    def recipe(self, state: Processes) -> dict[str, Any]:
        """What a recipe says of these rows and of the machine."""
        return {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "dataset": self.identity,
            "validation": self.validation_identity,
            "hardware": hardware(state),
            "versions": versions(),
        }

    def recorder(
        self,
        output_dir: str | Path,
        losses: Sequence[str],
        state: Processes,
        recipe: Mapping[str, Any],
        store: Store = "trajectories",
    ) -> TrajectoryRecorder:
        """The recorder of these rows."""
        return TrajectoryRecorder(
            output_dir,
            rows=self.rows,
            labels=self.labels,
            validation_rows=self.validation_rows,
            validation_labels=self.validation_labels,
            losses=losses,
            ids=self.ids,
            accelerator=state,
            recipe=recipe,
            store=store,
        )


@dataclass(frozen=True)
class SourceRows:
    """Recorded rows, with what a source model gets of them: images or texts.

    `config` is that of the recording, with what was not given as it is for these inputs.
    """

    config: RecordConfig
    recorded: RecordedRows
    train: Stored
    validation: Stored

    @property
    def form(self) -> Form:
        """What the source model is fitted to."""
        return form_of(self.train)

    def batches(self, config: RecordConfig, state: Accelerator, recipes: Sequence[Recipe]) -> dict[str, Batches]:
        """Reads the inputs, or what is needed to stream them.

        Args:
            config ([`RecordConfig`]): The settings.
            state (`accelerate.Accelerator`): The processes and their devices.
            recipes (`Sequence[Recipe]`): Of recordings of the same rows, for the range of deep images.

        Returns:
            `dict[str, Batches]`: the rows and the validation samples.

        Raises:
            InputError: for an image that cannot be decoded or a text without words, naming the row.
        """
        rows, train, validation = self.recorded, self.train, self.validation
        total = len(rows.train) + len(rows.validation)
        is_image = isinstance(train, StoredImages)
        # Images are looked through for their range, and read.
        what = ("decoding images", "image", 2 * total) if is_image else ("encoding texts", "text", total)
        with progress_bar(state, *what, leave=False) as bar:
            if isinstance(train, StoredImages) and isinstance(validation, StoredImages):
                train, validation = self._in_one_range(train, validation, recipes, bar.update)
            pair = (train, rows.labels), (validation, rows.validation_labels)
            made = input_batches(config, state.device, *pair, "validation samples", bar.update)
        return dict(zip((TRAIN, VALIDATION), made))

    def _in_one_range(
        self,
        train: StoredImages,
        validation: StoredImages,
        recipes: Sequence[Recipe],
        progress: Callable[[int], Any],
    ) -> tuple[StoredImages, StoredImages]:
        """With the range of deep images: that of a recording that is there already, of this seed or another."""
        if (recorded := recorded_grey_range(recipes)) is not None:
            found = recorded.get("grey_range")
        else:
            one, other = ((each.dataset, each.column, each.numbers) for each in (train, validation))
            # Rows held out are of the same column. Those of another split only say what the train rows leave open.
            parts = [[one], [other]] if self.recorded.validation_rows is None else [[one, other]]
            found = next((found for part in parts if (found := find_grey_range(part, progress)) is not None), None)
        return replace(train, grey_range=found), replace(validation, grey_range=found)

    def told(self) -> dict[str, Any]:
        """What a recipe says of the inputs before they are read."""
        return form_told(self.form)


def told_when_read(batches: Mapping[str, Batches], recipes: Sequence[Recipe]) -> dict[str, Any]:
    """What a recipe says of inputs that were read: the range of deep images, or how many texts were cut."""
    train = batches[TRAIN]
    if isinstance(train, TokenBatches):
        return {"truncated": train.tokens.truncated}
    recorded = recorded_grey_range(recipes)
    return {"grey_range": train.stored.grey_range} if recorded is None else recorded


def source_rows(
    config: RecordConfig, train: Dataset, validation: Dataset | None, source: Mapping[str, Any] | None = None
) -> SourceRows:
    """Finds the columns, reads the labels and holds validation samples out; nothing is decoded.

    Args:
        config ([`RecordConfig`]): The settings.
        train (`datasets.Dataset`): The dataset.
        validation (`datasets.Dataset`, *optional*): Validation samples; held out of `train` if not given.
        source (`Mapping[str, Any]`, *optional*): Where they come from, for their identity.

    Raises:
        InputError: for a dataset that cannot be recorded, naming the column, row or class.
    """
    require_rows(train, validation)
    where = dict(source or {})
    validation_split = where.pop("validation_split", None)
    named = InputColumns.of(config)
    label = find_label_column(train, config.label_column, inputs=named.texts)
    columns = find_input_columns(train, named)
    if label in columns.names:
        raise InputError(f"column {label!r} is to be the input and the label: choose another `label_column`")
    config = settled(config, columns)
    assert config.model is not None
    form = input_form(config, train, columns, config.model)
    # Inputs are read as they are stored.
    part, other, other_columns = Part(train.with_format(None), label, columns, where), None, columns
    if validation is not None:
        other_label = find_label_column(validation, config.label_column)
        other_columns = find_input_columns(validation, named)
        other = Part(validation, other_label, other_columns, {"split": validation_split})
    rows = recorded_rows(part, other, list(zip(other_columns.names, columns.names)), config)
    rows.identity.update(columns.told())
    return SourceRows(
        config,
        rows,
        stored_inputs(rows.train, columns, form, rows.rows),
        stored_inputs(rows.validation, other_columns, form, rows.validation_rows),
    )


@dataclass(frozen=True)
class Part:
    """A dataset, its columns, and where it comes from."""

    dataset: Dataset
    label: str | None
    columns: InputColumns = InputColumns()
    where: Mapping[str, Any] = field(default_factory=dict)
    texts: Sequence[str] = ()

    def identity(self) -> dict[str, Any]:
        texts = self.texts or self.columns.texts
        return dataset_identity(self.dataset, self.label, self.columns.image, texts, **self.where)

    def names(self) -> list[str]:
        return [] if self.label is None else class_names(self.dataset, self.label)

    def labels(self, names: Sequence[str] | None = None) -> np.ndarray:
        """The classes by number; rows without are all of one."""
        if self.label is None:
            return np.zeros(len(self.dataset), dtype=np.int64)
        return read_labels(self.dataset, self.label, names)


def require_rows(train: Dataset, validation: Dataset | None) -> None:
    require_dataset(train, "train")
    if validation is not None:
        require_dataset(validation, "validation")


def recorded_rows(
    train: Part, validation: Part | None, compared: Sequence[tuple[str, str]], config: RecordConfig
) -> RecordedRows:
    """The rows of a dataset without those held out, which are warned of if they are there once more; all rows if there
    are `validation` samples, which must be others. Rows are compared by the columns `compared`. Rotated, each seed has
    a hold-out of its own, wherever its run stands."""
    dataset, names, labels = train.dataset, train.names(), train.labels()
    identity = train.identity() | {"id_column": config.id_column, "names": names}
    ids = None if config.id_column is None else _read_ids(dataset, config.id_column)
    if validation is not None:
        other_labels = validation.labels(names)
        check_apart(validation.dataset, dataset, compared, allow_shared_rows=config.allow_shared_rows)
        rows, held = np.arange(len(dataset)), None
        other, other_identity = validation.dataset, validation.identity()
    else:
        fraction, per_class, seed = config.validation_fraction, config.validation_per_class, config.validation_seed
        turn = config.seed if config.rotate_validation else 0
        rows, held = hold_out(labels, fraction, per_class, seed, names or ["the dataset"], turn=turn)
        # Of seeds that hold out other rows, once for all.
        if not config.allow_shared_rows and not (config.rotate_validation and config.runs == 1):
            warn_of_copies(dataset, rows, held, compared, stacklevel=4)
        other, other_labels = dataset.select(held), labels[held]
        other_identity = {
            "held_out": len(held),
            "validation_fraction": fraction,
            "validation_per_class": per_class,
            "validation_seed": seed,
            **({TURN: turn} if config.rotate_validation else {}),
        }
        dataset, ids = dataset.select(rows), None if ids is None else ids.take(pa.array(rows))
    return RecordedRows(
        train=dataset,
        validation=other,
        names=names,
        rows=rows,
        labels=labels[rows],
        validation_rows=held,
        validation_labels=other_labels,
        ids=ids,
        identity=identity,
        validation_identity=other_identity,
    )


def _read_ids(dataset: Dataset, column: str) -> pa.Array:
    ids = read_column(dataset, column).combine_chunks()
    if ids.null_count or len(ids.unique()) < len(ids):
        raise InputError(f"`id_column` {column!r} has ids that occur twice or are null: rows need their own")
    return ids
