"""How much the probability of a row's label varies while a model is trained."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

# Epochs of a window, as on CIFAR in the paper.
WINDOW = 10
# Rows of a block that stays in the cache.
_BLOCK = 2**14
_THREADS = 8


def uncertainty(table: Any, start: int, stop: int, window: int = WINDOW) -> np.ndarray:
    """The mean deviation of the label's probability within sliding windows of checkpoints.

    He et al., Large-scale Dataset Pruning with Dynamic Uncertainty, CVPR workshops 2024 (arXiv 2306.05175): of J
    successive probabilities exp(-loss) the standard deviation (J - 1 in the denominator), the mean of it over all
    windows but the one that ends with the last checkpoint. A run of J checkpoints or fewer is one window.

    Args:
        table (`np.ndarray`): float32 `(L, N)`, natural-log cross-entropy, or read from disk epoch by epoch.
        start (`int`): The first checkpoint that counts.
        stop (`int`): The one after the last.
        window (`int`, *optional*, defaults to `10`): J.

    Returns:
        `np.ndarray`: float64 `(N,)`; NaN for fewer than two checkpoints.
    """
    n, count = table.shape[1], stop - start
    found = np.full(n, np.nan)
    if count < 2:
        return found
    window = min(window, count)
    used = max(1, count - window) + window - 1
    if not isinstance(table, np.ndarray):
        # Read once, in order.
        _fill(found, (table[start + t] for t in range(used)), window, slice(0, n))
        return found

    def work(left: int) -> None:
        part = slice(left, min(left + _BLOCK, n))
        _fill(found, (table[start + t, part] for t in range(used)), window, part)

    threads = max(1, min(os.cpu_count() or 1, _THREADS, n * used // 2**20))
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(0, n, _BLOCK)))
    return found


def _fill(found: np.ndarray, epochs: Any, window: int, part: slice) -> None:
    n = part.stop - part.start
    recent = np.empty((window, n), dtype=np.float32)
    first, total = np.empty(n), np.zeros(n)
    summed, squared = np.zeros(n), np.zeros(n)

    def probability(losses: np.ndarray) -> np.ndarray:
        # Relative to the first one: a row whose probability hardly varies then has nothing to cancel.
        p = np.exp(-losses.astype(np.float64))
        return np.subtract(p, first, out=p)

    windows = 0
    # Losses that are not finite are the caller's to name.
    with np.errstate(all="ignore"):
        for t, losses in enumerate(epochs):
            losses = np.asarray(losses, dtype=np.float32)
            if t == 0:
                np.exp(-losses.astype(np.float64), out=first)
            if t >= window:
                gone = probability(recent[t % window])
                summed -= gone
                squared -= np.multiply(gone, gone, out=gone)
            recent[t % window] = losses
            p = probability(losses)
            summed += p
            squared += np.multiply(p, p, out=p)
            if t >= window - 1:
                windows += 1
                variance = squared - summed * summed / window
                # What rounding leaves of windows in which nothing varies may be negative.
                total += np.sqrt(np.maximum(variance, 0, out=variance) / (window - 1))
    found[part] = total / windows
