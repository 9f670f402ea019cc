"""Selecting: from a dataset with scores to ranks and coresets, whatever its form."""

import functools
import operator
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ltc.coresets.choose import Selection, coreset_size
from hf_ltc.coresets.order import coreset_order
from hf_ltc.coresets.scored import decided
from hf_ltc.coresets.select import in_coreset, rank_coreset, select_coreset, split_coreset
from hf_ltc.coresets.summary import describe_coreset
from hf_ltc.data.columns import read_column, with_columns
from hf_ltc.recipe import Identity
from hf_ltc.utils.errors import InputError, LTCWarning
from tests.coresets.scored import many_rows, scored_dataset, scored_rows, values


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


@pytest.mark.parametrize("missing", [None, float("nan")], ids=["null", "NaN"])
def test_without_trajectories_a_row_without_a_score_cannot_be_chosen(missing):
    dataset, held, flat = scored_dataset()
    scores = [missing if score is None else score for score in values(dataset, "ltc_score")]
    dataset = dataset.remove_columns(["loss_trajectory", "ltc_score"])
    dataset = with_columns(dataset, {"ltc_score": (pa.array(scores, pa.float32()), Value("float32"))})
    ranked = rank_coreset(dataset)
    assert [r is None for r in values(ranked, "ltc_rank")] == (held | flat).tolist()
    everything = select_coreset(dataset, 1.0)
    assert values(everything, "number") == np.flatnonzero(~(held | flat)).tolist()
    summary = describe_coreset(everything, dataset)
    assert (summary.pool, summary.held_out, summary.flat) == ((~(held | flat)).sum(), (held | flat).sum(), 0)
    parts = split_coreset(dataset, size=5)
    assert sum(len(part) for part in parts.values()) == (~(held | flat)).sum()
    for form in ("numpy", "torch", "pandas", None):
        shown = ranked.remove_columns("image").with_format(form)
        kept = shown.filter(in_coreset, fn_kwargs={"size": 99}, input_columns="ltc_rank", batched=True)
        assert values(kept, "number") == values(everything, "number")


def test_without_trajectories_the_ranks_tell_flat_rows_from_those_held_out():
    dataset, held, flat = scored_dataset()
    ranked = rank_coreset(dataset)
    without = ranked.remove_columns("loss_trajectory")
    assert values(rank_coreset(without), "ltc_rank") == values(ranked, "ltc_rank")
    assert values(select_coreset(without, 1.0), "number") == np.flatnonzero(~held).tolist()
    # A rank is no recording where the score is NaN, as files have it in which a row held out was ranked once.
    scores = [float("nan") if score is None else score for score in values(ranked, "ltc_score")]
    old = with_columns(without, {"ltc_score": (pa.array(scores, pa.float32()), Value("float32"))})
    assert [r is None for r in values(rank_coreset(old), "ltc_rank")] == (held | flat).tolist()


def test_a_column_of_nulls_alone_has_no_row_to_choose():
    dataset = Dataset.from_dict({"label": [0, 1], "x_score": [None, None]})
    assert values(rank_coreset(dataset, "none", score_column="x_score"), "x_rank") == [None, None]
    with pytest.raises(InputError, match="the 0 candidate rows"):
        select_coreset(dataset, 0.5, balance="none", score_column="x_score")


def test_coverage_by_trajectories_needs_them_of_one_length():
    lists = [[0.5, 0.25], [0.5, 0.25, 0.1, 0.0], [0.5, 0.25]]
    dataset = Dataset.from_dict({"label": [0, 0, 1], "x_score": [0.1, 0.2, 0.3], "loss_trajectory": lists})
    options = {"score_column": "x_score", "label_column": "label", "coverage": "beta"}
    with pytest.raises(InputError, match=r"'loss_trajectory' has lists of different lengths \(2, 4\)"):
        select_coreset(dataset, size=2, **options)


def with_typicality(dataset, held, column="ltc_typicality", least=-np.inf):
    keys = np.random.default_rng(4).normal(size=len(held)).astype(np.float32)
    keys[keys < least] = np.nan
    return keys, with_columns(dataset, {column: (pa.array(keys, mask=held | np.isnan(keys)), Value("float32"))})


