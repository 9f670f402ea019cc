"""Ways of choosing rows, against choices computed in another way."""

import dataclasses

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features

from hf_ltc.config import EvaluateConfig
from hf_ltc.coresets.select import rank_coreset
from hf_ltc.data.columns import read_column
from hf_ltc.evaluation.methods import (
    DEFAULT_METHOD,
    METHODS,
    chosen_rows,
    find_method,
    kept_early,
    members_of,
    method_scores,
    methods_of,
)
from hf_ltc.scores.baselines import BASELINES
from hf_ltc.scores.ltc import PRESETS, ltc_scores
from hf_ltc.scores.scorers import LTCScorer, baseline_scores
from hf_ltc.scores.typicality import ltc_typicality
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError
from tests.trajectories.test_compare import make

N, CLASSES = 240, 4


@pytest.fixture(scope="module")
def run() -> Trajectories:
    random = np.random.default_rng(5)
    signals = {
        "margin": random.normal(size=(16, N)).astype(np.float32),
        "el2n": random.random((16, N)).astype(np.float32),
        "correct": (random.random((16, N)) > 0.5).astype(np.float32),
    }
    return make(lengths=(16,), signals=signals)


def dealt(scores, labels, size, lowest=False):
    """One row of each class a round, the best that is left; within the last round the best rows first."""
    order = np.argsort(scores if lowest else -scores, kind="stable").tolist()
    queues = {label: [row for row in order if labels[row] == label] for label in np.unique(labels)}
    kept = []
    while len(kept) < size:
        heads = [queue.pop(0) for queue in queues.values() if queue]
        kept += sorted(heads, key=order.index)
    return sorted(kept[:size])


def test_the_names_are_the_family_the_baselines_and_three_that_draw():
    members = [f"{of}-{a}-{s}" for of in ("differences", "levels") for a in ("correlations", "losses")
               for s in ("dataset", "class")]  # fmt: skip
    members += [f"{member}-uncertainty" for member in members]
    typical = {f"typical-{name}" for name in (*PRESETS, *members)}
    assert METHODS.keys() == {*PRESETS, *members, *typical, *BASELINES, "ccs", "s2l", "dual_beta"}
    assert {name for name, method in METHODS.items() if method.keep == "lowest"} == {"mean_loss", "final_loss"}


def test_an_unknown_name_is_quoted(run):
    for call in (lambda: find_method("best"), lambda: method_scores("best", run), lambda: chosen_rows("best", run, 9)):
        with pytest.raises(InputError, match=r"no method 'best': there are ltc, cld, .*dual_beta"):
            call()


def test_scores_are_those_of_the_functions(run):
    np.testing.assert_array_equal(method_scores(DEFAULT_METHOD, run), ltc_scores(run))
    np.testing.assert_array_equal(method_scores("ltc", run), ltc_scores(run, preset="ltc"))
    np.testing.assert_array_equal(method_scores("cld", run), ltc_scores(run, preset="cld"))
    for weighting, end in (("none", ""), ("uncertainty", "-uncertainty")):
        np.testing.assert_array_equal(
            method_scores("levels-losses-class" + end, run),
            ltc_scores(run, of="levels", aggregate="losses", scope="class", weighting=weighting),
        )
    for name in BASELINES:
        np.testing.assert_array_equal(method_scores(name, run), baseline_scores(run, name))
    np.testing.assert_array_equal(method_scores("ccs", run), baseline_scores(run, "aum"))
    np.testing.assert_array_equal(method_scores("random", run, 3), baseline_scores(run, "random", seed=3))


def test_a_signal_that_was_not_recorded_is_named(run):
    with pytest.raises(InputError, match=r"'el2n', which was not recorded .*`RecordConfig.signals` el2n"):
        method_scores("el2n", dataclasses.replace(run, signals={}))


@pytest.mark.parametrize("name", ["ltc", "levels-losses-class", "aum", "mean_loss"])
@pytest.mark.parametrize("size", [4, 23, 72, 240])
def test_the_best_rows_of_each_class_are_chosen(run, name, size):
    scores = method_scores(name, run)
    assert chosen_rows(name, run, size).tolist() == dealt(scores, run.labels, size, lowest=name == "mean_loss")
    # As when they are at hand, and for any seed.
    np.testing.assert_array_equal(chosen_rows(name, run, size, scores=scores, seed=7), chosen_rows(name, run, size))


@pytest.mark.parametrize("name, variant", [(DEFAULT_METHOD, {}), ("typical-cld", {"preset": "cld"})])
def test_the_default_chooses_the_rows_that_a_scored_dataset_ranks_first(run, name, variant):
    features = Features({"label": ClassLabel(num_classes=4)})
    scored = run.score(Dataset.from_dict({"label": run.labels}, features=features), **variant)
    ranks = read_column(scored, "ltc_rank").to_numpy()
    alone = chosen_rows(name.removeprefix("typical-"), run, 30)
    for size in (4, 30, 72, 240):
        assert chosen_rows(name, run, size).tolist() == np.flatnonzero(ranks < size).tolist()
    assert chosen_rows(name, run, 30).tolist() != alone.tolist()
    by_score = rank_coreset(scored, typical=0)
    assert np.flatnonzero(read_column(by_score, "ltc_rank").to_numpy() < 30).tolist() == alone.tolist()
    for usual, other in ((0.1, 25), (25, 0.1), (1.0, 25), (25, 1.0)):
        assert methods_of(METHODS[name].variant, usual, usual)[0] == name
        assert methods_of(METHODS[name].variant, other, usual) == []
        assert name not in methods_of(METHODS[name].variant, 0, usual)


