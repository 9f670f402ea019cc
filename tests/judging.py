"""A recording that several coresets can be chosen from, with losses from a generator: no model is trained."""

from typing import Any

import numpy as np
from datasets import Dataset

from hf_ltc.data.identity import dataset_identity
from hf_ltc.trajectories.value import Trajectories

# As many as DUAL needs.
CHECKPOINTS = 12
SOURCE: dict[str, Any] = {
    "model": "test_resnet",
    "epochs": CHECKPOINTS - 1,
    "batch_size": 16,
    "learning_rate": 0.05,
    "augment": False,
    "seed": 0,
}


def recorded(rows: Dataset, *, runs: int = 1, held: int = 30, margin: bool = True, **recipe: Any) -> Trajectories:
    """A recording of a dataset, of which some rows were held out, as `record` gives it."""
    draw = np.random.default_rng(0)
    labels, order = np.asarray(rows.with_format(None)["label"]), draw.permutation(len(rows))
    held_out, kept = np.sort(order[:held]), np.sort(order[held:])
    length = CHECKPOINTS * runs
    fall = np.tile(np.linspace(2, 0.2, CHECKPOINTS, dtype=np.float32), runs).reshape(-1, 1)
    told: dict[str, Any] = {
        "config": SOURCE,
        "dataset": {**dataset_identity(rows, "label"), "names": rows.features["label"].names},
        "training": {"image_size": 8, "processes": 1, "grey_range": None},
        "seconds": {"training": 20.0, "decoding": 5.0},
        "epochs": list(range(CHECKPOINTS)),
        **recipe,
    }
    table = draw.random((length, len(kept)), dtype=np.float32)
    return Trajectories(
        losses=fall * (0.2 + table.mean(axis=0)) + 0.5 * table,
        validation_losses=fall + draw.random((length, held), dtype=np.float32),
        labels=labels[kept],
        validation_labels=labels[held_out],
        rows=kept,
        validation_rows=held_out,
        epochs=np.tile(np.arange(CHECKPOINTS), runs),
        lengths=(CHECKPOINTS,) * runs,
        signals={"margin": draw.random((length, len(kept)), dtype=np.float32)} if margin else {},
        recipe=told,
    )
