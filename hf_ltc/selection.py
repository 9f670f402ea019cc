"""The coreset order, and the rows that a budget keeps."""

import heapq
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Value

from .columns import read_column, with_columns
from .data import find_label_column, read_labels
from .errors import InputError

Balance = Literal["class", "proportional", "none"]
Keep = Literal["highest", "lowest"]

_TRAJECTORY = "loss_trajectory"


def coreset_order(
    scores: np.ndarray,
    labels: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    balance: Balance = "class",
    keep: Keep = "highest",
) -> np.ndarray:
    """Ranks rows so that every prefix of the order is the coreset of that size.

    - `"class"` deals one row per class and round, the best of each class first; a class that runs out drops out.
      Every prefix has equally many rows, to within one, of all classes that still have rows. Within a round the rows
      come best first, so that a prefix that ends inside a round gives its last rows to the classes with the best ones.
    - `"proportional"` keeps the share that each class has of the rows with a score: of a prefix of k rows it has fewer
      than one row more or less than k times its share (the chairman assignment problem, Tijdeman 1980, solved by
      taking the earliest deadline first). Divisor methods such as Webster's order are not as exact: with many small
      classes they stray by more than a row.
    - `"none"` goes by score alone.

    Ties are broken by row number. Rows without a score come after all others: dealt in turn to the class that has the
    fewest rows, or in proportion among themselves, or by row number.

    Args:
        scores (`np.ndarray`): float `(N,)`; NaN for a row that has no score, such as a flat trajectory.
        labels (`np.ndarray`, *optional*): int `(N,)`, the class of every row; not needed for `"none"`.
        rows (`np.ndarray`, *optional*): int `(N,)`, row numbers to break ties by; the positions if not given.
        balance (`str`, *optional*, defaults to `"class"`): `"class"`, `"proportional"` or `"none"`.
        keep (`str`, *optional*, defaults to `"highest"`): Which scores are best: `"highest"` or `"lowest"`.

    Returns:
        `np.ndarray`: int32 `(N,)`, the rank of every row, 0 the first pick.

    Raises:
        InputError: for an unknown option, arrays of different lengths, or no labels where they are needed.
    """
    _require("balance", balance, ("class", "proportional", "none"))
    _require("keep", keep, ("highest", "lowest"))
    scores = np.asarray(scores)
    for name, values in (("labels", labels), ("rows", rows)):
        if values is not None and len(values) != len(scores):
            raise InputError(f"{len(scores)} scores but {len(values)} {name}: give one of each a row")
    first = np.argsort(rows, kind="stable") if rows is not None else np.arange(len(scores))
    # Stable sorts in turn: by row number, then by score. NaN sorts last.
    score = scores[first]
    first = first[np.argsort(-score if keep == "highest" else score, kind="stable")]
    scored = len(scores) - int(np.count_nonzero(np.isnan(score)))
    if balance != "none":
        if labels is None:
            raise InputError(f"balance {balance!r} needs the labels: give them, or balance='none'")
        classes = np.unique(labels, return_inverse=True)[1].reshape(-1)[first]
        if balance == "class":
            turn = _turns(classes)
            blocks = [_stable_argsort(turn[:scored]), _stable_argsort(turn[scored:])]
        else:
            blocks = [_in_proportion(classes[:scored]), _in_proportion(classes[scored:])]
        first = np.concatenate([first[:scored][blocks[0]], first[scored:][blocks[1]]])
    ranks = np.empty(len(scores), dtype=np.int32)
    ranks[first] = np.arange(len(scores), dtype=np.int32)
    return ranks


