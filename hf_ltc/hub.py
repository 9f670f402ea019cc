"""Coresets, trajectories and source models on the Hub: pushed in one commit, and checked when loaded."""

import errno
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, DatasetInfo, Image, Value, load_dataset
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
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

from . import cards, publishing
from .columns import read_column, with_columns
from .data import find_label_column, load_split, one_line
from .errors import InputError
from .identity import check_identity, dataset_identity
from .publishing import RECIPE
from .rundir import read_json
from .scoring import family_member, ltc_scores
from .selection import coreset_size, describe_coreset, rank_coreset, select_coreset
from .trajectories import Trajectories

_CARD = "README.md"
_SPLITS = "splits"
_IMAGES = "images"
_TRAJECTORIES = "trajectories"
# The options of select_coreset, with their defaults: which rows a budget keeps.
_SELECTION: dict[str, Any] = {
    "balance": "class",
    "keep": "highest",
    "exclude_negative": False,
    "min_per_class": 0,
    "coverage": None,
    "cut": 0.1,
    "beta_exponent": 4.0,
    "seed": 0,
}
# Files above it are never kept in git itself, so that they can be taken away once they are uploaded.
_REGULAR = 10 * 2**20
_AGREE = 1e-5
_CACHED = re.compile(r"[\\/]([^\\/]+?)___([^\\/]+)[\\/]([^\\/]+)[\\/][^\\/]+[\\/]([0-9a-f]{40})[\\/][^\\/]+$")


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
class _Table:
    """One split of one configuration, and how its files are cut."""

    config: str
    split: str
    rows: Dataset
    folder: str
    cuts: tuple[int, ...] = ()
    small_groups: bool = False


@dataclass(frozen=True)
class _Repository:
    """A repository as it was when a push began."""

    repo_id: str
    url: str
    head: str
    files: tuple[str, ...]
    card: str | None
    recipe: dict[str, Any] | None


