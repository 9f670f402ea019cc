"""What others may read: texts and recipes without paths of this machine and without access tokens."""

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from .files import finite

# Settings that only say where and how fast things ran.
_PRIVATE = {"output_dir", "report_to", "num_workers", "cache_images", "cache_budget"}
# What is said of the data themselves: names of columns and classes may look like anything.
_COLUMNS = {"label_column", "image_column", "text_column", "text_pair_column", "id_column"}
_DATA = {"names", "features", "content", *_COLUMNS}
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
# An absolute path inside a text; not the path of a URL, whose slashes follow a colon, a slash or a word.
_PATH = re.compile(r"(?<![\w/.:~\\])(?:~|[A-Za-z]:)?[\\/](?:[^\s'\"\\/,;]+[\\/])+([^\s'\"\\/,;]*)")


def public_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as others may read it: without paths of the machine it was made on and without access tokens.

    Settings that only say where and how fast things ran are left out. Of absolute paths only the last part is kept.

    Args:
        recipe (`Mapping[str, Any]`): The recipe of a run, or any other JSON values.

    Returns:
        `dict[str, Any]`: plain JSON values.
    """
    return json.loads(json.dumps(finite(_public(dict(recipe))), default=str))


def _public(value: Any, key: str = "") -> Any:
    if key in _DATA:
        return value
    if isinstance(value, Mapping):
        dropped = _PRIVATE if key == "config" else {"path"} if key in ("dataset", "validation") else set()
        return {name: _public(item, str(name)) for name, item in value.items() if name not in dropped}
    if isinstance(value, list | tuple):
        return [_public(item) for item in value]
    if isinstance(value, Path):
        return value.name
    return without_paths(value) if isinstance(value, str) else value


def without_paths(text: str) -> str:
    """A text without absolute paths (their last part is left) and without access tokens."""
    text = _TOKEN.sub("hf_***", text)
    # Names of models may have a prefix before the path.
    prefix, colon, rest = text.partition(":")
    if len(prefix) > 1 and colon and "\n" not in text and not rest.startswith("//") and _is_path(rest):
        return prefix + colon + _last(rest)
    text = text.replace("file://", "")
    if "\n" not in text and _is_path(text):
        return _last(text)
    return _PATH.sub(r"\1", text)


def _is_path(text: str) -> bool:
    absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute() or text.startswith("~")
    return absolute and len(text) > 1


def _last(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
