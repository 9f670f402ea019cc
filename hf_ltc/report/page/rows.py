"""Which rows the page shows: at the edges of each budget, the odd ones, and a sample of all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...coresets.order import class_groups

# The stops of the slider.
BUDGETS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# Rows of each class in a group that stays, and at an edge that moves with the budget: as many as all classes together
# leave room for.
_WIDTHS = ((12, 8), (10, 6), (8, 6), (6, 4), (5, 3), (4, 2), (3, 1))
_MOST = 8_000
# Classes with rows on the page, of more those with the most suspects.
_CLASSES = 100
# Suspects of each kind, at least so many of each class.
_SUSPECTS, _OF_CLASS = 120, 3
# Points of the data map.
_POINTS = 4_000


@dataclass(frozen=True)
class ClassRows:
    """The rows of one class that are shown, as positions among the recorded rows, the most telling first.

    Args:
        number (`int`): The class.
        first (`np.ndarray`): The first of the coreset order.
        worst (`np.ndarray`): The last of it that have a score.
        conflicting (`np.ndarray`): Those that go against the validation samples most.
        kept (`list[np.ndarray]`): For each budget the last ones kept, the last of them first.
        dropped (`list[np.ndarray]`): For each budget the first ones dropped.
    """

    number: int
    first: np.ndarray
    worst: np.ndarray
    conflicting: np.ndarray
    kept: list[np.ndarray]
    dropped: list[np.ndarray]

    @property
    def all(self) -> np.ndarray:
        return np.concatenate([self.first, self.worst, self.conflicting, *self.kept, *self.dropped])


def budget_sizes(n: int) -> list[int]:
    """The rows that each of [`BUDGETS`] keeps of `n`."""
    return [max(1, round(fraction * n)) for fraction in BUDGETS]


def kept_counts(labels: np.ndarray, ranks: np.ndarray, sizes: Sequence[int], classes: int) -> np.ndarray:
    """How many rows of each class each budget keeps: int64 `(B, C)`."""
    return np.stack([np.bincount(labels[ranks < size], minlength=classes) for size in sizes])


def class_rows(
    labels: np.ndarray, ranks: np.ndarray, scores: np.ndarray, conflicts: np.ndarray, suspect: np.ndarray
) -> list[ClassRows]:
    """The rows of each class that are shown as images.

    Args:
        labels (`np.ndarray`): int64 `(N,)`.
        ranks (`np.ndarray`): int32 `(N,)`, of the coreset order.
        scores (`np.ndarray`): float32 `(N,)`; NaN for rows without a score, which no group but the edges has.
        conflicts (`np.ndarray`): float `(N,)`, how far a row goes against the validation samples: the lower, the
            more; NaN for rows that do not.
        suspect (`np.ndarray`): bool `(N,)`, by which classes are chosen where there are too many.

    Returns:
        `list[ClassRows]`: in the order of the classes.
    """
    groups = class_groups(labels)
    if len(groups) > _CLASSES:
        odd = np.array([np.count_nonzero(suspect[group]) for group in groups])
        groups = [groups[i] for i in sorted(np.argsort(-odd, kind="stable")[:_CLASSES].tolist())]
    moving = 2 * (len(BUDGETS) - 1)
    fixed, edge = next(
        (widths for widths in _WIDTHS if (3 * widths[0] + moving * widths[1]) * len(groups) <= _MOST), _WIDTHS[-1]
    )
    sizes, found = budget_sizes(len(labels)), []
    for group in groups:
        order = group[np.argsort(ranks[group], kind="stable")]
        scored = order[np.isfinite(scores[order])]
        against = group[np.isfinite(conflicts[group])]
        against = against[np.argsort(conflicts[against], kind="stable")]
        ends = np.searchsorted(ranks[order], sizes)
        found.append(
            ClassRows(
                number=int(labels[group[0]]),
                first=scored[:fixed],
                worst=scored[::-1][:fixed],
                conflicting=against[:fixed],
                kept=[order[max(0, end - edge) : end][::-1] for end in ends],
                dropped=[order[end : end + edge] for end in ends],
            )
        )
    return found


def suspect_rows(kinds: np.ndarray, quality: np.ndarray, labels: np.ndarray, but: int) -> np.ndarray:
    """The odd rows that are listed: of each kind those of the lowest quality, some of each class among them.

    Args:
        kinds (`np.ndarray`): int `(N,)`.
        quality (`np.ndarray`): float `(N,)`.
        labels (`np.ndarray`): int64 `(N,)`.
        but (`int`): The kind that is not odd.

    Returns:
        `np.ndarray`: int64, the lowest quality first.
    """
    order = np.argsort(quality, kind="stable")
    chosen: list[np.ndarray] = []
    for kind in np.unique(kinds):
        if kind == but:
            continue
        rows = order[kinds[order] == kind]
        of_class = [rows[labels[rows] == number][:_OF_CLASS] for number in np.unique(labels[rows])[:_CLASSES]]
        chosen += [rows[:_SUSPECTS], *of_class]
    rows = np.unique(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)
    return rows[np.argsort(quality[rows], kind="stable")]


def map_rows(n: int) -> np.ndarray:
    """The rows that are points of the data map: all, or a random sample, int64, increasing."""
    return np.arange(n) if n <= _POINTS else np.sort(np.random.default_rng(0).choice(n, _POINTS, replace=False))
