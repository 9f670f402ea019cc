"""Parts of a recording, and several of the same dataset as one."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..data.inputs import integers
from ..recipe import TURN, Identity, Recipe
from ..scores.absent import absent_from_runs
from ..scores.protocol import require_recorded
from ..utils.errors import InputError, some_rows
from .run_dir import EpochTable, placed

if TYPE_CHECKING:
    from .summary import LossSummary
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
    for number, run in enumerate(runs[1:], 1):
        if problem := differs(first, run):
            raise InputError(f"run {number} cannot be averaged with run 0: {problem}")
    if any(not np.array_equal(run.validation_rows, first.validation_rows) for run in runs):
        aligned = _with_each_row(runs)
    else:
        rows = reduce(np.intersect1d, [run.rows for run in runs])
        aligned = [run if np.array_equal(run.rows, rows) else take_rows(run, rows) for run in runs]
    if not len(aligned[0]):
        raise InputError("the runs have no row in common: record them on the same dataset and hold-out")
    shared = set(first.signals).intersection(*(run.signals for run in runs))
    recipe = dict(first.recipe)
    if len(runs) > 1:
        recipe["runs"] = [recipe for run in runs for recipe in _recipes(run)]
        if turns := [turn for run in runs for turn in _turns(run)]:
            recipe["validation"] = {**recipe["validation"], TURN: turns}
    return dataclasses.replace(
        aligned[0],
        losses=_stack([run.losses for run in aligned]),
        validation_losses=_stack([run.validation_losses for run in aligned]),
        epochs=np.concatenate([run.epochs for run in aligned]),
        lengths=tuple(length for run in aligned for length in run.lengths),
        signals={name: _stack([run.signals[name] for run in aligned]) for name in sorted(shared)},
        recipe=recipe,
        features=next((run.features for run in runs if run.features is not None), None),
    )


def _with_each_row(runs: Sequence["Trajectories"]) -> list["Trajectories"]:
    """Runs whose validation samples rotate, with NaN for the rows and the samples of the others.

    Their rows are those that one of them recorded, and all others recorded or held out.
    """
    rows = reduce(np.union1d, [run.rows for run in runs])
    # Of several runs together, what one held out another recorded.
    for one in (each for run in runs for each in (run.runs if len(run.lengths) > 1 else [run])):
        rows = rows[np.isin(rows, np.union1d(one.rows, one.validation_rows))]
    held = reduce(np.union1d, [run.validation_rows for run in runs])
    places = [_places(run.rows, rows) for run in runs]
    held_places = [_places(run.validation_rows, held) for run in runs]
    labels, held_labels = np.zeros(len(rows), np.int64), np.zeros(len(held), np.int64)
    ids, before = np.zeros(len(rows), np.int64), 0
    for run, here, held_here in zip(runs, places, held_places):
        labels[here >= 0] = run.labels[here[here >= 0]]
        held_labels[held_here >= 0] = run.validation_labels[held_here[held_here >= 0]]
        ids[here >= 0] = here[here >= 0] + before
        before += len(run)
    every = None if runs[0].ids is None else pa.concat_arrays([run.ids for run in runs]).take(pa.array(ids))
    return [
        dataclasses.replace(
            run,
            losses=_columns(run.losses, here),
            validation_losses=_columns(run.validation_losses, held_here),
            labels=labels,
            validation_labels=held_labels,
            rows=rows,
            validation_rows=held,
            signals={name: _columns(values, here) for name, values in run.signals.items()},
            ids=every,
        )
        for run, here, held_here in zip(runs, places, held_places)
    ]


def _places(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The place of each number among those known, or -1: int64."""
    order = np.argsort(known, kind="stable")
    at = np.minimum(np.searchsorted(known[order], asked), len(known) - 1)
    return np.where(known[order][at] == asked, order[at], -1) if len(known) else np.full(len(asked), -1)


def _columns(table: Any, places: np.ndarray) -> Any:
    return table.take(places) if isinstance(table, EpochTable) else placed(np.asarray(table), places)


def _turns(run: "Trajectories | LossSummary") -> list[Any]:
    """Which of the hold-outs that rotate its runs have; empty if they have all the same."""
    turn = Recipe.from_dict(run.recipe).validation.more.get(TURN)
    return [] if turn is None else list(turn) if isinstance(turn, list) else [turn]


def take_checkpoints(run: "Trajectories", checkpoints: np.ndarray) -> "Trajectories":
    """Keeps the checkpoints at some positions, increasing; a run of which none is left is gone, and with it the rows
    that no other run recorded."""
    ends = np.cumsum(run.lengths)
    left = np.bincount(np.searchsorted(ends, checkpoints, side="right"), minlength=len(ends))
    taken = dataclasses.replace(
        run,
        losses=run.losses[checkpoints],
        validation_losses=run.validation_losses[checkpoints],
        epochs=run.epochs[checkpoints],
        lengths=tuple(int(count) for count in left if count),
        signals={name: values[checkpoints] for name, values in run.signals.items()},
    )
    if left.all():
        return taken
    kept = [gone for gone, count in zip(_absent(run), left) if count]
    return _without(taken, *(np.logical_and.reduce(gone) for gone in zip(*kept)))


