"""Signs of wrong labels, against slow literal implementations and what chance does."""

import dataclasses
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm, pearsonr

from hf_ltc.report import suspicion
from hf_ltc.report.suspicion import (
    conflicting,
    correct_share,
    late_votes,
    wrong_label_count,
    wrong_label_quality,
)
from tests.trajectories.recordings import FLAT, make

CLASSES = 3


def recorded(lengths=(7, 4), seed=0, **signals):
    run = make(lengths=lengths, signals=("margin",), seed=seed)
    return dataclasses.replace(run, signals={**run.signals, **signals})


def predictions(run, seed, gone=0.0):
    draw = np.random.default_rng(seed)
    table = draw.integers(0, CLASSES, run.losses.shape).astype(np.float32)
    table[draw.random(table.shape) < gone] = np.nan
    return table


def late(lengths):
    """The checkpoints of the second half of each run."""
    found, start = [], 0
    for length in lengths:
        found += range(start + length // 2, start + length)
        start += length
    return found


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([(3,), (8,), (7, 4), (3, 3, 3)]), st.integers(0, 99), st.sampled_from([0.0, 0.5, 1.0]))
def test_the_class_that_most_late_epochs_give_wins_and_of_equals_the_later(lengths, seed, gone):
    run = recorded(lengths)
    table = predictions(run, seed, gone)
    run = dataclasses.replace(run, signals={"predicted": table})
    before, suspicion._BLOCK = suspicion._BLOCK, 7
    try:
        votes = late_votes(run)
    finally:
        suspicion._BLOCK = before
    for row in range(len(run)):
        given_ = [(place, int(table[t, row])) for place, t in enumerate(late(lengths)) if np.isfinite(table[t, row])]
        counts = Counter(number for _, number in given_)
        if not counts:
            assert votes.winner[row] == -1 and np.isnan(votes.given[row])
            continue
        best = [number for number, count in counts.items() if count == max(counts.values())]
        times = {number: sum(place for place, each in given_ if each == number) for number in best}
        assert times[votes.winner[row]] == max(times.values())
        assert votes.given[row] == pytest.approx(counts[run.labels[row]] / len(given_))


def test_without_predictions_nobody_votes():
    assert late_votes(recorded()) is None


def test_quality_is_the_rank_by_the_label_s_probability_against_another_class():
    run = recorded()
    trained = run.epochs > 0
    against = pd.Series((1 / (1 + np.exp(-run.signals["margin"][trained].astype(np.float64)))).mean(axis=0))
    quality = wrong_label_quality(run)
    np.testing.assert_allclose(quality, (against.rank() - 1) / (len(run) - 1))
    assert 0 <= quality.min() < quality.max() <= 1


def test_quality_without_margins_is_the_rank_by_mean_loss():
    run = dataclasses.replace(recorded(), signals={})
    runs = [[t for t in range(7) if run.epochs[t]], [t for t in range(7, 11) if run.epochs[t]]]
    # In float32, as scores are.
    loss = pd.Series(np.mean([run.losses[each].mean(axis=0) for each in runs], axis=0).astype(np.float32))
    np.testing.assert_allclose(wrong_label_quality(run), (loss.rank(ascending=False) - 1) / (len(run) - 1))


def test_labels_known_by_heart_in_the_end_are_not_trusted_for_that():
    # One learned at once, with a margin of 3 ever after; one wrong for half of the training, then known by heart.
    margins = np.array([[0, 0]] + [[3, -3]] * 5 + [[3, 30]] * 5, dtype=np.float32)
    run = recorded()
    run = dataclasses.replace(
        run.take_rows(run.rows[:2]), signals={"margin": margins[: len(run.epochs)]}, losses=run.losses[:, :2]
    )
    assert run.signals["margin"][run.epochs > 0].mean(axis=0).argmin() == 0 and wrong_label_quality(run).argmin() == 1


def test_a_worse_label_never_has_a_higher_quality():
    run = recorded()
    worse = run.losses.copy(), run.signals["margin"].copy()
    worse[0][:, 5] += 1
    worse[1][:, 5] -= 1
    changed = dataclasses.replace(run, losses=worse[0], signals={"margin": worse[1]})
    assert wrong_label_quality(changed)[5] < wrong_label_quality(run)[5]


