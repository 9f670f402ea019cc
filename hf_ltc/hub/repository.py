"""A repository on the Hub: read, its errors explained in one line, and requests tried again while it is busy."""

import errno
import json
import logging
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from .. import __version__
from ..utils.errors import InputError, one_line
from .repository_recipe import RECIPE, RepositoryRecipe

_P = ParamSpec("_P")
_T = TypeVar("_T")
_logger = logging.getLogger(__name__)
CARD = "README.md"
# Where repositories of each type are; models are at the root.
_PLACES = {"dataset": "datasets/", "space": "spaces/"}
_TRIES = 5
_LONGEST = 8.0
# Most seconds to wait when the Hub says how long it is busy.
_PATIENCE = 60.0


@dataclass(frozen=True)
class Pushed:
    """The result of a push.

    Args:
        repo_id (`str`): The repository.
        url (`str`): Its address.
        revision (`str`): The commit.
        configs (`tuple[str, ...]`): The configurations that were pushed.
    """

    repo_id: str
    url: str
    revision: str
    configs: tuple[str, ...]

    def __str__(self) -> str:
        return f"Pushed {', '.join(self.configs)} to {self.url} (revision {self.revision[:10]})."


@dataclass(frozen=True)
class Repository:
    """A repository as it was when a push began."""

    repo_id: str
    url: str
    head: str
    files: tuple[str, ...]
    card: str | None
    recipe: RepositoryRecipe | None


def check_repo_id(repo_id: Any, name: str = "repo_id") -> None:
    """Checks the name of a repository before any work is done.

    Raises:
        InputError: if no repository can have this name.
    """
    try:
        validate_repo_id(repo_id)
        # The client accepts letters of any script, but the Hub only those of ASCII.
        valid = isinstance(repo_id, str) and repo_id.isascii()
    except HFValidationError:
        valid = False
    if not valid:
        raise InputError(f"`{name}` is {repo_id!r}: {_NO_NAME}")


def open_repository(
    api: HfApi,
    repo_id: str,
    repo_type: str,
    private: bool | None,
    space_sdk: str | None = None,
    because: str = "`private` is True",
) -> Repository:
    """Creates a repository if it does not exist, and reads what a push has to keep of it."""
    check_repo_id(repo_id)
    repo_id, info = find_repository(api, repo_id, repo_type)
    if info is None:
        # Someone else may create it at the same moment.
        patiently(api.create_repo, repo_id, repo_type=repo_type, private=private, space_sdk=space_sdk, exist_ok=True)
        info = patiently(api.repo_info, repo_id, repo_type=repo_type)
    if private:
        check_private(info, because)
    return _state(api, info, repo_type)


def find_repository(api: HfApi, repo_id: str, repo_type: str) -> tuple[str, Any]:
    """The name of a repository with its owner, and what the Hub says of it, nothing if it does not exist."""
    if "/" not in repo_id:
        repo_id = f"{patiently(api.whoami)['name']}/{repo_id}"
    try:
        return repo_id, patiently(api.repo_info, repo_id, repo_type=repo_type)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return repo_id, None


def check_private(info: Any, because: str) -> None:
    """Checks that a repository which should be private is."""
    if not info.private:
        raise InputError(
            f"{because}, but {info.id!r} is there and public: make it private in its settings first, or push "
            "to another repository"
        )


def read_repository(api: HfApi, repo_id: str, revision: str | None) -> Repository:
    """Reads a dataset repository that a push wrote."""
    there = reread(api, repo_id, "dataset", revision)
    if there.recipe is None:
        raise InputError(f"{repo_id!r} has no {RECIPE}: it is no repository that hf-ltc push wrote")
    return there


def reread(api: HfApi, repo_id: str, repo_type: str, revision: str | None = None) -> Repository:
    """Reads a repository that exists."""
    validate_repo_id(repo_id)
    return _state(api, patiently(api.repo_info, repo_id, repo_type=repo_type, revision=revision), repo_type)


def read_texts(
    api: HfApi, repo_id: str, repo_type: str, revision: str, names: list[str], fresh: bool = False
) -> dict[str, str]:
    """Reads text files of a revision; with `fresh`, from the Hub even if they are in the cache."""
    with tempfile.TemporaryDirectory(prefix="hf_ltc-") as folder:
        where = folder if fresh else None

        def path(name: str) -> str:
            return api.hf_hub_download(repo_id, name, repo_type=repo_type, revision=revision, cache_dir=where)

        paths = {name: patiently(path, name) for name in names}
        try:
            return {name: Path(path).read_text(encoding="utf-8") for name, path in paths.items()}
        except UnicodeDecodeError as error:
            names_read = " or ".join(names)
            raise InputError(f"{names_read} of {repo_id!r} is not UTF-8 ({error}): fix it first") from error


def listed_files(
    api: HfApi, repo_id: str, repo_type: str, revision: str, folder: str | None = None
) -> dict[str, RepoFile]:
    """The files of a revision, or of a folder of it, by their paths."""
    tree = api.list_repo_tree(repo_id, folder, recursive=folder is None, revision=revision, repo_type=repo_type)
    return {file.path: file for file in tree if isinstance(file, RepoFile)}


