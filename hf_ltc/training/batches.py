"""The rows of a dataset as batches on a device: images, decoded once or streamed, or the batches of a collator."""

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader

from ..config import EvaluateConfig, RecordConfig
from ..data.splits import evenly_spaced
from ..utils.errors import InputError, LTCWarning
from . import images
from .workers import Sending, received

Collate = Callable[[list[Any]], Any]
# What transformers' Trainer and its collators know as labels.
LABELS = ("labels", "label", "label_ids")
# Rows whose pixels give the channels' means and deviations; more change the third digit.
_STATISTICS_ROWS = 2048
_PADDING = 4
_CHANNELS = ("red", "green", "blue")


@dataclass(frozen=True)
class ImageBatches:
    """The images and labels of a dataset, batch by batch, normalized, on a device.

    Args:
        stored ([`StoredImages`]): The images.
        labels (`torch.Tensor`): int64 `(N,)`, on the device.
        mean (`torch.Tensor`): float32 `(3,)`, on the device.
        std (`torch.Tensor`): float32 `(3,)`, on the device.
        pixels (`torch.Tensor`, *optional*):
            uint8 `(N, 3, size, size)`, if the images are kept in memory; random cuts of large ones are decoded anew.
        channels_last (`bool`): Memory format of the batches.
        num_workers (`int`): Processes that decode where images are not in memory.
    """

    stored: images.StoredImages
    labels: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    pixels: torch.Tensor | None
    channels_last: bool = False
    num_workers: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.stored.size

    def take(self, positions: np.ndarray) -> "ImageBatches":
        """Some of the rows, not decoded again, and normalized with the statistics of all rows.

        Args:
            positions (`np.ndarray`): int64 `(n,)`.

        Returns:
            [`ImageBatches`]: row `i` is row `positions[i]` of this one.
        """
        if np.array_equal(positions, np.arange(len(self))):
            # All of them in their order: no second copy of all pixels.
            return self
        where = torch.from_numpy(positions)
        return replace(
            self,
            stored=self.stored.take(positions),
            labels=self.labels[where.to(self.labels.device)],
            pixels=None if self.pixels is None else self.pixels[where.to(self.pixels.device)],
        )

    @property
    def lengths(self) -> None:
        """All images are as large."""

    def __call__(
        self, index_batches: Iterable[np.ndarray], *, augmented: tuple[int, int] | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Gives the batches asked for.

        Args:
            index_batches (`Iterable[np.ndarray]`): The positions of each batch, int64.
            augmented (`tuple[int, int]`, *optional*): Seed and epoch of the crops and flips; none if not given.

        Yields:
            `tuple[torch.Tensor, torch.Tensor, torch.Tensor]`: pixels, float32 `(B, 3, size, size)`, labels and
            positions, int64 `(B,)`.
        """
        draws = None
        if augmented is not None and self.size <= images.SMALL_SIDE:
            draws = images.draw_augmentation(len(self), *augmented, padding=self._padding).to(self.labels.device)
        for stored, positions in self._pixels(index_batches, augmented):
            batch = stored.to(self.labels.device, non_blocking=True)
            positions = positions.to(self.labels.device, non_blocking=True)
            if draws is not None:
                batch = images.augment(batch, draws[positions], padding=self._padding)
            layout = torch.channels_last if self.channels_last else torch.contiguous_format
            batch = images.normalize(batch, self.mean, self.std, layout)
            yield batch, self.labels[positions], positions

    @property
    def _padding(self) -> int:
        # An eighth of the side, CIFAR's 4 of 32: as much of an 8x8 digit would push it out of the picture.
        return max(1, min(_PADDING, self.size // 8))

    def _pixels(
        self, index_batches: Iterable[np.ndarray], augmented: tuple[int, int] | None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if self.pixels is None or (augmented is not None and self.size > images.SMALL_SIDE):
            yield from self.stored.batches(index_batches, self.num_workers, augmented=augmented)
            return
        for positions in index_batches:
            where = torch.from_numpy(positions).to(self.pixels.device, non_blocking=True)
            yield self.pixels[where], where


def image_batches(
    stored: images.StoredImages,
    labels: np.ndarray,
    *,
    device: torch.device,
    statistics: tuple[list[float], list[float]] | None = None,
    cache: str = "auto",
    cache_budget: float = 4.0,
    num_workers: int = 0,
    channels_last: bool = False,
    reread: bool = False,
    progress: Callable[[int], Any] | None = None,
) -> ImageBatches:
    """Prepares the batches of a dataset: reads its images into memory if they fit, and the channels' statistics.

    Args:
        stored ([`StoredImages`]): The images.
        labels (`np.ndarray`): int64 `(N,)`.
        device (`torch.device`): Where batches go.
        statistics (`tuple[list[float], list[float]]`, *optional*):
            Means and deviations of the channels, those of the train rows for validation rows; from the dataset if not
            given.
        cache (`str`, *optional*, defaults to `"auto"`): Keep images in memory: `auto`, `always` or `never`.
        cache_budget (`float`, *optional*, defaults to `4.0`): GiB that `auto` may take.
        num_workers (`int`, *optional*, defaults to `0`): Processes that decode.
        channels_last (`bool`, *optional*, defaults to `False`): Memory format.
        reread (`bool`, *optional*, defaults to `False`): Whether every epoch reads the images without augmentation.
        progress (`Callable[[int], Any]`, *optional*): Called with the number of rows read into memory.

    Returns:
        [`ImageBatches`]

    Raises:
        InputError: for an image that cannot be decoded, naming the row.
    """
    count, pixels = len(labels), None
    fits = images.fits_cache(count, stored.size, cache_budget * 2**30, reread)
    if cache == "always" or (cache == "auto" and fits):
        # Small images are decoded faster than they are passed between processes.
        pixels = stored.read(progress, num_workers if stored.size > images.SMALL_SIDE else 0)
    if statistics is None:
        rows = evenly_spaced(count, _STATISTICS_ROWS)
        sample = pixels[torch.from_numpy(rows)] if pixels is not None else None
        if sample is None:
            parts = np.array_split(rows, max(1, len(rows) // 64))
            sample = torch.cat([part for part, _ in stored.batches(parts, num_workers)])
        statistics = images.channel_statistics(sample)
        _warn_of_constants(sample if pixels is None else pixels, stored.column)
    if pixels is not None and device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # The other half is the model's.
        pixels = pixels.to(device) if pixels.nbytes < free / 2 else pixels
    mean, std = (torch.tensor(values, dtype=torch.float32, device=device) for values in statistics)
    return ImageBatches(stored, torch.from_numpy(labels).to(device), mean, std, pixels, channels_last, num_workers)


def paired_batches(
    config: RecordConfig | EvaluateConfig,
    device: torch.device,
    train: tuple[images.StoredImages, np.ndarray],
    other: tuple[images.StoredImages, np.ndarray] | None = None,
    *,
    what: str,
    progress: Callable[[int], Any] | None = None,
) -> list[ImageBatches]:
    """Prepares train rows, and other rows that a model is not trained on: within one memory budget, scaled alike.

    Args:
        config ([`RecordConfig`] or [`EvaluateConfig`]): How images are read.
        device (`torch.device`): Where batches go.
        train (`tuple[StoredImages, np.ndarray]`): The images and labels of the train rows.
        other (`tuple[StoredImages, np.ndarray]`, *optional*): Those of the others, if there are any.
        what (`str`): What the others are, for messages.
        progress (`Callable[[int], Any]`, *optional*): Called with the number of rows read into memory.

    Raises:
        InputError: for an image that cannot be decoded, naming the row.
    """
    share = config.cache_budget
    if other is not None:
        share *= len(train[1]) / (len(train[1]) + len(other[1]))
    options: dict[str, Any] = {
        "device": device,
        "cache": config.cache_images,
        "num_workers": config.num_workers,
        "channels_last": config.channels_last,
        "progress": progress,
    }
    evaluated = isinstance(config, RecordConfig) and config.losses != "training"
    made = image_batches(*train, cache_budget=share, reread=evaluated or not config.augment, **options)
    if other is None:
        return [made]
    options |= {"statistics": (made.mean.tolist(), made.std.tolist()), "cache_budget": config.cache_budget - share}
    try:
        return [made, image_batches(*other, reread=True, **options)]
    except InputError as error:
        raise InputError(f"{what}: {error}") from error


def _warn_of_constants(pixels: torch.Tensor, column: str) -> None:
    """Names the channels from which nothing can be learned."""
    if not len(pixels):
        return
    ends = [pixels[:, channel].aminmax() for channel in range(len(_CHANNELS))]
    constant = {name: int(low) for name, (low, high) in zip(_CHANNELS, ends) if low == high}
    if not constant:
        return
    those = f"the channel{'s' if len(constant) > 1 else ''} {', '.join(constant)}"
    which = "all channels" if len(constant) == len(_CHANNELS) else those
    never = "never varies" if len(constant) == 1 else "never vary"
    warnings.warn(
        f"{which} of the images of column {column!r} {never}: as 8 bits each pixel of {len(pixels):,} rows is "
        f"{', '.join(map(str, dict.fromkeys(constant.values())))}, and a model learns nothing from that; look at the "
        "files, or name another `image_column`",
        LTCWarning,
        stacklevel=3,
    )


@dataclass(frozen=True)
class CollatedBatches:
    """The rows of any dataset in the batches that a collator makes, on a device.

    Args:
        dataset (`datasets.Dataset`): The rows.
        labels (`torch.Tensor`): int64 `(N,)`, the labels as the model numbers them, on the device.
        collate (`Callable`): Makes a batch from a list of rows: a mapping, or a tensor.
        num_workers (`int`): Processes that read and collate.
    """

    dataset: Dataset
    labels: torch.Tensor
    collate: Collate
    num_workers: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> None:
        """Only the collator knows."""

    def __call__(self, index_batches: Iterable[np.ndarray]) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor]]:
        """Gives the batches asked for: inputs of the model, without labels; labels and positions, int64 `(B,)`."""
        device = self.labels.device
        for inputs, positions in collated(self.dataset, self.collate, index_batches, device, self.num_workers):
            if isinstance(inputs, Mapping):
                inputs = {name: value for name, value in inputs.items() if name not in LABELS}
            yield inputs, self.labels[positions], positions


def collated(
    dataset: Dataset, collate: Collate, index_batches: Iterable[np.ndarray], device: torch.device, num_workers: int
) -> Iterator[tuple[Any, torch.Tensor]]:
    """What a collator makes of the batches asked for, and their positions, int64 `(B,)`, on a device."""
    parts = [part.tolist() for part in index_batches]
    loader: Any = DataLoader(dataset, batch_sampler=parts, collate_fn=Sending(collate), num_workers=num_workers)
    for part, batch in zip(parts, received(loader)):
        yield send_to_device(batch, device), torch.tensor(part, device=device)


def accepted_columns(model: nn.Module, dataset: Dataset) -> Dataset:
    """Leaves out the columns that a model's `forward` does not name, as transformers' Trainer does.

    All are kept if it names none, since a collator makes the inputs then, and in a dataset with a transform.
    """
    named = set(inspect.signature(model.forward).parameters)
    if dataset.format["type"] == "custom" or not named.intersection(dataset.column_names):
        return dataset
    return dataset.remove_columns([name for name in dataset.column_names if name not in {*named, *LABELS}])
