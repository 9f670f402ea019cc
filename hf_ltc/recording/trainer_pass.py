"""How a Trainer passes its rows, with their positions among the recorded ones, and how it resumes."""

import hashlib
import inspect
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.data_loader import DataLoaderAdapter, get_sampler
from accelerate.utils.memory import should_reduce_batch_size
from datasets import Dataset, Value
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerState, TrainingArguments

from ..data.columns import read_column, with_columns
from ..recipe import Recipe
from ..training.batches import Collate
from ..training.text.causal import SequenceBatches, check_counted
from ..trajectories import run_dir
from ..utils import files
from ..utils.errors import InputError, LTCWarning, one_line, some_rows
from .recorder import TRAIN, VALIDATION
from .rows import RecordedRows

# Which rows a step trains on, by their names in the recipe and in messages.
_STEPS = {
    "steps_per_epoch": "steps an epoch were",
    "processes": "processes were",
    "per_device_train_batch_size": "`per_device_train_batch_size` was",
    "gradient_accumulation_steps": "`gradient_accumulation_steps` was",
}
_HOW = ("num_train_epochs", "optim", "learning_rate", "lr_scheduler_type", "weight_decay", "label_smoothing_factor")
# Under which the Trainer's checkpoints, which keep a dictionary for callbacks, tell whose they are.
_MARK = "hf_ltc"
CHECKPOINT = "checkpoint"
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


@dataclass(frozen=True)
class SequenceRows:
    """Recorded rows of a language model: the Trainer, or the collator, makes tokens of them.

    Args:
        recorded ([`RecordedRows`]): The rows.
        validation (`datasets.Dataset`, *optional*): The validation samples as a Trainer prepared them.
        given (`Mapping[str, Any]`): What its model is given besides a batch.
    """

    recorded: RecordedRows
    validation: Dataset | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    def prepared_by(self, trainer: Trainer) -> "SequenceRows":
        """The same rows as TRL's `SFTTrainer` prepared them, which is made to keep the column of positions.

        Raises:
            InputError: if it packs rows, or has not got the validation samples.
        """
        check_unpacked(trainer.args)
        evaluated = trainer.eval_dataset
        parts = evaluated.values() if isinstance(evaluated, Mapping) else [evaluated]
        found = [part for part in parts if isinstance(part, Dataset) and VALIDATION_POSITION in part.column_names]
        if not found:
            raise InputError(
                "the Trainer has no validation samples: give eval_dataset=callback.validation_dataset (or a mapping "
                "with it as one of the values)"
            )
        # TRL names the columns that the collator gets. The Trainer has no other place to add one.
        made: Any = trainer
        made._set_signature_columns_if_needed()
        made._signature_columns.append(POSITION)
        patched = [each.forward for each in made.model.modules() if "forward" in vars(each)]
        named = {name for each in patched for name in inspect.signature(each, follow_wrapped=False).parameters}
        # Losses by the way that the training takes, without the logits of a whole batch.
        given = {"fused_lm_head": True, "use_cache": False} if "fused_lm_head" in named else {}
        return replace(self, validation=found[0], given=given)

    def batches(
        self, train: Dataset, collate: Collate, device: torch.device, num_workers: int
    ) -> dict[str, SequenceBatches]:
        """The rows, of which the Trainer has `train`, and the validation samples in batches.

        Raises:
            InputError: for samples that were not prepared as the rows were, and rows without a token that counts.
        """
        prepared = self.validation
        if prepared is None:
            prepared = with_positions(self.recorded.validation, VALIDATION_POSITION)
        parts = {TRAIN: _in_order(train, POSITION), VALIDATION: _in_order(prepared, VALIDATION_POSITION)}
        columns = parts[TRAIN].column_names
        if missing := [name for name in columns if name not in parts[VALIDATION].column_names]:
            raise InputError(
                f"the validation samples have no column {missing[0]!r}, which the Trainer's rows have: give "
                "eval_dataset=callback.validation_dataset, and then call callback.add_to(trainer)"
            )
        parts[VALIDATION] = parts[VALIDATION].select_columns(columns)
        wanted = len(self.recorded.validation)
        if len(parts[VALIDATION]) != wanted:
            raise InputError(
                f"the Trainer has {len(parts[VALIDATION])} of the {wanted} validation samples, as TRL leaves out "
                "those of which no token counts: leave them out before, or raise `max_length`"
            )
        held = self.recorded.validation_rows
        numbers = {TRAIN: self.recorded.rows, VALIDATION: np.arange(wanted) if held is None else held}
        for split, what in ((TRAIN, "rows"), (VALIDATION, "validation samples")):
            check_counted(parts[split], what, numbers[split])
        return {
            split: SequenceBatches(part, collate, device, num_workers, self.given) for split, part in parts.items()
        }


def _in_order(dataset: Dataset, column: str) -> Dataset:
    """A dataset by the positions in a column, without it."""
    order = np.argsort(read_column(dataset, column), kind="stable")
    return dataset.select(order).remove_columns(column)


def begin_anew(path: Path, before: int, now: int, processes: PartialState) -> None:
    """Deletes what was recorded of a training that ran out of memory, and that the Trainer begins again."""
    lost = max(run_dir.published_epochs(path), default=0)
    processes.wait_for_everyone()
    if processes.is_main_process:
        gone = f", without the {lost} epochs recorded so far" if lost else ""
        warnings.warn(
            f"there was no memory for batches of {before}, and the Trainer begins again with {now}, from the weights "
            f"that it has by now: the recording begins anew with it{gone}; to record a training from the first "
            f"weights, give `per_device_train_batch_size` {now} and another `output_dir`",
            LTCWarning,
            stacklevel=3,
        )
        (path / files.RECIPE).unlink(missing_ok=True)
        for name in (run_dir.TRAJECTORIES, CHECKPOINT):
            shutil.rmtree(path / name, ignore_errors=True)
    processes.wait_for_everyone()


