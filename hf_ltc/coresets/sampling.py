"""Sampling of rows over the whole range of scores, where the best rows alone would be too much alike."""

import warnings

import numpy as np

from ..utils.errors import InputError, some_rows
from .order import class_groups, turns

_STRATA = 50
# Rows of a step of k-means, and clusters of a group at least.
_BATCH, _FEWEST = 4096, 2


def stratified(
    scores: np.ndarray, classes: np.ndarray, taken: np.ndarray, cut: float, draw: np.random.Generator
) -> np.ndarray:
    """Rows drawn stratum by stratum, as many of each class as `taken` has; rows are given in coreset order."""
    drawn = np.zeros(len(scores), dtype=bool)
    chance = draw.random(len(scores))
    for own in class_groups(classes):
        budget = int(np.count_nonzero(taken[own]))
        scored = own[~np.isnan(scores[own])]
        if budget >= len(scored):
            # Rows without a score belong to no stratum: they come last, in their order.
            drawn[own] = taken[own]
            continue
        # The far end of the order is the end of the class.
        stay = scored[: max(budget, len(scored) - round(cut * len(scored)))]
        stratum = _strata(scores[stay])
        share = _equal_shares(np.bincount(stratum, minlength=_STRATA), budget)
        shuffled = np.lexsort((chance[stay], stratum))
        drawn[stay[shuffled[turns(stratum[shuffled]) < share[stratum[shuffled]]]]] = True
    return drawn


def _strata(scores: np.ndarray) -> np.ndarray:
    """The stratum of each score, from 0; strata are equally wide, from the lowest to the highest finite score."""
    finite = scores[np.isfinite(scores)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    # A class of one score is one stratum.
    place = (np.clip(scores, low, high) - low) / ((high - low) or 1.0)
    return np.minimum((place * _STRATA).astype(np.int64), _STRATA - 1)


def _equal_shares(counts: np.ndarray, budget: int) -> np.ndarray:
    """Divides a budget equally among strata; what small strata cannot use goes to the larger ones."""
    share = np.zeros_like(counts)
    for i, stratum in enumerate(np.argsort(counts, kind="stable")):
        share[stratum] = min(counts[stratum], budget // (len(counts) - i))
        budget -= share[stratum]
    return share


def beta_drawn(
    scores: np.ndarray,
    classes: np.ndarray,
    taken: np.ndarray,
    probability: np.ndarray,
    exponent: float,
    draw: np.random.Generator,
) -> np.ndarray:
    """Rows drawn by score and Beta density, as many of each class as `taken` has; rows are given in coreset order."""
    best = np.argsort(-scores, kind="stable")[:10]
    left_out = 1 - np.count_nonzero(taken) / len(taken)
    b = 15 * (1 - float(probability[best].mean())) * (1 - left_out**exponent)
    a = 16 - b
    # At 0 and 1 the density may have no finite value.
    probability = np.clip(probability, 1e-7, 1 - 1e-7)
    odds = np.full(len(scores), -np.inf)
    likely = scores > 0
    odds[likely] = np.log(scores[likely])
    odds += (a - 1) * np.log(probability) + (b - 1) * np.log1p(-probability)
    # The highest sums of log odds and Gumbel noise are a draw without replacement, one row after another.
    order = np.argsort(-(odds + draw.gumbel(size=len(scores))), kind="stable")
    budgets = np.bincount(classes[taken], minlength=classes.max(initial=0) + 1)
    drawn = np.zeros(len(scores), dtype=bool)
    drawn[order[turns(classes[order]) < budgets[classes[order]]]] = True
    return drawn


def like_trajectories(losses: np.ndarray, groups: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Clusters of rows whose losses run alike, by k-means within each group.

    Args:
        losses (`np.ndarray`): float `(N, L)`, the trajectories.
        groups (`np.ndarray`): int `(N,)`, such as the classes: no cluster has rows of two groups.
        clusters (`int`): In all; each group has as many as its share of the rows, and two at least.
        seed (`int`): Of the first centers.

    Returns:
        `np.ndarray`: int64 `(N,)`, the number of each row's cluster.

    Raises:
        InputError: for losses that are not finite.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    if len(bad := np.flatnonzero(~np.isfinite(losses).all(axis=1))):
        raise InputError(
            f"coverage 'clusters' needs finite losses, and {len(bad):,} of {len(losses):,} rows have others (rows "
            f"{some_rows(bad)}): leave these rows out; recordings whose validation samples rotate have no losses of "
            "them in some runs"
        )
    found, first = np.zeros(len(losses), dtype=np.int64), 0
    for own in class_groups(groups):
        count = min(len(own), max(_FEWEST, round(clusters * len(own) / len(losses))))
        options = {"n_clusters": count, "n_init": 1, "random_state": seed}
        # Of few rows the usual steps, which see all of them, are done sooner than steps that see a part.
        made = KMeans(**options) if len(own) <= _BATCH else MiniBatchKMeans(batch_size=_BATCH, **options)
        with warnings.catch_warnings():
            # Rows that are all alike make fewer clusters, which is fine.
            warnings.simplefilter("ignore", ConvergenceWarning)
            found[own] = first + made.fit_predict(np.ascontiguousarray(losses[own], dtype=np.float32))
        first += count
    return found


def clustered(
    cluster: np.ndarray, classes: np.ndarray, taken: np.ndarray, best_first: bool, draw: np.random.Generator
) -> np.ndarray:
    """Rows drawn cluster by cluster, as many of each class as `taken` has; rows are given in coreset order."""
    drawn = np.zeros(len(cluster), dtype=bool)
    place = np.arange(len(cluster)) if best_first else draw.permutation(len(cluster))
    for own in class_groups(classes):
        numbers = np.unique(cluster[own], return_inverse=True)[1].reshape(-1)
        share = _equal_shares(np.bincount(numbers), int(np.count_nonzero(taken[own])))
        order = np.lexsort((place[own], numbers))
        drawn[own[order[turns(numbers[order]) < share[numbers[order]]]]] = True
    return drawn
