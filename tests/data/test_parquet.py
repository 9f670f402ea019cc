"""Parquet files of a dataset: the same each time, of any size, and readable everywhere."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from hypothesis import given
from hypothesis import strategies as st

from hf_ltc.data import parquet
from hf_ltc.data.columns import read_column
from hf_ltc.hub import tables
from tests import hub_clients as do


@given(st.integers(0, 500), st.integers(1, 100), st.lists(st.integers(-3, 600), max_size=5))
def test_shards_cover_all_rows_and_end_at_the_cuts(rows: int, most: int, cuts: list[int]):
    bounds = parquet.shard_bounds(rows, most, cuts)
    assert bounds[0][0] == 0 and bounds[-1][1] == rows
    assert all(one[1] == other[0] for one, other in pairwise(bounds))
    sizes = [stop - start for start, stop in bounds]
    assert max(sizes) <= most and (rows == 0 or min(sizes) > 0)
    assert {cut for cut in cuts if 0 < cut < rows} <= {stop for _, stop in bounds}


def test_files_are_the_same_when_written_again(tmp_path: Path, small):
    rows = small["train"]
    written = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        shards = parquet.parquet_shards(rows, folder, "train", max_shard_size="5KB")
        written.append({name: file.read_bytes() for name, file in shards})
    assert written[0] == written[1] and len(written[0]) > 1
    tables = [pq.read_table(pa.BufferReader(data)) for data in written[0].values()]
    assert pa.concat_tables(tables).to_pylist() == do.content(rows)


def test_row_groups_of_a_coreset_order_are_small(tmp_path: Path):
    bulk = [np.random.default_rng(i).bytes(200_000) for i in range(100)]
    rows = Dataset.from_dict({"bulk": bulk}, features=None)
    name, file = next(parquet.parquet_shards(rows, tmp_path, "train", small_groups=True))
    groups = pq.ParquetFile(file).metadata
    assert name == "train-00000-of-00001.parquet" and groups.num_rows == 100
    assert max(groups.row_group(i).total_byte_size for i in range(groups.num_row_groups)) < 5 * 2**20


def test_no_rows_are_a_file_too(tmp_path: Path):
    rows = do.labeled(10).select([])
    ((name, file),) = parquet.parquet_shards(rows, tmp_path, "train")
    assert name == "train-00000-of-00001.parquet" and pq.read_table(file).num_rows == 0


def _lists_of_a_fixed_size(path: Path) -> list[str]:
    return [field.name for field in pq.read_schema(path) if pa.types.is_fixed_size_list(field.type)]


def test_no_file_has_lists_of_a_fixed_size(tmp_path: Path, small: DatasetDict):
    """Of which null ones in Parquet cannot be read by pyarrow 25 and older."""
    rows = small["train"]
    run = do.recorded(rows)
    scored = run.score(rows)
    assert read_column(scored, "loss_trajectory").null_count
    scored.to_parquet(tmp_path / "scored.parquet")
    run.to_parquet(tmp_path / "run")
    older = scored.cast_column("loss_trajectory", List(Value("float32"), length=len(run.losses)))
    for name, dataset in (("new", scored), ("old", older)):
        table = tables.scores_table(dataset, "label", "ltc_score", "ltc_rank", trajectories=True)
        list(parquet.parquet_shards(table, tmp_path, name))
    written = sorted(tmp_path.rglob("*.parquet"))
    assert len(written) == 5 and not any(_lists_of_a_fixed_size(path) for path in written)
    for path in written:
        if path.parent == tmp_path:
            assert pq.read_table(path)["loss_trajectory"].to_pylist() == older["loss_trajectory"][:]


def test_lists_of_a_fixed_size_are_none_where_they_or_what_holds_them_can_be_null(tmp_path: Path):
    """Which pyarrow 25 and older cannot read; those without any null are left as they are."""
    pair, values = List(Value("int32"), length=2), [[1, 2], None, [3, 4]]
    features = Features(
        {"whole": pair, "null": pair, "object": {"box": pair}, "boxes": List(pair), "many": List({"box": pair})}
    )
    rows = Dataset.from_dict(
        {
            "whole": [[1, 2]] * 3,
            "null": values,
            "object": [{"box": [1, 2]}, None, {"box": [3, 4]}],
            "boxes": [[[1, 2]], [], None],
            "many": [[{"box": [1, 2]}], [], None],
        },
        features=features,
    )
    for name, part in (("all", rows), ("some", rows.select([2, 1]))):
        ((_, file),) = parquet.parquet_shards(part, tmp_path, name)
        assert _lists_of_a_fixed_size(file) == ["whole"]
        schema = pq.read_schema(file).remove_metadata()
        assert str(schema).count("fixed_size_list") == 1
        assert pq.read_table(file).to_pylist() == part.with_format("arrow")[:].to_pylist()


@pytest.mark.parametrize("chosen", [False, True])
def test_no_column_is_joined_to_be_written(tmp_path: Path, chosen: bool):
    """Above 2 GB its chunks cannot be joined: here one of 10 MB stands for 250 others, so that little is held."""
    image = pa.array([b"\x89PNG" + np.random.default_rng(0).bytes(1_000_000)] * 10, pa.binary())
    chunk = pa.StructArray.from_arrays([image, pa.nulls(10, pa.string())], ["bytes", "path"])
    images = pa.chunked_array([chunk] * 250)
    features = Features({"image": Image(), "row": Value("int64")})
    table = pa.table([images, pa.array(range(2_500))], schema=features.arrow_schema)
    rows = Dataset(table, fingerprint="large")
    rows = rows.select(np.random.default_rng(1).permutation(2_500)) if chosen else rows
    before = pa.total_allocated_bytes()
    shards = parquet.parquet_shards(rows, tmp_path, "train", max_shard_size="40MB")
    for number, (_, file) in zip(range(2), shards):
        written = pq.ParquetFile(file).metadata
        assert 30 <= written.num_rows <= 45 and number < 2
        file.unlink()
    assert pa.default_memory_pool().max_memory() - before < 400 * 2**20
