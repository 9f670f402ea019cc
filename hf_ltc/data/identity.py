"""What tells one dataset from another, so that losses are only attached to the rows that they were recorded on."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Image, Value
from datasets.table import list_table_cache_files

from ..utils.errors import InputError, as_input_error
from .columns import encoded_image, read_column
from .labels import class_names, find_label_column, read_labels
from .splits import evenly_spaced

_SAMPLED_ROWS = 128
# Rows that are read at once where all are.
_COMPARED = 1024
# Where a dataset is kept, which does not make it another one.
WHERE = frozenset({"repo_id", "config", "split", "revision", "path"})
# load_dataset keeps a dataset of the Hub in OWNER___NAME/CONFIG/VERSION/REVISION/FILE; what map made is cache-*.
_CACHED = re.compile(
    r"[\\/]([^\\/]+?)___([^\\/]+)[\\/]([^\\/]+)[\\/][^\\/]+[\\/]([0-9a-f]{40})[\\/](?!cache-)[^\\/]+$"
)


def dataset_identity(
    dataset: Dataset,
    label_column: str | None,
    image_column: str | None = None,
    text_columns: Sequence[str] = (),
    **where: Any,
) -> dict[str, Any]:
    """Identifies a dataset by its rows, features, labels in row order, and bytes of some rows.

    The bytes are those of the encoded images of evenly spaced rows (or of their files, if a row holds only a path).
    Without images, they are those of the columns in `text_columns`, or else of all columns. Nothing is decoded, and
    apart from the labels at most 128 rows are read.

    Args:
        dataset (`datasets.Dataset`): The dataset; shuffled, selected and formatted ones included.
        label_column (`str`, *optional*): The column with the class labels; `None` for rows without classes.
        image_column (`str`, *optional*): A column of images whose type is not `Image`.
        text_columns (`Sequence[str]`, *optional*): The columns with texts that models read, if any.
        **where: What is known about its origin, such as `repo_id`, `config`, `split`, `revision`; `None` is left out.

    Returns:
        `dict[str, Any]`: plain JSON values, the same on any machine.

    Raises:
        InputError: if the labels are bad or a sampled row's file cannot be read.
    """
    return {
        "rows": len(dataset),
        "features": {column: _feature(dataset, column) for column in sorted(dataset.column_names)},
        "label_column": label_column,
        **_label_digests(dataset, label_column),
        "content": {
            column: _content_digest(dataset, column, column == image_column)
            for column in sorted(text_columns) or _content_columns(dataset, label_column, image_column)
        },
        **_origin(dataset),
        **{key: value for key, value in where.items() if value is not None},
    }


def check_identity(
    dataset: Dataset,
    recorded: Mapping[str, Any],
    label_column: str | None = None,
    known: Mapping[str, Any] | None = None,
) -> None:
    """Checks that a dataset is the one that was recorded: the same rows in the same order.

    Only the content of the rows counts. Columns added since (scores, say), formats and transforms do not matter, nor
    do columns that were removed or changed their type, as long as one that was digested is still there with the same
    content. Where a dataset is kept (path, repository) does not matter either.

    Args:
        dataset (`datasets.Dataset`): The dataset at hand.
        recorded (`Mapping[str, Any]`): What [`dataset_identity`] said of the recorded one.
        label_column (`str`, *optional*): The column with the class labels; the recorded one's if not given.
        known (`Mapping[str, Any]`, *optional*):
            What [`dataset_identity`] says of the dataset at hand, if that is known: it is not digested again.

    Raises:
        InputError: if it is another dataset, saying in what it differs.
    """
    fix = "give the dataset as it was recorded (same split, order and labels), or attach by id with `id_column`"
    if len(dataset) != recorded["rows"]:
        how = "filtered, or another split" if len(dataset) < recorded["rows"] else "another split or version"
        raise InputError(
            f"the dataset has {len(dataset)} rows, the recorded one had {recorded['rows']} ({how}?): {fix}"
        )
    if label_column is not None or recorded.get("classes") != 0:
        label_column = find_label_column(dataset, label_column or recorded["label_column"])
    shared = [column for column in recorded["content"] if column in dataset.column_names]
    if not shared:
        raise InputError(
            f"the dataset has none of the recorded columns {', '.join(map(repr, recorded['content']))} to compare "
            f"(it has {', '.join(map(repr, dataset.column_names))}): {fix}"
        )
    known = known or {}
    was_asked = "classes" in known and known.get("label_column") == label_column
    now = known if was_asked else _label_digests(dataset, label_column)

    def content(column: str) -> str:
        image = column == recorded.get("image_column")
        # An image by its name alone is digested in another way than without that name.
        if column in known.get("content", {}) and (not image or isinstance(dataset.features[column], Image)):
            return str(known["content"][column])
        return _content_digest(dataset, column, image)

    changed = [column for column in shared if content(column) != recorded["content"][column]]
    # Rows without a class have neither.
    same_names = now.get("class_names") == recorded.get("class_names")
    same_labels = same_names and now.get("labels") == recorded.get("labels")
    if not changed:
        if not same_names:
            raise InputError(
                f"column {label_column!r} has {now['classes']} classes with other names or in another order than the "
                f"{recorded['classes']} of the recorded dataset, on the same rows (another label column, or "
                f"relabeled?): {fix}"
            )
        if not same_labels:
            raise InputError(
                f"column {label_column!r} has other labels than in the recorded dataset, on the same rows "
                f"(relabeled?): {fix}"
            )
        return
    for column in changed:
        if (kind := _feature(dataset, column)) != (was := recorded["features"][column]):
            raise InputError(
                f"column {column!r} of the dataset is {json.dumps(kind)}, in the recorded one it was "
                f"{json.dumps(was)}: {fix}"
            )
    columns = ", ".join(map(repr, changed))
    if label_column is None:
        problem = f"{columns} differs on the rows compared (shuffled, changed, or another dataset?)"
    elif same_labels:
        problem = f"{columns} differs on the rows compared, though the labels agree (changed or reordered?)"
    elif same_names and now.get("class_counts") == recorded.get("class_counts"):
        problem = f"each class has as many rows, but labels and {columns} are in another order (shuffled?)"
    else:
        problem = f"labels and {columns} both differ from the recorded ones (another dataset or selection?)"
    raise InputError(f"the dataset is not the recorded one: {problem}: {fix}")


def same_rows(one: Dataset, other: Dataset, label_column: str) -> bool:
    """Whether two datasets of the same columns have the same rows, all of them compared as [`dataset_identity`] does.

    Columns of lists and the like count only in a dataset that has neither images nor texts.

    Args:
        one, other (`datasets.Dataset`): The datasets.
        label_column (`str`): The column with the class labels.
    """
    if len(one) != len(other):
        return False
    plain = {name for name, feature in one.features.items() if isinstance(feature, ClassLabel | Image | Value)}
    columns = sorted(plain | {*_content_columns(one, label_column, None)})
    for left in range(0, len(one), _COMPARED):
        rows = np.arange(left, min(left + _COMPARED, len(one)))
        if any(
            _content_digest(one, name, False, rows) != _content_digest(other, name, False, rows) for name in columns
        ):
            return False
    return True


def _label_digests(dataset: Dataset, label_column: str | None) -> dict[str, Any]:
    if label_column is None:
        return {"classes": 0}
    names = class_names(dataset, label_column)
    labels = read_labels(dataset, label_column)
    counts = np.bincount(labels, minlength=len(names))
    return {
        "classes": len(names),
        "class_names": _digest([json.dumps(names).encode()]),
        "class_counts": _digest([counts.astype("<i8").tobytes()]),
        "labels": _digest([labels.astype("<i8").tobytes()]),
    }


def _content_columns(dataset: Dataset, label_column: str | None, image_column: str | None) -> list[str]:
    # Score columns come and go, so what they hold is no mark of a dataset: images are, or text, or what else there is.
    columns = {column: feature for column, feature in dataset.features.items() if column != label_column}
    images = [column for column, feature in columns.items() if isinstance(feature, Image) or column == image_column]
    texts = [column for column, feature in columns.items() if isinstance(feature, Value) and "string" in feature.dtype]
    return sorted(images or texts or columns)


def _content_digest(dataset: Dataset, column: str, images: bool, rows: np.ndarray | None = None) -> str:
    rows = evenly_spaced(len(dataset), _SAMPLED_ROWS) if rows is None else rows
    values = read_column(dataset.with_format(None).select(rows), column)
    # One after another: as Python's bytes all of them would be held once more.
    return _digest(_content(value.as_py(), column, int(row), images) for row, value in zip(rows, values))


def _content(value: Any, column: str, row: int, image: bool) -> bytes:
    if image and not isinstance(value, dict):
        # The same as in a struct, to which the column may be cast.
        value = {"bytes": value, "path": None}
    if isinstance(value, dict) and (value.keys() == {"bytes", "path"} or image):
        with as_input_error(f"row {row}: the file of column {column!r} cannot be read", "restore it", OSError):
            value = encoded_image(value)
        if value is not None:
            return value
    return json.dumps(value, default=lambda other: other.hex() if isinstance(other, bytes) else str(other)).encode()


def _digest(parts: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        # With its length before it, no part can be taken for the end of another.
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()


def _feature(dataset: Dataset, column: str) -> Any:
    described = dataset.features[column]
    if isinstance(described, Image):
        # Whether images are decoded when read is a matter of how the dataset is used.
        described = Image(mode=described.mode)
    if isinstance(described, ClassLabel):
        # The names are in the digest, and may be thousands.
        return {"_type": "ClassLabel", "classes": described.num_classes}
    return json.loads(json.dumps(type(dataset.features)({column: described}).to_dict()[column]))


def cached_origin(dataset: Dataset) -> dict[str, str]:
    """Where `load_dataset` loaded a dataset from, as the place of its files in the cache tells.

    Args:
        dataset (`datasets.Dataset`): Any dataset.

    Returns:
        `dict[str, str]`: `repo_id` (in lower case), `revision`, and `config` where it has a name; empty for a dataset
        that is not from the Hub, or that was changed since it was loaded.
    """
    # Of the rows alone: a selection of them may be in a file of its own.
    files = list_table_cache_files(dataset.data)
    found = {match.groups() if (match := _CACHED.search(file)) else None for file in files}
    if len(found) != 1 or None in found:
        return {}
    ((owner, name, config, revision),) = found  # type: ignore[misc]
    origin = {"repo_id": f"{owner}/{name}", "revision": revision}
    return origin if config == "default" or config.startswith("default-") else {**origin, "config": config}


def _origin(dataset: Dataset) -> dict[str, str]:
    """Repo id, revision, config and split as the dataset itself knows them; never a path of this machine."""
    origin = {"split": str(dataset.split)} if dataset.split else {}
    for url in dataset.info.download_checksums or {}:
        if url.startswith("hf://datasets/") and "@" in url:
            repo, _, rest = url.removeprefix("hf://datasets/").partition("@")
            origin |= {"repo_id": repo, "revision": rest.split("/")[0]}
            if dataset.info.config_name:
                origin["config"] = dataset.info.config_name
            return origin
    return origin | cached_origin(dataset)
