"""Rows found among the recorded ones by number or by id, and datasets that are not the recorded one."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import DatasetDict

from hf_ltc.utils.errors import InputError
from tests.helpers import refused
from tests.trajectories.recordings import CLASSES, ORDERS, ROWS, assert_attached, dataset, labels_of, make


def relabeled():
    data = dataset()
    return data.remove_columns("label").add_column(
        "label", (labels_of(data) + 1) % CLASSES, feature=data.features["label"]
    )


OTHERS = {
    "shuffled": (lambda: dataset().shuffle(seed=0), r"another order \(shuffled\?\)"),
    "filtered": (lambda: dataset().select(range(50)), r"has 50 rows, the recorded one had 60 \(filtered"),
    "longer": (lambda: dataset(61), "has 61 rows, the recorded one had 60 .another split or version"),
    "relabeled": (relabeled, r"other labels than in the recorded dataset, on the same rows \(relabeled\?\)"),
    "other images": (lambda: dataset(seed=1), "'image' differs on the rows compared, though the labels agree"),
    "without labels": (lambda: dataset().remove_columns("label"), "no such column"),
    "without images": (lambda: dataset().remove_columns("image"), "none of the recorded columns 'image'"),
}


@pytest.mark.parametrize("verb", ["attach", "score"])
@pytest.mark.parametrize("other", OTHERS)
def test_another_dataset_is_refused_saying_in_what(other, verb):
    build, message = OTHERS[other]
    with pytest.raises(InputError, match=message) as error:
        getattr(make(), verb)(build())
    refused(error)


@pytest.mark.parametrize("verb", ["attach", "score"])
def test_only_one_split_is_attached_to(verb):
    with pytest.raises(InputError, match=r"`dataset` is a DatasetDict, not a datasets.Dataset: give one of"):
        getattr(make(), verb)(DatasetDict(train=dataset()))
    with pytest.raises(InputError, match=r"`dataset` is an IterableDataset, not a datasets.Dataset"):
        getattr(make(), verb)(dataset().to_iterable_dataset())


def test_without_an_identity_the_number_of_rows_has_to_do():
    run = make(recipe={})
    assert_attached(run.attach(dataset()), run, range(ROWS))
    with pytest.raises(InputError, match="the dataset has 30 rows, but row 59 was recorded"):
        run.attach(dataset().select(range(30)))


LABELS = {
    "ClassLabel": {},
    "integers": {"label": lambda row, label: 10 * label},
    "texts": {"label": lambda row, label: f"class {label}"},
    "two kinds of classes": {
        "label": None,
        "fine": lambda row, label: 2 * label + row % 2,
        "odd": lambda row, _: row % 2,
    },
}


@pytest.mark.parametrize("kind", LABELS)
def test_without_an_identity_labels_tell_another_order(kind):
    """As of an own loop whose recorder was told nothing of the dataset, which is often one of integer labels."""
    data, labels = dataset(), labels_of(dataset()).tolist()
    for name, value in LABELS[kind].items():
        data = data.remove_columns(name) if name in data.column_names else data
        if value is not None:
            data = data.add_column(name, [value(row, label) for row, label in enumerate(labels)])
            data = data.class_encode_column(name) if kind.startswith("two") else data
    run = make(recipe={})
    assert_attached(run.attach(data), run, range(ROWS))
    said = "another label in column" if kind == "ClassLabel" else "rows of one label in column .* of several classes"
    for other in (data.shuffle(seed=0), data.select(np.argsort(labels, kind="stable"))):
        with pytest.raises(InputError, match=f"{said}.*: give the dataset as it was recorded"):
            run.attach(other)
    # A column that is called otherwise may hold anything.
    named = sorted({"label", *LABELS[kind]} & {*data.column_names})
    plain = data.remove_columns(named).add_column("group", [row % 3 for row in range(ROWS)])
    assert_attached(run.attach(plain), run, range(ROWS))


@pytest.mark.parametrize("order", ORDERS)
def test_with_ids_any_order_and_part_is_attached_to(order):
    data = dataset()
    run = make(data, ids=True)
    number = {key: row for row, key in enumerate(data["key"])}
    changed = ORDERS[order](data)
    assert_attached(run.attach(changed), run, [number[key] for key in changed["key"]])


def test_rows_that_no_one_recorded_get_null_by_id():
    data = dataset()
    run = make(data, ids=True).take_rows(np.array([0, 1, 2]))
    assert_attached(run.attach(data), run, range(ROWS))


def with_keys(keys, kind="string"):
    return dataset().remove_columns("key").add_column("key", pa.array(keys, kind))


BAD_IDS = {
    "twice": (lambda: with_keys(["k001"] * 2 + dataset()["key"][2:]), "'key' has ids that occur twice or are null"),
    "null": (lambda: with_keys([None] + dataset()["key"][1:]), "'key' has ids that occur twice or are null"),
    "unknown": (lambda: with_keys([f"x{i}" for i in range(ROWS)]), "no id of column 'key' was recorded"),
    "another type": (lambda: with_keys(range(ROWS), "int64"), "'key' holds int64, the recorded ids are string"),
    "no column": (lambda: dataset().remove_columns("key"), "no column 'key' in the dataset: it has 'image', 'label'"),
}


@pytest.mark.parametrize("bad", BAD_IDS)
def test_bad_ids_are_refused(bad):
    build, message = BAD_IDS[bad]
    with pytest.raises(InputError, match=message) as error:
        make(ids=True).attach(build())
    refused(error)


def test_labels_are_compared_by_id():
    wrong = relabeled()
    with pytest.raises(
        InputError, match=r"50 rows have another label in column 'label' .*\(rows 0, 1, 2, 3, 5, ...\)"
    ):
        make(ids=True).attach(wrong)


def test_the_id_column_may_have_another_name():
    data = dataset().rename_column("key", "uid").shuffle(seed=0)
    run = make(ids=True)
    with pytest.raises(InputError, match="no column 'key'"):
        run.attach(data)
    number = {key: row for row, key in enumerate(dataset()["key"])}
    assert_attached(run.attach(data, id_column="uid"), run, [number[key] for key in data["uid"]])
    assert "ltc_rank" in run.score(data, id_column="uid").column_names


def test_ids_without_the_name_of_their_column_are_not_taken_for_row_numbers():
    run = make(ids=True, recipe={})
    with pytest.raises(InputError, match=r"rows were recorded by id: .* attach\(..., id_column=...\)"):
        run.attach(dataset())
    assert_attached(run.attach(dataset(), id_column="key"), run, range(ROWS))


def test_without_ids_an_id_column_is_of_no_use():
    with pytest.raises(
        InputError, match=r"no ids were recorded to join column 'key' with: record with `RecordConfig.id_column`"
    ):
        make().attach(dataset(), id_column="key")
