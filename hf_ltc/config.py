"""The settings of recordings and evaluations: every field is an option of the command, and stored with the results."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from .recipe import Recipe
from .utils.errors import InputError
from .utils.files import expanded
from .utils.settings import (
    NOT_EMPTY,
    Amount,
    Check,
    Count,
    Names,
    Part,
    Rate,
    Share,
    Side,
    Workers,
    check_fields,
    check_seeds,
    different,
    option,
)

# How many typical rows of each class come first: a share of them with texts, and of images so many rows at most. Both
# are what won the benchmarks (docs/results.md); texts that begin with few of them are worse than random rows.
TYPICAL_SHARE, TYPICAL_ROWS = 0.1, 25
SIGNALS = ("margin", "correct", "el2n", "predicted")
# Those that are class numbers, of which there is no mean.
CLASS_SIGNALS = ("predicted",)


Store = Literal["trajectories", "compact", "summary"]
Signal = Annotated[str, Check("of " + ", ".join(SIGNALS), lambda name: name in SIGNALS)]


@dataclass(frozen=True)
class DataConfig:
    """Which dataset is recorded."""

    dataset: str | None = option(
        None, "Hub id, save_to_disk folder, image folder, folder of Parquet files, or one Parquet file."
    )
    split: str = option("train", "Split to record, or a slice of one: 'train[:10000]'.")
    validation_split: str | None = option(None, "Split of validation samples; held out of `split` if not given.")
    dataset_config: str | None = option(None, "Configuration of the dataset, where it has several.")
    revision: str | None = option(None, "Revision of a dataset on the Hub.")

    def source(self) -> dict[str, Any]:
        """Where the dataset is, for a recipe; a path in it is never pushed."""
        found: dict[str, Any] = {"split": self.split, "config": self.dataset_config, "revision": self.revision}
        found |= {"validation_split": self.validation_split} if self.validation_split else {}
        assert self.dataset is not None
        local = Path(expanded(self.dataset))
        return found | ({"path": str(local.resolve())} if local.exists() else {"repo_id": self.dataset})


@dataclass(frozen=True)
class RecordConfig:
    """Settings of [`record`].

    The defaults are what worked best in our benchmarks: training losses, which cost nothing extra, and validation
    losses at averaged weights, with which two seeds agree. `losses="evaluation", weights="raw", schedule="step"` is
    the protocol of the papers (arXiv 2503.09721, arXiv 2508.20230).

    `hf-ltc record --help` describes each field.

    Raises:
        InputError: for a value outside its range, naming the parameter.
    """

    model: str | None = option(
        None,
        "Source model: a timm name, or embedding_bag for texts, or transformers:ID_OR_FOLDER_OR_CONFIG; if not given, "
        "resnet18 for images and embedding_bag for texts.",
    )
    epochs: Count = option(30, "Training epochs. Losses are recorded before training (epoch 0) and after each epoch.")
    output_dir: str = option("runs/ltc", "The run directory. The same command resumes an interrupted run in it.")

    image_column: str | None = option(None, "Column with the images; found by its feature type if not given.")
    text_column: str | None = option(None, "Column with the texts, if rows are texts and not images.")
    text_pair_column: str | None = option(None, "Column with the second texts, if rows are pairs of texts.")
    label_column: str | None = option(None, "Column with the class labels; found by its feature type if not given.")
    id_column: str | None = option(
        None, "Column with a unique id for each row, to join rows by id instead of by position."
    )

    losses: Literal["training", "evaluation", "both"] = option(
        "training",
        "Losses of the training rows: as the optimizer sees them (no extra pass), from an evaluation pass after each "
        "epoch, or both.",
    )
    weights: Literal["averaged", "raw"] = option(
        "averaged",
        "Weights that evaluation and validation losses are computed with: averaged over about one epoch, or raw.",
    )
    average_decay: Rate | None = option(None, "Decay of the average per step; 1 - 1 / (steps per epoch) if not given.")
    initial_losses: bool = option(True, "Record the losses of the untrained model as epoch 0.")
    record_every: Count = option(1, "Record after every k-th epoch (and always after the last).")
    signals: Annotated[list[Signal], different("names")] = option(
        [],
        "Per-sample metrics to record besides the loss: margin, correct and el2n for the baselines, predicted (the "
        "predicted class) for hf-ltc audit.",
    )
    features: bool = option(
        False,
        "Keep the input of the source model's last layer for every row, at the weights of validation losses: for "
        "near-duplicates in hf-ltc audit, and for maps. With several `runs`, only of the first. The same command "
        "adds them to a finished run.",
    )

    store: Store = option(
        "trajectories",
        "Keep trajectories (the losses of every row in every epoch), compact trajectories (one byte per loss, a "
        "quarter of the space), or a summary: running sums for each row, whose size does not depend on the number of "
        "epochs, for scores that aggregate losses, such as the default.",
    )

    validation_fraction: Part = option(0.1, "Without a validation split: hold out this share of each class.")
    validation_per_class: Count = option(
        50, "Without a validation split: hold out at most this many rows of each class."
    )
    validation_seed: int = option(
        0, "Seed of the hold-out; separate from `seed`, so that different seeds hold out the same rows."
    )
    rotate_validation: bool = option(
        False, "With several `runs`: hold out different rows in each, so that every row can be chosen."
    )
    allow_shared_rows: bool = option(
        False,
        "Accept a validation split that shares rows with the training data, and held-out rows that the dataset has "
        "twice, such as blank tiles that all look the same.",
    )

    batch_size: Count = option(128, "Batch size per process. The batches of an epoch differ by one row at most.")
    eval_batch_size: Count = option(512, "Batch size per process of evaluation and validation losses.")
    optimizer: Literal["sgd", "adamw"] | None = option(
        None, "SGD with Nesterov momentum 0.9, or AdamW; SGD for images and AdamW for texts if not given."
    )
    learning_rate: Amount | None = option(
        None,
        "Peak learning rate; if not given, 0.1 for SGD and 1e-3 for AdamW on images; on texts, 1e-2 for "
        "embedding_bag, 5e-4 for transformers, and 5e-5 for pretrained ones.",
    )
    weight_decay: Amount | None = option(
        None,
        "Weight decay; if not given, 5e-4 for images and for SGD; with AdamW on texts, 0 for embedding_bag and 0.01 "
        "for transformers.",
    )
    schedule: Literal["one-cycle", "cosine", "step", "constant"] = option(
        "one-cycle", "Learning rate schedule; step, as in the papers, is x0.1 at 1/2 and 3/4 of the epochs."
    )
    label_smoothing: Rate = option(0.0, "Label smoothing in training; recorded losses do not have it.")
    gradient_accumulation_steps: Count = option(1, "Batches per optimizer step.")
    seed: int = option(0, "Seed of the weights, the order of the rows and the augmentation.")
    runs: Count = option(1, "Number of runs, with seeds seed, seed + 1, ...: scores are averaged over them.")
    stop_when_stable: Share | None = option(
        None,
        "End a run early once LTC over all epochs correlates this much with LTC over the first half. This is "
        "stability within a run; it does not mean that another seed would rank the rows the same way (`runs` shows "
        "that). In docs/results.md, 0.9 saved half of the epochs or none, and cost accuracy.",
    )

    stem: Literal["auto", "small", "imagenet"] = option(
        "auto", "ResNet stem: small is 3x3, stride 1, no pooling; auto uses it for images up to 64 pixels."
    )
    pretrained: bool = option(False, "Start from pretrained weights, if there are any.")
    image_size: Side | None = option(None, "Side of the square images; found from the data if not given.")
    max_length: Count | None = option(
        None, "Maximum number of tokens of a text; if not given, as many as the model can take, up to 512."
    )
    augment: bool = option(True, "Random crops and horizontal flips of images while training.")
    mixed_precision: Literal["no", "fp16", "bf16"] = option("no", "Autocast of the forward pass; losses stay float32.")
    channels_last: bool = option(False, "Use the channels-last memory format.")
    compile: bool = option(False, "Use torch.compile.")

    cache_images: Literal["auto", "always", "never"] = option(
        "auto",
        "Decode images once and keep them in memory as uint8; auto does so if they fit `cache_budget`. Random cuts of "
        "images above 64 pixels are always made from the files.",
    )
    cache_budget: Amount = option(4.0, "GiB of memory per process that the image cache may take.")
    num_workers: Workers = option(2, "Worker processes that decode images that are not cached.")
    report_to: list[str] = option([], "Trackers of accelerate, e.g. tensorboard.")

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("seed", "validation_seed"):
            check_seeds(self, name, self.runs)
        _check_summary(self)
        # Three losses have two differences: with only one, all scores would be 1 or -1.
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


# What may differ when a run is resumed: it changes where and how fast it runs, not what is recorded. Whether
# validation samples rotate is told by them, so that runs of versions that did not know of it resume.
RESUME_MAY_CHANGE = frozenset(
    {
        *("output_dir", "num_workers", "cache_images", "cache_budget", "report_to", "runs", "allow_shared_rows"),
        "rotate_validation",
        # They are made after all else, of a run that has ended too.
        "features",
        # Told by what was recorded, so that runs of versions that did not know of it resume.
        "store",
    }
)


def _check_summary(config: RecordConfig) -> None:
    """Checks that running sums are enough for what is asked."""
    asked = {
        "losses": config.losses == "both",
        "signals": bool(config.signals),
        "features": config.features,
        "rotate_validation": config.rotate_validation,
        "stop_when_stable": config.stop_when_stable is not None,
    }
    for name in (name for name, given in asked.items() if given and config.store == "summary"):
        raise InputError(
            f"`store` summary keeps running sums of one loss of each row, and `{name}` {getattr(config, name)!r} "
            "needs more: leave it out, or record with `store` trajectories"
        )


def _like_record(name: str) -> Any:
    """The field of [`RecordConfig`] of that name, with the same default, meaning and help."""
    same = RecordConfig.__dataclass_fields__[name]
    return field(default=same.default, metadata=same.metadata)


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of [`evaluate_coresets`].

    Every model is trained from scratch by the same settings whatever rows it is trained on, and tested after the last
    step: nothing is tuned for a budget or a method, and no epoch is picked by its test accuracy.

    `hf-ltc evaluate --help` describes each field.

    Raises:
        InputError: for a value outside its range, naming the parameter.
    """

    models: Annotated[Names, NOT_EMPTY] | None = option(
        None,
        "Target models, named as `RecordConfig.model`; if not given, resnet18 for images and embedding_bag for texts.",
    )
    fractions: Annotated[list[Share], different("numbers"), NOT_EMPTY] = option(
        [0.1, 0.3], "Budgets, as shares of the candidate rows, in (0, 1]."
    )
    members: Names | None = option(
        None,
        "Score variants: ltc, cld, das, weighted-das, or OF-AGGREGATE-SCOPE such as levels-losses-class, optionally "
        "with -uncertainty; typical-NAME puts typical rows first. If not given, as hf-ltc score ranks by default: "
        "typical-weighted-das, or weighted-das for images recorded for fewer than 15 epochs.",
    )
    baselines: Names = option(
        ["random"],
        "Methods to compare with: random, mean_loss, final_loss, aum, el2n, forgetting, dyn_unc, tdds, dual, ccs, "
        "s2l, dual_beta. Some need `RecordConfig.signals`.",
    )
    full: bool = option(True, "Train on all candidate rows too.")
    seeds: Count = option(3, "Number of models for each choice of rows, with seeds seed, seed + 1, ...")
    seed: int = option(0, "First seed, for the weights, the order of the rows, and the rows that are drawn.")
    recommend: Share | None = option(
        None,
        "Instead of `fractions`, find the smallest budget at which models lose at most this much accuracy against all "
        "rows (0.01 is one point); `baselines` are compared at that budget.",
    )
    output_dir: str | None = option(
        None,
        "Folder for the results; RUN/evaluation if not given. The same command resumes an interrupted evaluation.",
    )
    test_split: str = option("test", "Split that models are tested on, with rows that no recording has seen.")
    allow_shared_rows: bool = option(
        False,
        "Accept test rows that are also in the recorded dataset, such as blank tiles that all look the same.",
    )
    image_column: str | None = option(None, "Column with the images; as recorded if not given.")
    text_column: str | None = option(None, "Column with the texts; as recorded if not given.")
    text_pair_column: str | None = option(None, "Column with the second texts of pairs; as recorded if not given.")
    label_column: str | None = option(None, "Column with the class labels; as recorded if not given.")
    id_column: str | None = option(None, "Column with the ids, for rows recorded by id; as recorded if not given.")
    balance: Literal["class", "proportional", "none"] = option(
        "class", "How classes share a subset, for every method including random."
    )

    protocol: Literal["iterations", "epochs"] = option(
        "iterations",
        "What every budget gets the same number of: optimizer steps, or epochs (fewer steps for fewer rows).",
    )
    epochs: Count = option(
        30, "Epochs; with `protocol` iterations, every budget gets the steps that these take on all rows."
    )
    iterations: Count | None = option(None, "Optimizer steps, instead of `epochs`.")
    batch_size: Count = option(128, "Batch size. The batches of an epoch differ by one row at most.")
    optimizer: Literal["auto", "sgd", "adamw"] = option(
        "auto", "SGD with Nesterov momentum 0.9, or AdamW; auto uses AdamW for models without batch norm."
    )
    learning_rate: Amount | None = option(
        None, "Peak learning rate; if not given, 0.1 for SGD and 1e-3 for AdamW; on texts as when recording."
    )
    weight_decay: Amount | None = option(
        None, "Weight decay; if not given, 5e-4 for SGD and 0.05 for AdamW; on texts as when recording."
    )
    schedule: Literal["one-cycle", "cosine", "step", "constant"] = _like_record("schedule")
    label_smoothing: Rate = option(0.0, "Label smoothing in training.")
    augment: bool = _like_record("augment")
    stem: Literal["auto", "small", "imagenet"] = option(
        "auto", "First layers of the model: small is for small images; auto uses it up to 64 pixels."
    )
    pretrained: bool = _like_record("pretrained")
    image_size: Side | None = _like_record("image_size")
    max_length: Count | None = _like_record("max_length")
    mixed_precision: Literal["no", "fp16", "bf16"] = _like_record("mixed_precision")
    channels_last: bool = _like_record("channels_last")

    cache_images: Literal["auto", "always", "never"] = _like_record("cache_images")
    cache_budget: Amount = _like_record("cache_budget")
    num_workers: Workers = _like_record("num_workers")

    def __post_init__(self) -> None:
        check_fields(self)
        check_seeds(self, "seed", self.seeds)
        if self.members == [] and not self.baselines and not self.full:
            raise InputError("nothing to evaluate: give `members`, `baselines` or `full`")
        if self.iterations is not None and self.protocol != "iterations":
            raise InputError(
                f"`iterations` {self.iterations} goes with `protocol` iterations, not {self.protocol}: leave it out"
            )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