def test_typical_rows_come_first_where_their_column_is_there():
    dataset, held, _ = scored_dataset(200)
    keys, typical = with_typicality(dataset, held, least=0.5)
    scores = np.array(values(dataset, "ltc_score"), dtype=float)[~held]
    labels = np.array(values(dataset, "label"))[~held]

    def order(share):
        return coreset_order(scores, labels, typicality=keys[~held], typical=share).tolist()

    def ranks(dataset, **options):
        return [rank for rank in values(rank_coreset(dataset, **options), "ltc_rank") if rank is not None]

    by_score = ranks(dataset)
    assert by_score == ranks(typical, typical=0) != ranks(typical)
    assert ranks(typical) == ranks(typical, typical=0.1) == order(0.1)
    assert ranks(typical, typical=0.2) == order(0.2)
    # A recording knows how many there are; the order is the same where no other rows have a typicality.
    for each, recorded, usual in (
        (typical, Identity(text_column="caption", features={"image": {"_type": "Image"}}), 0.1),
        (typical, Identity(image_column="image"), 25),
        (typical, Identity(features={"x": {"_type": "Image"}}), 25),
        (typical, Identity(), 0.1),
        (typical, None, 0.1),
        (dataset, Identity(image_column="image"), 0),
        # All rows have one: all come first, as they were scored.
        (with_typicality(dataset, held)[1], Identity(image_column="image"), 1),
        (with_typicality(dataset, held)[1], None, 1),
        (with_typicality(dataset, held, least=-1)[1], None, 0.1),
    ):
        assert decided(each, "ltc_score", Selection(), recorded).typical == usual
    # The lowest scores, and draws, know nothing of them.
    assert ranks(typical, keep="lowest") == ranks(dataset, keep="lowest")
    for coverage in ("stratified", "beta"):
        kept = [values(select_coreset(each, 0.3, coverage=coverage), "number") for each in (dataset, typical)]
        assert kept[0] == kept[1]
    # Another score has a column of its own.
    other = typical.rename_column("ltc_score", "x_score")
    assert [
        rank for rank in values(rank_coreset(other, score_column="x_score"), "x_rank") if rank is not None
    ] == by_score
    parts = split_coreset(typical, 0.2)
    assert values(parts["coreset"], "number") == values(select_coreset(typical, 0.2), "number")
    assert len(parts["coreset"]) == round(0.2 * (~held).sum())


def test_where_all_rows_have_a_typicality_all_come_first():
    dataset, held, _ = scored_dataset(200)
    keys, typical = with_typicality(dataset, held)
    labels = np.array(values(dataset, "label"))[~held]
    scored = ~np.isnan(np.array(values(dataset, "ltc_score"), dtype=float))[~held]
    ranks = [rank for rank in values(rank_coreset(typical), "ltc_rank") if rank is not None]
    assert ranks == coreset_order(np.where(scored, keys[~held], np.nan), labels).tolist()
    for size in (20, 60):
        assert values(select_coreset(typical, size=size), "number") == [
            row for row, rank in zip(np.flatnonzero(~held).tolist(), ranks) if rank < size
        ]


def test_a_rank_that_is_replaced_by_another_order_is_warned_of():
    dataset, held, _ = scored_dataset(200)
    _, typical = with_typicality(dataset, held, least=0.5)
    ranked = rank_coreset(typical)
    by_score = rank_coreset(typical, typical=0)
    part = ranked.filter(in_coreset, fn_kwargs={"size": 60}, input_columns="ltc_rank", batched=True)
    bare = ranked.remove_columns("ltc_typicality")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="column 'ltc_rank'")
        select_coreset(ranked, 0.2)
        select_coreset(ranked.shuffle(seed=0), 0.2)
        select_coreset(by_score, 0.2, typical=0)
        select_coreset(by_score.remove_columns("ltc_typicality"), 0.2)
        for coverage in ("stratified", "beta"):
            select_coreset(ranked, 0.2, coverage=coverage)
    for other in (by_score, part, bare):
        with pytest.warns(LTCWarning, match=r"'ltc_rank' has another order of these rows than .*'typical'") as caught:
            select_coreset(other, size=20)
        assert caught[0].filename == __file__


