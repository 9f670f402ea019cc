"""Records a dataset: trains a source model, or several with different seeds into one run directory."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from accelerate import Accelerator, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from datasets import Dataset

from ..config import RecordConfig, require_config
from ..recipe import Config, Recipe, SeedReliability
from ..scores.reliability import say_unknown
from ..training.inputs import Batches
from ..training.workers import workers_watched
from ..trajectories import run_dir
from ..trajectories.compare import reliability
from ..trajectories.summary import LossSummary, load_recording
from ..trajectories.value import Trajectories
from ..utils import files
from ..utils.environment import usual_torch
from ..utils.errors import InputError, one_line
from ..utils.processes import together
from .rows import source_rows
from .source_run import SourceRun


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
    """Trains a source model, and records the losses of all rows and validation samples in each epoch.

    The first step of "Finding the Muses" (arXiv 2503.09721). The run directory is `config.output_dir`. The same call
    resumes an interrupted run after its last complete epoch, and returns at once if the run is finished.

    Args:
        config ([`RecordConfig`]): The settings.
        train (`datasets.Dataset`): Rows with an image or a text (or two) and a class label.
        validation (`datasets.Dataset`, *optional*): Validation samples; held out of `train` if not given.
        source (`Mapping[str, Any]`, *optional*):
            Where the dataset comes from (`repo_id`, `config`, `split`, `revision`), for the recipe.
        accelerator (`accelerate.Accelerator`, *optional*): The processes; made from `config` if not given.

    Returns:
        [`Trajectories`]: losses, float32 `(L, N)` in nats, and validation losses, `(L, Q)`, on every process; with
        `config.store="summary"` a [`LossSummary`].

    Raises:
        InputError: for problems with the data, the settings or the run directory that the user can fix.
    """
    require_config(config, RecordConfig)
    _check_rotation(config, validation)
    data = source_rows(config, train, validation, source)
    config = data.config
    if config.runs == 1:
        recorded = SourceRun(config, data, accelerator or _accelerator(config), {}).run()
        if PartialState().is_main_process:
            say_unknown()
        return recorded
    folder = Path(config.output_dir)
    if (folder / run_dir.TRAJECTORIES).exists():
        raise InputError(f"`output_dir` {str(folder)!r} holds a single run: give another one for `runs` {config.runs}")
    files.check_free(folder, run_dir.seed_folders)
    cached: dict[str, Batches] = {}
    seeds = [
        dataclasses.replace(
            config,
            seed=seed,
            runs=1,
            output_dir=str(folder / f"seed-{seed}"),
            # What two models see cannot be compared: those of one are enough.
            features=config.features and seed == config.seed,
        )
        for seed in range(config.seed, config.seed + config.runs)
    ]
    for one in seeds:
        if config.rotate_validation and one.seed != config.seed:
            # Other rows, and other means of their pixels: read again, so that no run's inputs stay in memory.
            data = source_rows(one, train, validation, source)
            cached.clear()
        # A gradient scaler of one seed is none of the next one's, hence an accelerator each.
        SourceRun(one, data, accelerator or _accelerator(one), cached).run(run_dir.seed_folders(folder))
    state = PartialState()
    with together(state):
        if state.is_main_process:
            _write_together(config, folder)
    return cast(Trajectories, load_recording(folder))


def _check_rotation(config: RecordConfig, validation: Dataset | None) -> None:
    """Checks that, where validation samples rotate, some run records each row."""
    share, runs = config.validation_fraction, config.runs
    if not config.rotate_validation:
        return
    if validation is not None:
        raise InputError(
            "`rotate_validation` holds out rows of the recorded dataset, and `validation` gives others: leave one of "
            "them out"
        )
    if runs < 2:
        raise InputError(
            f"`rotate_validation` with `runs` {runs}: no other run records the rows that this one holds out, so raise "
            "`runs`, or leave it out"
        )
    # At the limit itself, where parts of a class are rounded, a row may be in all of them.
    if share * runs > runs - 1 or (share > 0.5 and share * runs == runs - 1):
        raise InputError(
            f"`rotate_validation` with `validation_fraction` {share:g} and `runs` {runs} holds rows out of every run: "
            "lower `validation_fraction`, or raise `runs`"
        )


def _write_together(config: RecordConfig, folder: Path) -> None:
    """Writes what the finished seeds of a folder are together."""
    done = [path for path in run_dir.seed_folders(folder) if run_dir.is_finished(path)]
    average: Any
    if config.store == "summary":
        average = LossSummary.together([LossSummary.load(path) for path in done])
        found = average.reliability()
    else:
        average = Trajectories.average([Trajectories.load(path) for path in done])
        found = reliability(average)
    run_dir.write_rows(folder, average)
    each = [Recipe.from_dict(run.recipe) for run in average.runs]
    recipe = dataclasses.replace(
        each[0],
        config=Config.from_dict(config.to_dict()),
        validation=Recipe.from_dict(average.recipe).validation,
        seeds=[recipe.config.seed or 0 for recipe in each],
        seconds={phase: round(sum(one.seconds.get(phase, 0.0) for one in each), 2) for phase in each[0].seconds},
        reliability=SeedReliability.from_dict(found.to_dict()),
    )
    files.write_json(folder / files.RECIPE, recipe.to_dict())


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
