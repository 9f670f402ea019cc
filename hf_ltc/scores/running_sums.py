"""Scores without stored trajectories: of each row a few running sums, whatever the number of epochs.

A Pearson correlation with the mean validation loss is made of sums over epochs of x, x^2 and x y, where x is the row's
loss and y the mean validation loss of that epoch, which is known when the epoch has been recorded. What is summed is
taken relative to the first one, so that in float64 nothing is lost by cancellation: x = loss - first loss for levels,
and for differences x = change - first change. For the weight of uncertainty and for typicality the last ten losses
are kept, which are one window. A mean of correlations with all validation samples has no such sums.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from .kernels import FLAT
from .odds import CHECKPOINTS, hash_factors
from .windows import WINDOW

# Rows that are worked on at once.
_BLOCK = 2**14


@dataclass(frozen=True, eq=False)
class RunningSums:
    """The sums of one run so far, of N rows and C classes; [`RunningSums.add`] changes them in place.

    Args:
        counts (`np.ndarray`): int64 `(2,)`, the checkpoints so far, and how many of these are after training epochs.
        means (`np.ndarray`): float64 `(3, 1 + C)`, mean validation losses, of all samples and of those of each class,
            at the first, the second and the last checkpoint.
        first (`np.ndarray`): float32 `(N,)`, the losses at the first checkpoint.
        second (`np.ndarray`): float32 `(N,)`, at the second.
        recent (`np.ndarray`): float32 `(10, N)`, after the last ten training epochs; that of number k in row k mod 10.
        levels (`np.ndarray`): float64 `(4, N)`, sums of x, x^2, and x y for the mean of all and of the row's class.
        changes (`np.ndarray`): float64 `(3, N)`, of the changes of loss the sums of x^2 and of both x y.
        deviation (`np.ndarray`): float64 `(N,)`, the sum of deviations in all windows but the last.
        dual (`np.ndarray`): float64 `(N,)`, the sum over early windows of deviation times one less the mean.
        probability (`np.ndarray`): float64 `(N,)`, the sum of the label's probabilities.
        hashed (`np.ndarray`): uint64 `(N,)`, a hash of the losses.
    """

    counts: np.ndarray
    means: np.ndarray
    first: np.ndarray
    second: np.ndarray
    recent: np.ndarray
    levels: np.ndarray
    changes: np.ndarray
    deviation: np.ndarray
    dual: np.ndarray
    probability: np.ndarray
    hashed: np.ndarray

    @classmethod
    def none(cls, rows: int, classes: int) -> "RunningSums":
        """Those before the first checkpoint."""
        shapes: dict[str, tuple[int, ...]] = {"counts": (2,), "means": (3, 1 + classes)}
        shapes |= {"recent": (WINDOW, rows), "levels": (4, rows), "changes": (3, rows)}
        kinds: dict[str, Any] = {"counts": np.int64, "hashed": np.uint64}
        kinds |= dict.fromkeys(("first", "second", "recent"), np.float32)
        return cls(
            **{
                each.name: np.zeros(shapes.get(each.name, (rows,)), dtype=kinds.get(each.name, np.float64))
                for each in fields(cls)
            }
        )

    @classmethod
    def names(cls) -> list[str]:
        return [each.name for each in fields(cls)]

    def arrays(self) -> Mapping[str, np.ndarray]:
        """All arrays by name, for a file."""
        return {name: getattr(self, name) for name in self.names()}

    def add(self, losses: np.ndarray, labels: np.ndarray, means: np.ndarray, trained: bool) -> None:
        """Adds a checkpoint.

        Args:
            losses (`np.ndarray`): float32 `(N,)`, finite.
            labels (`np.ndarray`): int64 `(N,)`.
            means (`np.ndarray`): float64 `(1 + C,)`, from [`mean_validation_losses`].
            trained (`bool`): Whether it is after a training epoch; the first one alone may be before.
        """
        count, epochs = self.counts.tolist()
        if count == 0:
            self.means[0] = means
        elif count == 1:
            self.means[1] = means
        factor = hash_factors(count + 1)[count]
        # Classes may be without validation samples, and losses far too large.
        with np.errstate(all="ignore"):
            for left in range(0, len(losses), _BLOCK):
                part = slice(left, left + _BLOCK)
                self._add_correlated(part, losses[part], labels[part], means, count, epochs)
                self._add_probable(part, losses[part], factor, epochs, trained)
        self.means[2] = means
        self.counts[:] += (1, int(trained))

    def _add_correlated(
        self, part: slice, losses: np.ndarray, labels: np.ndarray, means: np.ndarray, count: int, epochs: int
    ) -> None:
        if count == 0:
            self.first[part] = losses
        x, y = losses.astype(np.float64) - self.first[part], means - self.means[0]
        self.levels[:, part] += (x, x * x, x * y[0], x * y[1:][labels])
        if count == 0:
            return
        if count == 1:
            self.second[part] = losses
        x = losses.astype(np.float64) - self.last(epochs)[part]
        x -= self.second[part].astype(np.float64) - self.first[part]
        y = means - self.means[2]
        y -= self.means[1] - self.means[0]
        self.changes[:, part] += (x * x, x * y[0], x * y[1:][labels])

    def _add_probable(self, part: slice, losses: np.ndarray, factor: np.uint64, epochs: int, trained: bool) -> None:
        self.probability[part] += np.exp(-losses.astype(np.float64))
        # Zero may have a sign.
        self.hashed[part] += (losses + np.float32(0)).view(np.uint32) * factor
        if not trained:
            return
        if epochs >= WINDOW:
            # The one that ended with the checkpoint before, which now is not the last.
            self.deviation[part] += _window(self.recent[:, part])[0]
        self.recent[epochs % WINDOW, part] = losses
        if WINDOW <= epochs + 1 <= CHECKPOINTS:
            deviation, mean = _window(self.recent[:, part])
            self.dual[part] += deviation * (1 - mean)

    def last(self, epochs: int | None = None) -> np.ndarray:
        """float32 `(N,)`, the losses at the last checkpoint."""
        epochs = int(self.counts[1]) if epochs is None else epochs
        return self.recent[(epochs - 1) % WINDOW] if epochs else self.first

    def uncertainty(self) -> np.ndarray:
        """As [`Uncertainty`]: float64 `(N,)`."""
        epochs = int(self.counts[1])
        if epochs > WINDOW:
            return self.deviation / (epochs - WINDOW)
        return self._only_window()[0]

    def typical(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean probability of the label, and the DUAL score: float64 `(N,)` each."""
        count, epochs = self.counts.tolist()
        if epochs >= WINDOW:
            return self.probability / count, self.dual / (min(epochs, CHECKPOINTS) - WINDOW + 1)
        deviation, mean = self._only_window()
        return self.probability / count, deviation * (1 - mean)

    def mean_losses(self) -> np.ndarray:
        """The mean loss after training epochs, as the baseline `mean_loss`: float64 `(N,)`."""
        count, epochs = self.counts.tolist()
        untrained = self.first.astype(np.float64) if epochs < count else 0.0
        return (self.levels[0] + count * self.first.astype(np.float64) - untrained) / epochs

    def _only_window(self) -> tuple[np.ndarray, np.ndarray]:
        """Deviation and mean of a run that is not longer than one window."""
        window = self.recent[: int(self.counts[1])]
        found = np.full((2, window.shape[1]), np.nan)
        for left in range(0, window.shape[1] if len(window) > 1 else 0, _BLOCK):
            found[:, left : left + _BLOCK] = _window(window[:, left : left + _BLOCK])
        return found[0], found[1]


