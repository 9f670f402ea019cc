"""What the tests share: real images, and one thread a test, so that two workers do not wait for each other's cores."""

import os

# Read by torch when it is imported, here and in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["ACCELERATE_USE_CPU"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from datasets import Dataset, DatasetDict, disable_progress_bars
from hypothesis import settings

from hf_ltc.cli.demo import digits

disable_progress_bars()
# How long an example takes depends on what else the machine does.
settings.register_profile("any time", deadline=None)
settings.load_profile("any time")


@pytest.fixture(scope="session")
def digit_rows() -> tuple[Dataset, Dataset]:
    """Handwritten digits, 8x8: 1,438 and 359 rows."""
    return digits()


@pytest.fixture(scope="session")
def small(digit_rows: tuple[Dataset, Dataset]) -> DatasetDict:
    """150 digits to train on and 40 as a validation split."""
    train, test = digit_rows
    return DatasetDict(
        {"train": train.shuffle(seed=0).select(range(150)).flatten_indices(), "test": test.select(range(40))}
    )
