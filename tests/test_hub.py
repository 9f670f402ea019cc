"""Coresets to the Hub and back: the real clients against a small Hub on loopback."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value

from hf_ltc import InputError, rank_coreset, select_coreset
from hf_ltc.columns import read_column, with_columns
from hf_ltc.hub import push_coreset

from . import hub_clients as do
from .hub_server import OTHER, WRITER, Client, Hub


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture(scope="module")
def client(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One process for all that does not need a fresh cache."""
    with Client(hub, tmp_path_factory.mktemp("client")) as running:
        yield running


@pytest.fixture(autouse=True)
def no_faults_left(hub: Hub) -> Iterator[None]:
    yield
    left = [fault for fault in hub.faults if fault.times]
    hub.faults.clear()
    assert not left, "a fault that was asked for did not happen"


@pytest.fixture(scope="module")
def rows(small: DatasetDict) -> Dataset:
    return small["train"]


@pytest.fixture(scope="module")
def run(rows: Dataset) -> Any:
    return do.recorded(rows)


@pytest.fixture(scope="module")
def scored(rows: Dataset, run: Any) -> Dataset:
    return run.score(rows)


def test_the_hub_serves_what_the_real_clients_push(hub: Hub, client: Client, rows: Dataset):
    oid = client(do.push_rows, rows, "me/plain", num_shards=3)
    assert oid == hub.dataset("me/plain").head
    assert client(do.load, "me/plain", revision=oid) == (do.content(rows), rows.features)


def test_a_coreset_is_the_same_in_a_fresh_process(
    hub: Hub, client: Client, tmp_path: Path, scored: Dataset, run: Any, small: DatasetDict
):
    revision = client(
        do.push, scored, "me/digits-ltc", [0.1, 0.3], [7], trajectories=run, splits={"test": small["test"]}
    )
    assert hub.dataset("me/digits-ltc").titles[revision] == "Push coreset-10pct, coreset-30pct, coreset-7rows, scores"
    columns = ["image", "label", "ltc_score", "ltc_rank"]
    with Client(hub, tmp_path) as fresh:
        for config, budget in {
            "coreset-10pct": {"fraction": 0.1},
            "coreset-30pct": {"fraction": 0.3},
            "coreset-7rows": {"size": 7},
        }.items():
            local = select_coreset(scored, **budget).select_columns(columns)
            assert fresh(do.load, "me/digits-ltc", config) == (do.content(local), local.features)
            assert fresh(do.load_by_budget, "me/digits-ltc", **budget) == (do.content(local), local.features)
        test, features = fresh(do.load, "me/digits-ltc", "coreset-10pct", split="test")
        scores, _ = fresh(do.load, "me/digits-ltc", "scores")
    assert features["label"].names == [str(digit) for digit in range(10)]
    assert [(row["image"], row["label"]) for row in test] == [
        (row["image"], row["label"]) for row in do.content(small["test"])
    ]
    assert all(row["ltc_score"] is None and row["ltc_rank"] is None for row in test)
    plain = do.content(scored)
    assert scores == [{"row": i, **{name: row[name] for name in columns[1:]}} for i, row in enumerate(plain)]


def test_a_budget_that_was_not_pushed_is_taken_from_the_source(
    hub: Hub, client: Client, tmp_path: Path, rows: Dataset, small: DatasetDict
):
    first = client(do.push_rows, small, "me/source")
    run = do.recorded(rows, dataset={**do.dataset_identity(rows, "label"), "repo_id": "me/source"})
    scored = run.score(rows)
    client(do.push, scored, "me/source-ltc", [0.1, 0.2], trajectories=run, scores_only=True)
    files = set(hub.dataset("me/source-ltc").files)
    assert files == {".gitattributes", "README.md", "recipe.json", "scores/train-00000-of-00001.parquet"}
    recipe = json.loads(hub.dataset("me/source-ltc").files["recipe.json"])
    assert recipe["coresets"]["ltc"]["dataset"]["revision"] == first
    # The source has moved on since: other rows, in another order.
    second = client(do.push_rows, DatasetDict({"train": rows.shuffle(seed=1).select(range(100))}), "me/source")
    assert second != first
    columns = ["image", "label", "ltc_score", "ltc_rank"]
    with Client(hub, tmp_path) as fresh:
        for budget in ({"fraction": 0.1}, {"size": 23}, {"fraction": 1.0}):
            local = select_coreset(scored, **budget).select_columns(columns)
            assert fresh(do.load_by_budget, "me/source-ltc", **budget) == (do.content(local), local.features)
    local = select_coreset(scored, size=5).select_columns(columns)
    assert client(do.load_by_budget, "me/source-ltc", size=5, dataset=rows)[0] == do.content(local)
    said = client(do.complaint, do.load_by_budget, "me/source-ltc", size=5, dataset=rows.shuffle(seed=3))
    assert "the source dataset and recipe.json of 'me/source-ltc' disagree" in said and "shuffled" in said


