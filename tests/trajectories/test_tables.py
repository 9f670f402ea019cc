"""Trajectories as columns and Parquet files, and back."""

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Value

from hf_ltc.trajectories import tables
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError
from tests.helpers import refused
from tests.trajectories.recordings import HELD, NAMES, ROWS, assert_attached, assert_equal, dataset, make


@pytest.mark.parametrize("rows", [1, 7, 8, 59, 60])
def test_attach_in_blocks_of_any_number_of_rows(monkeypatch, rows):
    monkeypatch.setattr(tables, "_CHUNK", rows)
    run = make()
    attached = run.attach(dataset())
    assert_attached(attached, run, range(ROWS))
    assert attached.data.column("loss_trajectory").num_chunks == -(-ROWS // rows)


@pytest.mark.parametrize("lengths", [(5,), (4, 3)], ids=str)
@pytest.mark.parametrize("ids", [False, True])
def test_columns_and_back(tmp_path, lengths, ids):
    run = make(lengths=lengths, ids=ids, signals=("margin", "evaluation_loss"))
    columns = run.to_dataset()
    assert columns["train"].column_names == [
        "row",
        "label",
        "loss_trajectory",
        "margin_trajectory",
        "evaluation_loss_trajectory",
        *(["id"] if ids else []),
    ]
    assert columns["train"].features["label"] == ClassLabel(names=NAMES)
    assert columns["train"][3]["loss_trajectory"] == run.losses[:, 3].tolist()
    assert columns["validation"]["row"][:] == HELD.tolist()
    layout = {"epochs": run.epochs, "lengths": run.lengths, "recipe": run.recipe}
    assert_equal(Trajectories.from_dataset(columns, **layout), run)
    # Whatever the order of the rows, and however they are stored.
    columns["train"] = columns["train"].shuffle(seed=0)
    assert_equal(Trajectories.from_dataset(columns, **layout), run)
    columns.save_to_disk(str(tmp_path / "saved"))
    assert_equal(Trajectories.from_dataset(DatasetDict.load_from_disk(str(tmp_path / "saved")), **layout), run)


def test_columns_of_a_mapped_run(saved):
    mapped = Trajectories.load(saved, mmap=True)
    assert_equal(Trajectories.from_dataset(mapped.to_dataset(), recipe=mapped.recipe), mapped)


def test_without_a_recipe_labels_are_numbers_and_epochs_count_from_0():
    run = make(recipe={})
    columns = run.to_dataset()
    assert columns["train"].features["label"] == Value("int64")
    again = Trajectories.from_dataset(columns)
    assert_equal(again, run)
    assert again.lengths == (5,)


@pytest.mark.parametrize("lengths", [(5,), (4, 3)], ids=str)
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("name", ["training_loss", "evaluation_loss"])
def test_parquet_and_back(tmp_path, lengths, ids, name):
    run = make(lengths=lengths, ids=ids, loss_name=name)
    run.to_parquet(tmp_path / "parquet")
    assert sorted(path.name for path in (tmp_path / "parquet").iterdir()) == [
        "recipe.json",
        "train.parquet",
        "validation.parquet",
    ]
    again = Trajectories.from_parquet(tmp_path / "parquet")
    assert_equal(again, run)
    assert again.recipe == run.recipe


def test_parquet_is_not_written_into_a_folder_that_holds_something(tmp_path):
    make().to_parquet(tmp_path / "parquet")
    with pytest.raises(InputError, match="holds other files"):
        make().to_parquet(tmp_path / "parquet")


@pytest.mark.parametrize("name", ["train.parquet", "validation.parquet", "recipe.json"])
@pytest.mark.parametrize("content", [None, b"nothing"])
def test_a_parquet_folder_with_a_missing_or_damaged_file(tmp_path, name, content):
    make().to_parquet(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"cannot read '.*{name}'") as error:
        Trajectories.from_parquet(tmp_path)
    refused(error)


def columns_with(**changed):
    columns = make().to_dataset()
    for split, change in changed.items():
        columns[split] = change(columns[split])
    return columns


BAD_COLUMNS = {
    "no split": (lambda: DatasetDict(train=dataset()), "no split 'validation' among train"),
    "no row": (lambda: columns_with(train=lambda d: d.remove_columns("row")), "no column 'row'"),
    "no losses": (
        lambda: columns_with(validation=lambda d: d.remove_columns("loss_trajectory")),
        "no column 'loss_trajectory'",
    ),
    "a row twice": (lambda: columns_with(train=lambda d: d.select([0, 5, 2, 5])), "has the row 6 twice"),
    "no rows": (lambda: columns_with(train=lambda d: d.select([])), "of different lengths .*, or no rows"),
    "held-out rows": (
        lambda: DatasetDict(
            train=make().attach(dataset()).add_column("row", list(range(ROWS))),
            validation=make().to_dataset()["train"],
        ),
        "'loss_trajectory' has 10 rows without a trajectory",
    ),
    "other lengths": (
        lambda: columns_with(
            train=lambda d: Dataset.from_dict(
                {"row": [0, 1], "label": [0, 1], "loss_trajectory": [[1.0] * 4, [1.0] * 6]},
            )
        ),
        r"trajectories of different lengths \(4, 6\)",
    ),
    "labels of text": (
        lambda: columns_with(
            train=lambda d: d.remove_columns("label").add_column("label", ["a"] * len(d)),
        ),
        "'label' holds string with 0 nulls: it must hold integers",
    ),
}


@pytest.mark.parametrize("bad", BAD_COLUMNS)
def test_bad_columns_are_refused(bad):
    build, message = BAD_COLUMNS[bad]
    with pytest.raises(InputError, match=message) as error:
        Trajectories.from_dataset(build())
    refused(error)
