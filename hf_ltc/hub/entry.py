"""The entry that a repository's recipe has of one scored dataset, and the tables that go with it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from ..coresets.choose import Selection
from ..coresets.select import rank_coreset, select_coreset
from ..coresets.summary import describe_coreset
from ..data.columns import rank_name, read_column, with_columns
from ..data.identity import dataset_identity
from ..data.inputs import require_dataset
from ..data.labels import find_label_column
from ..data.splits import evenly_spaced
from ..recipe import Identity, Recipe
from ..scores.ltc import DEFAULT, PRESETS, VARIANTS, ltc_scores, score_variant
from ..scores.protocol import RecordedColumns
from ..scores.reliability import reliability_of
from ..utils.errors import InputError
from . import parquet
from .commits import Table
from .repository_recipe import ORIGIN, Coreset, Entry, Summary, Variant, config_name

_AGREE = 1e-5
# Rows by which score variants are told apart.
_SAMPLED_ROWS = 1_000


def describe_scored(
    scored: Dataset,
    score_column: str,
    label_column: str | None,
    selection: Selection,
    run: RecordedColumns | None,
    variant: Mapping[str, str] | None,
) -> tuple[Entry, Dataset]:
    """What the recipe says of a scored dataset, and the dataset with ranks."""
    recorded = Recipe.from_dict({} if run is None else run.recipe).dataset
    label_column = find_label_column(scored, label_column or recorded.label_column)
    ranked = rank_coreset(scored, score_column=score_column, label_column=label_column, **selection.ranking)
    rank_column = rank_name(score_column)
    if rank_column in scored.column_names and not _same(scored, ranked, rank_column):
        raise InputError(
            f"column {rank_column!r} ranks the rows in another order than {selection.ranking} does: give push_coreset "
            "the options that rank_coreset was given, or remove the column"
        )
    columns = parquet.user_columns(ranked, score_column, rank_column)[:-2]
    identity = dataset_identity(ranked.select_columns(columns), label_column)
    recipe = None if run is None else dict(run.recipe)
    if run is not None and recipe is not None:
        variant = _checked_variant(run, scored, score_column, variant, identity)
        recipe["reliability"] = None
        if variant is not None and len(run.lengths) > 1:
            each = [ltc_scores(one, **variant) for one in run.runs]
            recipe["reliability"] = reliability_of(each, run.labels).to_dict()
    ranks, scores = read_column(ranked, rank_column), read_column(ranked, score_column)
    pool = len(ranks) - ranks.null_count
    known = (*ORIGIN, "image_column", "id_column")
    identity |= {name: value for name, value in recorded.to_dict().items() if name in known and value is not None}
    entry = Entry(
        score_column=score_column,
        rank_column=rank_column,
        label_column=label_column,
        id_column=identity.get("id_column"),
        selection=selection.to_dict(),
        dataset=Identity.from_dict(identity),
        pool=pool,
        held_out=ranks.null_count,
        flat=int(pc.sum(pc.and_(pc.is_valid(ranks), pc.is_null(scores, nan_is_null=True))).as_py() or 0),
        digest=parquet.digest(ranked, label_column, score_column, rank_column),
        family=None if variant is None else Variant.from_dict(variant),
        run=Recipe.from_dict({} if recipe is None else parquet.public_recipe(recipe)),
        configs={},
        trajectories=False,
        scores=config_name("scores", parquet.scorer_name(score_column)),
        full=None,
        # Written even where there is nothing to say, as by all versions.
        more=dict.fromkeys(("family", "run", "full_features")),
    )
    return entry, ranked


def _same(one: Dataset, other: Dataset, column: str) -> bool:
    return bool(read_column(one, column).equals(read_column(other, column)))


def read_variant(variant: str | Mapping[str, str]) -> dict[str, str]:
    """The score variant that is meant by the name of a preset, or by a mapping of the choices of [`ltc_scores`].

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
    run: RecordedColumns,
    scored: Dataset,
    score_column: str,
    variant: Mapping[str, str] | None,
    identity: Mapping[str, Any],
) -> dict[str, str] | None:
    """Checks that a dataset and its scores are those of a recording.

    Returns:
        `dict[str, str]`: the score variant in the column: the one that was told, or else found for `ltc_score`.
    """
    where = run.positions(scored, identity=identity)
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
    """The first score variant, most likely ones first, that gives all scores of a column."""
    likely = (DEFAULT, *PRESETS.values(), *VARIANTS)
    variants = list({tuple(variant.values()): variant for variant in likely}.values())
    # A few rows rule out nearly all, and only what gives their scores is computed for every row.
    have = np.flatnonzero((where >= 0) & ~np.isnan(known))
    sample = have[evenly_spaced(len(have), _SAMPLED_ROWS)]
    sample = sample[np.argsort(where[sample])]
    part = run.take_rows(run.rows[where[sample]])
    for variant in variants:
        try:
            # Less strict than of all rows, so that no variant is ruled out by how sums are rounded.
            fits = _agree(ltc_scores(part, **variant), np.arange(len(sample)), known[sample], 2 * _AGREE)
            if fits and _agree(ltc_scores(run, **variant), where, known):
                return variant
        except InputError:
            # One that this recording has not, such as by class without validation samples of each.
            continue
    raise InputError(
        f"column {score_column!r} is not what this recording gives, by any score variant: score the dataset with the "
        "trajectories that are pushed, or push without them"
    )


