"""Trajectories as a value: checked, cut, and put beside the rows of the dataset they were recorded on."""

import dataclasses
import re

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import ClassLabel, Dataset, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ltc.config import RecordConfig
from hf_ltc.coresets.order import coreset_order
from hf_ltc.coresets.select import in_coreset, rank_coreset, select_coreset
from hf_ltc.data.columns import read_column
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.scorers import LTCScorer
from hf_ltc.scores.typicality import ltc_typicality
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError
from tests.helpers import error_of, refused
from tests.scores.recordings import most_typical
from tests.trajectories.recordings import (
    FLAT,
    HELD,
    ORDERS,
    ROWS,
    assert_attached,
    assert_equal,
    dataset,
    make,
)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"losses": np.zeros((5, 3), np.float32)}, r"losses has shape \(5, 3\), not \(5, 50\)"),
        ({"losses": np.zeros((4, 50), np.float32)}, r"losses has shape \(4, 50\), not \(5, 50\)"),
        ({"validation_losses": np.zeros((5, 2), np.float32)}, r"validation_losses has shape \(5, 2\)"),
        ({"signals": {"margin": np.zeros((5, 2), np.float32)}}, r"margin has shape \(5, 2\)"),
        ({"lengths": (2, 2)}, r"lengths \(2, 2\) .* sum to 5 checkpoints"),
        ({"lengths": (5, 0)}, r"lengths \(5, 0\) must be 1 or more each"),
        ({"labels": np.zeros(3, np.int64)}, "labels has 3 values for 50 samples"),
        ({"validation_rows": np.zeros(3, np.int64)}, "validation_rows has 3 values for 10 samples"),
        ({"ids": pa.array(["a"])}, "ids has 1 values for 50 samples"),
        ({"lengths": 6}, r"lengths \(6,\) .* sum to 5 checkpoints"),
        ({"rows": np.arange(50)[::-1]}, "rows must be 0 or more and increasing"),
        ({"rows": np.zeros(50, np.int64)}, "rows must be 0 or more and increasing"),
        ({"rows": np.arange(50) - 1}, "rows must be 0 or more and increasing"),
        ({"epochs": [0, 1, 3, 2, 4]}, r"epochs \[0, 1, 3, 2, 4\] must be increasing within a run"),
        ({"loss_name": "loss"}, "loss_name is 'loss': it must be training_loss or evaluation_loss"),
        ({"signals": {"training_loss": np.zeros((5, 50), np.float32)}}, "loss_name is 'training_loss'"),
    ],
)
def test_shapes_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(InputError, match=message) as error:
        dataclasses.replace(make(), **changes)
    refused(error)


