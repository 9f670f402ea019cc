"""The training loop: every row once an epoch, gradients of the whole step, the same on any number of processes."""

import copy
import math
import os
from functools import partial

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import load_from_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from hf_ltc.training.batches import image_batches
from hf_ltc.training.forward import evaluate
from hf_ltc.training.images import StoredImages
from hf_ltc.training.loop import (
    TrainingConfig,
    epoch_shares,
    load_checkpoint,
    plain_model,
    prepare_training,
    save_checkpoint,
    steps_per_epoch,
    train_epoch,
    training_epochs,
)
from tests.processes import finish, needs_compiler, start


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(0, 99),
)
def test_every_row_counts_once_an_epoch(rows, batch, processes, accumulate, epoch, seed):
    config = TrainingConfig(epochs=9, batch_size=batch, gradient_accumulation_steps=accumulate, seed=seed)
    shares = [list(epoch_shares(rows, config, epoch, process, processes)) for process in range(processes)]
    steps = steps_per_epoch(rows, config, processes)
    assert {len(share) for share in shares} == {steps}
    counted, sizes = [], []
    for step in zip(*shares):
        # All processes do as many forward passes, or their collectives would wait for ever.
        assert len({len(passes) for passes in step}) == 1
        parts = [part for passes in step for part in passes]
        assert all(len(positions) >= min(2, rows) or rows == 1 for positions, _, _ in parts)
        (total,) = {total for _, _, total in parts}
        assert total == sum(count for _, count, _ in parts)
        sizes.append(total)
        counted += [int(row) for positions, count, _ in parts for row in positions[:count]]
    assert sorted(counted) == list(range(rows))
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batch * processes * accumulate
    # One process sees the same rows in the same order when the step is as large.
    same = TrainingConfig(epochs=9, batch_size=batch * processes * accumulate, seed=seed)
    alone = [row for ((positions, count, _),) in epoch_shares(rows, same, epoch) for row in positions[:count].tolist()]
    assert sorted(alone) == sorted(counted)
    assert alone == counted


def test_epochs_and_seeds_have_their_own_order():
    def order(seed, epoch):
        config = TrainingConfig(epochs=3, batch_size=16, seed=seed)
        return [int(row) for ((positions, _, _),) in epoch_shares(50, config, epoch) for row in positions]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)


@pytest.fixture
def batches(small):
    train = small["train"]
    labels = np.asarray(train["label"][:], dtype=np.int64)
    return image_batches(StoredImages(train, "image", 8), labels, device=torch.device("cpu"))


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))


def trained(batches, epochs=2, model=None, accelerator=None, observe=None, **settings):
    config = TrainingConfig(epochs=epochs, **{"batch_size": 32, "learning_rate": 0.05, **settings})
    accelerator = accelerator or Accelerator()
    state = prepare_training(model or linear(), len(batches), config, accelerator, average_decay=0.8)
    for _ in range(epochs):
        train_epoch(state, batches, config, accelerator, observe)
    return state


def weights(module):
    return torch.cat([value.flatten().double() for value in module.state_dict().values()])


