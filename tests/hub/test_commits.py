"""A push is what was meant: read back after the commit, with others at the same time, and finished elsewhere."""

import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Value

from hf_ltc import InputError, push_coreset
from hf_ltc.data.columns import with_columns
from hf_ltc.hub import cards
from hf_ltc.hub.commits import first_difference
from hf_ltc.trajectories.on_hub import push_source_model, push_trajectories
from tests import hub_clients as do
from tests.hub_server import Client, Hub

pytest_plugins = ["tests.hub_fixtures"]
pytestmark = pytest.mark.usefixtures("no_faults_left")

# What one reader of YAML or another takes for something else, or does not read as it was written.
_NAMES = [
    "no", "On", "yes", "1", "1.0", "-1", "1e3", "0o7", "0x1F", "1_000", "12:30:45", "null", "~", "None", "", "true",
    "2021-01-01", "2021-01-01T10:00:00Z", ".inf", ".nan", "=", "<<", "a: b", "- a", "# a", "a #b", "{a}", "[b]", "&a",
    "*a", "!a", "%a", "@a", "`a`", "| a", "> a", "it's", '"it"', "'", "\\n", "a\\b", " lead", "trail ", "a  b", "a\tb",
    "a\nb", "a\n---\nb", "a\r\nb", "\n", "a\x85b", "\x85", "a\u2028b", "\u2029", "\ufeffa", "a\xa0b", "\x00", "a\x7f",
    "---", "...", "日本", "кот", "été", "e\u0301", "😀", "\u202eabc", "{{ a }}", "{% a %}", "<b>a</b>", "a|b", "$a$",
    "word " * 60, "x" * 400,
]  # fmt: skip


def _of_classes(names: list[str], repeats: int = 3) -> Dataset:
    count = len(names) * repeats
    rows = Dataset.from_dict(
        {"text": [f"row {i}" for i in range(count)], "label": [i % len(names) for i in range(count)]}
    )
    rows = rows.cast_column("label", ClassLabel(names=names))
    scores = np.random.default_rng(0).random(count, dtype=np.float32)
    return with_columns(rows, {"ltc_score": (pa.array(scores), Value("float32"))})


def _names(repo_id: str, config: str) -> list[str]:
    from datasets import load_dataset

    return list(load_dataset(repo_id, config, split="train").features["label"].names)


def test_another_process_loads_exactly_the_names_of_the_classes(hub: Hub, client: Client, visitor: Client):
    assert client(do.complaint, do.push, _of_classes(_NAMES), "me/odd-names", [0.5]) is None
    for config in ("coreset-50pct", "scores"):
        assert visitor(_names, "me/odd-names", config) == _NAMES
    # Again beside what is there, whose head is read and written once more.
    assert client(do.complaint, do.push, _of_classes(_NAMES), "me/odd-names", sizes=[80]) is None
    assert [visitor(_names, "me/odd-names", config) for config in ("coreset-50pct", "coreset-80rows")] == [_NAMES] * 2
    head = hub.dataset("me/odd-names").files["README.md"].decode().split("\n---\n")[0]
    assert all(
        re.search(f"'{number}': \"{name}\"\n", head) for number, name in enumerate(_NAMES) if name in ("1e3", "0o7")
    )


def test_a_name_that_no_text_can_hold_is_refused(hub: Hub, client: Client):
    said = client(do.complaint, do.push, _of_classes(["cat", "\ud800"]), "me/surrogate", [0.5])
    assert "\n" not in said and "'\\ud800'" in said and "class 1 of column 'label'" in said


_SHARD = "coreset-50pct/train-00000-of-00001.parquet"


