"""Image files with odd metadata: the pixels are read, and turned as the orientation says."""

import io
import struct
import warnings
import zlib

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_ltc.training.image_files import may_be_deep, open_image, rgb_image

PHOTO = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
TURNED = np.rot90(PHOTO, -1)


def file_of(kind: str, **options) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(PHOTO).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}), **options)
    return file.getvalue()


def exif_block(entries: list[tuple[int, int, int, bytes]], order: str = "<", rest: bytes = b"") -> bytes:
    """An EXIF block of one directory of entries: tag, type, count, and the four bytes of its value."""
    block = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    for tag, kind, count, value in entries:
        block += struct.pack(f"{order}HHI", tag, kind, count) + value
    return b"Exif\0\0" + block + bytes(4) + rest


def turn(order: str = "<", kind: int = 3) -> tuple[int, int, int, bytes]:
    """The tag of a photo that is to be turned to the right."""
    return 0x0112, kind, 1, struct.pack(f"{order}{'H' if kind == 3 else 'I'}", 6).ljust(4, b"\0")


def pixels(file: bytes) -> np.ndarray:
    # As users have it who take warnings for errors.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(rgb_image(file))


def as_saved(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The photo as the format keeps it, as it is and turned."""
    plain = np.asarray(PIL.Image.open(io.BytesIO(file_of(kind))).convert("RGB"))
    return plain, np.rot90(plain, -1)


# Before and after the orientation in the order of tags; there may be any bytes where values are kept elsewhere.
tags = st.sampled_from([0x010E, 0x010F, 0x011A, 0x011B, 0x0128, 0x8769, 0x8825, 0x927C, 0x9204, 0xA005, 0x02BC])
values = st.binary(min_size=4, max_size=4) | st.sampled_from([0, 8, 26, 40, 9999]).map(lambda n: struct.pack("<I", n))
counts = st.sampled_from([0, 1, 2, 4, 100, 2**31, 2**32 - 1])
odd = st.tuples(tags, st.integers(0, 18), counts, values)


@given(kind=st.sampled_from(["JPEG", "PNG", "WEBP"]), others=st.lists(odd, max_size=3), rest=st.binary(max_size=40))
def test_a_photo_is_turned_whatever_its_other_tags(kind, others, rest):
    exif = exif_block(sorted([turn(), *others]), rest=rest)
    assert (pixels(file_of(kind, exif=exif)) == as_saved(kind)[1]).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_orientation_of_both_byte_orders_and_types(order, kind):
    assert (pixels(file_of("PNG", exif=exif_block([turn(order, kind)], order))) == TURNED).all()


@pytest.mark.parametrize(
    "exif",
    [
        exif_block([(0x0112, 2, 2, b"6\0\0\0")]),
        exif_block([(0x0112, 3, 1, struct.pack("<HH", 9, 0))]),
        exif_block([turn()])[:20],
        b"Exif\0\0",
        b"Exif\0\0MM",
    ],
)
def test_no_orientation_is_none(exif):
    assert (pixels(file_of("PNG", exif=exif)) == PHOTO).all()


def test_orientation_of_xmp():
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert (pixels(file_of("JPEG", xmp=xmp)) == as_saved("JPEG")[1]).all()


# Files that Pillow refuses for what is no part of their pixels


def chunk(kind: bytes, data: bytes, wrong: bool = False) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) ^ wrong)


LONG = zlib.compress(bytes(PIL.PngImagePlugin.MAX_TEXT_CHUNK + 1))
CHUNKS = {
    "a long text": chunk(b"zTXt", b"key\0\0" + LONG),
    "a long international text": chunk(b"iTXt", b"key\0\1\0\0\0" + LONG),
    "a text of no known compression": chunk(b"zTXt", b"key\0\7" + b"abc"),
    "a profile of no known compression": chunk(b"iCCP", b"icc\0\7" + b"abc"),
    "a short profile": chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"profile")[:-3]),
    "a short resolution": chunk(b"pHYs", b"\0"),
    "short colours": chunk(b"cHRM", b""),
    "a wrong checksum": chunk(b"tEXt", b"key\0text", wrong=True),
}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("kind", CHUNKS)
def test_png_chunks_beside_the_pixels(kind, before):
    file = file_of("PNG", exif=exif_block([turn()]))
    at = file.index(b"IDAT" if before else b"IEND") - 4
    odd_file = file[:at] + CHUNKS[kind] + file[at:]
    assert (pixels(odd_file) == TURNED).all()
    assert max(open_image(odd_file).size) == 6


def test_transparency_is_no_metadata():
    image = PIL.Image.fromarray(PHOTO)
    key = tuple(int(level) for level in PHOTO[2, 1])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=key)
    content = file.getvalue()
    at = content.index(b"IDAT") - 4
    found = pixels(content[:at] + CHUNKS["a long text"] + content[at:])
    assert (found == np.where((key == PHOTO).all(2)[..., None], 255, PHOTO)).all()


def tiff_with(entry: tuple[int, int, int, bytes]) -> bytes:
    """A TIFF with one more tag, its directory written anew at the end."""
    file = bytearray(file_of("TIFF"))
    (first,) = struct.unpack_from("<I", file, 4)
    (count,) = struct.unpack_from("<H", file, first)
    entries = [bytes(file[at : at + 12]) for at in range(first + 2, first + 2 + 12 * count, 12)]
    for tag, kind, n, value in (turn(), entry):
        entries.append(struct.pack("<HHI", tag, kind, n) + value)
    entries.sort(key=lambda one: struct.unpack_from("<H", one))
    file[4:8] = struct.pack("<I", len(file))
    return bytes(file + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))


@pytest.mark.parametrize(
    "entry",
    [
        (0x02BC, 3, 1, struct.pack("<HH", 7, 0)),
        (0x8769, 9, 1, struct.pack("<i", -4009)),
        (0x8825, 9, 1, struct.pack("<i", -16)),
        (0x010E, 2, 2**31, struct.pack("<I", 9999)),
        (0x010F, 5, 100, struct.pack("<I", 9999)),
        (0x011A, 5, 1, struct.pack("<I", 2**31)),
    ],
)
def test_tiff_tags_beside_the_pixels(entry):
    assert (pixels(tiff_with(entry)) == TURNED).all()


def test_what_has_no_pixels_is_refused_with_pillows_reason():
    for file in (b"", b"no image", file_of("PNG")[:40], file_of("JPEG")[:60], b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"):
        with pytest.raises((OSError, SyntaxError)):
            pixels(file)
    with pytest.raises(OSError, match="truncated"):
        pixels(file_of("PNG")[:-40])


def test_large_images_are_no_warning():
    """Above 89 million pixels, Pillow warns of those that could be made to fill the memory."""
    file = io.BytesIO()
    PIL.Image.new("1", (10_000, 9_000)).save(file, "PNG")
    assert open_image(file.getvalue()).size == (10_000, 9_000)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP", "BMP"])
def test_formats_of_eight_bits_are_told_by_their_beginning(kind):
    assert not may_be_deep(file_of(kind)[:26])
    assert not may_be_deep(file_of("PNG")[:26])
    assert may_be_deep(file_of("TIFF")[:26])