def test_a_step_is_plain_sgd_on_the_mean_of_its_losses(batches):
    state = trained(batches, epochs=1, schedule="constant", augment=False)
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    config = TrainingConfig(epochs=1, batch_size=32)
    for ((positions, _, _),) in epoch_shares(len(batches), config, 1):
        ((images, labels, _),) = batches([positions])
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(weights(state.model), weights(model), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("optimizer", "plain"),
    [
        ("sgd", partial(torch.optim.SGD, momentum=0.9, nesterov=True)),
        ("adamw", torch.optim.AdamW),
    ],
)
def test_a_fused_step_is_the_plain_one_in_each_memory_format(batches, optimizer, plain):
    # A kernel that walks weights and gradients of different strides side by side would take them for each other.
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 10, (2, 3)), nn.Flatten(), nn.Linear(200, 10))

    config = TrainingConfig(
        epochs=1, batch_size=32, learning_rate=0.01, optimizer=optimizer, schedule="constant", augment=False
    )
    expected = network()
    steps = plain(expected.parameters(), lr=0.01, weight_decay=5e-4, foreach=False)
    for ((positions, _, _),) in epoch_shares(len(batches), config, 1):
        ((images, labels, _),) = batches([positions])
        cross_entropy(expected(images), labels).backward()
        steps.step()
        steps.zero_grad()
    for channels_last in (False, True):
        accelerator = Accelerator()
        state = prepare_training(network(), len(batches), config, accelerator, channels_last=channels_last)
        train_epoch(state, batches, config, accelerator)
        assert state.model[0].weight.is_contiguous(memory_format=torch.channels_last) == channels_last
        torch.testing.assert_close(weights(state.model), weights(expected), rtol=1e-4, atol=1e-6)


def test_accumulated_gradients_are_those_of_the_whole_step(batches):
    whole = trained(batches, batch_size=32, augment=False)
    parts = trained(batches, batch_size=8, gradient_accumulation_steps=4, augment=False)
    torch.testing.assert_close(weights(whole.model), weights(parts.model), rtol=1e-4, atol=1e-6)


def test_averaged_weights_are_the_exponential_mean_of_the_steps(batches):
    seen = []
    model = linear()
    expected = weights(model)
    accelerator = Accelerator()
    config = TrainingConfig(epochs=1, batch_size=32)
    state = prepare_training(model, len(batches), config, accelerator, average_decay=0.8)
    step = state.scheduler.step

    def observed_step():
        seen.append(weights(state.model))
        step()

    state.scheduler.step = observed_step
    train_epoch(state, batches, config, accelerator)
    assert len(seen) == math.ceil(150 / 32)
    for after in seen:
        expected = 0.8 * expected + 0.2 * after
    torch.testing.assert_close(weights(state.averaged.module), expected, rtol=1e-5, atol=1e-7)


def test_averages_include_running_statistics(batches):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10))
    state = trained(batches, epochs=1, model=model)
    averaged, raw = state.averaged.module[1], state.model[1]
    assert not torch.equal(averaged.running_mean, torch.zeros(4))
    assert not torch.equal(averaged.running_mean, raw.running_mean)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_observed_losses_are_of_the_row_and_without_smoothing(batches, smoothing):
    seen = {}

    def observe(positions, losses, logits, labels):
        torch.testing.assert_close(losses, cross_entropy(logits, labels, reduction="none"))
        assert not losses.requires_grad
        assert not logits.requires_grad
        for row, label in zip(positions.tolist(), labels.tolist()):
            seen[row] = label

    trained(batches, epochs=1, observe=observe, label_smoothing=smoothing)
    assert [seen[row] for row in range(150)] == batches.labels.tolist()


def test_label_smoothing_changes_the_training(batches):
    assert not torch.equal(weights(trained(batches).model), weights(trained(batches, label_smoothing=0.3).model))


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "step", "constant"])
def test_schedules_reach_their_end(batches, schedule):
    rates = []
    config = TrainingConfig(epochs=4, batch_size=15, learning_rate=0.4, schedule=schedule)
    accelerator = Accelerator()
    state = prepare_training(linear(), len(batches), config, accelerator)
    for _ in range(4):
        train_epoch(
            state, batches, config, accelerator, each_step=lambda: rates.append(state.scheduler.get_last_lr()[0])
        )
    assert len(rates) == 40
    if schedule == "one-cycle":
        assert max(rates) == pytest.approx(0.4, rel=1e-3)
        assert rates[0] == pytest.approx(0.4 / 25)
        assert rates[-1] < 0.01
    elif schedule == "cosine":
        expected = [0.2 * (1 + math.cos(math.pi * step / 40)) for step in range(40)]
        assert rates == pytest.approx(expected)
    elif schedule == "step":
        assert rates == pytest.approx([0.4] * 20 + [0.04] * 10 + [0.004] * 10)
    else:
        assert rates == [0.4] * 40


