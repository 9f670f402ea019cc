"""The coreset order against dealing by the letter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_ltc.coresets.order import coreset_order, said_typical
from hf_ltc.utils.errors import InputError
from tests.coresets.scored import best_first, scored_rows


def dealt(scores, labels, keep):
    """The order by the letter: round by round, one row of each class that has one, best first."""
    flat = [i for i in range(len(scores)) if np.isnan(scores[i])]
    order, taken = [], dict.fromkeys(labels.tolist(), 0)
    for pile in (best_first(scores, keep), flat):
        pile = list(pile)
        while pile:
            fewest = min(taken[labels[i]] for i in pile)
            i = next(i for i in pile if taken[labels[i]] == fewest)
            order.append(i)
            taken[labels[i]] += 1
            pile.remove(i)
    return order


@given(scored_rows(), st.sampled_from(["highest", "lowest"]))
def test_the_class_balanced_order_is_dealing_by_the_letter(rows, keep):
    scores, labels = rows
    ranks = coreset_order(scores, labels, keep=keep)
    assert ranks.dtype == np.int32
    assert np.argsort(ranks).tolist() == dealt(scores, labels, keep)


@given(scored_rows())
def test_every_prefix_is_balanced_to_one_row_among_classes_that_have_rows_left(rows):
    scores, labels = rows
    first = np.argsort(coreset_order(scores, labels))
    scored = np.count_nonzero(~np.isnan(scores))
    for k in range(1, scored + 1):
        kept, left = labels[first[:k]], labels[first[k:scored]]
        most = max(np.count_nonzero(kept == c) for c in set(kept.tolist()))
        for c in set(left.tolist()):
            assert most - 1 <= np.count_nonzero(kept == c) <= most
        for c in set(kept.tolist()):
            # Of each class the best rows are kept.
            own = [i for i in best_first(scores, "highest") if labels[i] == c]
            assert [i for i in first[:k] if labels[i] == c] == own[: np.count_nonzero(kept == c)]


@given(scored_rows())
def test_proportional_prefixes_keep_each_share_to_less_than_one_row(rows):
    scores, labels = rows
    first = np.argsort(coreset_order(scores, labels, balance="proportional"))
    scored = np.count_nonzero(~np.isnan(scores))
    for k in range(1, scored + 1):
        for c in set(labels.tolist()):
            own = np.count_nonzero(labels[~np.isnan(scores)] == c)
            # Whole numbers, so that nothing is rounded: |kept - k * own / scored| < 1.
            assert abs(np.count_nonzero(labels[first[:k]] == c) * scored - k * own) < scored
    for c in set(labels.tolist()):
        own = [i for i in best_first(scores, "highest") if labels[i] == c]
        assert [i for i in first[:scored] if labels[i] == c] == own


def test_proportional_is_exact_where_divisor_methods_are_not():
    # One class of 100 rows among 100 classes of one row: in order of (turn - 1/2) / count a prefix of 50 is all of it.
    labels = np.concatenate([np.zeros(100, int), np.arange(1, 101)])
    first = np.argsort(coreset_order(np.zeros(200), labels, balance="proportional"))
    large = np.cumsum(labels[first] == 0)
    assert (np.abs(2 * large - np.arange(1, 201)) < 2).all()


@given(scored_rows(), st.sampled_from(["highest", "lowest"]))
def test_without_balance_the_order_is_that_of_the_scores(rows, keep):
    scores, _ = rows
    first = np.argsort(coreset_order(scores, balance="none", keep=keep)).tolist()
    assert first == best_first(scores, keep) + np.flatnonzero(np.isnan(scores)).tolist()


@given(scored_rows(), st.sampled_from(["class", "proportional", "none"]), st.randoms(use_true_random=False))
def test_the_order_depends_on_row_numbers_not_on_positions(rows, balance, random):
    scores, labels = rows
    shuffled = list(range(len(scores)))
    random.shuffle(shuffled)
    ranks = coreset_order(scores, labels, balance=balance)
    moved = coreset_order(scores[shuffled], labels[shuffled], np.array(shuffled) * 3 + 5, balance)
    assert moved.tolist() == ranks[shuffled].tolist()


@pytest.mark.parametrize("kind", ["u1", "u8", "i4", "bool", "f2"])
@pytest.mark.parametrize("keep", ["highest", "lowest"])
def test_scores_of_any_kind_of_numbers(kind, keep):
    # The negative of an unsigned 0 is 0, which came before that of all others.
    scores = np.array([1, 0, 1, 0, 1]).astype(kind)
    labels = [0, 0, 1, 1, 1]
    expected = coreset_order(scores.astype(np.float64), labels, keep=keep)
    assert coreset_order(scores, labels, keep=keep).tolist() == expected.tolist()


def test_coreset_order_refuses_what_it_cannot_order():
    for name, scores, labels in (("labels", [1, 2], np.eye(2)), ("scores", [[1], [2]], [0, 1])):
        with pytest.raises(InputError, match=rf"`{name}` has shape \(2, .\): give one number for each row"):
            coreset_order(scores, labels)
    with pytest.raises(InputError, match=r"`balance` is 'classes': it must be one of class, proportional, none"):
        coreset_order(np.zeros(2), balance="classes")
    with pytest.raises(InputError, match="`keep` is 'best'"):
        coreset_order(np.zeros(2), keep="best")
    with pytest.raises(InputError, match="2 scores but 3 labels"):
        coreset_order(np.zeros(2), np.zeros(3, int))
    with pytest.raises(InputError, match="needs the labels"):
        coreset_order(np.zeros(2))


@pytest.mark.parametrize(
    "typical, balance, said",
    [
        (25, "class", "the first 25 rows of each class (or 10% of it, if these are fewer) are typical rows"),
        (25, "none", "the first rows, up to 10% of all, are typical rows"),
        (0.2, "proportional", "the first rows of each class, up to 20% of it, are typical rows"),
        (1.0, "class", "all rows are ranked by their typicality instead of their score"),
    ],
)
def test_how_many_typical_rows_come_first_is_said(typical, balance, said):
    assert said_typical(typical, balance) == said
