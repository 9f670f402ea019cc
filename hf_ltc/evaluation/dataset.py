"""The dataset of an evaluation: its candidate rows, its test rows, and checks that these share no rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from ..config import EvaluateConfig
from ..coresets.choose import coreset_size
from ..data.identity import dataset_identity
from ..data.inputs import require_dataset
from ..data.labels import (
    InputColumns,
    class_names,
    find_input_columns,
    find_label_column,
    read_labels,
    same_columns,
)
from ..data.shared_rows import SHARED, shared_rows
from ..recipe import Identity, Recipe
from ..training.images import image_size
from ..training.inputs import check_settings
from ..trajectories.combine import place_rows
from ..trajectories.value import Trajectories
from ..utils.errors import InputError


@dataclass(frozen=True)
class EvaluatedDataset:
    """What all models of an evaluation share: candidate rows, test rows, and the recordings."""

    train: Dataset
    test: Dataset
    columns: InputColumns
    test_columns: InputColumns
    names: list[str]
    rows: np.ndarray
    labels: np.ndarray
    test_labels: np.ndarray
    size: int | None
    train_identity: dict[str, Any]
    test_identity: dict[str, Any]
    sources: dict[str, Trajectories]


def evaluated_dataset(
    config: EvaluateConfig,
    runs: dict[str, Trajectories],
    train: Dataset,
    test: Dataset,
    validation: Dataset | None,
) -> EvaluatedDataset:
    """Finds the columns, reads the labels, and checks that rows are the recorded ones and test rows none of them.

    Raises:
        InputError: for a dataset that cannot be evaluated on, naming the column, row, class or split.
    """
    for name, dataset in (("train", train), ("test", test), ("validation", validation)):
        if name != "validation" or dataset is not None:
            require_dataset(dataset, name)
    recorded = Recipe.from_dict(next(iter(runs.values())).recipe).dataset
    asked = InputColumns.of(config)
    columns = find_input_columns(train, asked if asked.names else InputColumns.of(recorded))
    check_settings(config, columns)
    label_column = find_label_column(train, config.label_column or recorded.label_column)
    names = list(recorded.names or class_names(train, label_column))
    labels = read_labels(train, label_column, names)
    rows, sources = candidate_rows(config, runs, train, labels)
    try:
        test_columns = same_columns(test, columns)
        test_label = find_label_column(test, _if_there(test, label_column))
        test_labels = read_labels(test, test_label, names)
        test_identity = dataset_identity(test, test_label, test_columns.image, test_columns.texts)
    except InputError as error:
        raise InputError(f"test rows: {error}") from error
    for name, run in runs.items():
        if _same_rows(Recipe.from_dict(run.recipe).validation, Identity.from_dict(test_identity)):
            raise InputError(
                f"the test rows are the validation samples of the recording {name!r}, which had a part in the scores: "
                "give other `test` rows"
            )
        if not config.allow_shared_rows and (run.validation_rows < 0).any():
            held, given = len(run.validation_labels), "none" if validation is None else f"{len(validation):,}"
            if given != f"{held:,}":
                raise InputError(
                    f"the {held:,} validation samples of the recording {name!r} are no rows of the recorded dataset, "
                    f"and test rows may be among them: give them too (`validation`; {given} were)"
                    ", or `allow_shared_rows`"
                )
    for what, other in (("the recorded dataset", train), ("the validation samples", validation)):
        if other is not None and not config.allow_shared_rows:
            compared = zip(test_columns.names, same_columns(other, columns).names)
            found, _, looked_for = shared_rows(test, other, list(compared))
            share = len(found) / max(1, looked_for)
            if share > SHARED:
                raise InputError(
                    f"{share:.0%} of the test rows are in {what} too, so they would test memorized rows: give other "
                    "`test` rows, or set `allow_shared_rows` if such rows are expected"
                )
    return EvaluatedDataset(
        train=train.with_format(None).select(rows),
        test=test.with_format(None),
        columns=columns,
        test_columns=test_columns,
        names=names,
        rows=rows,
        labels=labels[rows],
        test_labels=test_labels,
        size=None if columns.image is None else image_size(train, columns.image, config.image_size),
        train_identity=dataset_identity(train, label_column, columns.image, columns.texts),
        test_identity=test_identity,
        sources=sources,
    )


def candidate_rows(
    config: EvaluateConfig, runs: Mapping[str, Trajectories], train: Dataset, labels: np.ndarray
) -> tuple[np.ndarray, dict[str, Trajectories]]:
    """The candidate rows of train, increasing, and the recordings with these as their rows."""
    pool: np.ndarray | None = None
    aligned = {}
    first = next(iter(runs))
    for name, run in runs.items():
        where = run.positions(train, config.id_column if run.ids is not None else None)
        rows = np.flatnonzero(where >= 0)
        places = where[rows]
        as_recorded = np.array_equal(run.rows, rows) and np.array_equal(places, np.arange(len(run)))
        aligned[name] = run if as_recorded else place_rows(run, rows, places)
        if (labels[rows] != aligned[name].labels).any():
            raise InputError(
                f"the recording {name!r} has other labels than the dataset: give the dataset as it was recorded"
            )
        pool = rows if pool is None else pool
        if not np.array_equal(rows, pool):
            raise InputError(
                f"the recordings {first!r} and {name!r} are of different rows ({len(pool)} and {len(rows)}): record "
                "both with the same validation samples (`RecordConfig.validation_seed`, or the same validation split)"
            )
    assert pool is not None
    return pool, aligned


def _if_there(dataset: Dataset, column: str) -> str | None:
    return column if column in dataset.column_names else None


def _same_rows(one: Identity, other: Identity) -> bool:
    return bool(one.content) and (one.rows, one.labels, one.content) == (other.rows, other.labels, other.content)


def subset_size(labels: np.ndarray, fraction: float) -> int:
    """The number of rows of a budget, which must be enough for one of each class."""
    size, classes = coreset_size(len(labels), fraction), len(np.unique(labels))
    if size < classes:
        raise InputError(
            f"`fractions` {fraction:g} of the {len(labels)} candidate rows is {size} rows, fewer than "
            f"the {classes} classes: raise it"
        )
    return size
