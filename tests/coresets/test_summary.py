"""Summaries of coresets, against the rows that they are of."""

import dataclasses

import numpy as np
from datasets import Dataset

from hf_ltc.coresets.select import select_coreset
from hf_ltc.coresets.summary import CoresetSummary, describe_coreset
from tests.coresets.scored import many_rows, values


def test_describe_coreset_says_what_is_kept():
    dataset, labels, scores, held, flat, _ = many_rows()
    coreset = select_coreset(dataset, size=1001)
    summary = describe_coreset(coreset, dataset)
    kept = np.array(values(coreset, "number"))
    assert (summary.rows, summary.pool, summary.held_out) == (1001, (~held).sum(), held.sum())
    assert (summary.flat, summary.negative) == (flat.sum(), (scores[kept] < 0).sum())
    assert summary.classes == {str(c): int((labels[kept] == c).sum()) for c in range(5)}
    assert summary.pool_classes == {str(c): int((labels[~held] == c).sum()) for c in range(5)}
    assert summary.score_range == (scores[kept].min(), scores[kept].max())
    pool = scores[~held & ~flat]
    assert summary.pool_score_range == (pool.min(), pool.max())
    assert CoresetSummary(**summary.to_dict()) == dataclasses.replace(
        summary, score_range=list(summary.score_range), pool_score_range=list(summary.pool_score_range)
    )
    text = str(summary)
    low, high = min(summary.classes.values()), max(summary.classes.values())
    assert f"1,001 of the {summary.pool:,} candidate rows" in text and "\n" not in text
    assert f"5 classes has {low:,} to {high:,} rows" in text
    excluded = describe_coreset(coreset, dataset, exclude_negative=True)
    assert excluded.pool == (~held & ~((scores < 0) & ~flat)).sum() and excluded.held_out == held.sum()


def test_describe_coreset_of_a_dataset_without_labels():
    columns = {"text": ["a", "b", "c"], "x_score": [0.5, 0.25, float("nan")], "loss_trajectory": [[0.5]] * 3}
    dataset = Dataset.from_dict(columns)
    summary = describe_coreset(dataset.select([0]), dataset, score_column="x_score")
    assert summary.classes == {} and summary.pool == 3 and summary.flat == 1
    assert str(summary) == (
        "The coreset has 1 of the 3 candidate rows (33.3%). Their x_score is 0.5 to 0.5 (of all candidates: "
        "0.25 to 0.5); 0 are negative. 1 candidate rows have no score and come last."
    )
