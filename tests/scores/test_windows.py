"""Uncertainty in float32 against numpy's standard deviations in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.windows import squared_deviations, uncertainty
from tests.scores.recordings import falling, make_run


def by_the_letter(losses, window):
    window = min(window, len(losses))
    p = np.exp(-losses.astype(np.float64))
    found = [p[i : i + window].std(axis=0, ddof=1) for i in range(len(p) - window + 1)]
    return np.mean(found[:-1] or found, axis=0)


@pytest.mark.parametrize("count", [18, 20, 36, 37, 60])
@pytest.mark.parametrize("window", range(2, 18))
def test_windows_of_any_size(window, count):
    values = np.random.default_rng(window).random((count, 3), dtype=np.float32)
    expected = [values[i : i + window].var(axis=0) * window for i in range(count - window + 1)]
    found = np.concatenate([squares.copy() for squares in squared_deviations(values, window)])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("window", [2, 10, 17])
def test_windows_far_from_the_other_values_keep_their_digits(window):
    # A probability that was learned at once, and hardly varies before and after.
    draw = np.random.default_rng(0)
    values = np.repeat(np.float32([0, 1]), 30)[:, None] + draw.random((60, 4)).astype(np.float32) * np.float32(1e-4)
    expected = [values[i : i + window].astype(np.float64).var(axis=0) * window for i in range(61 - window)]
    found = np.concatenate([squares.copy() for squares in squared_deviations(values, window)])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@given(
    length=st.integers(2, 40),
    window=st.integers(2, 14),
    lowest=st.sampled_from([1e-6, 1e-3, 1.0, 20.0, 100.0]),
)
@settings(max_examples=50, deadline=None)
def test_it_is_numpys(length, window, lowest):
    losses = lowest * falling(np.random.default_rng(length), (length,), 5)
    # What a score is multiplied by.
    expected = np.sqrt(by_the_letter(losses, window))
    np.testing.assert_allclose(np.sqrt(uncertainty(losses, window)), expected, atol=1e-6, rtol=0)


def test_of_one_checkpoint_there_is_none():
    assert np.isnan(uncertainty(np.ones((1, 3), dtype=np.float32))).all()


def test_losses_too_negative_for_float32_have_the_highest_score():
    run = make_run(n=6, lengths=(18,))
    run.losses[:, 2] = -90 - run.losses[:, 2]
    run.losses[:, 4] -= 200
    scores = ltc_scores(run)
    assert np.abs(scores[[2, 4]]).tolist() == [1, 1]
    assert (np.abs(np.delete(scores, [2, 4])) < 1).all()
