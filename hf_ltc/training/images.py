"""The images of a dataset as uint8 pixels: decoded once into memory or streamed, cropped and flipped per sample."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image

from ..data.splits import evenly_spaced
from ..utils.errors import InputError, require
from .pixels.grey import unreadable
from .pixels.image_files import GreyRange, open_image
from .pixels.squares import SMALL_SIDE, Cut, center, random_cut, square, whole
from .workers import Piped, received, sendable

_LARGE_SIZE = 224
_HEADERS = 64
_CHUNK = 256


def image_size(dataset: Dataset, column: str, requested: int | None = None) -> int:
    """Side of the square images to train on.

    Reads the headers of at most 64 evenly spaced rows; no pixel is decoded.

    Args:
        dataset (`datasets.Dataset`): The dataset.
        column (`str`): Its image column.
        requested (`int`, *optional*): The side, if the caller has chosen one.

    Returns:
        `int`: pixels; `requested`, or the longest side found if that is at most 64, else 224.

    Raises:
        InputError: if a row's image cannot be read, naming the row, or if `requested` is below 1.
    """
    if requested is not None:
        require(requested >= 1, "image_size", requested, "1 or more")
        return requested
    rows = evenly_spaced(len(dataset), _HEADERS)
    longest = 0
    for row, value in zip(rows, _stored(dataset, column)[rows].column(0).to_pylist()):
        try:
            with open_image(value) as image:
                longest = max(longest, *image.size)
        except Exception as error:
            raise unreadable(int(row), column, value, error) from error
    return longest if 0 < longest <= SMALL_SIDE else _LARGE_SIZE


def decode_image(value: Any, size: int, mode: str | None = None, grey_range: GreyRange | None = None) -> torch.Tensor:
    """Decodes one image to RGB pixels of a given size.

    Grey, palette, 1-bit, CMYK and YCbCr images become RGB; those of more than 8 bits are scaled, not clipped;
    transparent pixels are laid over white; the EXIF orientation is applied. An image up to 64 pixels (`size`) is
    resized as a whole; a larger one is resized until its short side fits, and its center is cut out.

    Args:
        value (`PIL.Image.Image`, `bytes` or `dict`): An image, a file's bytes, or `{"bytes": ..., "path": ...}`.
        size (`int`): Side in pixels.
        mode (`str`, *optional*):
            Pillow mode to convert to first, as in `datasets.Image(mode=...)`; one without transparency drops it.
        grey_range (`tuple[float, float]`, *optional*):
            From [`find_grey_range`], for the scale of all images of a column; by the bits of each if not given.

    Returns:
        `torch.Tensor`: uint8 `(3, size, size)`.

    Raises:
        OSError: or another error of Pillow's, for a value that is no image; the functions that know the row turn it
            into an [`InputError`].
    """
    return square(value, size, whole if size <= SMALL_SIDE else center, mode, grey_range)


def fits_cache(n: int, size: int, budget_bytes: float, reread: bool) -> bool:
    """Whether `n` images are read again as they are cached, and take at most `budget_bytes` as uint8 RGB.

    Those above 64 pixels are if every epoch reads them without augmentation (`reread`): the cuts that models train on
    are made from the images as stored, since a cut of 8% of a cached image would have 28% of its resolution.
    """
    return (size <= SMALL_SIDE or reread) and n * 3 * size * size <= budget_bytes


@dataclass(frozen=True)
class StoredImages:
    """The images of a column, decoded where and when they are asked for; the dataset is never held in memory.

    Args:
        dataset (`datasets.Dataset`): The dataset; its format, transform and row selection are handled.
        column (`str`): Its image column.
        size (`int`): Side in pixels.
        numbers (`np.ndarray`, *optional*): int64 `(N,)`, row numbers for messages; the positions if not given.
        grey_range (`tuple[float, float]`, *optional*): As in [`decode_image`].
    """

    dataset: Dataset
    column: str
    size: int
    numbers: np.ndarray | None = None
    grey_range: GreyRange | None = None

    def take(self, positions: np.ndarray) -> "StoredImages":
        """Some of the rows, int64 `(n,)`, which keep their numbers."""
        numbers = positions if self.numbers is None else self.numbers[positions]
        return replace(self, dataset=self.dataset.select(positions), numbers=numbers)

    def read(self, progress: Callable[[int], Any] | None = None, num_workers: int = 0) -> torch.Tensor:
        """Decodes all images once.

        Args:
            progress (`Callable[[int], Any]`, *optional*): Called with the number of rows done since the last call.
            num_workers (`int`, *optional*, defaults to `0`): Processes that decode; 0 decodes in this one.

        Returns:
            `torch.Tensor`: uint8 `(N, 3, size, size)`, in the dataset's row order.

        Raises:
            InputError: for an image that cannot be decoded, naming the row.
        """
        rows = len(self.dataset)
        pixels = torch.empty((rows, 3, self.size, self.size), dtype=torch.uint8)
        for decoded, positions in self.batches(np.split(np.arange(rows), range(_CHUNK, rows, _CHUNK)), num_workers):
            pixels[positions] = decoded
            if progress is not None:
                progress(len(positions))
        return pixels

    def batches(
        self,
        index_batches: Iterable[Sequence[int] | np.ndarray],
        num_workers: int = 0,
        *,
        augmented: tuple[int, int] | None = None,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Decodes images batch by batch, in worker processes.

        To be augmented, an image larger than 64 pixels (`size`) is cut out at random, resized and flipped by chance:
        [`random_cut`]. The cut depends on seed, epoch and position alone, so a resumed epoch repeats it, with any
        number of workers. Smaller images come as they are: [`augment`] crops and flips them on the device, whether
        cached or not.

        Args:
            index_batches (`Iterable`): The positions of each batch.
            num_workers (`int`, *optional*, defaults to `0`): Processes that decode; 0 decodes in this one.
            augmented (`tuple[int, int]`, *optional*): Seed and epoch of the cuts; none if not given.

        Yields:
            `tuple[torch.Tensor, torch.Tensor]`: uint8 `(B, 3, size, size)` and the positions, int64 `(B,)`.

        Raises:
            InputError: for an image that cannot be decoded, naming the row.
        """
        loader: Any = torch.utils.data.DataLoader(
            _Decoding(
                replace(self, dataset=_stored(self.dataset, self.column)),
                augmented if self.size > SMALL_SIDE else None,
            ),  # type: ignore[arg-type]
            batch_size=None,
            sampler=(np.asarray(positions, dtype=np.int64) for positions in index_batches),
            num_workers=num_workers,
            collate_fn=_as_it_is,
            # A loader draws a seed for its workers: from here, so that torch's own random state stays as it is.
            generator=torch.Generator(),
            pin_memory=torch.cuda.is_available(),
        )
        for pixels, positions, problem in received(loader):
            # An error raised in a worker comes back wrapped in its traceback, so workers send the line instead.
            if problem is not None:
                raise InputError(problem)
            yield pixels, torch.from_numpy(positions)


