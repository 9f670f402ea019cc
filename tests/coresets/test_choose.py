"""One choice under every way of choosing: of arrays, of datasets, of blocks on Ray."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ltc.coresets.choose import Selection, choose, mean_probability, rank
from hf_ltc.coresets.select import select_coreset, split_coreset
from hf_ltc.data.columns import read_column, with_columns
from hf_ltc.utils.errors import InputError
from tests.coresets.test_ray_data import in_memory, kept_in_blocks, random_rows


def goes_together(options):
    if options["typical"] and options["keep"] == "lowest":
        return False
    return options["coverage"] != "beta" or options["keep"] == "highest"


OPTIONS = st.fixed_dictionaries(
    {
        "balance": st.sampled_from(["class", "proportional", "none"]),
        "keep": st.sampled_from(["highest", "lowest"]),
        "exclude_negative": st.booleans(),
        "min_per_class": st.integers(0, 2),
        "coverage": st.sampled_from([None, "stratified", "beta"]),
        "cut": st.sampled_from([0.0, 0.1, 0.5]),
        "beta_exponent": st.sampled_from([4.0, 11.0]),
        "seed": st.integers(0, 3),
        "typical": st.sampled_from([None, 0, 0.1, 0.5, 2]),
        "clusters": st.sampled_from([2, 100]),
        "cluster_order": st.sampled_from(["random", "best"]),
    }
).filter(goes_together)


def arrays(table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels, which rows are candidates, and typicality."""
    candidates = table["loss_trajectory"].is_valid().to_numpy(zero_copy_only=False)
    typicality = table["ltc_typicality"].to_numpy()
    return table["ltc_score"].to_numpy().astype(np.float64), table["label"].to_numpy(), candidates, typicality


@settings(max_examples=60, deadline=None)
@given(OPTIONS, st.floats(0.05, 1), st.integers(0, 10**6), st.booleans())
def test_arrays_datasets_and_blocks_are_chosen_from_alike(options, fraction, seed, ties):
    # A tenth of a class is more than two rows.
    table = random_rows(100, 4, seed=seed, ties=ties, typicality=True)
    scores, labels, candidates, typicality = arrays(table)
    losses = np.random.default_rng(seed).exponential(size=(100, 5)).astype(np.float32)
    lists = [row if known else None for row, known in zip(losses.tolist(), candidates)]
    column = pa.array(lists, pa.list_(pa.float32())), List(Value("float32"))
    dataset = with_columns(in_memory(table), {"loss_trajectory": column})
    probability = np.where(candidates, mean_probability(losses), np.nan)
    # Where nothing is said: not all rows have a typicality.
    selection = Selection(fraction, **options).decided(0.1)
    given = {"candidates": candidates, "typicality": typicality, "probability": probability}
    try:
        kept = choose(scores, labels, selection, **given)
    except InputError as refused:
        for way in (select_coreset, split_coreset):
            with pytest.raises(InputError) as also:
                way(dataset, fraction, label_column="label", **options)
            assert str(also.value) == str(refused)
        return
    assert not (kept & ~candidates).any()
    rows = np.flatnonzero(kept).tolist()
    selected = select_coreset(dataset, fraction, label_column="label", **options)
    parts = split_coreset(dataset, fraction, label_column="label", **options)
    assert read_column(selected, "row").to_pylist() == read_column(parts["coreset"], "row").to_pylist() == rows
    if selection.is_nested and selection.balance != "proportional":
        columns = {} if selection.balance == "class" else {"label_column": None}
        changes = {name: options[name] for name in ("keep", "exclude_negative")}
        changes["typical"] = options["typical"] if options["keep"] == "highest" else 0
        assert kept_in_blocks(table, size=len(rows), **changes, **columns) == rows


@given(st.integers(0, 10**6), st.sampled_from(["class", "none"]), st.sampled_from(["highest", "lowest"]))
def test_the_order_of_rows_does_not_matter(seed, balance, keep):
    columns = arrays(random_rows(60, 5, seed=seed, flat=0, typicality=True))
    shuffled = np.random.default_rng(seed).permutation(60)
    selection = Selection(0.3, balance=balance, keep=keep).decided(0.1)

    def kept(scores, labels, candidates, typicality):
        return choose(scores, labels, selection, candidates=candidates, typicality=typicality)

    np.testing.assert_array_equal(kept(*(column[shuffled] for column in columns)), kept(*columns)[shuffled])


@given(
    st.integers(0, 10**6),
    st.sampled_from(["class", "proportional", "none"]),
    st.booleans(),
    st.sampled_from([0, 0.1, 2, 25]),
)
def test_coresets_of_growing_budgets_are_nested(seed, balance, ties, typical):
    scores, labels, candidates, typicality = arrays(random_rows(50, 4, seed=seed, ties=ties, typicality=True))
    before = np.zeros(50, dtype=bool)
    for size in range(1, int(candidates.sum()) + 1):
        selection = Selection(size=size, balance=balance, typical=typical)
        kept = choose(scores, labels, selection, candidates=candidates, typicality=typicality)
        assert kept.sum() == size and not (before & ~kept).any()
        before = kept


