"""Several runs as one value, and some rows of a run."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError
from tests.helpers import refused
from tests.trajectories.recordings import CLASSES, HELD, ROWS, assert_equal, dataset, make


def test_runs_are_the_runs_it_was_averaged_from():
    each = [make(lengths=(length,), seed=length, recipe={"seed": length}) for length in (4, 6, 3)]
    together = Trajectories.average(each)
    assert together.lengths == (4, 6, 3)
    for one, other in zip(each, together.runs, strict=True):
        assert_equal(one, other)


def test_average_of_one_run_is_that_run():
    run = make()
    assert_equal(run, Trajectories.average([run]))


def test_average_of_averages_is_the_average_of_all():
    each = [make(seed=seed, recipe={"seed": seed}) for seed in range(3)]
    nested = Trajectories.average([Trajectories.average(each[:2]), each[2]])
    assert_equal(nested, Trajectories.average(each), recipe=False)
    assert nested.recipe["runs"] == [{"seed": 0}, {"seed": 1}, {"seed": 2}]


def test_the_score_of_the_average_is_the_mean_of_the_scores():
    each = [make(seed=seed) for seed in range(3)]
    mean = np.mean([ltc_scores(run) for run in each], axis=0)
    np.testing.assert_allclose(ltc_scores(Trajectories.average(each)), mean, atol=1e-6)


def test_average_joins_the_rows_that_all_recorded():
    run = make(ids=True)
    one, two = run.take_rows(run.rows[::2]), run.take_rows(run.rows[::3])
    together = Trajectories.average([one, two])
    assert together.rows.tolist() == run.rows[::6].tolist()
    np.testing.assert_array_equal(together.losses, np.tile(run.losses[:, ::6], (2, 1)))
    np.testing.assert_array_equal(together.signals["margin"], np.tile(run.signals["margin"][:, ::6], (2, 1)))
    assert together.labels.tolist() == run.labels[::6].tolist()
    assert together.ids.to_pylist() == run.ids.to_pylist()[::6]


def test_average_keeps_the_signals_that_all_have():
    together = Trajectories.average([make(signals=("margin", "el2n")), make(signals=("el2n", "correct"))])
    assert list(together.signals) == ["el2n"]


@pytest.mark.parametrize(
    "other, message",
    [
        (lambda: make(dataset(seed=1)), r"run 1 .* different datasets \(content differ\)"),
        (lambda: make(labels=(make().labels + 1) % CLASSES), r"different datasets \(labels differ\)"),
        (lambda: make(validation_rows=HELD + 1), "different validation samples"),
        (lambda: make(validation_labels=np.zeros(len(HELD), np.int64)), "different validation samples"),
        (lambda: make(loss_name="evaluation_loss"), "one holds training_loss, the other evaluation_loss"),
        (lambda: make(ids=True), r"different datasets \(ids differ\)"),
    ],
)
def test_average_refuses_runs_of_something_else(other, message):
    with pytest.raises(InputError, match=message) as error:
        Trajectories.average([make(), other()])
    refused(error)


def test_average_refuses_rows_whose_ids_differ():
    run = make(ids=True)
    with pytest.raises(InputError, match="ids differ"):
        Trajectories.average([run, dataclasses.replace(run, ids=run.ids.take(pa.array(np.arange(50)[::-1])))])


def test_average_refuses_another_validation_split_of_the_same_labels():
    elsewhere = {"validation_rows": np.full(len(HELD), -1)}
    runs = [make(**elsewhere, recipe={"validation": {"content": {"image": digest}}}) for digest in "ab"]
    assert Trajectories.average([runs[0], runs[0]]).lengths == (5, 5)
    with pytest.raises(InputError, match="different validation samples"):
        Trajectories.average(runs)


def test_average_refuses_nothing_and_runs_without_a_common_row():
    with pytest.raises(InputError, match=r"average\(\[\]\)"):
        Trajectories.average([])
    with pytest.raises(InputError, match=r"`runs` is a str: give a list of recordings"):
        Trajectories.average("runs/mine")
    run = make()
    with pytest.raises(InputError, match="no row in common"):
        Trajectories.average([run.take_rows(run.rows[:3]), run.take_rows(run.rows[5:])])


def test_take_rows_takes_them_in_row_order():
    run = make(ids=True)
    taken = run.take_rows(np.array([9, 2, 5, 9]))
    where = [run.rows.tolist().index(row) for row in (2, 5, 9)]
    assert taken.rows.tolist() == [2, 5, 9]
    np.testing.assert_array_equal(taken.losses, run.losses[:, where])
    np.testing.assert_array_equal(taken.signals["margin"], run.signals["margin"][:, where])
    assert taken.labels.tolist() == run.labels[where].tolist()
    assert taken.ids.to_pylist() == [run.ids[i].as_py() for i in where]
    np.testing.assert_array_equal(taken.validation_losses, run.validation_losses)
    assert_equal(run.take_rows(run.rows), run)


@pytest.mark.parametrize("rows", [[2, HELD[0]], [ROWS], [-1]])
def test_take_rows_refuses_rows_that_were_not_recorded(rows):
    with pytest.raises(InputError, match=f"rows {rows[-1]} were not recorded"):
        make().take_rows(np.array(rows))


@pytest.mark.parametrize(("rows", "kind"), [(np.arange(20) < 5, "bool"), ([1.5, 2.0], "float64")])
def test_take_rows_takes_no_mask_for_row_numbers(rows, kind):
    with pytest.raises(InputError, match=rf"`rows` has shape .* and holds {kind}: give a list of integers"):
        make().take_rows(rows)
