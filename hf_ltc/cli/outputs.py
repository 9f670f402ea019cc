"""The datasets that commands save: whole or not at all, in place of what the same command saved there before."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..utils import files
from ..utils.errors import InputError
from ..utils.files import expanded, local

if TYPE_CHECKING:
    from datasets import Dataset

# What each command says of itself in the recipe beside the rows.
SCORED, CORESET = "score", "coreset"
_SAVED = ("state.json", "dataset_info.json", files.RECIPE)


def check_output(output: str, kind: str, *inputs: str | None) -> Path:
    """Checks that a command may save its dataset in a folder: it is new, empty, or what the same command saved.

    Args:
        output (`str`): The folder.
        kind (`str`): `SCORED` or `CORESET`.
        *inputs (`str`, *optional*): What the command reads, which is never replaced.

    Returns:
        `Path`: the folder, of a link what it points to.

    Raises:
        InputError: for any other folder, and if another process is writing there.
    """
    path = local(output, "output").resolve()
    for given in inputs:
        if given is not None and Path(expanded(given)).resolve().is_relative_to(path):
            raise InputError(f"`output` {output!r} holds {given!r}, which is read: give another folder")
    files.restore(path)
    for left in _unfinished(path):
        with _held(left, output) as alone:
            if alone:
                shutil.rmtree(left, ignore_errors=True)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return path
    if not path.is_dir() or _kind(path) != kind:
        raise InputError(f"`output` {output!r} exists already: give another folder, or take it away")
    # Caches of datasets are files of Arrow too.
    strange = sorted(file.name for file in path.iterdir() if file.name not in _SAVED and file.suffix != ".arrow")
    if strange:
        raise InputError(
            f"`output` {output!r} holds {strange[0]!r} beside an earlier result: give another folder, or take it away"
        )
    return path


def save(dataset: "Dataset", path: Path, recipe: dict[str, Any]) -> None:
    """Saves a dataset with its recipe; until all of it is on disk, what was there before stays."""
    # Held until it is in its place.
    with ExitStack() as held, files.replacing(path) as temporary:
        temporary.mkdir()
        held.enter_context(_held(temporary, str(path)))
        dataset.save_to_disk(str(temporary))
        files.write_json(temporary / files.RECIPE, recipe)


def recipe_beside(folder: str | Path) -> dict[str, Any]:
    """The recipe beside saved rows; empty for rows that no command saved."""
    path = Path(folder) / files.RECIPE
    return files.read_json(path) if path.is_file() else {}


def _kind(path: Path) -> str | None:
    if not (path / "state.json").is_file():
        return None
    recipe = recipe_beside(path)
    return next((kind for kind in (CORESET, SCORED) if kind in recipe), None)


def _unfinished(path: Path) -> list[Path]:
    """What killed processes left, or others are writing."""
    if not path.parent.is_dir():
        return []
    return [left for left in path.parent.iterdir() if files.is_temporary(left, path) and left.is_dir()]


@contextmanager
def _held(folder: Path, output: str) -> Iterator[bool]:
    """Holds a folder while it is written: who is killed lets go of it. False where the file system has no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _lock(descriptor, output)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, output: str) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(f"`output` {output!r} is being written by another process: wait for it") from error
    except OSError:
        return False
    return True
