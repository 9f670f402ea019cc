"""The fields of settings: what the command line shows of each, and what its value must be."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from .errors import require
from .files import local

_LARGEST_SEED = 2**32
_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}


@dataclass(frozen=True)
class Check:
    """What a value must be beyond its type, in words and as a test.

    It stands in the annotation of a field: `strict` of `huggingface_hub.dataclasses` never looks at the values of a
    frozen dataclass, and a validator in the metadata would be an option of `HfArgumentParser` that there is not.
    """

    wanted: str
    holds: Callable[[Any], bool]


def at_least(least: int) -> Check:
    return Check(f"{least} or more", lambda value: value >= least)


def different(what: str) -> Check:
    return Check(f"a list of different {what}", lambda values: len(set(values)) == len(values))


NOT_EMPTY = Check("one or more", bool)
Count = Annotated[int, at_least(1)]
Amount = Annotated[float, at_least(0)]
Share = Annotated[float, Check("inside (0, 1]", lambda share: 0 < share <= 1)]
Part = Annotated[float, Check("inside (0, 1)", lambda part: 0 < part < 1)]
Rate = Annotated[float, Check("inside [0, 1)", lambda rate: 0 <= rate < 1)]
Names = Annotated[list[str], different("names")]
Workers = Annotated[int, at_least(0)]
Side = Annotated[int, at_least(4)]


def option(default: Any, help: str, metavar: str | None = None) -> Any:
    """A dataclass field with its default (`MISSING` if it has none), and what the command line shows of it."""
    metadata = {"help": help} if metavar is None else {"help": help, "metavar": metavar}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def check_fields(config: Any) -> None:
    """Checks every field by its annotation; the folder of the results is kept as it is called."""
    if isinstance(config.output_dir, str | os.PathLike) and config.output_dir != "":
        # Without a slash at its end, as names are made by adding to it.
        object.__setattr__(config, "output_dir", str(local(config.output_dir, "output_dir")))
    # Not the types of dataclasses.fields, which HfArgumentParser changes.
    for name, kind in type(config).__annotations__.items():
        _check(name, getattr(config, name), kind)


def _check(name: str, value: Any, kind: Any) -> None:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        _check(name, value, parts[0])
        for check in parts[1:]:
            require(check.holds(value), name, value, check.wanted)
    elif origin is Literal:
        require(value in parts, name, value, "one of " + ", ".join(parts))
    elif origin is list:
        item, items = (float, "numbers") if float in (parts[0], *get_args(parts[0])) else (str, "strings")
        is_list = isinstance(value, list | tuple) and all(_is_of(each, item) for each in value)
        require(is_list, name, value, f"a list of {items}")
        for each in value:
            _check(name, each, parts[0])
    elif NoneType not in parts:
        require(_is_of(value, kind), name, value, _KINDS[kind])
    elif value is not None:
        _check(name, value, parts[0])


def check_seeds(config: Any, name: str, count: int) -> None:
    # The seeds that every random generator takes; each of several runs has its own.
    value = getattr(config, name)
    require(0 <= value <= _LARGEST_SEED - count, name, value, "inside [0, 2**32)")


def _is_of(value: Any, kind: Any) -> bool:
    # A bool is an int in Python, and never meant as a number.
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
