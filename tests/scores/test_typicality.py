"""Typicality against the papers' formulae written out, and what a draw by hashes has to keep."""

import dataclasses
import itertools
import pickle

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features
from scipy.special import logsumexp
from scipy.stats import kstest, spearmanr

from hf_ltc.data.columns import read_column
from hf_ltc.scores import kernels, typicality
from hf_ltc.scores.at_once import row_scores
from hf_ltc.scores.baselines import dual
from hf_ltc.scores.odds import typical_spans
from hf_ltc.scores.scorers import LTCScorer
from hf_ltc.scores.typicality import (
    ltc_typicality,
    typical_stages,
    typicality_for,
    typicality_of,
)
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError
from tests.scores.recordings import make_run, most_typical

STEPS, ROWS = 5, 15


def odds_by_the_letter(run):
    """Of each stage its start and the log odds of all rows, in double precision, from the sums of the paper."""
    starts = np.cumsum([0, *run.lengths])
    each = []
    for start, stop in itertools.pairwise(starts):
        trained = run.losses[start + (run.epochs[start] == 0) : stop][:30]
        each.append(dual(trained, min(10, len(trained))))
    score = np.mean(each, axis=0)
    p = np.exp(-run.losses.astype(np.float64)).mean(axis=0)
    m = p[np.argsort(-score, kind="stable")[:10]].mean()
    p = np.clip(p, 1e-7, 1 - 1e-7)
    found = []
    # The first 15 rows of an average class are drawn by odds that move to those of a coreset of a tenth.
    for step in range(STEPS + 1):
        kept = 0.1 * min(1, (step + 0.5) / STEPS)
        b = 15 * (1 - m) * (1 - (1 - kept) ** 4)
        odds = np.log(score) + (15 - b) * np.log(p) + (b - 1) * np.log(1 - p)
        begins = ROWS * len(np.unique(run.labels)) / len(run.labels) * step / STEPS
        found.append((begins, odds - logsumexp(odds) + np.log(len(odds))))
    return found


def went_by(run, keys):
    """The odds of each row that went by until it was drawn."""
    drawn, stages = np.exp(-keys.astype(np.float64)), odds_by_the_letter(run)
    ends = [start for start, _ in stages[1:]] + [np.inf]
    return sum(
        np.exp(odds) * np.clip(np.minimum(drawn, end) - start, 0, None) for (start, odds), end in zip(stages, ends)
    )


def labeled(labels):
    return Dataset.from_dict({"label": labels}, features=Features({"label": ClassLabel(num_classes=3)}))


@pytest.mark.parametrize("lengths", [(41,), (31,), (12,), (11,), (3,), (21, 15), (4, 40, 3)])
@pytest.mark.parametrize("first", [0, 1])
def test_a_row_is_drawn_when_an_exponential_share_of_its_odds_went_by(lengths, first):
    epochs = np.concatenate([np.arange(length) + first for length in lengths])
    run = make_run(n=3000, lengths=lengths, epochs=epochs)
    keys = ltc_typicality(run)
    waited = went_by(run, keys)
    assert kstest(waited, "expon").pvalue > 0.001
    # Chance has nothing to do with the odds, nor with the neighboring row.
    for _, odds in odds_by_the_letter(run)[::2]:
        assert abs(spearmanr(waited, odds)[0]) < 0.06
    assert abs(spearmanr(waited[1:], waited[:-1])[0]) < 0.06


