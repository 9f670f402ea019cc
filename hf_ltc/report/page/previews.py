"""Rows as a reader sees them: small images, or the beginning of a text."""

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
from datasets import Dataset, Image, Value
from jinja2.utils import htmlsafe_json_dumps

from ...data.columns import read_column
from ...data.inputs import require_dataset
from ...data.shared_rows import input_columns
from ...data.splits import evenly_spaced
from ...recipe import Identity
from ...training.pixels.image_files import GreyRange, open_image, rgb_image

# Bytes of all previews of a page, and the part of them for images of the rows shown; the rest is for the data map.
_BYTES, _PART = 5_200_000, 0.75
_SIDES = (160, 128, 96, 80, 64, 48, 32)
_TRIED = 48
# Images up to this side are kept as they are, to the pixel.
_TINY = 16
_QUALITY = 78
# Of a text as many as leave room for those of all rows.
_CHARACTERS = (400, 250, 150, 90, 50)
_CHUNK = 256


@dataclass(frozen=True)
class Previews:
    """Previews of rows.

    Args:
        kind (`str`): `"image"`, `"text"` or `"none"`, where the dataset has neither.
        values (`dict[int, str]`): By row of the dataset, a WebP file in base64, or a text.
        side (`int`): Longest side of the images.
        unreadable (`int`): Images that could not be read.
        cut (`bool`): Whether some text is longer than what is shown of it.
    """

    kind: str
    values: dict[int, str]
    side: int = 0
    unreadable: int = 0
    cut: bool = False


def previews(
    dataset: Dataset,
    recorded: Identity,
    needed: np.ndarray,
    wanted: np.ndarray,
    *,
    grey_range: GreyRange | None = None,
) -> Previews:
    """Makes the previews of rows, each read and decoded once.

    Args:
        dataset (`datasets.Dataset`): The recorded dataset.
        recorded ([`Identity`]): What the recipe says of it.
        needed (`np.ndarray`): int64, the rows that need a preview.
        wanted (`np.ndarray`): int64, those that have one if there is room.
        grey_range (`tuple[float, float]`, *optional*): As for [`rgb_image`].
    """
    require_dataset(dataset, "dataset")
    columns = _columns(dataset, recorded)
    wanted = np.setdiff1d(wanted, needed)
    if not columns:
        return Previews("none", {})
    if isinstance(dataset.features[columns[0]], Image) or columns[0] == recorded.image_column:
        return _images(dataset, columns[0], np.unique(needed), wanted, grey_range)
    return _texts(dataset, columns, np.union1d(needed, wanted))


def _columns(dataset: Dataset, recorded: Identity) -> list[str]:
    """The column with the images, or those with texts."""
    named = (recorded.image_column, recorded.text_column, recorded.text_pair_column)
    if there := [str(name) for name in named if name in dataset.column_names]:
        return there
    found = [name for name, _ in input_columns(dataset, dataset, recorded.label_column, recorded.id_column)]
    features = {name: dataset.features[name] for name in found}
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    return images[:1] or [
        name for name, feature in features.items() if isinstance(feature, Value) and "string" in feature.dtype
    ]


def _texts(dataset: Dataset, columns: list[str], rows: np.ndarray) -> Previews:
    part = dataset.select(rows)
    texts = zip(*(["" if text is None else text for text in read_column(part, name).to_pylist()] for name in columns))
    whole = [encodable("\n".join(each)) for each in texts]
    shown = whole
    for most in _CHARACTERS:
        shown = [clipped(text, most) for text in whole]
        if sum(len(htmlsafe_json_dumps(text, ensure_ascii=False).encode()) for text in shown) <= _BYTES:
            break
    return Previews("text", dict(zip(rows.tolist(), shown)), cut=shown != whole)


def _images(
    dataset: Dataset, column: str, needed: np.ndarray, wanted: np.ndarray, grey_range: GreyRange | None
) -> Previews:
    feature = dataset.features[column]
    mode = feature.mode if isinstance(feature, Image) else None
    # As stored: the caller's format and transform are not applied.
    stored = dataset.with_format("arrow").select_columns([column])

    def files(rows: np.ndarray, side: int) -> Iterator[tuple[int, bytes | None]]:
        for chunk in np.split(rows, range(_CHUNK, len(rows), _CHUNK)):
            for row, value in zip(chunk.tolist(), stored[chunk].column(0) if len(chunk) else []):
                yield row, _thumbnail(value.as_py(), side, mode, grey_range)

    tried = needed[evenly_spaced(len(needed), _TRIED)]
    side = _SIDES[-1]
    for side in _SIDES:
        sizes = [len(file) for _, file in files(tried, side) if file is not None]
        if len(needed) * (sum(sizes) / max(1, len(sizes))) <= _PART * _BYTES:
            break
    made, room, unreadable = {}, _BYTES, 0
    for rows in (needed, wanted):
        # Those of the data map in random order, so that where there is no room for all some of each part have one.
        for row, file in files(rows if rows is needed else np.random.default_rng(0).permutation(rows), side):
            unreadable += file is None
            if file is None:
                continue
            room -= len(file)
            if room < 0:
                break
            made[row] = base64.b64encode(file).decode()
    return Previews("image", made, side, unreadable)


def _thumbnail(value: Any, side: int, mode: str | None, grey_range: GreyRange | None) -> bytes | None:
    """An image as a WebP file of at most `side` pixels; `None` for one that cannot be read."""
    try:
        opened = open_image(value)
        if opened.format == "JPEG":
            # Decoded at a fraction of its size, which is several times faster.
            opened.draft("RGB", (2 * side, 2 * side))
            value = opened
        image = rgb_image(value, mode, grey_range)
    except Exception:
        return None
    if max(image.size) > side:
        image.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=_QUALITY, lossless=max(image.size) <= _TINY)
    return file.getvalue()


def clipped(text: str, most: int) -> str:
    """The beginning of a text."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def encodable(text: str) -> str:
    """A text with a replacement for what no encoding has, which a page cannot hold."""
    return text.encode(errors="replace").decode()
