"""The per-sample metric `predicted`: a class number, however rows are recorded, stored, joined and gone on with."""

import json

import numpy as np
import pytest
import torch
from accelerate import PartialState
from datasets import Value
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ltc.recording.checkpoints import record_checkpoints
from hf_ltc.recording.record import record
from hf_ltc.recording.recorder import TrajectoryRecorder
from hf_ltc.recording.trainer.callback import TrajectoryCallback
from hf_ltc.training.images import StoredImages, channel_statistics, normalize
from hf_ltc.training.metrics import LossBuffer, per_sample_metrics
from hf_ltc.training.models import load_model
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils import files
from hf_ltc.utils.errors import InputError
from tests.processes import finish, start
from tests.recording import runs
from tests.recording.test_checkpoints import collate, network, weights
from tests.recording.trainers import FROZEN, Dies, text_model, texts, trainer

LOSSES = ("training_loss", "predicted", "margin")


def recorder(folder, state=None):
    return TrajectoryRecorder(
        folder, rows=6, labels=np.arange(6) % 3, validation_labels=[0, 1], losses=LOSSES, accelerator=state
    )


def add(made, rows, classes):
    rows = np.asarray(rows)
    made.update(rows, rows * 0.5, predicted=classes, margin=rows * 2.0)


def stored_dtypes(folder, epochs):
    return [files.read_arrays(run_dir.epoch_path(folder, t), ["predicted"])["predicted"].dtype.name for t in epochs]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 20), st.integers(2, 12), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_it_is_the_class_with_the_highest_logit(batch, columns, classes, seed):
    draw = np.random.default_rng(seed)
    # Whole numbers, of which many are equal.
    logits = draw.integers(0, 4, (batch, columns)).astype(np.float32)
    labels = torch.from_numpy(draw.integers(0, columns, batch))
    (found,) = per_sample_metrics(["predicted"], torch.from_numpy(logits), labels)
    assert found.tolist() == [max(range(columns), key=row.__getitem__) for row in logits.tolist()]
    # Of classes that stand elsewhere among the logits, the last of them beyond these.
    outputs = np.sort(draw.choice(columns + 3, classes, replace=False))
    outputs[0] = min(outputs[0], columns - 1)
    (found,) = per_sample_metrics(["predicted"], torch.from_numpy(logits), labels, torch.from_numpy(outputs))
    inside = [k for k in range(classes) if outputs[k] < columns]
    assert found.tolist() == [max(inside, key=lambda k: row[outputs[k]]) for row in logits.tolist()]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(0, 20), st.sampled_from([3, 2**15, 2**24]), st.integers(0, 2**32 - 1))
def test_a_row_recorded_several_times_has_one_of_its_classes(n, extra, classes, seed):
    draw = np.random.default_rng(seed)
    rows = np.concatenate([draw.permutation(n), draw.integers(n, size=extra)])
    losses, numbers = draw.random(len(rows), dtype=np.float32), draw.integers(classes, size=len(rows))
    buffer = LossBuffer(["training_loss", "predicted"], n)
    for _ in range(2):
        for part in np.array_split(np.arange(len(rows)), 3):
            given_ = (torch.from_numpy(values[part]) for values in (rows, losses, numbers))
            buffer.add(*given_)
        found = buffer.collect(None, 1, np.arange(n))
        assert found["predicted"].tolist() == [numbers[rows == row].max() for row in range(n)]
        means = [losses[rows == row].mean(dtype=np.float64) for row in range(n)]
        np.testing.assert_allclose(found["training_loss"], means, rtol=1e-5)


def test_memory_is_four_bytes_a_row():
    plain, more = LossBuffer(["training_loss"], 1000), LossBuffer(["training_loss", "predicted"], 1000)
    assert plain.table.nbytes == more.table.nbytes and plain.classes.nbytes == 0 and more.classes.nbytes == 4000


