"""A byte for each loss: how near it is, what it cannot hold, and what a run directory of such bytes is."""

import dataclasses

import numpy as np
import pytest

from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.reliability import within_class_spearman
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.compact import COMPACT, compact_range, compacted, restored
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.files import RECIPE, read_arrays, read_json
from tests.scores.recordings import make_run


def again(losses):
    return restored(compacted({"training_loss": np.float32(losses)}, ("training_loss",))["training_loss"])


def test_losses_come_back_within_a_fortieth_and_then_stay():
    losses = np.exp(np.random.default_rng(0).uniform(np.log(1e-4), np.log(20), 10_000)).astype(np.float32)
    found = again(losses)
    assert found.dtype == np.float32 and len(np.unique(found)) == 255
    np.testing.assert_allclose(found, losses, rtol=0.025)
    np.testing.assert_array_equal(again(found), found)


def test_outside_the_range_it_is_the_nearest_end_and_what_is_not_finite_stays_so():
    np.testing.assert_allclose(again([0, -0.0, 1e-7, 1e-4, 20, 25, 1e30]), [1e-4] * 4 + [20] * 3, rtol=1e-6)
    assert np.isnan(again([np.nan, np.inf, -np.inf])).all()


def test_what_rounding_leaves_of_zero_is_the_lowest():
    np.testing.assert_allclose(again([-1.2e-7, -9e-5]), 1e-4, rtol=1e-6)


def compact(rounded=True, **changes):
    """A recording with the mark of compact losses, which may be as bytes keep them."""
    run = make_run(n=600, lengths=(31,), rows=np.arange(600), **changes)
    fields = {each.name: getattr(run, each.name) for each in dataclasses.fields(run)}
    losses = again(run.losses) if rounded else run.losses
    return Trajectories(**{**fields, "losses": losses, "recipe": {COMPACT: compact_range()}})


@pytest.mark.parametrize("mmap", [False, True])
def test_losses_that_were_changed_are_saved_as_they_are(tmp_path, mmap):
    compact().save(tmp_path / "run")
    run = Trajectories.load(tmp_path / "run", mmap=mmap)
    run.truncate(9).save(tmp_path / "short")
    assert Trajectories.load(tmp_path / "short").recipe[COMPACT]
    changed = dataclasses.replace(run, losses=np.asarray(run.losses) - 1)
    for name, value in {"one": changed, "two": Trajectories.average([run, changed])}.items():
        value.save(tmp_path / name)
        read = Trajectories.load(tmp_path / name)
        np.testing.assert_array_equal(read.losses, np.asarray(value.losses))
        assert COMPACT not in read.recipe and read.recipe["format"] == 1
    # Each of several runs is as it was.
    stored = [read_arrays(run_dir.epoch_path(tmp_path / "two" / f"seed-{seed}", 3)) for seed in range(2)]
    assert [one["training_loss"].dtype for one in stored] == [np.uint8, np.float32]


def test_versions_that_do_not_know_the_bytes_are_told_by_the_format(tmp_path):
    value = compact()
    value.save(tmp_path / "run")
    Trajectories.average([value, value]).save(tmp_path / "runs")
    for path in ("run", "runs", "runs/seed-0", "runs/seed-1"):
        assert read_json(tmp_path / path / RECIPE)["format"] == 2


def test_a_run_directory_of_bytes_is_read_as_losses_in_memory_and_on_disk(tmp_path):
    unrounded, value = compact(rounded=False), compact()
    value.save(tmp_path / "run")
    stored = read_arrays(run_dir.epoch_path(tmp_path / "run", 3))
    assert {name: values.dtype.name for name, values in stored.items()} == {
        "training_loss": "uint8",
        "validation_loss": "float32",
    }
    read, mapped = (Trajectories.load(tmp_path / "run", mmap=mmap) for mmap in (False, True))
    np.testing.assert_array_equal(read.losses, value.losses)
    np.testing.assert_array_equal(read.validation_losses, value.validation_losses)
    scores = ltc_scores(read)
    np.testing.assert_array_equal(ltc_scores(mapped), scores)
    assert within_class_spearman(scores, ltc_scores(unrounded), value.labels) > 0.99
    # Written again it is the same, to the byte.
    read.save(tmp_path / "again")
    for name, values in read_arrays(run_dir.epoch_path(tmp_path / "again", 3)).items():
        np.testing.assert_array_equal(values, stored[name])
