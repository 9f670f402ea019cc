"""Telling the recorded dataset from any other."""

import functools
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value, concatenate_datasets
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from hf_ltc.data.columns import read_column
from hf_ltc.data.identity import check_identity, dataset_identity
from hf_ltc.data.load import load_split
from hf_ltc.data.splits import evenly_spaced
from hf_ltc.utils.errors import InputError
from tests.helpers import encoded

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ROWS = 300


@functools.cache
def digits() -> Dataset:
    """Handwritten digits, 8x8 grey PNG files."""
    data = load_digits()
    return Dataset.from_dict(
        {
            "image": [{"bytes": encoded((image * 15).astype(np.uint8)), "path": None} for image in data.images[:ROWS]],
            "label": data.target[:ROWS].tolist(),
            "writer": list(range(ROWS)),
        },
        features=Features({"image": Image(), "label": ClassLabel(names=NAMES), "writer": Value("int64")}),
    )


@functools.cache
def digits_identity() -> dict:
    # As it comes back from the recipe's JSON.
    return json.loads(json.dumps(dataset_identity(digits(), "label")))


@pytest.fixture
def rows() -> Dataset:
    return digits()


@pytest.fixture
def recorded() -> dict:
    return digits_identity()


def with_values(rows: Dataset, column: str, values: list) -> Dataset:
    table = rows.data.table
    at = table.column_names.index(column)
    array = pa.array(values, rows.features.arrow_schema.field(column).type)
    return Dataset(table.set_column(at, table.schema.field(column), array))


def refusal(rows: Dataset, recorded: dict, label_column: str | None = None) -> str:
    """The one line that refuses a dataset."""
    with pytest.raises(InputError) as caught:
        check_identity(rows, recorded, label_column)
    message = str(caught.value)
    assert "\n" not in message and "`id_column`" in message
    return message


def refuse_to_transform(batch):
    raise AssertionError("a transform was applied")


# The same dataset


def saved(rows: Dataset, folder: Path) -> Dataset:
    rows.save_to_disk(folder / "rows")
    return load_split(folder / "rows")


def parquet(rows: Dataset, folder: Path) -> Dataset:
    rows.to_parquet(folder / "train.parquet")
    return load_split(folder / "train.parquet")


def files(rows: Dataset, folder: Path) -> Dataset:
    """The images in files of their own, the dataset holding their paths."""
    images = []
    for i, image in enumerate(read_column(rows, "image").to_pylist()):
        (folder / f"{i}.png").write_bytes(image["bytes"])
        images.append({"bytes": None, "path": str(folder / f"{i}.png")})
    return with_values(rows, "image", images)


def shuffled_and_back(rows: Dataset, folder: Path) -> Dataset:
    order = np.random.default_rng(0).permutation(len(rows))
    return rows.select(order).flatten_indices().select(np.argsort(order))


SAME = {
    "itself": lambda rows, folder: rows,
    "saved": saved,
    "parquet": parquet,
    "files": files,
    "parquet of files": lambda rows, folder: parquet(files(rows, folder), folder),
    "selected back into order": shuffled_and_back,
    "joined": lambda rows, folder: concatenate_datasets([rows.select(range(99)), rows.select(range(99, ROWS))]),
    "with_transform": lambda rows, folder: rows.with_transform(refuse_to_transform),
    "torch": lambda rows, folder: rows.with_format("torch"),
    "one column shown": lambda rows, folder: rows.with_format("numpy", columns=["writer"]),
    "not decoded": lambda rows, folder: rows.cast_column("image", Image(decode=False)),
    "image mode": lambda rows, folder: rows.cast_column("image", Image(mode="RGB")),
    "images as plain bytes and paths": lambda rows, folder: Dataset(rows.data.table.replace_schema_metadata(None)),
    "added columns": lambda rows, folder: rows.add_column("ltc_score", np.zeros(ROWS, np.float32)),
    "added image column": lambda rows, folder: rows.add_column(
        "preview", [{"bytes": None, "path": "gone"}] * ROWS
    ).cast_column("preview", Image()),
    "added text column": lambda rows, folder: rows.add_column("note", ["seen"] * ROWS),
    "columns in another order": lambda rows, folder: rows.select_columns(["writer", "label", "image"]),
    "a column left out": lambda rows, folder: rows.remove_columns("writer"),
    "a column of another type": lambda rows, folder: rows.cast_column("writer", Value("int32")),
    "another split's name": lambda rows, folder: Dataset(rows.data, split=datasets.Split.TEST),
}


