"""LTC and its family against scipy, on arrays, on tables read epoch by epoch and in `map`."""

import dataclasses
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ltc.scores import ltc
from hf_ltc.scores.explain import explain
from hf_ltc.scores.ltc import DEFAULT, PRESETS, is_weighted, ltc_scores, references
from hf_ltc.scores.scorers import LTCScorer
from hf_ltc.scores.windows import uncertainty
from hf_ltc.utils.errors import InputError
from tests.helpers import error_of
from tests.scores.recordings import VARIANTS, WEIGHED, directly, make_run, named, unsure


def test_presets_are_the_papers_and_the_default_is_a_member():
    run = make_run()
    assert tuple(DEFAULT.values()) in VARIANTS + WEIGHED
    assert sorted(tuple(member.values()) for member in ltc.VARIANTS) == sorted(VARIANTS + WEIGHED)
    np.testing.assert_array_equal(
        ltc_scores(run, preset="ltc"),
        ltc_scores(run, of="differences", aggregate="correlations", scope="dataset", weighting="none"),
    )
    np.testing.assert_array_equal(
        ltc_scores(run, preset="cld"),
        ltc_scores(run, of="differences", aggregate="losses", scope="class", weighting="none"),
    )
    plain = ltc_scores(run, of="levels", aggregate="losses", scope="dataset", weighting="none")
    np.testing.assert_array_equal(ltc_scores(run, preset="das"), plain)
    np.testing.assert_array_equal(ltc_scores(run), ltc_scores(run, **DEFAULT))
    np.testing.assert_array_equal(ltc_scores(run), ltc_scores(run, preset="weighted-das"))
    assert set(PRESETS) == {"ltc", "cld", "das", "weighted-das"}


@pytest.mark.parametrize("member", VARIANTS + WEIGHED, ids="-".join)
@pytest.mark.parametrize("lengths", [(3,), (16,), (40,), (5, 3, 14), (17, 21)], ids=str)
def test_every_member_is_its_definition(member, lengths):
    run = make_run(lengths=lengths)
    scores = ltc_scores(run, **named(member))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, directly(run, *member), atol=1e-5, rtol=0)


@given(st.integers(0, 10**6), st.sampled_from(VARIANTS), st.integers(-12, 12))
@settings(max_examples=25, deadline=None)
def test_scores_do_not_change_with_units_and_follow_their_rows(seed, member, power):
    run = make_run(seed=seed, lengths=(18, 16))
    scores = ltc_scores(run, **named(member))
    order = np.random.default_rng(seed).permutation(60)
    moved = dataclasses.replace(run, losses=2.0**power * run.losses[:, order], labels=run.labels[order])
    np.testing.assert_allclose(ltc_scores(moved, **named(member)), scores[order], atol=1e-6, rtol=0)
    assert (np.abs(scores) <= 1).all()


def test_one_row_and_one_validation_sample():
    run = make_run(n=1, q=1, lengths=(20,), classes=1)
    for member in VARIANTS:
        np.testing.assert_allclose(ltc_scores(run, **named(member)), directly(run, *member), atol=1e-5, rtol=0)
    same = dataclasses.replace(run, validation_losses=run.losses)
    for member in VARIANTS:
        np.testing.assert_allclose(ltc_scores(same, **named(member)), 1, atol=1e-6)
    for member in WEIGHED:
        assert ltc_scores(same, **named(member)) == pytest.approx(unsure(run.losses[:, 0], run.epochs) ** 0.5)
    assert ltc_scores(make_run(n=0)).shape == (0,)


def test_flat_rows_have_no_score_and_the_others_do_not_notice():
    run = make_run()
    losses = run.losses.copy()
    losses[:, 3] = 1.7
    losses[:, 5] = 4 - 0.5 * np.arange(16)
    flat = dataclasses.replace(run, losses=losses)
    scores = ltc_scores(flat, preset="ltc")
    assert np.flatnonzero(np.isnan(scores)).tolist() == [3, 5]
    np.testing.assert_array_equal(np.delete(scores, [3, 5]), np.delete(ltc_scores(run, preset="ltc"), [3, 5]))
    for weighting in ("none", "uncertainty"):
        assert np.flatnonzero(np.isnan(ltc_scores(flat, of="levels", weighting=weighting))).tolist() == [3]


def test_a_row_flat_in_one_run_has_the_score_of_the_others():
    run = make_run(lengths=(5, 6))
    losses = run.losses.copy()
    losses[:5, 0] = 2
    losses[:, 1] = 2
    scores = ltc_scores(dataclasses.replace(run, losses=losses))
    second = dataclasses.replace(
        run,
        losses=losses[5:],
        validation_losses=run.validation_losses[5:],
        epochs=run.epochs[5:],
        lengths=(6,),
    )
    np.testing.assert_array_equal(scores[:2], ltc_scores(second)[:2])
    assert np.isnan(scores[1])


