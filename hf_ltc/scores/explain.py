"""Which validation samples a row helps, and which rows help a validation sample."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..utils.errors import InputError, require, some_rows
from .kernels import BLOCK, run_spans, standardized
from .ltc import PRESETS, score_variant
from .protocol import Recorded, check_finite, check_recorded


@dataclass(frozen=True, eq=False)
class Explanation:
    """The samples of the other side with the highest and the lowest correlations.

    Args:
        samples (`np.ndarray`): int64 `(R,)`, the samples asked for.
        helped (`np.ndarray`):
            int64 `(R, k)`, the samples of the other side whose losses fall and rise with theirs, highest correlation
            first; -1 where fewer than k correlations are positive.
        helped_correlations (`np.ndarray`): float32 `(R, k)`, NaN where `helped` is -1.
        hurt (`np.ndarray`): int64 `(R, k)`, those whose losses move the other way, lowest correlation first; or -1.
        hurt_correlations (`np.ndarray`): float32 `(R, k)`, NaN where `hurt` is -1.
    """

    samples: np.ndarray
    helped: np.ndarray
    helped_correlations: np.ndarray
    hurt: np.ndarray
    hurt_correlations: np.ndarray


def explain(
    trajectories: Recorded, rows: Sequence[int] | np.ndarray, k: int = 5, of: str = PRESETS["ltc"]["of"]
) -> Explanation:
    """Finds the validation samples that rows help most, and those that they hurt most.

    A score with `aggregate="correlations"` is the mean of these correlations; LTC is the mean of those of differences.

    Args:
        trajectories ([`Trajectories`]): The recording.
        rows (`Sequence[int]`): Row numbers in the source dataset.
        k (`int`, *optional*, defaults to `5`): Number of validation samples of each kind.
        of (`str`, *optional*, defaults to `"differences"`): What is correlated, as for [`ltc_scores`].

    Returns:
        [`Explanation`]: `samples` are the rows; `helped` and `hurt` are positions among the validation samples. Their
        row numbers are `trajectories.validation_rows[position]`, or the positions themselves in a split of their own.

    Raises:
        InputError: for rows that were not recorded, and as [`ltc_scores`].
    """
    check_recorded(trajectories)
    rows = _integers(rows, "rows")
    asked = _asked(trajectories, trajectories.losses, _positions(trajectories, rows), of)
    found = _extremes(trajectories, asked, trajectories.validation_losses, k, of)
    return Explanation(rows, *found)


def explain_validation(
    trajectories: Recorded, samples: Sequence[int] | np.ndarray, k: int = 5, of: str = PRESETS["ltc"]["of"]
) -> Explanation:
    """Finds the rows that help validation samples most, and those that hurt them most: the reverse of [`explain`].

    Args:
        trajectories ([`Trajectories`]): The recording.
        samples (`Sequence[int]`): Positions among the validation samples, from 0.
        k (`int`, *optional*, defaults to `5`): Number of rows of each kind.
        of (`str`, *optional*, defaults to `"differences"`): What is correlated, as for [`ltc_scores`].

    Returns:
        [`Explanation`]: `samples` are the positions; `helped` and `hurt` are row numbers in the source dataset.

    Raises:
        InputError: for positions out of range, and as [`ltc_scores`].
    """
    check_recorded(trajectories)
    samples = _integers(samples, "samples")
    count = len(trajectories.validation_labels)
    if len(wrong := samples[(samples < 0) | (samples >= count)]):
        raise InputError(f"no validation samples {some_rows(wrong)}: the recording has {count}, numbered from 0")
    asked = _asked(trajectories, trajectories.validation_losses, samples, of)
    helped, with_helped, hurt, with_hurt = _extremes(trajectories, asked, trajectories.losses, k, of)
    for found in (helped, hurt):
        found[found >= 0] = trajectories.rows[found[found >= 0]]
    return Explanation(samples, helped, with_helped, hurt, with_hurt)


def _integers(values: Any, name: str) -> np.ndarray:
    given = np.asarray(values)
    if given.size and given.dtype.kind not in "iu":
        raise InputError(f"`{name}` is {values!r}: give integers, which others would be cut to")
    return given.astype(np.int64).reshape(-1)


def _positions(trajectories: Recorded, rows: np.ndarray) -> np.ndarray:
    where = np.searchsorted(trajectories.rows, rows)
    known = trajectories.rows[np.minimum(where, len(trajectories.rows) - 1)] == rows
    if not known.all():
        raise InputError(f"rows {some_rows(rows[~known])} were not recorded: held-out and foreign rows have no losses")
    return where


def _asked(trajectories: Recorded, table: Any, columns: np.ndarray, of: str) -> list[np.ndarray]:
    """u of some columns of a table (L, .), for each run: float64 (T, R)."""
    score_variant(of)
    losses = np.stack([np.asarray(table[t])[columns] for t in range(len(trajectories.epochs))])
    check_finite(trajectories, table, losses, trajectories.lengths)
    return [standardized(losses[start:stop], of) for start, stop in run_spans(trajectories.lengths)]


def _correlations(
    trajectories: Recorded, asked: Sequence[np.ndarray], table: Any, of: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Correlations of the R samples asked for with the columns of a table, in blocks `(first column, (R, C))`."""
    width = max(1, 2 * BLOCK // max(asked[0].shape[1], len(trajectories.epochs)))
    for left in range(0, table.shape[1], width):
        part = slice(left, left + width)
        losses = np.stack([np.asarray(table[t])[part] for t in range(len(trajectories.epochs))])
        check_finite(trajectories, table, losses, trajectories.lengths)
        total, defined = np.zeros((asked[0].shape[1], losses.shape[1])), np.zeros(())
        for (start, stop), u in zip(run_spans(trajectories.lengths), asked):
            other = standardized(losses[start:stop], of)
            both = ~np.isnan(u[0])[:, None] & ~np.isnan(other[0])
            np.add(total, u.T @ other, out=total, where=both)
            defined = defined + both
        with np.errstate(invalid="ignore"):
            total /= defined
        yield left, np.clip(total, -1, 1)


def _extremes(
    trajectories: Recorded, asked: Sequence[np.ndarray], table: Any, k: int, of: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    require(k >= 1, "k", k, "1 or more")
    count, k = asked[0].shape[1], min(k, table.shape[1])
    found: list[np.ndarray] = []
    best = {sign: (np.full((count, k), -1), np.full((count, k), -np.inf)) for sign in (1, -1)}
    for left, block in _correlations(trajectories, asked, table, of):
        where = np.broadcast_to(np.arange(left, left + block.shape[1]), block.shape)
        for sign, (places, values) in best.items():
            signed = sign * block
            # Only what correlates in that direction counts.
            signed[~(signed > 0)] = -np.inf
            values = np.concatenate([values, signed], axis=1)
            places = np.concatenate([places, where], axis=1)
            order = np.argsort(-values, axis=1, kind="stable")[:, :k]
            best[sign] = np.take_along_axis(places, order, axis=1), np.take_along_axis(values, order, axis=1)
    for sign, (places, values) in best.items():
        none = np.isneginf(values)
        found += [np.where(none, -1, places), np.where(none, np.nan, sign * values).astype(np.float32)]
    return found[0], found[1], found[2], found[3]
