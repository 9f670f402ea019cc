"""The demo: real images from a package, a coreset, and what a fresh model makes of it."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config import EvaluateConfig, RecordConfig
from ..recipe import Recipe
from ..utils.settings import option
from .command import Command, Results
from .parsing import LocalPath
from .report import PAGE

if TYPE_CHECKING:
    from datasets import Dataset

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


@dataclass(frozen=True, kw_only=True)
class Demo(Command):
    """From handwritten digits to a coreset and what it is worth, in three minutes."""

    output_dir: LocalPath = option("runs/demo", "run directory of the demo")
    fractions: list[float] = option([0.1, 0.3], "budgets of the coresets")
    seeds: int = option(3, "number of models for each choice of rows")

    def execute(self) -> Results:
        return Results(*run_demo(self.output_dir, self.fractions, self.seeds))


def digits() -> "tuple[Dataset, Dataset]":
    """The handwritten digits that ship with scikit-learn: 1,797 images of 8x8, split into train and test rows.

    Returns:
        `tuple[datasets.Dataset, datasets.Dataset]`: 80% and 20% of each class, with `image` and `label`.
    """
    import numpy as np
    import PIL.Image
    from datasets import ClassLabel, Dataset, Features, Image
    from sklearn.datasets import load_digits

    from ..data.splits import hold_out

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
    import torch

    from ..evaluation.evaluate import evaluate_coresets
    from ..evaluation.methods import FULL, RANDOM, members_of
    from ..recording.record import record
    from ..report.page.write import write_report
    from ..scores.reliability import Reliability

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
        # For the page: which label the model gives each row.
        signals=["margin", "predicted"],
        augment=False,
        output_dir=output_dir,
    )
    evaluated = EvaluateConfig(
        models=[_MODEL],
        fractions=list(fractions),
        seeds=seeds,
        # Each choice of rows gets as many steps, so that a smaller one is not merely trained less.
        iterations=_STEPS,
        batch_size=_BATCH,
        learning_rate=_RATE,
        augment=False,
        output_dir=os.path.join(output_dir, "evaluation"),
    )
    run = record(config, train)
    evaluation = evaluate_coresets(evaluated, run, train, test)
    page = write_report(
        run, train, os.path.join(output_dir, PAGE), evaluation=evaluation, dataset_name="scikit-learn's digits"
    )
    names = {FULL: "full data", members_of(evaluated, [run])[0]: "coreset", RANDOM: "random subset"}
    measured = {
        names[row["method"]] + (f", {row['fraction']:.0%}" if row["fraction"] is not None else ""): row
        for row in evaluation.rows
    }
    reliability = Recipe.from_dict(run.recipe).reliability.to_dict()
    result: dict[str, Any] = {
        "model": _MODEL,
        "iterations": _STEPS,
        "test_rows": len(test),
        "reliability": reliability,
        "choices": {name: {key: row[key] for key in ("rows", "accuracy")} for name, row in measured.items()},
        "page": str(page),
        "seconds": time.perf_counter() - started,
    }
    lines = [
        f"A fresh {_MODEL}, trained for {_STEPS} steps on rows of scikit-learn's digits; mean and deviation over "
        f"{seeds} seeds, {len(test)} test rows.",
        f"Scores from {_RUNS} recordings of {_EPOCHS} epochs.",
        str(Reliability.from_dict(reliability)),
        "",
        f"{'rows':<24}{'number':>8}{'accuracy':>10}{'deviation':>11}",
    ]
    for name, found in measured.items():
        lines.append(f"{name:<24}{found['rows']:>8,}{found['mean']:>10.1%}{found['deviation'] or 0:>11.1%}")
    lines += [
        "",
        f"It took {result['seconds']:.0f} s; the run directory is {output_dir}.",
        f"Open {page} in a browser: it shows which rows are kept, which are dropped, and which deserve a second look.",
        "Next, with a dataset of yours (a Hub id, a folder of images or of Parquet files):",
        "  hf-ltc record --dataset DATASET --epochs 30 --runs 2 --output-dir runs/mine",
        "  hf-ltc score runs/mine --output scored",
        "  hf-ltc select scored --fraction 0.1 --output coreset",
    ]
    return result, lines
