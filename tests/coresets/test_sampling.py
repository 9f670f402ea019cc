"""Coresets drawn from all scores, stratified, by Beta weights or by clusters, against the papers."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_ltc.coresets.choose import Selection, choose
from hf_ltc.coresets.sampling import clustered, like_trajectories
from hf_ltc.coresets.select import rank_coreset, select_coreset
from tests.coresets.scored import many_rows, values
from tests.helpers import error_of


def ccs_budgets(counts, budget):
    """Equal budgets by water level, whole rows: the spare ones to the strata that have most."""
    shares = [0] * len(counts)
    order = sorted(range(len(counts)), key=lambda s: counts[s])
    for done, s in enumerate(order):
        shares[s] = min(counts[s], (budget - sum(shares)) // (len(counts) - done))
    return shares


@pytest.mark.parametrize("balance", ["class", "proportional", "none"])
@pytest.mark.parametrize("cut", [0.0, 0.25])
def test_stratified_coverage_gives_strata_of_a_class_equal_budgets(balance, cut):
    dataset, labels, scores, held, flat, _ = many_rows()
    size = 800
    plain = select_coreset(dataset, size=size, balance=balance)
    coreset = select_coreset(dataset, size=size, balance=balance, coverage="stratified", cut=cut, seed=4)
    kept = np.isin(np.arange(len(labels)), values(coreset, "number"))
    assert kept.sum() == size and not (kept & held).any() and not (kept & flat).any()
    groups = [np.ones(len(labels), bool)] if balance == "none" else [labels == c for c in range(5)]
    if balance != "none":
        assert np.bincount(labels[kept]).tolist() == np.bincount(values(plain, "label")).tolist()
    for group in groups:
        own = np.flatnonzero(group & ~held & ~flat)
        own = own[np.argsort(-scores[own], kind="stable")]
        budget = int(kept[group].sum())
        stay = own[: max(budget, len(own) - round(cut * len(own)))]
        assert not kept[np.setdiff1d(own, stay)].any()
        edges = np.linspace(scores[stay].min(), scores[stay].max(), 51)
        stratum = np.clip(np.searchsorted(edges, scores[stay], side="right") - 1, 0, 49)
        counts = np.bincount(stratum, minlength=50).tolist()
        taken = np.bincount(stratum[kept[stay]], minlength=50).tolist()
        assert taken == ccs_budgets(counts, budget)


@pytest.mark.parametrize("coverage", ["stratified", "beta"])
def test_coverage_is_drawn_by_its_seed_and_keeps_the_rank_of_the_order(coverage):
    dataset, *_ = many_rows()
    options = {"fraction": 0.2, "coverage": coverage}
    first = select_coreset(dataset, seed=1, **options)
    assert values(first, "number") == values(select_coreset(dataset, seed=1, **options), "number")
    other = select_coreset(dataset, seed=2, **options)
    assert len(first) == len(other) and values(first, "number") != values(other, "number")
    ranks = dict(zip(values(dataset, "number"), values(rank_coreset(dataset), "ltc_rank")))
    assert values(first, "ltc_rank") == [ranks[i] for i in values(first, "number")]


@pytest.mark.parametrize("coverage", ["stratified", "beta"])
def test_coverage_of_everything_is_everything_and_flat_rows_come_last(coverage):
    dataset, labels, _scores, held, flat, _ = many_rows()
    pool = int((~held).sum())
    assert len(select_coreset(dataset, 1.0, coverage=coverage)) == pool
    coreset = select_coreset(dataset, size=pool - int(flat.sum()) + 3, coverage=coverage)
    kept = np.isin(np.arange(len(labels)), values(coreset, "number"))
    if coverage == "stratified":
        assert kept[~held & ~flat].all()
    assert kept[flat].sum() == 3 or coverage == "beta"


def test_coverage_with_infinite_and_equal_scores():
    # Forgetting counts are infinite for rows that are never learned; others may all be the same.
    scores = [float("inf")] * 5 + [1.0] * 10 + [2.0] * 10 + [3.0] * 15
    dataset = Dataset.from_dict({"label": [0] * 20 + [1] * 20, "f_score": scores})
    options = {"score_column": "f_score", "label_column": "label", "coverage": "stratified"}
    for size in (1, 7, 23, 40):
        assert len(select_coreset(dataset, size=size, **options)) == size
        assert len(select_coreset(dataset, size=size, keep="lowest", **options)) == size


@pytest.mark.parametrize("exponent", [4.0, 40.0])
def test_beta_coverage_draws_with_the_odds_of_the_paper(exponent):
    stats = pytest.importorskip("scipy.stats")
    dataset, _labels, scores, held, flat, probability = many_rows(n=60, classes=2)
    pool = np.flatnonzero(~held & ~flat & (scores > 0))
    assert len(pool) > 15
    left_out = 1 - 1 / (~held).sum()
    best = np.argsort(-np.where(held | flat, -np.inf, scores))[:10]
    b = 15 * (1 - probability[best].mean()) * (1 - left_out**exponent)
    odds = scores[pool] * stats.beta.pdf(probability[pool], 16 - b, b)
    # One row of all, drawn by many seeds: how often each comes is a multinomial.
    options = {"size": 1, "balance": "none", "coverage": "beta", "beta_exponent": exponent}
    drawn = [values(select_coreset(dataset, seed=seed, **options), "number")[0] for seed in range(600)]
    counts = np.array([drawn.count(i) for i in pool])
    assert counts.sum() == 600
    expected = 600 * odds / odds.sum()
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    assert common.sum() >= 5 and stats.chisquare(observed, wanted).pvalue > 1e-3
    # The check can fail: the scores alone do not explain the draws.
    alone = 600 * scores[pool] / scores[pool].sum()
    assert stats.chisquare(counts, alone).pvalue < 1e-6


def test_rows_without_odds_are_drawn_last():
    dataset, _labels, scores, held, flat, _ = many_rows(n=200, classes=2)
    likely = ~held & ~flat & (scores > 0)
    coreset = select_coreset(dataset, size=int(likely.sum()), balance="none", coverage="beta")
    assert values(coreset, "number") == np.flatnonzero(likely).tolist()


def bundles(counts, epochs=6, seed=0):
    """Trajectories in bundles far from each other, with the number of each row's bundle."""
    draw = np.random.default_rng(seed)
    bundle = draw.permutation(np.repeat(np.arange(len(counts)), counts))
    centers = 10 * draw.normal(size=(len(counts), epochs))
    return (centers[bundle] + 0.01 * draw.normal(size=(len(bundle), epochs))).astype(np.float32), bundle


