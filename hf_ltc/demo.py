"""The demo: real images from a package, a coreset, and what a fresh model makes of it."""

import statistics
import time
from typing import Any

import numpy as np
import PIL.Image
from datasets import ClassLabel, Dataset, Features, Image
from sklearn.datasets import load_digits
from tqdm.auto import tqdm

from .config import RecordConfig
from .data import hold_out
from .evaluation import train_target
from .selection import coreset_size, select_coreset
from .source_run import record
from .training import TrainingConfig

_SOURCE, _TARGET = "resnet10t", "resnet18"
_EPOCHS = 20
_RUNS = 2
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


def run_demo(output_dir: str, fraction: float = 0.1, seeds: int = 3) -> tuple[dict[str, Any], list[str]]:
    """Records, scores, selects, and trains a fresh model on the full data, the coreset and random subsets.

    Args:
        output_dir (`str`): Run directory.
        fraction (`float`, *optional*, defaults to `0.1`): Budget.
        seeds (`int`, *optional*, defaults to `3`): Models trained on each choice of rows.

    Returns:
        `tuple[dict, list[str]]`: what was measured, and its table as lines of text.
    """
    started = time.perf_counter()
    train, test = digits()
    config = RecordConfig(
        model=_SOURCE,
        epochs=_EPOCHS,
        batch_size=64,
        learning_rate=0.05,
        runs=_RUNS,
        augment=False,
        output_dir=output_dir,
    )
    run = record(config, train)
    scored = run.score(train)
    coreset = select_coreset(scored, fraction=fraction)
    size = coreset_size(len(run), fraction)

    pool = train.select(run.rows)
    chosen: dict[str, Any] = {
        "full data": lambda seed: pool,
        "LTC coreset": lambda seed: coreset,
        "random subset": lambda seed: pool.select(np.random.default_rng(seed).permutation(len(pool))[:size]),
    }
    # Each choice of rows gets as many steps, so that a smaller one is not merely trained less.
    training = TrainingConfig(epochs=1, batch_size=64, learning_rate=0.05, augment=False)
    iterations = 200
    accuracies: dict[str, list[float]] = {name: [] for name in chosen}
    with tqdm(total=len(chosen) * seeds, desc=f"training {_TARGET}", unit="model", disable=None) as bar:
        for name, rows in chosen.items():
            for seed in range(seeds):
                settings = TrainingConfig(**{**vars(training), "seed": seed})
                accuracies[name].append(train_target(_TARGET, rows(seed), test, settings, iterations=iterations))
                bar.update()

    rows_kept = {"full data": len(pool), "LTC coreset": len(coreset), "random subset": size}
    result: dict[str, Any] = {
        "source": _SOURCE,
        "target": _TARGET,
        "iterations": iterations,
        "test_rows": len(test),
        "reliability": run.recipe["reliability"],
        "accuracy": {name: {"rows": rows_kept[name], "seeds": values} for name, values in accuracies.items()},
        "seconds": time.perf_counter() - started,
    }
    means = {name: statistics.mean(values) for name, values in accuracies.items()}
    ahead = "LTC" if means["LTC coreset"] > means["random subset"] else "Random"
    lines = [
        f"Test accuracy of {_TARGET}, {iterations} steps, over {seeds} seeds ({len(test)} test rows); "
        f"LTC recorded with {_SOURCE}, {_RUNS} runs:",
        "",
        f"{'rows':<15}{'number':>8}{'accuracy':>10}{'deviation':>11}",
        *(
            f"{name:<15}{rows_kept[name]:>8}{100 * statistics.mean(values):>9.1f}%{100 * _deviation(values):>10.1f}%"
            for name, values in accuracies.items()
        ),
        "",
        f"{ahead} is ahead here; it all took {result['seconds']:.0f} s.",
        "",
        "Next, with a dataset of yours (a Hub id, or a folder of images or Parquet files):",
        "  hf-ltc record --dataset DATASET --epochs 30 --runs 2 --output-dir runs/mine",
        "  hf-ltc score runs/mine --output scored",
        "  hf-ltc select scored --fraction 0.1 --output coreset",
        f"The demo's run directory is {output_dir}.",
    ]
    return result, lines


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
