"""The settings of a recording. Every field is an option of `hf-ltc record` and is kept in the run's recipe."""

import dataclasses
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from .errors import InputError

SIGNALS = ("margin", "correct", "el2n")
_LARGEST_SEED = 2**32
_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}


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
    validation_split: str | None = option(None, "Split of validation samples; held out of --split if not given.")
    dataset_config: str | None = option(None, "Configuration of the dataset, where it has several.")
    revision: str | None = option(None, "Revision of a dataset on the Hub.")

    def source(self) -> dict[str, Any]:
        """What finds the dataset again, for a recipe; a path in it never leaves this machine."""
        found: dict[str, Any] = {"split": self.split, "config": self.dataset_config, "revision": self.revision}
        local = Path(self.dataset).expanduser()
        return found | ({"path": str(local.resolve())} if local.exists() else {"repo_id": self.dataset})


@dataclass(frozen=True)
class RecordConfig:
    """Settings of [`record`].

    The defaults record what was found to be worth recording: training losses, which cost nothing, and validation
    losses at averaged weights, which two seeds agree on. `losses="evaluation", weights="raw",
    schedule="step"` is the protocol of the papers (arXiv 2503.09721, arXiv 2508.20230).

    Each field's meaning stands in its help text: `hf-ltc record --help`.

    Raises:
        InputError: for a value outside its range, naming the option.
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
    validation_seed: int = option(0, "Seed of the hold-out, apart from --seed so that runs share their hold-out.")

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
        "End a run early once LTC of all epochs and of the first half of them correlate so much (e.g. 0.98). This is "
        "stability within a run, and no evidence that another seed would rank the rows alike: --runs shows that.",
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
        "auto", "Decode images once and keep them as uint8 in memory: auto where they fit --cache-budget."
    )
    cache_budget: float = option(4.0, "GiB of memory that the image cache may take, a process.")
    num_workers: int = option(2, "Worker processes that decode images where they are not cached.")
    report_to: list[str] = option([], "Trackers of accelerate, e.g. tensorboard.")

    def __post_init__(self) -> None:
        if isinstance(self.output_dir, os.PathLike):
            object.__setattr__(self, "output_dir", os.fspath(self.output_dir))
        # Not the types of dataclasses.fields, which HfArgumentParser changes.
        for name, kind in type(self).__annotations__.items():
            _check_type(name, getattr(self, name), kind)
        for name in (
            "epochs",
            "batch_size",
            "eval_batch_size",
            "record_every",
            "runs",
            "gradient_accumulation_steps",
            "validation_per_class",
        ):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("num_workers", "learning_rate", "weight_decay", "cache_budget"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("seed", "validation_seed"):
            # What every random generator takes; of several runs each has its own.
            _require(
                0 <= getattr(self, name) <= _LARGEST_SEED - self.runs, name, getattr(self, name), "inside [0, 2**32)"
            )
        _require(0 < self.validation_fraction < 1, "validation_fraction", self.validation_fraction, "inside (0, 1)")
        _require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "inside [0, 1)")
        if self.average_decay is not None:
            _require(0 <= self.average_decay < 1, "average_decay", self.average_decay, "inside [0, 1)")
        if self.stop_when_stable is not None:
            _require(0 < self.stop_when_stable <= 1, "stop_when_stable", self.stop_when_stable, "inside (0, 1]")
        if self.image_size is not None:
            _require(self.image_size >= 4, "image_size", self.image_size, "4 or more")
        for signal in self.signals:
            _require(signal in SIGNALS, "signals", signal, "of " + ", ".join(SIGNALS))
        _require(len(set(self.signals)) == len(self.signals), "signals", self.signals, "a list of different names")
        # The least that has two differences: scores of one difference are all 1 or -1.
        recorded = len(self.recorded_epochs())
        if recorded < 3:
            raise InputError(
                f"--epochs {self.epochs} with --record-every {self.record_every} records {recorded} checkpoints, "
                f"{recorded - 1} differences: a correlation needs two differences or more, so raise --epochs"
            )

    def recorded_epochs(self) -> list[int]:
        """The epochs after which losses are recorded, 0 being the untrained model."""
        epochs = [t for t in range(1, self.epochs + 1) if t % self.record_every == 0 or t == self.epochs]
        return [0, *epochs] if self.initial_losses else epochs

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


# What may differ when a run is resumed: it changes where and how fast things run, not what is recorded.
RESUME_MAY_CHANGE = frozenset({"output_dir", "num_workers", "cache_images", "cache_budget", "report_to", "runs"})


def _require(holds: bool, name: str, value: Any, wanted: str) -> None:
    if not holds:
        raise InputError(f"--{name.replace('_', '-')} is {value!r}: it must be {wanted}")


def _check_type(name: str, value: Any, kind: Any) -> None:
    if get_origin(kind) is Literal:
        _require(value in get_args(kind), name, value, "one of " + ", ".join(get_args(kind)))
        return
    if get_origin(kind) is list:
        is_list = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        _require(is_list, name, value, "a list of strings")
        return
    if get_origin(kind) is UnionType:
        if value is None:
            return
        kind = next(part for part in get_args(kind) if part is not NoneType)
    if kind is float:
        # A bool is an int in Python, and never meant as a number.
        right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    else:
        right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    _require(right, name, value, _KINDS[kind])
