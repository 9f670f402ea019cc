"""A push: files are written and sent, and one commit makes them part of the repository, with recipe and card."""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from datasets import ClassLabel, DatasetInfo, Features
from datasets.info import DatasetInfosDict
from datasets.splits import SplitDict, SplitInfo
from huggingface_hub import CommitOperationAdd, DatasetCardData, HfApi
from tqdm.auto import tqdm

from ..data.parquet import parquet_shards
from ..utils.errors import InputError
from . import cards
from .commits import Change, commit, shown
from .repository import CARD, Pushed, Repository, explained, open_repository
from .repository_recipe import RECIPE, Entry, RepositoryRecipe
from .tables import Table

_IMAGES = "images"
# Files above it are never kept in git itself, so that they can be deleted here once they are uploaded.
_REGULAR = 10 * 2**20
# By which scorer the page shows coresets.
_PAGED = "ltc"
_SHARD = re.compile(r"(.+)/[^/]+-\d{5}-of-\d{5}\.parquet")


def publish(
    api: HfApi,
    repo_id: str,
    tables: Sequence[Table],
    describe: Callable[[RepositoryRecipe], tuple[RepositoryRecipe, list[str]]],
    *,
    metadata: Mapping[str, Any],
    pictures: Sequence[str | Path] = (),
    report: str | Path | None = None,
    private: bool | None,
    max_shard_size: int | str,
) -> Pushed:
    """Pushes tables with a recipe and a card.

    Args:
        api (`HfApi`): The Hub.
        repo_id (`str`): The repository.
        tables (`Sequence[Table]`): What is pushed.
        describe (`Callable`): Makes, from the recipe that is there, the new one and a list of the configurations that
            are deleted. Called again if someone else has pushed in the meantime.
        metadata (`Mapping`): Metadata of the card.
        pictures (`Sequence[str]`, *optional*): Picture files for the card.
        report (`str`, *optional*): The page of [`write_report`], which the card names.
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
        # Called before anything is sent, as it may refuse the push.
        described(there)
        with tempfile.TemporaryDirectory(prefix="hf_ltc-") as folder:
            additions, infos = _upload(api, there.repo_id, tables, Path(folder), max_shard_size)
            said = {
                **metadata,
                **cards.file_sections(tables, infos),
                "size_categories": [cards.size_category(max(len(table.rows) for table in tables))],
            }

            def change(there: Repository) -> Change:
                recipe, removed = described(there)
                images = [CommitOperationAdd(f"{_IMAGES}/{Path(file).name}", str(file)) for file in pictures]
                page = None if report is None else CommitOperationAdd(cards.REPORT, str(report))
                images += [] if page is None else [page]
                paths = {*there.files, *(image.path_in_repo for image in images)}
                kept = page is None and _has_page(there)
                outdated = kept and not _same_coresets(there, recipe)
                card = cards.dataset_card(
                    there.repo_id,
                    recipe,
                    said,
                    existing=there.card,
                    previous=recipe.card,
                    removed=removed,
                    pictures=sorted(path for path in paths if path.startswith(f"{_IMAGES}/")),
                    report=page is not None or (kept and not outdated),
                )
                check_card(card, infos, there.repo_id)
                sent = {addition.path_in_repo: addition.upload_info.sha256.hex() for addition in additions}
                stale = tuple(path for path in _stale(there, recipe, tables, card) if path not in sent)
                stale += (cards.REPORT,) if outdated else ()
                sent |= {} if page is None else {cards.REPORT: page.upload_info.sha256.hex()}
                gone = {path for path in recipe.files if path not in there.files or path in stale}
                without = [*removed, *((cards.REPORT,) if outdated else ())]
                recipe = replace(
                    recipe,
                    card={name: value for name, value in said.items() if name not in ("configs", "dataset_info")},
                    files={path: known for path, known in recipe.files.items() if path not in gone} | sent,
                )
                return Change(
                    texts={RECIPE: recipe.to_json(), CARD: card},
                    message=f"Push {', '.join(configs)}" + (f", remove {', '.join(without)}" if without else ""),
                    pictures=tuple(images),
                    removed=stale,
                )

            return commit(api, there, "dataset", additions, change, tuple(table.files for table in tables), configs)


def _check_names(features: Features) -> None:
    """Checks that the names of classes can be written, which come from folder names of another encoding at times."""
    for column, feature in features.items():
        for number, name in enumerate(feature.names or [] if isinstance(feature, ClassLabel) else []):
            if name != name.encode(errors="replace").decode():
                raise InputError(
                    f"class {number} of column {column!r} is {name!r}, which has characters that no text can hold: "
                    "rename it"
                )


def _upload(
    api: HfApi, repo_id: str, tables: Sequence[Table], folder: Path, max_shard_size: int | str
) -> tuple[list[CommitOperationAdd], dict[str, DatasetInfo]]:
    """Writes and uploads the files of all tables. Only the commit makes them part of the repository."""
    additions: dict[str, CommitOperationAdd] = {}
    sizes: dict[tuple[str, str], int] = {}
    infos: dict[str, DatasetInfo] = {}
    for table in tqdm(tables, desc=f"pushing to {repo_id}", unit="split", disable=None):
        key = (table.folder, table.split)
        if key not in sizes:
            sizes[key] = 0
            (folder / table.folder).mkdir(exist_ok=True)
            shards = parquet_shards(
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
            # Without a number of rows, which load_dataset would insist on when only the first ranks are loaded.
            continue
        stored = int(table.rows._estimate_nbytes())
        info.splits = info.splits or SplitDict()
        info.splits[table.split] = SplitInfo(table.split, num_bytes=stored, num_examples=len(table.rows))
        info.download_size = (info.download_size or 0) + sizes[key]
        info.dataset_size = (info.dataset_size or 0) + stored
    return list(additions.values()), infos


def _stale(there: Repository, recipe: RepositoryRecipe, tables: Sequence[Table], card: str) -> Iterator[str]:
    """Files of earlier pushes that would be read together with the new ones, or that no configuration names now."""
    named = list(cards.file_patterns(card, there.repo_id))
    folders = (there.recipe or RepositoryRecipe()).folders | recipe.folders
    again = tuple(table.files for table in tables)
    for path in there.files:
        match = _SHARD.fullmatch(path)
        unnamed = match and match[1] in folders and not any(fnmatchcase(path, pattern) for pattern in named)
        if unnamed or path.startswith(again):
            yield path


def _has_page(there: Repository) -> bool:
    """Whether it has the page of an earlier push, and not just a file of that name."""
    return cards.REPORT in there.files and there.recipe is not None and cards.REPORT in there.recipe.files


def _same_coresets(there: Repository, recipe: RepositoryRecipe) -> bool:
    """Whether the coresets that the page of an earlier push shows stay as they were."""
    recipes = (there.recipe or RepositoryRecipe(), recipe)
    before, now = ([_content(entry) for name, entry in each.coresets.items() if name == _PAGED] for each in recipes)
    return before == now


def _content(entry: Entry) -> tuple[str, dict[str, str]]:
    return entry.digest, {name: made.digest for name, made in entry.configs.items()}


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


def check_card(card: str, infos: Mapping[str, DatasetInfo], repo_id: str) -> None:
    """Checks before a commit that `load_dataset` will read the features and sizes from the card.

    Raises:
        InputError: if the head of a card cannot express them.
    """
    described = cards.head(card, repo_id).get("dataset_info") or []
    # Entries that someone else wrote are left out.
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
                return f"class {wrong[0]} of column {column!r} is {shown(wrong[2])} instead of {shown(wrong[1])}"
        if feature != other:
            return f"column {column!r} is {shown(other)} instead of {shown(feature)}"
    return None