def correlations(run):
    return [
        np.array(
            [pearsonr(one.losses[:, row], one.validation_losses.mean(axis=1, dtype=np.float64))[0] for row in rows]
        )
        for one in run.runs
        for rows in [np.flatnonzero(np.ptp(one.losses, axis=0) > 0)]
    ]


def test_as_many_labels_are_wrong_as_losses_go_against_the_validation_losses():
    run = recorded()
    wanted = np.mean(correlations(run), axis=0)
    assert wrong_label_count(run) == np.count_nonzero(wanted < 0)
    assert 0 < wrong_label_count(run) < len(run)


def autocorrelation(values):
    centered = values - values.mean()
    return (centered[1:] * centered[:-1]).sum() / (centered**2).sum()


@pytest.mark.parametrize("lengths", [(12,), (12, 9), (20, 3)], ids=str)
def test_conflicting_rows_by_hand(lengths):
    run = recorded(lengths, seed=3)
    # Some that go against the validation samples in all runs.
    losses, against = run.losses.astype(np.float64), [1, 8, 20]
    validation = run.validation_losses.mean(axis=1, dtype=np.float64)
    losses[:, against] = 6 - 3 * validation[:, None] + 0.01 * losses[:, against]
    run = dataclasses.replace(run, losses=losses.astype(np.float32))
    wanted = np.zeros(len(run), dtype=bool)
    for row in range(len(run)):
        total = weight = 0.0
        for one in run.runs:
            mine, theirs = one.losses[:, row].astype(np.float64), one.validation_losses.mean(axis=1, dtype=np.float64)
            if np.ptp(mine) == 0:
                continue
            product = autocorrelation(mine) * autocorrelation(theirs)
            freedom = min(len(mine), len(mine) * (1 - product) / (1 + product)) - 3
            if freedom > 0:
                total += freedom * np.arctanh(pearsonr(mine, theirs)[0])
                weight += freedom
        wanted[row] = weight > 0 and norm.cdf(total / np.sqrt(weight)) < 0.05
    found = conflicting(run)
    np.testing.assert_array_equal(found, wanted)
    assert found[against].all() and not found[np.flatnonzero(run.rows == FLAT)].any()


def test_of_rows_that_have_nothing_to_do_with_it_chance_calls_one_in_twenty_conflicting():
    draw = np.random.default_rng(0)
    run = make(lengths=(30,), signals=())
    n = 4000
    # Wandering losses, of which successive ones are alike, and validation losses that do the same.
    steps = draw.normal(size=(30, n + 1))
    for t in range(1, 30):
        steps[t] += 0.7 * steps[t - 1]
    many = dataclasses.replace(
        run,
        losses=(5 + steps[:, :n]).astype(np.float32),
        validation_losses=np.repeat(5 + steps[:, n:], len(run.validation_labels), axis=1).astype(np.float32),
        labels=np.zeros(n, np.int64),
        rows=np.arange(n),
        ids=None,
        recipe={},
    )
    count = np.count_nonzero(conflicting(many))
    # Bartlett's formula is an approximation: to within half of what is meant.
    assert binom.ppf(1e-6, n, 0.025) < count < binom.ppf(1 - 1e-6, n, 0.075)


def test_three_checkpoints_tell_nothing():
    assert not conflicting(recorded((3,))).any()


def test_how_often_a_row_is_given_its_label():
    run = recorded()
    chosen = late(run.lengths)
    table = predictions(run, 4)
    for signals, wanted in [
        ({"predicted": table, "margin": run.signals["margin"]}, table == run.labels),
        ({"margin": run.signals["margin"]}, run.signals["margin"] > 0),
        ({"correct": (table == 1).astype(np.float32)}, table == 1),
        ({}, np.exp(-run.losses.astype(np.float64)) > 0.5),
    ]:
        part = dataclasses.replace(run, signals=signals)
        np.testing.assert_allclose(correct_share(part, late_votes(part)), wanted[chosen].mean(axis=0))
