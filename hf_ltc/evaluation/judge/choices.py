"""The ways of choosing rows that are compared: a selection of a scored dataset, and what it should not be behind."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Value

from ...coresets.choose import Selection, choose
from ...coresets.order import Balance
from ...coresets.scored import decided, read_clusters, read_probability, read_scores, read_typicality
from ...data.columns import LOSS_TRAJECTORY, TRAJECTORY_SUFFIX, read_column, with_columns
from ...data.inputs import require_dataset
from ...data.labels import class_names, find_label_column, read_labels
from ...recipe import Recipe
from ...trajectories.tables import by_epoch
from ...trajectories.value import Trajectories
from ...utils.errors import InputError
from ..methods import METHODS, RANDOM, chosen_rows, method_scores
from .proxies import Choose

OTHERS = ("dual_beta", "ccs", RANDOM)
"""What a coreset is compared with, in order of preference."""


def by_method(name: str, run: Trajectories, balance: Balance = "class", min_per_class: int = 0) -> Choose:
    """How a method chooses rows.

    Args:
        name (`str`): One of [`METHODS`].
        run ([`Trajectories`]): The recording.
        balance, min_per_class: As for [`select_coreset`]; the minimum is that of all rows.

    Raises:
        InputError: if the method needs a metric, or epochs, that were not recorded.
    """
    # Chance is drawn anew for each seed.
    scores = None if name == RANDOM else method_scores(name, run)

    def chosen(rows: np.ndarray, size: int, seed: int) -> np.ndarray:
        least, candidates = min_per_class * len(rows) // len(run), np.zeros(len(run), dtype=bool)
        candidates[rows] = True
        options: dict[str, Any] = {"balance": balance, "min_per_class": least, "scores": scores}
        return chosen_rows(name, run, size, seed=seed, candidates=candidates, **options)

    return chosen


def with_others(
    own: Mapping[str, Choose], run: Trajectories, balance: Balance = "class", min_per_class: int = 0
) -> dict[str, Choose]:
    """Adds those of [`OTHERS`] that can be computed from a recording to what they are compared with."""
    found = dict(own)
    for name in OTHERS:
        if name not in found:
            with suppress(InputError):
                found[name] = by_method(name, run, balance, min_per_class)
    return found


def by_columns(scored: Dataset, rows: np.ndarray, labels: np.ndarray, selection: Selection, column: str) -> Choose:
    """How [`select_coreset`] chooses rows of a scored dataset.

    Args:
        scored (`datasets.Dataset`): The dataset.
        rows (`np.ndarray`): int64 `(N,)`, the candidate rows.
        labels (`np.ndarray`): int64 `(N,)`, their classes.
        selection ([`Selection`]): The options; the budget counts for nothing.
        column (`str`): The score.
    """
    scores, _ = read_scores(scored, column)
    selection = decided(scored, column, selection)
    typicality = read_typicality(scored, column, selection)
    probability = read_probability(scored) if selection.coverage == "beta" else None
    clusters = None
    if selection.coverage == "clusters":
        candidates, classes = np.zeros(len(scored), dtype=bool), np.zeros(len(scored), dtype=np.int64)
        candidates[rows], classes[rows] = True, labels if selection.needs_labels else 0
        clusters = read_clusters(scored, candidates, classes, selection)
    scores = scores[rows]
    known = {"typicality": typicality, "probability": probability, "clusters": clusters}
    parts = {name: each[rows] for name, each in known.items() if each is not None}

    def chosen(among: np.ndarray, size: int, seed: int) -> np.ndarray:
        candidates = np.zeros(len(rows), dtype=bool)
        candidates[among] = True
        if selection.exclude_negative:
            size = min(size, int(np.count_nonzero(candidates & ~(scores < 0))))
        least = selection.min_per_class * len(among) // len(rows)
        options = replace(selection, fraction=None, size=size, min_per_class=least, seed=seed)
        kept = choose(scores, labels, options, candidates=candidates, **parts)
        return np.flatnonzero(kept)

    return chosen


def run_of_columns(scored: Dataset, recipe: Mapping[str, Any], label_column: str | None = None) -> Trajectories:
    """What the columns of a scored dataset say of its recording: losses and metrics, but no validation losses.

    Args:
        scored (`datasets.Dataset`): A dataset with `loss_trajectory`.
        recipe (`Mapping[str, Any]`): The recipe of the recording.
        label_column (`str`, *optional*): Column with the class labels; as recorded if not given.

    Returns:
        [`Trajectories`]: its rows are the positions of the rows that have a trajectory.

    Raises:
        InputError: without that column, and for trajectories of another length than the recipe says.
    """
    require_dataset(scored, "scored")
    told = Recipe.from_dict(recipe)
    if LOSS_TRAJECTORY not in scored.column_names:
        raise InputError(
            f"no column {LOSS_TRAJECTORY!r} in the dataset, from which other coresets are chosen: score it with "
            "hf-ltc score"
        )
    label_column = find_label_column(scored, label_column or if_there(scored, told.dataset.label_column))
    labels = read_labels(scored, label_column, told.dataset.names or class_names(scored, label_column))
    rows = np.flatnonzero(read_column(scored, LOSS_TRAJECTORY).is_valid().to_numpy())
    recorded = scored.select(rows)
    losses, margin = by_epoch(recorded, LOSS_TRAJECTORY), f"margin{TRAJECTORY_SUFFIX}"
    epochs = _recorded_epochs(told, len(losses))
    return Trajectories(
        losses=losses,
        validation_losses=np.zeros((len(losses), 0), dtype=np.float32),
        labels=labels[rows],
        validation_labels=np.zeros(0, dtype=np.int64),
        rows=rows,
        validation_rows=np.zeros(0, dtype=np.int64),
        epochs=np.concatenate(epochs),
        lengths=tuple(map(len, epochs)),
        signals={"margin": by_epoch(recorded, margin)} if margin in scored.column_names else {},
        recipe=dict(recipe),
    )


def with_scores_of(scored: Dataset, run: Trajectories, name: str, seed: int = 0) -> tuple[Dataset, str]:
    """Adds the scores that a method of [`OTHERS`] chooses rows by; also returns the name of their column.

    Args:
        scored (`datasets.Dataset`): The dataset.
        run ([`Trajectories`]): What was recorded of its rows.
        name (`str`): The method.
        seed (`int`, *optional*, defaults to `0`): Of chance.
    """
    column = f"{METHODS[name].baseline}_score"
    values = np.full(len(scored), np.nan, dtype=np.float32)
    values[run.rows] = method_scores(name, run, seed)
    return with_columns(scored, {column: (pa.array(values, mask=np.isnan(values)), Value("float32"))}), column


def _recorded_epochs(recipe: Recipe, length: int) -> list[np.ndarray]:
    """The epochs of the checkpoints of each run, where a trajectory has so many of all runs together."""
    runs = [Recipe.from_dict(each).epochs for each in recipe.runs or ()] or [recipe.epochs]
    each = [np.asarray(epochs, dtype=np.int64) for epochs in runs if isinstance(epochs, list) and epochs]
    if len(each) == 1 and length % len(each[0]) == 0:
        each *= length // len(each[0])
    if sum(map(len, each)) != length:
        raise InputError(
            f"column {LOSS_TRAJECTORY!r} has trajectories of {length} checkpoints, and the recipe beside the rows "
            f"tells of {sum(map(len, each))}: score the dataset again with hf-ltc score"
        )
    return each


def if_there(dataset: Dataset, column: str | None) -> str | None:
    """A column, if a dataset has it."""
    return column if column in dataset.column_names else None
