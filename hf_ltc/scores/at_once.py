"""All that scoring a dataset needs of a recording, in one read of its losses."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .kernels import correlations, each_part, mean_of_runs
from .ltc import first_trained, references, score_variant
from .odds import Reading, typical_spans
from .protocol import RecordedColumns, losses_not_finite
from .scorers import BaselineScorer, score_table
from .typicality import typicality_of_read


@dataclass(frozen=True, eq=False)
class RowScores:
    """What is known of every recorded row, float32 `(N,)` each; NaN where a row has none.

    Args:
        scores (`np.ndarray`): As [`ltc_scores`] gives them.
        by_run (`list[np.ndarray]`): The same by each run alone.
        typicality (`np.ndarray`): As [`typicality_for`] gives it.
        mean_losses (`np.ndarray`): The baseline `"mean_loss"`.
    """

    scores: np.ndarray
    by_run: list[np.ndarray]
    typicality: np.ndarray
    mean_losses: np.ndarray


def row_scores(trajectories: RecordedColumns, typical: float = 1.0, **variant: Any) -> RowScores:
    """Scores every recorded row, with what ranks and warnings of these scores need.

    Args:
        trajectories ([`Trajectories`]): The recording.
        typical (`float`, *optional*, defaults to `1.0`): As for [`typicality_for`].
        **variant: `of`, `aggregate`, `scope`, `weighting`, `preset`, as for [`ltc_scores`].

    Returns:
        [`RowScores`]

    Raises:
        InputError: as [`ltc_scores`].
    """
    member = score_variant(**variant)
    table, lengths, n = trajectories.losses, trajectories.lengths, len(trajectories.rows)
    runs, trained = references(trajectories, **member), first_trained(trajectories, member)
    groups = trajectories.labels if member["scope"] == "class" else None
    mean_loss = BaselineScorer.from_trajectories(trajectories, "mean_loss")
    scores, mean_losses = np.empty(n, dtype=np.float32), np.empty(n, dtype=np.float32)
    by_run = [np.empty(n, dtype=np.float32) for _ in lengths]
    reading = Reading(n, typical_spans(trajectories))
    finite = []

    def work(losses: np.ndarray, part: slice) -> None:
        mine = None if groups is None else groups[part]
        each, fine = correlations(losses, lengths, runs, mine, member["of"], trained)
        finite.append(fine)
        if not fine:
            return
        scores[part] = mean_of_runs(each)
        for of_run, one in zip(by_run, each):
            of_run[part] = mean_of_runs([one])
        reading.add(losses, part)
        found = score_table(mean_loss, losses)
        assert found is not None
        mean_losses[part] = found

    each_part(table, work)
    if not all(finite):
        raise losses_not_finite(trajectories, table)
    return RowScores(scores, by_run, typicality_of_read(reading.found, trajectories, typical), mean_losses)
