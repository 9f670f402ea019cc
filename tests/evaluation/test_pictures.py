"""Tables and the picture: every number where it belongs."""

import dataclasses
import re

import numpy as np
import pytest
from matplotlib.image import imread

from hf_ltc.evaluation.pictures import draw, markdown, write_results
from hf_ltc.utils.errors import LTCWarning
from tests.evaluation.test_results import SOURCES, evaluation, trial

ONE = {"resnet18": SOURCES["resnet18"]}


def tables(text):
    """Each table as a mapping of row and column to its text."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text + "\n", re.MULTILINE):
        head, rule, *rows = [[part.strip() for part in line.strip("|\n").split("|")] for line in block.splitlines()]
        assert all(re.fullmatch(r"-+:?", part) for part in rule)
        assert all(len(row) == len(head) for row in rows)
        # Set so that it can be read as text.
        assert len({len(line) for line in block.splitlines()}) == 1
        found.append({row[0]: dict(zip(head[1:], row[1:])) for row in rows})
    return found


def shown(values):
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"


def test_the_first_tables_are_methods_by_budgets():
    found = evaluation()
    of_models = tables(markdown(found))[:2]
    for model, table in zip(("resnet18", "vit_tiny"), of_models):
        assert list(table) == [
            "full data", "random", "ltc (resnet18)", "aum (resnet18)", "ltc (other)", "aum (other)"
        ]  # fmt: skip
        for row in found.rows:
            if row["model"] != model:
                continue
            name = {"full": "full data", "random": "random"}.get(row["method"], f"{row['method']} ({row['source']})")
            column = {0.1: "10% (50)", 0.3: "30% (150)", None: "100% (500)"}[row["fraction"]]
            assert table[name][column].strip("*") == shown(row["accuracy"])
        assert table["full data"]["10% (50)"] == "–" and table["random"]["100% (500)"] == "–"


def test_the_protocol_and_the_seeds_are_said():
    said = markdown(evaluation())
    assert "for 500 optimizer steps at every budget, batch size 32, one-cycle, augmentation on (SGD" in said
    assert "n = 3 each" in said and "1,000 test rows" in said and "tested after the last step" in said
    by_epochs = evaluation()
    by_epochs = dataclasses.replace(by_epochs, settings={**by_epochs.settings, "iterations": None})
    assert "for 30 epochs at every budget" in markdown(by_epochs)
    of_texts = dataclasses.replace(by_epochs, settings={**by_epochs.settings, "text_column": "text"})
    assert "one-cycle (SGD" in markdown(of_texts) and "augmentation" not in markdown(of_texts)


def test_other_numbers_of_seeds_are_said_where_they_are():
    found = evaluation(sources=ONE, models=("resnet18",))
    more = trial("resnet18", "ltc", "resnet18", 0.5, 0, 0.8)
    said = markdown(dataclasses.replace(found, trials=[*found.trials, more]))
    assert "80.0 (n = 1)" in said and "n in parentheses" in said


@pytest.mark.parametrize(
    "first, second, seeds, reliability, bold",
    [
        ([0.90, 0.91, 0.92], [0.80, 0.81, 0.82], 3, 0.5, True),
        ([0.90, 0.91, 0.92], [0.89, 0.90, 0.91], 3, 0.5, False),
        # Ahead by more than its own deviation, not by more than the other's.
        ([0.90, 0.90, 0.91], [0.80, 0.89, 0.95], 3, 0.5, False),
        ([0.90, 0.91], [0.80, 0.81], 2, 0.5, False),
        # Another recording would have chosen other rows, or it is not known whether it would.
        ([0.90, 0.91, 0.92], [0.80, 0.81, 0.82], 3, 0.49, False),
        ([0.90, 0.91, 0.92], [0.80, 0.81, 0.82], 3, None, False),
    ],
)
def test_bold_is_only_what_is_clearly_ahead(first, second, seeds, reliability, bold):
    trials = [trial("resnet18", "full", None, None, seed, 0.99) for seed in range(seeds)]
    for seed in range(seeds):
        trials.append(trial("resnet18", "ltc", "resnet18", 0.1, seed, first[seed]))
        trials.append(trial("resnet18", "random", None, 0.1, seed, second[seed]))
    known = None if reliability is None else {"one": 0.3, "mean": reliability, "runs": 2, "pairs": [0.3]}
    found = evaluation(sources=ONE)
    methods = [{**each, "reliability": known} for each in found.methods]
    (table, *_) = tables(markdown(dataclasses.replace(found, trials=trials, methods=methods)))
    assert (table["ltc"]["10% (50)"] == f"**{shown(first)}**") == bold
    assert table["random"]["10% (50)"] == shown(second)
    assert "**" not in table["full data"]["100% (500)"]


def test_scores_transfer_and_cost_have_tables():
    found = evaluation()
    scores, *rest = tables(markdown(found))[2:]
    assert scores["ltc (resnet18)"] == {
        "reliability of one run": "0.50",
        "of the mean of all": "0.67",
        "with mean loss": "-0.70",
        "with AUM": "–",
    }
    assert scores["ltc (other)"]["reliability of one run"] == "–"
    for each in found.transfer:
        table = rest[0] if each["fraction"] == 0.1 else rest[1]
        text = table[f"{each['method']} ({each['source']})"][each["model"]]
        lost = f"{100 * each['loss']:+.1f} ± {100 * each['loss_deviation']:.1f}"
        assert text.endswith("(own)" if each["source"] == each["own"] else f"({lost})")
    costs = rest[2]
    assert costs["ltc (resnet18)"]["10% (50)"] == "3.5 (0.54)" and costs["ltc (other)"]["10% (50)"] == "–"
    assert "### Transfer" not in markdown(evaluation(sources=ONE, models=("vgg11_bn", "vgg19_bn")))


def test_the_picture_has_a_line_a_method_in_a_panel_a_model():
    found = evaluation()
    figure = draw(found)
    panels = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_title() for panel in panels] == ["resnet18", "vit_tiny"]
    methods = ["random", "ltc (resnet18)", "aum (resnet18)", "ltc (other)", "aum (other)"]
    for panel in panels:
        lines = {line.get_label(): line for line in panel.get_lines()}
        assert list(lines) == [*methods, "full data"]
        for row in (row for row in found.rows if row["model"] == panel.get_title()):
            if row["method"] == "full":
                assert set(lines["full data"].get_ydata()) == {100 * row["mean"]}
                continue
            name = "random" if row["source"] is None else f"{row['method']} ({row['source']})"
            points = dict(zip(lines[name].get_xdata(), lines[name].get_ydata()))
            assert points[100 * row["fraction"]] == pytest.approx(100 * row["mean"])
        # A deviation a method, and that of all rows.
        assert len(panel.collections) + len(panel.patches) == len(methods) + 1
        assert panel.get_xlabel() == "rows kept (%)" and panel.get_ylabel() == "test accuracy (%)"
        assert len({line.get_color() for line in lines.values()}) == len(lines)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*methods, "full data"]


def test_one_budget_is_drawn_too(tmp_path):
    figure = draw(evaluation(seeds=1, fractions=(0.1,), models=("a", "b", "c", "d")))
    assert len([panel for panel in figure.axes if panel.get_visible()]) == 4
    figure.savefig(tmp_path / "one.png")


def test_long_names_have_room(tmp_path):
    sources = {f"transformers:an-organisation/a-model-with-a-long-name-{n}": SOURCES["resnet18"] for n in (1, 2)}
    figure = draw(evaluation(seeds=2, sources=sources, models=("vgg11_bn",)))
    figure.savefig(tmp_path / "long.png")
    (panel,) = figure.axes
    assert panel.get_window_extent().width > 300


def test_everything_is_written(tmp_path):
    found = evaluation()
    write_results(found, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "results.md", "accuracy.png"}
    assert markdown(found) in (tmp_path / "results.md").read_text()
    assert imread(tmp_path / "accuracy.png").shape[1] > 1000


# What names may be: mathematics and comments to matplotlib, markup to Markdown, and no words of this project.
NAMES = [
    "lr$0.1$_{a",
    "b|`c$$",
    "_hidden",
    r"\alpha^2 \frac{",
    "100% & #1 ~x~ <b>[y](z) *w*",
    "two\nlines",
    "猫-модель",
    "x" * 300,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text_and_never_mathematics_or_markup(tmp_path, name):
    found = evaluation(
        seeds=1, sources={name: SOURCES["resnet18"], "other": SOURCES["other"]}, models=(name, "vgg11_bn")
    )
    write_results(found, tmp_path)
    assert imread(tmp_path / "accuracy.png").shape[1] > 500
    figure = draw(found)
    drawn = [panel.title for panel in figure.axes if panel.get_visible()] + figure.legends[0].get_texts()
    assert len(drawn) == 2 + 6
    assert not any(text.get_parse_math() or text.get_usetex() for text in drawn)
    # Lines are broken, and no character is lost.
    plain = re.sub(r"\s", "", name)
    assert re.sub(r"\s", "", drawn[0].get_text()) == plain
    assert f"ltc({plain})" in [re.sub(r"\s", "", text.get_text()) for text in drawn]
    # Each line of a table has as many cells, and the name is in it once what Markdown takes for markup is escaped.
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    line = re.sub(r"\s+", " ", name)
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", row) for row in block.splitlines()]
        assert len({len(row) for row in rows}) == 1
        assert all(re.sub(r"\\(?=[^\w\s])", "", cell).count("`") == cell.count("\\`") for row in rows for cell in row)
    assert f"ltc ({line})" in re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", text)
    assert not re.search(r"(?<!\\)[`$<~]", text)


def test_a_picture_that_fails_takes_no_result_with_it(tmp_path, monkeypatch):
    found = evaluation()
    # As where a folder cannot be replaced by a file, and where a library finds no font.
    (tmp_path / "accuracy.png").mkdir()
    with pytest.warns(LTCWarning, match=r"no picture '.*accuracy.png': .*Is a directory"):
        write_results(found, tmp_path)
    monkeypatch.setattr("matplotlib.font_manager.fontManager.findfont", lambda *_, **__: str(tmp_path / "no.ttf"))
    (tmp_path / "accuracy.png").rmdir()
    with pytest.warns(LTCWarning, match="no picture '.*accuracy.png': .*no.ttf"):
        write_results(found, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "results.md"}
