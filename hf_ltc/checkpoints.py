"""Trajectories from saved weights, after the fact: any classifier, any dataset that a collator makes inputs of."""

import inspect
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import load_checkpoint_in_model, send_to_device
from datasets import ClassLabel, Dataset
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from . import models, rundir
from .columns import read_column
from .config import SIGNALS
from .data import class_names, find_label_column, hold_out, one_line, read_labels
from .errors import InputError
from .identity import dataset_identity
from .provenance import versions
from .recording import TRAIN, VALIDATION, TrajectoryRecorder, signals_of
from .trajectories import Trajectories

Checkpoint = nn.Module | Mapping[str, torch.Tensor] | str | Path | Callable[[], nn.Module]
Collate = Callable[[list[Any]], Any]
Observer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]

# What transformers' Trainer and its collators know as labels.
LABELS = ("labels", "label", "label_ids")
_STEP = re.compile(r"(\d+)$")


@dataclass(frozen=True)
class RowsToRecord:
    """Which rows of a dataset can be chosen and which are validation samples, with their labels.

    `labels` are numbered by class, `targets` are the numbers that the model was given: they differ where a column of
    integers leaves some out.
    """

    train: Dataset
    validation: Dataset
    rows: np.ndarray
    labels: np.ndarray
    targets: np.ndarray
    validation_rows: np.ndarray | None
    validation_labels: np.ndarray
    validation_targets: np.ndarray
    names: list[str]
    ids: pa.Array | None
    identity: dict[str, Any]
    validation_identity: dict[str, Any]

    @property
    def sizes(self) -> dict[str, int]:
        """For the recipe."""
        return {
            "classes": len(self.names),
            "rows": len(self.rows),
            "validation_rows": len(self.validation_labels),
        }

    def recorder(
        self, output_dir: str | Path, losses: Sequence[str], state: Accelerator | PartialState, **recipe: Any
    ) -> TrajectoryRecorder:
        """The recorder of these rows, its recipe with all that is known of them and of the machine."""
        return TrajectoryRecorder(
            output_dir,
            rows=self.rows,
            labels=self.labels,
            validation_rows=self.validation_rows,
            validation_labels=self.validation_labels,
            losses=losses,
            ids=self.ids,
            accelerator=state,
            recipe={
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "dataset": self.identity,
                "validation": self.validation_identity,
                "hardware": {
                    "device": torch.cuda.get_device_name(state.device) if state.device.type == "cuda" else "cpu",
                    "processes": state.num_processes,
                },
                "versions": versions(),
                **recipe,
            },
        )


def rows_to_record(
    train: Dataset,
    validation: Dataset | None,
    *,
    label_column: str | None = None,
    id_column: str | None = None,
    validation_fraction: float = 0.1,
    validation_per_class: int = 50,
    validation_seed: int = 0,
) -> RowsToRecord:
    """Reads the labels and holds validation samples out; nothing else is read but a few rows for the identity.

    Raises:
        InputError: for a column or labels that cannot be recorded.
    """
    for name, given in (("train", train), ("validation", validation)):
        if given is not None and not isinstance(given, Dataset):
            raise InputError(
                f"{name} is a {type(given).__name__}: give a datasets.Dataset, a split whose rows have numbers"
            )
    column = _label_column(train, label_column)
    names = class_names(train, column)
    labels = read_labels(train, column)
    values = _targets(train, column, names)
    identity = dataset_identity(train, column) | {"id_column": id_column, "names": names}
    ids = None
    if id_column is not None:
        ids = read_column(train, id_column).combine_chunks()
        if ids.null_count or len(ids.unique()) < len(ids):
            raise InputError(f"id_column {id_column!r} has ids that occur twice or are null: rows need their own")
    if validation is not None:
        other = _label_column(validation, column if column in validation.column_names else None)
        number = read_labels(validation, other, names)
        return RowsToRecord(
            train=train,
            validation=validation,
            rows=np.arange(len(train)),
            labels=labels,
            targets=values[labels],
            validation_rows=None,
            validation_labels=number,
            validation_targets=values[number],
            names=names,
            ids=ids,
            identity=identity,
            validation_identity=dataset_identity(validation, other),
        )
    rows, held = hold_out(labels, validation_fraction, validation_per_class, validation_seed, names)
    return RowsToRecord(
        train=train.select(rows),
        validation=train.select(held),
        rows=rows,
        labels=labels[rows],
        targets=values[labels[rows]],
        validation_rows=held,
        validation_labels=labels[held],
        validation_targets=values[labels[held]],
        names=names,
        ids=None if ids is None else ids.take(pa.array(rows)),
        identity=identity,
        validation_identity={
            "held_out": len(held),
            "validation_fraction": validation_fraction,
            "validation_per_class": validation_per_class,
            "validation_seed": validation_seed,
        },
    )


