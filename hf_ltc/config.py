"""The settings of a recording and of an evaluation. Every field is an option of the command, and kept with results."""

import dataclasses
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from .utils.errors import InputError
from .utils.files import expanded, local

SIGNALS = ("margin", "correct", "el2n")
_LARGEST_SEED = 2**32
_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}
# The least that options may be, and those inside [0, 1), in whichever configuration they are.
_LEAST = {
    "epochs": 1,
    "iterations": 1,
    "batch_size": 1,
    "eval_batch_size": 1,
    "record_every": 1,
    "runs": 1,
    "seeds": 1,
    "gradient_accumulation_steps": 1,
    "validation_per_class": 1,
    "num_workers": 0,
    "learning_rate": 0,
    "weight_decay": 0,
    "cache_budget": 0,
    "image_size": 4,
}
_SHARES = ("label_smoothing", "average_decay")


def option(default: Any, help: str) -> Any:
    """A dataclass field with its default and the help text that the command line shows."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class DataConfig:
    """Which dataset is recorded."""

    dataset: str = field(
        metadata={"help": "Hub id, save_to_disk folder, image folder, folder of Parquet files, or one Parquet file."}
    )
    split: str = option("train", "Split to record, or a slice of one: 'train[:10000]'.")
    validation_split: str | None = option(None, "Split of validation samples; held out of `split` if not given.")
    dataset_config: str | None = option(None, "Configuration of the dataset, where it has several.")
    revision: str | None = option(None, "Revision of a dataset on the Hub.")

    def source(self) -> dict[str, Any]:
        """What finds the dataset again, for a recipe; a path in it never leaves this machine."""
        found: dict[str, Any] = {"split": self.split, "config": self.dataset_config, "revision": self.revision}
        found |= {"validation_split": self.validation_split} if self.validation_split else {}
        local = Path(expanded(self.dataset))
        return found | ({"path": str(local.resolve())} if local.exists() else {"repo_id": self.dataset})


@dataclass(frozen=True)
class RecordConfig:
    """Settings of [`record`].

    The defaults record what was found to be worth recording: training losses, which cost nothing, and validation
    losses at averaged weights, which two seeds agree on. `losses="evaluation", weights="raw",
    schedule="step"` is the protocol of the papers (arXiv 2503.09721, arXiv 2508.20230).

    Each field's meaning stands in its help text: `hf-ltc record --help`.

    Raises:
        InputError: for a value outside its range, naming the parameter.
    """

    model: str = option("resnet18", "Source model: a timm name, or transformers:ID_OR_FOLDER_OR_CONFIG.")
    epochs: int = option(30, "Training epochs, T. Losses are recorded at 0 (untrained) and after each of them.")
    output_dir: str = option("runs/ltc", "The run directory. The same command resumes an interrupted run in it.")

    image_column: str | None = option(None, "Column with the images; found by its feature type if not given.")
    label_column: str | None = option(None, "Column with the class labels; found by its feature type if not given.")
    id_column: str | None = option(None, "Column with a unique id a row, to attach by id instead of by position.")

    losses: Literal["training", "evaluation", "both"] = option(
        "training",
        "Train rows: losses as the optimiser saw them (no extra pass), of an evaluation pass an epoch, or both.",
    )
    weights: Literal["averaged", "raw"] = option(
        "averaged",
        "Weights that evaluation and validation losses are computed with: averaged over about one epoch, or raw.",
    )
    average_decay: float | None = option(
        None, "Decay a step of the averaged weights; 1 - 1 / (steps per epoch) if not given."
    )
    initial_losses: bool = option(True, "Record the losses of the untrained model as epoch 0.")
    record_every: int = option(1, "Record after every k-th epoch (and always after the last).")
    signals: list[str] = option([], "Further signals a row and epoch, for the baselines: margin, correct, el2n.")

    validation_fraction: float = option(0.1, "Without a validation split: the share of each class that is held out.")
    validation_per_class: int = option(50, "Without a validation split: at most so many rows held out of a class.")
    validation_seed: int = option(0, "Seed of the hold-out, apart from `seed` so that runs share their hold-out.")
    allow_shared_rows: bool = option(
        False,
        "Take a validation split with images of train rows too: where many rows share one, as blank tiles.",
    )

    batch_size: int = option(128, "Rows an optimiser step and process. Steps of an epoch differ by one row at most.")
    eval_batch_size: int = option(512, "Rows a forward pass of evaluation and validation losses, a process.")
    optimizer: Literal["sgd", "adamw"] = option("sgd", "SGD with Nesterov momentum 0.9, or AdamW.")
    learning_rate: float = option(0.1, "Peak learning rate. For AdamW use about 1e-3.")
    weight_decay: float = option(5e-4, "Weight decay.")
    schedule: Literal["one-cycle", "cosine", "step", "constant"] = option(
        "one-cycle", "Learning rate schedule; step is the papers': x0.1 at 1/2 and 3/4 of the epochs."
    )
    label_smoothing: float = option(0.0, "Label smoothing of the training objective; recorded losses are without.")
    gradient_accumulation_steps: int = option(1, "Batches an optimiser step.")
    seed: int = option(0, "Seed of the weights, the order of the rows and the augmentation.")
    runs: int = option(1, "Record so many runs, with seeds seed, seed + 1, ...: scores are averaged over them.")
    stop_when_stable: float | None = option(
        None,
        "End a run early once LTC of all epochs and of the first half of them correlate so much. In docs/choosing.md, "
        "0.9 saved half of the epochs or none, and cost accuracy. This is stability within a run, and no evidence "
        "that another seed would rank the rows alike: `runs` shows that.",
    )

    stem: Literal["auto", "small", "imagenet"] = option(
        "auto", "ResNet stem: small is 3x3, stride 1, no pooling; auto takes it for images up to 64 pixels."
    )
    pretrained: bool = option(False, "Start from pretrained weights, where they can be had.")
    image_size: int | None = option(None, "Side of the square images; found from the data if not given.")
    augment: bool = option(True, "Random crops and horizontal flips while training.")
    mixed_precision: Literal["no", "fp16", "bf16"] = option("no", "Autocast of the forward pass; losses stay float32.")
    channels_last: bool = option(False, "Use the channels-last memory format.")
    compile: bool = option(False, "Use torch.compile.")

    cache_images: Literal["auto", "always", "never"] = option(
        "auto", "Decode images once and keep them as uint8 in memory: auto where they fit `cache_budget`."
    )
    cache_budget: float = option(4.0, "GiB of memory that the image cache may take, a process.")
    num_workers: int = option(2, "Worker processes that decode images where they are not cached.")
    report_to: list[str] = option([], "Trackers of accelerate, e.g. tensorboard.")

    def __post_init__(self) -> None:
        _check_options(self)
        for name in ("seed", "validation_seed"):
            _check_seeds(self, name, self.runs)
        _require(0 < self.validation_fraction < 1, "validation_fraction", self.validation_fraction, "inside (0, 1)")
        if self.stop_when_stable is not None:
            _require(0 < self.stop_when_stable <= 1, "stop_when_stable", self.stop_when_stable, "inside (0, 1]")
        for signal in self.signals:
            _require(signal in SIGNALS, "signals", signal, "of " + ", ".join(SIGNALS))
        _check_different(self, "signals")
        # The least that has two differences: scores of one difference are all 1 or -1.
        recorded = len(self.recorded_epochs())
        if recorded < 3:
            raise InputError(
                f"`epochs` {self.epochs} with `record_every` {self.record_every} records {recorded} checkpoints, "
                f"{recorded - 1} differences: a correlation needs two differences or more, so raise `epochs`"
            )

    def recorded_epochs(self) -> list[int]:
        """The epochs after which losses are recorded, 0 being the untrained model."""
        epochs = [t for t in range(1, self.epochs + 1) if t % self.record_every == 0 or t == self.epochs]
        return [0, *epochs] if self.initial_losses else epochs

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


# What may differ when a run is resumed: it changes where and how fast things run, not what is recorded.
RESUME_MAY_CHANGE = frozenset(
    {"output_dir", "num_workers", "cache_images", "cache_budget", "report_to", "runs", "allow_shared_rows"}
)


def _like_record(name: str) -> Any:
    """The field of [`RecordConfig`] of that name once more: with the same default, meaning and help."""
    same = RecordConfig.__dataclass_fields__[name]
    return field(default=same.default, metadata=same.metadata)


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of [`evaluate_coresets`].

    Every model is trained from scratch by the same settings whatever rows it is trained on, and tested after the last
    step: nothing is tuned for a budget or a method, and no epoch is picked by its test accuracy.

    Each field's meaning stands in its help text: `hf-ltc evaluate --help`.

    Raises:
        InputError: for a value outside its range, naming the parameter.
    """

    models: list[str] = option(["resnet18"], "Target models: as `RecordConfig.model`, one or more.")
    fractions: list[float] = option([0.1, 0.3], "Budgets, as shares of the rows that could be chosen, in (0, 1].")
    members: list[str] = option(
        ["weighted-das"],
        "Score variants: ltc, cld, das, weighted-das (the default of hf-ltc score), or OF-AGGREGATE-SCOPE such as "
        "levels-losses-class, or that with -uncertainty.",
    )
    baselines: list[str] = option(
        ["random"],
        "What they are held against: random, mean_loss, final_loss, aum, el2n, forgetting, dyn_unc, tdds, dual, ccs, "
        "dual_beta. Some need `RecordConfig.signals`.",
    )
    full: bool = option(True, "Train on all rows that could be chosen too.")
    seeds: int = option(3, "Models trained on each choice of rows, with seeds seed, seed + 1, ...")
    seed: int = option(0, "First seed: of the weights, the order of rows, and of rows that are drawn.")
    output_dir: str | None = option(
        None, "Folder of the results, RUN/evaluation if not given. The same command goes on where it was stopped."
    )
    test_split: str = option("test", "Split that models are tested on: rows that no recording has seen.")
    allow_shared_rows: bool = option(
        False,
        "Take test rows whose images are in the recorded dataset too: where many rows share one, as blank tiles.",
    )
    image_column: str | None = option(None, "Column with the images; as recorded if not given.")
    label_column: str | None = option(None, "Column with the class labels; as recorded if not given.")
    id_column: str | None = option(
        None, "Column with the ids, where rows were recorded by id; as recorded if not given."
    )
    balance: Literal["class", "proportional", "none"] = option(
        "class", "How classes share a subset; the same for every method, random included."
    )

    protocol: Literal["iterations", "epochs"] = option(
        "iterations",
        "What is equal at every budget: optimiser steps, or epochs, of which those of fewer rows have fewer steps.",
    )
    epochs: int = option(30, "Epochs; by `protocol` iterations those of the full data, whose steps all budgets get.")
    iterations: int | None = option(None, "Optimiser steps, instead of those of `epochs` on the full data.")
    batch_size: int = option(128, "Rows an optimiser step. Steps of an epoch differ by one row at most.")
    optimizer: Literal["auto", "sgd", "adamw"] = option(
        "auto", "SGD with Nesterov momentum 0.9, or AdamW; auto takes AdamW for models without batch norm."
    )
    learning_rate: float | None = option(None, "Peak learning rate; 0.1 for SGD and 1e-3 for AdamW if not given.")
    weight_decay: float | None = option(None, "Weight decay; 5e-4 for SGD and 0.05 for AdamW if not given.")
    schedule: Literal["one-cycle", "cosine", "step", "constant"] = _like_record("schedule")
    label_smoothing: float = option(0.0, "Label smoothing of the training objective.")
    augment: bool = _like_record("augment")
    stem: Literal["auto", "small", "imagenet"] = option(
        "auto", "Layers that take the image in: small suits small images; auto takes it up to 64 pixels."
    )
    pretrained: bool = _like_record("pretrained")
    image_size: int | None = _like_record("image_size")
    mixed_precision: Literal["no", "fp16", "bf16"] = _like_record("mixed_precision")
    channels_last: bool = _like_record("channels_last")

    cache_images: Literal["auto", "always", "never"] = _like_record("cache_images")
    cache_budget: float = _like_record("cache_budget")
    num_workers: int = _like_record("num_workers")

    def __post_init__(self) -> None:
        _check_options(self)
        _check_seeds(self, "seed", self.seeds)
        for fraction in self.fractions:
            _require(0 < fraction <= 1, "fractions", fraction, "inside (0, 1]")
        for name in ("models", "fractions", "members", "baselines"):
            _check_different(self, name)
        for name in ("models", "fractions"):
            _require(bool(getattr(self, name)), name, getattr(self, name), "one or more")
        if not (self.members or self.baselines or self.full):
            raise InputError("nothing to evaluate: give `members`, `baselines` or `full`")
        if self.iterations is not None and self.protocol != "iterations":
            raise InputError(
                f"`iterations` {self.iterations} goes with `protocol` iterations, not {self.protocol}: leave it out"
            )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