def push_coreset(
    scored: Dataset,
    repo_id: str,
    fractions: Sequence[float] = (),
    sizes: Sequence[int] = (),
    *,
    trajectories: Trajectories | None = None,
    scores_only: bool = False,
    full: bool = False,
    with_trajectories: bool = False,
    splits: Mapping[str, Dataset] | None = None,
    pictures: Sequence[str | Path] = (),
    evaluation: Sequence[Mapping[str, Any]] = (),
    source: Mapping[str, Any] | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    max_shard_size: int | str = "500MB",
    score_column: str = "ltc_score",
    label_column: str | None = None,
    **selection: Any,
) -> Pushed:
    """Pushes coresets of a scored dataset to a dataset repository, in one commit.

    The repository gets a configuration for each budget (`coreset-10pct`, ...: the columns of the dataset, the score
    and the rank), the configuration `scores` (row number, label, score and rank of every row), `recipe.json` and a
    card. Other scorers go into configurations of their own (`coreset-el2n-10pct`, `scores-el2n`), so that several can
    share a repository. What is in the repository beside these stays as it is.

    If the push is cut, the repository is as it was before: the same call goes on with the files not uploaded yet.

    Args:
        scored (`datasets.Dataset`): A dataset with scores.
        repo_id (`str`): The repository, `OWNER/NAME`; made if it is not there.
        fractions (`Sequence[float]`, *optional*): Budgets, as shares of the rows that could be chosen.
        sizes (`Sequence[int]`, *optional*): Budgets, as numbers of rows.
        trajectories ([`Trajectories`], *optional*): The recording that the scores come from: compared with them, and
            its recipe is published.
        scores_only (`bool`, *optional*, defaults to `False`): Push no row of the dataset. [`load_coreset`] takes them
            from the source dataset.
        full (`bool`, *optional*, defaults to `False`): Push the whole dataset too, in coreset order, as the
            configuration `full`, of which any coreset is the beginning.
        with_trajectories (`bool`, *optional*, defaults to `False`): Put the columns with trajectories into `scores`.
        splits (`Mapping[str, datasets.Dataset]`, *optional*): Further splits of every configuration with rows, e.g.
            `{"test": test}`.
        pictures (`Sequence[str]`, *optional*): Picture files for the card.
        evaluation (`Sequence[Mapping]`, *optional*): What models trained on the rows reached, for the card's table:
            mappings of `rows` (which, in words), `number`, `model` and `accuracy` (a number in [0, 1] for each seed).
        source (`Mapping`, *optional*): Where the dataset comes from: `repo_id`, `config`, `split`, `revision`; as the
            recording or the dataset knows it if not given.
        license (`str`, *optional*): Licence of the rows; that of the source dataset if not given.
        private (`bool`, *optional*): Whether a new repository is private.
        token (`str`, *optional*): Access token; the one that is logged in if not given.
        max_shard_size (`int` or `str`, *optional*, defaults to `"500MB"`): Size of a Parquet file at most.
        score_column (`str`, *optional*, defaults to `"ltc_score"`): The score.
        label_column (`str`, *optional*): Column with the class labels; found by its type if not given.
        **selection: `balance`, `keep`, `exclude_negative`, `min_per_class`, `coverage`, `cut`, `beta_exponent` and
            `seed`, as for [`select_coreset`].

    Returns:
        [`Pushed`]

    Raises:
        InputError: for a dataset, budget or option that cannot be pushed; for scores that are not those of the
            recording; if the Hub refuses, cannot be reached, or holds something else under these names.
    """
    if unknown := set(selection) - set(_SELECTION):
        raise InputError(f"push_coreset has no option {sorted(unknown)[0]!r}: it has {', '.join(_SELECTION)}")
    options = {**_SELECTION, **selection}
    if not fractions and not sizes and not full and not scores_only:
        raise InputError("nothing to push: give budgets as fractions (or sizes), or full, or scores_only")
    if scores_only and (full or splits):
        raise InputError("scores_only pushes no rows, so it goes neither with full nor with splits")
    if full and not _is_prefix(options):
        raise InputError("full is an order of which coresets are the beginning: coverage and min_per_class give none")
    if not isinstance(scored, Dataset):
        raise InputError(f"push_coreset takes a datasets.Dataset, not a {type(scored).__name__}: give one split")
    for picture in pictures:
        if not Path(picture).is_file():
            raise InputError(f"no picture {str(picture)!r}: give files")
    api = _api(token)
    entry, ranked = _describe(scored, score_column, label_column, options, trajectories)
    scorer = publishing.scorer_name(score_column)
    _add_source(api, entry, scored, source, needed=scores_only)
    tables = _coresets(entry, ranked, scorer, fractions, sizes, options, scores_only, full, with_trajectories)
    tables += _further_splits(tables, splits or {}, entry)
    entry["evaluation"] = [dict(row) for row in evaluation]
    entry["splits"] = sorted(splits or {})

    def describe(there: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        return _with_coreset(there, scorer, publishing.public_recipe(entry), repo_id)

    return _publish(
        api,
        repo_id,
        tables,
        describe,
        metadata=_metadata(api, entry, scored, license),
        pictures=pictures,
        private=private,
        max_shard_size=max_shard_size,
    )


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

    The rows come from the repository if it has them, else from the source dataset at the revision that was scored.
    Either way they are compared with what the recipe says of them.

    Args:
        repo_id (`str`): The repository.
        fraction (`float`, *optional*): Share in (0, 1] of the rows that could be chosen.
        size (`int`, *optional*): Rows to keep, instead of a fraction.
        scorer (`str`, *optional*, defaults to `"ltc"`): Whose coreset, where there are several: `el2n`, `aum`, ...
        revision (`str`, *optional*): A branch or commit; the newest if not given.
        dataset (`datasets.Dataset`, *optional*): The source dataset, where it is at hand, to take the rows from.
        token (`str`, *optional*): Access token; the one that is logged in if not given. For a private or gated source
            dataset one has to be logged in.

    Returns:
        `datasets.Dataset`: the rows that [`select_coreset`] chose, in the same order, with score and rank.

    Raises:
        InputError: if there is no such repository or scorer, if its files and its recipe disagree, or if the source
            dataset is not the one that was scored.
    """
    api = _api(token)
    with _explained(repo_id, "load from"):
        there = _read(api, repo_id, revision)
    entry = _entry(there, scorer)
    rows = coreset_size(entry["pool"], fraction, size)
    if dataset is None:
        for name, made in entry["configs"].items():
            if made["size"] == rows and made["stored"]:
                return _load_stored(there, entry, name, made, token)
        if entry["full"] and _is_prefix(entry["selection"]):
            return _load_beginning(there, entry, rows, token)
    return _rebuild(there, entry, rows, dataset, token)


def push_trajectories(
    run: Trajectories,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    max_shard_size: int | str = "500MB",
) -> Pushed:
    """Pushes trajectories as the configuration `trajectories` of a dataset repository.

    Args:
        run ([`Trajectories`]): The trajectories.
        repo_id (`str`): The repository, made if it is not there; one with coresets will do.
        private (`bool`, *optional*): Whether a new repository is private.
        token (`str`, *optional*): Access token; the one that is logged in if not given.
        max_shard_size (`int` or `str`, *optional*, defaults to `"500MB"`): Size of a Parquet file at most.

    Returns:
        [`Pushed`]

    Raises:
        InputError: if the Hub refuses, cannot be reached, or holds something else under this name.
    """
    api = _api(token)
    public = publishing.public_recipe(run.recipe)
    entry = {
        "dataset": public.get("dataset") or {},
        "rows": len(run),
        "validation_rows": len(run.validation_labels),
        "layout": {"epochs": run.epochs.tolist(), "lengths": list(run.lengths), "loss_name": run.loss_name},
        "digest": _losses_digest(run),
        "run": public,
    }
    tables = [_Table(_TRAJECTORIES, str(split), rows, _TRAJECTORIES) for split, rows in run.to_dataset().items()]

    def describe(there: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        return {**there, "trajectories": entry}, []

    metadata = _metadata(api, {"dataset": entry["dataset"], "pool": len(run)}, None, None)
    return _publish(api, repo_id, tables, describe, metadata=metadata, private=private, max_shard_size=max_shard_size)


def load_trajectories(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Trajectories:
    """Loads what [`push_trajectories`] pushed.

    Args:
        repo_id (`str`): The repository.
        revision (`str`, *optional*): A branch or commit; the newest if not given.
        token (`str`, *optional*): Access token; the one that is logged in if not given.

    Returns:
        [`Trajectories`]

    Raises:
        InputError: if there is no such repository, or if its files and its recipe disagree.
    """
    api = _api(token)
    with _explained(repo_id, "load from"):
        there = _read(api, repo_id, revision)
        entry = (there.recipe or {}).get("trajectories")
        if not entry:
            raise InputError(f"{repo_id!r} has no trajectories: push them with Trajectories.push_to_hub")
        loaded = load_dataset(repo_id, _TRAJECTORIES, revision=there.head, token=token)
    try:
        run = Trajectories.from_dataset(DatasetDict(loaded), **entry["layout"], recipe=entry["run"])
    except (KeyError, TypeError) as error:
        raise _damaged(repo_id, f"of the trajectories it lacks {error}") from error
    if _losses_digest(run) != entry["digest"]:
        raise _disagrees(repo_id, "the losses are not those that its recipe is of")
    return run


def push_source_model(
    run: str | Path, repo_id: str, *, private: bool | None = None, token: str | None = None
) -> Pushed:
    """Pushes the source model of a run to a model repository, in one commit.

    Args:
        run (`str` or `Path`): The run directory, or that of one seed of it.
        repo_id (`str`): The repository; made if it is not there.
        private (`bool`, *optional*): Whether a new repository is private.
        token (`str`, *optional*): Access token; the one that is logged in if not given.

    Returns:
        [`Pushed`]

    Raises:
        InputError: if there is no source model, or as [`push_coreset`].
    """
    places = [Path(run), *sorted(Path(run).glob("seed-*"))]
    folder = next((path for path in places if (path / "source_model").is_dir()), None)
    if folder is None:
        raise InputError(f"no source model in {str(run)!r}: give a finished run directory of hf-ltc record")
    model = folder / "source_model"
    recipe, settings = publishing.public_recipe(read_json(folder / RECIPE)), read_json(model / "config.json")
    settings = publishing.public_recipe(settings)
    weights = sorted(model.glob("*.safetensors"))
    averaged = any(path.name.startswith("averaged") for path in weights)
    api = _api(token)
    with _explained(repo_id, "push to"):
        there = _open(api, repo_id, "model", private)
        previous = (there.recipe or {}).get("card")
        card = cards.source_model_card(
            there.repo_id, recipe, settings, averaged=averaged, existing=there.card, previous=previous
        )
        recipe = {"format": publishing.FORMAT, "run": recipe, "card": cards.model_metadata(recipe)}
        additions = [CommitOperationAdd(path.name, str(path)) for path in weights]
        texts = {"config.json": _json(settings), RECIPE: _json(recipe), _CARD: card}
        additions += [CommitOperationAdd(name, text.encode()) for name, text in texts.items()]
        commit = api.create_commit(
            there.repo_id,
            additions,
            commit_message="Source model",
            repo_type="model",
            parent_commit=there.head,
        )
    return Pushed(there.repo_id, there.url, str(commit.oid), ("source model",))


# What is pushed


def _describe(
    scored: Dataset,
    score_column: str,
    label_column: str | None,
    options: Mapping[str, Any],
    run: Trajectories | None,
) -> tuple[dict[str, Any], Dataset]:
    """What the recipe says of a scored dataset, and the dataset with ranks."""
    recorded = (run.recipe.get("dataset") or {}) if run is not None else {}
    label_column = find_label_column(scored, label_column or recorded.get("label_column"))
    ranking = {name: options[name] for name in ("balance", "keep", "exclude_negative")}
    ranked = rank_coreset(scored, score_column=score_column, label_column=label_column, **ranking)
    rank_column = publishing.rank_name(score_column)
    if rank_column in scored.column_names and not _same(scored, ranked, rank_column):
        raise InputError(
            f"column {rank_column!r} ranks the rows in another order than {ranking} does: give push_coreset the "
            "options that rank_coreset was given, or take the column away"
        )
    family = _family(run, scored, score_column) if run is not None else None
    ranks, scores = read_column(ranked, rank_column), read_column(ranked, score_column)
    pool = len(ranks) - ranks.null_count
    columns = publishing.user_columns(ranked, score_column, rank_column)[:-2]
    identity = dataset_identity(ranked.select_columns(columns), label_column)
    known = ("repo_id", "config", "split", "revision", "image_column", "id_column")
    identity |= {name: recorded[name] for name in known if recorded.get(name) is not None}
    entry = {
        "score_column": score_column,
        "rank_column": rank_column,
        "label_column": label_column,
        "id_column": identity.get("id_column"),
        "selection": dict(options),
        "dataset": identity,
        "pool": pool,
        "held_out": ranks.null_count,
        "flat": int(pc.sum(pc.and_(pc.is_valid(ranks), pc.is_null(scores, nan_is_null=True))).as_py() or 0),
        "digest": publishing.digest(ranked, label_column, score_column, rank_column),
        "family": family,
        "run": None if run is None else dict(run.recipe),
    }
    return entry, ranked


def _same(one: Dataset, other: Dataset, column: str) -> bool:
    return bool(read_column(one, column).equals(read_column(other, column)))


def _family(run: Trajectories, scored: Dataset, score_column: str) -> dict[str, str] | None:
    """Checks that scores are those of a recording, and finds of which member of the family."""
    where = run.positions(scored)
    if score_column != "ltc_score":
        return None
    stored = read_column(scored, score_column)
    known = np.asarray(stored.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    for of in ("differences", "levels"):
        for aggregate in ("correlations", "losses"):
            for scope in ("dataset", "class"):
                member = family_member(of, aggregate, scope)
                try:
                    scores = ltc_scores(run, **member)
                except InputError:
                    continue
                made = np.where(where >= 0, scores[where], np.nan)
                if np.allclose(made, known, rtol=0, atol=_AGREE, equal_nan=True):
                    return member
    raise InputError(
        f"column {score_column!r} is not what this recording gives, by any member of the family: score the dataset "
        "with the trajectories that are pushed, or push without them"
    )


def _coresets(
    entry: dict[str, Any],
    ranked: Dataset,
    scorer: str,
    fractions: Sequence[float],
    sizes: Sequence[int],
    options: Mapping[str, Any],
    scores_only: bool,
    full: bool,
    with_trajectories: bool,
) -> list[_Table]:
    """Selects the coresets and says in the entry what is in them."""
    score, rank, label = entry["score_column"], entry["rank_column"], entry["label_column"]
    columns = publishing.user_columns(ranked, score, rank)
    tables = []
    entry["configs"] = {}
    for fraction, size in [*((f, None) for f in fractions), *((None, s) for s in sizes)]:
        name = publishing.budget_name(scorer, fraction, size)
        coreset = select_coreset(ranked, fraction, size, score_column=score, label_column=label, **options)
        summary = describe_coreset(
            coreset, ranked, score_column=score, label_column=label, exclude_negative=options["exclude_negative"]
        )
        coreset = coreset.with_format(None).select_columns(columns)
        identity = dataset_identity(coreset.remove_columns([score, rank]), label)
        entry["configs"][name] = {
            "fraction": fraction,
            "size": len(coreset),
            "stored": not scores_only,
            "digest": publishing.digest(coreset, label, score, rank),
            "identity": {key: value for key, value in identity.items() if key not in ("repo_id", "revision")},
            "summary": summary.to_dict(),
        }
        if not scores_only:
            tables.append(_Table(name, "train", coreset, name))
    # The beta coverage draws by trajectories, so that without them no other budget could be drawn.
    with_trajectories = with_trajectories or options["coverage"] == "beta"
    entry["trajectories"] = with_trajectories
    entry["scores"] = publishing.config_name("scores", scorer)
    plain = ranked.with_format(None)
    scores = publishing.scores_table(plain, label, score, rank, entry["id_column"], with_trajectories)
    tables.append(_Table(entry["scores"], "train", scores, entry["scores"]))
    entry["full"] = publishing.config_name("full", scorer) if full else None
    if full:
        ordered = publishing.coreset_first(plain.select_columns(columns), rank)
        cuts = tuple(made["size"] for made in entry["configs"].values())
        tables.append(_Table(entry["full"], "train", ordered, entry["full"], cuts, small_groups=True))
    return tables


def _further_splits(tables: Sequence[_Table], splits: Mapping[str, Dataset], entry: Mapping[str, Any]) -> list[_Table]:
    """The same splits for every coreset: their files are there once."""
    made = []
    # Not of the whole dataset in coreset order, which is read by rank: rows of other splits have none.
    with_rows = [table for table in tables if table.config in entry["configs"]]
    if splits and not with_rows:
        raise InputError("splits go with coresets: give fractions or sizes too")
    for split, rows in splits.items():
        if not re.fullmatch(r"\w+(\.\w+)*", split) or split == "train":
            raise InputError(f"a further split cannot be called {split!r}: use another name of letters and digits")
        for table in with_rows:
            features = table.rows.features
            added = (entry["score_column"], entry["rank_column"])
            columns = [column for column in features if column not in added]
            if missing := [column for column in columns if column not in rows.column_names]:
                raise InputError(f"the split {split!r} has no column {missing[0]!r}, which the coreset has")
            plain = rows.with_format(None).select_columns(columns)
            if differs := [column for column in columns if plain.features[column] != features[column]]:
                raise InputError(
                    f"column {differs[0]!r} of the split {split!r} is {plain.features[differs[0]]}, in the coreset it "
                    f"is {features[differs[0]]}: cast it"
                )
            nulls = {c: (pa.nulls(len(rows), features.arrow_schema.field(c).type), features[c]) for c in added}
            made.append(_Table(table.config, split, with_columns(plain, nulls), _SPLITS))
    return made


def _with_coreset(
    there: dict[str, Any], scorer: str, entry: dict[str, Any], repo_id: str
) -> tuple[dict[str, Any], list[str]]:
    """The recipe of a repository with one coreset more, and which of the scorer's configurations are no longer."""
    coresets = dict(there.get("coresets") or {})
    for name, other in coresets.items():
        if any(other["dataset"].get(key) != entry["dataset"].get(key) for key in ("rows", "labels", "content")):
            raise InputError(f"{repo_id!r} holds coresets by {name!r} of another dataset: push to another repository")
    before = coresets.get(scorer)
    removed: list[str] = []
    if before is not None:
        if before["digest"] == entry["digest"] and before["selection"] == entry["selection"]:
            # Of the same scores, other budgets stay as they are.
            entry["configs"] = {**before["configs"], **entry["configs"]}
            entry["full"] = entry["full"] or before["full"]
            entry["evaluation"] = entry["evaluation"] or before["evaluation"]
            entry["splits"] = sorted({*entry["splits"], *before["splits"]})
        else:
            was = [name for name, made in before["configs"].items() if made["stored"]]
            was += [before["full"]] if before["full"] else []
            removed = [name for name in was if name not in entry["configs"] and name != entry["full"]]
    coresets[scorer] = entry
    return {**there, "coresets": coresets}, removed


def _owned(recipe: Mapping[str, Any]) -> set[str]:
    """The configurations that a recipe speaks of."""
    owned = {_TRAJECTORIES} if recipe.get("trajectories") else set()
    for entry in (recipe.get("coresets") or {}).values():
        owned |= {name for name, made in entry["configs"].items() if made["stored"]} | {entry["scores"]}
        owned |= {entry["full"]} if entry["full"] else set()
    return owned


# Where it comes from


def _add_source(
    api: HfApi, entry: dict[str, Any], scored: Dataset, source: Mapping[str, Any] | None, *, needed: bool
) -> None:
    """Adds repository, configuration, split and revision of the source dataset, where they can be found."""
    identity = entry["dataset"]
    found = _cached_origin(scored)
    given = {key: value for key, value in (source or {}).items() if value is not None}
    if unknown := set(given) - {"repo_id", "config", "split", "revision", "path"}:
        raise InputError(f"source has no {sorted(unknown)[0]!r}: give repo_id, config, split and revision")
    repo_id = given.get("repo_id") or identity.get("repo_id")
    if found and repo_id is None and _exists(api, found["repo_id"], found["revision"]):
        repo_id = found["repo_id"]
    if repo_id is not None:
        where = {"split": str(scored.split) if scored.split else "train", **identity, **given, "repo_id": repo_id}
        if found and _folder_name(found["repo_id"]) == _folder_name(repo_id):
            where = {**found, **where}
        if where.get("revision") is None or not re.fullmatch("[0-9a-f]{40}", where["revision"]):
            # Pinned, or the rows might be others next time; that they are the same is checked by every load.
            with _explained(repo_id, "find the source dataset"):
                where["revision"] = api.dataset_info(repo_id, revision=where.get("revision")).sha
        identity |= {key: where[key] for key in ("repo_id", "config", "split", "revision") if where.get(key)}
    elif needed:
        raise InputError(
            "scores_only needs to know where others find the rows: give source={'repo_id': OWNER/NAME, 'split': ...}"
        )


def _cached_origin(dataset: Dataset) -> dict[str, str] | None:
    """Where `load_dataset` had a dataset from, as the place of its files in the cache tells."""
    for file in dataset.cache_files:
        if match := _CACHED.search(file["filename"]):
            owner, name, config, revision = match.groups()
            found = {"repo_id": f"{owner}/{name}", "revision": revision}
            return found if config == "default" or config.startswith("default-") else {**found, "config": config}
    return None


def _folder_name(repo_id: str) -> str:
    # The cache writes names of datasets in snake case.
    return repo_id.lower().replace("_", "")


def _exists(api: HfApi, repo_id: str, revision: str) -> bool:
    try:
        api.dataset_info(repo_id, revision=revision)
    except (HfHubHTTPError, HFValidationError, OSError):
        return False
    return True


def _metadata(api: HfApi, entry: Mapping[str, Any], scored: Dataset | None, license: str | None) -> dict[str, Any]:
    """Metadata of the card, licence and task carried over from the source dataset."""
    source = entry["dataset"].get("repo_id")
    carried: dict[str, Any] = {}
    if source is not None:
        try:
            there = api.dataset_info(source, revision=entry["dataset"].get("revision")).card_data
            carried = there.to_dict() if there is not None else {}
        except (HfHubHTTPError, OSError):
            # A source that cannot be read any more has nothing to carry over.
            carried = {}
    names = ("license", "license_name", "license_link", "task_categories", "language")
    metadata = {name: carried[name] for name in names if carried.get(name)}
    if license is not None:
        metadata = {**metadata, "license": license}
    if "task_categories" not in metadata and scored is not None:
        images = any(isinstance(feature, Image) for feature in scored.features.values())
        metadata["task_categories"] = ["image-classification" if images else "text-classification"]
    if source is not None:
        metadata["source_datasets"] = [source]
    return {**metadata, "tags": list(cards.TAGS)}


# The one commit


def _publish(
    api: HfApi,
    repo_id: str,
    tables: Sequence[_Table],
    describe: Callable[[dict[str, Any]], tuple[dict[str, Any], list[str]]],
    *,
    metadata: dict[str, Any],
    pictures: Sequence[str | Path] = (),
    private: bool | None,
    max_shard_size: int | str,
) -> Pushed:
    with _explained(repo_id, "push to"):
        there = _open(api, repo_id, "dataset", private)
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
            texts = {RECIPE: _json(recipe), _CARD: card}
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
    api: HfApi, repo_id: str, tables: Sequence[_Table], folder: Path, max_shard_size: int | str
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


def _sections(tables: Sequence[_Table], infos: Mapping[str, DatasetInfo]) -> dict[str, Any]:
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


def _check_clash(there: _Repository, configs: Sequence[str]) -> None:
    if there.card is None:
        return
    owned = _owned(there.recipe or {})
    found = set(re.findall(r"^\s*-?\s*config_name:\s*(\S+)\s*$", there.card, re.MULTILINE))
    if foreign := sorted(found.intersection(configs) - owned):
        raise InputError(
            f"{there.repo_id!r} has a configuration {foreign[0]!r} that hf_ltc did not write: rename it, or push to "
            "another repository"
        )


def _open(api: HfApi, repo_id: str, repo_type: str, private: bool | None) -> _Repository:
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


def _read(api: HfApi, repo_id: str, revision: str | None) -> _Repository:
    validate_repo_id(repo_id)
    there = _state(api, api.dataset_info(repo_id, revision=revision), "dataset")
    if there.recipe is None:
        raise InputError(f"{repo_id!r} has no {RECIPE}: it is no repository that hf-ltc push wrote")
    return there


def _state(api: HfApi, info: Any, repo_type: str) -> _Repository:
    files = tuple(sibling.rfilename for sibling in info.siblings or [])
    texts = {}
    for name in (_CARD, RECIPE):
        if name in files:
            path = api.hf_hub_download(info.id, name, repo_type=repo_type, revision=info.sha)
            texts[name] = Path(path).read_text(encoding="utf-8")
    recipe = publishing.read_recipe(texts[RECIPE], info.id) if RECIPE in texts else None
    place = f"{'datasets/' if repo_type == 'dataset' else ''}{info.id}"
    return _Repository(info.id, f"{api.endpoint}/{place}", info.sha, files, texts.get(_CARD), recipe)


# Loading


def _entry(there: _Repository, scorer: str) -> dict[str, Any]:
    coresets = (there.recipe or {}).get("coresets") or {}
    if scorer not in coresets:
        raise InputError(
            f"{there.repo_id!r} has no coreset by {scorer!r}, it has {', '.join(coresets) or 'none'}: name another"
        )
    entry = coresets[scorer]
    needed = ("score_column", "rank_column", "label_column", "selection", "dataset", "pool", "digest", "scores")
    if missing := [name for name in (*needed, "configs", "full", "id_column") if name not in entry]:
        raise _damaged(there.repo_id, f"of the coreset by {scorer!r} it lacks {missing[0]!r}")
    return entry


def _load_stored(
    there: _Repository, entry: Mapping[str, Any], name: str, made: Mapping[str, Any], token: str | None
) -> Dataset:
    rows = _load(there, name, token)
    if len(rows) != made["size"] or _digest(rows, entry, there, entry["label_column"]) != made["digest"]:
        raise _disagrees(there.repo_id, f"the labels, scores or ranks of {name!r} are not those of its recipe")
    _check(rows, made["identity"], there, f"the rows of {name!r}")
    return rows


def _load_beginning(there: _Repository, entry: Mapping[str, Any], rows: int, token: str | None) -> Dataset:
    rank = entry["rank_column"]
    scores = _load_scores(there, entry, token)
    chosen = _load(there, entry["full"], token, filters=[(rank, "<", rows)])
    # From coreset order into the order of the source dataset.
    ranks = read_column(scores, rank).fill_null(-1).to_numpy()
    wanted = scores.select(np.flatnonzero((ranks >= 0) & (ranks < rows)))
    position = np.empty(rows, dtype=np.int64)
    there_are = read_column(chosen, rank).to_numpy()
    if len(chosen) != rows or not np.array_equal(np.sort(there_are), np.arange(rows)):
        raise _disagrees(there.repo_id, f"{entry['full']!r} does not have the ranks 0 to {rows - 1} once each")
    position[there_are] = np.arange(rows)
    chosen = chosen.select(position[read_column(wanted, rank).to_numpy()])
    if _digest(chosen, entry, there, entry["label_column"]) != _digest(wanted, entry, there, "label"):
        raise _disagrees(there.repo_id, f"the labels or scores of {entry['full']!r} and {entry['scores']!r} differ")
    return chosen


def _rebuild(
    there: _Repository, entry: Mapping[str, Any], rows: int, dataset: Dataset | None, token: str | None
) -> Dataset:
    """Takes the rows from the source dataset, and chooses as was chosen when the coreset was pushed."""
    recorded = entry["dataset"]
    scores = _load_scores(there, entry, token)
    if dataset is None:
        if not recorded.get("repo_id") or not recorded.get("revision"):
            budgets = ", ".join(name for name, made in entry["configs"].items() if made["stored"])
            raise InputError(
                f"{there.repo_id!r} has no coreset of {rows} rows (it has {budgets or 'none'}) and does not say where "
                "its source dataset is: give that as dataset=..."
            )
        dataset = _load_source(recorded, there)
    if entry["id_column"]:
        dataset = _by_id(dataset, entry["id_column"], scores)
    _check(dataset, recorded, there, "the source dataset")
    score, rank, label = entry["score_column"], entry["rank_column"], entry["label_column"]
    columns = {name: (read_column(scores, name), scores.features[name]) for name in (score, rank)}
    known = pc.or_(pc.is_valid(columns[score][0]), pc.is_valid(columns[rank][0]))
    mark = "loss_trajectory"
    if mark in scores.column_names:
        columns[mark] = (read_column(scores, mark), scores.features[mark])
    else:
        # Rows that are flat, which can be chosen, and rows held out have no score both: this tells them apart.
        columns[mark] = (pa.array(np.ones(len(scores), dtype=bool), mask=~known.to_numpy()), Value("bool"))
    options = {name: entry["selection"][name] for name in _SELECTION}
    scored = with_columns(
        dataset.remove_columns([c for c in (score, rank, mark) if c in dataset.column_names]), columns
    )
    ranking = {name: options[name] for name in ("balance", "keep", "exclude_negative")}
    if not _same(rank_coreset(scored, score_column=score, label_column=label, **ranking), scored, rank):
        raise _disagrees(there.repo_id, f"{rank!r} of {entry['scores']!r} is not the order of its scores")
    coreset = select_coreset(scored, size=rows, score_column=score, label_column=label, **options)
    return coreset.remove_columns(mark)


def _load(there: _Repository, config: str, token: str | None, **options: Any) -> Dataset:
    with _explained(there.repo_id, "load from"):
        try:
            return load_dataset(there.repo_id, config, split="train", revision=there.head, token=token, **options)
        except (ValueError, DatasetGenerationError) as error:
            reason = error.__cause__ or error
            raise _damaged(there.repo_id, f"{config!r} cannot be loaded: {one_line(reason)}") from error


def _load_scores(there: _Repository, entry: Mapping[str, Any], token: str | None) -> Dataset:
    scores = _load(there, entry["scores"], token)
    needed = ["row", "label", entry["score_column"], entry["rank_column"], *(["id"] if entry["id_column"] else [])]
    if missing := [name for name in needed if name not in scores.column_names]:
        raise _damaged(there.repo_id, f"{entry['scores']!r} has no column {missing[0]!r}")
    if _digest(scores, entry, there, "label") != entry["digest"]:
        raise _disagrees(
            there.repo_id, f"the labels, scores or ranks of {entry['scores']!r} are not those of its recipe"
        )
    return scores


def _load_source(recorded: Mapping[str, Any], there: _Repository) -> Dataset:
    with _explained(str(recorded["repo_id"]), "load the source dataset from"):
        validate_repo_id(recorded["repo_id"])
        return load_split(
            recorded["repo_id"],
            recorded.get("split", "train"),
            name=recorded.get("config"),
            revision=recorded["revision"],
        )


def _by_id(dataset: Dataset, column: str, scores: Dataset) -> Dataset:
    """The rows of a dataset whose ids were scored, in the order of the scores."""
    have, wanted = read_column(dataset, column), read_column(scores, "id")
    if have.type != wanted.type or pc.count_distinct(have).as_py() < len(have):
        raise InputError(f"column {column!r} of the source dataset has other or repeated ids than when it was scored")
    where = pc.index_in(wanted, value_set=have.combine_chunks())
    if where.null_count:
        raise InputError(
            f"{where.null_count} of the {len(wanted)} scored ids are not in column {column!r} of the source dataset: "
            "give the dataset that was scored"
        )
    return dataset.select(where.to_numpy())


def _check(dataset: Dataset, recorded: Mapping[str, Any], there: _Repository, what: str) -> None:
    try:
        check_identity(dataset, recorded)
    except InputError as error:
        raise InputError(f"{what} and {RECIPE} of {there.repo_id!r} disagree: {error}") from error
    except KeyError as error:
        raise _damaged(there.repo_id, f"of the dataset it lacks {error}") from error


def _digest(rows: Dataset, entry: Mapping[str, Any], there: _Repository, label: str) -> str:
    try:
        return publishing.digest(rows, label, entry["score_column"], entry["rank_column"])
    except (InputError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _damaged(there.repo_id, one_line(error)) from error


def _is_prefix(selection: Mapping[str, Any]) -> bool:
    """Whether coresets are the beginnings of one order."""
    return selection.get("coverage") is None and not selection.get("min_per_class")


def _losses_digest(run: Trajectories) -> str:
    whole = hashlib.sha256()
    for values in (run.rows, run.labels, run.validation_rows, run.validation_labels):
        whole.update(np.ascontiguousarray(values, dtype="<i8").tobytes())
    for t in range(len(run.epochs)):
        for table in (run.losses, run.validation_losses):
            whole.update(np.ascontiguousarray(table[t], dtype="<f4").tobytes())
    return whole.hexdigest()


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


# What goes wrong


def _api(token: str | None) -> HfApi:
    return HfApi(token=token, library_name="hf_ltc", library_version=version("hf-ltc"))


def _damaged(repo_id: str, reason: str) -> InputError:
    return InputError(f"{RECIPE} or a file of {repo_id!r} is damaged ({reason}): ask its owner to push again")


def _disagrees(repo_id: str, reason: str) -> InputError:
    return InputError(f"refused, as recipe and data of {repo_id!r} disagree: {reason}; ask its owner to push again")


@contextmanager
def _explained(repo_id: str, doing: str) -> Iterator[None]:
    """Turns what the Hub or the network answers into one line that says what to do."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        found = next((said for cause in _causes(error) if (said := _said(cause, repo_id)) is not None), None)
        if found is None:
            raise
        again = ""
        if doing == "push to":
            again = "; nothing of it is half done, and the same command goes on where it stopped"
        raise InputError(f"cannot {doing} {repo_id!r}: {found}{again}") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _said(error: BaseException, repo_id: str) -> str | None:
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
        status = error.response.status_code if error.response is not None else None
        return _STATUS.get(status or 0, f"the Hub answered {one_line(error)}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        where = tempfile.gettempdir()
        return f"no room for its files in {where} ({error.strerror}): make room, or set TMPDIR to another folder"
    # The client library has changed before, so that its errors are told by their module.
    if isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith(("httpx", "requests")):
        return f"the Hub cannot be reached ({one_line(error)}): check the network"
    return None


_STATUS = {
    401: "the access token is missing, wrong or expired: log in with hf auth login",
    403: "the access token may not write there: use one with write access, or another OWNER",
    409: "the repository is being changed by someone else: try again",
    412: "someone else pushed to it meanwhile: try again",
    413: "a file is too large: lower max_shard_size",
    429: "the Hub takes no more requests for now: try again later",
}
