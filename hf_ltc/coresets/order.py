"""The coreset order, of which every prefix is the coreset of that size."""

import heapq
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from ..config import TYPICAL_SHARE
from ..scores.typical_places import typical_places
from ..utils.errors import InputError

Balance = Literal["class", "proportional", "none"]
Keep = Literal["highest", "lowest"]


def coreset_order(
    scores: np.ndarray,
    labels: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    balance: Balance = "class",
    keep: Keep = "highest",
    typicality: np.ndarray | None = None,
    typical: float = TYPICAL_SHARE,
) -> np.ndarray:
    """Ranks rows so that every prefix of the order is the coreset of that size.

    - `"class"` takes one row from each class per round, the best of each class first; a class that runs out drops out.
      Every prefix has the same number of rows, to within one, from all classes that still have rows. Within a round
      the best rows come first, so a prefix that ends inside a round gets its last rows from the classes with the best
      ones.
    - `"proportional"` keeps the share of each class among the rows with a score: in a prefix of k rows, the number of
      its rows differs from k times its share by less than one (the chairman assignment problem, Tijdeman 1980, solved
      by taking the earliest deadline first). Divisor methods such as Webster's are not as exact: with many small
      classes they are off by more than a row.
    - `"none"` ignores classes.

    With `typicality`, the best rows of a class (or of all rows, with `"none"`) are its most typical ones, as many as
    `typical` says, and at least one. Then come the rows with the best scores among the others.

    Ties are broken by row number. Rows without a score come after all others: one at a time from the class that has
    the fewest rows so far (`"class"`), in proportion among themselves (`"proportional"`), or by row number (`"none"`).

    Args:
        scores (`np.ndarray`): float `(N,)`; NaN for rows without a score, such as those with a flat trajectory.
        labels (`np.ndarray`, *optional*): int `(N,)`, the class of every row; not needed for `"none"`.
        rows (`np.ndarray`, *optional*): int `(N,)`, row numbers to break ties by; the positions if not given.
        balance (`str`, *optional*, defaults to `"class"`): `"class"`, `"proportional"` or `"none"`.
        keep (`str`, *optional*, defaults to `"highest"`): Which scores are best: `"highest"` or `"lowest"`.
        typicality (`np.ndarray`, *optional*): float `(N,)`, from [`ltc_typicality`]; NaN for untypical rows.
        typical (`float`, *optional*, defaults to `0.1`):
            With `typicality`: how many typical rows there are. In [0, 1]: the share of the rows of a class with a
            score. 2 or more: a number of them, but a tenth of the class at most, and a tenth with `"none"`, which
            knows no classes.

    Returns:
        `np.ndarray`: int32 `(N,)`, the rank of every row; 0 is the first pick.

    Raises:
        InputError: for an unknown option, arrays of different lengths, or no labels where they are needed.
    """
    require_choice("balance", balance, get_args(Balance))
    require_choice("keep", keep, get_args(Keep))
    scores = np.asarray(scores)
    if scores.dtype.kind != "f":
        # Unsigned integers have no negative to sort by.
        scores = scores.astype(np.float64)
    for name, values in (("labels", labels), ("rows", rows), ("values of typicality", typicality)):
        if values is not None and len(values) != len(scores):
            raise InputError(f"{len(scores)} scores but {len(values)} {name}: give one of each a row")
    for name, values in (("scores", scores), ("labels", labels)):
        if values is not None and np.ndim(values) != 1:
            raise InputError(
                f"`{name}` has shape {tuple(np.shape(values))}: give one number for each row (of one-hot labels, "
                ".argmax(axis=1))"
            )
    typical = checked_typical(typical)
    classes = np.zeros(len(scores), dtype=np.int64)
    if balance != "none":
        if labels is None:
            raise InputError(f"`balance` {balance!r} needs the labels: give them, or balance='none'")
        classes = np.unique(labels, return_inverse=True)[1].reshape(-1)
    by_row = np.argsort(rows, kind="stable") if rows is not None else np.arange(len(scores))
    # Stable sorts in turn: by row number, then by score. NaN sorts last.
    score = scores[by_row]
    first = by_row[np.argsort(-score if keep == "highest" else score, kind="stable")]
    scored = len(scores) - int(np.count_nonzero(np.isnan(score)))
    if typicality is not None and typical:
        chosen = _typical_rows(by_row[~np.isnan(score)], classes, typicality, typical, balance)
        left = np.ones(len(scores), dtype=bool)
        left[chosen] = False
        first = np.concatenate([chosen, first[left[first]]])
    if balance != "none":
        classes = classes[first]
        if balance == "class":
            turn = turns(classes)
            blocks = [stable_argsort(turn[:scored]), stable_argsort(turn[scored:])]
        else:
            blocks = [_in_proportion(classes[:scored]), _in_proportion(classes[scored:])]
        first = np.concatenate([first[:scored][blocks[0]], first[scored:][blocks[1]]])
    ranks = np.empty(len(scores), dtype=np.int32)
    ranks[first] = np.arange(len(scores), dtype=np.int32)
    return ranks


