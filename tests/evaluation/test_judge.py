"""Which of several coresets is kept: the rule, the proxies, and how each candidate chooses rows."""

import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
from accelerate import Accelerator
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from hf_ltc import EvaluateConfig, RecordConfig, record
from hf_ltc.coresets.choose import Selection
from hf_ltc.coresets.select import select_coreset
from hf_ltc.evaluation.judge import proxies
from hf_ltc.evaluation.judge.choices import (
    OTHERS,
    by_columns,
    by_method,
    run_of_columns,
    with_others,
    with_scores_of,
)
from hf_ltc.evaluation.judge.proxies import judge, proxy_steps
from hf_ltc.evaluation.judge.rows import judge_coresets, judge_fractions, judged_rows
from hf_ltc.evaluation.judge.verdict import Judged, Judgement, above_chance, preferred
from hf_ltc.evaluation.methods import DEFAULT_METHOD, METHODS, chosen_rows, method_scores
from hf_ltc.training.images import StoredImages
from hf_ltc.training.loop import TrainingConfig
from hf_ltc.utils.errors import InputError
from tests.judging import SOURCE, recorded

# Accuracies on a thousand rows: their differences are whole tenths of a percent.
ACCURACIES = st.lists(st.integers(0, 1000).map(lambda right: right / 1000), min_size=1, max_size=6)
MARGINS = st.sampled_from([0.0, 0.001, 0.015, 0.1, 1.0])


@given(ACCURACIES, MARGINS)
def test_an_earlier_candidate_is_left_only_where_a_later_one_is_ahead_by_more_than_the_margin(accuracies, margin):
    def is_left(i):
        return any(round(1000 * (later - accuracies[i])) > round(1000 * margin) for later in accuracies[i + 1 :])

    kept = preferred(accuracies, margin)
    assert not is_left(kept) and all(is_left(i) for i in range(kept))
    # Nobody is ahead of what is kept by more, before it or after it.
    assert round(1000 * (max(accuracies) - accuracies[kept])) <= round(1000 * margin)


@given(ACCURACIES)
def test_without_a_margin_the_highest_is_kept_and_with_all_of_it_the_first(accuracies):
    assert preferred(accuracies, 0.0) == int(np.argmax(accuracies))
    assert preferred(accuracies, 1.0) == 0


@given(st.floats(0.01, 0.99), st.integers(10, 10_000), st.floats(0, 1))
def test_above_chance_is_more_than_three_deviations_of_a_binomial_share(chance, rows, accuracy):
    deviation = binom(rows, chance).std() / rows
    if abs(accuracy - chance - 3 * deviation) > 1e-9:
        assert above_chance(accuracy, chance, rows) == (accuracy > chance + 3 * deviation)


def judgement(*accuracies, names=("default", "dual_beta", "random"), **changes):
    values = {
        "rows": 50,
        "pool": 1000,
        "model": "test_resnet",
        "steps": 125,
        "tested": 400,
        "chance": 0.1,
        "margin": 0.015,
        "seed": 0,
        "seconds": 6.0,
        "recording_seconds": 60.0,
    }
    candidates = tuple(Judged(name, each) for name, each in zip(names, accuracies))
    return Judgement(candidates=candidates, **{**values, **changes})


def test_what_is_said_of_a_candidate_that_is_ahead():
    found = judgement((0.60, 0.62), (0.66, 0.70), (0.50, 0.50))
    assert found.kept == "dual_beta" and found.is_told
    deviations = [np.std(each.accuracies, ddof=1) for each in found.candidates]
    # Of two means of two each, by the pooled variance.
    assert found.error == pytest.approx(math.sqrt(np.mean(np.square(deviations)) * (1 / 2 + 1 / 2)))
    assert str(found) == (
        "Judged at 5% of the candidate rows by 2 fresh test_resnet models for each choice, trained for 125 steps and "
        "tested on 400 rows that no choice had: default 61.0% (60.0, 62.0), dual_beta 68.0% (66.0, 70.0), random "
        "50.0% (50.0, 50.0). dual_beta is kept: it is ahead of default by 7.0 points, more than 1.5 points (standard "
        "error of a difference 1.8). It took 6 s, 10% of the recording."
    )


