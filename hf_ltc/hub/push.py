"""Coresets to the Hub, each push in one commit."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Image
from huggingface_hub import HfApi

from ..coresets.choose import Selection
from ..data.identity import cached_origin
from ..data.inputs import require_dataset
from ..recipe import Identity
from ..scores.protocol import RecordedColumns, require_recorded
from ..utils.errors import InputError
from . import cards, parquet
from .commits import publish
from .entry import coreset_tables, describe_scored, further_splits, read_variant
from .repository import Pushed, check_repo_id, explained, hub_api, patiently
from .repository_recipe import ORIGIN, SPLITS, RepositoryRecipe, Trained, config_name


def push_coreset(
    scored: Dataset,
    repo_id: str,
    fractions: Sequence[float] = (),
    sizes: Sequence[int] = (),
    *,
    trajectories: RecordedColumns | None = None,
    scores_only: bool = False,
    full: bool = False,
    with_trajectories: bool = False,
    splits: Mapping[str, Dataset] | None = None,
    pictures: Sequence[str | Path] = (),
    evaluation: Sequence[Mapping[str, Any]] = (),
    source: Mapping[str, Any] | None = None,
    dataset_name: str | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    max_shard_size: int | str = "500MB",
    score_column: str = "ltc_score",
    variant: str | Mapping[str, str] | None = None,
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
            mappings of `rows` (which, in words), `number`, `model`, `accuracy` (a number in [0, 1] for each seed) and
            `protocol` (how they were trained, in words).
        source (`Mapping`, *optional*): Where the dataset comes from: `repo_id`, `config`, `split`, `revision`; as the
            recording or the dataset knows it if not given.
        dataset_name (`str`, *optional*): What the card calls the dataset, where it is not on the Hub.
        license (`str`, *optional*): Licence of the rows; that of the source dataset if not given.
        private (`bool`, *optional*): Whether a new repository is private.
        token (`str`, *optional*): Access token; the one that is logged in if not given.
        max_shard_size (`int` or `str`, *optional*, defaults to `"500MB"`): Size of a Parquet file at most.
        score_column (`str`, *optional*, defaults to `"ltc_score"`): The score.
        variant (`str` or `Mapping[str, str]`, *optional*):
            Which score variant the column holds, where it comes from `trajectories`: `"ltc"`, `"cld"`, `"das"` or
            `"weighted-das"`, or a mapping with `of`, `aggregate`, `scope` and `weighting`, as for [`ltc_scores`].
            Found by its values, if not given, for `ltc_score`.
        label_column (`str`, *optional*): Column with the class labels; found by its type if not given.
        **selection: `balance`, `keep`, `exclude_negative`, `min_per_class`, `coverage`, `cut`, `beta_exponent` and
            `seed`, as for [`select_coreset`].

    Returns:
        [`Pushed`]

    Raises:
        InputError: for a dataset, budget or option that cannot be pushed; for scores that are not those of the
            recording; if the Hub refuses, cannot be reached, or holds something else under these names.
    """
    check_repo_id(repo_id)
    if unknown := set(selection) - set(Selection().to_dict()):
        raise InputError(
            f"push_coreset has no option {sorted(unknown)[0]!r}: it has {', '.join(Selection().to_dict())}"
        )
    options = Selection(**selection)
    parquet.check_score_column(score_column)
    for name, budgets in (("fractions", fractions), ("sizes", sizes)):
        if isinstance(budgets, str | int | float):
            raise InputError(f"`{name}` is {budgets!r}: give a list, such as [{budgets!r}]")
    if not fractions and not sizes and not full and not scores_only:
        raise InputError("nothing to push: give budgets as `fractions` (or `sizes`), or `full`, or `scores_only`")
    if scores_only and (full or splits):
        raise InputError("`scores_only` pushes no rows, so it goes neither with `full` nor with `splits`")
    if full and not options.is_nested:
        raise InputError(
            "`full` is an order of which coresets are the beginning: `coverage` and `min_per_class` give none"
        )
    require_dataset(scored, "scored")
    if trajectories is not None:
        require_recorded(trajectories)
    elif variant is not None:
        raise InputError("`variant` is of the recording that is given as `trajectories`: give both, or neither")
    told = None if variant is None else read_variant(variant)
    parquet.size_in_bytes(max_shard_size)
    for row in evaluation:
        _check_evaluation(row)
    for picture in pictures:
        if not Path(picture).is_file():
            raise InputError(f"no picture {str(picture)!r}: give files")
    shown = [Path(picture).name for picture in pictures]
    if twice := [name for name in shown if shown.count(name) > 1]:
        raise InputError(f"two of `pictures` are called {twice[0]!r}: give them names of their own")
    api = hub_api(token)
    entry, ranked = describe_scored(scored, score_column, label_column, options, trajectories, told)
    identity, carried = _with_source(api, entry.dataset, scored, source, needed=scores_only)
    entry, tables = coreset_tables(entry, ranked, fractions, sizes, scores_only, full, with_trajectories)
    scorer = parquet.scorer_name(score_column)
    tables += further_splits(tables, splits or {}, entry, config_name(SPLITS, scorer))
    entry = replace(
        entry,
        dataset=identity if dataset_name is None else replace(identity, name=dataset_name),
        evaluation=[Trained.from_dict(parquet.public_recipe(row)) for row in evaluation],
        splits=sorted(splits or {}),
    )

    def describe(there: RepositoryRecipe) -> tuple[RepositoryRecipe, list[str]]:
        return there.with_entry(scorer, entry, repo_id)

    return publish(
        api,
        repo_id,
        tables,
        describe,
        metadata=card_metadata(entry.dataset, carried, scored, license),
        pictures=pictures,
        private=private,
        max_shard_size=max_shard_size,
    )


