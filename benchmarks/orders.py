"""Ways of choosing rows that hf_ltc does not offer: variants of its own order, and methods of others.

Each takes one recording (with the source model's features if it needs them), a number of rows and a seed, and returns
their positions, the same number of each class.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from sklearn.linear_model import Ridge

from hf_ltc import Trajectories, ltc_scores
from hf_ltc.coresets.order import coreset_order
from hf_ltc.scores import odds
from hf_ltc.scores import typicality as product

# S2L's 100 clusters, divided among the classes.
_CLUSTERS = 100
# BWS's windows begin at every tenth of a class.
_STARTS = 10


@dataclass(frozen=True, eq=False)
class Recorded:
    """What a way of choosing may look at."""

    run: Trajectories
    features: np.ndarray | None = None


Chooser = Callable[[Recorded, int, int], np.ndarray]


def _typical(share: float | None = None, rows: int | None = None, keys: Callable | None = None) -> Chooser:
    """The product's order with another share of typical rows, number of them, or draw."""

    def choose(recorded: Recorded, size: int, seed: int) -> np.ndarray:
        run = recorded.run
        typicality = (keys or product.ltc_typicality)(run)
        classes = len(np.unique(run.labels))
        first = share if share is not None else min(0.1, (rows or 0) * classes / len(run))
        order = coreset_order(ltc_scores(run), run.labels, typicality=typicality, typical=first)
        return np.flatnonzero(order < size)

    return choose


def uncertainty_odds(run: Trajectories) -> np.ndarray:
    """Typicality with the deviation of the probability over all epochs, times one less its mean, in place of DUAL."""
    spans = odds.typical_spans(run)
    found = odds.read_odds(run.losses, spans)
    probability = np.exp(-run.losses[spans[0][1] :].astype(np.float64))
    replaced = odds.Found(found.probability, probability.std(axis=0) * (1 - found.probability), found.chance)
    return product._of_all(replaced, run.labels)


def _odds(run: Trajectories) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The logarithm of a row's odds, as a line in b, the second parameter of DUAL's Beta density; the row's chance
    (Gumbel noise); and what b is for a coreset of no rows left out."""
    found = odds.read_odds(run.losses, odds.typical_spans(run))
    return *product._odds(found), -np.log(-np.log(found.chance)), 15 * product._hardness(found)


def even_odds(run: Trajectories) -> np.ndarray:
    """Typicality of chance alone: random rows."""
    _, _, chance, _ = _odds(run)
    return chance


def odds_of(kept: float) -> Callable[[Trajectories], np.ndarray]:
    """Typicality with the odds of DUAL's coreset of another share."""

    def keys(run: Trajectories) -> np.ndarray:
        offset, slope, chance, most = _odds(run)
        made = offset + chance + most * (1 - (1 - kept) ** 4) * slope
        made[~np.isfinite(made)] = np.nan
        return made

    return keys


def moving_over(rows: int) -> Callable[[Trajectories], np.ndarray]:
    """Typicality whose odds move while another number of rows of a class is drawn."""

    def keys(run: Trajectories) -> np.ndarray:
        found = odds.read_odds(run.losses, odds.typical_spans(run))
        return product._keys(found, product._stages(found, run.labels, rows))

    return keys


