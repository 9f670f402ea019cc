"""The example scripts, run as a reader would run them."""

import contextlib
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
from datasets import load_from_disk

from hf_ltc import RecordConfig, Trajectories, record
from hf_ltc.scores.ltc import DEFAULT_PRESET
from tests.processes import finish, start
from tests.texts import docstrings

EXAMPLES = Path(__file__).parents[2] / "examples"


def on_two_processes(*command):
    """What a script prints that torchrun starts."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *command],
        capture_output=True,
        text=True,
        env=os.environ | {"ACCELERATE_USE_CPU": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_as_script(script, arguments, out):
    sys.argv = [script, *arguments]
    with open(out, "a") as file, contextlib.redirect_stdout(file):
        runpy.run_path(script, run_name="__main__")


def on_two_ranks(folder, script, *arguments):
    """What a script prints on two processes that have the imports behind them."""
    assert finish(start(run_as_script, script, arguments, folder / "said", world=2)) == [0, 0]
    return (folder / "said").read_text()


def options(small, folder, run, batch_size):
    if not (folder / "data").exists():
        small.save_to_disk(str(folder / "data"))
    return ["--dataset", str(folder / "data"), "--model", "test_vit", "--epochs", "3"] + [
        *(
            "--learning-rate",
            "0.01",
            "--batch-size",
            str(batch_size),
            "--validation-split",
            "test",
            "--output-dir",
            str(folder / run),
        )
    ]


def test_record_alone_and_launched(small, tmp_path):
    script = str(EXAMPLES / "record.py")
    alone = subprocess.run(
        [sys.executable, script, *options(small, tmp_path, "one", 32)], capture_output=True, text=True, check=True
    )
    assert "Kept 15 of 150 rows" in alone.stdout
    assert len(load_from_disk(str(tmp_path / "one-10pct"))) == 15
    assert on_two_processes(script, *options(small, tmp_path, "two", 16)).count("Kept 15 of 150 rows") == 1
    one, two = (Trajectories.load(tmp_path / name) for name in ("one", "two"))
    # Two processes with half of the batch take the same steps on the same rows.
    np.testing.assert_allclose(two.losses, one.losses, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(two.validation_losses, one.validation_losses, atol=1e-4, rtol=1e-4)
    assert np.ptp(one.losses.mean(axis=1)) > 0.01
    assert two.recipe["training"]["processes"] == 2


def test_texts_alone_and_launched(tmp_path):
    rows = docstrings(120)
    rows.save_to_disk(str(tmp_path / "data"))
    line = f"--dataset {tmp_path / 'data'} --text-column text --epochs 3 --max-length 20"
    script = [str(EXAMPLES / "record_text.py"), *line.split()]
    alone = subprocess.run(
        [sys.executable, *script, "--batch-size", "32", "--output-dir", str(tmp_path / "one")],
        capture_output=True,
        text=True,
        check=True,
    )
    said, first, last = alone.stdout.splitlines()[-3:]
    kept = len(load_from_disk(str(tmp_path / "one-30pct")))
    assert said.startswith(f"Kept {kept} of {len(rows) - 12} texts") and not said.endswith("(0 were cut)")
    assert first.startswith("first: ") and last.startswith("last: ")
    said = on_two_ranks(tmp_path, *script, "--batch-size", "16", "--output-dir", str(tmp_path / "two"))
    assert said.count("Kept ") == 1
    one, two = (Trajectories.load(tmp_path / name) for name in ("one", "two"))
    np.testing.assert_allclose(two.losses, one.losses, atol=1e-4, rtol=1e-4)


def test_evaluate_says_what_the_cells_say(small, tmp_path):
    small.save_to_disk(str(tmp_path / "data"))
    config = RecordConfig(model="test_resnet", epochs=2, batch_size=32, output_dir=str(tmp_path / "run"))
    record(config, small["train"])
    line = f"--dataset {tmp_path / 'data'} --run {tmp_path / 'run'} --output-dir {tmp_path / 'out'} --seeds 2"
    said = subprocess.run(
        [sys.executable, EXAMPLES / "evaluate.py", *line.split(), "--models", "test_vit", "--iterations", "3"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert said.splitlines() == [
        f"test_vit, {row['rows']} rows by {row['method']}: {100 * row['mean']:.1f}% ± {100 * row['deviation']:.1f}"
        for row in results
    ]
    assert [row["method"] for row in results] == ["full", DEFAULT_PRESET, "random", DEFAULT_PRESET, "random"]


def test_language_models_alone_and_launched(tmp_path):
    script = str(EXAMPLES / "record_sft.py")
    options = ["--rows", "160", "--epochs", "2"]
    one = ["--batch-size", "16", "--output-dir", str(tmp_path / "one")]
    alone = subprocess.run([sys.executable, script, *options, *one], capture_output=True, text=True, check=True)
    said = alone.stdout.splitlines()[-1]
    assert said.startswith("Kept 43 of 144 rows with ") and "8 sources" in said
    two = ["--batch-size", "8", "--output-dir", str(tmp_path / "two")]
    assert on_two_ranks(tmp_path, script, *options, *two).count("Kept 43 of 144 rows") == 1
    one, two = (Trajectories.load(tmp_path / name) for name in ("one", "two"))
    np.testing.assert_allclose(two.losses, one.losses, atol=1e-3)
    assert np.ptp(one.losses.mean(axis=1)) > 0.1


def test_weights_instead_of_a_coreset(tmp_path):
    command = [sys.executable, str(EXAMPLES / "train_with_weights.py"), "--output-dir", str(tmp_path), "--epochs", "3"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    assert re.fullmatch(r"Trained on 1,295 rows, \d+ of them with weight 0; accuracy \d\d\.\d%", said)
