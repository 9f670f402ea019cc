"""LTC and its family against scipy, on arrays, on tables read from disk and in `map`."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr

from hf_ltc.errors import InputError
from hf_ltc.scoring import LTCScorer, ltc_scores


@dataclass(frozen=True, eq=False)
class Run:
    losses: Any
    validation_losses: Any
    labels: np.ndarray
    validation_labels: np.ndarray
    rows: np.ndarray
    validation_rows: np.ndarray
    epochs: np.ndarray
    lengths: tuple[int, ...]
    recipe: dict[str, Any] = field(default_factory=dict)


def make_run(n=60, q=12, length=8, classes=3, seed=0, lengths=None, **changes):
    """Losses that fall from ln(classes) at speeds of their own, as recorded ones do."""
    rng = np.random.default_rng(seed)
    lengths = lengths or (length,)
    total = sum(lengths)

    def fall(count):
        speed = rng.gamma(2, 0.3, (1, count))
        steps = np.concatenate([np.arange(size) for size in lengths])[:, None]
        return (3 * np.exp(-speed * steps) + 0.3 * rng.random((total, count))).astype(np.float32)

    values = {
        "losses": fall(n),
        "validation_losses": fall(q),
        "labels": np.arange(n) % classes,
        "validation_labels": np.arange(q) % classes,
        "rows": np.arange(n) * 2 + 1,
        "validation_rows": np.full(q, -1),
        "epochs": np.concatenate([np.arange(size) for size in lengths]),
        "lengths": lengths,
    }
    return Run(**{**values, **changes})


def direct(run, of, aggregate, scope):
    """The definition, row by row, with scipy in float64."""
    scores = np.full(run.losses.shape[1], np.nan)
    for i in range(len(scores)):
        parts = []
        start = 0
        for length in run.lengths:
            take = slice(start, start + length)
            start += length
            x = np.asarray(run.losses[take], dtype=np.float64)[:, i]
            y = np.asarray(run.validation_losses[take], dtype=np.float64)
            if scope == "class":
                y = y[:, run.validation_labels == run.labels[i]]
            if aggregate == "losses":
                y = y.mean(axis=1, keepdims=True)
            if of == "differences":
                x, y = np.diff(x), np.diff(y, axis=0)
            if np.ptp(x) > 0:
                parts.append(np.mean([pearsonr(x, sample)[0] for sample in y.T if np.ptp(sample) > 0]))
        if parts:
            scores[i] = np.mean(parts)
    return scores


FAMILY = [
    (of, aggregate, scope)
    for of in ("differences", "levels")
    for aggregate in ("correlations", "losses")
    for scope in ("dataset", "class")
]


@pytest.mark.parametrize("member", FAMILY, ids="-".join)
@pytest.mark.parametrize("lengths", [(8,), (5, 3, 9)])
def test_every_member_is_the_definition(member, lengths):
    run = make_run(lengths=lengths)
    scores = ltc_scores(run, *member)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, direct(run, *member), atol=1e-5)


def test_presets_are_the_papers():
    run = make_run()
    np.testing.assert_array_equal(ltc_scores(run, preset="ltc"), ltc_scores(run))
    np.testing.assert_array_equal(ltc_scores(run, preset="cld"), ltc_scores(run, "differences", "losses", "class"))


@pytest.mark.parametrize("scope", ["dataset", "class"])
def test_scorer_gives_what_the_function_gives(scope):
    run = make_run()
    scorer = LTCScorer.from_trajectories(run, scope=scope)
    batch = {"loss_trajectory": run.losses.T.tolist(), "label": run.labels.tolist()}
    np.testing.assert_allclose(scorer(batch)["ltc_score"], ltc_scores(run, scope=scope), atol=1e-6)


def test_flat_rows_have_no_score():
    run = make_run()
    losses = run.losses.copy()
    losses[:, 3] = 1.7
    losses[:, 5] = 4 - 0.5 * np.arange(8)
    scores = ltc_scores(dataclasses.replace(run, losses=losses))
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3, 5]


def test_a_class_without_validation_samples_is_named():
    run = make_run(classes=3, validation_labels=np.zeros(12, dtype=np.int64))
    with pytest.raises(InputError, match="no validation samples in classes 1, 2"):
        ltc_scores(run, scope="class")
