"""The recipe of a recording: how it was made, read from the JSON of a run directory and written back as it was."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Number
from pathlib import Path
from typing import Any, Self

from .utils.errors import InputError
from .utils.files import read_json, unreadable

Values = Mapping[str, Any]
# By the type of a field what JSON has there, and of which type its parts are.
_KINDS: dict[Any, tuple[str, Any]] = {
    str: ("text", None),
    float: ("a number", None),
    str | None: ("text", None),
    int | None: ("a number", None),
    float | None: ("a number", None),
    list[str] | None: ("a list", str),
    list[float] | None: ("a list", float),
    list[Values] | None: ("a list", Values),
    Values: ("an object", None),
    Mapping[str, float]: ("an object", float),
}


@dataclass(frozen=True)
class Section:
    """A part of a recipe: what this version reads as fields, and all that users or other versions wrote in `more`.

    A field whose key is not there, is null or is an empty object has its default, which is `None` or empty.
    """

    more: Values = field(default_factory=dict, kw_only=True)

    @classmethod
    def from_dict(cls, values: Values, path: Path | None = None, under: str = "") -> Self:
        """Reads plain JSON values.

        Args:
            values (`Mapping[str, Any]`): The values.
            path (`Path`, *optional*): The file that they are from, for the message of an error.
            under (`str`, *optional*): What stands before each key in such a message.

        Raises:
            InputError: for a value of another kind than its key has, naming file and key.
        """
        _check(values, Values, under.removesuffix(".") or "recipe", path)
        types = {each.name: each.type for each in dataclasses.fields(cls) if each.name != "more"}
        known: dict[str, Any] = {}
        more: dict[str, Any] = {}
        for key, value in values.items():
            kind, name = types.get(key), f"{under}{key}"
            if kind is None or value is None or (isinstance(value, Mapping) and not value):
                more[key] = value
            elif isinstance(kind, type) and issubclass(kind, Section):
                known[key] = kind.from_dict(value, path, f"{name}.")
            else:
                _check(value, kind, name, path)
                known[key] = value
        return cls(**known, more=more)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as [`Section.from_dict`] was given them."""
        found = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "more"}
        written = {name: value.to_dict() if isinstance(value, Section) else value for name, value in found.items()}
        said = {name: value for name, value in written.items() if value is not None and value != {}}
        # What says nothing may have been replaced by what does.
        return {**said, **self.more, **said}


@dataclass(frozen=True)
class Identity(Section):
    """Which dataset it is, as `dataset_identity` tells it, where it is from, and the columns that were used."""

    rows: int | None = None
    features: Values = field(default_factory=dict)
    label_column: str | None = None
    image_column: str | None = None
    id_column: str | None = None
    classes: int | None = None
    class_names: str | None = None
    class_counts: str | None = None
    labels: str | None = None
    content: Values = field(default_factory=dict)
    names: list[str] | None = None
    name: str | None = None
    path: str | None = None
    repo_id: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Config(Section):
    """The settings of the recording, as far as others speak of them."""

    model: str | None = None
    seed: int | None = None
    epochs: float | None = None
    losses: str | None = None
    weights: str | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    schedule: str | None = None
    batch_size: int | None = None


@dataclass(frozen=True)
class Training(Section):
    """How the source model was trained, beside the settings."""

    id: str | None = None
    processes: int | None = None
    image_size: int | None = None
    grey_range: list[float] | None = None
    validation_rows: int | None = None


@dataclass(frozen=True)
class Hardware(Section):
    """What it was recorded on."""

    device: str | None = None


@dataclass(frozen=True)
class SeedReliability(Section):
    """How far scores by it depend on the seed: `hf_ltc.Reliability` as JSON, in which NaN is null."""

    one: float | None = None
    mean: float | None = None
    runs: int | None = None


@dataclass(frozen=True)
class Recipe(Section):
    """How a recording was made. Users see it as a plain dict, `Trajectories.recipe`; `Recipe.from_dict` reads that."""

    # The marks of a run directory: its format, which run it is, the epochs it will have and, once finished, has.
    format: Any = None
    run: str | None = None
    planned_epochs: Any = None
    epochs: Any = None
    dataset: Identity = field(default_factory=Identity)
    validation: Identity = field(default_factory=Identity)
    config: Config = field(default_factory=Config)
    training: Training = field(default_factory=Training)
    hardware: Hardware = field(default_factory=Hardware)
    versions: Values = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    reliability: SeedReliability = field(default_factory=SeedReliability)
    parameters: int | None = None
    seeds: list[float] | None = None
    runs: list[Values] | None = None
    validation_loss: float | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the recipe of a file; an [`InputError`] names a file that is missing or damaged."""
        return cls.from_dict(read_json(path), path)


def _check(value: Any, kind: Any, name: str, path: Path | None) -> None:
    """Checks that a value is of a kind, and that what it holds is."""
    if kind is Any:
        return
    outer, inner = _KINDS[kind]
    if (found := _kind(value)) != outer:
        reason = f"{name!r} is {found}, not {outer}"
        if path is not None:
            raise unreadable(path, reason)
        raise InputError(f"`recipe` cannot be used ({reason}): leave it out, or call it by another name")
    if inner is not None:
        for part, each in value.items() if isinstance(value, Mapping) else enumerate(value):
            _check(each, inner, f"{name}.{part}", path)


def _kind(value: Any) -> str:
    """What JSON has in the place of a value; of what it does not know, its text is written."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return "a number" if isinstance(value, Number) else "text"
