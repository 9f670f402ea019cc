"""What is pushed of a scored dataset: what the recipe says of it, its tables and their digests."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, List, Value

from ..coresets.choose import Selection
from ..coresets.scored import decided, find_classes
from ..coresets.select import rank_coreset, select_coreset
from ..coresets.summary import describe_coreset
from ..data.columns import (
    LOSS_TRAJECTORY,
    TRAJECTORY_SUFFIX,
    any_length,
    rank_name,
    read_column,
    typicality_name,
    with_columns,
)
from ..data.identity import dataset_identity
from ..data.inputs import require_dataset
from ..data.labels import InputColumns, read_labels
from ..recipe import Identity
from ..utils.errors import InputError
from .repository_recipe import ORIGIN, Coreset, Entry, Summary, budget_name, config_name, scorer_name


@dataclass(frozen=True)
class Table:
    """One split of one configuration. A new file begins after each of `cuts` rows."""

    config: str
    split: str
    rows: Dataset
    folder: str
    cuts: tuple[int, ...] = ()
    small_groups: bool = False

    @property
    def files(self) -> str:
        """The prefix of the paths of its files."""
        return f"{self.folder}/{self.split}-"


def describe_scored(
    scored: Dataset,
    score_column: str,
    label_column: str | None,
    selection: Selection,
    recorded: Identity,
) -> tuple[Entry, Dataset]:
    """Ranks a scored dataset, and describes it for the recipe."""
    # Balanced by another column, there are no 25 rows of each of its values.
    by_class = label_column in (None, recorded.label_column)
    selection = decided(scored, score_column, selection, recorded if by_class else None)
    is_recorded = recorded.classes is not None or recorded.label_column is not None
    # Without a recording, the columns tell whether there are classes.
    has_classes = recorded.classes != 0 if is_recorded else _has_classes(scored)
    if label_column is not None or has_classes or selection.needs_labels:
        label_column = find_classes(scored, label_column or recorded.label_column)
    ranked = rank_coreset(scored, score_column=score_column, label_column=label_column, **selection.ranking)
    rank_column = rank_name(score_column)
    if rank_column in scored.column_names and not _same(scored, ranked, rank_column):
        raise InputError(
            f"column {rank_column!r} ranks the rows in another order than {selection.ranking} does: give the options "
            "that the rows were ranked with, `balance` and `typical` too, or remove the column"
        )
    columns = user_columns(ranked, score_column, rank_column)
    texts = [name for name in InputColumns.of(recorded).texts if name in columns]
    identity = dataset_identity(ranked.select_columns(columns), label_column, text_columns=texts)
    ranks, scores = read_column(ranked, rank_column), read_column(ranked, score_column)
    pool = len(ranks) - ranks.null_count
    known = (*ORIGIN, "image_column", "text_column", "text_pair_column", "id_column", "task")
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
        digest=digest(ranked, label_column, score_column, rank_column),
        configs={},
        trajectories=False,
        scores=config_name("scores", scorer_name(score_column)),
        full=None,
        # Written as null where they are not known, as by all versions.
        more=dict.fromkeys(("family", "run", "full_features")),
    )
    return entry, ranked


def _has_classes(dataset: Dataset) -> bool:
    return any(isinstance(feature, ClassLabel) for feature in dataset.features.values())


def _same(one: Dataset, other: Dataset, column: str) -> bool:
    return bool(read_column(one, column).equals(read_column(other, column)))


def coreset_tables(
    entry: Entry,
    ranked: Dataset,
    fractions: Sequence[float],
    sizes: Sequence[int],
    scores_only: bool,
    full: bool,
    with_trajectories: bool,
) -> tuple[Entry, list[Table]]:
    """Selects the coresets and adds them to the entry; returns it with the tables that are pushed."""
    score, rank, label = entry.score_column, entry.rank_column, entry.label_column
    scorer, selection = scorer_name(score), entry.options
    added = added_columns(ranked, score, rank)
    columns = [*user_columns(ranked, score, rank), *added]
    tables = []
    configs: dict[str, Coreset] = {}
    texts = [name for name in InputColumns.of(entry.dataset).texts if name in columns]
    for fraction, size in dict.fromkeys([*((f, None) for f in fractions), *((None, s) for s in sizes)]):
        name = budget_name(scorer, fraction, size)
        if name in configs:
            raise InputError(f"two of `fractions` or `sizes` are so near that both are called {name!r}: give one")
        coreset = select_coreset(ranked, fraction, size, score_column=score, label_column=label, **selection.to_dict())
        summary = describe_coreset(
            coreset, ranked, score_column=score, label_column=label, exclude_negative=selection.exclude_negative
        )
        coreset = coreset.with_format(None).select_columns(columns)
        identity = dataset_identity(coreset.remove_columns(added), label, text_columns=texts)
        configs[name] = Coreset(
            fraction=fraction,
            size=len(coreset),
            stored=not scores_only,
            digest=digest(coreset, label, score, rank),
            features=features_digest(coreset.features),
            identity={key: value for key, value in identity.items() if key not in ("repo_id", "revision")},
            summary=Summary.from_dict(summary.to_dict()),
        )
        if not scores_only:
            tables.append(Table(name, "train", coreset, name))
    # These draw by the trajectories, so that loading another budget needs them.
    with_trajectories = with_trajectories or selection.coverage in ("beta", "clusters")
    plain = ranked.with_format(None)
    scores = scores_table(plain, label, score, rank, entry.id_column, with_trajectories)
    tables.append(Table(entry.scores, "train", scores, entry.scores))
    entry = replace(entry, configs=configs, trajectories=with_trajectories)
    if not full:
        return entry, tables
    ordered = coreset_first(plain.select_columns(columns), rank)
    config, cuts = config_name("full", scorer), tuple(made.size for made in configs.values())
    tables.append(Table(config, "train", ordered, config, cuts, small_groups=True))
    return replace(entry, full=config, full_features=features_digest(ordered.features)), tables


def further_splits(tables: Sequence[Table], splits: Mapping[str, Dataset], entry: Entry, folder: str) -> list[Table]:
    """The tables of further splits, which all coresets share: their files are uploaded once."""
    made = []
    # The whole dataset in coreset order has none: it is read by rank, and rows of other splits have no rank.
    with_rows = [table for table in tables if table.config in entry.configs]
    if splits and not with_rows:
        raise InputError("`splits` go with coresets: give `fractions` or `sizes` too")
    for split, rows in splits.items():
        if not re.fullmatch(r"\w+(\.\w+)*", split) or split == "train":
            raise InputError(f"a further split cannot be called {split!r}: use another name of letters and digits")
        require_dataset(rows, f"splits[{split!r}]")
        for table in with_rows:
            features = table.rows.features
            added = [name for name in added_names(entry.score_column, entry.rank_column) if name in features]
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


def user_columns(dataset: Dataset, score_column: str, rank_column: str) -> list[str]:
    """The columns of a coreset that are not added by scoring, and no trajectories."""
    added = added_names(score_column, rank_column)
    return [c for c in dataset.column_names if c not in added and not _is_trajectory(dataset, c)]


def added_names(score_column: str, rank_column: str) -> tuple[str, str, str]:
    """The columns that scoring and ranking add: score, typicality and rank."""
    return score_column, typicality_name(score_column), rank_column


def added_columns(dataset: Dataset, score_column: str, rank_column: str) -> list[str]:
    """Those of them that a dataset has: typicality is added by score variants alone."""
    return [name for name in added_names(score_column, rank_column) if name in dataset.column_names]


def _is_trajectory(dataset: Dataset, column: str) -> bool:
    """Whether a column is a recorded metric: in every row it is as long as the losses, and null where they are."""
    feature = dataset.features[column]
    if not column.endswith(TRAJECTORY_SUFFIX) or not isinstance(feature, List) or feature.feature != Value("float32"):
        return False
    if column == LOSS_TRAJECTORY or LOSS_TRAJECTORY not in dataset.column_names:
        return column == LOSS_TRAJECTORY
    one, other = (pc.list_value_length(dataset.data.column(name)) for name in (column, LOSS_TRAJECTORY))
    return bool(one.equals(other))


def scores_table(
    ranked: Dataset,
    label_column: str | None,
    score_column: str,
    rank_column: str,
    id_column: str | None = None,
    trajectories: bool = False,
) -> Dataset:
    """The table from which a coreset of any budget can be chosen: a line for each row, in the order of the dataset.

    Args:
        ranked (`datasets.Dataset`): The scored and ranked dataset.
        label_column (`str`, *optional*): Its class labels, which become the column `label`.
        score_column (`str`): The score.
        rank_column (`str`): The rank.
        id_column (`str`, *optional*): Unique ids, which become the column `id`.
        trajectories (`bool`, *optional*, defaults to `False`): With the columns of trajectories.

    Returns:
        `datasets.Dataset`: with `row`, the score, the rank and, where they are there, `label` and the typicality.
    """
    columns: dict[str, tuple[Any, object]] = {
        "row": (pa.array(np.arange(len(ranked), dtype=np.int64)), Value("int64")),
    }
    if label_column is not None:
        columns["label"] = (read_column(ranked, label_column), ranked.features[label_column])
    if id_column is not None:
        columns["id"] = (read_column(ranked, id_column), ranked.features[id_column])
    kept = added_columns(ranked, score_column, rank_column)
    if trajectories:
        kept += [column for column in ranked.column_names if _is_trajectory(ranked, column)]
    columns |= {column: any_length(read_column(ranked, column), ranked.features[column]) for column in kept}
    features = Features({name: feature for name, (_, feature) in columns.items()})
    return Dataset(pa.table([values for values, _ in columns.values()], schema=features.arrow_schema))


def digest(dataset: Dataset, label_column: str | None, score_column: str, rank_column: str) -> str:
    """Tells a table of labels, scores and ranks from any other, to the bit and in this order; hexadecimal SHA-256."""
    label = None if label_column is None else dataset.features[label_column]
    names = label.names if isinstance(label, ClassLabel) else None
    scores = read_column(dataset, score_column).cast(pa.float32(), safe=False).to_numpy()
    ranks = read_column(dataset, rank_column).fill_null(-1).to_numpy()
    # All NaNs get the same bits.
    scores = np.where(np.isnan(scores), np.float32("nan"), scores).astype("<f4")
    whole = hashlib.sha256(json.dumps(names).encode())
    classes = np.empty(0, dtype="<i8") if label_column is None else _classes(dataset, label_column)
    for values in (classes, scores, ranks.astype("<i4")):
        whole.update(len(values).to_bytes(8, "little") + values.tobytes())
    return whole.hexdigest()


def features_digest(features: Features) -> str:
    """Tells columns, their types and the names of their classes from any other; hexadecimal SHA-256."""
    return hashlib.sha256(json.dumps([*features.to_dict().items()]).encode()).hexdigest()


def _classes(dataset: Dataset, label_column: str) -> np.ndarray:
    if isinstance(dataset.features[label_column], ClassLabel):
        return read_labels(dataset, label_column).astype("<i8")
    text = json.dumps(read_column(dataset, label_column).to_pylist(), default=str)
    return np.frombuffer(text.encode(), dtype=np.uint8)


def coreset_first(ranked: Dataset, rank_column: str) -> Dataset:
    """The dataset in coreset order; rows without a rank come last."""
    ranks = read_column(ranked, rank_column).fill_null(np.iinfo(np.int32).max).to_numpy()
    return ranked.select(np.argsort(ranks, kind="stable"))
