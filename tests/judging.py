"""A recording that several coresets can be chosen from, with losses from a generator: no model is trained."""

from dataclasses import replace
from typing import Any

import numpy as np
from datasets import Dataset

from hf_ltc.trajectories.value import Trajectories
from tests import hub_clients

# More than short recordings have, and than DUAL needs.
CHECKPOINTS = 17
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
    told: dict[str, Any] = {
        "config": SOURCE,
        "training": {"image_size": 8, "processes": 1, "grey_range": None},
        "seconds": {"training": 20.0, "decoding": 5.0},
        "epochs": list(range(CHECKPOINTS)),
        **recipe,
    }
    run = hub_clients.recorded(rows, runs=runs, held=held, checkpoints=CHECKPOINTS, **told)
    # Rows of different speeds, which scores and odds tell apart.
    speeds = np.random.default_rng(1).uniform(0.2, 1.5, len(run)).astype(np.float32)
    return replace(run, losses=run.losses * speeds, signals=run.signals if margin else {})
