"""Losses in a byte each, by their logarithms: a quarter of the size, and the same coresets but for a row in fifty."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..utils.errors import InputError

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

    Raises:
        InputError: for losses below zero, which have no logarithm.
    """
    return {name: _bytes(values) if name in names else values for name, values in arrays.items()}


def _bytes(losses: np.ndarray) -> np.ndarray:
    known = np.isfinite(losses)
    if (losses[known] < 0).any():
        raise InputError(
            f"`store` compact keeps logarithms of losses, and a loss is {losses[known].min():.4g}: record with "
            "`store` trajectories"
        )
    places = np.rint(np.log(np.clip(np.where(known, losses, _LOWEST), _LOWEST, _HIGHEST) / _LOWEST) / _STEP)
    return np.where(known, places + 1, 0).astype(np.uint8)


def restored(stored: np.ndarray) -> np.ndarray:
    """Back from uint8: float32, NaN where the loss was not finite."""
    return _LEVELS[stored]