def write_checkpoint(path: Path, step: int, values: Mapping[str, Any], trainer_dir: Path) -> None:
    """Writes what the callback keeps with a checkpoint of the Trainer, and deletes what belongs to none any more."""
    # By a file of Python's, whose errors say why, which those of torch's own do not.
    with files.replacing(_checkpoint(path, step)) as temporary, temporary.open("wb") as file:
        torch.save(values, file)
    for old in (path / CHECKPOINT).glob("step-*.pt"):
        other = int(old.stem.removeprefix("step-"))
        # The Trainer has rotated its own away.
        if other != step and not (trainer_dir / f"checkpoint-{other}").exists():
            old.unlink()


def read_checkpoint(path: Path, step: int) -> dict[str, Any]:
    """What the callback wrote with a checkpoint of the Trainer.

    Raises:
        InputError: if it is not there.
    """
    file = _checkpoint(path, step)
    if not file.is_file():
        raise InputError(
            f"cannot resume at step {step}: there is no {str(file)!r}, which the callback writes with every "
            "checkpoint of the Trainer: restore it, or train again with another output_dir"
        )
    return torch.load(file, map_location="cpu", weights_only=True)


def _checkpoint(path: Path, step: int) -> Path:
    return path / CHECKPOINT / f"step-{step:08d}.pt"


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


def check_resumed(path: Path, state: TrainerState, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Checks that a training that resumes is the one recorded, with epochs that begin and end at the same steps.

    Raises:
        InputError: if it is not, with the old values and the new ones.
    """
    where = f"cannot resume the recording in {str(path)!r} at step {state.global_step}"
    marks: Any = state.stateful_callbacks
    if "id" in was and marks.get(_MARK) != {"training": was["id"]}:
        raise InputError(
            f"{where}: the Trainer's checkpoint is of another training than the one recorded there; resume from one "
            "of its own, or train from the start with another `output_dir` of the callback"
        )
    differ = [f"{shown} {was[name]}, now {now[name]}" for name, shown in _STEPS.items() if was.get(name) != now[name]]
    if differ:
        raise InputError(
            f"{where}: {'; '.join(differ)}, so that what it records next would be losses of other passes over the "
            "rows; set them as they were, or train from the start with another `output_dir` of the callback"
        )


def check_inside(
    path: Path, step: int, steps: int, was: Mapping[str, Any], now: Mapping[str, Any], args: TrainingArguments
) -> None:
    """Checks that an epoch that was stopped inside will continue with the rows that it has not had.

    Raises:
        InputError: if it will not.
    """
    differ = [f"{name} was {was[name]}, now {now[name]}" for name in now if name in was and was[name] != now[name]]
    if args.ignore_data_skip:
        differ = ["`ignore_data_skip` is True, and begins it with its first rows again"]
    if differ:
        raise _inside(path, step, steps, "; ".join(differ))


def tell(path: Path, training: dict[str, Any], state: TrainerState, processes: PartialState) -> None:
    """Writes how a training continues into the recipe, and which one it is into the state that the Trainer saves."""
    recipe = path / files.RECIPE
    if processes.is_main_process:
        # Where it was ended before its last step, it is finished no more.
        kept = {name: value for name, value in files.read_json(recipe).items() if name != "epochs"}
        files.write_json(recipe, {**kept, "training": training})
    processes.wait_for_everyone()
    # All processes have the main one's.
    training["id"] = Recipe.read(recipe).training.id
    marks: Any = state.stateful_callbacks
    marks[_MARK] = {"training": training["id"]}


class RestOfEpoch:
    """The rows that an epoch has left after it was stopped inside.

    Args:
        path (`Path`): The run directory, for messages.
        step (`int`): The step at which it was stopped.
        training (`Mapping[str, Any]`): As of [`steps_of`].
        seen (`torch.Tensor`): bool `(N,)`, the rows that it has had, on the device.
    """

    def __init__(self, path: Path, step: int, training: Mapping[str, Any], seen: torch.Tensor) -> None:
        self.path, self.step, self.training, self.seen = path, step, training, seen
        # Several processes fill the last batches up with the first rows of the epoch.
        processes = training["processes"]
        self.repeated, self.may_repeat = 0, processes * training["per_device_train_batch_size"] * (processes > 1)

    def check(self, positions: torch.Tensor) -> None:
        """Checks the rows of a batch, int64 `(B,)`.

        Raises:
            InputError: if rows come that the epoch has had.
        """
        self.repeated += int(self.seen[positions].sum())
        if self.repeated > self.may_repeat:
            why = "its sampler draws another order, and gives rows again that it has had"
            raise _inside(self.path, self.step, self.training["steps_per_epoch"], why)


def _inside(path: Path, step: int, steps: int, why: str) -> InputError:
    return InputError(
        f"cannot resume the recording in {str(path)!r} at step {step}, inside of epoch {step // steps + 1}: {why}, so "
        "that it would hold rows of two passes; set that as it was, resume from a checkpoint of the Trainer at an "
        'epoch\'s end (save_strategy="epoch"), or train from the start with another `output_dir` of the callback'
    )