def _edited(path: str, edit: Callable[[str], str]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda files: {**files, path: edit(files[path].decode()).encode()}


def _in_head(edit: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def changed(card: str) -> str:
        _, head, text = card.split("---\n", 2)
        data = yaml.safe_load(head)
        edit(data)
        return f"---\n{yaml.safe_dump(data, sort_keys=False)}---\n{text}"

    return _edited("README.md", changed)


def _label(head: dict[str, Any]) -> dict[str, Any]:
    return head["dataset_info"][0]["features"][1]["dtype"]["class_label"]["names"]


def _in_recipe(edit: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def changed(recipe: str) -> str:
        data = json.loads(recipe)
        edit(data["coresets"]["ltc"])
        return json.dumps(data)

    return _edited("recipe.json", changed)


_CLASSES = "in the head of README.md dataset_info > coreset-50pct > features > label > dtype > class_label > names > "
_ALTERED: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "a name without its quotes": (
        _edited("README.md", lambda card: card.replace("'no'", "no", 1)), _CLASSES + "0 is False instead of 'no'"
    ),
    "two names exchanged": (
        _in_head(lambda head: _label(head).update({"1": "1", "2": "cat"})), _CLASSES + "1 is '1' instead of 'cat'"
    ),
    "a class less": (_in_head(lambda head: _label(head).pop("3")), _CLASSES + "3 is missing"),
    "a class more": (_in_head(lambda head: _label(head).update({"4": "x"})), _CLASSES + "4 is there too"),
    "rows": (
        _in_head(lambda head: head["dataset_info"][0]["splits"][0].update(num_examples=9)),
        "dataset_info > coreset-50pct > splits > train > num_examples is 9 instead of 12",
    ),
    "files": (
        _in_head(lambda head: head["configs"][0]["data_files"][0].update(path="other/*")),
        "configs > coreset-50pct > data_files > train > path is 'other/*' instead of",
    ),
    "a configuration less": (_in_head(lambda head: head["configs"].pop()), "configs > scores is missing"),
    "the license": (_in_head(lambda head: head.pop("license")), "in the head of README.md license is missing"),
    "the text": (_edited("README.md", lambda card: card.replace("## Limits", "## Limit")), "README.md is '## Limit'"),
    "no head": (_edited("README.md", lambda card: card.split("---\n", 2)[2]), "in the head of README.md"),
    "no YAML": (_edited("README.md", lambda card: card.replace("configs:", "configs: ]")), "is not valid YAML"),
    "the digest": (
        _in_recipe(lambda entry: entry.update(digest="0")), "in recipe.json coresets > ltc > digest is '0' instead of"
    ),
    "no JSON": (_edited("recipe.json", lambda recipe: recipe[:50]), "recipe.json is not JSON"),
    "no recipe": (lambda files: {k: v for k, v in files.items() if k != "recipe.json"}, "recipe.json is missing"),
    "no file": (lambda files: {k: v for k, v in files.items() if k != _SHARD}, f"{_SHARD} is missing"),
    "a shorter file": (lambda files: {**files, _SHARD: files[_SHARD][:-1]}, f"{_SHARD} has "),
    "another content": (lambda files: {**files, _SHARD: files[_SHARD][::-1]}, f"{_SHARD} has another content"),
    "a file more": (lambda files: {**files, "scores/train-x.parquet": b"x"}, "scores/train-x.parquet is there still"),
}  # fmt: skip


@pytest.mark.parametrize("way", _ALTERED)
def test_what_is_there_but_was_not_pushed_is_named(hub: Hub, client: Client, way: str):
    alter, said = _ALTERED[way]
    repo_id = f"me/altered-{way.replace(' ', '-')}"
    hub.alter = alter
    try:
        told = client(do.complaint, do.push, _of_classes(["no", "cat", "1", "x"], 6), repo_id, [0.5], license="mit")
    finally:
        hub.alter = None
    assert told.startswith(f"{repo_id!r} does not hold what was pushed to it: ") and "\n" not in told
    assert said in told and f"the commit is there, revision {hub.dataset(repo_id).head}" in told
    if way not in ("no YAML", "no JSON", "no recipe"):
        assert not client(do.complaint, do.push, _of_classes(["no", "cat", "1", "x"], 6), repo_id, [0.5])


def test_a_card_with_other_line_ends_is_the_same(hub: Hub, client: Client):
    hub.alter = _edited("README.md", lambda card: card.replace("\n", "\r\n"))
    try:
        assert client(do.complaint, do.push, _of_classes(["a", "b"]), "me/line-ends", [0.5]) is None
    finally:
        hub.alter = None


def test_what_cannot_be_read_back_is_said_to_be_there(hub: Hub, client: Client):
    hub.fail("GET", "/api/datasets/me/unread/tree/", status=500, times=6)
    told = client(do.complaint, do.push, _of_classes(["a", "b"]), "me/unread", [0.5])
    assert told.startswith("cannot read back what was pushed to 'me/unread': the Hub answered ")
    assert f"the commit is there (revision {hub.dataset('me/unread').head})" in told and "\n" not in told


def test_it_is_the_first_difference_that_is_told():
    assert first_difference({"a": [1, {"name": "x", "b": 2}]}, {"a": [1, {"name": "x", "b": 2}]}) is None
    assert first_difference({"a": [1, {"name": "x", "b": 2}]}, {"a": [1, {"name": "x", "b": 2.0}]}) == (
        "a > x > b is 2.0 instead of 2"
    )
    assert first_difference([1], [1, 2]) == "1 is there too" and first_difference([1, 2], [1]) == "1 is missing"
    assert first_difference({"a": "x" * 99}, {"a": None}) == f"a is None instead of '{'x' * 56}..."


# With others


def _together(clients: list[Client], tasks: list[tuple[Any, ...]]) -> list[Any]:
    for each in clients:
        each(os.getpid)
    futures = [each.pool.submit(*task) for each, task in zip(clients, tasks)]
    return [future.result(timeout=120) for future in futures]


def test_two_who_push_at_once_lose_nothing(
    hub: Hub, client: Client, visitor: Client, tmp_path: Path, scored: Dataset, run: Any
):
    # Each has sent its files and asks for its commit before the other one's is made.
    meet = threading.Barrier(2)
    hub.fail("POST", "/commit/main", call=lambda: meet.wait(60), times=2)
    with Client(hub, tmp_path) as other:
        budgets: list[dict[str, Any]] = [{"fractions": [0.1, 0.3]}, {"sizes": [20], "full": True}]
        options = [{"trajectories": run, **budget} for budget in budgets]
        for each in (client, other):
            each(os.getpid)
        futures = [
            each.pool.submit(do.push, scored, "me/at-once", **more) for each, more in zip((client, other), options)
        ]
        revisions = [future.result(timeout=120) for future in futures]
    repo = hub.dataset("me/at-once")
    assert repo.head in revisions and len({*revisions}) == 2 and len(repo.commits) == 3
    configs = ["coreset-10pct", "coreset-30pct", "coreset-20rows", "full", "scores"]
    assert {path.split("/")[0] for path in repo.files if "/" in path} == set(configs)
    head = cards.head(repo.files["README.md"].decode(), "me/at-once")
    assert {entry["config_name"] for entry in head["configs"]} == set(configs)
    assert {entry["config_name"] for entry in head["dataset_info"]} == set(configs)
    text = repo.files["README.md"].decode()
    assert all(f"| `{config}` |" in text for config in configs[:3])
    assert [len(visitor(do.load, "me/at-once", config)[0]) for config in configs] == [12, 36, 20, 150, 150]
    assert len(visitor(do.load_by_budget, "me/at-once", size=20)[0]) == 20


def test_where_others_always_are_first_it_ends(hub: Hub, client: Client, scored: Dataset, run: Any):
    client(do.push, scored, "me/always", [0.3], trajectories=run)
    repo = hub.dataset("me/always")
    tick = iter(range(100))
    hub.fail(
        "POST", "/commit/main", call=lambda: repo.add_commit("main", dict(repo.files), f"theirs {next(tick)}"), times=8
    )
    with hub.counted() as seen:
        told = client(do.complaint, do.push, scored, "me/always", [0.1], trajectories=run)
    assert told == (
        "cannot push to 'me/always': others pushed to it every time that this was tried: try again; nothing is half "
        "done, and the same command continues where it stopped"
    )
    assert sum(one.path.endswith("/commit/main") for one in seen) == 8 and "coreset-10pct" not in str(set(repo.files))
    assert client(do.complaint, do.push, scored, "me/always", [0.1], trajectories=run) is None


def test_a_commit_whose_answer_is_lost_is_made_once(hub: Hub, client: Client, scored: Dataset, run: Any):
    client(do.push, scored, "me/unheard", [0.3], trajectories=run)
    repo = hub.dataset("me/unheard")
    before = len(repo.commits)
    hub.lose_answers = 1
    assert client(do.complaint, do.push, scored, "me/unheard", [0.1], trajectories=run) is None
    assert hub.lose_answers == 0 and len(repo.commits) == before + 1


# Finished elsewhere


@pytest.mark.parametrize("when", ["while files are sent", "while it is committed"])
def test_a_push_is_finished_from_another_machine(hub: Hub, tmp_path: Path, rows: Dataset, run: Any, when: str):
    rows.save_to_disk(str(tmp_path / "here" / "rows"))
    run.save(tmp_path / "here" / "run")
    shutil.copytree(tmp_path / "here", tmp_path / "there of another $name")
    budgets = ([0.1, 0.5],)
    options = {"full": True, "max_shard_size": "5KB"}
    repo_id = f"me/moved-{when.replace(' ', '-')}"

    def task(folder: str, repo: str) -> tuple[Any, ...]:
        return (do.push_from_disk, str(tmp_path / folder / "run"), str(tmp_path / folder / "rows"), repo, *budgets)

    with Client(hub, tmp_path / "one") as killed:
        process = killed(os.getpid)
        if when == "while files are sent":
            hub.fail("PUT", "/blobs/", call=lambda: None, times=3)
            hub.fail("PUT", "/blobs/", call=lambda: os.kill(process, signal.SIGKILL))
        else:
            hub.fail("POST", "/commit/main", call=lambda: os.kill(process, signal.SIGKILL))
        with pytest.raises(Exception, match="terminated abruptly"):
            killed(*task("here", repo_id), **options)
    shutil.rmtree(tmp_path / "here")
    with Client(hub, tmp_path / "two") as other:
        other(os.chdir, str(tmp_path))
        with hub.counted() as seen:
            other(*task("there of another $name", repo_id), **options)
        sent = sum(one.method == "PUT" for one in seen)
        other(*task("there of another $name", "me/unmoved"), **options)
    files, whole = hub.dataset(repo_id).files, hub.dataset("me/unmoved").files
    data = {path: content for path, content in whole.items() if path.endswith(".parquet")}
    assert {path: content for path, content in files.items() if path.endswith(".parquet")} == data and len(data) > 8
    assert files.keys() == whole.keys() and sent <= len(data) - 3
    if when == "while it is committed":
        assert sent == 0 and len(hub.dataset(repo_id).commits) == 2


def test_no_file_of_an_earlier_push_is_left(hub: Hub, client: Client, visitor: Client, small: DatasetDict, run: Any):
    scored = run.score(small["train"])
    splits = {"test": small["test"]}
    client(do.push, scored, "me/again", [0.1, 0.5], trajectories=run, splits=splits, max_shard_size="4KB")
    repo = hub.dataset("me/again")
    assert sum(path.startswith("splits/test-") for path in repo.files) > 1
    client(do.push, scored, "me/again", [0.1, 0.5], trajectories=run, splits=splits)
    assert all("-00000-of-00001." in path for path in repo.files if path.endswith(".parquet"))
    other = do.recorded(small["train"], seed=7)
    repo.add_commit("main", {**repo.files, "scores/notes.txt": b"mine", "splits/notes.parquet": b"mine"}, "notes")
    client(do.push, other.score(small["train"]), "me/again", [0.2], trajectories=other)
    # The split is of coresets that are there no more.
    assert {path for path in repo.files if "/" in path} == {
        "coreset-20pct/train-00000-of-00001.parquet", "scores/train-00000-of-00001.parquet", "scores/notes.txt",
        "splits/notes.parquet",
    }  # fmt: skip


def test_scores_alone_leave_the_rows_that_are_there(
    hub: Hub, client: Client, visitor: Client, rows: Dataset, run: Any
):
    source = {"repo_id": "me/rows-source", "split": "train"}
    client(do.push_rows, rows, "me/rows-source")
    scored = run.score(rows)
    client(do.push, scored, "me/rows-stay", [0.1], trajectories=run, source=source)
    client(do.push, scored, "me/rows-stay", [0.1, 0.2], scores_only=True, source=source)
    # Without the recording and the source, of which it is known already.
    client(do.push, scored, "me/rows-stay", [0.1])
    entry = json.loads(hub.dataset("me/rows-stay").files["recipe.json"])["coresets"]["ltc"]
    assert {name: made["stored"] for name, made in entry["configs"].items()} == {
        "coreset-10pct": True, "coreset-20pct": False
    }  # fmt: skip
    assert (
        entry["run"]["config"]["model"] == "resnet10t"
        and entry["family"]
        and entry["dataset"]["repo_id"] == source["repo_id"]
    )
    assert len(visitor(do.load_by_budget, "me/rows-stay", 0.3)[0]) == 36


# A Hub that is busy


@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        ("GET", "^/api/datasets/[^/]+/[^/]+$"), ("GET", "/resolve/"), ("GET", "/tree/"), ("GET", "whoami"),
        ("POST", "/repos/create"),
        ("POST", "/commit/main"), ("POST", "/preupload/"), ("POST", "/objects/batch"), ("POST", "/validate-yaml"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "how", [{"status": 503}, {"status": 429, "headers": {"Retry_After": "1"}}, {"cut_after": 0}], ids=str
)
def test_a_hub_that_is_busy_for_a_moment_is_asked_again(hub: Hub, client: Client, method: str, pattern: str, how: Any):
    name = re.sub(r"\W+", "-", f"busy-{method}-{pattern}-{how}").strip("-")[:90].strip("-").replace("--", "-")
    if pattern == "/resolve/":
        client(do.push, _of_classes(["a", "b"]), f"me/{name}", [0.5])
    hub.fail(method, pattern, times=2, **how)
    assert client(do.complaint, do.push, _of_classes(["a", "b"]), name, [0.4]) is None
    assert "coreset-40pct" in hub.dataset(f"me/{name}").files["README.md"].decode()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"status": 503, "times": 5}, "the Hub answered "),
        ({"cut_after": 0, "times": 5}, "the Hub cannot be reached ("),
        (
            {"status": 429, "headers": {"Retry_After": "3600"}},
            "the Hub takes no more requests for now: try again later",
        ),
        ({"status": 401}, "the access token is missing, wrong or expired"),
        ({"status": 403}, "the access token may not write there"),
    ],
    ids=str,
)
def test_a_hub_that_stays_busy_is_one_line(hub: Hub, client: Client, how: dict[str, Any], said: str):
    hub.fail("GET", "^/api/datasets/[^/]+/[^/]+$", **how)
    told = client(do.complaint, do.push, _of_classes(["a", "b"]), "me/stays-busy", [0.5])
    assert told.startswith(f"cannot push to 'me/stays-busy': {said}") and "\n" not in told and "()" not in told


