"""Whether another seed would give the same ranking."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import rankdata

from .baselines import baseline_scores
from .errors import InputError
from .order import Balance, coreset_order
from .rundir import finite
from .scoring import ltc_scores
from .trajectories import Trajectories

# Below it, chance has more say in a ranking than the data.
LOW = 0.5
# Above it, hard rows come so far first that a small coreset is made of them (docs/choosing.md, "Where it loses").
_HARD = 0.5
# Of what the validation loss fell by, the part that it may rise by again.
_RISE = 0.2
_BUDGETS = (0.1, 0.3, 0.5)


def within_class_spearman(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> float:
    """Spearman correlation of two scores within classes: the mean over the classes, weighed by their rows.

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
        mean (`float`): That of the mean of as many runs with another such mean, by the Spearman-Brown formula.
        runs (`int`): How many runs.
        pairs (`list[float]`): The correlation of each pair, NaN where no class has two rows with different scores.
    """

    one: float
    mean: float
    runs: int
    pairs: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `None` for NaN, which JSON has not."""
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


def said_of(found: Reliability | None) -> list[str]:
    """A reliability for a reader, with a warning below 0.5, where chance ranks the rows more than the data do.

    Args:
        found ([`Reliability`], *optional*): `None` where there is one run alone.
    """
    if found is None:
        return [
            "Reliability unknown: one run cannot tell what another seed would say; record with `RecordConfig.runs` 2 "
            "or more."
        ]
    if found.mean >= LOW:
        return [str(found)]
    return [
        f"{found} Warning: below {LOW}, chance ranks the rows more than the data do: record with "
        "`RecordConfig.weights` averaged, more `RecordConfig.runs`, a lower `RecordConfig.learning_rate` or more "
        "`RecordConfig.epochs`."
    ]


def hard_first(scores: np.ndarray, trajectories: Trajectories) -> float:
    """How far hard rows come first: the Spearman correlation, within classes, of scores with the mean loss.

    Args:
        scores (`np.ndarray`): float `(N,)`, the highest of which are kept; NaN for rows without a score.
        trajectories ([`Trajectories`]): The recording that they are of.

    Returns:
        `float`: in [-1, 1]; NaN if no class has two rows with different scores.
    """
    return within_class_spearman(scores, baseline_scores(trajectories, "mean_loss"), trajectories.labels)


def said_of_hard(found: float) -> list[str]:
    """A warning for a reader where hard rows come first, and nothing where they do not.

    Args:
        found (`float`): What [`hard_first`] gives.
    """
    if not found > _HARD:
        return []
    return [
        f"Rows of high mean loss come first (Spearman {found:.2f} within classes): a small coreset has the hardest "
        "rows, and random ones may be worth more. hf-ltc evaluate tells."
    ]


def said_of_validation(trajectories: Trajectories) -> list[str]:
    """A warning for a reader where the mean validation loss, which scores follow, does not fall or rises again.

    Args:
        trajectories ([`Trajectories`]): A run, or several, of which the first that this is true of is told of.
    """
    for run in trajectories.runs:
        means = np.asarray(run.validation_losses, dtype=np.float64).mean(axis=1)
        best = int(means.argmin())
        if means[-1] - means[best] > _RISE * (means[0] - means[best]):
            return [
                f"The mean validation loss rose from {means[best]:.2f} after epoch {run.epochs[best]} to "
                f"{means[-1]:.2f} after the last one, and scores follow it: look for wrong labels and other images "
                "among the validation samples, or record fewer epochs."
            ]
    return []


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def reliability(runs: Trajectories | Sequence[Trajectories], **family: Any) -> Reliability:
    """The Spearman correlation, within classes, between the scores of runs that differ in nothing but the seed.

    Args:
        runs (`Trajectories` or `Sequence[Trajectories]`): Two runs or more, or the value that holds them.
        **family: `preset`, `of`, `aggregate`, `scope`, `weighting`, as for [`ltc_scores`].

    Returns:
        [`Reliability`]

    Raises:
        InputError: for fewer than two runs, or runs of different datasets.
    """
    together = runs if isinstance(runs, Trajectories) else Trajectories.average(runs)
    if len(together.lengths) < 2:
        raise InputError(
            "reliability needs two runs or more of different seeds: record with `RecordConfig.runs` 2 or more"
        )
    return reliability_of([ltc_scores(run, **family) for run in together.runs], together.labels)


def reliability_of(scores: Sequence[np.ndarray], labels: np.ndarray) -> Reliability:
    """As [`reliability`], of scores of any kind.

    Args:
        scores (`Sequence[np.ndarray]`): float `(N,)` each, of two runs or more.
        labels (`np.ndarray`): int `(N,)`, the class of every row.

    Returns:
        [`Reliability`]
    """
    pairs = [within_class_spearman(one, two, labels) for one, two in combinations(scores, 2)]
    return Reliability(float(np.mean(pairs)), spearman_brown(float(np.mean(pairs)), len(scores)), len(scores), pairs)


def spearman_brown(one: float, count: int) -> float:
    """Reliability of the mean of several scores, from that of one: r_n = n r / (1 + (n - 1) r).

    Spearman, "Correlation calculated from faulty data", and Brown, "Some experimental results in the correlation of
    mental abilities" (British Journal of Psychology 3, 1910).

    Args:
        one (`float`): Correlation of two scores.
        count (`int`): How many are averaged.

    Returns:
        `float`: `one` where it is not positive, as the formula means nothing there.
    """
    return count * one / (1 + (count - 1) * one) if one > 0 else one


def stability(trajectories: Trajectories, **family: Any) -> float:
    """Within-class Spearman of the scores of all checkpoints with those of the first half of them.

    This is stability within a run, and no evidence that another seed would rank the rows alike.

    Args:
        trajectories ([`Trajectories`]): A run, or several, of each of which the first half is taken.
        **family: As for [`ltc_scores`].

    Returns:
        `float`: NaN while half of the checkpoints give fewer than two differences.
    """
    halves = [(length + 1) // 2 for length in trajectories.lengths]
    if min(halves) < 3:
        return float("nan")
    first = [run.truncate(int(run.epochs[half - 1])) for run, half in zip(trajectories.runs, halves)]
    half_scores = ltc_scores(Trajectories.average(first), **family)
    return within_class_spearman(ltc_scores(trajectories, **family), half_scores, trajectories.labels)


def overlap(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    budgets: Sequence[float] = _BUDGETS,
    balance: Balance = "class",
) -> dict[float, float]:
    """Share of rows that the coresets of two scores have in common, at each budget.

    Args:
        first (`np.ndarray`): float `(N,)`.
        second (`np.ndarray`): float `(N,)`.
        labels (`np.ndarray`): int `(N,)`.
        budgets (`Sequence[float]`, *optional*, defaults to `(0.1, 0.3, 0.5)`): Fractions of the N rows.
        balance (`str`, *optional*, defaults to `"class"`): As for [`rank_coreset`].

    Returns:
        `dict[float, float]`: from the budget, which chance alone would give, to 1.
    """
    ranks = [coreset_order(scores, labels, balance=balance) for scores in (first, second)]
    for fraction in budgets:
        if not 0 < fraction <= 1:
            raise InputError(f"the budget {fraction!r} must be inside (0, 1]")
    sizes = {fraction: max(1, round(fraction * len(labels))) for fraction in budgets}
    return {fraction: float(((ranks[0] < size) & (ranks[1] < size)).sum() / size) for fraction, size in sizes.items()}
