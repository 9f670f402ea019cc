"""Batches of images: the same from memory and from disk, augmented by row, normalized."""

import numpy as np
import pytest
import torch

from hf_ltc.config import EvaluateConfig, RecordConfig
from hf_ltc.training.batches import image_batches, paired_batches
from hf_ltc.training.images import StoredImages, augment, channel_statistics, draw_augmentation, normalize

CPU = torch.device("cpu")


def made(dataset, cache="auto", **options):
    labels = np.asarray(dataset["label"][:], dtype=np.int64)
    stored = StoredImages(dataset, "image", options.pop("size", 8), options.pop("numbers", None))
    return image_batches(stored, labels, device=CPU, cache=cache, **options)


def gathered(batches, parts, **options):
    found = [[tensor.clone() for tensor in batch] for batch in batches(parts, **options)]
    return [torch.cat(tensors) for tensors in zip(*found)]


@pytest.mark.parametrize("cache", ["auto", "always", "never"])
@pytest.mark.parametrize("augmented", [None, (3, 2)])
def test_batches_are_the_images_augmented_by_row_and_normalised(small, cache, augmented):
    train = small["train"]
    order = np.random.default_rng(0).permutation(150).astype(np.int64)
    pixels, labels, positions = gathered(made(train, cache), np.array_split(order, 7), augmented=augmented)
    stored = StoredImages(train, "image", 8).read()
    mean, std = channel_statistics(stored)
    expected = stored[torch.from_numpy(order)]
    if augmented is not None:
        expected = augment(expected, draw_augmentation(150, *augmented, padding=1)[torch.from_numpy(order)], padding=1)
    torch.testing.assert_close(pixels, normalize(expected, mean, std))
    assert positions.tolist() == order.tolist()
    assert labels.tolist() == [train["label"][row] for row in order.tolist()]
    assert pixels.dtype == torch.float32


@pytest.mark.parametrize("cache", ["always", "never"])
def test_all_rows_in_their_order_are_the_batches_themselves(small, cache):
    batches = made(small["train"], cache)
    assert batches.take(np.arange(150)) is batches
    for positions in (np.arange(149), np.arange(150)[::-1].copy()):
        part = batches.take(positions)
        assert part is not batches and part.labels.tolist() == batches.labels[torch.from_numpy(positions)].tolist()


def test_augmentation_does_not_depend_on_the_batch(small):
    batches = made(small["train"])
    one = gathered(batches, [np.arange(150)], augmented=(0, 1))
    other = gathered(batches, np.array_split(np.arange(150)[::-1].copy(), 11), augmented=(0, 1))
    torch.testing.assert_close(one[0], other[0].flip(0))
    assert not torch.equal(one[0], gathered(batches, [np.arange(150)], augmented=(0, 2))[0])


def test_the_budget_decides_about_the_cache(small):
    assert made(small["train"]).pixels is not None
    assert made(small["train"], cache_budget=150 * 3 * 64 / 2**30).pixels is not None
    assert made(small["train"], cache_budget=(150 * 3 * 64 - 1) / 2**30).pixels is None
    assert made(small["train"], cache="never").pixels is None


def test_validation_rows_take_the_statistics_of_the_train_rows(small):
    train = made(small["train"])
    statistics = (train.mean.tolist(), train.std.tolist())
    test = made(small["test"], statistics=statistics)
    assert torch.equal(test.mean, train.mean)
    ((pixels, _, _),) = test([np.arange(40)])
    torch.testing.assert_close(pixels, normalize(StoredImages(small["test"], "image", 8).read(), *statistics))


def test_large_images_stream_and_are_cut_by_row(small):
    train = small["train"].select(range(10))
    batches = made(train, size=96, num_workers=0)
    assert batches.pixels is None
    one = gathered(batches, [np.arange(10)], augmented=(0, 1))[0]
    other = gathered(batches, [np.arange(5, 10), np.arange(5)], augmented=(0, 1))[0]
    torch.testing.assert_close(one, torch.cat([other[5:], other[:5]]))
    assert one.shape == (10, 3, 96, 96)


def test_channels_last(small):
    ((pixels, _, _),) = made(small["train"], channels_last=True)([np.arange(4)])
    assert pixels.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("cache", ["always", "never"])
def test_some_rows_are_those_rows_with_the_statistics_of_all(small, cache):
    batches = made(small["train"], cache, numbers=np.arange(1000, 1150))
    rows = np.random.default_rng(1).permutation(150)[:30]
    part = batches.take(rows)
    ((pixels, labels, positions),) = part([np.arange(30)])
    ((wanted, wanted_labels, _),) = batches([rows])
    assert torch.equal(pixels, wanted) and torch.equal(labels, wanted_labels)
    assert len(part) == 30 and positions.tolist() == list(range(30))
    assert part.stored.numbers.tolist() == (1000 + rows).tolist()
    # Of some of them again.
    again = part.take(np.array([3, 1]))
    ((pixels, _, _),) = again([np.arange(2)])
    assert torch.equal(pixels, wanted[[3, 1]])
    assert torch.equal(part.mean, batches.mean)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_large_images_in_memory_give_the_batches_that_files_give(small, num_workers):
    train = small["train"].select(range(10))
    cached = made(train, size=96, reread=True, num_workers=num_workers)
    streamed = made(train, "never", size=96, num_workers=0)
    assert cached.pixels is not None and made(train, size=96, num_workers=0).pixels is None
    for augmented in (None, (0, 1)):
        one, other = (gathered(each, [np.arange(10)], augmented=augmented)[0] for each in (cached, streamed))
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    # A cut of the epoch, not the image as it is kept.
    assert not torch.equal(one, gathered(cached, [np.arange(10)])[0])


def test_large_images_are_kept_where_every_epoch_reads_them_as_they_are(small, tmp_path):
    parts = [
        (StoredImages(rows, "image", 96), np.asarray(rows["label"][:], dtype=np.int64))
        for rows in (small["train"].select(range(10)), small["test"].select(range(5)))
    ]
    options = {"image_size": 96, "num_workers": 0}
    for changes, train_is_kept in (
        ({}, False),
        ({"augment": False}, True),
        ({"losses": "evaluation"}, True),
        ({"losses": "both"}, True),
    ):
        config = RecordConfig(output_dir=str(tmp_path), **options, **changes)
        train, other = paired_batches(config, CPU, *parts, what="others")
        assert (train.pixels is not None, other.pixels is not None) == (train_is_kept, True)
    train, other = paired_batches(EvaluateConfig(**options), CPU, *parts, what="others")
    assert (train.pixels is not None, other.pixels is not None) == (False, True)
