"""Losses in a byte each, by their logarithms: a quarter of the size, and nearly the same scores.

By the score alone, a row in fifty of a coreset of a tenth is another one. The rows that come first by typicality are
another draw with the same odds, as what is drawn depends on the bits of losses.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..utils.errors import InputError, some_rows

# The key in the recipe of a run whose losses are stored so: between which losses logarithms are evenly spaced.
COMPACT = "compact_losses"
_LOWEST, _HIGHEST, _STEPS = 1e-4, 20.0, 254
_STEP = np.log(_HIGHEST / _LOWEST) / _STEPS
# What each byte says. 0 is of losses that are not finite, or of another run.
_LEVELS = np.concatenate([[np.nan], _LOWEST * np.exp(_STEP * np.arange(_STEPS + 1))]).astype(np.float32)


def compact_range() -> dict[str, Any]:
    """What the recipe says of losses that are stored so."""
    return {"bits": 8, "lowest": _LOWEST, "highest": _HIGHEST}


def compacted(arrays: Mapping[str, np.ndarray], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays of an epoch, losses among them as uint8; those outside the range become its nearest end.

    Args:
        arrays (`Mapping[str, np.ndarray]`): float32 `(N,)` each, by name.
        names (`tuple[str, ...]`): Which of them are losses of rows.
    """
    return {name: _bytes(values) if name in names else values for name, values in arrays.items()}


def check_logarithms(arrays: Mapping[str, np.ndarray], names: tuple[str, ...], epoch: int, rows: np.ndarray) -> None:
    """Checks that losses have logarithms; what rounding leaves below zero counts as zero.

    Args:
        arrays (`Mapping[str, np.ndarray]`): As for [`compacted`].
        names (`tuple[str, ...]`): As for [`compacted`].
        epoch (`int`): The epoch, for messages.
        rows (`np.ndarray`): int64 `(N,)`, the row numbers, for messages.

    Raises:
        InputError: for negative losses, naming the epoch and the rows.
    """
    for name in names:
        if name in arrays and len(bad := np.flatnonzero(arrays[name] < -_LOWEST)):
            raise InputError(
                f"epoch {epoch}: {name} of {len(bad)} of {len(rows)} rows is negative (rows {some_rows(rows[bad])}), "
                "and `store` compact keeps logarithms: record with `store` trajectories into another `output_dir`"
            )


def is_compact(losses: np.ndarray) -> bool:
    """Whether losses come back from bytes as they are."""
    return np.array_equal(restored(_bytes(losses)), losses, equal_nan=True)


def _bytes(losses: np.ndarray) -> np.ndarray:
    known = np.isfinite(losses)
    places = np.rint(np.log(np.clip(np.where(known, losses, _LOWEST), _LOWEST, _HIGHEST) / _LOWEST) / _STEP)
    return np.where(known, places + 1, 0).astype(np.uint8)


def restored(stored: np.ndarray) -> np.ndarray:
    """Back from uint8: float32, NaN where the loss was not finite."""
    return _LEVELS[stored]
