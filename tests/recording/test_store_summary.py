"""Running sums in place of trajectories: the same scores from any loop, however it is interrupted and shared out."""

import dataclasses

import numpy as np
import pytest
import torch
from datasets import load_from_disk

from hf_ltc.config import RecordConfig
from hf_ltc.recording.record import record
from hf_ltc.recording.recorder import TrajectoryRecorder
from hf_ltc.recording.trainer.callback import TrajectoryCallback
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.typicality import ltc_typicality
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.run_sums import read_sums
from hf_ltc.trajectories.summary import LossSummary
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError
from tests.processes import finish, start
from tests.recording.runs import FROZEN, record_from_disk, saved, settings, snapshot, wait_for
from tests.recording.trainers import texts, trainer

EPOCHS = 13


def check_same(sums, whole):
    assert isinstance(sums, LossSummary) and isinstance(whole, Trajectories)
    np.testing.assert_array_equal(sums.rows, whole.rows)
    for variant in ({}, {"preset": "das"}, {"preset": "cld"}, {"of": "differences", "scope": "dataset"}):
        np.testing.assert_allclose(sums.scores(**variant), ltc_scores(whole, **variant), atol=1e-5)
    np.testing.assert_allclose(sums.typicality(), ltc_typicality(whole), rtol=1e-5)


def test_a_killed_recording_ends_as_one_that_was_not_and_scores_as_trajectories_do(small, tmp_path):
    options = {"epochs": EPOCHS, "store": "summary"}
    whole = record(settings(tmp_path / "whole", epochs=EPOCHS), small["train"])
    sums = record(settings(tmp_path / "alone", **options), small["train"])
    check_same(sums, whole)
    process = start(record_from_disk, saved(small, tmp_path), vars(settings(tmp_path / "killed", **options)))
    wait_for(run_dir.epoch_path(tmp_path / "killed", 3), process)
    process[0].kill()
    finish(process)
    now = LossSummary.load(tmp_path / "killed")
    np.testing.assert_allclose(now.scores(), ltc_scores(whole.truncate(int(now.epochs[-1]))), atol=1e-5)
    record(settings(tmp_path / "killed", **options), small["train"])
    assert snapshot(tmp_path / "killed") == snapshot(tmp_path / "alone")
    # The sums are in the newest file alone.
    sizes = [run_dir.epoch_path(tmp_path / "alone", epoch).stat().st_size for epoch in range(EPOCHS + 1)]
    assert len(set(sizes[:-1])) == 1 and sizes[-1] > 10 * sizes[0]
    with pytest.raises(InputError, match=r"`store` was 'summary', now 'trajectories'"):
        record(settings(tmp_path / "alone", epochs=EPOCHS), small["train"])
    with pytest.raises(InputError, match=r"`store` was 'trajectories', now 'summary'"):
        record(settings(tmp_path / "whole", **options), small["train"])


def record_sums(folder):
    torch.set_num_threads(1)
    data = load_from_disk(f"{folder}/data")
    record(RecordConfig(**vars(settings(f"{folder}/two", **FROZEN, batch_size=16, store="summary"))), data)


def test_two_processes_sum_what_one_does(small, tmp_path):
    data = saved(small, tmp_path)
    one = record(settings(tmp_path / "one", **FROZEN, store="summary"), load_from_disk(data))
    assert finish(start(record_sums, str(tmp_path), world=2)) == [0, 0]
    two = LossSummary.load(tmp_path / "two")
    for name, values in one.sums[0].arrays().items():
        if name != "hashed":
            np.testing.assert_allclose(two.sums[0].arrays()[name], values, atol=1e-4, err_msg=name)


def test_several_seeds_are_summed_each_and_their_agreement_is_told(small, tmp_path):
    options = {"epochs": 3, "runs": 2}
    whole = record(settings(tmp_path / "whole", **options), small["train"])
    sums = record(settings(tmp_path / "sums", **options, store="summary"), small["train"])
    np.testing.assert_allclose(sums.scores(), ltc_scores(whole), atol=1e-5)
    assert sums.recipe["reliability"]["one"] == pytest.approx(whole.recipe["reliability"]["one"], abs=1e-3)
    again = record(settings(tmp_path / "sums", **options, store="summary"), small["train"])
    assert len(again.sums) == len(again.runs) == 2
    scored, expected = (run.score(small["train"]) for run in (again, whole))
    one, other = (np.array(rows["ltc_score"][:], dtype=float) for rows in (scored, expected))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_trainer_sums_what_it_records(tmp_path):
    found = []
    for store in ("trajectories", "summary"):
        callback = TrajectoryCallback(tmp_path / store, texts(), store=store, validation_fraction=0.2)
        trainer(tmp_path / f"{store}-trainer", callback, num_train_epochs=4).train()
        found.append(callback.trajectories)
    check_same(found[1], found[0])


def own_loop(folder, epochs, **options):
    made = TrajectoryRecorder(folder, rows=6, labels=[0, 1] * 3, validation_labels=[0, 1], store="summary", **options)
    for epoch in range(made.next_epoch, epochs):
        draw = np.random.default_rng(epoch).random(8, dtype=np.float32)
        with made.epoch():
            made.update(range(6), draw[:6])
            made.update(range(2), draw[6:], split="validation")
    return made


def test_an_own_loop_goes_on_where_it_was_ended(tmp_path):
    own_loop(tmp_path / "whole", 15).finish()
    for epochs in (1, 2, 12, 15):
        made = own_loop(tmp_path / "parts", epochs)
    made.finish()
    assert [made.run] == [own_loop(tmp_path / "whole", 15).run]
    assert snapshot(tmp_path / "parts") == snapshot(tmp_path / "whole")


def test_an_epoch_that_could_not_be_written_is_not_added(tmp_path, monkeypatch):
    made = own_loop(tmp_path / "run", 4)

    def full(*arguments):
        raise OSError("No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"), made.epoch():
        patched.setattr(run_dir, "write_arrays", full)
        made.update(range(6), np.ones(6))
        made.update(range(2), np.ones(2), split="validation")
    draw = np.random.default_rng(4).random(8, dtype=np.float32)
    with made.epoch():
        made.update(range(6), draw[:6])
        made.update(range(2), draw[6:], split="validation")
    own_loop(tmp_path / "other", 5)
    newest = [read_sums(run_dir.epoch_path(tmp_path / name, 4)) for name in ("run", "other")]
    for name, values in newest[0].arrays().items():
        np.testing.assert_array_equal(values, newest[1].arrays()[name])


def test_what_sums_cannot_keep_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"`store` 'summary' keeps running sums of one kind of loss, and `losses` is"):
        own_loop(tmp_path / "run", 0, losses=["training_loss", "margin"])
    with pytest.raises(InputError, match="`store` is 'sums': it must be one of 'trajectories', 'compact', 'summary'"):
        TrajectoryRecorder(tmp_path / "run", rows=2, labels=[0, 1], validation_labels=[0], store="sums")
    asked = {
        "losses": "both",
        "signals": ["margin"],
        "features": True,
        "rotate_validation": True,
        "stop_when_stable": 0.9,
    }
    for name, value in asked.items():
        with pytest.raises(InputError, match=f"`store` summary keeps running sums of one loss .*, and `{name}`"):
            dataclasses.replace(RecordConfig(store="summary"), **{name: value})
    with pytest.raises(InputError, match="holds another recording"):
        own_loop(tmp_path / "own", 2)
        TrajectoryRecorder(tmp_path / "own", rows=6, labels=[0, 1] * 3, validation_labels=[0, 1])
