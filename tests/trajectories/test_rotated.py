"""Runs whose validation samples rotate, as one value: against each of them by itself."""

import dataclasses

import numpy as np
import pytest
from datasets import Dataset

from hf_ltc.coresets.select import rank_coreset, select_coreset
from hf_ltc.data.columns import read_column
from hf_ltc.scores.baselines import BASELINES
from hf_ltc.scores.explain import explain, explain_validation
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.protocol import losses_digest
from hf_ltc.scores.reliability import within_class_spearman
from hf_ltc.scores.scorers import BaselineScorer, LTCScorer, baseline_scores
from hf_ltc.trajectories.compare import reliability, stability
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError, LTCWarning
from tests.helpers import error_of, refused
from tests.scores.recordings import VARIANTS, WEIGHED, directly, named, pearson
from tests.trajectories.recordings import CLASSES, FLAT, ROWS, assert_equal, dataset, labels_of, make, rotated

SHAPES = [{"count": 2, "fraction": 0.2}, {"count": 5}, {"lengths": (4, 6, 13), "fraction": 0.3}]


def mean_over_runs(each, scores):
    """By row number, the mean of the scores of the runs that recorded it and have one: float64 `(ROWS,)`."""
    table = np.full((len(each), ROWS), np.nan)
    for number, (run, found) in enumerate(zip(each, scores)):
        table[number, run.rows] = found
    count = (~np.isnan(table)).sum(axis=0)
    return np.where(count > 0, np.nansum(table, axis=0) / np.maximum(count, 1), np.nan)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ids", [False, True])
def test_every_row_is_recorded_and_the_runs_are_what_they_were(shape, ids):
    each = rotated(**shape, ids=ids)
    together = Trajectories.average(each)
    assert together.rows.tolist() == list(range(ROWS))
    assert together.labels.tolist() == labels_of(dataset()).tolist()
    assert together.validation_rows.tolist() == sorted({row for run in each for row in run.validation_rows.tolist()})
    assert together.lengths == tuple(run.lengths[0] for run in each)
    stop = 0
    for run in each:
        start, stop = stop, stop + run.lengths[0]
        found = np.full((stop - start, ROWS), np.nan, np.float32)
        found[:, run.rows] = run.losses
        np.testing.assert_array_equal(together.losses[start:stop], found)
        found[:, run.rows] = run.signals["margin"]
        np.testing.assert_array_equal(together.signals["margin"][start:stop], found)
        held = np.full((stop - start, ROWS), np.nan, np.float32)
        held[:, run.validation_rows] = run.validation_losses
        np.testing.assert_array_equal(together.validation_losses[start:stop], held[:, together.validation_rows])
    if ids:
        assert together.ids.to_pylist() == dataset()["key"]
    for one, other in zip(each, together.runs, strict=True):
        assert_equal(one, other)
    assert_equal(Trajectories.average(together.runs), together)
    nested = Trajectories.average([Trajectories.average(each[:-1]), each[-1]])
    assert_equal(nested, together)


@pytest.mark.parametrize("member", VARIANTS + WEIGHED, ids=lambda member: "-".join(member))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scores_are_the_means_over_the_runs_that_recorded_a_row(shape, member):
    each = rotated(**shape)
    together = Trajectories.average(each)
    expected = mean_over_runs(each, [directly(run, *member) for run in each])
    found = ltc_scores(together, **named(member))
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.isnan(found[FLAT]) and not np.isnan(np.delete(found, FLAT)).any()


@pytest.mark.parametrize("name", [name for name, each in BASELINES.items() if each.signal is not None])
@pytest.mark.parametrize("shape", [{"lengths": (13, 14)}, {"lengths": (13, 12, 15)}], ids=str)
def test_baselines_are_the_means_over_the_runs_that_recorded_a_row(shape, name):
    each = rotated(**shape, signals=("margin", "correct", "el2n"))
    together = Trajectories.average(each)
    expected = mean_over_runs(each, [baseline_scores(run, name).astype(np.float64) for run in each])
    found = baseline_scores(together, name)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    signal = BASELINES[name].signal
    attached = together.attach(dataset(), signals=() if signal == "loss" else (signal,))
    mapped = attached.map(BaselineScorer.from_trajectories(together, name), batched=True, batch_size=7)
    np.testing.assert_array_equal(read_column(mapped, f"{name}_score").to_numpy(), found)


