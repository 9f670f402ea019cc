"""Images of more than eight bits: the values of the column decide the scale, one for all of its images."""

import itertools
import json
import shutil
import struct
import warnings
import zlib

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image

from hf_ltc import EvaluateConfig, RecordConfig, evaluate_coresets, record
from hf_ltc.data.splits import hold_out
from hf_ltc.recipe import Recipe
from hf_ltc.training import batches
from hf_ltc.training.batches import image_batches
from hf_ltc.training.images import StoredImages
from hf_ltc.training.pixels.grey import find_grey_range, recorded_grey_range
from hf_ltc.utils.errors import InputError, LTCWarning
from tests.helpers import encoded

SIDE = 8


def big_endian(pixels: np.ndarray) -> bytes:
    """A TIFF of a big-endian machine, which Pillow does not write."""
    entries = [(256, SIDE), (257, SIDE), (258, 16), (259, 1), (262, 1), (273, 200), (277, 1), (278, SIDE), (279, 128)]
    header = b"MM\0*" + struct.pack(">IH", 8, len(entries))
    header += b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in entries) + bytes(4)
    return header.ljust(200, b"\0") + pixels.astype(">u2").tobytes()


def png16(planes: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow does not write but for grey: two to four channels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = planes.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in planes)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def opaque(planes: np.ndarray) -> np.ndarray:
    return np.concatenate([planes, np.full((*planes.shape[:2], 1), 65535)], axis=2)


def repeated(pixels: np.ndarray, channels: int) -> np.ndarray:
    return np.repeat(pixels[..., None], channels, axis=2)


KINDS = {
    "16 bits": (np.uint16, lambda p: encoded(PIL.Image.fromarray(p), "PNG")),
    "16 bits of TIFF": (np.uint16, lambda p: encoded(PIL.Image.fromarray(p), "TIFF")),
    "16 bits of PGM": (np.uint16, lambda p: encoded(PIL.Image.fromarray(p), "PPM")),
    "16 bits of the other order": (np.uint16, big_endian),
    "32 bits": (np.int32, lambda p: encoded(PIL.Image.fromarray(p), "TIFF")),
    "floats": (np.float32, lambda p: encoded(PIL.Image.fromarray(p), "TIFF")),
    "16 bits of color": (np.uint16, lambda p: png16(repeated(p, 3))),
    "16 bits with transparency": (np.uint16, lambda p: png16(opaque(repeated(p, 1)))),
    "16 bits of color with transparency": (np.uint16, lambda p: png16(opaque(repeated(p, 3)))),
}
RANGES = {
    "8 bits of them": (0, 255),
    "12 bits of them": (0, 4095),
    "above zero": (900, 1100),
    "all": (0, 65535),
    "signed": (-1024, 3071),
    "beyond 16 bits": (10_000, 5_000_000),
    "unit": (0.0, 1.0),
    "around zero": (-0.5, 0.25),
}


def dataset(files: list[bytes], labels: list[int] | None = None) -> Dataset:
    return Dataset.from_dict(
        {
            "image": [{"bytes": file, "path": None} for file in files],
            "label": labels or [i % 2 for i in range(len(files))],
        },
        features=Features({"image": Image(), "label": ClassLabel(names=["no", "yes"])}),
    )


def pixels_of(rows: Dataset, size: int = SIDE, **options) -> np.ndarray:
    grey_range = options.pop("grey_range") if "grey_range" in options else find_grey_range([(rows, "image", None)])
    stored = StoredImages(rows, "image", size, grey_range=grey_range)
    batches = image_batches(stored, np.zeros(len(rows), dtype=np.int64), device=torch.device("cpu"), **options)
    mean, std = batches.mean.view(-1, 1, 1), batches.std.view(-1, 1, 1)
    found = torch.cat([x for x, _, _ in batches(np.array_split(np.arange(len(rows)), 2))])
    return torch.round((found * std + mean) * 255).numpy().astype(int)


def drawn(dtype: type, low: float, high: float, rows: int = 4) -> list[np.ndarray]:
    """Images of which each has a part of the range alone, so that none tells the scale by itself."""
    draw = np.random.default_rng(0)
    cuts = np.linspace(low, high, rows + 1)
    images = [draw.uniform(a, b, (SIDE, SIDE)).astype(dtype) for a, b in itertools.pairwise(cuts)]
    images[0][0, 0], images[-1][0, 0] = low, high
    return images


