"""Validation samples that rotate over runs: each row is recorded, and each run is as it would be by itself."""

import json

import numpy as np
import pytest
from datasets import DatasetDict, load_from_disk

from hf_ltc.cli.main import main
from hf_ltc.data.columns import read_column
from hf_ltc.data.labels import read_labels
from hf_ltc.recording.record import record
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError
from tests.helpers import refused
from tests.processes import finish, start
from tests.recording.runs import record_from_disk, saved, settings, snapshot, wait_for
from tests.scores.recordings import directly

FIFTHS = {"rotate_validation": True, "runs": 5, "validation_fraction": 0.2}
DEFAULT = ("levels", "losses", "dataset", "uncertainty")


def recorded_and_held(run, labels):
    """Checks the hold-outs of a value of several runs; returns how often each row was recorded and held out."""
    times = np.zeros((2, len(labels)), int)
    for one in run.runs:
        assert sorted([*one.rows, *one.validation_rows]) == list(range(len(labels)))
        np.testing.assert_array_equal(one.labels, labels[one.rows])
        np.testing.assert_array_equal(one.validation_labels, labels[one.validation_rows])
        times[0, one.rows] += 1
        times[1, one.validation_rows] += 1
        share = np.bincount(one.validation_labels) / np.bincount(labels)
        fraction = run.recipe["validation"]["validation_fraction"]
        # Stratified, but for the rounding to whole rows.
        assert (np.abs(share - fraction) * np.bincount(labels) < 1).all()
    return times


