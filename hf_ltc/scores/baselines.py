"""Known scores from the same recording as LTC: mean and final loss, forgetting, EL2N, AUM, Dyn-Unc, TDDS, DUAL.

Each is a function of one per-sample metric of one run, `(K, N)`, at its K checkpoints after training epochs; that of
the untrained model is left out, since no paper uses it. [`baseline_scores`] takes the mean over the runs of a
recording, as the papers do over seeds, and [`BaselineScorer`] is the same for `map`. The probability of the true class
is exp(-loss).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .windows import uncertainty


def mean_loss(losses: np.ndarray) -> np.ndarray:
    """The mean loss over epochs. Low: learned early and well; the lowest are kept.

    Arpit et al., A Closer Look at Memorization in Deep Networks, ICML 2017 (arXiv 1706.05394) found that the loss of
    clean and easy rows falls early.

    Args:
        losses (`np.ndarray`): `(K, N)`, natural-log cross-entropy.

    Returns:
        `np.ndarray`: float64 `(N,)`.
    """
    return losses.mean(axis=0, dtype=np.float64)


def final_loss(losses: np.ndarray) -> np.ndarray:
    """The loss after the last epoch; the lowest are kept.

    Args:
        losses (`np.ndarray`): `(K, N)`, natural-log cross-entropy.

    Returns:
        `np.ndarray`: float64 `(N,)`.
    """
    return losses[-1].astype(np.float64)


def forgetting(correct: np.ndarray) -> np.ndarray:
    """Forgetting events: how often a row went from right to wrong by its next presentation; the highest are kept.

    Toneva et al., An Empirical Study of Example Forgetting during Deep Neural Network Learning, ICLR 2019 (arXiv
    1812.05159). There, rows that were never learned count as forgotten infinitely often; here they get K, more than
    K presentations can reach.

    Args:
        correct (`np.ndarray`): `(K, N)`, 1 where the row was classified correctly, else 0.

    Returns:
        `np.ndarray`: float64 `(N,)`.
    """
    learned = correct > 0.5
    events = np.count_nonzero(learned[:-1] & ~learned[1:], axis=0)
    return np.where(learned.any(axis=0), events, len(correct)).astype(np.float64)


def el2n(norms: np.ndarray) -> np.ndarray:
    """EL2N: the mean L2 norm of p - y, early in training; the highest are kept.

    Paul et al., Deep Learning on a Data Diet, NeurIPS 2021 (arXiv 2107.07075): the mean over ten seeds, early in
    training. By default over epochs 1 to 10, as Zheng et al., Coverage-centric Coreset Selection, ICLR 2023 (arXiv
    2210.15809), take it of a single run.

    Args:
        norms (`np.ndarray`): `(K, N)`, the norms after each epoch.

    Returns:
        `np.ndarray`: float64 `(N,)`, in [0, sqrt(2)].
    """
    return norms.mean(axis=0, dtype=np.float64)


def aum(margin: np.ndarray) -> np.ndarray:
    """AUM, the area under the margin: the mean of the label's logit minus the highest other one; the highest are kept.

    Pleiss et al., Identifying Mislabeled Data using the Area Under the Margin Ranking, NeurIPS 2020 (arXiv
    2001.10528): the mean over epochs. Rows with the lowest are probably mislabeled.

    Args:
        margin (`np.ndarray`): `(K, N)`, margins of logits.

    Returns:
        `np.ndarray`: float64 `(N,)`.
    """
    return margin.mean(axis=0, dtype=np.float64)


def dyn_unc(losses: np.ndarray, window: int = 10) -> np.ndarray:
    """Dyn-Unc: how uncertain the true class's probability is within sliding windows of epochs; the highest are kept.

    He et al., Large-scale Dataset Pruning with Dynamic Uncertainty, CVPR workshops 2024 (arXiv 2306.05175): the mean
    of the standard deviations of J successive probabilities (J - 1 in the denominator) over the first K - J windows.

    Args:
        losses (`np.ndarray`): `(K, N)`, natural-log cross-entropy.
        window (`int`, *optional*, defaults to `10`): J, in recorded checkpoints.

    Returns:
        `np.ndarray`: float64 `(N,)`.
    """
    return uncertainty(losses, window)


def dual(losses: np.ndarray, window: int = 10) -> np.ndarray:
    """DUAL: uncertainty times difficulty of the true class within sliding windows, early on; the highest are kept.

    Cho et al., Lightweight Dataset Pruning without Full Training via Example Difficulty and Prediction Uncertainty,
    ICML 2025 (arXiv 2502.06905): the mean over all windows of J epochs of the probability's standard deviation (J - 1
    in the denominator) times one less its mean. By default over epochs 1 to 30, as there on CIFAR. Its sampling at
    small budgets is `select_coreset(..., coverage="beta")`.

    Args:
        losses (`np.ndarray`): `(K, N)`, natural-log cross-entropy.
        window (`int`, *optional*, defaults to `10`): J, in recorded checkpoints.

    Returns:
        `np.ndarray`: float64 `(N,)`.
    """
    probability = np.exp(-losses.astype(np.float64))
    windows = [probability[start : start + window] for start in range(len(losses) - window + 1)]
    return np.mean([part.std(axis=0, ddof=1) * (1 - part.mean(axis=0)) for part in windows], axis=0)


def tdds(losses: np.ndarray, window: int = 10, decay: float = 0.9) -> np.ndarray:
    """TDDS: how much the size of loss changes varies within sliding windows, recent ones most; the highest are kept.

    Zhang et al., Spanning Training Progress: Temporal Dual-Depth Scoring for Enhanced Dataset Pruning, CVPR 2024
    (arXiv 2311.13613): in each window of J epochs the norm of the J - 1 absolute loss changes less their mean,
    averaged exponentially over windows, of which the last has the weight `decay`. The loss changes here are those of
    the label. The paper's experiments weight all classes by their predicted probability (a KL divergence), for which
    whole predicted distributions would have to be recorded.

    Args:
        losses (`np.ndarray`): `(K, N)`, natural-log cross-entropy.
        window (`int`, *optional*, defaults to `10`): J, in recorded checkpoints.
        decay (`float`, *optional*, defaults to `0.9`): Weight of the last window, inside (0, 1].

    Returns:
        `np.ndarray`: float64 `(N,)`.
    """
    changes = np.abs(np.diff(losses.astype(np.float64), axis=0))
    averaged = np.zeros(losses.shape[1])
    for start in range(len(losses) - window + 1):
        part = changes[start : start + window - 1]
        averaged *= 1 - decay
        averaged += decay * np.linalg.norm(part - part.mean(axis=0), axis=0)
    return averaged


def random(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Random scores from row number and seed alone: the same in any batch, order, process or machine.

    The SplitMix64 generator (Steele et al., Fast Splittable Pseudorandom Number Generators, OOPSLA 2014), which
    computes its n-th number without those before it.

    Args:
        rows (`np.ndarray`): int64 `(N,)`, row numbers.
        seed (`int`, *optional*, defaults to `0`): 0 or more.

    Returns:
        `np.ndarray`: float64 `(N,)`, uniform in [0, 1).
    """
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    return mixed(state + (np.asarray(rows).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))