def record_checkpoints(
    checkpoints: Sequence[Checkpoint],
    train: Dataset,
    validation: Dataset | None = None,
    *,
    output_dir: str | Path,
    model: nn.Module | None = None,
    collate: Collate | None = None,
    epochs: Sequence[int] | None = None,
    signals: Sequence[str] = (),
    label_column: str | None = None,
    id_column: str | None = None,
    validation_fraction: float = 0.1,
    validation_per_class: int = 50,
    validation_seed: int = 0,
    batch_size: int = 256,
    num_workers: int = 0,
) -> Trajectories:
    """Records evaluation losses with weights that were saved while a model was trained, as CLD's code does
    (arXiv 2508.20230): one pass over the rows for each of them.

    ```python
    paths = [f"out/checkpoint-{step}" for step in range(100, 1100, 100)]
    collate = DataCollatorWithPadding(tokenizer)
    run = record_checkpoints(paths, train, validation, output_dir="runs/mine", collate=collate)
    ```

    A checkpoint is written when all of its rows are there. The same call goes on after an interruption; what is
    recorded is not loaded again, and a list that has grown is recorded from there on.

    Args:
        checkpoints (`Sequence`):
            In the order of training: folders of `save_pretrained` or of the Trainer, files of weights (`.safetensors`,
            or `.pt` and `.bin` without code in them), state dicts, models, or functions that make a model.
        train (`datasets.Dataset`): Rows with what the model takes and a class label.
        validation (`datasets.Dataset`, *optional*):
            Validation samples, which the models were not trained on; held out of `train` if not given.
        output_dir (`str` or `Path`): The run directory.
        model (`torch.nn.Module`, *optional*):
            What state dicts and files are loaded into; folders of transformers' models need none.
        collate (`Callable`, *optional*):
            Makes a batch of a list of rows: a mapping, passed to the model by name without its labels, or a tensor.
            transformers' `default_data_collator` if not given. It gets the columns that the model's `forward` names,
            or all of them if there is no such column.
        epochs (`Sequence[int]`, *optional*): Training epochs before each checkpoint; 1, 2, ... if not given.
        signals (`Sequence[str]`, *optional*): Further signals a row: `margin`, `correct`, `el2n`.
        label_column (`str`, *optional*): Column with the labels: `labels`, `label` or the one `ClassLabel` column.
        id_column (`str`, *optional*): Column with a unique id a row, to attach by.
        validation_fraction (`float`, *optional*, defaults to `0.1`): Share of each class that is held out.
        validation_per_class (`int`, *optional*, defaults to `50`): At most so many rows of a class.
        validation_seed (`int`, *optional*, defaults to `0`): Seed of the hold-out.
        batch_size (`int`, *optional*, defaults to `256`): Rows a forward pass and process.
        num_workers (`int`, *optional*, defaults to `0`): Processes that read and collate.

    Returns:
        [`Trajectories`]: evaluation losses float32 `(L, N)` in nats and validation losses `(L, Q)`, on every process.

    Raises:
        InputError: for weights that are missing, do not fit or are not in the order of training; for data that cannot
            be recorded; for a folder with another recording.
    """
    numbers = list(range(1, len(checkpoints) + 1)) if epochs is None else [int(epoch) for epoch in epochs]
    _check_order(checkpoints, numbers)
    check_signals(signals)
    done = rundir.published_epochs(Path(output_dir))
    waiting = [(epoch, checkpoint) for epoch, checkpoint in zip(numbers, checkpoints) if epoch not in done]
    for _, checkpoint in waiting:
        # Before anything is written, and before hours are spent on those that come first.
        _check_there(checkpoint, model)
    data = rows_to_record(
        train,
        validation,
        label_column=label_column,
        id_column=id_column,
        validation_fraction=validation_fraction,
        validation_per_class=validation_per_class,
        validation_seed=validation_seed,
    )
    # Not PartialState, which leaves the choice of processors over devices to its maker.
    state = Accelerator()
    recorder = data.recorder(
        output_dir,
        ["evaluation_loss", *signals],
        state,
        config={"losses": "evaluation", "signals": list(signals)},
        training=data.sizes,
    )
    targets = {
        TRAIN: torch.from_numpy(data.targets).to(state.device),
        VALIDATION: torch.from_numpy(data.validation_targets).to(state.device),
    }
    bar = tqdm(
        total=len(waiting) * (len(data.rows) + len(data.validation)),
        desc="recording checkpoints",
        unit="row",
        disable=None if state.is_main_process else True,
    )
    make_batch = _default_collate() if collate is None else collate
    for epoch, checkpoint in waiting:
        loaded = _load(checkpoint, model).to(state.device)
        with recorder.epoch(epoch):
            for split, rows in ((TRAIN, data.train), (VALIDATION, data.validation)):

                def observe(positions: Any, losses: Any, logits: Any, labels: Any, split: str = split) -> None:
                    made = signals_of(signals, logits, labels) if split == TRAIN else []
                    recorder.add(split, positions, losses, *made)
                    bar.update(len(positions) * state.num_processes)

                evaluate_rows(
                    loaded,
                    accepted_columns(loaded, rows),
                    targets[split],
                    make_batch,
                    observe,
                    state=state,
                    batch_size=batch_size,
                    num_workers=num_workers,
                )
    bar.close()
    return recorder.finish()