def test_evaluation_sees_every_row_once_and_leaves_the_mode(batches):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 8 * 8, 10))
    seen = torch.zeros(150)
    losses = torch.zeros(150)

    def observe(positions, values, logits, labels):
        seen[positions] += 1
        losses[positions] = values

    evaluate(model, batches, Accelerator(), observe, batch_size=64)
    assert (seen == 1).all()
    assert model.training
    ((images, labels, _),) = batches([np.arange(150)])
    with torch.no_grad():
        expected = cross_entropy(model.eval()(images), labels, reduction="none")
    torch.testing.assert_close(losses, expected)


def wrapped(folder):
    model = linear()
    config = TrainingConfig(epochs=1, batch_size=32)
    accelerator = Accelerator()
    state = prepare_training(model, 150, config, accelerator, compiled=True)
    assert accelerator.num_processes == 2 and state.model is not model
    assert plain_model(state, accelerator) is model
    mine = folder / str(accelerator.process_index)
    mine.mkdir()
    save_checkpoint(mine, state, accelerator)
    load_checkpoint(mine, state, accelerator)


def test_a_model_compiled_for_several_processes_is_saved_without_wrappers(tmp_path):
    # Nothing is compiled before the first batch.
    assert finish(start(wrapped, tmp_path, world=2)) == [0, 0]
    assert set(load_file(tmp_path / "0" / "model.safetensors")) == {"1.weight", "1.bias"}


def each_process(folder, data):
    train = load_from_disk(data)
    labels = np.asarray(train["label"][:], dtype=np.int64)
    state = trained(
        image_batches(StoredImages(train, "image", 8), labels, device=torch.device("cpu")),
        model=with_norm_and_dropout(),
    )
    model = plain_model(state, Accelerator())
    torch.save([weights(model), weights(state.averaged.module)], folder / os.environ["RANK"])


def test_processes_hold_the_same_weights_and_averages(small, tmp_path):
    small["train"].save_to_disk(str(tmp_path / "data"))
    assert finish(start(each_process, tmp_path, str(tmp_path / "data"), world=2)) == [0, 0]
    (model, averaged), (other, other_averaged) = (torch.load(tmp_path / rank) for rank in ("0", "1"))
    assert torch.equal(model, other) and torch.equal(averaged, other_averaged)
    assert not torch.equal(model, averaged)


def with_norm_and_dropout():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 10))


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiler)])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_from_a_checkpoint_it_goes_on_bit_by_bit(batches, tmp_path, optimizer, compiled):
    settings = {"optimizer": optimizer, "learning_rate": 0.01}
    config = TrainingConfig(epochs=3, batch_size=40, **settings)
    # Of two sizes: compiled for any size, a step would not be what it is compiled for its own.
    assert {len(part) for step in epoch_shares(len(batches), config, 1) for part, _, _ in step} == {37, 38}

    def prepared(accelerator):
        model = with_norm_and_dropout()
        return prepare_training(model, len(batches), config, accelerator, average_decay=0.8, compiled=compiled)

    accelerator = Accelerator()
    whole = prepared(accelerator)
    for _ in range(3):
        train_epoch(whole, batches, config, accelerator)
    # As in another process, what was compiled is compiled again.
    torch.compiler.reset()
    first = prepared(accelerator)
    train_epoch(first, batches, config, accelerator)
    save_checkpoint(tmp_path, first, accelerator)
    saved = copy.deepcopy(weights(plain_model(first, accelerator)))
    torch.rand(7)
    torch.compiler.reset()
    other = Accelerator()
    second = prepared(other)
    load_checkpoint(tmp_path, second, other)
    assert torch.equal(weights(plain_model(second, other)), saved)
    train_epoch(second, batches, config, other)
    train_epoch(second, batches, config, other)
    assert torch.equal(weights(plain_model(second, other)), weights(plain_model(whole, accelerator)))
    assert torch.equal(weights(second.averaged.module), weights(whole.averaged.module))
    assert second.epoch == 3


