"""Forward passes that losses and features are recorded from: with which weights, and on which process which rows."""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather, gather_object
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel

from ..utils.errors import InputError
from ..utils.processes import Processes, together
from .workers import workers_watched

# Rows that a process sends at once.
_BLOCK = 2**14
# Before the names in the state of an average, as torch has them.
_MODULE = "module."
# Called with positions `(B,)`, float32 cross-entropy losses `(B,)` without label smoothing, float32 logits `(B, C)`
# and labels `(B,)` of a forward pass, all detached and on the device.
Observer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], Any]


class AnyBatches(Protocol):
    """Rows that a model runs over.

    Called with the positions of each batch, they return on the device what the model takes (a tensor, or a mapping of
    its parameters), labels, and positions, int64 `(B,)`.
    """

    @property
    def lengths(self) -> np.ndarray | None:
        """How long each row's input is, int64 `(N,)`, where rows of a batch are filled up to the longest of them."""
        ...

    def __len__(self) -> int: ...

    def __call__(self, index_batches: Iterable[np.ndarray], /) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor]]: ...


class Batches(AnyBatches, Protocol):
    """Rows of classes: their labels are int64 `(B,)`."""

    @property
    def labels(self) -> torch.Tensor: ...


class TrainBatches(Batches, Protocol):
    """Rows that a model is trained on, which may be changed at random: by `augmented`, seed and epoch."""

    def __call__(
        self, index_batches: Iterable[np.ndarray], /, *, augmented: tuple[int, int] | None = None
    ) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor]]: ...


class AveragedWeights(AveragedModel):
    """An exponential moving average of weights and buffers, beginning with the weights that it is given.

    Args:
        model (`torch.nn.Module`): The model, of which a copy is made.
        decay (`float`): Share of the average that a step keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        def average(averages: Any, current: Any, _: Any) -> None:
            if averages[0].is_floating_point():
                torch._foreach_lerp_(averages, current, 1 - decay)
            else:
                torch._foreach_copy_(averages, current)

        super().__init__(model, multi_avg_fn=average, use_buffers=True)
        # Torch's own would copy the weights of the first step, and keep the count of steps among the weights.
        self.register_buffer("n_averaged", torch.tensor(1), persistent=False)
        self.eval()


class TrainedAverage:
    """The same average, of what is trained of a model alone, and lent to the model itself.

    No second model is kept: the average of adapters is as small as these, and a `forward` that was put in the place
    of the model's own, as TRL does, runs the weights that it is bound to. The average is float32, since the steps of
    training are too small for lower precision.

    Args:
        model (`torch.nn.Module`): The model: its trained parameters, and its buffers.
        decay (`float`): Share of the average that a step keeps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._averages = {
            name: tensor.detach().to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
            for name, tensor in _trained(model)
        }

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Takes the weights in that a step has made."""
        floating: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        for name, tensor in self._known(model):
            average = self._averages[name]
            if average.is_floating_point():
                floating[0].append(average)
                floating[1].append(tensor.detach().float())
            else:
                average.copy_(tensor)
        if floating[0]:
            torch._foreach_lerp_(*floating, 1 - self.decay)

    @contextmanager
    def lent(self, model: nn.Module) -> Iterator[None]:
        """Gives the model the average, and then its own weights back."""
        known = self._known(model)
        own = [tensor.detach().clone() for _, tensor in known]
        with torch.no_grad():
            for name, tensor in known:
                tensor.copy_(self._averages[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for (_, tensor), before in zip(known, own):
                    tensor.copy_(before)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {f"{_MODULE}{name}": average for name, average in self._averages.items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        for name, average in self._averages.items():
            # Buffers that a model does not save were not saved of its copy in former versions.
            if (stored := state.get(f"{_MODULE}{name}")) is not None:
                average.copy_(stored)

    def _known(self, model: nn.Module) -> list[tuple[str, torch.Tensor]]:
        # Not those that began to be trained since.
        return [(name, tensor) for name, tensor in _trained(model) if name in self._averages]


def _trained(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    parameters = [(name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]
    return [*parameters, *model.named_buffers()]


def averaging_decay(weights: str, decay: float | None, steps_per_epoch: int) -> float | None:
    """The decay of averaged weights per step, `None` for raw ones. If not given, the window is about one epoch: the
    jitter of single steps is averaged out, and epochs stay distinct."""
    if weights != "averaged":
        return None
    return 1 - 1 / steps_per_epoch if decay is None else decay


def share_buffers(model: nn.Module) -> None:
    """Gives every process the first one's running statistics, so that all evaluate the same model."""
    broadcast(list(model.buffers()))


