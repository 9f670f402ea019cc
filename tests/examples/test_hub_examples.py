"""The examples of the Hub, run as a user runs them."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict

import hf_ltc
from tests import hub_clients as do
from tests.hub_server import Client, Hub

pytest_plugins = ["tests.hub_fixtures"]
pytestmark = pytest.mark.usefixtures("no_faults_left")

_EXAMPLES = Path(__file__).parents[2] / "examples"


def _run(client: Client, name: str, *arguments: Any) -> str:
    command = [sys.executable, str(_EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(
        command,
        env={**os.environ, **client.environment, "CUDA_VISIBLE_DEVICES": ""},
        cwd=client.home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_coreset_is_pushed_and_trained_on(hub: Hub, client: Client, small: DatasetDict, tmp_path: Path):
    client(do.push_rows, small, "me/digits")
    run = do.recorded(small["train"], runs=2)
    run.save(tmp_path / "run")
    said = _run(client, "push_coreset.py", "--run", tmp_path / "run", "--dataset", "me/digits", "--repo-id", "me/ltc")
    assert "Pushed coreset-10pct, coreset-30pct, scores to http" in said and "Pushed trajectories to" in said
    files = hub.dataset("me/ltc").files
    assert {"splits/test-00000-of-00001.parquet", "trajectories/train-00000-of-00001.parquet"} <= set(files)
    assert "| reliability |" in files["README.md"].decode()

    from transformers import ResNetConfig

    architecture = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    architecture.save_pretrained(tmp_path / "resnet")
    said = _run(
        client, "train_on_coreset.py", "--repo-id", "me/ltc", "--config", "coreset-30pct", "--model",
        tmp_path / "resnet", "--from-scratch", "--image-size", 16, "--epochs", 2, "--output-dir", tmp_path / "trained",
    )  # fmt: skip
    assert "Trained on 36 rows." in said
    assert re.search(r"Accuracy on 40 test rows: \d+\.\d%", said)
    assert (tmp_path / "trained" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["push_coreset.py", "train_on_coreset.py"])
def test_examples_say_what_they_need(name: str):
    text = (_EXAMPLES / name).read_text(encoding="utf-8")
    block = re.search(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$", text)
    assert block is not None
    metadata = tomllib.loads("".join(line[2:] for line in block["content"].splitlines(keepends=True)))
    assert metadata["requires-python"] == ">=3.11"
    needed = {re.split(r"[\[<>= ]", each)[0] for each in metadata["dependencies"]}
    imported = set(re.findall(r"(?m)^(?:from|import) (\w+)", text)) - set(sys.stdlib_module_names)
    # What comes with another that is named need not be.
    come_with = {"hf_ltc": "hf-ltc", "numpy": "datasets", "datasets": "datasets"}
    assert {come_with.get(each, each) for each in imported} <= needed | ({"datasets"} if "hf-ltc" in needed else set())


@pytest.mark.parametrize(
    "script",
    [*sorted(_EXAMPLES.glob("*.py")), _EXAMPLES.parent / "model_cards" / "make.py"],
    ids=lambda path: path.name,
)
def test_scripts_use_public_names_alone(script: Path):
    imports = [
        node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    modules = {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    modules |= {name.name for node in imports if isinstance(node, ast.Import) for name in node.names}
    assert not [module for module in modules if module and module.startswith("hf_ltc.")]
    names = {name.name for node in imports if getattr(node, "module", "") == "hf_ltc" for name in node.names}
    assert names <= set(hf_ltc.__all__)
