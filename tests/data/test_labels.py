"""Finding columns of images and labels, and reading labels as class numbers."""

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ltc.data.labels import class_names, find_image_column, find_label_column, read_labels
from tests.helpers import error_of


def unreadable(labels: list, feature: object) -> Dataset:
    """Rows whose images cannot be decoded, so that reading anything else fails if it decodes them."""
    images = [{"bytes": b"no image", "path": None} for _ in labels]
    features = Features({"image": Image(), "label": feature})
    table = pa.table(
        [pa.array(images, features["image"].pa_type), pa.array(labels, features.arrow_schema.field("label").type)],
        schema=features.arrow_schema,
    )
    return Dataset(table)


# Columns


def frame(**features: object) -> Dataset:
    return Dataset(
        Features(features).arrow_schema.empty_table(), info=datasets.DatasetInfo(features=Features(features))
    )


def test_columns_are_found_by_type():
    rows = frame(id=Value("int64"), photo=Image(), kind=ClassLabel(names=["a", "b"]), text=Value("string"))
    assert find_image_column(rows) == "photo" and find_label_column(rows) == "kind"
    assert find_image_column(rows, "photo") == "photo" and find_label_column(rows, "kind") == "kind"
    # A named column may hold labels that are not marked as such.
    assert find_label_column(rows, "id") == "id" and find_label_column(rows, "text") == "text"
    assert find_image_column(rows.cast_column("photo", Image(decode=False, mode="L"))) == "photo"


def test_several_candidates():
    rows = frame(front=Image(), back=Image(), coarse=ClassLabel(names=["a", "b"]), fine=ClassLabel(names=["a", "b"]))
    message = error_of(find_image_column, rows)
    assert "`image_column`" in message and "'front', 'back'" in message
    message = error_of(find_label_column, rows)
    assert "`label_column`" in message and "'coarse', 'fine'" in message
    assert find_image_column(rows, "back") == "back" and find_label_column(rows, "fine") == "fine"


def test_no_candidate():
    message = error_of(find_image_column, frame(text=Value("string"), scores=List(Value("float32"))))
    assert "no column of type Image" in message and "text (string), scores (List)" in message
    message = error_of(find_label_column, frame(image=Image(), x=Value("float32"), kind=Value("string")))
    assert "`label_column`" in message and "'kind'" in message and "'x'" not in message
    texts = frame(text=Value("string"), kind=Value("string"))
    message = error_of(find_label_column, texts, inputs=["text"])
    assert "'kind'" in message and "'text'" not in message
    message = error_of(find_label_column, frame(image=Image(), x=Value("float32")))
    assert "no column of type ClassLabel" in message and "x (float32)" in message


def test_a_named_column_that_is_not_there_or_of_no_use():
    rows = frame(image=Image(), x=Value("float32"), label=ClassLabel(names=["a", "b"]))
    for find, option in ((find_image_column, "`image_column`"), (find_label_column, "`label_column`")):
        message = error_of(find, rows, "lable")
        assert f"{option} 'lable'" in message and "'image', 'x', 'label'" in message
    message = error_of(find_image_column, rows, "label")
    assert "'label' holds ClassLabel, not images" in message and "'image'" in message
    message = error_of(find_label_column, rows, "x")
    assert "'x' holds float32, not class labels" in message and "'label'" in message
    assert "'image' holds Image" in error_of(find_label_column, rows, "image")


# Labels


def views(rows: Dataset) -> dict[str, tuple[Dataset, np.ndarray]]:
    """The same rows as a user may hold them, each with the positions of its rows."""

    def refuse(batch):
        raise AssertionError("a transform was applied")

    every = np.arange(len(rows))
    shuffled = rows.with_format(None).add_column("at", every).shuffle(seed=3)
    at = np.asarray(shuffled.select_columns("at")[:]["at"])
    some = [5, 1, 1, 4]
    return {
        "plain": (rows, every),
        "shuffled": (shuffled.remove_columns("at"), at),
        "selected": (rows.select(some), np.array(some)),
        "sliced": (rows.select(range(2, 6)), every[2:6]),
        "with_transform": (rows.with_transform(refuse), every),
        "shuffled with_transform": (shuffled.with_transform(refuse), at),
        "torch": (rows.with_format("torch"), every),
        "numpy": (rows.with_format("numpy"), every),
        "arrow": (rows.with_format("arrow"), every),
        "pandas": (rows.with_format("pandas"), every),
        "torch, one column shown": (rows.with_format("torch", columns=["image"]), every),
        "not decoded": (rows.cast_column("image", Image(decode=False)), every),
    }


LABELS = [2, 0, 1, 1, 0, 2, 2, 0]


