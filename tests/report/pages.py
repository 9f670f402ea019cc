"""Recordings for the page: what a run would have recorded of images, of texts, and of names that mean harm."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset

from hf_ltc.data.columns import read_column
from hf_ltc.data.identity import dataset_identity
from hf_ltc.data.splits import hold_out
from hf_ltc.trajectories.value import Trajectories

# What would be run, end an attribute or the data, turn the text around, or be read as TeX or HTML by a library.
HOSTILE = [
    "<script>document.title='harm'</script>",
    "</script><img src=x onerror=\"document.title='harm'\">",
    "\"'><b>bold</b>&amp;&lt;",
    "\u202eright to left \u05d0\u05d1",
    "$$\\frac{1}{0}$$ {{ 7 * 7 }}",
    "line\nbreak\tand\x1b[31m",
    "<!-- --> ]]>",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "n" * 300,
    "",
]


def renamed(rows: Dataset, names: list[str]) -> Dataset:
    """The same rows with other names for their classes."""
    labels = [label % len(names) for label in read_column(rows, "label").to_pylist()]
    return rows.remove_columns("label").add_column("label", labels, feature=ClassLabel(names=names))


def recorded(rows: Dataset, lengths: tuple[int, ...] = (12, 12), **dataset: Any) -> Trajectories:
    """What runs would have recorded: losses that fall, some late, some never, and wrong labels in every tenth row."""
    labels = np.array(read_column(rows, "label").to_pylist())
    names = rows.features["label"].names
    kept, held = hold_out(labels, 0.1, len(rows))
    random = np.random.default_rng(0)
    late, wrong = random.gamma(2.0, 1.2, len(rows)), np.arange(len(rows)) % 10 == 0
    tables, predicted = [], []
    for length in lengths:
        epochs = np.arange(length)[:, None]
        falling = np.log(len(names)) / (1 + np.exp(epochs - late)) + random.gamma(1.0, 0.05, (length, len(rows)))
        rising = np.log(len(names)) + 0.2 * epochs + random.gamma(1.0, 0.2, (length, len(rows)))
        tables.append(np.where(wrong, rising, falling))
        predicted.append(np.where(wrong, (labels + 1) % len(names), labels) + 0 * epochs)
    table, classes = np.concatenate(tables).astype(np.float32), np.concatenate(predicted).astype(np.float32)
    identity = {**dataset_identity(rows, "label"), "names": names, "label_column": "label", **dataset}
    return Trajectories(
        losses=table[:, kept],
        validation_losses=table[:, held],
        labels=labels[kept],
        validation_labels=labels[held],
        rows=kept,
        validation_rows=held,
        epochs=np.concatenate([np.arange(length) for length in lengths]),
        lengths=lengths,
        signals={"predicted": classes[:, kept], "margin": -table[:, kept]},
        recipe={"dataset": identity, "config": {"model": "test_resnet", "epochs": 11}, "seconds": {"training": 2.0}},
    )


def plain(file: Path) -> str:
    """A page without the library that draws, which has text of all sorts."""
    text = file.read_text(encoding="utf-8")
    scripts = re.findall(r"<script>.*?</script>", text, re.DOTALL)
    return text.replace(max(scripts, key=len), "")