def test_what_is_said_where_the_first_stays():
    near = judgement((0.60, 0.62), (0.61, 0.63), (0.50, 0.50))
    assert near.kept == "default"
    assert "default is kept: no other is ahead by more than 1.5 points; dual_beta is 1.0 ahead" in str(near)
    behind = judgement((0.60,), (0.55,), recording_seconds=None)
    assert "one fresh test_resnet for each choice" in str(behind) and "default 60.0%, dual_beta" in str(behind)
    assert str(behind).endswith("dual_beta is 5.0 behind. It took 6 s.")
    assert behind.error is None and behind.share is None


def test_proxies_near_chance_tell_nothing_and_change_nothing():
    found = judgement((0.101, 0.103), (0.13, 0.14), (0.12, 0.12))
    assert found.kept == "default" and not found.is_told
    assert "Cannot tell: none is clearly above the share of the most frequent class, 10.0%" in str(found)
    assert "default is kept as it is; train for more steps (`judge_steps`)" in str(found)
    # One of them is enough.
    assert judgement((0.101, 0.103), (0.19, 0.19)).kept == "dual_beta"


def test_a_judgement_is_plain_json_with_all_that_follows_from_it():
    found = judgement((0.60, 0.62), (0.66, 0.70))
    values = found.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["candidates"][1] == {"name": "dual_beta", "accuracies": [0.66, 0.70], "mean": pytest.approx(0.68)}
    assert (values["kept"], values["cannot_tell"], values["text"]) == ("dual_beta", False, str(found))
    assert values["share"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    "epochs, rows, iterations, steps",
    [(30, 9_000, None, 150), (20, 1_295, None, 105), (3, 1_295, None, 100), (1, 100, 500, 125), (1, 100, 80, 100)],
)
def test_steps_are_a_quarter_of_the_target_within_bounds(epochs, rows, iterations, steps):
    config = TrainingConfig(epochs=epochs, batch_size=64, iterations=iterations)
    assert proxy_steps(config, rows) == steps


# How candidates choose.


@pytest.fixture(scope="module")
def rows(small) -> Dataset:
    return small["train"]


@pytest.fixture(scope="module")
def run(rows):
    return recorded(rows)


@pytest.fixture(scope="module")
def scored(rows, run):
    return run.score(rows, typical=0.1)


def four_fifths(run):
    return np.flatnonzero(np.random.default_rng(5).random(len(run)) < 0.8)


@pytest.mark.parametrize("name", [*OTHERS, "ltc", "aum"])
@pytest.mark.parametrize("balance", ["class", "none"])
def test_a_method_chooses_among_some_rows_as_if_these_were_all(run, name, balance):
    among = four_fifths(run)
    part = run.take_rows(run.rows[among])
    for seed in (0, 1):
        expected = among[chosen_rows(name, part, 25, seed=seed, balance=balance)]
        assert by_method(name, run, balance)(among, 25, seed).tolist() == expected.tolist()
    drawn = {tuple(by_method(name, run, balance)(among, 25, seed)) for seed in range(3)}
    assert len(drawn) == (3 if name in OTHERS else 1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"typical": 0.0},
        {"typical": 0.5, "balance": "none"},
        {"balance": "proportional"},
        {"coverage": "stratified", "cut": 0.2},
        {"coverage": "beta"},
        {"keep": "lowest"},
        {"exclude_negative": True, "balance": "none"},
    ],
)
def test_a_selection_chooses_among_some_rows_as_select_coreset_does_of_these(scored, run, options):
    among = four_fifths(run)
    kept = by_columns(scored, run.rows, run.labels, Selection(**options), "ltc_score")(among, 25, 3)
    with warnings.catch_warnings(action="ignore"):
        expected = select_coreset(scored.select(run.rows[among]), size=25, **{**options, "seed": 3})
    assert scored.select(run.rows[kept])["ltc_score"][:] == expected["ltc_score"][:]
    assert set(kept) <= set(among) and len(kept) == 25


