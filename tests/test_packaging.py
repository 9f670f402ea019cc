"""The package as users get it: built, installed with nothing but what it asks for, and run away from its sources."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


def environment(bin_folder: Path) -> dict[str, str]:
    """That of a user, who has nothing on the path but what is installed there."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return own | {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}


def pip(bin_folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    python = ("--python", bin_folder / "python")
    return run(sys.executable, "-m", "pip", *python, *arguments, env=environment(bin_folder))


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str], str]:
    """A folder with a source archive and the wheel built from it, the files of the checkout, and what was said."""
    folder = tmp_path_factory.mktemp("built")
    sources = folder / "sources"
    made = ("__pycache__", "build", "dist", "runs", "site", "*.egg-info", ".*")
    shutil.copytree(ROOT, sources, ignore=shutil.ignore_patterns(*made))
    # A package in a package, as deep as none of ours may be yet, with files beside the code.
    inner = sources / "hf_ltc" / "outer_room" / "inner_room"
    (inner / "templates").mkdir(parents=True)
    for name in ("__init__.py", "code.py", "../__init__.py", "templates/card.md"):
        (inner / name).write_text("")
    before = files(sources)
    said = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", sources, cwd=folder)
    return folder / "dist", before, said.stdout + said.stderr


def test_the_wheel_has_every_file_of_the_package(built):
    dist, sources, said = built
    (wheel,) = dist.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    package = {name for name in sources if name.startswith("hf_ltc/")}
    assert {"hf_ltc/py.typed", "hf_ltc/outer_room/inner_room/templates/card.md"} < package
    assert {name for name in names if ".dist-info/" not in name} == package
    # Of folders that it takes for packages and that a later version may leave out.
    assert "absent from the `packages` configuration" not in said


def test_the_source_archive_has_every_file(built):
    dist, sources, _ = built
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {member.name.partition("/")[2] for member in opened if member.isfile()}
    assert {name for name in names if ".egg-info/" not in name} - {"PKG-INFO", "setup.cfg"} == sources


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a new environment with the wheel and what it asks for, which is linked instead of copied."""
    folder = tmp_path_factory.mktemp("new environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    (wheel,) = built[0].glob("*.whl")
    pip(folder / "bin", "install", "--no-deps", "--no-index", wheel)
    (packages,) = folder.glob("lib/*/site-packages")
    (own,) = packages.glob("hf_ltc-*.dist-info")
    link_needed(Distribution.at(own), folder / "needed")
    (packages / "needed.pth").write_text(str(folder / "needed"))
    return folder / "bin"


def link_needed(package: Distribution, folder: Path) -> None:
    """Links what a package needs, and what that needs, and so on, from the environment that runs the tests."""
    folder.mkdir()
    waiting, seen = [(package, "")], set()
    while waiting:
        asking, extra = waiting.pop()
        for needed in map(Requirement, asking.requires or []):
            if needed.marker is not None and not needed.marker.evaluate({"extra": extra}):
                continue
            found = distribution(needed.name)
            new = {(found.name, also) for also in ("", *needed.extras)} - seen
            waiting += [(found, also) for _, also in new]
            seen |= new
            for top in {path.parts[0] for path in found.files or []} - {"..", "__pycache__"}:
                if not (folder / top).exists():
                    (folder / top).symlink_to(found.locate_file(top))


def test_nothing_that_it_imports_is_missing(installed, tmp_path):
    assert pip(installed, "check").stdout == "No broken requirements found.\n"
    code = """if True:
        import importlib, json, pkgutil, hf_ltc
        names = [found.name for found in pkgutil.walk_packages(hf_ltc.__path__, "hf_ltc.")]
        print(*[importlib.import_module(name).__file__ for name in names if name != "hf_ltc.__main__"], sep="\\n")
    """
    found = run("python", "-c", code, cwd=tmp_path, env=environment(installed)).stdout.splitlines()
    assert all(Path(file).is_relative_to(installed.parent) for file in found)
    assert sum(file.endswith("outer_room/inner_room/code.py") for file in found) == 1


def test_an_extra_that_is_missing_is_one_line(installed, tmp_path, small):
    there = {"cwd": tmp_path, "env": environment(installed), "check": False}
    code = "from hf_ltc.coresets.ray.data import coreset_bounds; coreset_bounds(None, size=1)"
    said = run("python", "-c", code, **there).stderr.splitlines()[-1]
    assert said.startswith("hf_ltc.utils.errors.InputError: ") and said.endswith("pip install 'hf-ltc[ray]'")
    small["train"].save_to_disk(str(tmp_path / "data"))
    arguments = ["--dataset", "data", "--model", "test_resnet", "--epochs", "3", "--output-dir", "run"]
    done = run("hf-ltc", "record", *arguments, "--report-to", "tensorboard", **there)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("hf-ltc: error: ") and "tensorboard is not installed: pip install tensorboard" in line
    assert not (tmp_path / "run").exists()


def _interruptible() -> None:
    # Tests that a shell runs in the background ignore SIGINT, and so would what they start.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_the_demo_begins(installed, tmp_path):
    """Its first recording; tests/cli/test_demo.py goes the whole way."""
    recorded = tmp_path / "runs" / "demo" / "seed-0" / "source_model" / "model.safetensors"
    said = tmp_path / "said"
    with said.open("w") as out:
        demo = subprocess.Popen(
            [installed / "hf-ltc", "demo"],
            cwd=tmp_path, env=environment(installed), stdout=out, stderr=out, preexec_fn=_interruptible,
        )  # fmt: skip
        while demo.poll() is None and not recorded.exists():
            time.sleep(0.1)
        demo.send_signal(signal.SIGINT)
        code = demo.wait(60)
    assert code == 130, said.read_text()
    assert recorded.exists()


def test_the_code_alone_knows_its_version(built, installed, tmp_path):
    """Without what an installation writes beside it, as in a checkout that is put on the path."""
    shutil.copytree(ROOT / "hf_ltc", tmp_path / "hf_ltc", ignore=shutil.ignore_patterns("__pycache__"))
    (wheel,) = built[0].glob("*.whl")
    here = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path}{os.pathsep}{installed.parent / 'needed'}"}
    done = run(sys.executable, "-S", "-m", "hf_ltc", "--version", cwd=tmp_path, env=here)
    assert done.stdout == f"hf-ltc {wheel.name.split('-')[1]}\n"
