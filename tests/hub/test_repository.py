"""Coresets to the Hub and back: the real clients against a small Hub on loopback."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value

from hf_ltc import rank_coreset, select_coreset
from hf_ltc.data.columns import read_column, with_columns
from tests import hub_clients as do
from tests.hub_server import OTHER, WRITER, Client, Hub

pytest_plugins = ["tests.hub_fixtures"]
pytestmark = pytest.mark.usefixtures("no_faults_left")


def test_the_hub_serves_what_the_real_clients_push(hub: Hub, client: Client, rows: Dataset):
    oid = client(do.push_rows, rows, "me/plain", num_shards=3)
    assert oid == hub.dataset("me/plain").head
    assert client(do.load, "me/plain", revision=oid) == (do.content(rows), rows.features)


def test_a_coreset_is_the_same_in_a_fresh_process(
    hub: Hub, client: Client, visitor: Client, scored: Dataset, run: Any, small: DatasetDict
):
    revision = client(
        do.push, scored, "me/digits-ltc", [0.1, 0.3], [7], trajectories=run, splits={"test": small["test"]}
    )
    assert hub.dataset("me/digits-ltc").titles[revision] == "Push coreset-10pct, coreset-30pct, coreset-7rows, scores"
    columns = ["image", "label", "ltc_score", "ltc_typicality", "ltc_rank"]
    for config, budget in {
        "coreset-10pct": {"fraction": 0.1},
        "coreset-30pct": {"fraction": 0.3},
        "coreset-7rows": {"size": 7},
    }.items():
        local = select_coreset(scored, **budget).select_columns(columns)
        assert visitor(do.load, "me/digits-ltc", config) == (do.content(local), local.features)
        assert visitor(do.load_by_budget, "me/digits-ltc", **budget) == (do.content(local), local.features)
    test, features = visitor(do.load, "me/digits-ltc", "coreset-10pct", split="test")
    scores, _ = visitor(do.load, "me/digits-ltc", "scores")
    assert features["label"].names == [str(digit) for digit in range(10)]
    assert [(row["image"], row["label"]) for row in test] == [
        (row["image"], row["label"]) for row in do.content(small["test"])
    ]
    assert all(row["ltc_score"] is None and row["ltc_rank"] is None for row in test)
    plain = do.content(scored)
    columns = ["label", "ltc_score", "ltc_rank", "ltc_typicality"]
    assert scores == [{"row": i, **{name: row[name] for name in columns}} for i, row in enumerate(plain)]


def test_a_budget_that_was_not_pushed_is_taken_from_the_source(
    hub: Hub, client: Client, visitor: Client, rows: Dataset, small: DatasetDict
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
    columns = ["image", "label", "ltc_score", "ltc_typicality", "ltc_rank"]
    for budget in ({"fraction": 0.1}, {"size": 23}, {"fraction": 1.0}):
        local = select_coreset(scored, **budget).select_columns(columns)
        assert visitor(do.load_by_budget, "me/source-ltc", **budget) == (do.content(local), local.features)
    local = select_coreset(scored, size=5).select_columns(columns)
    assert client(do.load_by_budget, "me/source-ltc", size=5, dataset=rows)[0] == do.content(local)
    said = client(do.complaint, do.load_by_budget, "me/source-ltc", size=5, dataset=rows.shuffle(seed=3))
    assert "the source dataset and recipe.json of 'me/source-ltc' disagree" in said and "shuffled" in said


@pytest.mark.parametrize("typical", [0, 0.3])
def test_a_coreset_is_rebuilt_with_as_many_typical_rows(
    hub: Hub, client: Client, visitor: Client, rows: Dataset, run: Any, small: DatasetDict, typical: float
):
    client(do.push_rows, small, "me/source")
    scored = run.score(rows, typical=typical)
    source = {"repo_id": "me/source", "split": "train"}
    options = {"trajectories": run, "scores_only": True, "source": source}
    said = client(do.complaint, do.push, scored, "me/typical", **options)
    assert "give the options that the rows were ranked with" in said
    options["typical"] = typical
    client(do.push, scored, "me/typical", **options)
    columns = ["image", "label", "ltc_score", "ltc_typicality", "ltc_rank"]
    for size in (10, 25, 60):
        local = select_coreset(scored, size=size, typical=typical).select_columns(columns)
        assert visitor(do.load_by_budget, "me/typical", size=size)[0] == do.content(local)
    card = hub.dataset("me/typical").files["README.md"].decode()
    assert (
        ("The first rows of each class, up to 30% of it, are typical rows" in card)
        == ("`ltc_typicality`" in card)
        == bool(typical)
    )
    keys = np.array(read_column(scored, "ltc_typicality").to_pylist(), dtype=np.float32)[::-1]
    other = with_columns(scored, {"ltc_typicality": (pa.array(keys, mask=np.isnan(keys)), Value("float32"))})
    other = rank_coreset(other, typical=typical)
    said = client(do.complaint, do.push, other, "me/other", **options)
    assert said.startswith("column 'ltc_typicality' is not the typicality of the rows in this recording")


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


def test_a_full_push_is_read_by_rank(hub: Hub, client: Client, visitor: Client, scored: Dataset, run: Any):
    client(do.push, scored, "me/full", [0.1, 0.5], trajectories=run, full=True)
    pool = len(run)
    columns = ["image", "label", "ltc_score", "ltc_typicality", "ltc_rank"]
    by_rank = {row["ltc_rank"]: row for row in do.content(scored.select_columns(columns))}
    files = [path for path in hub.dataset("me/full").files if path.startswith("full/")]
    assert [path.split("/")[1] for path in files] == [f"train-0000{i}-of-00003.parquet" for i in range(3)]
    # As the first configuration of a repository with several, it is the one without a name.
    kept, features = visitor(do.load, "me/full", filters=[("ltc_rank", "<", 30)])
    assert kept == [by_rank[rank] for rank in range(30)] and features == scored.select_columns(columns).features
    whole, _ = visitor(do.load, "me/full", "full")
    assert [row["ltc_rank"] for row in whole] == [*range(pool), *[None] * (len(scored) - pool)]
    for size in (12, 31, pool):
        local = select_coreset(scored, size=size).select_columns(columns)
        assert visitor(do.load_by_budget, "me/full", size=size) == (do.content(local), local.features)


def test_of_many_rows_only_the_first_files_are_read(hub: Hub, client: Client, visitor: Client):
    count = 20_000
    draw = np.random.default_rng(0)
    rows = do.labeled(count)
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
    with hub.counted() as seen:
        assert visitor(do.stream, "me/many", "full", 300) == expected
    read = {one.path.split("/full/")[1] for one in seen if "/full/" in one.path and "resolve" in one.path}
    # One row group more than asked is read, which here is the whole next file, and nothing of the other eight.
    assert read <= {path.split("/")[1] for path in sorted(shards)[:2]}
    with hub.counted() as seen:
        assert visitor(do.stream, "me/many", "full", 3_000, filters=[("ltc_rank", "<", 300)]) == expected
    sent = sum(one.sent for one in seen if "/full/" in one.path and "resolve" in one.path)
    # Of the other files the footers are read, 64 KiB each, but not their rows.
    assert sent < shards[min(shards)] + 65_536 * len(shards) < sum(shards.values()) / 4
    coreset, _ = visitor(do.load, "me/many", "coreset-2000rows")
    assert coreset == do.content(select_coreset(scored, size=2_000))
    assert len([path for path in repo.files if path.startswith("coreset-2000rows/")]) >= 1


# Cut, refused, and done again

_PUSHED = "coreset-10pct"
_FAULTS = {
    "upload cut": ("PUT", "/blobs/", {"cut_after": 100, "times": 6}, "cannot be reached"),
    "upload refused": ("PUT", "/blobs/", {"status": 500, "times": 6}, "the Hub answered"),
    "token expired while uploading": ("POST", "objects/batch", {"status": 401}, "the access token is missing, wrong"),
    "no more requests": ("POST", "preupload", {"status": 429, "times": 6}, "takes no more requests for now"),
    "commit refused": ("POST", "/commit/main", {"status": 500, "times": 8}, "the Hub answered"),
    "commit cut": ("POST", "/commit/main", {"cut_after": 50, "times": 8}, "cannot be reached"),
    "token expired at the commit": ("POST", "/commit/main", {"status": 401}, "the access token"),
    "someone else pushed": ("POST", "/commit/main", {"status": 412, "times": 8}, "others pushed to it every time"),
    "someone else is pushing": (
        "POST",
        "/commit/main",
        {"status": 409, "times": 8},
        "is being changed by someone else",
    ),
}


@pytest.mark.parametrize("name", _FAULTS)
def test_a_push_that_is_cut_changes_nothing_and_is_finished_by_the_same_call(
    hub: Hub, client: Client, scored: Dataset, run: Any, name: str
):
    method, pattern, how, said = _FAULTS[name]
    repo_id = f"me/cut-{name.replace(' ', '-')}"
    client(do.push, scored, repo_id, [0.3], trajectories=run)
    repo = hub.dataset(repo_id)
    before, files = repo.head, dict(repo.files)
    hub.fail(method, pattern, **how)
    told = client(do.complaint, do.push, scored, repo_id, [0.1], trajectories=run)
    assert told.startswith(f"cannot push to '{repo_id}': ") and said in told and "\n" not in told
    assert "the same command continues where it stopped" in told
    assert repo.head == before and repo.files == files
    with hub.counted() as seen:
        assert client(do.complaint, do.push, scored, repo_id, [0.1], trajectories=run) is None
    uploads = [one for one in seen if one.method == "PUT"]
    assert len(uploads) == (0 if "commit" in name or "someone" in name else 1)
    assert set(repo.files) - set(files) == {f"{_PUSHED}/train-00000-of-00001.parquet"}
    stored, _ = client(do.load, repo_id, _PUSHED, revision=repo.head)
    columns = ["image", "label", "ltc_score", "ltc_typicality", "ltc_rank"]
    assert stored == do.content(select_coreset(scored, fraction=0.1).select_columns(columns))


def test_what_someone_else_pushed_meanwhile_is_kept(hub: Hub, client: Client, scored: Dataset, run: Any):
    client(do.push, scored, "me/race", [0.3], trajectories=run)
    repo = hub.dataset("me/race")
    theirs = {**repo.files, "README.md": repo.files["README.md"] + b"\nTheirs.\n", "theirs.txt": b"x"}
    hub.fail("PUT", "/blobs/", call=lambda: repo.add_commit("main", theirs, "theirs"))
    assert client(do.complaint, do.push, scored, "me/race", [0.1], trajectories=run) is None
    assert repo.files["README.md"].endswith(b"\nTheirs.\n") and b"`coreset-10pct`" in repo.files["README.md"]
    assert set(theirs) < set(repo.files) and json.loads(repo.files["recipe.json"])["coresets"]["ltc"][
        "configs"
    ].keys() == {"coreset-10pct", "coreset-30pct"}


def test_an_unchanged_file_that_someone_else_removes_meanwhile_is_there_again(
    hub: Hub, client: Client, scored: Dataset, run: Any
):
    client(do.push, scored, "me/removed", [0.3], trajectories=run)
    repo = hub.dataset("me/removed")
    path = "coreset-30pct/train-00000-of-00001.parquet"
    without = {name: content for name, content in repo.files.items() if name != path}
    hub.fail("POST", "/commit/main", call=lambda: repo.add_commit("main", without, "removed"))
    assert client(do.complaint, do.push, scored, "me/removed", [0.1, 0.3], trajectories=run) is None
    assert path in repo.files


def test_other_scores_that_someone_else_pushed_meanwhile_are_not_replaced(
    hub: Hub, client: Client, rows: Dataset, scored: Dataset, run: Any
):
    other = do.recorded(rows, seed=7)
    client(do.push, other.score(rows), "me/theirs", [0.2], trajectories=other)
    theirs = dict(hub.dataset("me/theirs").files)
    client(do.push_rows, rows, "me/race-scores")
    repo = hub.dataset("me/race-scores")
    before = dict(repo.files)
    hub.fail("POST", "/commit/main", call=lambda: repo.add_commit("main", {**before, **theirs}, "theirs"))
    told = client(do.complaint, do.push, scored, "me/race-scores", [0.1], trajectories=run)
    assert told.startswith("someone else pushed other files scores/train-* to 'me/race-scores' meanwhile (revision ")
    assert "nothing of this push is there" in told and repo.files == {**before, **theirs}


def test_an_answer_that_is_lost_is_no_second_commit(hub: Hub, client: Client, scored: Dataset, run: Any):
    client(do.push, scored, "me/lost", [0.1], trajectories=run)
    repo = hub.dataset("me/lost")
    before = len(repo.commits)
    assert client(do.push, scored, "me/lost", [0.1], trajectories=run) == repo.head
    assert len(repo.commits) == before


def test_waits_for_the_hub_when_asked_to(hub: Hub, client: Client, scored: Dataset, run: Any):
    hub.fail("POST", "preupload", status=429, headers={"Retry_After": "0"}, times=2)
    hub.fail("PUT", "/blobs/", status=503)
    assert client(do.complaint, do.push, scored, "me/patient", [0.1], trajectories=run) is None
    assert hub.dataset("me/patient").files["coreset-10pct/train-00000-of-00001.parquet"]


def test_no_room_for_the_files(hub: Hub, client: Client, scored: Dataset, run: Any):
    said = client(do.complaint_where_files_are_small, 1_000, do.push, scored, "me/no-room", [0.1], trajectories=run)
    assert said.startswith("cannot push to 'me/no-room': no room for its files in ") and "set TMPDIR" in said
    assert set(hub.dataset("me/no-room").files) == {".gitattributes"}


def test_what_the_hub_refuses_is_one_clear_line(hub: Hub, client: Client, scored: Dataset, run: Any):
    def said(repo_id: str, **options: Any) -> str:
        told = client(do.complaint, do.push, scored, repo_id, [0.1], trajectories=run, **options)
        assert "\n" not in told and WRITER not in told and "hf_" not in told.replace("hf_ltc", "")
        return told

    assert "the access token is missing, wrong or expired: log in" in said("me/new", token="hf_" + "wrong" * 5)
    assert "the access token may not write there" in said("nobody/new")
    assert "that is no name of a repository" in said("me/a/b") and "the same command" not in said("me/a/b")
    assert "that is no name of a repository" in said("me/a--b")
    client(do.push, scored, "me/secret", [0.1], trajectories=run, private=True)
    assert hub.dataset("me/secret").private
    load = client(do.complaint, do.load_by_budget, "me/secret", 0.1, token=OTHER)
    assert "there is no such repository, or it is private" in load and load.startswith("cannot load from 'me/secret'")
    assert "no such repository" in client(do.complaint, do.load_by_budget, "me/missing", 0.1)
    assert "no such revision" in client(do.complaint, do.load_by_budget, "me/secret", 0.1, revision="v9")
    assert "may not write" in said("me/plain-digits", token=OTHER)
    client(do.push_rows, scored.select_columns(["label"]), "me/open")
    assert "may not write" in said("me/open", token=OTHER)
    assert "has no recipe.json" in client(do.complaint, do.load_by_budget, "me/open", 0.1)
    hub.dataset("me/open").gated = True
    hub.dataset("me/open").files["recipe.json"] = b"{}"
    assert "it is gated: ask for access" in client(do.complaint, do.load_by_budget, "me/open", 0.1, token=OTHER)


def test_a_name_without_an_owner_is_the_users_own(hub: Hub, client: Client, scored: Dataset):
    client(do.push, scored, "ownerless", [0.1])
    assert "coreset-10pct/train-00000-of-00001.parquet" in hub.dataset("me/ownerless").files
    client(do.push, scored, "lab/shared", [0.1])
    assert hub.dataset("lab/shared").files["README.md"]


def test_without_a_token(hub: Hub, tmp_path: Path, scored: Dataset):
    with Client(hub, tmp_path, token=None) as nobody:
        assert "log in with hf auth login" in nobody(do.complaint, do.push, scored, "me/nobody", [0.1])
        assert "no access token: log in" in nobody(do.complaint, do.push, scored, "nobody", [0.1])
        assert "log in with hf auth login" in nobody(do.complaint, do.load_by_budget, "me/nobody", 0.1)


def test_without_a_network(tmp_path: Path, hub: Hub, scored: Dataset):
    with Client(hub, tmp_path) as lonely:
        lonely.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
        said = lonely(do.complaint, do.push, scored, "me/lonely", [0.1])
    assert said.startswith("cannot push to 'me/lonely': the Hub cannot be reached") and "check the network" in said
    # The processes of the tests are offline themselves.
    assert "switched off by HF_HUB_OFFLINE" in do.complaint(do.load_by_budget, "me/lonely", 0.1)
