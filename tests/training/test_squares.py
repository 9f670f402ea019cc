"""Squares of pixels: by whatever decoder, what Pillow reads from the whole file, up to a bound."""

import io

import numpy as np
import PIL.Image
import pytest

from hf_ltc.training.images import decode_image
from hf_ltc.training.pixels import squares
from hf_ltc.training.pixels.image_files import rgb_image
from hf_ltc.training.pixels.squares import Cut, center, random_cut, square, whole
from tests.helpers import encoded
from tests.training.pictures import array_of, photo

ORIENTATION = 0x0112


def by_pillow(file: bytes, size: int, cut: Cut) -> np.ndarray:
    """What Pillow makes of a part of the whole file, in levels."""
    left, top = round(cut.left), round(cut.top)
    part = rgb_image(file).crop((left, top, left + round(cut.width), top + round(cut.height)))
    pixels = np.asarray(part.resize((size, size), PIL.Image.Resampling.BILINEAR)).astype(int)
    return pixels[:, ::-1] if cut.mirrored else pixels


def is_quick(file: bytes, size: int, choose: squares.Choose = whole) -> bool:
    return squares._quick(file, size, choose) is not None


def cuts(width: int, height: int, count: int) -> list[Cut]:
    return [random_cut(width, height, np.random.default_rng([7, i])) for i in range(count)]


def turned(file: bytes, orientation: int) -> bytes:
    """A JPEG whose EXIF block tells an orientation."""
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    out = io.BytesIO()
    PIL.Image.open(io.BytesIO(file)).save(out, "JPEG", quality="keep", exif=exif)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("color", ["RGB", "L"])
def test_decoded_by_torchcodec_it_differs_by_one_level(kind, color):
    file = encoded(photo(300, 200).convert(color), kind)
    for cut in cuts(300, 200, 20):
        found = array_of(square(file, 96, lambda w, h, cut=cut: cut))
        assert is_quick(file, 96) and np.abs(found - by_pillow(file, 96, cut)).max() <= 1


@pytest.mark.parametrize("size", [16, 48, 80])
def test_decoded_at_a_smaller_scale_it_differs_little(size):
    image = photo(540, 400)
    file = encoded(image, "JPEG", quality=95)
    differences, scaled = [], 0
    for cut in cuts(540, 400, 40):
        scaled += min(cut.width, cut.height) >= 4 * size
        found = array_of(square(file, size, lambda w, h, cut=cut: cut)).astype(int)
        # Inside: at the edges Pillow looks at what is around the part, if it has it.
        differences.append(np.abs(found - by_pillow(file, size, cut))[1:-1, 1:-1])
    means = [each.mean() for each in differences]
    assert scaled > 5 and 0 < max(means) < 3 and np.quantile(np.stack(differences), 0.99) < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_on_its_side_is_turned_before_it_is_cut(orientation):
    file = turned(encoded(photo(540, 400), "JPEG", quality=95), orientation)
    width, height = rgb_image(file).size
    assert (width < height) == (orientation > 4)
    cut = Cut(width // 4, height // 8, width // 2, height // 2, mirrored=True)
    for size in (16, 160):
        found = array_of(square(file, size, lambda w, h: cut)).astype(int)
        expected = by_pillow(file, size, cut)
        assert np.abs(found - expected)[1:-1, 1:-1].mean() < 3
        assert np.abs(found - expected[::-1])[1:-1, 1:-1].mean() > 10
    assert is_quick(file, 16) and is_quick(file, 160) == (orientation == 1)


def test_what_is_asked_for_is_the_size_of_the_upright_image():
    asked = []

    def choose(width: int, height: int) -> Cut:
        asked.append((width, height))
        return center(width, height)

    square(turned(encoded(photo(300, 200), "JPEG"), 6), 24, choose)
    assert asked == [(200, 300)]


def chunks(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + bytes(4)


def grey16() -> bytes:
    return encoded(PIL.Image.fromarray(np.arange(10_000, dtype=np.uint16).reshape(100, 100) * 6), "PNG")


SLOW = {
    "palette": lambda: encoded(photo(100, 100).convert("P"), "PNG"),
    "transparent": lambda: encoded(photo(100, 100).convert("RGBA"), "PNG"),
    "transparent WebP": lambda: encoded(PIL.Image.merge("RGBA", [photo(100, 100).convert("L")] * 4), "WEBP"),
    "a transparent color": lambda: encoded(photo(100, 100), "PNG", transparency=(0, 0, 0)),
    "CMYK": lambda: encoded(photo(100, 100).convert("CMYK"), "JPEG"),
    "16 bits": grey16,
    "GIF": lambda: encoded(photo(100, 100), "GIF"),
    "an animation": lambda: encoded(
        photo(100, 100), "WEBP", save_all=True, append_images=[photo(100, 90).resize((100, 100))], lossless=True
    ),
    "told after the pixels": lambda: (
        encoded(photo(100, 100), "PNG")[:-12] + chunks(b"eXIf", b"") + encoded(photo(9, 9), "PNG")[-12:]
    ),
}


@pytest.mark.parametrize("kind", SLOW)
def test_other_files_are_left_to_pillow(kind):
    file = SLOW[kind]()
    assert not is_quick(file, 96)
    assert (array_of(square(file, 96, whole)) == by_pillow(file, 96, whole(100, 100))).all()


def test_a_mode_asked_for_is_left_to_pillow():
    file = encoded(photo(100, 100), "JPEG")
    grey = np.asarray(rgb_image(file, "L").resize((96, 96), PIL.Image.Resampling.BILINEAR))
    assert (array_of(square(file, 96, whole, mode="L")) == grey).all()


def test_small_images_are_as_they_ever_were():
    file = encoded(photo(32, 32), "JPEG")
    assert not is_quick(file, 32) and (array_of(decode_image(file, 32)) == np.asarray(rgb_image(file))).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [16, 96])
def test_half_a_file_is_pillow_s_to_refuse(kind, size):
    file = encoded(photo(300, 200), kind)
    with pytest.raises(Exception) as expected:
        rgb_image(file[: len(file) // 2])
    with pytest.raises(type(expected.value)) as found:
        decode_image(file[: len(file) // 2], size)
    assert str(found.value) == str(expected.value)
