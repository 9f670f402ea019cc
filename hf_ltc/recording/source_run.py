"""One run of a source model: trained and recorded, so that an interruption loses one epoch at most."""

import dataclasses
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from filelock import Timeout
from torch import nn

from ..config import RecordConfig
from ..hub import cards
from ..recipe import Recipe
from ..training import loop, models
from ..training.forward import averaging_decay
from ..training.inputs import Batches, create_classifier, save_encoder, saved_settings
from ..trajectories import run_dir
from ..trajectories.compare import stability
from ..trajectories.features import FEATURES
from ..trajectories.summary import load_recording
from ..trajectories.value import Trajectories
from ..utils import files
from ..utils.errors import InputError
from ..utils.processes import failing_together, progress_bar, stoppable, together
from .epochs import LOSS_NAMES, EpochPasses, record_features
from .recorder import TRAIN, may_hold
from .resume import CHECKPOINT, is_finished, resume, write_checkpoint
from .rows import SourceRows, told_when_read

logger = logging.getLogger(__name__)
_SOURCE_MODEL = "source_model"
_LOCK = ".lock"


class SourceRun:
    """One seed, in one run directory."""

    def __init__(
        self, config: RecordConfig, data: SourceRows, accelerator: Accelerator, batches: dict[str, Batches]
    ) -> None:
        self.config, self.inputs, self.data, self.accelerator = config, data, data.recorded, accelerator
        self.path = Path(config.output_dir)
        # Of all seeds, read by the first.
        self.batches = batches
        self.seconds: dict[str, float] = {}
        self.stability = math.nan
        names = {field.name for field in dataclasses.fields(loop.TrainingConfig)}
        self.training = loop.TrainingConfig(**{k: v for k, v in config.to_dict().items() if k in names})
        self.steps = loop.steps_per_epoch(len(self.data.rows), self.training, accelerator.num_processes)
        self.decay = averaging_decay(config.weights, config.average_decay, self.steps)

    def run(self, others: Sequence[Path] = ()) -> Trajectories:
        """Trains and records, or goes on where an interrupted run ended.

        Args:
            others (`Sequence[Path]`): Run directories that may differ in nothing but the seed.
        """
        config, accelerator = self.config, self.accelerator
        recipe = self._recipe()
        for other in others:
            is_finished(other, recipe, "seed")
        if run_dir.seed_folders(self.path):
            raise InputError(f"`output_dir` {str(self.path)!r} holds several runs: give `runs`, or another folder")
        finished = is_finished(self.path, recipe)
        if finished and not self._lacks_features():
            return self._recorded()
        files.check_free(self.path, may_hold)
        if config.compile:
            with together(accelerator):
                loop.check_compile(accelerator.device)
        set_seed(config.seed)
        # Made before anything is written, so that an unknown model leaves no run directory behind.
        if finished:
            model = models.load_model(self.path / _SOURCE_MODEL, averaged=self.decay is not None)
        else:
            model = create_classifier(
                config.model, len(self.data.names), self.inputs.form, stem=config.stem, pretrained=config.pretrained
            )
        # Read before anything is written too, so that a bad image leaves none behind.
        paths = [path / files.RECIPE for path in (self.path, *others)]
        before = [Recipe.read(path) for path in paths if path.exists()]
        with together(accelerator), self._timed("decoding"):
            if not self.batches:
                self.batches.update(self.inputs.batches(config, accelerator, before))
        recipe["training"] |= told_when_read(self.batches, before)
        with self._alone():
            if finished:
                return self._with_features(model.to(accelerator.device))
            return self._run(model, recipe)

    def _run(self, model: nn.Module, recipe: dict[str, Any]) -> Trajectories:
        config, accelerator = self.config, self.accelerator
        if accelerator.is_main_process:
            run_dir.clear_unfinished(self.path)
            run_dir.clear_unfinished(self.path / CHECKPOINT)
        names = [*LOSS_NAMES[config.losses], *config.signals]
        self.recorder = self.data.recorder(self.path, names, accelerator, recipe, config.store)
        state = loop.prepare_training(
            model,
            len(self.data.rows),
            self.training,
            accelerator,
            average_decay=self.decay,
            channels_last=config.channels_last,
            compiled=config.compile,
        )
        self.seconds |= resume(self.path, state, accelerator, config)
        if config.report_to:
            accelerator.init_trackers("hf_ltc", config={k: str(v) for k, v in config.to_dict().items()})
        with failing_together(self.accelerator), stoppable(self.path) as stop:
            passes = EpochPasses(self.recorder, config, accelerator, config.eval_batch_size, lambda rows: stop())
            if config.initial_losses and state.epoch == 0 and 0 not in run_dir.published_epochs(self.path):
                with self._timed("evaluation"):
                    passes.before_training(self._weights(state), self.batches)
                self.recorder.publish(0, self.recorder.collect(0))
            self._train(state, passes, stop)
        trajectories = self._finish(state)
        if self._lacks_features():
            # Made last, so that nothing that was recorded depends on them.
            trajectories = self._with_features(self._weights(state))
        loop.release(state, accelerator)
        return trajectories

    def _lacks_features(self) -> bool:
        return self.config.features and not (self.path / FEATURES).exists()

    def _recorded(self) -> Trajectories:
        # For type checkers what it is without `store` summary.
        return cast(Trajectories, load_recording(self.path))

    def _with_features(self, model: nn.Module) -> Trajectories:
        batch_size, classes = self.config.eval_batch_size, len(self.data.names)
        record_features(self.path, model, self.batches, self.accelerator, batch_size, classes)
        return Trajectories.load(self.path)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds the run directory against a second command that would write into it."""
        lock = None
        with together(self.accelerator):
            if self.accelerator.is_main_process:
                try:
                    lock = files.locked(self.path / _LOCK, timeout=0)
                except Timeout as error:
                    raise InputError(
                        f"`output_dir` {str(self.path)!r} is being recorded into by another process: wait for it, or "
                        "give another folder"
                    ) from error
        try:
            yield
        finally:
            if lock is not None:
                (self.path / _LOCK).unlink(missing_ok=True)
                lock.release()

    def _train(self, state: loop.TrainingState, passes: EpochPasses, stop: Callable[[], None]) -> None:
        config, accelerator = self.config, self.accelerator
        recorded = set(config.recorded_epochs())
        total, done = config.epochs * self.steps, state.epoch * self.steps
        bar = progress_bar(accelerator, f"recording {config.model}", "step", total, initial=done)

        def each_step() -> None:
            stop()
            bar.update()

        if config.stop_when_stable is not None and state.epoch:
            # Of the epochs there are, as a run that was not interrupted found it when it had got here.
            self.stability = self._stability()
        while state.epoch < config.epochs and not self._stopped():
            epoch = state.epoch + 1
            observe = passes.observe_training if epoch in recorded and config.losses != "evaluation" else None
            self.recorder.clear()
            with self._timed("training"):
                loop.train_epoch(state, self.batches[TRAIN], self.training, accelerator, observe, each_step)
            arrays = self._evaluate(state, passes) if epoch in recorded else {}
            with self._timed("writing"):
                self._checkpoint(state, arrays)
            if epoch in recorded:
                means = {name: float(arrays[name].mean()) for name in (*LOSS_NAMES[config.losses], "validation_loss")}
                with self._timed("stability"):
                    self.stability = self._stability()
                if math.isfinite(self.stability):
                    means["stability"] = self.stability
                said = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in means.items())
                bar.set_postfix_str(said)
                if bar.disable and accelerator.is_main_process:
                    # Where no bar is drawn, as in the log of a job, a line an epoch.
                    logger.info("epoch %d of %d: %s", epoch, config.epochs, said)
                if config.report_to:
                    accelerator.log(means, step=epoch)
        bar.close()
        if state.epoch < config.epochs and accelerator.is_main_process:
            logger.info("ended after epoch %d of %d: %s", state.epoch, config.epochs, self._reason)

    def _stability(self) -> float:
        """Spearman of LTC of all epochs so far with LTC of half of them, the same on every process.

        NaN where there are too few epochs, or scores, or running sums, which have no half.
        """
        found = [math.nan]
        if self.config.store != "summary" and self.accelerator.is_main_process:
            run = Trajectories.load(self.path, mmap=True)
            # No score yet, as of a model that has not begun to learn, is no reason to end a recording.
            with suppress(InputError):
                found = [stability(run, preset="ltc")]
        return broadcast_object_list(found)[0]

    def _stopped(self) -> bool:
        threshold = self.config.stop_when_stable
        return threshold is not None and self.stability >= threshold

    @property
    def _reason(self) -> str:
        return (
            f"LTC of all epochs and LTC of half of them correlate by {self.stability:.4f} (`stop_when_stable` "
            f"{self.config.stop_when_stable})"
        )

    def _evaluate(self, state: loop.TrainingState, passes: EpochPasses) -> dict[str, np.ndarray]:
        """The losses of an epoch whose training losses, if asked for, are in the recorder already."""
        model = self._weights(state)
        with self._timed("validation"):
            passes.validate(model, self.batches)
        if self.config.losses != "training":
            with self._timed("evaluation"):
                passes.evaluate(model, self.batches)
        return self.recorder.collect(state.epoch)

    def _weights(self, state: loop.TrainingState) -> nn.Module:
        return loop.plain_model(state, self.accelerator) if state.averaged is None else state.averaged.module

    def _recipe(self) -> dict[str, Any]:
        config = self.config
        return self.data.recipe(self.accelerator) | {
            "config": config.to_dict(),
            "planned_epochs": config.recorded_epochs(),
            "training": {
                "processes": self.accelerator.num_processes,
                "steps_per_epoch": self.steps,
                "average_decay": self.decay,
                **self.inputs.told(),
                **self.data.sizes,
            },
        }

    def _checkpoint(self, state: loop.TrainingState, arrays: Mapping[str, np.ndarray]) -> None:
        with together(self.accelerator):
            if self.accelerator.is_main_process:
                write_checkpoint(self.path, state, self.accelerator, self.recorder, arrays, self.seconds)

    def _finish(self, state: loop.TrainingState) -> Trajectories:
        config = self.config
        model = loop.plain_model(state, self.accelerator)
        recipe: dict[str, Any] = {
            "seconds": {k: round(v, 2) for k, v in self.seconds.items()},
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        if self._stopped() and state.epoch < config.epochs:
            recipe["stopped_at"] = state.epoch
            recipe["stopped_because"] = self._reason
        with together(self.accelerator):
            if self.accelerator.is_main_process:
                self._write_source_model(state, model, recipe)
        if config.report_to:
            self.accelerator.end_training()
        trajectories = self.recorder.finish(**recipe)
        if self.accelerator.is_main_process:
            shutil.rmtree(self.path / CHECKPOINT, ignore_errors=True)
        return trajectories

    def _write_source_model(self, state: loop.TrainingState, model: nn.Module, recipe: dict[str, Any]) -> None:
        config = self.config
        settings = {
            "name": config.model,
            "num_classes": len(self.data.names),
            "classes": self.data.names,
            **saved_settings(self.batches[TRAIN], config.stem),
        }
        averaged = state.averaged and state.averaged.module
        final = self.path / _SOURCE_MODEL
        last = float(np.mean(load_recording(self.path, mmap=True).validation_losses[-1]))
        told = Recipe.from_dict({**files.read_json(self.path / files.RECIPE), **recipe, "validation_loss": last})
        card = cards.source_model_card(str(final), told, settings, averaged=averaged is not None, local=True)
        shutil.rmtree(final, ignore_errors=True)
        with files.replacing(final) as temporary:
            temporary.mkdir()
            models.save_model(temporary, model, settings, averaged)
            save_encoder(temporary, self.inputs.form)
            (temporary / "README.md").write_text(card, encoding="utf-8")

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started
