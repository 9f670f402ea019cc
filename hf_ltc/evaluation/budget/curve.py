"""A power law of the test error over the budget, where it crosses the error that is allowed, and how sure that is."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit

# Fewer budgets than parameters and one leave nothing to judge the curve by.
_LEAST = 4
_DRAWS = 100
# Of the limit, the scale and the power.
_BOUNDS = ([0.0, 0.0, 0.05], [1.0, np.inf, 5.0])


@dataclass(frozen=True)
class Point:
    """Mean accuracy of `n` models at a budget, and the deviation of one."""

    fraction: float
    accuracy: float
    n: int
    spread: float


def fitted(points: Sequence[Point], tolerance: float) -> dict[str, Any] | None:
    """Fits error = limit + scale * fraction ** -power.

    Args:
        points (`Sequence[Point]`): Of each budget, the last of all rows.
        tolerance (`float`): How far the error may be above that of all rows.

    Returns:
        `dict`, *optional*: `limit`, `scale` and `power`; `fraction`, where the curve reaches the error that is allowed
        (1 if nowhere below all rows); `interval`, between which that is in 90 of 100 cases, by curves through means
        drawn from their errors. `None` for fewer than four budgets, where no curve can be fitted, and where it rises
        by no more than single models differ.
    """
    if len(points) < _LEAST:
        return None
    fractions = np.array([point.fraction for point in points])
    errors = 1 - np.array([point.accuracy for point in points])
    sigma = np.array([max(point.spread, 1e-6) / np.sqrt(point.n) for point in points])
    found = _fit(fractions, errors, sigma)
    rise = 0.0 if found is None else float(np.ptp(_error(fractions, *found)))
    if found is None or rise <= max(point.spread for point in points):
        return None
    random = np.random.default_rng(0)
    crossings = []
    for _ in range(_DRAWS):
        drawn = errors + sigma * random.standard_normal(len(errors))
        if (curve := _fit(fractions, drawn, sigma)) is not None:
            crossings.append(_crossing(curve, drawn[-1] + tolerance))
    if len(crossings) < _DRAWS / 2:
        return None
    limit, scale, power = map(float, found)
    return {
        "limit": limit,
        "scale": scale,
        "power": power,
        "fraction": _crossing(found, errors[-1] + tolerance),
        "interval": [float(each) for each in np.quantile(crossings, [0.05, 0.95])],
    }


def _fit(fractions: np.ndarray, errors: np.ndarray, sigma: np.ndarray) -> np.ndarray | None:
    begin = [max(0.0, 0.9 * errors.min()), max(1e-4, 0.1 * errors.min()), 0.7]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)
        try:
            found, _ = curve_fit(_error, fractions, errors, p0=begin, sigma=sigma, bounds=_BOUNDS)
        except (RuntimeError, ValueError):
            return None
    return np.asarray(found)


def _error(fraction: np.ndarray, limit: float, scale: float, power: float) -> np.ndarray:
    return limit + scale * fraction**-power


def _crossing(curve: np.ndarray, allowed: float) -> float:
    limit, scale, power = map(float, curve)
    if allowed <= limit or scale == 0:
        return 1.0 if allowed <= limit else 0.0
    return float(min(1.0, (scale / (allowed - limit)) ** (1 / power)))
