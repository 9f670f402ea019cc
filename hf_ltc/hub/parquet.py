"""What of a coreset is published: names, digests, a recipe without private places, and Parquet files."""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, LargeList, List, Value
from datasets.features.features import require_storage_embed
from datasets.table import embed_table_storage, table_cast
from datasets.utils.py_utils import convert_file_size_to_int

from ..data.columns import LOSS_TRAJECTORY, TRAJECTORY_SUFFIX, any_length, read_column, without_null_lengths
from ..data.labels import read_labels
from ..utils.errors import InputError
from ..utils.files import finite
from .repository_recipe import config_name

# Row groups of a dataset in coreset order: so small that few rows more than asked are read.
_ROW_GROUP_BYTES = 2**22
# Settings that only say where and how fast things ran.
_PRIVATE = {"output_dir", "report_to", "num_workers", "cache_images", "cache_budget", "eval_batch_size"}
# What is said of the data themselves: names of columns and classes may look like anything.
_DATA = {"names", "features", "content", "label_column", "image_column", "id_column"}
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
# An absolute path inside a text; not the path of a URL, whose slashes follow a colon, a slash or a word.
_PATH = re.compile(r"(?<![\w/.:~\\])(?:~|[A-Za-z]:)?[\\/](?:[^\s'\"\\/,;]+[\\/])+([^\s'\"\\/,;]*)")


def scorer_name(score_column: str) -> str:
    """The short name of a scorer: that of its column without `_score`."""
    return score_column.removesuffix("_score")


def check_score_column(score_column: str) -> None:
    """Checks that folders on the Hub can be named by a score.

    Raises:
        InputError: if its name has what is part of paths or patterns.
    """
    if not scorer_name(score_column) or re.search(r"[<>:/\\|?*\[\]\x00-\x1f]", score_column):
        raise InputError(
            f"`score_column` is {score_column!r}: folders on the Hub are named by it, which have none of "
            "< > : / \\ | ? * [ ] in their names: rename the column"
        )


def budget_name(scorer: str, fraction: float | None, size: int | None) -> str:
    """The configuration that holds a coreset, e.g. `coreset-10pct`, `coreset-el2n-500rows`."""
    budget = f"{round(100 * fraction, 6):g}pct" if fraction is not None else f"{size}rows"
    return config_name("coreset", scorer) + f"-{budget}"