def _typical_rows(
    rows: np.ndarray, classes: np.ndarray, typicality: np.ndarray, typical: float, balance: Balance
) -> np.ndarray:
    """The most typical ones of each class among some rows, which are in order of their numbers; best first."""
    places = typical_places(np.bincount(classes[rows]), typical, balance != "none")
    known = rows[~np.isnan(typicality[rows])]
    known = known[np.argsort(-typicality[known], kind="stable")]
    return known[turns(classes[known]) < places[classes[known]]]


def said_typical(typical: float, balance: Balance) -> str:
    """How many typical rows come first, for a reader."""
    if typical == 1:
        return "all rows are ranked by their typicality instead of their score"
    if typical > 1 and balance != "none":
        rows = f"{typical:,.0f} rows of each class (or {100 * TYPICAL_SHARE:g}% of it, if these are fewer)"
    else:
        share = f"{100 * (typical if typical <= 1 else TYPICAL_SHARE):g}%"
        # Only rows that may come first have a typicality.
        rows = f"rows, up to {share} of all," if balance == "none" else f"rows of each class, up to {share} of it,"
    return f"the first {rows} are typical rows"


def class_groups(classes: np.ndarray) -> list[np.ndarray]:
    """Positions of each class, increasing."""
    order = stable_argsort(classes)
    return np.split(order, np.flatnonzero(np.diff(classes[order])) + 1)


def turns(classes: np.ndarray) -> np.ndarray:
    """How many rows of its class come before each row."""
    order = stable_argsort(classes)
    counts = np.bincount(classes)
    turn = np.empty(len(classes), dtype=np.int64)
    turn[order] = np.arange(len(classes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return turn


def _in_proportion(classes: np.ndarray) -> np.ndarray:
    """Orders rows that are given best first, so that every prefix has each class's share to within a row."""
    n = len(classes)
    turn, count = turns(classes), np.bincount(classes)[classes]
    # Shares stay within a row exactly if the j-th row of a class of c takes one of the places that overlap
    # [j * n / c, (j + 1) * n / c). Such an order exists, and earliest deadline first finds it.
    release, deadline = turn * n // count, -(-(turn + 1) * n // count)
    order = stable_argsort(deadline)
    if (release[order] <= np.arange(n)).all():
        return order
    due = np.empty(n, dtype=np.int64)
    due[order] = np.arange(n)
    by_release = stable_argsort(release)
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


def stable_argsort(keys: np.ndarray) -> np.ndarray:
    """Stable argsort of non-negative integers; NumPy's radix sort takes those that fit 16 bits."""
    fits = len(keys) == 0 or keys.max() < 1 << 16
    return np.argsort(keys.astype(np.uint16) if fits else keys, kind="stable")


def checked_typical(typical: Any) -> float:
    """How many typical rows come first, as a number of Python: recipes keep it."""
    # A truth value is a number too, and True would be all rows.
    if isinstance(typical, int | float | np.number) and not isinstance(typical, bool) and 0 <= typical < 2**31:
        value = float(typical)
        if value <= 1:
            return value
        if value.is_integer():
            return int(value)
    raise InputError(
        f"`typical` is {typical!r}: it must be a share in [0, 1] of each class, 0 for the score alone, or a whole "
        "number of rows of each class, 2 or more"
    )


def require_choice(option: str, value: Any, choices: Sequence[str | None]) -> None:
    if value not in choices:
        raise InputError(f"`{option}` is {value!r}: it must be one of {', '.join(map(str, choices))}")