def test_a_minimum_of_each_class_is_kept_in_proportion(scored, run):
    among = four_fifths(run)
    selection = Selection(balance="none", min_per_class=2)
    for choose in (
        by_columns(scored, run.rows, run.labels, selection, "ltc_score"),
        by_method("random", run, "none", 2),
    ):
        assert np.bincount(run.labels[choose(among, 25, 0)], minlength=10).min() >= 1
        # Of all rows it is the whole minimum.
        assert np.bincount(run.labels[choose(np.arange(len(run)), 25, 0)], minlength=10).min() >= 2


def test_what_a_recording_does_not_allow_is_left_out(rows, run):
    own = {"mine": by_method("ltc", run)}
    assert list(with_others(own, run)) == ["mine", "dual_beta", "ccs", "random"]
    assert list(with_others(own, recorded(rows, margin=False))) == ["mine", "dual_beta", "random"]
    assert list(with_others(own, run.truncate(5))) == ["mine", "ccs", "random"]
    assert list(with_others({"random": by_method("random", run)}, run)) == ["random", "dual_beta", "ccs"]


@pytest.mark.parametrize("runs", [1, 2])
def test_columns_tell_what_was_recorded(rows, runs):
    run = recorded(rows, runs=runs)
    scored = run.attach(run.score(rows), ["margin"])
    found = run_of_columns(scored, run.recipe)
    for name in ("losses", "labels", "rows", "epochs"):
        assert np.array_equal(getattr(found, name), getattr(run, name)), name
    assert found.lengths == run.lengths
    assert np.array_equal(found.signals["margin"], run.signals["margin"])
    for name in OTHERS:
        assert np.array_equal(method_scores(name, found, 3), method_scores(name, run, 3))
    # Runs of different lengths, which each tell their own epochs.
    one, two = recorded(rows), recorded(rows).truncate(9)
    joined = type(run).average([one, dataclasses.replace(two, recipe={**two.recipe, "epochs": list(range(10))})])
    again = run_of_columns(joined.score(rows), joined.recipe)
    assert again.lengths == (17, 10) and np.array_equal(again.epochs, joined.epochs)


@pytest.mark.parametrize("name", OTHERS)
def test_the_scores_of_a_method_select_its_rows(rows, run, scored, name):
    added, column = with_scores_of(scored, run, name, seed=4)
    options = METHODS[name].selection(run, seed=4).to_dict()
    kept = select_coreset(added, size=30, score_column=column, **options)
    expected = run.rows[chosen_rows(name, run, 30, seed=4)]
    assert kept["image"][:] == rows.select(expected)["image"][:]


# Judging.


@pytest.fixture
def trained(monkeypatch):
    """What each proxy is trained and tested on; a training that takes no time."""
    seen = []

    def spy(model, train, tests, classes, config, accelerator, **options):
        seen.append((model, train, tests, classes, config, options))
        return 0.5

    monkeypatch.setattr(proxies, "train_on", spy)
    return seen


def images_of(dataset):
    return {image.numpy().tobytes(): row for row, image in enumerate(StoredImages(dataset, "image", 8).read())}


def rows_in(batches, known):
    return [known[image.numpy().tobytes()] for image in batches.pixels]


