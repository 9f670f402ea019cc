"""One image as RGB pixels: turned as its orientation says, deep grey scaled to 8 bits, whatever its other metadata."""

import io
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import PIL.Image
from torchcodec.decoders import decode_png

from ...data.columns import encoded_image

# The pixel values that become 0 and 255.
GreyRange = tuple[float, float]
_ORIENTATION = 0x0112
_TURNED = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
# Tried before Pillow's forty other formats, whose checks take long beside decoding a small image.
_COMMON = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# Of 8 bits a channel whatever they hold.
_SHALLOW = (_JPEG, b"GIF8", b"RIFF", b"BM")
# Chunks of a PNG that may hold an orientation.
_METADATA = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
# TIFF tags that say where the pixels are and what they mean.
_PIXELS = {*range(254, 269), *range(273, 280), 284, 292, 293, 317, *range(320, 337), 338, 339, 347, *range(529, 533)}
HEAD = 26


def open_image(value: Any) -> PIL.Image.Image:
    """Opens an image by its header.

    Args:
        value (`PIL.Image.Image`, `bytes` or `dict`): An image, a file's bytes, or `{"bytes": ..., "path": ...}`.

    Returns:
        `PIL.Image.Image`: its pixels may not be read yet.
    """
    with quiet():
        content = content_of(value)
        return content if isinstance(content, PIL.Image.Image) else _read(content, lambda image: image)


def rgb_image(value: Any, mode: str | None = None, grey_range: GreyRange | None = None) -> PIL.Image.Image:
    """Reads an image as RGB pixels of 8 bits, turned as its orientation says, transparent pixels over white.

    Args:
        value (`PIL.Image.Image`, `bytes` or `dict`): As for [`open_image`].
        mode (`str`, *optional*): Pillow mode to convert to first; one without transparency drops it.
        grey_range (`tuple[float, float]`, *optional*):
            The values that become 0 and 255 where pixels have more than 8 bits, from [`find_grey_range`]. If not
            given they are scaled by their bits: 16-bit numbers by 257, floats as 0 to 1 if none is above 1, else as
            0 to 255.

    Returns:
        `PIL.Image.Image`: of mode `RGB`.
    """
    with quiet():
        content = content_of(value)
        if isinstance(content, PIL.Image.Image):
            image = _turned(content)
        else:
            image = _read(content, _turned)
            if grey_range is not None and _is_deep_color(content[:HEAD]):
                image = _turned(_from_deep_color(content, grey_range), _orientation(image))
        return _as_rgb(image, mode, grey_range)


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Pillow's warnings about metadata and large images. Not for threads, which share the filters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def deep_pixels(value: Any) -> np.ndarray | None:
    """The pixels of an image of more than 8 bits per channel, as stored, without transparency.

    It may be called in threads, since it does not call [`quiet`] itself.

    Args:
        value (`PIL.Image.Image`, `bytes` or `dict`): As for [`open_image`].

    Returns:
        `np.ndarray`: any shape; `None` for an image of 8 bits.
    """
    content = content_of(value)
    if isinstance(content, bytes) and _is_deep_color(content[:HEAD]):
        return _deep_color(content)[0]
    image = content if isinstance(content, PIL.Image.Image) else _read(content, _loaded_if_deep)
    return _finite(image) if _is_deep(image.mode) else None


def may_be_deep(head: bytes) -> bool:
    """Whether a file with this beginning can have more than 8 bits per channel; most cannot, and need not be opened.

    Args:
        head (`bytes`): The first 26 bytes, or more.
    """
    if head.startswith(_PNG):
        return head[24:25] == b"\x10"
    return not head.startswith(_SHALLOW)


def is_jpeg(content: bytes) -> bool:
    """Whether a file begins as a JPEG does."""
    return content.startswith(_JPEG)