def rank_coreset(
    dataset: Dataset,
    balance: Balance = "class",
    *,
    score_column: str = "ltc_score",
    rank_column: str | None = None,
    label_column: str | None = None,
    keep: Keep = "highest",
    exclude_negative: bool = False,
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

    Returns:
        `datasets.Dataset`: with one more column, int32. It is null for rows that cannot be chosen: those held out as
        validation samples (their `loss_trajectory` is null, or, without such a column, their score), and those with a
        negative score if `exclude_negative`. Rows that can be chosen but have no score, as their trajectory is flat,
        come last.

    Raises:
        InputError: if a column is missing or of another type, or a label is bad.
    """
    ranks, choosable = _ranked(dataset, balance, score_column, label_column, keep, exclude_negative)
    return _with_ranks(dataset, rank_column or _rank_name(score_column), ranks, choosable)


def in_coreset(ranks: Any, size: int) -> Any:
    """Whether rows belong to the coreset of a size, by their rank: for `filter`, of streamed datasets too.

        dataset.filter(in_coreset, fn_kwargs={"size": 5_000}, input_columns="ltc_rank", batched=True)

    Args:
        ranks (`int`, `None`, or a sequence of them): One rank, or a list, NumPy, Arrow, or torch array of ranks.
        size (`int`): Rows to keep.

    Returns:
        `bool`, or an array of them: false where the rank is null.

    Raises:
        InputError: if `size` is not a whole number of 1 or more.
    """
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise InputError(f"size is {size!r}: it must be a whole number of rows, 1 or more (see select_coreset)")
    if isinstance(ranks, pa.Scalar):
        ranks = ranks.as_py()
    if ranks is None:
        return False
    if isinstance(ranks, list):
        ranks = pa.array(ranks, type=pa.int64())
    if isinstance(ranks, (pa.Array, pa.ChunkedArray)):
        return pc.fill_null(pc.less(ranks, int(size)), False).to_numpy(zero_copy_only=False)
    # In NumPy and torch formats a null rank is NaN, which is less than nothing.
    below = ranks < size
    return bool(below) if np.ndim(ranks) == 0 else below


def coreset_size(pool: int, fraction: float | None = None, size: int | None = None) -> int:
    """The rows that a budget keeps, checked.

    Args:
        pool (`int`): Rows that could be chosen.
        fraction (`float`, *optional*): A share of them in (0, 1], rounded to whole rows, halves to the even number.
        size (`int`, *optional*): Or the rows to keep.

    Returns:
        `int`: from 1 to `pool`.

    Raises:
        InputError: if not exactly one of the two is given, or if it is out of range.
    """
    if (fraction is None) == (size is None):
        given = "neither is" if size is None else f"fraction {fraction!r} and size {size!r} are both"
        raise InputError(f"the budget is either a fraction or a size: {given} given")
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise InputError(f"fraction is {fraction!r}: it must be in (0, 1], or give a number of rows as size")
        rows = round(fraction * pool)
        if rows < 1:
            raise InputError(f"fraction {fraction!r} of the {pool} rows that could be chosen is no row: raise it")
        return rows
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
        raise InputError(f"size is {size!r}: it must be a whole number of rows, 1 or more")
    if size > pool:
        raise InputError(f"size is {size}, but only {pool} rows could be chosen: lower it")
    return int(size)


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
) -> Dataset:
    """Keeps the coreset of a budget.

    Args:
        dataset (`datasets.Dataset`): A scored dataset; shuffled, selected and formatted ones included.
        fraction (`float`, *optional*): Share in (0, 1] of the rows that could be chosen (see [`coreset_size`]).
        size (`int`, *optional*): Rows to keep, instead of a fraction.
        balance (`str`, *optional*, defaults to `"class"`): As in [`rank_coreset`].
        score_column (`str`, *optional*, defaults to `"ltc_score"`): As in [`rank_coreset`].
        rank_column (`str`, *optional*): As in [`rank_coreset`].
        label_column (`str`, *optional*): As in [`rank_coreset`].
        keep (`str`, *optional*, defaults to `"highest"`): As in [`rank_coreset`].
        exclude_negative (`bool`, *optional*, defaults to `False`): As in [`rank_coreset`].

    Returns:
        `datasets.Dataset`: the rows kept, in the order of the dataset, with their rank.

    Raises:
        InputError: for a budget out of range, and as [`rank_coreset`].
    """
    ranks, choosable = _ranked(dataset, balance, score_column, label_column, keep, exclude_negative)
    rows = coreset_size(int(np.count_nonzero(choosable)), fraction, size)
    ranked = _with_ranks(dataset, rank_column or _rank_name(score_column), ranks, choosable)
    return ranked.select(np.flatnonzero(choosable & (ranks < rows)))


def _turns(classes: np.ndarray) -> np.ndarray:
    """How many rows of its class come before each row."""
    order = _stable_argsort(classes)
    counts = np.bincount(classes)
    turn = np.empty(len(classes), dtype=np.int64)
    turn[order] = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return turn


def _in_proportion(classes: np.ndarray) -> np.ndarray:
    """Order of rows, given best first, in which every prefix has each class's share to within a row."""
    n = len(classes)
    turn, count = _turns(classes), np.bincount(classes)[classes]
    # Shares stay within a row exactly if the j-th row of a class of c takes one of the places that overlap
    # [j * n / c, (j + 1) * n / c). Such an order exists, and earliest deadline first finds it.
    release, deadline = turn * n // count, -(-(turn + 1) * n // count)
    order = _stable_argsort(deadline)
    if (release[order] <= np.arange(n)).all():
        return order
    due = np.empty(n, dtype=np.int64)
    due[order] = np.arange(n)
    by_release = _stable_argsort(release)
    waiting = due[by_release].tolist()
    opens = np.searchsorted(release[by_release], np.arange(n), side="right").tolist()
    ready: list[int] = []
    picked, seen = [], 0
    for until in opens:
        for job in waiting[seen:until]:
            heapq.heappush(ready, job)
        seen = until
        picked.append(heapq.heappop(ready))
    return order[picked]


def _stable_argsort(keys: np.ndarray) -> np.ndarray:
    """Stable argsort of non-negative integers; NumPy's radix sort takes those that fit 16 bits."""
    fits = len(keys) == 0 or keys.max() < 1 << 16
    return np.argsort(keys.astype(np.uint16) if fits else keys, kind="stable")


def _ranked(
    dataset: Dataset,
    balance: Balance,
    score_column: str,
    label_column: str | None,
    keep: Keep,
    exclude_negative: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks, int32 `(N,)`, -1 where a row cannot be chosen, and which can be, bool `(N,)`."""
    scores, choosable = _read_scores(dataset, score_column)
    if exclude_negative:
        choosable &= ~(scores < 0)
    labels = None
    if balance != "none":
        labels = read_labels(dataset, find_label_column(dataset, label_column))[choosable]
    ranks = np.full(len(scores), -1, dtype=np.int32)
    ranks[choosable] = coreset_order(scores[choosable], labels, None, balance, keep)
    return ranks, choosable


def _read_scores(dataset: Dataset, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores, NaN where there is none, and which rows can be chosen."""
    if not isinstance(dataset, Dataset):
        raise InputError(f"cannot rank a value of type {type(dataset).__name__}: give a datasets.Dataset, one split")
    if column not in dataset.column_names:
        raise InputError(
            f"no score column {column!r} in the dataset, which has {', '.join(map(repr, dataset.column_names))}: "
            "score it first (run.score, or dataset.map with a scorer), or name another score column"
        )
    stored = read_column(dataset, column)
    if not (pa.types.is_floating(stored.type) or pa.types.is_integer(stored.type)):
        raise InputError(f"column {column!r} holds {stored.type}, not numbers: name another score column")
    known = read_column(dataset, _TRAJECTORY) if _TRAJECTORY in dataset.column_names else stored
    scores = stored.cast(pa.float64(), safe=False).to_numpy() if stored.null_count else stored.to_numpy()
    return scores.astype(np.float64, copy=False), known.is_valid().to_numpy()


def _with_ranks(dataset: Dataset, column: str, ranks: np.ndarray, choosable: np.ndarray) -> Dataset:
    values = pa.array(ranks, mask=~choosable)
    return with_columns(dataset, {column: (values, Value("int32"))})


def _rank_name(score_column: str) -> str:
    return f"{score_column.removesuffix('_score')}_rank"


def _require(option: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InputError(f"{option} is {value!r}: it must be one of {', '.join(choices)}")
