"""What the charts of the page draw, from a recording: arrays in, arrays out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...data.splits import evenly_spaced
from ...scores.kernels import run_spans
from ...scores.ltc import ltc_scores
from ...scores.reliability import reliability_of, scores_by_run, within_class_spearman
from ...trajectories.value import Trajectories
from ...utils.errors import InputError

# Epochs that a line of losses has at most, and a line of reliabilities, each of which takes a scoring.
_EPOCHS, _POINTS = 40, 12
# Rows by which reliability and the spread of losses are drawn.
_ROWS = 50_000


def epoch_grid(run: Trajectories) -> np.ndarray:
    """The epochs at which losses are drawn: int64, increasing, the first and the last recorded one among them."""
    epochs = np.unique(run.epochs)
    return epochs[evenly_spaced(len(epochs), _EPOCHS)]


def mean_over_runs(run: Trajectories, table: Any, columns: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Losses of some samples at some epochs, the mean over the runs that recorded them.

    Args:
        run ([`Trajectories`]): The recording.
        table (`np.ndarray`): float32 `(L, N)`, one of its tables.
        columns (`np.ndarray`): int64 `(n,)`, which of its samples.
        grid (`np.ndarray`): int64 `(E,)`, the epochs, increasing.

    Returns:
        `np.ndarray`: float32 `(E, n)`, NaN where no run has a value.
    """
    total = np.zeros((len(grid), len(columns)), dtype=np.float32)
    known = np.zeros((len(grid), len(columns)), dtype=np.int32)
    for t, epoch in enumerate(run.epochs):
        place = int(np.searchsorted(grid, epoch))
        if place == len(grid) or grid[place] != epoch:
            continue
        values = np.asarray(table[t])[columns]
        there = np.isfinite(values)
        np.add(total[place], values, out=total[place], where=there)
        known[place] += there
    with np.errstate(invalid="ignore"):
        return total / known