def _absent(run: "Trajectories") -> list[tuple[np.ndarray, np.ndarray]]:
    """For each of its runs, which rows and which validation samples it did not record."""
    return list(zip(*(absent_from_runs(table, run.lengths) for table in (run.losses, run.validation_losses))))


def _without(run: "Trajectories", rows: np.ndarray, samples: np.ndarray) -> "Trajectories":
    """Leaves out some rows and some validation samples."""
    if rows.any():
        places = np.flatnonzero(~rows)
        run = place_rows(run, run.rows[places], places)
    if samples.any():
        places = np.flatnonzero(~samples)
        run = dataclasses.replace(
            run,
            validation_losses=_columns(run.validation_losses, places),
            validation_labels=run.validation_labels[places],
            validation_rows=run.validation_rows[places],
        )
    return run


def take_rows(run: "Trajectories", rows: np.ndarray) -> "Trajectories":
    """Keeps some rows; as [`Trajectories.take_rows`]."""
    # A mask would be taken for the rows 0 and 1.
    rows = np.unique(integers(rows, "rows"))
    where = np.flatnonzero(np.isin(run.rows, rows, assume_unique=True))
    if len(where) < len(rows):
        raise InputError(f"rows {some_rows(np.setdiff1d(rows, run.rows))} were not recorded")
    return place_rows(run, run.rows[where], where)


def place_rows(run: "Trajectories", rows: np.ndarray, places: np.ndarray) -> "Trajectories":
    """The recorded rows at some places, in the order of these and under the numbers `rows`."""
    return dataclasses.replace(
        run,
        losses=_columns(run.losses, places),
        labels=run.labels[places],
        rows=rows,
        signals={name: _columns(values, places) for name, values in run.signals.items()},
        ids=None if run.ids is None else run.ids.take(pa.array(places)),
        # They are found by the numbers that rows had when they were recorded.
        features=run.features if np.array_equal(rows, run.rows[places]) else None,
    )


def runs_of(run: "Trajectories") -> list["Trajectories"]:
    """Each of its runs as a value of its own, with the rows and the validation samples that it recorded."""
    ends = np.cumsum(run.lengths)
    found = []
    for turn, (end, size, absent, recipe) in enumerate(zip(ends, run.lengths, _absent(run), _recipes(run))):
        one = dataclasses.replace(
            run,
            losses=run.losses[end - size : end],
            validation_losses=run.validation_losses[end - size : end],
            epochs=run.epochs[end - size : end],
            lengths=(size,),
            signals={name: values[end - size : end] for name, values in run.signals.items()},
            recipe=recipe,
        )
        if absent[1].any() and not _turns(one):
            # A mark, by which they can be joined again, where nobody has made one.
            marked = {**recipe.get("validation", {}), TURN: turn}
            one = dataclasses.replace(one, recipe={**recipe, "validation": marked})
        found.append(_without(one, *absent))
    return found


def _recipes(run: "Trajectories") -> list[dict[str, Any]]:
    """The recipe of each of its runs, or the one there is."""
    recipes = [dict(recipe) for recipe in Recipe.from_dict(run.recipe).runs or ()]
    return recipes if len(recipes) == len(run.lengths) else [run.recipe] * len(run.lengths)


def differs(first: "Trajectories | LossSummary", other: "Trajectories | LossSummary") -> str | None:
    """In what two recordings differ that cannot be joined."""
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
    if _turns(first) and _turns(other) and (first.validation_rows >= 0).all() and (other.validation_rows >= 0).all():
        alike = _but_turn(one.validation) == _but_turn(two.validation)
    else:
        alike = bool(
            np.array_equal(first.validation_rows, other.validation_rows)
            and np.array_equal(first.validation_labels, other.validation_labels)
            # Samples of another split have no row numbers, so what the recipes say of it has to do.
            and ((first.validation_rows >= 0).all() or one.validation == two.validation)
        )
    if not alike:
        return "they have different validation samples: record with the same `RecordConfig.validation_seed` and split"
    if first.loss_name != other.loss_name:
        return f"one holds {first.loss_name}, the other {other.loss_name}: load both with the same losses"
    return None


def _but_turn(validation: Identity) -> Mapping[str, Any]:
    """What it says of all hold-outs that rotate, of which one may have a row more than another."""
    return {name: value for name, value in validation.to_dict().items() if name not in (TURN, "held_out")}


def _same_ids(
    first: "Trajectories | LossSummary", here: np.ndarray, other: "Trajectories | LossSummary", there: np.ndarray
) -> bool:
    if first.ids is None or other.ids is None:
        return first.ids is other.ids
    return first.ids.take(pa.array(here)).equals(other.ids.take(pa.array(there)))


def _stack(parts: Sequence[Any]) -> Any:
    if all(isinstance(part, EpochTable) for part in parts) and len({part.name for part in parts}) == 1:
        return EpochTable.joined(parts)
    return parts[0] if len(parts) == 1 else np.concatenate([np.asarray(part) for part in parts])
