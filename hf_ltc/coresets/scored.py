"""What a scored dataset says of its rows: which are candidates, their scores, classes, typicality and trajectories."""

from collections.abc import Callable
from typing import cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from ..data.columns import LOSS_TRAJECTORY, LTC_SCORE, rank_name, read_column, typicality_name
from ..data.inputs import require_dataset
from ..data.labels import class_names, find_label_column, read_labels
from ..recipe import Identity
from ..scores.typical_rows import usual_by_column
from ..utils.errors import InputError
from .choose import Selection, mean_probability, recorded_mean
from .order import Balance
from .sampling import like_trajectories


def read_scores(dataset: Dataset, column: str, rank_column: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scores, NaN where there is none, and which rows are candidates; see [`recorded_rows`]."""
    require_dataset(dataset, "dataset")
    if column not in dataset.column_names:
        raise InputError(
            f"no score column {column!r} in the dataset, which has {', '.join(map(repr, dataset.column_names))}: "
            "score it first (run.score, or dataset.map with a scorer), or name another score column"
        )
    stored = read_column(dataset, column)
    check_numbers(stored.type, column)
    trajectories, ranks = (
        read_column(dataset, name) if name in dataset.column_names else None
        for name in (LOSS_TRAJECTORY, rank_column or rank_name(column))
    )
    scores = stored.cast(pa.float64(), safe=False).to_numpy() if stored.null_count else stored.to_numpy()
    return scores.astype(np.float64, copy=False), recorded_rows(stored, trajectories, ranks).to_numpy()


def recorded_rows(
    scores: pa.ChunkedArray, trajectories: pa.ChunkedArray | None, ranks: pa.ChunkedArray | None
) -> pa.ChunkedArray:
    """Which rows were recorded: all others were held out as validation samples, and are never chosen.

    Flat rows, which are candidates, and rows held out both have a null score. Trajectories tell the two apart; without
    them ranks do, if there are any, since only a flat row has one. NaN, into which formats of NumPy, torch and pandas
    turn null, tells nothing.

    Args:
        scores (`pyarrow.ChunkedArray`): The column of scores.
        trajectories (`pyarrow.ChunkedArray`, *optional*): The column `loss_trajectory`, if there is one.
        ranks (`pyarrow.ChunkedArray`, *optional*): The column of ranks by this score, if there is one.

    Returns:
        `pyarrow.ChunkedArray`: booleans, none of them null.
    """
    if trajectories is not None:
        return trajectories.is_valid()
    known = pc.invert(pc.is_nan(scores.cast(pa.float64(), safe=False)))
    if ranks is None:
        return pc.fill_null(known, False)
    # Null where the score is.
    return pc.coalesce(known, pc.invert(ranks.is_null(nan_is_null=True)))


def balanced_by(dataset: Dataset, balance: str, label_column: str | None) -> tuple[Balance, str | None]:
    """How rows are balanced, and by which column: one that is named in the place of a way gives the classes.

    Raises:
        InputError: if it names neither, or another column is given for the classes.
    """
    known = get_args(Balance)
    if balance in known:
        return cast(Balance, balance), label_column
    require_dataset(dataset, "dataset")
    if balance not in dataset.column_names:
        raise InputError(
            f"`balance` is {balance!r}: it must be one of {', '.join(known)}, or a column of the dataset, which has "
            f"{', '.join(map(repr, dataset.column_names))}"
        )
    if label_column not in (None, balance):
        raise InputError(
            f"`balance` is the column {balance!r}, and `label_column` is {label_column!r}: leave one of them out"
        )
    check_values(dataset, balance, "balance")
    return "class", balance


def check_values(dataset: Dataset, column: str, option: str) -> None:
    """Checks that the values of a column can take the place of the classes.

    Raises:
        InputError: if they cannot, naming the option that names the column.
    """
    read_labels(dataset, find_label_column(dataset, column, option), class_names(dataset, column), option)


def usual_balance(
    recorded: Identity, balance: str | None = None, label_column: str | None = None
) -> tuple[str, str | None]:
    """How the rows of a recording are balanced, and by which column, for what was not given: by the recorded classes,
    and not at all where there are none."""
    if balance is None:
        balance = "none" if recorded.classes == 0 and label_column is None else "class"
    by_class = balance in get_args(Balance)
    return balance, label_column or (recorded.label_column if by_class else None)


def read_classes(dataset: Dataset, label_column: str | None) -> np.ndarray:
    """The class of each row, int64 `(N,)`."""
    column = find_classes(dataset, label_column)
    # Named, since a dataset of one class can be ranked too.
    return read_labels(dataset, column, class_names(dataset, column))


def find_classes(dataset: Dataset, label_column: str | None) -> str:
    """The column with the classes that rows are balanced by."""
    try:
        return find_label_column(dataset, label_column)
    except InputError as error:
        if label_column is not None:
            raise
        raise InputError(f"{error}; rows without classes are chosen with `balance` 'none'") from error


def decided(dataset: Dataset, score_column: str, selection: Selection, recorded: Identity | None = None) -> Selection:
    """A selection that says how many typical rows come first in a dataset, checked.

    Args:
        dataset (`datasets.Dataset`): The scored dataset.
        score_column (`str`): The score.
        selection ([`Selection`]): The options.
        recorded ([`Identity`], *optional*): As for [`usual_by_column`].
    """
    require_dataset(dataset, "dataset")
    column = typicality_name(score_column)
    there = column in dataset.column_names
    usual = 0.0
    if selection.typical is None and selection.keep == "highest" and there and score_column in dataset.column_names:
        usual = usual_by_column(*_count_typical(dataset, score_column, selection.exclude_negative), recorded)
    found = selection.decided(usual)
    if found.typical and not there:
        raise InputError(
            f"`typical` {found.typical!r} needs the column {column!r}, which the dataset has not: give typical=0"
            + (", or score it with run.score or an LTCScorer" if score_column == LTC_SCORE else "")
        )
    return found


def _count_typical(dataset: Dataset, score_column: str, exclude_negative: bool) -> tuple[int, int]:
    """How many of the rows with a score have a typicality, and how many rows have a score."""
    typicality_column = typicality_name(score_column)
    scores, typicality = read_column(dataset, score_column), read_column(dataset, typicality_column)
    for column, stored in ((score_column, scores), (typicality_column, typicality)):
        check_numbers(stored.type, column)
    scored = pc.invert(pc.is_null(scores, nan_is_null=True))
    if exclude_negative:
        scored = pc.and_(scored, pc.fill_null(pc.greater_equal(scores, 0), False))
    known = pc.and_not(scored, pc.is_null(typicality, nan_is_null=True))
    return int(pc.sum(known).as_py() or 0), int(pc.sum(scored).as_py() or 0)


def read_typicality(dataset: Dataset, score_column: str, selection: Selection) -> np.ndarray | None:
    """The typicality of each row, float64 `(N,)`, NaN where there is none; nothing where it is not needed."""
    if not decided(dataset, score_column, selection).typical:
        return None
    column = typicality_name(score_column)
    stored = read_column(dataset, column)
    check_numbers(stored.type, column)
    return np.asarray(stored.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def read_probability(dataset: Dataset) -> np.ndarray:
    """Mean over epochs of the probability of the true class, float64 `(N,)`; NaN for rows without a trajectory."""
    return _of_trajectories(_read_trajectories(dataset, "beta"), mean_probability)


def read_mean_losses(dataset: Dataset) -> np.ndarray | None:
    """Mean over epochs of each row's loss, float64 `(N,)`; NaN for rows without a trajectory, nothing without any."""
    if LOSS_TRAJECTORY not in dataset.column_names:
        return None
    stored = read_column(dataset, LOSS_TRAJECTORY)
    if not pa.types.is_nested(stored.type) or len(_lengths(stored)) != 1:
        return None
    return _of_trajectories(stored, recorded_mean)


def read_clusters(
    dataset: Dataset, candidates: np.ndarray, labels: np.ndarray | None, selection: Selection
) -> np.ndarray:
    """The cluster of each row's trajectory, int64 `(N,)`; -1 for rows that are no candidates, bool `(N,)`."""
    stored = _read_trajectories(dataset, "clusters").filter(pa.array(candidates))
    losses = stored.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(stored), -1)
    groups = np.zeros(len(stored), dtype=np.int64) if labels is None else labels[candidates]
    clusters = np.full(len(candidates), -1, dtype=np.int64)
    clusters[candidates] = like_trajectories(losses, groups, selection.clusters, selection.seed)
    return clusters