def class_means(run: Trajectories, classes: int, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean validation loss at each epoch, `(E,)`, and that of each class, `(E, C)`; NaN where there is none."""
    labels = np.asarray(run.validation_labels)
    table = mean_over_runs(run, run.validation_losses, np.arange(len(labels)), grid)
    sums, counts = np.zeros((len(grid), classes)), np.zeros((len(grid), classes))
    for place, values in enumerate(table):
        there = np.isfinite(values)
        sums[place] = np.bincount(labels[there], weights=values[there], minlength=classes)
        counts[place] = np.bincount(labels[there], minlength=classes)
    with np.errstate(invalid="ignore"):
        return sums.sum(axis=1) / counts.sum(axis=1), sums / counts


def data_map(run: Trajectories) -> tuple[np.ndarray, np.ndarray]:
    """Where each row stands in the data map of Swayamdipta et al. (Dataset Cartography, arXiv 2009.10795).

    Args:
        run ([`Trajectories`]): The recording.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: float64 `(N,)` each: the mean of the label's probability over the checkpoints
        after training epochs, and its standard deviation, the mean over runs.
    """
    n = len(run)
    means, deviations, runs = np.zeros(n), np.zeros(n), np.zeros(n)
    for start, stop in run_spans(run.lengths):
        after = [t for t in range(start, stop) if run.epochs[t] > 0]
        total, squares = np.zeros(n), np.zeros(n)
        for t in after:
            probability = np.exp(-np.asarray(run.losses[t], dtype=np.float64))
            total += probability
            squares += probability**2
        mean = total / len(after)
        deviation = np.sqrt(np.maximum(0, squares / len(after) - mean**2))
        there = np.isfinite(mean)
        np.add(means, mean, out=means, where=there)
        np.add(deviations, deviation, out=deviations, where=there)
        runs += there
    with np.errstate(invalid="ignore"):
        return means / runs, deviations / runs


@dataclass(frozen=True)
class LossLines:
    """Losses over epochs, `(E,)` each: the mean of all rows, the tenth and the ninetieth percentile, parts of them."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    parts: dict[str, np.ndarray]
    rows: int


def loss_lines(run: Trajectories, grid: np.ndarray, parts: dict[str, np.ndarray]) -> LossLines:
    """Losses of the rows over epochs.

    Args:
        run ([`Trajectories`]): The recording.
        grid (`np.ndarray`): int64 `(E,)`, the epochs.
        parts (`dict[str, np.ndarray]`): By name, bool `(N,)`: rows of which the mean is drawn too; one without rows is
            left out.
    """
    sample = evenly_spaced(len(run), _ROWS)
    table = mean_over_runs(run, run.losses, sample, grid)
    low, high = np.nanquantile(table, (0.1, 0.9), axis=1)
    means = {
        name: np.nanmean(table[:, chosen[sample]], axis=1) for name, chosen in parts.items() if chosen[sample].any()
    }
    return LossLines(np.nanmean(table, axis=1), low, high, means, len(sample))


@dataclass(frozen=True)
class RankingLines:
    """How the ranking settles: epochs `(P,)`, agreement with the last ranking, and of the runs with one another.

    `reliability` is `None` for one run, which cannot tell it.
    """

    epochs: list[int]
    stability: list[float]
    reliability: list[float] | None
    rows: int


def ranking_lines(run: Trajectories, variant: dict[str, Any]) -> RankingLines:
    """Within-class Spearman correlations of scores by the first epochs alone.

    Args:
        run ([`Trajectories`]): The recording.
        variant (`dict`): As for [`ltc_scores`].
    """
    rows = run.rows[evenly_spaced(len(run), _ROWS)]
    part = run if len(rows) == len(run) else run.take_rows(rows)
    final = ltc_scores(part, **variant)
    epochs = np.unique(run.epochs)
    found: list[tuple[int, float, float]] = []
    for epoch in epochs[evenly_spaced(len(epochs), _POINTS)].tolist():
        try:
            early = part.truncate(epoch)
            stable = within_class_spearman(ltc_scores(early, **variant), final, part.labels)
            agreed = np.nan
            if len(part.lengths) > 1:
                agreed = reliability_of(scores_by_run(early.runs, early.rows, **variant), part.labels).one
        # Of so few epochs there are no differences yet, or validation losses that do not move.
        except InputError:
            continue
        found.append((epoch, stable, agreed))
    shown, stability, reliability = (list(column) for column in zip(*found)) if found else ([], [], [])
    return RankingLines(shown, stability, reliability if len(part.lengths) > 1 else None, len(rows))


def score_histograms(
    scores: np.ndarray, labels: np.ndarray, ranks: np.ndarray, sizes: Sequence[int], classes: int, bins: int = 60
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How scores are distributed in each class, and which part of them is kept.

    Args:
        scores (`np.ndarray`): float `(N,)`; NaN for rows without a score.
        labels (`np.ndarray`): int `(N,)`.
        ranks (`np.ndarray`): int `(N,)`, of the coreset order.
        sizes (`Sequence[int]`): Of B coresets.
        classes (`int`): C.
        bins (`int`, *optional*, defaults to `60`): How many bins.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`: the edges, `(bins + 1,)`, the rows in each bin, int64
        `(C, bins)`, and those of them that are kept, `(B, C, bins)`.
    """
    known = np.isfinite(scores)
    edges = np.histogram_bin_edges(scores[known] if known.any() else np.zeros(1), bins)
    place = np.clip(np.searchsorted(edges, scores[known], side="right") - 1, 0, bins - 1)
    cell = labels[known] * bins + place
    every = np.bincount(cell, minlength=classes * bins)
    kept = [np.bincount(cell[ranks[known] < size], minlength=classes * bins) for size in sizes]
    return edges, every.reshape(classes, bins), np.stack(kept).reshape(len(sizes), classes, bins)
