"""Datasets of images, and their pixels, for the tests of this room."""

import numpy as np
import PIL.Image
import torch
from datasets import Dataset, Features, Image, Value
from sklearn.datasets import load_sample_image

from hf_ltc.training.images import StoredImages


def cache_images(rows: Dataset, column: str, size: int, **options) -> torch.Tensor:
    return StoredImages(rows, column, size).read(**options)


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


def array_of(pixels: torch.Tensor) -> np.ndarray:
    """Pixels as Pillow and numpy have them: height, width, channel."""
    assert pixels.dtype == torch.uint8 and pixels.shape[0] == 3
    return pixels.permute(1, 2, 0).numpy()
