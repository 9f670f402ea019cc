"""LTC and its family against scipy, on arrays, on tables read epoch by epoch and in `map`."""

import dataclasses
import os
import pickle
import statistics
import subprocess
import sys
import tracemalloc
import warnings
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr

from hf_ltc.coresets.select import rank_coreset
from hf_ltc.data.columns import read_column
from hf_ltc.scores import ltc
from hf_ltc.scores.explain import explain, explain_validation
from hf_ltc.scores.ltc import DEFAULT, PRESETS, ltc_scores, references
from hf_ltc.scores.scorers import LTCScorer
from hf_ltc.utils.errors import InputError

VARIANTS = [
    (of, aggregate, scope, "none")
    for of in ("differences", "levels")
    for aggregate in ("correlations", "losses")
    for scope in ("dataset", "class")
]
WEIGHED = [(*member[:3], "uncertainty") for member in VARIANTS]
LTC = VARIANTS[0]


@dataclass(frozen=True, eq=False)
class Run:
    """What scoring needs of a recording."""

    losses: Any
    validation_losses: Any
    labels: np.ndarray
    validation_labels: np.ndarray
    rows: np.ndarray
    validation_rows: np.ndarray
    epochs: np.ndarray
    lengths: tuple[int, ...]
    recipe: dict[str, Any] = field(default_factory=dict)


class OnDisk:
    """A table that can only be read epoch by epoch, and counts how often."""

    def __init__(self, table):
        self.table, self.shape, self.read = table, table.shape, 0

    def __len__(self):
        return len(self.table)

    def __getitem__(self, epoch):
        assert isinstance(epoch, int), "one epoch at a time"
        self.read += 1
        return self.table[epoch]


def falling(rng, lengths, count):
    """Losses that fall at speeds of their own, as recorded ones do."""
    speed = rng.gamma(2, 0.3, (1, count))
    steps = np.concatenate([np.arange(length) for length in lengths])[:, None]
    return (3 * np.exp(-speed * steps) + 0.3 * rng.random((len(steps), count))).astype(np.float32)


def make_run(n=60, q=12, lengths=(8,), classes=3, seed=0, **changes):
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
    return Run(**{**values, **changes})


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


# Kinds of trajectories: float64 (L, N), of size about one.
def _nearly_flat(rng, length, n):
    return 1 + rng.integers(0, 3, (length, n)) * 2.0**-23


def _one_last_bit(rng, length, n):
    table = np.ones((length, n))
    table[rng.integers(0, length, n), np.arange(n)] += 2.0**-23
    return table


def _nearly_linear(rng, length, n):
    return 1 + np.arange(length)[:, None] * rng.random((1, n)) + 1e-6 * rng.random((length, n))


def _one_outlier(rng, length, n):
    table = 1e-6 * rng.random((length, n))
    table[rng.integers(0, length, n), np.arange(n)] = 1
    return table


KINDS = {
    "noise": lambda rng, length, n: rng.random((length, n)),
    "falling": lambda rng, length, n: falling(rng, (length,), n),
    "smooth": lambda rng, length, n: 3 * np.exp(-rng.gamma(2, 2 / length, (1, n)) * np.arange(length)[:, None]),
    "nearly flat": _nearly_flat,
    "one last bit": _one_last_bit,
    "nearly linear": _nearly_linear,
    "one outlier": _one_outlier,
    "of all sizes": lambda rng, length, n: np.exp(rng.normal(0, 8, (length, n))),
}


def test_presets_are_the_papers_and_the_default_is_a_member():
    run = make_run()
    assert tuple(DEFAULT.values()) in VARIANTS + WEIGHED
    assert sorted(tuple(member.values()) for member in ltc.VARIANTS) == sorted(VARIANTS + WEIGHED)
    np.testing.assert_array_equal(
        ltc_scores(run, preset="ltc"), ltc_scores(run, "differences", "correlations", "dataset", "none")
    )
    np.testing.assert_array_equal(
        ltc_scores(run, preset="cld"), ltc_scores(run, "differences", "losses", "class", "none")
    )
    plain = ltc_scores(run, "levels", "losses", "dataset", "none")
    np.testing.assert_array_equal(ltc_scores(run, preset="das"), plain)
    np.testing.assert_array_equal(ltc_scores(run), ltc_scores(run, **DEFAULT))
    np.testing.assert_array_equal(ltc_scores(run), ltc_scores(run, preset="weighted-das"))
    assert set(PRESETS) == {"ltc", "cld", "das", "weighted-das"}


