"""The weight of uncertainty: how much the probability of a row's label varies within windows of checkpoints."""

from dataclasses import dataclass

import numpy as np

# Epochs of a window, as on CIFAR in the paper.
WINDOW = 10
# Epochs, and losses in all, that are worked on at once, so that they stay in the cache.
_STEP, _BLOCK = 128, 2**16
# Below the probability of this loss, a probability need not be told from another one.
_HIGHEST = np.float32(15)
# In place of what float32 cannot hold.
_MOST = 1e30


def uncertainty(losses: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """The [`Uncertainty`] of rows whose losses are in memory.

    Args:
        losses (`np.ndarray`): float32 `(K, N)`, natural-log cross-entropy.
        window (`int`, *optional*, defaults to `10`): Checkpoints of a window.

    Returns:
        `np.ndarray`: float64 `(N,)`; NaN for fewer than two checkpoints.
    """
    found = Uncertainty(losses.shape[1], len(losses), window, whole=True)
    found.add(losses, 0, slice(0, losses.shape[1]))
    return found.mean()


class Uncertainty:
    """The mean deviation of the label's probability within sliding windows of checkpoints, of rows read in order.

    He et al., Large-scale Dataset Pruning with Dynamic Uncertainty, CVPR workshops 2024 (arXiv 2306.05175): the
    standard deviation of J successive probabilities exp(-loss) (J - 1 in the denominator), averaged over all windows
    but the one that ends with the last checkpoint. A run of J checkpoints or fewer is one window.

    Probabilities are relative to the first one, so that those of a row that hardly vary keep their digits in float32.

    Args:
        n (`int`): Rows.
        count (`int`): Checkpoints.
        window (`int`, *optional*, defaults to `10`): J.
        whole (`bool`, *optional*, defaults to `False`): Whether all checkpoints of a row come at once.
    """

    def __init__(self, n: int, count: int, window: int = WINDOW, whole: bool = False) -> None:
        self.window = min(window, count)
        self.windows = max(1, count - window)
        self.used = self.windows + self.window - 1
        self.first = np.empty(n, dtype=np.float32)
        self.total = np.zeros(n)
        # What the next windows begin with.
        self.recent = np.empty((self.window - 1, 0 if whole else n), dtype=np.float32)

    def add(self, losses: np.ndarray, t: int, part: slice) -> None:
        """Adds the losses `(K, C)` of some rows at the checkpoints from `t` on."""
        losses = losses[: max(0, self.used - t)]
        width = max(1, _BLOCK // max(1, min(_STEP, len(losses))))
        whole = t == 0 and len(losses) == self.used
        for left in range(part.start, part.stop if len(losses) else part.start, width):
            here = slice(left, min(left + width, part.stop))
            some = losses[:, left - part.start : here.stop - part.start]
            if t == 0:
                np.minimum(some[0], _HIGHEST, out=self.first[here])
            none = np.empty((0, some.shape[1]), dtype=np.float32)
            before = self.recent[max(0, self.window - 1 - t) :, here] if t else none
            # Losses that are not finite are the caller's to name.
            with np.errstate(all="ignore"):
                for step in range(0, len(some), _STEP):
                    before = self._add(before, some[step : step + _STEP], here)
            if not whole:
                self.recent[self.window - 1 - len(before) :, here] = before

    def _add(self, before: np.ndarray, losses: np.ndarray, part: slice) -> np.ndarray:
        values = np.empty((len(before) + len(losses), losses.shape[1]), dtype=np.float32)
        values[: len(before)] = before
        np.subtract(self.first[part], losses, out=values[len(before) :])
        np.expm1(values[len(before) :], out=values[len(before) :])
        if len(values) >= self.window > 1:
            squares = squared_deviations(values, self.window)
            self.total[part] += np.sqrt(squares, out=squares).sum(axis=0)
        return values[max(0, len(values) - self.window + 1) :]

    def mean(self) -> np.ndarray:
        """float64 `(N,)`; NaN for fewer than two checkpoints."""
        if self.window < 2:
            return np.full(len(self.total), np.nan)
        with np.errstate(all="ignore"):
            scale = np.exp(-self.first.astype(np.float64)) / (self.windows * np.sqrt(self.window - 1))
            return scale * np.nan_to_num(self.total, nan=_MOST, posinf=_MOST)


def squared_deviations(values: np.ndarray, window: int) -> np.ndarray:
    """The sum of squared deviations from the mean, of all windows of successive rows.

    A window is made of two smaller ones (Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances, 1979): nothing cancels, so float32 keeps its digits.

    Args:
        values (`np.ndarray`): float32 `(K, C)`.
        window (`int`): Rows of a window: from 2 to K.

    Returns:
        `np.ndarray`: float32 `(K - window + 1, C)`.
    """
    found: _Windows | None = None
    # Of 1, 2, 4, ... rows; those that add up to the window are joined.
    part = _Windows(1, values, None)
    while True:
        if window & part.size:
            found = part if found is None else found.joined(part, last=found.size + part.size == window)
            if found.size == window:
                assert found.squares is not None
                return found.squares
        part = part.joined(part)


@dataclass(frozen=True, eq=False)
class _Windows:
    """Of all windows of so many successive rows, the sums of values and of squared deviations (None of one row)."""

    size: int
    sums: np.ndarray
    squares: np.ndarray | None

    def joined(self, other: "_Windows", last: bool = False) -> "_Windows":
        """Each with the one of the other size that follows it; of the last ones no sums are needed."""
        count, size = len(other.sums) - self.size, self.size + other.size
        sums, after = self.sums[:count], other.sums[self.size :]
        if self.size == other.size:
            apart = after - sums
        else:
            apart = after * np.float32(self.size / other.size)
            apart -= sums
        apart *= apart
        apart *= np.float32(other.size / (self.size * size))
        for squares in (self.squares, None if other.squares is None else other.squares[self.size :]):
            if squares is not None:
                apart += squares[:count]
        return _Windows(size, sums if last else sums + after, apart)