# What a call may change that goes on in the folder of an evaluation: which cells there are, and what does not make
# their results others, or is checked by what it comes to (data by their content, epochs by the steps they are).
EVALUATION_MAY_ADD = frozenset(
    {
        *("models", "fractions", "members", "baselines", "full", "seeds", "seed", "output_dir", "test_split"),
        *("allow_shared_rows", "image_column", "label_column", "id_column", "image_size", "epochs", "iterations"),
        *("cache_images", "cache_budget", "num_workers"),
    }
)


def _check_options(config: Any) -> None:
    """Checks the types of all fields, and the ranges that go with a field's name in any configuration."""
    if isinstance(config.output_dir, str | os.PathLike) and config.output_dir != "":
        # Without a slash at its end, which names that are made of it would have in the middle.
        object.__setattr__(config, "output_dir", str(local(config.output_dir, "output_dir")))
    # Not the types of dataclasses.fields, which HfArgumentParser changes.
    kinds = type(config).__annotations__
    for name, kind in kinds.items():
        _check_type(name, getattr(config, name), kind)
    values = {name: getattr(config, name) for name in kinds if getattr(config, name) is not None}
    for name, least in _LEAST.items():
        _require(values.get(name, least) >= least, name, values.get(name), f"{least} or more")
    for name in _SHARES:
        if name in values:
            _require(0 <= values[name] < 1, name, values[name], "inside [0, 1)")


