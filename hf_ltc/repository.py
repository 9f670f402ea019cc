"""A repository on the Hub: read as it stands, changed by one commit, its errors explained in a line."""

import errno
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetInfo
from datasets.exceptions import DatasetNotFoundError
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCardData, HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from tqdm.auto import tqdm

from . import __version__, cards, publishing
from .data import one_line
from .errors import InputError
from .publishing import RECIPE

CARD = "README.md"
_IMAGES = "images"
# Files above it are never kept in git itself, so that they can be taken away once they are uploaded.
_REGULAR = 10 * 2**20


@dataclass(frozen=True)
class Pushed:
    """What a push has done.

    Args:
        repo_id (`str`): The repository.
        url (`str`): Its address.
        revision (`str`): The commit that holds it all.
        configs (`tuple[str, ...]`): The configurations pushed.
    """

    repo_id: str
    url: str
    revision: str
    configs: tuple[str, ...]

    def __str__(self) -> str:
        return f"Pushed {', '.join(self.configs)} to {self.url} (revision {self.revision[:10]})."


@dataclass(frozen=True)
class Table:
    """One split of one configuration, and how its files are cut."""

    config: str
    split: str
    rows: Dataset
    folder: str
    cuts: tuple[int, ...] = ()
    small_groups: bool = False


@dataclass(frozen=True)
class Repository:
    """A repository as it was when a push began."""

    repo_id: str
    url: str
    head: str
    files: tuple[str, ...]
    card: str | None
    recipe: dict[str, Any] | None


def open_repository(api: HfApi, repo_id: str, repo_type: str, private: bool | None) -> Repository:
    """Makes the repository if it is not there, and reads what a push has to keep of it."""
    if "/" not in repo_id:
        repo_id = f"{api.whoami()['name']}/{repo_id}"
    validate_repo_id(repo_id)
    try:
        info = api.repo_info(repo_id, repo_type=repo_type)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        api.create_repo(repo_id, repo_type=repo_type, private=private)
        info = api.repo_info(repo_id, repo_type=repo_type)
    return _state(api, info, repo_type)


def read_repository(api: HfApi, repo_id: str, revision: str | None) -> Repository:
    validate_repo_id(repo_id)
    there = _state(api, api.dataset_info(repo_id, revision=revision), "dataset")
    if there.recipe is None:
        raise InputError(f"{repo_id!r} has no {RECIPE}: it is no repository that hf-ltc push wrote")
    return there


def _state(api: HfApi, info: Any, repo_type: str) -> Repository:
    files = tuple(sibling.rfilename for sibling in info.siblings or [])
    texts = {}
    for name in (CARD, RECIPE):
        if name in files:
            path = api.hf_hub_download(info.id, name, repo_type=repo_type, revision=info.sha)
            texts[name] = Path(path).read_text(encoding="utf-8")
    recipe = publishing.read_recipe(texts[RECIPE], info.id) if RECIPE in texts else None
    place = f"{'datasets/' if repo_type == 'dataset' else ''}{info.id}"
    return Repository(info.id, f"{api.endpoint}/{place}", info.sha, files, texts.get(CARD), recipe)


def publish(
    api: HfApi,
    repo_id: str,
    tables: Sequence[Table],
    describe: Callable[[dict[str, Any]], tuple[dict[str, Any], list[str]]],
    *,
    metadata: dict[str, Any],
    pictures: Sequence[str | Path] = (),
    private: bool | None,
    max_shard_size: int | str,
) -> Pushed:
    with explained(repo_id, "push to"):
        there = open_repository(api, repo_id, "dataset", private)
        recipe, removed = describe(there.recipe or {"format": publishing.FORMAT})
        configs = list(dict.fromkeys(table.config for table in tables))
        _check_clash(there, configs)
        with tempfile.TemporaryDirectory(prefix="hf_ltc-") as folder:
            additions, infos = _upload(api, there.repo_id, tables, Path(folder), max_shard_size)
            additions += [CommitOperationAdd(f"{_IMAGES}/{Path(file).name}", str(file)) for file in pictures]
            metadata |= _sections(tables, infos)
            rows = max(len(table.rows) for table in tables)
            metadata.setdefault("size_categories", [cards.size_category(rows)])
            previous = recipe.get("card")
            recipe["card"] = {
                name: value for name, value in metadata.items() if name not in ("configs", "dataset_info")
            }
            paths = {*there.files, *(addition.path_in_repo for addition in additions)}
            card = cards.dataset_card(
                there.repo_id,
                recipe,
                metadata,
                existing=there.card,
                previous=previous,
                removed=removed,
                pictures=sorted(path for path in paths if path.startswith(f"{_IMAGES}/")),
            )
            texts = {RECIPE: publishing.as_json(recipe), CARD: card}
            additions += [CommitOperationAdd(name, text.encode()) for name, text in texts.items()]
            kept = {addition.path_in_repo for addition in additions}
            ours = (*(f"{table.folder}/{table.split}-" for table in tables), *(f"{name}/train-" for name in removed))
            stale = [path for path in there.files if path.startswith(ours) and path not in kept]
            commit = api.create_commit(
                there.repo_id,
                [*additions, *(CommitOperationDelete(path) for path in stale)],
                commit_message=f"Push {', '.join(configs)}" + (f", remove {', '.join(removed)}" if removed else ""),
                repo_type="dataset",
                parent_commit=there.head,
            )
    return Pushed(there.repo_id, there.url, str(commit.oid), tuple(configs))