def test_flat_validation_samples_are_left_out_of_the_mean():
    run = make_run()
    with_flat = run.validation_losses.copy()
    with_flat[:, 4] = 0
    without = np.delete(run.validation_losses, 4, axis=1)
    scores = ltc_scores(dataclasses.replace(run, validation_losses=with_flat))
    expected = ltc_scores(
        dataclasses.replace(run, validation_losses=without, validation_labels=np.zeros(11, dtype=int))
    )
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("member", VARIANTS, ids="-".join)
def test_references_sum_to_zero_and_give_the_scores(member):
    run = make_run(lengths=(7, 5))
    found = references(run, *member)
    total = np.zeros(60)
    for (start, stop), reference in zip([(0, 7), (7, 12)], found):
        x = run.losses[start:stop].astype(np.float64)
        x = np.diff(x, axis=0) if member[0] == "differences" else x
        u = (x - x.mean(axis=0)) / np.linalg.norm(x - x.mean(axis=0), axis=0)
        assert reference.dtype == np.float64
        assert reference.shape == (len(x), 1 if member[2] == "dataset" else 3)
        np.testing.assert_allclose(reference.sum(axis=0), 0, atol=1e-12)
        total += (u * reference[:, run.labels if member[2] == "class" else np.zeros(60, dtype=int)]).sum(axis=0)
    np.testing.assert_allclose(ltc_scores(run, **named(member)), total / 2, atol=1e-6)


# Bad recordings.


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("of", ["differences", "levels"])
def test_losses_that_are_not_finite_are_named(value, of):
    run = make_run(lengths=(5, 6))
    losses = run.losses.copy()
    losses[8, [4, 9]] = value
    losses[9] = value
    with pytest.raises(
        InputError, match=r"epoch 3 of run 1 has 2 losses that are not finite \(rows 9, 19\).*truncate"
    ):
        ltc_scores(dataclasses.replace(run, losses=losses), of=of)
    validation_losses = run.validation_losses.copy()
    validation_losses[0, 4] = value
    with pytest.raises(InputError, match=r"epoch 0 of run 0 has 1 validation losses .* \(rows 4\): (?!.*truncate)"):
        ltc_scores(dataclasses.replace(run, validation_losses=validation_losses), of=of)
    with pytest.raises(InputError, match="not finite"):
        explain(dataclasses.replace(run, losses=losses), [9])


def test_recordings_that_have_no_score():
    run = make_run(classes=4, n=60, q=12)
    some = dataclasses.replace(run, validation_labels=np.arange(12) % 2)
    with pytest.raises(InputError, match="no validation samples in classes 2, 3:"):
        ltc_scores(some, scope="class")
    named = dataclasses.replace(some, recipe={"dataset": {"names": ["cat", "dog", "emu", "fox"]}})
    with pytest.raises(InputError, match="no validation samples in classes 'emu', 'fox':"):
        LTCScorer.from_trajectories(named, scope="class")
    assert not np.isnan(ltc_scores(some)).any()
    none = dataclasses.replace(
        run, validation_losses=np.empty((16, 0), dtype=np.float32), validation_labels=np.empty(0, dtype=np.int64)
    )
    with pytest.raises(InputError, match="no validation samples to correlate rows with"):
        ltc_scores(none)
    for lengths in [(2,), (5, 2), (1,)]:
        with pytest.raises(InputError, match="fewer than two differences"):
            ltc_scores(make_run(lengths=lengths))
    validation_losses = run.validation_losses.copy()
    validation_losses[:, run.validation_labels == 2] = 1
    with pytest.raises(InputError, match="validation losses of class 2 are flat"):
        ltc_scores(dataclasses.replace(run, validation_losses=validation_losses), scope="class")
    with pytest.raises(InputError, match="validation losses are flat"):
        ltc_scores(dataclasses.replace(run, validation_losses=np.zeros((16, 12), dtype=np.float32)))