# What may differ when an evaluation is continued: which trials there are, what does not change their results, and what
# is checked by its outcome (data by their content, epochs by their number of steps).
EVALUATION_MAY_ADD = frozenset(
    {
        *("models", "fractions", "members", "baselines", "full", "seeds", "seed", "output_dir", "test_split"),
        *("allow_shared_rows", "image_column", "text_column", "text_pair_column", "label_column", "id_column"),
        *("image_size", "epochs", "iterations", "recommend"),
        *("cache_images", "cache_budget", "num_workers"),
    }
)


def require_config(config: Any, kind: type) -> None:
    """Checks that what was given as `config` is the dataclass that holds the settings.

    Raises:
        InputError: if it is anything else.
    """
    if not isinstance(config, kind):
        raise InputError(f"`config` is a {type(config).__name__}: give {kind.__name__}(...)")


def recorded_config(recipe: Recipe) -> RecordConfig | None:
    """The settings of a recording of images or texts, or `None` if its recipe does not say how to record it again."""
    if recipe.config.model is None or (recipe.training.image_size or recipe.training.max_length) is None:
        return None
    names = {each.name for each in dataclasses.fields(RecordConfig)}
    return RecordConfig(**{name: value for name, value in recipe.config.to_dict().items() if name in names})


def seen_as_recorded(recipe: Recipe) -> dict[str, Any]:
    """The options of an evaluation by which the source model is built and sees its rows as it was recorded."""
    was = recorded_config(recipe)
    if was is None:
        return {}
    return {"stem": was.stem, "image_size": was.image_size, "max_length": was.max_length}