@dataclass(frozen=True)
class _Decoding:
    images: StoredImages
    cut: tuple[int, int] | None

    def __getitem__(self, positions: np.ndarray) -> tuple[torch.Tensor | Piped, np.ndarray, str | None]:
        images = self.images
        feature = images.dataset.features[images.column]
        # A column of bytes has none.
        mode = feature.mode if isinstance(feature, Image) else None
        # As decoders have them, channel beside channel: turned about once, when they become floats.
        pixels = torch.empty((len(positions), images.size, images.size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        for i, stored in enumerate(images.dataset[positions].column(0)):
            # One after another: as Python's bytes all files would be held once more.
            value = stored.as_py()
            try:
                if self.cut is None:
                    pixels[i] = decode_image(value, images.size, mode, images.grey_range)
                else:
                    choose = partial(_cut_of_epoch, seed=(*self.cut, int(positions[i])))
                    pixels[i] = square(value, images.size, choose, mode, images.grey_range)
            except Exception as error:
                row = positions[i] if images.numbers is None else images.numbers[positions[i]]
                return pixels[:0], positions, str(unreadable(int(row), images.column, value, error))
        return sendable(pixels), positions, None


def draw_augmentation(n: int, seed: int, epoch: int, padding: int = 4) -> torch.Tensor:
    """Draws the crop and the flip of every row for one epoch.

    They depend on the seed, the epoch and the row alone, so they are the same in any batch and on any process.

    Args:
        n (`int`): Rows of the dataset.
        seed (`int`): Seed of the run.
        epoch (`int`): The epoch.
        padding (`int`, *optional*, defaults to `4`): As given to [`augment`].

    Returns:
        `torch.Tensor`: int64 `(n,)`, for [`augment`].
    """
    drawn = np.random.default_rng([seed, epoch]).integers(2 * (2 * padding + 1) ** 2, size=n, dtype=np.int64)
    return torch.from_numpy(drawn)


def augment(pixels: torch.Tensor, draws: torch.Tensor, padding: int = 4) -> torch.Tensor:
    """Crops each image after padding it with zeros, and flips it, as drawn by [`draw_augmentation`].

    One gather for the batch, on its device, without waiting for it; torchvision's transforms crop a batch all alike,
    and so would have to run image by image.

    Args:
        pixels (`torch.Tensor`): `(B, C, H, W)`, uint8 or float.
        draws (`torch.Tensor`): int64 `(B,)` on the same device, the draws of these rows.
        padding (`int`, *optional*, defaults to `4`): Pixels of zeros on each side.

    Returns:
        `torch.Tensor`: same shape and dtype.
    """
    batch, channels, height, width = pixels.shape
    places = 2 * padding + 1
    drawn = draws[:, None]
    flip, top, left = drawn % 2, drawn // 2 // places, drawn // 2 % places
    y = torch.arange(height, device=pixels.device)
    x = torch.arange(width, device=pixels.device)
    x = torch.where(flip == 1, width - 1 - x, x)
    index = ((top + y)[:, :, None] * (width + 2 * padding) + (left + x)[:, None, :]).view(batch, 1, height * width)
    padded = torch.nn.functional.pad(pixels, (padding,) * 4).flatten(2)
    return padded.gather(2, index.expand(-1, channels, -1)).view(batch, channels, height, width)


def normalize(
    pixels: torch.Tensor,
    mean: torch.Tensor | Sequence[float],
    std: torch.Tensor | Sequence[float],
    memory_format: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """Scales pixels to zero mean and unit deviation, on their device.

    Args:
        pixels (`torch.Tensor`): uint8 `(B, C, H, W)`.
        mean (`torch.Tensor` or `Sequence[float]`): `C` means, where 255 counts as 1.
        std (`torch.Tensor` or `Sequence[float]`):
            `C` deviations, where 255 counts as 1. Tensors on the device of `pixels` spare a copy to it every step.
        memory_format (`torch.memory_format`, *optional*, defaults to `torch.contiguous_format`): Of the result.

    Returns:
        `torch.Tensor`: float32 `(B, C, H, W)`.
    """
    mean = torch.as_tensor(mean, dtype=torch.float32, device=pixels.device).view(-1, 1, 1)
    std = torch.as_tensor(std, dtype=torch.float32, device=pixels.device).view(-1, 1, 1)
    scaled = pixels.to(torch.float32, memory_format=memory_format, copy=True)
    return scaled.sub_(255 * mean).div_(255 * std)


def channel_statistics(pixels: torch.Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, for [`normalize`].

    Args:
        pixels (`torch.Tensor`): uint8 `(N, C, H, W)`: all images, or a sample.

    Returns:
        `tuple[list[float], list[float]]`: `C` means and `C` deviations, where 255 counts as 1, computed from exact
        counts. A channel of one value has deviation 1/255, so that it can be divided by.
    """
    values = np.arange(256) / 255
    means, deviations = [], []
    for channel in range(pixels.shape[1]):
        chunks = pixels[:, channel].split(4096)
        counts = np.sum([torch.bincount(chunk.reshape(-1), minlength=256).cpu() for chunk in chunks], axis=0)
        share = counts / counts.sum()
        mean = float(share @ values)
        means.append(mean)
        deviations.append(max(float(np.sqrt(share @ (values - mean) ** 2)), 1 / 255))
    return means, deviations


def _stored(dataset: Dataset, column: str) -> Dataset:
    """The column alone, to be read as stored: the caller's format and transform are not applied."""
    return dataset.with_format("arrow").select_columns([column])


def _cut_of_epoch(width: int, height: int, seed: Sequence[int]) -> Cut:
    return random_cut(width, height, np.random.default_rng(seed))


def _as_it_is(batch: Any) -> Any:
    return batch
