"""Scores by running sums against those by stored trajectories, and against scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ltc.scores import running_sums
from hf_ltc.scores.baselines import mean_loss
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.running_sums import RunningSums, mean_validation_losses
from hf_ltc.scores.typicality import ltc_typicality, typicality_for
from hf_ltc.trajectories.summary import LossSummary
from tests.scores.recordings import VARIANTS, WEIGHED, directly, make_run, named
from tests.scores.test_kernels import KINDS

BY_MEANS = [member for member in VARIANTS + WEIGHED if member[1] == "losses"]


def summed(run):
    """The recording with running sums in place of its losses."""
    classes = int(max(run.labels.max(), run.validation_labels.max())) + 1
    sums = RunningSums.none(run.losses.shape[1], classes)
    for epoch, losses, held in zip(run.epochs, run.losses, run.validation_losses):
        sums.add(losses, run.labels, mean_validation_losses(held, run.validation_labels, classes), trained=epoch > 0)
    fields = ("validation_losses", "labels", "validation_labels", "rows", "validation_rows", "epochs", "lengths")
    return LossSummary((sums,), **{name: getattr(run, name) for name in fields})


@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(sorted(KINDS)),
    exponents=st.tuples(st.floats(-6, 4), st.floats(-6, 4)),
    length=st.integers(3, 60),
    first=st.integers(0, 1),
    member=st.sampled_from(BY_MEANS),
)
@settings(max_examples=200, deadline=None)
def test_they_are_those_of_the_trajectories(seed, kind, exponents, length, first, member):
    rng = np.random.default_rng(seed)
    losses, held = (
        (10.0**exponent * rng.random((length, n))).astype(np.float32) for exponent, n in zip(exponents, (6, 6))
    )
    losses[:, :3] = 10.0 ** exponents[0] * KINDS[kind](rng, length, 3)
    run = make_run(6, 6, (length,), losses=losses, validation_losses=held, epochs=np.arange(length) + first)
    found = summed(run).scores(**named(member))
    np.testing.assert_allclose(found, ltc_scores(run, **named(member)), atol=1e-5, rtol=0)
    np.testing.assert_allclose(found, directly(run, *member), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1.0, 1e4, 1e20], ids=str)
@pytest.mark.parametrize("of", ["differences", "levels"])
def test_flat_tiny_and_huge_losses_are_exact(kind, scale, of):
    for length, n in [(3, 8), (21, 8), (1001, 2)]:
        losses = (scale * KINDS[kind](np.random.default_rng(length), length, n)).astype(np.float32)
        run = make_run(n=n, q=3, lengths=(length,), losses=losses)
        for weighting in ("none", "uncertainty"):
            member = (of, "losses", "dataset", weighting)
            np.testing.assert_allclose(summed(run).scores(**named(member)), directly(run, *member), atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [3, 9, 10, 11, 12, 30, 31, 32, 45])
@pytest.mark.parametrize("first", [0, 1])
def test_typicality_and_mean_losses_are_the_same(length, first):
    run = make_run(n=500, lengths=(length,), epochs=np.arange(length) + first)
    found = summed(run)
    np.testing.assert_allclose(found.typicality(), ltc_typicality(run), rtol=1e-6)
    np.testing.assert_allclose(found.typicality(4), typicality_for(run, 4), rtol=1e-6)
    trained = run.losses[1 - first :]
    np.testing.assert_allclose(found.mean_losses(), mean_loss(trained), rtol=1e-6)


def test_flat_rows_have_no_score():
    run = make_run(n=20, lengths=(12,))
    run.losses[:, 3] = 1.7
    run.losses[:, 5] = 4 - 0.25 * np.arange(12)
    assert np.flatnonzero(np.isnan(summed(run).scores())).tolist() == [3]
    assert np.flatnonzero(np.isnan(summed(run).scores(of="differences"))).tolist() == [3, 5]


def test_many_rows_are_worked_on_in_blocks(monkeypatch):
    run = make_run(n=50, lengths=(14,))
    whole = summed(run)
    monkeypatch.setattr(running_sums, "_BLOCK", 7)
    for name, values in summed(run).sums[0].arrays().items():
        np.testing.assert_array_equal(values, whole.sums[0].arrays()[name])
    np.testing.assert_array_equal(summed(run).typicality(), whole.typicality())


def test_bytes_of_a_row_whatever_the_epochs():
    one, many = (RunningSums.none(rows, 10).arrays().values() for rows in (1, 1001))
    assert sum(each.nbytes for each in many) - sum(each.nbytes for each in one) == 1000 * 136
