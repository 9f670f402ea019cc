"""Trains the source model on a dataset and records it, so that an interruption loses one epoch at most."""

import dataclasses
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, broadcast_object_list, set_seed
from datasets import Dataset
from filelock import Timeout
from torch import nn
from tqdm.auto import tqdm

from . import cards, models, rundir, training
from .agreement import reliability, stability
from .batches import ImageBatches, image_batches
from .config import RecordConfig, require_config
from .doubts import say_unknown
from .errors import InputError, one_line
from .forward import averaging_decay, evaluate
from .grey import Images, find_grey_range, recorded_grey_range
from .imagefiles import GreyRange
from .metrics import per_sample_metrics
from .processes import failing_together, stoppable, together
from .provenance import hardware, versions
from .recorded import RecordedDataset, recorded_dataset
from .recording import EVALUATION, TRAIN, VALIDATION, TrajectoryRecorder, may_hold
from .resuming import CHECKPOINT, is_finished, resume, write_checkpoint
from .runfiles import write_rows
from .torchstate import usual_torch
from .trajectories import Trajectories
from .workers import workers_watched

logger = logging.getLogger(__name__)

_SOURCE_MODEL = "source_model"
_LOCK = ".lock"


@workers_watched()
@usual_torch()
def record(
    config: RecordConfig,
    train: Dataset,
    validation: Dataset | None = None,
    *,
    source: Mapping[str, Any] | None = None,
    accelerator: Accelerator | None = None,
) -> Trajectories:
    """Trains a source model and records every row's loss and the validation samples' losses after each epoch.

    The first step of "Finding the Muses" (arXiv 2503.09721). The run directory is `config.output_dir`; the same call
    resumes an interrupted run at the epoch boundary, and returns at once if it is finished.

    Args:
        config ([`RecordConfig`]): The settings.
        train (`datasets.Dataset`): Rows with an image and a class label.
        validation (`datasets.Dataset`, *optional*): Validation samples; held out of `train` if not given.
        source (`Mapping[str, Any]`, *optional*):
            Where the dataset comes from (`repo_id`, `config`, `split`, `revision`), for the recipe.
        accelerator (`accelerate.Accelerator`, *optional*): The processes; made from `config` if not given.

    Returns:
        [`Trajectories`]: losses float32 `(L, N)` in nats and validation losses `(L, Q)`; on every process.

    Raises:
        InputError: for data, settings or a run directory that the user can mend.
    """
    require_config(config, RecordConfig)
    data = recorded_dataset(config, train, validation, source)
    if config.runs == 1:
        recorded = _SourceRun(config, data, accelerator or _accelerator(config)).run()
        if PartialState().is_main_process:
            say_unknown()
        return recorded
    folder = Path(config.output_dir)
    if (folder / rundir.TRAJECTORIES).exists():
        raise InputError(f"`output_dir` {str(folder)!r} holds a single run: give another one for `runs` {config.runs}")
    rundir.check_free(folder, lambda path: bool(rundir.seed_folders(path)))
    cached: _Images = {}
    seeds = [
        dataclasses.replace(config, seed=seed, runs=1, output_dir=str(folder / f"seed-{seed}"))
        for seed in range(config.seed, config.seed + config.runs)
    ]
    for one in seeds:
        # A gradient scaler of one seed is none of the next one's, hence an accelerator each.
        run = _SourceRun(one, data, accelerator or _accelerator(one), cached)
        for other in rundir.seed_folders(folder):
            run.check_same(other)
        run.run()
    state = PartialState()
    with together(state):
        if state.is_main_process:
            _write_together(config, folder)
    return Trajectories.load(folder)


def _write_together(config: RecordConfig, folder: Path) -> None:
    """Writes what the finished seeds of a folder are together."""
    finished = [path for path in rundir.seed_folders(folder) if "epochs" in rundir.read_json(path / rundir.RECIPE)]
    runs = [Trajectories.load(path) for path in finished]
    average = Trajectories.average(runs)
    write_rows(folder, average)
    recipe = {key: value for key, value in average.recipe.items() if key != "runs"}
    recipe |= {"config": config.to_dict(), "seeds": [run.recipe["config"]["seed"] for run in runs]}
    recipe["seconds"] = _sum([run.recipe["seconds"] for run in runs])
    recipe["reliability"] = reliability(average).to_dict()
    rundir.write_json(folder / rundir.RECIPE, recipe)


_Images = dict[str, ImageBatches]