def evaluate_rows(
    model: nn.Module,
    dataset: Dataset,
    targets: torch.Tensor,
    collate: Collate,
    observe: Observer,
    *,
    state: Accelerator | PartialState,
    batch_size: int,
    num_workers: int = 0,
) -> None:
    """Runs a model over all rows in evaluation mode, each process over its own part; no random state is changed.

    Args:
        model (`torch.nn.Module`): The model, not wrapped for several processes.
        dataset (`datasets.Dataset`): The rows.
        targets (`torch.Tensor`): int64 `(N,)`, the labels as the model numbers them, on the device.
        collate (`Callable`): Makes a batch of a list of rows.
        observe (`Callable`):
            Called with positions `(B,)`, float32 cross-entropy losses `(B,)`, float32 logits `(B, C)` and labels
            `(B,)` of every forward pass.
        state (`accelerate.Accelerator` or `PartialState`): The processes.
        batch_size (`int`): Rows a forward pass.
        num_workers (`int`, *optional*, defaults to `0`): Processes that read and collate.
    """
    mine = np.array_split(np.arange(len(dataset), dtype=np.int64), state.num_processes)[state.process_index]
    if not len(mine):
        return
    loader: Any = DataLoader(
        dataset.select(range(mine[0], mine[-1] + 1)),
        batch_size,
        collate_fn=collate,
        num_workers=num_workers,
    )
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    done, classes = 0, int(targets.max()) + 1
    with _random_state_kept(state.device), torch.no_grad():
        for batch in loader:
            batch = send_to_device(batch, state.device)
            if isinstance(batch, Mapping):
                outputs = model(**{key: value for key, value in batch.items() if key not in LABELS})
            else:
                outputs = model(batch)
            logits = logits_of(outputs, classes)
            positions = torch.arange(mine[0] + done, mine[0] + done + len(logits), device=state.device)
            labels = targets[positions]
            observe(positions, cross_entropy(logits, labels, reduction="none"), logits, labels)
            done += len(logits)
    for module, training in modes:
        module.training = training
    if done != len(mine):
        raise InputError(f"the collator made {done} samples of {len(mine)} rows: it has to make one of each row")


def logits_of(outputs: Any, classes: int) -> torch.Tensor:
    """The float32 logits `(B, C)` among what a classifier returns.

    Raises:
        InputError: if there are none, or fewer than classes.
    """
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else outputs
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        shown = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"the model returned {shown} where logits of shape (rows, classes) were expected: record a classifier "
            "that returns its logits, or a mapping with them as 'logits'"
        )
    if logits.shape[1] < classes:
        raise InputError(
            f"the model returned {logits.shape[1]} logits a row for labels up to {classes - 1}: make it with "
            f"num_labels={classes}"
        )
    return logits.float()


def accepted_columns(model: nn.Module, dataset: Dataset) -> Dataset:
    """Leaves out the columns that a model's `forward` does not name, as transformers' Trainer does.

    All are left in if it names none, as where a collator makes the inputs, and in a dataset with a transform.
    """
    named = set(inspect.signature(model.forward).parameters)
    if dataset.format["type"] == "custom" or not named.intersection(dataset.column_names):
        return dataset
    return dataset.remove_columns([name for name in dataset.column_names if name not in {*named, *LABELS}])