@pytest.mark.parametrize("values", RANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_values_of_the_column_decide_the_scale(kind, values):
    dtype, encode = KINDS[kind]
    low, high = RANGES[values]
    if (dtype is not np.float32 and high <= 1) or (dtype is np.uint16 and not 0 <= low <= high <= 65535):
        pytest.skip("not of this type")
    images = drawn(dtype, low, high)
    rows = dataset([encode(image) for image in images])
    expected = [np.clip(np.floor((i.astype(float) - low) / (high - low) * 255 + 0.5), 0, 255) for i in images]
    for cache in ("always", "never"):
        found = pixels_of(rows, cache=cache)
        # A rounding of halves at most.
        assert np.abs(found - np.stack(expected)[:, None]).max() <= 1, cache
        assert found.min() == 0 and found.max() == 255
        assert len(np.unique(found)) > 100
    assert find_grey_range([(rows.shuffle(seed=0), "image", None)]) == pytest.approx((low, high))


def test_large_images_and_workers_have_the_same_scale():
    small = drawn(np.uint16, 300, 700)
    rows = dataset(
        [encoded(PIL.Image.fromarray(np.kron(image, np.ones((12, 12), np.uint16))), "PNG") for image in small]
    )
    found = pixels_of(rows, 96, num_workers=2)
    # In the middle of each block, where resizing has nothing to mix.
    assert np.abs(found[:, 0, 6::12, 6::12] - (np.stack(small) - 300.0) * 255 / 400).max() <= 1
    stored = StoredImages(rows, "image", 96, grey_range=find_grey_range([(rows, "image", None)]))
    train = image_batches(stored, np.zeros(4, dtype=np.int64), device=torch.device("cpu"), num_workers=2)
    for x, _, _ in train([np.arange(4)], augmented=(0, 1)):
        whole = torch.round((x * train.std.view(-1, 1, 1) + train.mean.view(-1, 1, 1)) * 255)
        assert whole.min() >= 0 and whole.max() <= 255 and len(whole.unique()) > 50


def test_eight_bits_stay_as_they_are_beside_deep_ones():
    shallow = np.arange(64, dtype=np.uint8).reshape(8, 8)
    deep = drawn(np.uint16, 1000, 3000, rows=2)
    rows = dataset([encoded(PIL.Image.fromarray(image), "PNG") for image in (shallow, *deep)])
    found = pixels_of(rows)
    assert (found[0] == shallow).all()
    assert found[1:].min() == 0 and found[1:].max() == 255
    assert find_grey_range([(rows.select([0]), "image", None)]) is None


def test_a_few_pixels_far_from_all_others_do_not_take_the_levels():
    images = drawn(np.uint16, 0, 200, rows=60)
    images[7][3, 3] = 65535
    rows = dataset([encoded(PIL.Image.fromarray(image), "PNG") for image in images])
    with pytest.warns(
        LTCWarning, match=r"column 'image' have values from 0 to 65535.*nearly all pixels are from 0 to"
    ):
        found = pixels_of(rows)
    assert len(np.unique(found)) > 100 and found[7, 0, 3, 3] == 255
    # Many of them are no outliers.
    for image in images[::2]:
        image[0, :4] = 65535
    assert find_grey_range([(dataset([encoded(PIL.Image.fromarray(i), "PNG") for i in images]), "image", None)]) == (
        0,
        65535,
    )


def test_odd_metadata_are_no_fault_of_deep_pixels():
    file = encoded(PIL.Image.fromarray(drawn(np.uint16, 5, 500, rows=1)[0]), "PNG")
    at = file.index(b"IEND") - 4
    body = b"tEXtkey\0text"
    odd = file[:at] + struct.pack(">I", len(body) - 4) + body + bytes(4) + file[at:]
    assert find_grey_range([(dataset([file, odd]), "image", None)]) == find_grey_range(
        [(dataset([odd]), "image", None)]
    )


def test_what_is_no_number_is_named_by_its_row():
    images = drawn(np.float32, 0, 1)
    images[2][0, 0] = np.nan
    rows = dataset([encoded(PIL.Image.fromarray(image), "TIFF") for image in images])
    with pytest.raises(InputError, match=r"row 12, column 'image'.*not finite"):
        find_grey_range([(rows, "image", np.array([10, 11, 12, 13]))])


@pytest.mark.parametrize(
    "level, said",
    [
        ((7, None, None), "the channel red of the images of column 'image' never varies"),
        ((None, 255, 0), "the channels green, blue of the images of column 'image' never vary"),
        ((3, 3, 3), "all channels of the images of column 'image' never vary"),
    ],
)
@pytest.mark.parametrize("cache", ["always", "never"])
def test_a_channel_that_never_varies_is_named(level, said, cache):
    draw = np.random.default_rng(0)
    images = []
    for _ in range(4):
        image = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        for channel, value in enumerate(level):
            if value is not None:
                image[..., channel] = value
        images.append(encoded(PIL.Image.fromarray(image), "PNG"))
    with pytest.warns(LTCWarning) as caught:
        pixels_of(dataset(images), cache=cache)
    (message,) = [str(each.message) for each in caught]
    assert message.startswith(said) and "\n" not in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels_of(dataset([images[0], encoded(PIL.Image.new("RGB", (8, 8), (1, 2, 9)), "PNG")]), cache=cache)


def halves(rows: int, top: int, dtype: type = np.uint16) -> Dataset:
    """Two classes, bright on the left or on the right, with values up to `top`."""
    draw = np.random.default_rng(1)
    files = []
    for row in range(rows):
        image = draw.integers(0, top // 2, (SIDE, SIDE))
        image[:, :4] += (row % 2) * (top // 2)
        image[:, 4:] += (1 - row % 2) * (top // 2)
        image[0, 0], image[-1, -1] = 0, top
        files.append(encoded(PIL.Image.fromarray(image.astype(dtype)), "PNG" if dtype == np.uint16 else "TIFF"))
    return dataset(files)


def test_a_recording_keeps_the_range_and_hands_it_on(tmp_path, monkeypatch):
    options = {"model": "test_resnet", "epochs": 2, "batch_size": 16, "num_workers": 0, "runs": 2}
    config = RecordConfig(output_dir=str(tmp_path / "run"), **options)
    train, validation, test = halves(40, 200), halves(8, 900), halves(12, 5000)
    run = record(config, train, validation)
    recipes = [tmp_path / "run" / f"seed-{seed}" / "recipe.json" for seed in (0, 1)]
    assert [json.loads(path.read_text())["training"]["grey_range"] for path in recipes] == [[0, 200], [0, 200]]
    settings = json.loads((tmp_path / "run" / "seed-0" / "source_model" / "config.json").read_text())
    assert settings["grey_range"] == [0, 200]

    asked = []
    real = batches.image_batches
    monkeypatch.setattr(batches, "image_batches", lambda *a, **k: asked.append(a[0].grey_range) or real(*a, **k))
    evaluate = EvaluateConfig(
        models=["test_resnet"],
        fractions=[0.5],
        seeds=1,
        epochs=1,
        num_workers=0,
        output_dir=str(tmp_path / "evaluation"),
    )
    evaluate_coresets(evaluate, run, train, test, validation)
    assert asked == [(0, 200), (0, 200)]

    # A recording of before, which has no range, goes on as it began: by the bits.
    before = json.loads(recipes[0].read_text())
    del before["training"]["grey_range"]
    recipes[0].write_text(json.dumps(before))
    shutil.rmtree(recipes[1].parent)
    record(config, train, validation)
    settings = json.loads((tmp_path / "run" / "seed-1" / "source_model" / "config.json").read_text())
    assert "grey_range" not in settings and max(settings["mean"]) < 0.01
    after = json.loads(recipes[1].read_text())
    assert "grey_range" not in after["training"]
    assert recorded_grey_range([Recipe.from_dict(before)]) == {} and recorded_grey_range([Recipe()]) is None


def test_held_out_rows_count_as_rows_of_the_column(tmp_path):
    _, held = hold_out(np.arange(40) % 2)
    images = [np.arange(64, dtype=np.int32).reshape(8, 8) * (3 if row in held else 2) for row in range(40)]
    rows = dataset([encoded(PIL.Image.fromarray(image), "TIFF") for image in images])
    record(RecordConfig(model="test_resnet", epochs=2, batch_size=16, num_workers=0, output_dir=str(tmp_path)), rows)
    assert json.loads((tmp_path / "recipe.json").read_text())["training"]["grey_range"] == [0, 3 * 63]