def two_kinds(hard, n=8000, classes=3):
    """Easy rows, and as many whose losses are higher by a factor."""
    draw = np.random.default_rng(0)
    losses = np.exp(-np.linspace(0, 2, 12))[:, None] * np.repeat([1.0, hard], n // 2) + draw.normal(0, 1e-3, (12, n))
    return make_run(n=n, lengths=(12,), classes=classes, losses=losses.astype(np.float32))


@pytest.mark.parametrize("part", [0, -1])
def test_of_two_rows_one_comes_first_as_often_as_its_odds_say(part):
    # Of many classes, so that many rows are drawn in each stage.
    run = two_kinds(1.6, classes=500)
    stages, keys = odds_by_the_letter(run), ltc_typicality(run)
    # Where the first of the two is drawn by the odds of one stage.
    easy, hard = keys[:4000], keys[4000:]
    begins, ends = stages[part][0], stages[1][0] if part == 0 else np.inf
    first = np.exp(-np.maximum(easy, hard).astype(np.float64))
    inside = (first > begins) & (first < ends)
    odds = stages[part][1]
    expected = 1 / (1 + np.exp(odds[4000:] - odds[:4000]))[inside]
    assert inside.sum() > 50 and 0.02 < expected.mean() < 0.98
    deviation = np.sqrt((expected * (1 - expected)).sum()) / inside.sum()
    assert (easy > hard)[inside].mean() == pytest.approx(expected.mean(), abs=4 * deviation)


def test_rows_that_are_drawn_first_are_easier():
    # 960 rows are 15 of each class.
    run = two_kinds(1.5, n=16000, classes=64)
    drawn = np.argsort(-ltc_typicality(run))
    hard = [np.mean(part >= 8000) for part in np.split(drawn[:960], 6)]
    assert spearmanr(hard, range(6))[0] > 0.7
    assert hard[0] < hard[-1] - 0.02


def test_as_many_rows_of_a_class_are_drawn_by_moving_odds_however_large_it_is():
    starts = []
    for n, classes in ((400, 2), (4000, 2), (4000, 40)):
        run = make_run(n=n, lengths=(12,), classes=classes)
        starts.append(typical_stages(run)[-1].start * n / classes)
    assert starts == pytest.approx([ROWS] * 3)


@pytest.mark.parametrize("lengths", [(12,), (9, 14)])
def test_a_row_is_as_typical_in_any_order_batch_and_process(monkeypatch, tmp_path, lengths):
    run = make_run(n=500, lengths=lengths)
    whole, spans, stages = ltc_typicality(run), typical_spans(run), typical_stages(run)
    assert whole.dtype == np.float32
    order = np.random.default_rng(1).permutation(500)
    shuffled = make_run(n=500, lengths=lengths, losses=run.losses[:, order])
    np.testing.assert_array_equal(ltc_typicality(shuffled), whole[order])
    for part in (slice(0, 1), slice(3, 20), slice(1, 500, 7)):
        np.testing.assert_array_equal(typicality_of(run.losses[:, part], spans, stages), whole[part])
    np.testing.assert_array_equal(typicality_of(np.asfortranarray(run.losses), spans, stages), whole)
    monkeypatch.setattr(kernels, "_PART", 64)
    monkeypatch.setattr(kernels, "count_threads", lambda losses: 3)
    np.testing.assert_array_equal(ltc_typicality(run), whole)


def test_from_disk_by_a_scorer_and_by_a_run_it_is_the_same(tmp_path):
    run = make_run(n=90, lengths=(17,), rows=np.arange(90))
    fields = {name: getattr(run, name) for name in ("losses", "validation_losses", "labels", "validation_labels")}
    fields |= {name: getattr(run, name) for name in ("rows", "validation_rows", "epochs", "lengths")}
    value = Trajectories(**fields)
    value.save(tmp_path / "run")
    whole = ltc_typicality(value)
    mapped = Trajectories.load(tmp_path / "run", mmap=True)
    assert not isinstance(mapped.losses, np.ndarray)
    np.testing.assert_array_equal(ltc_typicality(mapped), whole)
    # Rows of which nothing is known begin with a tenth, as texts do.
    expected = most_typical(whole, value.labels, 0.1)
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
    whole = typical_stages(value)
    monkeypatch.setattr(typicality, "_SEARCHED", 40)
    searched = np.unique(np.linspace(0, 99, 40).round().astype(int))
    part = make_run(n=40, lengths=(12,), losses=run.losses[:, searched])
    # The odds are those of the rows among which is looked; when they move is a matter of all.
    expected_stages = tuple(
        each._replace(start=all_rows.start) for each, all_rows in zip(typical_stages(part), whole, strict=True)
    )
    assert typical_stages(value) == expected_stages != whole
    expected = typicality_of(run.losses, typical_spans(value), expected_stages)
    np.testing.assert_array_equal(ltc_typicality(value), expected)


def test_flat_rows_and_rows_held_out_have_none():
    run = make_run(n=40, lengths=(17,))
    run.losses[:, 3] = 0.25
    run.losses[:, 5] = 0
    keys = ltc_typicality(run)
    assert np.flatnonzero(np.isnan(keys)).tolist() == [3, 5]
    value = Trajectories(
        **{name: getattr(run, name) for name in ("losses", "validation_losses", "labels", "validation_labels")},
        **{name: getattr(run, name) for name in ("rows", "validation_rows", "epochs", "lengths")},
    )
    # Every other row was recorded.
    scored = value.score(labeled([i // 2 % 3 for i in range(80)]), typical=1)
    known = read_column(scored, "ltc_typicality").is_valid().to_pylist()
    assert known == [i % 2 == 1 and i // 2 not in (3, 5) for i in range(80)]


def test_a_scorer_gives_any_kind_of_batch_both_columns():
    run = make_run(n=30, lengths=(17,))
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


@pytest.mark.parametrize("searched, part", [(2**21, 2**14), (64, 100)])
@pytest.mark.parametrize("lengths", [(17,), (16, 20)])
def test_of_images_only_the_first_rows_of_each_class_have_one(monkeypatch, tmp_path, lengths, searched, part):
    monkeypatch.setattr(typicality, "_SEARCHED", searched)
    monkeypatch.setattr(kernels, "_PART", part)
    monkeypatch.setattr(kernels, "count_threads", lambda losses: 3)
    labels = np.repeat([0, 1, 2], [500, 180, 20])[np.random.default_rng(3).permutation(700)]
    recipe = {"dataset": {"image_column": "image", "label_column": "label"}}
    run = make_run(n=700, lengths=lengths, rows=np.arange(700), recipe=recipe)
    value = Trajectories(**{each.name: getattr(run, each.name) for each in dataclasses.fields(run)})
    value = dataclasses.replace(value, labels=labels)
    whole = ltc_typicality(value)
    # Two rows that nothing tells apart are typical or not together.
    twins = np.flatnonzero(labels == 0)[np.argsort(-whole[labels == 0])[24]], np.flatnonzero(labels == 0)[7]
    value.losses[:, twins[1]] = value.losses[:, twins[0]]
    whole = ltc_typicality(value)
    assert whole[twins[0]] == whole[twins[1]]
    expected = np.full(700, np.nan, dtype=np.float32)
    for label in range(3):
        own = np.flatnonzero(labels == label)
        # A tenth of the class at most.
        first = own[whole[own] >= np.sort(whole[own])[::-1][: min(25, len(own) // 10)][-1]]
        expected[first] = whole[first]
    assert np.count_nonzero(~np.isnan(expected)) in (45, 46)
    plain = labeled(labels)
    value.save(tmp_path / "run")
    mapped = Trajectories.load(tmp_path / "run", mmap=True)
    scorer = pickle.loads(pickle.dumps(LTCScorer.from_trajectories(mapped)))
    scored = value.attach(plain).map(scorer, batched=True, batch_size=11)
    for found in (value.score(plain), scored):
        np.testing.assert_array_equal(read_column(found, "ltc_typicality").to_numpy(), expected)
    np.testing.assert_array_equal(typicality_for(mapped, 25), expected)
    # Ranked by the score alone, the rows that come first by default are known too.
    alone = value.score(plain, typical=0)
    np.testing.assert_array_equal(read_column(alone, "ltc_typicality").to_numpy(), expected)
    assert read_column(alone, "ltc_rank") != read_column(value.score(plain), "ltc_rank")
    for wrong in ("all", 1.5):
        with pytest.raises(InputError, match=f"`typical` is {wrong!r}: it must be a share"):
            value.score(plain, typical=wrong)
    few = read_column(value.score(plain, typical=2), "ltc_typicality")
    assert len(few) - few.null_count == 6
    # By a share too, and by all of them every row.
    share = read_column(value.score(plain, typical=0.2), "ltc_typicality").to_numpy()
    best = most_typical(whole, labels, 0.2)
    # Of two that nothing tells apart, one would do.
    np.testing.assert_array_equal(np.delete(share, twins), np.delete(best, twins))
    np.testing.assert_array_equal(read_column(value.score(plain, typical=1), "ltc_typicality").to_numpy(), whole)


@pytest.mark.parametrize("score", [ltc_typicality, typical_stages, row_scores], ids=lambda score: score.__name__)
def test_a_recording_without_rows_is_refused(score):
    with pytest.raises(InputError, match="the recording has no rows, and typicality is relative to the others: keep"):
        score(make_run(n=0))
