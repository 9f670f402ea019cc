"""Paths as users write them."""

import os
from pathlib import Path
from typing import Any

from .errors import InputError, one_line


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
    place = Path(os.path.expanduser(path))
    try:
        os.stat(place)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return place
    except (OSError, ValueError) as error:
        # Such as a name that is too long for the file system.
        reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
        raise InputError(f"`{name}` {str(path)!r} cannot be looked up ({reason}): give another path") from error
    return place
