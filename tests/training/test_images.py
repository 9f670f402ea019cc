"""Images as uint8 pixels: resized, cached, streamed, augmented and normalized."""

import itertools

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, Image
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_digits

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
from tests.helpers import encoded, error_of
from tests.training.pictures import array_of, cache_images, photo, rows_of


def digits(n: int) -> Dataset:
    return rows_of([encoded(PIL.Image.fromarray((d * 15).astype(np.uint8))) for d in load_digits().images[:n]])


@pytest.mark.parametrize("shape", [(8, 8), (32, 20), (20, 32), (64, 64), (300, 200)])
@pytest.mark.parametrize("size", [8, 32, 64])
def test_small_sizes_are_the_whole_image_resized(shape, size):
    image = photo(*shape)
    expected = np.asarray(image.resize((size, size), PIL.Image.Resampling.BILINEAR))
    assert (array_of(decode_image(encoded(image), size)) == expected).all()


@pytest.mark.parametrize("shape, square", [((300, 200), (50, 0)), ((200, 300), (0, 50)), ((200, 200), (0, 0))])
def test_large_sizes_are_the_center(shape, square):
    # All but the center square is red, and the square itself left black, right blue, upper half with green.
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
    for reread in (True, False):
        assert fits_cache(1000, 32, 1000 * 3 * 32 * 32, reread)
        assert not fits_cache(1001, 32, 1000 * 3 * 32 * 32, reread)
        assert fits_cache(10, 64, 1e9, reread) and fits_cache(10, 65, 1e9, reread) == reread


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
    # Means of the outer columns and rows; between their centers lie 95/96 of the cut.
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
    center = (left + right) / 2 / 255
    assert center.min() < 0.3 and center.max() > 0.7 and abs(center.mean().item() - 0.5) < 0.05


def test_images_too_narrow_for_a_cut_are_cut_at_the_center():
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


# Normalizing


@settings(deadline=None)
@given(
    hnp.arrays(np.uint8, (3, 2, 4, 5)),
    st.lists(st.floats(0, 1), min_size=2, max_size=2),
    st.lists(st.floats(1 / 255, 1), min_size=2, max_size=2),
)
def test_normalize(pixels, mean, std):
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


def test_channel_statistics_of_many_images_normalize_them():
    pixels = cache_images(digits(1797), "image", 8).repeat(5, 1, 1, 1)
    values = pixels.numpy() / 255
    means, deviations = channel_statistics(pixels)
    np.testing.assert_allclose(means, values.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(deviations, values.std((0, 2, 3)), rtol=1e-12)
    scaled = normalize(pixels, means, deviations).double()
    np.testing.assert_allclose(scaled.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std((0, 2, 3), correction=0), 1, rtol=1e-5)
    assert channel_statistics(torch.full((2, 3, 4, 4), 9, dtype=torch.uint8)) == ([9 / 255] * 3, [1 / 255] * 3)
