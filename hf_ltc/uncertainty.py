"""How much the probability of a row's label varies while a model is trained."""

from typing import Any

import numpy as np

# Epochs of a window, as on CIFAR in the papers.
WINDOW = 10
# Bytes of a block of columns.
_BLOCK = 2**21


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
    if count < 2:
        return np.full(n, np.nan)
    window = min(window, count)
    windows = max(1, count - window)
    found = np.empty(n)
    # A table on disk is read once; of one in memory blocks of columns stay in the cache.
    width = max(1, _BLOCK // (8 * window)) if isinstance(table, np.ndarray) else n
    for left in range(0, n, width):
        part = slice(left, min(left + width, n))
        recent, total = np.empty((window, part.stop - left)), np.zeros(part.stop - left)
        # Losses that are not finite are the caller's to name.
        with np.errstate(all="ignore"):
            for t in range(windows + window - 1):
                recent[t % window] = np.exp(-np.asarray(table[start + t])[part].astype(np.float64))
                if t >= window - 1:
                    total += recent.std(axis=0, ddof=1)
        found[part] = total / windows
    return found
