"""Whether what is on the Hub is what was pushed: the first difference, in words."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from datasets import ClassLabel, DatasetInfo, Features
from datasets.info import DatasetInfosDict
from huggingface_hub import CommitOperationAdd, DatasetCardData
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from ..utils.errors import InputError
from . import cards

_SHOWN = 60
# Entries of lists in a card's head and in a recipe that have a name are told by it.
_NAMES = ("config_name", "name", "split")


def check_card(card: str, infos: Mapping[str, DatasetInfo], repo_id: str) -> None:
    """Checks before a commit that `load_dataset` will read features and sizes from a card as they are meant.

    Raises:
        InputError: if the head of a card cannot hold them.
    """
    described = cards.head(card, repo_id).get("dataset_info") or []
    # Entries that someone else wrote are none of ours.
    entries = [entry for entry in described if entry.get("config_name") in infos]
    read = DatasetInfosDict.from_dataset_card_data(DatasetCardData(dataset_info=entries))
    for config, info in infos.items():
        found = read.get(config)
        if found is None or found.features is None:
            problem: str | None = "it is not there"
        else:
            problem = _features_differ(info.features or Features(), found.features)
            if problem is None and _sizes(info) != _sizes(found):
                problem = f"the splits are {_sizes(found)} instead of {_sizes(info)}"
        if problem is not None:
            raise InputError(
                f"configuration {config!r} cannot be described in the card of {repo_id!r}: read again, {problem}; "
                "rename it"
            )


def _sizes(info: DatasetInfo) -> dict[str, tuple[int, int]]:
    return {str(split): (there.num_examples, there.num_bytes) for split, there in (info.splits or {}).items()}


def _features_differ(meant: Features, found: Features) -> str | None:
    if list(meant) != list(found):
        return f"the columns are {list(found)} instead of {list(meant)}"
    for column, feature in meant.items():
        other = found[column]
        if isinstance(feature, ClassLabel) and isinstance(other, ClassLabel):
            pairs = enumerate(zip(feature.names, other.names))
            wrong = next(((i, one, two) for i, (one, two) in pairs if type(one) is not type(two) or one != two), None)
            if wrong is not None:
                return f"class {wrong[0]} of column {column!r} is {_short(wrong[2])} instead of {_short(wrong[1])}"
        if feature != other:
            return f"column {column!r} is {_short(other)} instead of {_short(feature)}"
    return None


def card_differs(meant: str, found: str, repo_id: str) -> str | None:
    """The first difference of the card that is there, to the names of the classes."""
    if meant == found:
        return None
    try:
        head = cards.head(found, repo_id)
    except InputError as error:
        return str(error)
    if (problem := first_difference(cards.head(meant, repo_id), head)) is not None:
        return f"in the head of README.md {problem}"
    lines = zip([*meant.splitlines(), None], [*found.splitlines(), None])
    number, line = next(((i, two) for i, (one, two) in enumerate(lines, start=1) if one != two), (0, ""))
    # Line ends are no difference.
    return f"line {number} of README.md is {_short(line)}" if number else None


def recipe_differs(meant: str, found: str) -> str | None:
    """The first difference of the recipe that is there."""
    if meant == found:
        return None
    try:
        there = json.loads(found)
    except ValueError as error:
        return f"recipe.json is not JSON ({error})"
    problem = first_difference(json.loads(meant), there)
    return None if problem is None else f"in recipe.json {problem}"


def first_difference(meant: Any, found: Any, where: tuple[str, ...] = ()) -> str | None:
    """Where one value of JSON or YAML first differs from another, and how; `None` if nowhere."""
    if isinstance(meant, Mapping) and isinstance(found, Mapping):
        for key in meant:
            if key not in found:
                return f"{' > '.join((*where, str(key)))} is missing"
            if (problem := first_difference(meant[key], found[key], (*where, str(key)))) is not None:
                return problem
        if more := [key for key in found if key not in meant]:
            return f"{' > '.join((*where, str(more[0])))} is there too"
        return None
    if isinstance(meant, list) and isinstance(found, list):
        for number, one in enumerate(meant):
            key = _key(one, number)
            if number == len(found):
                return f"{' > '.join((*where, key))} is missing"
            if (problem := first_difference(one, found[number], (*where, key))) is not None:
                return problem
        more_entries = found[len(meant) :]
        return f"{' > '.join((*where, _key(more_entries[0], len(meant))))} is there too" if more_entries else None
    # 1, 1.0 and True are equal, but not the same.
    if type(meant) is type(found) and meant == found:
        return None
    return f"{' > '.join(where)} is {_short(found)} instead of {_short(meant)}"


def _key(entry: Any, number: int) -> str:
    names = (entry[name] for name in _NAMES if name in entry) if isinstance(entry, Mapping) else iter(())
    return str(next(names, number))


def files_differ(
    meant: Iterable[CommitOperationAdd], ours: tuple[str, ...], there: Mapping[str, RepoFile]
) -> str | None:
    """The first file that is missing, or differs, or is one too many under the beginnings of our paths."""
    pushed = {addition.path_in_repo: addition for addition in meant}
    for path, addition in pushed.items():
        if path not in there:
            return f"{path} is missing"
        if (size := there[path].size) != addition.upload_info.size:
            return f"{path} has {size} bytes instead of {addition.upload_info.size}"
        if oid(there[path]) != local_oid(addition, there[path]):
            return f"{path} has another content"
    stale = sorted(path for path in there if path.startswith(ours) and path not in pushed)
    return f"{stale[0]} is there still" if stale else None


def oid(file: RepoFile) -> str:
    """The digest by which the Hub knows a content."""
    return str(file.blob_id if file.lfs is None else file.lfs.sha256)


def local_oid(addition: CommitOperationAdd, beside: RepoFile) -> str:
    """The same of a local file, as of one that is on the Hub."""
    if beside.lfs is not None:
        return addition.upload_info.sha256.hex()
    with addition.as_file() as file:
        return str(git_hash(file.read()))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