@given(st.integers(0, 10**6), st.sampled_from([0.01, 0.1, 0.3, 1.0, 2, 3, 25]), st.booleans())
def test_each_class_gives_its_most_typical_rows_and_then_those_that_score_best(seed, typical, ties):
    scores, labels, candidates, typicality = arrays(random_rows(120, 4, seed=seed, ties=ties, typicality=True))
    ranks = rank(scores, labels, Selection(typical=typical), candidates, typicality)
    for label in np.unique(labels[candidates]):
        own = [row for row in np.argsort(ranks, kind="stable").tolist() if ranks[row] >= 0 and labels[row] == label]
        scored = sorted(row for row in own if not np.isnan(scores[row]))
        known = [row for row in scored if not np.isnan(typicality[row])]
        # A number of them is a tenth of the class at most.
        places = max(1, round(typical * len(scored) if typical <= 1 else min(typical, 0.1 * len(scored))))
        first = sorted(known, key=lambda row: (-typicality[row], row))[:places]
        rest = sorted(set(scored) - set(first), key=lambda row: (-scores[row], row))
        assert own == [*first, *rest, *sorted(set(own) - set(scored))]


@pytest.mark.parametrize("coverage", ["stratified", "beta"])
def test_draws_know_nothing_of_typical_rows(coverage):
    scores, labels, candidates, typicality = arrays(random_rows(200, 4, seed=1, typicality=True))
    given = {"candidates": candidates, "probability": np.random.default_rng(0).random(200)}
    alone = choose(scores, labels, Selection(0.3, coverage=coverage), **given)
    for typical in (None, 0, 0.5):
        selection = Selection(0.3, coverage=coverage, typical=typical)
        np.testing.assert_array_equal(choose(scores, labels, selection, typicality=typicality, **given), alone)


@given(st.integers(0, 10**6), st.sampled_from([0.1, 2, 25]))
def test_without_classes_a_tenth_of_all_rows_come_first_as_typical(seed, typical):
    scores, _, candidates, typicality = arrays(random_rows(60, 4, seed=seed, flat=0, held=0, typicality=True))
    ranks = rank(scores, None, Selection(balance="none", typical=typical), candidates, typicality)
    assert np.flatnonzero(ranks < 6).tolist() == sorted(np.argsort(-np.nan_to_num(typicality, nan=-99))[:6].tolist())


def test_typical_rows_are_not_made_up():
    with pytest.raises(InputError, match=r"`typical` 0\.1 needs the typicality of the rows"):
        choose(np.arange(4.0), np.zeros(4, int), Selection(size=2, typical=0.1))


@pytest.mark.parametrize("coverage", ["stratified", "beta"])
def test_scores_in_single_precision_are_drawn_as_those_in_double(coverage):
    draw = np.random.default_rng(0)
    # Many of these lie on the edge of a stratum, where rounding to single precision moves them into another one.
    scores = (draw.integers(0, 101, 2000) / np.float32(100)).astype(np.float32)
    labels, probability = draw.integers(0, 4, 2000), draw.random(2000)
    for seed in range(5):
        selection = Selection(size=400, coverage=coverage, seed=seed)
        single = choose(scores, labels, selection, probability=probability)
        double = choose(scores.astype(np.float64), labels, selection, probability=probability)
        np.testing.assert_array_equal(single, double)


@pytest.mark.parametrize("options", [{}, {"balance": "proportional"}, {"balance": "none", "min_per_class": 1}])
def test_labels_are_not_made_up(options):
    with pytest.raises(InputError, match="need the labels"):
        choose(np.arange(4.0), None, Selection(size=2, **options))


def test_probabilities_are_not_made_up():
    with pytest.raises(InputError, match="needs the probabilities"):
        choose(np.arange(4.0), np.zeros(4, int), Selection(size=2, coverage="beta"))


@given(OPTIONS)
def test_recipes_keep_the_options_apart_from_the_budget(options):
    selection = Selection(size=7, **options)
    assert selection.to_dict() == options
    assert Selection.from_dict({**selection.to_dict(), "later": 1}, size=7) == selection
    assert selection.is_nested == (options["coverage"] is None and options["min_per_class"] == 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"balance": "classes"}, "`balance` is 'classes': it must be one of class, proportional, none"),
        ({"keep": "best"}, "`keep` is 'best'"),
        ({"coverage": "all"}, "`coverage` is 'all'"),
        ({"cut": 1.0}, "`cut` is 1.0"),
        ({"beta_exponent": 0}, "`beta_exponent` is 0"),
        ({"min_per_class": -1}, "`min_per_class` is -1"),
        ({"coverage": "beta", "keep": "lowest"}, "needs keep='highest'"),
        ({"typical": 1.5}, r"`typical` is 1\.5: it must be a share in \[0, 1\] of each class, .* number of rows"),
        ({"typical": -1}, "`typical` is -1"),
        ({"typical": float("nan")}, "`typical` is nan"),
        ({"typical": float("inf")}, "`typical` is inf"),
        ({"typical": "all"}, "`typical` is 'all'"),
        ({"typical": True}, "`typical` is True"),
        ({"typical": 0.1, "keep": "lowest"}, "`typical` 0.1 goes with keep='highest'"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(InputError, match=said):
        Selection(**options)
