"""The accelerate training loop, of source and target models alike."""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy

from ..utils.errors import InputError, one_line
from .forward import AveragedWeights, Observer, TrainBatches, model_outputs, share_buffers
from .models import own_weights

# A batch norm needs two values a channel, which one row of 1x1 features would not give it.
_LEAST_ROWS = 2
_MOMENTUM = 0.9
# Devices on which torch's fused AdamW is used; SGD, of few passes, would gain 3 to 10%.
_FUSED = ("cpu", "cuda")
# Steps among which rows change places so that each has rows of like length, as in transformers' Trainer.
_WINDOW = 50
# The papers' schedule: a tenth of the rate from half of the epochs on, a hundredth from three quarters on.
_STEP_MILESTONES = (0.5, 0.75)
_STEP_FACTOR = 0.1
_MODEL, _REST = "model.safetensors", "training.pt"


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained; the fields mean what those of [`RecordConfig`] mean.

    `iterations` are optimizer steps: where they are given, the schedule is of that many and the last epoch ends with
    the last of them, so that any two sets of rows are trained on for equally many steps.
    """

    epochs: int
    batch_size: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    schedule: Literal["one-cycle", "cosine", "step", "constant"] = "one-cycle"
    label_smoothing: float = 0.0
    gradient_accumulation_steps: int = 1
    augment: bool = True
    seed: int = 0
    iterations: int | None = None


@dataclass(eq=False)
class TrainingState:
    """A model in training: what a checkpoint holds."""

    model: nn.Module
    optimizer: Any
    scheduler: Any
    averaged: AveragedWeights | None = None
    epoch: int = 0


def steps_per_epoch(rows: int, config: TrainingConfig, processes: int) -> int:
    """Optimizer steps that see every row once: none is dropped, and the steps' sizes differ by one row at most."""
    return math.ceil(rows / (config.batch_size * config.gradient_accumulation_steps * processes))


def training_epochs(rows: int, config: TrainingConfig, processes: int) -> int:
    """Epochs that are begun: `config.epochs`, or as many as `config.iterations` take."""
    if config.iterations is None:
        return config.epochs
    return math.ceil(config.iterations / steps_per_epoch(rows, config, processes))


def prepare_training(
    model: nn.Module,
    rows: int,
    config: TrainingConfig,
    accelerator: Accelerator,
    *,
    average_decay: float | None = None,
    channels_last: bool = False,
    compiled: bool = False,
) -> TrainingState:
    """Makes optimizer and schedule, wraps the model for the accelerator's processes, and starts the averaged weights.

    Args:
        model (`torch.nn.Module`): The model, the same on every process.
        rows (`int`): Rows of an epoch.
        config ([`TrainingConfig`]): How it is trained.
        accelerator (`accelerate.Accelerator`): The processes and their devices.
        average_decay (`float`, *optional*): Decay of the averaged weights per step; none are kept if not given.
        channels_last (`bool`, *optional*, defaults to `False`): Memory format of the weights.
        compiled (`bool`, *optional*, defaults to `False`): Train with `torch.compile`.

    Returns:
        [`TrainingState`]
    """
    if accelerator.gradient_accumulation_steps != 1:
        raise InputError(
            f"the accelerator accumulates gradients over {accelerator.gradient_accumulation_steps} steps by itself: "
            "leave that to `gradient_accumulation_steps` (ACCELERATE_GRADIENT_ACCUMULATION_STEPS unset)"
        )
    steps = steps_per_epoch(rows, config, accelerator.num_processes)
    model = model.to(accelerator.device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    averaged = None if average_decay is None else AveragedWeights(model, average_decay)
    # All of them decay, as in the papers' code.
    parameters = [p for p in model.parameters() if p.requires_grad]
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, momentum=_MOMENTUM, nesterov=True, **options)
    else:
        # One pass over the weights instead of many: most of the time of a step of `embedding_bag`.
        optimizer = torch.optim.AdamW(parameters, fused=accelerator.device.type in _FUSED, **options)
    scheduler = _schedule(optimizer, config, steps)
    if compiled:
        # For each size of a batch anew, of which an epoch has few: code for any size would be made once two were seen,
        # at another step of a run that was interrupted, and its losses differ in their last digits.
        model = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    model, optimizer = accelerator.prepare(model, optimizer)
    return TrainingState(model, optimizer, scheduler, averaged)


