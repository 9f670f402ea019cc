"""Target models: trained from scratch on some rows, tested on others after the last step."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from ..training.forward import evaluate
from ..training.inputs import Batches, create_classifier, form_of
from ..training.loop import TrainingConfig, plain_model, prepare_training, release, train_epoch, training_epochs
from ..training.metrics import LossBuffer, per_sample_metrics
from ..utils.errors import InputError, one_line
from ..utils.processes import apart

_EVAL_BATCH = 512


def own_accelerator(mixed_precision: str, given: Accelerator | None = None) -> Accelerator:
    """The accelerator of one model, of this process alone: the gradient scaler of one must not go on with the next.

    Args:
        mixed_precision (`str`): Its precision.
        given (`accelerate.Accelerator`, *optional*): The one to take instead, if the user has one.

    Raises:
        InputError: for a precision that this machine does not have.
    """
    if given is not None:
        return given
    try:
        with apart():
            return Accelerator(mixed_precision=mixed_precision)
    except ValueError as error:
        raise InputError(f"accelerate refuses `mixed_precision` {mixed_precision}: {one_line(error)}") from error


def train_on(
    model: str,
    train: Batches,
    test: Batches | Sequence[Batches],
    classes: int,
    config: TrainingConfig,
    accelerator: Accelerator,
    *,
    stem: str = "auto",
    pretrained: bool = False,
    each_step: Callable[[], Any] | None = None,
) -> float:
    """Trains a model from scratch and tests it after the last step.

    Args:
        model (`str`): As for [`create_classifier`].
        train ([`Batches`]): Rows to train on.
        test ([`Batches`] or `Sequence[Batches]`): Rows to test on; several parts count as one.
        classes (`int`): Number of classes.
        config ([`TrainingConfig`]): How it is trained.
        accelerator (`accelerate.Accelerator`): The processes.
        stem (`str`, *optional*, defaults to `"auto"`): As for [`create_classifier`].
        pretrained (`bool`, *optional*, defaults to `False`): As for [`create_classifier`].
        each_step (`Callable[[], Any]`, *optional*): As for [`train_epoch`].

    Returns:
        `float`: the share of test rows whose class is predicted after the last step, in [0, 1].

    Raises:
        InputError: if the model diverged.
    """
    set_seed(config.seed)
    network = create_classifier(model, classes, form_of(train.stored), stem=stem, pretrained=pretrained)
    channels_last = train.channels_last
    state = prepare_training(network, len(train), config, accelerator, channels_last=channels_last)
    for _ in range(training_epochs(len(train), config, accelerator.num_processes)):
        train_epoch(state, train, config, accelerator, each_step=each_step)
    tests = test if isinstance(test, Sequence) else [test]
    each = [accuracy(plain_model(state, accelerator), part, accelerator, each_step) for part in tests]
    found = each[0] if len(each) == 1 else float(np.average(each, weights=[len(part) for part in tests]))
    if math.isnan(found):
        raise InputError(
            f"{model} with seed {config.seed} diverged, its losses on test rows are not numbers: lower "
            f"`learning_rate`, which was {config.learning_rate:g}, or leave the model out; what is finished is kept"
        )
    release(state, accelerator)
    return found


def accuracy(
    model: torch.nn.Module,
    batches: Batches,
    accelerator: Accelerator,
    each_step: Callable[[], Any] | None = None,
) -> float:
    """Share of rows whose class has the highest logit.

    Args:
        model (`torch.nn.Module`): A classifier.
        batches ([`Batches`]): The rows.
        accelerator (`accelerate.Accelerator`): The processes.
        each_step (`Callable[[], Any]`, *optional*): Called after every forward pass; it may raise to stop.

    Returns:
        `float`: in [0, 1]; NaN if the loss of any row is.
    """
    buffer = LossBuffer(["correct"], len(batches), accelerator.device)
    diverged = torch.zeros(1, dtype=torch.bool, device=accelerator.device)

    def observe(positions: torch.Tensor, losses: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        buffer.add(positions, *per_sample_metrics(["correct"], logits, labels))
        diverged.logical_or_(losses.isnan().any())
        if each_step is not None:
            each_step()

    evaluate(model, batches, accelerator, observe, _EVAL_BATCH)
    found = buffer.collect(accelerator, 0, np.arange(len(batches)))["correct"]
    return math.nan if accelerator.gather(diverged).any() else float(found.mean())
