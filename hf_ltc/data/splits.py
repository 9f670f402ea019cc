"""Rows that are held out, and rows spread over a dataset."""

from collections.abc import Sequence

import numpy as np

from ..utils.errors import InputError, listed, require
from .labels import _counted


def hold_out(
    labels: np.ndarray,
    fraction: float = 0.1,
    per_class: int = 50,
    seed: int = 0,
    names: Sequence[str] | None = None,
    *,
    turn: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Holds rows out of every class, as validation samples.

    Of a class with n rows w = `min(max(fraction * n, 1), per_class)` are held out, rounded; at least one row stays.
    Those of turn k are number `round(k * w)` to before `round((k + 1) * w)` of the class in random order, counted on
    from the first row where the class ends. So successive turns share no row until the class is used up, and
    1 / `fraction` of them hold each row out once, unless `per_class` holds them back.

    Args:
        labels (`np.ndarray`): int `(N,)`, the class of every row.
        fraction (`float`, *optional*, defaults to `0.1`): Share of each class, inside (0, 1).
        per_class (`int`, *optional*, defaults to `50`): At most this many rows of a class.
        seed (`int`, *optional*, defaults to `0`): The same seed and labels hold out the same rows on any machine.
        names (`Sequence[str]`, *optional*): Names of the classes, for messages.
        turn (`int`, *optional*, defaults to `0`): Which rows of the order are held out.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: the positions that stay and those held out, int64, each sorted.

    Raises:
        InputError: if a class has fewer than two rows, naming the classes.
    """
    require(0 < fraction < 1, "validation_fraction", fraction, "inside (0, 1)")
    require(per_class >= 1, "validation_per_class", per_class, "1 or more")
    classes, counts = np.unique(labels, return_counts=True)
    if (small := classes[counts < 2]).size:
        shown = listed([names[c] if names else str(c) for c in small], count="in all")
        raise InputError(
            f"{_counted(small.size, 'class', 'classes')} of fewer than the two rows that holding out needs: {shown}; "
            "give a validation split (`validation`), or leave these rows out"
        )
    # A large fraction of a small class must not take all of its rows.
    wanted = np.minimum(np.clip(fraction * counts, 1, per_class), counts - 1)
    turns = np.full(len(counts), turn)
    if abs(1 / fraction - round(1 / fraction)) < 1e-9:
        # A whole rotation ends where it began, whatever rounding does.
        turns = np.where(wanted == fraction * counts, turn % round(1 / fraction), turns)
    first, end = np.rint(turns * wanted).astype(np.int64), np.rint((turns + 1) * wanted).astype(np.int64)
    # The draws of a bit generator are the same in every numpy release, those of Generator's methods are not.
    order = np.lexsort((np.random.PCG64(seed).random_raw(len(labels)), labels))
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    held = np.zeros(len(labels), dtype=bool)
    held[order[(place - np.repeat(first, counts)) % np.repeat(counts, counts) < np.repeat(end - first, counts)]] = True
    return np.flatnonzero(~held).astype(np.int64), np.flatnonzero(held).astype(np.int64)


def evenly_spaced(n: int, count: int) -> np.ndarray:
    """At most `count` of the positions 0 to n - 1, the first and the last included: int64, increasing."""
    return np.arange(n) if n <= count else np.unique(np.linspace(0, n - 1, count).round().astype(np.int64))
