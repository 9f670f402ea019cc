"""How far a ranking depends on the seed."""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import rankdata

from ..utils.errors import LTCWarning
from ..utils.files import finite

logger = logging.getLogger(__name__)

# Below it, chance has more say in a ranking than the data.
LOW = 0.5


def within_class_spearman(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> float:
    """Spearman correlation of two scores within classes, averaged over the classes by their numbers of rows.

    Args:
        first (`np.ndarray`): float `(N,)`; NaN for rows without a score, which are left out.
        second (`np.ndarray`): float `(N,)`.
        labels (`np.ndarray`): int `(N,)`, the class of every row.

    Returns:
        `float`: in [-1, 1]; NaN if no class has two rows with different scores.
    """
    known = np.flatnonzero(np.isfinite(first) & np.isfinite(second))
    known = known[np.argsort(labels[known], kind="stable")]
    total = weight = 0.0
    for members in np.split(known, np.flatnonzero(np.diff(labels[known])) + 1):
        one, two = (rankdata(scores[members]) - (len(members) + 1) / 2 for scores in (first, second))
        norm = float(np.linalg.norm(one) * np.linalg.norm(two))
        if norm > 0:
            total += len(members) * float(one @ two) / norm
            weight += len(members)
    return total / weight if weight else float("nan")


@dataclass(frozen=True)
class Reliability:
    """How far a ranking depends on the seed.

    Args:
        one (`float`): Mean within-class Spearman correlation of the scores of two runs.
        mean (`float`): The same for the mean of all runs and another such mean, by the Spearman-Brown formula.
        runs (`int`): How many runs.
        pairs (`list[float]`): The correlation of each pair, NaN where no class has two rows with different scores.
    """

    one: float
    mean: float
    runs: int
    pairs: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with `None` for NaN, which JSON does not have."""
        return finite(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Reliability":
        """Back from [`Reliability.to_dict`]."""
        pairs = [_number(pair) for pair in values["pairs"]]
        return cls(_number(values["one"]), _number(values["mean"]), values["runs"], pairs)

    def __str__(self) -> str:
        if math.isnan(self.one):
            return "Reliability undefined: no class has two rows with different scores."
        said = f"Reliability {self.one:.2f} for one run"
        return said + (f", {self.mean:.2f} for the mean of {self.runs}." if self.runs > 1 else ".")


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def reliability_of(scores: Sequence[np.ndarray], labels: np.ndarray) -> Reliability:
    """Like [`reliability`], for scores of any kind.

    Args:
        scores (`Sequence[np.ndarray]`): float `(N,)` each, of two runs or more.
        labels (`np.ndarray`): int `(N,)`, the class of every row.

    Returns:
        [`Reliability`]
    """
    pairs = [within_class_spearman(one, two, labels) for one, two in combinations(scores, 2)]
    return Reliability(float(np.mean(pairs)), spearman_brown(float(np.mean(pairs)), len(scores)), len(scores), pairs)


def spearman_brown(one: float, count: int) -> float:
    """Reliability of the mean of several scores from that of one: r_n = n r / (1 + (n - 1) r).

    Spearman, "Correlation calculated from faulty data", and Brown, "Some experimental results in the correlation of
    mental abilities" (British Journal of Psychology 3, 1910).

    Args:
        one (`float`): Correlation of two scores.
        count (`int`): How many are averaged.

    Returns:
        `float`: `one` itself if it is not positive, where the formula does not apply.
    """
    return count * one / (1 + (count - 1) * one) if one > 0 else one


def warn_of_reliability(found: Reliability, stacklevel: int = 2) -> None:
    """Warns of a reliability below 0.5, where chance ranks the rows more than the data do.

    Args:
        found ([`Reliability`]): The reliability.
        stacklevel (`int`, *optional*, defaults to `2`): As for `warnings.warn`.
    """
    if not found.mean >= LOW:
        warnings.warn(
            f"{found} Below {LOW}, chance ranks the rows more than the data do: record with `RecordConfig.weights` "
            "averaged, more `RecordConfig.runs`, a lower `RecordConfig.learning_rate` or more `RecordConfig.epochs`.",
            LTCWarning,
            stacklevel=stacklevel + 1,
        )


def say_unknown() -> None:
    """Logs that the reliability of one run is not known."""
    logger.info(
        "Reliability unknown: one run cannot tell what another seed would say; record with `RecordConfig.runs` 2 or "
        "more."
    )
