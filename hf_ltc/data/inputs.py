"""What users give in place of datasets, rows, labels and values, checked."""

import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, IterableDataset, IterableDatasetDict

from ..utils.errors import InputError, as_input_error, listed, some_rows

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


# Memory grows with the highest class number, which an id that is taken for one would make it run out of.
_MOST_CLASSES = 2**24


def class_numbers(values: Any, name: str) -> np.ndarray:
    """Labels as class numbers.

    Args:
        values (`np.ndarray`, `torch.Tensor` or `Sequence`): The labels, `(N,)`: integers, booleans or whole floats.
        name (`str`): What they are, for messages.

    Returns:
        `np.ndarray`: int64 `(N,)`, from 0 on.

    Raises:
        InputError: for labels of another shape or kind, naming the first wrong ones.
    """
    given = as_array(values, name)
    if given.ndim != 1:
        raise InputError(
            f"`{name}` has shape {given.shape}: give the class number of each sample (of one-hot rows, "
            ".argmax(axis=1))"
        )
    if given.dtype.kind in "biuf":
        numbers = given.astype(np.float64)
    elif given.dtype.kind == "O":
        numbers = np.array([_number(value) for value in given.tolist()], dtype=np.float64)
    else:
        numbers = np.full(len(given), np.nan)
    wrong = np.flatnonzero(~((numbers >= 0) & (numbers < _MOST_CLASSES) & (numbers == np.floor(numbers))))
    if len(wrong):
        shown = listed(wrong, lambda place: f"sample {place}: {given[[place]].tolist()[0]!r}")
        raise InputError(
            f"{len(wrong)} of {len(given)} values of `{name}` are no class numbers ({shown}): number the "
            "classes from 0 on, and leave out samples without one"
        )
    return numbers.astype(np.int64)


def loss_table(values: Any, name: str) -> np.ndarray:
    """A table of losses or of another per-sample metric: one row a checkpoint, one column a sample.

    Args:
        values (`np.ndarray`, `torch.Tensor` or `Sequence`): The table, `(L, N)`, of any kind of numbers.
        name (`str`): What it is, for messages.

    Returns:
        `np.ndarray`: float32 `(L, N)`; no copy of one that is.

    Raises:
        InputError: for one of other dimensions, or of what are no numbers.
    """
    given = as_array(values, name)
    if given.ndim != 2 or given.dtype.kind not in "iuf":
        raise InputError(
            f"`{name}` has shape {given.shape} and holds {given.dtype}: give a table of numbers, one row a checkpoint "
            "and one column a sample"
        )
    # What is too large for float32 is infinite, which scores refuse, naming epoch and rows.
    with np.errstate(over="ignore"):
        return given.astype(np.float32, copy=False)


def integers(values: Any, name: str) -> np.ndarray:
    """Integers, such as epochs: int64 `(N,)`.

    Raises:
        InputError: for what is of another shape or kind.
    """
    given = as_array(values, name)
    if given.ndim != 1 or (given.dtype.kind not in "iu" and given.size):
        raise InputError(f"`{name}` has shape {given.shape} and holds {given.dtype}: give a list of integers")
    return given.astype(np.int64, copy=False)


def row_numbers(rows: Any, name: str, *, or_count: bool = False) -> tuple[np.ndarray, pa.Array | None]:
    """Numbers of rows that are given by number, by unique ids (and then the ids), or, with `or_count`, by how many.

    Raises:
        InputError: for rows that are neither, naming what is wrong.
    """
    if or_count and isinstance(rows, Integral) and not isinstance(rows, bool):
        if rows < 1:
            raise InputError(f"`{name}` is {rows}: give how many rows there are, or their numbers or ids")
        return np.arange(int(rows)), None
    fix = "give integers, or strings, one for each row"
    with as_input_error(f"`{name}` is no list of row numbers or ids", fix, (TypeError, pa.ArrowException)):
        values = pa.array(as_array(rows, name) if isinstance(rows, np.ndarray) or _is_tensor(rows) else list(rows))
    if pa.types.is_floating(values.type) or pa.types.is_boolean(values.type) or pa.types.is_nested(values.type):
        shown = listed(values, lambda value: repr(value.as_py()))
        raise InputError(f"`{name}` are {values.type} ({shown}, ...): give row numbers, which are integers, or ids")
    if len(values.unique()) < len(values) or values.null_count:
        raise InputError(f"`{name}` has ids that occur twice or are null: each row needs its own")
    if pa.types.is_integer(values.type):
        with as_input_error(f"`{name}` has numbers above int64", "give such ids as strings", pa.ArrowInvalid):
            numbers = values.cast(pa.int64()).to_numpy()
        if len(numbers) and numbers.min() < 0:
            raise InputError(f"`{name}` has the number {numbers.min()}: row numbers start at 0")
        return numbers, None
    return np.arange(len(values), dtype=np.int64), values


def check_apart(rows: np.ndarray, ids: pa.Array | None, held: np.ndarray, held_ids: pa.Array | None) -> None:
    """Checks that no validation sample is a recorded row, where both are given as numbers or both as ids.

    Raises:
        InputError: if some are, naming the first.
    """
    if ids is not None and held_ids is not None:
        known = set(ids.to_pylist())
        both = [key for key in held_ids.to_pylist() if key in known]
        shown = listed(both)
    elif ids is None and held_ids is None:
        both = np.intersect1d(held, rows).tolist()
        shown = some_rows(both)
    else:
        return
    if both:
        raise InputError(
            f"{len(both)} of the {len(held)} validation samples are recorded rows too ({shown}): `validation_rows` "
            "must be other rows than `rows`, or scores would be measured against memorized rows"
        )


def as_array(values: Any, name: str) -> np.ndarray:
    """An array from an array of any framework, or from a sequence.

    Raises:
        InputError: if they make none, as rows of different lengths.
    """
    fix = "give a list, a numpy array or a tensor"
    with as_input_error(f"`{name}` is no array of one value a sample", fix, (TypeError, ValueError)):
        if _is_tensor(values):
            # numpy has no bfloat16.
            plain = values.detach().cpu()
            return (plain.float() if str(plain.dtype) == "torch.bfloat16" else plain).numpy()
        if isinstance(values, np.ma.MaskedArray):
            # What is masked is missing, whatever number lies under the mask.
            return np.array(values.tolist(), dtype=object) if np.ma.is_masked(values) else values.data
        made = np.asarray(values)
        # Of numbers and strings together numpy would make strings of all.
        if isinstance(values, list | tuple) and made.dtype.kind in "US":
            return np.array(values, dtype=object)
        return made


def _number(value: Any) -> float:
    """The number that an object is, if it is one."""
    plain = value.item() if isinstance(value, np.generic) or _is_tensor(value) else value
    return float(plain) if isinstance(plain, int | float) else np.nan


def _is_tensor(value: Any) -> bool:
    """Whether it is a tensor of torch, by the name of its type: callers with arrays need not wait for torch."""
    return type(value).__module__.partition(".")[0] == "torch"
