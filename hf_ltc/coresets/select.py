"""Datasets in coreset order, and the rows of them that a budget keeps."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Value

from ..config import TYPICAL_SHARE
from ..data.columns import rank_name, read_column, with_columns
from ..scores.mapped_batches import ARROW, on_host
from ..scores.reliability import doubt_of_hard
from ..utils.errors import InputError, LTCWarning
from .choose import ClusterOrder, Coverage, Selection, choose, rank
from .order import Balance, Keep
from .scored import (
    balanced_by,
    decided,
    read_classes,
    read_clusters,
    read_mean_losses,
    read_probability,
    read_scores,
    read_typicality,
)

_COLUMNS = ("score_column", "rank_column", "label_column")


def rank_coreset(
    dataset: Dataset,
    balance: Balance | str = "class",
    *,
    score_column: str = "ltc_score",
    rank_column: str | None = None,
    label_column: str | None = None,
    keep: Keep = "highest",
    exclude_negative: bool = False,
    typical: float | None = None,
) -> Dataset:
    """Adds the rank of every row in the coreset order: the coreset of n rows is `rank < n`.

    See [`coreset_order`] for the order. No image is decoded and no row rewritten.

    Args:
        dataset (`datasets.Dataset`): A scored dataset; shuffled, selected and formatted ones included. Ties are
            broken by the position in it.
        balance (`str`, *optional*, defaults to `"class"`):
            `"class"`, `"proportional"` or `"none"`; or a column, such as `"source"`, to balance by its values instead
            of the classes. If the column has one of these three names, give it as `label_column`. Rows without
            classes need `"none"`.
        score_column (`str`, *optional*, defaults to `"ltc_score"`): Any column of numbers.
        rank_column (`str`, *optional*):
            The column to add or replace; `x_rank` for a score column `x_score` if not given.
        label_column (`str`, *optional*): Column with the class labels; found by its feature type if not given.
        keep (`str`, *optional*, defaults to `"highest"`): Which scores are best: `"highest"` or `"lowest"`.
        exclude_negative (`bool`, *optional*, defaults to `False`): Do not rank rows with a negative score.
        typical (`float`, *optional*):
            How many rows of each class come first, by typicality (the column `x_typicality` for a score column
            `x_score`, which [`LTCScorer`] and [`Trajectories.score`] add), of those that have one: a share in [0, 1],
            or a number of 2 or more, but a tenth of the class at most (with `"none"`, a tenth of all rows); 0 for the
            score alone, as in the papers. If not given, and there is such a column: 1 if all rows with a score have a
            typicality (99% of them will do), and 0.1 otherwise (of images, 25 rows of each class have one). 0 without
            such a column, or if the lowest scores are best.

    Returns:
        `datasets.Dataset`: with one more column, int32. It is null for rows that are not candidates: those held out as
            validation samples (see [`recorded_rows`]), and those with a negative score if `exclude_negative`.
            Candidate rows without a score, because their trajectory is flat, come last.

    Warns:
        LTCWarning: if a larger share of typical rows is asked for than has a typicality.

    Raises:
        InputError: if a column is missing or of another type, or a label is bad.
    """
    way, label_column = balanced_by(dataset, balance, label_column)
    selection = Selection(balance=way, keep=keep, exclude_negative=exclude_negative, typical=typical)
    selection = decided(dataset, score_column, selection)
    scores, recorded = read_scores(dataset, score_column, rank_column)
    labels = read_classes(dataset, label_column) if selection.needs_labels else None
    typicality = read_typicality(dataset, score_column, selection)
    _warn_of_few(scores, typicality, selection.typical or 0.0)
    ranks = rank(scores, labels, selection, recorded, typicality)
    return _with_ranks(dataset, rank_column or rank_name(score_column), ranks)


def in_coreset(ranks: Any, size: int) -> Any:
    """Whether rows belong to the coreset of a given size, by their rank; for `filter`, also of streamed datasets.

        dataset.filter(in_coreset, fn_kwargs={"size": 5_000}, input_columns="ltc_rank", batched=True)

    Args:
        ranks (`int`, `None`, or a sequence of them):
            One rank, or ranks in any format: a list, an array of NumPy, Arrow or torch, a series of pandas or polars.
        size (`int`): Rows to keep.

    Returns:
        `bool`, or an array of them: false where the rank is null.

    Raises:
        InputError: if `size` is not a whole number of 1 or more.
    """
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise InputError(f"`size` is {size!r}: it must be a whole number of rows, 1 or more (see select_coreset)")
    if isinstance(ranks, pa.Scalar):
        ranks = ranks.as_py()
    ranks = on_host(ranks)
    # Streams give NumPy arrays of objects, None among them, and lists of tensors.
    if isinstance(ranks, (Sequence, pd.Series)) or (isinstance(ranks, np.ndarray) and ranks.dtype.kind == "O"):
        ranks = pa.array([on_host(rank) for rank in ranks], from_pandas=True)
    if isinstance(ranks, ARROW):
        return pc.fill_null(pc.less(ranks, int(size)), False).to_numpy(zero_copy_only=False)
    if ranks is None or ranks is pd.NA:
        return False
    # In NumPy, torch and pandas formats a null rank is NaN, which is less than nothing.
    below = ranks < size
    return bool(below) if np.ndim(ranks) == 0 else below


def select_coreset(
    dataset: Dataset,
    fraction: float | None = None,
    size: int | None = None,
    *,
    balance: Balance | str = "class",
    score_column: str = "ltc_score",
    rank_column: str | None = None,
    label_column: str | None = None,
    keep: Keep = "highest",
    exclude_negative: bool = False,
    min_per_class: int = 0,
    coverage: Coverage | None = None,
    cut: float = 0.1,
    beta_exponent: float = 4.0,
    seed: int = 0,
    typical: float | None = None,
    clusters: int = 100,
    cluster_order: ClusterOrder = "random",
) -> Dataset:
    """Keeps the coreset of a budget: the first rows of the coreset order, or rows sampled over the whole range of
    scores.

    Without `coverage` and `min_per_class`, the coreset consists of the rows with `rank < size`, so coresets of
    different budgets are nested. With `coverage`, every class keeps the same number of rows as in that coreset (with
    `balance="none"` and no `min_per_class`, all rows count as one class), but the rows are sampled:

    - `"stratified"` (CCS, Zheng et al. 2023, arXiv 2210.15809): the share `cut` of the rows at the end of the order,
      the hardest or mislabeled ones, is left out. The others are divided into 50 strata of equal score width, and the
      same number of rows is drawn at random from each (if a stratum is too small, larger ones give more).
    - `"beta"` (DUAL, Cho et al. 2025, arXiv 2502.06905): rows are drawn one after another. The odds of a row are its
      score times the density of Beta(16 - b, b) at its mean probability of the true class, the mean of exp(-loss) over
      `loss_trajectory`; b = 15 (1 - m) (1 - r ** `beta_exponent`), where r is the share of rows left out and m is the
      mean probability of the ten rows with the highest scores. The paper has exponents of 5.5, 4 and 11 for CIFAR-10,
      CIFAR-100 and ImageNet. Rows with a score of 0 or less have no odds and are drawn after all others.
    - `"clusters"` (S2L, Yang et al. 2024, arXiv 2403.07384): rows are clustered by k-means on `loss_trajectory`, with
      a number of clusters for each class in proportion to its rows (with `balance="none"`, all rows at once, as in the
      paper). All clusters give the same number of rows; if a cluster is too small, larger ones give more.

    Args:
        dataset (`datasets.Dataset`): A scored dataset; shuffled, selected and formatted ones included.
        fraction (`float`, *optional*): Share in (0, 1] of the candidate rows (see [`coreset_size`]).
        size (`int`, *optional*): Rows to keep, instead of a fraction.
        balance (`str`, *optional*, defaults to `"class"`): As for [`rank_coreset`].
        score_column (`str`, *optional*, defaults to `"ltc_score"`): As for [`rank_coreset`].
        rank_column (`str`, *optional*): As for [`rank_coreset`].
        label_column (`str`, *optional*): As for [`rank_coreset`].
        keep (`str`, *optional*, defaults to `"highest"`): As for [`rank_coreset`].
        exclude_negative (`bool`, *optional*, defaults to `False`): As for [`rank_coreset`].
        min_per_class (`int`, *optional*, defaults to `0`):
            Minimum number of rows of each class, or all if it has fewer; the rest of the budget goes by rank.
        coverage (`str`, *optional*): `"stratified"`, `"beta"` or `"clusters"`.
        cut (`float`, *optional*, defaults to `0.1`):
            For `"stratified"`: the share of each class to leave out, in [0, 1); less if the budget needs more rows.
        beta_exponent (`float`, *optional*, defaults to `4.0`): For `"beta"`: how fast easier rows gain odds.
        seed (`int`, *optional*, defaults to `0`): Seed of the draws.
        typical (`float`, *optional*): As for [`rank_coreset`]; ignored with `coverage`.
        clusters (`int`, *optional*, defaults to `100`): For `"clusters"`: the number of clusters.
        cluster_order (`str`, *optional*, defaults to `"random"`):
            For `"clusters"`: which rows of a cluster are kept, `"random"` ones or the `"best"` by the score.

    Returns:
        `datasets.Dataset`: the rows kept, in the order of the dataset, in its format. Their rank is that of
        [`rank_coreset`] with the same options; a rank column that says otherwise is replaced.

    Warns:
        LTCWarning: if less than a fifth is kept, and these are the hardest rows; if a larger share of typical rows is
            asked for than has a typicality; and if `typical` is not given, and the existing rank column, which is
            replaced, has another order.

    Raises:
        InputError: for a budget or an option out of range, and as [`rank_coreset`].
    """
    way, label_column = balanced_by(dataset, balance, label_column)
    selection = Selection(
        fraction,
        size,
        way,
        keep,
        exclude_negative,
        min_per_class,
        coverage,
        cut,
        beta_exponent,
        seed,
        typical,
        clusters,
        cluster_order,
    )
    chosen = _choose(dataset, selection, score_column, rank_column, label_column)
    return chosen.ranked.select(np.flatnonzero(chosen.kept))


def split_coreset(
    dataset: Dataset, fraction: float | None = None, size: int | None = None, **options: Any
) -> DatasetDict:
    """Splits a scored dataset into the coreset of a budget and the remaining rows.

    Args:
        dataset (`datasets.Dataset`): A scored dataset.
        fraction (`float`, *optional*): As for [`select_coreset`].
        size (`int`, *optional*): As for [`select_coreset`].
        **options: The further options of [`select_coreset`].

    Returns:
        `datasets.DatasetDict`: `coreset`, as [`select_coreset`] keeps it; `conflicting`, the other rows with a
        negative score (their losses rise when those of the validation samples fall); and `rest`. With wrong labels in
        the data, models were better without the conflicting rows than with them (docs/guides/audit.md). Rows held out
        as validation samples are in none of the three. All keep the order of the dataset, and the ranks.

    Raises:
        InputError: as [`select_coreset`].
    """
    columns = {name: options.pop(name) for name in _COLUMNS if name in options}
    options["balance"], columns["label_column"] = balanced_by(
        dataset, options.get("balance", "class"), columns.get("label_column")
    )
    chosen = _choose(dataset, Selection(fraction, size, **options), **columns)
    left = chosen.recorded & ~chosen.kept
    negative = chosen.scores < 0
    parts = {"coreset": chosen.kept, "rest": left & ~negative, "conflicting": left & negative}
    return DatasetDict({name: chosen.ranked.select(np.flatnonzero(rows)) for name, rows in parts.items()})


@dataclass(frozen=True)
class _Chosen:
    ranked: Dataset
    scores: np.ndarray
    recorded: np.ndarray
    kept: np.ndarray


def _choose(
    dataset: Dataset,
    selection: Selection,
    score_column: str = "ltc_score",
    rank_column: str | None = None,
    label_column: str | None = None,
) -> _Chosen:
    is_usual, selection = selection.typical is None, decided(dataset, score_column, selection)
    scores, recorded = read_scores(dataset, score_column, rank_column)
    labels = read_classes(dataset, label_column) if selection.needs_labels else None
    typicality = read_typicality(dataset, score_column, selection)
    _warn_of_few(scores, typicality, selection.typical or 0.0, stacklevel=4)
    ranks = rank(scores, labels, selection, recorded, typicality)
    probability = read_probability(dataset) if selection.coverage == "beta" else None
    clusters = read_clusters(dataset, ranks >= 0, labels, selection) if selection.coverage == "clusters" else None
    kept = choose(scores, labels, selection, probability=probability, clusters=clusters, ranks=ranks)
    rank_column = rank_column or rank_name(score_column)
    chosen = _Chosen(_with_ranks(dataset, rank_column, ranks), scores, recorded, kept)
    if is_usual and _has_other_order(dataset, rank_column, ranks, scores):
        warnings.warn(
            f"column {rank_column!r} has another order of these rows than {selection.ranking} gives, and is replaced: "
            "filter by it (in_coreset) to keep that order, or give the options that the rows were ranked with, "
            "`balance` and `typical` too",
            LTCWarning,
            stacklevel=3,
        )
    _warn_of_hard(dataset, chosen, labels)
    return chosen


def _warn_of_few(scores: np.ndarray, typicality: np.ndarray | None, typical: float, stacklevel: int = 3) -> None:
    """Warns where a larger share of typical rows is asked for than has a typicality, as after scoring images."""
    if typicality is None or not TYPICAL_SHARE < typical <= 1:
        return
    scored = ~np.isnan(scores)
    asked, known = typical * np.count_nonzero(scored), np.count_nonzero(scored & ~np.isnan(typicality))
    if known < 0.9 * asked:
        warnings.warn(
            f"`typical` {typical:g} asks for {asked:,.0f} typical rows, and {known:,} have a typicality: score the "
            f"dataset with `typical` {typical:g} (run.score, hf-ltc score) to have all of them",
            LTCWarning,
            stacklevel=stacklevel,
        )


def _has_other_order(dataset: Dataset, rank_column: str, ranks: np.ndarray, scores: np.ndarray) -> bool:
    """Whether a dataset has ranks of another order, on the rows that are ranked in both."""
    if rank_column not in dataset.column_names:
        return False
    stored = read_column(dataset, rank_column)
    if not pa.types.is_integer(stored.type):
        return False
    before = stored.fill_null(-1).to_numpy()
    both = np.flatnonzero((before >= 0) & (ranks >= 0))
    # By their scores: ties are broken by the position, which another order of the dataset has changed.
    one, other = (scores[both[np.argsort(order[both], kind="stable")]] for order in (before, ranks))
    return not np.array_equal(one, other, equal_nan=True)


def _warn_of_hard(dataset: Dataset, chosen: "_Chosen", labels: np.ndarray | None) -> None:
    if (losses := read_mean_losses(dataset)) is None:
        return
    pool = chosen.recorded
    # A choice without classes may be of rows that have none: all are one class then.
    labels = np.zeros(len(pool), dtype=np.int64) if labels is None else labels
    if (doubt := doubt_of_hard(chosen.kept[pool], losses[pool], labels[pool])) is not None:
        warnings.warn(doubt, LTCWarning, stacklevel=4)


def _with_ranks(dataset: Dataset, column: str, ranks: np.ndarray) -> Dataset:
    values = pa.array(ranks, mask=ranks < 0)
    if dataset.features.get(column) == Value("int32") and read_column(dataset, column).combine_chunks() == values:
        return dataset
    return with_columns(dataset, {column: (values, Value("int32"))})
