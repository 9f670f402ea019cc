"""Recording with features: when they are made, of which model, and on how many processes."""

import os
import signal

import numpy as np
import pytest
import torch
from datasets import DatasetDict, load_from_disk

from hf_ltc.cli.main import main
from hf_ltc.config import RecordConfig
from hf_ltc.recording.record import record
from hf_ltc.training.forward import classifier_inputs
from hf_ltc.training.models import load_model
from hf_ltc.trajectories import features, run_dir
from hf_ltc.trajectories.features import FEATURES
from hf_ltc.trajectories.value import Trajectories
from tests.processes import finish, start
from tests.recording.runs import FROZEN, record_from_disk, saved, settings, snapshot


def stamps(folder):
    """What is in a run directory, and when it was written."""
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def seen(folder, rows, averaged=True):
    """What the last layer of the saved source model sees of some rows."""
    model = load_model(folder / "source_model", averaged=averaged)
    settings = run_dir.read_json(folder / "source_model" / "config.json")
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in rows["image"]]).transpose(0, 3, 1, 2) / 255.0
    mean, std = (np.asarray(settings[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad(), classifier_inputs(model, 10) as found:
        model(torch.from_numpy(((pixels - mean) / std).astype(np.float32)))
        return found().numpy()


@pytest.mark.parametrize("weights", ["averaged", "raw"])
def test_they_are_those_of_the_weights_of_validation_losses(small, tmp_path, weights):
    run = record(settings(tmp_path / "run", features=True, weights=weights), small["train"], small["test"])
    assert run.features.of(run.rows).dtype == np.float16
    assert run.recipe["seconds"]["features"] > 0
    folder = tmp_path / "run"
    for found, rows in ((run.features.of(run.rows), small["train"]), (run.features.validation, small["test"])):
        expected = seen(folder, rows, averaged=weights == "averaged")
        assert found.shape == expected.shape == (len(rows), run.features.size)
        np.testing.assert_allclose(found, expected, rtol=5e-3, atol=5e-3)


def test_a_finished_run_is_left_alone_and_one_without_them_gets_them(small, tmp_path):
    folder = tmp_path / "run"
    plain = record(settings(folder), small["train"])
    assert plain.features is None
    before = snapshot(folder)
    late = record(settings(folder, features=True), small["train"])
    after = snapshot(folder)
    assert after.keys() - before.keys() == {FEATURES} and {**after, **before} == after
    whole = stamps(folder)
    for again in (True, False):
        run = record(settings(folder, features=again), small["train"])
        np.testing.assert_array_equal(run.features.of(run.rows), late.features.of(run.rows))
    assert stamps(folder) == whole
    # Made at once they are the same, and change nothing else.
    record(settings(tmp_path / "other", features=True), small["train"])
    assert snapshot(tmp_path / "other") == after


def dying(data, config):
    """Records, and is killed when the features are about to be written."""
    features.files.write_arrays, written = None, features.files.write_arrays

    def write(path, *arguments):
        if path.name == FEATURES:
            os.kill(os.getpid(), signal.SIGKILL)
        written(path, *arguments)

    features.files.write_arrays = write
    record_from_disk(data, config)


@pytest.mark.parametrize("world", [1, 2])
def test_killed_before_they_are_written_it_writes_them_later(small, tmp_path, world):
    data, config = saved(small, tmp_path), settings(tmp_path / "run", features=True)
    codes = finish(start(dying, data, vars(config), world=world), timeout=120)
    assert codes[0] == -signal.SIGKILL and 0 not in codes
    assert not (tmp_path / "run" / FEATURES).exists()
    before = snapshot(tmp_path / "run")
    assert finish(start(record_from_disk, data, vars(config), world=world)) == [0] * world
    after = snapshot(tmp_path / "run")
    assert after.keys() - before.keys() == {FEATURES} and {**after, **before} == after
    whole = settings(tmp_path / "whole", features=True)
    assert finish(start(record_from_disk, data, vars(whole), world=world)) == [0] * world
    assert snapshot(tmp_path / "whole") == after


def record_cases(folder, world):
    torch.set_num_threads(1)
    data = load_from_disk(f"{folder}/data")
    for rows in (37, 2):
        config = settings(f"{folder}/{world}-{rows}", **FROZEN, features=True)
        record(RecordConfig(**{**vars(config), "batch_size": 8}), data["train"].select(range(rows)), data["test"])


def test_several_processes_make_what_one_does(small, tmp_path):
    train = small["train"]
    other = next(row for row in range(150) if train[row]["label"] != train[0]["label"])
    order = [0, other, *(row for row in range(1, 150) if row != other)]
    DatasetDict({"train": train.select(order), "test": small["test"]}).save_to_disk(str(tmp_path / "data"))
    # Of three processes one has no row of two.
    for world in (1, 3):
        assert finish(start(record_cases, str(tmp_path), world, world=world)) == [0] * world
    for rows in (37, 2):
        one, several = (Trajectories.load(tmp_path / f"{world}-{rows}") for world in (1, 3))
        np.testing.assert_allclose(several.features.of(one.rows), one.features.of(one.rows), atol=2e-3, rtol=2e-3)
        np.testing.assert_allclose(several.features.validation, one.features.validation, atol=2e-3, rtol=2e-3)
        assert len(one.features.of(one.rows)) == rows and one.features.validation.any(axis=1).all()


def test_of_several_runs_the_first_has_them(small, tmp_path):
    config = {"features": True, "runs": 2, "rotate_validation": True}
    run = record(settings(tmp_path / "runs", **config), small["train"])
    first = Trajectories.load(tmp_path / "runs" / "seed-0")
    assert Trajectories.load(tmp_path / "runs" / "seed-1").features is None
    # Those that the first run held out are among them.
    assert len(run.rows) == 150 > len(first.rows)
    found = run.features.of(run.rows)
    np.testing.assert_array_equal(found[first.rows], first.features.of(first.rows))
    np.testing.assert_array_equal(found[first.validation_rows], first.features.validation)
    whole = stamps(tmp_path / "runs")
    record(settings(tmp_path / "runs", **config), small["train"])
    changed = {path.name for path, stamp in stamps(tmp_path / "runs").items() if whole.get(path) != stamp}
    # The recipe of all runs is written whenever they are.
    assert changed <= {"recipe.json", "rows.safetensors"}


def test_by_the_command(small, tmp_path, capsys):
    data = saved(small, tmp_path)
    line = ["record", "--dataset", data, "--model", "test_vit", "--epochs", "2", "--features"]
    assert main([*line, "--output-dir", str(tmp_path / "run")]) == 0
    run = Trajectories.load(tmp_path / "run")
    assert run.features.of(np.arange(150)).shape == (150, run.features.size)
    assert "Recorded" in capsys.readouterr().out