def check_compile(device: torch.device) -> None:
    """Checks that `torch.compile` works on this machine, on a function that is compiled in seconds.

    Args:
        device (`torch.device`): Where the model runs.

    Raises:
        InputError: if it does not, as without a C++ compiler.
    """
    try:
        torch.compile(lambda values: values + 1)(torch.zeros(2, device=device))
    except Exception as error:
        # Without what torch adds for its own developers.
        reason = one_line(error).partition(" Set TORCHDYNAMO_VERBOSE")[0]
        raise InputError(
            f"`compile`: torch.compile does not work here ({reason}): install a C++ compiler such as g++, or "
            "record without `compile`"
        ) from error


def _schedule(optimizer: torch.optim.Optimizer, config: TrainingConfig, steps: int) -> Any:
    total = config.epochs * steps if config.iterations is None else config.iterations
    schedulers = torch.optim.lr_scheduler
    if config.schedule == "one-cycle" and config.learning_rate > 0:
        return schedulers.OneCycleLR(optimizer, config.learning_rate, total_steps=total, cycle_momentum=False)
    if config.schedule == "cosine":
        return schedulers.CosineAnnealingLR(optimizer, T_max=total)
    if config.schedule == "step":
        return schedulers.MultiStepLR(optimizer, [round(at * total) for at in _STEP_MILESTONES], _STEP_FACTOR)
    return schedulers.ConstantLR(optimizer, factor=1.0)