@pytest.mark.parametrize("largest, kind", [(32_767, "int16"), (32_768, "int32"), (2**24, "int32")])
def test_a_loop_of_ones_own_and_its_files(tmp_path, largest, kind):
    made = recorder(tmp_path / "run")
    with made.epoch():
        add(made, range(6), torch.arange(6, dtype=torch.int32))
        made.update([0, 1], [1.0, 2.0], split="validation")
    with made.epoch():
        add(made, [5, 4, 3], np.array([2, 1, largest]))
        add(made, [0, 1, 2], [0, 2, 1])
        made.update([0, 1], [1.0, 2.0], split="validation")
    run = made.finish()
    assert run.signals["predicted"].tolist() == [[0, 1, 2, 3, 4, 5], [0, 2, 1, largest, 1, 2]]
    assert run.signals["margin"].tolist() == [[0, 2, 4, 6, 8, 10]] * 2
    assert stored_dtypes(tmp_path / "run", (0, 1)) == ["int16", kind]
    # Saved again, joined, read from disk epoch by epoch, as columns, and as files of them.
    mapped = Trajectories.load(tmp_path / "run", mmap=True)
    np.testing.assert_array_equal(np.asarray(mapped.signals["predicted"]), run.signals["predicted"])
    together = Trajectories.average([mapped, run])
    together.save(tmp_path / "again")
    assert stored_dtypes(tmp_path / "again" / "seed-1", (0, 1)) == ["int16", kind]
    twice = np.concatenate([run.signals["predicted"]] * 2)
    np.testing.assert_array_equal(Trajectories.load(tmp_path / "again").signals["predicted"], twice)
    columns = together.to_dataset()
    assert columns["train"]["predicted_trajectory"][3] == [3, largest] * 2
    together.to_parquet(tmp_path / "parquet")
    np.testing.assert_array_equal(Trajectories.from_parquet(tmp_path / "parquet").signals["predicted"], twice)


def test_it_goes_on_within_an_epoch(tmp_path):
    first = recorder(tmp_path / "one")
    add(first, [0, 3, 4], [2, 1, 0])
    first.update([1], [3.0], split="validation")
    state = first.state_dict()
    second = recorder(tmp_path / "two")
    with second.epoch():
        add(second, [0], [7])
        second.load_state_dict(state)
        add(second, [5, 1, 2], [1, 1, 2])
        second.update([0], [4.0], split="validation")
    assert second.finish().signals["predicted"].tolist() == [[2, 1, 2, 1, 0, 1]]
    other = TrajectoryRecorder(tmp_path / "three", rows=6, labels=np.zeros(6, int), validation_labels=[0, 1])
    with pytest.raises(InputError, match="the state is of another recorder"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    "classes, said",
    [
        ([0.0, 1.0], "`predicted` is torch.float32: give class numbers, which are integers"),
        ([True, False], "`predicted` is torch.bool"),
        ([1], r"predicted has shape \(1,\) for 2 rows"),
        ([0, -1], r"epoch 0: predicted of 1 of 6 rows is negative \(rows 1\): give the numbers of classes"),
    ],
)
def test_what_is_no_class_number_is_named(tmp_path, classes, said):
    made = recorder(tmp_path / "run")
    with pytest.raises(InputError, match=said), made.epoch():
        add(made, [0, 1], classes)
        add(made, range(2, 6), [0] * 4)
    assert run_dir.published_epochs(tmp_path / "run") == []


def test_a_metric_of_that_name_that_was_recorded_as_floats_is_read(tmp_path):
    made = recorder(tmp_path / "run")
    with made.epoch():
        add(made, range(6), [0, 1, 2, 0, 1, 2])
        made.update([0, 1], [1.0, 2.0], split="validation")
    path = run_dir.epoch_path(tmp_path / "run", 0)
    arrays = files.read_arrays(path)
    arrays["predicted"] = np.array([0, 0.5, 1, np.nan, 2, 2], np.float32)
    files.write_arrays(path, arrays, {"run": made.run, "epoch": "0"})
    run = Trajectories.load(tmp_path / "run")
    np.testing.assert_array_equal(run.signals["predicted"][0], arrays["predicted"])
    arrays["predicted"] = np.zeros(6, np.int64)
    files.write_arrays(path, arrays, {"run": made.run, "epoch": "0"})
    with pytest.raises(InputError, match="predicted is int64"):
        Trajectories.load(tmp_path / "run")


def padded(folder):
    """Rows of an epoch on two processes, of which one, as of samplers that pad, comes on both; and half of another."""

    state = PartialState(cpu=True)
    made = recorder(f"{folder}/run", state)
    mine = ([0, 1, 2, 3], [4, 5, 0])[state.process_index]
    with made.epoch():
        add(made, mine, [(row + 1) % 3 + state.process_index for row in mine])
        made.update([state.process_index], [1.0], split="validation")
    add(made, mine[:2], [2, 1])
    kept = made.state_dict()
    made.clear()
    with made.epoch():
        made.load_state_dict(kept)
        add(made, mine[2:], [0] * len(mine[2:]))
        made.update([state.process_index], [1.0], split="validation")
    made.finish()


def test_on_two_processes(tmp_path):
    assert finish(start(padded, str(tmp_path), world=2)) == [0, 0]
    run = Trajectories.load(tmp_path / "run")
    # Row 0 is 1 by the first process and 2 by the second.
    assert run.signals["predicted"].tolist() == [[2, 2, 0, 1, 3, 1], [2, 1, 0, 0, 2, 1]]
    assert run.losses.tolist() == [[0, 0.5, 1, 1.5, 2, 2.5]] * 2


