"""How many typical rows of each class come first."""

import numpy as np
import pytest

from hf_ltc.scores.typical_places import typical_places


@pytest.mark.parametrize(
    "typical, by_class, places",
    [
        (0.1, True, [50, 18, 2, 1]),
        (25, True, [25, 18, 2, 1]),
        (25, False, [50, 18, 2, 1]),
        (1.0, True, [500, 180, 20, 3]),
        (0.001, True, [1, 1, 1, 1]),
    ],
)
def test_a_class_has_a_tenth_of_typical_rows_at_most(typical, by_class, places):
    assert typical_places(np.array([500, 180, 20, 3]), typical, by_class).tolist() == places