def test_typicality_has_the_odds_of_the_runs_that_recorded_a_row():
    each = rotated(lengths=(12, 12, 12, 12), fraction=0.25)
    together = Trajectories.average(each)
    from hf_ltc.scores.odds import read_odds, typical_spans
    from hf_ltc.scores.typicality import ltc_typicality

    found = read_odds(together.losses, typical_spans(together))
    alone = [read_odds(run.losses, typical_spans(run)) for run in each]
    np.testing.assert_allclose(found.dual, mean_over_runs(each, [one.dual for one in alone]), rtol=1e-12)
    np.testing.assert_allclose(found.probability, mean_over_runs(each, [one.probability for one in alone]), rtol=1e-12)
    # The draw does not depend on how NaN is written.
    other = dataclasses.replace(
        together, losses=np.where(np.isnan(together.losses), np.float32(-np.nan), together.losses)
    )
    np.testing.assert_array_equal(ltc_typicality(other), ltc_typicality(together))
    assert np.isfinite(np.delete(ltc_typicality(together), FLAT)).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("member", [{}, {"preset": "ltc"}, {"preset": "cld"}], ids=str)
def test_map_score_and_a_table_on_disk_give_the_same_to_the_bit(shape, member, tmp_path):
    together, data = Trajectories.average(rotated(**shape)), dataset()
    # Short recordings of texts begin with typical rows too.
    together = dataclasses.replace(together, recipe={"dataset": {"text_column": "text"}})
    together.save(tmp_path / "run")
    mapped = Trajectories.load(tmp_path / "run", mmap=True)
    assert not isinstance(mapped.losses, np.ndarray)
    at_once = together.score(data, **member)
    columns = ["ltc_score", "ltc_typicality", "ltc_rank"]
    scored = [mapped.score(data, **member)]
    # 7 leaves no batch of one row, whose sums are added in another order.
    for batch_size in (7, 1000):
        scorer = LTCScorer.from_trajectories(mapped, **member)
        scored.append(rank_coreset(together.attach(data).map(scorer, batched=True, batch_size=batch_size)))
    frames = together.attach(data).with_format("pandas")
    scored.append(rank_coreset(frames.map(scorer, batched=True, batch_size=9).with_format(None)))
    for other in scored:
        for column in columns:
            one, two = (read_column(each, column) for each in (at_once, other))
            if column != "ltc_typicality":
                assert one.null_count == two.null_count == (0 if column == "ltc_rank" else 1)
            np.testing.assert_array_equal(one.to_numpy(), two.to_numpy(), err_msg=column)
    single = read_column(together.attach(data).map(scorer), "ltc_score")
    np.testing.assert_allclose(single.to_numpy(), read_column(at_once, "ltc_score").to_numpy(), atol=1e-6)
    # All rows are candidates.
    assert sorted(read_column(at_once, "ltc_rank").to_pylist()) == list(range(ROWS))
    assert len(select_coreset(at_once, fraction=1.0)) == ROWS


def test_draws_by_the_beta_density_have_the_probability_of_the_runs_that_recorded_a_row():
    together, data = Trajectories.average(rotated(lengths=(13, 14))), dataset()
    scored = together.attach(data).map(BaselineScorer.from_trajectories(together, "dual"), batched=True)
    kept = select_coreset(scored, size=30, score_column="dual_score", coverage="beta")
    assert len(kept) == 30
    from hf_ltc.coresets.choose import mean_probability

    found = mean_probability(np.ascontiguousarray(together.losses.T))
    expected = [np.exp(-one[~np.isnan(one)].astype(np.float64)).mean() for one in together.losses.T]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("form", ["directory", "mmap", "dataset", "parquet"])
@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_round_trips(form, marked, shape, tmp_path):
    together = Trajectories.average(rotated(**shape, ids=True))
    if not marked:
        # As somebody's columns, of no recipe.
        together = dataclasses.replace(together, recipe={})
    if form == "dataset":
        layout = {"epochs": together.epochs, "lengths": together.lengths, "recipe": together.recipe}
        again = Trajectories.from_dataset(together.to_dataset(), **layout)
    elif form == "parquet":
        together.to_parquet(tmp_path / "run")
        again = Trajectories.from_parquet(tmp_path / "run")
    else:
        together.save(tmp_path / "run")
        again = Trajectories.load(tmp_path / "run", mmap=form == "mmap")
    assert_equal(again, together, recipe=marked)
    assert losses_digest(again) == losses_digest(together)
    np.testing.assert_array_equal(ltc_scores(again), ltc_scores(together))
    for one, other in zip(again.runs, together.runs, strict=True):
        assert_equal(one, other, recipe=False)
    part = again.take_rows(np.arange(3, 40, 2))
    assert_equal(part, together.take_rows(np.arange(3, 40, 2)), recipe=False)


def test_attached_rows_have_nan_where_they_were_held_out():
    each = rotated(count=2, fraction=0.1)
    together = Trajectories.average(each)
    found = read_column(together.attach(dataset(), signals=["margin"]), "loss_trajectory").to_pylist()
    for row, values in enumerate(found):
        missing = [row in run.validation_rows for run in each]
        assert np.isnan(values).tolist() == [missing[0]] * 5 + [missing[1]] * 5


