"""Recordings that end early: at the epoch that the whole recording says, however often they are interrupted."""

from functools import partial

import numpy as np
import pytest

from hf_ltc.config import RecordConfig
from hf_ltc.recording import source_run
from hf_ltc.recording.record import record
from hf_ltc.training import loop
from hf_ltc.training.models import load_model
from hf_ltc.trajectories.compare import stability
from hf_ltc.trajectories.value import Trajectories
from tests.processes import finish, start

EPOCHS = 10


def settings(folder, **changes):
    defaults = {"model": "test_resnet", "epochs": EPOCHS, "batch_size": 32, "learning_rate": 0.05}
    return RecordConfig(**{**defaults, **changes}, output_dir=str(folder))


stability_of_ltc = partial(stability, preset="ltc")


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """A recording of all epochs, its stability after each, a threshold that is reached within, and where."""
    run = record(settings(tmp_path_factory.mktemp("whole") / "run"), small["train"])
    values = [stability_of_ltc(run.truncate(epoch)) for epoch in range(EPOCHS + 1)]
    # Four differences are the fewest of which half have a correlation.
    assert all(np.isnan(values[:4])) and not any(np.isnan(values[4:]))
    threshold = max(values[4:-2]) - 1e-6
    first = next(epoch for epoch, value in enumerate(values) if value >= threshold)
    assert threshold > 0 and first < EPOCHS
    return run, threshold, first


def assert_stopped(run, whole):
    complete, threshold, first = whole
    assert run.epochs.tolist() == list(range(first + 1))
    np.testing.assert_array_equal(run.losses, complete.losses[: first + 1])
    np.testing.assert_array_equal(run.validation_losses, complete.validation_losses[: first + 1])
    assert run.recipe["stopped_at"] == first
    value = stability_of_ltc(run)
    assert run.recipe["stopped_because"] == (
        f"LTC of all epochs and LTC of half of them correlate by {value:.4f} (`stop_when_stable` {threshold})"
    )


def test_it_ends_where_the_whole_recording_is_stable(small, tmp_path, whole, caplog):
    caplog.set_level("INFO", "hf_ltc")
    complete, threshold, first = whole
    run = record(settings(tmp_path / "run", stop_when_stable=threshold), small["train"])
    assert_stopped(run, whole)
    assert "stopped_at" not in complete.recipe
    said = caplog.text
    assert f"ended after epoch {first} of {EPOCHS}: LTC of all epochs" in said
    assert f"stability {stability_of_ltc(run):.3f}" in said
    load_model(tmp_path / "run" / "source_model", averaged=True)
    assert not (tmp_path / "run" / "checkpoint").exists()
    # The same command again finds a finished run.
    assert record(settings(tmp_path / "run", stop_when_stable=threshold), small["train"]).recipe == run.recipe


@pytest.mark.parametrize("early", [0, 1, 2])
def test_interrupted_it_ends_at_the_same_epoch(small, tmp_path, monkeypatch, whole, early):
    _, threshold, first = whole
    config = settings(tmp_path / "run", stop_when_stable=threshold)
    if early:
        trained = loop.train_epoch

        def cut(state, *arguments):
            if state.epoch == first - early:
                raise OSError("cable")
            trained(state, *arguments)

        monkeypatch.setattr(loop, "train_epoch", cut)
    else:
        # After the last epoch is written, and before it is said that it was the last.
        monkeypatch.setattr(source_run.SourceRun, "_finish", lambda *_: (_ for _ in ()).throw(OSError("cable")))
    with pytest.raises(OSError, match="cable"):
        record(config, small["train"])
    assert Trajectories.load(tmp_path / "run").epochs[-1] == first - early
    monkeypatch.undo()
    assert_stopped(record(config, small["train"]), whole)


def test_what_is_never_stable_is_recorded_to_the_end(small, tmp_path):
    run = record(settings(tmp_path / "high", stop_when_stable=1, epochs=6), small["train"])
    assert run.epochs.tolist() == list(range(7))
    assert "stopped_at" not in run.recipe
    # Of a model that does not learn, no score is known, so none is stable.
    frozen = settings(tmp_path / "flat", stop_when_stable=0.01, epochs=6, learning_rate=0.0, model="test_vit")
    assert record(frozen, small["train"]).epochs.tolist() == list(range(7))


def test_each_of_several_runs_ends_when_it_is_stable(small, tmp_path, whole):
    _, threshold, _ = whole
    run = record(settings(tmp_path / "runs", stop_when_stable=threshold, runs=2), small["train"])
    assert_stopped(run.runs[0], whole)
    assert sum(run.lengths) == len(run.epochs)
    assert 0 < run.recipe["reliability"]["mean"] <= 1 or run.recipe["reliability"]["one"] <= 0


def distributed(train, folder, threshold):
    record(settings(folder, stop_when_stable=threshold, batch_size=16), train)


def test_processes_end_together(small, tmp_path):
    assert finish(start(distributed, small["train"], str(tmp_path / "run"), 0.01, world=2)) == [0, 0]
    run = Trajectories.load(tmp_path / "run")
    values = [stability_of_ltc(run.truncate(epoch)) for epoch in run.epochs.tolist()]
    assert [value >= 0.01 for value in values].index(True) == len(run.epochs) - 1 == run.recipe["stopped_at"]
