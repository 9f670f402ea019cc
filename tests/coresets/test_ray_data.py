"""Scoring and selecting on a Ray cluster of two workers, against the same in memory."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from datasets import Dataset
from ray.cluster_utils import Cluster

from hf_ltc.coresets.choose import Selection
from hf_ltc.coresets.ray import data as ray_data
from hf_ltc.coresets.ray import keys as ray_keys
from hf_ltc.coresets.ray import search as ray_search
from hf_ltc.coresets.ray.data import coreset_bounds
from hf_ltc.coresets.select import rank_coreset, select_coreset
from hf_ltc.data.columns import read_column
from hf_ltc.scores.scorers import LTCScorer
from hf_ltc.utils.errors import InputError
from tests.scores.recordings import recorded_digits

# Ray warns of its own defaults.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A head without processors and two nodes with one each, so that every task runs on a worker."""
    memory = {"object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
    for _ in range(2):
        cluster.add_node(num_cpus=1, **memory)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    yield
    ray.shutdown()
    cluster.shutdown()


def test_there_are_two_workers():
    assert sorted(node["Resources"].get("CPU", 0) for node in ray.nodes()) == [0, 1, 1]


def in_memory(table):
    """A Ray dataset's rows as one in memory, in the order of their numbers."""
    return Dataset(table.sort_by("row"))


def kept_rows(scored, **budget):
    bounds = coreset_bounds(scored, **budget)
    kept = scored.map_batches(bounds, batch_format="pyarrow")
    return sorted(row["row"] for row in kept.select_columns(["row"]).take_all())


def spread(table, blocks):
    """A Ray dataset of blocks in any order, as shards of a large one come."""
    order = np.random.default_rng(0).permutation(len(table))
    return ray.data.from_arrow([table.take(part) for part in np.array_split(order, blocks)])


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Trajectories of real losses in Parquet shards; null for the rows held out, as a dataset has them."""
    folder = tmp_path_factory.mktemp("trajectories")
    _, labels, run = recorded_digits()
    plain = Dataset.from_dict({"label": labels, "row": np.arange(len(labels))})
    table = run.attach(plain).with_format("arrow")[:]
    order = np.random.default_rng(1).permutation(len(table))
    for number, part in enumerate(np.array_split(order, 5)):
        pq.write_table(table.take(part), folder / f"{number}.parquet")
    return folder, table, run


@pytest.mark.parametrize("preset", ["ltc", "cld"])
def test_scores_and_coresets_on_ray_equal_those_in_memory_row_by_row(shards, preset):
    folder, table, run = shards
    scorer = LTCScorer.from_trajectories(run, preset=preset)
    here = in_memory(table).map(scorer, batched=True, keep_in_memory=True)
    here = rank_coreset(here, label_column="label")
    scored = ray.data.read_parquet(str(folder)).map_batches(scorer, batch_format="pyarrow").materialize()
    there = {row["row"]: row["ltc_score"] for row in scored.select_columns(["row", "ltc_score"]).take_all()}
    assert [there[row] for row in range(len(here))] == read_column(here, "ltc_score").to_pylist()
    ranks = read_column(here, "ltc_rank").to_pylist()
    pool = sum(rank is not None for rank in ranks)
    for size in (1, 9, 10, 57, 200, pool - 1, pool):
        assert kept_rows(scored, size=size) == [row for row, r in enumerate(ranks) if r is not None and r < size]
    bounds = coreset_bounds(scored, fraction=0.3)
    assert (bounds.size, bounds.pool) == (round(0.3 * pool), pool)


def random_rows(n, classes, seed, ties=False, flat=0.05, held=0.1, typicality=False):
    draw = np.random.default_rng(seed)
    labels = draw.choice(classes, n, p=draw.dirichlet(np.full(classes, 0.5)))
    scores = draw.uniform(-1, 1, n).astype(np.float32)
    if ties:
        scores = np.round(scores * 3) / 3
    scores[draw.random(n) < flat] = np.nan
    columns = {
        "label": labels,
        "row": np.arange(n),
        "ltc_score": pa.array(scores),
        # Which rows were recorded is all that is read of it.
        "loss_trajectory": pa.array(np.ones(n, dtype=bool), mask=draw.random(n) < held),
    }
    if typicality:
        values = draw.gumbel(size=n).round(1 if ties else 9)
        # Of one class few rows are typical.
        columns["ltc_typicality"] = pa.array(values, mask=(draw.random(n) < 0.1) | ((labels == 0) & (values < 1)))
    return pa.table(columns)


def in_blocks(table, options, blocks):
    """The passes over blocks without Ray, one block after another."""
    keys = [ray_keys.keys_of(table.take(part), **options) for part in np.array_split(np.arange(len(table)), blocks)]

    def over_blocks(function, **given):
        for block in keys:
            yield function(block, **given)

    return over_blocks


def kept_in_blocks(table, blocks=3, *, size, typical=0.0, **changes):
    options = {
        "score_column": "ltc_score",
        "label_column": "label",
        "row_column": "row",
        "keep": "highest",
        "exclude_negative": False,
        "typicality_column": None if typical == 0 else "ltc_typicality",
        **changes,
    }
    balance = "class" if options["label_column"] else "none"
    selection = Selection(size=size, balance=balance, typical=typical)
    bounds = ray_data._bounds(in_blocks(table, options, blocks), options, selection)
    return bounds(table)["row"].to_pylist()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("balance", ["class", "none"])
@pytest.mark.parametrize("options", [{}, {"keep": "lowest"}, {"exclude_negative": True}], ids=str)
def test_any_budget_of_imbalanced_classes_with_ties_and_rows_without_a_score(monkeypatch, ties, balance, options):
    # Little fits the driver, so that every way of narrowing down is taken.
    monkeypatch.setattr(ray_search, "_CANDIDATES", 12)
    monkeypatch.setattr(ray_search, "_BINS", 8)
    table = random_rows(2000, 6, seed=int(ties), ties=ties)
    ranked = rank_coreset(in_memory(table), balance, label_column="label", **options)
    ranks = read_column(ranked, "ltc_rank").to_pylist()
    pool = sum(rank is not None for rank in ranks)
    columns = {} if balance == "class" else {"label_column": None}
    for size in [1, 5, 6, 100, 777, *range(pool - 60, pool + 1)]:
        expected = [row for row, r in enumerate(ranks) if r is not None and r < size]
        assert kept_in_blocks(table, size=size, **options, **columns) == expected


@pytest.mark.parametrize("typical", [0.001, 0.1, 0.6, 1.0, 4])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("balance", ["class", "none"])
@pytest.mark.parametrize("blocks", [1, 3])
def test_any_budget_with_typical_rows_first(monkeypatch, ties, balance, typical, blocks):
    monkeypatch.setattr(ray_search, "_CANDIDATES", 12)
    monkeypatch.setattr(ray_search, "_BINS", 8)
    table = random_rows(500, 5, seed=3 + ties, ties=ties, typicality=True)
    ranked = rank_coreset(in_memory(table), balance, label_column="label", typical=typical)
    ranks = read_column(ranked, "ltc_rank").to_pylist()
    pool = sum(rank is not None for rank in ranks)
    columns = {} if balance == "class" else {"label_column": None}
    for size in [*range(1, 24), *range(24, pool - 40, 17), *range(pool - 40, pool + 1)]:
        expected = [row for row, r in enumerate(ranks) if r is not None and r < size]
        assert kept_in_blocks(table, blocks, size=size, typical=typical, **columns) == expected


def test_typical_rows_come_first_on_ray_as_in_memory():
    table = random_rows(3000, 6, seed=9, typicality=True)
    keys = table["ltc_typicality"].to_numpy()
    keys_of_all = np.where(np.isnan(keys), -np.arange(3000.0), keys)
    few = table.set_column(
        table.column_names.index("ltc_typicality"), "ltc_typicality", pa.array(keys, mask=~(keys > 2))
    )
    whole = table.set_column(table.column_names.index("ltc_typicality"), "ltc_typicality", pa.array(keys_of_all))
    # If nothing is said, all rows where all have a typicality, and a tenth where few have one.
    given = [(whole, None, 1.0), (few, None, 0.1), *((table, typical, typical) for typical in (0.0, 0.4, 25))]
    for each, typical, share in given:
        for chosen in (share, typical):
            expected = select_coreset(in_memory(each), size=700, label_column="label", typical=chosen)
            assert kept_rows(spread(each, 4), size=700, typical=typical) == read_column(expected, "row").to_pylist()
    with pytest.raises(InputError, match="no column 'ltc_typicality' in the dataset"):
        coreset_bounds(spread(table.drop_columns("ltc_typicality"), 2), 0.5, typical=0.1)


@pytest.mark.parametrize("ties", [False, True])
def test_a_coreset_narrowed_down_on_ray_is_that_in_memory(monkeypatch, ties):
    monkeypatch.setattr(ray_search, "_CANDIDATES", 12)
    monkeypatch.setattr(ray_search, "_BINS", 8)
    table = random_rows(3000, 6, seed=2 + ties, ties=ties)
    for size, balance in [(777, "class"), (2650, "class"), (500, "none")]:
        expected = select_coreset(in_memory(table), size=size, balance=balance, label_column="label")
        assert kept_rows(spread(table, 4), size=size, balance=balance) == read_column(expected, "row").to_pylist()


@pytest.mark.parametrize("candidates", [1, 1_000_000])
def test_extreme_scores_and_string_classes(monkeypatch, candidates):
    monkeypatch.setattr(ray_search, "_CANDIDATES", candidates)
    monkeypatch.setattr(ray_search, "_BINS", 2)
    scores = [np.inf, -np.inf, 1e308, -1e308, 5e-324, 0.0, -0.0, -5e-324, np.inf, -np.inf, 1e-300, np.nan] * 3
    names = ["cat", "dog"] * 15 + ["eel"] * 6
    table = pa.table({"kind": names, "row": np.arange(36), "x_score": scores, "loss_trajectory": [True] * 36})
    options = {"score_column": "x_score", "label_column": "kind"}
    for size in range(1, 37):
        expected = read_column(select_coreset(in_memory(table), size=size, **options), "row").to_pylist()
        assert kept_in_blocks(table, size=size, **options) == expected
    assert kept_rows(spread(table, 3), size=17, **options) == kept_in_blocks(table, size=17, **options)


@pytest.mark.parametrize("missing", [None, float("nan")], ids=["null", "NaN"])
@pytest.mark.parametrize("ranked", [False, True])
def test_rows_held_out_enter_no_coreset_without_trajectories(missing, ranked):
    table = random_rows(400, 3, seed=7)
    held = table["loss_trajectory"].is_null().to_numpy(zero_copy_only=False)
    scores = [missing if h or s != s else s for h, s in zip(held, table["ltc_score"].to_pylist())]
    table = table.set_column(2, "ltc_score", pa.array(scores, pa.float32()))
    if ranked:
        ranks = rank_coreset(in_memory(table), label_column="label")
        table = table.append_column("ltc_rank", read_column(ranks, "ltc_rank"))
    table = table.drop_columns("loss_trajectory")
    with_scores = [row for row, score in enumerate(scores) if score is not None and score == score]
    # Of flat rows the rank says that they were recorded, where the score is null.
    pool = np.flatnonzero(~held).tolist() if ranked and missing is None else with_scores
    assert read_column(select_coreset(in_memory(table), 1.0, label_column="label"), "row").to_pylist() == pool
    assert kept_rows(spread(table, 3), fraction=1.0) == pool


def test_bounds_of_one_dataset_tell_rows_of_another():
    table = random_rows(500, 4, seed=5)
    bounds = coreset_bounds(spread(table, 2), size=100)
    assert bounds(table).num_rows == 100
    # Row by row, in any batch; a class that was not there keeps nothing.
    parts = [bounds(table.slice(start, 7)) for start in range(0, 500, 7)]
    assert pa.concat_tables(parts).to_pydict() == bounds(table).to_pydict()
    other = pa.table({"label": [99], "row": [0], "ltc_score": pa.array([1.0], pa.float32())})
    assert bounds(other).num_rows == 0
    with pytest.raises(InputError, match="no column 'row' in the batch: it has 'label', 'ltc_score'"):
        bounds(table.drop_columns("row"))
    with pytest.raises(InputError, match="batch_format='pyarrow'"):
        bounds({"label": [1], "row": [0], "ltc_score": [0.5]})


def test_bad_input_is_one_line():
    table = random_rows(100, 3, seed=6)
    columns = {name: table[name] for name in ("label", "row")}
    scored = spread(table, 2)
    with pytest.raises(InputError, match=r"`size` is 1000, but there are only \d+ candidate rows"):
        coreset_bounds(scored, size=1000)
    with pytest.raises(InputError, match=r"`balance` is 'proportional': .* class, none; rank_coreset on one machine"):
        coreset_bounds(scored, 0.5, balance="proportional")
    with pytest.raises(InputError, match=r"`balance` is 'source': on Ray it must be one of class, none$"):
        coreset_bounds(scored, 0.5, balance="source")
    with pytest.raises(InputError, match="`keep` is 'best'"):
        coreset_bounds(scored, 0.5, keep="best")
    with pytest.raises(InputError, match="no column 'id' in the dataset: it has 'label', 'row', 'ltc_score'"):
        coreset_bounds(scored, 0.5, row_column="id")

    def changed(name, values):
        return spread(table.set_column(table.column_names.index(name), name, pa.array(values)), 2)

    with pytest.raises(InputError, match="column 'label' has 1 null rows"):
        coreset_bounds(changed("label", [None] + [1] * 99), 0.5)
    with pytest.raises(InputError, match="column 'label' has labels below 0"):
        coreset_bounds(changed("label", [-1] * 100), 0.5)
    with pytest.raises(InputError, match="occurs twice"):
        coreset_bounds(spread(pa.concat_tables([table, table]), 2), size=51)
    with pytest.raises(InputError, match="the dataset has no candidate rows"):
        coreset_bounds(spread(pa.table({**columns, "ltc_score": pa.nulls(100, pa.float32())}), 2), 0.5)
    with pytest.raises(InputError, match="'ltc_score' holds string, not numbers"):
        coreset_bounds(changed("ltc_score", ["0.5"] * 100), 0.5)


def test_a_dataset_of_another_kind_is_refused(digit_rows):
    with pytest.raises(InputError, match=r"`dataset` is a datasets\S+\.Dataset: .*takes a ray\.data\.Dataset"):
        coreset_bounds(digit_rows[0], size=10)
