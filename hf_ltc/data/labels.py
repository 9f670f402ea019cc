"""The columns with images, texts and labels, and the classes of rows, read without decoding an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Image, LargeList, List, Value

from ..utils.errors import InputError, listed
from .columns import rank_name, read_column


def find_image_column(dataset: Dataset, name: str | None = None) -> str:
    """Finds the column with the images, by its feature type `Image`.

    A column of encoded files, as bytes or as structs of bytes and path, which other tools write into Parquet files, is
    taken as images only if the caller names it.

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


@dataclass(frozen=True)
class InputColumns:
    """The columns that models get their inputs from: one of images, or one of texts, or two of pairs of texts."""

    image: str | None = None
    text: str | None = None
    text_pair: str | None = None

    @classmethod
    def of(cls, named: Any) -> Self:
        """Those that settings or a recipe name, as `image_column`, `text_column` and `text_pair_column`."""
        return cls(named.image_column, named.text_column, named.text_pair_column)

    @property
    def names(self) -> list[str]:
        return [name for name in (self.image, self.text, self.text_pair) if name is not None]

    @property
    def texts(self) -> list[str]:
        return [name for name in (self.text, self.text_pair) if name is not None]

    def told(self) -> dict[str, str]:
        """For a recipe: what [`of`] reads."""
        named = {"image_column": self.image, "text_column": self.text, "text_pair_column": self.text_pair}
        return {key: name for key, name in named.items() if name is not None}


def find_input_columns(dataset: Dataset, named: InputColumns | None = None) -> InputColumns:
    """Finds the columns that models get their inputs from.

    Images are found by the type of their feature. Texts have to be named, since a column of strings may hold anything.

    Args:
        dataset (`datasets.Dataset`): The dataset.
        named ([`InputColumns`], *optional*): Those that the caller knows.

    Raises:
        InputError: if there is no such column, or it holds something else; if images and texts are named.
    """
    named = named or InputColumns()
    texts = [column for column, feature in dataset.features.items() if _is_text(feature)]
    if named.text is None:
        if named.text_pair is not None:
            raise InputError(f"`text_pair_column` {named.text_pair!r} has second texts: give `text_column` too")
        known = any(isinstance(feature, Image) or _may_be_images(feature) for feature in dataset.features.values())
        if named.image is None and texts and not known:
            raise InputError(
                "no column of type Image in the dataset: name the one that holds the texts with `text_column`"
                f"{_candidates(texts)}, or cast a column of image files with dataset.cast_column(NAME, "
                "datasets.Image())"
            )
        return InputColumns(image=find_image_column(dataset, named.image))
    if named.image is not None:
        raise InputError(
            f"`image_column` {named.image!r} and `text_column` {named.text!r} are both given: a model takes images or "
            "texts, so leave one out"
        )
    for option, name in (("`text_column`", named.text), ("`text_pair_column`", named.text_pair)):
        if name is None:
            continue
        _require_column(dataset, name, option)
        if name not in texts:
            raise InputError(
                f"column {name!r} holds {_shown(dataset.features[name])}, not texts: choose another {option}"
                f"{_candidates(texts)}"
            )
    if named.text == named.text_pair:
        raise InputError(f"`text_column` and `text_pair_column` are both {named.text!r}: give two columns, or one")
    return named


def same_columns(dataset: Dataset, columns: InputColumns) -> InputColumns:
    """The columns of another split: of the same names, or its one column of images."""
    renamed = columns.image is not None and columns.image not in dataset.column_names
    return find_input_columns(dataset, InputColumns() if renamed else columns)


def find_label_column(
    dataset: Dataset, name: str | None = None, option: str = "label_column", inputs: Sequence[str] = ()
) -> str:
    """Finds the column with the class labels, by its feature type `ClassLabel`.

    A column of strings, integers or booleans is taken as class labels only if the caller names it, since it may hold
    anything.

    Args:
        dataset (`datasets.Dataset`): The dataset.
        name (`str`, *optional*): The column, if the caller knows it.
        option (`str`, *optional*, defaults to `"label_column"`): The parameter that names it, for messages.
        inputs (`Sequence[str]`, *optional*): Columns that hold something else, which no message proposes.

    Returns:
        `str`: the name of a column that [`read_labels`] can read.

    Raises:
        InputError: if there is no such column, none of that type, or several and no name.
    """
    found = [column for column, feature in dataset.features.items() if isinstance(feature, ClassLabel)]
    if name is None:
        # Ranks are integers too.
        others = {*inputs, *(rank_name(column) for column in dataset.column_names)}
        castable = [c for c, feature in dataset.features.items() if _is_castable(feature) and c not in others]
        if not found and castable:
            raise InputError(
                f"no column of type ClassLabel in the dataset: name the one that holds the classes with "
                f"`label_column`{_candidates(castable)} or cast it with dataset.class_encode_column({castable[0]!r})"
            )
        return _only_one(dataset, found, "label", "ClassLabel")
    _require_column(dataset, name, f"`{option}`")
    if isinstance(dataset.features[name], List | LargeList):
        raise InputError(
            f"column {name!r} holds lists, as multi-label columns do, and each row has one class: choose another "
            f"`{option}`{_candidates(found)}"
        )
    if name not in found and not _is_castable(dataset.features[name]):
        raise InputError(
            f"column {name!r} holds {_shown(dataset.features[name])}, not class labels: choose another "
            f"`{option}`{_candidates(found)} or cast it to datasets.ClassLabel"
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


def read_labels(
    dataset: Dataset, label_column: str, names: Sequence[str] | None = None, option: str = "label_column"
) -> np.ndarray:
    """Reads the class of every row, in the dataset's row order, as stored: no image is decoded.

    Args:
        dataset (`datasets.Dataset`): The dataset; shuffled, selected and formatted ones included.
        label_column (`str`): A column of `ClassLabel`, strings, integers or booleans.
        names (`Sequence[str]`, *optional*):
            The classes in the order of their numbers, e.g. [`class_names`] of the train split for the labels of a
            validation split, which may lack some of them; those of this dataset if not given.
        option (`str`, *optional*, defaults to `"label_column"`): The parameter that names it, for messages.

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
            f"({shown}): leave them out with dataset.filter, fix their labels, or choose another `{option}`"
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


def _may_be_images(feature: Any) -> bool:
    content = feature.get("bytes") if isinstance(feature, dict) else feature
    return isinstance(content, Value) and "binary" in content.dtype


def _is_text(feature: Any) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _is_castable(feature: Any) -> bool:
    return _is_text(feature) or (isinstance(feature, Value) and (feature.dtype == "bool" or "int" in feature.dtype))


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
