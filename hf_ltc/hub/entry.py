"""The entry that a repository's recipe has of one scored dataset, and the tables that go with it."""

import re
from collections.abc import Mapping, Sequence
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
from ..recipe import Recipe
from ..scores.ltc import DEFAULT, PRESETS, VARIANTS, ltc_scores, score_variant
from ..scores.protocol import RecordedColumns
from ..scores.reliability import reliability_of
from ..utils.errors import InputError
from . import parquet
from .commits import Table

ORIGIN = ("repo_id", "config", "split", "revision")
_AGREE = 1e-5
# Rows by which score variants are told apart.
_SAMPLED_ROWS = 1_000
# What stays known of a coreset where the same scores are pushed without it.
_KNOWN = ("full", "full_features", "evaluation", "run", "family")


def describe_scored(
    scored: Dataset,
    score_column: str,
    label_column: str | None,
    selection: Selection,
    run: RecordedColumns | None,
    variant: Mapping[str, str] | None,
) -> tuple[dict[str, Any], Dataset]:
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
    entry = {
        "score_column": score_column,
        "rank_column": rank_column,
        "label_column": label_column,
        "id_column": identity.get("id_column"),
        "selection": selection.to_dict(),
        "dataset": identity,
        "pool": pool,
        "held_out": ranks.null_count,
        "flat": int(pc.sum(pc.and_(pc.is_valid(ranks), pc.is_null(scores, nan_is_null=True))).as_py() or 0),
        "digest": parquet.digest(ranked, label_column, score_column, rank_column),
        "family": variant,
        "run": None if recipe is None else parquet.public_recipe(recipe),
    }
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
    entry: dict[str, Any],
    ranked: Dataset,
    scorer: str,
    fractions: Sequence[float],
    sizes: Sequence[int],
    selection: Selection,
    scores_only: bool,
    full: bool,
    with_trajectories: bool,
) -> list[Table]:
    """Selects the coresets and says in the entry what is in them."""
    score, rank, label = entry["score_column"], entry["rank_column"], entry["label_column"]
    columns = parquet.user_columns(ranked, score, rank)
    tables = []
    entry["configs"] = {}
    for fraction, size in dict.fromkeys([*((f, None) for f in fractions), *((None, s) for s in sizes)]):
        name = parquet.budget_name(scorer, fraction, size)
        if name in entry["configs"]:
            raise InputError(f"two of `fractions` or `sizes` are so near that both are called {name!r}: give one")
        coreset = select_coreset(ranked, fraction, size, score_column=score, label_column=label, **selection.to_dict())
        summary = describe_coreset(
            coreset, ranked, score_column=score, label_column=label, exclude_negative=selection.exclude_negative
        )
        coreset = coreset.with_format(None).select_columns(columns)
        identity = dataset_identity(coreset.remove_columns([score, rank]), label)
        entry["configs"][name] = {
            "fraction": fraction,
            "size": len(coreset),
            "stored": not scores_only,
            "digest": parquet.digest(coreset, label, score, rank),
            "features": parquet.features_digest(coreset.features),
            "identity": {key: value for key, value in identity.items() if key not in ("repo_id", "revision")},
            "summary": summary.to_dict(),
        }
        if not scores_only:
            tables.append(Table(name, "train", coreset, name))
    # The beta coverage draws by trajectories, so that without them no other budget could be drawn.
    with_trajectories = with_trajectories or selection.coverage == "beta"
    entry["trajectories"] = with_trajectories
    entry["scores"] = parquet.config_name("scores", scorer)
    plain = ranked.with_format(None)
    scores = parquet.scores_table(plain, label, score, rank, entry["id_column"], with_trajectories)
    tables.append(Table(entry["scores"], "train", scores, entry["scores"]))
    entry["full"] = parquet.config_name("full", scorer) if full else None
    entry["full_features"] = None
    if full:
        ordered = parquet.coreset_first(plain.select_columns(columns), rank)
        cuts = tuple(made["size"] for made in entry["configs"].values())
        tables.append(Table(entry["full"], "train", ordered, entry["full"], cuts, small_groups=True))
        entry["full_features"] = parquet.features_digest(ordered.features)
    return tables


def further_splits(
    tables: Sequence[Table], splits: Mapping[str, Dataset], entry: Mapping[str, Any], folder: str
) -> list[Table]:
    """The same splits for every coreset: their files are there once."""
    made = []
    # Not of the whole dataset in coreset order, which is read by rank: rows of other splits have none.
    with_rows = [table for table in tables if table.config in entry["configs"]]
    if splits and not with_rows:
        raise InputError("`splits` go with coresets: give `fractions` or `sizes` too")
    for split, rows in splits.items():
        if not re.fullmatch(r"\w+(\.\w+)*", split) or split == "train":
            raise InputError(f"a further split cannot be called {split!r}: use another name of letters and digits")
        require_dataset(rows, f"splits[{split!r}]")
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
            made.append(Table(table.config, split, with_columns(plain, nulls), folder))
    return made


def with_coreset(
    there: dict[str, Any], scorer: str, entry: dict[str, Any], repo_id: str
) -> tuple[dict[str, Any], list[str]]:
    """The recipe of a repository with one coreset more, and which of the scorer's configurations are no longer."""
    coresets = dict(there.get("coresets") or {})
    for name, other in coresets.items():
        if not _of_one_dataset(other["dataset"], entry["dataset"]):
            raise InputError(f"{repo_id!r} holds coresets by {name!r} of another dataset: push to another repository")
    before = coresets.get(scorer)
    removed: list[str] = []
    if before is not None:
        same = all(before[key] == entry[key] for key in ("digest", "selection"))
        if same and before["dataset"]["features"] == entry["dataset"]["features"]:
            # Of the same scores, what is there stays as it is: other budgets, rows, and what is known of them.
            kept = {name: made["stored"] for name, made in before["configs"].items()}
            made_now = {
                name: {**made, "stored": made["stored"] or kept.get(name, False)}
                for name, made in entry["configs"].items()
            }
            known = {name: before["dataset"][name] for name in ORIGIN if before["dataset"].get(name) is not None}
            entry = {
                **entry,
                **{name: entry[name] or before.get(name) for name in _KNOWN},
                "configs": {**before["configs"], **made_now},
                "splits": sorted({*entry["splits"], *before["splits"]}),
                "dataset": entry["dataset"] if "repo_id" in entry["dataset"] else {**entry["dataset"], **known},
            }
        else:
            was = [name for name, made in before["configs"].items() if made["stored"]]
            was += [before["full"]] if before["full"] else []
            removed = [name for name in was if name not in entry["configs"] and name != entry["full"]]
    coresets[scorer] = entry
    return {**there, "coresets": coresets}, removed


def _of_one_dataset(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    shared = one["content"].keys() & other["content"].keys()
    same_content = all(one["content"][column] == other["content"][column] for column in shared)
    return same_content and all(one.get(key) == other.get(key) for key in ("rows", "labels"))
