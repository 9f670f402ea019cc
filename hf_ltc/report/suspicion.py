"""Signs that a row's label is wrong, or that it contradicts others, from what was recorded: arrays in, arrays out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import norm, rankdata

from ..scores.kernels import run_spans
from ..scores.ltc import ltc_scores
from ..scores.protocol import RecordedColumns
from ..scores.scorers import baseline_scores

PREDICTED = "predicted"
# Of rows that have nothing to do with the validation samples, the share that is called conflicting.
_FALSE = 0.05
# Rows whose votes are counted at once.
_BLOCK = 2**14


def wrong_label_quality(run: RecordedColumns) -> np.ndarray:
    """How far each row's label can be trusted, by its rank among the rows: float64 `(N,)`, from 0, the worst, to 1.

    Rows are ranked by the probability of the label against the most probable other class, averaged over training. It
    is AUM (Pleiss et al., arXiv 2001.10528) of margins on a logistic scale, on which no epoch counts more than
    another: a model that comes to know wrong labels by heart gives them large margins (benchmarks/results/audit.md).
    By their mean loss where `RecordConfig.signals` had no `margin`.

    Args:
        run ([`Trajectories`]): The recording.
    """
    if "margin" in run.signals:
        trained = [t for t, epoch in enumerate(run.epochs) if epoch > 0]
        trusted = _mean_at(trained, run, run.signals["margin"], expit)
    else:
        trusted = -baseline_scores(run, "mean_loss")
    # SciPy 1.18 ranks float32 in float32.
    return (rankdata(trusted.astype(np.float64)) - 1) / max(1, len(trusted) - 1)


def wrong_label_count(run: RecordedColumns) -> int:
    """An estimate of how many labels are wrong: the rows whose losses rise where those of the validation samples fall.

    These have a negative correlation with the mean validation loss (DAS; AlignPrune, arXiv 2604.07306). Nothing is
    fitted, and it needs no threshold; benchmarks/results/audit.md compares it with confident learning.

    Args:
        run ([`Trajectories`]): The recording.
    """
    return int(np.count_nonzero(ltc_scores(run, preset="das") < 0))


@dataclass(frozen=True, eq=False)
class Votes:
    """Which class the model gave each row over the late epochs of all runs.

    Args:
        winner (`np.ndarray`): int64 `(N,)`, the class given most often, of equal ones that of the later epochs; -1
            where there is none.
        given (`np.ndarray`): float64 `(N,)`, how often it was the row's own label, in [0, 1]; NaN where there is none.
    """

    winner: np.ndarray
    given: np.ndarray


def late_votes(run: RecordedColumns) -> Votes | None:
    """Counts the recorded predictions of the second half of the epochs; `None` if none were recorded.

    Args:
        run ([`Trajectories`]): The recording.
    """
    table = run.signals.get(PREDICTED)
    if table is None:
        return None
    late = late_checkpoints(run)
    n = len(run.rows)
    winner, given = np.full(n, -1, dtype=np.int64), np.full(n, np.nan)
    predicted = [np.asarray(table[t]) for t in late]
    classes = 1 + max((int(np.nanmax(each)) for each in predicted if np.isfinite(each).any()), default=0)
    for left in range(0, n, _BLOCK):
        part = slice(left, min(left + _BLOCK, n))
        block = np.stack([each[part] for each in predicted])
        known = np.isfinite(block)
        # A little more for later epochs, all of which is less than one vote.
        weight = 1 + np.arange(len(block)) / (len(block) ** 2 + 1)
        counts = np.zeros((block.shape[1], classes))
        epoch, place = np.nonzero(known)
        np.add.at(counts, (place, block[known].astype(np.int64)), weight[epoch])
        voted = known.any(axis=0)
        winner[part] = np.where(voted, counts.argmax(axis=1), -1)
        with np.errstate(invalid="ignore"):
            given[part] = (block == run.labels[part]).sum(axis=0) / known.sum(axis=0)
    return Votes(winner, given)


def late_checkpoints(run: RecordedColumns) -> list[int]:
    """The checkpoints of each run's second half."""
    return [t for start, stop in run_spans(run.lengths) for t in range(start + (stop - start) // 2, stop)]


def late_mean(
    run: RecordedColumns, table: Any, measure: Callable[[np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """The mean of a metric over the second half of the epochs of all runs that recorded a row: float64 `(N,)`.

    Args:
        run ([`Trajectories`]): The recording.
        table (`np.ndarray`): float32 `(L, N)`, one of its tables; NaN where a run did not record a row.
        measure (`Callable`, *optional*): What to take the mean of, from the values of a checkpoint.
    """
    return _mean_at(late_checkpoints(run), run, table, measure)


def _mean_at(
    checkpoints: list[int], run: RecordedColumns, table: Any, measure: Callable[[np.ndarray], np.ndarray] | None
) -> np.ndarray:
    total, known = np.zeros(len(run.rows)), np.zeros(len(run.rows))
    for t in checkpoints:
        values = np.asarray(table[t])
        there = np.isfinite(values)
        np.add(total, values if measure is None else measure(values), out=total, where=there)
        known += there
    with np.errstate(invalid="ignore"):
        return total / known


def correct_share(run: RecordedColumns, votes: Votes | None) -> np.ndarray:
    """How often the model gave each row its label in the second half of the epochs: float64 `(N,)`, in [0, 1].

    By what was recorded: predictions, margins or `correct`; or else that its probability is above one half.

    Args:
        run ([`Trajectories`]): The recording.
        votes ([`Votes`], *optional*): Its votes, if there are any.
    """
    if votes is not None:
        return votes.given
    for name in ("margin", "correct"):
        if name in run.signals:
            return late_mean(run, run.signals[name], lambda values: values > 0)
    return late_mean(run, run.losses, lambda losses: losses < np.log(2))


def conflicting(run: RecordedColumns) -> np.ndarray:
    """The rows whose losses go against those of the validation samples more than chance explains: bool `(N,)`.

    The correlation of a row's losses with the mean validation loss (DAS) is tested by Fisher's transform (Metron 1,
    1921), one-sided at 5% a row. Successive losses are no independent values: they count as so many as Bartlett's
    formula says for the autocorrelations of both (Journal of the Royal Statistical Society 98, 1935). The runs of a
    recording are taken together by these numbers; a run of which they are three or fewer tells nothing.

    Args:
        run ([`Trajectories`]): The recording.
    """
    total, weights = np.zeros(len(run.rows)), np.zeros(len(run.rows))
    for one in run.runs:
        scores = ltc_scores(one, preset="das").astype(np.float64)
        freedom = _independent(one) - 3
        place = np.searchsorted(run.rows, one.rows)
        tells = np.isfinite(scores) & (freedom > 0)
        # A correlation of 1 has no finite transform.
        z = np.arctanh(np.clip(scores[tells], -1 + 1e-7, 1 - 1e-7))
        total[place[tells]] += freedom[tells] * z
        weights[place[tells]] += freedom[tells]
    tested = weights > 0
    found = np.zeros(len(run.rows), dtype=bool)
    found[tested] = norm.cdf(total[tested] / np.sqrt(weights[tested])) < _FALSE
    return found


def _independent(run: RecordedColumns) -> np.ndarray:
    """As how many independent pairs the checkpoints of one run count: float64 `(N,)`."""
    table = np.asarray(run.losses)
    count, n = table.shape
    validation = np.array([[np.asarray(values).mean(dtype=np.float64)] for values in run.validation_losses])
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = [_autocorrelation(table[:, left : left + _BLOCK]) for left in range(0, n, _BLOCK)]
        product = np.concatenate(parts) * _autocorrelation(validation)
        return np.clip(count * (1 - product) / (1 + product), 0, count)


def _autocorrelation(table: np.ndarray) -> np.ndarray:
    """Of each column, that with itself one checkpoint later: float64 `(N,)`, NaN where it never varies."""
    centered = table - table.mean(axis=0, dtype=np.float64)
    return np.einsum("tc,tc->c", centered[1:], centered[:-1]) / np.einsum("tc,tc->c", centered, centered)
