"""Commands on a recording of rows without classes."""

from pathlib import Path

import pytest
from datasets import load_from_disk

from hf_ltc.cli.command import SCORED
from hf_ltc.cli.main import main
from hf_ltc.utils.files import read_json
from tests.chats import chats, recorded


@pytest.fixture
def told(tmp_path, capsys, monkeypatch):
    """Runs a command in a folder with the rows and their recording; returns what it printed, or its error."""
    monkeypatch.chdir(tmp_path)
    rows = chats()
    rows.save_to_disk("rows")
    recorded(tmp_path / "run", rows)

    def run(line, code=0):
        assert main(line.split()) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return run


def test_scored_and_chosen_without_naming_a_balance(told):
    assert "Scored 48 of 60 rows" in told("score run --dataset rows --output scored")
    made = read_json(Path("scored/recipe.json"))[SCORED]
    assert made["balance"] == "none" and made["typical"] == 0
    said = told("select scored --fraction 0.25 --output coreset")
    assert "The coreset has 12 of the 48 candidate rows" in said and "classes" not in said
    assert "hf-ltc push run" in said and "--balance" not in said
    assert len(load_from_disk("coreset")) == 12


def test_any_column_in_the_place_of_the_classes(told):
    said = told("score run --dataset rows --balance-column source --output scored")
    assert "hf-ltc select scored --fraction 0.1 --balance-column source" in said.replace("--output scored-10pct ", "")
    said = told("select scored --size 12 --balance-column source --output coreset")
    assert "Each of its 3 classes has 4 rows" in said and "--balance-column source" in said
    assert sorted(load_from_disk("coreset")["source"]) == ["books"] * 4 + ["sums"] * 4 + ["web"] * 4
    assert read_json(Path("coreset/recipe.json"))["coreset"]["label_column"] == "source"


def test_a_column_that_score_was_told_is_taken_by_select(told):
    told("score run --dataset rows --balance-column source --output scored")
    said = told("select scored --size 12 --output coreset")
    assert "Each of its 3 classes has 4 rows" in said and "--balance-column source" in said
    assert "Each of" not in told("select scored --size 12 --balance none --output other")
    assert "Each of its 3 classes has 4 rows" in told("select scored --size 12 --label-column turns --output third")
    assert sorted(load_from_disk("third")["turns"]) == [0] * 4 + [1] * 4 + [2] * 4
    assert "--balance-column is 'source': leave one of them out, or give --balance" in told(
        "select scored --size 12 --judge --output fourth", code=2
    )


@pytest.mark.parametrize("name", ["class", "none", "proportional"])
def test_a_column_named_as_a_way_of_balancing(told, name):
    load_from_disk("rows").rename_column("source", name).save_to_disk("named")
    told(f"score run --dataset named --balance-column {name} --output scored")
    said = told(f"select scored --size 12 --balance-column {name} --output coreset")
    assert "Each of its 3 classes has 4 rows" in said and f"--balance-column {name}" in said
    assert sorted(load_from_disk("coreset")[name]) == ["books"] * 4 + ["sums"] * 4 + ["web"] * 4


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("select scored --fraction 0.1 --balance none --balance-column source", "--balance-column 'source' takes the"),
        (
            "select scored --fraction 0.1 --balance-column sources",
            "--balance-column 'sources': no such column (it has 'messages', ",
        ),
        ("select scored --fraction 0.1 --balance-column ltc_score", "not class labels: choose another --balance-col"),
        (
            "select scored --fraction 0.1 --balance-column loss_trajectory",
            "and each row has one class: choose another --balance-column",
        ),
        (
            "select scored --fraction 0.1 --balance-column ltc_rank",
            "fix their labels, or choose another --balance-column",
        ),
        (
            "select scored --fraction 0.1 --balance-column source --label-column turns",
            "--balance-column 'source' takes the place of the classes, and --label-column is 'turns'",
        ),
        ("select scored --fraction 0.1 --judge", "--judge trains classifiers, and these rows have no classes"),
        ("evaluate run --dataset rows --models embedding_bag", "no classes, which classifiers are trained for"),
        ("score run --dataset rows --preset cld", "no classes, which scope='class' needs"),
    ],
)
def test_what_needs_classes_is_refused(told, line, said):
    told("score run --dataset rows --output scored")
    needs_folder = not line.startswith("evaluate")
    assert said in told(f"{line} --output new" if needs_folder else f"{line} --test-split train", code=2)


def test_pushes_with_what_is_of_classes_are_refused(told):
    line = "push run me/chats --dataset rows --fractions 0.1 --balance-column source"
    said = "--report shows the order by class, and --balance-column is 'source'"
    assert said in told(f"{line} --report", code=2)
    said = "--evaluation has no coresets balanced by a column, and --balance-column is 'source'"
    assert said in told(f"{line} --evaluation results.json", code=2)
