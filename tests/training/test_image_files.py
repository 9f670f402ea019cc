"""Image files: pixels of every mode and depth as RGB, turned as the orientation says, whatever the metadata."""

import io
import struct
import warnings
import zlib

import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.PngImagePlugin
import pytest
from datasets import Image
from hypothesis import given
from hypothesis import strategies as st

from hf_ltc.training.images import decode_image
from hf_ltc.training.pixels.image_files import may_be_deep, open_image, rgb_image
from tests.helpers import encoded, error_of
from tests.training.pictures import array_of, cache_images, photo, rows_of

PHOTO = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)


TURNED = np.rot90(PHOTO, -1)


def file_of(kind: str, **options) -> bytes:
    return encoded(PHOTO, kind, **({"lossless": True} if kind == "WEBP" else {}), **options)


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
    "short colors": chunk(b"cHRM", b""),
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


# Modes, depths and orientations, at the size of the image


ORIENTATION = 0x0112


def decoded(image: PIL.Image.Image, kind: str = "PNG", mode: str | None = None, **options) -> np.ndarray:
    """Encodes a square image to a file and decodes it at its own size."""
    return array_of(decode_image({"bytes": encoded(image, kind, **options), "path": None}, image.width, mode))


GREY = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
COLOR = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def test_color_as_it_is():
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert (decoded(PIL.Image.fromarray(COLOR), kind) == COLOR).all()
    assert (decoded(PIL.Image.fromarray(COLOR), "WEBP", lossless=True) == COLOR).all()


def test_grey():
    for kind in ("PNG", "TIFF", "GIF"):
        assert (decoded(PIL.Image.fromarray(GREY), kind) == as_rgb(GREY)).all()


def test_one_bit():
    bits = GREY > 127
    assert (decoded(PIL.Image.fromarray(bits)) == as_rgb(np.where(bits, 255, 0))).all()


def test_jpeg_as_pillow_reads_it():
    for image in (photo(48, 48), photo(48, 48).convert("L"), photo(48, 48).convert("CMYK")):
        file = encoded(image, "JPEG", quality=90)
        expected = np.asarray(PIL.Image.open(io.BytesIO(file)).convert("RGB"))
        assert (array_of(decode_image(file, 48)) == expected).all()


def test_cmyk():
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[0, 0] = (255, 0, 0, 0)
    inks[0, 1] = (0, 255, 0, 0)
    inks[0, 2] = (0, 0, 255, 0)
    inks[0, 3] = (0, 0, 0, 255)
    found = decoded(PIL.Image.fromarray(inks, "CMYK"), "TIFF")
    assert found[0, :5].tolist() == [[0, 255, 255], [255, 0, 255], [255, 255, 0], [0, 0, 0], [255, 255, 255]]