def test_choices_are_checked():
    run = make_run()
    with pytest.raises(InputError, match=r"`of` is 'diffs': it must be one of 'differences', 'levels'"):
        ltc_scores(run, of="diffs")
    with pytest.raises(InputError, match="`preset` is 'LTC'"):
        ltc_scores(run, preset="LTC")
    with pytest.raises(InputError, match="`preset` 'cld' has of='differences': leave of='levels' out"):
        ltc_scores(run, of="levels", preset="cld")
    for preset, member in PRESETS.items():
        # Also where the choice that contradicts is the default's.
        for other in VARIANTS:
            for name, value in zip(member, other):
                if value != member[name]:
                    with pytest.raises(InputError, match=f"leave {name}='{value}' out"):
                        ltc_scores(run, **{name: value}, preset=preset)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_two_arrays_of_any_kind_are_enough(dtype):
    run = make_run(lengths=(8,))
    losses, validation_losses = (
        torch.tensor(each, requires_grad=True).to(getattr(torch, dtype))
        for each in (run.losses, run.validation_losses)
    )
    exact = dtype in ("float32", "float64")
    expected = ltc_scores(run) if exact else ltc_scores(losses.detach().float(), validation_losses.detach().float())
    np.testing.assert_array_equal(ltc_scores(losses, validation_losses), expected)
    plain = losses.detach().double().numpy()
    np.testing.assert_array_equal(ltc_scores(plain.tolist(), validation_losses=validation_losses), expected)
    np.testing.assert_array_equal(
        ltc_scores(np.asfortranarray(plain), validation_losses, preset="ltc"),
        ltc_scores(dataclasses.replace(run, losses=plain.astype(np.float32)), preset="ltc")
        if exact
        else ltc_scores(plain, validation_losses.detach().float(), preset="ltc"),
    )


@pytest.mark.parametrize(
    "losses, validation_losses, said",
    [
        (np.zeros((60, 8)), np.zeros((12, 8)), r"shape \(60, 8\) and `validation_losses` \(12, 8\).*transposed"),
        (np.zeros((8, 60)), np.zeros((12, 8)), r"their rows are checkpoints, give both of the same"),
        (np.zeros(8), np.zeros((8, 12)), r"`losses` has shape \(8,\) and holds float64: give a table of numbers"),
        (np.full((8, 60), "a"), np.zeros((8, 12)), "`losses` has shape .8, 60. and holds <U1"),
        ([[1.0, 2.0], [3.0]], np.zeros((8, 12)), "`losses` is no array"),
        (
            np.full((8, 60), np.nan),
            np.ones((8, 12)) * np.arange(8)[:, None] ** 2,
            "epoch 0 has 60 losses that are not",
        ),
        (np.full((8, 60), 1e300), np.ones((8, 12)) * np.arange(8)[:, None] ** 2, "epoch 0 has 60 losses that are not"),
        (np.zeros((2, 60)), np.zeros((2, 12)), "a run of 2 checkpoints has fewer than two differences"),
    ],
)
def test_arrays_that_cannot_be_scored_are_refused(losses, validation_losses, said):
    assert re.search(said, error_of(ltc_scores, losses, validation_losses))


def test_what_goes_not_with_two_arrays_is_refused():
    run = make_run()
    assert "losses alone have no classes" in error_of(ltc_scores, run.losses, run.validation_losses, preset="cld")
    assert "a recording has its own: leave them out" in error_of(ltc_scores, run, "differences")


@pytest.mark.parametrize("first", [0, 1])
def test_short_recordings_are_not_weighted(first):
    def recorded(*trained):
        lengths = tuple(length + 1 - first for length in trained)
        epochs = np.concatenate([np.arange(length) + first for length in lengths])
        return make_run(lengths=lengths, epochs=epochs)

    for trained, weighted in [((15,), True), ((14,), False), ((20, 15), True), ((20, 14), False)]:
        run = recorded(*trained)
        plain = ltc_scores(run, preset="das")
        assert np.array_equal(ltc_scores(run), plain) != weighted
        assert is_weighted(run, PRESETS["weighted-das"]) == weighted
        assert not is_weighted(run, PRESETS["das"])


@pytest.mark.parametrize(
    ("epochs", "asked", "weighted"),
    [
        (np.arange(7) * 5, 30, True),
        (np.arange(7) * 5, None, False),
        # Interrupted, or cut.
        (np.arange(3) * 5, 30, False),
        # Numbers of steps.
        (np.arange(5) * 500, 4, False),
    ],
    ids=["every fifth", "of a loop", "the first ten", "steps"],
)
def test_epochs_count_and_not_how_many_were_recorded(epochs, asked, weighted):
    recipe = {} if asked is None else {"config": {"epochs": asked}}
    run = make_run(lengths=(len(epochs),), epochs=epochs, recipe=recipe)
    assert is_weighted(run, PRESETS["weighted-das"]) == weighted
    plain = ltc_scores(run, preset="das")
    expected = plain * np.sqrt(uncertainty(run.losses[epochs > 0])) if weighted else plain
    np.testing.assert_allclose(ltc_scores(run), expected, atol=1e-6)


def test_texts_are_not_weighted():
    run = make_run(lengths=(20,), recipe={"dataset": {"text_column": "text"}})
    np.testing.assert_array_equal(ltc_scores(run), ltc_scores(run, preset="das"))
    assert not np.array_equal(ltc_scores(make_run(lengths=(20,))), ltc_scores(run))
