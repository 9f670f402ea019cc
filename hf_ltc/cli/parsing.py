"""Dataclasses from command lines and back: fields are options.

It reads what transformers' `HfArgumentParser` reads; importing that takes most of a second, which `--help` and a
mistyped option would wait for.
"""

import argparse
import dataclasses
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from ..utils.files import expanded
from .terminal import spelled

_TRUE, _FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


def local_path(text: str) -> str:
    """A path without a slash at its end, and with the home for `~`, which shells leave in `--option=~/folder`."""
    return str(Path(expanded(text))) if text else text


# With what argparse is told of them.
LocalPath = Annotated[str, ("type", local_path)]
Flag = Annotated[bool, ("action", "store_true")]


def argument(metavar: str, help: str) -> Any:
    """A field that is an argument without the name of an option."""
    return dataclasses.field(metadata={"help": help, "metavar": metavar, "positional": True})


def either(help: str) -> Any:
    """A field of a group of which exactly one has to be given; a dataclass has one such group at most."""
    return dataclasses.field(default=None, metadata={"help": help, "either": True})


class Parser(argparse.ArgumentParser):
    """A parser whose options are the fields of a dataclass, and which says in one line what is wrong."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"hf-ltc: error: {message}; see {self.prog} --help\n")

    def add_options(self, settings: type, names: Mapping[str, str]) -> None:
        """Adds an option for every field of a dataclass, and of the dataclasses in its fields.

        A field may be an `int`, `float` or `str`, a `Literal`, a list of one of these, or one of these or `None`. A
        `bool` may be given without a value or as yes or no, and one that is true by default has `--no-NAME`.

        Args:
            settings (`type`): The dataclass.
            names (`Mapping[str, str]`): Options by parameter, for the help (see [`spelled`]).
        """
        one_of = None
        for field, kind, _ in _fields(settings):
            told = {**_told(kind), **field.metadata, "help": spelled(field.metadata["help"], names)}
            if told.pop("positional", False):
                self.add_argument(field.name, **told)
                continue
            default = _default(field)
            told |= {"required": True} if default is dataclasses.MISSING else {"default": default}
            place: Any = self
            if told.pop("either", False):
                place = one_of = one_of or self.add_mutually_exclusive_group(required=True)
            place.add_argument(option_name(field.name), **told)
            if default is True:
                self.add_argument(
                    option_name(f"no_{field.name}"), dest=field.name, action="store_false", default=argparse.SUPPRESS,
                    help=f"Turns {option_name(field.name)} off.",
                )  # fmt: skip


def parsed(options: argparse.Namespace, settings: type) -> Any:
    """The dataclass whose fields were added as options, from the values that were parsed."""
    kinds = get_type_hints(settings)
    return settings(
        **{
            field.name: parsed(options, kinds[field.name])
            if dataclasses.is_dataclass(kinds[field.name])
            else getattr(options, field.name)
            for field in dataclasses.fields(settings)
        }
    )


def command_line(command: Any) -> str:
    """The line that runs a command, quoted for a shell; options that are at their default are left out."""
    arguments, options = ["hf-ltc", type(command).__name__.lower()], []
    for field, kind, value in _fields(type(command), command):
        if value == _default(field):
            continue
        values = [_word(each, kind) for each in (value if isinstance(value, list) else [value])]
        option = option_name(field.name)
        if "positional" in field.metadata:
            arguments += values
        elif isinstance(value, bool):
            options.append(option if value else option_name(f"no_{field.name}"))
        elif values[0].startswith(("-", "'-")):
            # Apart it would be taken for an option.
            options.append(f"{option}={values[0]}")
        else:
            options += [option, *values]
    return " ".join([*arguments, *options])


def dashed(words: list[str]) -> list[str]:
    """A command line with dashes for underscores in the names of options, which earlier versions printed."""
    end = words.index("--") if "--" in words else len(words)
    return [re.sub("^--[^=]+", lambda name: name[0].replace("_", "-"), word) for word in words[:end]] + words[end:]


def option_name(parameter: str) -> str:
    return "--" + parameter.replace("_", "-")


def option_names(settings: type) -> dict[str, str]:
    """The options and arguments of a dataclass by the name of their field."""
    return {
        field.name: field.metadata["metavar"] if "positional" in field.metadata else option_name(field.name)
        for field, *_ in _fields(settings)
    }


def _fields(settings: type, values: Any = None) -> Iterator[tuple[dataclasses.Field[Any], Any, Any]]:
    """Fields of a dataclass and of those in its fields, with their types, and their values in one of its instances."""
    kinds = get_type_hints(settings, include_extras=True)
    for field in dataclasses.fields(settings):
        value = None if values is None else getattr(values, field.name)
        if dataclasses.is_dataclass(kinds[field.name]):
            yield from _fields(kinds[field.name], value)
        else:
            yield field, kinds[field.name], value


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _told(kind: Any) -> dict[str, Any]:
    """What argparse is told of a type."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return dict(part for part in parts if isinstance(part, tuple)) or _told(parts[0])
    if origin is list:
        return {**_told(parts[0]), "nargs": "+"}
    if origin is Literal:
        return {"choices": parts}
    if NoneType in parts:
        return _told(parts[0])
    return {"type": _yes_or_no, "nargs": "?", "const": True} if kind is bool else {"type": kind}


def _yes_or_no(text: str) -> bool:
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise argparse.ArgumentTypeError(f"{text!r} is neither yes nor no")


def _word(value: Any, kind: Any) -> str:
    text = str(value).removesuffix(".0") if isinstance(value, float) else str(value)
    # A path, unlike the name of a column, can be written so that it is not taken for an option.
    return shlex.quote(f"./{text}" if text.startswith("-") and _is_path(kind) else text)


def _is_path(kind: Any) -> bool:
    return kind == LocalPath or any(_is_path(part) for part in get_args(kind))