def test_no_place_and_no_token_of_the_machine_is_pushed(hub: Hub, client: Client, tmp_path: Path, rows: Dataset):
    folder = tmp_path / "private pictures"
    folder.mkdir()
    paths = []
    for number, image in enumerate(rows.select(range(60))["image"]):
        paths.append(str(folder / f"{number}.png"))
        image.save(paths[-1])
    features = Features({"image": Image(), "label": rows.features["label"]})
    local = Dataset.from_dict({"image": paths, "label": rows["label"][:60]}, features=features)
    config = {"model": f"transformers:{folder}/vit.json", "epochs": 5, "output_dir": str(tmp_path / "run"), "seed": 0}
    identity = {**do.dataset_identity(local, "label", path=str(folder))}
    run = do.recorded(local, held=10, config=config, dataset=identity, note=f"made in {tmp_path} with {WRITER}")
    picture = tmp_path / "curve.png"
    PIL.Image.new("L", (8, 8)).save(picture)
    scored = run.score(local)
    client(
        do.push, scored, "me/private", [0.5], trajectories=run, full=True, with_trajectories=True, pictures=[picture]
    )
    client(run.push_to_hub, "me/private")
    repo = hub.dataset("me/private")
    told = []
    for path, data in repo.files.items():
        told.append(path)
        if path.endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(data))
            assert all(
                row["image"]["path"] == Path(row["image"]["path"]).name for row in table.to_pylist() if "image" in row
            )
            told += [str(table.to_pylist()), str(table.schema.metadata)]
        elif path.endswith((".md", ".json")):
            told.append(data.decode())
    whole = "\n".join([*told, *repo.titles.values()])
    for secret in (str(tmp_path), "private pictures", str(Path.home()), os.getcwd(), WRITER, str(client.home)):
        assert len(secret) < 2 or secret not in whole, secret
    assert "vit.json" in whole and "images/curve.png" in repo.files and "](images/curve.png)" in whole
    stored, _ = client(do.load, "me/private", "coreset-50pct")
    coreset = select_coreset(scored, fraction=0.5)
    assert [row["image"]["bytes"] for row in stored] == [
        Path(row["image"]["path"]).read_bytes() for row in do.content(coreset)
    ]


def test_a_full_push_is_read_by_rank(hub: Hub, client: Client, tmp_path: Path, scored: Dataset, run: Any):
    client(do.push, scored, "me/full", [0.1, 0.5], trajectories=run, full=True)
    pool = len(run)
    columns = ["image", "label", "ltc_score", "ltc_rank"]
    by_rank = {row["ltc_rank"]: row for row in do.content(scored.select_columns(columns))}
    files = [path for path in hub.dataset("me/full").files if path.startswith("full/")]
    assert [path.split("/")[1] for path in files] == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    with Client(hub, tmp_path) as fresh:
        # As the first configuration of a repository with several, it is the one without a name.
        kept, features = fresh(do.load, "me/full", filters=[("ltc_rank", "<", 30)])
        assert kept == [by_rank[rank] for rank in range(30)] and features == scored.select_columns(columns).features
        whole, _ = fresh(do.load, "me/full", "full")
        assert [row["ltc_rank"] for row in whole] == [*range(pool), *[None] * (len(scored) - pool)]
        for size in (12, 31, pool):
            local = select_coreset(scored, size=size).select_columns(columns)
            assert fresh(do.load_by_budget, "me/full", size=size) == (do.content(local), local.features)


def test_of_many_rows_only_the_first_files_are_read(hub: Hub, client: Client, tmp_path: Path):
    count = 20_000
    draw = np.random.default_rng(0)
    rows = do.labelled(count)
    bulk = [draw.bytes(200) for _ in range(count)]
    rows = with_columns(rows, {"bulk": (pa.array(bulk, type=pa.binary()), Value("binary"))})
    scores = draw.random(count, dtype=np.float32)
    scored = with_columns(rows, {"ltc_score": (pa.array(scores), Value("float32"))})
    client(do.push, scored, "me/many", sizes=[2_000], full=True, max_shard_size="500KB")
    repo = hub.dataset("me/many")
    shards = {path: len(data) for path, data in repo.files.items() if path.startswith("full/")}
    assert len(shards) >= 9
    ordered = rank_coreset(scored)
    order = np.argsort(read_column(ordered, "ltc_rank").to_numpy())
    expected = do.content(ordered.select(order[:300]))
    with Client(hub, tmp_path) as fresh:
        with hub.counted() as seen:
            assert fresh(do.stream, "me/many", "full", 300) == expected
        read = {
            one.path.split("/full/")[1] for one in seen if "/full/" in one.path and one.sent and "resolve" in one.path
        }
        assert read == {sorted(shards)[0].split("/")[1]}
        with hub.counted() as seen:
            assert fresh(do.stream, "me/many", "full", 3_000, filters=[("ltc_rank", "<", 300)]) == expected
        sent = sum(one.sent for one in seen if "/full/" in one.path and "resolve" in one.path)
        # Of the other files the footers are read, 64 KiB each, but not their rows.
        assert sent < shards[min(shards)] + 65_536 * len(shards) < sum(shards.values()) / 4
        coreset, _ = fresh(do.load, "me/many", "coreset-2000rows")
    assert coreset == do.content(select_coreset(scored, size=2_000))
    assert len([path for path in repo.files if path.startswith("coreset-2000rows/")]) >= 1
