"""What is given in place of a dataset, and how to make one of it."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from datasets import Dataset, IterableDataset, IterableDatasetDict

from .errors import InputError

# By the package that a table is of.
_FRAMES = {"pandas": "from_pandas", "polars": "from_polars", "pyspark": "from_spark"}


def require_dataset(value: Any, name: str) -> None:
    """Checks that what was given is a `datasets.Dataset`: one split, whose rows have numbers.

    Args:
        value: What was given.
        name (`str`): The parameter that it was given as.

    Raises:
        InputError: if it is anything else, saying what it is and how to make a `datasets.Dataset` of it.
    """
    if isinstance(value, Dataset):
        return
    kind = type(value).__name__
    given = "None" if value is None else f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"
    if isinstance(value, type):
        given = f"the class {value.__name__}"
    raise InputError(f"`{name}` is {given}, not a datasets.Dataset: {_made_from(value)}")


def _made_from(value: Any) -> str:
    if isinstance(value, IterableDataset | IterableDatasetDict):
        return "its rows have no numbers, so load it without streaming=True"
    if isinstance(value, Mapping) and any(isinstance(part, Dataset) for part in value.values()):
        return f"give one of its splits ({', '.join(repr(str(key)) for key in value)})"
    if isinstance(value, Mapping):
        return "give datasets.Dataset.from_dict(...) of it" if value else "it is empty"
    if isinstance(value, str | os.PathLike):
        return "give what datasets.load_dataset or datasets.load_from_disk loads from there"
    if isinstance(value, pa.Table):
        return "give datasets.Dataset(...) of it"
    if frame := _FRAMES.get(type(value).__module__.partition(".")[0]):
        return f"give datasets.Dataset.{frame}(...) of it"
    if isinstance(value, Sequence) and value and all(isinstance(row, Mapping) for row in value):
        return "give datasets.Dataset.from_list(...) of it"
    return "give one split, such as datasets.load_dataset(..., split='train'), or make one with Dataset.from_generator"