def test_checkpoints_and_rows_are_left_out_as_of_each_run():
    each = rotated(lengths=(5, 7, 6))
    together = Trajectories.average(each)
    for one, other in zip(together.every(2).runs, each):
        assert_equal(one, other.every(2))
    for one, other in zip(together.truncate(3).runs, each):
        assert_equal(one, other.truncate(3))
    rows = np.arange(0, ROWS, 4)
    for one, other in zip(together.take_rows(rows).runs, each):
        assert_equal(one, other.take_rows(np.intersect1d(rows, other.rows)))


def test_without_a_run_the_rows_that_only_it_recorded_are_gone():
    each = rotated(count=2, fraction=0.4)
    later = dataclasses.replace(each[1], epochs=each[1].epochs + 10)
    together = Trajectories.average([each[0], later])
    assert_equal(together.truncate(5), each[0], recipe=False)


def test_rows_that_a_run_neither_recorded_nor_held_out_are_left_out():
    one, two = rotated(count=2, fraction=0.2)
    rows = two.rows[2:]
    together = Trajectories.average([one, two.take_rows(rows)])
    assert together.rows.tolist() == sorted({*rows.tolist(), *two.validation_rows.tolist()})


def test_reliability_is_that_of_the_rows_that_two_runs_recorded():
    each = rotated(count=3)
    together = Trajectories.average(each)
    labels = labels_of(dataset())
    pairs = []
    for first, second in ((0, 1), (0, 2), (1, 2)):
        one, two = each[first], each[second]
        both = np.intersect1d(one.rows, two.rows)
        scores = [ltc_scores(run)[np.searchsorted(run.rows, both)] for run in (one, two)]
        pairs.append(within_class_spearman(*scores, labels[both]))
    for given in (together, each):
        np.testing.assert_allclose(reliability(given).pairs, pairs, atol=1e-12)
    assert not np.isnan(stability(Trajectories.average(rotated(lengths=(6, 9)))))


