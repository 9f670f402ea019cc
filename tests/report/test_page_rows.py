"""Which rows the page shows, and what its charts draw: arrays in, arrays out."""

import dataclasses

import numpy as np
import pytest

from hf_ltc.report.page.numbers import (
    class_means,
    data_map,
    epoch_grid,
    loss_lines,
    mean_over_runs,
    ranking_lines,
    score_histograms,
)
from hf_ltc.report.page.rows import BUDGETS, budget_sizes, class_rows, kept_counts, map_rows, suspect_rows
from hf_ltc.scores.ltc import DEFAULT, ltc_scores
from hf_ltc.scores.reliability import within_class_spearman
from hf_ltc.trajectories.compare import reliability
from hf_ltc.trajectories.value import Trajectories
from tests.report.pages import recorded
from tests.trajectories.recordings import make, rotated


def drawn(n, classes, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, n)
    scores = random.normal(size=n).astype(np.float32)
    return random, labels, random.permutation(n).astype(np.int32), scores


@pytest.mark.parametrize("classes, fixed, edge", [(2, 12, 8), (25, 12, 8), (100, 4, 2), (130, 4, 2)])
def test_rows_of_each_class(classes, fixed, edge):
    n = 6_000
    random, labels, ranks, scores = drawn(n, classes)
    scores[random.integers(0, n, 50)] = np.nan
    conflicts = np.where(random.random(n) < 0.05, -random.random(n), np.nan)
    suspect = random.random(n) < labels / classes / 2
    found = class_rows(labels, ranks, scores, conflicts, suspect)
    assert len(found) == min(classes, 100)
    numbers = [one.number for one in found]
    assert numbers == sorted(numbers)
    if classes > 100:
        odd = np.bincount(labels[suspect], minlength=classes)
        assert odd[numbers].min() >= np.delete(odd, numbers).max()
    for one in found:
        mine = np.flatnonzero(labels == one.number)
        order = mine[np.argsort(ranks[mine])]
        scored = order[np.isfinite(scores[order])]
        assert one.first.tolist() == scored[:fixed].tolist()
        assert one.worst.tolist() == scored[::-1][:fixed].tolist()
        against = mine[np.isfinite(conflicts[mine])]
        assert one.conflicting.tolist() == against[np.argsort(conflicts[against])][:fixed].tolist()
        for size, kept, dropped in zip(budget_sizes(n), one.kept, one.dropped):
            inside, outside = order[ranks[order] < size], order[ranks[order] >= size]
            assert kept.tolist() == inside[::-1][:edge].tolist()
            assert dropped.tolist() == outside[:edge].tolist()
        assert set(one.all.tolist()) <= set(mine.tolist())
    assert sum(len(np.unique(one.all)) for one in found) <= 8_000


def test_what_budgets_keep():
    _, labels, ranks, _ = drawn(997, 7)
    sizes = budget_sizes(997)
    counts = kept_counts(labels, ranks, sizes, 8)
    assert counts.sum(axis=1).tolist() == sizes and sizes[-1] == 997 and counts[-1, 7] == 0
    assert (np.diff(counts, axis=0) >= 0).all()
    assert budget_sizes(3)[0] == 1 and len(sizes) == len(BUDGETS)


def test_suspects_are_of_every_kind_and_class():
    random, labels, _, _ = drawn(20_000, 30)
    kinds, quality = random.choice(5, 20_000, p=[0.05, 0.01, 0.04, 0.1, 0.8]), random.random(20_000)
    found = suspect_rows(kinds, quality, labels, 4)
    assert (np.diff(quality[found]) >= 0).all() and 4 not in kinds[found]
    for kind in range(4):
        mine = kinds[found] == kind
        every = np.flatnonzero(kinds == kind)
        assert set(every[np.argsort(quality[every])][:120]) <= set(found)
        assert len(np.unique(labels[found][mine])) == 30
    assert len(suspect_rows(np.full(5, 4), random.random(5), labels[:5], 4)) == 0


