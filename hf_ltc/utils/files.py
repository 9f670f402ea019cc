"""Files that are written whole or not at all, locked, and read with errors that name them."""

import ctypes
import errno
import fcntl
import json
import math
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

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


RECIPE = "recipe.json"
_MARKS = "hf_ltc"
# Of Linux: paths from the working folder, and both names exchanged.
_HERE, _RENAME_EXCHANGE = -100, 2
# How libraries that are not Python's name a number of errno.
_NUMBER = re.compile(r"\b(?:os error|errno) (\d+)", re.IGNORECASE)
_NO_LOCKS = "its file system does not lock files, as some network mounts: give a folder on another one"
_FIXES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room there or give another folder"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "give a folder that you may write to"),
    **dict.fromkeys((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS), _NO_LOCKS),
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` that takes its place, on disk for good, once the block has ended well.

    Raises:
        InputError: if the file cannot be written (no space, no permission), naming it; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _open_to_others(temporary)
        for each in [*temporary.rglob("*"), temporary]:
            sync(each)
        if path.is_dir() and temporary.is_dir():
            # The old one is then where the new one was, and deleted there.
            _exchange(temporary, path)
        else:
            os.replace(temporary, path)
        sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise unwritable(path, error) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        elif temporary.exists():
            temporary.unlink()


def is_temporary(path: Path, of: Path) -> bool:
    """Whether a path is what [`replacing`] writes before it takes the place of another."""
    return path.name.startswith(f".{of.name}.") and path.name.endswith(".tmp")


def _exchange(one: Path, other: Path) -> None:
    """Two folders take each other's place, at once where the system can do that."""
    try:
        exchanged = ctypes.CDLL(None, use_errno=True).renameat2(
            _HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE
        )
    except AttributeError:
        exchanged = -1
    if exchanged != 0:
        # A process that ends between these leaves the old one beside, from where restore takes it.
        aside = _aside(other)
        os.rename(other, aside)
        os.rename(one, other)
        os.rename(aside, one)


def restore(path: Path) -> None:
    """Restores a folder that was moved aside for a new one which never came."""
    if not path.exists() and _aside(path).is_dir():
        os.rename(_aside(path), path)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_to_others(path: Path) -> None:
    """Lets the umask decide who may read a file or folder, as that of safetensors does not, nor that of tempfile."""
    # A file made there tells, which asking for the umask in a process of several threads does not.
    probe = path.with_name(f"{path.name}.mode.tmp")
    os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    enter = (mode & 0o444) >> 2
    for each in [path, *path.rglob("*")]:
        had = stat.S_IMODE(each.stat().st_mode)
        wanted = had | mode | (enter if each.is_dir() else 0)
        if wanted != had:
            each.chmod(wanted)


def unwritable(path: Path, error: Exception, doing: str = "write") -> InputError:
    """The error for a file that cannot be written or locked, with what the system says and what to do about that."""
    found = _NUMBER.search(str(error))
    number = getattr(error, "errno", None) or (int(found[1]) if found else None)
    reason = os.strerror(number) if number else one_line(error)
    fix = _NO_LOCKS if isinstance(error, NotImplementedError) else _FIXES.get(number or 0, "give another folder")
    return InputError(f"cannot {doing} {str(path)!r} ({reason}): {fix}; what was written before is intact")


def locked(path: Path, timeout: float = -1) -> FileLock:
    """Takes the lock of a file, which a process that ends gives back.

    Args:
        path (`Path`): The file; made if it is not there, with its folder.
        timeout (`float`, *optional*, defaults to `-1`): Seconds to wait for another process; without end if negative.

    Returns:
        `filelock.FileLock`: to be released.

    Raises:
        filelock.Timeout: if another process has it.
        InputError: if the file system does not let it be taken, saying why.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(fault := lock_fault(path.parent), PermissionError):
            # A file could be made there, so that no other permission helps.
            raise InputError(f"cannot lock {str(path)!r} ({fault.strerror}): {_NO_LOCKS}")
        if fault is not None:
            raise fault
        lock.acquire(timeout=timeout)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        raise unwritable(path, error, "lock") from error
    return lock


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object, indented, whole or not at all."""
    text = json.dumps(finite(value), indent=2, default=str, ensure_ascii=False)
    with replacing(path) as temporary:
        # What no encoding has, in the name of a file, becomes an escape of JSON, which reads as it was.
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def finite(value: Any) -> Any:
    """The same value with `None` for numbers that JSON has not: NaN and infinities."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object; an [`InputError`] names a file that is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error.strerror or one_line(error)) from error
    except ValueError as error:
        raise unreadable(path, f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise unreadable(path, f"a JSON {type(value).__name__}, not an object")
    return value


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file, whole or not at all."""
    with replacing(path) as temporary:
        # Under one key: safetensors writes several in an order that differs from process to process.
        marks = {_MARKS: json.dumps(metadata, sort_keys=True)} if metadata else None
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary, metadata=marks)


def marks_of(file: Any) -> dict[str, str]:
    """The metadata that [`write_arrays`] was given, of an open file."""
    try:
        return dict(json.loads((file.metadata() or {}).get(_MARKS, "{}")))
    except (TypeError, ValueError):
        return {}


def read_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Reads a safetensors file, or some arrays of it; an [`InputError`] names a file that is missing or damaged."""
    with opened(path) as file:
        _check_names(path, file, names or ())
        return {name: file.get_tensor(name) for name in names or file.keys()}


def _check_names(path: Path, file: Any, names: Sequence[str]) -> None:
    have = list(file.keys())
    if missing := [name for name in names if name not in have]:
        raise unreadable(path, f"it has no {', '.join(missing)}, only {', '.join(have)}")


def read_slice(path: Path, name: str, first: int, last: int) -> tuple[np.ndarray, list[int]]:
    """Reads a part of an array of a safetensors file, as far as there is one, and the shape of all of it."""
    with opened(path) as file:
        _check_names(path, file, [name])
        stored = file.get_slice(name)
        shape = stored.get_shape()
        has = len(shape) == 1 and first < last <= shape[0]
        return (stored[first:last] if has else file.get_tensor(name).reshape(-1)[:0]), shape


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Opens a safetensors file, memory-mapped; an [`InputError`] names a file that is missing or damaged."""
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except OSError as error:
        raise unreadable(path, error.strerror or str(error) or "missing") from error
    except SafetensorError as error:
        raise unreadable(path, f"truncated or not safetensors: {error}") from error


def unreadable(path: Path, reason: str) -> InputError:
    """The error for a file of a run that is missing or damaged."""
    return InputError(f"cannot read {str(path)!r} ({reason}): restore the file, or record again into another folder")


def check_free(path: Path, owns: Callable[[Path], Any]) -> None:
    """Checks that a folder can become a run directory: it is new, empty, or one already."""
    if path.exists() and not path.is_dir():
        raise InputError(f"`output_dir` {str(path)!r} is a file: give a folder")
    if path.is_dir() and any(path.iterdir()) and not owns(path):
        raise InputError(
            f"`output_dir` {str(path)!r} holds other files and no {RECIPE}: give a folder of its own to a run"
        )
