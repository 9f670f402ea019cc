"""The weight of uncertainty: how much the probability of a row's label varies within windows of checkpoints."""

from collections.abc import Iterator

import numpy as np

# Epochs of a window, as on CIFAR in the paper.
WINDOW = 10
# Below the probability of this loss, a probability need not be told from another one.
_HIGHEST = np.float32(15)
# In place of what float32 cannot hold.
_MOST = 1e30


def uncertainty(losses: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """The mean deviation of the label's probability within sliding windows of checkpoints.

    He et al., Large-scale Dataset Pruning with Dynamic Uncertainty, CVPR workshops 2024 (arXiv 2306.05175): the
    standard deviation of J successive probabilities exp(-loss) (J - 1 in the denominator), averaged over all windows
    but the one that ends with the last checkpoint. A run of J checkpoints or fewer is one window.

    Args:
        losses (`np.ndarray`): float32 `(K, N)`, natural-log cross-entropy.
        window (`int`, *optional*, defaults to `10`): J.

    Returns:
        `np.ndarray`: float64 `(N,)`; NaN for fewer than two checkpoints.
    """
    count, n = losses.shape
    window = min(window, count)
    if window < 2:
        return np.full(n, np.nan)
    used = max(window, count - 1)
    # Losses that are not finite are the caller's to name.
    with np.errstate(all="ignore"):
        # Relative to the first one: probabilities of a row that hardly vary keep their digits in float32.
        first = np.minimum(losses[0], _HIGHEST)
        values = np.subtract(first, losses[:used], dtype=np.float32)
        np.expm1(values, out=values)
        total = np.zeros(n)
        for squares in squared_deviations(values, window):
            total += np.sqrt(squares, out=squares).sum(axis=0)
        scale = np.exp(-first.astype(np.float64)) / ((used - window + 1) * np.sqrt(window - 1))
        return scale * np.nan_to_num(total, nan=_MOST, posinf=_MOST)


def squared_deviations(values: np.ndarray, window: int) -> Iterator[np.ndarray]:
    """The sums of squared deviations from the mean, of all windows of successive rows, as many windows at a time as a
    window has rows.

    These have one row in common. The sums of values relative to it, and of their squares, are sums over rows before
    it and over rows after it, which are added up once for all windows. Relative to a member of the window, of J rows,
    the sum of squares is J times the one of deviations at most, so float32 keeps its digits.

    Args:
        values (`np.ndarray`): float32 `(K, C)`.
        window (`int`): Rows of a window, J: from 2 to K.

    Yields:
        `np.ndarray`: float32 `(J, C)`, or fewer at the end; K - J + 1 in all. It is used again for the next ones.
    """
    side, count = window - 1, len(values) - window + 1
    # In one piece, which is given back to the system and asked for again less often than two.
    held = np.zeros((4 * side + 2 * window, values.shape[1]), dtype=np.float32)
    # Of so many rows: of values and of squares, before and after the common row; and of whole windows.
    sums = held[: 4 * side].reshape(side, 2, 2, values.shape[1])
    whole = held[4 * side :].reshape(window, 2, values.shape[1])
    for start in range(0, count, window):
        common, size = values[start + side], min(window, count - start)
        np.subtract(values[start : start + side][::-1], common, out=sums[:, 0, 0])
        np.subtract(values[start + window : start + side + size], common, out=sums[: size - 1, 0, 1])
        np.multiply(sums[:, 0], sums[:, 0], out=sums[:, 1])
        for i in range(1, side):
            np.add(sums[i], sums[i - 1], out=sums[i])
        # Of each window, which begins with as many rows fewer before the common one as it ends with more after it.
        whole[0] = sums[side - 1, :, 0]
        np.add(sums[::-1, :, 0][1:size], sums[: min(size, side) - 1, :, 1], out=whole[1 : min(size, side)])
        if size == window:
            whole[side] = sums[side - 1, :, 1]
        total, squares = whole[:size, 0], whole[:size, 1]
        total *= total
        total *= np.float32(-1 / window)
        total += squares
        # Of squares that are too small for float32, rounding may leave less than nothing.
        yield np.maximum(total, 0, out=total)
