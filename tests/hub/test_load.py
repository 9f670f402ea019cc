"""Coresets from the Hub: of any scorer and budget, by id, and refused where recipe and data disagree."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, List, Value

from hf_ltc import InputError, Trajectories, load_coreset, rank_coreset, select_coreset
from hf_ltc.data.columns import with_columns
from tests import hub_clients as do
from tests.hub_server import Client, Hub

pytest_plugins = ["tests.hub_fixtures"]
pytestmark = pytest.mark.usefixtures("no_faults_left")


def _source(client: Client, rows: Dataset, repo_id: str) -> dict[str, Any]:
    client(do.push_rows, rows, repo_id)
    return {"repo_id": repo_id, "split": "train"}


_OPTIONS: dict[str, dict[str, Any]] = {
    "proportional": {"balance": "proportional"},
    "unbalanced": {"balance": "none", "keep": "lowest"},
    "negative": {"exclude_negative": True},
    "minimum": {"balance": "none", "min_per_class": 2},
    "stratified": {"coverage": "stratified", "cut": 0.2, "seed": 3},
    "beta": {"coverage": "beta", "beta_exponent": 5.5},
}


@pytest.fixture(scope="module")
def source(client: Client, rows: Dataset) -> dict[str, Any]:
    return _source(client, rows, "me/chosen")


@pytest.mark.parametrize("name", _OPTIONS)
def test_rows_are_chosen_as_they_were(
    client: Client, source: dict[str, Any], scored: Dataset, run: Trajectories, name: str
):
    options = _OPTIONS[name]
    unranked = scored.remove_columns("ltc_rank")
    repo_id = f"me/chosen-{name}"
    client(do.push, unranked, repo_id, trajectories=run, scores_only=True, source=source, **options)
    columns = ["image", "label", "ltc_score", "ltc_typicality", "ltc_rank"]
    for budget in ({"fraction": 0.25}, {"size": 31}):
        local = select_coreset(unranked, **budget, **options).select_columns(columns)
        assert client(do.load_by_budget, repo_id, **budget) == (do.content(local), local.features)


def test_rows_are_joined_by_id(hub: Hub, client: Client, rows: Dataset):
    ids = rows.add_column("id", [f"digit-{i}" for i in range(len(rows))])
    source = _source(client, ids, "me/ids")
    run = do.recorded(ids, ids="id")
    part = ids.shuffle(seed=2).select(range(100))
    scored = run.score(part)
    client(do.push, scored, "me/ids-ltc", trajectories=run, scores_only=True, source=source)
    columns = ["image", "label", "id", "ltc_score", "ltc_typicality", "ltc_rank"]
    local = select_coreset(scored, size=20).select_columns(columns)
    assert client(do.load_by_budget, "me/ids-ltc", size=20)[0] == do.content(local)
    said = client(do.complaint, do.load_by_budget, "me/ids-ltc", size=20, dataset=part.select(range(90)))
    assert "10 of the 100 scored ids are not in column 'id' of the source dataset" in said
    twice = ids.select([0, *range(len(ids))])
    said = client(do.complaint, do.load_by_budget, "me/ids-ltc", size=20, dataset=twice)
    assert "other or repeated ids" in said


def test_two_scorers_share_a_repository(hub: Hub, client: Client, scored: Dataset, run: Trajectories):
    draw = np.random.default_rng(5)
    scores = pa.array(draw.random(len(scored), dtype=np.float32))
    other = rank_coreset(with_columns(scored, {"el2n_score": (scores, Value("float32"))}), score_column="el2n_score")
    client(do.push, scored, "me/both", [0.1], trajectories=run)
    client(do.push, other, "me/both", [0.1, 0.2], trajectories=run, score_column="el2n_score", full=True)
    files = {path.split("/")[0] for path in hub.dataset("me/both").files if "/" in path}
    assert files == {
        "coreset-10pct", "scores", "coreset-el2n-10pct", "coreset-el2n-20pct", "scores-el2n", "full-el2n"
    }  # fmt: skip
    ltc, _ = client(do.load_by_budget, "me/both", 0.1)
    columns = ["image", "label", "ltc_score", "ltc_typicality", "ltc_rank"]
    assert ltc == do.content(select_coreset(scored, 0.1).select_columns(columns))
    columns = ["image", "label", "ltc_score", "ltc_typicality", "ltc_rank", "el2n_score", "el2n_rank"]
    for fraction in (0.2, 0.3):
        loaded, _ = client(do.load_by_budget, "me/both", fraction, scorer="el2n")
        assert loaded == do.content(select_coreset(other, fraction, score_column="el2n_score").select_columns(columns))
    said = client(do.complaint, do.load_by_budget, "me/both", 0.1, scorer="aum")
    assert said == "'me/both' has no coreset by 'aum', it has ltc, el2n: name another"


def test_an_old_revision_is_loaded_as_it_was(hub: Hub, client: Client, rows: Dataset, scored: Dataset, run: Any):
    first = client(do.push, scored, "me/versions", [0.1], trajectories=run)
    other = do.recorded(rows, seed=7)
    second = client(do.push, other.score(rows), "me/versions", [0.1], trajectories=other)
    columns = ["image", "label", "ltc_score", "ltc_typicality", "ltc_rank"]
    expected = [do.content(select_coreset(each, 0.1).select_columns(columns)) for each in (scored, other.score(rows))]
    assert client(do.load_by_budget, "me/versions", 0.1)[0] == expected[1] != expected[0]
    for revision, rows_then in zip((first, first[:12], second), (expected[0], expected[0], expected[1])):
        assert client(do.load_by_budget, "me/versions", 0.1, revision=revision)[0] == rows_then


def test_other_scores_take_the_place_of_old_ones(hub: Hub, client: Client, rows: Dataset, scored: Dataset, run: Any):
    client(do.push, scored, "me/replaced", [0.1, 0.3], [40], trajectories=run, full=True, max_shard_size="6KB")
    repo = hub.dataset("me/replaced")
    before = {path for path in repo.files if "/" in path}
    client(do.push, scored, "me/replaced", [0.2], trajectories=run)
    assert before < set(repo.files), "other budgets of the same scores stay"
    other = do.recorded(rows, seed=7)
    revision = client(do.push, other.score(rows), "me/replaced", [0.3], trajectories=other)
    folders = {path.split("/")[0] for path in repo.files if "/" in path}
    assert folders == {"coreset-30pct", "scores"}
    assert [path for path in repo.files if path.startswith("coreset-30pct")] == [
        "coreset-30pct/train-00000-of-00001.parquet"
    ]
    assert "remove coreset-10pct, " in repo.titles[revision]
    head = repo.files["README.md"].decode().split("---")[1]
    assert "coreset-10pct" not in head and "config_name: full" not in head and "coreset-30pct" in head


# Refused


def _tampered(hub: Hub, repo_id: str, path: str, content: bytes) -> None:
    repo = hub.dataset(repo_id)
    repo.add_commit("main", {**repo.files, path: content}, "tampered")


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _swap(data: bytes, column: str, one: int = 0, other: int = 1) -> bytes:
    table = pq.read_table(pa.BufferReader(data))
    order = np.arange(len(table))
    order[[one, other]] = other, one
    place = table.column_names.index(column)
    return _parquet(table.set_column(place, table.schema.field(column), table.column(column).take(order)))


@pytest.fixture(scope="module")
def pushed(client: Client, scored: Dataset, run: Trajectories) -> str:
    source = _source(client, scored.select_columns(["image", "label"]), "me/tamper-source")
    client(do.push, scored, "me/tamper", [0.1], trajectories=run, full=True, source=source)
    client(run.push_to_hub, "me/tamper")
    return "me/tamper"


_FILE = "{}/train-00000-of-0000{}.parquet"
_TAMPERED = {
    "scores": (_FILE.format("scores", 1), "ltc_score", 0.2, "of 'scores' are not those of its recipe"),
    "ranks": (_FILE.format("coreset-10pct", 1), "ltc_rank", 0.1, "of 'coreset-10pct' are not those of its recipe"),
    "images": (_FILE.format("coreset-10pct", 1), "image", 0.1, "image' differs on the rows compared"),
    "labels": (_FILE.format("coreset-10pct", 1), "label", 0.1, "of 'coreset-10pct' are not those of its recipe"),
    "order": (_FILE.format("full", 2), "ltc_score", 0.2, "the labels or scores of 'full' and 'scores' differ"),
}


@pytest.mark.parametrize("name", _TAMPERED)
def test_files_that_the_recipe_is_not_of_are_refused(hub: Hub, client: Client, pushed: str, name: str):
    path, column, fraction, said = _TAMPERED[name]
    repo = hub.dataset(pushed)
    whole = dict(repo.files)
    _tampered(hub, pushed, path, _swap(repo.files[path], column))
    told = client(do.complaint, do.load_by_budget, pushed, fraction)
    repo.add_commit("main", whole, "restored")
    assert said in told and "\n" not in told
    assert "'me/tamper' disagree" in told


def test_losses_that_the_recipe_is_not_of_are_refused(hub: Hub, client: Client, pushed: str):
    path = _FILE.format("trajectories", 1)
    repo = hub.dataset(pushed)
    whole = dict(repo.files)
    _tampered(hub, pushed, path, _swap(repo.files[path], "loss_trajectory"))
    told = client(do.complaint, Trajectories.from_hub, pushed)
    repo.add_commit("main", whole, "restored")
    assert "recipe and data of 'me/tamper' disagree: the losses are not those" in told


def test_a_source_that_is_not_the_one_scored_is_refused(hub: Hub, client: Client, pushed: str, rows: Dataset):
    repo = hub.dataset(pushed)
    whole = dict(repo.files)
    other = client(do.push_rows, rows.select(range(149, -1, -1)), "me/tamper-source")
    recipe = json.loads(whole["recipe.json"])
    entry = recipe["coresets"]["ltc"]
    entry["dataset"]["revision"], entry["full"] = other, None
    _tampered(hub, pushed, "recipe.json", json.dumps(recipe).encode())
    told = client(do.complaint, do.load_by_budget, pushed, 0.2)
    assert "the source dataset and recipe.json of 'me/tamper' disagree" in told
    # Where a dataset is said to be is never taken for a folder of this machine.
    for place in ("/etc", "../..", "~/secrets"):
        entry["dataset"]["repo_id"] = place
        _tampered(hub, pushed, "recipe.json", json.dumps(recipe).encode())
        told = client(do.complaint, do.load_by_budget, pushed, 0.2)
        assert told.startswith(f"cannot load the source dataset from '{place}': that is no name of a repository")
    repo.add_commit("main", whole, "restored")


@pytest.mark.parametrize(("name", "files", "fraction"), [("coreset-10pct", 1, 0.1), ("full", 2, 0.2)])
def test_what_no_digest_of_labels_and_scores_tells_is_refused(
    hub: Hub, client: Client, pushed: str, name: str, files: int, fraction: float
):
    path = _FILE.format(name, files)
    # The same rows in a file that was written otherwise: as little as a byte of any column would do.
    repo = hub.dataset(pushed)
    whole = dict(repo.files)
    _tampered(hub, pushed, path, _parquet(pq.read_table(pa.BufferReader(whole[path]))))
    told = client(do.complaint, do.load_by_budget, pushed, fraction)
    assert told.startswith(
        f"refused, as recipe and data of 'me/tamper' disagree: {path} is not the file that was pushed"
    )
    recipe = json.loads(whole["recipe.json"])
    for said in ([], "x", {path: 3}):
        _tampered(hub, pushed, "recipe.json", json.dumps({**recipe, "files": said}).encode())
        told = client(do.complaint, do.load_by_budget, pushed, fraction)
        assert said == [] or (told is not None and "\n" not in told)
    repo.add_commit("main", whole, "restored")


def test_names_of_the_classes_of_any_column_are_compared(hub: Hub, client: Client, rows: Dataset):
    colors = ClassLabel(names=["red", "green", "blue"])
    two = with_columns(rows, {"color": (pa.array(np.arange(len(rows)) % 3), colors)})
    run = do.recorded(two)
    client(do.push, run.score(two), "me/colors", [0.1], trajectories=run, full=True, label_column="label")
    repo = hub.dataset("me/colors")
    whole = dict(repo.files)
    card = whole["README.md"].decode()
    for one, other in (("'0': red", "'0': green"), ("'1': green", "'1': red")):
        assert one in card
        card = card.replace(one, other)
    _tampered(hub, "me/colors", "README.md", card.encode())
    for fraction, config in ((0.1, "coreset-10pct"), (0.2, "full")):
        told = client(do.complaint, do.load_by_budget, "me/colors", fraction)
        assert f"the columns of {config!r}, their types or classes are" in told and "\n" not in told


def _fixed(data: bytes, column: str, length: int) -> bytes:
    table = pq.read_table(pa.BufferReader(data))
    place = table.column_names.index(column)
    values = table.column(column).cast(pa.list_(pa.float32(), length))
    schema = table.schema.set(place, pa.field(column, values.type)).remove_metadata()
    return _parquet(table.set_column(place, column, values).cast(schema).replace_schema_metadata(None))


@pytest.mark.skipif(
    int(pa.__version__.split(".")[0]) < 26, reason="no pyarrow before 26 reads lists of a fixed size that are null"
)
def test_a_repository_of_an_older_version_is_loaded_and_pushed_to(
    hub: Hub, client: Client, visitor: Client, rows: Dataset, run: Trajectories
):
    """Which had lists of a fixed size, and no digests of files and features."""
    source = _source(client, rows, "me/older-source")
    scored = run.score(rows)
    options = {"coverage": "beta", "trajectories": run, "source": source}
    client(do.push, scored, "me/older", [0.1], **options)
    client(run.push_to_hub, "me/older")
    repo = hub.dataset("me/older")
    files = dict(repo.files)
    for path, length in (
        (_FILE.format("scores", 1), do.CHECKPOINTS),
        (_FILE.format("trajectories", 1), do.CHECKPOINTS),
    ):
        files[path] = _fixed(files[path], "loss_trajectory", length)
    recipe = json.loads(files["recipe.json"])
    del recipe["files"], recipe["coresets"]["ltc"]["full_features"]
    for made in recipe["coresets"]["ltc"]["configs"].values():
        del made["features"]
    files["recipe.json"] = json.dumps(recipe).encode()
    card = files["README.md"].decode()
    assert card.count("    list: float32\n") == 3
    files["README.md"] = card.replace("    list: float32\n", "    list: float32\n    length: 17\n").encode()
    repo.add_commit("main", files, "as an older version wrote it")
    local = select_coreset(scored, 0.2, coverage="beta")
    for way in ("older", "pushed to again"):
        assert visitor(do.load_by_budget, "me/older", 0.1)[0] == do.content(
            select_coreset(scored, 0.1, coverage="beta").select_columns(
                ["image", "label", "ltc_score", "ltc_typicality", "ltc_rank"]
            )
        ), way
        assert [row["ltc_score"] for row in visitor(do.load_by_budget, "me/older", 0.2)[0]] == local["ltc_score"][:]
        np.testing.assert_array_equal(visitor(Trajectories.from_hub, "me/older").losses, run.losses)
        client(do.push, scored, "me/older", sizes=[9], **options)
    schema = pq.read_schema(pa.BufferReader(repo.files[_FILE.format("scores", 1)]))
    assert not pa.types.is_fixed_size_list(schema.field("loss_trajectory").type)


def test_lists_of_a_user_that_are_null_come_back_as_they_were(hub: Hub, client: Client, visitor: Client):
    rows = do.labeled(40, 2)
    values = [None if i % 3 == 0 else [float(i), 0.5] for i in range(40)]
    nested = [{"box": values[i]} for i in range(40)]
    kind = List(Value("float32"), length=2)
    rows = with_columns(rows, {
        "point": (pa.array(values, pa.list_(pa.float32(), 2)), kind),
        "object": (pa.array(nested, pa.struct({"box": pa.list_(pa.float32(), 2)})), {"box": kind}),
        "ltc_score": (pa.array(np.arange(40, dtype=np.float32)), Value("float32")),
    })  # fmt: skip
    client(do.push, rows, "me/points", [0.5], full=True)
    local = select_coreset(rows, 0.5)
    assert visitor(do.load, "me/points", "coreset-50pct") == (do.content(local), local.features)
    assert visitor(do.load_by_budget, "me/points", 0.5) == (do.content(local), local.features)
    assert visitor(do.load_by_budget, "me/points", 0.25)[1] == local.features
    for path, content in hub.dataset("me/points").files.items():
        if path.startswith(("coreset", "full")):
            # In Parquet itself, for readers that know nothing of datasets.
            assert "fixed_size_list" not in str(pq.read_schema(pa.BufferReader(content)).remove_metadata())


def _broken(recipe: dict[str, Any], way: str) -> bytes:
    entry = recipe["coresets"]["ltc"]
    if way == "format":
        recipe["format"] = 99
    elif way == "key":
        del entry["digest"]
    elif way == "column":
        entry["score_column"] = "other_score"
    elif way == "options":
        entry["selection"]["balance"], entry["full"] = "none", None
    elif way == "list":
        return b"[]"
    elif way == "text":
        return b"not JSON"
    return json.dumps(recipe).encode()


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("format", "has format 99, this version reads 1"),
        ("key", "it lacks 'digest'"),
        ("column", "other_score"),
        ("options", "'ltc_rank' of 'scores' is not the order of its scores"),
        ("list", "has format 'list'"),
        ("text", "is not JSON"),
    ],
)
def test_a_recipe_that_is_damaged_is_refused(hub: Hub, client: Client, pushed: str, way: str, said: str):
    repo = hub.dataset(pushed)
    whole = dict(repo.files)
    _tampered(hub, pushed, "recipe.json", _broken(json.loads(whole["recipe.json"]), way))
    told = client(do.complaint, do.load_by_budget, pushed, 0.2)
    repo.add_commit("main", whole, "restored")
    assert said in told and "\n" not in told and "me/tamper" in told


def test_a_damaged_file_is_refused(hub: Hub, client: Client, pushed: str):
    path = _FILE.format("coreset-10pct", 1)
    repo = hub.dataset(pushed)
    whole = dict(repo.files)
    _tampered(hub, pushed, path, whole[path][:500])
    told = client(do.complaint, do.load_by_budget, pushed, 0.1)
    repo.add_commit("main", whole, "restored")
    assert "a file of 'me/tamper' is damaged ('coreset-10pct' cannot be loaded" in told and "\n" not in told


def test_no_code_of_a_repository_is_run(hub: Hub, client: Client, scored: Dataset, tmp_path: Path):
    mark = tmp_path / "was-run"
    code = f"open({str(mark)!r}, 'w').close()".encode()
    pickled = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    client(do.push, scored, "me/coded", [0.1])
    repo = hub.dataset("me/coded")
    whole = dict(repo.files)
    repo.add_commit("main", {**whole, "coded.py": code}, "a script, as datasets once ran them")
    told = client(do.complaint, do.load_by_budget, "me/coded", 0.1)
    assert "Dataset scripts are no longer supported" in told and "\n" not in told
    unasked = {"setup.py": code, "scores/hook.py": code, "rows.pkl": pickled, "train.pt": pickled}
    repo.add_commit("main", {**whole, **unasked}, "files that could be run")
    assert len(client(do.load_by_budget, "me/coded", 0.1)[0]) == 12
    assert not mark.exists()


@pytest.mark.parametrize("budget", [{}, {"fraction": 0.0}, {"fraction": 0.1, "size": 3}, {"size": 1_000}])
def test_budgets_are_checked(client: Client, pushed: str, budget: dict[str, Any]):
    assert client(do.complaint, do.load_by_budget, pushed, **budget)


def test_a_budget_that_cannot_be_had_names_those_that_can(client: Client, scored: Dataset):
    client(do.push, scored, "me/only", [0.1, 0.3])
    said = client(do.complaint, do.load_by_budget, "me/only", 0.2)
    assert said == (
        "'me/only' has no coreset of 24 rows (it has coreset-10pct, coreset-30pct) and does not say where its source "
        "dataset is: give that as `dataset`"
    )
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        load_coreset("me/only", 0.1)


# Trajectories


def test_trajectories_come_back_to_the_bit(hub: Hub, client: Client, visitor: Client, rows: Dataset):
    ids = rows.add_column("id", list(range(1_000, 1_000 + len(rows))))
    run = do.recorded(ids, runs=2, ids="id")
    pushed = client(run.push_to_hub, "me/losses")
    assert pushed.configs == ("trajectories",) and pushed.revision == hub.dataset("me/losses").head
    back = visitor(Trajectories.from_hub, "me/losses", revision=pushed.revision)
    for name in ("losses", "validation_losses", "labels", "validation_labels", "rows", "validation_rows", "epochs"):
        np.testing.assert_array_equal(getattr(back, name), getattr(run, name), strict=True)
    np.testing.assert_array_equal(back.signals["margin"], run.signals["margin"], strict=True)
    assert back.lengths == run.lengths and back.loss_name == run.loss_name and back.ids.equals(run.ids)
    assert do.content(back.score(ids)) == do.content(run.score(ids))
    said = client(do.complaint, Trajectories.from_hub, "me/plain-nothing")
    assert "no such repository" in said


def test_trajectories_and_coresets_share_a_repository(hub: Hub, client: Client, scored: Dataset, pushed: str):
    client(do.push, scored, "me/no-losses", [0.1])
    said = client(do.complaint, Trajectories.from_hub, "me/no-losses")
    assert said == "'me/no-losses' has no trajectories: push them with Trajectories.push_to_hub"
    card = hub.dataset(pushed).files["README.md"].decode()
    assert "## Loss trajectories" in card and "## Coresets by LTC" in card
