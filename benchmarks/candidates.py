"""Other scores, compared with the score variants in coresets.py; the highest are kept.

Each takes a [`Trajectories`] of one run and returns float64 `(N,)`. Several runs are averaged, as for score variants.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from hf_ltc import Trajectories, baseline_scores, ltc_scores
from hf_ltc.evaluation.methods import METHODS
from hf_ltc.scores.windows import uncertainty

# The score variants without a weight, and those weighted by uncertainty.
MEMBERS, WEIGHTED = (
    [name for name, each in METHODS.items() if each.variant.get("weighting") == weighting and "-" in name]
    for weighting in ("none", "uncertainty")
)


def class_means(run: Trajectories, table: np.ndarray) -> np.ndarray:
    """The mean trajectory of the validation samples of each row's class, `(T, N)`."""
    classes = np.unique(run.labels)
    means = np.stack([table[:, run.validation_labels == c].mean(axis=1) for c in classes], axis=1)
    return means[:, np.searchsorted(classes, run.labels)]


def correlation(rows: np.ndarray, reference: np.ndarray) -> np.ndarray:
    rows, reference = (each - each.mean(axis=0) for each in (rows, reference))
    return (rows * reference).sum(axis=0) / (np.linalg.norm(rows, axis=0) * np.linalg.norm(reference, axis=0) + 1e-12)


def concordance(run: Trajectories) -> np.ndarray:
    """Lin's concordance correlation (1989) of levels with the mean of the class: scale and offset count too."""
    rows, reference = run.losses.astype(np.float64), class_means(run, run.validation_losses.astype(np.float64))
    covariance = ((rows - rows.mean(axis=0)) * (reference - reference.mean(axis=0))).mean(axis=0)
    apart = (rows.mean(axis=0) - reference.mean(axis=0)) ** 2
    return 2 * covariance / (rows.var(axis=0) + reference.var(axis=0) + apart)


def closeness(run: Trajectories) -> np.ndarray:
    """Minus the mean absolute difference between the trajectory and the mean one of its class."""
    return -np.abs(run.losses - class_means(run, run.validation_losses)).mean(axis=0)


def probabilities(run: Trajectories) -> np.ndarray:
    """Correlation by class of the label's probabilities instead of the losses."""
    rows, held = np.exp(-run.losses.astype(np.float64)), np.exp(-run.validation_losses.astype(np.float64))
    return correlation(rows, class_means(run, held))


def dataset_probabilities(run: Trajectories) -> np.ndarray:
    """The same with the mean of all validation samples."""
    rows, held = np.exp(-run.losses.astype(np.float64)), np.exp(-run.validation_losses.astype(np.float64))
    return correlation(rows, held.mean(axis=1, keepdims=True))


def probability_covariance(run: Trajectories) -> np.ndarray:
    """Covariance by class of the label's probabilities: high for rows that are learned when the class is.

    Rows that are right from the start and rows that are never learned vary too little for a high covariance.
    """
    rows, held = np.exp(-run.losses.astype(np.float64)), np.exp(-run.validation_losses.astype(np.float64))
    reference = class_means(run, held)
    reference = reference - reference.mean(axis=0)
    return (rows * reference).sum(axis=0) / np.linalg.norm(reference, axis=0)


def dataset_probability_covariance(run: Trajectories) -> np.ndarray:
    """The same with the mean of all validation samples."""
    rows, held = np.exp(-run.losses.astype(np.float64)), np.exp(-run.validation_losses.astype(np.float64))
    reference = held.mean(axis=1)
    reference = reference - reference.mean()
    return reference @ rows / np.linalg.norm(reference)


def covariance(run: Trajectories) -> np.ndarray:
    """Covariance of levels with the mean of the class: how far a loss falls with it counts too, not only how alike."""
    rows, reference = run.losses.astype(np.float64), class_means(run, run.validation_losses.astype(np.float64))
    reference = reference - reference.mean(axis=0)
    return (rows * reference).sum(axis=0) / np.linalg.norm(reference, axis=0)


def standardized(run: Trajectories) -> np.ndarray:
    """Mean product of differences, divided by the validation samples' spread in that epoch and not centered."""
    rows, held = (
        np.diff(run.losses.astype(np.float64), axis=0),
        np.diff(run.validation_losses.astype(np.float64), axis=0),
    )
    spread = held.std(axis=1, keepdims=True)
    rows, held = rows / spread, held / spread
    reference = class_means(run, held)
    return (rows * reference).sum(axis=0) / (np.linalg.norm(rows, axis=0) * np.linalg.norm(reference, axis=0) + 1e-12)


def trained_levels(run: Trajectories) -> np.ndarray:
    """Correlation of levels by class, without the untrained model's."""
    later = replace(
        run,
        losses=run.losses[1:],
        validation_losses=run.validation_losses[1:],
        epochs=run.epochs[1:],
        lengths=(len(run.epochs) - 1,),
        signals={},
    )
    return ltc_scores(later, of="levels", aggregate="losses", scope="class", weighting="none")


def heavy_das(run: Trajectories) -> np.ndarray:
    """The default score, weighted by uncertainty however short the recording is."""
    return ltc_scores(run, preset="das") * np.sqrt(uncertainty(np.asarray(run.losses)[run.epochs > 0]))


def within_class_ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Ranks in (0, 1]; 1 is the highest score of the class."""
    return pd.Series(scores).groupby(labels).rank(pct=True).to_numpy()


def levels_and_dyn_unc(run: Trajectories) -> np.ndarray:
    """Mean of the ranks within the class by levels (dataset) and by Dyn-Unc."""
    levels = ltc_scores(run, of="levels", aggregate="losses", scope="dataset", weighting="none")
    return sum(within_class_ranks(each, run.labels) for each in (levels, baseline_scores(run, "dyn_unc"))) / 2


def levels_times_dyn_unc(run: Trajectories) -> np.ndarray:
    """Product of levels (dataset) and Dyn-Unc: high for rows whose loss falls as the others' do, but uncertainly."""
    levels = ltc_scores(run, of="levels", aggregate="losses", scope="dataset", weighting="none")
    return levels * baseline_scores(run, "dyn_unc")


def levels_and_aum(run: Trajectories) -> np.ndarray:
    """Mean of the ranks within the class by levels (class) and by AUM."""
    levels = ltc_scores(run, of="levels", aggregate="losses", scope="class", weighting="none")
    return sum(within_class_ranks(each, run.labels) for each in (levels, baseline_scores(run, "aum"))) / 2


CANDIDATES = {
    each.__name__: each
    for each in (
        concordance,
        closeness,
        probabilities,
        dataset_probabilities,
        probability_covariance,
        dataset_probability_covariance,
        covariance,
        standardized,
        trained_levels,
        levels_and_aum,
        levels_and_dyn_unc,
        levels_times_dyn_unc,
    )
}
