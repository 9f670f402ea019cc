"""One process against several; what ends one of them ends all."""

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_from_disk

from hf_ltc.config import RecordConfig
from hf_ltc.recording.record import record
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError
from tests.processes import finish, start
from tests.recording.runs import FROZEN, command, saved, settings, spoiled_at, wait_for


def test_processes_that_accelerate_does_not_join_are_refused(small, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"2 processes were started, but accelerate joins 1: .*ACCELERATE_USE_CPU=1"):
        record(settings(tmp_path / "run"), small["train"])
    assert not (tmp_path / "run").exists()


def record_cases(folder, world):
    torch.set_num_threads(1)
    for name, config in cases(folder, world).items():
        data = load_from_disk(str(Path(folder) / "data"))
        rows = int(name.split("-")[0])
        record(RecordConfig(**config), data["train"].select(range(rows)), data["test"])


def cases(folder, world):
    """For each number of rows what to record: one more and one less than the batches hold, a prime, almost none."""
    made = {}
    for rows in (16 * 2 + 1, 16 * 2 - 1, 37, 2):
        for losses in ("training", "both"):
            name = f"{rows}-{losses}"
            config = settings(f"{folder}/{world}-{name}", **FROZEN, losses=losses, signals=["margin", "predicted"])
            made[name] = vars(config) | {"batch_size": 8}
    return made


@pytest.fixture(scope="module")
def alone(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    train = small["train"]
    # The first two rows have to be of two classes, which the case with two rows needs.
    other = next(row for row in range(150) if train[row]["label"] != train[0]["label"])
    order = [0, other, *(row for row in range(1, 150) if row != other)]
    small.__class__({"train": train.select(order), "test": small["test"]}).save_to_disk(str(folder / "data"))
    record_cases(folder, 1)
    return folder


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_record_what_one_does(alone, world):
    assert finish(start(record_cases, str(alone), world, world=world)) == [0] * world
    for name in cases(alone, world):
        one, several = (Trajectories.load(alone / f"{count}-{name}") for count in (1, world))
        assert one.losses.shape == several.losses.shape == (3, int(name.split("-")[0]))
        np.testing.assert_allclose(several.losses, one.losses, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(several.validation_losses, one.validation_losses, atol=1e-5, rtol=1e-5)
        for signal_name, values in one.signals.items():
            np.testing.assert_allclose(several.signals[signal_name], values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("row", [3, 140])
@pytest.mark.parametrize("initial", [True, False])
def test_an_image_that_one_process_cannot_decode_ends_both_with_a_line(small, tmp_path, row, initial):
    spoiled_at(small["train"], row).save_to_disk(str(tmp_path / "data"))
    arguments = ["--dataset", str(tmp_path / "data"), "--output-dir", str(tmp_path / "run"), "--model", "test_vit"]
    arguments += ["--epochs", "3", "--batch-size", "16", "--image-size", "8", "--cache-images", "never"]
    arguments += ["--num-workers", "0", "--validation-per-class", "1", "--initial-losses", str(initial)]
    assert finish(start(command, str(tmp_path), *arguments, world=2), timeout=120) == [2, 2]
    main_said, other_said = ((tmp_path / f"err-{rank}").read_text() for rank in (0, 1))
    (line,) = main_said.splitlines()
    assert line.startswith("hf-ltc: error: ")
    named = f"row {row}, column 'image': not a readable image"
    if initial:
        # Each evaluates its half of the rows, so it is known which of them fails.
        assert (named in line) == (row < 75)
    if named in line:
        assert other_said == ""
    else:
        assert "stopped because another process failed or was killed" in line
        (line,) = other_said.splitlines()
        assert line.startswith(f"hf-ltc: process 1: {named}")
    printed = [line for rank in (0, 1) for line in (tmp_path / f"out-{rank}").read_text().splitlines()]
    # torch 2.9 tells there that the processes are connected.
    assert [line for line in printed if not line.startswith("[Gloo] ")] == []


def test_a_process_that_is_killed_ends_the_other_with_a_line(small, tmp_path):
    arguments = ["--dataset", saved(small, tmp_path), "--output-dir", str(tmp_path / "run"), "--model", "test_vit"]
    arguments += ["--epochs", "500", "--batch-size", "16"]
    processes = start(command, str(tmp_path), *arguments, world=2)
    wait_for(run_dir.epoch_path(tmp_path / "run", 1), processes)
    processes[1].kill()
    assert finish(processes, timeout=120) == [2, -signal.SIGKILL]
    said = (tmp_path / "err-0").read_text()
    assert said.splitlines()[-1].startswith("hf-ltc: error: stopped because another process failed or was killed")
    assert "Traceback" not in said
