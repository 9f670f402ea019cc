"""Which rows of a dataset are in another one too, to the byte; images are neither decoded nor kept in memory."""

import hashlib
import json
import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Image, Value

from ..utils.errors import InputError, LTCWarning, listed
from .columns import stored_rows
from .splits import evenly_spaced

# Rows that are looked for: fewer are all looked for, and of more, what is shared is found among these.
_LOOKED_FOR = 2**14
# Likewise of rows held out, which are looked for in every recording.
_HELD_LOOKED_FOR = 2**10
# Some datasets have a few rows twice, and in two splits; of others these are many.
SHARED = 0.05
_END = 64


def check_apart(
    validation: Dataset, train: Dataset, columns: Sequence[tuple[str, str]], *, allow_shared_rows: bool
) -> None:
    """Checks that validation samples are no train rows.

    Args:
        validation (`datasets.Dataset`): The validation samples.
        train (`datasets.Dataset`): The train rows.
        columns (`Sequence[tuple[str, str]]`): As for [`shared_rows`].
        allow_shared_rows (`bool`): Do not check.

    Raises:
        InputError: if some are, saying how many and which.
    """
    if allow_shared_rows:
        return
    samples, rows, looked_for = shared_rows(validation, train, columns)
    if len(samples):
        shown = listed(list(zip(samples, rows)), lambda pair: f"sample {pair[0]} is row {pair[1]}", most=3)
        raise InputError(
            f"{len(samples):,} of {looked_for:,} validation samples are train rows too ({shown}"
            f"), so scores would be measured against memorized rows: give "
            "other validation samples, leave these out, or set `allow_shared_rows` if such rows are expected, like "
            "blank tiles"
        )


def warn_of_copies(
    dataset: Dataset, rows: np.ndarray, held: np.ndarray, columns: Sequence[tuple[str, str]], stacklevel: int
) -> None:
    """Warns where many of the rows held out of a dataset are in it once more, among those that models train on.

    Args:
        dataset (`datasets.Dataset`): The dataset.
        rows (`np.ndarray`): int64, the rows that stay, increasing.
        held (`np.ndarray`): int64, those held out, of which some are looked for.
        columns (`Sequence[tuple[str, str]]`): As for [`shared_rows`]; others than images and texts are not read.
        stacklevel (`int`): Of the line that the warning is of, as seen from the caller.
    """
    cheap = [pair for pair in columns if _is_image_or_text(dataset.features[pair[0]])]
    if not cheap or len(cheap) < len(columns):
        return
    looked_for = held[evenly_spaced(len(held), _HELD_LOOKED_FOR)]
    samples, places, _ = shared_rows(dataset.select(looked_for), dataset.select(rows), cheap)
    if len(samples) > max(1, SHARED * len(looked_for)):
        pairs = list(zip(looked_for[samples].tolist(), rows[places].tolist()))
        warnings.warn(
            f"{len(samples):,} of {len(looked_for):,} rows held out as validation samples are among the train rows "
            f"too ({listed(pairs, lambda pair: f'row {pair[0]} is row {pair[1]}', most=3)}), so scores would be "
            "measured against memorized rows: leave copies out of the dataset, give other `validation` samples, or "
            "set `allow_shared_rows` if such rows are expected, like blank tiles",
            LTCWarning,
            stacklevel=stacklevel + 1,
        )


def _is_image_or_text(feature: Any) -> bool:
    return isinstance(feature, Image) or (
        isinstance(feature, Value) and ("string" in feature.dtype or "binary" in feature.dtype)
    )