@pytest.mark.parametrize("member", VARIANTS + WEIGHED, ids="-".join)
@pytest.mark.parametrize("lengths", [(3,), (12,), (40,), (5, 3, 14)], ids=str)
def test_every_member_is_its_definition(member, lengths):
    run = make_run(lengths=lengths)
    scores = ltc_scores(run, *member)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, directly(run, *member), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1.0, 1e4, 1e20], ids=str)
@pytest.mark.parametrize("of", ["differences", "levels"])
def test_flat_tiny_and_huge_losses_are_exact(kind, scale, of):
    for length, n in [(3, 8), (4, 8), (21, 8), (1001, 2)]:
        rng = np.random.default_rng(length)
        losses = (scale * KINDS[kind](rng, length, n)).astype(np.float32)
        run = make_run(n=n, q=3, lengths=(length,), losses=losses)
        for weighting in ("none", "uncertainty"):
            member = (of, "correlations", "dataset", weighting)
            np.testing.assert_allclose(ltc_scores(run, *member), directly(run, *member), atol=1e-5, rtol=0)


@given(
    seed=st.integers(0, 2**32 - 1),
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=2, max_size=2),
    exponents=st.tuples(st.floats(-6, 4), st.floats(-6, 4)),
    length=st.integers(3, 60),
    n=st.integers(1, 5),
    q=st.integers(1, 4),
    member=st.sampled_from(VARIANTS + WEIGHED),
)
@settings(max_examples=200, deadline=None)
def test_scores_are_scipys(seed, kinds, exponents, length, n, q, member):
    rng = np.random.default_rng(seed)
    losses, validation_losses = (
        (10.0**exponent * KINDS[kind](rng, length, size)).astype(np.float32)
        for kind, exponent, size in zip(kinds, exponents, (n, q))
    )
    run = make_run(n, q, (length,), classes=1, losses=losses, validation_losses=validation_losses)
    expected = directly(run, *member)
    try:
        scores = ltc_scores(run, *member)
    except InputError as error:
        assert "flat" in str(error)
        # Of a mean that is flat, the direct computation may leave what float64 rounds.
        mean = np.diff(validation_losses.astype(np.float64).mean(axis=1))
        assert np.isnan(expected).all() or (member[1] == "losses" and np.ptp(mean) < 1e-15 * validation_losses.max())
        return
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)


@given(st.integers(0, 10**6), st.sampled_from(VARIANTS), st.integers(-12, 12))
@settings(max_examples=25, deadline=None)
def test_scores_do_not_change_with_units_and_follow_their_rows(seed, member, power):
    run = make_run(seed=seed, lengths=(6, 4))
    scores = ltc_scores(run, *member)
    order = np.random.default_rng(seed).permutation(60)
    moved = dataclasses.replace(run, losses=2.0**power * run.losses[:, order], labels=run.labels[order])
    np.testing.assert_allclose(ltc_scores(moved, *member), scores[order], atol=1e-6, rtol=0)
    assert (np.abs(scores) <= 1).all()


def test_one_row_and_one_validation_sample():
    run = make_run(n=1, q=1, lengths=(5,), classes=1)
    for member in VARIANTS:
        np.testing.assert_allclose(ltc_scores(run, *member), directly(run, *member), atol=1e-5, rtol=0)
    same = dataclasses.replace(run, validation_losses=run.losses)
    for member in VARIANTS:
        np.testing.assert_allclose(ltc_scores(same, *member), 1, atol=1e-6)
    for member in WEIGHED:
        assert ltc_scores(same, *member) == pytest.approx(unsure(run.losses[:, 0], run.epochs) ** 0.5)
    assert ltc_scores(make_run(n=0)).shape == (0,)