def epoch_shares(
    rows: int,
    config: TrainingConfig,
    epoch: int,
    process: int = 0,
    processes: int = 1,
    lengths: np.ndarray | None = None,
) -> Iterator[list[tuple[np.ndarray, int, int]]]:
    """The positions that one process trains on, step by step.

    The order of an epoch depends on the seed and the epoch alone. A share too small to run gets rows of the step's
    other shares as padding, which count neither for the gradient nor for the recording.

    Args:
        rows (`int`): Rows of the dataset.
        config ([`TrainingConfig`]): Batch size, accumulation and seed.
        epoch (`int`): The epoch.
        process (`int`, *optional*, defaults to `0`): This process.
        processes (`int`, *optional*, defaults to `1`): Their number.
        lengths (`np.ndarray`, *optional*): int64 `(N,)`, how long each row's input is: the rows of a step are of like
            length then, by changes of places within every 50 steps.

    Yields:
        `list[tuple[np.ndarray, int, int]]`: for one step the forward passes: positions, int64; how many of them count;
        rows of the whole step on all processes.
    """
    draw = np.random.default_rng([config.seed, epoch, 1])
    order = draw.permutation(rows).astype(np.int64)
    steps = np.array_split(order, steps_per_epoch(rows, config, processes))
    for step in steps if lengths is None else _of_like_length(steps, lengths, draw):
        share = np.array_split(step, processes)[process]
        # An empty forward pass still has to take part in the processes' collectives, hence one part at least.
        parts = np.array_split(share, max(1, min(config.gradient_accumulation_steps, len(share) // _LEAST_ROWS)))
        passes = max(1, config.gradient_accumulation_steps) if processes > 1 else len(parts)
        parts += [np.empty(0, dtype=np.int64)] * (passes - len(parts))
        yield [(_padded(part, step), len(part), len(step)) for part in parts]


def _of_like_length(steps: list[np.ndarray], lengths: np.ndarray, draw: np.random.Generator) -> Iterator[np.ndarray]:
    for first in range(0, len(steps), _WINDOW):
        window = steps[first : first + _WINDOW]
        rows = np.concatenate(window)
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        alike = np.split(rows, np.cumsum([len(step) for step in window])[:-1])
        # Or steps would come from short to long.
        yield from (alike[number] for number in draw.permutation(len(alike)))


def _padded(part: np.ndarray, step: np.ndarray) -> np.ndarray:
    return part if len(part) >= _LEAST_ROWS else np.concatenate([part, np.resize(step, _LEAST_ROWS - len(part))])


def train_epoch(
    state: TrainingState,
    batches: TrainBatches,
    config: TrainingConfig,
    accelerator: Accelerator,
    observe: Observer | None = None,
    each_step: Callable[[], Any] | None = None,
) -> None:
    """Trains one epoch; nothing in it waits for the device.

    Args:
        state ([`TrainingState`]): The model; its `epoch` is raised by one.
        batches ([`TrainBatches`]): The train rows.
        config ([`TrainingConfig`]): How it is trained.
        accelerator (`accelerate.Accelerator`): The processes and their devices.
        observe (`Callable`, *optional*):
            Called with positions `(B,)`, float32 cross-entropy losses `(B,)` without label smoothing, float32 logits
            `(B, C)` and labels `(B,)` of every forward pass, all detached and on the device.
        each_step (`Callable[[], Any]`, *optional*): Called before every step; it may raise to stop.
    """
    epoch = state.epoch + 1
    # Dropout and the like draw from the global generator: seeded here, an epoch can be run again from its start.
    set_seed(int(np.random.SeedSequence([config.seed, epoch, accelerator.process_index]).generate_state(1)[0]))
    mine = (accelerator.process_index, accelerator.num_processes)
    shares = epoch_shares(len(batches), config, epoch, *mine, lengths=batches.lengths)
    left = None
    if config.iterations is not None:
        # The epochs before saw all rows.
        before = state.epoch * steps_per_epoch(len(batches), config, accelerator.num_processes)
        left = max(0, config.iterations - before)
    steps = list(itertools.islice(shares, left))
    state.model.train()
    inputs_of = batches(
        (positions for step in steps for positions, _, _ in step),
        augmented=(config.seed, epoch) if config.augment else None,
    )
    for step in steps:
        if each_step is not None:
            each_step()
        for number, (_, count, total) in enumerate(step):
            inputs, labels, positions = next(inputs_of)
            last = number == len(step) - 1
            with accelerator.no_sync(state.model) if not last else nullcontext():
                with accelerator.autocast():
                    logits = model_outputs(state.model, inputs)
                logits = logits.float()
                objective = cross_entropy(logits, labels, reduction="none", label_smoothing=config.label_smoothing)
                # The processes' gradients are averaged: weighted so, their mean is that of all rows of the step.
                scale = accelerator.num_processes / total
                accelerator.backward(objective[:count].sum() * scale)
            if observe is not None and count:
                logits = logits.detach()
                losses = cross_entropy(logits, labels, reduction="none")
                observe(positions[:count], losses[:count], logits[:count], labels[:count])
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.scheduler.step()
        if state.averaged is not None:
            state.averaged.update_parameters(plain_model(state, accelerator))
    state.epoch = epoch
    share_buffers(plain_model(state, accelerator))
    if state.averaged is not None:
        share_buffers(state.averaged.module)


def plain_model(state: TrainingState, accelerator: Accelerator) -> nn.Module:
    """The model without the wrappers of several processes and of `torch.compile`."""
    model = accelerator.unwrap_model(state.model, keep_torch_compile=False)
    # Inside the wrapper of several processes accelerate leaves that of torch.compile.
    return getattr(model, "_orig_mod", model)


def save_checkpoint(folder: Path, state: TrainingState, accelerator: Accelerator) -> None:
    """Writes what [`load_checkpoint`] needs; called on the main process.

    Not by `accelerator.save_state`, which writes whatever the accelerator was ever given, other seeds' models too.
    Random states are left out: every epoch begins by seeding them.
    """
    model = plain_model(state, accelerator)
    save_file(own_weights(model), folder / _MODEL)
    rest = {
        "epoch": state.epoch,
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler.state_dict(),
        "averaged": None if state.averaged is None else state.averaged.state_dict(),
        "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
    }
    # By a file of Python's, whose errors say why, which those of torch's own do not.
    with (folder / _REST).open("wb") as file:
        torch.save(rest, file)


def load_checkpoint(folder: Path, state: TrainingState, accelerator: Accelerator) -> None:
    """Restores a state to what it was when [`save_checkpoint`] was called; called on every process."""
    rest = torch.load(folder / _REST, map_location="cpu", weights_only=True)
    plain_model(state, accelerator).load_state_dict(load_file(folder / _MODEL))
    if accelerator.scaler is not None:
        # An optimizer that was made fused is handed the scale of the gradients, which a step that is not, as in
        # checkpoints of before there were fused ones, refuses. Before the load, which places steps accordingly.
        for old, new in zip(rest["optimizer"]["param_groups"], state.optimizer.param_groups, strict=True):
            old["fused"] = new.get("fused")
    state.optimizer.load_state_dict(rest["optimizer"])
    state.scheduler.load_state_dict(rest["scheduler"])
    if state.averaged is not None:
        state.averaged.load_state_dict(rest["averaged"])
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(rest["scaler"])
    state.epoch = rest["epoch"]


def release(state: TrainingState, accelerator: Accelerator) -> None:
    """Lets go of a trained model, which the accelerator would otherwise keep as long as it lives."""
    accelerator._models = [model for model in accelerator._models if model is not state.model]
    accelerator._optimizers = [each for each in accelerator._optimizers if each is not state.optimizer]