def shared_rows(
    dataset: Dataset, other: Dataset, columns: Sequence[tuple[str, str]]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Finds the rows of a dataset that are in another one too: equal in some columns, images by their encoded bytes.

    Only the lengths and last bytes of the other dataset's images are read, and more only where these agree.

    Args:
        dataset (`datasets.Dataset`): The dataset, of which at most 16,384 evenly spaced rows are looked for.
        other (`datasets.Dataset`): The other one.
        columns (`Sequence[tuple[str, str]]`): The columns that tell a row, by their names in the two.

    Returns:
        `tuple[np.ndarray, np.ndarray, int]`: positions of the shared rows, increasing; for each of them the first
        equal row of the other dataset; and how many rows were looked for.
    """
    rows = evenly_spaced(len(dataset), _LOOKED_FOR)
    mine, others = [name for name, _ in columns], [name for _, name in columns]
    # As stored, chunk by chunk: to take rows out would copy their images.
    wanted = np.full(len(dataset), False)
    wanted[rows] = True
    by_ends: dict[tuple[Any, ...], list[tuple[int, list[pa.Array], int]]] = defaultdict(list)
    for positions, chunk in _stored(dataset, mine):
        places = np.flatnonzero((positions >= 0) & wanted[positions])
        for place, ends in zip(places.tolist(), _ends(chunk, [_lengths(array) for array in chunk], places)):
            by_ends[ends].append((int(positions[place]), chunk, place))
    sizes = [np.unique([length for length, _ in column]) for column in zip(*by_ends)]
    likely = set()
    first: dict[bytes, int] = {}
    for positions, chunk in _stored(other, others):
        places, lengths = np.flatnonzero(positions >= 0), [_lengths(array) for array in chunk]
        for known, each in zip(sizes, lengths):
            places = places[np.isin(each[places], known)]
        for place, ends in zip(places.tolist(), _ends(chunk, lengths, places)):
            if ends in by_ends:
                likely.add(ends)
                key, position = _digest(chunk, place), int(positions[place])
                first[key] = min(position, first.get(key, position))
    alike = ((sample, _digest(chunk, place)) for ends in likely for sample, chunk, place in by_ends[ends])
    found = sorted((sample, first[key]) for sample, key in alike if key in first)
    return *np.array(found, dtype=np.int64).reshape(-1, 2).T, len(rows)


def input_columns(train: Dataset, validation: Dataset, *but: str | None) -> list[tuple[str, str]]:
    """The columns of both that tell rows apart: images, or else texts, lists, or whatever there is."""
    features = {
        name: feature
        for name, feature in train.features.items()
        if name in validation.column_names and name not in but and not isinstance(feature, ClassLabel)
    }
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    texts = [name for name, feature in features.items() if isinstance(feature, Value) and "string" in feature.dtype]
    # Beside lists, single numbers are those of a row as a rule.
    lists = [name for name, feature in features.items() if not isinstance(feature, Value)]
    return [(name, name) for name in images or texts or lists or features]


def _stored(dataset: Dataset, columns: Sequence[str]) -> Iterator[tuple[np.ndarray, list[pa.Array]]]:
    """The chunks of columns as stored, with the position that each row has in the dataset, -1 if it has none."""
    table = dataset.data.table.select(list(columns))
    places = np.arange(len(table))
    if (stored := stored_rows(dataset)) is not None:
        places = np.full(len(table), -1)
        # Of a row that was selected several times, the first.
        places[stored[::-1]] = np.arange(len(stored))[::-1]
    start = 0
    for batch in table.to_batches():
        yield places[start : start + len(batch)], batch.columns
        start += len(batch)


def _encoded(array: pa.Array) -> tuple[pa.Array, pa.Array] | None:
    """The encoded bytes of images, and the paths of those that are files; `None` for what is no image."""
    if pa.types.is_struct(array.type) and {field.name for field in array.type} == {"bytes", "path"}:
        return pc.struct_field(array, "bytes"), pc.struct_field(array, "path")
    is_bytes = pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type)
    return (array, pa.nulls(len(array))) if is_bytes else None


def _lengths(array: pa.Array) -> np.ndarray:
    """Bytes of each image, where it is no file of another machine; of other values 0."""
    if (encoded := _encoded(array)) is None:
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            return np.asarray(pc.fill_null(pc.binary_length(array), -1)).astype(np.int64)
        if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
            return np.asarray(pc.fill_null(pc.list_value_length(array), -1)).astype(np.int64)
        return np.zeros(len(array), dtype=np.int64)
    content, paths = encoded
    lengths = np.asarray(pc.fill_null(pc.binary_length(content), -1)).astype(np.int64)
    for place in np.flatnonzero(lengths < 0).tolist():
        lengths[place] = _size(paths[place].as_py())
    return lengths


def _size(path: str | None) -> int:
    try:
        return -1 if path is None else os.stat(path).st_size
    except (OSError, ValueError):
        # In an archive, or on the Hub.
        return -1


def _ends(
    chunk: Sequence[pa.Array], lengths: Sequence[np.ndarray], places: np.ndarray
) -> Iterator[tuple[tuple[int, Any], ...]]:
    """Of each row what tells most apart at little cost: how long it is and how it ends, column by column."""
    return zip(*(_column_ends(array, each, places) for array, each in zip(chunk, lengths)))


def _column_ends(array: pa.Array, lengths: np.ndarray, places: np.ndarray) -> Iterator[tuple[int, Any]]:
    encoded = _encoded(array)
    for place in places.tolist():
        length = int(lengths[place])
        if encoded is None:
            yield length, _value(array[place])
            continue
        content, path = encoded[0][place].as_buffer(), encoded[1][place].as_py()
        if content is not None:
            yield length, content[max(0, length - _END) : length].to_pybytes()
        else:
            yield length, path if length < 0 else _read(path, max(0, length - _END))


def _read(path: Any, start: int = 0) -> Any:
    """A file's bytes from an offset on, or its path if it cannot be read; recording reports such a file."""
    try:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read()
    except OSError:
        return path


def _value(value: pa.Scalar) -> bytes:
    return hashlib.sha256(json.dumps(value.as_py(), default=str).encode()).digest()


def _digest(chunk: Sequence[pa.Array], place: int) -> bytes:
    """What a row holds, in all its columns."""
    parts = []
    for array in chunk:
        if (encoded := _encoded(array)) is None:
            parts.append(_value(array[place]))
            continue
        content, path = encoded[0][place].as_buffer(), encoded[1][place].as_py()
        if content is not None:
            parts.append(hashlib.sha256(content).digest())
        else:
            held = path if _size(path) < 0 else _read(path)
            parts.append(hashlib.sha256(held if isinstance(held, bytes) else repr(held).encode()).digest())
    return b"".join(parts)
