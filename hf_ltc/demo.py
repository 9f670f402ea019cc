"""The demo: real images from a package, a coreset, and what a fresh model makes of it."""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import PIL.Image
import torch
from datasets import ClassLabel, Dataset, Features, Image
from sklearn.datasets import load_digits
from tqdm.auto import tqdm

from .agreement import Reliability, said_of
from .config import RecordConfig
from .data import hold_out
from .evaluation import train_target
from .selection import coreset_size, select_coreset
from .source_run import record
from .training import TrainingConfig

# The smallest ResNet of timm: seconds where larger ones take minutes, on images of 8x8.
_MODEL = "test_resnet"
_EPOCHS = 20
_RUNS = 2
_STEPS = 200
_BATCH = 64
_RATE = 0.05
_TEST_FRACTION = 0.2
# Digits hold ink of 0 to 16.
_INK = 255 / 16


def digits() -> tuple[Dataset, Dataset]:
    """The handwritten digits that ship with scikit-learn: 1,797 images of 8x8, split into train and test rows.

    Returns:
        `tuple[datasets.Dataset, datasets.Dataset]`: 80% and 20% of each class, with `image` and `label`.
    """
    loaded = load_digits()
    train, test = hold_out(loaded.target, _TEST_FRACTION, per_class=len(loaded.target))
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    parts = []
    for rows in (train, test):
        images = [PIL.Image.fromarray(np.rint(loaded.images[row] * _INK).astype(np.uint8)) for row in rows]
        parts.append(Dataset.from_dict({"image": images, "label": loaded.target[rows]}, features=features))
    return parts[0], parts[1]


def run_demo(
    output_dir: str, fractions: Sequence[float] = (0.1, 0.3), seeds: int = 3
) -> tuple[dict[str, Any], list[str]]:
    """Records, scores, selects, and trains fresh models on the full data, the coresets and random subsets.

    Args:
        output_dir (`str`): Run directory.
        fractions (`Sequence[float]`, *optional*, defaults to `(0.1, 0.3)`): Budgets.
        seeds (`int`, *optional*, defaults to `3`): Models trained on each choice of rows.

    Returns:
        `tuple[dict, list[str]]`: what was measured, and its table as lines of text.
    """
    started = time.perf_counter()
    # Images of 8x8 give threads nothing to share; on a busy machine they would wait for each other's cores.
    torch.set_num_threads(1)
    train, test = digits()
    config = RecordConfig(
        model=_MODEL,
        epochs=_EPOCHS,
        batch_size=_BATCH,
        learning_rate=_RATE,
        runs=_RUNS,
        augment=False,
        output_dir=output_dir,
    )
    run = record(config, train)
    scored = run.score(train)
    pool = train.select(run.rows)

    choices: list[tuple[str, int, Callable[[int], Dataset]]] = [("full data", len(pool), lambda seed: pool)]
    for fraction in fractions:
        size = coreset_size(len(pool), fraction)
        choices.append((f"LTC coreset, {fraction:.0%}", size, partial(_coreset, scored, size)))
        choices.append((f"random subset, {fraction:.0%}", size, partial(_random, pool, size)))
    measured: dict[str, dict[str, Any]] = {}
    with tqdm(total=len(choices) * seeds, desc="training fresh models", unit="model", disable=None) as bar:
        for name, size, choose in choices:
            accuracies = []
            for seed in range(seeds):
                # Each choice of rows gets as many steps, so that a smaller one is not merely trained less.
                settings = TrainingConfig(epochs=1, batch_size=_BATCH, learning_rate=_RATE, augment=False, seed=seed)
                accuracies.append(train_target(_MODEL, choose(seed), test, settings, iterations=_STEPS))
                bar.update()
            measured[name] = {"rows": size, "accuracy": accuracies}
    result: dict[str, Any] = {
        "model": _MODEL,
        "iterations": _STEPS,
        "test_rows": len(test),
        "reliability": run.recipe["reliability"],
        "choices": measured,
        "seconds": time.perf_counter() - started,
    }
    lines = [
        f"A fresh {_MODEL}, trained for {_STEPS} steps on rows of scikit-learn's digits; mean and deviation over "
        f"{seeds} seeds, {len(test)} test rows.",
        f"LTC from {_RUNS} recordings of {_EPOCHS} epochs.",
        *said_of(Reliability.from_dict(run.recipe["reliability"])),
        "",
        f"{'rows':<24}{'number':>8}{'accuracy':>10}{'deviation':>11}",
    ]
    for name, found in measured.items():
        mean, deviation = statistics.mean(found["accuracy"]), _deviation(found["accuracy"])
        lines.append(f"{name:<24}{found['rows']:>8,}{mean:>10.1%}{deviation:>11.1%}")
    lines += [
        "",
        f"It took {result['seconds']:.0f} s; the run directory is {output_dir}. Next, with a dataset of yours (a Hub "
        "id, a folder of images or of Parquet files):",
        "  hf-ltc record --dataset DATASET --epochs 30 --runs 2 --output-dir runs/mine",
        "  hf-ltc score runs/mine --output scored",
        "  hf-ltc select scored --fraction 0.1 --output coreset",
    ]
    return result, lines


def _coreset(scored: Dataset, size: int, seed: int) -> Dataset:
    return select_coreset(scored, size=size)


def _random(pool: Dataset, size: int, seed: int) -> Dataset:
    return pool.select(np.random.default_rng(seed).permutation(len(pool))[:size])


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