def _state(api: HfApi, info: Any, repo_type: str) -> Repository:
    files = tuple(sibling.rfilename for sibling in info.siblings or [])
    texts = read_texts(api, info.id, repo_type, info.sha, [name for name in (CARD, RECIPE) if name in files])
    recipe = RepositoryRecipe.read(texts[RECIPE], info.id) if RECIPE in texts else None
    place = f"{_PLACES.get(repo_type, '')}{info.id}"
    return Repository(info.id, f"{api.endpoint}/{place}", info.sha, files, texts.get(CARD), recipe)


def hub_api(token: str | None) -> HfApi:
    return HfApi(token=token, library_name="hf_ltc", library_version=__version__)


def damaged(repo_id: str, reason: str) -> InputError:
    return InputError(f"{RECIPE} or a file of {repo_id!r} is damaged ({reason}): ask its owner to push again")


def patiently(call: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
    """Calls again while the Hub is busy or cannot be reached, which its client does for uploads only."""
    for tried in range(1, _TRIES):
        try:
            return call(*arguments, **options)
        except Exception as error:
            if not passes(error):
                raise
            wait(tried, error)
    return call(*arguments, **options)


def wait(tried: int, error: Exception) -> None:
    """Waits before the next try: as long as the Hub asks for, or else twice as long each time.

    Raises:
        Exception: the error, if the Hub asks for more than a minute.
    """
    # Random, so that two pushes that collided do not collide again.
    seconds = random.uniform(0.5, 1.0) * min(2 ** (tried - 1), _LONGEST)
    for cause in _causes(error):
        if isinstance(cause, HfHubHTTPError):
            asked = cause.response.headers.get("Retry-After", "")
            if asked.isdecimal() and (seconds := max(seconds, float(asked))) > _PATIENCE:
                raise error
    _logger.info("%s; trying again in %.1f seconds", _reason(error), seconds)
    time.sleep(seconds)


def passes(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    for cause in _causes(error):
        if isinstance(cause, _FINAL):
            return False
        if isinstance(cause, HfHubHTTPError):
            return cause.response.status_code in _PASSING
        if _is_connection(cause) or isinstance(cause, json.JSONDecodeError):
            return True
    return False


def _is_connection(error: BaseException) -> bool:
    # By their module, as the library under the client has changed before.
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith(
        ("httpx", "httpcore", "requests")
    )


@contextmanager
def explained(repo_id: str, doing: str, then: str = "") -> Iterator[None]:
    """Turns errors of the Hub and the network into one line that says what to do, with `then` at its end."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        for cause in _causes(error):
            if (said := _said(cause)) is not None:
                again = "; nothing is half done, and the same command continues where it stopped"
                final = isinstance(cause, (*_FINAL, InvalidCard)) or status(cause) in (403, 413)
                said += again if doing == "push to" and not final else ""
                raise InputError(f"cannot {doing} {repo_id!r}: {said}{then}") from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str:
    return next((said for cause in _causes(error) if (said := _said(cause)) is not None), one_line(error))


class InvalidCard(Exception):
    """The Hub refuses the head of a card."""


def _said(error: BaseException) -> str | None:
    if isinstance(error, HFValidationError):
        return _NO_NAME
    if isinstance(error, OfflineModeIsEnabled):
        return "the Hub is switched off by HF_HUB_OFFLINE: unset it"
    if isinstance(error, LocalTokenNotFoundError):
        return "no access token: log in with hf auth login"
    if isinstance(error, GatedRepoError):
        return "it is gated: ask for access on its page, and log in with hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision"
    if isinstance(error, RepositoryNotFoundError | DatasetNotFoundError):
        return (
            "there is no such repository, or it is private and the access token may not read it: check the name, and "
            "log in with hf auth login"
        )
    if isinstance(error, InvalidCard):
        return f"the Hub does not take the head of {CARD} ({one_line(error)}): fix its metadata, such as `license`"
    if isinstance(error, HfHubHTTPError):
        return _STATUS.get(status(error), f"the Hub answered {one_line(error)}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        where = tempfile.gettempdir()
        return f"no room for its files in {where} ({error.strerror}): make room, or set TMPDIR to another folder"
    if isinstance(error, OSError) and error.filename is not None and error.errno is not None:
        return f"{error.filename!s} cannot be used ({error.strerror}): make it readable and writable"
    if _is_connection(error):
        return f"the Hub cannot be reached ({one_line(error)}): check the network"
    if isinstance(error, json.JSONDecodeError):
        return "what answers is not the Hub, or not well (no JSON): check HF_ENDPOINT, the proxy and the network"
    return None


def status(error: BaseException) -> int:
    """The status of the Hub's answer; 0 for any other error."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else 0


_NO_NAME = "that is no name of a repository, which is OWNER/NAME of letters, digits, '-', '_' and '.'"
# Errors that the same command would meet again.
_FINAL = (HFValidationError, OfflineModeIsEnabled, LocalTokenNotFoundError, RepositoryNotFoundError, GatedRepoError)
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_STATUS = {
    401: "the access token is missing, wrong or expired: log in with hf auth login",
    403: "the access token may not write there: use one with write access, or another OWNER",
    409: "the repository is being changed by someone else: try again",
    412: "others pushed to it every time that this was tried: try again",
    413: "a file is too large: lower `max_shard_size`",
    429: "the Hub takes no more requests for now: try again later",
}
