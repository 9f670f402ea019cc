"""Digests of what is pushed, and which columns are pushed."""

from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Value

from hf_ltc import rank_coreset
from hf_ltc.data.columns import with_columns
from hf_ltc.hub import tables
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
    assert kept == ["robot_trajectory", "text_trajectory", "x_score", "x_rank"]