def orientation_if_plain(content: bytes, image: PIL.Image.Image) -> int | None:
    """The EXIF orientation of a file of plain 8-bit grey or RGB, from its header alone.

    Args:
        content (`bytes`): The file.
        image (`PIL.Image.Image`): From [`opened_file`].

    Returns:
        `int`, *optional*: 1 to 8; `None` for any other file, and for one that may tell after its pixels.
    """
    if image.mode not in ("RGB", "L") or image.has_transparency_data:
        return None
    if image.format == "PNG":
        # Pillow would read all pixels to look for what follows them.
        plain = content[24:25] == b"\x08" and not any(kind in _METADATA for kind, _ in _png_chunks(content))
        return 1 if plain else None
    return _orientation(image) if image.format in ("JPEG", "MPO", "WEBP") else None


def upright_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """The pixels of an opened image of 8 bits as RGB, turned as its orientation says."""
    return _as_rgb(_turned(image), None, None)


def content_of(value: Any) -> Any:
    """The bytes of a file, or an image that is one already."""
    content = encoded_image(value) if isinstance(value, dict) else value
    if content is None:
        raise ValueError("it is null")
    return content


def _read(content: bytes, then: Callable[[PIL.Image.Image], PIL.Image.Image]) -> PIL.Image.Image:
    """Opens a file and passes it on; if that fails, tries again without all that is no part of the pixels."""
    try:
        return then(opened_file(content))
    except Exception:
        bare, exif = _without_metadata(content)
        if bare == content:
            raise
        with suppress(Exception):
            image = opened_file(bare)
            if exif:
                image.info["exif"] = exif
            return then(image)
        raise


def opened_file(content: bytes) -> PIL.Image.Image:
    """Opens a file by its header, whatever its format."""
    try:
        return PIL.Image.open(io.BytesIO(content), formats=_COMMON)
    except PIL.UnidentifiedImageError:
        return PIL.Image.open(io.BytesIO(content))


def _turned(image: PIL.Image.Image, orientation: int | None = None) -> PIL.Image.Image:
    # Read whole first: a PNG may tell after its pixels, and Pillow turns a TIFF itself.
    image.load()
    # Not ImageOps.exif_transpose, which writes all other tags anew, and fails where one of them is odd.
    method = _TURNED.get(_orientation(image) if orientation is None else orientation)
    return image if method is None else image.transpose(method)


def _loaded_if_deep(image: PIL.Image.Image) -> PIL.Image.Image:
    if _is_deep(image.mode):
        image.load()
    return image


def _orientation(image: PIL.Image.Image) -> int:
    found = _exif_orientation(image.info.get("exif") or b"")
    if found is not None:
        return found
    # Broken metadata is no fault of the pixels.
    with suppress(Exception):
        found = image.getexif().get(_ORIENTATION)
    return found if isinstance(found, int) else 1


def _exif_orientation(exif: bytes) -> int | None:
    """Reads only the orientation: Pillow reads tag by tag, and stops at the first that it cannot read."""
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return None
    with suppress(struct.error):
        (first,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, first)
        for at in range(first + 2, first + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, at)
            if tag == _ORIENTATION and kind in (3, 4):
                return struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", exif, at + 8)[0]
    return None


def _without_metadata(content: bytes) -> tuple[bytes, bytes | None]:
    """A file without texts, profiles and the like, and the EXIF block that it had; as it is for other formats."""
    with suppress(struct.error):
        if content.startswith(_PNG):
            return _bare_png(content)
        if content.startswith(_JPEG):
            return _bare_jpeg(content)
        if content[:4] in (b"II*\0", b"MM\0*"):
            return _bare_tiff(content), None
    return content, None


def _bare_png(content: bytes) -> tuple[bytes, bytes | None]:
    kept, exif = [_PNG], None
    for kind, place in _png_chunks(content):
        if kind == b"eXIf":
            exif = content[place.start + 8 : place.stop - 4]
        # A small letter marks what is not needed to show the image; transparency is shown too.
        elif kind == b"tRNS" or not kind[0] & 0x20:
            kept.append(content[place])
    return b"".join(kept), exif


