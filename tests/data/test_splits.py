"""Rows held out of each class, and rows evenly spaced."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ltc.data.splits import evenly_spaced, hold_out
from tests.helpers import error_of

histograms = st.lists(st.integers(2, 40), min_size=1, max_size=8)


@settings(deadline=None)
@given(histograms, st.floats(0.001, 0.999), st.integers(1, 60), st.integers(0, 2**32), st.randoms())
def test_hold_out_laws(counts, fraction, per_class, seed, random):
    labels = np.repeat(np.arange(len(counts)) * 3, counts)
    order = list(range(len(labels)))
    random.shuffle(order)
    labels = labels[order]
    kept, held = hold_out(labels, fraction, per_class, seed)
    assert kept.dtype == held.dtype == np.int64
    assert (np.diff(kept) > 0).all() and (np.diff(held) > 0).all()
    assert sorted([*kept, *held]) == list(range(len(labels)))
    for c, n in enumerate(counts):
        assert (labels[held] == c * 3).sum() == min(max(round(fraction * n), 1), per_class, n - 1)
    again = hold_out(labels.copy(), fraction, per_class, seed)
    assert (again[0] == kept).all() and (again[1] == held).all()


@given(histograms, st.floats(0.001, 0.999), st.integers(1, 60), st.integers(0, 2**32), st.integers(2, 12))
def test_hold_outs_that_rotate(counts, fraction, per_class, seed, turns):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    held = [hold_out(labels, fraction, per_class, seed, turn=turn)[1] for turn in range(turns)]
    times = np.bincount(np.concatenate(held), minlength=len(labels))
    for c, n in enumerate(counts):
        wanted = min(max(fraction * n, 1), per_class, n - 1)
        sizes = [int((labels[rows] == c).sum()) for rows in held]
        # Stratified: of each class as many in each turn, but for rounding.
        assert all(1 <= size < n and abs(size - wanted) < 1 for size in sizes)
        # Disjoint until the class is used up, and then again.
        assert set(times[labels == c]) <= {sum(sizes) // n, -(-sum(sizes) // n)}
    if fraction * turns <= turns - 1:
        assert times.max() < turns
    if fraction * turns <= 1 and all(turns <= n for n in counts):
        # Every row is recorded in all turns but one.
        assert times.max() == 1


@given(histograms, st.integers(2, 10), st.integers(0, 2**32), st.integers(0, 1000))
def test_hold_outs_of_a_whole_rotation_hold_each_row_out_once(counts, turns, seed, first):
    labels = np.repeat(np.arange(len(counts)), [n + turns for n in counts])
    held = [hold_out(labels, 1 / turns, 100, seed, turn=turn)[1] for turn in range(first, first + turns)]
    assert sorted(np.concatenate(held)) == list(range(len(labels)))
    kept, first_held = hold_out(labels, 1 / turns, 100, seed)
    again = hold_out(labels, 1 / turns, 100, seed, turn=0)
    assert (again[0] == kept).all() and (again[1] == first_held).all()


def test_hold_out_is_the_same_on_any_machine():
    labels = np.arange(60) % 3
    assert hold_out(labels, 0.2, seed=0)[1].tolist() == [2, 3, 11, 13, 15, 20, 21, 46, 48, 55, 58, 59]
    assert not set(hold_out(labels, 0.2, turn=1)[1]) & {2, 3, 11, 13, 15, 20, 21, 46, 48, 55, 58, 59}
    assert hold_out(labels, 0.2, seed=1)[1].tolist() == [2, 5, 9, 14, 16, 17, 28, 31, 36, 39, 48, 55]


def test_hold_out_draws_every_row_as_often():
    labels = np.repeat([0, 1], [10, 30])
    draws = 4000
    times = np.zeros(len(labels))
    for seed in range(draws):
        times[hold_out(labels, 0.3, seed=seed)[1]] += 1
    # Five standard deviations of a binomial count of 4000 draws at 0.3.
    assert np.abs(times - 0.3 * draws).max() < 5 * np.sqrt(draws * 0.3 * 0.7)


def test_hold_out_of_too_small_classes():
    labels = np.array([0, 0, 1, 2, 2, 3])
    assert "2 classes of fewer than the two rows that holding out needs: '1', '3'" in error_of(hold_out, labels)
    assert "1 class of fewer" in error_of(hold_out, labels[:3])
    message = error_of(hold_out, labels, names=["ant", "bee", "cat", "doe"])
    assert "'bee', 'doe'" in message and "(`validation`)" in message


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_hold_out_of_no_proper_fraction(fraction):
    assert f"`validation_fraction` is {fraction!r}" in error_of(hold_out, np.array([0, 0, 1, 1]), fraction)


def test_hold_out_of_less_than_a_row_a_class():
    assert "`validation_per_class` is 0" in error_of(hold_out, np.array([0, 0, 1, 1]), per_class=0)


@settings(deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 200))
def test_evenly_spaced(n, count):
    positions = evenly_spaced(n, count)
    assert positions.dtype == np.int64 and len(positions) == min(n, count)
    if n:
        gaps = np.diff(positions)
        assert positions[0] == 0 and (count == 1 or positions[-1] == n - 1)
        assert len(gaps) == 0 or (gaps.min() > 0 and gaps.max() - gaps.min() <= 1)
