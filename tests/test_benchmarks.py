"""Benchmarks, which no test runs, import names that are there."""

import ast
import json
from importlib import import_module
from pathlib import Path

import pytest

from hf_ltc.cli import main
from hf_ltc.cli.parsing import dashed, parsed
from hf_ltc.evaluation.methods import find_method

SCRIPTS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_a_benchmark_imports_is_there(script):
    imports = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        if node.module and node.module.split(".")[0] == "hf_ltc":
            module = import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name) or import_module(f"{node.module}.{name.name}")


def test_records_are_read_as_they_were_written(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS[0].parent))
    results = import_module("result_files")
    few = [{"rows": 1}] * 3
    many = [{"same": None, "kind": kind, "rows": [1, 2]} for kind in (None, 1, 1.0, True, "a", *range(20))]
    many[3]["only here"] = many[4]["nested"] = {"x": 0.1}
    made = {"command": "python x.py", "few": few, "results": many, "nothing": []}
    results.write_results(tmp_path / "x.json", made)
    assert json.dumps(results.read_results(tmp_path / "x.json"), sort_keys=True) == json.dumps(made, sort_keys=True)
    assert len((tmp_path / "x.json").read_text().splitlines()) < 60


def test_what_the_gpu_script_runs_is_understood(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS[0].parent))
    gpu = import_module("gpu")
    options = gpu.parsed(["--data", "cifar100", "--label-column", "fine_label", "--official", "CLD"])
    commands = [command for together in gpu.phases(options) for command in together]
    # Three parts that are measured, three recordings, and four processes by each of two protocols.
    assert len(commands) == 3 + 3 + 2 * 4
    for _, script, *given in commands:
        if script == "-m":
            found = main._parser().parse_args(dashed(given[1:]))
            # The settings are checked when the command is made of them.
            assert found.label_column == "fine_label" and parsed(found, found.command)
        else:
            source = Path(script).read_text()
            assert all(f'"{option}"' in source for option in given if option.startswith("--"))
    assert all(bool(find_method(name).variant) == (name in gpu.MEMBERS) for name in (*gpu.MEMBERS, *gpu.BASELINES))


@pytest.mark.parametrize("file", sorted((SCRIPTS[0].parent / "results").glob("*.json")), ids=lambda file: file.stem)
def test_committed_results_can_be_reviewed(file):
    assert file.stat().st_size <= 100_000
