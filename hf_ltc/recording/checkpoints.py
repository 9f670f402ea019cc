"""Trajectories from saved weights: of any classifier, on any dataset that a collator makes inputs from."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from accelerate.utils import load_checkpoint_in_model
from datasets import Dataset
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from ..config import RecordConfig
from ..training import models
from ..training.batches import Collate, accepted_columns
from ..training.metrics import check_metrics
from ..training.text.causal import SequenceBatches, check_causal
from ..trajectories import run_dir
from ..trajectories.value import Trajectories
from ..utils import files
from ..utils.environment import usual_torch
from ..utils.errors import InputError, as_input_error, listed
from ..utils.processes import progress_bar
from .epochs import LOSS_NAMES, TOKENS, EpochPasses
from .input_rows import input_rows, most_held_out, sequence_rows
from .recorder import TRAIN, VALIDATION

Checkpoint = nn.Module | Mapping[str, torch.Tensor] | str | Path | Callable[[], nn.Module]
_STEP = re.compile(r"(\d+)$")
# In the file of an epoch: what tells the weights that it was recorded from.
_WEIGHTS = "weights"


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
    validation_per_class: int | None = None,
    validation_seed: int = 0,
    allow_shared_rows: bool = False,
    batch_size: int = 256,
    num_workers: int = 0,
    language_model: bool = False,
) -> Trajectories:
    """Records evaluation losses from weights that were saved during training, as CLD's code does (arXiv 2508.20230):
    one pass over the rows for each checkpoint.

    ```python
    paths = [f"out/checkpoint-{step}" for step in range(100, 1100, 100)]
    collate = DataCollatorWithPadding(tokenizer)
    run = record_checkpoints(paths, train, validation, output_dir="runs/mine", collate=collate)
    ```

    A checkpoint is written as a whole, once it has all rows. The same call resumes after an interruption: recorded
    checkpoints are not loaded again, and checkpoints added to the list are recorded. Weights that have changed since
    are refused; of functions that make a model nothing tells.

    Args:
        checkpoints (`Sequence`):
            In the order of training: folders of `save_pretrained` or of the Trainer, files of weights (`.safetensors`,
            or `.pt` and `.bin` without code in them), state dicts, models, or functions that make a model.
        train (`datasets.Dataset`): Rows with the inputs of the model and a class label.
        validation (`datasets.Dataset`, *optional*):
            Validation samples, on which the models were not trained; held out of `train` if not given.
        output_dir (`str` or `Path`): The run directory.
        model (`torch.nn.Module`, *optional*):
            The model to load state dicts and files into; not needed for folders of transformers' models.
        collate (`Callable`, *optional*):
            Makes a batch from a list of rows: a mapping, passed to the model by name without its labels, or a tensor;
            transformers' `default_data_collator` if not given. It gets the columns that the model's `forward` names,
            or all columns if it names none.
        epochs (`Sequence[int]`, *optional*): Training epochs before each checkpoint; 1, 2, ... if not given.
        signals (`Sequence[str]`, *optional*): Further per-sample metrics: `margin`, `correct`, `el2n`, `predicted`.
        label_column (`str`, *optional*): Column with the labels; if not given, `labels`, `label` or the only
            `ClassLabel` column.
        id_column (`str`, *optional*): Column with a unique id for each row, to join by.
        validation_fraction (`float`, *optional*, defaults to `0.1`): Share of each class that is held out.
        validation_per_class (`int`, *optional*):
            Hold out at most this many rows of a class; if not given, 50, or 500 of all rows if there are no classes.
        validation_seed (`int`, *optional*, defaults to `0`): Seed of the hold-out.
        allow_shared_rows (`bool`, *optional*, defaults to `False`):
            Accept validation samples with the same image or text as a row of `train`, such as blank tiles. Images are
            compared as encoded files, so a copy in another format is not detected.
        batch_size (`int`, *optional*, defaults to `256`): Batch size per process.
        num_workers (`int`, *optional*, defaults to `0`): Processes that read and collate.
        language_model (`bool`, *optional*, defaults to `False`):
            The models are causal language models: rows have `input_ids`, and `collate` makes `labels` of shape
            `(rows, tokens)`, -100 for tokens that do not count. As for [`TrajectoryCallback`], rows need no classes,
            and the signal `tokens` is recorded.

    Returns:
        [`Trajectories`]: evaluation losses, float32 `(L, N)` in nats, and validation losses, `(L, Q)`, on every
        process.

    Raises:
        InputError: for weights that are missing, do not fit or are not in training order; for data that cannot be
            recorded; for a folder with another recording.
    """
    if not isinstance(checkpoints, Sequence) or isinstance(checkpoints, str | Mapping | nn.Module):
        raise InputError(
            f"`checkpoints` is a {type(checkpoints).__name__}, not a list: give the weights saved over a training, in "
            "its order"
        )
    numbers = list(range(1, len(checkpoints) + 1)) if epochs is None else [int(epoch) for epoch in epochs]
    _check_order(checkpoints, numbers)
    check_metrics(signals)
    done = run_dir.published_epochs(files.local(output_dir, "output_dir"))
    waiting = [(epoch, checkpoint) for epoch, checkpoint in zip(numbers, checkpoints) if epoch not in done]
    for _, checkpoint in waiting:
        # Before anything is written, and before hours are spent on those that come first.
        _check_there(checkpoint, model)
    config = RecordConfig(
        losses="evaluation",
        signals=list(signals),
        label_column=label_column,
        id_column=id_column,
        validation_fraction=validation_fraction,
        validation_per_class=most_held_out(validation_per_class, not language_model or label_column is not None),
        validation_seed=validation_seed,
        allow_shared_rows=allow_shared_rows,
    )
    if language_model and signals:
        raise InputError(f"`signals` {list(signals)} are of classes: leave them out with `language_model`")
    if language_model and collate is None:
        raise InputError(
            "`language_model` needs `collate`, which fills rows up and makes labels: give "
            "DataCollatorForLanguageModeling(tokenizer, mlm=False), or the data_collator of your Trainer"
        )
    data = None if language_model else input_rows(config, train, validation)
    rows = sequence_rows(config, train, validation) if data is None else data.recorded
    # Not PartialState, which leaves the choice of processors over devices to its maker. In the models' own precision,
    # whatever a launcher has set for training.
    state = Accelerator(mixed_precision="no")
    recipe = rows.recipe(state) | {
        "config": {"losses": config.losses, "signals": config.signals},
        "training": rows.sizes,
    }
    metrics = [TOKENS] if language_model else signals
    recorder = rows.recorder(output_dir, [*LOSS_NAMES["evaluation"], *metrics], state, recipe)
    _check_recorded(recorder.path, dict(zip(numbers, checkpoints)))
    total = len(waiting) * (len(rows.train) + len(rows.validation))
    bar = progress_bar(state, "recording checkpoints", "row", total)

    def each_batch(rows: int) -> None:
        bar.update(rows * state.num_processes)

    outputs = None if data is None else torch.from_numpy(data.outputs).to(state.device)
    passes = EpochPasses(recorder, config, state, batch_size, each_batch, outputs)
    make_batch = transformers.default_data_collator if collate is None else collate
    for epoch, checkpoint in waiting:
        loaded = _load(checkpoint, model).to(state.device)
        batches: Mapping[str, Any]
        if data is None:
            check_causal(loaded)
            parts = {TRAIN: rows.train, VALIDATION: rows.validation}
            how = (make_batch, state.device, num_workers)
            batches = {name: SequenceBatches(accepted_columns(loaded, part), *how) for name, part in parts.items()}
        else:
            batches = data.batches(make_batch, state.device, num_workers, loaded)
        told = _digest(checkpoint)
        recorder.marks = {} if told is None else {_WEIGHTS: told}
        with recorder.epoch(epoch):
            passes.validate(loaded, batches)
            passes.evaluate(loaded, batches)
    bar.close()
    return recorder.finish()


def _check_order(checkpoints: Sequence[Checkpoint], epochs: Sequence[int]) -> None:
    if not checkpoints:
        raise InputError("no checkpoints: give one or more, in the order of training")
    if len(epochs) != len(checkpoints):
        raise InputError(f"epochs has {len(epochs)} numbers for {len(checkpoints)} checkpoints")
    if any(later <= earlier for earlier, later in pairwise(epochs)) or epochs[0] < 0:
        raise InputError(f"`epochs` is {list(epochs)}: give increasing numbers from 0 on, one of each checkpoint")
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


def _check_recorded(folder: Path, checkpoints: Mapping[int, Checkpoint]) -> None:
    """Checks that what a folder has was recorded from the same checkpoints.

    Raises:
        InputError: for weights that are others now, and epochs of which no checkpoint is given.
    """
    fix = "give another `output_dir`, or the checkpoints that were recorded there"
    for epoch in run_dir.published_epochs(folder):
        if epoch not in checkpoints:
            raise InputError(
                f"{str(folder)!r} has epoch {epoch}, and no checkpoint is given for it, only for "
                f"{listed(list(checkpoints))}: {fix}"
            )
        with files.opened(run_dir.epoch_path(folder, epoch)) as content:
            was = files.marks_of(content).get(_WEIGHTS)
        now = None if was is None else _digest(checkpoints[epoch])
        # A file and what was loaded from it have different digests.
        if was and now and was.split()[0] == now.split()[0] and was != now:
            raise InputError(f"{str(folder)!r} has epoch {epoch} of other weights than those given for it: {fix}")


def _digest(checkpoint: Checkpoint) -> str | None:
    """What tells weights from others, without making a model of them; nothing of a function that makes one."""
    whole = hashlib.sha256()
    if isinstance(checkpoint, str | Path):
        path = Path(checkpoint)
        parts = [path] if path.is_file() else sorted(path.glob("*.safetensors")) or sorted(path.glob("*model*.bin"))
        for part in parts:
            with part.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return f"files {whole.hexdigest()}" if parts else None
    state = checkpoint.state_dict() if isinstance(checkpoint, nn.Module) else checkpoint
    if not isinstance(state, Mapping):
        return None
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    for name, value in sorted(tensors.items()):
        whole.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        whole.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"tensors {whole.hexdigest()}"


def _load(checkpoint: Checkpoint, model: nn.Module | None) -> nn.Module:
    if isinstance(checkpoint, nn.Module):
        return checkpoint
    if isinstance(checkpoint, str | Path):
        path = Path(checkpoint)
        fix = "give weights that fit the model, as safetensors or as a state dict"
        with as_input_error(f"cannot load the checkpoint {str(path)!r}", fix):
            if model is None:
                return _from_folder(path)
            if path.is_dir():
                load_checkpoint_in_model(model, str(path), strict=True)
                return model
            checkpoint = _weights(path)
    elif not isinstance(checkpoint, Mapping):
        return checkpoint()
    assert model is not None
    with as_input_error("a checkpoint does not fit the model", "give the model it is of", RuntimeError):
        model.load_state_dict(models.all_weights(model, checkpoint))
    return model


@usual_torch()
def _from_folder(path: Path) -> nn.Module:
    made = files.read_json(path / "config.json").get("architectures")
    if not made:
        return models.load_model(path)
    model, found = getattr(transformers, made[0]).from_pretrained(path, output_loading_info=True)
    if missing := sorted(found["missing_keys"]):
        raise InputError(f"the checkpoint {str(path)!r} has no weights for {missing[0]} ({len(missing)} missing)")
    return model


def _weights(path: Path) -> Mapping[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    # Training loops keep the weights beside the optimizer, under one of these names.
    nested = [
        stored[key] for key in ("state_dict", "model_state_dict", "model") if isinstance(stored.get(key), Mapping)
    ]
    weights = dict(nested[0] if nested else stored)
    consume_prefix_in_state_dict_if_present(weights, "module.")
    return weights
