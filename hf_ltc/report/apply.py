"""What an audit found, put to use: rows dropped or relabelled in a new dataset, and a list by which that is undone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets

from ..data.columns import read_column, with_columns
from ..data.identity import same_rows
from ..data.inputs import require_dataset
from ..data.labels import class_names, find_label_column, read_labels
from ..recipe import Recipe
from ..trajectories.align import dataset_places
from ..trajectories.value import Trajectories
from ..utils.errors import InputError, require
from .audit import DUPLICATE, ISSUE, KINDS, OK

Way = Literal["drop", "relabel"]
_COLUMNS = ("row", "old_label", "new_label", "reason")


@dataclass(frozen=True)
class Applied:
    """A dataset with what was changed in it.

    Args:
        dataset (`datasets.Dataset`): The new dataset; the one that it was made from stays as it is.
        changes (`datasets.Dataset`): One row for each row that was changed, with `row`, its number in the dataset from
            which the new one was made, `old_label`, `new_label`, null if it was dropped, and `reason`, its kind.
    """

    dataset: Dataset
    changes: Dataset


def apply_audit(
    trajectories: Trajectories,
    dataset: Dataset,
    table: Dataset,
    how: Way,
    *,
    kinds: Sequence[str] = (ISSUE,),
    id_column: str | None = None,
) -> Applied:
    """Drops the rows that an audit found, or corrects their labels, in a new dataset.

    ```python
    table = audit(run, train)
    applied = apply_audit(run, train, table, "relabel")
    applied.changes.to_parquet("changes.parquet")
    same_as_train = undo_audit(applied.dataset, applied.changes)
    ```

    No image is decoded and no row rewritten. Held-out rows, which are not in the audit, are not changed.

    Args:
        trajectories ([`Trajectories`]): The recording.
        dataset (`datasets.Dataset`): The recorded dataset.
        table (`datasets.Dataset`): The result of [`audit`] for both, or some of its rows.
        how (`str`):
            `"drop"` leaves out the rows (of each group of near-duplicates, all except the one with the highest
            `label_quality`); `"relabel"` gives them the suggested label, if it differs from theirs.
        kinds (`Sequence[str]`, *optional*, defaults to `("label issue",)`): The kinds of rows to change.
        id_column (`str`, *optional*): As for [`Trajectories.attach`].

    Returns:
        [`Applied`]

    Raises:
        InputError: for a dataset that was not recorded, a table of another recording, unknown kinds, and missing
            suggested labels.
    """
    require(how in get_args(Way), "how", how, f"one of {', '.join(get_args(Way))}")
    known = [kind for kind in KINDS if kind != OK]
    is_list = not isinstance(kinds, str) and len(kinds) and set(kinds) <= set(known)
    require(is_list, "kinds", kinds, f"a list of {', '.join(known)}")
    frame = (
        table.with_format(None)
        .select_columns(["row", "label", "suggested_label", "label_quality", "near_duplicate_group", "kind"])
        .to_pandas()
    )
    if how == "relabel" and len(frame) and frame["suggested_label"].isna().all():
        raise InputError("no label is suggested: record with `RecordConfig.signals` predicted, or drop the rows")
    chosen = frame["kind"].isin(list(kinds))
    if how == "drop":
        # Of each group one stays, of those that are not dropped for another reason the one whose label is most
        # probably right, and of equals the first.
        rest = frame[~chosen | (frame["kind"] == DUPLICATE)]
        rest = rest.sort_values("label_quality", ascending=False, kind="stable")
        best = rest.index[~rest.duplicated("near_duplicate_group")]
        chosen &= (frame["kind"] != DUPLICATE) | ~frame.index.isin(best)
    else:
        chosen &= frame["suggested_label"].notna() & (frame["suggested_label"] != frame["label"])
    frame = frame[chosen]
    recorded = Recipe.from_dict(trajectories.recipe).dataset
    column = find_label_column(dataset, recorded.label_column)
    names = recorded.names or class_names(dataset, column)
    rows = _rows(trajectories, dataset, frame["row"].to_numpy(dtype=np.int64), id_column)
    order = np.argsort(rows)
    frame, rows = frame.iloc[order], rows[order]
    new = frame["suggested_label"].to_numpy(dtype=np.float64, na_value=np.nan) if how == "relabel" else None
    old = frame["label"].to_numpy(dtype=np.int64)
    if (read_labels(dataset, column, names)[rows] != old).any():
        raise InputError("`table` has other labels than the dataset: give what `audit` made of this recording")
    changes = _changes(names, rows, old, new, frame["kind"].tolist())
    if new is None:
        return Applied(dataset.select(np.setdiff1d(np.arange(len(dataset)), rows)), changes)
    return Applied(_relabelled(dataset, column, rows, new.astype(np.int64), names), changes)


def undo_audit(
    dataset: Dataset, changes: Dataset, source: Dataset | None = None, *, label_column: str | None = None
) -> Dataset:
    """Reverts what [`apply_audit`] changed.

    Args:
        dataset (`datasets.Dataset`): The dataset that it made, with the rows in the same order.
        changes (`datasets.Dataset`): Its list of changes; some label changes may be left out, but no dropped row.
        source (`datasets.Dataset`, *optional*):
            The dataset that rows were dropped from. All rows of both are read, to compare them.
        label_column (`str`, *optional*): Column with the labels; found by its feature type if not given.

    Returns:
        `datasets.Dataset`: the rows and labels as they were.

    Raises:
        InputError: for a table that is no list of changes, changes of another dataset, and dropped rows without
            `source`.
    """
    require_dataset(dataset, "dataset")
    if missing := [name for name in _COLUMNS if name not in changes.column_names]:
        raise InputError(f"`changes` has no column {missing[0]!r}: give the list that `apply_audit` made")
    rows = np.asarray(read_column(changes, "row"), dtype=np.int64)
    old = np.asarray(read_column(changes, "old_label"), dtype=np.int64)
    dropped = read_column(changes, "new_label").null_count
    if not len(rows):
        return dataset
    names, column = changes.features["old_label"].names, find_label_column(dataset, label_column)
    if not dropped:
        new = np.asarray(read_column(changes, "new_label"), dtype=np.int64)
        if rows.max() >= len(dataset) or (read_labels(dataset, column, names)[rows] != new).any():
            raise InputError("`changes` is of another dataset: not all rows have the labels that it gave them")
        return _relabelled(dataset, column, rows, old, names)
    if source is None:
        raise InputError(
            "`changes` has rows that were dropped: give the dataset that they were dropped from as `source`"
        )
    if len(dataset) + len(rows) != len(source) or dataset.features != source.features:
        raise InputError(
            f"`changes` is of another dataset: {len(dataset):,} rows and {len(rows):,} dropped ones are not the "
            f"{len(source):,} of `source`, or have other columns"
        )
    kept = np.setdiff1d(np.arange(len(source)), rows)
    is_other = len(kept) != len(dataset) or (read_labels(source, column, names)[rows] != old).any()
    if is_other or not same_rows(dataset, source.select(kept), column):
        raise InputError("`changes` is of another dataset: `dataset` has not the rows of `source` that it left there")
    order = np.empty(len(source), dtype=np.int64)
    order[kept] = np.arange(len(dataset))
    order[rows] = len(dataset) + np.arange(len(rows))
    return concatenate_datasets([dataset, source.select(rows)]).select(order)


def _rows(run: Trajectories, dataset: Dataset, numbers: np.ndarray, id_column: str | None) -> np.ndarray:
    """Where the rows with these numbers stand in the dataset; of one joined by id some may be gone."""
    at = dataset_places(run, dataset, id_column)
    places = np.searchsorted(run.rows, numbers)
    if (places >= len(run)).any() or (run.rows[np.minimum(places, len(run) - 1)] != numbers).any():
        raise InputError("`table` has rows that were not recorded: give what `audit` made of this recording")
    if gone := int((at[places] < 0).sum()):
        raise InputError(f"{gone} of the rows to change are not in the dataset: give the dataset as it was recorded")
    return at[places]


def _relabelled(dataset: Dataset, column: str, rows: np.ndarray, new: np.ndarray, names: Sequence[str]) -> Dataset:
    """The dataset with other labels in some rows, its columns in their order."""
    feature = dataset.features[column]
    values = read_column(dataset, column).combine_chunks()
    if isinstance(feature, ClassLabel):
        # Its names may be in another order than the recorded classes, or fewer.
        own = {name: number for number, name in enumerate(feature.names)}
        if unknown := [names[number] for number in np.unique(new) if names[number] not in own]:
            raise InputError(
                f"column {column!r} has no class {unknown[0]!r}, a label to be given: cast it to a ClassLabel that has"
            )
        new = np.array([own.get(name, -1) for name in names], dtype=np.int64)[new]
    numbers: Any = pa.array(new) if isinstance(feature, ClassLabel) else pa.array(list(names)).take(pa.array(new))
    mask = np.zeros(len(dataset), dtype=bool)
    mask[rows] = True
    place = np.argsort(rows, kind="stable")
    values = pc.replace_with_mask(values, pa.array(mask), numbers.take(pa.array(place)).cast(values.type))
    return with_columns(dataset, {column: (values, feature)}).select_columns(dataset.column_names)


def _changes(
    names: Sequence[str], rows: np.ndarray, old: np.ndarray, new: np.ndarray | None, reasons: list[str]
) -> Dataset:
    label = ClassLabel(names=list(names))
    features = Features({"row": Value("int64"), "old_label": label, "new_label": label, "reason": Value("string")})
    given = pa.nulls(len(rows), pa.int64()) if new is None else pa.array(new.astype(np.int64))
    arrays = [pa.array(rows), pa.array(old), given, pa.array(reasons, pa.string())]
    return Dataset(pa.table(arrays, schema=features.arrow_schema))
