"""One image as a square of RGB pixels: which part is cut out, decoded no larger than needed, and resized."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torchcodec.decoders import decode_image
from torchvision.transforms.v2 import functional

from .image_files import (
    GreyRange,
    content_of,
    is_jpeg,
    opened_file,
    orientation_if_plain,
    quiet,
    rgb_image,
    upright_rgb,
)

# Told in recipes: pixels of another way of reading files differ a little, so a recording is not continued with them.
DECODING = 2
# Up to this side images are small: they are cached, resized as a whole and cropped with padding, as CIFAR's are.
# Larger ones are cut from the image as stored, as ImageNet's are.
SMALL_SIDE = 64
# A JPEG is decoded to a half, a quarter or an eighth of its size where what is cut out still has this many pixels for
# each one that is asked for: Pillow's thumbnails do so with the same gap.
_GAP = 2
_SCALES = (8, 4, 2)
# From this orientation on, width and height change places.
_ON_ITS_SIDE = 5


class Cut(NamedTuple):
    """What is cut out of an upright image, in its pixels, and whether it is mirrored."""

    left: float
    top: float
    width: float
    height: float
    mirrored: bool = False


# Chooses what is cut out of an image of a width and a height. It may be asked twice, and says the same.
Choose = Callable[[int, int], Cut]


def whole(width: int, height: int) -> Cut:
    """All of the image."""
    return Cut(0, 0, width, height)


def center(width: int, height: int) -> Cut:
    """The largest square in the center."""
    side = min(width, height)
    return Cut((width - side) / 2, (height - side) / 2, side, side)


def random_cut(width: int, height: int, draw: np.random.Generator) -> Cut:
    """A random part of 8% to 100% of the area, sides from 3:4 to 4:3, mirrored by chance.

    As He et al., arXiv 1512.03385, and torchvision's `RandomResizedCrop` do it.
    """
    for _ in range(10):
        area = width * height * draw.uniform(0.08, 1)
        ratio = np.exp(draw.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(draw.integers(width - w + 1)), int(draw.integers(height - h + 1))
            break
    else:
        # A long narrow image may hold no such cut: take the largest one at its center.
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
    return Cut(left, top, w, h, draw.random() < 0.5)


def square(
    value: Any, size: int, choose: Choose, mode: str | None = None, grey_range: GreyRange | None = None
) -> torch.Tensor:
    """Decodes a part of an image to RGB pixels of a given size, bilinear with antialiasing.

    Pillow reads every file, the whole of it. Where it makes no difference but in time, torchcodec decodes what is
    plain 8-bit grey or RGB, and torchvision resizes it; a JPEG far larger than needed is decoded at a smaller scale.

    Args:
        value (`PIL.Image.Image`, `bytes` or `dict`): As for [`open_image`].
        size (`int`): Side in pixels.
        choose (`Callable[[int, int], Cut]`): Chooses the part.
        mode (`str`, *optional*): As for [`rgb_image`].
        grey_range (`tuple[float, float]`, *optional*): As for [`rgb_image`].

    Returns:
        `torch.Tensor`: uint8 `(3, size, size)`.

    Raises:
        OSError: or another error of Pillow's, for a value that is no image.
    """
    content = content_of(value)
    # Whatever is small is left to Pillow, unless a JPEG can be decoded at a smaller scale.
    if isinstance(content, bytes) and mode in (None, "RGB") and (size > SMALL_SIDE or is_jpeg(content)):
        # What goes wrong here goes wrong below, where more is tried.
        with suppress(Exception), quiet():
            if (found := _quick(content, size, choose)) is not None:
                return found
    image = rgb_image(value, mode, grey_range)
    return _by_pillow(image, size, choose(*image.size))


def _quick(content: bytes, size: int, choose: Choose) -> torch.Tensor | None:
    """The pixels by a faster way than [`rgb_image`], for files for which there is one."""
    image = opened_file(content)
    orientation = orientation_if_plain(content, image)
    if orientation is None:
        return None
    upright = image.size if orientation < _ON_ITS_SIDE else image.size[::-1]
    cut = choose(*upright)
    scale = next((by for by in _SCALES if min(cut.width, cut.height) >= _GAP * by * size), 1)
    if scale > 1 and is_jpeg(content):
        # Asked for a whole part of either side, the decoder scales by no less.
        image.draft(image.mode, (image.width // scale, image.height // scale))
        reduced = upright_rgb(image)
        x, y = (of / before for of, before in zip(reduced.size, upright))
        cut = cut._replace(left=cut.left * x, top=cut.top * y, width=cut.width * x, height=cut.height * y)
        return _by_pillow(reduced, size, cut)
    if orientation == 1 and size > SMALL_SIDE:
        return _by_torchcodec(content, size, cut)
    return None


def _by_torchcodec(content: bytes, size: int, cut: Cut) -> torch.Tensor | None:
    decoded = decode_image(content, mode="RGB")
    if decoded.ndim != 3:
        # Several frames, of which Pillow gives the first.
        return None
    top, left, height, width = (round(of) for of in (cut.top, cut.left, cut.height, cut.width))
    pixels = decoded[None, :, top : top + height, left : left + width]
    # Side by side in memory, its channels are resized together, in less time than each for itself.
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    pixels = functional.resize_image(pixels, [size, size], antialias=True)[0]
    return pixels.flip(2) if cut.mirrored else pixels


def _by_pillow(image: PIL.Image.Image, size: int, cut: Cut) -> torch.Tensor:
    if image.size != (size, size) or cut[:4] != (0, 0, size, size):
        box = (cut.left, cut.top, cut.left + cut.width, cut.top + cut.height)
        image = image.resize((size, size), PIL.Image.Resampling.BILINEAR, box=box)
    if cut.mirrored:
        image = PIL.ImageOps.mirror(image)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