def test_it_is_frozen_and_as_long_as_its_rows():
    run = make()
    assert repr(run) == "Trajectories(50 rows, 10 validation samples, 5 checkpoints)"
    assert len(run) == ROWS - len(HELD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.lengths = (1,)


@given(
    epochs=st.lists(st.integers(2, 30), min_size=1, max_size=3),
    initial=st.booleans(),
    k=st.integers(1, 12),
    last=st.integers(0, 30),
)
@settings(max_examples=60, deadline=None)
def test_laws_of_truncate_and_every(epochs, initial, k, last):
    recorded = [list(range(0 if initial else 1, count + 1)) for count in epochs]
    lengths = tuple(map(len, recorded))
    size = sum(lengths)
    run = Trajectories(
        losses=np.arange(2 * size, dtype=np.float32).reshape(size, 2),
        validation_losses=np.arange(size, dtype=np.float32)[:, None],
        labels=np.zeros(2, np.int64),
        validation_labels=np.zeros(1, np.int64),
        rows=np.arange(2),
        validation_rows=np.array([5]),
        epochs=np.concatenate(recorded),
        lengths=lengths,
        signals={"margin": -np.arange(2 * size, dtype=np.float32).reshape(size, 2)},
    )
    assert_equal(run.every(1), run)
    assert_equal(run.truncate(max(epochs)), run)
    thinned = run.every(k)
    assert_equal(thinned.every(k), thinned)
    for count, one in zip(epochs, thinned.runs, strict=True):
        if len(one.epochs) > 2:
            config = RecordConfig(epochs=count, record_every=k, initial_losses=initial)
            assert one.epochs.tolist() == config.recorded_epochs()
    if last < run.epochs.min():
        with pytest.raises(InputError, match=rf"truncate\({last}\) leaves nothing"):
            run.truncate(last)
        return
    cut = run.truncate(last)
    assert_equal(cut.truncate(last), cut)
    assert cut.epochs.tolist() == [epoch for epoch in run.epochs if epoch <= last]
    assert len(cut.lengths) == len(lengths)
    # Each checkpoint keeps its losses, whichever run it is of.
    np.testing.assert_array_equal(cut.losses[:, 0], run.losses[run.epochs <= last, 0])
    np.testing.assert_array_equal(cut.signals["margin"], -cut.losses)
    np.testing.assert_array_equal(cut.validation_losses[:, 0] * 2, cut.losses[:, 0])


@pytest.mark.parametrize("k", [0, -2])
def test_every_refuses_less_than_one(k):
    with pytest.raises(InputError, match=rf"every\({k}\): it must be 1 or more"):
        make().every(k)


def test_epochs_to_keep_are_numbers():
    with pytest.raises(InputError, match=r"every\(1.5\): it must be 1 or more, a whole number"):
        make().every(1.5)
    with pytest.raises(InputError, match=r"truncate\('2'\): give the number of an epoch"):
        make().truncate("2")


@pytest.mark.parametrize("lengths", [(5,), (4, 3)], ids=str)
def test_attach_gives_every_row_its_losses(lengths):
    data = dataset()
    run = make(data, lengths)
    attached = run.attach(data, ["margin"])
    assert attached.column_names == ["image", "label", "key", "loss_trajectory", "margin_trajectory"]
    for column in ("loss_trajectory", "margin_trajectory"):
        assert attached.features[column] == List(Value("float32"))
        nulls = np.flatnonzero(read_column(attached, column).is_null())
        assert nulls.tolist() == HELD.tolist()
    assert_attached(attached, run, range(ROWS))
    margins = dataclasses.replace(run, losses=run.signals["margin"], signals={})
    assert_attached(
        attached.rename_columns({"loss_trajectory": "x", "margin_trajectory": "loss_trajectory"}), margins, range(ROWS)
    )


def test_attach_of_a_mapped_run_is_the_same(saved):
    data = dataset()
    attached = Trajectories.load(saved, mmap=True).attach(data)
    assert read_column(attached, "loss_trajectory") == read_column(
        make(data, ids=True).attach(data), "loss_trajectory"
    )


def test_attach_twice_replaces_the_column():
    data = dataset()
    attached = make(data, seed=1).attach(make(data).attach(data))
    assert attached.column_names == ["image", "label", "key", "loss_trajectory"]
    assert_attached(attached, make(data, seed=1), range(ROWS))


@pytest.mark.parametrize("recorded", [("margin", "el2n"), ()], ids=str)
def test_a_signal_that_was_not_recorded_is_named(recorded):
    with pytest.raises(InputError, match="the signal 'correct' was not recorded") as error:
        make(signals=recorded).attach(dataset(), ["correct"])
    assert (", ".join(recorded) or "none") in refused(error)


VARIANTS = [{}, {"preset": "cld"}, {"of": "levels", "scope": "class"}]


def assert_scored(scored, run, rows, balance="class", **family):
    """Scores and ranks are what the plain functions give, at the rows they were recorded of."""
    scores = ltc_scores(run, **family)
    place = {row: i for i, row in enumerate(run.rows.tolist())}
    where = [place.get(row, -1) for row in rows]
    wanted = [None if i < 0 or np.isnan(scores[i]) else float(scores[i]) for i in where]
    assert read_column(scored, "ltc_score").to_pylist() == wanted
    present = [i for i in where if i >= 0]
    typicality = most_typical(ltc_typicality(run), run.labels, 0.1)
    known = [None if i < 0 or np.isnan(typicality[i]) else float(typicality[i]) for i in where]
    assert read_column(scored, "ltc_typicality").to_pylist() == known
    order = coreset_order(scores[present], run.labels[present], balance=balance, typicality=typicality[present])
    ranks = iter(order.tolist())
    assert read_column(scored, "ltc_rank").to_pylist() == [None if i < 0 else next(ranks) for i in where]


@pytest.mark.parametrize("balance", ["class", "proportional", "none"])
@pytest.mark.parametrize("family", VARIANTS, ids=str)
@pytest.mark.parametrize("lengths", [(5,), (4, 3)], ids=str)
def test_score_puts_scores_and_ranks_at_their_rows(lengths, family, balance):
    data = dataset()
    run = make(data, lengths)
    scored = run.score(data, balance=balance, typical=0.1, **family)
    assert scored.column_names == [
        "image",
        "label",
        "key",
        "loss_trajectory",
        "ltc_score",
        "ltc_typicality",
        "ltc_rank",
    ]
    assert scored.features["ltc_score"] == Value("float32")
    assert scored.features["ltc_rank"] == Value("int32")
    assert_attached(scored, run, range(ROWS))
    assert_scored(scored, run, range(ROWS), balance, **family)
    assert read_column(scored, "ltc_score")[FLAT].as_py() is None
    ranks = read_column(scored, "ltc_rank").to_pylist()
    assert sorted(rank for rank in ranks if rank is not None) == list(range(len(run)))


@pytest.mark.parametrize("family", VARIANTS, ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_score_with_ids_on_any_order_and_part(order, family):
    data = dataset()
    run = make(data, ids=True)
    number = {key: row for row, key in enumerate(data["key"])}
    changed = ORDERS[order](data)
    assert_scored(run.score(changed, typical=0.1, **family), run, [number[key] for key in changed["key"]], **family)


def buffers(data):
    """Where the encoded images are in memory."""
    (images,) = data.data.column("image").chunks
    return [buffer.address for buffer in images.buffers() if buffer is not None]


@pytest.mark.parametrize("order", ["as it was", "shuffled", "a part"])
def test_no_image_is_decoded_and_no_row_rewritten(order):
    data = ORDERS[order](dataset())
    run = make(ids=order != "as it was")
    before = buffers(data)
    scored = run.score(data)
    assert buffers(scored) == before
    assert buffers(run.attach(data, ["margin"])) == before
    with pytest.raises(Exception, match="cannot identify image file"):
        scored[0]


FORMATS = {
    "none": lambda data: data,
    "numpy": lambda data: data.with_format("numpy"),
    "torch, some columns": lambda data: data.with_format("torch", columns=["label"]),
    "arrow": lambda data: data.with_format("arrow"),
    "transform": lambda data: data.with_transform(lambda batch: {"nothing": [0] * len(batch["key"])}),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("ids", [False, True])
def test_the_format_of_the_dataset_is_kept(format, ids):
    data = FORMATS[format](dataset().shuffle(seed=0) if ids else dataset())
    run = make(ids=ids)
    number = {key: row for row, key in enumerate(dataset()["key"])}
    before = data.format
    scored = run.score(data, typical=0.1)
    assert_scored(scored, run, [number[key] for key in read_column(data, "key").to_pylist()])
    after = scored.format
    assert (after["type"], after["format_kwargs"]) == (before["type"], before["format_kwargs"])
    assert after["columns"] == [*before["columns"], "loss_trajectory", "ltc_score", "ltc_typicality", "ltc_rank"]
    assert data.format == before


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("family", VARIANTS, ids=str)
def test_labels_may_be_text(family, ids):
    data = dataset(text=True)
    run = make(data, ids=ids)
    rows = np.arange(ROWS)
    if ids:
        rows = np.random.default_rng(0).permutation(ROWS)[:40]
        data = data.select(rows)
    scored = run.score(data, typical=0.1, **family)
    assert_scored(scored, run, rows, **family)
    mapped = run.attach(data).map(LTCScorer.from_trajectories(run, **family), batched=True, input_columns=None)
    np.testing.assert_allclose(
        np.array(read_column(mapped, "ltc_score").to_pylist(), dtype=float),
        np.array(read_column(scored, "ltc_score").to_pylist(), dtype=float),
        atol=1e-6,
    )


@pytest.mark.parametrize("lengths", [(5,), (4, 3)], ids=str)
@pytest.mark.parametrize("family", VARIANTS, ids=str)
def test_step_by_step_is_the_shortcut(lengths, family):
    data = dataset()
    run = make(data, lengths)
    scored = run.attach(data).map(LTCScorer.from_trajectories(run, **family), batched=True)
    scored = rank_coreset(scored, balance="class")
    coreset = scored.filter(in_coreset, fn_kwargs={"size": 20}, input_columns="ltc_rank", batched=True)
    at_once = select_coreset(run.score(data, **family), size=20)
    assert len(coreset) == 20
    for column in ("key", "label", "image", "loss_trajectory", "ltc_rank"):
        assert read_column(coreset, column).to_pylist() == read_column(at_once, column).to_pylist(), column
    scores = [np.array(read_column(each, "ltc_score").to_pylist(), dtype=float) for each in (coreset, at_once)]
    np.testing.assert_allclose(*scores, atol=1e-6)


def test_score_names_bad_losses():
    run = make()
    losses = run.losses.copy()
    losses[2, 5] = np.nan
    with pytest.raises(InputError, match="epoch 2"):
        dataclasses.replace(run, losses=losses).score(dataset())


def test_what_is_not_given_has_its_usual_value():
    run = make()
    plain = Trajectories(
        torch.tensor(run.losses, requires_grad=True, dtype=torch.float64),
        run.validation_losses.tolist(),
        run.labels,
        run.validation_labels,
        signals={"margin": run.losses.astype(np.float16)},
    )
    assert plain.losses.dtype == plain.signals["margin"].dtype == np.float32
    np.testing.assert_array_equal(plain.losses, run.losses)
    assert plain.rows.tolist() == [*range(50)] and plain.validation_rows.tolist() == [-1] * 10
    assert plain.epochs.tolist() == [*range(5)] and plain.lengths == (5,)
    # Losses that are float32 are not copied.
    assert dataclasses.replace(run).losses is run.losses
    other = Trajectories(
        run.losses, run.validation_losses, run.labels, run.validation_labels, rows=range(50), epochs=range(1, 6)
    )
    assert other.epochs.tolist() == [1, 2, 3, 4, 5] and other.rows.dtype == np.int64


@pytest.mark.parametrize(
    "losses, validation_losses, said",
    [
        (
            np.zeros((50, 5)),
            np.zeros((10, 5)),
            r"losses has shape \(50, 5\), not \(checkpoints, samples\): .* losses.T",
        ),
        (np.zeros((5, 50)), np.zeros((10, 5)), r"validation_losses has shape \(10, 5\), .* give validation_losses.T"),
        (np.zeros((5, 49)), np.zeros((5, 10)), r"losses has shape \(5, 49\), not \(5, 50\)"),
        (np.zeros((5, 50, 2)), np.zeros((5, 10)), r"`losses` has shape \(5, 50, 2\) and holds float64: give a table"),
    ],
)
def test_arrays_of_another_shape_are_refused(losses, validation_losses, said):
    assert re.search(said, error_of(Trajectories, losses, validation_losses, np.zeros(50), np.zeros(10)))


def test_rows_and_epochs_are_integers():
    for name in ("rows", "validation_rows", "epochs"):
        changed = {name: np.asarray(getattr(make(), name)) / 2}
        assert f"`{name}` has shape" in error_of(dataclasses.replace, make(), **changed)


def test_losses_from_elsewhere_are_of_the_rows_with_their_labels():
    labels = np.arange(50) % 4
    rows = Dataset.from_dict({"label": labels}).cast_column("label", ClassLabel(num_classes=4))
    losses = np.random.default_rng(0).random((5, 60))
    run = Trajectories(losses[:, :50], losses[:, 50:], labels, np.arange(10) % 4)
    assert sorted(run.score(rows)["ltc_rank"]) == [*range(50)]
    two = rows.add_column("coarse", labels % 2).cast_column("coarse", ClassLabel(num_classes=2))
    assert "choose one with `label_column`" in error_of(run.score, two)
    assert run.score(two, label_column="label")["ltc_rank"] == run.score(rows)["ltc_rank"]
    turned = rows.select([*range(49, -1, -1)])
    assert "rows have another label in column 'label'" in error_of(run.score, turned)