@pytest.mark.parametrize("how", list(SAME))
def test_the_same_dataset_passes(rows, recorded, tmp_path, how):
    same = SAME[how](rows, tmp_path)
    if how == "images as plain bytes and paths":
        same = same.cast_column("label", rows.features["label"])
    check_identity(same, recorded)


def test_identity_does_not_depend_on_format_or_place(rows, recorded, tmp_path):
    keys = ["rows", "label_column", "classes", "class_names", "class_counts", "labels", "content", "features"]
    for how in ("saved", "parquet", "files", "selected back into order", "with_transform", "torch", "not decoded"):
        (tmp_path / how).mkdir()
        found = dataset_identity(SAME[how](rows, tmp_path / how), "label")
        assert {key: found[key] for key in keys} == {key: recorded[key] for key in keys}, how
        assert str(tmp_path) not in json.dumps(found)


def test_string_labels_and_their_encoded_form_are_the_same(rows):
    words = rows.cast_column("label", Value("int64"))
    words = with_values(words.cast_column("label", Value("string")), "label", [NAMES[c] for c in rows["label"]])
    encoded = words.class_encode_column("label")
    check_identity(encoded, dataset_identity(words, "label"))
    check_identity(words, dataset_identity(encoded, "label"))


def test_a_renamed_label_column_can_be_given(rows, recorded):
    renamed = rows.rename_column("label", "digit")
    with pytest.raises(InputError, match="'label': no such column"):
        check_identity(renamed, recorded)
    check_identity(renamed, recorded, "digit")


def test_score_columns_that_were_there_when_recording_may_change(rows):
    old = rows.add_column("loss_trajectory", [[1.0, 2.0]] * ROWS)
    old = old.cast_column("loss_trajectory", List(Value("float32"), length=2))
    new = rows.add_column("loss_trajectory", [[3.0, 2.0, 1.0]] * ROWS)
    new = new.cast_column("loss_trajectory", List(Value("float32"), length=3))
    check_identity(new, dataset_identity(old, "label"))


def test_identity_is_the_same_in_another_process(recorded, rows, tmp_path):
    rows.to_parquet(tmp_path / "train.parquet")
    program = (
        "import json, sys; from datasets import Dataset; from hf_ltc.data.identity import dataset_identity; "
        "rows = Dataset.from_parquet(sys.argv[1], cache_dir=sys.argv[2]); "
        "print(json.dumps(dataset_identity(rows, 'label')))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "train.parquet"), str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert {key: found[key] for key in recorded} == recorded


def test_identity_is_pinned():
    """A run directory written today is attached to with tomorrow's release."""
    table = Dataset.from_dict(
        {"image": [{"bytes": bytes([i]), "path": None} for i in range(4)], "label": [0, 1, 1, 0]},
        features=Features({"image": Image(), "label": ClassLabel(names=["a", "b"])}),
    )

    def digest(*parts: bytes) -> str:
        return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).hexdigest()

    def int64(*values: int) -> bytes:
        return b"".join(value.to_bytes(8, "little") for value in values)

    assert dataset_identity(table, "label") == {
        "rows": 4,
        "features": {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "classes": 2}},
        "label_column": "label",
        "classes": 2,
        "class_names": digest(b'["a", "b"]'),
        "class_counts": digest(int64(2, 2)),
        "labels": digest(int64(0, 1, 1, 0)),
        "content": {"image": digest(b"\0", b"\1", b"\2", b"\3")},
    }
    assert digest(b"") == "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc"


