"""A byte for each loss: how near it is, what it cannot hold, and what a run directory of such bytes is."""

import dataclasses

import numpy as np
import pytest

from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.reliability import within_class_spearman
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.compact import COMPACT, compact_range, compacted, restored
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError
from hf_ltc.utils.files import read_arrays
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


def test_negative_losses_are_refused():
    with pytest.raises(InputError, match=r"keeps logarithms of losses, and a loss is -0.5: record with `store` traj"):
        again([1, -0.5, -0.1])


def test_a_run_directory_of_bytes_is_read_as_losses_in_memory_and_on_disk(tmp_path):
    run = make_run(n=600, lengths=(31,), rows=np.arange(600))
    fields = {each.name: getattr(run, each.name) for each in dataclasses.fields(run)}
    value = Trajectories(**{**fields, "recipe": {COMPACT: compact_range()}})
    value.save(tmp_path / "run")
    stored = read_arrays(run_dir.epoch_path(tmp_path / "run", 3))
    assert {name: values.dtype.name for name, values in stored.items()} == {
        "training_loss": "uint8",
        "validation_loss": "float32",
    }
    read, mapped = (Trajectories.load(tmp_path / "run", mmap=mmap) for mmap in (False, True))
    np.testing.assert_array_equal(read.losses, again(value.losses))
    np.testing.assert_array_equal(read.validation_losses, value.validation_losses)
    scores = ltc_scores(read)
    np.testing.assert_array_equal(ltc_scores(mapped), scores)
    assert within_class_spearman(scores, ltc_scores(value), value.labels) > 0.99
    # Written again it is the same, to the byte.
    read.save(tmp_path / "again")
    for name, values in read_arrays(run_dir.epoch_path(tmp_path / "again", 3)).items():
        np.testing.assert_array_equal(values, stored[name])