def test_flat_rows_have_no_score_and_the_others_do_not_notice():
    run = make_run()
    losses = run.losses.copy()
    losses[:, 3] = 1.7
    losses[:, 5] = 4 - 0.5 * np.arange(8)
    flat = dataclasses.replace(run, losses=losses)
    scores = ltc_scores(flat, preset="ltc")
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3, 5]
    np.testing.assert_array_equal(np.delete(scores, [3, 5]), np.delete(ltc_scores(run, preset="ltc"), [3, 5]))
    for weighting in ("none", "uncertainty"):
        assert np.flatnonzero(np.isnan(ltc_scores(flat, "levels", weighting=weighting))).tolist() == [3]


def test_a_row_flat_in_one_run_has_the_score_of_the_others():
    run = make_run(lengths=(5, 6))
    losses = run.losses.copy()
    losses[:5, 0] = 2
    losses[:, 1] = 2
    scores = ltc_scores(dataclasses.replace(run, losses=losses))
    second = dataclasses.replace(
        run,
        losses=losses[5:],
        validation_losses=run.validation_losses[5:],
        epochs=run.epochs[5:],
        lengths=(6,),
    )
    np.testing.assert_array_equal(scores[:2], ltc_scores(second)[:2])
    assert np.isnan(scores[1])


def test_flat_validation_samples_are_left_out_of_the_mean():
    run = make_run()
    with_flat = run.validation_losses.copy()
    with_flat[:, 4] = 0
    without = np.delete(run.validation_losses, 4, axis=1)
    scores = ltc_scores(dataclasses.replace(run, validation_losses=with_flat))
    expected = ltc_scores(
        dataclasses.replace(run, validation_losses=without, validation_labels=np.zeros(11, dtype=int))
    )
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("member", VARIANTS, ids="-".join)
def test_references_sum_to_zero_and_give_the_scores(member):
    run = make_run(lengths=(7, 5))
    found = references(run, *member)
    total = np.zeros(60)
    for (start, stop), reference in zip([(0, 7), (7, 12)], found):
        x = run.losses[start:stop].astype(np.float64)
        x = np.diff(x, axis=0) if member[0] == "differences" else x
        u = (x - x.mean(axis=0)) / np.linalg.norm(x - x.mean(axis=0), axis=0)
        assert reference.dtype == np.float64
        assert reference.shape == (len(x), 1 if member[2] == "dataset" else 3)
        np.testing.assert_allclose(reference.sum(axis=0), 0, atol=1e-12)
        total += (u * reference[:, run.labels if member[2] == "class" else np.zeros(60, dtype=int)]).sum(axis=0)
    np.testing.assert_allclose(ltc_scores(run, *member), total / 2, atol=1e-6)


@pytest.mark.parametrize("member", VARIANTS, ids="-".join)
def test_arrays_tables_on_disk_and_columns_agree(member, tmp_path):
    run = make_run(n=500, lengths=(37, 20))
    losses = run.losses.copy()
    # Some that float32 cannot do.
    losses[:, :50] = 1e4 + np.arange(57)[:, None] + 0.01 * losses[:, :50]
    losses[:, 50:100] *= 1e-12
    losses[:, 100] = 3
    run = dataclasses.replace(run, losses=losses)
    scores = ltc_scores(run, *member)
    on_disk = OnDisk(losses)
    read = ltc_scores(
        dataclasses.replace(run, losses=on_disk, validation_losses=OnDisk(run.validation_losses)), *member
    )
    np.save(tmp_path / "losses.npy", losses)
    mapped = dataclasses.replace(run, losses=np.load(tmp_path / "losses.npy", mmap_mode="r"))
    scorer = LTCScorer.from_trajectories(run, *member)
    column = scorer(pa.table({"loss_trajectory": list(losses.T), "label": run.labels}))["ltc_score"]
    assert column.type == pa.float32()
    assert np.flatnonzero(np.isnan(scores)).tolist() == column.is_null().to_numpy().nonzero()[0].tolist() == [100]
    for other in (read, ltc_scores(mapped, *member), column.to_numpy()):
        np.testing.assert_allclose(other, scores, atol=1e-6, rtol=0)


