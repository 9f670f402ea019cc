"""Causal language models: the loss of a row is the mean over those of its tokens that the training counts."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import nn
from torch.nn.functional import cross_entropy

from ...utils.errors import InputError, some_rows
from ..batches import Collate, collated

# The label of a token that no loss counts, in torch and transformers.
IGNORED = -100
# The column of tokenized rows, and that of labels.
INPUT_IDS, LABELS = "input_ids", "labels"
_CHUNK = 8192


def token_losses(outputs: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean negative log-likelihood of each row's tokens that count, each predicted from those before it.

    Args:
        outputs (`Mapping`): What the model returned: `logits`, `(B, L, V)`; or of TRL's models, which make none, the
            `log_probs` of the labels, 0 where none counts, and `label_mask`, where one does. These may be longer than
            the labels, by the virtual tokens that PEFT puts before a prompt.
        labels (`torch.Tensor`): int64 `(B, L)`, the tokens; -100 for those that do not count.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: the means, float32 `(B,)`, and how many tokens they are of, int64 `(B,)`.

    Raises:
        InputError: if it returned neither.
    """
    known = outputs if isinstance(outputs, Mapping) else {}
    if (log_probs := known.get("log_probs")) is not None:
        counts = known["label_mask"].sum(1)
        return -log_probs.detach().float().sum(1) / counts, counts
    logits = known.get("logits")
    if not isinstance(logits, torch.Tensor) or logits.shape[:-1] != labels.shape:
        shown = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise InputError(
            f"the model returned {shown} where logits of shape (rows, tokens, vocabulary) were expected for labels of "
            f"shape {list(labels.shape)}: record a causal language model"
        )
    # Row by row: logits of a whole batch in float32 may be several times as large as the model.
    sums = [
        cross_entropy(row[:-1].detach().float(), own[1:], ignore_index=IGNORED, reduction="sum")
        for row, own in zip(logits, labels)
    ]
    # The first token is predicted from nothing, so it does not count.
    counts = (labels[:, 1:] != IGNORED).sum(1)
    return torch.stack(sums) / counts, counts


@dataclass(frozen=True)
class SequenceBatches:
    """Tokenized rows in the batches that a collator makes, with their labels, on a device.

    Args:
        dataset (`datasets.Dataset`): The rows, as the Trainer hands them to the collator.
        collate (`Callable`): Makes a batch from a list of rows, with `labels`.
        device (`torch.device`): Where batches go.
        num_workers (`int`): Processes that read and collate.
        given (`Mapping[str, Any]`): What else the model is given.
    """

    dataset: Dataset
    collate: Collate
    device: torch.device
    num_workers: int = 0
    given: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def lengths(self) -> np.ndarray | None:
        """Tokens of each row, int64 `(N,)`."""
        if INPUT_IDS not in self.dataset.column_names or self.dataset.format["type"] == "custom":
            return None
        parts = [pc.list_value_length(ids).to_numpy() for ids in _lists(self.dataset, INPUT_IDS)]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def __call__(self, index_batches: Iterable[np.ndarray]) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor]]:
        """Gives the batches asked for: inputs of the model, labels `(B, L)` and positions `(B,)`, int64."""
        for inputs, positions in collated(self.dataset, self.collate, index_batches, self.device, self.num_workers):
            yield {**inputs, **self.given}, require_labels(inputs, len(positions)), positions


def require_labels(batch: Any, rows: int) -> torch.Tensor:
    """The labels of a batch, of which each row has its own.

    Raises:
        InputError: if there are none, or several rows are in one sequence.
    """
    labels = batch.get(LABELS) if isinstance(batch, Mapping) else None
    if not isinstance(labels, torch.Tensor) or labels.ndim != 2 or len(labels) != rows:
        shown = f"of shape {list(labels.shape)}" if isinstance(labels, torch.Tensor) else "missing"
        raise InputError(
            f"the labels of a batch of {rows} rows are {shown}: losses of rows need a collator that makes 'labels' of "
            "shape (rows, tokens), without packing and padding-free batches"
        )
    return labels


def check_causal(model: nn.Module) -> None:
    """Checks that a model of transformers predicts each token from those before it.

    Raises:
        InputError: for models that read the whole row, and those of an encoder and a decoder.
    """
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False) or getattr(model, "loss_type", None) == "ForMaskedLM":
        raise InputError(
            f"the model {type(model).__name__} is no causal language model, whose losses are those of next tokens: "
            "record one that is"
        )


def check_counted(dataset: Dataset, what: str, numbers: np.ndarray) -> None:
    """Checks that of every row a token counts, where the labels are there before a collator makes them.

    Args:
        dataset (`datasets.Dataset`): The rows.
        what (`str`): What they are, for messages.
        numbers (`np.ndarray`): int64 `(N,)`, their numbers, for messages.

    Raises:
        InputError: naming those without.
    """
    column = LABELS if LABELS in dataset.column_names else INPUT_IDS
    if column not in dataset.column_names or dataset.format["type"] == "custom":
        return
    found = []
    for labels in _lists(dataset, column):
        counted = pc.not_equal(labels.flatten(), IGNORED).to_numpy(zero_copy_only=False)
        ends = np.cumsum(pc.list_value_length(labels).to_numpy())
        before = np.concatenate([[0], np.cumsum(counted)])
        # The first token of a row never counts.
        first = np.minimum(np.concatenate([[0], ends[:-1]]) + 1, ends)
        found.append(before[ends] == before[first])
    if len(bad := np.flatnonzero(np.concatenate(found))):
        raise InputError(
            f"{len(bad)} of {len(dataset)} {what} have no token whose loss counts (rows {some_rows(numbers[bad])}): "
            "leave them out, or give longer texts, or a larger `max_length` where prompts fill it"
        )


def _lists(dataset: Dataset, column: str) -> Iterator[pa.Array]:
    """A column of lists, part by part: all tokens in the order of the rows may not fit into memory."""
    for part in dataset.select_columns(column).with_format("arrow").iter(_CHUNK):
        yield part[column].combine_chunks()
