"""A dataset's split, columns, labels and hold-out, read without decoding an image."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Image,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)
from datasets.arrow_reader import ReadInstruction
from datasets.exceptions import DatasetGenerationError

from .columns import read_column
from .errors import InputError, listed, one_line
from .localfiles import check_path, check_saved, load_file, load_files
from .paths import expanded, lock_fault

_SAVED_TO_DISK = ("dataset_dict.json", "state.json")


def load_split(
    dataset: str | os.PathLike[str],
    split: str = "train",
    *,
    name: str | None = None,
    revision: str | None = None,
    data_files: str | Sequence[str] | Mapping[str, Any] | None = None,
) -> Dataset:
    """Loads one split of a dataset from the Hub or from disk.

    Args:
        dataset (`str` or `os.PathLike`):
            A Hub id; a folder of `save_to_disk` (of a `Dataset` or a `DatasetDict`); a folder of images with one
            folder a class, inside `train/` and `test/` or not; a folder of Parquet files (`train*`, `test*`); or one
            Parquet file.
        split (`str`, *optional*, defaults to `"train"`): A split or a slice of one, such as `"train[:1000]"`.
        name (`str`, *optional*):
            The configuration, where the dataset has several. A folder of `save_to_disk` and a Parquet file have none,
            and none of theirs is looked for: they may be copies of one that has.
        revision (`str`, *optional*): The Hub revision, likewise.
        data_files (`str`, `Sequence[str]` or `Mapping`, *optional*):
            As in `datasets.load_dataset`, but a name of a file in the folder is no pattern, whatever it looks like.

    Returns:
        `datasets.Dataset`: the rows of the split, in the order stored.

    Raises:
        InputError: if there is no such dataset, configuration or split, or if the Hub cannot be reached.
    """
    given = os.fspath(dataset)
    place = expanded(given)
    # Spark gives folders this suffix too.
    parquet = place.lower().endswith(".parquet") and not os.path.isdir(place)
    saved = data_files is None and any((Path(place) / mark).is_file() for mark in _SAVED_TO_DISK)
    if os.path.isdir(place):
        if not os.listdir(place):
            raise InputError(f"the dataset folder {given!r} is empty: give a folder with a dataset in it")
        # load_dataset takes a dataset's name from the last part of its path, which "." has not.
        place = os.path.abspath(place)
    elif os.path.isfile(place) and not parquet:
        raise InputError(f"the dataset {given!r} is a file but not a .parquet file: give that, a folder or a Hub id")
    elif parquet and not os.path.isfile(place):
        raise InputError(f"no such file: {given!r}: check the path of the dataset")
    elif not place or (not parquet and (place.count("/") > 1 or place.startswith((".", "/")))):
        raise InputError(f"no such dataset: {given!r} is neither a folder nor a Hub id (NAME or OWNER/NAME)")
    if parquet and data_files is not None:
        raise InputError(
            f"`data_files` is {data_files!r}, but the dataset {given!r} is a file itself: give its folder"
        )
    if not saved:
        _check_cache()
    try:
        if saved:
            check_path(place, variables=False)
            loaded: Any = load_from_disk(place)
            if isinstance(loaded, DatasetDict):
                check_saved(place, loaded)
            else:
                loaded = DatasetDict({str(loaded.split or "train"): loaded})
        elif parquet:
            loaded = load_file(place)
        elif os.path.isdir(place):
            loaded = load_files(place, name, revision, data_files)
        else:
            loaded = load_dataset(place, name, revision=revision, data_files=data_files)
    except InputError:
        raise
    except ConnectionError as error:
        raise InputError(
            f"cannot reach the Hub for the dataset {given!r} ({one_line(error)}), and there is no folder of that "
            "name here: check the path or the network"
        ) from error
    except Exception as error:
        # Every file format has a reader of its own, with errors of its own for files that it cannot read.
        reason = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        raise InputError(f"cannot load the dataset {given!r}: {one_line(reason)}") from error
    return _take_split(loaded, split, given)


def _check_cache() -> None:
    """Checks that `datasets` can lock its cache: where the file system refuses, it would wait for ever."""
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        fault = lock_fault(cache)
    except OSError as error:
        fault = error
    if fault is not None:
        raise InputError(
            f"cannot lock files in the cache of datasets, {str(cache)!r} ({fault.strerror or one_line(fault)}): set "
            "HF_DATASETS_CACHE to a folder that you may write to, on a file system that locks files"
        )


def _take_split(loaded: DatasetDict, split: str, place: str) -> Dataset:
    sizes = {str(key): len(rows) for key, rows in loaded.items()}
    have = ", ".join(f"{key} ({size} rows)" for key, size in sizes.items())
    try:
        parts = ReadInstruction.from_spec(split).to_absolute(sizes)
    except (ValueError, AssertionError) as error:
        raise InputError(
            f"no split {split!r} in the dataset {place!r}: it has {have}; a slice is written as in 'train[:1000]'"
        ) from error
    # A part of consecutive rows is a slice of the table: no row is copied and no index is kept.
    taken = [loaded[part.splitname].select(range(part.from_ or 0, part.to)) for part in parts]
    try:
        rows = taken[0] if len(taken) == 1 else concatenate_datasets(taken)
    except ValueError as error:
        raise InputError(
            f"the parts of the split {split!r} of the dataset {place!r} do not go together: {one_line(error)}"
        ) from error
    if len(rows) == 0:
        raise InputError(f"the split {split!r} of the dataset {place!r} has no rows: it has {have}")
    return rows


def find_image_column(dataset: Dataset, name: str | None = None) -> str:
    """Finds the column with the images, by its feature type `Image`.

    A column of files' bytes, alone or in a struct with their path, as other tools write into Parquet files, is taken
    as images only where the caller names it.

    Args:
        dataset (`datasets.Dataset`): The dataset.
        name (`str`, *optional*): The column, if the caller knows it.

    Returns:
        `str`: the name of a column of images.

    Raises:
        InputError: if there is no such column, none of that type, or several and no name.
    """
    found = [column for column, feature in dataset.features.items() if isinstance(feature, Image)]
    bytes_of = [column for column, feature in dataset.features.items() if _may_be_images(feature)]
    if name is None:
        if not found and bytes_of:
            raise InputError(
                "no column of type Image in the dataset: name the one that holds the images with `image_column`"
                f"{_candidates(bytes_of)}"
            )
        return _only_one(dataset, found, "image", "Image")
    _require_column(dataset, name, "`image_column`")
    if name not in found and name not in bytes_of:
        raise InputError(
            f"column {name!r} holds {_shown(dataset.features[name])}, not images: choose another `image_column`"
            f"{_candidates([*found, *bytes_of])} or cast it with dataset.cast_column({name!r}, datasets.Image())"
        )
    return name


def find_label_column(dataset: Dataset, name: str | None = None) -> str:
    """Finds the column with the class labels, by its feature type `ClassLabel`.

    A column of strings, integers or booleans is taken as class labels only where the caller names it, since a column
    of that type may hold anything.

    Args:
        dataset (`datasets.Dataset`): The dataset.
        name (`str`, *optional*): The column, if the caller knows it.

    Returns:
        `str`: the name of a column that [`read_labels`] can read.

    Raises:
        InputError: if there is no such column, none of that type, or several and no name.
    """
    found = [column for column, feature in dataset.features.items() if isinstance(feature, ClassLabel)]
    if name is None:
        if not found and (castable := [c for c, feature in dataset.features.items() if _is_castable(feature)]):
            raise InputError(
                f"no column of type ClassLabel in the dataset: name the one that holds the classes with "
                f"`label_column`{_candidates(castable)} or cast it with dataset.class_encode_column({castable[0]!r})"
            )
        return _only_one(dataset, found, "label", "ClassLabel")
    _require_column(dataset, name, "`label_column`")
    if name not in found and not _is_castable(dataset.features[name]):
        raise InputError(
            f"column {name!r} holds {_shown(dataset.features[name])}, not class labels: choose another "
            f"`label_column`{_candidates(found)} or cast it to datasets.ClassLabel"
        )
    return name


def class_names(dataset: Dataset, label_column: str) -> list[str]:
    """Names of the classes, in the order of the numbers that [`read_labels`] gives them.

    Args:
        dataset (`datasets.Dataset`): The dataset.
        label_column (`str`): A column of `ClassLabel`, strings, integers or booleans.

    Returns:
        `list[str]`: the names of a `ClassLabel`, or the distinct values of the column, sorted (integers by value).

    Raises:
        InputError: if the column cannot hold class labels.
    """
    feature = dataset.features[find_label_column(dataset, label_column)]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    return [str(value) for value in _distinct(read_column(dataset, label_column))]


def read_labels(dataset: Dataset, label_column: str, names: Sequence[str] | None = None) -> np.ndarray:
    """Reads the class of every row, in the dataset's row order, as stored: no image is decoded.

    Args:
        dataset (`datasets.Dataset`): The dataset; shuffled, selected and formatted ones included.
        label_column (`str`): A column of `ClassLabel`, strings, integers or booleans.
        names (`Sequence[str]`, *optional*):
            Classes to number by, e.g. [`class_names`] of the train split for the labels of a validation split, which
            need not have rows of all of them; those of this dataset if not given.

    Returns:
        `np.ndarray`: int64 `(N,)`, numbers from 0 to the number of classes less 1.

    Raises:
        InputError: for a label that is null, -1, out of range or not in `names`, naming the first rows; and, if
            `names` is not given, for rows of fewer than two classes.
    """
    own = class_names(dataset, label_column)
    stored = read_column(dataset, label_column)
    feature = dataset.features[label_column]
    if isinstance(feature, ClassLabel):
        values = stored.cast(pa.int64())
        bad = pc.fill_null(pc.or_(pc.less(values, 0), pc.greater_equal(values, len(own))), True)
    else:
        values = pc.cast(pc.index_in(stored, value_set=pa.array(_distinct(stored), stored.type)), pa.int64())
        bad = pc.is_null(stored)
        if pa.types.is_integer(stored.type):
            bad = pc.or_(bad, pc.fill_null(pc.less(stored, 0), False))
    rows = np.flatnonzero(bad.to_numpy())
    if len(rows):
        shown = listed(rows, lambda row: f"row {row}: {_shown_label(stored[int(row)])}")
        raise InputError(
            f"column {label_column!r} has {_counted(len(rows), 'row')} without one of its {len(own)} classes "
            f"({shown}): leave them out with dataset.filter, or fix their labels"
        )
    labels = values.to_numpy().astype(np.int64)
    if names is not None and list(names) != own:
        number = {name: i for i, name in enumerate(names)}
        if unknown := [own[c] for c in np.unique(labels) if own[c] not in number]:
            raise InputError(
                f"column {label_column!r} has classes that the train rows do not have: "
                f"{listed(unknown)}; they have {listed(names, count='in all')}"
            )
        labels = np.array([number.get(name, -1) for name in own], dtype=np.int64)[labels]
    elif names is None and len(np.unique(labels)) < 2:
        one = f"all {len(labels)} rows are {own[labels[0]]!r}" if len(labels) else "the dataset has no rows"
        raise InputError(f"column {label_column!r} has fewer than two classes: {one}; choose another `label_column`")
    return labels


def hold_out(
    labels: np.ndarray,
    fraction: float = 0.1,
    per_class: int = 50,
    seed: int = 0,
    names: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Holds rows out of every class, as validation samples.

    Of a class with n rows `min(max(round(fraction * n), 1), per_class)` are held out; at least one row stays.

    Args:
        labels (`np.ndarray`): int `(N,)`, the class of every row.
        fraction (`float`, *optional*, defaults to `0.1`): Share of each class, inside (0, 1).
        per_class (`int`, *optional*, defaults to `50`): At most so many rows of a class.
        seed (`int`, *optional*, defaults to `0`): The same seed and labels hold out the same rows on any machine.
        names (`Sequence[str]`, *optional*): Names of the classes, for messages.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: the positions that stay and those held out, int64, each sorted.

    Raises:
        InputError: if a class has fewer than two rows, naming the classes.
    """
    if not 0 < fraction < 1:
        raise InputError(f"`validation_fraction` is {fraction!r}: it must be inside (0, 1)")
    if per_class < 1:
        raise InputError(f"`validation_per_class` is {per_class!r}: it must be 1 or more")
    classes, counts = np.unique(labels, return_counts=True)
    if (small := classes[counts < 2]).size:
        shown = listed([names[c] if names else str(c) for c in small], count="in all")
        raise InputError(
            f"{_counted(small.size, 'class', 'classes')} of fewer than the two rows that holding out needs: {shown}; "
            "give a validation split (`validation`), or leave these rows out"
        )
    # A large fraction of a small class must not take all of its rows.
    wanted = np.minimum(np.clip(np.rint(fraction * counts), 1, per_class), counts - 1)
    # The draws of a bit generator are the same in every numpy release, those of Generator's methods are not.
    order = np.lexsort((np.random.PCG64(seed).random_raw(len(labels)), labels))
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    held = np.zeros(len(labels), dtype=bool)
    held[order[place < np.repeat(wanted, counts)]] = True
    return np.flatnonzero(~held).astype(np.int64), np.flatnonzero(held).astype(np.int64)