def public_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as others may read it: no folder of the machine it was made on, and no token.

    Settings that only say where and how fast things ran are left out, of absolute paths their last part is kept.

    Args:
        recipe (`Mapping[str, Any]`): The recipe of a run, or any other JSON values.

    Returns:
        `dict[str, Any]`: plain JSON values.
    """
    return json.loads(json.dumps(finite(_public(dict(recipe))), default=str))


def _public(value: Any, key: str = "") -> Any:
    if key in _DATA:
        return value
    if isinstance(value, Mapping):
        dropped = _PRIVATE if key == "config" else {"path"} if key in ("dataset", "validation") else set()
        return {name: _public(item, str(name)) for name, item in value.items() if name not in dropped}
    if isinstance(value, list | tuple):
        return [_public(item) for item in value]
    if isinstance(value, Path):
        return value.name
    return without_places(value) if isinstance(value, str) else value


def without_places(text: str) -> str:
    """A text without absolute paths (their last part is left) and without access tokens."""
    text = _TOKEN.sub("hf_***", text)
    # Names of models may have a prefix before the path.
    prefix, colon, rest = text.partition(":")
    if len(prefix) > 1 and colon and "\n" not in text and not rest.startswith("//") and _is_place(rest):
        return prefix + colon + _last(rest)
    text = text.replace("file://", "")
    if "\n" not in text and _is_place(text):
        return _last(text)
    return _PATH.sub(r"\1", text)


def _is_place(text: str) -> bool:
    absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute() or text.startswith("~")
    return absolute and len(text) > 1


def _last(place: str) -> str:
    return re.split(r"[\\/]", place.rstrip("\\/"))[-1]


def user_columns(dataset: Dataset, score_column: str, rank_column: str) -> list[str]:
    """The columns of a coreset: all but the trajectories, and the score and the rank last."""
    added = (score_column, rank_column)
    kept = [c for c in dataset.column_names if c not in added and not _is_trajectory(dataset, c)]
    return [*kept, *added]


def _is_trajectory(dataset: Dataset, column: str) -> bool:
    """Whether a column is a recorded signal: those are as long as the losses in every row, and null where they are."""
    feature = dataset.features[column]
    if not column.endswith(TRAJECTORY_SUFFIX) or not isinstance(feature, List) or feature.feature != Value("float32"):
        return False
    if column == LOSS_TRAJECTORY or LOSS_TRAJECTORY not in dataset.column_names:
        return column == LOSS_TRAJECTORY
    one, other = (pc.list_value_length(dataset.data.column(name)) for name in (column, LOSS_TRAJECTORY))
    return bool(one.equals(other))


def scores_table(
    ranked: Dataset,
    label_column: str,
    score_column: str,
    rank_column: str,
    id_column: str | None = None,
    trajectories: bool = False,
) -> Dataset:
    """All that a coreset of any budget needs beside the rows themselves: one line a row, in the order of the rows.

    Args:
        ranked (`datasets.Dataset`): The scored and ranked dataset.
        label_column (`str`): Its class labels, which become the column `label`.
        score_column (`str`): The score.
        rank_column (`str`): The rank.
        id_column (`str`, *optional*): Unique ids, which become the column `id`.
        trajectories (`bool`, *optional*, defaults to `False`): With the columns of trajectories.

    Returns:
        `datasets.Dataset`: with `row`, `label`, the score and the rank.
    """
    columns: dict[str, tuple[Any, object]] = {
        "row": (pa.array(np.arange(len(ranked), dtype=np.int64)), Value("int64")),
        "label": (read_column(ranked, label_column), ranked.features[label_column]),
    }
    if id_column is not None:
        columns["id"] = (read_column(ranked, id_column), ranked.features[id_column])
    kept = [score_column, rank_column]
    if trajectories:
        kept += [column for column in ranked.column_names if _is_trajectory(ranked, column)]
    columns |= {column: any_length(read_column(ranked, column), ranked.features[column]) for column in kept}
    features = Features({name: feature for name, (_, feature) in columns.items()})
    return Dataset(pa.table([values for values, _ in columns.values()], schema=features.arrow_schema))


def digest(dataset: Dataset, label_column: str, score_column: str, rank_column: str) -> str:
    """Tells a table of labels, scores and ranks from any other, to the bit and in this order; hexadecimal SHA-256."""
    label = dataset.features[label_column]
    names = label.names if isinstance(label, ClassLabel) else None
    scores = read_column(dataset, score_column).cast(pa.float32(), safe=False).to_numpy()
    ranks = read_column(dataset, rank_column).fill_null(-1).to_numpy()
    # One bit pattern for all that is not a number.
    scores = np.where(np.isnan(scores), np.float32("nan"), scores).astype("<f4")
    whole = hashlib.sha256(json.dumps(names).encode())
    for values in (_classes(dataset, label_column), scores, ranks.astype("<i4")):
        whole.update(len(values).to_bytes(8, "little") + values.tobytes())
    return whole.hexdigest()


def features_digest(features: Features) -> str:
    """Tells columns, their types and the names of their classes from any other; hexadecimal SHA-256."""
    return hashlib.sha256(json.dumps([*features.to_dict().items()]).encode()).hexdigest()


def _classes(dataset: Dataset, label_column: str) -> np.ndarray:
    if isinstance(dataset.features[label_column], ClassLabel):
        return read_labels(dataset, label_column).astype("<i8")
    text = json.dumps(read_column(dataset, label_column).to_pylist(), default=str)
    return np.frombuffer(text.encode(), dtype=np.uint8)


def coreset_first(ranked: Dataset, rank_column: str) -> Dataset:
    """The dataset in coreset order; rows without a rank come last, in their order."""
    ranks = read_column(ranked, rank_column).fill_null(np.iinfo(np.int32).max).to_numpy()
    return ranked.select(np.argsort(ranks, kind="stable"))


def parquet_shards(
    dataset: Dataset,
    folder: Path,
    split: str,
    *,
    max_shard_size: int | str = "500MB",
    cuts: Sequence[int] = (),
    small_groups: bool = False,
) -> Iterator[tuple[str, Path]]:
    """Writes a split as Parquet files, one at a time, so that each can be sent and taken away before the next.

    Images and the like are put into the files, and of the paths that they came from only the name is kept.

    Args:
        dataset (`datasets.Dataset`): The rows.
        folder (`Path`): A folder for the files.
        split (`str`): The split, which begins their names.
        max_shard_size (`int` or `str`, *optional*, defaults to `"500MB"`): About the size of a file at most.
        cuts (`Sequence[int]`, *optional*): Numbers of rows after which a new file begins, whatever its size.
        small_groups (`bool`, *optional*, defaults to `False`): Row groups of a few megabytes, for readers of a few.

    Yields:
        `tuple[str, Path]`: name of the file in its folder of the repository, and where it is.
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
    """Features by which all readers can read the Parquet files of a dataset.

    pyarrow 25 and older cannot read lists of a fixed size some of which are null, or are in something that is; as
    lists of any length they are read, and `load_dataset` makes them what the card says.
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
    """Parts `rows` rows into files of `most` rows or fewer, about equal ones between the cuts.

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
