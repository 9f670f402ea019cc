"""Loading splits, finding columns, reading labels and holding rows out."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from hf_ltc.data.columns import read_column
from hf_ltc.data.labels import class_names, find_image_column, find_label_column, read_labels
from hf_ltc.data.load import load_split
from hf_ltc.data.splits import evenly_spaced, hold_out
from hf_ltc.utils.errors import InputError, one_line

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def digits(rows: range) -> Dataset:
    """Handwritten digits, 8x8 grey PNG files."""
    data = load_digits()
    return Dataset.from_dict(
        {
            "image": [{"bytes": png((data.images[i] * 15).astype(np.uint8)), "path": None} for i in rows],
            "label": [int(data.target[i]) for i in rows],
        },
        features=Features({"image": Image(), "label": ClassLabel(names=NAMES)}),
    )


def unreadable(labels: list, feature: object) -> Dataset:
    """Rows whose images cannot be decoded, so that reading anything else fails if it decodes them."""
    images = [{"bytes": b"no image", "path": None} for _ in labels]
    features = Features({"image": Image(), "label": feature})
    table = pa.table(
        [pa.array(images, features["image"].pa_type), pa.array(labels, features.arrow_schema.field("label").type)],
        schema=features.arrow_schema,
    )
    return Dataset(table)


def error_of(function, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def splits() -> DatasetDict:
    return DatasetDict(train=digits(range(60)), test=digits(range(60, 80)))


def same_rows(one: Dataset, other: Dataset) -> bool:
    files = [[row["bytes"] for row in read_column(rows, "image").to_pylist()] for rows in (one, other)]
    return files[0] == files[1] and read_column(one, "label").to_pylist() == read_column(other, "label").to_pylist()


# load_split


def save_to_disk(splits: DatasetDict, folder: Path) -> Path:
    splits.save_to_disk(folder)
    return folder


def parquet_files(splits: DatasetDict, folder: Path) -> Path:
    folder.mkdir()
    for name, rows in splits.items():
        rows.to_parquet(folder / f"{name}.parquet")
    return folder


def parquet_shards(splits: DatasetDict, folder: Path) -> Path:
    folder.mkdir()
    for name, rows in splits.items():
        for shard in range(2):
            part = rows.shard(2, shard, contiguous=True)
            part.to_parquet(folder / f"{name}-{shard:05d}-of-00002.parquet")
    return folder


@pytest.mark.parametrize("store", [save_to_disk, parquet_files, parquet_shards])
@pytest.mark.parametrize("split", ["train", "test"])
def test_stored_split_comes_back(splits, tmp_path, store, split):
    place = store(splits, tmp_path / "digits")
    for written in (place, str(place), f"{place}/"):
        rows = load_split(written, split)
        assert rows.features == splits["train"].features
        assert same_rows(rows, splits[split])


def test_saved_dataset_is_the_train_split_if_it_names_no_other(splits, tmp_path):
    splits["train"].save_to_disk(tmp_path / "plain")
    assert same_rows(load_split(tmp_path / "plain"), splits["train"])
    message = error_of(load_split, tmp_path / "plain", "test")
    assert "no split 'test'" in message and "train (60 rows)" in message

    Dataset(splits["test"].data, split=datasets.Split.TEST).save_to_disk(tmp_path / "named")
    assert same_rows(load_split(tmp_path / "named", "test"), splits["test"])
    assert "test (20 rows)" in error_of(load_split, tmp_path / "named")


def test_image_folder(splits, tmp_path):
    for split, rows in splits.items():
        for i, (image, label) in enumerate(zip(read_column(rows, "image").to_pylist(), rows["label"])):
            folder = tmp_path / "digits" / split / NAMES[label]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i:03d}.png").write_bytes(image["bytes"])
    for split, rows in splits.items():
        loaded = load_split(tmp_path / "digits", split)
        assert find_image_column(loaded) == "image" and find_label_column(loaded) == "label"
        assert class_names(loaded, "label") == sorted(NAMES)
        found = zip(read_column(loaded, "image").to_pylist(), read_labels(loaded, "label"))
        files = [(Path(image["path"]), sorted(NAMES)[label]) for image, label in found]
        assert all(file.parent.name == name for file, name in files)
        assert sorted(int(file.stem) for file, _ in files) == list(range(len(rows)))
    # Without folders of splits, all there is is the train split.
    assert len(load_split(tmp_path / "digits" / "test")) == 20


@pytest.mark.parametrize("file", ["digits.parquet", "DIGITS.PARQUET"])
def test_one_parquet_file(splits, tmp_path, monkeypatch, file):
    splits["test"].to_parquet(tmp_path / file)
    assert same_rows(load_split(tmp_path / file), splits["test"])
    monkeypatch.chdir(tmp_path)
    assert same_rows(load_split(file), splits["test"])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert same_rows(load_split(f"~/{file}"), splits["test"])


def test_a_folder_named_like_a_file(splits, tmp_path):
    assert same_rows(load_split(parquet_shards(splits, tmp_path / "digits.parquet"), "test"), splits["test"])


def test_the_folder_one_is_in(splits, tmp_path, monkeypatch):
    monkeypatch.chdir(parquet_files(splits, tmp_path / "digits"))
    assert same_rows(load_split("."), splits["train"])


def test_data_files(splits, tmp_path):
    place = parquet_files(splits, tmp_path / "digits")
    assert same_rows(load_split(place, data_files="test.parquet"), splits["test"])
    assert same_rows(load_split(place, "held", data_files={"held": "test*"}), splits["test"])
    # Of a save_to_disk folder too, whose own splits they replace.
    saved = save_to_disk(splits, tmp_path / "saved")
    assert same_rows(load_split(saved, data_files="test/*.arrow"), splits["test"])
    assert "No (supported) data files" in error_of(load_split, place, data_files="nothing*")


@pytest.mark.parametrize(
    "split, rows",
    [
        ("train[:10]", [("train", range(10))]),
        ("train[50:]", [("train", range(50, 60))]),
        ("train[-5:]", [("train", range(55, 60))]),
        ("train[:10%]", [("train", range(6))]),
        ("train[90%:]", [("train", range(54, 60))]),
        ("train[:1000]", [("train", range(60))]),
        ("train[:7]+test[3:5]", [("train", range(7)), ("test", range(3, 5))]),
        ("train+test", [("train", range(60)), ("test", range(20))]),
    ],
)
def test_slices(splits, tmp_path, split, rows):
    loaded = load_split(save_to_disk(splits, tmp_path / "digits"), split)
    assert same_rows(loaded, datasets.concatenate_datasets([splits[name].select(part) for name, part in rows]))
    # A slice of the table, not a selection of its rows: nothing is looked up row by row later on.
    assert loaded._indices is None


@pytest.mark.parametrize("split", ["validation", "", "all", "train[:x]", "train[", "train[:10]+dev", "train[:200%]"])
def test_no_such_split(splits, tmp_path, split):
    message = error_of(load_split, save_to_disk(splits, tmp_path / "digits"), split)
    assert f"no split {split!r}" in message and "train (60 rows), test (20 rows)" in message


def test_empty_slice(splits, tmp_path):
    message = error_of(load_split, save_to_disk(splits, tmp_path / "digits"), "train[5:5]")
    assert "'train[5:5]'" in message and "no rows" in message


def test_splits_that_do_not_go_together(splits, tmp_path):
    other = splits["test"].cast_column("label", Value("string"))
    place = save_to_disk(DatasetDict(train=splits["train"], test=other), tmp_path / "digits")
    assert "'train+test'" in error_of(load_split, place, "train+test")


@pytest.mark.parametrize("place", ["", "/no/such/folder", "./folder", "../folder", "a/b/c", "~/no/such/folder"])
def test_no_such_dataset(place):
    message = error_of(load_split, place)
    assert repr(place) in message and "neither a folder nor a Hub id" in message


def test_no_such_parquet_file():
    assert "no such file: 'rows.parquet'" in error_of(load_split, "rows.parquet")


def test_folders_and_files_without_a_dataset(tmp_path):
    def made(name: str, **files: str) -> Path:
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file.replace("__", ".")).write_text(content)
        return tmp_path / name

    assert "is empty" in error_of(load_split, made("empty"))
    for place in (
        made("strange", rows__xyz="rows"),
        made("script", script__py="rows = 1"),
        made("torn", dataset_dict__json="{"),
        made("hollow", dataset_dict__json="{}"),
        made("missing", dataset_dict__json='{"splits": ["train"]}'),
        made("lost", state__json="{}"),
        made("cut", train__parquet="PAR1"),
    ):
        message = error_of(load_split, place)
        assert f"cannot load the dataset {str(place)!r}: " in message and not message.rstrip().endswith(":")
    (tmp_path / "rows.csv").write_text("image,label\n")
    assert "not a .parquet file" in error_of(load_split, tmp_path / "rows.csv")


def test_configurations(splits, tmp_path):
    parquet_files(splits, tmp_path / "digits")
    lines = ["---", "configs:"]
    for name in splits:
        lines += [f"- config_name: {name}-rows", f"  data_files: {name}.parquet"]
    (tmp_path / "digits" / "README.md").write_text("\n".join([*lines, "---", ""]))
    assert same_rows(load_split(tmp_path / "digits", name="test-rows"), splits["test"])
    for message in (
        error_of(load_split, tmp_path / "digits"),
        error_of(load_split, tmp_path / "digits", name="other-rows"),
    ):
        assert "train-rows" in message and "test-rows" in message


def test_copies_are_found_by_what_the_original_was_found_by(splits, tmp_path):
    splits["test"].to_parquet(tmp_path / "test.parquet")
    assert same_rows(load_split(tmp_path / "test.parquet", name="small", revision="0123abc"), splits["test"])
    saved = save_to_disk(splits, tmp_path / "digits")
    assert same_rows(load_split(saved, "test", name="small", revision="0123abc"), splits["test"])
    assert "`data_files` is 'test*'" in error_of(load_split, tmp_path / "test.parquet", data_files="test*")


@pytest.mark.parametrize("dataset", ["uoft-cs/cifar100", "mnist"])
def test_hub_without_network_is_one_clear_line(tmp_path, dataset):
    program = f"from hf_ltc.data.load import load_split; load_split({dataset!r})"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    last = run.stderr.splitlines()[-1]
    assert run.returncode == 1
    assert last.startswith(f"hf_ltc.utils.errors.InputError: cannot reach the Hub for the dataset {dataset!r}"), (
        run.stderr
    )
    assert "check the path or the network" in last


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


# Hold-out


histograms = st.lists(st.integers(2, 40), min_size=1, max_size=8)


@settings(deadline=None)
@given(histograms, st.floats(0.001, 0.999), st.integers(1, 60), st.integers(0, 2**32), st.randoms())
def test_hold_out_laws(counts, fraction, per_class, seed, random):
    labels = np.repeat(np.arange(len(counts)) * 3, counts)
    order = list(range(len(labels)))
    random.shuffle(order)
    labels = labels[order]
    kept, held = hold_out(labels, fraction, per_class, seed)
    assert kept.dtype == held.dtype == np.int64
    assert (np.diff(kept) > 0).all() and (np.diff(held) > 0).all()
    assert sorted([*kept, *held]) == list(range(len(labels)))
    for c, n in enumerate(counts):
        assert (labels[held] == c * 3).sum() == min(max(round(fraction * n), 1), per_class, n - 1)
    again = hold_out(labels.copy(), fraction, per_class, seed)
    assert (again[0] == kept).all() and (again[1] == held).all()


def test_hold_out_is_the_same_on_any_machine():
    labels = np.arange(60) % 3
    assert hold_out(labels, 0.2, seed=0)[1].tolist() == [2, 3, 11, 13, 15, 20, 21, 46, 48, 55, 58, 59]
    assert hold_out(labels, 0.2, seed=1)[1].tolist() == [2, 5, 9, 14, 16, 17, 28, 31, 36, 39, 48, 55]


def test_hold_out_draws_every_row_as_often():
    labels = np.repeat([0, 1], [10, 30])
    draws = 4000
    times = np.zeros(len(labels))
    for seed in range(draws):
        times[hold_out(labels, 0.3, seed=seed)[1]] += 1
    # Five standard deviations of a binomial count of 4000 draws at 0.3.
    assert np.abs(times - 0.3 * draws).max() < 5 * np.sqrt(draws * 0.3 * 0.7)


def test_hold_out_of_too_small_classes():
    labels = np.array([0, 0, 1, 2, 2, 3])
    assert "2 classes of fewer than the two rows that holding out needs: '1', '3'" in error_of(hold_out, labels)
    assert "1 class of fewer" in error_of(hold_out, labels[:3])
    message = error_of(hold_out, labels, names=["ant", "bee", "cat", "doe"])
    assert "'bee', 'doe'" in message and "(`validation`)" in message


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_hold_out_of_no_proper_fraction(fraction):
    assert f"`validation_fraction` is {fraction!r}" in error_of(hold_out, np.array([0, 0, 1, 1]), fraction)


def test_hold_out_of_less_than_a_row_a_class():
    assert "`validation_per_class` is 0" in error_of(hold_out, np.array([0, 0, 1, 1]), per_class=0)


# Small things


@settings(deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 200))
def test_evenly_spaced(n, count):
    positions = evenly_spaced(n, count)
    assert positions.dtype == np.int64 and len(positions) == min(n, count)
    if n:
        gaps = np.diff(positions)
        assert positions[0] == 0 and (count == 1 or positions[-1] == n - 1)
        assert len(gaps) == 0 or (gaps.min() > 0 and gaps.max() - gaps.min() <= 1)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=600))
def test_one_line(text):
    for error in (ValueError(text), KeyError(text)):
        line = one_line(error)
        assert line and len(line.splitlines()) == 1 and len(line) <= 300
    assert one_line(ValueError("x" * 300)) == "x" * 300
    assert one_line(ValueError("x" * 301)) == "x" * 297 + "..."
    assert one_line(KeyError("splits")) == "KeyError 'splits'"
    assert one_line(ValueError("a\n  b")) == "a b" and one_line(ValueError()) == "ValueError"


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOLCK])
def test_a_cache_that_does_not_lock_is_told(tmp_path, monkeypatch, number):
    digits(range(4)).to_parquet(tmp_path / "a.parquet")
    digits(range(4)).save_to_disk(tmp_path / "saved")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(InputError, match=rf"cannot lock .*/cache' \({os.strerror(number)}\): set HF_DATASETS_CACHE"):
        load_split(tmp_path / "a.parquet")
    # Which has no cache.
    assert len(load_split(tmp_path / "saved")) == 4
