"""Loads a split of a dataset from a Hub id, a folder or a file; no part of it is left out silently."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset, load_from_disk
from datasets.arrow_reader import ReadInstruction
from datasets.exceptions import DatasetGenerationError

from ..utils.errors import InputError, one_line
from ..utils.files import expanded, lock_fault
from .local_files import check_path, check_saved, load_file, load_files

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
            folder per class, optionally inside `train/` and `test/`; a folder of Parquet files (`train*`, `test*`); or
            a single Parquet file.
        split (`str`, *optional*, defaults to `"train"`): A split or a slice of one, such as `"train[:1000]"`.
        name (`str`, *optional*):
            The configuration, if the dataset has several. It is ignored for a folder of `save_to_disk` and a Parquet
            file, which have none but may be copies of a dataset that does.
        revision (`str`, *optional*): The Hub revision; ignored likewise.
        data_files (`str`, `Sequence[str]` or `Mapping`, *optional*):
            As in `datasets.load_dataset`, but the name of an existing file in the folder is never read as a pattern.

    Returns:
        `datasets.Dataset`: the rows of the split, in stored order.

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
                # One that was loaded as a slice is called "train[:100]", or "train" alone, which has a name.
                name_of_all = str(loaded.split or "train")
                name_of_split = re.split(r"[^\w.]", name_of_all)[0]
                split = name_of_split if split == name_of_all else split
                loaded = DatasetDict({name_of_split: loaded})
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
    """Checks that `datasets` can lock its cache: where the file system refuses, it would wait forever."""
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