def test_points_of_the_map():
    assert map_rows(10).tolist() == list(range(10))
    points = map_rows(100_000)
    assert len(points) == 4_000 and (np.diff(points) > 0).all()
    # Of all parts of the dataset.
    assert np.bincount(points // 10_000, minlength=10).min() > 300


def test_means_over_runs_that_recorded_a_row():
    run = Trajectories.average(rotated(lengths=(5, 5, 7)))
    grid = epoch_grid(run)
    assert grid.tolist() == list(range(7))
    means = mean_over_runs(run, run.losses, np.arange(len(run)), grid)
    for row in range(0, len(run), 7):
        for epoch in range(7):
            values = [
                one.losses[epoch, np.flatnonzero(one.rows == run.rows[row])[0]]
                for one in run.runs
                if epoch < len(one.epochs) and run.rows[row] in one.rows
            ]
            wanted = np.mean(values) if values else np.nan
            np.testing.assert_allclose(means[epoch, row], wanted, rtol=1e-5)
    mean, of_classes = class_means(run, 4, grid)
    assert mean.shape == (7,) and of_classes.shape == (7, 4) and np.isnan(of_classes[:, 3]).all()
    samples = mean_over_runs(run, run.validation_losses, np.arange(len(run.validation_labels)), grid)
    np.testing.assert_allclose(of_classes[2, 1], np.nanmean(samples[2, run.validation_labels == 1]), rtol=1e-5)


def test_of_many_epochs_some_are_drawn():
    run = dataclasses.replace(make(lengths=(200,)), epochs=np.arange(0, 400, 2))
    grid = epoch_grid(run)
    assert len(grid) == 40 and grid[0] == 0 and grid[-1] == 398 and (grid % 2 == 0).all()


def test_the_data_map():
    run = make(lengths=(6, 9))
    probability, variability = data_map(run)
    runs = [np.exp(-run.losses[1:6].astype(float)), np.exp(-run.losses[7:].astype(float))]
    np.testing.assert_allclose(probability, np.mean([each.mean(axis=0) for each in runs], axis=0))
    np.testing.assert_allclose(variability, np.mean([each.std(axis=0) for each in runs], axis=0), atol=1e-7)


def test_lines_of_losses(digit_rows):
    run = recorded(digit_rows[0].select(range(300)).flatten_indices())
    chosen = run.rows % 10 == 0
    lines = loss_lines(run, epoch_grid(run), {"wrong": chosen, "none": np.zeros(len(run), dtype=bool)})
    table = (run.losses[:12] + run.losses[12:]) / 2
    np.testing.assert_allclose(lines.mean, table.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(lines.high, np.quantile(table, 0.9, axis=1), rtol=1e-5)
    assert list(lines.parts) == ["wrong"] and lines.rows == len(run)
    np.testing.assert_allclose(lines.parts["wrong"], table[:, chosen].mean(axis=1), rtol=1e-5)


def test_lines_of_the_ranking(digit_rows):
    run = recorded(digit_rows[0].select(range(300)).flatten_indices())
    lines = ranking_lines(run, DEFAULT)
    assert lines.epochs[-1] == 11 and lines.epochs[0] >= 2
    assert lines.stability[-1] == pytest.approx(1)
    assert lines.reliability[-1] == pytest.approx(reliability(run).one) and lines.last == reliability(run)
    half = run.truncate(lines.epochs[3])
    wanted = within_class_spearman(ltc_scores(half), ltc_scores(run), run.labels)
    assert lines.stability[3] == pytest.approx(wanted)
    assert lines.reliability[3] == pytest.approx(reliability(half).one)
    one = ranking_lines(run.runs[0], DEFAULT)
    assert one.reliability is None and one.last is None and len(one.stability) == len(one.epochs)


def test_histograms_of_scores():
    random, labels, ranks, scores = drawn(5_000, 6)
    scores[random.integers(0, 5_000, 100)] = np.nan
    sizes = budget_sizes(5_000)
    found = score_histograms(scores, labels, ranks, sizes, 7)
    for number in range(6):
        mine = scores[(labels == number) & np.isfinite(scores)]
        assert found.every[number].tolist() == np.histogram(mine, found.edges)[0].tolist()
    assert found.every[6].sum() == 0 and found.every[7].tolist() == found.every[:7].sum(axis=0).tolist()
    kept = scores[(ranks < sizes[4]) & np.isfinite(scores)]
    assert found.kept[4, 7].tolist() == np.histogram(kept, found.edges)[0].tolist()
    # Of very many classes only that of all.
    many = score_histograms(scores, labels, ranks, sizes, 250)
    assert many.kept.shape == (len(BUDGETS), 1, len(many.edges) - 1) and len(many.every) == 251
    nothing = score_histograms(np.full(9, np.nan), labels[:9], ranks[:9], [3], 6)
    assert nothing.every.sum() == 0
