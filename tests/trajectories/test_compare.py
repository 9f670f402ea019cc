"""Agreement of rankings, against scipy and against scores whose agreement is known."""

import dataclasses
import json
import math
import warnings
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from hf_ltc.coresets.order import coreset_order
from hf_ltc.scores import reliability as doubts
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.reliability import (
    Reliability,
    doubt_of_hard,
    doubt_of_validation,
    hardness,
    spearman_brown,
    within_class_spearman,
)
from hf_ltc.scores.typicality import ltc_typicality
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.compare import reliability, stability
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError, LTCWarning

N, Q, CLASSES = 240, 30, 4
LABELS = np.arange(N) % CLASSES


def make(seed=0, noise=1.0, lengths=(9,), rows=None, **changes):
    """Rows that follow the validation losses as closely as their number says, but for the noise of the seed."""
    rows = np.arange(N) if rows is None else rows
    common = np.random.default_rng(99)
    size = sum(lengths)
    trend = common.normal(size=(size, 1))
    share = np.linspace(-1, 1, N)
    own = np.random.default_rng(seed)
    losses = 5 + share * trend + 0.3 * common.normal(size=(size, N)) + noise * own.normal(size=(size, N))
    values = {
        "losses": losses[:, rows].astype(np.float32),
        "validation_losses": (5 + trend + 0.1 * own.normal(size=(size, Q))).astype(np.float32),
        "labels": LABELS[rows],
        "validation_labels": np.arange(Q) % CLASSES,
        "rows": rows,
        "validation_rows": np.arange(N, N + Q),
        "epochs": np.concatenate([np.arange(length) for length in lengths]),
        "lengths": tuple(lengths),
    }
    return Trajectories(**{**values, **changes})


def by_scipy(first, second, labels):
    """The mean over the classes of scipy's correlation, weighed by their rows with both scores."""
    total = weight = 0
    for label in np.unique(labels):
        rows = (labels == label) & np.isfinite(first) & np.isfinite(second)
        if len(np.unique(first[rows])) < 2 or len(np.unique(second[rows])) < 2:
            continue
        total += rows.sum() * spearmanr(first[rows], second[rows]).statistic
        weight += rows.sum()
    return total / weight if weight else math.nan


SCORES = st.one_of(
    st.floats(-1, 1, width=32), st.sampled_from([0.0, 0.5, -0.5]), st.just(float("nan")), st.integers(-2, 2)
)


@given(st.data(), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_within_class_spearman_is_the_mean_of_scipys(data, n):
    first, second = (data.draw(arrays(np.float64, n, elements=SCORES.map(float))) for _ in "ab")
    labels = data.draw(arrays(np.int64, n, elements=st.integers(0, 3)))
    found, wanted = within_class_spearman(first, second, labels), by_scipy(first, second, labels)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    assert math.isnan(found) or -1 - 1e-12 <= found <= 1 + 1e-12


def test_it_is_within_classes():
    # Over all rows these agree, as both rank the classes alike; within each they are opposite.
    labels = np.repeat([0, 1], 10)
    rank = np.tile(np.arange(10.0), 2)
    first, second = 100 * labels + rank, 100 * labels - rank
    assert spearmanr(first, second).statistic > 0.4
    assert within_class_spearman(first, second, labels) == pytest.approx(-1, abs=1e-12)


def test_it_depends_on_the_order_alone():
    first = np.random.default_rng(0).normal(size=N)
    assert within_class_spearman(first, np.exp(3 * first) + 7, LABELS) == pytest.approx(1, abs=1e-12)
    assert within_class_spearman(first, -(first**3), LABELS) == pytest.approx(-1, abs=1e-12)


@pytest.mark.parametrize(
    "first, second, labels",
    [
        ([], [], []),
        ([1.0], [2.0], [0]),
        ([1, 1], [1, 2], [0, 0]),
        ([1, np.nan], [1, 2], [0, 0]),
        ([1, 2], [1, 2], [0, 1]),
    ],
    ids=["no rows", "one row", "one score", "one known", "classes of one"],
)
def test_undefined(first, second, labels):
    found = within_class_spearman(np.array(first, float), np.array(second, float), np.array(labels, int))
    assert math.isnan(found)


def test_rows_without_a_score_are_left_out():
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, N))
    missing = random.random(N) < 0.3
    kept = within_class_spearman(first[~missing], second[~missing], LABELS[~missing])
    first[missing] = np.nan
    assert within_class_spearman(first, second, LABELS) == kept
    assert within_class_spearman(second, first, LABELS) == kept


