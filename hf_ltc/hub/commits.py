"""A push: files are sent, then one commit makes them part of the repository, and what is there then is compared."""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetInfo, Features
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCardData, HfApi
from huggingface_hub.hf_api import RepoFile
from tqdm.auto import tqdm

from ..utils.errors import InputError
from . import cards, parquet
from .read_back import card_differs, check_card, files_differ, local_oid, oid, recipe_differs
from .repository import (
    CARD,
    InvalidCard,
    Pushed,
    Repository,
    explained,
    open_repository,
    passes,
    read_texts,
    reread,
    status,
    wait,
)
from .repository_recipe import RECIPE, RepositoryRecipe

_IMAGES = "images"
# How often a commit is tried where someone else was first, or the Hub did not answer.
_TRIES = 8
# Files above it are never kept in git itself, so that they can be taken away once they are uploaded.
_REGULAR = 10 * 2**20
_SHARD = re.compile(r"(.+)/[^/]+-\d{5}-of-\d{5}\.parquet")


@dataclass(frozen=True)
class Table:
    """One split of one configuration, and how its files are cut."""

    config: str
    split: str
    rows: Dataset
    folder: str
    cuts: tuple[int, ...] = ()
    small_groups: bool = False

    @property
    def files(self) -> str:
        """How the paths of its files begin."""
        return f"{self.folder}/{self.split}-"


@dataclass(frozen=True)
class Change:
    """What a commit changes beside the files uploaded before: small files, and files that are no longer there."""

    texts: Mapping[str, str]
    message: str
    pictures: tuple[CommitOperationAdd, ...] = ()
    removed: tuple[str, ...] = ()


def publish(
    api: HfApi,
    repo_id: str,
    tables: Sequence[Table],
    describe: Callable[[RepositoryRecipe], tuple[RepositoryRecipe, list[str]]],
    *,
    metadata: Mapping[str, Any],
    pictures: Sequence[str | Path] = (),
    private: bool | None,
    max_shard_size: int | str,
) -> Pushed:
    """Pushes tables with a recipe and a card.

    Args:
        api (`HfApi`): The Hub.
        repo_id (`str`): The repository.
        tables (`Sequence[Table]`): What is pushed.
        describe (`Callable`): From the recipe that is there, the new one and the configurations it takes away. Called
            again where someone else has pushed meanwhile.
        metadata (`Mapping`): Metadata of the card.
        pictures (`Sequence[str]`, *optional*): Picture files for the card.
        private (`bool`, *optional*): Whether a new repository is private.
        max_shard_size (`int` or `str`): Size of a file at most.

    Returns:
        [`Pushed`]
    """
    configs = list(dict.fromkeys(table.config for table in tables))
    for table in tables:
        _check_names(table.rows.features)

    def described(there: Repository) -> tuple[RepositoryRecipe, list[str]]:
        _check_clash(there, configs)
        return describe(there.recipe or RepositoryRecipe())

    with explained(repo_id, "push to"):
        there = open_repository(api, repo_id, "dataset", private)
        # Before anything is sent, since it may be refused.
        described(there)
        with tempfile.TemporaryDirectory(prefix="hf_ltc-") as folder:
            additions, infos = _upload(api, there.repo_id, tables, Path(folder), max_shard_size)
            said = {
                **metadata,
                **_sections(tables, infos),
                "size_categories": [cards.size_category(max(len(table.rows) for table in tables))],
            }

            def change(there: Repository) -> Change:
                recipe, removed = described(there)
                shown = [CommitOperationAdd(f"{_IMAGES}/{Path(file).name}", str(file)) for file in pictures]
                paths = {*there.files, *(picture.path_in_repo for picture in shown)}
                card = cards.dataset_card(
                    there.repo_id,
                    recipe,
                    said,
                    existing=there.card,
                    previous=recipe.card,
                    removed=removed,
                    pictures=sorted(path for path in paths if path.startswith(f"{_IMAGES}/")),
                )
                check_card(card, infos, there.repo_id)
                sent = {addition.path_in_repo: addition.upload_info.sha256.hex() for addition in additions}
                stale = tuple(path for path in _stale(there, recipe, tables, card) if path not in sent)
                gone = {path for path in recipe.files if path not in there.files or path in stale}
                recipe = replace(
                    recipe,
                    card={name: value for name, value in said.items() if name not in ("configs", "dataset_info")},
                    files={path: known for path, known in recipe.files.items() if path not in gone} | sent,
                )
                return Change(
                    texts={RECIPE: recipe.to_json(), CARD: card},
                    message=f"Push {', '.join(configs)}" + (f", remove {', '.join(removed)}" if removed else ""),
                    pictures=tuple(shown),
                    removed=stale,
                )

            return commit(api, there, "dataset", additions, change, tuple(table.files for table in tables), configs)