def evaluate(model: nn.Module, batches: Batches, state: Processes, observe: Observer, batch_size: int) -> None:
    """Runs a classifier over all rows, as [`run_over`].

    Args:
        model (`torch.nn.Module`): The model, not wrapped for several processes.
        batches ([`Batches`]): The rows, without augmentation.
        state (`accelerate.Accelerator` or `PartialState`): The processes; an accelerator's precision is used.
        observe (`Callable`): An [`Observer`] of every forward pass.
        batch_size (`int`): Batch size per process.

    Raises:
        InputError: if the model does not return logits, or not one row of them for each row.
    """
    classes = int(batches.labels.max()) + 1 if len(batches) else 0

    def each(outputs: Any, labels: torch.Tensor, positions: torch.Tensor) -> None:
        logits = logits_of(outputs, classes)
        if len(logits) != len(positions):
            raise InputError(
                f"the collator made {len(logits)} samples of {len(positions)} rows: it has to make one of each row"
            )
        observe(positions, cross_entropy(logits, labels, reduction="none"), logits, labels)

    run_over(model, batches, state, each, batch_size)


@workers_watched()
@torch.no_grad()
def run_over(
    model: nn.Module,
    batches: AnyBatches,
    state: Processes,
    each: Callable[[Any, torch.Tensor, torch.Tensor], Any],
    batch_size: int,
) -> None:
    """Runs a model over all rows in evaluation mode, each process over its own part; no random state is changed.

    Args:
        model, batches, state, batch_size: As for [`evaluate`].
        each (`Callable`): Called with what the model returned, labels and positions of every batch.
    """
    mine = np.array_split(np.arange(len(batches), dtype=np.int64), state.num_processes)[state.process_index]
    if batches.lengths is not None:
        # Rows of like length together.
        mine = mine[np.argsort(batches.lengths[mine], kind="stable")]
    if not len(mine):
        return
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with _random_state_kept(state.device):
        for inputs, labels, positions in batches(np.array_split(mine, math.ceil(len(mine) / batch_size))):
            with state.autocast() if isinstance(state, Accelerator) else nullcontext():
                outputs = model_outputs(model, inputs)
            each(outputs, labels, positions)
    for module, training in modes:
        module.training = training


def model_outputs(model: nn.Module, inputs: Any) -> Any:
    """What a model makes of a batch: of a tensor, or of a mapping of its parameters."""
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


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


@contextmanager
def classifier_inputs(model: nn.Module, classes: int) -> Iterator[Callable[[], torch.Tensor]]:
    """Looks on while a classifier runs: what its last linear layer gets, penultimate features, `(B, D)`.

    That is the same in all libraries, where names and methods differ: timm's `forward_head(..., pre_logits=True)`
    gives it, and in transformers it is the pooled last hidden state. Of features with a place, in the image or in a
    sequence, the mean is taken; of a text without what fills it up.

    Args:
        model (`torch.nn.Module`): The model.
        classes (`int`): Its number of logits.

    Yields:
        `Callable[[], torch.Tensor]`: the features of the last forward pass.

    Raises:
        InputError: if no layer makes that many outputs.
    """
    heads = [module for module in model.modules() if _outputs(module) == classes]
    if not heads:
        raise InputError(
            f"`features`: no linear layer of the model {type(model).__name__} makes {classes} logits, so that nobody "
            "knows its features: choose another `model`, or record without `features`"
        )
    seen: list[tuple[nn.Module, torch.Tensor]] = []
    masks: list[torch.Tensor] = []

    def keep_mask(_: nn.Module, __: Any, named: Mapping[str, Any]) -> None:
        masks[:] = [named["attention_mask"]] if "attention_mask" in named else []

    def keep(module: nn.Module, given: Any) -> None:
        # Of several layers with as many outputs the last one makes the logits.
        seen[:] = [(module, given[0])]

    def features() -> torch.Tensor:
        ((head, found),) = seen
        if found.ndim == 4:
            # A linear layer has the channels last.
            return found.mean((1, 2) if isinstance(head, nn.Linear) else (2, 3))
        if found.ndim == 3 and masks and masks[0].shape == found.shape[:2]:
            weights = masks[0].unsqueeze(2).to(found.dtype)
            return (found * weights).sum(1) / weights.sum(1)
        return found.mean(1) if found.ndim == 3 else found

    hooks = [module.register_forward_pre_hook(keep) for module in heads]
    hooks.append(model.register_forward_pre_hook(keep_mask, with_kwargs=True))
    try:
        yield features
    finally:
        for hook in hooks:
            hook.remove()


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) else None