def test_a_small_coreset_of_hard_rows_is_a_doubt():
    labels = np.repeat([0, 1], [40, 60])
    losses = np.random.default_rng(0).permutation(100).astype(float)

    def place(row):
        own = losses[labels == labels[row]]
        return (own < losses[row]).sum() / (len(own) - 1)

    hardest = np.zeros(100, bool)
    hardest[[*np.argsort(-losses)[:12]]] = True
    assert hardness(hardest, losses, labels) == pytest.approx(np.mean([place(row) for row in np.flatnonzero(hardest)]))
    assert hardness(np.ones(100, bool), losses, labels) == pytest.approx(0.5)
    said = doubt_of_hard(hardest, losses, labels)
    assert "12 rows" in said and f"{hardness(hardest, losses, labels):.2f}" in said and "hf-ltc evaluate" in said
    # Neither one of easy rows, nor of rows at random, nor a larger one, which hard rows are good for.
    larger = losses >= np.sort(losses)[-20]
    for kept in (losses < 12, np.arange(100) % 9 == 0, larger, np.zeros(100, bool)):
        assert doubt_of_hard(kept, losses, labels) is None


def test_the_first_rows_of_the_order_are_looked_at(monkeypatch):
    seen = {}
    monkeypatch.setattr(doubts, "doubt_of_hard", lambda *given: seen.update(kept=given[0]))
    run = make(0, ids=pa.array(np.arange(N)))
    plain = Dataset.from_dict({"label": run.labels, "row": run.rows}).cast_column("label", ClassLabel(num_classes=4))
    for typical in (0, 0.1):
        order = coreset_order(ltc_scores(run), run.labels, typicality=ltc_typicality(run), typical=typical)
        run.score(plain.select(np.argsort(-run.rows)), typical=typical, id_column="row")
        np.testing.assert_array_equal(seen["kept"], order < N // 10)


@pytest.mark.parametrize(
    "means, said",
    [
        ([2.0, 1.0, 0.5], None),
        # Within a fifth of what it fell by.
        ([2.0, 1.0, 1.19], None),
        ([2.0, 1.0, 1.21], "from 1.00 after epoch 1 to 1.21"),
        ([2.0, 2.1, 2.2], "from 2.00 after epoch 0 to 2.20"),
    ],
)
def test_a_validation_loss_that_rises_is_a_doubt(means, said):
    run = make(0, lengths=(3,))
    held = np.repeat(np.array(means)[:, None], Q, axis=1) + np.linspace(-0.1, 0.1, Q)
    run = dataclasses.replace(run, validation_losses=held.astype(np.float32))
    doubt = doubt_of_validation(run.runs)
    assert doubt is None if said is None else said in doubt
    # Of several runs, the one that it is true of.
    good = dataclasses.replace(run, validation_losses=np.sort(held, axis=0)[::-1].astype(np.float32))
    assert doubt_of_validation([good, run]) == doubt


@pytest.mark.parametrize("family", [{}, {"preset": "cld"}, {"of": "levels", "scope": "class"}], ids=str)
@pytest.mark.parametrize("count", [2, 4])
def test_reliability_is_the_mean_over_the_pairs(family, count):
    runs = [make(seed) for seed in range(count)]
    scores = [ltc_scores(run, **family) for run in runs]
    pairs = [by_scipy(one, two, LABELS) for one, two in combinations(scores, 2)]
    found = reliability(runs, **family)
    assert found.runs == count
    np.testing.assert_allclose(found.pairs, pairs, atol=1e-12)
    assert len(found.pairs) == count * (count - 1) // 2
    assert found.one == pytest.approx(np.mean(pairs), abs=1e-12)
    assert 0.2 < found.one < found.mean < 1
    assert found.mean == pytest.approx(count * found.one / (1 + (count - 1) * found.one), abs=1e-12)


def test_reliability_of_the_value_that_holds_the_runs_is_the_same():
    runs = [make(seed) for seed in range(3)]
    assert reliability(Trajectories.average(runs)) == reliability(runs)
    nested = [Trajectories.average(runs[:2]), runs[2]]
    assert reliability(nested) == reliability(runs)


def test_reliability_of_runs_of_other_lengths_and_rows():
    one, other = make(0, lengths=(9,)), make(1, lengths=(7,), rows=np.arange(0, N, 2))
    scores = ltc_scores(one)[::2], ltc_scores(other)
    assert reliability([one, other]).one == pytest.approx(by_scipy(*scores, LABELS[::2]), abs=1e-12)


def test_runs_that_are_the_same_agree():
    found = reliability([make(), make()])
    assert (found.one, found.mean) == pytest.approx((1, 1), abs=1e-12)


def test_the_mean_of_runs_is_as_reliable_as_spearman_and_brown_say():
    # Their formula against what it foretells: means of four runs, compared with means of four others.
    scores = np.array([ltc_scores(make(seed, noise=3.0)) for seed in range(80)])
    one = np.mean([within_class_spearman(a, b, LABELS) for a, b in zip(scores[::2], scores[1::2])])
    means = scores.reshape(20, 4, N).mean(axis=1)
    four = np.mean([within_class_spearman(a, b, LABELS) for a, b in zip(means[::2], means[1::2])])
    assert one < 0.7
    assert four == pytest.approx(spearman_brown(one, 4), abs=0.05)


@given(st.floats(1e-3, 1), st.integers(1, 30), st.integers(1, 30))
def test_laws_of_spearman_brown(one, m, n):
    assert spearman_brown(one, 1) == pytest.approx(one)
    assert one * (1 - 1e-12) <= spearman_brown(one, n) <= 1 + 1e-12
    # Of the mean of n means of m it is that of the mean of n * m.
    assert spearman_brown(spearman_brown(one, m), n) == pytest.approx(spearman_brown(one, m * n))


@pytest.mark.parametrize("one", [0.0, -0.3, math.nan])
def test_where_the_formula_means_nothing(one):
    np.testing.assert_equal(spearman_brown(one, 3), one)


@pytest.mark.parametrize("runs", [make(), [make()]], ids=["one", "list of one"])
def test_one_run_has_no_reliability(runs):
    with pytest.raises(
        InputError, match=r"reliability needs two runs or more .*: record with `RecordConfig.runs` 2 or more"
    ):
        reliability(runs)


def test_no_run_and_runs_of_different_data():
    with pytest.raises(InputError, match="give one run or more"):
        reliability([])
    other = dataclasses.replace(make(1), labels=(LABELS + 1) % CLASSES)
    with pytest.raises(InputError, match=r"run 1 .* different datasets \(labels differ\)"):
        reliability([make(), other])


@pytest.mark.parametrize(
    "value, text",
    [
        (Reliability(0.5, 2 / 3, 2, [0.5]), "Reliability 0.50 for one run, 0.67 for the mean of 2."),
        (Reliability(0.5, 0.5, 1, []), "Reliability 0.50 for one run."),
        (Reliability(-0.1, -0.1, 2, [-0.1]), "Reliability -0.10 for one run, -0.10 for the mean of 2."),
        (Reliability(math.nan, math.nan, 2, [math.nan]), "Reliability undefined: no class has two rows"),
    ],
    ids=str,
)
def test_reliability_as_text_and_json(value, text):
    assert str(value).startswith(text)
    stored = json.loads(json.dumps(value.to_dict(), allow_nan=False))
    assert stored.keys() == {"one", "mean", "runs", "pairs"}
    np.testing.assert_equal(dataclasses.asdict(Reliability.from_dict(stored)), dataclasses.asdict(value))


def test_flat_scores_have_an_undefined_reliability():
    flat = [dataclasses.replace(make(seed), losses=np.ones((9, N), np.float32)) for seed in (0, 1)]
    found = reliability(flat)
    assert math.isnan(found.one) and math.isnan(found.mean)


def doubts_of(call):
    """What a Python user hears, at the line of the call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LTCWarning)
        call()
    assert all(each.category is LTCWarning and each.filename == __file__ for each in caught)
    return [str(each.message) for each in caught]


def test_python_users_hear_of_a_low_reliability():
    (said,) = doubts_of(lambda: reliability([make(seed, noise=30.0) for seed in (0, 1)]))
    assert said.startswith("Reliability ") and "`RecordConfig.weights` averaged" in said and "--" not in said
    (undefined,) = doubts_of(
        lambda: reliability([dataclasses.replace(make(s), losses=np.ones((9, N))) for s in (0, 1)])
    )
    assert undefined.startswith("Reliability undefined")
    assert doubts_of(lambda: reliability([make(), make()])) == []


def test_python_users_hear_what_makes_scores_doubtful(caplog):
    caplog.set_level("INFO", "hf_ltc")
    dataset = Dataset.from_dict({"label": LABELS}, features=Features({"label": ClassLabel(num_classes=CLASSES)}))
    good = make(0)
    good = dataclasses.replace(good, validation_losses=np.sort(good.validation_losses, axis=0)[::-1].copy())

    def heard(run, **family):
        caplog.clear()
        return [said.split()[:5] for said in doubts_of(lambda: run.score(dataset, **family))]

    rises = ["The", "mean", "validation", "loss", "rose"]
    assert heard(good) == []
    assert [message.split(":")[0] for message in caplog.messages] == ["Reliability unknown"]
    assert heard(dataclasses.replace(good, validation_losses=good.validation_losses[::-1].copy())) == [rises]
    assert heard(good.truncate(2)) == []
    assert heard(good.truncate(2), preset="ltc") == [["With", "two", "differences,", "every", "correlation"]]
    # A quarter of the rows are learned when the validation samples are, the others were known from the start.
    held = good.validation_losses.mean(axis=1, keepdims=True)
    learned = np.where(np.arange(N) % 16 < 4, held, 0.1) + 0.001 * good.losses
    hard = dataclasses.replace(good, losses=learned.astype(np.float32))
    # By the score alone the smallest coresets are made of them, and with typical rows first they are not.
    assert heard(hard, typical=0) == [["The", "coreset", "of", f"{N // 10}", "rows"]]
    assert heard(hard, typical=0.1) == []
    noisy = Trajectories.average([dataclasses.replace(good, losses=make(s, noise=30.0).losses) for s in (1, 2)])
    (low,) = heard(noisy)
    assert low[0] == "Reliability" and caplog.messages == []


def test_scores_read_the_epochs_on_disk_once(tmp_path, monkeypatch):
    Trajectories.average([make(seed) for seed in (0, 1)]).save(tmp_path / "run")
    run = Trajectories.load(tmp_path / "run", mmap=True)
    dataset = Dataset.from_dict({"label": LABELS}, features=Features({"label": ClassLabel(num_classes=CLASSES)}))
    read, read_slice = [], run_dir.read_slice

    def counted(path, name, first, last):
        read.extend((path, row) for row in range(first, last) if name == run.loss_name)
        return read_slice(path, name, first, last)

    monkeypatch.setattr(run_dir, "read_slice", counted)
    run.score(dataset)
    assert len(read) == len(set(read)) == len(run.epochs) * len(run.rows)


@pytest.mark.parametrize("family", [{}, {"preset": "cld"}], ids=str)
@pytest.mark.parametrize("length", [5, 6, 9])
def test_stability_is_agreement_with_the_first_half(family, length):
    run = make(lengths=(length,))
    half = run.truncate((length + 1) // 2 - 1)
    assert len(half.epochs) == (length + 1) // 2
    wanted = by_scipy(ltc_scores(run, **family), ltc_scores(half, **family), LABELS)
    assert stability(run, **family) == pytest.approx(wanted, abs=1e-12)


def test_stability_of_several_runs_halves_each():
    runs = [make(0, lengths=(9,)), make(1, lengths=(6,))]
    halves = Trajectories.average([runs[0].truncate(4), runs[1].truncate(2)])
    wanted = by_scipy(ltc_scores(Trajectories.average(runs)), ltc_scores(halves), LABELS)
    assert stability(Trajectories.average(runs)) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("lengths", [(3,), (4,), (9, 4)], ids=str)
def test_too_few_epochs_have_no_stability(lengths):
    assert math.isnan(stability(make(lengths=lengths)))