def test_no_proxy_is_tested_on_rows_that_any_candidate_may_choose(rows, run, trained):
    config = EvaluateConfig(fractions=[0.1, 0.3], seed=7, members=[DEFAULT_METHOD])
    first, second = judge_fractions(config, run, rows, judge_steps=9)
    known = images_of(rows)
    assert len(trained) == 2 * 4 * 2
    tests = {tuple(row for part in each[2] for row in rows_in(part, known)) for each in trained}
    # The same rows for all: a fifth of each class, and all that was held out of the recording.
    (tested,) = tests
    held = set(tested) - set(run.validation_rows.tolist())
    assert set(run.validation_rows.tolist()) <= set(tested) and len(tested) == len(set(tested)) == first.tested
    counts = np.bincount(run.labels, minlength=10)
    labels = np.asarray(rows["label"][:])
    assert np.bincount(labels[sorted(held)], minlength=10).tolist() == np.rint(counts * 0.2).astype(int).tolist()
    assert first.chance == np.bincount(labels[list(tested)]).max() / len(tested)
    stay = len(run) - len(held)
    for number, (model, train, _, classes, training, options) in enumerate(trained):
        chosen = rows_in(train, known)
        size = (first.rows, second.rows)[number // 8]
        assert len(chosen) == round(size * stay / len(run)) and not set(chosen) & set(tested)
        assert train.labels.tolist() == labels[chosen].tolist()
        assert (model, classes, training.iterations, training.seed) == ("test_resnet", 10, 9, 7 + number % 8 // 4)
        assert (training.learning_rate, training.batch_size, training.augment) == (0.05, 16, False)
        assert options == {"stem": "auto", "pretrained": False}
    assert (first.rows, second.rows) == (12, 36)
    assert [each.name for each in first.candidates] == [DEFAULT_METHOD, *OTHERS]
    # What the recording took, but for the decoding of images.
    assert first.recording_seconds == 20


def test_the_settings_of_the_recording_are_those_of_its_processes_together(rows, run, trained):
    recipe = {**run.recipe, "training": {**run.recipe["training"], "processes": 3}}
    judge_fractions(EvaluateConfig(fractions=[0.3]), dataclasses.replace(run, recipe=recipe), rows)
    (training,) = {dataclasses.replace(each[4], seed=0) for each in trained}
    # 11 epochs of 3 batches of 48: a quarter is less than the least.
    assert training.batch_size == 48 and training.iterations == 100


def test_samples_of_another_split_are_tested_on_too(small, rows, trained):
    whole = recorded(rows, held=0)
    whole = dataclasses.replace(
        whole,
        validation_losses=whole.losses[:, :40],
        validation_labels=np.asarray(small["test"]["label"][:]),
        validation_rows=np.full(40, -1),
    )
    (with_them,) = judge_fractions(EvaluateConfig(fractions=[0.2]), whole, rows, small["test"])
    assert rows_in(trained[0][2][1], images_of(small["test"])) == list(range(40))
    (without,) = judge_fractions(EvaluateConfig(fractions=[0.2]), whole, rows)
    assert with_them.tested == without.tested + 40


def test_a_judgement_repeats_and_keeps_what_teaches_more(digit_rows, tmp_path):
    """Real models: rows of two classes alone teach less than rows of all, whatever is preferred."""
    train = digit_rows[0].select(range(400))
    config = RecordConfig(
        model="test_resnet", epochs=3, batch_size=64, learning_rate=0.05, augment=False, output_dir=str(tmp_path)
    )
    ready = judged_rows(record(config, train), train, judge_steps=25)
    labels = ready.run.labels
    choices = {
        "two classes": lambda among, size, seed: among[labels[among] < 2][:size],
        "all": lambda among, size, seed: np.sort(np.random.default_rng(seed).permutation(among)[:size]),
    }
    found = ready.judge(choices, 60)
    assert found.kept == "all" and found.is_told
    again = ready.judge(choices, 60)
    assert again.candidates == found.candidates
    # One step from the start of the schedule teaches nothing.
    untrained = dataclasses.replace(
        ready, proxy=dataclasses.replace(ready.proxy, training=dataclasses.replace(ready.proxy.training, iterations=1))
    )
    nothing = untrained.judge(choices, 60)
    assert not nothing.is_told and nothing.kept == "two classes"


def test_a_scored_dataset_is_judged_by_its_columns(rows, run, scored, trained):
    columns = run_of_columns(run.attach(scored, ["margin"]), run.recipe)
    found = judge_coresets(scored, columns, Selection(fraction=0.2, seed=3), name=DEFAULT_METHOD, judge_steps=5)
    known = images_of(rows)
    by_run = [rows_in(each[1], known) for each in trained]
    trained.clear()
    config = EvaluateConfig(fractions=[0.2], seed=3, members=[DEFAULT_METHOD])
    (same,) = judge_fractions(config, run, rows, judge_steps=5)
    assert [rows_in(each[1], known) for each in trained] == by_run
    assert dataclasses.replace(found, seconds=0) == dataclasses.replace(same, seconds=0)


def test_rows_of_negative_score_count_for_no_budget(run, scored, trained):
    columns = run_of_columns(scored, run.recipe)
    able = int(np.count_nonzero(np.asarray(scored["ltc_score"][:], dtype=float)[run.rows] >= 0))
    selection = Selection(fraction=0.5, exclude_negative=True, balance="none")
    found = judge_coresets(scored, columns, selection, judge_steps=5)
    assert found.rows == round(0.5 * able) and found.pool == len(run)
    assert found.candidates[0].name == "ltc_score"


class Joined(Accelerator):
    num_processes = 2


def test_bad_input(rows, run, scored, trained, monkeypatch):
    config = EvaluateConfig(fractions=[0.2])

    def with_recipe(**changes):
        return dataclasses.replace(run, recipe={**run.recipe, **changes})

    columns = run_of_columns(scored, run.recipe)
    bare = scored.remove_columns("image")
    for call, message in [
        (lambda: judge_fractions(EvaluateConfig(fractions=[1.0]), run, rows), "all 120 candidate rows are kept"),
        (lambda: judge_fractions(EvaluateConfig(fractions=[0.001]), run, rows), "`fraction` 0.001 of the 120"),
        (lambda: judge_fractions(config, run, rows, judge_steps=0), "`judge_steps` is 0: it must be 1 or more"),
        (lambda: judge_fractions(config, run, rows.select(range(100))), "the dataset has 100 rows"),
        (lambda: judge_fractions(config, with_recipe(config={}), rows), "the recipe does not say how: record"),
        (lambda: judge_fractions(config, with_recipe(training={}), rows), "the recipe does not say how: record"),
        (lambda: judge_fractions(config, run, rows, accelerator=Joined()), "judged in one process, .* one of 2"),
        (lambda: judge_coresets(bare, columns, Selection(fraction=0.2)), "no column of type Image"),
        (lambda: judge_coresets(scored, columns, Selection(fraction=1.0)), "all 120 candidate rows are kept"),
        (lambda: judge_coresets(scored, columns, Selection(size=500)), "`size` is 500"),
        (lambda: judge_coresets(scored, columns, Selection(size=20), margin=-1), "`margin` is -1"),
        (lambda: judge_coresets(scored, columns, Selection(size=20), proxies=0), "`proxies` is 0"),
        (lambda: run_of_columns(rows, run.recipe), "no column 'loss_trajectory' in the dataset"),
        (lambda: run_of_columns(scored, {**run.recipe, "epochs": [0, 1, 2, 3, 4]}), "of 17 checkpoints, and .* of 5"),
        (lambda: run_of_columns(scored, {"config": SOURCE}), "of 17 checkpoints, and .* of 0"),
        (lambda: by_method("best", run), "no method 'best'"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(InputError, match="one of 2: start it without accelerate launch"):
        judge_fractions(config, run, rows)
    # Nothing was trained in vain.
    assert trained == []


def test_a_class_of_one_row_is_never_held_out(rows, run, trained):
    ready = judged_rows(run, rows, judge_steps=3)
    lonely = dataclasses.replace(ready, pool=ready.pool.take(np.unique(run.labels, return_index=True)[1]))
    choices = {"all": lambda among, size, seed: among[:size]}
    found = judge(choices, 5, ready.proxy, lonely.pool, ready.validation)
    assert found.tested == len(ready.validation)
    with pytest.raises(InputError, match="nothing to judge by: no validation samples"):
        judge(choices, 5, ready.proxy, lonely.pool)
