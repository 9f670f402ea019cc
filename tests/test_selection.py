import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ltc.columns import read_column
from hf_ltc.errors import InputError
from hf_ltc.selection import coreset_order, coreset_size, in_coreset, rank_coreset, select_coreset


@st.composite
def scored_rows(draw):
    """Imbalanced classes (single rows among them), tied scores, and rows without a score."""
    labels = draw(st.lists(st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 7]), min_size=1, max_size=60))
    score = st.sampled_from([-0.75, -0.5, 0.0, 0.25, 0.5, 1.0, float("nan")])
    scores = draw(st.lists(score, min_size=len(labels), max_size=len(labels)))
    return np.array(scores, dtype=np.float32), np.array(labels)


def best_first(scores, keep):
    """Positions by score, ties by position, those without a score left out."""
    sign = -1 if keep == "highest" else 1
    return sorted((i for i in range(len(scores)) if not np.isnan(scores[i])), key=lambda i: (sign * scores[i], i))


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


def test_coreset_order_refuses_what_it_cannot_order():
    with pytest.raises(InputError, match=r"balance is 'classes': it must be one of class, proportional, none"):
        coreset_order(np.zeros(2), balance="classes")
    with pytest.raises(InputError, match="keep is 'best'"):
        coreset_order(np.zeros(2), keep="best")
    with pytest.raises(InputError, match="2 scores but 3 labels"):
        coreset_order(np.zeros(2), np.zeros(3, int))
    with pytest.raises(InputError, match="needs the labels"):
        coreset_order(np.zeros(2))


NOT_AN_IMAGE = {"bytes": b"no image at all", "path": None}


def scored_dataset(n=40, classes=4, seed=0):
    """Rows whose images cannot be decoded, some held out (no trajectory), some flat (no score)."""
    draw = np.random.default_rng(seed)
    held, flat = np.zeros(n, bool), np.zeros(n, bool)
    held[3::9], flat[5::11] = True, True
    flat &= ~held
    trajectory = [None if h else values for h, values in zip(held, draw.random((n, 3), dtype=np.float32).tolist())]
    score = [None if h or f else v for h, f, v in zip(held, flat, draw.uniform(-1, 1, n).astype("f4").tolist())]
    features = Features(
        image=Image(),
        label=ClassLabel(names=[f"class {c}" for c in range(classes)]),
        number=Value("int64"),
        loss_trajectory=List(Value("float32"), length=3),
        ltc_score=Value("float32"),
    )
    columns = {
        "image": [NOT_AN_IMAGE] * n,
        "label": draw.integers(0, classes, n).tolist(),
        "number": list(range(n)),
        "loss_trajectory": trajectory,
        "ltc_score": score,
    }
    return (
        Dataset(
            pa.table({k: pa.array(v, features.arrow_schema.field(k).type) for k, v in columns.items()}).cast(
                features.arrow_schema
            )
        ),
        held,
        flat,
    )


def values(dataset, column):
    return read_column(dataset, column).to_pylist()


@pytest.mark.parametrize("balance", ["class", "proportional", "none"])
def test_rank_coreset_ranks_what_can_be_chosen_flat_rows_last(balance):
    dataset, held, flat = scored_dataset()
    ranked = rank_coreset(dataset, balance)
    assert ranked.features["ltc_rank"] == Value("int32")
    ranks = values(ranked, "ltc_rank")
    assert [r is None for r in ranks] == held.tolist()
    assert sorted(r for r in ranks if r is not None) == list(range(np.count_nonzero(~held)))
    assert {ranks[i] for i in np.flatnonzero(flat)} == set(range(np.count_nonzero(~held & ~flat), (~held).sum()))
    scores = np.array(values(dataset, "ltc_score"), dtype=float)[~held]
    labels = np.array(values(dataset, "label"))[~held]
    assert [r for r in ranks if r is not None] == coreset_order(scores, labels, balance=balance).tolist()


def test_without_trajectories_a_null_score_is_a_row_that_cannot_be_chosen():
    dataset, held, flat = scored_dataset()
    ranks = values(rank_coreset(dataset.remove_columns("loss_trajectory")), "ltc_rank")
    assert [r is None for r in ranks] == (held | flat).tolist()


def test_another_score_has_its_own_rank_column():
    dataset, held, _ = scored_dataset()
    dataset = dataset.add_column("aum_score", np.arange(40.0))
    assert rank_coreset(dataset, score_column="aum_score").column_names[-1] == "aum_rank"
    ranked = rank_coreset(dataset, "none", score_column="aum_score", rank_column="order", keep="lowest")
    # Held-out rows have a score here, but never a rank.
    assert [r is None for r in values(ranked, "order")] == held.tolist()
    assert [r for r in values(ranked, "order") if r is not None] == list(range((~held).sum()))