@pytest.mark.parametrize("view", list(views(unreadable(LABELS, ClassLabel(names=["a", "b", "c"])))))
def test_labels_of_any_view_without_decoding(view):
    rows, at = views(unreadable(LABELS, ClassLabel(names=["a", "b", "c"])))[view]
    labels = read_labels(rows, "label")
    assert labels.dtype == np.int64 and labels.tolist() == np.array(LABELS)[at].tolist()
    assert class_names(rows, "label") == ["a", "b", "c"]


@settings(deadline=None)
@given(
    st.one_of(
        st.lists(st.text(max_size=3), min_size=2, max_size=30),
        st.lists(st.integers(0, 2**40), min_size=2, max_size=30),
        st.lists(st.booleans(), min_size=2, max_size=30),
    ).filter(lambda values: len(set(values)) > 1)
)
def test_labels_number_the_sorted_distinct_values(values):
    rows = Dataset.from_dict({"label": values})
    names = class_names(rows, "label")
    labels = read_labels(rows, "label")
    assert names == [str(value) for value in sorted(set(values))]
    assert [names[label] for label in labels] == [str(value) for value in values]


@pytest.mark.parametrize("kind", ["large_string", "uint8", "int8", "int32"])
def test_labels_of_other_types(kind):
    rows = Dataset.from_dict({"label": ["7", "3", "7"]}).cast_column("label", Value(kind))
    assert read_labels(rows, "label").tolist() == [1, 0, 1] and class_names(rows, "label") == ["3", "7"]


def test_integer_classes_are_sorted_by_value():
    rows = Dataset.from_dict({"label": [10, 9, 100, 9]})
    assert class_names(rows, "label") == ["9", "10", "100"]


@pytest.mark.parametrize(
    "labels, feature, shown",
    [
        ([0, -1, 1, -1], ClassLabel(names=["a", "b"]), "2 rows without one of its 2 classes (row 1: -1, row 3: -1)"),
        ([0, 1, None], ClassLabel(names=["a", "b"]), "1 row without one of its 2 classes (row 2: null)"),
        ([0, 2, 1], ClassLabel(names=["a", "b"]), "row 1: 2"),
        (["a", None, "b"], Value("string"), "row 1: null"),
        ([4, -1, 5], Value("int64"), "1 row without one of its 2 classes (row 1: -1)"),
        ([4, None, -1, 5], Value("int32"), "row 1: null, row 2: -1"),
        ([True, None, False], Value("bool"), "row 1: null"),
        ([0, 1] + [-1] * 9, ClassLabel(names=["a", "b"]), "row 6: -1, ...)"),
    ],
)
def test_rows_without_a_label_are_named(labels, feature, shown):
    message = error_of(read_labels, unreadable(labels, feature), "label")
    assert "'label'" in message and shown in message and "dataset.filter" in message


def test_rows_are_named_by_their_number_in_the_dataset_given():
    rows = unreadable([0, -1, 1, 1], ClassLabel(names=["a", "b"])).select([3, 2, 1, 0])
    assert "row 2: -1" in error_of(read_labels, rows, "label")


@pytest.mark.parametrize(
    "labels, feature, shown",
    [
        ([1, 1], ClassLabel(names=["a", "b"]), "all 2 rows are 'b'"),
        (["x"], Value("string"), "all 1 rows are 'x'"),
        ([], ClassLabel(names=["a", "b"]), "the dataset has no rows"),
        ([], Value("string"), "the dataset has no rows"),
    ],
)
def test_fewer_than_two_classes(labels, feature, shown):
    message = error_of(read_labels, unreadable(labels, feature), "label")
    assert "fewer than two classes" in message and shown in message


def test_validation_labels_are_numbered_as_the_train_ones():
    train = unreadable(["cat", "dog", "eel"], Value("string"))
    names = class_names(train, "label")
    for labels, feature in (
        (["eel", "cat"], Value("string")),
        ([0, 1], ClassLabel(names=["eel", "cat"])),
        ([2, 0], ClassLabel(names=["cat", "dog", "eel"])),
    ):
        assert read_labels(unreadable(labels, feature), "label", names).tolist() == [2, 0]
    message = error_of(read_labels, unreadable(["cat", "fox"], Value("string")), "label", names)
    assert "'fox'" in message and "'cat', 'dog', 'eel'" in message


@pytest.mark.parametrize("labels, feature", [([1, 1], ClassLabel(names=["a", "b"])), (["b", "b"], Value("string"))])
def test_validation_rows_may_be_of_one_class(labels, feature):
    assert read_labels(unreadable(labels, feature), "label", ["a", "b"]).tolist() == [1, 1]


def test_class_names_are_listed_in_part_where_there_are_many():
    names = [f"class{i}" for i in range(1000)]
    message = error_of(read_labels, unreadable(["x", "y"], Value("string")), "label", names)
    assert "'class4', ... (1000 in all)" in message and "'class5'" not in message
