"""Weights of rows, for trainings that keep all rows and count some of them more than others."""

import numpy as np
import pyarrow as pa
from datasets import Dataset, Value

from ..data.columns import with_columns
from ..data.inputs import require_dataset
from ..utils.errors import InputError, some_rows
from .scored import read_scores

WEIGHT = "weight"


def weight_rows(dataset: Dataset, *, score_column: str = "ltc_score", weight_column: str = WEIGHT) -> Dataset:
    """Adds a weight for each row's loss: the positive part of its score, divided by the mean over the rows.

    Rows that agree with the validation samples count in proportion, and rows that contradict them do not count; Ren et
    al. (2018, arXiv 1803.09050) weight rows by the agreement of gradients in the same way. The mean weight is one, so
    the learning rate can stay the same. No row is rewritten.

    Args:
        dataset (`datasets.Dataset`): A scored dataset; shuffled, selected and formatted ones included.
        score_column (`str`, *optional*, defaults to `"ltc_score"`): Any column of numbers in which higher is better.
        weight_column (`str`, *optional*, defaults to `"weight"`):
            The column to add. An existing column is never replaced, not even by weights of another score.

    Returns:
        `datasets.Dataset`: with one more column, float32. It is 0 for candidate rows without a score, because their
            trajectory is flat, and null for held-out rows.

    Raises:
        InputError: if the score column is missing or of another type, has infinite values or no score above 0, or if
            the weight column already exists.
    """
    check_weight_column(dataset, weight_column)
    scores, candidates = read_scores(dataset, score_column)
    if len(infinite := np.flatnonzero(np.isinf(scores))):
        raise InputError(
            f"column {score_column!r} has {len(infinite)} infinite scores (rows {some_rows(infinite)}): leave these "
            "rows out"
        )
    weights = np.where(candidates, np.fmax(scores, 0.0), 0.0)
    if not weights.any():
        raise InputError(
            f"column {score_column!r} has no score above 0, so that no row would count: name another score column"
        )
    # Divided twice, since the sum of very small or very large scores has no reciprocal, or is infinite.
    weights /= weights.max()
    weights *= np.count_nonzero(candidates) / weights.sum()
    column = pa.array(weights.astype(np.float32), mask=~candidates)
    return with_columns(dataset, {weight_column: (column, Value("float32"))})


def check_weight_column(dataset: Dataset, weight_column: str) -> None:
    """Checks that no column would be replaced.

    Raises:
        InputError: if it is there.
    """
    require_dataset(dataset, "dataset")
    if weight_column in dataset.column_names:
        raise InputError(
            f"`weight_column` {weight_column!r} is a column of the dataset already: give another name, or remove that "
            f"column (dataset.remove_columns({weight_column!r}))"
        )