def _check_seeds(config: Any, name: str, count: int) -> None:
    # What every random generator takes; of several runs each has its own.
    value = getattr(config, name)
    _require(0 <= value <= _LARGEST_SEED - count, name, value, "inside [0, 2**32)")


def _check_different(config: Any, name: str) -> None:
    values = getattr(config, name)
    _require(
        len(set(values)) == len(values),
        name,
        values,
        "a list of different " + ("numbers" if name == "fractions" else "names"),
    )


def _require(holds: bool, name: str, value: Any, wanted: str) -> None:
    if not holds:
        # A model or a dataset, say, is shown in many lines.
        shown = repr(value) if "\n" not in repr(value) else f"a {type(value).__name__}"
        raise InputError(f"`{name}` is {shown}: it must be {wanted}")


def _check_type(name: str, value: Any, kind: Any) -> None:
    if get_origin(kind) is Literal:
        _require(value in get_args(kind), name, value, "one of " + ", ".join(get_args(kind)))
        return
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        is_list = isinstance(value, list | tuple) and all(_is_of(each, item) for each in value)
        _require(is_list, name, value, "a list of strings" if item is str else "a list of numbers")
        return
    if get_origin(kind) is UnionType:
        if value is None:
            return
        kind = next(part for part in get_args(kind) if part is not NoneType)
    _require(_is_of(value, kind), name, value, _KINDS[kind])


def _is_of(value: Any, kind: Any) -> bool:
    # A bool is an int in Python, and never meant as a number.
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def require_config(config: Any, kind: type) -> None:
    """Checks that what was given as `config` is the dataclass that holds the settings.

    Raises:
        InputError: if it is anything else.
    """
    if not isinstance(config, kind):
        raise InputError(f"`config` is a {type(config).__name__}: give {kind.__name__}(...)")
