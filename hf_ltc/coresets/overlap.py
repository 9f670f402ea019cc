"""How many rows the coresets of two scores share."""

from collections.abc import Sequence

import numpy as np

from ..config import TYPICAL_SHARE
from ..utils.errors import InputError
from .order import Balance, coreset_order


def overlap(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    budgets: Sequence[float] = (0.1, 0.3, 0.5),
    balance: Balance = "class",
    *,
    typicality: Sequence[np.ndarray] | None = None,
    typical: float = TYPICAL_SHARE,
) -> dict[float, float]:
    """Share of rows that the coresets of two scores have in common, at each budget.

    Args:
        first (`np.ndarray`): float `(N,)`.
        second (`np.ndarray`): float `(N,)`.
        labels (`np.ndarray`): int `(N,)`.
        budgets (`Sequence[float]`, *optional*, defaults to `(0.1, 0.3, 0.5)`): Fractions of the N rows.
        balance (`str`, *optional*, defaults to `"class"`): As for [`rank_coreset`].
        typicality (`Sequence[np.ndarray]`, *optional*):
            float `(N,)` each, from [`ltc_typicality`]; the order is that of the scores alone if not given.
        typical (`float`, *optional*, defaults to `0.1`): As for [`coreset_order`].

    Returns:
        `dict[float, float]`: the share at each budget; random coresets share as much as the budget itself.
    """
    ranks = [
        coreset_order(scores, labels, balance=balance, typicality=keys, typical=typical)
        for scores, keys in zip((first, second), typicality or (None, None))
    ]
    for fraction in budgets:
        if not 0 < fraction <= 1:
            raise InputError(f"the budget {fraction!r} must be inside (0, 1]")
    sizes = {fraction: max(1, round(fraction * len(labels))) for fraction in budgets}
    return {fraction: float(((ranks[0] < size) & (ranks[1] < size)).sum() / size) for fraction, size in sizes.items()}