def _agree(scores: np.ndarray, where: np.ndarray, known: np.ndarray, most: float = _AGREE) -> bool:
    """Whether scores of recorded rows are those of a dataset, whose rows are `where` among them."""
    made = np.where(where >= 0, scores[where], np.nan)
    return np.allclose(made, known, rtol=0, atol=most, equal_nan=True)


def coreset_tables(
    entry: Entry,
    ranked: Dataset,
    fractions: Sequence[float],
    sizes: Sequence[int],
    scores_only: bool,
    full: bool,
    with_trajectories: bool,
) -> tuple[Entry, list[Table]]:
    """Selects the coresets, and adds to the entry what is in them."""
    score, rank, label = entry.score_column, entry.rank_column, entry.label_column
    scorer, selection = parquet.scorer_name(score), Selection.from_dict(entry.selection)
    columns = parquet.user_columns(ranked, score, rank)
    tables = []
    configs: dict[str, Coreset] = {}
    for fraction, size in dict.fromkeys([*((f, None) for f in fractions), *((None, s) for s in sizes)]):
        name = parquet.budget_name(scorer, fraction, size)
        if name in configs:
            raise InputError(f"two of `fractions` or `sizes` are so near that both are called {name!r}: give one")
        coreset = select_coreset(ranked, fraction, size, score_column=score, label_column=label, **selection.to_dict())
        summary = describe_coreset(
            coreset, ranked, score_column=score, label_column=label, exclude_negative=selection.exclude_negative
        )
        coreset = coreset.with_format(None).select_columns(columns)
        identity = dataset_identity(coreset.remove_columns([score, rank]), label)
        configs[name] = Coreset(
            fraction=fraction,
            size=len(coreset),
            stored=not scores_only,
            digest=parquet.digest(coreset, label, score, rank),
            features=parquet.features_digest(coreset.features),
            identity={key: value for key, value in identity.items() if key not in ("repo_id", "revision")},
            summary=Summary.from_dict(summary.to_dict()),
        )
        if not scores_only:
            tables.append(Table(name, "train", coreset, name))
    # Without trajectories, by which the beta coverage draws, no other budget could be drawn.
    with_trajectories = with_trajectories or selection.coverage == "beta"
    plain = ranked.with_format(None)
    scores = parquet.scores_table(plain, label, score, rank, entry.id_column, with_trajectories)
    tables.append(Table(entry.scores, "train", scores, entry.scores))
    entry = replace(entry, configs=configs, trajectories=with_trajectories)
    if not full:
        return entry, tables
    ordered = parquet.coreset_first(plain.select_columns(columns), rank)
    config, cuts = config_name("full", scorer), tuple(made.size for made in configs.values())
    tables.append(Table(config, "train", ordered, config, cuts, small_groups=True))
    return replace(entry, full=config, full_features=parquet.features_digest(ordered.features)), tables


def further_splits(tables: Sequence[Table], splits: Mapping[str, Dataset], entry: Entry, folder: str) -> list[Table]:
    """The same splits for every coreset: their files are there once."""
    made = []
    # Not of the whole dataset in coreset order, which is read by rank: rows of other splits have none.
    with_rows = [table for table in tables if table.config in entry.configs]
    if splits and not with_rows:
        raise InputError("`splits` go with coresets: give `fractions` or `sizes` too")
    for split, rows in splits.items():
        if not re.fullmatch(r"\w+(\.\w+)*", split) or split == "train":
            raise InputError(f"a further split cannot be called {split!r}: use another name of letters and digits")
        require_dataset(rows, f"splits[{split!r}]")
        for table in with_rows:
            features = table.rows.features
            added = (entry.score_column, entry.rank_column)
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
            made.append(Table(table.config, split, with_columns(plain, nulls), folder))
    return made
