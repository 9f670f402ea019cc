"""Target models: trained from scratch on a coreset, tested on rows that no one has seen."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset

from . import models
from .batches import ImageBatches, image_batches
from .data import class_names, find_image_column, find_label_column, read_labels
from .images import image_size
from .recording import LossBuffer, signals_of
from .training import TrainingConfig, evaluate, plain_model, prepare_training, release, steps_per_epoch, train_epoch

_EVAL_BATCH = 512


def train_target(
    model: str,
    train: Dataset,
    test: Dataset,
    config: TrainingConfig,
    *,
    iterations: int | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    size: int | None = None,
    names: Sequence[str] | None = None,
    accelerator: Accelerator | None = None,
) -> float:
    """Trains a model from scratch and tests it after the last step.

    Args:
        model (`str`): As for [`create_model`].
        train (`datasets.Dataset`): Rows to train on, e.g. a coreset.
        test (`datasets.Dataset`): Rows to test on.
        config ([`TrainingConfig`]): How it is trained.
        iterations (`int`, *optional*):
            Optimiser steps, rounded to whole epochs, instead of `config.epochs`: the same for every budget.
        image_column (`str`, *optional*): Found by its type if not given.
        label_column (`str`, *optional*): Found by its type if not given.
        size (`int`, *optional*): Side of the images; found from `train` if not given, which may differ from subset to
            subset where images do.
        names (`Sequence[str]`, *optional*): The classes; those of `train` if not given, which a subset may lack.
        accelerator (`accelerate.Accelerator`, *optional*): The processes.

    Returns:
        `float`: the share of test rows whose class is predicted, in [0, 1].
    """
    accelerator = accelerator or Accelerator()
    image_column = find_image_column(train, image_column)
    label_column = find_label_column(train, label_column)
    names = class_names(train, label_column) if names is None else names
    size = image_size(train, image_column, size)
    labels = read_labels(train, label_column, names)
    batches = image_batches(train, image_column, labels, size, device=accelerator.device)
    statistics = (batches.mean.tolist(), batches.std.tolist())
    tested = image_batches(
        test,
        image_column,
        read_labels(test, label_column, names),
        size,
        device=accelerator.device,
        statistics=statistics,
    )
    if iterations is not None:
        steps = steps_per_epoch(len(train), config, accelerator.num_processes)
        config = replace(config, epochs=max(1, round(iterations / steps)))
    set_seed(config.seed)
    state = prepare_training(models.create_model(model, len(names), size), len(train), config, accelerator)
    for _ in range(config.epochs):
        train_epoch(state, batches, config, accelerator)
    found = accuracy(plain_model(state, accelerator), tested, accelerator)
    release(state, accelerator)
    return found


def accuracy(model: torch.nn.Module, batches: ImageBatches, accelerator: Accelerator) -> float:
    """Share of rows whose class has the highest logit.

    Args:
        model (`torch.nn.Module`): A classifier.
        batches ([`ImageBatches`]): The rows.
        accelerator (`accelerate.Accelerator`): The processes.
    """
    buffer = LossBuffer(["correct"], len(batches), accelerator.device)

    def observe(positions: torch.Tensor, _: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        buffer.add(positions, *signals_of(["correct"], logits, labels))

    evaluate(model, batches, accelerator, observe, _EVAL_BATCH)
    return float(buffer.collect(accelerator, 0, np.arange(len(batches)))["correct"].mean())
