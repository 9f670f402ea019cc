"""A commit, tried again when someone else was first, and the check that the Hub then has what was sent."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from ..utils.errors import InputError
from . import cards
from .repository import (
    CARD,
    InvalidCard,
    Pushed,
    Repository,
    explained,
    listed_files,
    passes,
    read_texts,
    reread,
    status,
    wait,
)

# How often a commit is tried when someone else was first, or the Hub did not answer.
_TRIES = 8
_SHOWN = 60
# Keys by which messages name the entry of a list in a card's head or a recipe.
_NAMES = ("config_name", "name", "split")


@dataclass(frozen=True)
class Change:
    """What a commit changes beside the large files, which are uploaded before it."""

    texts: Mapping[str, str]
    message: str
    pictures: tuple[CommitOperationAdd, ...] = ()
    removed: tuple[str, ...] = ()


def commit(
    api: HfApi,
    there: Repository,
    repo_type: str,
    uploaded: Sequence[CommitOperationAdd],
    change: Callable[[Repository], Change],
    ours: tuple[str, ...],
    what: Sequence[str],
) -> Pushed:
    """Commits, and compares what is on the Hub then. If someone else was first, commits on top of their commit.

    Args:
        api (`HfApi`): The Hub.
        there (`Repository`): The repository as it was before the upload.
        repo_type (`str`): `"dataset"` or `"model"`.
        uploaded (`Sequence[CommitOperationAdd]`): The large files, which may be uploaded already.
        change (`Callable`): Makes the rest of the commit from the repository that it changes.
        ours (`tuple[str]`): Prefixes of paths under which only these files are to be.
        what (`Sequence[str]`): What is pushed, in words.

    Returns:
        [`Pushed`]

    Raises:
        InputError: if someone else pushes other files of the same names in the meantime, or if the Hub does not have
            what was pushed after the commit.
    """
    first, made = there, change(there)
    for tried in range(1, _TRIES + 1):
        additions = [*uploaded, *made.pictures]
        additions += [CommitOperationAdd(name, _encoded(name, text)) for name, text in made.texts.items()]
        try:
            done = _committed(api, there, repo_type, additions, made)
            break
        except Exception as error:
            # Also if the answer was lost: reading the repository again shows whether the commit was made.
            if tried == _TRIES or not (passes(error) or status(error) in (409, 412)):
                raise
            wait(tried, error)
        there = reread(api, first.repo_id, repo_type)
        if there.head != first.head:
            listed = listed_files(api, there.repo_id, repo_type, there.head)
            before = listed_files(api, first.repo_id, repo_type, first.head)
            _check_other(uploaded, ours, before, listed, there)
            for addition in uploaded:
                # The client leaves out files whose digest on the Hub is the same, and has to know the new ones.
                file = listed.get(addition.path_in_repo)
                addition._remote_oid = None if file is None else oid(file)
        made = change(there)
    then = f"; the commit is there (revision {done}), so see whether it is whole, or push again"
    with explained(first.repo_id, "read back what was pushed to", then):
        problem = _difference(api, first.repo_id, repo_type, done, additions, ours, made)
    if problem is not None:
        raise InputError(
            f"{first.repo_id!r} does not hold what was pushed to it: {problem} (the commit is there, revision "
            f"{done}): push again, and if that does not help, revert the commit on the Hub"
        )
    return Pushed(first.repo_id, first.url, done, tuple(what))


def _encoded(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        part = text[error.start : error.end]
        raise InputError(f"{name} would hold {part!r}, which is no character: rename what has it") from None


def _committed(
    api: HfApi, there: Repository, repo_type: str, additions: Sequence[CommitOperationAdd], made: Change
) -> str:
    try:
        done = api.create_commit(
            there.repo_id,
            [*additions, *(CommitOperationDelete(path) for path in made.removed)],
            commit_message=made.message,
            repo_type=repo_type,
            parent_commit=there.head,
        )
    except ValueError as error:
        if str(error).startswith("Invalid metadata in README.md"):
            raise InvalidCard(str(error).partition("\n")[2] or str(error)) from None
        raise
    return str(done.oid)


def _check_other(
    uploaded: Sequence[CommitOperationAdd],
    ours: tuple[str, ...],
    before: Mapping[str, RepoFile],
    now: Mapping[str, RepoFile],
    there: Repository,
) -> None:
    """Checks that the commit replaces no files that someone else has pushed in the meantime."""
    pushed = {addition.path_in_repo: addition for addition in uploaded}
    for beginning in ours:
        was = {path: oid(file) for path, file in before.items() if path.startswith(beginning)}
        theirs = {path: oid(file) for path, file in now.items() if path.startswith(beginning)}
        same = theirs.keys() == {path for path in pushed if path.startswith(beginning)} and all(
            theirs[path] == local_oid(pushed[path], now[path]) for path in theirs
        )
        if theirs not in (was, {}) and not same:
            raise InputError(
                f"someone else pushed other files {beginning}* to {there.repo_id!r} meanwhile (revision "
                f"{there.head[:10]}), and nothing of this push is there: push again to replace theirs, or push to "
                "another repository"
            )


def _difference(
    api: HfApi,
    repo_id: str,
    repo_type: str,
    revision: str,
    additions: Sequence[CommitOperationAdd],
    ours: tuple[str, ...],
    made: Change,
) -> str | None:
    """The first difference between what is on the Hub and what was pushed, in words."""
    listed = listed_files(api, repo_id, repo_type, revision)
    if gone := [name for name in made.texts if name not in listed]:
        return f"{gone[0]} is missing"
    texts = read_texts(api, repo_id, repo_type, revision, list(made.texts), fresh=True)
    for name, text in made.texts.items():
        differs = card_differs(text, texts[name], repo_id) if name == CARD else recipe_differs(text, texts[name])
        if differs is not None:
            return differs
    # Texts were compared by their content, as line ends may differ.
    files = [addition for addition in additions if addition.path_in_repo not in made.texts]
    return files_differ(files, ours, listed) or next(
        (f"{path} is there still" for path in made.removed if path in listed), None
    )


def card_differs(meant: str, found: str, repo_id: str) -> str | None:
    """The first difference of the card on the Hub, down to the names of the classes."""
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
    # Without such a line only line ends differ.
    return f"line {number} of README.md is {shown(line)}" if number else None


def recipe_differs(meant: str, found: str) -> str | None:
    """The first difference of the recipe on the Hub."""
    if meant == found:
        return None
    try:
        there = json.loads(found)
    except ValueError as error:
        return f"recipe.json is not JSON ({error})"
    problem = first_difference(json.loads(meant), there)
    return None if problem is None else f"in recipe.json {problem}"


def first_difference(meant: Any, found: Any, where: tuple[str, ...] = ()) -> str | None:
    """The first difference between two values of JSON or YAML, in words; `None` if they are the same."""
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
    return f"{' > '.join(where)} is {shown(found)} instead of {shown(meant)}"


def _key(entry: Any, number: int) -> str:
    names = (entry[name] for name in _NAMES if name in entry) if isinstance(entry, Mapping) else iter(())
    return str(next(names, number))


def files_differ(
    meant: Iterable[CommitOperationAdd], ours: tuple[str, ...], there: Mapping[str, RepoFile]
) -> str | None:
    """The first file that is missing, differs, or should not be there, in words."""
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
    """The digest of a file on the Hub."""
    return str(file.blob_id if file.lfs is None else file.lfs.sha256)


def local_oid(addition: CommitOperationAdd, beside: RepoFile) -> str:
    """The digest of a local file, of the kind that the Hub has of the file `beside` it."""
    if beside.lfs is not None:
        return addition.upload_info.sha256.hex()
    with addition.as_file() as file:
        return str(git_hash(file.read()))


def shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