@pytest.mark.parametrize("of", ["differences", "levels"])
def test_explanations_are_the_mean_over_the_runs_that_recorded_both(of):
    each = rotated(count=4, fraction=0.25)
    together = Trajectories.average(each)
    table = np.full((len(each), ROWS, ROWS), np.nan)
    for number, run in enumerate(each):
        ours, theirs = (np.diff(x, axis=0) if of == "differences" else x for x in (run.losses, run.validation_losses))
        for i, row in enumerate(run.rows):
            table[number, row, run.validation_rows] = [
                pearson(ours[:, i].astype(float), q) for q in theirs.T.astype(float)
            ]
    count = (~np.isnan(table)).sum(axis=0)
    mean = np.where(count > 0, np.nansum(table, axis=0) / np.maximum(count, 1), np.nan)
    rows = np.array([0, 5, 33])
    found = explain(together, rows, k=4, of=of)
    for i, row in enumerate(rows):
        expected = np.sort(mean[row][mean[row] > 0])[::-1][:4]
        np.testing.assert_allclose(found.helped_correlations[i][: len(expected)], expected, atol=1e-5)
        for sample, value in zip(found.helped[i], found.helped_correlations[i]):
            if sample >= 0:
                assert mean[row, together.validation_rows[sample]] == pytest.approx(value, abs=1e-5)
    found = explain_validation(together, [2], k=4, of=of)
    for row, value in zip(found.helped[0], found.helped_correlations[0]):
        assert mean[row, together.validation_rows[2]] == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("form", ["function", "table on disk", "typicality", "baseline", "map", "map of a baseline"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_only_what_is_nan_throughout_a_run_is_no_fault(form, value, tmp_path):
    from hf_ltc.scores.typicality import ltc_typicality

    together = Trajectories.average(rotated(lengths=(5, 13)))
    losses = together.losses.copy()
    # Epoch 2 of run 1, of a row that it recorded.
    row = int(np.flatnonzero(~np.isnan(losses[5]) & ~np.isnan(losses[0]))[0])
    losses[7, row] = value
    broken = dataclasses.replace(together, losses=losses)
    said = f"epoch 2 of run 1 has 1 losses that are not finite (rows {row})"
    if form == "table on disk":
        broken.save(tmp_path / "run")
        broken = Trajectories.load(tmp_path / "run", mmap=True)
    if form in ("function", "table on disk"):
        message = error_of(ltc_scores, broken)
    elif form == "typicality":
        message = error_of(ltc_typicality, broken)
    elif form == "baseline":
        message = error_of(baseline_scores, broken, "mean_loss")
    else:
        make_scorer = LTCScorer if form == "map" else BaselineScorer
        scorer = make_scorer.from_trajectories(together, *(() if form == "map" else ("mean_loss",)))
        message = error_of(scorer, broken.attach(dataset()).select_columns("loss_trajectory")[:])
        said = f"column 'loss_trajectory' has 1 values that are not finite at checkpoint 7 (rows {row} of the batch)"
    assert said in message


@pytest.mark.parametrize("scored", [ltc_scores, lambda run: baseline_scores(run, "mean_loss")])
def test_a_row_that_no_run_recorded_is_a_fault(scored):
    together = Trajectories.average(rotated(count=2, fraction=0.2))
    losses = together.losses.copy()
    losses[:, 9] = np.nan
    message = error_of(scored, dataclasses.replace(together, losses=losses))
    assert "epoch 0 of run 0 has 1 losses that are not finite (rows 9)" in message
    # Nor is it one of a single run.
    run = make()
    losses = run.losses.copy()
    losses[:, 3] = np.nan
    assert "epoch 0 has 1 losses that are not finite" in error_of(scored, dataclasses.replace(run, losses=losses))


def test_validation_losses_that_are_missing_in_part_or_of_a_whole_run_are_a_fault():
    together = Trajectories.average(rotated(count=2, fraction=0.2))
    losses = together.validation_losses.copy()
    place = int(np.flatnonzero(~np.isnan(losses[5]))[0])
    losses[6, place] = np.nan
    message = error_of(ltc_scores, dataclasses.replace(together, validation_losses=losses))
    assert (
        f"epoch 1 of run 1 has 1 validation losses that are not finite (rows {together.validation_rows[place]})"
        in message
    )
    losses[5:] = np.nan
    broken = dataclasses.replace(together, validation_losses=losses)
    assert "validation losses that are not finite" in error_of(ltc_scores, broken)
    # The third of three halves is the first one again.
    together = Trajectories.average(rotated(count=3, fraction=0.5))
    losses = together.validation_losses.copy()
    losses[10:] = np.nan
    broken = dataclasses.replace(together, validation_losses=losses)
    assert "run 2 has no validation losses" in error_of(ltc_scores, broken)


def test_hard_rows_are_warned_of_whichever_run_held_them_out():
    together = Trajectories.average(rotated(count=5))
    scored = together.score(dataset(), typical=0, baselines=["mean_loss"])
    with pytest.warns(LTCWarning, match="consists of the hardest ones"):
        select_coreset(scored, fraction=0.15, score_column="mean_loss_score", typical=0)


def test_rows_that_were_left_out_of_several_runs_stay_out():
    each = rotated(count=3)
    some = np.intersect1d(each[0].rows, each[1].rows)
    part = Trajectories.average(each[:2]).take_rows(some[::2])
    together = Trajectories.average([part, each[2]])
    np.testing.assert_array_equal(together.rows, Trajectories.average([*part.runs, each[2]]).rows)
    assert np.isin(together.rows, np.union1d(part.rows, each[2].rows)).all()
    assert not np.isin(some[1::2], together.rows).any()


@pytest.mark.parametrize(
    "other",
    [
        lambda: rotated(count=3, marked=False)[1],
        lambda: make(),
        lambda: dataclasses.replace(rotated(count=3)[1], recipe={"validation": {"turn": 1, "validation_seed": 9}}),
    ],
)
def test_other_hold_outs_that_do_not_rotate_are_refused(other):
    first = rotated(count=3)[0]
    if "dataset" not in other().recipe:
        first = dataclasses.replace(first, recipe={"validation": {"turn": 0, "validation_seed": 0}})
    with pytest.raises(InputError, match="different validation samples") as error:
        Trajectories.average([first, other()])
    refused(error)


def test_classes_without_validation_samples_in_a_run_are_named():
    each = rotated(count=3)
    kept = each[1].validation_labels != 2
    part = dataclasses.replace(
        each[1],
        validation_losses=each[1].validation_losses[:, kept],
        validation_labels=each[1].validation_labels[kept],
        validation_rows=each[1].validation_rows[kept],
    )
    assert CLASSES == 3
    together = Trajectories.average([each[0], part, each[2]])
    assert "no validation samples in class 'cat'" in error_of(ltc_scores, together, scope="class")
    assert np.isfinite(np.delete(ltc_scores(together), np.searchsorted(together.rows, FLAT))).all()


def test_a_dataset_of_columns_can_be_streamed_and_scored():
    together, data = Trajectories.average(rotated(count=2, fraction=0.2)), dataset()
    scored = together.score(data)
    attached = together.attach(data).remove_columns("image").to_iterable_dataset(num_shards=3)
    rows = list(attached.map(LTCScorer.from_trajectories(together), batched=True, batch_size=11))
    found = Dataset.from_list([{"key": row["key"], "score": row["ltc_score"]} for row in rows])
    expected = dict(zip(scored["key"], read_column(scored, "ltc_score").to_pylist()))
    assert {row["key"]: row["score"] for row in found} == expected
