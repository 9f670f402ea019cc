"""What rows are chosen by on Ray Data: a few numbers of each row, and of each class how many rows there are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...data.columns import LOSS_TRAJECTORY, rank_name
from ...utils.errors import InputError
from ..scored import recorded_rows
from .search import Blocks

# The columns that rows are chosen by, and those of them that rows have an order by.
_KEYS, _VALUES = ("score", "label", "row", "typicality"), ("score", "typicality")


def key_columns(options: dict[str, Any]) -> list[str]:
    return [name for kind in _KEYS if (name := options[f"{kind}_column"]) is not None]


def candidate_rows(batch: pa.Table, *, score_column: str, exclude_negative: bool, **_: Any) -> pa.ChunkedArray:
    known = (
        batch[name] if name in batch.column_names else None for name in (LOSS_TRAJECTORY, rank_name(score_column))
    )
    candidates = recorded_rows(batch[score_column], *known)
    if exclude_negative:
        candidates = pc.and_not(candidates, pc.fill_null(pc.less(batch[score_column], 0), False))
    return candidates


def keys_of(batch: pa.Table, **options: Any) -> pa.Table:
    """What candidate rows are chosen by: label; score, the highest best, and typicality, NaN where there is none; row
    number.
    """
    score, label, row, typicality = (options[f"{kind}_column"] for kind in _KEYS)
    # Of these alone: filtering copies, and there may be images beside them.
    kept = batch.select(key_columns(options)).filter(candidate_rows(batch, **options))
    scores = _numbers(kept[score])
    typical = _numbers(kept[typicality]) if typicality else pa.array(np.full(len(kept), np.nan))
    return pa.table(
        {
            "label": kept[label] if label else pa.array(np.zeros(len(kept), dtype=np.int64)),
            "score": pc.negate(scores) if options["keep"] == "lowest" else scores,
            "row": kept[row].cast(pa.int64()),
            # Rows without a score come last, typical or not.
            "typicality": pc.if_else(pc.is_nan(scores), np.nan, typical),
        }
    )


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(column.cast(pa.float64(), safe=False), np.nan)


@dataclass(frozen=True, eq=False)
class Counts:
    """The classes, and of each how many rows have a score, have none, and are of known typicality; the extremes."""

    labels: pa.Array
    scored: np.ndarray
    flat: np.ndarray
    known: np.ndarray
    best: dict[str, np.ndarray]
    worst: dict[str, np.ndarray]


def count_classes(over_blocks: Blocks, options: dict[str, Any]) -> Counts:
    parts = [part for part in over_blocks(_count_block) if len(part)]
    if not parts:
        raise InputError("the dataset has no candidate rows: score it first")
    how = {"count_all": "sum", "row_count": "sum"}
    how |= {f"{key}_{name}": f for key in _VALUES for name, f in (("count", "sum"), ("max", "max"), ("min", "min"))}
    total = pa.concat_tables(parts).group_by("label", use_threads=False).aggregate(list(how.items()))
    labels = total["label"].combine_chunks()
    of = {name: total[f"{name}_{f}"].to_numpy() for name, f in how.items()}
    rows = of["count_all"]
    nulls = {
        "label": rows[labels.is_null().to_numpy(zero_copy_only=False)].sum(),
        "row": (rows - of["row_count"]).sum(),
    }
    for name, count in nulls.items():
        if count:
            raise InputError(f"column {options[f'{name}_column']!r} has {count} null rows: leave them out")
    if pa.types.is_integer(labels.type) and pc.min(labels).as_py() < 0:
        raise InputError(f"column {options['label_column']!r} has labels below 0: leave rows without a class out")
    best, worst = ({key: of[f"{key}_{end}"] for key in _VALUES} for end in ("max", "min"))
    scored = of["score_count"]
    return Counts(labels, scored, rows - scored, of["typicality_count"], best, worst)


def _count_block(keys: pa.Table) -> pa.Table:
    # What is counted leaves nulls out, and NaN not.
    known = {k: pc.if_else(pc.is_nan(keys[k]), pa.scalar(None, pa.float64()), keys[k]) for k in _VALUES}
    block = pa.table({"label": keys["label"], "row": keys["row"], **known})
    counts = [(key, name) for key in _VALUES for name in ("count", "max", "min")]
    return block.group_by("label", use_threads=False).aggregate([([], "count_all"), ("row", "count"), *counts])
