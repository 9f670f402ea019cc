"""The page of a recording on the Hub: in a dataset repository with pictures for its card, and as a static Space."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from datasets import DatasetDict
from huggingface_hub import RepoCard

from hf_ltc import Trajectories, push_coreset
from hf_ltc.cli.main import main
from hf_ltc.hub.cards import BEGIN
from hf_ltc.hub.space import push_space
from tests import hub_clients as do
from tests.helpers import error_of
from tests.hub_server import Client, Hub

pytest_plugins = ["tests.hub_fixtures"]
pytestmark = pytest.mark.usefixtures("no_faults_left")

PICTURES = ["data_map.png", "losses.png", "rows_kept_and_dropped.png"]


def command(*arguments: Any) -> tuple[int, str, str]:
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as error:
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), error.getvalue()


@pytest.fixture(scope="module")
def place(small: DatasetDict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alices") / "private"
    small["train"].save_to_disk(folder / "digits")
    do.recorded(small["train"], runs=2).save(folder / "run")
    return folder


def pushing(place: Path, repo_id: str, *options: Any) -> tuple[Any, ...]:
    return ("push", place / "run", repo_id, "--dataset", place / "digits", "--fractions", "0.1", *options)


def test_the_page_and_its_pictures(hub: Hub, client: Client, place: Path):
    PIL.Image.new("RGB", (9, 9)).save(place / "run" / "losses.png")
    PIL.Image.new("RGB", (9, 9)).save(place / "run" / "mine.png")
    code, _, error = client(command, *pushing(place, "me/paged", "--report"))
    assert code == 0, error
    files = hub.dataset("me/paged").files
    assert sorted(name for name in files if name.startswith("images/")) == [
        f"images/{name}" for name in sorted([*PICTURES, "mine.png"])
    ]
    # Of its own pictures, not those of the run directory.
    assert PIL.Image.open(io.BytesIO(files["images/losses.png"])).width > 500
    page = files["report.html"].decode()
    assert page.startswith("<!doctype html>") and "alices" not in page and str(place) not in page
    card = files["README.md"].decode()
    assert "[report.html](report.html) shows" in card
    assert "![rows kept and dropped](images/rows_kept_and_dropped.png)" in card
    # A push of the same without it leaves it there.
    code, *_ = client(command, *pushing(place, "me/paged"))
    assert code == 0
    files = hub.dataset("me/paged").files
    assert files["report.html"].decode() == page and "report.html" in files["README.md"].decode()
    # One of other budgets does not, unless it has a page too.
    for options, there in (((), False), (("--report",), True), (("--preset", "ltc"), False)):
        code, _, error = client(command, *pushing(place, "me/paged", "0.3", *options))
        assert code == 0, error
        files = hub.dataset("me/paged").files
        assert ("report.html" in files, "report.html" in files["README.md"].decode()) == (there, there)
        assert ("report.html" in json.loads(files["recipe.json"])["files"]) == there
    # A file of that name that no push wrote is left alone, and is not called a page.
    hub.dataset("me/paged").add_commit("main", {**files, "report.html": b"mine"}, "by hand")
    code, *_ = client(command, *pushing(place, "me/paged"))
    files = hub.dataset("me/paged").files
    assert code == 0 and files["report.html"] == b"mine" and "report.html" not in files["README.md"].decode()


def test_no_picture_of_rows_with_scores_only(
    hub: Hub, client: Client, place: Path, small: DatasetDict, tmp_path: Path
):
    run = shutil.copytree(place / "run", tmp_path / "run")
    for name in ("losses.png", "rows_kept_and_dropped.png"):
        PIL.Image.new("RGB", (9, 9)).save(run / name)
    client(do.push_rows, small, "me/source")
    line = ("push", run, "me/bare", "--dataset", place / "digits", "--scores-only", "--source", "me/source")
    code, _, error = client(command, *line)
    assert code == 0, error
    files = hub.dataset("me/bare").files
    assert "images/losses.png" in files and "images/rows_kept_and_dropped.png" not in files
    assert "rows_kept" not in files["README.md"].decode()


def test_a_space(hub: Hub, client: Client, place: Path):
    options = ("--space", "me/look", "--dataset-name", "Digits <3", "--private", "--json")
    code, out, error = client(command, *pushing(place, "me/spaced", *options))
    assert code == 0, error
    told = json.loads(out)["space"]
    space = hub.space("me/look")
    assert told == {"repo_id": "me/look", "url": f"{hub.endpoint}/spaces/me/look", "revision": space.head}
    assert space.private and sorted(space.files) == [".gitattributes", "README.md", "index.html"]
    assert b"<title>Digits &lt;3 " in space.files["index.html"]
    card = RepoCard(space.files["README.md"].decode())
    assert card.data.to_dict() == {
        "title": "Digits <3", "colorFrom": "blue", "colorTo": "green", "sdk": "static", "tags": ["coreset", "ltc"],
        "datasets": ["me/spaced"],
    }  # fmt: skip
    assert "https://huggingface.co/datasets/me/spaced" in card.text
    # The dataset repository has no page, as none was asked for.
    assert "report.html" not in hub.dataset("me/spaced").files
    # Again, with what its owner has written since.
    text = space.files["README.md"].decode().replace("colorFrom: blue", "colorFrom: red") + "\nMine.\n"
    space.add_commit("main", {**space.files, "README.md": text.encode(), "notes.txt": b"mine"}, "by hand")
    code, out, error = client(command, *pushing(place, "me/spaced", *options, "--preset", "ltc"))
    assert code == 0, error
    now = hub.space("me/look").files
    assert now["notes.txt"] == b"mine" and "\nMine.\n" in now["README.md"].decode()
    assert "colorFrom: red" in now["README.md"].decode()


def test_a_space_is_as_private_as_the_dataset(hub: Hub, client: Client, place: Path):
    assert client(command, *pushing(place, "me/closed", "--private"))[0] == 0
    code, _, error = client(command, *pushing(place, "me/closed", "--space", "me/closed-look"))
    assert code == 0, error
    assert hub.space("me/closed-look").private
    hub.space("me/closed-look").private = False
    before = hub.dataset("me/closed").head
    code, _, error = client(command, *pushing(place, "me/closed", "--space", "me/closed-look", "--full"))
    assert code == 2 and "'me/closed' is private, but 'me/closed-look' is there and public: make it" in error
    code, _, error = client(command, *pushing(place, "me/secret", "--private", "--space", "me/closed-look"))
    assert code == 2 and "--private is True, but 'me/closed-look' is there and public: make it" in error
    # Refused before anything is pushed.
    assert hub.dataset("me/closed").head == before and ("dataset", "me/secret") not in hub.repos
    assert client(command, *pushing(place, "me/opened", "--space", "me/opened-look"))[0] == 0
    assert not hub.space("me/opened-look").private


def test_the_page_shows_what_is_pushed(hub: Hub, client: Client, place: Path, small: DatasetDict, tmp_path: Path):
    scored = Trajectories.load(place / "run").score(small["train"])
    for folder in ("nameless", "plain"):
        rows = scored.remove_columns(["ltc_typicality", "ltc_rank"]) if folder == "plain" else scored
        rows.save_to_disk(tmp_path / folder)
    line = ("--report", "--scored", tmp_path / "nameless")
    code, _, error = client(command, *pushing(place, "me/unknown", *line))
    named = f"'{tmp_path / 'nameless'}' does not say which it has: name it as --preset, or leave --report out"
    assert code == 2 and f"--report shows the order by a score variant, and {named}" in error
    assert ("dataset", "me/unknown") not in hub.repos
    # Without typicality the ranks are others, on the page too.
    client(command, *pushing(place, "me/typical", "--report"))
    line = ("--report", "--scored", tmp_path / "plain", "--preset", "weighted-das")
    code, _, error = client(command, *pushing(place, "me/plain", *line))
    assert code == 0, error
    one, two = (hub.dataset(name).files["report.html"] for name in ("me/typical", "me/plain"))
    assert one != two
    code, *_ = client(command, *pushing(place, "me/none-typical", "--report", "--typical", "0"))
    assert two == hub.dataset("me/none-typical").files["report.html"]


def test_options_are_checked_before_the_page_is_made(client: Client, place: Path, tmp_path: Path):
    # Of this folder no page can be made.
    for options, message in [
        (("--report", "--fractions", "3"), "fraction"),
        (("--report", "--max-shard-size", "no"), "--max-shard-size"),
    ]:
        code, _, error = client(command, *pushing(place, "me/none", *options, "--evaluation", tmp_path / "none.json"))
        assert code == 2 and message in error and "none.json" not in error, error


def test_a_space_that_shows_something_else(hub: Hub, client: Client, place: Path, tmp_path: Path):
    page = tmp_path / "page.html"
    page.write_text("<!doctype html>")
    assert client(push_space, page, "me/other", title="one").repo_id == "me/other"
    theirs = {"README.md": b"---\nsdk: gradio\n---\n# Mine\n", "index.html": b"mine"}
    hub.space("me/other").add_commit("main", theirs, "by hand")
    assert BEGIN.encode() not in theirs["README.md"]
    said = client(error_of, push_space, page, "me/other", title="one")
    assert said == "the Space 'me/other' shows something else: give another one, or delete it"
    code, _, error = client(command, *pushing(place, "me/elsewhere", "--space", "me/other"))
    assert code == 2 and said in error and ("dataset", "me/elsewhere") not in hub.repos
    assert hub.space("me/other").files == theirs
    # One that was made, and then nothing could be sent.
    hub.fail("POST", "/api/spaces/me/again/commit", status=403)
    assert "cannot push to 'me/again'" in client(error_of, push_space, page, "me/again", title="one")
    assert client(push_space, page, "me/again", title="one").url == f"{hub.endpoint}/spaces/me/again"
    assert client(error_of, push_space, page, "no name", title="one").startswith("`space` is 'no name'")


def test_what_is_refused(hub: Hub, client: Client, place: Path, scored: Any, tmp_path: Path):
    for options, message in [
        (("--report", "--scores-only"), "--report shows rows, and --scores-only pushes none: leave one of them out"),
        (("--space", "me/x", "--scores-only"), "--space shows rows, and --scores-only pushes none"),
        (
            ("--report", "--score-column", "label"),
            "--report shows the order by ltc_score, and --score-column is 'label'",
        ),
        (("--space", "no name"), "--space is 'no name'"),
        (("--report", "--keep", "lowest"), "--report shows the highest scores first, and --keep is 'lowest': leave"),
    ]:
        code, out, error = client(command, *pushing(place, "me/none", *options))
        assert (code, out) == (2, "") and message in error, error
    assert ("dataset", "me/none") not in hub.repos
    missing = client(error_of, push_coreset, scored, "me/none", [0.1], report=tmp_path / "none.html")
    assert missing == f"no page {str(tmp_path / 'none.html')!r}: write one with write_report, or hf-ltc report"
    page = tmp_path / "page.html"
    page.write_text("x")
    said = client(error_of, push_coreset, scored, "me/none", scores_only=True, report=page)
    assert said == "`report` shows rows, and `scores_only` pushes none: leave one of them out"
