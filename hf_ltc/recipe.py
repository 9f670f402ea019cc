"""The recipe of a recording: how it was made, read from the JSON of a run directory and written back as it was."""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from numbers import Number
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Self, get_args, get_origin

from .utils.errors import InputError, LTCWarning
from .utils.files import read_json, unreadable

Values = Mapping[str, Any]
# In what a recipe says of validation samples: which of the hold-outs that rotate over runs it is, or they are.
TURN = "turn"
# The task of rows of language models, as the Hub calls it.
TEXT_GENERATION = "text-generation"
# By the type of a field what JSON has there, and of which type its parts are.
_KINDS: dict[Any, tuple[str, Any]] = {
    str: ("text", None),
    bool: ("true or false", None),
    int: ("a number", None),
    float: ("a number", None),
    list[Any]: ("a list", None),
    list[str]: ("a list", str),
    list[float]: ("a list", float),
    list[Values]: ("a list", Values),
    Values: ("an object", None),
    Mapping[str, str]: ("an object", str),
    Mapping[str, float]: ("an object", float),
}
# The error for a malformed recipe, by what is wrong in it.
Problem = Callable[[str], InputError]


def _unusable(reason: str) -> InputError:
    return InputError(f"`recipe` cannot be used ({reason}): leave it out, or call it by another name")


@dataclass(frozen=True)
class Section:
    """A part of a recipe: what this version reads as fields, and all that users or other versions wrote in `more`.

    A field whose key is not there, is null or is an empty object has its default, which is `None` or empty. The key of
    a field without a default has to be there, and is always written.

    A value of another kind than its key has is refused, but not under a key that only describes: users may have
    written it before the key was read. There the field has its default, and the value stays in `more`.
    """

    more: Values = field(default_factory=dict, kw_only=True)

    @classmethod
    def from_dict(cls, values: Values, problem: Problem = _unusable, under: str = "") -> Self:
        """Reads plain JSON values.

        Args:
            values (`Mapping[str, Any]`): The values.
            problem (`Callable`, *optional*): The error for what is wrong; it names the file that they are from.
            under (`str`, *optional*): What stands before each key in its message.

        Raises:
            InputError: for a value of another kind than its key has, and a key that is missing, naming file and key.
        """
        _check(values, Values, under.removesuffix(".") or "recipe", problem)
        types = {each.name: each.type for each in dataclasses.fields(cls) if each.name != "more"}
        needed = cls._needed()
        known: dict[str, Any] = {}
        more: dict[str, Any] = {}
        for key, value in values.items():
            empty = value is None or (isinstance(value, Mapping) and not value)
            if key not in types or (key not in needed and empty) or cls._misfit(key, value, types[key]):
                more[key] = value
            else:
                known[key] = _read(value, types[key], f"{under}{key}", problem)
        if missing := [name for name in needed if name not in known]:
            raise problem(f"{f'in {under[:-1]!r} ' if under else ''}it lacks {missing[0]!r}")
        return cls(**known, more=more)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as [`Section.from_dict`] was given them."""
        found = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "more"}
        written = {name: _written(value) for name, value in found.items()}
        needed = self._needed()
        said = {
            name: value for name, value in written.items() if name in needed or (value is not None and value != {})
        }
        # What says nothing may have been replaced by what does.
        return {**said, **self.more, **said}

    def misfits(self, under: str = "") -> list[str]:
        """What is of another kind than its key has, in words."""
        found = []
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Section):
                found += value.misfits(f"{under}{each.name}.")
            if each.name in self.more and (problem := self._misfit(each.name, self.more[each.name], each.type, under)):
                found.append(problem)
        return found

    @classmethod
    def _misfit(cls, key: str, value: Any, kind: Any, under: str = "") -> str | None:
        """In what the value of a key that only describes is of another kind, if it is."""
        if not cls._describes(key) or value is None or value == {}:
            return None
        try:
            _read(value, kind, f"{under}{key}", InputError)
        except InputError as error:
            return str(error)
        return None

    @classmethod
    def _describes(cls, key: str) -> bool:
        """Whether a key only describes, so that nothing that is checked depends on it."""
        return False

    @classmethod
    def _needed(cls) -> list[str]:
        none = dataclasses.MISSING
        return [each.name for each in dataclasses.fields(cls) if each.default is none and each.default_factory is none]


@dataclass(frozen=True)
class Description(Section):
    """A section of keys that only describe."""

    @classmethod
    def _describes(cls, key: str) -> bool:
        return True


@dataclass(frozen=True)
class Identity(Section):
    """Which dataset it is, as `dataset_identity` tells it, where it is from, and the columns that were used."""

    rows: int | None = None
    features: Values = field(default_factory=dict)
    label_column: str | None = None
    image_column: str | None = None
    text_column: str | None = None
    text_pair_column: str | None = None
    id_column: str | None = None
    # Of rows of a language model; of others it is told by what they hold.
    task: str | None = None
    # 0 for rows without classes.
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

    @property
    def rotates(self) -> bool:
        """Whether, as validation samples, they are those of runs that each hold other rows out."""
        return TURN in self.more

    @property
    def is_of_language_model(self) -> bool:
        """Whether a row's loss is the mean over its tokens, and not that of a class."""
        return self.task == TEXT_GENERATION

    @property
    def is_text(self) -> bool:
        return self.text_column is not None or self.is_of_language_model