def test_what_the_hub_finds_in_the_head_of_the_card_is_one_line(hub: Hub, client: Client):
    hub.invalid = ['"license" must be one of [apache-2.0, mit]', "and more"]
    try:
        told = client(do.complaint, do.push, _of_classes(["a", "b"]), "me/license", [0.5], license="mine")
    finally:
        hub.invalid = []
    assert "does not take the head of README.md" in told and "must be one of" in told and "\n" not in told


# Said before any work


@pytest.mark.parametrize(
    "name",
    ["", "a/b/c", "me/", "/x", "me/a b", "me/日本", "me/x.git", "me/a--b", "-me/x", "me/" + "x" * 97, "me/x\n", None,
     3, Path("me/x"), "https://huggingface.co/datasets/me/x"],
)  # fmt: skip
def test_a_name_that_no_repository_has_is_refused_before_any_work(name: Any):
    for push in (push_coreset, push_trajectories, push_source_model):
        with pytest.raises(InputError, match="that is no name of a repository") as error:
            push(None, name)
        assert repr(name) in str(error.value) and "\n" not in str(error.value)


def test_private_rows_are_not_put_where_all_can_read_them(hub: Hub, client: Client):
    client(do.push, _of_classes(["a", "b"]), "me/open-to-all", [0.5])
    before = hub.dataset("me/open-to-all").head
    told = client(do.complaint, do.push, _of_classes(["a", "b"]), "me/open-to-all", [0.4], private=True)
    assert told.startswith("`private` is True, but 'me/open-to-all' is there and public")
    assert hub.dataset("me/open-to-all").head == before
