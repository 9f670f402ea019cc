"""Conversations from several sources, and a recording of them: rows without classes."""

from pathlib import Path

import numpy as np
from accelerate import PartialState
from datasets import Dataset

from hf_ltc.config import RecordConfig
from hf_ltc.recording.input_rows import sequence_rows
from hf_ltc.trajectories.value import Trajectories

EPOCHS = 5


def chats(count: int = 60) -> Dataset:
    """As many of one source as of two others, and a number for each row."""
    talks = [
        [{"role": "user", "content": f"What is {i} and {i}?"}, {"role": "assistant", "content": f"It is {2 * i}."}]
        for i in range(count)
    ]
    sources = [("sums", "sums", "books", "web")[i % 4] for i in range(count)]
    return Dataset.from_dict({"messages": talks, "source": sources, "turns": [i % 3 for i in range(count)]})


def recorded(folder: Path, rows: Dataset, seed: int = 0, **settings) -> Trajectories:
    """What a language model would have recorded, with losses from a generator."""
    draw = np.random.default_rng(seed)
    config = RecordConfig(validation_fraction=0.2, **settings)
    found, state = sequence_rows(config, rows, None), PartialState()
    recorder = found.recorder(folder, ["training_loss", "tokens"], state, found.recipe(state))
    fall = np.linspace(4, 1, EPOCHS)
    for epoch in range(EPOCHS):
        with recorder.epoch(epoch):
            tokens = np.arange(len(found.rows)) + 3.0
            recorder.update(found.rows, fall[epoch] + draw.random(len(found.rows)), tokens=tokens)
            recorder.update(found.validation_rows, fall[epoch] + draw.random(12), split="validation")
    return recorder.finish()
