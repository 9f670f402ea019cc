"""Scores of recorded rows as columns of their dataset, and the ranks by them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Value

from ..coresets import order, select
from ..coresets.choose import Selection
from ..coresets.scored import usual_balance
from ..data.columns import LOSS_TRAJECTORY, LTC_SCORE, rank_name, read_column, typicality_name, with_columns
from ..recipe import Recipe
from ..scores import reliability, scorers
from ..scores.at_once import RowScores, row_scores
from ..scores.protocol import Validated
from ..scores.typical_rows import usual_typical
from ..utils.errors import require
from . import tables

if TYPE_CHECKING:
    from .value import Trajectories

# Warnings look at the coreset of a tenth.
_LOOKED_AT = 10


def score_trajectories(
    run: "Trajectories",
    dataset: Dataset,
    *,
    balance: order.Balance | str | None = None,
    label_column: str | None = None,
    typical: float | None = None,
    baselines: Sequence[str] = (),
    id_column: str | None = None,
    **variant: Any,
) -> tuple[Dataset, RowScores]:
    """What [`Trajectories.score`] does, and the scores of the recorded rows; warns the caller's caller.

    Args:
        run ([`Trajectories`]): The recording.
        dataset, balance, label_column, typical, baselines, id_column, **variant: As for [`Trajectories.score`].
    """
    is_list = not isinstance(baselines, str) and len(set(baselines)) == len(baselines)
    require(is_list, "baselines", baselines, "a list of different names")
    # Read once, where it is on disk: the column needs it whole.
    run = dataclasses.replace(run, losses=np.asarray(run.losses))
    # Ranked by the score alone too, the dataset says which rows come first by default.
    first = Selection(typical=typical).typical or usual_typical(run)
    # Before the dataset is looked at: whether all that is asked for was recorded.
    known = {f"{name}_score": scorers.baseline_scores(run, name) for name in baselines}
    where = run.positions(dataset, id_column)
    found = row_scores(run, first, **variant)
    if first:
        known = {typicality_name(LTC_SCORE): found.typicality, **known}
    known = {LTC_SCORE: found.scores, **known}
    columns = {LOSS_TRAJECTORY: tables.trajectory_column(run.losses, where), **score_columns(known, where)}
    ranked, kept = ranked_by_score(
        dataset, columns, where, run, balance=balance, label_column=label_column, typical=typical
    )
    agreed = reliability.reliability_of(found.by_run, run.labels) if len(found.by_run) > 1 else None
    doubts = reliability.doubts_of(found.mean_losses, kept, run.labels, run.runs, variant)
    reliability.warn_of_doubts(agreed, doubts, stacklevel=4)
    return ranked, found


def score_columns(scores: Mapping[str, np.ndarray], where: np.ndarray) -> dict[str, tuple[Any, object]]:
    """Columns of scores, float32, null for rows without one and for those that were not recorded.

    Args:
        scores (`Mapping[str, np.ndarray]`): `(N,)` each, by the name of its column; NaN where there is none.
        where (`np.ndarray`): int64, each row's position among the recorded rows, or -1.
    """
    columns: dict[str, tuple[Any, object]] = {}
    for name, found in scores.items():
        values = np.where(where >= 0, found[where], np.nan).astype(np.float32)
        columns[name] = (pa.array(values, mask=np.isnan(values)), Value("float32"))
    return columns


def ranked_by_score(
    dataset: Dataset,
    columns: Mapping[str, tuple[Any, object]],
    where: np.ndarray,
    run: Validated,
    *,
    balance: order.Balance | str | None,
    label_column: str | None,
    typical: float | None,
) -> tuple[Dataset, np.ndarray]:
    """Adds columns of scores to a dataset and ranks it by them.

    Args:
        dataset (`datasets.Dataset`): The recorded dataset.
        columns (`Mapping`): From [`score_columns`], and others, as for [`with_columns`].
        where (`np.ndarray`): As for [`score_columns`].
        run ([`Trajectories`] or [`LossSummary`]): The recording, which knows whether its rows have classes.
        balance, label_column, typical: As for [`Trajectories.score`].

    Returns:
        `tuple[Dataset, np.ndarray]`: the ranked dataset, and which recorded rows are in its coreset of a tenth, bool
        `(N,)`, for warnings.
    """
    way, label_column = usual_balance(Recipe.from_dict(run.recipe).dataset, balance, label_column)
    if (column := typicality_name(LTC_SCORE)) not in columns and column in dataset.column_names:
        # Of another recording.
        dataset = dataset.remove_columns(column)
    ranked = select.rank_coreset(
        with_columns(dataset, columns), balance=way, label_column=label_column, typical=typical
    )
    size = max(1, len(run.rows) // _LOOKED_AT)
    kept = np.zeros(len(run.rows), dtype=bool)
    kept[where[select.in_coreset(read_column(ranked, rank_name(LTC_SCORE)), size=size)]] = True
    return ranked, kept
