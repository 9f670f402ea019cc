"""Typicality against the papers' formulae written out, and what a draw by hashes has to keep."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features
from scipy.stats import kstest, spearmanr

from hf_ltc.data.columns import read_column
from hf_ltc.scores import typicality
from hf_ltc.scores.baselines import dual
from hf_ltc.scores.scorers import LTCScorer
from hf_ltc.scores.typicality import ltc_typicality, typical_probability, typical_spans, typicality_of
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError
from tests.scores.recordings import make_run


def by_the_letter(run):
    """Log odds in double precision, from the sums of the papers."""
    starts = np.cumsum([0, *run.lengths])
    each = []
    for start, stop in itertools.pairwise(starts):
        trained = run.losses[start + (run.epochs[start] == 0) : stop][:30]
        each.append(dual(trained, min(10, len(trained))))
    score = np.mean(each, axis=0)
    p = np.exp(-run.losses.astype(np.float64)).mean(axis=0)
    m = p[np.argsort(-score, kind="stable")[:10]].mean()
    b = 15 * (1 - m) * (1 - 0.9**4)
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return np.log(score) + (15 - b) * np.log(p) + (b - 1) * np.log(1 - p)


def labeled(labels):
    return Dataset.from_dict({"label": labels}, features=Features({"label": ClassLabel(num_classes=3)}))


def noise_of(run):
    return ltc_typicality(run).astype(np.float64) - by_the_letter(run)


@pytest.mark.parametrize("lengths", [(41,), (31,), (12,), (11,), (3,), (21, 15), (4, 40, 3)])
@pytest.mark.parametrize("first", [0, 1])
def test_odds_are_those_of_dual_and_chance_is_gumbel(lengths, first):
    epochs = np.concatenate([np.arange(length) + first for length in lengths])
    run = make_run(n=3000, lengths=lengths, epochs=epochs)
    noise = noise_of(run)
    assert kstest(noise, "gumbel_r").pvalue > 0.001
    # Chance has nothing to do with the odds, nor with the neighboring row.
    assert abs(spearmanr(noise, by_the_letter(run))[0]) < 0.06
    assert abs(spearmanr(noise[1:], noise[:-1])[0]) < 0.06


def test_of_two_rows_one_comes_first_as_often_as_its_odds_say():
    draw = np.random.default_rng(0)
    losses = np.exp(-np.linspace(0, 2, 12))[:, None] * np.repeat([1.0, 1.6], 4000) + draw.normal(0, 1e-3, (12, 8000))
    run = make_run(n=8000, lengths=(12,), losses=losses.astype(np.float32))
    odds, keys = by_the_letter(run), ltc_typicality(run)
    easy, hard = slice(0, 4000), slice(4000, 8000)
    expected = 1 / (1 + np.exp(odds[hard] - odds[easy]))
    assert 0.02 < expected.mean() < 0.98
    deviation = np.sqrt((expected * (1 - expected)).sum()) / 4000
    assert (keys[easy] > keys[hard]).mean() == pytest.approx(expected.mean(), abs=4 * deviation)


@pytest.mark.parametrize("lengths", [(12,), (9, 14)])
def test_a_row_is_as_typical_in_any_order_batch_and_process(monkeypatch, tmp_path, lengths):
    run = make_run(n=500, lengths=lengths)
    whole, spans, probability = ltc_typicality(run), typical_spans(run), typical_probability(run)
    assert whole.dtype == np.float32
    order = np.random.default_rng(1).permutation(500)
    shuffled = make_run(n=500, lengths=lengths, losses=run.losses[:, order])
    np.testing.assert_array_equal(ltc_typicality(shuffled), whole[order])
    for part in (slice(0, 1), slice(3, 20), slice(1, 500, 7)):
        np.testing.assert_array_equal(typicality_of(run.losses[:, part], spans, probability), whole[part])
    np.testing.assert_array_equal(typicality_of(np.asfortranarray(run.losses), spans, probability), whole)
    monkeypatch.setattr(typicality, "_BLOCK", 64)
    monkeypatch.setattr(typicality, "count_threads", lambda losses: 3)
    np.testing.assert_array_equal(ltc_typicality(run), whole)


def test_from_disk_by_a_scorer_and_by_a_run_it_is_the_same(tmp_path):
    run = make_run(n=90, lengths=(12,), rows=np.arange(90))
    fields = {name: getattr(run, name) for name in ("losses", "validation_losses", "labels", "validation_labels")}
    fields |= {name: getattr(run, name) for name in ("rows", "validation_rows", "epochs", "lengths")}
    value = Trajectories(**fields)
    value.save(tmp_path / "run")
    expected = ltc_typicality(value)
    mapped = Trajectories.load(tmp_path / "run", mmap=True)
    assert not isinstance(mapped.losses, np.ndarray)
    np.testing.assert_array_equal(ltc_typicality(mapped), expected)
    plain = labeled(value.labels)
    at_once = value.score(plain)
    scored = value.attach(plain).map(LTCScorer.from_trajectories(mapped), batched=True, batch_size=7)
    for found in (at_once, scored):
        np.testing.assert_array_equal(read_column(found, "ltc_typicality").to_numpy(), expected)
        assert found.features["ltc_typicality"].dtype == "float32"


@pytest.mark.parametrize("stored", [False, True])
def test_of_many_rows_the_best_are_looked_for_among_evenly_spaced_ones(monkeypatch, tmp_path, stored):
    run = make_run(n=100, lengths=(12,), rows=np.arange(100))
    names = (
        "losses",
        "validation_losses",
        "labels",
        "validation_labels",
        "rows",
        "validation_rows",
        "epochs",
        "lengths",
    )
    value = Trajectories(**{name: getattr(run, name) for name in names})
    if stored:
        value.save(tmp_path / "run")
        value = Trajectories.load(tmp_path / "run", mmap=True)
    whole = typical_probability(value)
    monkeypatch.setattr(typicality, "_SEARCHED", 40)
    searched = np.unique(np.linspace(0, 99, 40).round().astype(int))
    part = make_run(n=40, lengths=(12,), losses=run.losses[:, searched])
    assert typical_probability(value) == typical_probability(part) != whole
    expected = typicality_of(run.losses, typical_spans(value), typical_probability(part))
    np.testing.assert_array_equal(ltc_typicality(value), expected)


def test_flat_rows_and_rows_held_out_have_none():
    run = make_run(n=40, lengths=(12,))
    run.losses[:, 3] = 0.25
    run.losses[:, 5] = 0
    keys = ltc_typicality(run)
    assert np.flatnonzero(np.isnan(keys)).tolist() == [3, 5]
    value = Trajectories(
        **{name: getattr(run, name) for name in ("losses", "validation_losses", "labels", "validation_labels")},
        **{name: getattr(run, name) for name in ("rows", "validation_rows", "epochs", "lengths")},
    )
    # Every other row was recorded.
    scored = value.score(labeled([i // 2 % 3 for i in range(80)]), typical=0)
    known = read_column(scored, "ltc_typicality").is_valid().to_pylist()
    assert known == [i % 2 == 1 and i // 2 not in (3, 5) for i in range(80)]


def test_a_scorer_gives_any_kind_of_batch_both_columns():
    run = make_run(n=30, lengths=(12,))
    scorer = LTCScorer.from_trajectories(run, column="x_score")
    lists = run.losses.T.tolist()
    lists[4] = None
    table = scorer(pa.table({"loss_trajectory": lists}))
    assert table.column_names == ["loss_trajectory", "x_score", "x_typicality"]
    assert scorer(table).column_names == table.column_names
    mapping = scorer({"loss_trajectory": lists})
    assert list(mapping) == ["x_score", "x_typicality"]
    for name in mapping:
        assert list(mapping[name]) == table[name].to_pylist() and mapping[name][4] is None


@pytest.mark.parametrize("searched", [2**21, 3])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_losses_that_are_not_finite_are_named(monkeypatch, value, searched):
    monkeypatch.setattr(typicality, "_SEARCHED", searched)
    run = make_run(n=40, lengths=(12,))
    run.losses[7, 9] = value
    with pytest.raises(InputError, match=r"epoch 7 has 1 losses that are not finite \(rows 19\)"):
        ltc_typicality(run)


def test_huge_losses_are_untypical():
    run = make_run(n=40, lengths=(12,))
    run.losses[:, 9] = np.linspace(1e30, 3e38, 12)
    run.losses[:, 11] *= 1e-38
    keys = ltc_typicality(run)
    assert np.isnan(keys[9]) and np.isnan(keys[11])
    assert np.isfinite(np.delete(keys, [9, 11])).all()
