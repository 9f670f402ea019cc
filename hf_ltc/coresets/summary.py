"""A summary of a coreset and of the dataset that it was chosen from."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset

from ..data.columns import read_column
from ..data.inputs import require_dataset
from ..data.labels import find_label_column
from .scored import read_scores


@dataclass(frozen=True)
class CoresetSummary:
    """A summary of what a coreset keeps of a dataset; `str` makes a paragraph of it.

    Args:
        rows (`int`): Rows of the coreset.
        pool (`int`): Candidate rows.
        held_out (`int`): Other rows: held out as validation samples, or never scored.
        flat (`int`): Candidate rows without a score, since their trajectory is flat.
        negative (`int`): Rows of the coreset with a negative score.
        score_column (`str`): The score.
        score_range (`tuple[float, float]`, *optional*): Lowest and highest score in the coreset.
        pool_score_range (`tuple[float, float]`, *optional*): The same for all candidate rows.
        classes (`dict[str, int]`): Rows of the coreset by class; empty if the dataset has no labels.
        pool_classes (`dict[str, int]`): Candidate rows by class.
    """

    rows: int
    pool: int
    held_out: int
    flat: int
    negative: int
    score_column: str
    score_range: tuple[float, float] | None
    pool_score_range: tuple[float, float] | None
    classes: dict[str, int]
    pool_classes: dict[str, int]

    def __str__(self) -> str:
        share = f" ({100 * self.rows / self.pool:.1f}%)" if self.pool else ""
        said = [f"The coreset has {self.rows:,} of the {self.pool:,} candidate rows{share}"]
        if self.held_out:
            said[-1] += f"; {self.held_out:,} other rows are held out or have no score"
        if self.pool_classes:
            counts = [self.classes.get(name, 0) for name in self.pool_classes]
            each = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
            said.append(f"Each of its {len(counts):,} classes has {each} rows")
        if self.score_range and self.pool_score_range:
            kept, pool = ("{:.4g} to {:.4g}".format(*r) for r in (self.score_range, self.pool_score_range))
            said.append(
                f"Their {self.score_column} is {kept} (of all candidates: {pool}); {self.negative:,} are negative"
            )
        if self.flat:
            said.append(f"{self.flat:,} candidate rows have no score and come last")
        return ". ".join(said) + "."

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def describe_coreset(
    coreset: Dataset,
    dataset: Dataset,
    *,
    score_column: str = "ltc_score",
    label_column: str | None = None,
    exclude_negative: bool = False,
) -> CoresetSummary:
    """Summarizes what a coreset keeps of the dataset that it was chosen from.

    Args:
        coreset (`datasets.Dataset`): The rows kept, as [`select_coreset`] returns them.
        dataset (`datasets.Dataset`): The scored dataset that they were chosen from.
        score_column (`str`, *optional*, defaults to `"ltc_score"`): The score they were chosen by.
        label_column (`str`, *optional*): Column with the class labels; found by its feature type if not given.
        exclude_negative (`bool`, *optional*, defaults to `False`): Whether rows with negative scores were excluded.

    Returns:
        [`CoresetSummary`]

    Raises:
        InputError: if a column is missing or of another type.
    """
    require_dataset(coreset, "coreset")
    kept, _ = read_scores(coreset, score_column)
    scores, recorded = read_scores(dataset, score_column)
    candidates = recorded & ~(scores < 0) if exclude_negative else recorded
    pool = scores[candidates]
    # Of several columns nobody knows which.
    labeled = label_column or sum(isinstance(feature, ClassLabel) for feature in dataset.features.values()) == 1
    column = find_label_column(dataset, label_column) if labeled else None
    pool_classes = _class_counts(dataset, column, candidates) if column else {}
    classes = _class_counts(coreset, column, np.ones(len(coreset), dtype=bool)) if column else {}
    return CoresetSummary(
        rows=len(coreset),
        pool=len(pool),
        held_out=int(np.count_nonzero(~recorded)),
        flat=int(np.count_nonzero(np.isnan(pool))),
        negative=int(np.count_nonzero(kept < 0)),
        score_column=score_column,
        score_range=_range(kept),
        pool_score_range=_range(pool),
        classes={name: classes.get(name, 0) for name in pool_classes},
        pool_classes=pool_classes,
    )


def _class_counts(dataset: Dataset, column: str, rows: np.ndarray) -> dict[str, int]:
    feature = dataset.features[column]
    counts = pc.value_counts(read_column(dataset, column).filter(pa.array(rows))).to_pylist()
    found = {entry["values"]: entry["counts"] for entry in counts}
    if isinstance(feature, ClassLabel):
        return {name: found.get(number, 0) for number, name in enumerate(feature.names)}
    return {str(value): found[value] for value in sorted(found)}


def _range(scores: np.ndarray) -> tuple[float, float] | None:
    known = scores[np.isfinite(scores)]
    return (float(known.min()), float(known.max())) if len(known) else None
