"""Near-duplicates by features: which rows are found together, and how they are numbered."""

import numpy as np
import pytest

from hf_ltc.report.duplicates import near_duplicates
from hf_ltc.utils.errors import LTCWarning


def classes(count, size=64, spread=0.3, seed=0):
    """Features of rows of four classes, as a model that tells these apart sees them."""
    draw = np.random.default_rng(seed)
    centers = draw.normal(size=(4, size)) * 3
    return (centers[np.arange(count) % 4] + spread * draw.normal(size=(count, size))).astype(np.float16)


def test_copies_are_found_and_rows_of_one_class_are_not():
    rows = classes(1_000)
    draw = np.random.default_rng(1)
    originals = draw.permutation(900)[:50]
    copies = np.arange(950, 1_000)
    rows[copies] = rows[originals] + (0.02 * draw.normal(size=(50, 64))).astype(np.float16)
    found = near_duplicates(rows)
    # To the model all rows of a class are alike.
    unit = rows.astype(np.float32) / np.linalg.norm(rows.astype(np.float32), axis=1, keepdims=True)
    assert ((unit @ unit.T)[np.arange(0, 900, 4)[:, None], np.arange(0, 900, 4)] > 0.9).all()
    np.testing.assert_array_equal(found[copies], found[originals])
    assert sorted(np.flatnonzero(found >= 0)) == sorted([*originals, *copies])
    # Numbered by their first rows.
    first = [np.flatnonzero(found == group)[0] for group in range(50)]
    assert found.max() == 49 and first == sorted(first)


def test_more_copies_than_neighbors_are_one_group():
    rows = classes(1_000)
    rows[40:80] = rows[40]
    found = near_duplicates(rows)
    assert (found[40:80] == 0).all() and (found >= 0).sum() == 40


def test_over_the_borders_of_blocks(monkeypatch):
    rows = classes(500)
    rows[[3, 250, 499]] = rows[7]
    whole = near_duplicates(rows)
    assert whole[3] == whole[7] == whole[250] == whole[499] == 0 and (whole >= 0).sum() == 4
    for name, value in (("_BLOCK", 64), ("_FITTED", 400)):
        monkeypatch.setattr(f"hf_ltc.report.duplicates.{name}", value)
        np.testing.assert_array_equal(near_duplicates(rows), whole)


def test_a_higher_similarity_finds_fewer():
    rows = classes(400)
    rows[200:] = rows[:200] + (np.linspace(0, 0.5, 200)[:, None] * classes(200, spread=1, seed=2)).astype(np.float16)
    counts = [(near_duplicates(rows, similarity) >= 0).sum() for similarity in (0.2, 0.5, 0.8, 0.999)]
    assert counts == sorted(counts, reverse=True) and counts[-1] < counts[0]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 12])
def test_few_rows(count):
    rows = classes(12)
    rows[1] = rows[0]
    found = near_duplicates(rows[:count])
    # Where all rows are the same nothing tells them apart, and so nothing tells copies.
    assert found.tolist() == ([0, 0] + [-1] * (count - 2) if count > 2 else [-1] * count)


def test_units_that_are_never_active_and_one_that_never_varies():
    rows = classes(300)
    rows[7] = rows[5]
    silent = np.concatenate([rows, np.zeros((300, 40), np.float16), np.ones((300, 1), np.float16)], axis=1)
    np.testing.assert_array_equal(near_duplicates(silent), near_duplicates(rows))
    assert (near_duplicates(np.ones((50, 4), np.float16)) == -1).all()


@pytest.mark.parametrize("size", [2, 4, 6])
def test_in_few_directions_only_equal_rows_are_found(size):
    rows = np.random.default_rng(0).normal(size=(2_000, size)).astype(np.float16)
    rows[[900, 1_500]] = rows[[3, 3]]
    with pytest.warns(LTCWarning, match=rf"most rows are near to others, by .* that differ in {size} directions"):
        found = near_duplicates(rows)
    assert (found[[3, 900, 1_500]] == found[3]).all() and found[3] >= 0
    # Few of random float16 are the same.
    assert (found >= 0).mean() < 0.02


def test_of_a_model_that_sees_classes_alone_only_equal_rows_are_found():
    draw = np.random.default_rng(0)
    centers = draw.normal(size=(10, 64)) * 3
    for spread in (0.01, 0.03):
        rows = (centers[np.arange(3_000) % 10] + spread * draw.normal(size=(3_000, 64))).astype(np.float16)
        rows[11] = rows[1]
        with pytest.warns(LTCWarning, match="only rows with equal features are called near-duplicates"):
            found = near_duplicates(rows)
        assert np.flatnonzero(found >= 0).tolist() == [1, 11]
