"""`hf ltc ...`: the console script as an extension of the `hf` command line, installed by its own installer."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.hub_server import Client, Hub

pytest_plugins = ["tests.hub_fixtures"]

_ROOT = Path(__file__).parents[2]


def _install(archive: str) -> str:
    """Installs from an archive as from GitHub's, with the packages that are here instead of those of an index."""
    from huggingface_hub.cli import extensions

    run = subprocess.run

    def offline(command: list[str], **options: Any) -> Any:
        if "pip" not in command:
            return run(command, **options)
        url = command.pop()
        assert url == "https://github.com/owner/hf-ltc/archive/HEAD.zip"
        here = run([command[0], "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], **_TEXT)
        Path(here.stdout.strip(), "here.pth").write_text(sysconfig.get_path("purelib"))
        offline = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")
        # The setuptools that comes with a virtual environment of Python 3.11 is too old to build with.
        packages = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
        return run([*command, *offline, archive], env=packages, **options)

    with (
        mock.patch.object(extensions, "_github_request", side_effect=OSError("offline")),
        mock.patch.object(extensions.shutil, "which", return_value=None),
        mock.patch.object(extensions.subprocess, "run", side_effect=offline),
    ):
        made = extensions._install_extension(owner="owner", repo_name="hf-ltc", short_name="ltc", commit_sha="0" * 40)
    return made.executable_path


_TEXT: dict[str, Any] = {"capture_output": True, "text": True, "check": True}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the repository that a package is built from, as GitHub packs them."""
    folder = tmp_path_factory.mktemp("archive")
    tree = folder / "hf-ltc-HEAD"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(_ROOT / name, tree / name)
    shutil.copytree(_ROOT / "hf_ltc", tree / "hf_ltc", ignore=shutil.ignore_patterns("__pycache__"))
    return Path(shutil.make_archive(str(folder / "HEAD"), "zip", folder, "hf-ltc-HEAD"))


def test_it_is_an_extension_of_hf(hub: Hub, tmp_path: Path, archive: Path):
    with Client(hub, tmp_path) as user:
        script = user(_install, str(archive))
        assert Path(script).name == "hf-ltc" and str(tmp_path) in script
        environment = {**os.environ, **user.environment, "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
    hf = Path(sys.executable).with_name("hf")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([hf, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True)

    assert "ltc" in run("extensions", "list").stdout
    assert run("ltc", "--version").stdout.strip() == f"hf-ltc {version('hf-ltc')}"
    # Files beside the code come with it.
    code = "import hf_ltc.hub.cards as c; print(c.__file__); print(*sorted(p.name for p in c._TEMPLATES.iterdir()))"
    python = Path(script).with_name("python")
    found = subprocess.run([python, "-c", code], env=environment, cwd=tmp_path, **_TEXT).stdout.splitlines()
    assert str(tmp_path) in found[0] and found[1] == "coreset_card.md source_model_card.md space_card.md"
    wrong = run("ltc", "push", "nowhere", "me/x", "--full")
    assert wrong.returncode == 2 and wrong.stderr.startswith("hf-ltc: error: no run directory 'nowhere'")
