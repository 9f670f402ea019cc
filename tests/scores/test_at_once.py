"""All in one read of the losses: what the functions for each of them give."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from hf_ltc.scores import kernels
from hf_ltc.scores.at_once import row_scores
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.reliability import scores_by_run
from hf_ltc.scores.scorers import baseline_scores
from hf_ltc.scores.typicality import ltc_typicality
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError
from tests.scores.recordings import OnDisk, make_run


def recorded(lengths, n=90):
    run = make_run(n=n, lengths=lengths, rows=np.arange(n))
    run.losses[:, 11] = 2
    fields = {each.name: getattr(run, each.name) for each in dataclasses.fields(run) if each.name != "recipe"}
    return Trajectories(**fields)


@pytest.mark.parametrize("member", [{}, {"preset": "ltc"}, {"preset": "cld"}], ids=str)
@pytest.mark.parametrize("lengths", [(12,), (41,), (9, 14), (15, 30), (16, 30)], ids=str)
def test_one_read_gives_what_each_function_gives(monkeypatch, lengths, member):
    run = recorded(lengths)
    monkeypatch.setattr(kernels, "_PART", 32)
    found = row_scores(run, **member)
    np.testing.assert_array_equal(found.scores, ltc_scores(run, **member))
    np.testing.assert_array_equal(found.typicality, ltc_typicality(run))
    np.testing.assert_array_equal(found.mean_losses, baseline_scores(run, "mean_loss"))
    np.testing.assert_array_equal(found.by_run, scores_by_run(run.runs, run.rows, **member))
    table = OnDisk(run.losses)
    again = row_scores(_plain(run, table), **member)
    for field in dataclasses.fields(found):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(found, field.name))
    assert table.read == run.losses.size


def _plain(run, losses):
    """A recording whose losses can only be read as from disk."""
    # With attributes of its own: protocols look for no others since Python 3.12.
    own = {name: getattr(run, name) for name in dir(run) if not name.startswith("_")}
    return SimpleNamespace(**own | {"losses": losses})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_losses_that_are_not_finite_are_named(value):
    run = recorded((12,))
    run.losses[7, 9] = value
    with pytest.raises(InputError, match=r"epoch 7 has 1 losses that are not finite \(rows 9\)"):
        row_scores(run)