@pytest.mark.parametrize("weighting", ["none", "uncertainty"])
def test_a_table_on_disk_is_scored_without_holding_it(weighting):
    n, length = 40_000, 300
    noise = np.random.default_rng(0).random((length, 1), dtype=np.float32)
    base = np.random.default_rng(1).random(n, dtype=np.float32)

    class Generated(OnDisk):
        def __init__(self):
            self.shape, self.read = (length, n), 0

        def __getitem__(self, epoch):
            self.read += 1
            return base * noise[epoch] + np.roll(base, epoch)

    table = Generated()
    run = make_run(n=n, lengths=(length,), losses=table)
    tracemalloc.start()
    ltc_scores(run, "differences", weighting=weighting)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < length * n * 4 / 3
    # Once each, and the first and last loss; of uncertainty once more all but the untrained model's and the last.
    assert table.read == length + 2 + (length - 2 if weighting == "uncertainty" else 0)


def correlations(run: Run, rows: Any, of: str = "differences") -> np.ndarray:
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
    np.testing.assert_allclose(found[:, 2], ltc_scores(single, *member)[[0, 2, 59]], atol=1e-6)
    np.testing.assert_allclose(found.mean(axis=1), ltc_scores(run, *member)[[0, 2, 59]], atol=1e-6)


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


# Bad recordings.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("of", ["differences", "levels"])
def test_losses_that_are_not_finite_are_named(value, of):
    run = make_run(lengths=(5, 6))
    losses = run.losses.copy()
    losses[8, [4, 9]] = value
    losses[9] = value
    with pytest.raises(
        InputError, match=r"epoch 3 of run 1 has 2 losses that are not finite \(rows 9, 19\).*truncate"
    ):
        ltc_scores(dataclasses.replace(run, losses=losses), of)
    validation_losses = run.validation_losses.copy()
    validation_losses[0, 4] = value
    with pytest.raises(InputError, match=r"epoch 0 of run 0 has 1 validation losses .* \(rows 4\): (?!.*truncate)"):
        ltc_scores(dataclasses.replace(run, validation_losses=validation_losses), of)
    with pytest.raises(InputError, match="not finite"):
        explain(dataclasses.replace(run, losses=losses), [9])


def test_recordings_that_have_no_score():
    run = make_run(classes=4, n=60, q=12)
    some = dataclasses.replace(run, validation_labels=np.arange(12) % 2)
    with pytest.raises(InputError, match="no validation samples in classes 2, 3:"):
        ltc_scores(some, scope="class")
    named = dataclasses.replace(some, recipe={"dataset": {"names": ["cat", "dog", "emu", "fox"]}})
    with pytest.raises(InputError, match="no validation samples in classes 'emu', 'fox':"):
        LTCScorer.from_trajectories(named, scope="class")
    assert not np.isnan(ltc_scores(some)).any()
    none = dataclasses.replace(
        run, validation_losses=np.empty((8, 0), dtype=np.float32), validation_labels=np.empty(0, dtype=np.int64)
    )
    with pytest.raises(InputError, match="no validation samples to correlate rows with"):
        ltc_scores(none)
    for lengths in [(2,), (5, 2), (1,)]:
        with pytest.raises(InputError, match="fewer than two differences"):
            ltc_scores(make_run(lengths=lengths))
    validation_losses = run.validation_losses.copy()
    validation_losses[:, run.validation_labels == 2] = 1
    with pytest.raises(InputError, match="validation losses of class 2 are flat"):
        ltc_scores(dataclasses.replace(run, validation_losses=validation_losses), scope="class")
    with pytest.raises(InputError, match="validation losses are flat"):
        ltc_scores(dataclasses.replace(run, validation_losses=np.zeros((8, 12), dtype=np.float32)))


def test_choices_are_checked():
    run = make_run()
    with pytest.raises(InputError, match=r"`of` is 'diffs': it must be one of 'differences', 'levels'"):
        ltc_scores(run, of="diffs")
    with pytest.raises(InputError, match="`preset` is 'LTC'"):
        ltc_scores(run, preset="LTC")
    with pytest.raises(InputError, match="`preset` 'cld' has of='differences': leave of='levels' out"):
        ltc_scores(run, of="levels", preset="cld")
    for preset, member in PRESETS.items():
        # Also where the choice that contradicts is the default's.
        for other in VARIANTS:
            for name, value in zip(member, other):
                if value != member[name]:
                    with pytest.raises(InputError, match=f"leave {name}='{value}' out"):
                        ltc_scores(run, **{name: value}, preset=preset)


