"""What is recorded and when: by the training itself, and by passes over the rows, before and after each epoch and
after the last."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ..config import RecordConfig
from ..training.forward import Batches, evaluate, features_of, run_over
from ..training.metrics import per_sample_metrics
from ..training.text.causal import SequenceBatches, token_losses
from ..trajectories.features import write_features
from ..utils import files
from ..utils.processes import Processes, failing_together, progress_bar, stoppable, together
from .recorder import EVALUATION, TRAIN, VALIDATION, TrajectoryRecorder

# Of a row of a language model: how many of its tokens the loss is the mean of.
TOKENS = "tokens"
AnyRows = Batches | SequenceBatches
# What is recorded of a row by the choice of `losses`.
LOSS_NAMES = {
    "training": ["training_loss"],
    "evaluation": ["evaluation_loss"],
    "both": ["training_loss", "evaluation_loss"],
}


def token_metrics(config: RecordConfig) -> list[str]:
    """What is recorded of rows of language models besides losses; running sums have no place for it."""
    return [] if config.store == "summary" else [TOKENS]


@dataclass(frozen=True)
class EpochPasses:
    """The passes over the rows whose losses go into a recorder.

    Training losses are a by-product of training: [`observe_training`] takes them. Validation losses, and evaluation
    losses if asked for, are those of the model after the epoch, usually of its averaged weights. Before training both
    are losses of the untrained model. Further per-sample metrics go with the training losses, or with evaluation
    losses if only these are recorded.

    Args:
        recorder ([`TrajectoryRecorder`]): Where they go, of `LOSS_NAMES[config.losses]` and `config.signals`.
        config ([`RecordConfig`]): What is recorded: `losses` and `signals`.
        state (`accelerate.Accelerator` or `PartialState`): The processes.
        batch_size (`int`): Batch size per process of passes in which the model does not train.
        each_batch (`Callable[[int], Any]`, *optional*):
            Called before those of a batch are taken, with its number of rows; it may raise to stop.
        outputs (`torch.Tensor`, *optional*): As for [`per_sample_metrics`].
    """

    recorder: TrajectoryRecorder
    config: RecordConfig
    state: Processes
    batch_size: int
    each_batch: Callable[[int], Any] | None = None
    outputs: torch.Tensor | None = None

    def observe_training(self, *batch: torch.Tensor) -> None:
        """Takes the losses of a batch that the model trains on; an [`Observer`]."""
        self._add(TRAIN, *batch)

    def observe_tokens(self, positions: torch.Tensor, outputs: Any, labels: torch.Tensor) -> None:
        """Takes those of a batch that a language model trains on: what it returned, and labels `(B, L)`."""
        self._add_tokens(TRAIN, positions, outputs, labels)

    def before_training(self, model: nn.Module, batches: Mapping[str, AnyRows]) -> None:
        """The passes of epoch 0: over the validation samples and, once for both kinds of losses, the rows."""
        self.validate(model, batches)
        self._pass(model, batches[TRAIN], TRAIN, *([EVALUATION] if self.config.losses == "both" else []))

    def validate(self, model: nn.Module, batches: Mapping[str, AnyRows]) -> None:
        """The pass over the validation samples after an epoch."""
        self._pass(model, batches[VALIDATION], VALIDATION)

    def evaluate(self, model: nn.Module, batches: Mapping[str, AnyRows]) -> None:
        """The pass over the rows after an epoch; none where only training losses are recorded."""
        if self.config.losses != "training":
            self._pass(model, batches[TRAIN], EVALUATION if self.config.losses == "both" else TRAIN)

    def _pass(self, model: nn.Module, batches: AnyRows, *splits: str) -> None:
        def observe(*batch: torch.Tensor) -> None:
            if self.each_batch is not None:
                self.each_batch(len(batch[0]))
            for split in splits:
                self._add(split, *batch)

        def observe_tokens(outputs: Any, labels: torch.Tensor, positions: torch.Tensor) -> None:
            if self.each_batch is not None:
                self.each_batch(len(positions))
            for split in splits:
                self._add_tokens(split, positions, outputs, labels)

        if isinstance(batches, SequenceBatches):
            run_over(model, batches, self.state, observe_tokens, self.batch_size)
        else:
            evaluate(model, batches, self.state, observe, self.batch_size)

    def _add(
        self, split: str, positions: torch.Tensor, losses: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
    ) -> None:
        further = []
        if split == TRAIN:
            further = per_sample_metrics(self.config.signals, logits, labels, self.outputs)
        self.recorder.add(split, positions, losses, *further)

    def _add_tokens(self, split: str, positions: torch.Tensor, outputs: Any, labels: torch.Tensor) -> None:
        losses, counts = token_losses(outputs, labels)
        further = [counts.float()] if split == TRAIN and token_metrics(self.config) else []
        self.recorder.add(split, positions, losses, *further)


def record_features(
    folder: Path,
    model: nn.Module,
    batches: Mapping[str, Batches],
    accelerator: Accelerator,
    batch_size: int,
    classes: int,
) -> None:
    """Writes the features of the rows and the validation samples beside a finished recording: both, or nothing.

    Args:
        folder (`Path`): The run directory.
        model (`torch.nn.Module`): The source model, on the device.
        batches (`Mapping[str, Batches]`): The rows and the validation samples.
        accelerator (`accelerate.Accelerator`): The processes, all of which have to come here.
        batch_size (`int`): Batch size per process.
        classes (`int`): Number of logits.

    Raises:
        InputError: for a model without a last linear layer, and for features that float16 cannot hold.
    """
    started = time.perf_counter()
    total = sum(len(each) for each in batches.values())
    bar = progress_bar(accelerator, "features", "row", total, leave=False)
    with failing_together(accelerator), stoppable(folder) as stop:

        def each_batch(rows: int) -> None:
            stop()
            bar.update(rows * accelerator.num_processes)

        found = {
            split: features_of(model, each, accelerator, batch_size, classes, each_batch)
            for split, each in batches.items()
        }
        with together(accelerator):
            if accelerator.is_main_process:
                recipe = files.read_json(folder / files.RECIPE)
                seconds = {**recipe["seconds"], "features": round(time.perf_counter() - started, 2)}
                files.write_json(folder / files.RECIPE, {**recipe, "seconds": seconds})
                write_features(folder, found, recipe["run"])
    bar.close()
