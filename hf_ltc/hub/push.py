"""Coresets to the Hub, each push in one commit."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from huggingface_hub import HfApi

from ..coresets.scored import balanced_by, usual_balance
from ..data.columns import read_column, typicality_name
from ..data.identity import cached_origin
from ..data.inputs import require_dataset
from ..data.splits import evenly_spaced
from ..recipe import Identity, Recipe
from ..scores.ltc import DEFAULT, PRESETS, VARIANTS, ltc_scores, score_variant
from ..scores.protocol import RecordedColumns, require_recorded
from ..scores.reliability import reliability_of, scores_by_run
from ..scores.typicality import ltc_typicality
from ..utils.errors import InputError
from ..utils.public import public_recipe
from .cards import card_metadata
from .options import check_push
from .publish import publish
from .repository import Pushed, check_repo_id, explained, hub_api, patiently
from .repository_recipe import (
    ORIGIN,
    SPLITS,
    Entry,
    RepositoryRecipe,
    Trained,
    Variant,
    config_name,
    scorer_name,
)
from .tables import coreset_tables, describe_scored, further_splits

_AGREE = 1e-5
# Rows by which score variants are told apart.
_SAMPLED_ROWS = 1_000


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
    report: str | Path | None = None,
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
    judgement: Mapping[str, Any] | None = None,
    **selection: Any,
) -> Pushed:
    """Pushes coresets of a scored dataset to a dataset repository, in one commit.

    The repository gets a configuration for each budget (`coreset-10pct`, ...: the columns of the dataset, the score
    and the rank), the configuration `scores` (row number, label, score and rank of every row), `recipe.json` and a
    card. Other scorers go into configurations of their own (`coreset-el2n-10pct`, `scores-el2n`), so that several can
    share a repository. Everything else in the repository is left unchanged.

    An interrupted push leaves the repository unchanged, and the same call uploads only what is still missing.

    Args:
        scored (`datasets.Dataset`): A dataset with scores.
        repo_id (`str`): The repository, `OWNER/NAME`; created if it does not exist.
        fractions (`Sequence[float]`, *optional*): Budgets, as shares of the candidate rows.
        sizes (`Sequence[int]`, *optional*): Budgets, as numbers of rows.
        trajectories ([`Trajectories`], *optional*): The recording that the scores come from. Scores are checked
            against it, and its recipe is published.
        scores_only (`bool`, *optional*, defaults to `False`): Push no rows: [`load_coreset`] takes them from the
            source dataset.
        full (`bool`, *optional*, defaults to `False`): Also push the whole dataset in coreset order, as the
            configuration `full`, so every coreset is the beginning of it.
        with_trajectories (`bool`, *optional*, defaults to `False`): Add the columns with trajectories to `scores`.
        splits (`Mapping[str, datasets.Dataset]`, *optional*): Further splits of every configuration with rows, e.g.
            `{"test": test}`.
        pictures (`Sequence[str]`, *optional*): Picture files for the card.
        report (`str` or `Path`, *optional*): The page that [`write_report`] wrote, which becomes `report.html` there.
            Without it, the page of an earlier push is kept until the coresets by `ltc_score` change.
        evaluation (`Sequence[Mapping]`, *optional*): Accuracies of models trained on the rows, for the card's
            table: mappings of `rows` (which, in words), `number`, `model`, `accuracy` (a number in [0, 1] for each
            seed) and `protocol` (how they were trained, in words).
        source (`Mapping`, *optional*): Where the dataset comes from: `repo_id`, `config`, `split`, `revision`. If not
            given, it is taken from the recording or the dataset.
        dataset_name (`str`, *optional*): Name of the dataset on the card, if it is not on the Hub.
        license (`str`, *optional*): License of the rows; if not given, that of the source dataset.
        private (`bool`, *optional*): Whether a new repository is private.
        token (`str`, *optional*): Access token; the one that is logged in if not given.
        max_shard_size (`int` or `str`, *optional*, defaults to `"500MB"`): Maximum size of a Parquet file.
        score_column (`str`, *optional*, defaults to `"ltc_score"`): The score.
        variant (`str` or `Mapping[str, str]`, *optional*):
            The score variant in the column, which is checked against `trajectories`: `"ltc"`, `"cld"`,
            `"das"` or `"weighted-das"`, or a mapping with `of`, `aggregate`, `scope` and `weighting`, as for
            [`ltc_scores`]. If not given, that of `ltc_score` is found by trying all.
        label_column (`str`, *optional*): Column with the class labels; found by its type if not given.
        judgement (`Mapping[str, Any]`, *optional*): The comparison of one of the coresets with others, for recipe and
            card, as written by `hf-ltc select --judge` (`judge` in the recipe next to the rows).
        **selection: `balance`, `keep`, `exclude_negative`, `min_per_class`, `coverage`, `cut`, `beta_exponent`, `seed`
            and `typical`, as for [`select_coreset`].

    Returns:
        [`Pushed`]

    Raises:
        InputError: for a dataset, budget or option that cannot be pushed; for scores that differ from those of the
            recording; if the Hub refuses, cannot be reached, or has something else under these names.
    """
    # Before any work; the dataset is looked at to know how it is balanced.
    check_repo_id(repo_id)
    require_dataset(scored, "scored")
    if trajectories is not None:
        require_recorded(trajectories)
    recorded = Identity() if trajectories is None else Recipe.from_dict(trajectories.recipe).dataset
    way, label_column = usual_balance(recorded, selection.pop("balance", None), label_column)
    selection["balance"], label_column = balanced_by(scored, way, label_column)
    options = check_push(
        repo_id,
        fractions,
        sizes,
        scores_only=scores_only,
        full=full,
        splits=splits,
        max_shard_size=max_shard_size,
        score_column=score_column,
        **selection,
    )
    if trajectories is None and variant is not None:
        raise InputError("`variant` is of the recording that is given as `trajectories`: give both, or neither")
    told = None if variant is None else read_variant(variant)
    trained = [Trained.given(row) for row in evaluation]
    for picture in pictures:
        if not Path(picture).is_file():
            raise InputError(f"no picture {str(picture)!r}: give files")
    if report is not None and not Path(report).is_file():
        raise InputError(f"no page {str(report)!r}: write one with write_report, or hf-ltc report")
    if report is not None and scores_only:
        raise InputError("`report` shows rows, and `scores_only` pushes none: leave one of them out")
    shown = [Path(picture).name for picture in pictures]
    if twice := [name for name in shown if shown.count(name) > 1]:
        raise InputError(f"two of `pictures` are called {twice[0]!r}: give them names of their own")
    api = hub_api(token)
    entry, ranked = describe_scored(scored, score_column, label_column, options, recorded)
    if trajectories is not None:
        entry = with_recording(entry, trajectories, scored, told)
    identity, carried = _with_source(api, entry.dataset, scored, source, needed=scores_only)
    entry, tables = coreset_tables(entry, ranked, fractions, sizes, scores_only, full, with_trajectories)
    if judgement is not None:
        entry = judged(entry, judgement)
    scorer = scorer_name(score_column)
    tables += further_splits(tables, splits or {}, entry, config_name(SPLITS, scorer))
    entry = replace(
        entry,
        dataset=identity if dataset_name is None else replace(identity, name=dataset_name),
        evaluation=trained,
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
        report=report,
        private=private,
        max_shard_size=max_shard_size,
    )


def judged(entry: Entry, judgement: Mapping[str, Any]) -> Entry:
    """Adds to the coreset of its size what that was compared with."""
    if not isinstance(judgement, Mapping) or not {"rows", "text"} <= judgement.keys():
        raise InputError("`judgement` is not what hf-ltc select --judge writes into the recipe of its rows: give that")
    sizes = {name: made.size for name, made in entry.configs.items()}
    mine = [name for name, size in sizes.items() if size == judgement["rows"]]
    if not mine:
        shown = ", ".join(f"{size:,}" for size in sizes.values()) or "none"
        raise InputError(
            f"`judgement` is of {judgement['rows']:,} rows, and the coresets that are pushed have {shown}: push that "
            "budget too"
        )
    told = {name: replace(entry.configs[name], judge=public_recipe(judgement)) for name in mine}
    return replace(entry, configs={**entry.configs, **told})


def _with_source(
    api: HfApi, identity: Identity, scored: Dataset, source: Mapping[str, Any] | None, *, needed: bool
) -> tuple[Identity, dict[str, Any]]:
    """Adds to an identity where the source dataset is, if that can be found; also returns the metadata of its card."""
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
                # Pinned to its current revision: later ones may have other rows. Every load checks the rows.
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
    # The cache of `datasets` writes names in snake case.
    one, two = (name.lower().replace("_", "") for name in (repo_id, other))
    return one == two


def with_recording(entry: Entry, run: RecordedColumns, scored: Dataset, variant: Mapping[str, str] | None) -> Entry:
    """Compares scores with the recording that they come from, and adds its recipe and their variant to the entry."""
    where = run.positions(scored, identity=entry.dataset.to_dict())
    variant = _checked_variant(run, where, scored, entry.score_column, variant)
    column = typicality_name(entry.score_column)
    if variant is not None and column in scored.column_names:
        known = read_column(scored, column).cast(pa.float64(), safe=False).to_numpy()
        # By another machine it may have been rounded in another way. Rows that never come first may have none.
        if not _agree(ltc_typicality(run), np.where(np.isnan(known), -1, where), known, 1e-3):
            raise InputError(
                f"column {column!r} is not the typicality of the rows in this recording: score them with it, or push "
                "without the trajectories"
            )
    recipe: dict[str, Any] = {**run.recipe, "reliability": None}
    if variant is not None and len(run.lengths) > 1:
        each = scores_by_run(run.runs, run.rows, **variant)
        recipe["reliability"] = reliability_of(each, run.labels).to_dict()
    family = None if variant is None else Variant.from_dict(variant)
    return replace(entry, family=family, run=Recipe.from_dict(public_recipe(recipe)))


def read_variant(variant: str | Mapping[str, str]) -> dict[str, str]:
    """Reads a score variant from the name of a preset, or from a mapping of the choices of [`ltc_scores`].

    Raises:
        InputError: for anything else.
    """
    if isinstance(variant, str) and variant in PRESETS:
        return PRESETS[variant]
    if not isinstance(variant, Mapping) or (unknown := [key for key in variant if key not in DEFAULT]):
        what = f"has {unknown[0]!r}" if isinstance(variant, Mapping) else f"is {variant!r}"
        raise InputError(
            f"`variant` {what}: give one of {', '.join(map(repr, PRESETS))}, or a mapping with {', '.join(DEFAULT)}"
        )
    return score_variant(**variant)


def _checked_variant(
    run: RecordedColumns, where: np.ndarray, scored: Dataset, score_column: str, variant: Mapping[str, str] | None
) -> dict[str, str] | None:
    """Checks that scores of rows, which are `where` among those of a recording, come from it.

    Returns:
        `dict[str, str]`: the given score variant, or the one found in `ltc_score`; `None` for other columns.
    """
    if variant is None and score_column != "ltc_score":
        return None
    stored = read_column(scored, score_column)
    known = np.asarray(stored.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    if variant is None:
        return _found_variant(run, where, known, score_column)
    if not _agree(ltc_scores(run, **variant), where, known):
        name = next((repr(name) for name, preset in PRESETS.items() if preset == variant), dict(variant))
        raise InputError(
            f"column {score_column!r} is not the score variant {name} of this recording: name the variant that the "
            "rows were scored with, score them with this one, or push without the trajectories"
        )
    return dict(variant)


def _found_variant(run: RecordedColumns, where: np.ndarray, known: np.ndarray, score_column: str) -> dict[str, str]:
    """Finds the score variant that gives all scores of a column; of several, the most likely one."""
    likely = (DEFAULT, *PRESETS.values(), *VARIANTS)
    variants = list({tuple(variant.values()): variant for variant in likely}.values())
    # A sample of rows rules out nearly all variants. Only one that gives their scores is computed for all rows.
    have = np.flatnonzero((where >= 0) & ~np.isnan(known))
    sample = have[evenly_spaced(len(have), _SAMPLED_ROWS)]
    sample = sample[np.argsort(where[sample])]
    part = run.take_rows(run.rows[where[sample]])
    for variant in variants:
        try:
            # Less strict than for all rows, as sums over fewer rows may be rounded otherwise.
            fits = _agree(ltc_scores(part, **variant), np.arange(len(sample)), known[sample], 2 * _AGREE)
            if fits and _agree(ltc_scores(run, **variant), where, known):
                return variant
        except InputError:
            # This recording has no such score: by class, for example, needs validation samples of every class.
            continue
    raise InputError(
        f"column {score_column!r} is not what this recording gives, by any score variant: score the dataset with the "
        "trajectories that are pushed, or push without them"
    )


def _agree(scores: np.ndarray, where: np.ndarray, known: np.ndarray, most: float = _AGREE) -> bool:
    """Whether a dataset has the scores of the recorded rows; row i is the recorded row `where[i]`."""
    made = np.where(where >= 0, scores[where], np.nan)
    return np.allclose(made, known, rtol=0, atol=most, equal_nan=True)
