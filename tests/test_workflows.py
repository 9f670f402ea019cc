"""The files around the code agree with each other: workflows, Makefile, pyproject.toml, CITATION.cff, mkdocs.yml."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import hf_ltc

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
_TARGETS = {
    name for line in re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text(), re.MULTILINE) for name in line.split()
}


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in yaml.safe_load(workflow.read_text())["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.stem)
def test_a_workflow_runs_targets_that_there_are(workflow: Path):
    commands = [step["run"] for step in steps(workflow) if "run" in step]
    assert commands
    for command in commands:
        assert re.fullmatch(r"make [\w-]+", command), "what CI runs, a contributor can run"
        assert command.split()[1] in _TARGETS


def test_every_python_that_is_promised_is_tested():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert jobs["test"]["strategy"]["matrix"]["python"] == promised
    assert PROJECT["project"]["requires-python"] == f">={promised[0]}"


@pytest.mark.parametrize("text", ["README.md", "CONTRIBUTING.md", "RELEASING.md"])
def test_documents_name_targets_that_there_are(text: str):
    named = re.findall(r"(?:^|`)make ([\w-]+)", (ROOT / text).read_text("utf-8"), re.MULTILINE)
    assert named and {*named} <= _TARGETS


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == hf_ltc.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    bibtex = (ROOT / "README.md").read_text("utf-8")
    assert f"{{{citation['preferred-citation']['title']}}}" in bibtex
    authors = " and ".join(
        "{family-names}, {given-names}".format(**each) for each in citation["preferred-citation"]["authors"]
    )
    assert f"{{{authors}}}" in bibtex


def test_hooks_are_part_of_quality():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    quality = (ROOT / "Makefile").read_text().partition("\nquality:")[2].partition("\n\n")[0]
    for hook in hooks:
        tool = hook["entry"].removeprefix(".venv/").split(" --")[0]
        assert f"$(BIN){tool.removeprefix('bin')}" in quality


def test_the_site_has_every_page():
    named = re.findall(r"docs/[\w/.-]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(named) == sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md"))
