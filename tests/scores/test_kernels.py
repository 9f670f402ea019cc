"""The one pass over a table of losses: exact whatever the losses are, and never more of it in memory than it needs."""

import dataclasses
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ltc.scores import kernels
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.scorers import LTCScorer
from hf_ltc.utils.errors import InputError
from tests.scores.recordings import VARIANTS, WEIGHED, OnDisk, directly, falling, make_run, named


# Kinds of trajectories: float64 (L, N), of size about one.
def _nearly_flat(rng, length, n):
    return 1 + rng.integers(0, 3, (length, n)) * 2.0**-23


def _one_last_bit(rng, length, n):
    table = np.ones((length, n))
    table[rng.integers(0, length, n), np.arange(n)] += 2.0**-23
    return table


def _nearly_linear(rng, length, n):
    return 1 + np.arange(length)[:, None] * rng.random((1, n)) + 1e-6 * rng.random((length, n))


def _one_outlier(rng, length, n):
    table = 1e-6 * rng.random((length, n))
    table[rng.integers(0, length, n), np.arange(n)] = 1
    return table


KINDS = {
    "noise": lambda rng, length, n: rng.random((length, n)),
    "falling": lambda rng, length, n: falling(rng, (length,), n),
    "smooth": lambda rng, length, n: 3 * np.exp(-rng.gamma(2, 2 / length, (1, n)) * np.arange(length)[:, None]),
    "nearly flat": _nearly_flat,
    "one last bit": _one_last_bit,
    "nearly linear": _nearly_linear,
    "one outlier": _one_outlier,
    "of all sizes": lambda rng, length, n: np.exp(rng.normal(0, 8, (length, n))),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1.0, 1e4, 1e20], ids=str)
@pytest.mark.parametrize("of", ["differences", "levels"])
def test_flat_tiny_and_huge_losses_are_exact(kind, scale, of):
    for length, n in [(3, 8), (4, 8), (21, 8), (1001, 2)]:
        rng = np.random.default_rng(length)
        losses = (scale * KINDS[kind](rng, length, n)).astype(np.float32)
        run = make_run(n=n, q=3, lengths=(length,), losses=losses)
        for weighting in ("none", "uncertainty"):
            member = (of, "correlations", "dataset", weighting)
            np.testing.assert_allclose(ltc_scores(run, **named(member)), directly(run, *member), atol=1e-5, rtol=0)


@given(
    seed=st.integers(0, 2**32 - 1),
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=2, max_size=2),
    exponents=st.tuples(st.floats(-6, 4), st.floats(-6, 4)),
    length=st.integers(3, 60),
    n=st.integers(1, 5),
    q=st.integers(1, 4),
    member=st.sampled_from(VARIANTS + WEIGHED),
)
@settings(max_examples=200, deadline=None)
def test_scores_are_scipys(seed, kinds, exponents, length, n, q, member):
    rng = np.random.default_rng(seed)
    losses, validation_losses = (
        (10.0**exponent * KINDS[kind](rng, length, size)).astype(np.float32)
        for kind, exponent, size in zip(kinds, exponents, (n, q))
    )
    run = make_run(n, q, (length,), classes=1, losses=losses, validation_losses=validation_losses)
    expected = directly(run, *member)
    try:
        scores = ltc_scores(run, **named(member))
    except InputError as error:
        assert "flat" in str(error)
        # Of a mean that is flat, the direct computation may leave what float64 rounds.
        mean = np.diff(validation_losses.astype(np.float64).mean(axis=1))
        assert np.isnan(expected).all() or (member[1] == "losses" and np.ptp(mean) < 1e-15 * validation_losses.max())
        return
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("member", VARIANTS, ids="-".join)
def test_arrays_tables_on_disk_and_columns_agree(member, tmp_path):
    run = make_run(n=500, lengths=(37, 20))
    losses = run.losses.copy()
    # Some that float32 cannot do.
    losses[:, :50] = 1e4 + np.arange(57)[:, None] + 0.01 * losses[:, :50]
    losses[:, 50:100] *= 1e-12
    losses[:, 100] = 3
    run = dataclasses.replace(run, losses=losses)
    scores = ltc_scores(run, **named(member))
    on_disk = OnDisk(losses)
    read = ltc_scores(
        dataclasses.replace(run, losses=on_disk, validation_losses=OnDisk(run.validation_losses)), **named(member)
    )
    np.save(tmp_path / "losses.npy", losses)
    mapped = dataclasses.replace(run, losses=np.load(tmp_path / "losses.npy", mmap_mode="r"))
    scorer = LTCScorer.from_trajectories(run, *member)
    column = scorer(pa.table({"loss_trajectory": list(losses.T), "label": run.labels}))["ltc_score"]
    assert column.type == pa.float32()
    assert np.flatnonzero(np.isnan(scores)).tolist() == column.is_null().to_numpy().nonzero()[0].tolist() == [100]
    for other in (read, ltc_scores(mapped, **named(member)), column.to_numpy()):
        np.testing.assert_allclose(other, scores, atol=1e-6, rtol=0)


@pytest.mark.parametrize("weighting", ["none", "uncertainty"])
def test_a_table_on_disk_is_scored_without_holding_it(monkeypatch, weighting):
    n, length = 40_000, 300
    noise = np.random.default_rng(0).random((length, 1), dtype=np.float32)
    base = np.random.default_rng(1).random(n, dtype=np.float32)

    class Generated(OnDisk):
        def __init__(self):
            self.shape, self.read = (length, n), 0

        def __getitem__(self, key):
            rows = base[key[1]]
            self.read += length * len(rows)
            return rows * noise + np.arange(length, dtype=np.float32)[:, None] * rows[::-1]

    table = Generated()
    monkeypatch.setattr(kernels, "_PART", 1000)
    monkeypatch.setattr(kernels, "_READ", 2**22)
    run = make_run(n=n, lengths=(length,), losses=table)
    tracemalloc.start()
    ltc_scores(run, of="differences", weighting=weighting)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < length * n * 4 / 3
    # Once each.
    assert table.read == length * n


@pytest.mark.parametrize("member", [{}, {"preset": "das"}, {"preset": "cld"}], ids=str)
@pytest.mark.parametrize("lengths", [(41,), (12,), (37, 20)], ids=str)
def test_parts_of_any_size_in_any_number_of_threads_give_the_same_to_the_bit(monkeypatch, lengths, member):
    run = make_run(n=400, lengths=lengths)
    # Rows that are computed again in float64, and a flat one.
    run.losses[:, 40:60] *= 1e-12
    run.losses[:, 70] = 3
    whole = ltc_scores(run, **member)
    monkeypatch.setattr(kernels, "count_threads", lambda losses: 3)
    for part in (7, 64):
        monkeypatch.setattr(kernels, "_PART", part)
        np.testing.assert_array_equal(ltc_scores(run, **member), whole)
    monkeypatch.setattr(kernels, "_READ", 4 * sum(lengths) * 100)
    np.testing.assert_array_equal(ltc_scores(dataclasses.replace(run, losses=OnDisk(run.losses)), **member), whole)