def test_more_typical_rows_than_were_scored_are_warned_of():
    dataset, held, _ = scored_dataset(200)
    keys, whole = with_typicality(dataset, held)
    cut = np.where(held | (keys < 1), np.nan, keys)
    few = with_columns(dataset, {"ltc_typicality": (pa.array(cut, mask=np.isnan(cut)), Value("float32"))})
    count = int(np.count_nonzero(~np.isnan(cut) & ~np.isnan(np.array(values(dataset, "ltc_score"), dtype=float))))
    said = rf"`typical` 0\.5 asks for \d+ typical rows, and {count} have a typicality: score the dataset with"
    for ranked in (rank_coreset, lambda dataset, typical: select_coreset(dataset, 0.3, typical=typical)):
        with pytest.warns(LTCWarning, match=said) as caught:
            ranked(few, typical=0.5)
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="`typical`")
            ranked(few, typical=0.1)
            ranked(few, typical=25)
            ranked(whole, typical=0.5)


def test_typical_rows_need_their_column():
    dataset, held, _ = scored_dataset()
    with pytest.raises(InputError, match=r"the column 'ltc_typicality', .* give typical=0, or score it with run"):
        rank_coreset(dataset, typical=0.1)
    with pytest.raises(InputError, match=r"the column 'x_typicality', which the dataset has not: give typical=0$"):
        rank_coreset(dataset.rename_column("ltc_score", "x_score"), score_column="x_score", typical=0.1)
    text = with_columns(dataset, {"ltc_typicality": (pa.array(["a"] * len(held)), Value("string"))})
    with pytest.raises(InputError, match="column 'ltc_typicality' holds string, not numbers"):
        select_coreset(text, 0.5)
    with pytest.raises(InputError, match=r"`typical` is 2\.5: it must be a share in \[0, 1\]"):
        rank_coreset(dataset, typical=2.5)


def test_a_small_coreset_of_the_hardest_rows_is_warned_of():
    draw = np.random.default_rng(0)
    losses = draw.random((100, 6), dtype=np.float32) + np.linspace(0, 3, 100, dtype=np.float32)[:, None]
    features = Features(
        label=ClassLabel(num_classes=2), loss_trajectory=List(Value("float32")), ltc_score=Value("float32")
    )
    columns = {"label": [0, 1] * 50, "loss_trajectory": losses.tolist(), "ltc_score": losses.mean(axis=1)}
    dataset = Dataset.from_dict(columns, features=features)
    with pytest.warns(LTCWarning, match="The coreset of 10 rows consists of the hardest ones") as caught:
        select_coreset(dataset, 0.1)
    assert caught[0].filename == __file__
    with pytest.warns(LTCWarning, match="The coreset of 10 rows consists of the hardest ones"):
        select_coreset(dataset, 0.1, balance="none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Large, easy, or without trajectories.
        select_coreset(dataset, 0.3)
        select_coreset(dataset, 0.1, keep="lowest")
        select_coreset(dataset.remove_columns("loss_trajectory"), 0.1)


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
        ({"fraction": 0}, r"`fraction` is 0: it must be in \(0, 1\]"),
        ({"fraction": 1.5}, "`fraction` is 1.5"),
        ({"fraction": float("nan")}, "`fraction` is nan"),
        ({"fraction": 0.01}, "`fraction` 0.01 of the 10 candidate rows is no row"),
        ({"size": 0}, "`size` is 0"),
        ({"size": 2.0}, "`size` is 2.0"),
        ({"size": True}, "`size` is True"),
        ({"size": 11}, "`size` is 11, but there are only 10 candidate rows"),
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
        np.array(ranks, dtype=object),
        pd.Series(as_floats),
        pd.Series(ranks, dtype="Int32"),
        torch.tensor(as_floats),
        tuple(ranks),
        as_floats,
        [None if r is None else torch.tensor(r) for r in ranks],
        pa.array(as_floats),
        Dataset.from_dict({"rank": ranks})["rank"],
    ):
        assert [bool(b) for b in in_coreset(form, 4)] == expected
    assert [in_coreset(r, 4) for r in ranks] == expected
    nothing = [float("nan"), np.float32("nan"), torch.tensor(float("nan")), pd.NA, pa.scalar(None, pa.int32())]
    assert [in_coreset(rank, 4) for rank in nothing] == [False] * 5
    assert in_coreset([None, None], 4).tolist() == [False, False] and in_coreset([], 4).tolist() == []
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
    with pytest.raises(InputError, match="`dataset` is an IterableDataset"):
        rank_coreset(dataset.to_iterable_dataset())