class _SourceRun:
    """One seed, in one run directory."""

    def __init__(
        self, config: RecordConfig, data: RecordedDataset, accelerator: Accelerator, cached: _Images | None = None
    ) -> None:
        self.config, self.data, self.accelerator = config, data, accelerator
        self.path = Path(config.output_dir)
        self.batches: _Images = cached if cached is not None else {}
        self.seconds: dict[str, float] = {}
        self.others: list[Path] = []
        self.stability = math.nan
        self.kinds = {"training": ["training_loss"], "evaluation": ["evaluation_loss"]}.get(
            config.losses, ["training_loss", "evaluation_loss"]
        )

    def run(self) -> Trajectories:
        config, accelerator = self.config, self.accelerator
        recipe = self._recipe()
        if rundir.seed_folders(self.path):
            raise InputError(f"`output_dir` {str(self.path)!r} holds several runs: give `runs`, or another folder")
        if is_finished(self.path, recipe):
            return Trajectories.load(self.path)
        rundir.check_free(self.path, may_hold)
        if config.compile:
            with together(accelerator):
                training.check_compile(accelerator.device)
        set_seed(config.seed)
        # Made before anything is written, so that an unknown model leaves no run directory behind.
        model = models.create_model(
            config.model,
            len(self.data.names),
            self.data.size,
            stem=config.stem,
            pretrained=config.pretrained,
        )
        # Decoded before anything is written too, so that a bad image leaves none behind.
        with together(accelerator), self._timed("decoding"):
            self._read_images()
        recorded = recorded_grey_range(self._recorded_with)
        recipe["training"] |= {"grey_range": self.batches[TRAIN].grey_range} if recorded is None else recorded
        with self._alone():
            return self._run(model, recipe)

    def _run(self, model: nn.Module, recipe: dict[str, Any]) -> Trajectories:
        config, accelerator = self.config, self.accelerator
        if accelerator.is_main_process:
            rundir.clear_unfinished(self.path)
            rundir.clear_unfinished(self.path / CHECKPOINT)
        self.recorder = TrajectoryRecorder(
            self.path,
            rows=self.data.rows,
            labels=self.data.labels,
            validation_rows=self.data.validation_rows,
            validation_labels=self.data.validation_labels,
            losses=[*self.kinds, *config.signals],
            recipe=recipe,
            accelerator=accelerator,
            ids=self.data.ids,
        )
        state = training.prepare_training(
            model,
            len(self.data.rows),
            self._training,
            accelerator,
            average_decay=self._decay,
            channels_last=config.channels_last,
            compiled=config.compile,
        )
        self.seconds |= resume(self.path, state, accelerator, config)
        if config.report_to:
            accelerator.init_trackers("hf_ltc", config={k: str(v) for k, v in config.to_dict().items()})
        with failing_together(self.accelerator), stoppable(self.path) as stop:
            if config.initial_losses and state.epoch == 0 and 0 not in rundir.published_epochs(self.path):
                self._record_initial(state, stop)
            self._train(state, stop)
        trajectories = self._finish(state)
        training.release(state, accelerator)
        return trajectories

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Holds the run directory against a second command that would write into it."""
        lock = None
        with together(self.accelerator):
            if self.accelerator.is_main_process:
                try:
                    lock = rundir.locked(self.path / _LOCK, timeout=0)
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

    def _train(self, state: training.TrainingState, stop: Callable[[], None]) -> None:
        config, accelerator = self.config, self.accelerator
        recorded = set(config.recorded_epochs())
        steps = self._steps
        bar = tqdm(
            total=config.epochs * steps,
            initial=state.epoch * steps,
            desc=f"recording {config.model}",
            unit="step",
            disable=None if accelerator.is_main_process else True,
        )

        def each_step() -> None:
            stop()
            bar.update()

        if config.stop_when_stable is not None and state.epoch:
            # Of the epochs there are, as a run that was not interrupted found it when it had got here.
            self.stability = self._stability()
        while state.epoch < config.epochs and not self._stopped():
            epoch = state.epoch + 1
            observe = self._observer if epoch in recorded and "training_loss" in self.kinds else None
            self.recorder.clear()
            with self._timed("training"):
                training.train_epoch(state, self.batches[TRAIN], self._training, accelerator, observe, each_step)
            arrays = self._evaluate_epoch(state, stop) if epoch in recorded else {}
            with self._timed("writing"):
                self._checkpoint(state, arrays)
            if epoch in recorded:
                means = {name: float(arrays[name].mean()) for name in (*self.kinds, "validation_loss")}
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

        NaN where there are too few epochs, or scores.
        """
        found = [math.nan]
        if self.accelerator.is_main_process:
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

    def _evaluate_epoch(self, state: training.TrainingState, stop: Callable[[], None]) -> dict[str, np.ndarray]:
        """The losses of an epoch whose training losses, if asked for, are in the recorder already."""
        model = self._weights(state)
        with self._timed("validation"):
            self._evaluate(model, VALIDATION, stop)
        if "evaluation_loss" in self.kinds:
            with self._timed("evaluation"):
                self._evaluate(model, EVALUATION if len(self.kinds) > 1 else TRAIN, stop)
        return self.recorder.collect(state.epoch)

    def _record_initial(self, state: training.TrainingState, stop: Callable[[], None]) -> None:
        self.recorder.clear()
        model = self._weights(state)
        with self._timed("evaluation"):
            self._evaluate(model, VALIDATION, stop)
            self._evaluate(model, TRAIN, stop, also=EVALUATION if len(self.kinds) > 1 else None)
        arrays = self.recorder.collect(0)
        with together(self.accelerator):
            if self.accelerator.is_main_process:
                self.recorder.write(0, arrays, rundir.epoch_path(self.path, 0))

    def _evaluate(self, model: nn.Module, split: str, stop: Callable[[], None], also: str | None = None) -> None:
        def observe(positions: torch.Tensor, losses: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
            stop()
            self._add(split, positions, losses, logits, labels)
            if also is not None:
                self._add(also, positions, losses, logits, labels)

        batches = self.batches[VALIDATION if split == VALIDATION else TRAIN]
        evaluate(model, batches, self.accelerator, observe, self.config.eval_batch_size)

    def _observer(
        self, positions: torch.Tensor, losses: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
    ) -> None:
        self._add(TRAIN, positions, losses, logits, labels)

    def _add(
        self,
        split: str,
        positions: torch.Tensor,
        losses: torch.Tensor,
        logits: torch.Tensor,
        labels: torch.Tensor,
    ) -> None:
        signals = per_sample_metrics(self.config.signals, logits, labels) if split == TRAIN else []
        self.recorder.add(split, positions, losses, *signals)

    def _weights(self, state: training.TrainingState) -> nn.Module:
        return training.plain_model(state, self.accelerator) if state.averaged is None else state.averaged.module

    @property
    def _training(self) -> training.TrainingConfig:
        names = {field.name for field in dataclasses.fields(training.TrainingConfig)}
        return training.TrainingConfig(**{k: v for k, v in self.config.to_dict().items() if k in names})

    @property
    def _steps(self) -> int:
        return training.steps_per_epoch(len(self.data.rows), self._training, self.accelerator.num_processes)

    @property
    def _decay(self) -> float | None:
        return averaging_decay(self.config.weights, self.config.average_decay, self._steps)

    def _read_images(self) -> None:
        if self.batches:
            return
        config, data = self.config, self.data
        total = len(data.train) + len(data.validation)
        bar = tqdm(
            # Looked through for their range, and read.
            total=2 * total,
            desc="decoding images",
            unit="image",
            disable=None if self.accelerator.is_main_process else True,
            leave=False,
        )
        options: dict[str, Any] = {
            "device": self.accelerator.device,
            "cache": config.cache_images,
            "cache_budget": config.cache_budget * len(data.train) / total,
            "num_workers": config.num_workers,
            "channels_last": config.channels_last,
            "progress": bar.update,
            "grey_range": self._grey_range(bar.update),
        }
        train = image_batches(data.train, data.image_column, data.labels, data.size, numbers=data.rows, **options)
        options["cache_budget"] = config.cache_budget - options["cache_budget"]
        statistics = (train.mean.tolist(), train.std.tolist())
        try:
            self.batches[VALIDATION] = image_batches(
                data.validation,
                data.validation_image_column,
                data.validation_labels,
                data.size,
                statistics=statistics,
                numbers=data.validation_rows,
                **options,
            )
        except InputError as error:
            raise InputError(f"validation samples: {error}") from error
        self.batches[TRAIN] = train
        bar.close()

    def _grey_range(self, progress: Callable[[int], Any]) -> GreyRange | None:
        """The range of deep images: that of the recording, where there is one already, of this seed or another."""
        if (recorded := recorded_grey_range(self._recorded_with)) is not None:
            return recorded.get("grey_range")
        data = self.data
        train: Images = (data.train, data.image_column, data.rows)
        validation: Images = (data.validation, data.validation_image_column, data.validation_rows)
        # Rows held out are of the same column. Those of another split only say what the train rows leave open.
        parts = [[train], [validation]] if data.validation_rows is None else [[train, validation]]
        return next((found for part in parts if (found := find_grey_range(part, progress)) is not None), None)

    @property
    def _recorded_with(self) -> list[dict[str, Any]]:
        paths = [path / rundir.RECIPE for path in (self.path, *self.others)]
        return [rundir.read_json(path) for path in paths if path.exists()]

    def _recipe(self) -> dict[str, Any]:
        config = self.config
        return {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "config": config.to_dict(),
            "dataset": self.data.identity,
            "validation": self.data.validation_identity,
            "planned_epochs": config.recorded_epochs(),
            "training": {
                "processes": self.accelerator.num_processes,
                "steps_per_epoch": self._steps,
                "average_decay": self._decay,
                "image_size": self.data.size,
                "classes": len(self.data.names),
                "rows": len(self.data.rows),
                "validation_rows": len(self.data.validation_labels),
            },
            "versions": versions(),
            "hardware": hardware(self.accelerator),
        }

    def check_same(self, other: Path) -> None:
        """Checks that another run differs from this one in nothing but the seed."""
        is_finished(other, self._recipe(), "seed")
        self.others.append(other)

    def _checkpoint(self, state: training.TrainingState, arrays: Mapping[str, np.ndarray]) -> None:
        with together(self.accelerator):
            if self.accelerator.is_main_process:
                write_checkpoint(self.path, state, self.accelerator, self.recorder, arrays, self.seconds)

    def _finish(self, state: training.TrainingState) -> Trajectories:
        config = self.config
        model = training.plain_model(state, self.accelerator)
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

    def _write_source_model(self, state: training.TrainingState, model: nn.Module, recipe: dict[str, Any]) -> None:
        config = self.config
        settings = {
            "name": config.model,
            "num_classes": len(self.data.names),
            "image_size": self.data.size,
            "stem": config.stem,
            "classes": self.data.names,
            "mean": self.batches[TRAIN].mean.tolist(),
            "std": self.batches[TRAIN].std.tolist(),
        }
        if (grey_range := self.batches[TRAIN].grey_range) is not None:
            settings["grey_range"] = list(grey_range)
        averaged = state.averaged and state.averaged.module
        final = self.path / _SOURCE_MODEL
        told = {
            **rundir.read_json(self.path / rundir.RECIPE),
            **recipe,
            "validation_loss": float(np.mean(Trajectories.load(self.path, mmap=True).validation_losses[-1])),
        }
        card = cards.source_model_card(str(final), told, settings, averaged=averaged is not None, local=True)
        shutil.rmtree(final, ignore_errors=True)
        with rundir.replacing(final) as temporary:
            temporary.mkdir()
            models.save_model(temporary, model, settings, averaged)
            (temporary / "README.md").write_text(card, encoding="utf-8")

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - started


def _accelerator(config: RecordConfig) -> Accelerator:
    # Asked before accelerate is, which leaves out trackers that are not installed, with a warning or without a word.
    installed = [str(tracker) for tracker in get_available_trackers()]
    for name in config.report_to:
        if name in LoggerType.list() and name not in (installed and [*installed, "all"]):
            what = f"{name} is not installed: pip install {name}, or" if name != "all" else "no tracker is installed:"
            raise InputError(f"`report_to` is {' '.join(config.report_to)}: {what} leave it out")
    try:
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            log_with=config.report_to or None,
            project_dir=str(Path(config.output_dir) / "logs") if config.report_to else None,
        )
    except ValueError as error:
        option = f"`report_to` {' '.join(config.report_to)}, `mixed_precision` {config.mixed_precision}"
        raise InputError(f"accelerate refuses {option}: {one_line(error)}") from error
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != accelerator.num_processes:
        raise InputError(
            f"{started} processes were started, but accelerate joins {accelerator.num_processes}: without GPUs set "
            "ACCELERATE_USE_CPU=1, or they would all write the same files"
        )
    return accelerator


def _sum(seconds: list[dict[str, float]]) -> dict[str, float]:
    return {phase: round(sum(each.get(phase, 0.0) for each in seconds), 2) for phase in seconds[0]}
