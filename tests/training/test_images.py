"""Images as uint8 pixels: decoded, cached, streamed, augmented and normalized."""

import io
import itertools

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_digits, load_sample_image

from hf_ltc.training.images import (
    StoredImages,
    augment,
    channel_statistics,
    decode_image,
    draw_augmentation,
    fits_cache,
    image_size,
    normalize,
)
from hf_ltc.utils.errors import InputError

ORIENTATION = 0x0112


def cache_images(rows: Dataset, column: str, size: int, **options) -> torch.Tensor:
    return StoredImages(rows, column, size).read(**options)


def encoded(image: PIL.Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo(width: int, height: int) -> PIL.Image.Image:
    """A piece of a real photograph."""
    return PIL.Image.fromarray(load_sample_image("china.jpg")[:height, 100 : 100 + width])


def rows_of(images: list[bytes | None], paths: list[str | None] | None = None, **image) -> Dataset:
    stored = [
        None if file is None and path is None else {"bytes": file, "path": path}
        for file, path in zip(images, paths or [None] * len(images))
    ]
    features = Features({"image": Image(**image), "row": Value("int64")})
    return Dataset.from_dict({"image": stored, "row": list(range(len(images)))}, features=features)


def digits(n: int) -> Dataset:
    return rows_of([encoded(PIL.Image.fromarray((d * 15).astype(np.uint8))) for d in load_digits().images[:n]])


def array_of(pixels: torch.Tensor) -> np.ndarray:
    """Pixels as Pillow and numpy have them: height, width, channel."""
    assert pixels.dtype == torch.uint8 and pixels.shape[0] == 3
    return pixels.permute(1, 2, 0).numpy()


def decoded(image: PIL.Image.Image, kind: str = "PNG", mode: str | None = None, **options) -> np.ndarray:
    """Encodes a square image to a file and decodes it at its own size."""
    return array_of(decode_image({"bytes": encoded(image, kind, **options), "path": None}, image.width, mode))


def error_of(function, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Modes


GREY = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


def test_colour_as_it_is():
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert (decoded(PIL.Image.fromarray(COLOUR), kind) == COLOUR).all()
    assert (decoded(PIL.Image.fromarray(COLOUR), "WEBP", lossless=True) == COLOUR).all()


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

    def over_white(colour: np.ndarray) -> np.ndarray:
        share = alpha[:, :, None] / 255
        return share * colour + (1 - share) * 255

    rgba = PIL.Image.fromarray(np.dstack([COLOUR, alpha]), "RGBA")
    # Pillow composes in integers: one level of rounding.
    assert np.abs(decoded(rgba) - over_white(COLOUR)).max() <= 1
    assert np.abs(decoded(rgba, "WEBP", lossless=True, exact=True) - over_white(COLOUR)).max() <= 1
    grey = PIL.Image.fromarray(np.dstack([GREY, alpha]), "LA")
    assert np.abs(decoded(grey) - over_white(as_rgb(GREY))).max() <= 1


def test_transparent_palette_and_colour_key():
    palette = np.random.default_rng(2).integers(0, 255, (16, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(GREY % 16, "P")
    image.putpalette(palette.tobytes())
    expected = np.where((GREY % 16 == 5)[:, :, None], 255, palette[GREY % 16])
    assert (decoded(image, transparency=5) == expected).all()
    assert (decoded(image, "GIF", transparency=5) == expected).all()

    expected = np.where(np.equal(GREY, GREY[0, 0])[:, :, None], 255, as_rgb(GREY))
    assert (decoded(PIL.Image.fromarray(GREY), transparency=int(GREY[0, 0])) == expected).all()
    key = tuple(int(level) for level in COLOUR[3, 3])
    expected = np.where(np.equal(COLOUR, key).all(2)[:, :, None], 255, COLOUR)
    assert (decoded(PIL.Image.fromarray(COLOUR), transparency=key) == expected).all()


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
    found = decoded(PIL.Image.fromarray(COLOUR), kind, exif=exif, **options)
    assert (found == turned(COLOUR)).all()


def test_mode_of_the_feature_is_applied_first():
    grey = np.asarray(PIL.Image.fromarray(COLOUR).convert("L"))
    assert (decoded(PIL.Image.fromarray(COLOUR), mode="L") == as_rgb(grey)).all()
    rows = rows_of([encoded(PIL.Image.fromarray(COLOUR))], mode="L")
    assert (array_of(cache_images(rows, "image", 8)[0]) == as_rgb(grey)).all()
    assert (array_of(cache_images(rows.cast_column("image", Image()), "image", 8)[0]) == COLOUR).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "I", "F", "I;16"])
def test_mode_of_the_feature_does_not_clip_sixteen_bits(mode):
    expected = as_rgb(np.rint(DEEP / 257))
    assert (decoded(PIL.Image.fromarray(DEEP), mode=mode) == expected).all()
    assert (decoded(PIL.Image.fromarray(GREY), mode=mode) == as_rgb(GREY)).all()
    if mode not in ("RGB", "RGBA"):
        grey = np.asarray(PIL.Image.fromarray(COLOUR).convert("L"))
        assert (decoded(PIL.Image.fromarray(COLOUR), mode=mode) == as_rgb(grey)).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV"])
def test_every_mode_that_pillow_opens(mode):
    white = PIL.Image.new("RGBA" if mode in ("RGBa", "PA") else "RGB", (8, 8), "white").convert(mode)
    assert white.mode == mode
    assert (array_of(decode_image(white, 8)) == 255).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_metadata_is_no_broken_image(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    file = encoded(PIL.Image.fromarray(COLOUR), kind, exif=b"Exif\0\0no such header", **options)
    whole = encoded(PIL.Image.fromarray(COLOUR), kind, **options)
    assert (decode_image(file, 8) == decode_image(whole, 8)).all()


def test_what_an_image_may_be_given_as(tmp_path):
    image = PIL.Image.fromarray(COLOUR)
    (tmp_path / "a.png").write_bytes(encoded(image))
    for value in (
        image,
        encoded(image),
        {"bytes": encoded(image), "path": None},
        {"bytes": encoded(image), "path": "no such file"},
        {"bytes": None, "path": str(tmp_path / "a.png")},
    ):
        assert (array_of(decode_image(value, 8)) == COLOUR).all()


# Sizes


@pytest.mark.parametrize("shape", [(8, 8), (32, 20), (20, 32), (64, 64), (300, 200)])
@pytest.mark.parametrize("size", [8, 32, 64])
def test_small_sizes_are_the_whole_image_resized(shape, size):
    image = photo(*shape)
    expected = np.asarray(image.resize((size, size), PIL.Image.Resampling.BILINEAR))
    assert (array_of(decode_image(encoded(image), size)) == expected).all()


@pytest.mark.parametrize("shape, square", [((300, 200), (50, 0)), ((200, 300), (0, 50)), ((200, 200), (0, 0))])
def test_large_sizes_are_the_centre(shape, square):
    # All but the centre square is red, and the square itself left black, right blue, upper half with green.
    pixels = np.zeros((shape[1], shape[0], 3), np.uint8)
    pixels[:, :, 0] = 255
    left, top = square
    pixels[top : top + 200, left : left + 200] = 0
    pixels[top : top + 200, left + 100 : left + 200, 2] = 255
    pixels[top : top + 100, left : left + 200, 1] = 255
    found = array_of(decode_image(PIL.Image.fromarray(pixels), 100))
    inside = found[2:-2, 2:-2]
    assert (inside[:, :, 0] == 0).all()
    assert (found[2:-2, 2:48, 2] == 0).all() and (found[2:-2, 52:-2, 2] == 255).all()
    assert (found[2:48, 2:-2, 1] == 255).all() and (found[52:-2, 2:-2, 1] == 0).all()


def test_mixed_sizes_and_modes_in_one_dataset():
    images = [photo(32, 32), photo(50, 30).convert("L"), photo(16, 90).convert("CMYK"), photo(8, 8).convert("RGBA")]
    kinds = ["PNG", "JPEG", "TIFF", "WEBP"]
    rows = rows_of([encoded(image, kind) for image, kind in zip(images, kinds)])
    pixels = cache_images(rows, "image", 32)
    assert pixels.shape == (4, 3, 32, 32)
    for i, row in enumerate(rows.cast_column("image", Image(decode=False))):
        assert (pixels[i] == decode_image(row["image"], 32)).all()


def test_image_size_is_the_longest_side_of_small_images():
    def sized(*shapes: tuple[int, int]) -> Dataset:
        return rows_of([encoded(PIL.Image.new("L", shape)) for shape in shapes])

    assert image_size(sized((8, 8), (28, 20), (20, 16)), "image") == 28
    assert image_size(sized((8, 8), (8, 64)), "image") == 64
    assert image_size(sized((8, 8), (8, 65)), "image") == 224
    assert image_size(sized((500, 400)), "image") == 224
    assert image_size(sized((8, 8)), "image", 96) == 96
    assert image_size(digits(3).select([]), "image") == 224
    assert "`image_size` is 0" in error_of(image_size, sized((8, 8)), "image", 0)


def test_image_size_reads_headers_alone(tmp_path):
    file = encoded(PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)))
    cut = file[:200]
    with pytest.raises(OSError):
        decode_image(cut, 40)
    (tmp_path / "a.png").write_bytes(cut)
    assert image_size(rows_of([cut, None], [None, str(tmp_path / "a.png")]), "image") == 40


def test_image_size_names_the_row_that_it_cannot_read():
    good = encoded(PIL.Image.new("L", (8, 8)))
    message = error_of(image_size, rows_of([good, good, b"no image"]), "image")
    assert "row 2, column 'image'" in message and "dataset.select" in message


def test_what_fits_the_cache():
    assert fits_cache(1000, 32, 1000 * 3 * 32 * 32)
    assert not fits_cache(1001, 32, 1000 * 3 * 32 * 32)
    assert fits_cache(10, 64, 1e9) and not fits_cache(10, 65, 1e9)


# Datasets


def refuse_to_transform(batch):
    raise AssertionError("a transform was applied")


def test_cache_has_the_rows_in_the_order_of_the_dataset():
    rows = digits(300)
    expected = torch.from_numpy((load_digits().images[:300] * 15).astype(np.uint8))[:, None].expand(-1, 3, -1, -1)
    assert (cache_images(rows, "image", 8) == expected).all()
    shuffled = rows.shuffle(seed=0)
    order = shuffled["row"][:]
    assert order != sorted(order)
    for view in (shuffled, shuffled.with_transform(refuse_to_transform), shuffled.with_format("torch", ["row"])):
        assert (cache_images(view, "image", 8) == expected[order]).all()
    assert (cache_images(rows.select([7, 7, 2]), "image", 8) == expected[[7, 7, 2]]).all()
    assert (cache_images(rows.cast_column("image", Image(decode=False)), "image", 8) == expected).all()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_cache_equals_batches_equals_single_images(num_workers):
    rows = digits(70)
    cached = cache_images(rows, "image", 12, num_workers=num_workers)
    batches = [[5, 3], [], list(range(10, 70)), [5]]
    found = list(StoredImages(rows, "image", 12).batches(batches, num_workers, augmented=(0, 0)))
    assert [positions.tolist() for _, positions in found] == batches
    for pixels, positions in found:
        assert pixels.dtype == torch.uint8 and positions.dtype == torch.int64
        assert (pixels == cached[positions]).all()
    for i, value in enumerate(rows.cast_column("image", Image(decode=False))["image"]):
        assert (decode_image(value, 12) == cached[i]).all()


def test_cache_of_no_rows():
    assert cache_images(digits(3).select([]), "image", 8).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("n", [0, 1, 256, 257, 600])
def test_progress_counts_every_row(n):
    done: list[int] = []
    rows = digits(1).select([0] * n)
    assert len(cache_images(rows, "image", 8, progress=done.append)) == n
    assert sum(done) == n


@pytest.mark.parametrize("num_workers", [0, 2])
def test_torch_random_state_is_left_alone(num_workers):
    rows = digits(20)
    before = torch.get_rng_state()
    list(StoredImages(rows, "image", 8).batches([range(20)], num_workers, augmented=(0, 0)))
    assert (torch.get_rng_state() == before).all()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_undecodable_image_is_named_by_its_row(tmp_path, num_workers):
    good = encoded(photo(40, 40))
    (tmp_path / "broken.png").write_bytes(b"no image")
    for bad, path, shown in (
        (b"no image", None, "cannot identify image file"),
        (b"", None, "cannot identify image file"),
        (good[:-200], None, "truncated"),
        (None, None, "it is null"),
        (None, str(tmp_path / "broken.png"), "broken.png"),
        (None, str(tmp_path / "gone.png"), "gone.png"),
    ):
        files = [good] * 600
        files[421] = bad
        paths = [None] * 600
        paths[421] = path
        rows = rows_of(files, paths)
        message = error_of(cache_images, rows, "image", 8, num_workers=num_workers)
        assert "row 421, column 'image'" in message and shown in message and "dataset.select" in message
        # In a selection, it is the row of the selection.
        message = error_of(cache_images, rows.select(range(400, 500)), "image", 8, num_workers=num_workers)
        assert "row 21, column 'image'" in message
        assert len(cache_images(rows.select(range(400)), "image", 8)) == 400


# Random cuts


WIDTH, HEIGHT = 600, 400


def ramp() -> bytes:
    """An image whose red grows from left to right and whose green from top to bottom, to tell where a cut was."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, :, 0] = np.rint(np.linspace(0, 255, WIDTH))
    pixels[:, :, 1] = np.rint(np.linspace(0, 255, HEIGHT))[:, None]
    return encoded(PIL.Image.fromarray(pixels))


def cuts(rows: Dataset, size: int = 96, *, batches=None, seed=0, epoch=0, num_workers=0) -> torch.Tensor:
    batches = [range(len(rows))] if batches is None else batches
    found = list(StoredImages(rows, "image", size).batches(batches, num_workers, augmented=(seed, epoch)))
    order = torch.cat([positions for _, positions in found]).argsort()
    return torch.cat([pixels for pixels, _ in found])[order]


def test_cuts_depend_on_seed_epoch_and_position_alone():
    rows = rows_of([ramp()] * 12)
    first = cuts(rows, seed=3, epoch=5)
    assert (cuts(rows, seed=3, epoch=5, num_workers=2, batches=[[11, 0], range(1, 6), range(6, 11)]) == first).all()
    assert all((first[i] != first[j]).any() for i, j in itertools.combinations(range(12), 2))
    for other in (cuts(rows, seed=4, epoch=5), cuts(rows, seed=3, epoch=6), cuts(rows, seed=5, epoch=3)):
        assert (other != first).flatten(1).any(1).all()


def test_cuts_cover_the_areas_and_shapes_they_should():
    pixels = cuts(rows_of([ramp()] * 300)).float()
    # Means of the outer columns and rows; between their centres lie 95/96 of the cut.
    left, right = pixels[:, 0, :, 0].mean(1), pixels[:, 0, :, -1].mean(1)
    top, bottom = pixels[:, 1, 0].mean(1), pixels[:, 1, -1].mean(1)
    flipped = left > right
    width = (right - left).abs() / 255 * WIDTH * 96 / 95
    height = (bottom - top) / 255 * HEIGHT * 96 / 95
    area = (width * height / (WIDTH * HEIGHT)).numpy()
    ratio = (width / height).numpy()
    # A level is 2.4 pixels wide and 1.6 high, on sides of at least 120.
    assert 0.075 < area.min() < 0.12 and 0.85 < area.max() < 1.02
    assert 0.73 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.37
    # Five standard deviations of 300 fair coins.
    assert abs(flipped.sum().item() - 150) < 5 * np.sqrt(75)
    centre = (left + right) / 2 / 255
    assert centre.min() < 0.3 and centre.max() > 0.7 and abs(centre.mean().item() - 0.5) < 0.05


def test_images_too_narrow_for_a_cut_are_cut_at_the_centre():
    pixels = np.zeros((20, 1000, 3), np.uint8)
    pixels[:, :, 0] = np.abs(np.arange(1000) - 499.5) > 14
    pixels[:, :, 0] *= 255
    found = cuts(rows_of([encoded(PIL.Image.fromarray(pixels))] * 8))
    assert (found[:, 0, :, 4:-4] == 0).all()
    tall = cuts(rows_of([encoded(PIL.Image.fromarray(pixels.swapaxes(0, 1)))] * 8))
    assert (tall[:, 0, 4:-4] == 0).all()


def test_no_cut_without_training_or_of_small_images():
    rows = rows_of([ramp()] * 2)
    whole = cache_images(rows, "image", 96)
    ((pixels, _),) = StoredImages(rows, "image", 96).batches([[0, 1]])
    assert (pixels == whole).all() and (whole[0] == whole[1]).all()
    assert (cuts(rows, 64) == cache_images(rows, "image", 64)).all()


# Augmentation


def every_crop(image: np.ndarray, padding: int) -> set[bytes]:
    """All crops and flips of an image, one by one."""
    _, height, width = image.shape
    padded = np.pad(image, [(0, 0), (padding, padding), (padding, padding)])
    found = set()
    for top, left in itertools.product(range(2 * padding + 1), repeat=2):
        crop = padded[:, top : top + height, left : left + width]
        found |= {crop.tobytes(), crop[:, :, ::-1].tobytes()}
    return found


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.integers(0, 5), st.integers(0, 2**32))
def test_the_draws_are_all_crops_and_flips_each_once(channels, height, width, padding, seed):
    # Zeros are only in the padding, so that crops of the smallest image can be told apart up to its size.
    image = np.random.default_rng(seed).permutation(channels * height * width) + 1
    image = image.astype(np.float32).reshape(channels, height, width)
    draws = torch.arange(2 * (2 * padding + 1) ** 2)
    found = augment(torch.from_numpy(image).expand(len(draws), -1, -1, -1), draws, padding)
    assert found.shape == (len(draws), channels, height, width) and found.dtype == torch.float32
    crops = {crop.numpy().tobytes() for crop in found}
    assert crops == every_crop(image, padding)
    if padding < min(height, width):
        assert len(crops) == len(draws)


@settings(deadline=None)
@given(hnp.arrays(np.uint8, (7, 3, 6, 5)), st.integers(0, 4), st.data())
def test_augment_equals_cropping_one_by_one(pixels, padding, data):
    places = 2 * padding + 1
    draws = data.draw(hnp.arrays(np.int64, 7, elements=st.integers(0, 2 * places * places - 1)))
    whole = augment(torch.from_numpy(pixels), torch.from_numpy(draws), padding)
    assert whole.dtype == torch.uint8
    for i, draw in enumerate(draws):
        place, flip = divmod(int(draw), 2)
        top, left = divmod(place, places)
        padded = np.pad(pixels[i], [(0, 0), (padding, padding), (padding, padding)])
        crop = padded[:, top : top + 6, left : left + 5]
        assert (whole[i].numpy() == (crop[:, :, ::-1] if flip else crop)).all()
    # A row's crop is its own, in any batch.
    some = [4, 0]
    assert (augment(torch.from_numpy(pixels[some]), torch.from_numpy(draws[some]), padding) == whole[some]).all()


def test_draws_depend_on_seed_and_epoch_alone():
    first = draw_augmentation(1000, seed=1, epoch=2)
    assert first.dtype == torch.int64 and first.shape == (1000,)
    torch.manual_seed(0)
    np.random.seed(0)
    assert (draw_augmentation(1000, seed=1, epoch=2) == first).all()
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        assert (draw_augmentation(1000, seed=seed, epoch=epoch) != first).float().mean() > 0.9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 4), st.integers(0, 2**31), st.integers(0, 1000))
def test_draws_are_uniform(padding, seed, epoch):
    kinds = 2 * (2 * padding + 1) ** 2
    counts = np.bincount(draw_augmentation(200 * kinds, seed, epoch, padding), minlength=kinds)
    assert len(counts) == kinds
    # Six standard deviations of a binomial count of mean 200.
    assert np.abs(counts - 200).max() < 6 * np.sqrt(200)


def test_augment_leaves_its_input_alone():
    pixels = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    before = pixels.clone()
    augment(pixels, torch.tensor([3, 100])).fill_(0)
    assert (pixels == before).all()


# Normalising


@settings(deadline=None)
@given(
    hnp.arrays(np.uint8, (3, 2, 4, 5)),
    st.lists(st.floats(0, 1), min_size=2, max_size=2),
    st.lists(st.floats(1 / 255, 1), min_size=2, max_size=2),
)
def test_normalise(pixels, mean, std):
    expected = (pixels / 255 - np.reshape(mean, (2, 1, 1))) / np.reshape(std, (2, 1, 1))
    for m, s in ((mean, std), (torch.tensor(mean), torch.tensor(std))):
        found = normalize(torch.from_numpy(pixels), m, s)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-4)


@settings(deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))))
def test_channel_statistics(pixels):
    means, deviations = channel_statistics(torch.from_numpy(pixels))
    values = pixels.transpose(1, 0, 2, 3).reshape(pixels.shape[1], -1) / 255
    np.testing.assert_allclose(means, values.mean(1), rtol=1e-12, atol=1e-15)
    # The floor is for channels that are constant, or all but.
    np.testing.assert_allclose(deviations, np.maximum(values.std(1), 1 / 255), rtol=1e-9)


def test_channel_statistics_of_many_images_normalise_them():
    pixels = cache_images(digits(1797), "image", 8).repeat(5, 1, 1, 1)
    values = pixels.numpy() / 255
    means, deviations = channel_statistics(pixels)
    np.testing.assert_allclose(means, values.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(deviations, values.std((0, 2, 3)), rtol=1e-12)
    scaled = normalize(pixels, means, deviations).double()
    np.testing.assert_allclose(scaled.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std((0, 2, 3), correction=0), 1, rtol=1e-5)
    assert channel_statistics(torch.full((2, 3, 4, 4), 9, dtype=torch.uint8)) == ([9 / 255] * 3, [1 / 255] * 3)