def test_negative_scores_are_excluded_on_request():
    dataset, held, _ = scored_dataset()
    ranks = values(rank_coreset(dataset, exclude_negative=True), "ltc_rank")
    negative = [s is not None and s < 0 for s in values(dataset, "ltc_score")]
    assert any(negative)
    assert [r is None for r in ranks] == (held | np.array(negative)).tolist()


@settings(deadline=None, max_examples=20)
@given(st.floats(0.01, 1.0), st.sampled_from(["class", "proportional", "none"]))
def test_select_coreset_is_the_rows_below_the_size_in_dataset_order(fraction, balance):
    dataset, held, _ = scored_dataset()
    pool = int((~held).sum())
    if round(fraction * pool) == 0:
        with pytest.raises(InputError, match="is no row"):
            select_coreset(dataset, fraction, balance=balance)
        return
    coreset = select_coreset(dataset, fraction, balance=balance)
    ranked = rank_coreset(dataset, balance)
    assert len(coreset) == round(fraction * pool)
    expected = [i for i, r in enumerate(values(ranked, "ltc_rank")) if r is not None and r < len(coreset)]
    assert values(coreset, "number") == expected
    assert values(coreset, "ltc_rank") == [values(ranked, "ltc_rank")[i] for i in expected]
    filtered = ranked.filter(
        in_coreset, fn_kwargs={"size": len(coreset)}, input_columns="ltc_rank", batched=True, keep_in_memory=True
    )
    assert values(filtered, "number") == expected


def test_budgets():
    assert coreset_size(54_000, fraction=0.1) == 5_400
    assert coreset_size(10, size=np.int64(10)) == 10
    assert [coreset_size(10, fraction=f) for f in (0.05001, 0.25, 0.35, 1)] == [1, 2, 4, 10]
    for bad, message in [
        ({}, "neither is given"),
        ({"fraction": 0.1, "size": 3}, "fraction 0.1 and size 3 are both given"),
        ({"fraction": 0}, r"fraction is 0: it must be in \(0, 1\]"),
        ({"fraction": 1.5}, "fraction is 1.5"),
        ({"fraction": float("nan")}, "fraction is nan"),
        ({"fraction": 0.01}, "fraction 0.01 of the 10 rows that could be chosen is no row"),
        ({"size": 0}, "size is 0"),
        ({"size": 2.0}, "size is 2.0"),
        ({"size": True}, "size is True"),
        ({"size": 11}, "size is 11, but only 10 rows could be chosen"),
    ]:
        with pytest.raises(InputError, match=message):
            coreset_size(10, **bad)


def test_in_coreset_takes_ranks_in_any_form():
    ranks, expected = [0, None, 7, 3, 4], [True, False, False, True, False]
    torch = pytest.importorskip("torch")
    as_floats = [np.nan if r is None else r for r in ranks]
    for form in (
        ranks,
        pa.array(ranks, pa.int32()),
        pa.chunked_array([ranks[:2], ranks[2:]], pa.int32()),
        np.array(as_floats),
        torch.tensor(as_floats),
    ):
        assert [bool(b) for b in in_coreset(form, 4)] == expected
    assert [in_coreset(r, 4) for r in ranks] == expected
    assert in_coreset(np.int32(3), np.int64(4)) is True
    assert in_coreset(torch.tensor(4), 4) is False
    assert in_coreset(pa.scalar(3), 4) is True and in_coreset(pa.scalar(None, pa.int32()), 4) is False
    for size in (0, 0.1, True, "3"):
        with pytest.raises(InputError, match="whole number of rows"):
            in_coreset(ranks, size)


def test_rank_coreset_says_what_is_missing():
    dataset, _, _ = scored_dataset()
    with pytest.raises(InputError, match=r"no score column 'el2n_score' in the dataset, which has 'image', 'label'"):
        rank_coreset(dataset, score_column="el2n_score")
    with pytest.raises(InputError, match="'image' holds struct"):
        rank_coreset(dataset, score_column="image")
    with pytest.raises(InputError, match="'fine_label': no such column"):
        rank_coreset(dataset, label_column="fine_label")
    with pytest.raises(InputError, match="cannot rank a value of type IterableDataset"):
        rank_coreset(dataset.to_iterable_dataset())
