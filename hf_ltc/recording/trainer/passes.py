"""How a Trainer passes its rows, with their positions among the recorded ones."""

import hashlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate.data_loader import DataLoaderAdapter, get_sampler
from accelerate.utils.memory import should_reduce_batch_size
from datasets import Dataset, Value
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from ...data.columns import read_column, with_columns
from ...training.batches import Collate
from ...utils.errors import InputError, one_line, some_rows

# What else of the arguments says how a Trainer trains.
_HOW = ("num_train_epochs", "optim", "learning_rate", "lr_scheduler_type", "weight_decay", "label_smoothing_factor")
# The column with a row's position among the recorded rows, which travels with the batch into the model's forward.
POSITION = "hf_ltc_position"
# And that with a validation sample's position among the others.
VALIDATION_POSITION = "hf_ltc_validation_position"


@dataclass(frozen=True)
class Positioned:
    """A collator that adds the rows' positions to the batch that another one makes."""

    collate: Collate

    def __call__(self, rows: list[Mapping[str, Any]]) -> Any:
        if any(POSITION not in row for row in rows):
            raise InputError(f"the rows lost the column {POSITION!r} on their way: leave it in")
        batch = self.collate([{name: value for name, value in row.items() if name != POSITION} for row in rows])
        batch[POSITION] = torch.tensor([int(row[POSITION]) for row in rows])
        return batch


@dataclass(frozen=True)
class _Transform:
    """A transform that adds the rows' positions to what another one makes."""

    transform: Callable[[dict[str, Any]], Mapping[str, Any]]
    column: str

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        positions = rows.pop(self.column)
        return {**self.transform(rows), self.column: positions}


def with_positions(dataset: Dataset, column: str = POSITION) -> Dataset:
    positions = pa.array(np.arange(len(dataset), dtype=np.int64))
    marked = with_columns(dataset, {column: (positions, Value("int64"))})
    shown = marked.format
    if shown["type"] != "custom":
        return marked
    return marked.with_transform(
        _Transform(shown["format_kwargs"]["transform"], column), shown["columns"], shown["output_all_columns"]
    )


def accepts_positions(model: nn.Module) -> bool:
    """Whether `forward` names the positions."""
    return POSITION in inspect.signature(model.forward).parameters


def accept_positions(model: nn.Module) -> None:
    """Makes `forward` name the positions, so that the Trainer keeps their column, without passing them on."""
    if accepts_positions(model):
        return
    signature = inspect.signature(model.forward)
    plain = model.forward

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop(POSITION, None)
        # A deep copy of the model is to run itself.
        return plain.__func__(self, *args, **kwargs) if inspect.ismethod(plain) else plain(*args, **kwargs)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    mine = inspect.Parameter(POSITION, inspect.Parameter.KEYWORD_ONLY, default=None)
    others = list(signature.parameters.values())
    place = next((i for i, one in enumerate(others) if one.kind is inspect.Parameter.VAR_KEYWORD), len(others))
    shown: Any = forward
    shown.__signature__ = inspect.Signature([own, *others[:place], mine, *others[place:]])
    model.forward = MethodType(forward, model)


def plain_loader(loader: Any) -> DataLoader[Any]:
    """The loader of torch that calls the collator: accelerate's loaders hold it, and a Trainer takes one as it is."""
    inner = loader.base_dataloader if isinstance(loader, DataLoaderAdapter) else loader
    if not isinstance(inner, DataLoader):
        raise InputError(
            f"get_train_dataloader returned a {type(loader).__name__}, whose batches cannot be told by row: return a "
            "torch.utils.data.DataLoader, or one that accelerate has prepared"
        )
    return inner


def steps_of(args: TrainingArguments, loader: Any, processes: int) -> dict[str, Any]:
    """Which rows a step trains on, and how, for the recipe."""
    # The Trainer's own argument is not what it trains with where it has to find a batch size that fits in memory.
    sampler = plain_loader(loader).batch_sampler
    batch_size = getattr(sampler, "batch_size", None) or args.per_device_train_batch_size
    return {
        "steps_per_epoch": math.ceil(len(loader) / args.gradient_accumulation_steps),
        "processes": processes,
        "per_device_train_batch_size": batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        **{name: getattr(args, name) for name in _HOW},
    }