def commit(
    api: HfApi,
    there: Repository,
    repo_type: str,
    uploaded: Sequence[CommitOperationAdd],
    change: Callable[[Repository], Change],
    ours: tuple[str, ...],
    what: Sequence[str],
) -> Pushed:
    """Commits on top of what is there, again where someone else was first, and compares what is there then.

    Args:
        api (`HfApi`): The Hub.
        there (`Repository`): The repository as it was before the upload.
        repo_type (`str`): `"dataset"` or `"model"`.
        uploaded (`Sequence[CommitOperationAdd]`): Files that are uploaded, or as large that they may be.
        change (`Callable`): What else belongs to the commit, by the repository that it changes.
        ours (`tuple[str]`): Beginnings of paths under which there are to be no files but these.
        what (`Sequence[str]`): What is pushed, in words.

    Returns:
        [`Pushed`]

    Raises:
        InputError: if someone else pushes other files of the same names meanwhile, or if what is on the Hub after the
            commit is not what was pushed.
    """
    first, made = there, change(there)
    for tried in range(1, _TRIES + 1):
        additions = [*uploaded, *made.pictures]
        additions += [CommitOperationAdd(name, _encoded(name, text)) for name, text in made.texts.items()]
        try:
            done = _committed(api, there, repo_type, additions, made)
            break
        except Exception as error:
            # Also where an answer is lost: whether the commit was made is seen by looking.
            if tried == _TRIES or not (passes(error) or status(error) in (409, 412)):
                raise
            wait(tried, error)
        there = reread(api, first.repo_id, repo_type)
        if there.head != first.head:
            listed = _listed(api, there.repo_id, repo_type, there.head)
            before = _listed(api, first.repo_id, repo_type, first.head)
            _check_other(uploaded, ours, before, listed, there)
            for addition in uploaded:
                # As the Hub said it when the file was sent: by it the client leaves out what is there already.
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


def _check_names(features: Features) -> None:
    """Checks that the names of classes can be written: those of folders may be of another encoding."""
    for column, feature in features.items():
        for number, name in enumerate(feature.names or [] if isinstance(feature, ClassLabel) else []):
            if name != name.encode(errors="replace").decode():
                raise InputError(
                    f"class {number} of column {column!r} is {name!r}, which has characters that no text can hold: "
                    "rename it"
                )


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


def _listed(api: HfApi, repo_id: str, repo_type: str, revision: str) -> dict[str, RepoFile]:
    tree = api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=repo_type)
    return {file.path: file for file in tree if isinstance(file, RepoFile)}


def _check_other(
    uploaded: Sequence[CommitOperationAdd],
    ours: tuple[str, ...],
    before: Mapping[str, RepoFile],
    now: Mapping[str, RepoFile],
    there: Repository,
) -> None:
    """Checks that what someone else pushed meanwhile would not be replaced, of which the caller cannot know."""
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
    """The first thing on the Hub that is not as it was pushed."""
    listed = _listed(api, repo_id, repo_type, revision)
    if gone := [name for name in made.texts if name not in listed]:
        return f"{gone[0]} is missing"
    texts = read_texts(api, repo_id, repo_type, revision, list(made.texts), fresh=True)
    for name, text in made.texts.items():
        differs = card_differs(text, texts[name], repo_id) if name == CARD else recipe_differs(text, texts[name])
        if differs is not None:
            return differs
    # Texts are compared by what they say: line ends may differ.
    files = [addition for addition in additions if addition.path_in_repo not in made.texts]
    return files_differ(files, ours, listed) or next(
        (f"{path} is there still" for path in made.removed if path in listed), None
    )


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
            shards = parquet.parquet_shards(
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


def _stale(there: Repository, recipe: RepositoryRecipe, tables: Sequence[Table], card: str) -> Iterator[str]:
    """Files of earlier pushes that would be read with those pushed, or that no configuration names any more."""
    head = cards.head(card, there.repo_id)
    named = [pattern for entry in head.get("configs") or [] for pattern in _patterns(entry.get("data_files"))]
    folders = (there.recipe or RepositoryRecipe()).folders | recipe.folders
    again = tuple(table.files for table in tables)
    for path in there.files:
        match = _SHARD.fullmatch(path)
        unnamed = match and match[1] in folders and not any(fnmatchcase(path, pattern) for pattern in named)
        if unnamed or path.startswith(again):
            yield path


def _patterns(files: Any) -> Iterator[str]:
    """The patterns of the files of a configuration, however its entry in a card is written."""
    if isinstance(files, str):
        yield files
    elif isinstance(files, Mapping):
        for name, value in files.items():
            if name != "split":
                yield from _patterns(value)
    elif isinstance(files, list):
        for value in files:
            yield from _patterns(value)


def _check_clash(there: Repository, configs: Sequence[str]) -> None:
    if there.card is None:
        return
    owned = (there.recipe or RepositoryRecipe()).configs
    found = cards.config_names(there.card, there.repo_id)
    if foreign := sorted(found.intersection(configs) - owned):
        raise InputError(
            f"{there.repo_id!r} has a configuration {foreign[0]!r} that hf_ltc did not write: rename it, or push to "
            "another repository"
        )
