"""What coresets are worth: a trial trains a target model on the rows that a method chose, and tests it."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset

from ..config import EVALUATION_MAY_ADD, EvaluateConfig, require_config
from ..data.identity import WHERE
from ..recipe import Recipe
from ..scores.protocol import require_classes, require_recorded
from ..training.inputs import Batches, Form, create_classifier, input_batches, stored_inputs, usual_model
from ..training.loop import TrainingConfig, steps_per_epoch
from ..training.pixels.grey import grey_range_of
from ..training.text.classifiers import usual_rates
from ..training.text.encoders import text_encoder
from ..training.workers import workers_watched
from ..trajectories.value import Trajectories
from ..utils import files
from ..utils.environment import hardware, usual_torch, versions
from ..utils.errors import InputError
from ..utils.processes import heard, rank, stoppable
from .budget.search import LARGEST, Aim, next_trials, recommendation
from .dataset import EvaluatedDataset, evaluated_dataset, subset_size
from .folder import FORMAT, SETTINGS, check_folder, claim, locked, named_recordings
from .methods import FULL, METHODS, RANDOM, chosen_rows, find_method, members_of
from .pictures import write_results
from .results import Evaluation, percent
from .sources import (
    Scores,
    methods_told,
    methods_told_before,
    recommended_before,
    score_all,
    source_model,
    source_of,
)
from .target import own_accelerator, train_on
from .trials import Trial, done_trials, run_trials

# Trials were called so in the first version, whose folders are still read.
_TRIALS = "cells"
_NEEDED = (
    *("model", "method", "source", "fraction", "seed", "rows"),
    *("accuracy", "steps", "training", "device", "seconds"),
)
# Settings that only say which trials a call asks for, and where.
_ASKED = ("models", "fractions", "recommend", "members", "baselines", "full", "seeds", "seed", "output_dir")
# Peak learning rate and weight decay.
_RATES = {"sgd": (0.1, 5e-4), "adamw": (1e-3, 0.05)}


@workers_watched()
@usual_torch()
def evaluate_coresets(
    config: EvaluateConfig,
    runs: Trajectories | Mapping[str, Trajectories],
    train: Dataset,
    test: Dataset,
    validation: Dataset | None = None,
    *,
    accelerator: Accelerator | None = None,
) -> Evaluation:
    """Trains models on coresets, on random subsets of the same size and on all rows, and tests each after its last
    step.

    Every trial (one model, method, budget and seed) is saved in `config.output_dir`. The same call resumes where it
    stopped, and a call with more models, methods, budgets, seeds or recordings trains only what is new. Several
    processes of a launcher, or several commands, share the trials. When all trials are done, `results.json`,
    `results.md` and `accuracy.png` show all trials in the folder.

    With `config.recommend`, it searches for the smallest budget that is nearly as good as all rows:
    `Evaluation.recommendation`.

    Args:
        config ([`EvaluateConfig`]): The settings; `output_dir` must be given.
        runs ([`Trajectories`] or `Mapping[str, Trajectories]`):
            The recording to choose rows by, or several of different source models, by name.
        train (`datasets.Dataset`): The recorded dataset. Models are never trained on its held-out rows.
        test (`datasets.Dataset`): Rows that no recording has seen.
        validation (`datasets.Dataset`, *optional*):
            The validation samples, needed if they are not rows of `train`: test rows must not be among them.
        accelerator (`accelerate.Accelerator`, *optional*):
            An accelerator of this process alone; if not given, made from `config` for each trial.

    Returns:
        [`Evaluation`]: all trials in the folder, on every process; `methods`, which takes time, only on the first.

    Raises:
        InputError: for data, settings, methods or an output folder that the user can fix, before anything is trained.
    """
    require_config(config, EvaluateConfig)
    if config.output_dir is None:
        raise InputError("evaluate_coresets needs a folder for its results: give EvaluateConfig(output_dir=...)")
    folder = Path(config.output_dir)
    # Of the recordings as they are, before their rows are put into the order of the dataset.
    recordings = named_recordings(folder, _named(runs))
    config = dataclasses.replace(config, members=members_of(config, (run for run, _ in recordings.values())))
    methods = _methods(config)
    data = evaluated_dataset(config, {name: run for name, (run, _) in recordings.items()}, train, test, validation)
    if config.models is None:
        config = dataclasses.replace(config, models=[usual_model(data.columns)])
    aim = None if config.recommend is None else _aim(config, data)
    asked = _trials(config, methods, data) if aim is None else next_trials(aim, {})
    scored = score_all(methods, data.sources)
    settings = _settings(config, data, {name: source_of(name, *each) for name, each in recordings.items()})
    check_folder(folder, settings)
    accelerators = partial(own_accelerator, config.mixed_precision, accelerator)
    here = accelerators()
    if here.num_processes > 1:
        raise InputError(
            f"the accelerator joins {here.num_processes} processes, but each trains models of its own: give "
            "evaluate_coresets none, or call it before any other Accelerator is made"
        )
    process, processes = rank()
    with heard(process), stoppable(folder, "models") as stop:
        form = cache(partial(_form, config, data))
        # Of images once for all models, of texts for each encoder.
        batches: Any = cache(partial(_batches, config, data, here.device))
        bench = _Bench(
            config=config,
            data=data,
            scored=scored,
            form=form,
            training=cache(lambda model: _training(config, data, model, form(model))),
            batches=batches,
            accelerators=accelerators,
            stop=stop,
        )
        # Before anything is written, so that an unknown model or a bad row leaves no folder behind.
        left = [trial for trial in asked if not (folder / _TRIALS / f"{trial.name}.json").exists()]
        for trial in left:
            bench.training(trial.model)
        for trial in left:
            bench.batches(form(trial.model))
        done: dict[str, dict[str, Any]] = {}
        while asked:
            claim(folder, settings, [trial.name for trial in asked])
            work = {trial.name: partial(_train_trial, bench, trial) for trial in asked}
            done |= run_trials(
                folder / _TRIALS, work, _description(aim, asked), needed=_NEEDED, stop=stop, progress=process == 0
            )
            asked = [] if aim is None else next_trials(aim, done)
        told = {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **{name: value for name, value in settings.items() if name not in ("format", "sources")},
            "config": {name: value for name, value in config.to_dict().items() if name not in _ASKED},
            "classes": len(data.names),
            "test_rows": len(data.test),
            "versions": versions(),
            "hardware": {**hardware(here), "processes": processes},
            "recommendation": recommended_before(folder) if aim is None else recommendation(aim, done),
        }
        # Of several commands the last one to write has seen what all others did.
        with locked(folder) if process == 0 else nullcontext():
            evaluation = _gathered(folder, told, data, scored, process == 0)
            if process == 0:
                write_results(evaluation, folder)
    return evaluation


def _gathered(
    folder: Path, settings: dict[str, Any], data: EvaluatedDataset, scored: Scores, scores: bool
) -> Evaluation:
    """What the folder has, of whichever calls, in the order in which it was first asked for."""
    stored, found = files.read_json(folder / SETTINGS), done_trials(folder / _TRIALS, _NEEDED)
    order = dict.fromkeys([*stored["cells"], *found])
    trials = [found[name] for name in order if name in found and found[name]["source"] in (None, *stored["sources"])]
    used = {*data.sources, *(trial["source"] for trial in trials)}
    devices = list(dict.fromkeys(trial["device"] for trial in trials))
    shared = {name: value for name, value in settings["hardware"].items() if name != "device"}
    methods: list[dict[str, Any]] = []
    if scores:
        methods = [*methods_told(data, scored, trials), *methods_told_before(folder, used - data.sources.keys())]
    return Evaluation(
        settings={**settings, "hardware": {"devices": devices, **shared}},
        sources={name: each for name, each in stored["sources"].items() if name in used},
        methods=methods,
        trials=trials,
    )


@dataclass(frozen=True)
class _Bench:
    """What every trial is trained with."""

    config: EvaluateConfig
    data: EvaluatedDataset
    scored: Scores
    form: Callable[[str], Form]
    training: Callable[[str], dict[str, Any]]
    batches: Callable[[Form], list[Batches]]
    accelerators: Callable[[], Accelerator]
    stop: Callable[[], None]


def _named(runs: Trajectories | Mapping[str, Trajectories]) -> dict[str, Trajectories]:
    if isinstance(runs, Trajectories):
        runs = {source_model(runs) or "run": runs}
    if not isinstance(runs, Mapping):
        require_recorded(runs, "runs")
    if not runs:
        raise InputError("evaluate_coresets needs a recording to choose rows by: give one or more")
    for run in runs.values():
        require_recorded(run, "runs")
        require_classes(run, "classifiers are trained for", "train the model of your own on the coreset")
    return dict(runs)


def _methods(config: EvaluateConfig) -> list[str]:
    assert config.members is not None
    for option, names, is_variant in (("members", config.members, True), ("baselines", config.baselines, False)):
        for name in names:
            if bool(find_method(name).variant) != is_variant:
                have = ", ".join(each for each, method in METHODS.items() if bool(method.variant) == is_variant)
                raise InputError(f"`{option}` has {name!r}: there are {have}")
    return [*config.members, *config.baselines]


def _aim(config: EvaluateConfig, data: EvaluatedDataset) -> Aim:
    """What a search for the smallest budget is for: one model, by one recording."""
    assert config.recommend is not None and config.models is not None and config.members is not None
    if not config.full or config.seeds < 2 or len(config.members) != 1:
        raise InputError(
            f"`recommend` {config.recommend:g} compares one of `members` with `full`, by 2 `seeds` or more: `members` "
            f"are {' '.join(config.members) or 'none'}, `full` is {config.full}, `seeds` {config.seeds}"
        )
    if config.fractions != EvaluateConfig().fractions:
        shown = " ".join(f"{fraction:g}" for fraction in config.fractions)
        raise InputError(f"`recommend` finds budgets itself: leave `fractions` {shown} out")
    if len(data.sources) > 1 or len(config.models) > 1:
        given = f"{len(data.sources)} recordings and {len(config.models)} models"
        raise InputError(
            f"`recommend` finds the budget of one model by one recording, and {given} are given: give one"
        )
    aim = Aim(
        tolerance=config.recommend,
        model=config.models[0],
        method=config.members[0],
        source=next(iter(data.sources)),
        baselines=config.baselines,
        seeds=range(config.seed, config.seed + config.seeds),
        rows=len(data.rows),
        classes=len(np.unique(data.labels)),
    )
    if not aim.has_rows(LARGEST):
        raise InputError(
            f"`recommend` tries up to {percent(LARGEST)} of the rows, and of {aim.rows} candidate rows that is fewer "
            f"than the {aim.classes} classes: give more rows"
        )
    return aim


def _description(aim: Aim | None, trials: Sequence[Trial]) -> str:
    if aim is None:
        return "training models"
    fraction = trials[0].fraction
    return "training on all rows" if fraction is None else f"training on {percent(fraction)} of the rows"


def _trials(config: EvaluateConfig, methods: Sequence[str], data: EvaluatedDataset) -> list[Trial]:
    """In the order in which they are trained: every choice of rows and model once before any has its second seed."""
    sizes = {fraction: subset_size(data.labels, fraction) for fraction in config.fractions}
    trials = []
    for seed in range(config.seed, config.seed + config.seeds):
        for model in config.models or []:
            if config.full:
                trials.append(Trial(model, FULL, seed, len(data.rows)))
            for fraction, size in sizes.items():
                for method in methods:
                    sources = [None] if method == RANDOM else list(data.sources)
                    trials += [Trial(model, method, seed, size, fraction, source) for source in sources]
    return trials


def _form(config: EvaluateConfig, data: EvaluatedDataset, model: str) -> Form:
    return (
        text_encoder(model, config.max_length, pair=data.columns.text_pair is not None)
        if data.size is None
        else data.size
    )


def _training(config: EvaluateConfig, data: EvaluatedDataset, name: str, form: Form) -> dict[str, Any]:
    """Checks that a model can be made, and decides how models of its kind are trained."""
    model = create_classifier(name, len(data.names), form, stem=config.stem, pretrained=config.pretrained)
    normed = any(isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) for layer in model.modules())
    optimizer = ("sgd" if normed else "adamw") if config.optimizer == "auto" else config.optimizer
    rate, decay = _RATES[optimizer]
    if data.size is None and optimizer == "adamw":
        rate, decay = usual_rates(name, config.pretrained)
    return {
        "optimizer": optimizer,
        "learning_rate": rate if config.learning_rate is None else config.learning_rate,
        "weight_decay": decay if config.weight_decay is None else config.weight_decay,
    }


def _batches(config: EvaluateConfig, data: EvaluatedDataset, device: torch.device, form: Form) -> list[Batches]:
    parts = [(data.train, data.columns, data.rows), (data.test, data.test_columns, None)]
    recipes = [Recipe.from_dict(run.recipe) for run in data.sources.values()]
    grey_range = grey_range_of(
        recipes, [(rows, columns.image, each) for rows, columns, each in parts if columns.image]
    )
    train, test = (stored_inputs(rows, columns, form, each, grey_range) for rows, columns, each in parts)
    return input_batches(config, device, (train, data.labels), (test, data.test_labels), "test rows")


def _steps(config: EvaluateConfig, rows: int) -> int | None:
    """Optimizer steps of every model, by the protocol of iterations."""
    if config.protocol != "iterations" or config.iterations is not None:
        return config.iterations
    return config.epochs * steps_per_epoch(rows, TrainingConfig(config.epochs, config.batch_size), 1)


def _settings(
    config: EvaluateConfig, data: EvaluatedDataset, sources: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """All that a trial's result depends on beside what its name says."""

    def mark(identity: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in identity.items() if name not in WHERE}

    settings = {
        "format": FORMAT,
        "config": {name: value for name, value in config.to_dict().items() if name not in EVALUATION_MAY_ADD},
        "iterations": _steps(config, len(data.rows)),
        "epochs": config.epochs if config.protocol == "epochs" else None,
        "image_size": data.size,
        "image_column": data.columns.image,
        **data.columns.told(),
        "pool": {"rows": len(data.rows), "digest": hashlib.sha256(data.rows.astype("<i8").tobytes()).hexdigest()},
        "train": mark(data.train_identity),
        "test": mark(data.test_identity),
        "sources": sources,
    }
    return json.loads(json.dumps(files.finite(settings)))


