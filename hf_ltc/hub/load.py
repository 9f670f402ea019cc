"""Coresets loaded from the Hub and compared with their recipe."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Value, load_dataset
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.utils import validate_repo_id

from ..coresets.choose import coreset_size
from ..coresets.select import rank_coreset, select_coreset
from ..data.columns import LOSS_TRAJECTORY, read_column, with_columns
from ..data.identity import check_identity
from ..data.inputs import require_dataset
from ..data.load import load_split
from ..recipe import Identity
from ..utils.errors import InputError, one_line
from .repository import Repository, damaged, explained, hub_api, listed_files, read_repository
from .repository_recipe import RECIPE, Coreset, Entry
from .tables import added_columns, digest, features_digest


def load_coreset(
    repo_id: str,
    fraction: float | None = None,
    size: int | None = None,
    *,
    scorer: str = "ltc",
    revision: str | None = None,
    dataset: Dataset | None = None,
    token: str | None = None,
) -> Dataset:
    """Loads the coreset of any budget from a repository that [`push_coreset`] wrote.

    The rows come from the repository if it has them, and otherwise from the source dataset at the revision that was
    scored. Either way, they are checked against the recipe.

    Args:
        repo_id (`str`): The repository.
        fraction (`float`, *optional*): Share in (0, 1] of the candidate rows.
        size (`int`, *optional*): Rows to keep, instead of a fraction.
        scorer (`str`, *optional*, defaults to `"ltc"`): The scorer, if there are several: `el2n`, `aum`, ...
        revision (`str`, *optional*): A branch or commit; the newest if not given.
        dataset (`datasets.Dataset`, *optional*): The source dataset to take the rows from, if you have already loaded
            it.
        token (`str`, *optional*): Access token; the one that is logged in if not given. A private or gated source
            dataset can only be loaded with the one that is logged in.

    Returns:
        `datasets.Dataset`: the rows that [`select_coreset`] chose, in the same order, with score and rank.

    Raises:
        InputError: if there is no such repository or scorer, if its files do not match its recipe, or if the source
            dataset is not the one that was scored.
    """
    if dataset is not None:
        require_dataset(dataset, "dataset")
    api = hub_api(token)
    with explained(repo_id, "load from"):
        there = read_repository(api, repo_id, revision)
    entry = _entry(there, scorer)
    rows = coreset_size(entry.pool, fraction, size)
    if dataset is None:
        for name, made in entry.configs.items():
            if made.size == rows and made.stored:
                return _load_stored(there, entry, name, made, token)
        if entry.full and entry.options.is_nested:
            return _load_beginning(there, entry, entry.full, rows, token)
    return _rebuild(there, entry, rows, dataset, token)


def _entry(there: Repository, scorer: str) -> Entry:
    coresets = {} if there.recipe is None else there.recipe.coresets
    if scorer not in coresets:
        raise InputError(
            f"{there.repo_id!r} has no coreset by {scorer!r}, it has {', '.join(coresets) or 'none'}: name another"
        )
    return coresets[scorer]


def _load_stored(there: Repository, entry: Entry, name: str, made: Coreset, token: str | None) -> Dataset:
    rows = _load(there, name, token)
    if len(rows) != made.size or _digest(rows, entry, there, entry.label_column) != made.digest:
        raise disagrees(there.repo_id, f"the labels, scores or ranks of {name!r} are not those of its recipe")
    found = features_digest(rows.features)
    # Not in recipes of older versions.
    if (made.features or found) != found:
        raise disagrees(there.repo_id, f"the columns of {name!r}, their types or classes are not those of its recipe")
    _check(rows, made.identity, there, f"the rows of {name!r}")
    check_files(there, name, token)
    return rows


def _load_beginning(there: Repository, entry: Entry, full: str, rows: int, token: str | None) -> Dataset:
    rank = entry.rank_column
    scores = _load_scores(there, entry, token)
    chosen = _load(there, full, token, filters=[(rank, "<", rows)])
    # The rows are in coreset order: bring them into the order of the source dataset.
    ranks = read_column(scores, rank).fill_null(-1).to_numpy()
    wanted = scores.select(np.flatnonzero((ranks >= 0) & (ranks < rows)))
    position = np.empty(rows, dtype=np.int64)
    there_are = read_column(chosen, rank).to_numpy()
    if len(chosen) != rows or not np.array_equal(np.sort(there_are), np.arange(rows)):
        raise disagrees(there.repo_id, f"{full!r} does not have the ranks 0 to {rows - 1} once each")
    position[there_are] = np.arange(rows)
    chosen = chosen.select(position[read_column(wanted, rank).to_numpy()])
    if _digest(chosen, entry, there, entry.label_column) != _digest(wanted, entry, there, _label(entry)):
        raise disagrees(there.repo_id, f"the labels or scores of {full!r} and {entry.scores!r} differ")
    found = features_digest(chosen.features)
    if (entry.full_features or found) != found:
        raise disagrees(there.repo_id, f"the columns of {full!r}, their types or classes are others")
    check_files(there, full, token)
    return chosen


def _rebuild(there: Repository, entry: Entry, rows: int, dataset: Dataset | None, token: str | None) -> Dataset:
    """Takes the rows from the source dataset and selects with the options that were pushed."""
    recorded = entry.dataset
    scores = _load_scores(there, entry, token)
    if dataset is None:
        if not recorded.repo_id or not recorded.revision:
            budgets = ", ".join(name for name, made in entry.configs.items() if made.stored)
            raise InputError(
                f"{there.repo_id!r} has no coreset of {rows} rows (it has {budgets or 'none'}) and does not say where "
                "its source dataset is: give that as `dataset`"
            )
        dataset = _load_source(recorded, there)
    if entry.id_column:
        dataset = _by_id(dataset, entry.id_column, scores)
    _check(dataset, recorded.to_dict(), there, "the source dataset")
    score, rank, label = entry.score_column, entry.rank_column, entry.label_column
    stored = added_columns(scores, score, rank)
    columns = {name: (read_column(scores, name), scores.features[name]) for name in stored}
    known = pc.or_(pc.is_valid(columns[score][0]), pc.is_valid(columns[rank][0]))
    mark = LOSS_TRAJECTORY
    if mark in scores.column_names:
        columns[mark] = (read_column(scores, mark), scores.features[mark])
    else:
        # Neither flat rows, which are candidates, nor rows held out have a score: this column tells them apart.
        columns[mark] = (pa.array(np.ones(len(scores), dtype=bool), mask=~known.to_numpy()), Value("bool"))
    selection = entry.options
    scored = with_columns(dataset.remove_columns([c for c in (*stored, mark) if c in dataset.column_names]), columns)
    ranked = rank_coreset(scored, score_column=score, label_column=label, **selection.ranking)
    if not read_column(ranked, rank).equals(read_column(scored, rank)):
        raise disagrees(there.repo_id, f"{rank!r} of {entry.scores!r} is not the order of its scores")
    coreset = select_coreset(scored, size=rows, score_column=score, label_column=label, **selection.to_dict())
    return coreset.remove_columns(mark)


def _load(there: Repository, config: str, token: str | None, **options: Any) -> Dataset:
    with explained(there.repo_id, "load from"):
        try:
            return load_dataset(there.repo_id, config, split="train", revision=there.head, token=token, **options)
        except (ValueError, DatasetGenerationError, RuntimeError) as error:
            # datasets raises a RuntimeError when it refuses to run the code of a repository.
            reason = error.__cause__ or error
            raise damaged(there.repo_id, f"{config!r} cannot be loaded: {one_line(reason)}") from error


def _load_scores(there: Repository, entry: Entry, token: str | None) -> Dataset:
    scores = _load(there, entry.scores, token)
    optional = [name for name, known in (("label", entry.label_column), ("id", entry.id_column)) if known]
    needed = ["row", entry.score_column, entry.rank_column, *optional]
    if missing := [name for name in needed if name not in scores.column_names]:
        raise damaged(there.repo_id, f"{entry.scores!r} has no column {missing[0]!r}")
    if _digest(scores, entry, there, _label(entry)) != entry.digest:
        raise disagrees(there.repo_id, f"the labels, scores or ranks of {entry.scores!r} are not those of its recipe")
    check_files(there, entry.scores, token)
    return scores


def _load_source(recorded: Identity, there: Repository) -> Dataset:
    repo_id = str(recorded.repo_id)
    with explained(repo_id, "load the source dataset from"):
        validate_repo_id(repo_id)
        return load_split(repo_id, recorded.split or "train", name=recorded.config, revision=recorded.revision)


def _by_id(dataset: Dataset, column: str, scores: Dataset) -> Dataset:
    """Selects the rows whose ids were scored, in the order of the scores."""
    have, wanted = read_column(dataset, column), read_column(scores, "id")
    if have.type != wanted.type or pc.count_distinct(have).as_py() < len(have):
        raise InputError(f"column {column!r} of the source dataset has other or repeated ids than when it was scored")
    where = pc.index_in(wanted, value_set=have)
    if where.null_count:
        raise InputError(
            f"{where.null_count} of the {len(wanted)} scored ids are not in column {column!r} of the source dataset: "
            "give the dataset that was scored"
        )
    return dataset.select(where.to_numpy())


def _check(dataset: Dataset, recorded: Mapping[str, Any], there: Repository, what: str) -> None:
    try:
        check_identity(dataset, recorded)
    except InputError as error:
        raise InputError(f"{what} and {RECIPE} of {there.repo_id!r} disagree: {error}") from error
    except KeyError as error:
        raise damaged(there.repo_id, f"of the dataset it lacks {error}") from error


def _label(entry: Entry) -> str | None:
    """The column of classes in the configuration of scores, if there are any."""
    return None if entry.label_column is None else "label"


def _digest(rows: Dataset, entry: Entry, there: Repository, label: str | None) -> str:
    try:
        return digest(rows, label, entry.score_column, entry.rank_column)
    except (InputError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise damaged(there.repo_id, one_line(error)) from error


def check_files(there: Repository, folder: str, token: str | None) -> None:
    """Compares the digests that the Hub has of a configuration's files with the recipe; no file is read."""
    files = {} if there.recipe is None else there.recipe.files
    recorded = {path: digest for path, digest in files.items() if path.startswith(f"{folder}/")}
    if not recorded:
        # Not in recipes of older versions.
        return
    with explained(there.repo_id, "load from"):
        listed = listed_files(hub_api(token), there.repo_id, "dataset", there.head, folder)
    for path, sha256 in recorded.items():
        if path not in listed:
            raise disagrees(there.repo_id, f"{path} is missing")
        if (stored := listed[path].lfs) is not None and stored.sha256 != sha256:
            raise disagrees(there.repo_id, f"{path} is not the file that was pushed")
    if more := [path for path in listed if path not in recorded and path.endswith(".parquet")]:
        raise disagrees(there.repo_id, f"{more[0]} was not pushed with it")


def disagrees(repo_id: str, reason: str) -> InputError:
    return InputError(f"refused, as recipe and data of {repo_id!r} disagree: {reason}; ask its owner to push again")
