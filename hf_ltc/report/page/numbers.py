"""What the charts of the page draw, from a recording: arrays in, arrays out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...data.splits import evenly_spaced
from ...scores.kernels import run_spans
from ...scores.ltc import ltc_scores
from ...scores.reliability import Reliability, reliability_of, scores_by_run, within_class_spearman
from ...trajectories.value import Trajectories
from ...utils.errors import InputError

# Epochs that a line of losses has at most, and a line of reliabilities, each of which takes a scoring.
_EPOCHS, _POINTS = 40, 12
# Rows by which reliability and the spread of losses are drawn.
_ROWS = 50_000
# Bins of scores, the fewer the fewer rows a class has.
_BINS = (16, 60)
# Classes of which the page has what each budget keeps of each bin.
_CLASSES = 200


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

    `reliability` and `last`, that of all epochs, are `None` for one run, which cannot tell it.
    """

    epochs: list[int]
    stability: list[float]
    reliability: list[float] | None
    last: Reliability | None
    rows: int


def ranking_lines(run: Trajectories, variant: dict[str, Any]) -> RankingLines:
    """Within-class Spearman correlations of scores by the first epochs alone.

    Args:
        run ([`Trajectories`]): The recording.
        variant (`dict`): As for [`ltc_scores`].
    """
    rows = run.rows[evenly_spaced(len(run), _ROWS)]
    part = run if len(rows) == len(run) else run.take_rows(rows)
    final, last = ltc_scores(part, **variant), _agreement(part, variant)
    epochs = np.unique(run.epochs)
    found: list[tuple[int, float, float]] = []
    for epoch in epochs[evenly_spaced(len(epochs), _POINTS)].tolist():
        try:
            early = part.truncate(epoch)
            stable = within_class_spearman(ltc_scores(early, **variant), final, part.labels)
            agreed = _agreement(early, variant)
        # Of so few epochs there are no differences yet, or validation losses that do not move.
        except InputError:
            continue
        found.append((epoch, stable, np.nan if agreed is None else agreed.one))
    shown, stability, reliability = (list(column) for column in zip(*found)) if found else ([], [], [])
    return RankingLines(shown, stability, None if last is None else reliability, last, len(rows))


def _agreement(run: Trajectories, variant: dict[str, Any]) -> Reliability | None:
    if len(run.lengths) < 2:
        return None
    return reliability_of(scores_by_run(run.runs, run.rows, **variant), run.labels)


@dataclass(frozen=True)
class Histograms:
    """How scores are distributed.

    Args:
        edges (`np.ndarray`): `(bins + 1,)`.
        every (`np.ndarray`): int64 `(C + 1, bins)`, the rows of each class, and last those of all.
        kept (`np.ndarray`): int64 `(B, C + 1, bins)`, those of them that each budget keeps; of many classes only
            `(B, 1, bins)`, those of all.
    """

    edges: np.ndarray
    every: np.ndarray
    kept: np.ndarray


def score_histograms(
    scores: np.ndarray, labels: np.ndarray, ranks: np.ndarray, sizes: Sequence[int], classes: int
) -> Histograms:
    """How scores are distributed in each class, and which part of them is kept.

    Args:
        scores (`np.ndarray`): float `(N,)`; NaN for rows without a score.
        labels (`np.ndarray`): int `(N,)`.
        ranks (`np.ndarray`): int `(N,)`, of the coreset order.
        sizes (`Sequence[int]`): Of B coresets.
        classes (`int`): C.
    """
    known = np.isfinite(scores)
    bins = int(np.clip(round(2 * np.sqrt(len(scores) / classes)), *_BINS))
    edges = np.histogram_bin_edges(scores[known] if known.any() else np.zeros(1), bins)
    place = np.clip(np.searchsorted(edges, scores[known], side="right") - 1, 0, bins - 1)
    cell = labels[known] * bins + place

    def counted(chosen: np.ndarray) -> np.ndarray:
        counts = np.bincount(cell[chosen], minlength=classes * bins).reshape(classes, bins)
        return np.vstack([counts, counts.sum(axis=0)])

    kept = [counted(ranks[known] < size) for size in sizes]
    if classes > _CLASSES:
        kept = [counts[-1:] for counts in kept]
    return Histograms(edges, counted(np.ones(len(cell), dtype=bool)), np.stack(kept))
