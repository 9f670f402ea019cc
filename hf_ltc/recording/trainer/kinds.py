"""What rows of classes, and rows of language models, each ask of a Trainer, and what is recorded of them."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from ...data.columns import read_column
from ...training.batches import CollatedBatches
from ...training.forward import logits_of
from ...training.text.causal import SequenceBatches, check_causal, check_counted, require_labels
from ...utils.errors import InputError
from ..epochs import EpochPasses
from ..input_rows import InputRows
from ..recorder import TRAIN, VALIDATION
from ..rows import RecordedRows
from .passes import POSITION, VALIDATION_POSITION, check_unpacked, with_positions


@dataclass(frozen=True)
class ClassRows:
    """Rows of classes, as a classifier is trained on them.

    Args:
        rows ([`InputRows`]): The rows.
        metrics (`Sequence[str]`): Further per-sample metrics that are recorded.
    """

    rows: InputRows
    metrics: Sequence[str]
    needed = repr(POSITION)

    @property
    def recorded(self) -> RecordedRows:
        return self.rows.recorded

    def check(self, args: TrainingArguments, model: nn.Module) -> None:
        """Any model may return logits: whether it does is seen when it runs."""

    def outputs(self, device: torch.device) -> torch.Tensor:
        """As for [`EpochPasses`]."""
        return torch.from_numpy(self.rows.outputs).to(device)

    def batches(
        self, loader: DataLoader[Any], args: TrainingArguments, device: torch.device, model: nn.Module
    ) -> dict[str, CollatedBatches]:
        """The rows and the validation samples, of the columns that the Trainer's collator gets."""
        shown = model if args.remove_unused_columns else None
        return self.rows.batches(loader.collate_fn, device, args.dataloader_num_workers, shown)

    def is_told(self, named: Mapping[str, Any]) -> bool:
        """Whether a forward pass is one that losses are recorded of, by what the model was given."""
        return POSITION in named

    def observe(self, passes: EpochPasses, batches: Mapping[str, Any], named: Mapping[str, Any], outputs: Any) -> None:
        """Records the losses of a forward pass of the training, of a model that was given `named`."""
        positions = named[POSITION]
        logits, labels = logits_of(outputs, self._classes), batches[TRAIN].labels[positions]
        passes.observe_training(positions, cross_entropy(logits, labels, reduction="none"), logits, labels)

    @cached_property
    def _classes(self) -> int:
        return int(max(self.rows.targets.max(), self.rows.validation_targets.max())) + 1


@dataclass(frozen=True)
class SequenceRows:
    """Recorded rows of a language model: the Trainer, or the collator, makes tokens of them.

    Args:
        recorded ([`RecordedRows`]): The rows.
        metrics (`Sequence[str]`): What else is recorded of them: how many tokens count, or nothing.
        validation (`datasets.Dataset`, *optional*): The validation samples as a Trainer prepared them.
        given (`Mapping[str, Any]`): What its model is given besides a batch.
    """

    recorded: RecordedRows
    metrics: Sequence[str]
    validation: Dataset | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    needed = f"{POSITION!r} and 'labels' (which label_smoothing_factor takes away)"

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

    def check(self, args: TrainingArguments, model: nn.Module) -> None:
        """Checks that each row is a sequence of its own, of which the model predicts the next tokens."""
        check_unpacked(args)
        check_causal(model)

    def outputs(self, device: torch.device) -> None:
        """There are no classes."""

    def is_told(self, named: Mapping[str, Any]) -> bool:
        """Whether a forward pass is one that losses are recorded of: TRL makes further ones without labels."""
        return POSITION in named and named.get("labels") is not None

    def observe(self, passes: EpochPasses, batches: Mapping[str, Any], named: Mapping[str, Any], outputs: Any) -> None:
        """Records the losses of a forward pass of the training, of a model that was given `named`."""
        positions = named[POSITION]
        passes.observe_tokens(positions, outputs, require_labels(named, len(positions)))

    def batches(
        self, loader: DataLoader[Any], args: TrainingArguments, device: torch.device, model: nn.Module
    ) -> dict[str, SequenceBatches]:
        """The rows and the validation samples, as the Trainer's collator gets them.

        Raises:
            InputError: for samples that were not prepared as the rows were, and rows without a token that counts.
        """
        prepared = self.validation
        if prepared is None:
            prepared = with_positions(self.recorded.validation, VALIDATION_POSITION)
        parts = {TRAIN: _in_order(loader.dataset, POSITION), VALIDATION: _in_order(prepared, VALIDATION_POSITION)}
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
        how = loader.collate_fn, device, args.dataloader_num_workers, self.given
        return {split: SequenceBatches(part, *how) for split, part in parts.items()}


def _in_order(dataset: Any, column: str) -> Dataset:
    """A dataset by the positions in a column, without it; a row that is trained on several times is there once."""
    _, first = np.unique(read_column(dataset, column), return_index=True)
    return dataset.select(first).remove_columns(column)
