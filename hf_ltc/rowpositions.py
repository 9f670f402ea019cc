"""A row's position among the recorded rows, carried with the batch into the forward of a model."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Value
from torch import nn

from .batches import Collate
from .columns import with_columns
from .errors import InputError

# The column with a row's position among the recorded rows, which travels with the batch into the model's forward.
POSITION = "hf_ltc_position"


@dataclass(frozen=True)
class Positioned:
    """A collator that passes the rows' positions on beside what another one makes of the rows."""

    collate: Collate

    def __call__(self, rows: list[Mapping[str, Any]]) -> Any:
        if any(POSITION not in row for row in rows):
            raise InputError(f"the rows lost the column {POSITION!r} on their way: leave it in")
        batch = self.collate([{name: value for name, value in row.items() if name != POSITION} for row in rows])
        batch[POSITION] = torch.tensor([int(row[POSITION]) for row in rows])
        return batch


@dataclass(frozen=True)
class _Transform:
    """A transform that passes the rows' positions on beside what another one makes of the rows."""

    transform: Callable[[dict[str, Any]], Mapping[str, Any]]

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        positions = rows.pop(POSITION)
        return {**self.transform(rows), POSITION: positions}


def with_positions(dataset: Dataset) -> Dataset:
    positions = pa.array(np.arange(len(dataset), dtype=np.int64))
    marked = with_columns(dataset, {POSITION: (positions, Value("int64"))})
    shown = marked.format
    if shown["type"] != "custom":
        return marked
    return marked.with_transform(
        _Transform(shown["format_kwargs"]["transform"]), shown["columns"], shown["output_all_columns"]
    )


def accepts_positions(model: nn.Module) -> bool:
    """Whether `forward` names the positions."""
    return POSITION in inspect.signature(model.forward).parameters


def accept_positions(model: nn.Module) -> None:
    """Makes `forward` name the positions, so that the Trainer leaves their column in, and not pass them on."""
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