def mixed(state: np.ndarray) -> np.ndarray:
    """The numbers that SplitMix64 gives in some of its states, uint64 `(N,)`: float64 `(N,)`, uniform in [0, 1)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return (state >> np.uint64(11)) * 2.0**-53


@dataclass(frozen=True)
class Baseline:
    """A baseline: how it is computed and which rows it keeps.

    Args:
        function (`Callable`): Computes it from one run's metric `(K, N)` and options.
        signal (`str`, *optional*): What it needs: `"loss"`, which is always there, or a recorded per-sample metric.
        keeps (`str`): Which scores are kept: `"highest"` or `"lowest"`.
        epochs (`tuple[int, int or None]`): First and last epoch that it uses by default; `None`: the last.
        more_than_window (`int`): Checkpoints it needs beyond its window.
    """

    function: Callable[..., np.ndarray]
    signal: str | None
    keeps: Literal["highest", "lowest"]
    epochs: tuple[int, int | None] = (1, None)
    more_than_window: int = 0


BASELINES: dict[str, Baseline] = {
    "mean_loss": Baseline(mean_loss, "loss", "lowest"),
    "final_loss": Baseline(final_loss, "loss", "lowest"),
    "forgetting": Baseline(forgetting, "correct", "highest"),
    "el2n": Baseline(el2n, "el2n", "highest", (1, 10)),
    "aum": Baseline(aum, "margin", "highest"),
    "dyn_unc": Baseline(dyn_unc, "loss", "highest", more_than_window=1),
    "tdds": Baseline(tdds, "loss", "highest"),
    "dual": Baseline(dual, "loss", "highest", (1, 30)),
    "random": Baseline(random, None, "highest"),
}
