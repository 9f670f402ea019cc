"""Digests of what is pushed, and which columns are pushed."""

import warnings
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Value

from hf_ltc import rank_coreset, select_coreset
from hf_ltc.coresets.choose import Selection
from hf_ltc.data.columns import with_columns
from hf_ltc.hub import tables
from hf_ltc.recipe import Identity
from tests import hub_clients as do


def _scored(count: int) -> Dataset:
    rows = do.labeled(count)
    scores = np.random.default_rng(0).random(count, dtype=np.float32)
    return rank_coreset(with_columns(rows, {"ltc_score": (pa.array(scores), Value("float32"))}))


_DIGESTED = ("label", "ltc_score", "ltc_rank")


def test_a_digest_tells_every_difference():
    rows = _scored(50)
    own = tables.digest(rows, *_DIGESTED)
    again = rows.with_format("numpy").select(range(50))
    assert tables.digest(again, *_DIGESTED) == own
    others = [rows.select(range(49, -1, -1)), rows.select(range(49))]
    for column in _DIGESTED:
        values: list[Any] = list(rows[column])
        values[0], values[1] = values[1], values[0]
        changed = with_columns(
            rows, {column: (pa.array(values, rows.data.column(column).type), rows.features[column])}
        )
        others.append(changed)
        values[0] = None
        changed = with_columns(
            rows, {column: (pa.array(values, rows.data.column(column).type), rows.features[column])}
        )
        if column != "label":
            others.append(changed)
    digests = [tables.digest(other, *_DIGESTED) for other in others]
    assert len({own, *digests}) == 1 + len(others)


def test_a_column_of_the_user_is_no_trajectory_by_its_name_alone():
    losses = pa.array([None, [0.5, 0.25], [0.5, 0.125]], pa.list_(pa.float32()))
    robot = pa.array([[1.0], [2.0, 3.0], [4.0, 5.0]], pa.list_(pa.float32()))
    names = ["loss_trajectory", "margin_trajectory", "robot_trajectory", "text_trajectory", "x_score", "x_rank"]
    table = pa.table([losses, losses, robot, ["a", "b", "c"], [0.5, 0.25, 0.0], [0, 1, 2]], names=names)
    kept = tables.user_columns(Dataset(table), "x_score", "x_rank")
    assert kept == ["robot_trajectory", "text_trajectory"]
    assert tables.added_columns(Dataset(table), "x_score", "x_rank") == ["x_score", "x_rank"]


def test_rows_that_are_pushed_are_chosen_from_as_the_dataset_is():
    rows = do.labeled(120, classes=3)
    scored = do.recorded(rows).score(rows)
    entry, ranked = tables.describe_scored(scored, "ltc_score", None, Selection(), Identity())
    entry, made = tables.coreset_tables(
        entry, ranked, [0.5], [], scores_only=False, full=True, with_trajectories=False
    )
    full = next(table.rows for table in made if table.config == "full")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="column 'ltc_rank'")
        kept = select_coreset(full, size=30)
    assert sorted(kept["ltc_rank"][:]) == list(range(30))
    assert sorted(kept["ltc_score"][:]) == sorted(select_coreset(scored, size=30)["ltc_score"][:])