def check_signals(signals: Sequence[str]) -> None:
    """Checks the names of signals.

    Raises:
        InputError: for one that is unknown.
    """
    for signal in signals:
        if signal not in SIGNALS:
            raise InputError(f"no signal {signal!r}: choose of {', '.join(SIGNALS)}")


def _label_column(dataset: Dataset, name: str | None) -> str:
    known = [column for column in LABELS if column in dataset.column_names]
    return find_label_column(dataset, known[0] if name is None and known else name)


def _targets(dataset: Dataset, column: str, names: list[str]) -> np.ndarray:
    """The number that the model was given for each class."""
    feature = dataset.features[column]
    if isinstance(feature, ClassLabel):
        return np.arange(len(names))
    if "string" in feature.dtype:
        raise InputError(
            f"column {column!r} holds strings, and how the model numbers them is not known: encode them with "
            f"dataset.class_encode_column({column!r}) and train on that"
        )
    return np.array([{"False": 0, "True": 1}.get(name) if feature.dtype == "bool" else int(name) for name in names])


def _check_order(checkpoints: Sequence[Checkpoint], epochs: Sequence[int]) -> None:
    if not checkpoints:
        raise InputError("no checkpoints: give one or more, in the order of training")
    if len(epochs) != len(checkpoints):
        raise InputError(f"epochs has {len(epochs)} numbers for {len(checkpoints)} checkpoints")
    if any(later <= earlier for earlier, later in pairwise(epochs)) or epochs[0] < 0:
        raise InputError(f"epochs is {list(epochs)}: give increasing numbers from 0 on, one of each checkpoint")
    paths = [Path(path) for path in checkpoints if isinstance(path, str | Path)]
    steps = [(int(match[1]), path) for path in paths if (match := _STEP.search(path.stem))]
    if len(steps) == len(checkpoints):
        for (earlier, first), (later, second) in pairwise(steps):
            if later <= earlier:
                raise InputError(
                    f"checkpoint {first.name!r} comes before {second.name!r}: give them in the order of training "
                    "(sorted by number, not by name)"
                )


def _check_there(checkpoint: Checkpoint, model: nn.Module | None) -> None:
    if isinstance(checkpoint, str | Path):
        path = Path(checkpoint)
        if not path.exists():
            raise InputError(f"no checkpoint {str(path)!r}: check the path")
        if model is None and not (path / "config.json").is_file():
            raise InputError(
                f"the checkpoint {str(path)!r} is no folder with a config.json: give model= for its weights"
            )
    elif isinstance(checkpoint, Mapping) and model is None:
        raise InputError("a state dict needs model=, which it is loaded into")


def _load(checkpoint: Checkpoint, model: nn.Module | None) -> nn.Module:
    if isinstance(checkpoint, nn.Module):
        return checkpoint
    if isinstance(checkpoint, str | Path):
        path = Path(checkpoint)
        try:
            if model is None:
                return _from_folder(path)
            if path.is_dir():
                load_checkpoint_in_model(model, str(path), strict=True)
                return model
            checkpoint = _weights(path)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"cannot load the checkpoint {str(path)!r} ({one_line(error)}): give weights that fit the model, as "
                "safetensors or as a state dict"
            ) from error
    elif not isinstance(checkpoint, Mapping):
        return checkpoint()
    assert model is not None
    try:
        model.load_state_dict(checkpoint)
    except RuntimeError as error:
        raise InputError(
            f"a checkpoint does not fit the model ({one_line(error)}): give the model it is of"
        ) from error
    return model


def _from_folder(path: Path) -> nn.Module:
    made = rundir.read_json(path / "config.json").get("architectures")
    if not made:
        return models.load_model(path)
    import transformers

    model, found = getattr(transformers, made[0]).from_pretrained(path, output_loading_info=True)
    if missing := sorted(found["missing_keys"]):
        raise InputError(f"the checkpoint {str(path)!r} has no weights for {missing[0]} ({len(missing)} missing)")
    return model


def _weights(path: Path) -> Mapping[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    # Training loops keep the weights beside the optimiser, under one of these names.
    nested = [
        stored[key] for key in ("state_dict", "model_state_dict", "model") if isinstance(stored.get(key), Mapping)
    ]
    weights = dict(nested[0] if nested else stored)
    consume_prefix_in_state_dict_if_present(weights, "module.")
    return weights


def _default_collate() -> Collate:
    from transformers import default_data_collator

    return default_data_collator


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """What a transform draws while rows are only evaluated, a training is not to notice."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    random.setstate(python)
    np.random.set_state(numpy)
