"""Which rows a selection keeps: the options, and the choice as a pure function of arrays."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np

from ..utils.errors import InputError
from .order import Balance, Keep, checked_typical, coreset_order, require_choice, turns
from .sampling import beta_drawn, clustered, stratified

Coverage = Literal["stratified", "beta", "clusters"]
ClusterOrder = Literal["random", "best"]
_BUDGET = ("fraction", "size")


@dataclass(frozen=True)
class Selection:
    """Which rows are kept, and how many: the options of [`select_coreset`].

    Args:
        fraction (`float`, *optional*): Share in (0, 1] of the candidate rows.
        size (`int`, *optional*): Or the rows to keep.
        balance, keep, exclude_negative, min_per_class, coverage, cut, beta_exponent, seed, typical, clusters,
        cluster_order:
            As for [`select_coreset`].

    Raises:
        InputError: for an option out of range.
    """

    fraction: float | None = None
    size: int | None = None
    balance: Balance = "class"
    keep: Keep = "highest"
    exclude_negative: bool = False
    min_per_class: int = 0
    coverage: Coverage | None = None
    cut: float = 0.1
    beta_exponent: float = 4.0
    seed: int = 0
    typical: float | None = None
    clusters: int = 100
    cluster_order: ClusterOrder = "random"

    def __post_init__(self) -> None:
        require_choice("balance", self.balance, get_args(Balance))
        require_choice("keep", self.keep, get_args(Keep))
        require_choice("coverage", self.coverage, (None, *get_args(Coverage)))
        require_choice("cluster_order", self.cluster_order, get_args(ClusterOrder))
        if self.clusters < 1:
            raise InputError(f"`clusters` is {self.clusters!r}: it must be 1 or more")
        if not 0 <= self.cut < 1:
            raise InputError(f"`cut` is {self.cut!r}: it must be in [0, 1)")
        if self.beta_exponent <= 0:
            raise InputError(f"`beta_exponent` is {self.beta_exponent!r}: it must be above 0")
        if self.min_per_class < 0:
            raise InputError(f"`min_per_class` is {self.min_per_class!r}: it must be 0 or more")
        if self.coverage == "beta" and self.keep != "highest":
            raise InputError("coverage 'beta' draws by the score, so it needs keep='highest'")
        if self.typical is not None:
            object.__setattr__(self, "typical", checked_typical(self.typical))
        if self.typical and self.keep != "highest":
            raise InputError(f"`typical` {self.typical!r} goes with keep='highest': give that, or typical=0")

    @property
    def is_nested(self) -> bool:
        """Whether the coresets of all budgets are prefixes of one order."""
        return self.coverage is None and not self.min_per_class

    @property
    def needs_labels(self) -> bool:
        return self.balance != "none" or bool(self.min_per_class)

    @property
    def ranking(self) -> dict[str, Any]:
        """The options that the order depends on, those of [`rank_coreset`]."""
        return {name: getattr(self, name) for name in ("balance", "keep", "exclude_negative", "typical")}

    def decided(self, typical: float) -> "Selection":
        """With as many typical rows first as is usual, where it was not said; none where the lowest are kept.

        Args:
            typical (`float`): What is usual, such as [`usual_typical`].
        """
        if self.typical is not None:
            return self
        return replace(self, typical=typical if self.keep == "highest" else 0.0)

    def to_dict(self) -> dict[str, Any]:
        """The options without the budget, which recipes keep for each coreset."""
        return {name: value for name, value in asdict(self).items() if name not in _BUDGET}

    @classmethod
    def from_dict(cls, options: Mapping[str, Any], **budget: Any) -> "Selection":
        """Makes a selection from [`Selection.to_dict`] and a budget; further keys are ignored."""
        return cls(**{each.name: options[each.name] for each in fields(cls) if each.name in options}, **budget)


def choose(
    scores: np.ndarray,
    labels: np.ndarray | None,
    selection: Selection,
    *,
    candidates: np.ndarray | None = None,
    typicality: np.ndarray | None = None,
    probability: np.ndarray | None = None,
    clusters: np.ndarray | None = None,
    ranks: np.ndarray | None = None,
) -> np.ndarray:
    """Chooses the rows that a selection keeps.

    Args:
        scores (`np.ndarray`): float `(N,)`; NaN for rows without a score, such as flat ones.
        labels (`np.ndarray`, *optional*): int `(N,)`, the class of every row, where `selection.needs_labels`.
        selection ([`Selection`]): The options.
        candidates (`np.ndarray`, *optional*): bool `(N,)`, which rows may be chosen; all if not given.
        typicality (`np.ndarray`, *optional*): float `(N,)`, of [`ltc_typicality`]; NaN for rows that are not typical.
        probability (`np.ndarray`, *optional*): float64 `(N,)`, for `coverage="beta"`: [`mean_probability`].
        clusters (`np.ndarray`, *optional*): int `(N,)`, for `coverage="clusters"`: [`like_trajectories`].
        ranks (`np.ndarray`, *optional*): The ranks from [`rank`], if they are known.

    Returns:
        `np.ndarray`: bool `(N,)`, which rows are kept.

    Raises:
        InputError: for a budget out of range or too small for `min_per_class`, and without labels or probabilities
            where the selection needs them.
    """
    # Strata and odds are computed in double precision, whatever the scores come in, so that the same scores are drawn
    # alike from an array and from a column.
    scores = np.asarray(scores, dtype=np.float64)
    if labels is None and selection.needs_labels:
        raise InputError("`balance` and `min_per_class` need the labels: give them, or balance='none' and no minimum")
    if probability is None and selection.coverage == "beta":
        raise InputError("coverage 'beta' needs the probabilities of the rows: give mean_probability(losses)")
    if clusters is None and selection.coverage == "clusters":
        raise InputError("coverage 'clusters' needs the clusters of the rows: give like_trajectories(losses)")
    if selection.coverage is not None:
        # Rows are drawn by the score, whichever come first in the order.
        candidates = candidates if ranks is None else ranks >= 0
        ranks = rank(scores, labels, replace(selection, typical=0.0), candidates)
    elif ranks is None:
        ranks = rank(scores, labels, selection, candidates, typicality)
    pool = np.flatnonzero(ranks >= 0)
    rows = coreset_size(len(pool), selection.fraction, selection.size)
    # From here on only candidate rows, in coreset order.
    order = np.empty(len(pool), dtype=np.int64)
    order[ranks[pool]] = pool
    classes = labels[order] if selection.needs_labels and labels is not None else np.zeros(len(order), dtype=np.int64)
    taken = np.arange(len(order)) < rows
    if selection.min_per_class:
        taken = _with_minimum(classes, rows, selection.min_per_class)
    draw = np.random.Generator(np.random.PCG64(selection.seed))
    if selection.coverage == "stratified":
        taken = stratified(scores[order], classes, taken, selection.cut, draw)
    elif probability is not None and selection.coverage == "beta":
        taken = beta_drawn(scores[order], classes, taken, probability[order], selection.beta_exponent, draw)
    elif clusters is not None and selection.coverage == "clusters":
        taken = clustered(clusters[order], classes, taken, selection.cluster_order == "best", draw)
    kept = np.zeros(len(scores), dtype=bool)
    kept[order[taken]] = True
    return kept


def rank(
    scores: np.ndarray,
    labels: np.ndarray | None,
    selection: Selection,
    candidates: np.ndarray | None = None,
    typicality: np.ndarray | None = None,
) -> np.ndarray:
    """The rank of each candidate row in the coreset order.

    Args:
        scores, labels, selection, candidates, typicality: As for [`choose`]; no typical rows come first where the
            selection does not say how many.

    Returns:
        `np.ndarray`: int32 `(N,)`, 0 the first pick, -1 for a row that is no candidate.

    Raises:
        InputError: without typicality where the selection needs it.
    """
    typical = selection.typical or 0.0
    if typical and typicality is None:
        raise InputError(f"`typical` {typical!r} needs the typicality of the rows: give ltc_typicality(trajectories)")
    pool = np.ones(len(scores), dtype=bool) if candidates is None else candidates
    if selection.exclude_negative:
        pool = pool & ~(scores < 0)
    own = labels[pool] if labels is not None and selection.balance != "none" else None
    ranks = np.full(len(scores), -1, dtype=np.int32)
    known = None if typicality is None else typicality[pool]
    ranks[pool] = coreset_order(scores[pool], own, None, selection.balance, selection.keep, known, typical)
    return ranks


def coreset_size(pool: int, fraction: float | None = None, size: int | None = None) -> int:
    """The number of rows that a budget keeps, checked.

    Args:
        pool (`int`): Candidate rows.
        fraction (`float`, *optional*): A share of them in (0, 1], rounded to whole rows, halves to the even number.
        size (`int`, *optional*): Rows to keep, instead of a fraction.

    Returns:
        `int`: from 1 to `pool`.

    Raises:
        InputError: if not exactly one of the two is given, or if it is out of range.
    """
    if (fraction is None) == (size is None):
        given = "neither is" if size is None else f"fraction {fraction!r} and size {size!r} are both"
        raise InputError(f"the budget is either a fraction or a size: {given} given")
    if fraction is not None:
        if isinstance(fraction, bool) or not isinstance(fraction, Real) or not 0 < fraction <= 1:
            raise InputError(f"`fraction` is {fraction!r}: it must be in (0, 1], or give a number of rows as size")
        rows = round(fraction * pool)
        if rows < 1:
            raise InputError(f"`fraction` {fraction!r} of the {pool} candidate rows is no row: raise it")
        return rows
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise InputError(f"`size` is {size!r}: it must be a whole number of rows, 1 or more")
    if size > pool:
        raise InputError(f"`size` is {size}, but there are only {pool} candidate rows: lower it")
    return int(size)


def mean_probability(losses: np.ndarray) -> np.ndarray:
    """The mean over checkpoints of the probability of the true class, float64 `(N,)`, of losses float32 `(N, L)`.

    Checkpoints of runs that did not record a row are NaN, and not counted.
    """
    return recorded_mean(np.exp(-losses))


def recorded_mean(values: np.ndarray) -> np.ndarray:
    """The mean of each row's values, float64 `(N,)` of float32 `(N, L)`, over those that are not NaN."""
    means = values.mean(axis=1, dtype=np.float64)
    if len(some := np.flatnonzero(np.isnan(means))):
        part = values[some]
        with np.errstate(invalid="ignore"):
            means[some] = np.nansum(part, axis=1, dtype=np.float64) / np.count_nonzero(~np.isnan(part), axis=1)
    return means


def _with_minimum(classes: np.ndarray, rows: int, minimum: int) -> np.ndarray:
    """Which of the rows, given in coreset order, are kept if each class must keep a minimum."""
    taken = turns(classes) < minimum
    if (needed := np.count_nonzero(taken)) > rows:
        raise InputError(
            f"`min_per_class` {minimum} needs {needed} rows of the {len(np.unique(classes))} classes, but the budget "
            f"is {rows}: lower it or raise the budget"
        )
    taken[np.flatnonzero(~taken)[: rows - needed]] = True
    return taken
