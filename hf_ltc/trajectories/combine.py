"""Parts of a recording, and several of the same dataset as one."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..recipe import Recipe
from ..scores.protocol import require_recorded
from ..utils.errors import InputError, some_rows
from .run_dir import EpochTable

if TYPE_CHECKING:
    from .value import Trajectories


def average(runs: Sequence["Trajectories"]) -> "Trajectories":
    """Joins runs of several seeds or source models; as [`Trajectories.average`]."""
    if isinstance(runs, str) or not isinstance(runs, Sequence):
        raise InputError(f"`runs` is a {type(runs).__name__}: give a list of recordings")
    if not runs:
        raise InputError("average([]): give one run or more")
    for run in runs:
        require_recorded(run, "runs")
    first = runs[0]
    rows = first.rows
    for number, run in enumerate(runs[1:], 1):
        problem = _differs(first, run)
        if problem:
            raise InputError(f"run {number} cannot be averaged with run 0: {problem}")
        rows = np.intersect1d(rows, run.rows, assume_unique=True)
    if not len(rows):
        raise InputError("the runs have no row in common: record them on the same dataset and hold-out")
    aligned = [run if np.array_equal(run.rows, rows) else take_rows(run, rows) for run in runs]
    shared = set(first.signals).intersection(*(run.signals for run in runs))
    recipe = dict(first.recipe)
    if len(runs) > 1:
        recipe["runs"] = [recipe for run in runs for recipe in _recipes(run)]
    return dataclasses.replace(
        aligned[0],
        losses=_stack([run.losses for run in aligned]),
        validation_losses=_stack([run.validation_losses for run in aligned]),
        epochs=np.concatenate([run.epochs for run in aligned]),
        lengths=tuple(length for run in aligned for length in run.lengths),
        signals={name: _stack([run.signals[name] for run in aligned]) for name in sorted(shared)},
        recipe=recipe,
    )


def take_checkpoints(run: "Trajectories", checkpoints: np.ndarray) -> "Trajectories":
    """Keeps the checkpoints at some positions, increasing; a run of which none is left is gone."""
    ends = np.cumsum(run.lengths)
    taken = np.searchsorted(ends, checkpoints, side="right")
    return dataclasses.replace(
        run,
        losses=run.losses[checkpoints],
        validation_losses=run.validation_losses[checkpoints],
        epochs=run.epochs[checkpoints],
        lengths=tuple(int(count) for count in np.bincount(taken, minlength=len(ends)) if count),
        signals={name: values[checkpoints] for name, values in run.signals.items()},
    )


def take_rows(run: "Trajectories", rows: np.ndarray) -> "Trajectories":
    """Keeps some rows; as [`Trajectories.take_rows`]."""
    rows = np.unique(np.asarray(rows, dtype=np.int64))
    where = np.flatnonzero(np.isin(run.rows, rows, assume_unique=True))
    if len(where) < len(rows):
        raise InputError(f"rows {some_rows(np.setdiff1d(rows, run.rows))} were not recorded")
    return place_rows(run, run.rows[where], where)


def place_rows(run: "Trajectories", rows: np.ndarray, places: np.ndarray) -> "Trajectories":
    """The recorded rows at some places, in the order of these and under the numbers `rows`."""
    return dataclasses.replace(
        run,
        losses=np.asarray(run.losses)[:, places],
        labels=run.labels[places],
        rows=rows,
        signals={name: np.asarray(values)[:, places] for name, values in run.signals.items()},
        ids=None if run.ids is None else run.ids.take(pa.array(places)),
    )


def runs_of(run: "Trajectories") -> list["Trajectories"]:
    """Each of its runs as a value of its own."""
    ends = np.cumsum(run.lengths)
    each = [take_checkpoints(run, np.arange(end - size, end)) for end, size in zip(ends, run.lengths)]
    return [dataclasses.replace(one, recipe=recipe) for one, recipe in zip(each, _recipes(run))]


def _recipes(run: "Trajectories") -> list[dict[str, Any]]:
    """The recipe of each of its runs, or the one there is."""
    recipes = [dict(recipe) for recipe in Recipe.from_dict(run.recipe).runs or ()]
    return recipes if len(recipes) == len(run.lengths) else [run.recipe] * len(run.lengths)


def _differs(first: "Trajectories", other: "Trajectories") -> str | None:
    one, two = (Recipe.from_dict(run.recipe) for run in (first, other))
    keys = ("rows", "labels", "content", "label_column")
    different = [key for key in keys if getattr(one.dataset, key) != getattr(two.dataset, key)]
    _, here, there = np.intersect1d(first.rows, other.rows, assume_unique=True, return_indices=True)
    if not different and (first.labels[here] != other.labels[there]).any():
        different = ["labels"]
    if not different and not _same_ids(first, here, other, there):
        different = ["ids"]
    if different:
        return f"they were recorded on different datasets ({', '.join(different)} differ)"
    if (
        not np.array_equal(first.validation_rows, other.validation_rows)
        or not np.array_equal(first.validation_labels, other.validation_labels)
        # Samples of another split have no row numbers, so what the recipes say of it has to do.
        or ((first.validation_rows < 0).any() and one.validation != two.validation)
    ):
        return "they have different validation samples: record with the same `RecordConfig.validation_seed` and split"
    if first.loss_name != other.loss_name:
        return f"one holds {first.loss_name}, the other {other.loss_name}: load both with the same losses"
    return None


def _same_ids(first: "Trajectories", here: np.ndarray, other: "Trajectories", there: np.ndarray) -> bool:
    if first.ids is None or other.ids is None:
        return first.ids is other.ids
    return first.ids.take(pa.array(here)).equals(other.ids.take(pa.array(there)))


def _stack(parts: Sequence[Any]) -> Any:
    if all(isinstance(part, EpochTable) for part in parts) and len({part.name for part in parts}) == 1:
        return EpochTable([path for part in parts for path in part.paths], parts[0].name, parts[0].shape[1])
    return parts[0] if len(parts) == 1 else np.concatenate([np.asarray(part) for part in parts])