def _read_trajectories(dataset: Dataset, coverage: str) -> pa.ChunkedArray:
    if LOSS_TRAJECTORY not in dataset.column_names:
        raise InputError(f"coverage {coverage!r} needs the column {LOSS_TRAJECTORY!r}: run.attach(dataset) adds it")
    stored = read_column(dataset, LOSS_TRAJECTORY)
    if len(lengths := _lengths(stored)) > 1:
        shown = ", ".join(map(str, lengths))
        raise InputError(f"column {LOSS_TRAJECTORY!r} has lists of different lengths ({shown}): attach one recording")
    return stored


def _lengths(trajectories: pa.ChunkedArray) -> list[int]:
    return pc.unique(pc.list_value_length(trajectories).drop_null()).to_pylist()


def _of_trajectories(stored: pa.ChunkedArray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A function of losses float32 `(n, L)`, float64 `(N,)`; NaN for rows without a trajectory."""
    means = []
    for chunk in stored.chunks:
        mean = np.full(len(chunk), np.nan)
        known = chunk.is_valid().to_numpy(zero_copy_only=False)
        losses = chunk.drop_null().flatten().to_numpy(zero_copy_only=False)
        if known.any():
            mean[known] = function(losses.reshape(int(known.sum()), -1))
        means.append(mean)
    return np.concatenate(means) if means else np.zeros(0)


def check_numbers(held: pa.DataType, column: str) -> None:
    # A column of nulls alone has no scores, and no other type.
    if not (pa.types.is_floating(held) or pa.types.is_integer(held) or pa.types.is_null(held)):
        raise InputError(f"column {column!r} holds {held}, not numbers: name another score column")