@dataclass(frozen=True)
class Config(Description):
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
class Training(Description):
    """How the source model was trained, beside the settings."""

    id: str | None = None
    processes: int | None = None
    image_size: int | None = None
    decoding: int | None = None
    grey_range: list[float] | None = None
    max_length: int | None = None
    truncated: int | None = None
    validation_rows: int | None = None


@dataclass(frozen=True)
class Hardware(Description):
    """What it was recorded on."""

    device: str | None = None


@dataclass(frozen=True)
class SeedReliability(Description):
    """How far scores by it depend on the seed: `hf_ltc.Reliability` as JSON, in which NaN is null."""

    one: float | None = None
    mean: float | None = None
    runs: int | None = None


@dataclass(frozen=True)
class Recipe(Section):
    """How a recording was made. Users see it as a plain dict, `Trajectories.recipe`; `Recipe.from_dict` reads that."""

    # The keys that checks rely on; all others describe.
    RELIED_ON: ClassVar = frozenset({"format", "run", "dataset", "validation", "runs"})

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
        return cls.from_dict(read_json(path), partial(unreadable, path))

    @classmethod
    def _describes(cls, key: str) -> bool:
        return key not in cls.RELIED_ON

    @classmethod
    def check(cls, values: Values) -> None:
        """Refuses a recipe that a user hands over if any of its values is of another kind than its key has.

        Raises:
            InputError: naming the key.
        """
        for problem in cls.from_dict(values).misfits():
            raise _unusable(problem)

    @classmethod
    def load(cls, values: Values, path: Path, stacklevel: int = 2) -> Self:
        """Reads the values of a file, and warns of those that are of another kind than their key has.

        Args:
            values (`Mapping[str, Any]`): The values.
            path (`Path`): The file.
            stacklevel (`int`, *optional*, defaults to `2`): As for `warnings.warn`.

        Raises:
            InputError: for such a value that checks rely on, naming file and key.
        """
        recipe = cls.from_dict(values, partial(unreadable, path))
        if problems := recipe.misfits():
            warnings.warn(
                f"in {str(path)!r} {'; '.join(problems)}: it is kept, but taken as not given; call it by another name",
                LTCWarning,
                stacklevel=stacklevel + 1,
            )
        return recipe


def _read(value: Any, kind: Any, name: str, problem: Problem) -> Any:
    """Reads the value of a field of some type."""
    if NoneType in get_args(kind):
        if value is None:
            return None
        (kind,) = (part for part in get_args(kind) if part is not NoneType)
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind.from_dict(value, problem, f"{name}.")
    parts = get_args(kind)
    if parts and isinstance(parts[-1], type) and issubclass(parts[-1], Section):
        section, is_list = parts[-1], get_origin(kind) is list
        _check(value, list[Any] if is_list else Values, name, problem)
        each = {key: section.from_dict(part, problem, f"{name}.{key}.") for key, part in _parts(value)}
        return list(each.values()) if is_list else each
    _check(value, kind, name, problem)
    return value


def _written(value: Any) -> Any:
    if isinstance(value, Section):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: _written(each) for key, each in value.items()}
    return [_written(each) for each in value] if isinstance(value, list) else value


def _check(value: Any, kind: Any, name: str, problem: Problem) -> None:
    """Checks that a value is of a kind, and that what it holds is."""
    if kind is Any:
        return
    outer, inner = _KINDS[kind]
    if (found := _kind(value)) != outer:
        raise problem(f"{name!r} is {found}, not {outer}")
    if inner is not None:
        for part, each in _parts(value):
            _check(each, inner, f"{name}.{part}", problem)


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    return value.items() if isinstance(value, Mapping) else enumerate(value)


def _kind(value: Any) -> str:
    """What JSON has in the place of a value; of what it does not know, its text is written."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    return "a number" if isinstance(value, Number) else "text"