def evenly_spaced(n: int, count: int) -> np.ndarray:
    """At most `count` of the positions 0 to n - 1, first and last among them: int64, increasing."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(np.int64)) if n else np.zeros(0, np.int64)


def _may_be_images(feature: Any) -> bool:
    content = feature.get("bytes") if isinstance(feature, dict) else feature
    return isinstance(content, Value) and "binary" in content.dtype


def _is_castable(feature: Any) -> bool:
    return isinstance(feature, Value) and (
        feature.dtype in ("string", "large_string", "bool") or "int" in feature.dtype
    )


def _distinct(values: pa.ChunkedArray) -> list[Any]:
    # Negative numbers mark rows without a label.
    distinct = [value for value in pc.unique(values).to_pylist() if value is not None]
    return sorted(value for value in distinct if isinstance(value, str) or value >= 0)


def _require_column(dataset: Dataset, name: str, option: str) -> None:
    if name not in dataset.column_names:
        raise InputError(f"{option} {name!r}: no such column{_candidates(dataset.column_names, 'it has')}")


def _only_one(dataset: Dataset, found: list[str], what: str, kind: str) -> str:
    if len(found) == 1:
        return found[0]
    option = f"`{what}_column`"
    if found:
        raise InputError(f"several columns of type {kind}: choose one with {option}{_candidates(found)}")
    shown = ", ".join(f"{column} ({_shown(feature)})" for column, feature in dataset.features.items())
    raise InputError(
        f"no column of type {kind} in the dataset, which has {shown or 'no columns'}: cast one to datasets.{kind} and "
        f"name it with {option}"
    )


def _candidates(columns: Sequence[str], lead: str = "one of") -> str:
    return f" ({lead} {', '.join(map(repr, columns))})" if columns else ""


def _shown(feature: Any) -> str:
    return feature.dtype if isinstance(feature, Value) else type(feature).__name__


def _shown_label(value: pa.Scalar) -> str:
    return "null" if value.as_py() is None else repr(value.as_py())


def _counted(n: int, one: str, more: str | None = None) -> str:
    return f"{n} {one if n == 1 else more or one + 's'}"
