"""Losses in a byte each, from any loop: resumed, shared out, and never mixed with losses as they are."""

import numpy as np
import pytest
import torch
from datasets import load_from_disk

from hf_ltc.config import RecordConfig
from hf_ltc.recording.record import record
from hf_ltc.recording.recorder import TrajectoryRecorder
from hf_ltc.recording.trainer.callback import TrajectoryCallback
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.compact import compacted, restored
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError
from hf_ltc.utils.files import read_arrays
from tests.processes import finish, start
from tests.recording.runs import FROZEN, record_from_disk, saved, settings, snapshot, wait_for
from tests.recording.trainers import texts, trainer

RANGE = {"bits": 8, "lowest": 1e-4, "highest": 20.0}


def rounded(run):
    stored = [compacted({run.loss_name: losses}, run_dir.LOSSES)[run.loss_name] for losses in run.losses]
    return np.stack([restored(values) for values in stored])


def test_a_killed_recording_ends_as_one_that_was_not_with_rounded_losses(small, tmp_path):
    options = {"epochs": 6, "store": "compact", "losses": "both", "signals": ["margin"]}
    whole = record(settings(tmp_path / "whole", **{**options, "store": "trajectories"}), small["train"])
    found = record(settings(tmp_path / "alone", **options), small["train"])
    np.testing.assert_array_equal(found.losses, rounded(whole))
    np.testing.assert_array_equal(found.validation_losses, whole.validation_losses)
    np.testing.assert_array_equal(found.signals["margin"], whole.signals["margin"])
    assert found.recipe["compact_losses"] == RANGE and "compact_losses" not in whole.recipe
    kinds = {name: values.dtype for name, values in read_arrays(run_dir.epoch_path(tmp_path / "alone", 2)).items()}
    assert [kinds[name] for name in run_dir.LOSSES] == [np.uint8, np.uint8]
    process = start(record_from_disk, saved(small, tmp_path), vars(settings(tmp_path / "killed", **options)))
    wait_for(run_dir.epoch_path(tmp_path / "killed", 3), process)
    process[0].kill()
    finish(process)
    record(settings(tmp_path / "killed", **options), small["train"])
    assert snapshot(tmp_path / "killed") == snapshot(tmp_path / "alone")
    with pytest.raises(InputError, match=r"`store` was 'compact', now 'trajectories'"):
        record(settings(tmp_path / "alone", **{**options, "store": "trajectories"}), small["train"])
    with pytest.raises(InputError, match=r"`store` was 'trajectories', now 'compact'"):
        record(settings(tmp_path / "whole", **options), small["train"])


def record_compact(folder):
    torch.set_num_threads(1)
    data = load_from_disk(f"{folder}/data")
    record(RecordConfig(**vars(settings(f"{folder}/two", **FROZEN, batch_size=16, store="compact"))), data)


def test_two_processes_store_what_one_does(small, tmp_path):
    data = saved(small, tmp_path)
    one = record(settings(tmp_path / "one", **FROZEN, store="compact"), load_from_disk(data))
    assert finish(start(record_compact, str(tmp_path), world=2)) == [0, 0]
    two = Trajectories.load(tmp_path / "two")
    # Losses that differ in their last bits may be rounded to neighbors.
    np.testing.assert_allclose(two.losses, one.losses, rtol=0.05)
    assert (two.losses == one.losses).mean() > 0.99


def test_the_trainer_and_an_own_loop_store_them(tmp_path):
    found = []
    for store in ("trajectories", "compact"):
        callback = TrajectoryCallback(tmp_path / store, texts(), store=store, validation_fraction=0.2)
        trainer(tmp_path / f"{store}-trainer", callback, num_train_epochs=2).train()
        found.append(callback.trajectories)
    np.testing.assert_array_equal(found[1].losses, rounded(found[0]))
    made = TrajectoryRecorder(tmp_path / "own", rows=2, labels=[0, 1], validation_labels=[0], store="compact")
    with made.epoch():
        made.update(range(2), np.array([0.3, 30.0]))
        made.update([0], np.array([0.3]), split="validation")
    assert made.path.joinpath("recipe.json").read_text().count('"format": 2')
    own = made.finish()
    np.testing.assert_allclose(own.losses, [[0.3, 20]], rtol=0.025)
    assert own.validation_losses[0, 0] == np.float32(0.3)
    with pytest.raises(InputError, match="holds another recording"):
        TrajectoryRecorder(tmp_path / "own", rows=2, labels=[0, 1], validation_labels=[0])


def test_negative_losses_are_named_and_the_epoch_can_be_recorded_again(tmp_path):
    rows = [3, 5, 8]
    made = TrajectoryRecorder(tmp_path, rows=rows, labels=[0, 1, 0], validation_labels=[0], store="compact")

    def epoch(losses):
        with made.epoch():
            made.update(rows, np.array(losses))
            # Validation losses are kept as they are.
            made.update([0], np.array([-0.5]), split="validation")

    with pytest.raises(
        InputError, match=r"epoch 0: training_loss of 2 of 3 rows is negative \(rows 5, 8\), and `store` compact keeps"
    ):
        epoch([0.3, -0.5, -0.1])
    epoch([0.3, -1.2e-7, 0.0])
    own = made.finish()
    np.testing.assert_allclose(own.losses, [[0.3, 1e-4, 1e-4]], rtol=0.025)
    assert own.validation_losses[0, 0] == -0.5
