"""Weights of rows by their score: mean one, nothing for rows that contradict the validation samples."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Value

from hf_ltc.coresets.weights import weight_rows
from hf_ltc.data.columns import with_columns
from hf_ltc.utils.errors import InputError
from tests.coresets.scored import scored_dataset, values


def with_scores(dataset, scores):
    return with_columns(dataset, {"ltc_score": (pa.array(scores, pa.float32()), Value("float32"))})


def test_weights_are_in_proportion_to_the_score_above_zero():
    dataset, held, flat = scored_dataset()
    weighted = weight_rows(dataset)
    assert weighted.features["weight"] == Value("float32")
    weights = values(weighted, "weight")
    assert [weight is None for weight in weights] == held.tolist()
    scores = np.array(values(dataset, "ltc_score"), dtype=float)
    known = np.array([weight for weight in weights if weight is not None])
    assert known.mean() == pytest.approx(1, abs=1e-6)
    expected = np.where(flat | (scores < 0), 0, scores)[~held]
    assert (expected == 0).sum() > flat.sum() > 0
    np.testing.assert_allclose(known, expected / expected.mean(), rtol=1e-6)
    # Whatever the order and format of the dataset.
    shuffled = dataset.shuffle(seed=1).with_format("numpy")
    by_number = dict(zip(values(weighted, "number"), weights))
    again = weight_rows(shuffled, weight_column="w")
    assert values(again, "w") == [by_number[number] for number in values(again, "number")]
    assert again.format["type"] == "numpy"


def test_a_weight_column_is_not_replaced():
    once = weight_rows(scored_dataset()[0])
    with pytest.raises(
        InputError, match=r"`weight_column` 'weight' is a column .* \(dataset.remove_columns\('weight'"
    ):
        weight_rows(once)
    assert values(weight_rows(once, weight_column="again"), "again") == values(once, "weight")


@pytest.mark.parametrize("unit", [5e-324, 1e308])
def test_scores_of_any_size_have_weights(unit):
    rows = Dataset.from_dict({"x_score": [3 * unit, unit, -unit, 0.0] if unit < 1 else [unit, unit / 3, -unit, 0.0]})
    weights = values(weight_rows(rows, score_column="x_score"), "weight")
    np.testing.assert_allclose(weights, [3, 1, 0, 0])


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([-0.5, 0.0, float("nan")], "column 'ltc_score' has no score above 0, so that no row would count"),
        ([0.5, float("inf"), 0.1], r"column 'ltc_score' has 1 infinite scores \(rows 1\)"),
    ],
)
def test_scores_that_give_no_weights(scores, said):
    rows = with_scores(Dataset.from_dict({"text": ["a", "b", "c"]}), scores)
    with pytest.raises(InputError, match=said):
        weight_rows(rows)