@pytest.mark.parametrize("scaled", [False, True])
def test_a_checkpoint_of_before_steps_were_fused_is_gone_on_with(batches, tmp_path, scaled):
    config = TrainingConfig(epochs=2, batch_size=40, optimizer="adamw", learning_rate=0.01)

    def prepared():
        accelerator = Accelerator()
        # What mixed precision in float16 makes on a GPU.
        accelerator.scaler = torch.amp.GradScaler("cpu") if scaled else None
        return prepare_training(linear(), len(batches), config, accelerator), accelerator

    whole, accelerator = prepared()
    train_epoch(whole, batches, config, accelerator)
    for group in whole.optimizer.param_groups:
        group["fused"] = None
    save_checkpoint(tmp_path, whole, accelerator)
    # As it was trained then.
    for group in whole.optimizer.param_groups:
        group["fused"] = scaled or None
    train_epoch(whole, batches, config, accelerator)
    again, accelerator = prepared()
    load_checkpoint(tmp_path, again, accelerator)
    # Without a scale to take, the step stays as it was, to the bit.
    assert [group["fused"] for group in again.optimizer.param_groups] == [scaled or None]
    train_epoch(again, batches, config, accelerator)
    assert torch.equal(weights(again.model), weights(whole.model))


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "step", "constant"])
@pytest.mark.parametrize("rows", [8, 40, 150])
def test_iterations_end_inside_an_epoch_and_the_schedule_with_them(batches, rows, schedule):
    config = TrainingConfig(epochs=1, iterations=13, batch_size=16, learning_rate=0.05, schedule=schedule)
    part, accelerator, rates = batches.take(np.arange(rows)), Accelerator(), []
    state = prepare_training(linear(), rows, config, accelerator)
    epochs = training_epochs(rows, config, 1)
    # 8 rows are one step an epoch, 40 are 3, 150 are 10.
    assert epochs == {8: 13, 40: 5, 150: 2}[rows]
    for _ in range(epochs):
        rates_of = state.optimizer.param_groups[0]
        train_epoch(state, part, config, accelerator, each_step=lambda group=rates_of: rates.append(group["lr"]))
    assert len(rates) == state.scheduler.last_epoch == 13
    # The same rates for any number of rows, those of a schedule of 13 steps.
    alone = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.05)
    schedules = torch.optim.lr_scheduler
    wanted = {
        "one-cycle": lambda: schedules.OneCycleLR(alone, 0.05, total_steps=13, cycle_momentum=False),
        "cosine": lambda: schedules.CosineAnnealingLR(alone, T_max=13),
        "step": lambda: schedules.MultiStepLR(alone, [6, 10], 0.1),
        "constant": lambda: schedules.ConstantLR(alone, factor=1.0),
    }[schedule]()
    expected = []
    for _ in range(13):
        expected.append(alone.param_groups[0]["lr"])
        alone.step()
        wanted.step()
    assert rates == pytest.approx(expected)
    # Called again, it trains no further.
    before = weights(state.model)
    train_epoch(state, part, config, accelerator)
    assert torch.equal(weights(state.model), before)


def test_steps_before_the_end_are_those_of_a_training_by_epochs(batches):
    by_epochs = trained(batches, epochs=2, schedule="constant")
    config = TrainingConfig(epochs=1, iterations=10, batch_size=32, learning_rate=0.05, schedule="constant")
    state = prepare_training(linear(), len(batches), config, Accelerator(), average_decay=0.8)
    for _ in range(training_epochs(len(batches), config, 1)):
        train_epoch(state, batches, config, Accelerator())
    assert len(batches) == 150 and torch.equal(weights(state.model), weights(by_epochs.model))