@pytest.mark.parametrize("recorded, typical", [({"image_column": "image"}, 25), ({"text_column": "text"}, 0.1)])
def test_images_begin_with_25_rows_of_each_class_and_texts_with_a_tenth(recorded, typical):
    losses = np.random.default_rng(0).exponential(size=(16, 1200)).astype(np.float32)
    changes = {"labels": np.arange(1200) % 2, "rows": np.arange(1200), "validation_rows": np.arange(1200, 1230)}
    run = dataclasses.replace(make(lengths=(16,)), losses=losses, recipe={"dataset": recorded}, **changes)
    plain = Dataset.from_dict({"label": run.labels}, features=Features({"label": ClassLabel(num_classes=2)}))
    scored = run.score(plain)
    keys, labels = ltc_typicality(run), run.labels
    each = 25 if typical == 25 else 60
    first = [np.flatnonzero(labels == c)[np.argsort(-keys[labels == c])[:each]] for c in (0, 1)]
    size = 2 * len(first[0])
    assert chosen_rows(DEFAULT_METHOD, run, size).tolist() == np.sort(np.concatenate(first)).tolist()
    for budget in (size, size + 10, 600):
        kept = chosen_rows(DEFAULT_METHOD, run, budget).tolist()
        # As the columns alone say, those of a scorer too.
        mapped = run.attach(plain).map(LTCScorer.from_trajectories(run), batched=True)
        for ranked in (scored, rank_coreset(mapped), rank_coreset(scored.remove_columns("ltc_rank"))):
            assert kept == np.flatnonzero(read_column(ranked, "ltc_rank").to_numpy() < budget).tolist()


def test_how_early_a_row_is_kept_is_told_by_the_order(run):
    for name in ("ltc", "mean_loss", DEFAULT_METHOD):
        scores = method_scores(name, run)
        early = kept_early(name, run, scores)
        for label in range(CLASSES):
            own = np.flatnonzero(run.labels == label)
            for places in (1, 3, 20):
                kept = [row for row in chosen_rows(name, run, CLASSES * places) if run.labels[row] == label]
                assert sorted(own[np.argsort(-early[own], kind="stable")][:places].tolist()) == kept


def test_other_balances(run):
    scores = method_scores("ltc", run)
    best = np.sort(np.argsort(-scores, kind="stable")[:50])
    np.testing.assert_array_equal(chosen_rows("ltc", run, 50, balance="none"), best)
    few = run.take_rows(run.rows[(run.labels != 0) | (run.rows < 40)])
    counts = np.bincount(few.labels[chosen_rows("ltc", few, 95, balance="proportional")])
    np.testing.assert_allclose(counts, 95 * np.bincount(few.labels) / len(few), atol=1)


@pytest.mark.parametrize("name", ["random", "ccs", "dual_beta"])
def test_rows_that_are_drawn_are_so_by_the_seed_and_balanced(run, name):
    draws = [chosen_rows(name, run, 58, seed=seed) for seed in (0, 1)]
    assert set(draws[0]) != set(draws[1])
    np.testing.assert_array_equal(draws[0], chosen_rows(name, run, 58, seed=0))
    for draw in draws:
        assert len(set(draw)) == 58
        assert sorted(np.bincount(run.labels[draw])) == [14, 14, 15, 15]


def test_random_subsets_are_nested_and_blind_to_the_recording(run):
    small, large = (set(chosen_rows("random", run, size, seed=2)) for size in (24, 72))
    assert small < large
    other = make(seed=9)
    assert set(chosen_rows("random", other, 24, seed=2)) == small


def test_a_row_without_a_score_comes_last(run):
    scores = method_scores("ltc", run).copy()
    scores[:40] = np.nan
    kept = chosen_rows("ltc", run, 200, scores=scores)
    assert set(kept) == set(range(40, 240))
    assert len(chosen_rows("ltc", run, 210, scores=scores)) == 210


def test_the_usual_member_is_what_a_recording_is_ranked_by(run):
    rows = Dataset.from_dict({"label": run.labels}, features=Features({"label": ClassLabel(num_classes=CLASSES)}))
    short = run.truncate(14)
    for each, name in ((run, DEFAULT_METHOD), (short, "weighted-das")):
        assert members_of(EvaluateConfig(), [each]) == [name]
        ranks = read_column(each.score(rows), "ltc_rank").to_numpy()
        kept = np.flatnonzero(ranks < 40)
        assert kept.tolist() == run.rows[chosen_rows(name, each, 40)].tolist()
    # All recordings of an evaluation have one.
    assert members_of(EvaluateConfig(), [run, short]) == ["weighted-das"]