def _upload(
    api: HfApi, repo_id: str, tables: Sequence[Table], folder: Path, max_shard_size: int | str
) -> tuple[list[CommitOperationAdd], dict[str, DatasetInfo]]:
    """Writes and uploads the files of all tables; they become part of the repository by the commit only."""
    additions: dict[str, CommitOperationAdd] = {}
    sizes: dict[tuple[str, str], int] = {}
    infos: dict[str, DatasetInfo] = {}
    for table in tqdm(tables, desc=f"pushing to {repo_id}", unit="split", disable=None):
        key = (table.folder, table.split)
        if key not in sizes:
            sizes[key] = 0
            (folder / table.folder).mkdir(exist_ok=True)
            shards = publishing.parquet_shards(
                table.rows,
                folder / table.folder,
                table.split,
                max_shard_size=max_shard_size,
                cuts=table.cuts,
                small_groups=table.small_groups,
            )
            for name, file in shards:
                path, size = f"{table.folder}/{name}", file.stat().st_size
                additions[path] = CommitOperationAdd(path, str(file))
                api.preupload_lfs_files(repo_id, [additions[path]], repo_type="dataset")
                sizes[key] += size
                if size > _REGULAR:
                    file.unlink()
        info = infos.setdefault(table.config, DatasetInfo(features=table.rows.features, config_name=table.config))
        if table.small_groups:
            # Loaded in part, by rank, it has not the number of rows that load_dataset would insist on.
            continue
        stored = int(table.rows._estimate_nbytes())
        info.splits = info.splits or SplitDict()
        info.splits[table.split] = SplitInfo(table.split, num_bytes=stored, num_examples=len(table.rows))
        info.download_size = (info.download_size or 0) + sizes[key]
        info.dataset_size = (info.dataset_size or 0) + stored
    return list(additions.values()), infos


def _sections(tables: Sequence[Table], infos: Mapping[str, DatasetInfo]) -> dict[str, Any]:
    """The parts of a card's metadata by which `load_dataset` finds the files and their features."""
    configs: dict[str, Any] = {}
    for table in tables:
        entry = configs.setdefault(table.config, {"config_name": table.config, "data_files": []})
        if table.config == "full":
            entry["default"] = True
        entry["data_files"].append({"split": table.split, "path": f"{table.folder}/{table.split}-*"})
    described = []
    for name, info in infos.items():
        data = DatasetCardData()
        DatasetInfosDict({name: info}).to_dataset_card_data(data)
        described.append(data["dataset_info"])
    return {"configs": list(configs.values()), "dataset_info": described}


def _check_clash(there: Repository, configs: Sequence[str]) -> None:
    if there.card is None:
        return
    owned = publishing.owned_configs(there.recipe or {})
    found = cards.config_names(there.card, there.repo_id)
    if foreign := sorted(found.intersection(configs) - owned):
        raise InputError(
            f"{there.repo_id!r} has a configuration {foreign[0]!r} that hf_ltc did not write: rename it, or push to "
            "another repository"
        )


def hub_api(token: str | None) -> HfApi:
    return HfApi(token=token, library_name="hf_ltc", library_version=__version__)


def damaged(repo_id: str, reason: str) -> InputError:
    return InputError(f"{RECIPE} or a file of {repo_id!r} is damaged ({reason}): ask its owner to push again")


@contextmanager
def explained(repo_id: str, doing: str) -> Iterator[None]:
    """Turns what the Hub or the network answers into one line that says what to do."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        for cause in _causes(error):
            if (said := _said(cause)) is not None:
                again = "; nothing is half done, and the same command goes on where it stopped"
                final = isinstance(cause, _FINAL) or _status(cause) in (403, 413)
                said += again if doing == "push to" and not final else ""
                raise InputError(f"cannot {doing} {repo_id!r}: {said}") from error
        raise


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _said(error: BaseException) -> str | None:
    if isinstance(error, HFValidationError):
        return "that is no name of a repository, which is OWNER/NAME of letters, digits, '-', '_' and '.'"
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
    if isinstance(error, HfHubHTTPError):
        return _STATUS.get(_status(error), f"the Hub answered {one_line(error)}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        where = tempfile.gettempdir()
        return f"no room for its files in {where} ({error.strerror}): make room, or set TMPDIR to another folder"
    if isinstance(error, OSError) and error.filename is not None and error.errno is not None:
        return f"{error.filename!s} cannot be used ({error.strerror}): make it readable and writable"
    # The client library has changed before, so that its errors are told by their module.
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith(("httpx", "requests")):
        return f"the Hub cannot be reached ({one_line(error)}): check the network"
    return None


def _status(error: BaseException) -> int:
    response = getattr(error, "response", None) if isinstance(error, HfHubHTTPError) else None
    return 0 if response is None else response.status_code


# What the same command would meet again.
_FINAL = (HFValidationError, OfflineModeIsEnabled, LocalTokenNotFoundError, RepositoryNotFoundError)
_STATUS = {
    401: "the access token is missing, wrong or expired: log in with hf auth login",
    403: "the access token may not write there: use one with write access, or another OWNER",
    409: "the repository is being changed by someone else: try again",
    412: "someone else pushed to it meanwhile: try again",
    413: "a file is too large: lower max_shard_size",
    429: "the Hub takes no more requests for now: try again later",
}