def never(batch):
    raise AssertionError("the transform ran")


# Every way that a dataset may come in, as a function of the plain one.
FORMS = {
    "plain": lambda d: d,
    "shuffled": lambda d: d.shuffle(seed=1),
    "selected": lambda d: d.select([7, 3, 39, 0, 21, 22, 23, 5]),
    "repeated": lambda d: d.select([7, 3, 7, 0, 21, 21, 0, 5, 9]),
    "sliced": lambda d: d.select(range(5, 30)),
    "torch": lambda d: d.with_format("torch"),
    "numpy": lambda d: d.shuffle(seed=2).with_format("numpy", columns=["label", "number"]),
    "arrow": lambda d: d.with_format("arrow"),
    "transform": lambda d: d.select(range(39, -1, -1)).with_transform(never),
}


@pytest.mark.parametrize("form", FORMS)
def test_any_form_of_dataset_is_ranked_alike_undecoded_and_keeps_its_format(form):
    given = FORMS[form](scored_dataset()[0])
    plain = Dataset(pa.table({name: read_column(given, name) for name in given.column_names}), info=given.info)
    expected = values(rank_coreset(plain), "ltc_rank")
    ranked = rank_coreset(given)
    assert values(ranked, "ltc_rank") == expected
    assert values(ranked, "number") == values(given, "number")
    coreset = select_coreset(given, size=5)
    kept = [i for i, r in enumerate(expected) if r is not None and r < 5]
    assert values(coreset, "number") == [values(given, "number")[i] for i in kept]
    for result in (ranked, coreset):
        assert result.format["type"] == given.format["type"]
        assert result.format["format_kwargs"] == given.format["format_kwargs"]
        assert sorted(result.format["columns"]) == sorted([*given.format["columns"], "ltc_rank"])
        assert result.features == Features(**given.features, ltc_rank=Value("int32"))


@pytest.mark.parametrize("form", sorted(set(FORMS) - {"transform"}))
@pytest.mark.parametrize("batched", [True, False])
def test_in_coreset_filters_any_form_of_dataset(form, batched):
    ranked = FORMS[form](rank_coreset(scored_dataset()[0]))
    kept = ranked.filter(
        in_coreset, fn_kwargs={"size": 6}, input_columns="ltc_rank", batched=batched, keep_in_memory=True
    )
    assert values(kept, "number") == [
        n for n, r in zip(values(ranked, "number"), values(ranked, "ltc_rank")) if r is not None and r < 6
    ]


def test_a_coreset_shares_the_images_of_its_dataset():
    dataset = scored_dataset()[0].shuffle(seed=3)

    def image_buffers(rows):
        chunks = rows.data.column("image").chunks
        return [b.address for chunk in chunks for b in chunk.buffers() if b is not None]

    assert image_buffers(select_coreset(dataset, 0.3)) == image_buffers(dataset)


def test_select_coreset_replaces_a_rank_that_says_otherwise():
    dataset, _, _ = scored_dataset()
    by_score = rank_coreset(dataset, "none")
    assert values(select_coreset(by_score, size=9), "number") == values(select_coreset(dataset, size=9), "number")
    assert max(values(select_coreset(by_score, size=9), "ltc_rank")) == 8
    # The coreset of a coreset is the coreset.
    nested = select_coreset(select_coreset(dataset, size=20), size=9)
    assert values(nested, "number") == values(select_coreset(dataset, size=9), "number")
    # Nothing new to say: same fingerprint, so that what was cached for it still counts.
    ranked = rank_coreset(dataset)
    assert rank_coreset(ranked)._fingerprint == ranked._fingerprint


