"""Datasets in coreset order, and the rows of them that a budget keeps."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Value

from ..data.columns import LOSS_TRAJECTORY, LTC_SCORE, rank_name, read_column, typicality_name, with_columns
from ..data.inputs import require_dataset
from ..data.labels import class_names, find_label_column, read_labels
from ..scores.mapped_batches import ARROW, on_host
from ..scores.reliability import doubt_of_hard
from ..utils.errors import InputError, LTCWarning
from .choose import ClusterOrder, Coverage, Selection, choose, mean_probability, rank, recorded_mean
from .order import Balance, Keep
from .sampling import like_trajectories

_COLUMNS = ("score_column", "rank_column", "label_column")


def rank_coreset(
    dataset: Dataset,
    balance: Balance = "class",
    *,
    score_column: str = "ltc_score",
    rank_column: str | None = None,
    label_column: str | None = None,
    keep: Keep = "highest",
    exclude_negative: bool = False,
    typical: float | None = None,
) -> Dataset:
    """Adds the rank of every row in the coreset order: the coreset of a size is `rank < size`.

    See [`coreset_order`] for the order. No image is decoded and no row rewritten.

    Args:
        dataset (`datasets.Dataset`): A scored dataset; shuffled, selected and formatted ones included. Ties are
            broken by the position in it.
        balance (`str`, *optional*, defaults to `"class"`): `"class"`, `"proportional"` or `"none"`.
        score_column (`str`, *optional*, defaults to `"ltc_score"`): Any column of numbers.
        rank_column (`str`, *optional*):
            The column to add or replace; `x_rank` for a score column `x_score` if not given.
        label_column (`str`, *optional*): Column with the class labels; found by its feature type if not given.
        keep (`str`, *optional*, defaults to `"highest"`): Which scores are best: `"highest"` or `"lowest"`.
        exclude_negative (`bool`, *optional*, defaults to `False`): Give rows with a negative score no rank.
        typical (`float`, *optional*):
            Share of each class that comes first, chosen by typicality (the column `x_typicality` for a score column
            `x_score`, which [`LTCScorer`] adds); 0 for the score alone, as the papers have it. If not given, a tenth
            where there is that column, and 0 where there is none or the lowest scores are best.

    Returns:
        `datasets.Dataset`: with one more column, int32. It is null for rows that are no candidates: those held out
        as validation samples (see [`recorded_rows`]), and those with a negative score if `exclude_negative`.
        Candidate rows without a score, as their trajectory is flat, come last.

    Raises:
        InputError: if a column is missing or of another type, or a label is bad.
    """
    selection = Selection(balance=balance, keep=keep, exclude_negative=exclude_negative, typical=typical)
    scores, recorded = read_scores(dataset, score_column, rank_column)
    labels = _read_classes(dataset, label_column) if selection.needs_labels else None
    ranks = rank(scores, labels, selection, recorded, read_typicality(dataset, score_column, selection))
    return _with_ranks(dataset, rank_column or rank_name(score_column), ranks)


def in_coreset(ranks: Any, size: int) -> Any:
    """Whether rows belong to the coreset of a size, by their rank: for `filter`, of streamed datasets too.

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
    balance: Balance = "class",
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
    """Keeps the coreset of a budget: the first rows of the coreset order, or rows drawn from all over the scores.

    Without `coverage` and `min_per_class` the coreset is the rows with `rank < size`, so those of different budgets
    are nested. With `coverage`, every class keeps as many rows as it has in that coreset (with `balance="none"` and no
    `min_per_class` all rows count as one class), but rows drawn among its own:

    - `"stratified"` (CCS, Zheng et al. 2023, arXiv 2210.15809): the share `cut` of the rows at the far end of the
      order, the hardest or mislabeled ones, is left out; the others are divided into 50 strata of equal score width,
      from which equally many rows are drawn at random (what a small stratum lacks comes from the larger ones).
    - `"beta"` (DUAL, Cho et al. 2025, arXiv 2502.06905): rows are drawn one after another. The odds of a row are its
      score times the density of Beta(16 - b, b) at its mean probability of the true class, the mean of exp(-loss) over
      `loss_trajectory`; b = 15 (1 - m) (1 - r ** `beta_exponent`), where r is the share of rows left out and m is the
      mean probability of the ten rows with the highest scores. The paper has exponents of 5.5, 4 and 11 for CIFAR-10,
      CIFAR-100 and ImageNet. Rows with a score of 0 or less have no odds and are drawn after all others.
    - `"clusters"` (S2L, Yang et al. 2024, arXiv 2403.07384): rows are clustered by k-means on `loss_trajectory`, in
      each class as many clusters as its share of `clusters` (with `balance="none"` in all rows at once, as in the
      paper). All clusters give equally many rows, and what the smallest lack comes from the larger ones.

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
            Rows that each class keeps at least, or all of them if it has fewer; the rest of the budget goes by rank.
        coverage (`str`, *optional*): `"stratified"`, `"beta"` or `"clusters"`.
        cut (`float`, *optional*, defaults to `0.1`):
            For `"stratified"`: the share of each class to leave out, in [0, 1), or less where the budget needs more.
        beta_exponent (`float`, *optional*, defaults to `4.0`): For `"beta"`: how fast easier rows gain odds.
        seed (`int`, *optional*, defaults to `0`): Seed of the draws.
        typical (`float`, *optional*): As for [`rank_coreset`]; `coverage` draws rows by the score, whatever is given.
        clusters (`int`, *optional*, defaults to `100`): For `"clusters"`: how many there are.
        cluster_order (`str`, *optional*, defaults to `"random"`):
            For `"clusters"`: which rows of a cluster are kept, `"random"` ones or the `"best"` by the score.

    Returns:
        `datasets.Dataset`: the rows kept, in the order of the dataset, in its format. Their rank is that of
        [`rank_coreset`] with the same options; a rank column that says otherwise is replaced.

    Warns:
        LTCWarning: where less than a fifth is kept, and these are the hardest rows; and where `typical` is not given,
            and the rank column that is replaced has another order.

    Raises:
        InputError: for a budget or an option out of range, and as [`rank_coreset`].
    """
    selection = Selection(
        fraction,
        size,
        balance,
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
    """Splits a scored dataset into the coreset of a budget and the rows that it leaves.

    Args:
        dataset (`datasets.Dataset`): A scored dataset.
        fraction (`float`, *optional*): As for [`select_coreset`].
        size (`int`, *optional*): As for [`select_coreset`].
        **options: The further options of [`select_coreset`].

    Returns:
        `datasets.DatasetDict`: `coreset`, as [`select_coreset`] keeps it; `conflicting`, the other rows with a
        negative score (their losses rise when those of the validation samples fall); and `rest`. Where labels were
        wrong, models were better without the conflicting rows than with them (docs/audit.md). Rows held out as
        validation samples are in none of them. All keep the order of the dataset, and have their rank.

    Raises:
        InputError: as [`select_coreset`].
    """
    columns = {name: options.pop(name) for name in _COLUMNS if name in options}
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
    scores, recorded = read_scores(dataset, score_column, rank_column)
    labels = _read_classes(dataset, label_column) if selection.needs_labels else None
    ranks = rank(scores, labels, selection, recorded, read_typicality(dataset, score_column, selection))
    probability = read_probability(dataset) if selection.coverage == "beta" else None
    clusters = read_clusters(dataset, ranks >= 0, labels, selection) if selection.coverage == "clusters" else None
    kept = choose(scores, labels, selection, probability=probability, clusters=clusters, ranks=ranks)
    rank_column = rank_column or rank_name(score_column)
    chosen = _Chosen(_with_ranks(dataset, rank_column, ranks), scores, recorded, kept)
    if selection.typical is None and _has_other_order(dataset, rank_column, ranks, scores):
        ranking = decided(dataset, score_column, selection).ranking
        warnings.warn(
            f"column {rank_column!r} has another order of these rows than {ranking} gives, and is replaced: filter by "
            "it (in_coreset) to keep that order, or give the options that the rows were ranked with, `typical` too",
            LTCWarning,
            stacklevel=3,
        )
    _warn_of_hard(dataset, chosen, labels)
    return chosen


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


def decided(dataset: Dataset, score_column: str, selection: Selection) -> Selection:
    """A selection with the share of typical rows that a dataset is ranked with, checked."""
    column = typicality_name(score_column)
    there = column in dataset.column_names
    found = selection.decided(there)
    if found.typical and not there:
        raise InputError(
            f"`typical` {found.typical!r} needs the column {column!r}, which the dataset has not: give typical=0"
            + (", or score it with run.score or an LTCScorer" if score_column == LTC_SCORE else "")
        )
    return found


def read_typicality(dataset: Dataset, score_column: str, selection: Selection) -> np.ndarray | None:
    """The typicality of each row, float64 `(N,)`, NaN where there is none; nothing where it is not needed."""
    if not decided(dataset, score_column, selection).typical:
        return None
    column = typicality_name(score_column)
    stored = read_column(dataset, column)
    check_numbers(stored.type, column)
    return np.asarray(stored.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def read_probability(dataset: Dataset) -> np.ndarray:
    """Mean over epochs of the probability of the true class, float64 `(N,)`; NaN for rows without a trajectory."""
    return _of_trajectories(_read_trajectories(dataset, "beta"), mean_probability)


def read_clusters(
    dataset: Dataset, candidates: np.ndarray, labels: np.ndarray | None, selection: Selection
) -> np.ndarray:
    """The cluster of each row's trajectory, int64 `(N,)`; -1 for rows that are no candidates, bool `(N,)`."""
    stored = _read_trajectories(dataset, "clusters").filter(pa.array(candidates))
    losses = stored.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(stored), -1)
    groups = np.zeros(len(stored), dtype=np.int64) if labels is None else labels[candidates]
    clusters = np.full(len(candidates), -1, dtype=np.int64)
    clusters[candidates] = like_trajectories(losses, groups, selection.clusters, selection.seed)
    return clusters


def _read_trajectories(dataset: Dataset, coverage: str) -> pa.ChunkedArray:
    if LOSS_TRAJECTORY not in dataset.column_names:
        raise InputError(f"coverage {coverage!r} needs the column {LOSS_TRAJECTORY!r}: run.attach(dataset) adds it")
    stored = read_column(dataset, LOSS_TRAJECTORY)
    if len(lengths := _lengths(stored)) > 1:
        shown = ", ".join(map(str, lengths))
        raise InputError(f"column {LOSS_TRAJECTORY!r} has lists of different lengths ({shown}): attach one recording")
    return stored


def _lengths(trajectories: pa.ChunkedArray) -> list[int]:
    return pc.unique(pc.list_value_length(trajectories).drop_null()).to_pylist()


def _of_trajectories(stored: pa.ChunkedArray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A function of losses float32 `(n, L)`, float64 `(N,)`; NaN for rows without a trajectory."""
    means = []
    for chunk in stored.chunks:
        mean = np.full(len(chunk), np.nan)
        known = chunk.is_valid().to_numpy(zero_copy_only=False)
        losses = chunk.drop_null().flatten().to_numpy(zero_copy_only=False)
        if known.any():
            mean[known] = function(losses.reshape(int(known.sum()), -1))
        means.append(mean)
    return np.concatenate(means) if means else np.zeros(0)


def _warn_of_hard(dataset: Dataset, chosen: "_Chosen", labels: np.ndarray | None) -> None:
    if LOSS_TRAJECTORY not in dataset.column_names:
        return
    stored, pool = read_column(dataset, LOSS_TRAJECTORY), chosen.recorded
    if not pa.types.is_nested(stored.type) or len(_lengths(stored)) != 1:
        return
    # A choice without classes may be of rows that have none: all are one class then.
    labels = np.zeros(len(pool), dtype=np.int64) if labels is None else labels
    losses = _of_trajectories(stored, recorded_mean)
    if (doubt := doubt_of_hard(chosen.kept[pool], losses[pool], labels[pool])) is not None:
        warnings.warn(doubt, LTCWarning, stacklevel=4)


def _read_classes(dataset: Dataset, label_column: str | None) -> np.ndarray:
    column = find_label_column(dataset, label_column)
    # Named, since a dataset of one class can be ranked too.
    return read_labels(dataset, column, class_names(dataset, column))


def recorded_rows(
    scores: pa.ChunkedArray, trajectories: pa.ChunkedArray | None, ranks: pa.ChunkedArray | None
) -> pa.ChunkedArray:
    """Which rows were recorded: all others were held out as validation samples, and are never chosen.

    Flat rows, which are candidates, and rows held out both have a null score. Trajectories tell the two apart; without
    them ranks do, if there are any, since only a flat row has one. NaN, into which formats of NumPy, torch and pandas
    turn null, tells nothing.

    Args:
        scores (`pyarrow.ChunkedArray`): The column of scores.
        trajectories (`pyarrow.ChunkedArray`, *optional*): The column `loss_trajectory`, if there is one.
        ranks (`pyarrow.ChunkedArray`, *optional*): The column of ranks by this score, if there is one.

    Returns:
        `pyarrow.ChunkedArray`: booleans, none of them null.
    """
    if trajectories is not None:
        return trajectories.is_valid()
    known = pc.invert(pc.is_nan(scores.cast(pa.float64(), safe=False)))
    if ranks is None:
        return pc.fill_null(known, False)
    # Null where the score is.
    return pc.coalesce(known, pc.invert(ranks.is_null(nan_is_null=True)))


def read_scores(dataset: Dataset, column: str, rank_column: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scores, NaN where there is none, and which rows are candidates; see [`recorded_rows`]."""
    require_dataset(dataset, "dataset")
    if column not in dataset.column_names:
        raise InputError(
            f"no score column {column!r} in the dataset, which has {', '.join(map(repr, dataset.column_names))}: "
            "score it first (run.score, or dataset.map with a scorer), or name another score column"
        )
    stored = read_column(dataset, column)
    check_numbers(stored.type, column)
    trajectories, ranks = (
        read_column(dataset, name) if name in dataset.column_names else None
        for name in (LOSS_TRAJECTORY, rank_column or rank_name(column))
    )
    scores = stored.cast(pa.float64(), safe=False).to_numpy() if stored.null_count else stored.to_numpy()
    return scores.astype(np.float64, copy=False), recorded_rows(stored, trajectories, ranks).to_numpy()


def check_numbers(held: pa.DataType, column: str) -> None:
    # A column of nulls alone has no scores, and no other type.
    if not (pa.types.is_floating(held) or pa.types.is_integer(held) or pa.types.is_null(held)):
        raise InputError(f"column {column!r} holds {held}, not numbers: name another score column")


def _with_ranks(dataset: Dataset, column: str, ranks: np.ndarray) -> Dataset:
    values = pa.array(ranks, mask=ranks < 0)
    if dataset.features.get(column) == Value("int32") and read_column(dataset, column).combine_chunks() == values:
        return dataset
    return with_columns(dataset, {column: (values, Value("int32"))})