def van_der_corput(run: Trajectories) -> np.ndarray:
    """Typicality without chance: of each class the rows at 1/2, 1/4, 3/4, 1/8, ... of the cumulated odds."""
    offset, slope, _, most = _odds(run)
    odds = np.nan_to_num(np.exp(offset + most * (1 - 0.9**4) * slope))
    keys = np.full(len(odds), np.nan)
    for c in np.unique(run.labels):
        own = np.flatnonzero(run.labels == c)
        own = own[np.argsort(-slope[own], kind="stable")]
        cumulated = np.cumsum(odds[own]) / odds[own].sum()
        free = np.ones(len(own), dtype=bool)
        for number in range(max(1, len(own) // 10)):
            at = int(np.searchsorted(cumulated, _corput(number + 1)))
            near = np.flatnonzero(free)
            at = int(near[np.abs(near - at).argmin()])
            free[at] = False
            keys[own[at]] = -number
    return keys


def _corput(number: int) -> float:
    place, found = 0.5, 0.0
    while number:
        found += place * (number & 1)
        number, place = number >> 1, place / 2
    return found


def s2l(recorded: Recorded, size: int, seed: int) -> np.ndarray:
    """S2L (arXiv 2403.07384): clusters of trajectories, small ones first, equal shares, random inside; by class."""
    run, draw, chosen = recorded.run, np.random.default_rng(seed), []
    for own, budget in _shares(run, size):
        clusters = max(2, _CLUSTERS // len(np.unique(run.labels)))
        group = KMeans(min(clusters, len(own)), n_init=1, random_state=seed).fit_predict(run.losses[:, own].T)
        counts = np.bincount(group)
        order = [c for c in np.argsort(counts, kind="stable") if counts[c]]
        left = budget
        for place, c in enumerate(order):
            share = min(counts[c], left // (len(order) - place))
            chosen.append(draw.choice(own[group == c], share, replace=False))
            left -= share
    return np.sort(np.concatenate(chosen))


def moderate(recorded: Recorded, size: int, seed: int) -> np.ndarray:
    """Moderate coreset (Xia et al., ICLR 2023): features at about the median distance from the center of the class."""
    features, chosen = _features(recorded), []
    for own, budget in _shares(recorded.run, size):
        distance = np.linalg.norm(features[own] - features[own].mean(axis=0), axis=1)
        chosen.append(own[np.argsort(np.abs(distance - np.median(distance)), kind="stable")[:budget]])
    return np.sort(np.concatenate(chosen))


def bws(recorded: Recorded, size: int, seed: int) -> np.ndarray:
    """BWS (arXiv 2406.03057): in each class one window of rows by difficulty, here mean loss, hardest first.

    Where it begins is chosen by a ridge regression of the labels on the features of the rows in it, by its accuracy on
    all rows.
    """
    run, features = recorded.run, _features(recorded)
    difficulty = run.losses.mean(axis=0)
    targets = np.eye(run.labels.max() + 1)[run.labels]
    best, found = -1.0, np.empty(0, dtype=np.int64)
    for start in np.arange(_STARTS) / _STARTS:
        chosen = []
        for own, budget in _shares(run, size):
            ordered = own[np.argsort(-difficulty[own], kind="stable")]
            first = min(round(start * len(own)), len(own) - budget)
            chosen.append(ordered[first : first + budget])
        rows = np.sort(np.concatenate(chosen))
        fitted = Ridge(alpha=1.0).fit(features[rows], targets[rows])
        right = float((fitted.predict(features).argmax(axis=1) == run.labels).mean())
        if right > best:
            best, found = right, rows
    return found


def _features(recorded: Recorded) -> np.ndarray:
    if recorded.features is None:
        raise ValueError("this method needs features: make the recording again")
    return recorded.features.astype(np.float32)


def _shares(run: Trajectories, size: int) -> list[tuple[np.ndarray, int]]:
    """The rows of each class, and how many of them are kept: as many as of every other class that has them."""
    classes = [np.flatnonzero(run.labels == c) for c in np.unique(run.labels)]
    kept = np.zeros(len(classes), dtype=int)
    while kept.sum() < size:
        open_ = [c for c, own in enumerate(classes) if kept[c] < len(own)]
        each, over = divmod(size - int(kept.sum()), len(open_))
        for place, c in enumerate(open_):
            kept[c] = min(len(classes[c]), kept[c] + each + (place < over))
    return list(zip(classes, kept.tolist()))


# Variants of the order that begins with a tenth of each class, which was the default once and still is that of texts.
# They differ from it in one thing each. Numbers of rows are of an average class, a tenth at most. The default, 25 rows
# of each class, was chosen among them.
VARIANTS: dict[str, Chooser] = {
    "typical 0.025": _typical(share=0.025),
    "typical 0.05": _typical(share=0.05),
    "typical 0.1": _typical(share=0.1),
    "typical 0.2": _typical(share=0.2),
    "typical 10 rows": _typical(rows=10),
    "typical 15 rows": _typical(rows=15),
    "typical 25 rows": _typical(rows=25),
    "typical 50 rows": _typical(rows=50),
    "typical, van der Corput": _typical(share=0.1, keys=van_der_corput),
    "typical, uncertainty": _typical(share=0.1, keys=uncertainty_odds),
}
# Odds that stay what they are while the coreset grows (those of a tenth were the default once), slower ones, and none.
ODDS: dict[str, Chooser] = {
    "typical, odds of 10%": _typical(share=0.1, keys=odds_of(0.1)),
    "typical, odds of 5%": _typical(share=0.1, keys=odds_of(0.05)),
    "typical, odds of 2%": _typical(share=0.1, keys=odds_of(0.02)),
    "typical, odds of 0.5%": _typical(share=0.1, keys=odds_of(0.005)),
    "typical, even odds": _typical(share=0.1, keys=even_odds),
    "typical, odds moving over 25 rows": _typical(share=0.1, keys=moving_over(25)),
    "typical, odds moving over 50 rows": _typical(share=0.1, keys=moving_over(50)),
}
OTHERS: dict[str, Chooser] = {"s2l": s2l, "moderate": moderate, "bws": bws}