def _check_evaluation(row: Mapping[str, Any]) -> None:
    if missing := [name for name in ("rows", "model", "accuracy") if name not in row]:
        raise InputError(f"`evaluation` {dict(row)!r} has no {missing[0]!r}: give rows, model and accuracy")
    try:
        accuracies = np.asarray(row["accuracy"], dtype=np.float64)
    except (TypeError, ValueError):
        accuracies = np.empty(0)
    if accuracies.ndim != 1 or not len(accuracies) or not ((accuracies >= 0) & (accuracies <= 1)).all():
        raise InputError(
            f"in `evaluation` accuracy is {row['accuracy']!r}: give a list of one number in [0, 1] for each seed"
        )


def _with_source(
    api: HfApi, identity: Identity, scored: Dataset, source: Mapping[str, Any] | None, *, needed: bool
) -> tuple[Identity, dict[str, Any]]:
    """An identity with where the source dataset is, if that can be found, and the metadata of that one's card."""
    given = {key: value for key, value in (source or {}).items() if value is not None}
    if unknown := set(given) - set(ORIGIN):
        raise InputError(f"`source` has no {sorted(unknown)[0]!r}: give {', '.join(ORIGIN)}")
    known = {name: value for name in ORIGIN if (value := getattr(identity, name)) is not None}
    where: dict[str, str] = {"split": str(scored.split or "train")}
    for origin in (cached_origin(scored), known):
        if "repo_id" not in given or _alike(origin.get("repo_id", given["repo_id"]), given["repo_id"]):
            where |= origin
    where |= given
    carried: dict[str, Any] = {}
    if "repo_id" in where:
        try:
            with explained(where["repo_id"], "find the source dataset"):
                # Pinned, or the rows might be others next time; that they are the same is checked by every load.
                there = patiently(api.dataset_info, where["repo_id"], revision=where.get("revision"))
            where |= {"repo_id": there.id, "revision": str(there.sha)}
            carried = there.card_data.to_dict() if there.card_data is not None else {}
        except InputError:
            if needed or "repo_id" in given:
                raise
            where = {"split": where["split"]}
    elif needed:
        raise InputError(
            "`scores_only` needs to know where others find the rows: give `source`, with repo_id and split"
        )
    found: dict[str, Any] = {name: where.get(name) for name in ORIGIN}
    return replace(identity, **found), carried


def _alike(repo_id: str, other: str) -> bool:
    # The cache writes names in snake case.
    one, two = (name.lower().replace("_", "") for name in (repo_id, other))
    return one == two


def card_metadata(
    identity: Identity, carried: Mapping[str, Any], scored: Dataset | None, license: str | None
) -> dict[str, Any]:
    """Metadata of the card; licence, task and language carried over from the source dataset."""
    names = ("license", "license_name", "license_link", "task_categories", "language")
    metadata = {name: carried[name] for name in names if carried.get(name)}
    if license is not None:
        # Name and link are those of another licence.
        metadata = {name: value for name, value in metadata.items() if not name.startswith("license_")}
        metadata["license"] = license
    if "task_categories" not in metadata and scored is not None:
        images = any(isinstance(feature, Image) for feature in scored.features.values())
        metadata["task_categories"] = ["image-classification" if images else "text-classification"]
    if identity.repo_id is not None:
        metadata["source_datasets"] = [identity.repo_id]
    return {**metadata, "tags": list(cards.TAGS)}