def features_of(
    model: nn.Module,
    batches: Batches,
    state: Processes,
    batch_size: int,
    classes: int,
    each_batch: Callable[[int], Any] | None = None,
) -> np.ndarray | None:
    """The features of all rows by a model in evaluation mode, each process running it over its own part.

    Args:
        model (`torch.nn.Module`): The model, not wrapped for several processes.
        batches ([`Batches`]): The rows, without augmentation.
        state (`accelerate.Accelerator` or `PartialState`): The processes, all of which have to come here.
        batch_size (`int`): Batch size per process.
        classes (`int`): Number of logits.
        each_batch (`Callable[[int], Any]`, *optional*): Called with the rows of each batch; it may raise to stop.

    Returns:
        `np.ndarray`: float16 `(N, D)` on the main process, `None` on all others.

    Raises:
        InputError: for a model without a last linear layer, and for features that float16 cannot hold.
    """
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    with classifier_inputs(model, classes) as features:

        def keep(positions: torch.Tensor, *_: torch.Tensor) -> None:
            parts.append((positions.cpu(), features().to(torch.float16).cpu()))
            if each_batch is not None:
                each_batch(len(positions))

        # Each process has its part of the rows, one after the other, of which it may choose the order.
        evaluate(model, batches, state, keep, batch_size)
    found = _joined(parts, len(batches), state)
    with together(state):
        if found is not None and (bad := int((~torch.isfinite(found).all(1)).sum())):
            raise InputError(
                f"`features` of {bad} of {len(found)} rows are beyond {torch.finfo(torch.float16).max:g}, the most "
                "that float16 holds: lower `learning_rate`, or record without `features`"
            )
    return None if found is None else found.numpy()


def _joined(parts: list[tuple[torch.Tensor, torch.Tensor]], rows: int, state: Processes) -> torch.Tensor | None:
    """The parts of all processes, each with the positions of its rows, in the order of the rows, on the main one."""
    sizes = [len(part) for part in np.array_split(np.arange(rows), state.num_processes)]
    width = parts[0][1].shape[1] if parts else 0
    if state.num_processes > 1:
        # A process without rows does not know it.
        width = max(gather_object([width]))
    mine = torch.zeros((max(sizes), width), dtype=torch.float16)
    starts = np.cumsum([0, *sizes])
    for positions, features in parts:
        mine[positions - starts[state.process_index]] = features
    if state.num_processes == 1:
        return mine
    found = torch.empty((rows, width), dtype=torch.float16)
    for first in range(0, len(mine), _BLOCK):
        block = mine[first : first + _BLOCK].to(state.device)
        each = gather(block).cpu().reshape(state.num_processes, len(block), width)
        for start, size, part in zip(starts, sizes, each):
            count = min(max(size - first, 0), len(block))
            found[start + first : start + first + count] = part[:count]
    return found if state.is_main_process else None


@contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """Keeps the random state, so that a transform that draws during evaluation does not change the training."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    random.setstate(python)
    np.random.set_state(numpy)