def _png_chunks(content: bytes) -> Iterator[tuple[bytes, slice]]:
    """The kind of each chunk, and where it is: its length, kind, data and checksum."""
    at = len(_PNG)
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        yield kind, slice(at, at + 12 + length)
        at += 12 + length


def _bare_jpeg(content: bytes) -> tuple[bytes, bytes | None]:
    kept, exif, at = [content[:2]], None, 2
    while at + 4 <= len(content) and content[at] == 0xFF and (marker := content[at + 1]) != 0xDA:
        if marker == 0xFF:
            at += 1
            continue
        (length,) = struct.unpack_from(">H", content, at + 2)
        segment = content[at : at + 2 + length]
        if segment[4:10] == b"Exif\0\0":
            exif = segment[4:]
        # JFIF and Adobe say what the colors are.
        if marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(segment)
        at += 2 + length
    return b"".join([*kept, content[at:]]), exif


def _bare_tiff(content: bytes) -> bytes:
    order = "<" if content[:2] == b"II" else ">"
    (first,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, first)
    entries = [content[at : at + 12] for at in range(first + 2, first + 2 + 12 * count, 12)]
    kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in _PIXELS]
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return content[:first] + directory + content[first + len(directory) :]


def _is_deep(mode: str) -> bool:
    return mode in ("I", "F") or mode.startswith("I;16")


def _is_deep_color(head: bytes) -> bool:
    # Pillow has no mode for 16 bits of more than one channel: it leaves the upper 8.
    return head.startswith(_PNG) and head[24:25] == b"\x10" and head[25:26] in (b"\x02", b"\x04", b"\x06")


def _deep_color(content: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Channels `(H, W, C)` of grey or color, and of transparency, uint16."""
    pixels = decode_png(content, mode="UNCHANGED", output_dtype="auto")
    planes = pixels.permute(1, 2, 0).numpy()
    transparent = planes.shape[2] in (2, 4)
    return (planes[..., :-1], planes[..., -1]) if transparent else (planes, None)


def _from_deep_color(content: bytes, grey_range: GreyRange) -> PIL.Image.Image:
    color, alpha = _deep_color(content)
    image = PIL.Image.fromarray(_scaled(np.broadcast_to(color, (*color.shape[:2], 3)), grey_range))
    if alpha is not None:
        image.putalpha(PIL.Image.fromarray(np.rint(alpha / 257).astype(np.uint8)))
    return image


def _finite(image: PIL.Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    if not np.isfinite(pixels).all():
        raise ValueError("its pixels are floats, some of them not finite")
    return pixels


def _scaled(pixels: np.ndarray, grey_range: GreyRange) -> np.ndarray:
    low, high = grey_range
    # Where all are the same there is nothing to scale by.
    levels = (pixels.astype(np.float64) - low) * (255 / ((high - low) or 1.0))
    return np.rint(np.clip(levels, 0, 255)).astype(np.uint8)


def _grey_range_of(image: PIL.Image.Image, pixels: np.ndarray) -> GreyRange:
    """The range of an image's number of bits, whether it uses all of it or not."""
    if image.mode == "F":
        return (0.0, 1.0) if pixels.max() <= 1 else (0.0, 255.0)
    if pixels.max() > 65535 or pixels.min() < 0:
        raise ValueError("its pixels are 32-bit numbers outside the range of 16 bits")
    return 0.0, 65535.0


def _as_rgb(image: PIL.Image.Image, mode: str | None, grey_range: GreyRange | None) -> PIL.Image.Image:
    # Before converting to a mode, since Pillow's conversion clips these at 255.
    if _is_deep(image.mode):
        pixels = _finite(image)
        image = PIL.Image.fromarray(_scaled(pixels, grey_range or _grey_range_of(image, pixels)))
    if mode is not None and image.mode != mode:
        image = image.convert("L" if _is_deep(mode) else mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")
