"""A static Space that shows the page of a recording."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi

from ..utils.errors import InputError
from . import cards
from .commits import Change, commit
from .repository import (
    CARD,
    Pushed,
    Repository,
    check_private,
    check_repo_id,
    explained,
    find_repository,
    hub_api,
    open_repository,
    patiently,
    reread,
)

_PAGE, _SDK = "index.html", "static"
_GIVEN, _OF_DATASET = "`private` is True", "{!r} is private"
# What the Hub puts into a new static Space beside a page, for that.
_TEMPLATE = ("style.css",)


def push_space(
    page: str | Path,
    repo_id: str,
    *,
    title: str,
    dataset: str | None = None,
    private: bool | None = None,
    token: str | None = None,
) -> Pushed:
    """Pushes the page of a recording to a static Space, in one commit.

    Args:
        page (`str` or `Path`): What [`write_report`] wrote.
        repo_id (`str`): The Space, `OWNER/NAME`; made if it is not there.
        title (`str`): What it is called.
        dataset (`str`, *optional*):
            The dataset repository with the coresets, to which the Space is linked. If it is private, the Space is too.
        private (`bool`, *optional*): Whether a new Space is private; as the dataset repository if not given.
        token (`str`, *optional*): Access token; the one that is logged in if not given.

    Returns:
        [`Pushed`]

    Raises:
        InputError: for a Space that shows something else, or is public where the dataset is private, and as
            [`push_coreset`].
    """
    check_repo_id(repo_id, "space")
    api = hub_api(token)

    def change(there: Repository) -> Change:
        ours = _is_ours(api, there)
        return Change(
            texts={CARD: cards.space_card(title, dataset, existing=there.card if ours else None)},
            message="Page of a recording",
            pictures=(CommitOperationAdd(_PAGE, str(page)),),
            removed=() if ours else tuple(path for path in _TEMPLATE if path in there.files),
        )

    because = _GIVEN
    if dataset is not None and not private:
        with explained(dataset, "find"):
            private = patiently(api.dataset_info, dataset).private or private
        because = _OF_DATASET.format(dataset)
    with explained(repo_id, "push to"):
        there = open_repository(api, repo_id, "space", private, space_sdk=_SDK, because=because)
        return commit(api, there, "space", [], change, (_PAGE,), ["a page"])


def check_space(repo_id: str, *, dataset: str, private: bool | None = None, token: str | None = None) -> None:
    """Checks, before a coreset is pushed, that a Space of it would not be refused.

    Args:
        repo_id (`str`): The Space.
        dataset (`str`): The dataset repository that it will belong to.
        private (`bool`, *optional*): Whether these are made private where they do not exist.
        token (`str`, *optional*): Access token; the one that is logged in if not given.

    Raises:
        InputError: as [`push_space`], for a Space that exists.
    """
    api = hub_api(token)
    with explained(repo_id, "push to"):
        _, there = find_repository(api, repo_id, "space")
    if there is None:
        return
    with explained(dataset, "find"):
        _, of = find_repository(api, dataset, "dataset")
    if private:
        check_private(there, _GIVEN)
    elif of is not None and of.private:
        check_private(there, _OF_DATASET.format(of.id))
    with explained(repo_id, "push to"):
        _is_ours(api, reread(api, there.id, "space"))


def _is_ours(api: HfApi, there: Repository) -> bool:
    """Whether a push made the Space, which may else be a new one and nothing more."""
    if there.card is not None and cards.BEGIN in there.card:
        return True
    if not _is_new(api, there):
        raise InputError(f"the Space {there.repo_id!r} shows something else: give another one, or delete it")
    return False


def _is_new(api: HfApi, there: Repository) -> bool:
    """Whether a Space has nothing but what the Hub puts into it when it is made."""
    return len(patiently(api.list_repo_commits, there.repo_id, repo_type="space")) == 1
