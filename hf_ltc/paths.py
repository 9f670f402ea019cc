"""Paths as users write them."""

import fcntl
import os
import uuid
from pathlib import Path
from typing import Any

from .errors import InputError, one_line


def expanded(path: str | os.PathLike[str]) -> str:
    """A path with its home in place of `~`; one whose `~` is no home is a name, and never read as one again."""
    place = os.path.expanduser(path)
    return os.path.abspath(place) if place.startswith("~") else place


def local(path: Any, name: str) -> Path:
    """A path of this machine, which need not be there.

    Args:
        path (`str` or `Path`): The path, with `~` for a home.
        name (`str`): The parameter that it was given as.

    Returns:
        `Path`

    Raises:
        InputError: for what is no path, and one that the system cannot look up.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"`{name}` is a {type(path).__name__}, not a path: give a string or a pathlib.Path")
    place = Path(expanded(path))
    try:
        os.stat(place)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return place
    except (OSError, ValueError) as error:
        # Such as a name that is too long for the file system.
        reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
        raise InputError(f"`{name}` {str(path)!r} cannot be looked up ({reason}): give another path") from error
    return place


def lock_fault(folder: Path) -> OSError | None:
    """Why files in a folder cannot be locked, found on one that nobody else has.

    filelock takes some refusals of a file system for a lock that another process holds, and waits.

    Args:
        folder (`Path`): The folder, which is there.

    Returns:
        `OSError`: what the system says, or `None` if it locks.

    Raises:
        OSError: if no file can be made there.
    """
    probe = folder / f".{uuid.uuid4().hex[:12]}.lock.tmp"
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error
    finally:
        os.close(descriptor)
        probe.unlink()
    return None
