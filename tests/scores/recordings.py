"""Recordings to score, and what they score by definition."""

import functools
import statistics
import warnings

import numpy as np
import pytest
from datasets import Dataset, Features, List, Value
from scipy.stats import pearsonr
from sklearn.datasets import load_digits

from hf_ltc.data.splits import hold_out
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.protocol import PlainLosses
from hf_ltc.trajectories.value import Trajectories

VARIANTS = [
    (of, aggregate, scope, "none")
    for of in ("differences", "levels")
    for aggregate in ("correlations", "losses")
    for scope in ("dataset", "class")
]
WEIGHED = [(*member[:3], "uncertainty") for member in VARIANTS]


def named(member):
    """A score variant as options."""
    return dict(zip(("of", "aggregate", "scope", "weighting"), member))


class OnDisk:
    """A table that can only be read by epochs or by columns, and counts the losses that were read."""

    def __init__(self, table):
        self.table, self.shape, self.read = table, table.shape, 0

    def __len__(self):
        return len(self.table)

    def __getitem__(self, key):
        assert isinstance(key, int) or (key[0] == slice(None) and isinstance(key[1], slice)), "an epoch, or columns"
        self.read += self.table[key].size
        return self.table[key]


def falling(rng, lengths, count):
    """Losses that fall at speeds of their own, as recorded ones do."""
    speed = rng.gamma(2, 0.3, (1, count))
    steps = np.concatenate([np.arange(length) for length in lengths])[:, None]
    return (3 * np.exp(-speed * steps) + 0.3 * rng.random((len(steps), count))).astype(np.float32)


def most_typical(typicality, labels, share):
    """The typicality of a share of the rows of each class, the highest; NaN for the others."""
    found = np.full(len(labels), np.nan, dtype=np.float32)
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        count = max(1, round(share * len(members)))
        best = members[np.argsort(-typicality[members], kind="stable")[:count]]
        found[best] = typicality[best]
    return found


def make_run(n=60, q=12, lengths=(16,), classes=3, seed=0, **changes):
    rng = np.random.default_rng(seed)
    values = {
        "losses": falling(rng, lengths, n),
        "validation_losses": falling(rng, lengths, q),
        "labels": np.arange(n) % classes,
        "validation_labels": np.arange(q) % classes,
        "rows": np.arange(n) * 2 + 1,
        "validation_rows": np.full(q, -1),
        "epochs": np.concatenate([np.arange(length) for length in lengths]),
        "lengths": lengths,
    }
    return PlainLosses(**{**values, **changes})


def pearson(x, y):
    """scipy's, in float64; NaN where one of them is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    with warnings.catch_warnings():
        # It warns of trajectories that are nearly flat, which are what is tested.
        warnings.simplefilter("ignore")
        return pearsonr(x, y)[0]


def unsure(losses, epochs):
    """Dyn-Unc of one trajectory: the mean deviation of the label's probability in windows of ten trained epochs."""
    probability = np.exp(-losses[epochs > 0].astype(np.float64)).tolist()
    size = min(10, len(probability))
    windows = [probability[i : i + size] for i in range(len(probability) - size + 1)]
    return statistics.fmean(statistics.stdev(window) for window in (windows[:-1] or windows))


def directly(run, of, aggregate, scope, weighting):
    """The definition, pair by pair: float64 (N,)."""
    scores = np.full(run.losses.shape[1], np.nan)
    ends = np.cumsum(run.lengths)
    if any((run.epochs[end - length : end] > 0).sum() < 15 for end, length in zip(ends, run.lengths)):
        weighting = "none"
    for i in range(len(scores)):
        parts = []
        stop = 0
        for length in run.lengths:
            start, stop = stop, stop + length
            x = run.losses[start:stop, i].astype(np.float64)
            y = run.validation_losses[start:stop].astype(np.float64)
            if scope == "class":
                y = y[:, run.validation_labels == run.labels[i]]
            if aggregate == "losses":
                y = y.mean(axis=1, keepdims=True)
            if of == "differences":
                x, y = np.diff(x), np.diff(y, axis=0)
            defined = [value for value in (pearson(x, sample) for sample in y.T) if not np.isnan(value)]
            if defined:
                weight = 1 if weighting == "none" else unsure(run.losses[start:stop, i], run.epochs[start:stop]) ** 0.5
                parts.append(np.mean(defined) * weight)
        if parts:
            scores[i] = np.mean(parts)
    return scores


def as_dataset(run, held_out=(0, 11)):
    """Rows with their losses as `attach` adds them; the held-out ones have none."""
    n = run.losses.shape[1] + len(held_out)
    recorded = np.setdiff1d(np.arange(n), held_out)
    trajectories = [None] * n
    labels = [0] * n
    for i, row in enumerate(recorded):
        trajectories[row] = run.losses[:, i]
        labels[row] = int(run.labels[i])
    features = Features(
        {
            "loss_trajectory": List(Value("float32")),
            "label": Value("int64"),
            "text": Value("string"),
        }
    )
    columns = {"loss_trajectory": trajectories, "label": labels, "text": [f"row {i}" for i in range(n)]}
    return Dataset.from_dict(columns, features=features), recorded


def expected_scores(run, dataset, recorded, **member):
    scores = [None] * len(dataset)
    for row, score in zip(recorded, ltc_scores(run, **member)):
        scores[row] = None if np.isnan(score) else pytest.approx(float(score), abs=1e-6)
    return scores


ROWS = 400
HELD, FLAT = 11, 18


@functools.cache
def recorded_digits():
    """Handwritten digits, and the losses of a softmax regression trained on them; some rows held out, one flat."""
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = pixels[:ROWS] / 16, labels[:ROWS]
    held = np.zeros(ROWS, bool)
    held[hold_out(labels, 0.12)[1]] = True
    weights, losses = np.zeros((64, 10)), []
    for _ in range(7):
        logits = pixels @ weights
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        losses.append(-logits[np.arange(ROWS), labels])
        gradient = np.exp(logits) - np.eye(10)[labels]
        weights -= 2 * pixels[~held].T @ gradient[~held] / (~held).sum()
    table = np.array(losses, dtype=np.float32)
    table[:, FLAT] = 2.0
    run = Trajectories(
        losses=table[:, ~held],
        validation_losses=table[:, held],
        labels=labels[~held],
        validation_labels=labels[held],
        rows=np.flatnonzero(~held),
        validation_rows=np.flatnonzero(held),
        epochs=np.arange(7),
        lengths=(7,),
        recipe={"dataset": {"label_column": "label"}},
    )
    return pixels, labels, run
