"""Run directories: files published once and read epoch by epoch, recordings saved and loaded, damage named."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest

from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils import files
from hf_ltc.utils.errors import InputError
from tests.helpers import names, refused
from tests.trajectories.recordings import assert_equal, change, make, recipe_of, unfinish


def test_epochs_and_seeds_by_their_names(tmp_path):
    assert run_dir.published_epochs(tmp_path) == []
    assert run_dir.seed_folders(tmp_path) == []
    for epoch in (100_000, 3, 0, 12):
        files.write_arrays(run_dir.epoch_path(tmp_path, epoch), {})
    folder = tmp_path / run_dir.TRAJECTORIES
    for other in (
        ".epoch-00004.safetensors.ab.tmp",
        "epoch-4.safetensors",
        "epoch-00005.txt",
        "xepoch-00006.safetensors",
    ):
        (folder / other).write_text("")
    assert run_dir.epoch_path(tmp_path, 3).name == "epoch-00003.safetensors"
    assert run_dir.published_epochs(tmp_path) == [0, 3, 12, 100_000]
    for name in (*(f"seed-{seed}" for seed in range(20, 0, -3)), "seed-x", "seed-1.old", "seeds"):
        (tmp_path / name).mkdir()
    assert [path.name for path in run_dir.seed_folders(tmp_path)] == [f"seed-{seed}" for seed in range(2, 21, 3)]


def no_links(*_):
    raise OSError("no links here")


@pytest.mark.parametrize("links", [True, False])
def test_publish_puts_a_file_in_place(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    pending, final = tmp_path / "pending", tmp_path / "run" / "epoch"
    pending.write_text("losses")
    run_dir.publish(pending, final)
    assert final.read_text() == "losses"
    assert pending.read_text() == "losses"
    assert names(tmp_path) == ["pending", "run", "run/epoch"]


@pytest.mark.parametrize("links", [True, False])
def test_publish_never_rewrites(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    pending, final = tmp_path / "pending", tmp_path / "run" / "epoch"
    pending.write_text("losses")
    run_dir.publish(pending, final)
    before = final.stat()
    run_dir.publish(pending, final)
    (tmp_path / "other").write_text("other losses")
    run_dir.publish(tmp_path / "other", final)
    after = final.stat()
    assert final.read_text() == "losses"
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert names(tmp_path) == ["other", "pending", "run", "run/epoch"]


def test_publish_names_what_it_cannot_write(tmp_path):
    (tmp_path / "pending").write_text("losses")
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match=r"cannot write '.*/run/epoch'"):
        run_dir.publish(tmp_path / "pending", tmp_path / "run" / "epoch")
    with pytest.raises(InputError, match=r"cannot write '.*/epoch'"):
        run_dir.publish(tmp_path / "nothing", tmp_path / "epoch")
    assert names(tmp_path) == ["pending", "run"]


@pytest.fixture
def table(tmp_path):
    values = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    paths = [tmp_path / f"{t}" for t in range(6)]
    for path, row in zip(paths, values):
        files.write_arrays(path, {"loss": row, "other": -row})
    return run_dir.EpochTable(paths, "loss", 4), values


def test_an_epoch_table_is_the_array(table):
    epochs, values = table
    assert epochs.shape == values.shape
    assert epochs.dtype == np.float32
    assert len(epochs) == 6
    np.testing.assert_array_equal(np.asarray(epochs), values)
    assert np.asarray(epochs, dtype=np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.stack(list(epochs)), values)
    for t in (0, 3, -1, np.int64(2)):
        np.testing.assert_array_equal(epochs[t], values[t])
    with pytest.raises(IndexError):
        epochs[6]


@pytest.mark.parametrize(
    "key",
    [
        np.s_[1:3, 0:2],
        np.s_[0, 0:2],
        np.s_[:, 1],
        np.s_[:, [0, 1]],
        np.s_[:, ::2],
        np.s_[:, ::-1],
        np.s_[:, :, :],
        np.s_[np.arange(6), :],
    ],
    ids=str,
)
def test_columns_of_a_table_are_read_from_all_epochs_or_not_at_all(table, key):
    epochs, values = table
    np.testing.assert_array_equal(epochs[:, 1:3:1], values[:, 1:3])
    with pytest.raises(IndexError, match=r"of columns, a table on disk reads \[:, left:right\] alone, not"):
        epochs[key]


@pytest.mark.parametrize(
    "taken", [slice(1, 4), slice(None, None, -2), np.array([5, 0, 2]), np.arange(6) % 2 == 0, [], [3]], ids=str
)
def test_epochs_of_a_table_are_a_table(table, taken):
    epochs, values = table
    part = epochs[taken]
    assert isinstance(part, run_dir.EpochTable)
    wanted = values[np.array(taken, dtype=int) if isinstance(taken, list) else taken]
    assert part.shape == wanted.shape
    np.testing.assert_array_equal(np.asarray(part), wanted)


def test_an_epoch_table_reads_when_asked_for(table):
    epochs, values = table
    epochs.paths[2].unlink()
    np.testing.assert_array_equal(epochs[3], values[3])
    with pytest.raises(InputError, match=r"cannot read '.*/2'"):
        np.asarray(epochs)


@pytest.mark.parametrize("row", [np.zeros(3, np.float32), np.zeros(4, np.float64), np.zeros((4, 1), np.float32)])
def test_an_epoch_of_another_shape_is_named(table, row):
    epochs, _ = table
    files.write_arrays(epochs.paths[1], {"loss": row})
    with pytest.raises(
        InputError, match=r"cannot read '.*/1' \(loss is float.*, not float32\[4\]: of another run"
    ) as e:
        epochs[1]
    refused(e)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("lengths", [(5,), (4, 3)], ids=str)
@pytest.mark.parametrize("ids", [False, True])
def test_saved_is_loaded(tmp_path, lengths, ids, mmap):
    run = make(lengths=lengths, ids=ids, signals=("margin", "el2n"))
    run.save(tmp_path / "run")
    loaded = Trajectories.load(tmp_path / "run", mmap=mmap)
    assert isinstance(loaded.losses, run_dir.EpochTable if mmap else np.ndarray)
    assert_equal(loaded, run)
    np.testing.assert_array_equal(ltc_scores(loaded), ltc_scores(run))
    assert_equal(loaded.truncate(2), run.truncate(2))
    assert_equal(loaded.take_rows(run.rows[3:9]), run.take_rows(run.rows[3:9]))
    assert list(tmp_path.rglob("*.tmp")) == []


def test_saved_again_is_the_same(tmp_path):
    Trajectories.average([make(recipe={"seed": 0}), make(seed=1, recipe={"seed": 1})]).save(tmp_path / "one")
    loaded = Trajectories.load(tmp_path / "one", mmap=True)
    loaded.save(tmp_path / "two")
    again = Trajectories.load(tmp_path / "two")
    assert_equal(loaded, again)
    assert [recipe_of(run)["seed"] for run in again.runs] == [0, 1]


@pytest.mark.parametrize("name", ["training_loss", "evaluation_loss"])
def test_saved_losses_keep_their_name(tmp_path, name):
    make(loss_name=name).save(tmp_path / "run")
    assert Trajectories.load(tmp_path / "run").loss_name == name
    other = {"training_loss": "evaluation", "evaluation_loss": "training"}[name]
    with pytest.raises(
        InputError, match=f"has no {other} losses, it has {name}: record with `RecordConfig.losses` {other}"
    ):
        Trajectories.load(tmp_path / "run", losses=other)


@pytest.mark.parametrize("mmap", [False, True])
def test_either_kind_of_losses_is_loaded_where_both_were_recorded(tmp_path, mmap):
    run = make()
    run = dataclasses.replace(run, signals={"evaluation_loss": run.losses + 1})
    run.save(tmp_path / "run")
    assert_equal(Trajectories.load(tmp_path / "run", mmap=mmap), run)
    assert_equal(Trajectories.load(tmp_path / "run", losses="training", mmap=mmap), run)
    turned = dataclasses.replace(
        run, losses=run.signals["evaluation_loss"], signals={"training_loss": run.losses}, loss_name="evaluation_loss"
    )
    loaded = Trajectories.load(tmp_path / "run", losses="evaluation", mmap=mmap)
    assert_equal(loaded, turned)
    loaded.save(tmp_path / "again")
    assert_equal(Trajectories.load(tmp_path / "again", losses="training"), run)
    with pytest.raises(InputError, match="`losses` is 'both': it must be training or evaluation"):
        Trajectories.load(tmp_path / "run", losses="both")


def test_a_folder_that_holds_something_is_not_saved_into(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        make().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("mmap", [False, True])
def test_what_an_unfinished_run_has_published_is_loaded(saved, mmap):
    unfinish(saved)
    assert_equal(Trajectories.load(saved, mmap=mmap), make(ids=True), recipe=False)
    run_dir.epoch_path(saved, 4).unlink()
    assert_equal(Trajectories.load(saved, mmap=mmap), make(ids=True).truncate(3), recipe=False)


def test_an_unfinished_run_without_an_epoch_is_refused(saved):
    unfinish(saved)
    shutil.rmtree(saved / run_dir.TRAJECTORIES)
    with pytest.raises(InputError, match=r"no epoch in .* is recorded yet: run the same hf-ltc record command again"):
        Trajectories.load(saved)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("epoch", [0, 2, 4])
def test_a_missing_epoch_is_named(saved, finished, epoch):
    if not finished:
        unfinish(saved)
    run_dir.epoch_path(saved, epoch).unlink()
    if not finished and epoch == 4:
        assert len(Trajectories.load(saved).epochs) == 4
        return
    with pytest.raises(InputError, match=f"no file '.*epoch-0000{epoch}.safetensors', though the run recorded") as e:
        Trajectories.load(saved)
    refused(e)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
@pytest.mark.parametrize("mmap", [False, True])
def test_a_truncated_epoch_is_named(saved, keep, mmap):
    file = run_dir.epoch_path(saved, 2)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"cannot read '.*epoch-00002.safetensors' .truncated") as error:
        Trajectories.load(saved, mmap=mmap)
    refused(error)


def test_an_epoch_of_another_run_is_named(saved, tmp_path):
    make(seed=1).save(tmp_path / "other")
    shutil.copy(run_dir.epoch_path(tmp_path / "other", 2), run_dir.epoch_path(saved, 2))
    with pytest.raises(
        InputError, match=r"epoch-00002.safetensors' is epoch 2 of run .*, not epoch 2 of run"
    ) as error:
        Trajectories.load(saved)
    refused(error)


def test_an_epoch_under_another_name_is_named(saved):
    shutil.copy(run_dir.epoch_path(saved, 1), run_dir.epoch_path(saved, 2))
    with pytest.raises(InputError, match=r"epoch-00002.safetensors' is epoch 1 of run .*, not epoch 2 of run"):
        Trajectories.load(saved)


def test_an_epoch_that_is_not_of_the_run_is_named(saved):
    shutil.copy(run_dir.epoch_path(saved, 4), run_dir.epoch_path(saved, 5))
    with pytest.raises(InputError, match=r"epoch-00005.safetensors' is of no epoch that this run records"):
        Trajectories.load(saved)


@pytest.mark.parametrize("mmap", [False, True])
def test_an_epoch_of_another_length_is_named(saved, mmap):
    recipe = json.loads((saved / files.RECIPE).read_text())
    arrays = files.read_arrays(run_dir.epoch_path(saved, 3))
    arrays["training_loss"] = arrays["training_loss"][:-1]
    files.write_arrays(run_dir.epoch_path(saved, 3), arrays, {"run": recipe["run"], "epoch": "3"})
    with pytest.raises(InputError, match=r"epoch-00003.*training_loss is float32\[49\], not float32\[50\]"):
        np.asarray(Trajectories.load(saved, mmap=mmap).losses)


@pytest.mark.parametrize("mmap", [False, True])
def test_an_epoch_without_the_losses_is_named(saved, mmap):
    recipe = json.loads((saved / files.RECIPE).read_text())
    arrays = files.read_arrays(run_dir.epoch_path(saved, 3), ["validation_loss", "margin"])
    files.write_arrays(run_dir.epoch_path(saved, 3), arrays, {"run": recipe["run"], "epoch": "3"})
    with pytest.raises(InputError, match=r"epoch-00003.*it has no training_loss, only"):
        np.asarray(Trajectories.load(saved, mmap=mmap).losses)


@pytest.mark.parametrize("name", [files.RECIPE, run_dir.ROWS])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(InputError, match=f"cannot read '.*{name}' .No such file") as error:
        Trajectories.load(saved)
    refused(error)


@pytest.mark.parametrize("name", [files.RECIPE, run_dir.ROWS, "ids.parquet"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00"])
def test_a_damaged_file_is_named(saved, name, content):
    (saved / name).write_bytes(content)
    with pytest.raises(InputError, match=f"cannot read '.*{name}'") as error:
        Trajectories.load(saved)
    refused(error)


def test_another_format_is_refused(saved):
    change(saved / files.RECIPE, format=99)
    with pytest.raises(
        InputError, match=r"recipe.json' has format 99, this version reads 1 and 2: load it with the version"
    ):
        Trajectories.load(saved)


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_no_run_directory(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"no run directory '.*{name}': make one with hf-ltc record") as error:
        Trajectories.load(tmp_path / name)
    refused(error)


@pytest.fixture
def seeds(tmp_path):
    """Two finished runs, and one that was stopped."""
    for seed in range(3):
        make(seed=seed, recipe={**make().recipe, "seed": seed}).save(tmp_path / "runs" / f"seed-{seed}")
    unfinish(tmp_path / "runs" / "seed-2")
    return tmp_path / "runs"


@pytest.mark.parametrize("mmap", [False, True])
def test_of_several_seeds_the_finished_ones_are_loaded(seeds, mmap):
    loaded = Trajectories.load(seeds, mmap=mmap)
    assert_equal(loaded, Trajectories.average([make(seed=0), make(seed=1)]), recipe=False)
    assert [recipe["seed"] for recipe in loaded.recipe["runs"]] == [0, 1]


def test_a_seed_that_has_hardly_begun_is_left_out(seeds):
    shutil.rmtree(seeds / "seed-2")
    (seeds / "seed-2").mkdir()
    assert Trajectories.load(seeds).lengths == (5, 5)


def test_the_recipe_of_all_seeds_counts_if_it_is_of_as_many(seeds):
    files.write_json(seeds / files.RECIPE, {"reliability": {"one": 0.5}, "seeds": [0, 1]})
    assert Trajectories.load(seeds).recipe["reliability"] == {"one": 0.5}
    change(seeds / "seed-2" / files.RECIPE, epochs=list(range(5)))
    assert "reliability" not in Trajectories.load(seeds).recipe


def test_no_seed_is_finished(seeds):
    for seed in range(3):
        unfinish(seeds / f"seed-{seed}")
    with pytest.raises(InputError, match=r"no run in .* is finished yet"):
        Trajectories.load(seeds)
