"""Uncertainty in float32 against numpy's standard deviations in float64, however the losses come in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ltc.scores import windows
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.windows import Uncertainty, squared_deviations, uncertainty
from tests.scores.recordings import falling, make_run


def by_the_letter(losses, window):
    window = min(window, len(losses))
    p = np.exp(-losses.astype(np.float64))
    found = [p[i : i + window].std(axis=0, ddof=1) for i in range(len(p) - window + 1)]
    return np.mean(found[:-1] or found, axis=0)


@pytest.mark.parametrize("window", range(2, 18))
def test_windows_of_any_size(window):
    values = np.random.default_rng(window).random((20, 3), dtype=np.float32)
    expected = [values[i : i + window].var(axis=0) * window for i in range(21 - window)]
    np.testing.assert_allclose(squared_deviations(values, window), expected, rtol=1e-5)


@given(
    length=st.integers(2, 40),
    window=st.integers(2, 14),
    steps=st.lists(st.integers(1, 12), min_size=40, max_size=40),
    lowest=st.sampled_from([1e-6, 1e-3, 1.0, 20.0, 100.0]),
)
@settings(max_examples=50, deadline=None)
def test_in_any_pieces_they_are_the_same(length, window, steps, lowest):
    losses = lowest * falling(np.random.default_rng(length), (length,), 5)
    found, t = Uncertainty(5, length, window), 0
    for step in steps:
        found.add(losses[t : t + step], t, slice(0, 5))
        t += step
    expected = by_the_letter(losses, window)
    # What a score is multiplied by.
    np.testing.assert_allclose(np.sqrt(found.mean()), np.sqrt(expected), atol=1e-6, rtol=0)
    np.testing.assert_allclose(uncertainty(losses, window), expected, atol=1e-6, rtol=0)


def test_long_runs_and_many_rows_are_worked_on_in_blocks(monkeypatch):
    losses = falling(np.random.default_rng(0), (60,), 50)
    whole = uncertainty(losses)
    monkeypatch.setattr(windows, "_STEP", 7)
    monkeypatch.setattr(windows, "_BLOCK", 70)
    np.testing.assert_allclose(uncertainty(losses), whole, atol=1e-7, rtol=0)


def test_of_one_checkpoint_there_is_none():
    assert np.isnan(uncertainty(np.ones((1, 3), dtype=np.float32))).all()


def test_losses_too_negative_for_float32_have_the_highest_score():
    run = make_run(n=6, lengths=(12,))
    run.losses[:, 2] = -90 - run.losses[:, 2]
    run.losses[:, 4] -= 200
    scores = ltc_scores(run)
    assert np.abs(scores[[2, 4]]).tolist() == [1, 1]
    assert (np.abs(np.delete(scores, [2, 4])) < 1).all()