# In `map`.


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


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("form", [None, "numpy", "torch", "arrow", "pandas"])
@pytest.mark.parametrize("preset", ["ltc", "cld"])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
def test_map_scores_every_format(form, batched, preset, streaming):
    run = make_run(n=30)
    losses = run.losses.copy()
    losses[:, 20] = 2
    run = dataclasses.replace(run, losses=losses)
    # `datasets` itself cannot make a numpy batch whose first row is null, nor write a pandas one that is all null.
    held_out = (0, 11) if form in (None, "arrow") else (5, 11) if batched or form != "pandas" else ()
    dataset, recorded = as_dataset(run, held_out)
    expected = expected_scores(run, dataset, recorded, preset=preset)
    rows = dataset.with_format(form)
    scorer = LTCScorer.from_trajectories(run, preset=preset)
    if streaming:
        scored = rows.to_iterable_dataset().map(scorer, batched=batched, batch_size=20)
        if form in ("arrow", "pandas"):
            scored = [row for table in scored for row in pa.table(table).to_pylist()]
        assert [None if row["ltc_score"] is None else float(row["ltc_score"]) for row in scored] == expected
        assert [str(row["text"]) for row in scored] == dataset["text"][:]
        return
    scored = rows.map(scorer, batched=batched, batch_size=20)
    assert scored.features["ltc_score"] == Value("float32")
    assert scored.format["type"] == form
    assert scored.with_format(None)["ltc_score"][:] == expected
    assert scored.with_format(None)["text"][:] == dataset["text"][:]


def test_map_in_processes_after_shuffling_and_over_an_older_score():
    run = make_run(n=50, recipe={"dataset": {"label_column": "label"}})
    dataset, recorded = as_dataset(run)
    expected = expected_scores(run, dataset, recorded, scope="class")
    scorer = LTCScorer.from_trajectories(run, scope="class")
    order = np.random.default_rng(0).permutation(52)
    scored = dataset.select(order).map(LTCScorer.from_trajectories(run), batched=True)
    for rows in (scored, scored.with_format("arrow")):
        again = rows.map(scorer, batched=True, num_proc=2)
        assert again.with_format(None)["ltc_score"][:] == [expected[row] for row in order]
        assert again.column_names.count("ltc_score") == 1


@pytest.mark.parametrize("form", [None, "numpy", "torch", "arrow"])
@pytest.mark.parametrize("options", [{"batched": True}, {"writer_batch_size": 4}, {"batched": True, "num_proc": 2}])
def test_map_where_the_first_or_the_last_rows_have_no_score(form, options, tmp_path):
    if form in ("numpy", "torch") and "writer_batch_size" in options:
        pytest.skip("of a row in these formats datasets takes no type")
    run = make_run(n=15)
    dataset, recorded = as_dataset(run, held_out=[*range(10), *range(20, 25)])
    expected = expected_scores(run, dataset, recorded)
    scorer = LTCScorer.from_trajectories(run)
    scored = dataset.with_format(form).map(scorer, batch_size=5, **options).with_format(None)
    assert scored.features["ltc_score"] == Value("float32")
    assert scored["ltc_score"][:] == expected
    assert read_column(scored, "ltc_score").null_count == 15
    scored.to_parquet(tmp_path / "scored.parquet")
    assert pq.read_table(tmp_path / "scored.parquet")["ltc_score"].to_pylist() == expected
    # What is read again is ranked alike without the trajectories.
    ranks = rank_coreset(scored.remove_columns("loss_trajectory"), balance="none")["ltc_rank"][:]
    assert [row for row, rank in enumerate(ranks) if rank is None] == [*range(10), *range(20, 25)]


@pytest.mark.parametrize("batched", [True, False])
def test_map_where_no_row_has_a_score(batched):
    run = make_run(n=5)
    dataset, _ = as_dataset(run, held_out=range(4))
    scored = dataset.select(range(4)).map(LTCScorer.from_trajectories(run), batched=batched)
    assert scored.features["ltc_score"] == Value("float32") and scored["ltc_score"][:] == [None] * 4
    row = LTCScorer.from_trajectories(run)({"loss_trajectory": None})
    assert row == {"ltc_score": None}