def test_a_dataset_of_one_class_and_one_without_labels_can_be_ranked():
    dataset, _held, _ = scored_dataset()
    one = dataset.select(np.flatnonzero(np.array(values(dataset, "label")) == 2))
    by_score = values(rank_coreset(one, "none"), "ltc_rank")
    assert values(rank_coreset(one), "ltc_rank") == by_score
    bare = dataset.remove_columns("label")
    assert len(select_coreset(bare, size=4, balance="none")) == 4
    with pytest.raises(InputError, match="no column of type ClassLabel"):
        select_coreset(bare, size=4)


def test_strings_are_classes_where_named():
    dataset, _, _ = scored_dataset()
    names = [f"class {c}" for c in values(dataset, "label")]
    named = dataset.remove_columns("label").add_column("kind", names)
    ranks = values(rank_coreset(named, label_column="kind"), "ltc_rank")
    assert ranks == values(rank_coreset(dataset), "ltc_rank")


@given(scored_rows(), st.data())
def test_a_minimum_per_class_is_kept_and_the_rest_goes_by_rank(rows, data):
    scores, labels = rows
    minimum = data.draw(st.integers(1, 4))
    needed = sum(min(minimum, np.count_nonzero(labels == c)) for c in set(labels.tolist()))
    size = data.draw(st.integers(needed, len(labels)))
    # Those without a score are flat.
    recorded = {"loss_trajectory": [[0.5]] * len(labels)}
    dataset = Dataset.from_dict({"label": labels.tolist(), "x_score": scores.tolist(), **recorded})
    options = {"balance": "none", "score_column": "x_score", "label_column": "label"}
    coreset = select_coreset(dataset, size=size, min_per_class=minimum, **options)
    ranks = np.array(values(rank_coreset(dataset, **options), "x_rank"))
    first = np.argsort(ranks)
    best = {i for c in set(labels.tolist()) for i in [i for i in first if labels[i] == c][:minimum]}
    rest = [i for i in first if i not in best][: size - len(best)]
    assert values(coreset, "x_rank") == ranks[sorted(best | set(rest))].tolist()
    if needed > 1:
        with pytest.raises(InputError, match=f"needs {needed} rows of the .* but the budget is {needed - 1}"):
            select_coreset(dataset, size=needed - 1, min_per_class=minimum, **options)


def test_coverage_options_are_checked():
    dataset, *_ = many_rows(n=100)
    for options, message in [
        ({"coverage": "ccs"}, "`coverage` is 'ccs': it must be one of None, stratified, beta"),
        ({"cut": 1.0}, r"`cut` is 1.0: it must be in \[0, 1\)"),
        ({"beta_exponent": 0}, "`beta_exponent` is 0: it must be above 0"),
        ({"min_per_class": -1}, "`min_per_class` is -1"),
        ({"coverage": "beta", "keep": "lowest"}, "needs keep='highest'"),
        ({"balance": "classes"}, "`balance` is 'classes'"),
    ]:
        with pytest.raises(InputError, match=message):
            select_coreset(dataset, 0.5, **options)
    with pytest.raises(InputError, match="needs the column 'loss_trajectory'"):
        select_coreset(dataset.remove_columns("loss_trajectory"), 0.5, coverage="beta")


@pytest.mark.parametrize("exclude_negative", [False, True])
def test_split_coreset_parts_all_rows_that_are_not_held_out(exclude_negative):
    dataset, _labels, scores, held, flat, _ = many_rows()
    parts = split_coreset(dataset, 0.6, exclude_negative=exclude_negative)
    assert list(parts) == ["coreset", "rest", "conflicting"]
    rows = {name: values(part, "number") for name, part in parts.items()}
    assert sorted(functools.reduce(operator.iadd, rows.values(), [])) == np.flatnonzero(~held).tolist()
    chosen = select_coreset(dataset, 0.6, exclude_negative=exclude_negative)
    assert rows["coreset"] == values(chosen, "number")
    assert all(scores[i] < 0 and not flat[i] for i in rows["conflicting"]) and rows["conflicting"]
    assert all(scores[i] >= 0 or flat[i] for i in rows["rest"]) and rows["rest"]
    if exclude_negative:
        assert all(scores[i] >= 0 or flat[i] for i in rows["coreset"])
        assert parts["conflicting"].unique("ltc_rank") == [None]
