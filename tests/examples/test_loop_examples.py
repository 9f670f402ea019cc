"""The examples of other training loops, run as a reader would, with small arguments."""

import re
import runpy
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_ltc.trajectories.value import Trajectories

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ["record_own_loop.py", "record_with_trainer.py", "record_checkpoints.py"]


@pytest.fixture
def example(monkeypatch):
    """Runs an example as `python examples/NAME ...` does, in this process, whose imports are done."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    torch.set_num_threads(1)
    return run


@pytest.mark.parametrize("name", NAMES)
def test_a_tool_that_reads_the_script_s_head_can_install_it(name):
    source = (EXAMPLES / name).read_text()
    block = re.match(r"# /// script\n((?:#.*\n)+?)# ///\n", source)
    metadata = tomllib.loads("".join(line.removeprefix("# ") for line in block[1].splitlines(keepends=True)))
    assert metadata == {"requires-python": ">=3.11", "dependencies": ["hf-ltc"]}


def epoch_files(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "trajectories").iterdir())}


def test_own_loop(example, tmp_path, capsys):
    example("record_own_loop.py", "--output-dir", tmp_path / "whole", "--epochs", 5)
    assert capsys.readouterr().out == "Kept 144 of 1,438 rows\n"
    run = Trajectories.load(tmp_path / "whole")
    assert run.epochs.tolist() == [0, 1, 2, 3, 4, 5]
    assert run.losses[-1].mean() < run.losses[0].mean() / 4
    # Ended early and gone on with: the same.
    example("record_own_loop.py", "--output-dir", tmp_path / "parts", "--epochs", 2)
    shutil.copy(tmp_path / "parts-checkpoint.pt", tmp_path / "older")
    example("record_own_loop.py", "--output-dir", tmp_path / "parts", "--epochs", 3)
    # Killed between an epoch's losses and the weights after it.
    shutil.copy(tmp_path / "older", tmp_path / "parts-checkpoint.pt")
    example("record_own_loop.py", "--output-dir", tmp_path / "parts", "--epochs", 5)
    assert epoch_files(tmp_path / "parts") == epoch_files(tmp_path / "whole")


@pytest.mark.parametrize(("task", "classes"), [("text", 6), ("image", 10)])
def test_with_trainer(example, tmp_path, capsys, task, classes):
    arguments = ["record_with_trainer.py", "--task", task, "--output-dir", tmp_path / "run", "--epochs", 3]
    example(*arguments)
    run = Trajectories.load(tmp_path / "run")
    assert run.epochs.tolist() == [0, 1, 2, 3]
    assert len(np.unique(run.labels)) == classes
    assert run.losses[-1].mean() < run.losses[0].mean() - 0.1
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("Kept ") and f"of {len(run):,} rows" in said
    files = epoch_files(tmp_path / "run")
    example(*arguments)
    assert capsys.readouterr().out.splitlines()[-1] == said
    assert epoch_files(tmp_path / "run") == files


def test_checkpoints(example, tmp_path, capsys):
    arguments = ["record_checkpoints.py", "--output-dir", tmp_path / "run", "--epochs", 3, "--rows", 300]
    example(*arguments)
    assert capsys.readouterr().out == "Kept 30 of 300 rows\n"
    run = Trajectories.load(tmp_path / "run")
    assert run.epochs.tolist() == [0, 1, 2, 3]
    assert run.loss_name == "evaluation_loss"
    assert run.losses[-1].mean() < run.losses[0].mean() * 0.8
    files = epoch_files(tmp_path / "run")
    example(*arguments)
    assert epoch_files(tmp_path / "run") == files
