"""Which validation samples a row helps, and which rows help a validation sample, against numpy."""

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from hf_ltc.scores.explain import explain, explain_validation
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.protocol import PlainLosses
from hf_ltc.utils.errors import InputError
from tests.scores.recordings import OnDisk, make_run, named


def correlations(run: PlainLosses, rows: Any, of: str = "differences") -> np.ndarray:
    """Pearson correlations (R, Q) by numpy, of several runs the mean over them."""
    where, found = np.searchsorted(run.rows, rows), []
    for start, stop in pairwise(np.cumsum([0, *run.lengths])):
        both = np.concatenate([run.losses[start:stop, where], run.validation_losses[start:stop]], axis=1)
        both = both.astype(np.float64) if of == "levels" else np.diff(both.astype(np.float64), axis=0)
        with np.errstate(invalid="ignore"):
            found.append(np.corrcoef(both.T)[: len(where), len(where) :])
    return np.mean(found, axis=0)


@pytest.mark.parametrize("of", ["differences", "levels"])
def test_correlations_are_the_terms_of_the_score(of):
    run = make_run(lengths=(6, 9))
    rows = [1, 5, 119]
    said = explain(run, rows, k=12, of=of)
    assert said.helped_correlations.dtype == said.hurt_correlations.dtype == np.float32
    found = np.full((3, 12), np.nan)
    for places, values in ((said.helped, said.helped_correlations), (said.hurt, said.hurt_correlations)):
        for i, q in zip(*np.nonzero(places >= 0)):
            found[i, places[i, q]] = values[i, q]
    np.testing.assert_allclose(found, correlations(run, rows, of), atol=1e-6)
    single = dataclasses.replace(
        run, validation_losses=run.validation_losses[:, 2:3], validation_labels=np.zeros(1, int)
    )
    member = (of, "correlations", "dataset", "none")
    np.testing.assert_allclose(found[:, 2], ltc_scores(single, **named(member))[[0, 2, 59]], atol=1e-6)
    np.testing.assert_allclose(found.mean(axis=1), ltc_scores(run, **named(member))[[0, 2, 59]], atol=1e-6)


def test_explain_names_the_extremes():
    run = make_run(n=40, q=30, lengths=(12,))
    losses = run.losses.copy()
    losses[:, 7] = 1
    run = dataclasses.replace(run, losses=losses)
    rows = run.rows[[3, 7, 39]]
    table = correlations(run, rows)
    found = explain(run, rows, k=4)
    np.testing.assert_array_equal(found.samples, rows)
    for i in (0, 2):
        order = np.argsort(table[i], kind="stable")
        low = [q for q in order[:4] if table[i, q] < 0]
        np.testing.assert_array_equal(found.helped[i], order[::-1][:4])
        np.testing.assert_allclose(found.helped_correlations[i], table[i, order[::-1][:4]], atol=1e-6)
        assert found.hurt[i].tolist() == low + [-1] * (4 - len(low))
        np.testing.assert_allclose(found.hurt_correlations[i][: len(low)], table[i, low], atol=1e-6)
    # The flat row neither helps nor hurts.
    assert (found.helped[1] == -1).all()
    assert np.isnan(found.helped_correlations[1]).all()


@pytest.mark.parametrize("on_disk", [False, True])
def test_explain_both_ways_and_in_blocks(on_disk, monkeypatch):
    run = make_run(n=200, q=50, lengths=(5, 4))
    whole = explain(run, run.rows, k=50)
    back = explain_validation(run, [0, 49], k=200)
    table = correlations(run, run.rows)
    for place, q in enumerate([0, 49]):
        positive = np.flatnonzero(table[:, q] > 0)
        order = positive[np.argsort(-table[positive, q], kind="stable")]
        np.testing.assert_array_equal(back.helped[place, : len(order)], run.rows[order])
        assert (back.helped[place, len(order) :] == -1).all()
        negative = np.flatnonzero(table[:, q] < 0)
        assert set(back.hurt[place, : len(negative)]) == set(run.rows[negative])
    monkeypatch.setattr("hf_ltc.scores.kernels.BLOCK", 700)
    if on_disk:
        run = dataclasses.replace(run, losses=OnDisk(run.losses), validation_losses=OnDisk(run.validation_losses))
    for name, value in dataclasses.asdict(explain(run, run.rows, k=50)).items():
        np.testing.assert_allclose(value, getattr(whole, name), atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(explain_validation(run, [0, 49], k=200).helped, back.helped)


def test_explain_bad_input():
    run = make_run()
    with pytest.raises(InputError, match=r"rows 0, 4, 121 were not recorded"):
        explain(run, [1, 0, 4, 121])
    with pytest.raises(InputError, match=r"no validation samples 12: the recording has 12"):
        explain_validation(run, [0, 12])
    with pytest.raises(InputError, match="`k` is 0"):
        explain(run, [1], k=0)