def test_reads_nothing_but_its_columns():
    run = make_run(n=10)

    class Row(dict):
        def __getitem__(self, key):
            assert key in ("loss_trajectory", "label"), key
            return super().__getitem__(key)

    row = Row(loss_trajectory=run.losses[:, 0], label=0, image=None)
    alone = dataclasses.replace(run, losses=run.losses[:, :1], labels=run.labels[:1], rows=run.rows[:1])
    assert LTCScorer.from_trajectories(run, scope="class")(row)["ltc_score"] == ltc_scores(alone, scope="class")[0]


@pytest.mark.parametrize("names", [["ant", "bee", "cat"], ["10", "20", "30"], ["False", "True"]], ids=str)
def test_labels_that_are_not_class_numbers(names):
    stored = {"ant": ["ant", "bee", "cat"], "10": [10, 20, 30], "False": [False, True]}[names[0]]
    run = make_run(n=12, classes=len(names), recipe={"dataset": {"label_column": "kind"}})
    expected = ltc_scores(run, scope="class")
    scorer = LTCScorer.from_trajectories(run, scope="class", class_names=names)
    kinds = [stored[label] for label in run.labels]
    for form in (None, "numpy", "torch", "arrow", "pandas"):
        dataset = Dataset.from_dict({"loss_trajectory": list(run.losses.T), "kind": kinds}).with_format(form)
        scored = dataset.map(scorer, batched=True).with_format("numpy")
        np.testing.assert_allclose(scored["ltc_score"][:], expected, atol=1e-6)
        row = {"loss_trajectory": run.losses[:, 1], "kind": kinds[1]}
        assert scorer(row)["ltc_score"] == pytest.approx(expected[1], abs=1e-6)
    with pytest.raises(InputError, match=r"column 'kind' has labels without a reference trajectory \('dog'\)"):
        scorer({"loss_trajectory": run.losses.T, "kind": ["dog"] + kinds[1:]})
    if names[0] == "ant":
        unnamed = LTCScorer.from_trajectories(run, scope="class")
        with pytest.raises(
            InputError, match=r"column 'kind' holds text \('ant'\), not class numbers: give class_names"
        ):
            unnamed({"loss_trajectory": run.losses.T, "kind": kinds})


def test_class_names_come_from_the_recipe():
    described = {"label_column": "kind", "names": ["ant", "bee", "cat"]}
    text = make_run(recipe={"dataset": {**described, "features": {"kind": {"_type": "Value", "dtype": "string"}}}})
    assert LTCScorer.from_trajectories(text, scope="class").class_names == ("ant", "bee", "cat")
    # A ClassLabel's numbers are the classes, whatever it calls them.
    described["names"] = ["2", "1", "0"]
    numbers = make_run(recipe={"dataset": {**described, "features": {"kind": {"_type": "ClassLabel"}}}})
    scorer = LTCScorer.from_trajectories(numbers, scope="class", class_names=described["names"])
    assert scorer.class_names is None
    assert scorer.label_column == "kind"


@pytest.mark.parametrize("form", [list, np.array, pa.array, pd.Series])
def test_bad_batches(form):
    run = make_run(n=4)
    scorer = LTCScorer.from_trajectories(run)
    good = [row.tolist() for row in run.losses.T]

    def batch(trajectories):
        if form is pa.array:
            return pa.table({"loss_trajectory": pa.array(trajectories)})
        if form is pd.Series:
            return pd.DataFrame({"loss_trajectory": [None if t is None else np.array(t) for t in trajectories]})
        if form is np.array:
            values = np.empty(len(trajectories), dtype=object)
            values[:] = [None if t is None else np.array(t) for t in trajectories]
            return {"loss_trajectory": values}
        return {"loss_trajectory": trajectories}

    with pytest.raises(InputError, match=r"trajectory of length 7 \(row 2 of the batch\), .* of length 8"):
        scorer(batch([None, good[0], good[1][:7], good[2]]))
    bad = [None, good[0], good[1][:7] + [float("nan")], good[2]]
    with pytest.raises(InputError, match=r"1 values that are not finite at checkpoint 7 \(rows 2 of the batch\)"):
        scorer(batch(bad))
    with pytest.raises(InputError, match=r"no column 'loss_trajectory' .*'image': attach .*run\.attach\(dataset\)"):
        scorer({"image": form([1, 2])})


