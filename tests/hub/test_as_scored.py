"""Rows that hf-ltc score balanced otherwise: select and push --scored take that from the recipe beside them."""

import contextlib
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_from_disk

from hf_ltc import select_coreset
from hf_ltc.cli.main import main
from tests import hub_clients as do
from tests.hub_server import Client, Hub

pytest_plugins = ["tests.hub_fixtures"]
pytestmark = pytest.mark.usefixtures("no_faults_left")


def _told(line: str, folder: Path, code: int = 0) -> str:
    """What a command prints in a folder, or its error."""
    said = io.StringIO()
    to = contextlib.redirect_stderr if code else contextlib.redirect_stdout
    with contextlib.chdir(folder), to(said):
        assert main(shlex.split(line)) == code
    return said.getvalue()


def _uneven() -> Dataset:
    """Rows of three classes of 60, 30 and 10, and by two sources."""
    rows = do.labeled(100, 3)
    labels = [0] * 60 + [1] * 30 + [2] * 10
    rows = rows.remove_columns("label").add_column("label", labels).cast_column("label", rows.features["label"])
    return rows.add_column("source", ["web" if i % 5 else "books" for i in range(100)])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    rows = _uneven()
    rows.save_to_disk(tmp_path / "rows")
    do.recorded(rows, held=10).save(tmp_path / "run")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--balance none --typical 0", {"balance": "none", "typical": 0.0}),
        ("--balance proportional", {"balance": "proportional"}),
        ("--balance-column source", {"balance": "source"}),
        ("--typical 0.5", {"typical": 0.5}),
    ],
)
def test_from_score_to_the_hub(hub: Hub, client: Client, place: Path, options: str, expected: dict[str, Any]):
    said = _told(f"score run --dataset rows {options} --output scored", place)
    (selecting,) = [line for line in said.splitlines() if line.startswith("Next: ")]
    assert options in selecting
    said = _told("select scored --size 13 --output coreset", place)
    scored, coreset = load_from_disk(place / "scored"), load_from_disk(place / "coreset")
    by = {"balance": "class", **expected}
    wanted = select_coreset(scored, size=13, **{"label_column": "label"} if by["balance"] != "source" else {}, **by)
    assert do.content(coreset) == do.content(wanted)
    # Not what it would be by default.
    assert coreset["text"][:] != select_coreset(scored, size=13, label_column="label", typical=0.2)["text"][:]
    kept = json.loads((place / "coreset" / "recipe.json").read_text())["coreset"]
    assert kept["balance"] == ("class" if by["balance"] == "source" else by["balance"])
    assert kept["label_column"] == ("source" if by["balance"] == "source" else "label")
    (pushing,) = [line.removeprefix("Next: hf-ltc ") for line in said.splitlines() if line.startswith("Next: hf-ltc")]
    assert options in pushing
    # As it is printed the rows are ranked again; with the folder of the scored rows nothing has to be told.
    again = "push run coreset-ltc --dataset rows --scored scored --sizes 13"
    for number, line in enumerate((pushing, again)):
        # Each in a repository of its own.
        name = f"me/{re.sub('[^a-z0-9]+', '-', options.strip('-'))}-{number}"
        assert line.startswith("push run coreset-ltc ")
        client(_told, line.replace("coreset-ltc", name), place)
        (config,) = json.loads(hub.dataset(name).files["recipe.json"])["coresets"]["ltc"]["configs"]
        pushed, _ = client(do.load, name, config)
        assert [row["text"] for row in pushed] == coreset["text"][:]


def test_options_that_are_given_come_first(client: Client, place: Path):
    _told("score run --dataset rows --balance none --output scored", place)
    scored = load_from_disk(place / "scored")
    for number, option in enumerate(("--balance class", "--balance-column label", "--label-column label")):
        said = _told(f"select scored --size 12 {option} --output coreset-{number}", place)
        assert sorted(load_from_disk(place / f"coreset-{number}")["label"]) == [0] * 4 + [1] * 4 + [2] * 4
        assert "--balance none" not in said
    line = "push run me/refused --dataset rows --scored scored --sizes 12 --balance class"
    said = client(_told, line, place, 2)
    assert "does: give the options that the rows were ranked with, --balance and --typical too, or remove" in said
    # By an earlier version, which did not keep it.
    recipe = json.loads((place / "scored" / "recipe.json").read_text())
    del recipe["score"]["balance"], recipe["score"]["balance_column"]
    (place / "scored" / "recipe.json").write_text(json.dumps(recipe))
    _told("select scored --size 12 --output older", place)
    wanted = select_coreset(scored, size=12, label_column="label")
    assert load_from_disk(place / "older")["text"][:] == wanted["text"][:]
