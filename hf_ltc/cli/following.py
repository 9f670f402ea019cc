"""What to run next, as a shell takes it: quoted, with all that the command cannot find out by itself."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import EvaluateConfig
from ..utils.errors import InputError
from ..utils.files import expanded

_FRACTIONS = (0.1, 0.3, 0.5, 1.0)


def next_command(*words: object, **options: Any) -> str:
    """A line that says what to run next.

    Args:
        *words: The command and its arguments; a `Path` is never taken for an option.
        **options: Options by the name of their parameter. Those of `None` are left out, `True` is a flag, a list is
            several values.

    Returns:
        `str`: `Next: hf-ltc ...`.
    """
    line = ["hf-ltc", *map(_word, words)]
    for name, value in options.items():
        if value is None:
            continue
        option = "--" + name.replace("_", "-")
        values = [] if value is True else [_word(each) for each in (value if isinstance(value, list) else [value])]
        # Only so a value that begins with a dash is none of an option.
        line += [f"{option}={shlex.quote(values[0])}"] if values and values[0][0] == "-" else [option, *values]
    return "Next: " + " ".join(line)


def next_in_python(statement: str) -> str:
    return f"Next, in Python: {statement}"


def _word(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return shlex.quote(f"./{text}" if isinstance(value, Path) and text.startswith("-") else text)


def beside(path: str | Path, suffix: str) -> Path:
    """A folder beside another, of its name and a suffix."""
    place = Path(path)
    # "." and ".." are no names to add to.
    place = place.resolve() if place.name in ("", "..") else place
    return place.with_name(f"{place.name}{suffix}")


def from_here(path: str) -> Path:
    """A path as one who is in this folder says it."""
    whole, here = Path(path), Path.cwd()
    return whole.relative_to(here) if whole.is_relative_to(here) else whole


def found_anywhere(dataset: str | None) -> str | None:
    """A dataset as it was named on the command line, for a command in another folder."""
    if dataset is None:
        return None
    local = Path(expanded(dataset))
    return str(local.resolve()) if local.exists() else dataset


def some_fraction(pool: int, dataset: Mapping[str, Any], least: float = 0.0) -> float:
    """A budget of a recorded dataset that can have a row of each class, and no smaller one than another."""
    classes = len(dataset.get("names") or [None])
    budgets = [least, *(fraction for fraction in _FRACTIONS if fraction > least)]
    return next((fraction for fraction in budgets if round(fraction * pool) >= classes), 1.0)


def differing(family: Mapping[str, str], default: Mapping[str, str]) -> dict[str, str]:
    """The choices of a member of the family that are not those of the default."""
    return {name: value for name, value in family.items() if value != default[name]}


def unless(default: str, value: str) -> str | None:
    """A value, where it is not the default."""
    return None if value == default else value


def repository_name(dataset: Mapping[str, Any]) -> str:
    """A name that the Hub takes for the coresets of a dataset; it puts that of who is logged in before."""
    source = Path(str(dataset.get("repo_id") or dataset.get("path") or "")).name
    stem = re.sub("[^A-Za-z0-9]+", "-", source)[:80].strip("-")
    return f"{stem or 'coreset'}-ltc"


def after_select(recipe: Mapping[str, Any], scored: str, selection: Mapping[str, Any]) -> str:
    """The command after `select`: training models on the coreset where there are test rows, or else pushing it.

    Args:
        recipe (`Mapping`): The recipe beside the scored rows.
        scored (`str`): Their folder.
        selection (`Mapping`): Options of `select`; `rows`, those kept, and `pool`, those that could be.

    Returns:
        `str`: `Next: hf-ltc ...`.
    """
    from ..evaluation.methods import METHODS
    from ..scores.ltc import DEFAULT

    made, dataset = recipe["score"], recipe.get("dataset") or {}
    run, of_family = from_here(made["run"]), selection["score_column"] == "ltc_score"
    pool = selection["pool"]
    fraction = selection["fraction"] or round(selection["rows"] / pool, 6)
    given = {
        "fractions": [fraction],
        "balance": unless("class", selection["balance"]),
        "losses": "evaluation" if made["losses"] == "evaluation_loss" else None,
        "dataset": made["dataset"],
    }
    model = (recipe.get("config") or {}).get("model")
    if of_family and model and dataset.get("image_column") and _has_test_rows(made, dataset):
        member = next(name for name, method in METHODS.items() if method.family == made["family"])
        members = None if made["family"] == DEFAULT else member
        # Which takes no budget without a row of each class.
        given["fractions"] = [some_fraction(pool, dataset, fraction)]
        return next_command("evaluate", run, models=model, members=members, **given)
    if of_family:
        given |= differing(made["family"], DEFAULT)
    else:
        given |= {"scored": Path(scored), "score_column": selection["score_column"], "keep": selection["keep"]}
    return next_command("push", run, repository_name(dataset), private=True, **given)


def _has_test_rows(made: Mapping[str, Any], source: Mapping[str, Any]) -> bool:
    from ..data.load import load_split

    place = str(made["dataset"] or source.get("path") or source.get("repo_id"))
    try:
        load_split(place, EvaluateConfig().test_split, name=source.get("config"), revision=source.get("revision"))
    except InputError:
        return False
    return True