def order_of(args: TrainingArguments, loader: Any, dataset: Dataset) -> dict[str, Any]:
    """What the order of rows within an epoch depends on, as far as that is known."""
    sampler = get_sampler(loader)
    positions = np.asarray(read_column(dataset, POSITION), dtype="<i8")
    return {
        "sampler": type(sampler).__name__,
        # Of accelerate's sampler, which the Trainer's is turned into.
        "seed of the order": getattr(sampler, "initial_seed", None),
        "loader": type(loader).__name__,
        "split_batches": getattr(args.accelerator_config, "split_batches", None),
        "order of train_dataset": hashlib.sha256(positions.tobytes()).hexdigest()[:8],
    }


def check_rows(
    args: TrainingArguments, model: nn.Module, dataset: Any, rows: int, is_language_model: bool = False
) -> None:
    """Checks that a Trainer trains on all rows that are to be recorded, with their positions.

    Raises:
        InputError: if it does not, with what to do.
    """
    if args.n_gpu > 1:
        raise InputError(
            f"the Trainer would run one process on {args.n_gpu} devices (torch.nn.DataParallel), which is not "
            "recorded: start it with accelerate launch or torchrun, or set CUDA_VISIBLE_DEVICES to one of them"
        )
    if not isinstance(dataset, Dataset):
        raise InputError(
            f"the Trainer's train_dataset is a {type(dataset).__name__}: give train_dataset=callback.train_dataset as "
            "it is, a datasets.Dataset whose rows have numbers (its with_transform can augment them)"
        )
    if POSITION not in dataset.column_names:
        if accepts_positions(model) and not is_language_model:
            fix = (
                "give train_dataset=callback.train_dataset, and remove_unused_columns=False for a model wrapped as by "
                "PEFT"
            )
        elif is_language_model:
            fix = "give train_dataset=callback.train_dataset, and then call callback.add_to(trainer)"
        else:
            fix = (
                "the callback, or the model, came after the Trainer was made, so give Trainer(model=model, "
                "train_dataset=callback.train_dataset, callbacks=[callback]) and neither trainer.add_callback nor "
                "model_init, or set remove_unused_columns=False"
            )
        raise InputError(f"the Trainer's rows have no column {POSITION!r}: {fix}")
    found = np.unique(read_column(dataset, POSITION))
    if len(found) != rows:
        raise InputError(
            f"the Trainer has {len(found)} of the {rows} rows of callback.train_dataset (its rows "
            f"{some_rows(np.setdiff1d(np.arange(rows), found))} are missing): give all of them, or make the callback "
            "with the rows that are trained on; TRL leaves out rows of which no token counts, as where a prompt fills "
            "`max_length`"
        )
    if args.dataloader_drop_last:
        raise InputError("dataloader_drop_last leaves rows out of every epoch: set it to False")


def check_unpacked(args: TrainingArguments) -> None:
    """Checks that TRL's `SFTTrainer` keeps each row a sequence of its own.

    Raises:
        InputError: if it packs rows, or joins those of a batch.
    """
    for name in ("packing", "eval_packing", "padding_free"):
        if getattr(args, name, False):
            raise InputError(
                f"{name}=True puts several rows into one sequence, so that losses cannot be told by row: set "
                f"{name}=False"
            )


@contextmanager
def memory_told(args: TrainingArguments) -> Iterator[None]:
    """Names the evaluation batch size if it is too large, since the Trainer would lower only that of training.

    Raises:
        InputError: if there is no memory for it.
    """
    try:
        yield
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        raise InputError(
            f"no memory to compute losses in batches of {args.per_device_eval_batch_size} "
            f"({one_line(error)}): lower `per_device_eval_batch_size`"
        ) from error
