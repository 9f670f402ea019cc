"""The rows that the coresets of two scores have in common, counted one by one."""

import math

import numpy as np
import pytest

from hf_ltc.coresets.order import coreset_order
from hf_ltc.coresets.overlap import overlap
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.typicality import ltc_typicality
from hf_ltc.utils.errors import InputError
from tests.trajectories.test_compare import LABELS, N, make


@pytest.mark.parametrize("balance", ["class", "proportional", "none"])
def test_overlap_counts_the_rows_in_common(balance):
    first, second = (ltc_scores(make(seed)) for seed in (0, 1))
    found = overlap(first, second, LABELS, [0.05, 0.3, 1.0], balance)
    assert found.keys() == {0.05, 0.3, 1.0}
    for fraction, share in found.items():
        size = round(fraction * N)
        kept = [set(np.flatnonzero(coreset_order(s, LABELS, balance=balance) < size)) for s in (first, second)]
        assert share == len(kept[0] & kept[1]) / size
        # More than chance alone would give.
        assert fraction <= share <= 1
    assert found[1.0] == 1


@pytest.mark.parametrize("typical", [0, 0.1, 0.4])
def test_with_typicality_the_coresets_are_those_of_the_default_order(typical):
    runs = [make(seed) for seed in (0, 1)]
    scores, keys = [ltc_scores(run) for run in runs], [ltc_typicality(run) for run in runs]
    found = overlap(*scores, LABELS, typicality=keys, typical=typical)
    for fraction, share in found.items():
        kept = [
            coreset_order(s, LABELS, typicality=k, typical=typical) < round(fraction * N) for s, k in zip(scores, keys)
        ]
        assert share == (kept[0] & kept[1]).sum() / round(fraction * N)
    assert (found == overlap(*scores, LABELS)) == (typical == 0)


def test_the_same_scores_overlap_wholly_and_opposite_ones_not_at_all():
    scores = np.random.default_rng(0).normal(size=N)
    assert overlap(scores, 2 * scores, LABELS) == {0.1: 1.0, 0.3: 1.0, 0.5: 1.0}
    assert overlap(scores, -scores, LABELS) == {0.1: 0.0, 0.3: 0.0, 0.5: 0.0}


def test_overlap_of_few_rows_is_of_one_row_at_least():
    assert overlap(np.arange(4.0), np.arange(4.0), np.array([0, 1, 0, 1]), [0.1]) == {0.1: 1.0}


@pytest.mark.parametrize("budget", [0, -0.1, 1.5, math.nan])
def test_a_bad_budget_is_quoted(budget):
    with pytest.raises(InputError, match=f"budget {budget!r} must be inside"):
        overlap(np.arange(4.0), np.arange(4.0), np.array([0, 1, 0, 1]), [budget])