def test_labels_of_a_batch_are_checked():
    run = make_run(n=6, validation_labels=np.arange(12) % 4, labels=np.array([0, 1, 3, 0, 1, 3]), recipe={})
    scorer = LTCScorer.from_trajectories(run, scope="class")
    column = {"loss_trajectory": run.losses.T}
    assert len(scorer({**column, "label": [0, 1, 3, 2, 1, 3]})["ltc_score"]) == 6
    for label, shown in [(None, "None"), (-1, "-1"), (4, "4")]:
        with pytest.raises(InputError, match=rf"labels without a reference trajectory \({shown}\)"):
            scorer({**column, "label": [0, 1, 3, label, 1, 3]})
    with pytest.raises(InputError, match="no label column 'label' in the batch"):
        scorer(column)
    # A held-out row's label is nobody's business.
    assert scorer({"loss_trajectory": [None, run.losses[:, 0]], "label": [99, 0]})["ltc_score"][0] is None


def test_arrow_lists_of_any_kind():
    run = make_run(n=6)
    rows = [None, *run.losses.T.tolist(), None]
    expected = LTCScorer.from_trajectories(run)({"loss_trajectory": rows})["ltc_score"]
    flat = pa.array(run.losses.T.ravel())
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(run.losses.T))
    scorer = LTCScorer.from_trajectories(run)
    for kind in (pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 8)):
        whole = pa.array([run.losses[:, 0].tolist(), *rows], kind)[1:]
        for values in (whole, pa.chunked_array([whole[:1], whole[1:4], whole[4:]])):
            found = scorer(pa.table({"loss_trajectory": values}))["ltc_score"].to_pylist()
            assert found == [None if score is None else pytest.approx(float(score), abs=1e-6) for score in expected]
    for values in (tensors, pa.FixedSizeListArray.from_arrays(flat, 8)):
        found = scorer(pa.table({"loss_trajectory": values}))["ltc_score"].to_numpy()
        np.testing.assert_allclose(found, ltc_scores(run), atol=1e-6)
    with pytest.raises(InputError, match="column 'loss_trajectory' holds double, not lists of numbers"):
        scorer(pa.table({"loss_trajectory": [1.0, 2.0]}))
    missing = pd.DataFrame({"loss_trajectory": [pd.NA, float("nan"), run.losses[:, 0]]})
    assert scorer(missing)["ltc_score"].isna().tolist() == [True, True, False]
    nothing = pa.table({"loss_trajectory": pa.nulls(3)})
    assert scorer(nothing)["ltc_score"].to_pylist() == [None] * 3
    assert len(scorer({"loss_trajectory": []})["ltc_score"]) == 0


def test_scorer_is_a_small_value():
    run = make_run(n=5000, q=500, lengths=(31,))
    scorer = LTCScorer.from_trajectories(run, column="other")
    copy = pickle.loads(pickle.dumps(scorer))
    assert len(pickle.dumps(scorer)) < 2000
    batch = {"loss_trajectory": run.losses.T}
    np.testing.assert_array_equal(copy(batch)["other"], scorer(batch)["other"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        scorer.of = "levels"


MAPPED_AGAIN = """
import sys
import numpy as np
from datasets import load_from_disk
from hf_ltc.scores.scorers import LTCScorer
from tests.scores.test_ltc import make_run

run = make_run(n=50, recipe={"dataset": {"label_column": "label"}})
scored = load_from_disk(sys.argv[1]).map(LTCScorer.from_trajectories(run, scope="class"), batched=True)
print(scored._fingerprint, scored.cache_files[0]["filename"])
"""


def test_a_second_map_in_another_process_is_a_cache_hit(tmp_path):
    as_dataset(make_run(n=50))[0].save_to_disk(tmp_path / "rows")
    seen = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", MAPPED_AGAIN, str(tmp_path / "rows")],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        fingerprint, file = done.stdout.split()
        seen.append((fingerprint, file, os.stat(file).st_mtime_ns))
    assert seen[0] == seen[1]