def test_by_the_command_two_runs_lose_no_row(small, tmp_path, capsys):
    data = saved(small, tmp_path)
    line = ["record", "--dataset", data, "--model", "test_resnet", "--epochs", "3", "--batch-size", "32"]
    line += ["--runs", "2", "--rotate-validation", "--output-dir", str(tmp_path / "run")]
    assert main([*line, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    run = Trajectories.load(tmp_path / "run")
    labels = read_labels(small["train"], "label")
    recorded, held = recorded_and_held(run, labels)
    assert recorded.min() == 1 and held.max() == 1
    assert (said["rows"], said["validation_rows"]) == (150, int((held > 0).sum()))
    assert said["validation_loss"] == pytest.approx(float(run.runs[-1].validation_losses[-1].mean()))
    assert main(line) == 0
    assert f"Recorded 150 rows and {held.sum()} validation samples among them at 4 + 4" in capsys.readouterr().out
    assert main(["score", str(tmp_path / "run"), "--output", str(tmp_path / "scored"), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert (scored["rows"], scored["scored"], scored["held_out"]) == (150, 150, 0)
    assert scored["reliability"]["runs"] == 2
    by_run = np.full((2, 150), np.nan)
    for number, one in enumerate(run.runs):
        by_run[number, one.rows] = directly(one, *DEFAULT)
    found = read_column(load_from_disk(str(tmp_path / "scored")), "ltc_score").to_numpy()
    np.testing.assert_allclose(found, np.nanmean(by_run, axis=0), atol=2e-6)
    whole = ["--fraction", "1", "--output", str(tmp_path / "all"), "--json"]
    assert main(["select", str(tmp_path / "scored"), *whole]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 150
    assert main(["compare", str(tmp_path / "run" / "seed-0"), str(tmp_path / "run" / "seed-1"), "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert compared["one"] == pytest.approx(scored["reliability"]["one"])


def test_of_five_runs_each_row_is_a_validation_sample_of_one(small, tmp_path):
    run = record(settings(tmp_path / "run", **FIFTHS, validation_per_class=100, seed=3), small["train"])
    recorded, held = recorded_and_held(run, read_labels(small["train"], "label"))
    assert (recorded == 4).all() and (held == 1).all()
    assert not np.isnan(ltc_scores(run)).any()
    for seed, one in zip(range(3, 8), run.runs):
        stored = Trajectories.load(tmp_path / "run" / f"seed-{seed}")
        np.testing.assert_array_equal(stored.losses, one.losses)
        np.testing.assert_array_equal(stored.rows, one.rows)
    # The run of these rows alone, with those held out as a split of their own.
    parts = [small["train"].select(rows) for rows in (stored.rows, stored.validation_rows)]
    alone = record(settings(tmp_path / "alone", seed=7), *parts)
    np.testing.assert_array_equal(alone.losses, stored.losses)
    np.testing.assert_array_equal(alone.validation_losses, stored.validation_losses)


def test_more_runs_add_to_those_that_are_there(small, tmp_path):
    first = record(settings(tmp_path / "run", rotate_validation=True, runs=2), small["train"])
    before = snapshot(tmp_path / "run" / "seed-1")
    more = record(settings(tmp_path / "run", rotate_validation=True, runs=3), small["train"])
    assert more.lengths == (3, 3, 3)
    assert snapshot(tmp_path / "run" / "seed-1") == before
    np.testing.assert_array_equal(more.runs[1].losses, first.runs[1].losses)
    with pytest.raises(InputError, match="`rotate_validation` was True, now False") as error:
        record(settings(tmp_path / "run", runs=3), small["train"])
    refused(error)
    with pytest.raises(InputError, match="other validation samples"):
        record(settings(tmp_path / "run", rotate_validation=True, runs=4, validation_seed=1), small["train"])


def test_runs_that_share_their_hold_out_do_not_begin_to_rotate(small, tmp_path):
    record(settings(tmp_path / "run", runs=2), small["train"])
    before = snapshot(tmp_path / "run")
    with pytest.raises(InputError, match="`rotate_validation` was False, now True"):
        record(settings(tmp_path / "run", runs=2, rotate_validation=True), small["train"])
    # A run of a version that did not know of it goes on.
    for path in (tmp_path / "run").glob("seed-*/recipe.json"):
        recipe = json.loads(path.read_text())
        del recipe["config"]["rotate_validation"]
        path.write_text(json.dumps(recipe))
    assert record(settings(tmp_path / "run", runs=3), small["train"]).lengths == (3, 3, 3)
    assert (
        snapshot(tmp_path / "run" / "seed-0").items()
        <= {
            name.removeprefix("seed-0/"): digest for name, digest in before.items() if name.startswith("seed-0/")
        }.items()
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({}, "`rotate_validation` with `runs` 1: no other run records the rows that this one holds out"),
        ({"runs": 2, "validation_fraction": 0.6}, "`validation_fraction` 0.6 and `runs` 2 holds rows out of every"),
    ],
)
def test_what_cannot_rotate_is_refused(small, tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as error:
        record(settings(tmp_path / "run", rotate_validation=True, **changes), small["train"])
    refused(error)
    assert not (tmp_path / "run").exists()


def test_a_validation_split_does_not_rotate(small, tmp_path, capsys):
    DatasetDict(small).save_to_disk(str(tmp_path / "data"))
    line = ["record", "--dataset", str(tmp_path / "data"), "--output-dir", str(tmp_path / "run"), "--runs", "2"]
    assert main([*line, "--rotate-validation", "--validation-split", "test"]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "--rotate-validation holds out rows of the recorded dataset, and --validation-split gives others" in said
    assert not (tmp_path / "run").exists()


def test_two_processes_hold_out_and_record_as_one(small, tmp_path):
    data, config = saved(small, tmp_path), {**FIFTHS, "runs": 2}
    assert finish(start(record_from_disk, data, vars(settings(tmp_path / "one", **config)))) == [0]
    assert finish(start(record_from_disk, data, vars(settings(tmp_path / "two", **config)), world=2)) == [0, 0]
    one, two = (Trajectories.load(tmp_path / name) for name in ("one", "two"))
    for name in ("rows", "validation_rows", "labels", "validation_labels", "epochs"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    for name in ("losses", "validation_losses"):
        np.testing.assert_array_equal(np.isnan(getattr(one, name)), np.isnan(getattr(two, name)))
        # At epoch 0: how rows share batches has no part in it.
        np.testing.assert_allclose(getattr(one, name)[0], getattr(two, name)[0], rtol=1e-4)


def test_killed_in_the_second_run_it_ends_the_same(small, tmp_path):
    data, config = saved(small, tmp_path), {"epochs": 4, "runs": 2, "rotate_validation": True}
    assert finish(start(record_from_disk, data, vars(settings(tmp_path / "whole", **config)))) == [0]
    process = start(record_from_disk, data, vars(settings(tmp_path / "run", **config)))
    wait_for(run_dir.epoch_path(tmp_path / "run" / "seed-1", 1), process)
    process[0].kill()
    finish(process)
    assert not (tmp_path / "run" / "recipe.json").exists()
    assert finish(start(record_from_disk, data, vars(settings(tmp_path / "run", **config)))) == [0]
    assert snapshot(tmp_path / "run") == snapshot(tmp_path / "whole")