def in_bundles(counts, labels=None, **columns):
    losses, bundle = bundles(counts)
    values = {"loss_trajectory": losses.tolist(), "bundle": bundle, "ltc_score": np.linspace(1, 0, len(bundle))}
    classes = np.zeros(len(bundle), dtype=int) if labels is None else labels(bundle)
    features = Features(
        loss_trajectory=List(Value("float32")),
        bundle=Value("int64"),
        ltc_score=Value("float32"),
        label=ClassLabel(num_classes=2),
    )
    return Dataset.from_dict({**values, "label": classes, **columns}, features=features)


@pytest.mark.parametrize("size", [10, 60, 150, 329])
def test_clusters_give_equally_many_rows_the_smallest_first(size):
    counts = [3, 5, 20, 40, 60, 202]
    rows = in_bundles(counts)
    options = {"balance": "none", "coverage": "clusters", "clusters": 6, "size": size}
    kept = select_coreset(rows, seed=2, **options)
    assert np.bincount(values(kept, "bundle"), minlength=6).tolist() == ccs_budgets(counts, size)
    assert values(kept, "bundle") == values(select_coreset(rows, seed=2, **options), "bundle")
    best = select_coreset(rows, cluster_order="best", **options)
    scores, bundle = np.array(values(rows, "ltc_score")), np.array(values(rows, "bundle"))
    for number, share in enumerate(ccs_budgets(counts, size)):
        own = np.sort(scores[bundle == number])[::-1][:share]
        found = np.array(values(best, "ltc_score"))[np.array(values(best, "bundle")) == number]
        assert np.sort(found)[::-1].tolist() == own.tolist()
    if 6 < size < 300:
        other = select_coreset(rows, seed=3, **options)
        assert values(other, "ltc_score") != values(kept, "ltc_score") != values(best, "ltc_score")


