"""Recordings on disk, made in this process or in others, and how to tell whether two are the same."""

import hashlib
import os
import sys
import time
from pathlib import Path

import torch
from datasets import Image, load_from_disk

from hf_ltc.cli.main import main
from hf_ltc.config import RecordConfig
from hf_ltc.recording.record import record
from hf_ltc.training import batches

# Without batch norm, whose training losses depend on the rows that share a batch, and so on the number of processes.
FROZEN = {"model": "test_vit", "learning_rate": 0.0}


def settings(folder, **changes):
    defaults = {
        "model": "test_resnet",
        "epochs": 2,
        "batch_size": 32,
        "learning_rate": 0.05,
        "output_dir": str(folder),
    }
    return RecordConfig(**{**defaults, **changes})


def spoiled_at(train, row):
    """The same rows with one image of which only the header is left, which tells the size."""
    stored = train.cast_column("image", Image(decode=False))
    images = [{"bytes": image["bytes"], "path": None} for image in stored["image"]]
    images[row]["bytes"] = images[row]["bytes"][:50]
    return stored.remove_columns("image").add_column("image", images).cast_column("image", Image())


def saved(small, folder):
    small["train"].save_to_disk(str(folder / "data"))
    return str(folder / "data")


def record_from_disk(data, config):
    torch.set_num_threads(1)
    record(RecordConfig(**config), load_from_disk(data))


def wait_for(path, processes, timeout=120):
    end = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        assert all(process.is_alive() for process in processes), f"ended before {path} appeared"
        time.sleep(0.01)


def snapshot(folder):
    """What a recording is, bit by bit: trajectories and final weights."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*.safetensors"))
        if "checkpoint" not in path.parts
    }


def command(folder, *arguments):
    """The command line, with what each process prints in a file of its own."""
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(folder) / f"{name}-{os.environ['RANK']}", os.O_WRONLY | os.O_CREAT), descriptor)
    # So few rows are decoded for the channels' statistics that the spoiled one is found while recording.
    batches._STATISTICS_ROWS = 2
    sys.exit(main(["record", *arguments]))
