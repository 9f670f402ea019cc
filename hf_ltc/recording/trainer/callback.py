"""Trajectories recorded by transformers' Trainer, whose training they do not change."""

import shutil
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...config import RecordConfig, Store
from ...recipe import Recipe
from ...training.forward import TrainedAverage, averaging_decay, share_buffers
from ...training.metrics import check_metrics
from ...trajectories import run_dir
from ...trajectories.summary import load_recording
from ...trajectories.value import Trajectories
from ...utils import files
from ...utils.errors import InputError, LTCWarning, require
from ..epochs import LOSS_NAMES, EpochPasses, token_metrics
from ..input_rows import input_rows, most_held_out, sequence_rows
from ..recorder import TRAIN
from . import continued, passes
from .continued import CHECKPOINT
from .kinds import ClassRows, SequenceRows
from .passes import POSITION, VALIDATION_POSITION

_LEAST_CHECKPOINTS = 3
# What of the settings the recipe has: the others are the Trainer's.
_SETTINGS = ("losses", "weights", "average_decay", "initial_losses", "signals")
# How close the initial losses of a training begun again have to be to those that were recorded.
_SAME_LOSS = 1e-3


class TrajectoryCallback(TrainerCallback):
    """Records every row's loss and the validation samples' losses after each epoch of a `transformers.Trainer`.

    ```python
    callback = TrajectoryCallback("runs/mine", train, validation)
    trainer = Trainer(model, arguments, train_dataset=callback.train_dataset, callbacks=[callback])
    trainer.train()
    scored = callback.trajectories.score(train)
    ```

    For image and text classifiers. The loss of each sample is computed from its float32 logits, whatever the Trainer
    optimizes (label smoothing, class weights), and the callback does not change the training. A column of
    `train_dataset` carries the position of each row. The Trainer's `resume_from_checkpoint` resumes the recording too,
    even within an epoch. An epoch that ends early (`max_steps`) is not recorded.

    With `language_model=True`, for causal language models in a Trainer or TRL's `SFTTrainer`. The loss of a row is the
    mean negative log-likelihood of the tokens that count in training (those whose label is not -100, such as the
    completion), and their number is recorded as the signal `tokens`. `SFTTrainer` tokenizes the rows itself (chats,
    prompts with completions, or texts), so add the callback after creating it:

    ```python
    callback = TrajectoryCallback("runs/sft", train, language_model=True)
    trainer = SFTTrainer(
        model, arguments, train_dataset=callback.train_dataset, eval_dataset=callback.validation_dataset
    )
    callback.add_to(trainer)
    trainer.train()
    scored = callback.trajectories.score(train)
    ```

    Args:
        output_dir (`str` or `Path`): The run directory; not the Trainer's `output_dir`.
        train (`datasets.Dataset`): Rows with the inputs of the model or the data collator, and a class label.
        validation (`datasets.Dataset`, *optional*):
            Validation samples in the same form; held out of `train` if not given.
        losses (`str`, *optional*, defaults to `"training"`):
            `"training"`, as the optimizer sees them, `"evaluation"`, from an extra pass after each epoch, or `"both"`.
        weights (`str`, *optional*, defaults to `"averaged"`):
            Weights that evaluation and validation losses are computed with: `"averaged"` over about one epoch, or
            `"raw"`.
        average_decay (`float`, *optional*):
            Decay of the averaged weights per step; 1 - 1 / (steps per epoch) if not given, or per recorded checkpoint
            with `record_every_steps`.
        initial_losses (`bool`, *optional*, defaults to `True`): Record the losses before training as epoch 0.
        signals (`Sequence[str]`, *optional*):
            Further per-sample metrics of each epoch: `margin`, `correct`, `el2n`, `predicted`.
        label_column (`str`, *optional*):
            Column with the labels, as the model gets them; if not given, `labels`, `label` or the only `ClassLabel`
            column. With `language_model`, any column of classes (such as the source of a row), by which rows are held
            out, scored and balanced; none if not given.
        id_column (`str`, *optional*): Column with a unique id for each row, to attach by.
        validation_fraction (`float`, *optional*, defaults to `0.1`): Share of each class that is held out.
        validation_per_class (`int`, *optional*):
            Hold out at most this many rows of a class; if not given, 50, or 500 of all rows if there are no classes.
        validation_seed (`int`, *optional*, defaults to `0`): Seed of the hold-out.
        allow_shared_rows (`bool`, *optional*, defaults to `False`):
            Accept validation samples with the same image or text as a row of `train`, such as blank tiles. Images are
            compared as encoded files, so a copy in another format is not detected.
        language_model (`bool`, *optional*, defaults to `False`): Record a causal language model.
        record_every_steps (`int`, *optional*):
            Record after this many steps instead of after each epoch, as S2L does (arXiv 2403.07384). Needs
            `losses="evaluation"`, since not every row has a training loss between two checkpoints. The checkpoints are
            numbered 1, 2, ...
        store (`str`, *optional*, defaults to `"trajectories"`): As for [`TrajectoryRecorder`].

    Attributes:
        train_dataset (`datasets.Dataset`): The dataset to train on: the rows that are not held out.
        validation_dataset (`datasets.Dataset`): The validation samples, for the `eval_dataset` of an `SFTTrainer`.
        trajectories ([`Trajectories`], *optional*): The recording, once the training has ended.

    Raises:
        InputError: for data that cannot be recorded; during training, for a Trainer that leaves out rows, a model that
            returns no logits, losses that are not finite, or a folder with another recording.
    """

    def __init__(
        self,
        output_dir: str | Path,
        train: Dataset,
        validation: Dataset | None = None,
        *,
        losses: Literal["training", "evaluation", "both"] = "training",
        weights: Literal["averaged", "raw"] = "averaged",
        average_decay: float | None = None,
        initial_losses: bool = True,
        signals: Sequence[str] = (),
        label_column: str | None = None,
        id_column: str | None = None,
        validation_fraction: float = 0.1,
        validation_per_class: int | None = None,
        validation_seed: int = 0,
        allow_shared_rows: bool = False,
        language_model: bool = False,
        record_every_steps: int | None = None,
        store: Store = "trajectories",
    ) -> None:
        check_metrics(signals)
        if language_model and signals:
            raise InputError(f"`signals` {list(signals)} are of classes: leave them out with `language_model`")
        if record_every_steps is not None:
            require(record_every_steps >= 1, "record_every_steps", record_every_steps, "1 or more")
            if losses != "evaluation":
                raise InputError(
                    f"`record_every_steps` {record_every_steps} goes with losses='evaluation': rows have one "
                    "training loss an epoch, and none in between"
                )
        self.path = files.local(output_dir, "output_dir")
        self.trajectories: Trajectories | None = None
        self._config = RecordConfig(
            losses=losses,
            weights=weights,
            average_decay=average_decay,
            initial_losses=initial_losses,
            signals=list(signals),
            label_column=label_column,
            id_column=id_column,
            validation_fraction=validation_fraction,
            validation_per_class=most_held_out(validation_per_class, not language_model or label_column is not None),
            validation_seed=validation_seed,
            allow_shared_rows=allow_shared_rows,
            store=store,
        )
        if language_model:
            metrics = token_metrics(self._config)
            self._data: ClassRows | SequenceRows = SequenceRows(
                sequence_rows(self._config, train, validation), metrics
            )
        else:
            self._data = ClassRows(input_rows(self._config, train, validation), self._config.signals)
        self._every = record_every_steps
        self.train_dataset = passes.with_positions(self._data.recorded.train)
        self.validation_dataset = passes.with_positions(self._data.recorded.validation, VALIDATION_POSITION)
        self._hook: Any = None
        self._observed = self._finished = False
        self._rest: continued.RestOfEpoch | None = None
        # The batch size of a training that has begun and not ended.
        self._began: int | None = None

    def add_to(self, trainer: Trainer) -> None:
        """Adds the callback to TRL's `SFTTrainer`, or to another Trainer that tokenizes the rows itself. Create the
        Trainer with `train_dataset=callback.train_dataset` and `eval_dataset=callback.validation_dataset`.

        Raises:
            InputError: if the Trainer packs rows, or does not have the validation samples.
        """
        if not isinstance(self._data, SequenceRows):
            raise InputError(
                "add_to goes with `language_model`: give callbacks=[callback] to a Trainer of classifiers"
            )
        self._data = self._data.prepared_by(trainer)
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        passes.accept_positions(kwargs["model"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        config, model, loader = self._config, kwargs["model"], kwargs["train_dataloader"]
        inner = passes.plain_loader(loader)
        self._data.check(args, model)
        is_language_model = isinstance(self._data, SequenceRows)
        passes.check_rows(args, model, inner.dataset, len(self._data.recorded.train), is_language_model)
        # Of a callback that was added after the Trainer was made, or of a model that was.
        passes.accept_positions(model)
        self._state, step = PartialState(), state.global_step
        told = passes.steps_of(args, loader, self._state.num_processes) | {"record_every_steps": self._every}
        self._steps, self._order = told["steps_per_epoch"], passes.order_of(args, loader, inner.dataset)
        self._interval = self._every or self._steps
        planned = state.max_steps // self._interval + config.initial_losses
        if planned < _LEAST_CHECKPOINTS:
            how = "an epoch" if self._every is None else "a checkpoint"
            fix = "raise num_train_epochs" if self._every is None else "lower `record_every_steps`"
            raise InputError(
                f"this training records {planned} checkpoints (max_steps {state.max_steps}, {self._interval} steps "
                f"{how}): a correlation needs {_LEAST_CHECKPOINTS} or more, so {fix}"
            )
        began, self._began = self._began, told["per_device_train_batch_size"]
        if args.auto_find_batch_size and not step and began is not None and began > self._began:
            continued.begin_anew(self.path, began, self._began, self._state)
        place = self.path / files.RECIPE
        stored = Recipe.read(place) if place.exists() else Recipe()
        self._finished = stored.epochs is not None and step >= state.max_steps
        resumed = continued.read_checkpoint(self.path, step) if step and not self._finished else {}
        decay = averaging_decay(config.weights, config.average_decay, self._interval)
        self._training = {
            **self._data.recorded.sizes,
            **told,
            "average_decay": decay,
            "id": stored.training.id if step else uuid.uuid4().hex[:16],
        }
        if self._state.is_main_process:
            run_dir.clear_unfinished(self.path)
        settings = {name: getattr(config, name) for name in _SETTINGS}
        recipe = self._data.recorded.recipe(self._state) | {
            "config": {"model": type(model).__name__, "seed": args.seed, **settings},
            "training": self._training,
        }
        names = [*LOSS_NAMES[config.losses], *self._data.metrics]
        self._recorder = self._data.recorded.recorder(self.path, names, self._state, recipe, self._config.store)
        if self._finished:
            return
        self._published = set(run_dir.published_epochs(self.path))
        if not step and (stored.epochs is not None or max(self._published, default=0) > 0):
            raise InputError(
                f"{str(self.path)!r} holds a recording up to epoch {max(self._published, default=0)}, and this "
                "training starts from the beginning: resume it with trainer.train(resume_from_checkpoint=True), load "
                "what is there with Trajectories.load, or give another output_dir"
            )
        if step:
            continued.check_resumed(self.path, state, stored.training.to_dict(), told)
            if step % self._steps:
                continued.check_inside(self.path, step, self._steps, resumed.get("order", {}), self._order, args)
        continued.tell(self.path, self._training, state, self._state)
        outputs = self._data.outputs(self._state.device)
        self._passes = EpochPasses(
            self._recorder, config, self._state, args.per_device_eval_batch_size, outputs=outputs
        )
        self._batches = self._data.batches(inner, args, self._state.device, model)
        inner.collate_fn = passes.Positioned(inner.collate_fn)
        self._averaged = None if decay is None else TrainedAverage(model, decay)
        self._recorder.clear()
        self._rest = None
        if step:
            self._resume(args, state, model, resumed)
        elif config.initial_losses:
            self._record_initial(args, model)
        if config.losses != "evaluation":
            if self._hook is not None:
                self._hook.remove()
            self._hook = model.register_forward_hook(self._observer(model), with_kwargs=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._hook is not None and not self._observed:
            raise InputError(
                f"the model was trained without {self._data.needed}: let compute_loss pass on all of the batch"
            )
        if self._finished:
            return
        if self._averaged is not None:
            self._averaged.update_parameters(kwargs["model"])
        if self._every is not None and state.global_step % self._every == 0:
            self._publish(args, state.global_step // self._every, kwargs["model"])

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._finished or self._every is not None:
            return
        # Steps over steps of an epoch: whole only when no step of it was left out.
        if state.epoch is not None and float(state.epoch).is_integer():
            self._publish(args, int(state.epoch), kwargs["model"])
        else:
            if self._state.is_main_process:
                told = f"the epoch was broken off at {state.epoch:.2f}: its losses are not recorded"
                warnings.warn(told, LTCWarning, stacklevel=2)
            self._recorder.clear()
        self._rest = None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._finished:
            return
        values = {
            "recorder": self._recorder.state_dict(),
            "averaged": None if self._averaged is None else self._averaged.state_dict(),
            "order": self._order,
        }
        if self._state.is_main_process:
            continued.write_checkpoint(self.path, state.global_step, values, Path(args.output_dir or ""))
        self._state.wait_for_everyone()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        self._began = None
        if self._finished:
            self.trajectories = cast(Trajectories, load_recording(self.path))
            return
        self.trajectories = self._recorder.finish(training=self._training)
        if self._state.is_main_process and state.global_step >= state.max_steps:
            # A training that was stopped before its last step can go on from here.
            shutil.rmtree(self.path / CHECKPOINT, ignore_errors=True)
        self._state.wait_for_everyone()

    def _observer(self, model: nn.Module) -> Callable[..., None]:
        # A function and no method: whoever copies the model deeply would copy this object with a method.
        @torch.no_grad()
        def observe(module: nn.Module, args: Any, kwargs: Mapping[str, Any], outputs: Any) -> None:
            if module is not model or not module.training or not self._data.is_told(kwargs):
                return
            self._observed = True
            if self._rest is not None:
                self._rest.check(kwargs[POSITION])
            self._data.observe(self._passes, self._batches, kwargs, outputs)

        return observe

    def _publish(self, args: TrainingArguments, epoch: int, model: nn.Module) -> None:
        # An older checkpoint of the Trainer leads through epochs again that are there already.
        if epoch not in self._published:
            lent = nullcontext() if self._averaged is None else self._averaged.lent(model)
            with lent, passes.memory_told(args):
                # Running statistics are each process's own until the first one's are sent round before a forward pass.
                share_buffers(model)
                self._passes.validate(model, self._batches)
                self._passes.evaluate(model, self._batches)
            self._write(epoch, self._recorder.collect(epoch))
        self._recorder.clear()

    def _write(self, epoch: int, arrays: Mapping[str, np.ndarray]) -> None:
        self._recorder.publish(epoch, arrays)
        self._published.add(epoch)

    def _record_initial(self, args: TrainingArguments, model: nn.Module) -> None:
        with passes.memory_told(args):
            self._passes.before_training(model, self._batches)
        arrays = self._recorder.collect(0)
        if 0 in self._published:
            # Begun and killed before: if it is another model now, its losses do not go together with these.
            before = files.read_arrays(run_dir.epoch_path(self.path, 0), ["validation_loss"])["validation_loss"]
            if not np.allclose(before, arrays["validation_loss"], rtol=_SAME_LOSS, atol=_SAME_LOSS):
                raise InputError(
                    f"{str(self.path)!r} holds the initial losses of a model with other weights: give another "
                    "output_dir, or delete it"
                )
        else:
            self._write(0, arrays)

    def _resume(
        self, args: TrainingArguments, state: TrainerState, model: nn.Module, values: Mapping[str, Any]
    ) -> None:
        self._recorder.load_state_dict(values["recorder"])
        if self._averaged is not None:
            self._averaged.load_state_dict(values["averaged"])
        epoch, inside = divmod(state.global_step, self._interval)
        if inside and self._every is None:
            seen = (values["recorder"][TRAIN][-1] > 0).to(self._state.device)
            self._rest = continued.RestOfEpoch(self.path, state.global_step, self._training, seen)
        elif not inside:
            # Saved at the last step of an epoch, and killed before the epoch was written.
            self._publish(args, epoch, model)
