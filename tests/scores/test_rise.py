"""Whether the mean validation loss rises while the train rows are learned."""

import dataclasses

import numpy as np
import pytest

from hf_ltc.scores.rise import find_rise
from tests.scores.recordings import make_run


def with_means(means, lengths=None, **changes):
    held = np.asarray(means)[:, None] + np.array([[-0.1, 0, 0.1]])
    lengths = lengths or (len(means),)
    run = make_run(n=9, q=3, lengths=lengths, **changes)
    return dataclasses.replace(run, validation_losses=held.astype(np.float32))


@pytest.mark.parametrize(
    "means, found",
    [
        ([2.0, 1.0, 0.5], None),
        # Within a fifth of what it fell by.
        ([2.0, 1.0, 1.19], None),
        ([2.0, 1.0, 1.21], (1, 1.0, 1.21)),
        ([2.0, 1.0, 3.0, 1.1], None),
        ([2.0, 2.1, 2.2], (0, 2.0, 2.2)),
        ([2.0, 2.0, 2.0], None),
    ],
)
def test_a_rise_is_more_than_a_fifth_of_the_fall(means, found):
    rise = find_rise(with_means(means))
    assert rise == (None if found is None else pytest.approx(found, abs=1e-6))


def test_of_several_runs_the_first_that_rises_is_told():
    run = with_means([2, 1, 0.5, 2, 1, 1.5, 2, 0.2, 3], lengths=(3, 3, 3), epochs=np.tile([0, 5, 10], 3))
    assert find_rise(run) == pytest.approx((5, 1.0, 1.5), abs=1e-6)


def test_what_a_run_did_not_record_counts_for_nothing():
    """As where validation samples rotate: each run has its own."""
    run = with_means([2, 1, 0.5, 2, 1, 1.5], lengths=(3, 3))
    held = run.validation_losses.copy()
    held[:3, 0] = held[3:, 2] = np.nan
    # The mean of the first two is a little lower.
    assert find_rise(dataclasses.replace(run, validation_losses=held)) == pytest.approx((1, 0.95, 1.45), abs=1e-6)
    assert find_rise(dataclasses.replace(run, validation_losses=held[:, :0])) is None