def _train_trial(bench: _Bench, trial: Trial) -> dict[str, Any]:
    config, data = bench.config, bench.data
    (train, test), training = bench.batches(bench.form(trial.model)), bench.training(trial.model)
    started = time.perf_counter()
    rows = _chosen(bench, trial)
    chosen = time.perf_counter()
    settings = TrainingConfig(
        epochs=config.epochs,
        iterations=_steps(config, len(data.rows)),
        batch_size=config.batch_size,
        schedule=config.schedule,
        label_smoothing=config.label_smoothing,
        augment=config.augment,
        seed=trial.seed,
        **training,
    )
    accelerator = bench.accelerators()
    found = train_on(
        trial.model,
        train.take(rows),
        test,
        len(data.names),
        settings,
        accelerator,
        stem=config.stem,
        pretrained=config.pretrained,
        each_step=bench.stop,
    )
    seconds = {"choosing": chosen - started, "training": time.perf_counter() - chosen}
    return {
        **dataclasses.asdict(trial),
        "accuracy": found,
        "steps": settings.iterations or config.epochs * steps_per_epoch(len(rows), settings, 1),
        "training": training,
        "device": hardware(accelerator)["device"],
        # To the microsecond: of what took no time at all there would be no share.
        "seconds": {phase: round(taken, 6) for phase, taken in seconds.items()},
    }


def _chosen(bench: _Bench, trial: Trial) -> np.ndarray:
    """The rows of a trial, as positions among the candidate rows, increasing."""
    if trial.method == FULL:
        return np.arange(trial.rows)
    # A random subset depends on row numbers and the seed alone, so that it is the same by any recording of these rows.
    source = trial.source or next(iter(bench.data.sources))
    scores, _ = bench.scored.get((source, trial.method), (None, 0.0))
    run, balance = bench.data.sources[source], bench.config.balance
    return chosen_rows(trial.method, run, trial.rows, seed=trial.seed, balance=balance, scores=scores)