def test_origin_is_kept_where_known(rows):
    assert "split" not in dataset_identity(rows, "label")
    assert dataset_identity(Dataset(rows.data, split=datasets.Split.TEST), "label")["split"] == "test"
    given = dataset_identity(rows, "label", repo_id="me/digits", revision=None)
    assert given["repo_id"] == "me/digits" and "revision" not in given

    url = "hf://datasets/me/digits@0123abc/data/train.parquet"
    info = datasets.DatasetInfo(
        features=rows.features, config_name="small", download_checksums={url: {"num_bytes": 1, "checksum": None}}
    )
    found = dataset_identity(Dataset(rows.data, info=info), "label")
    assert (found["repo_id"], found["revision"], found["config"]) == ("me/digits", "0123abc", "small")
    info = datasets.DatasetInfo(features=rows.features, config_name="small", download_checksums={"/home/me/a": {}})
    assert {"repo_id", "revision", "config"}.isdisjoint(dataset_identity(Dataset(rows.data, info=info), "label"))


# Another dataset


def relabeled(rows: Dataset, row: int = 17) -> Dataset:
    labels = rows["label"][:]
    labels[row] = (labels[row] + 1) % 10
    return with_values(rows, "label", labels)


def repainted(rows: Dataset, row: int) -> Dataset:
    images = read_column(rows, "image").to_pylist()
    images[row] = {"bytes": encoded(255 - np.asarray(rows[row]["image"])), "path": None}
    return with_values(rows, "image", images)


def other_names(rows: Dataset) -> Dataset:
    return rows.cast_column("label", ClassLabel(names=[*NAMES[:9], "nought"]))


SAMPLED = [int(row) for row in evenly_spaced(ROWS, 128)]

OTHERS = {
    "filtered": (lambda rows: rows.filter(lambda c: c != 3, input_columns="label"), ["rows", "300", "filtered"]),
    "one row fewer": (lambda rows: rows.select(range(ROWS - 1)), ["299 rows", "had 300"]),
    "one row more": (lambda rows: concatenate_datasets([rows, rows.select([0])]), ["301 rows", "another split"]),
    "shuffled": (lambda rows: rows.shuffle(seed=1), ["each class has as many rows", "'image'", "shuffled?"]),
    "sorted": (
        lambda rows: rows.select(np.argsort(rows["label"][:], kind="stable")),
        ["each class has as many rows", "shuffled?"],
    ),
    "reversed": (lambda rows: rows.select(range(ROWS)[::-1]), ["shuffled?"]),
    "relabeled": (relabeled, ["'label'", "other labels", "relabeled?"]),
    "a row relabeled that is not sampled": (
        lambda rows: relabeled(rows, next(row for row in range(ROWS) if row not in SAMPLED)),
        ["relabeled?"],
    ),
    "class renamed": (other_names, ["'label'", "10 classes with other names", "relabeled?"]),
    "class added": (
        lambda rows: rows.cast_column("label", ClassLabel(names=[*NAMES, "ten"])),
        ["11 classes", "the 10 of the recorded"],
    ),
    "images changed": (lambda rows: repainted(rows, SAMPLED[40]), ["'image' differs", "the labels agree"]),
    "images of another type": (
        lambda rows: with_type(repainted(rows, SAMPLED[40])),
        ["column 'image'", "in the recorded one it was", '"_type": "Image"'],
    ),
    "rows twice": (lambda rows: rows.select(np.arange(ROWS) // 2), ["labels and 'image'", "another dataset"]),
    "other names and images": (
        lambda rows: other_names(repainted(rows, SAMPLED[40])),
        ["labels and 'image' both differ"],
    ),
    "without the image column": (
        lambda rows: rows.remove_columns("image"),
        ["none of the recorded columns 'image'", "'label', 'writer'"],
    ),
}


def with_type(rows: Dataset) -> Dataset:
    images = [image["bytes"].hex() for image in read_column(rows, "image").to_pylist()]
    return rows.remove_columns("image").add_column("image", images)


@pytest.mark.parametrize("how", list(OTHERS))
def test_another_dataset_is_refused_with_the_reason(rows, recorded, how):
    make, words = OTHERS[how]
    said = refusal(make(rows), recorded)
    assert [word for word in words if word not in said] == []


def test_another_label_column_is_refused(rows, recorded):
    coarse = rows.add_column("coarse", [c // 5 for c in rows["label"]])
    coarse = coarse.cast_column("coarse", ClassLabel(names=["low", "high"]))
    said = refusal(coarse, recorded, label_column="coarse")
    assert "'coarse'" in said and "2 classes" in said and "another label column" in said


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SAMPLED), st.integers(0, ROWS - 1))
def test_a_swapped_pair_of_rows_is_refused(a, b):
    rows = digits()
    images = read_column(rows, "image")
    assume(a != b and images[a].as_py() != images[b].as_py())
    order = np.arange(ROWS)
    order[[a, b]] = b, a
    same_class = rows["label"][a] == rows["label"][b]
    said = refusal(rows.select(order), digits_identity())
    assert ("the labels agree" if same_class else "in another order") in said


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(ROWS)))
def test_a_permutation_passes_only_if_it_changes_nothing(order):
    rows = digits().select(order)
    if list(order) == list(range(ROWS)):
        check_identity(rows, digits_identity())
    else:
        labels = np.array(digits()["label"])
        assume((labels[list(order)] != labels).any())
        assert "in another order" in refusal(rows, digits_identity())


