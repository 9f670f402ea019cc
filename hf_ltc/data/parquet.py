"""Parquet files of a dataset, one at a time, that all readers can read."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, LargeList, List
from datasets.features.features import require_storage_embed
from datasets.table import embed_table_storage, table_cast
from datasets.utils.py_utils import convert_file_size_to_int

from ..utils.errors import InputError
from .columns import without_null_lengths

# Of small row groups: readers of the first rows read few rows more.
_ROW_GROUP_BYTES = 2**22


def parquet_shards(
    dataset: Dataset,
    folder: Path,
    split: str,
    *,
    max_shard_size: int | str = "500MB",
    cuts: Sequence[int] = (),
    small_groups: bool = False,
) -> Iterator[tuple[str, Path]]:
    """Writes a split as Parquet files, one at a time, so that each can be sent and deleted before the next.

    Images and the like are embedded in the files. Of the paths that they came from only the file name is kept.

    Args:
        dataset (`datasets.Dataset`): The rows.
        folder (`Path`): A folder for the files.
        split (`str`): The split, which begins their names.
        max_shard_size (`int` or `str`, *optional*, defaults to `"500MB"`): About the size of a file at most.
        cuts (`Sequence[int]`, *optional*): Numbers of rows after which a new file begins, whatever its size.
        small_groups (`bool`, *optional*, defaults to `False`): Row groups of a few megabytes, to read few rows.

    Yields:
        `tuple[str, Path]`: name of the file in its folder, and its path.
    """
    stored = dataset.with_format(None)
    bytes_a_row = max(1.0, stored._estimate_nbytes() / max(1, len(stored)))
    rows = max(1, int(size_in_bytes(max_shard_size) / bytes_a_row))
    bounds = shard_bounds(len(stored), rows, cuts)
    features = _readable(stored)
    groups = max(1, int(_ROW_GROUP_BYTES / bytes_a_row)) if small_groups else None
    decodable = any(require_storage_embed(feature) for feature in stored.features.values())
    for number, (start, stop) in enumerate(bounds):
        shard = stored.select(range(start, stop))
        if decodable or features != stored.features:
            table = table_cast(shard.with_format("arrow")[:], features.arrow_schema)
            for name, feature in features.items():
                if feature != stored.features[name]:
                    at = table.schema.get_field_index(name)
                    table = table.set_column(at, table.schema.field(at), without_null_lengths(table[name]))
            table = embed_table_storage(table)
            info = stored.info.copy()
            info.features = features
            # With a fingerprint given, which else is made of all bytes of the table joined.
            shard = Dataset(table, info=info, split=stored.split, fingerprint=shard._fingerprint)
        name = f"{split}-{number:05d}-of-{len(bounds):05d}.parquet"
        shard.to_parquet(str(folder / name), batch_size=groups)
        yield name, folder / name


def _readable(dataset: Dataset) -> Features:
    """The features with which all readers can read the Parquet files of a dataset.

    pyarrow 25 and older cannot read lists of a fixed size if some of them, or of what holds them, are null. They are
    written as lists of any length, and `load_dataset` casts them to the features in the card.
    """
    return Features(
        {
            name: _any_length(feature)
            if any(_has_null_lists(chunk) for chunk in dataset.data.column(name).chunks)
            else feature
            for name, feature in dataset.features.items()
        }
    )


def _any_length(feature: Any) -> Any:
    if isinstance(feature, dict):
        return {name: _any_length(field) for name, field in feature.items()}
    if isinstance(feature, List):
        return List(_any_length(feature.feature))
    return LargeList(_any_length(feature.feature)) if isinstance(feature, LargeList) else feature


def _has_null_lists(values: pa.Array) -> bool:
    kind = values.type
    if pa.types.is_fixed_size_list(kind) and values.null_count:
        return True
    if pa.types.is_struct(kind):
        return any(
            _has_null_lists(field) or (values.null_count > 0 and _has_fixed_lists(field.type))
            for field in (values.field(i) for i in range(kind.num_fields))
        )
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        # An empty list has nothing of a fixed size either.
        return _has_null_lists(values.flatten()) or (
            not pa.types.is_fixed_size_list(kind) and _has_fixed_lists(kind.value_type)
        )
    return False


def _has_fixed_lists(kind: pa.DataType) -> bool:
    if pa.types.is_fixed_size_list(kind):
        return True
    if pa.types.is_struct(kind):
        return any(_has_fixed_lists(kind.field(i).type) for i in range(kind.num_fields))
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _has_fixed_lists(kind.value_type)


def size_in_bytes(size: int | str) -> int:
    """A size of files such as `500_000_000` or `"500MB"`.

    Raises:
        InputError: for anything else.
    """
    try:
        found = int(convert_file_size_to_int(size))
    except (TypeError, ValueError):
        found = 0
    if found < 1:
        raise InputError(f"`max_shard_size` is {size!r}: it must be a number of bytes, or a text such as '500MB'")
    return found


def shard_bounds(rows: int, most: int, cuts: Sequence[int] = ()) -> list[tuple[int, int]]:
    """Divides rows among files of at most `most` rows, of about equal size between the cuts.

    Args:
        rows (`int`): Number of rows.
        most (`int`): Rows a file.
        cuts (`Sequence[int]`, *optional*): Where a file has to end.

    Returns:
        `list[tuple[int, int]]`: first row and end of each file; one empty file for no rows.
    """
    ends = sorted({cut for cut in cuts if 0 < cut < rows} | {rows})
    bounds: list[tuple[int, int]] = []
    for start, end in zip([0, *ends], ends):
        parts = max(1, math.ceil((end - start) / most))
        steps = [start + (end - start) * part // parts for part in range(parts + 1)]
        bounds += list(pairwise(steps))
    return bounds