@pytest.mark.parametrize("losses", ["training", "evaluation", "both"])
def test_of_a_source_model_it_is_what_the_saved_weights_say(small, tmp_path, losses):
    train = small["train"]
    # Weights that stay, and images as they are: all epochs are the same.
    config = runs.settings(
        tmp_path / "run", **runs.FROZEN, losses=losses, augment=False, signals=["predicted", "correct"]
    )
    run = record(config, train)
    model = load_model(tmp_path / "run" / "source_model")
    pixels = StoredImages(train.select(run.rows), "image", 8).read()
    with torch.no_grad():
        logits = model(normalize(pixels, *channel_statistics(pixels))).numpy()
    # What rounding decides is left out.
    two = np.sort(logits, axis=1)[:, -2:]
    clear = two[:, 1] - two[:, 0] > 1e-4
    assert clear.mean() > 0.9
    for found in run.signals["predicted"]:
        np.testing.assert_array_equal(found[clear], logits.argmax(1)[clear])
    np.testing.assert_array_equal(run.signals["correct"] == 1, run.signals["predicted"] == run.labels)
    assert stored_dtypes(tmp_path / "run", range(3)) == ["int16"] * 3


def test_it_goes_with_correct_in_a_training_of_several_runs(small, tmp_path):
    config = runs.settings(tmp_path / "run", epochs=3, runs=2, signals=["correct", "predicted"])
    run = record(config, small["train"])
    np.testing.assert_array_equal(run.signals["correct"] == 1, run.signals["predicted"] == run.labels)
    assert len(np.unique(run.signals["predicted"])) > 3
    attached = run.attach(small["train"], ["predicted"])
    assert attached[int(run.rows[4])]["predicted_trajectory"] == run.signals["predicted"][:, 4].tolist()
    assert attached[int(run.validation_rows[0])]["predicted_trajectory"] is None
    # The command again finds it finished, and reads the same.
    np.testing.assert_array_equal(record(config, small["train"]).signals["predicted"], run.signals["predicted"])
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert recipe["config"]["signals"] == ["correct", "predicted"]


def test_of_saved_weights(small, tmp_path):
    train, states = small["train"], weights(3)
    options = {"output_dir": tmp_path / "run", "model": network(), "collate": collate, "signals": ["predicted"]}
    run = record_checkpoints(states, train, **options)
    pixels = np.stack([np.array(train[row]["image"], dtype=np.float64).ravel() / 255 for row in run.rows.tolist()])
    for found, state in zip(run.signals["predicted"], states):
        logits = pixels @ state["1.weight"].double().numpy().T + state["1.bias"].double().numpy()
        np.testing.assert_array_equal(found, logits.argmax(1))


def resumable(folder, extra=()):
    callback = TrajectoryCallback(folder / "run", texts(), signals=["predicted", "correct"])
    options = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 3, "save_total_limit": 2}
    return callback, trainer(folder, callback, text_model(dropout=0.2), extra, **options)


def test_of_a_trainer_that_is_resumed_within_an_epoch(tmp_path):
    whole, training = resumable(tmp_path / "whole")
    training.train()
    (tmp_path / "broken").mkdir()
    _, training = resumable(tmp_path / "broken", [Dies("on_step_begin", 8)])
    with pytest.raises(RuntimeError, match="cable"):
        training.train()
    callback, training = resumable(tmp_path / "broken")
    training.train(resume_from_checkpoint=True)
    run = callback.trajectories
    np.testing.assert_array_equal(run.signals["predicted"], whole.trajectories.signals["predicted"])
    # Of equal logits, which the untrained model has, the first is predicted and none is correct.
    np.testing.assert_array_equal(run.signals["correct"][1:] == 1, run.signals["predicted"][1:] == run.labels)
    assert (run.signals["predicted"][0] == run.labels)[run.signals["correct"][0] == 1].all()


def test_classes_are_numbered_as_the_dataset_s_where_the_model_s_numbers_differ(tmp_path):
    train = texts().cast_column("label", Value("int64"))
    train = train.filter(lambda label: label != 1, input_columns="label")
    callback = TrajectoryCallback(tmp_path / "run", train, signals=["predicted", "margin"])
    training = trainer(tmp_path, callback, **FROZEN)
    training.train()
    run, model = callback.trajectories, training.model.eval()
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([train[row]["input_ids"]])).logits[0] for row in run.rows.tolist()]
    # The model has an output for class 1 as well, which no row has: there is no such class in the dataset.
    wanted = [int(row[2] > row[0]) for row in logits]
    assert run.signals["predicted"].tolist() == [wanted] * len(run.epochs)
