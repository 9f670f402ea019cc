"""The texts of a dataset as token ids: encoded once, kept in one buffer, and given in batches on a device."""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset

from ...data.columns import read_column
from ...utils.errors import InputError, some_rows
from .encoders import Encoder

_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Tokens:
    """The ids of all texts, one after the other.

    Args:
        ids (`torch.Tensor`): int32, those of all texts.
        types (`torch.Tensor`, *optional*): int8, which text of a pair each is of.
        starts (`np.ndarray`): int64 `(N,)`, where each text begins.
        lengths (`np.ndarray`): int64 `(N,)`.
        truncated (`int`): How many texts are cut.
    """

    ids: torch.Tensor
    types: torch.Tensor | None
    starts: np.ndarray
    lengths: np.ndarray
    truncated: int

    def take(self, positions: np.ndarray) -> "Tokens":
        """Some of the texts, in the same buffer."""
        return replace(self, starts=self.starts[positions], lengths=self.lengths[positions])

    def to(self, device: torch.device) -> "Tokens":
        types = None if self.types is None else self.types.to(device)
        return replace(self, ids=self.ids.to(device), types=types)

    def batch(self, positions: np.ndarray, padding: int) -> dict[str, torch.Tensor]:
        """Some texts as inputs of a model, int64 `(B, L)`, as long as the longest of them, on the buffer's device."""
        lengths = self.lengths[positions]
        column = np.arange(lengths.max())
        real = column < lengths[:, None]
        places = torch.from_numpy(np.where(real, self.starts[positions][:, None] + column, 0))
        places, mask = (each.to(self.ids.device, non_blocking=True) for each in (places, torch.from_numpy(real)))
        batch = {"input_ids": self.ids[places].long().masked_fill_(~mask, padding), "attention_mask": mask.long()}
        if self.types is not None:
            batch["token_type_ids"] = self.types[places].long().masked_fill_(~mask, 0)
        return batch


@dataclass(frozen=True, eq=False)
class StoredTexts:
    """The texts of a dataset, encoded when they are asked for.

    Args:
        dataset (`datasets.Dataset`): The dataset; its format, transform and row selection are handled.
        columns (`list[str]`): Its column of texts, or the two of pairs.
        encoder ([`Encoder`]): What makes ids of them.
        numbers (`np.ndarray`, *optional*): int64 `(N,)`, row numbers for messages; the positions if not given.
    """

    dataset: Dataset
    columns: list[str]
    encoder: Encoder
    numbers: np.ndarray | None = None

    def take(self, positions: np.ndarray) -> "StoredTexts":
        """Some of the rows, int64 `(n,)`, which keep their numbers."""
        numbers = positions if self.numbers is None else self.numbers[positions]
        return replace(self, dataset=self.dataset.select(positions), numbers=numbers)

    def read(self, progress: Callable[[int], Any] | None = None) -> Tokens:
        """Encodes all texts once.

        Args:
            progress (`Callable[[int], Any]`, *optional*): Called with the number of rows done since the last call.

        Raises:
            InputError: for texts that are null, or in which there is nothing, naming the rows.
        """
        texts = [read_column(self.dataset, column) for column in self.columns]
        self._check(texts)
        ids, types, lengths, truncated = array("i"), array("b"), [0], 0
        for first in range(0, len(self.dataset), _CHUNK):
            found = self.encoder.encode(*(column[first : first + _CHUNK].to_pylist() for column in texts))
            for each in found.ids:
                ids.extend(each)
            for each in found.types or []:
                types.extend(each)
            lengths += map(len, found.ids)
            truncated += found.truncated
            if progress is not None:
                progress(len(found.ids))
        ends = np.cumsum(lengths, dtype=np.int64)
        counts = np.diff(ends)
        self._refuse(counts == 0, "no words or signs")
        return Tokens(
            ids=torch.from_numpy(np.frombuffer(ids, dtype=np.int32)),
            types=torch.from_numpy(np.frombuffer(types, dtype=np.int8)) if types else None,
            starts=ends[:-1],
            lengths=counts,
            truncated=truncated,
        )

    def _check(self, texts: list[pa.ChunkedArray]) -> None:
        empty = np.ones(len(self.dataset), dtype=bool)
        for name, column in zip(self.columns, texts):
            self._refuse(np.asarray(pc.is_null(column)), "null", name)
            empty &= np.asarray(pc.equal(pc.utf8_trim_whitespace(column), ""))
        self._refuse(empty, "empty")

    def _refuse(self, wrong: np.ndarray, what: str, column: str | None = None) -> None:
        found = np.flatnonzero(wrong)
        if not len(found):
            return
        rows = found if self.numbers is None else self.numbers[found]
        names = " and ".join(map(repr, self.columns if column is None else [column]))
        raise InputError(
            f"{len(found):,} of {len(wrong):,} texts of column {names} are {what} (rows {some_rows(rows)}): leave "
            "these rows out with dataset.filter"
        )


@dataclass(frozen=True, eq=False)
class TokenBatches:
    """The texts and labels of a dataset, batch by batch, on a device.

    Args:
        stored ([`StoredTexts`]): The texts.
        tokens ([`Tokens`]): Their ids.
        labels (`torch.Tensor`): int64 `(N,)`, on the device.
    """

    stored: StoredTexts
    tokens: Tokens
    labels: torch.Tensor

    channels_last: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row: batches are made of rows of like length."""
        return self.tokens.lengths

    def take(self, positions: np.ndarray) -> "TokenBatches":
        """Some of the rows, int64 `(n,)`, not encoded again."""
        labels = self.labels[torch.from_numpy(positions).to(self.labels.device)]
        return replace(self, stored=self.stored.take(positions), tokens=self.tokens.take(positions), labels=labels)

    def __call__(
        self, index_batches: Iterable[np.ndarray], *, augmented: tuple[int, int] | None = None
    ) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]]:
        """Gives the batches asked for.

        Args:
            index_batches (`Iterable[np.ndarray]`): The positions of each batch, int64.
            augmented (`tuple[int, int]`, *optional*): Texts are not.

        Yields:
            `tuple`: `input_ids` and `attention_mask`, int64 `(B, L)`, by name; labels and positions, int64 `(B,)`.
        """
        device = self.labels.device
        for positions in index_batches:
            batch = self.tokens.batch(positions, self.stored.encoder.padding)
            where = torch.from_numpy(positions).to(device, non_blocking=True)
            yield {name: value.to(device) for name, value in batch.items()}, self.labels[where], where


def token_batches(
    stored: StoredTexts, labels: np.ndarray, device: torch.device, progress: Callable[[int], Any] | None = None
) -> TokenBatches:
    """Encodes the texts of a dataset; the ids are kept on the device if they take less than half of what is free."""
    tokens = stored.read(progress)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        tokens = tokens.to(device) if 5 * len(tokens.ids) < free / 2 else tokens
    return TokenBatches(stored, tokens, torch.from_numpy(labels).to(device))
