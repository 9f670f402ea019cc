"""The files of a run directory by their names: published once, never rewritten, read epoch by epoch."""

import os

import numpy as np
import pytest

from hf_ltc.trajectories import run_dir
from hf_ltc.utils import files
from hf_ltc.utils.errors import InputError
from tests.helpers import names, refused


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