def test_palette():
    palette = np.random.default_rng(2).integers(0, 256, (16, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(GREY % 16, "P")
    image.putpalette(palette.tobytes())
    assert (decoded(image) == palette[GREY % 16]).all()
    assert (decoded(image, "GIF") == palette[GREY % 16]).all()


def test_transparent_pixels_are_laid_over_white():
    alpha = np.random.default_rng(3).choice(np.array([0, 128, 255], np.uint8), (8, 8))

    def over_white(color: np.ndarray) -> np.ndarray:
        share = alpha[:, :, None] / 255
        return share * color + (1 - share) * 255

    rgba = PIL.Image.fromarray(np.dstack([COLOR, alpha]), "RGBA")
    # Pillow composes in integers: one level of rounding.
    assert np.abs(decoded(rgba) - over_white(COLOR)).max() <= 1
    assert np.abs(decoded(rgba, "WEBP", lossless=True, exact=True) - over_white(COLOR)).max() <= 1
    grey = PIL.Image.fromarray(np.dstack([GREY, alpha]), "LA")
    assert np.abs(decoded(grey) - over_white(as_rgb(GREY))).max() <= 1


def test_transparent_palette_and_color_key():
    palette = np.random.default_rng(2).integers(0, 255, (16, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(GREY % 16, "P")
    image.putpalette(palette.tobytes())
    expected = np.where((GREY % 16 == 5)[:, :, None], 255, palette[GREY % 16])
    assert (decoded(image, transparency=5) == expected).all()
    assert (decoded(image, "GIF", transparency=5) == expected).all()

    expected = np.where(np.equal(GREY, GREY[0, 0])[:, :, None], 255, as_rgb(GREY))
    assert (decoded(PIL.Image.fromarray(GREY), transparency=int(GREY[0, 0])) == expected).all()
    key = tuple(int(level) for level in COLOR[3, 3])
    expected = np.where(np.equal(COLOR, key).all(2)[:, :, None], 255, COLOR)
    assert (decoded(PIL.Image.fromarray(COLOR), transparency=key) == expected).all()


DEEP = np.random.default_rng(4).integers(0, 65536, (8, 8), dtype=np.uint16)


DEEP[0, :4] = 0, 65535, 257, 128


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    found = decoded(PIL.Image.fromarray(DEEP), kind)
    assert (found == as_rgb(np.rint(DEEP / 257))).all()
    assert found[0, :4, 0].tolist() == [0, 255, 1, 0]


def test_sixteen_bits_of_the_other_byte_order():
    # Pillow writes no such file of a big-endian machine, so a TIFF header by hand: 8x8, one strip, 16 bits a pixel.
    def entry(tag: int, value: int) -> bytes:
        return tag.to_bytes(2, "big") + (4).to_bytes(2, "big") + (1).to_bytes(4, "big") + value.to_bytes(4, "big")

    entries = [(256, 8), (257, 8), (258, 16), (259, 1), (262, 1), (273, 200), (277, 1), (278, 8), (279, 128)]
    header = b"MM\0*" + (8).to_bytes(4, "big") + len(entries).to_bytes(2, "big")
    header += b"".join(entry(*e) for e in entries) + bytes(4)
    file = header.ljust(200, b"\0") + DEEP.astype(">u2").tobytes()
    assert PIL.Image.open(io.BytesIO(file)).mode == "I;16B"
    assert (array_of(decode_image(file, 8)) == as_rgb(np.rint(DEEP / 257))).all()


def test_thirty_two_bit_integers_outside_sixteen_bits_are_refused():
    for value in (65536, -1):
        pixels = DEEP.astype(np.int32)
        pixels[4, 4] = value
        message = error_of(cache_images, rows_of([encoded(PIL.Image.fromarray(pixels), "TIFF")]), "image", 8)
        assert "row 0" in message and "16 bits" in message
    pixels = DEEP.astype(np.int32)
    assert (decoded(PIL.Image.fromarray(pixels), "TIFF") == as_rgb(np.rint(DEEP / 257))).all()


def test_floats():
    unit = np.random.default_rng(5).random((8, 8), dtype=np.float32)
    unit[0, 0] = 1
    assert (decoded(PIL.Image.fromarray(unit), "TIFF") == as_rgb(np.rint(unit.astype(float) * 255))).all()
    levels = unit * 254 + 1
    assert (decoded(PIL.Image.fromarray(levels), "TIFF") == as_rgb(np.rint(levels))).all()
    beyond = levels.copy()
    beyond[0, :2] = -3, 300
    assert decoded(PIL.Image.fromarray(beyond), "TIFF")[0, :2, 0].tolist() == [0, 255]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_not_finite_are_refused(value):
    pixels = np.full((8, 8), 0.5, np.float32)
    pixels[3, 3] = value
    rows = rows_of([encoded(PIL.Image.fromarray(p), "TIFF") for p in (np.zeros_like(pixels), pixels)])
    assert "row 1" in error_of(cache_images, rows, "image", 8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    "orientation, turned",
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).swapaxes(0, 1)),
        (8, lambda a: np.rot90(a, 1)),
        (9, lambda a: a),
    ],
)
def test_orientation_is_applied(kind, orientation, turned):
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decoded(PIL.Image.fromarray(COLOR), kind, exif=exif, **options)
    assert (found == turned(COLOR)).all()


def test_mode_of_the_feature_is_applied_first():
    grey = np.asarray(PIL.Image.fromarray(COLOR).convert("L"))
    assert (decoded(PIL.Image.fromarray(COLOR), mode="L") == as_rgb(grey)).all()
    rows = rows_of([encoded(PIL.Image.fromarray(COLOR))], mode="L")
    assert (array_of(cache_images(rows, "image", 8)[0]) == as_rgb(grey)).all()
    assert (array_of(cache_images(rows.cast_column("image", Image()), "image", 8)[0]) == COLOR).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "I", "F", "I;16"])
def test_mode_of_the_feature_does_not_clip_sixteen_bits(mode):
    expected = as_rgb(np.rint(DEEP / 257))
    assert (decoded(PIL.Image.fromarray(DEEP), mode=mode) == expected).all()
    assert (decoded(PIL.Image.fromarray(GREY), mode=mode) == as_rgb(GREY)).all()
    if mode not in ("RGB", "RGBA"):
        grey = np.asarray(PIL.Image.fromarray(COLOR).convert("L"))
        assert (decoded(PIL.Image.fromarray(COLOR), mode=mode) == as_rgb(grey)).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV"])
def test_every_mode_that_pillow_opens(mode):
    white = PIL.Image.new("RGBA" if mode in ("RGBa", "PA") else "RGB", (8, 8), "white").convert(mode)
    assert white.mode == mode
    assert (array_of(decode_image(white, 8)) == 255).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_metadata_is_no_broken_image(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    file = encoded(PIL.Image.fromarray(COLOR), kind, exif=b"Exif\0\0no such header", **options)
    whole = encoded(PIL.Image.fromarray(COLOR), kind, **options)
    assert (decode_image(file, 8) == decode_image(whole, 8)).all()


def test_what_an_image_may_be_given_as(tmp_path):
    image = PIL.Image.fromarray(COLOR)
    (tmp_path / "a.png").write_bytes(encoded(image))
    for value in (
        image,
        encoded(image),
        {"bytes": encoded(image), "path": None},
        {"bytes": encoded(image), "path": "no such file"},
        {"bytes": None, "path": str(tmp_path / "a.png")},
    ):
        assert (array_of(decode_image(value, 8)) == COLOR).all()
