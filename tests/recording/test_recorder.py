"""The recorder: every row once an epoch, whatever the loop; what is wrong is named."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from hf_ltc.data.inputs import class_numbers
from hf_ltc.recording.recorder import TrajectoryRecorder
from hf_ltc.training.metrics import LossBuffer, per_sample_metrics
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError


def recorder(folder, n=7, q=3, **options):
    arguments = {"rows": n, "labels": np.arange(n) % 2, "validation_labels": np.arange(q) % 2, **options}
    return TrajectoryRecorder(folder, **arguments)


def record_epochs(made, epochs, n=7, q=3, seed=0):
    values = np.random.default_rng(seed).random((epochs, n + q), dtype=np.float32)
    for epoch in values:
        with made.epoch():
            made.update(np.arange(n), epoch[:n])
            made.update(np.arange(q), epoch[n:], split="validation")
    return values[:, :n], values[:, n:]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_a_row_recorded_several_times_has_the_mean(n, extra, seed):
    generator = np.random.default_rng(seed)
    rows = np.concatenate([generator.permutation(n), generator.integers(n, size=extra)])
    values = generator.normal(size=len(rows)).astype(np.float32)
    buffer = LossBuffer(["training_loss"], n)
    for part in np.array_split(np.arange(len(rows)), 3):
        buffer.add(torch.from_numpy(rows[part]), torch.from_numpy(values[part]))
    found = buffer.collect(None, 1, np.arange(n))["training_loss"]
    expected = [values[rows == row].astype(np.float64).mean() for row in range(n)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32


def test_large_row_numbers_are_not_rounded():
    # InfoBatch's 49999 became 49920 in bf16: numbers and losses must not share a tensor.
    n = 2**24 + 3
    buffer = LossBuffer(["training_loss"], n)
    buffer.add(torch.arange(n - 1), torch.zeros(n - 1, dtype=torch.bfloat16))
    buffer.add(torch.tensor([n - 1]), torch.tensor([1.5], dtype=torch.bfloat16))
    assert buffer.collect(None, 1, np.arange(n))["training_loss"][-2:].tolist() == [0.0, 1.5]


def test_memory_is_eight_bytes_a_row_and_four_more_a_signal():
    assert LossBuffer(["training_loss"], 1000).table.nbytes == 8 * 1000
    assert LossBuffer(["training_loss", "margin", "el2n"], 1000).table.nbytes == 16 * 1000


def test_a_hole_names_the_rows():
    buffer = LossBuffer(["training_loss"], 4)
    buffer.add(torch.tensor([0, 2]), torch.ones(2))
    with pytest.raises(InputError, match=r"epoch 3: 2 of 4 rows have no recorded loss \(rows 11, 13\)"):
        buffer.collect(None, 3, np.array([10, 11, 12, 13]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_names_epoch_and_rows(bad):
    buffer = LossBuffer(["training_loss"], 3)
    buffer.add(torch.arange(3), torch.tensor([1.0, bad, 2.0]))
    with pytest.raises(InputError, match=r"epoch 2: training_loss of 1 of 3 rows is not finite \(rows 8\)"):
        buffer.collect(None, 2, np.array([7, 8, 9]))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(2, 12), st.integers(0, 2**32 - 1))
def test_signals_by_their_definitions(batch, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, generator=generator) * 3
    labels = torch.randint(classes, (batch,), generator=generator)
    margin, correct, el2n = per_sample_metrics(["margin", "correct", "el2n"], logits, labels)
    for i in range(batch):
        y = int(labels[i])
        others = np.delete(logits[i].numpy(), y)
        assert margin[i] == pytest.approx(float(logits[i, y]) - others.max(), abs=1e-5)
        assert bool(correct[i]) == (int(logits[i].argmax()) == y)
        p = np.exp(logits[i].double().numpy())
        p /= p.sum()
        p[y] -= 1
        assert el2n[i] == pytest.approx(np.linalg.norm(p), abs=1e-5)


def test_what_is_recorded_is_what_was_passed(tmp_path):
    made = recorder(tmp_path / "run")
    losses, validation = record_epochs(made, 4)
    run = made.finish()
    np.testing.assert_array_equal(run.losses, losses)
    np.testing.assert_array_equal(run.validation_losses, validation)
    assert run.epochs.tolist() == [0, 1, 2, 3]
    assert run.rows.tolist() == list(range(7))
    assert run.validation_rows.tolist() == [-1, -1, -1]


def test_torch_and_numpy_and_lists_are_alike(tmp_path):
    made = recorder(tmp_path / "run", n=4, q=2)
    logits = torch.randn(4, 2, requires_grad=True)
    with made.epoch():
        made.update(torch.tensor([3, 1]), cross_entropy(logits[:2], torch.tensor([0, 1]), reduction="none"))
        made.update([0], np.array([0.5]))
        made.update(np.array([2], dtype=np.int32), torch.tensor([0.25], dtype=torch.float64))
        made.update(range(2), [1.0, 2.0], split="validation")
    run = Trajectories.load(tmp_path / "run")
    assert run.losses[0, [0, 2]].tolist() == [0.5, 0.25]
    assert np.isfinite(run.losses).all()


def test_rows_may_be_any_unique_ids(tmp_path):
    ids = ["cat.png", "dog.png", "eel.png"]
    made = recorder(tmp_path / "run", rows=ids, labels=[0, 1, 0], validation_rows=["ape.png"], validation_labels=[1])
    with made.epoch():
        made.update(["eel.png", "cat.png"], [3.0, 1.0])
        made.update(["dog.png"], [2.0])
        made.update(["ape.png"], [4.0], split="validation")
    run = made.finish()
    assert run.losses.tolist() == [[1.0, 2.0, 3.0]]
    assert run.ids.to_pylist() == ids
    assert Trajectories.load(tmp_path / "run").ids.equals(pa.array(ids))


def test_other_ids_are_another_recording(tmp_path):
    options = {"labels": [0, 1, 0], "validation_rows": ["v"], "validation_labels": [1]}
    recorder(tmp_path / "run", rows=["a", "b", "c"], **options)
    recorder(tmp_path / "run", rows=["a", "b", "c"], **options)
    for rows, changes in ((["b", "a", "c"], {}), (["x", "y", "z"], {}), (["a", "b", "c"], {"validation_rows": ["w"]})):
        with pytest.raises(InputError, match="holds another recording"):
            recorder(tmp_path / "run", rows=rows, **{**options, **changes})


def test_row_numbers_may_be_of_any_size(tmp_path):
    made = recorder(tmp_path / "run", rows=[10**14, 5, 7], labels=[0, 1, 2], validation_labels=[0])
    with made.epoch():
        made.update(torch.tensor([7, 10**14]), [7.0, 14.0])
        made.update([5], [5.0])
        made.update([0], [1.0], split="validation")
    assert made.finish().losses.tolist() == [[5.0, 7.0, 14.0]]
    with pytest.raises(InputError, match="above int64"):
        recorder(tmp_path / "other", rows=np.array([2**63, 1], dtype=np.uint64), labels=[0, 1])
    assert recorder(tmp_path / "counted", rows=np.int64(7)).rows.tolist() == list(range(7))


def test_collected_values_outlive_the_buffer():
    buffer = LossBuffer(["training_loss"], 3)
    buffer.add(torch.arange(3), torch.tensor([1.0, 2.0, 3.0]))
    found = buffer.collect(None, 1, np.arange(3))["training_loss"]
    buffer.clear()
    assert found.tolist() == [1.0, 2.0, 3.0]


def test_row_numbers_in_any_order_are_recorded_under_their_own(tmp_path):
    made = recorder(tmp_path / "run", rows=[30, 10, 20], labels=[2, 0, 1], validation_rows=[5], validation_labels=[0])
    with made.epoch():
        made.update([30, 20, 10], [3.0, 2.0, 1.0])
        made.update([5], [0.0], split="validation")
    run = made.finish()
    assert run.rows.tolist() == [10, 20, 30]
    assert run.labels.tolist() == [0, 1, 2]
    assert run.losses.tolist() == [[1.0, 2.0, 3.0]]
    assert run.validation_rows.tolist() == [5]


def test_both_losses_and_signals_are_kept_apart(tmp_path):
    made = recorder(tmp_path / "run", n=2, q=1, losses=("training_loss", "evaluation_loss", "margin"))
    with made.epoch():
        made.update([0, 1], [1.0, 2.0], margin=[0.1, 0.2])
        made.update([0, 1], [3.0, 4.0], split="evaluation")
        made.update([0], [5.0], split="validation")
    run = made.finish()
    assert run.losses.tolist() == [[1.0, 2.0]]
    assert run.signals["evaluation_loss"].tolist() == [[3.0, 4.0]]
    assert np.allclose(run.signals["margin"], [[0.1, 0.2]])
    assert Trajectories.load(tmp_path / "run", losses="evaluation").losses.tolist() == [[3.0, 4.0]]


@pytest.mark.parametrize("kind", ["<f2", ">f4", ">f8", "longdouble", ">i4", "u2"])
@pytest.mark.parametrize("step", [1, -1, 2])
def test_arrays_of_any_layout_and_byte_order(tmp_path, kind, step):
    values = np.arange(14)[:: abs(step)][:7].astype(kind)
    losses = np.repeat(values, abs(step))[:: abs(step)] if step > 0 else values[::-1]
    made = recorder(tmp_path / "run")
    with made.epoch():
        made.update(np.arange(7, dtype=">i8")[:: np.sign(step)], losses)
        made.update(np.arange(3), losses[:3], split="validation")
    np.testing.assert_array_equal(made.finish().losses[0], values.astype(np.float32))


def test_a_loop_that_begins_anew_is_not_recorded_after_the_epochs_of_another_training(tmp_path):
    # The loop of the documentation, run twice: it ran on after the epochs there were, with the losses of a new model.
    record_epochs(recorder(tmp_path / "run"), 3)
    said = r"run' has epochs up to 2, .* count on from recorder.next_epoch \(3\) .*, or give another `output_dir`"
    with pytest.raises(InputError, match=said):
        record_epochs(recorder(tmp_path / "run"), 3)
    said = r"epoch 0 is recorded already in .*: continue with epoch 3 \(recorder.next_epoch\), or give another"
    with pytest.raises(InputError, match=said), recorder(tmp_path / "run").epoch(0):
        pass
    assert run_dir.published_epochs(tmp_path / "run") == [0, 1, 2]
    # With the number of an epoch the loop shows that it knows; then it need not say those that follow.
    made = recorder(tmp_path / "run")
    values = np.zeros(10)
    with made.epoch(3):
        made.update(np.arange(7), values[:7])
        made.update(np.arange(3), values[7:], split="validation")
    record_epochs(made, 1)
    assert run_dir.published_epochs(tmp_path / "run") == [0, 1, 2, 3, 4]


def test_made_again_it_goes_on(tmp_path):
    first = recorder(tmp_path / "run")
    record_epochs(first, 2)
    stamps = {path: path.read_bytes() for path in (tmp_path / "run" / "trajectories").iterdir()}
    second = recorder(tmp_path / "run")
    assert second.next_epoch == 2
    record_epochs(second, 1, seed=1)
    assert second.finish().epochs.tolist() == [0, 1, 2]
    assert all(path.read_bytes() == content for path, content in stamps.items())


def test_an_epoch_that_fails_leaves_nothing(tmp_path):
    made = recorder(tmp_path / "run")
    record_epochs(made, 1)
    with pytest.raises(RuntimeError, match="cable"), made.epoch():
        made.update(np.arange(7), np.ones(7))
        raise RuntimeError("cable")
    with pytest.raises(InputError, match="have no recorded loss"), made.epoch():
        made.update(np.arange(6), np.ones(6))
    assert run_dir.published_epochs(tmp_path / "run") == [0]
    record_epochs(made, 1, seed=2)
    assert run_dir.published_epochs(tmp_path / "run") == [0, 1]


@pytest.mark.parametrize(
    ("rows", "losses", "message"),
    [
        ([7], [1.0], "not made for: 7 "),
        ([-1], [1.0], "not made for: -1 "),
        ([0.0], [1.0], "row numbers are integers"),
        ([0, 1], 1.5, r"training_loss has shape \(\) for 2 rows.*reduction"),
        ([0, 1], [1.0], r"has shape \(1,\) for 2 rows"),
        ([[0, 1]], [[1.0, 1.0]], r"rows have shape \(1, 2\)"),
        (["a"], [1.0], "rows are <U1|rows are object"),
        ([True, False], [1.0, 1.0], "rows are bool"),
        (3, [1.0], r"rows have shape \(\)"),
        ([0, 1], ["a", "b"], "training_loss cannot be read as numbers"),
        ([0, 1], [1.0, None], "training_loss cannot be read as numbers"),
        ([0, 1], None, "training_loss cannot be read as numbers"),
        ([0, 1], [True, False], "`training_loss` is torch.bool"),
        ([0, 1], [1.0j, 2.0], "`training_loss` is torch.complex"),
    ],
)
def test_bad_updates_are_named(tmp_path, rows, losses, message):
    made = recorder(tmp_path / "run")
    with pytest.raises(InputError, match=message):
        made.update(rows, losses)


CLASSES = [0, 2, 1, 1]


@pytest.mark.parametrize(
    "labels",
    [
        CLASSES,
        tuple(CLASSES),
        np.array(CLASSES, dtype=np.uint8),
        np.array(CLASSES, dtype=np.float16),
        np.array(CLASSES, dtype=object),
        torch.tensor(CLASSES),
        torch.tensor(CLASSES, dtype=torch.bfloat16),
        [torch.tensor(label) for label in CLASSES],
        pd.Series(CLASSES),
        pa.chunked_array([CLASSES[:1], CLASSES[1:]]),
        Dataset.from_dict({"label": CLASSES})["label"],
    ],
    ids=lambda labels: type(labels).__name__,
)
def test_class_numbers_of_any_array(labels):
    found = class_numbers(labels, "labels")
    assert found.dtype == np.int64 and found.tolist() == CLASSES


def test_class_numbers_of_booleans():
    assert class_numbers([True, False], "labels").tolist() == [1, 0]


@pytest.mark.parametrize("name", ["labels", "validation_labels"])
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.eye(4), r"has shape \(4, 4\).*argmax"),
        (5, r"has shape \(\)"),
        ([[0], [0, 1], [0], [0]], "no array of one value a sample"),
        ([0, 1, -100, 1], r"1 of 4 values of .* are no class numbers \(sample 2: -100\)"),
        ([-1, 1, -1, 1], r"2 of 4 .*\(sample 0: -1, sample 2: -1\)"),
        (torch.tensor([0.0, 0.9, 1.0, 1.0], dtype=torch.float64), r"\(sample 1: 0.9\)"),
        ([0, 1, float("nan"), float("inf")], r"\(sample 2: nan, sample 3: inf\)"),
        (["cat", "dog", "cat", "dog"], r"4 of 4 .*\(sample 0: 'cat', "),
        (["0", "1", "0", "1"], r"\(sample 0: '0', "),
        ([0, "dog", 1, 1], r"1 of 4 .*\(sample 1: 'dog'\)"),
        ([0, None, 1, 1], r"1 of 4 .*\(sample 1: None\)"),
        (np.ma.array([0, 1, 7, 1], mask=[0, 0, 1, 0]), r"1 of 4 .*\(sample 2: None\)"),
        (pa.array([0, None, 1, 1]), r"1 of 4 .*\(sample 1: nan\)"),
        ([0, 1, 10**12, 10**30], r"2 of 4 .*\(sample 2: 1000000000000, sample 3: 1000"),
        (np.array(["2020-01-01"] * 4, dtype="datetime64[D]"), "4 of 4 "),
        ([0, 1, 1 + 0j, 1], "4 of 4 "),
    ],
)
def test_labels_that_are_no_class_numbers_are_named(tmp_path, name, bad, said):
    good = {"rows": 4, "labels": CLASSES, "validation_labels": CLASSES}
    with pytest.raises(InputError, match=said) as error:
        TrajectoryRecorder(tmp_path / "run", **{**good, name: bad})
    assert f"`{name}`" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
    # And where a recording is put together of arrays.
    table = np.zeros((3, 4), dtype=np.float32)
    whole = {"losses": table, "validation_losses": table, "rows": np.arange(4), "validation_rows": np.full(4, -1)}
    with pytest.raises(InputError, match=said):
        Trajectories(
            **whole, **{"labels": CLASSES, "validation_labels": CLASSES, name: bad}, epochs=np.arange(3), lengths=(3,)
        )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (0, "`rows` is 0: give how many"),
        (-2, "`rows` is -2"),
        ([0.0, 1.5], r"`rows` are double \(0.0, 1.5, ...\)"),
        ([True, False], "`rows` are bool"),
        ([[0], [1]], "`rows` are list"),
        (np.zeros((2, 2), dtype=int), "`rows` is no list of row numbers or ids"),
        ([0, "a"], "`rows` is no list of row numbers or ids"),
        (2.0, "`rows` is no list of row numbers or ids"),
        (None, "`rows` is no list of row numbers or ids"),
    ],
)
def test_rows_that_are_no_numbers_or_ids_are_named(tmp_path, rows, said):
    with pytest.raises(InputError, match=said):
        TrajectoryRecorder(tmp_path / "run", rows=rows, labels=[0, 1], validation_labels=[0])
    if rows is not None:
        named = said.replace("`rows`", "`validation_rows`") if not isinstance(rows, int) else "`validation_rows` is no"
        with pytest.raises(InputError, match=named):
            TrajectoryRecorder(tmp_path / "run", rows=2, labels=[0, 1], validation_labels=[0, 1], validation_rows=rows)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rows", "held", "said"),
    [
        (4, [4, 2, 0], r"2 of the 3 validation samples are recorded rows too \(0, 2\)"),
        ([9, 7, 5, 3], [5, 6, 8], r"1 of the 3 .*\(5\)"),
        (["a", "b", "c", "d"], ["x", "d", "y"], r"1 of the 3 .*\('d'\)"),
    ],
)
def test_validation_samples_among_the_rows_are_refused(tmp_path, rows, held, said):
    with pytest.raises(InputError, match=said):
        TrajectoryRecorder(
            tmp_path / "run", rows=rows, labels=[0, 1, 0, 1], validation_labels=[0, 1, 0], validation_rows=held
        )
    assert not (tmp_path / "run").exists()


def test_validation_samples_are_told_from_the_rows_by_the_ids_too(tmp_path):
    options = {"rows": 3, "labels": [0, 1, 0], "validation_labels": [0, 1], "ids": pa.array(["a", "b", "c"])}
    with pytest.raises(InputError, match=r"1 of the 2 .*\('c'\)"):
        TrajectoryRecorder(tmp_path / "run", validation_rows=["c", "d"], **options)


def test_the_state_between_two_epochs_is_empty(tmp_path):
    made = recorder(tmp_path / "run")
    record_epochs(made, 1, seed=1)
    state = made.state_dict()
    with made.epoch():
        made.load_state_dict(state)
        made.update(np.arange(7), np.full(7, 2.0))
        made.update(np.arange(3), np.full(3, 3.0), split="validation")
    assert (made.finish().losses[1] == 2.0).all()


def test_a_recorder_made_in_inference_mode_records_outside(tmp_path):
    with torch.inference_mode():
        made = recorder(tmp_path / "run")
    losses = record_epochs(made, 3)
    np.testing.assert_array_equal(made.finish().losses, losses[0])


def test_other_bad_input_is_named(tmp_path):
    with pytest.raises(InputError, match="`labels` has 2 values for 3 rows"):
        recorder(tmp_path / "a", rows=3, labels=[0, 1])
    with pytest.raises(InputError, match="occur twice"):
        recorder(tmp_path / "a", rows=["x", "x"], labels=[0, 1])
    with pytest.raises(InputError, match="number -4"):
        recorder(tmp_path / "a", rows=[1, -4], labels=[0, 1])
    made = recorder(tmp_path / "a")
    with pytest.raises(InputError, match="split='test': recorded are train, validation"):
        made.update([0], [1.0], split="test")
    with pytest.raises(InputError, match=r"update got training_loss, margin .*recorded are training_loss"):
        made.update([0], [1.0], margin=[1.0])
    record_epochs(made, 1)
    with pytest.raises(InputError, match=r"epoch 0 is recorded already"), made.epoch(0):
        pass


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds other files"):
        recorder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    recorder(tmp_path / "run")
    with pytest.raises(InputError, match="holds another recording"):
        recorder(tmp_path / "run", n=8)
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["format"] == run_dir.FORMAT
