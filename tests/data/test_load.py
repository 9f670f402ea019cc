"""Loading a split from wherever a dataset is kept."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from sklearn.datasets import load_digits

from hf_ltc.data.columns import read_column
from hf_ltc.data.labels import class_names, find_image_column, find_label_column, read_labels
from hf_ltc.data.load import load_split
from hf_ltc.utils.errors import InputError
from tests.helpers import encoded, error_of

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def digits(rows: range) -> Dataset:
    """Handwritten digits, 8x8 grey PNG files."""
    data = load_digits()
    return Dataset.from_dict(
        {
            "image": [{"bytes": encoded((data.images[i] * 15).astype(np.uint8)), "path": None} for i in rows],
            "label": [int(data.target[i]) for i in rows],
        },
        features=Features({"image": Image(), "label": ClassLabel(names=NAMES)}),
    )


@pytest.fixture(scope="module")
def splits() -> DatasetDict:
    return DatasetDict(train=digits(range(60)), test=digits(range(60, 80)))


def same_rows(one: Dataset, other: Dataset) -> bool:
    files = [[row["bytes"] for row in read_column(rows, "image").to_pylist()] for rows in (one, other)]
    return files[0] == files[1] and read_column(one, "label").to_pylist() == read_column(other, "label").to_pylist()


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


@pytest.mark.parametrize("split", ["train[:30]", "train[10%:]", "train+test", "test[5:]+train[:3]"])
def test_a_dataset_that_was_loaded_as_a_slice_and_saved(splits, tmp_path, split):
    parquet_files(splits, tmp_path / "digits")
    rows = datasets.load_dataset(str(tmp_path / "digits"), split=split)
    assert str(rows.split) == split
    rows.save_to_disk(tmp_path / "saved")
    # By the name of the split, which is the usual one as a rule, and as recipes call it.
    name = split[: len("test")] if split.startswith("test") else "train"
    for called in (name, split):
        assert same_rows(load_split(tmp_path / "saved", called), rows)
    assert same_rows(load_split(tmp_path / "saved", f"{name}[2:5]"), rows.select(range(2, 5)))


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