@pytest.mark.parametrize("least", [1, 3])
def test_shares_of_clusters_are_those_of_the_published_schedule(least):
    """What the code of S2L's authors does (2bc84dd), in words: clusters come by size, the smallest first; each gives
    the whole part of what is left to choose over the clusters that are left, or all of its rows if it has fewer;
    clusters of one row or two wait until no other is left."""
    draw = np.random.default_rng(least)
    for _ in range(30):
        counts = least + draw.geometric(0.05, size=20)
        cluster = draw.permutation(np.repeat(np.arange(20), counts))
        size = int(draw.integers(40, counts[counts > 2].sum()))
        published, left = np.zeros(20, dtype=int), size
        waits = [number for number in np.argsort(counts, kind="stable") if counts[number] > 2]
        for place, number in enumerate(waits):
            published[number] = min(counts[number], left // (len(waits) - place))
            left -= published[number]
        assert left == 0
        taken = np.arange(len(cluster)) < size
        kept = clustered(cluster, np.zeros(len(cluster), dtype=int), taken, False, draw)
        ours = np.bincount(cluster[kept], minlength=20)
        small = int(counts[counts <= 2].sum())
        if least > 2:
            assert ours.tolist() == published.tolist()
        else:
            # Here clusters of one row or two come first, as all small ones do.
            assert small == ours[counts <= 2].sum() == (published - ours)[counts > 2].sum()


def test_clusters_are_within_classes_that_share_the_budget():
    rows = in_bundles([30, 30, 30, 210], lambda bundle: (bundle == 3).astype(int))
    kept = select_coreset(rows, size=60, coverage="clusters", clusters=10)
    # 90 and 210 rows: three clusters and seven.
    assert np.bincount(values(kept, "label")).tolist() == [30, 30]
    assert np.bincount(values(kept, "bundle"))[:3].tolist() == [10, 10, 10]
    losses, bundle = bundles([30, 30, 30, 210])
    found = like_trajectories(losses, (bundle == 3).astype(int), 10, 0)
    assert len(np.unique(found[bundle < 3])) == 3 and len(np.unique(found)) == 10


def test_rows_that_are_all_alike_are_clustered_too():
    losses = np.ones((9, 4), dtype=np.float32)
    assert np.unique(like_trajectories(losses, np.zeros(9, dtype=int), 3, 0)).tolist() == [0]
    # Of more rows than a step of k-means on parts of them takes.
    losses, bundle = bundles([500, 1500, 4000])
    found = like_trajectories(losses, np.zeros(len(bundle), dtype=int), 3, 0)
    assert len({*zip(found.tolist(), bundle.tolist())}) == 3


def test_rows_that_cannot_be_clustered_are_refused():
    rows = in_bundles([20, 20])
    assert "needs the column 'loss_trajectory'" in error_of(
        select_coreset, rows.remove_columns("loss_trajectory"), size=5, balance="none", coverage="clusters"
    )
    losses, bundle = bundles([20, 20])
    losses[7, 2] = np.nan
    message = error_of(like_trajectories, losses, bundle, 4, 0)
    assert "needs finite losses, and 1 of 40 rows have others (rows 7)" in message
    assert "`clusters` is 0" in error_of(select_coreset, rows, size=5, coverage="clusters", clusters=0)
    assert "`cluster_order`" in error_of(select_coreset, rows, size=5, coverage="clusters", cluster_order="first")
    scores, labels = np.zeros(4), np.zeros(4, dtype=int)
    message = error_of(choose, scores, labels, Selection(size=2, coverage="clusters"))
    assert "give like_trajectories(losses)" in message
