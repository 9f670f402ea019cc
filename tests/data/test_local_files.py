"""Folders and files by the names they have: no name is a pattern, and nothing in them is left out without a word."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_ltc.data.columns import read_column
from hf_ltc.data.load import load_split
from hf_ltc.utils.errors import InputError, LTCWarning

# What a shell or datasets reads as a pattern, with a neighbor that it stands for.
NAMES = {
    "set[1]": "set1",
    "set[!2]": "set1",
    "set*": "set-more",
    "set?": "set1",
    "[ab]": "a",
    "**": "any",
    "{a,b}": "a",
    "!set": "set",
    "a]b[": "ab",
    "a b": "ab",
    "100%": "100",
    "a#b@c": "a",
}


def image(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full((2, 2, 3), level, np.uint8)).save(path)


def rows(name: str, n: int = 4) -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    return Dataset.from_dict({"text": [name] * n, "label": [i % 2 for i in range(n)]}, features=features)


def image_folder(place: Path, mark: str) -> Path:
    for label in ("ant", "bee"):
        for i in range(2):
            image(place / "train" / label / f"{mark}-{i}.png")
    return place


def parquet_folder(place: Path, mark: str) -> Path:
    place.mkdir(parents=True)
    rows(mark).to_parquet(place / "train.parquet")
    return place


def parquet_file(place: Path, mark: str) -> Path:
    place.mkdir(parents=True)
    rows(mark).to_parquet(place / f"{place.name}.parquet")
    return place / f"{place.name}.parquet"


def saved(place: Path, mark: str) -> Path:
    DatasetDict(train=rows(mark)).save_to_disk(place)
    return place


def marks(dataset: Dataset) -> set[str]:
    if "text" in dataset.column_names:
        return set(read_column(dataset, "text").to_pylist())
    return {Path(value["path"]).name.split("-")[0] for value in read_column(dataset, "image").to_pylist()}


@pytest.mark.parametrize("make", [image_folder, parquet_folder, parquet_file, saved])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_pattern(tmp_path, monkeypatch, make, name):
    place = make(tmp_path / name, "meant")
    make(tmp_path / NAMES[name], "neighbor")
    loaded = load_split(place)
    assert len(loaded) == 4 and marks(loaded) == {"meant"}
    monkeypatch.chdir(tmp_path)
    assert marks(load_split(place.relative_to(tmp_path))) == {"meant"}


@pytest.mark.parametrize("make", [image_folder, parquet_folder, parquet_file, saved])
def test_names_of_parents_are_no_patterns(tmp_path, make):
    place = make(tmp_path / "runs[1]*" / "data", "meant")
    make(tmp_path / "runs1-old" / "data", "neighbor")
    assert marks(load_split(place)) == {"meant"}


def test_names_of_files_in_the_folder_are_no_patterns(tmp_path):
    place = tmp_path / "data"
    for i, name in enumerate(("x[1].png", "x1.png", "*.png", "?.png", "{a}.png")):
        for label in ("ant[1]", "ant1"):
            image(place / label / name, i)
    loaded = load_split(place)
    assert len(loaded) == 10 and loaded.features["label"].names == ["ant1", "ant[1]"]


@pytest.mark.parametrize("folder", ["data", "data[1]"])
def test_data_files_are_names_first_and_patterns_where_there_is_no_such_file(tmp_path, folder):
    place = tmp_path / folder
    place.mkdir()
    for mark in ("part[1]", "part1", "part2"):
        rows(mark).to_parquet(place / f"{mark}.parquet")
    assert marks(load_split(place, data_files="part[1].parquet")) == {"part[1]"}
    assert marks(load_split(place, data_files=["part1.parquet", "part[1].parquet"])) == {"part1", "part[1]"}
    assert marks(load_split(place, "held", data_files={"held": "part[12].parquet"})) == {"part1", "part2"}
    assert marks(load_split(place, data_files=str(place / "part[1].parquet"))) == {"part[1]"}
    with pytest.raises(InputError, match=r"other|No \(supported\) data files"):
        load_split(place, data_files="other*")


def test_the_splits_of_a_strange_name_are_those_of_a_plain_one(tmp_path):
    def filled(place: Path) -> Path:
        for split, n in (("train", 3), ("validation", 2), ("test", 1)):
            for label in ("ant", "bee"):
                for i in range(n):
                    image(place / split / label / f"{i}.png")
        return place

    plain, strange = filled(tmp_path / "plain"), filled(tmp_path / "[plain]")
    for split in ("train", "validation", "test"):
        names = [
            [
                Path(value["path"]).relative_to(place)
                for value in read_column(load_split(place, split), "image").to_pylist()
            ]
            for place in (plain, strange)
        ]
        assert names[0] == names[1] and names[0]
    shutil.rmtree(strange)
    shutil.copytree(plain / "train", strange)
    assert len(load_split(strange)) == 6


def test_a_folder_behind_a_link_is_not_left_out_without_a_word(tmp_path):
    place = image_folder(tmp_path / "data", "here")
    image(tmp_path / "elsewhere" / "there-0.png")
    (place / "train" / "cat").symlink_to(tmp_path / "elsewhere")
    (place / "train" / "loop").symlink_to(place / "train")
    try:
        assert len(load_split(place)) == 5
    except InputError as error:
        assert "train/cat/there-0.png" in str(error)


def test_a_file_that_two_patterns_match_is_taken_once(tmp_path):
    for name in ("data", "data[1]"):
        for label in ("ant", "bee"):
            image(tmp_path / name / "train-1" / "train" / label / "x.png")
        assert len(load_split(tmp_path / name)) == 2


# Folders of which datasets takes a part


def tables(place: Path, *names: str) -> None:
    for name in names:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = {".parquet": "to_parquet", ".csv": "to_csv", ".json": "to_json", ".jsonl": "to_json"}[
            path.suffix.lower()
        ]
        getattr(rows(name), writer)(path)


def images(place: Path, *names: str) -> None:
    for name in names:
        image(place / name)


def listed(place: Path) -> None:
    images(place, "a.png", "b.png", "c.png")
    lines = [json.dumps({"file_name": f"{name}.png", "label": 0}) for name in "ab"]
    (place / "metadata.jsonl").write_text("\n".join(lines))


PARTS = {
    "formats": (lambda p: tables(p, "a.parquet", "b.parquet", "c.csv"), "c.csv"),
    "lines": (lambda p: tables(p, "a.parquet", "b.parquet", "more/c.jsonl"), "more/c.jsonl"),
    "tables beside images": (lambda p: (images(p, "ant/1.png", "bee/1.png"), tables(p, "c.parquet")), "c.parquet"),
    "images beside tables": (lambda p: (tables(p, "a.csv", "b.csv"), images(p, "1.png")), "1.png"),
    "a word in a file's name": (lambda p: images(p, "ant/1.png", "bee/test_2.png", "bee/3.png"), "ant/1.png"),
    "a word in a table's name": (lambda p: tables(p, "rows.parquet", "more-dev.parquet"), "rows.parquet"),
    "a class called as a split": (lambda p: images(p, "dev/1.png", "ops/1.png"), "ops/1.png"),
    "a folder beside the splits": (
        lambda p: images(p, "train/a/1.png", "test/a/1.png", "extra/a/1.png"),
        "extra/a/1.png",
    ),
    "shards in data": (
        lambda p: tables(p, "data/train-00000-of-00001.parquet", "train-new.parquet"),
        "train-new.parquet",
    ),
    "two underscores": (lambda p: images(p, "ant/1.png", "__none__/1.png"), "__none__/1.png"),
    "a dot": (lambda p: images(p, "java/1.png", ".net/1.png"), ".net/1.png"),
    "a hidden file": (lambda p: images(p, "ant/1.png", "bee/.2.png"), "bee/.2.png"),
    "letters of the ending": (lambda p: images(p, "ant/1.png", "bee/1.Png"), "bee/1.Png"),
    "an ending in capitals": (lambda p: tables(p, "a.parquet", "b.PARQUET"), "b.PARQUET"),
    "metadata of a part": (listed, "c.png"),
}


@pytest.mark.parametrize("place", ["data", "data[1]"])
@pytest.mark.parametrize("kind", PARTS)
def test_a_folder_of_which_a_part_would_be_taken_is_refused(tmp_path, kind, place):
    fill, left = PARTS[kind]
    fill(tmp_path / place)
    for split in ("train", "test"):
        with pytest.raises(InputError) as caught:
            load_split(tmp_path / place, split)
        message = str(caught.value)
        assert repr(left) in message and repr(str(tmp_path / place)) in message and "\n" not in message


def test_a_split_that_the_folder_does_not_list_is_refused(tmp_path):
    saved(tmp_path / "data", "meant")
    rows("later").save_to_disk(tmp_path / "data" / "later")
    with pytest.raises(InputError, match="'later' too"):
        load_split(tmp_path / "data")


def test_what_is_no_row_may_lie_beside(tmp_path):
    place = image_folder(tmp_path / "data", "meant")
    for name in ("README.md", "LICENSE", "classes.txt", ".DS_Store", "train/ant/Thumbs.db", "labels.csv", "setup.py"):
        (place / name).write_text("a,b\n1,2\n")
    images(place, "__MACOSX/train/ant/._meant-0.png", "train/ant/.ipynb_checkpoints/x.png", "train/ant/._meant-0.png")
    assert len(load_split(place)) == 4
    whole = tmp_path / "whole"
    listed(whole)
    os.remove(whole / "c.png")
    assert len(load_split(whole)) == 2


def test_a_table_of_labels_beside_splits_is_left_with_a_warning(tmp_path):
    tables(tmp_path, "train-00000-of-00001.parquet", "test.parquet", "labels.json")
    with pytest.warns(LTCWarning, match=r"train-00000-of-00001\.parquet.* and not 'labels\.json'"):
        assert marks(load_split(tmp_path)) == {"train-00000-of-00001.parquet"}
    tables(tmp_path, "test.json")
    with pytest.raises(InputError, match=r"'labels\.json', 'test\.json'"):
        load_split(tmp_path)


@pytest.mark.parametrize("name", ["a::b", "$HF_LTC_NAME"])
@pytest.mark.parametrize("make", [image_folder, parquet_folder, parquet_file, saved])
def test_a_path_that_datasets_would_read_as_another(tmp_path, monkeypatch, name, make):
    monkeypatch.setenv("HF_LTC_NAME", "a")
    make(tmp_path / "a", "neighbor")
    made = make(tmp_path / "made", "meant")
    # Not written there, as datasets would write it elsewhere.
    (tmp_path / "made").rename(tmp_path / name)
    place = tmp_path / name / made.relative_to(tmp_path / "made")
    if make is saved and "$" in name:
        assert marks(load_split(place)) == {"meant"}
        return
    with pytest.raises(InputError, match=r"'::'|'\$'"):
        load_split(place)


@pytest.mark.parametrize("make", [image_folder, parquet_folder, parquet_file, saved])
def test_a_line_break_in_a_path(tmp_path, make):
    place = make(tmp_path / "two\nlines", "meant")
    if make is saved:
        assert marks(load_split(place)) == {"meant"}
        return
    with pytest.raises(InputError, match=r"two\\nlines.* has a line break"):
        load_split(place)


@pytest.mark.parametrize(
    "tops", [("Train", "Test"), ("TRAIN", "VAL"), ("Training", "Testing", "Validation"), ("train_1", "Test_1")]
)
def test_splits_in_capitals_are_not_mixed_without_a_word(tmp_path, tops):
    for level, top in enumerate(tops):
        image(tmp_path / top / "ant" / "0.png", level)
    for split in ("train", "test"):
        with pytest.raises(InputError, match=tops[1]):
            load_split(tmp_path, split)


@pytest.mark.parametrize("tops", [("Train", "Bus"), ("Train", "Training"), ("Train",), ("Test1", "TEST2")])
def test_classes_may_be_called_as_splits_are(tmp_path, tops):
    for level, top in enumerate(tops):
        image(tmp_path / top / "0.png", level)
    assert len(load_split(tmp_path)) == len(tops)


def test_a_file_that_datasets_would_read_as_another(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_LTC_NAME", "ant")
    image(tmp_path / "ant" / "0.png")
    image(tmp_path / "$HF_LTC_NAME" / "0.png", 9)
    with pytest.raises(InputError, match=r"HF_LTC_NAME.* reads it as .*ant/0\.png"):
        load_split(tmp_path)


def test_images_are_rows_in_whatever_folder(tmp_path):
    image(tmp_path / "ant" / "0.png")
    image(tmp_path / "__pycache__" / "0.png")
    with pytest.raises(InputError, match=r"only a part .*__pycache__"):
        load_split(tmp_path)