@pytest.mark.parametrize("label, shown", [(-1, "row 7: -1"), (None, "row 7: null")])
def test_bad_labels_are_named(rows, recorded, label, shown):
    labels = rows["label"][:]
    labels[7] = label
    with pytest.raises(InputError, match=shown):
        check_identity(with_values(rows, "label", labels), recorded)


def test_an_image_file_that_is_gone_is_named(rows, recorded, tmp_path):
    stored = files(rows, tmp_path)
    (tmp_path / f"{SAMPLED[5]}.png").unlink()
    for read in (lambda: dataset_identity(stored, "label"), lambda: check_identity(stored, recorded)):
        with pytest.raises(InputError) as caught:
            read()
        message = str(caught.value)
        assert f"row {SAMPLED[5]}: the file of column 'image'" in message and f"{SAMPLED[5]}.png" in message


# Text and other rows


def test_text_is_compared_where_there_are_no_images():
    rows = Dataset.from_dict({"text": ["up", "down", "up"], "kind": ["a", "b", "a"], "x": [1.0, 2.0, 3.0]})
    found = dataset_identity(rows, "kind")
    assert list(found["content"]) == ["text"]
    check_identity(rows.remove_columns("x"), found)
    check_identity(rows.cast_column("text", Value("large_string")), found)
    changed = with_values(rows, "text", ["up", "down", "down"])
    assert "'text' differs" in refusal(changed, found)


def test_other_columns_are_compared_where_there_is_neither():
    rows = Dataset.from_dict({"x": [[1.0, float("nan")], [0.5, 2.0]], "raw": [b"\xff", b""], "label": [0, 1]})
    found = dataset_identity(rows, "label")
    assert list(found["content"]) == ["raw", "x"]
    check_identity(rows, json.loads(json.dumps(found)))
    check_identity(rows.remove_columns("raw"), found)
    assert "'raw' differs" in refusal(with_values(rows, "raw", [b"\xff", b"\x00"]), found)


def test_no_decoding_and_few_reads(monkeypatch):
    rows = Dataset.from_dict(
        {"image": [{"bytes": b"no image %d" % i, "path": None} for i in range(1000)], "label": [0, 1] * 500},
        features=Features({"image": Image(), "label": ClassLabel(names=["a", "b"])}),
    )
    found = dataset_identity(rows, "label")
    check_identity(rows.with_transform(refuse_to_transform), found)
    # 128 rows are compared: the first, the last, and those between at even distances.
    for row in (0, 999):
        images = read_column(rows, "image").to_pylist()
        images[row] = {"bytes": b"other", "path": None}
        assert "'image' differs" in refusal(with_values(rows, "image", images), found)