def mean_validation_losses(losses: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Mean validation losses of a checkpoint, of all samples and of those of each class.

    Args:
        losses (`np.ndarray`): float32 `(Q,)`.
        labels (`np.ndarray`): int64 `(Q,)`.
        classes (`int`): C.

    Returns:
        `np.ndarray`: float64 `(1 + C,)`; NaN for a class without samples.
    """
    sizes = np.append(len(labels), np.bincount(labels, minlength=classes))
    sums = np.bincount(labels, weights=losses, minlength=classes)
    with np.errstate(invalid="ignore"):
        return np.append(losses.sum(dtype=np.float64), sums) / sizes


def correlations(sums: RunningSums, means: np.ndarray, of: str, groups: np.ndarray | None) -> np.ndarray:
    """The correlation of each row with mean validation losses.

    Args:
        sums ([`RunningSums`]): The sums of a run.
        means (`np.ndarray`): float64 `(L, 1 + C)`, its mean validation losses, from [`mean_validation_losses`].
        of (`str`): `"differences"` or `"levels"`.
        groups (`np.ndarray`, *optional*): int64 `(N,)`, the class of each row; the mean of all samples if not given.

    Returns:
        `np.ndarray`: float64 `(N,)`, NaN where the row is flat.
    """
    y = means[:, :1] if groups is None else means[:, 1:]
    where = np.zeros(len(sums.first), dtype=np.int64) if groups is None else groups
    y = y - y[0] if of == "levels" else np.diff(y, axis=0) - (y[1] - y[0])
    count, first, last = len(y), sums.first.astype(np.float64), sums.last().astype(np.float64)
    if of == "levels":
        total, square, products = sums.levels[0], sums.levels[1], sums.levels[2:]
        scale = np.abs(last)
    else:
        total = last - first - count * (sums.second.astype(np.float64) - first)
        square, products = sums.changes[0], sums.changes[1:]
        scale = np.maximum(np.abs(first), np.abs(last))
    center = y.mean(axis=0)
    with np.errstate(all="ignore"):
        norm = square - total * total / count
        norm[norm <= count * (FLAT * scale) ** 2] = np.nan
        lengths = np.sqrt(((y - center) ** 2).sum(axis=0))
        product = products[0 if groups is None else 1] - center[where] * total
        return product / (lengths[where] * np.sqrt(norm))


def _window(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Deviation and mean of the label's probability over the rows of float32 `(J, C)`."""
    with np.errstate(all="ignore"):
        probability = np.exp(-losses.astype(np.float64))
        # Relative to one of them, so that of equal ones nothing is left.
        first = probability[0].copy()
        probability -= first
        return probability.std(axis=0, ddof=1), first + probability.mean(axis=0)
