"""The values between which the deep grey of a column lies: one scale for all of its images."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.utils.file_utils import xopen

from ...recipe import Recipe
from ...utils.errors import InputError, LTCWarning, one_line
from .image_files import HEAD, GreyRange, deep_pixels, may_be_deep, quiet

# A dataset, its image column, and row numbers for messages: the positions if there are none.
Images = tuple[Dataset, str, np.ndarray | None]
_CHUNK = 256
# Pixels whose quantiles tell outliers, of all images together, and at least of each.
_SAMPLE, _FEWEST = 2**22, 16
# The share of the pixels at either end that may be outliers, and of the range that they may leave to the others.
_TAIL, _LEFT = 0.0005, 1 / 8


def find_grey_range(rows: Iterable[Images], progress: Callable[[int], Any] | None = None) -> GreyRange | None:
    """Finds the lowest and the highest value of the images that have more than 8 bits per pixel.

    Files of 16 bits may use 8 or 12 of them, and 32-bit numbers and floats have no range of their own. Images of 8
    bits are recognized by their first bytes and not decoded. A few pixels so far from all others that these would be
    left with an eighth of the levels (hot pixels, marks of missing measurements) do not count, and are named.

    Args:
        rows (`Iterable`): Of [`Images`].
        progress (`Callable[[int], Any]`, *optional*): Called with the number of rows done since the last call.

    Returns:
        `tuple[float, float]`: the values that become 0 and 255; `None` if no image is deep.

    Raises:
        InputError: for an image that cannot be read, naming the row.
    """
    rows = list(rows)
    each = max(_FEWEST, _SAMPLE // max(1, sum(len(dataset) for dataset, _, _ in rows)))
    lows, highs, sample = [], [], []
    # Pillow decodes without holding the lock.
    with quiet(), ThreadPoolExecutor() as pool:
        for pixels in _deep(rows, pool, progress):
            lows.append(pixels.min())
            highs.append(pixels.max())
            flat = pixels.reshape(-1)
            sample.append(flat[:: -(-len(flat) // each)])
    if not lows:
        return None
    low, high = float(min(lows)), float(max(highs))
    bulk_low, bulk_high = _bulk(np.concatenate(sample))
    if 0 < bulk_high - bulk_low < (high - low) * _LEFT:
        columns = ", ".join(dict.fromkeys(repr(column) for _, column, _ in rows))
        warnings.warn(
            f"the deep images of column {columns} have values from {low:g} to {high:g}, but nearly all pixels are "
            f"from {bulk_low:g} to {bulk_high:g}: these are scaled to 8 bits, and the others count as the nearest",
            LTCWarning,
            stacklevel=2,
        )
        return bulk_low, bulk_high
    return low, high


def recorded_grey_range(recipes: Iterable[Recipe]) -> dict[str, GreyRange | None] | None:
    """The range that recordings of the same rows were made with.

    Args:
        recipes (`Iterable[Recipe]`): Recipes of the recordings, in order of precedence.

    Returns:
        `dict[str, tuple[float, float] | None]`: the `grey_range` for the recipe of another one, `None` where no image
        is deep; empty where each image was scaled by its bits, as before there was a range; `None` if no recording
        tells.
    """
    for recipe in recipes:
        training = recipe.training
        if training.image_size is not None:
            told = training.to_dict()
            return {name: found and tuple(found) for name, found in told.items() if name == "grey_range"}
    return None


def grey_range_of(recipes: Iterable[Recipe], parts: Sequence[Images]) -> GreyRange | None:
    """The range for models that are trained on recorded rows: the recorded one, or else that of the rows.

    Args:
        recipes (`Iterable[Recipe]`): As for [`recorded_grey_range`].
        parts (`Sequence[Images]`): The candidate rows, and then rows that are asked only if none of these is deep.

    Returns:
        `tuple[float, float]`, *optional*: as [`find_grey_range`].
    """
    recorded = recorded_grey_range(recipes)
    if recorded == {}:
        return None
    if recorded is not None and recorded["grey_range"] is not None:
        return recorded["grey_range"]
    asked = parts if recorded is None else parts[1:]
    return next((found for part in asked if (found := find_grey_range([part])) is not None), None)


def _bulk(sample: np.ndarray) -> GreyRange:
    low = np.quantile(sample, _TAIL, method="lower")
    return float(low), float(np.quantile(sample, 1 - _TAIL, method="higher"))


def _deep(
    rows: list[Images],
    pool: ThreadPoolExecutor,
    progress: Callable[[int], Any] | None,
) -> Iterator[np.ndarray]:
    for dataset, column, numbers in rows:
        # Slices of the table: no file is copied.
        stored = dataset.with_format("arrow").select_columns([column])

        def pixels(row: int, value: Any, column: str = column, numbers: np.ndarray | None = numbers) -> Any:
            try:
                return deep_pixels(value)
            except Exception as error:
                number = row if numbers is None else int(numbers[row])
                raise unreadable(number, column, value, error) from error

        for first in range(0, len(dataset), _CHUNK):
            part = stored[first : first + _CHUNK].column(0)
            likely = [(first + i, value.as_py()) for i, value in enumerate(part) if may_be_deep(_head(value))]
            found = pool.map(lambda each: pixels(*each), likely)
            yield from (each for each in found if each is not None)
            if progress is not None:
                progress(len(part))


def _head(value: pa.Scalar) -> bytes:
    """The beginning of a file, without copying the whole file."""
    path = None
    if isinstance(value, pa.StructScalar) and value.is_valid:
        path = value["path"].as_py() if "path" in value else None
        value = value["bytes"]
    if value.is_valid and isinstance(value, pa.BinaryScalar):
        return value.as_buffer()[:HEAD].to_pybytes()
    if path is not None:
        # One that cannot be read is named when it is opened.
        with suppress(OSError), xopen(path, "rb") as file:
            return file.read(HEAD)
    return b""


def unreadable(row: int, column: str, value: Any, error: Exception) -> InputError:
    """The error for an image that cannot be read, naming its row and file."""
    path = value.get("path") if isinstance(value, dict) else None
    return InputError(
        f"row {row}, column {column!r}{f', file {path!r}' if path else ''}: not a readable image "
        f"({one_line(error)}): leave the row out with dataset.select, or replace its file"
    )
