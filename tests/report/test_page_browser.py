"""The page in a real browser: the slider, the filters, rows that are chosen without a mouse too, hostile names."""

import dataclasses

import numpy as np
import pytest

from hf_ltc.evaluation.results import Evaluation
from hf_ltc.report.audit import audit
from hf_ltc.report.page.rows import BUDGETS, budget_sizes
from hf_ltc.report.page.write import write_report
from hf_ltc.trajectories.features import RowFeatures, write_features
from tests.report.chromium import opened, running_browser
from tests.report.pages import HOSTILE, recorded, renamed


@pytest.fixture(scope="module")
def browser():
    with running_browser() as running:
        yield running


@pytest.fixture(scope="module")
def place(tmp_path_factory, digit_rows):
    folder = tmp_path_factory.mktemp("pages")
    rows = digit_rows[0].select(range(600)).flatten_indices()
    run = recorded(rows)
    write_report(run, rows, folder / "digits.html", baselines=["aum"], evaluation=evaluation())
    odd = renamed(rows, HOSTILE)
    write_report(recorded(odd), odd, folder / "hostile.html", dataset_name=HOSTILE[1])
    texts = renamed(rows, HOSTILE[:3]).remove_columns("image")
    texts = texts.add_column("text", [f"{HOSTILE[row % len(HOSTILE)]} {row}" for row in range(len(rows))])
    write_report(recorded(texts), texts, folder / "texts.html")
    return folder, run


def evaluation():
    """Results of a few models, as hf-ltc evaluate writes them."""
    trial = {"source": None, "rows": 60, "steps": 9, "seconds": {"choosing": 0.0, "training": 1.0}, "device": "cpu"}
    trials = [
        {**trial, "model": model, "method": method, "fraction": fraction, "seed": seed, "accuracy": 0.5 + seed / 10}
        for model in ("resnet18", "<b>vgg</b>")
        for method, fraction in (("random", 0.1), ("random", 0.3), ("full", None))
        for seed in range(3)
    ]
    return Evaluation({}, {}, [], trials)


def drawn(page, name):
    """Waits for a chart, which is drawn once it comes near the screen."""
    page.locator(f"#{name}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#{name} .main-svg")


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (390, "dark")])
def test_all_of_it_is_drawn(browser, place, width, scheme):
    with opened(browser, place[0] / "digits.html", width, scheme) as here:
        page = here.page
        for name in ("kept", "map", "scores", "losses", "ranking", "accuracy-0", "accuracy-1"):
            drawn(page, name)
        assert page.locator("#map .points path").count() == len(place[1])
        assert page.locator("#accuracy h3").all_text_contents() == ["resnet18", "<b>vgg</b>"]
        # Nothing is wider than the screen.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 20, 26)"
        assert dark == (scheme == "dark")
        # Each image has a text in its place.
        assert page.locator("#gallery img:not([alt])").count() == 0
        assert page.locator("#gallery img").first.evaluate("image => image.complete && image.naturalWidth") == 8


def test_the_slider_moves_what_is_kept(browser, place):
    folder, run = place
    sizes = budget_sizes(len(run))
    with opened(browser, folder / "digits.html") as here:
        page = here.page
        drawn(page, "kept")
        slider = page.get_by_label("Budget", exact=True)
        at = BUDGETS.index(0.1)
        assert slider.get_attribute("aria-valuetext") == f"10%, {sizes[at]} rows"

        def shown(name):
            return page.locator(f"article[data-class='3'] [data-group='{name}'] img").first.get_attribute("alt")

        before = {name: shown(name) for name in ("first", "kept", "dropped", "worst")}
        slider.focus()
        page.keyboard.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") == f"15%, {sizes[at + 1]} rows"
        assert page.locator("#budget-text").inner_text() == f"15% · {sizes[at + 1]} rows"
        assert page.locator("#said").inner_text() == f"{sizes[at + 1]} of {sizes[-1]} rows kept."
        after = {name: shown(name) for name in before}
        assert {name for name in before if before[name] != after[name]} == {"kept", "dropped"}
        # What was dropped first is kept now.
        assert before["dropped"] in page.locator("article[data-class='3'] [data-group='kept'] img").evaluate_all(
            "images => images.map((image) => image.alt)"
        )
        page.keyboard.press("End")
        assert page.locator("article[data-class='3'] [data-group='dropped'] img").count() == 0
        assert page.locator("article[data-class='3'] .count").inner_text().split(" of ")[0] == str(
            int((run.labels == 3).sum())
        )


def test_filters(browser, place):
    folder, run = place
    with opened(browser, folder / "digits.html") as here:
        page = here.page
        drawn(page, "map")
        assert page.locator("#gallery article").count() == 10
        page.get_by_label("Class", exact=True).select_option(label="\u20687\u2069")
        assert page.locator("#gallery article h3").all_inner_texts() == ["7"]
        page.wait_for_function(f"document.querySelectorAll('#map .points path').length === {(run.labels == 7).sum()}")
        assert set(page.locator("#suspects .given bdi").all_inner_texts()) == {"7"}
        page.get_by_label("Class", exact=True).select_option(value="-1")
        kinds = page.locator("#kinds input")
        names = page.locator("#kinds label").all_inner_texts()
        assert names[0].startswith("label issue")
        kinds.nth(0).uncheck()
        assert page.locator("#suspects .label-issue").count() == 0
        for other in range(1, kinds.count()):
            kinds.nth(other).uncheck()
        assert page.locator("#suspects").inner_text() == "No rows of this kind are listed."
        kinds.nth(0).check()
        before = page.locator("#suspects .label-issue").count()
        page.locator("#more-suspects").click()
        assert page.locator("#suspects .label-issue").count() > before
        for choice in ("kept", "kind", "score"):
            page.get_by_label("Color by").select_option(choice)
            page.wait_for_function("document.querySelectorAll('#map .points path').length > 500")


def test_a_row_that_is_chosen(browser, place):
    folder, run = place
    with opened(browser, folder / "digits.html") as here:
        page = here.page
        first = page.locator("article[data-class='4'] [data-group='first'] button")
        alt = first.first.locator("img").get_attribute("alt")
        first.first.focus()
        page.keyboard.press("Enter")
        row = page.get_by_role("dialog")
        title = row.locator("#row-title").inner_text()
        assert alt.startswith(title + ", class \u20684\u2069, score ")
        facts = row.locator("#row-facts").inner_text()
        for name in (
            "class",
            "suggested",
            "audit",
            "at 10%",
            "score",
            "rank",
            "label quality",
            "mean probability",
            "aum",
        ):
            assert name in facts
        chart = row.locator("#row-chart")
        chart.locator(".main-svg").first.wait_for()
        assert chart.locator(".legendtext").all_text_contents() == [
            "validation mean", "validation mean of its class", "this row",
        ]  # fmt: skip
        assert chart.get_attribute("aria-label").startswith("Line chart: the loss of this row goes from ")
        assert row.get_by_role("button", name="Previous").is_disabled()
        page.keyboard.press("ArrowRight")
        assert row.locator("#row-title").inner_text() != title
        assert row.locator("#row-place").inner_text() == f"2 of {first.count()}"
        row.get_by_role("button", name="Previous").click()
        assert row.locator("#row-title").inner_text() == title
        page.keyboard.press("Escape")
        assert page.get_by_role("dialog").count() == 0
        # Where the keyboard was before.
        assert first.first.evaluate("button => button === document.activeElement")
        # A point of the data map, and a suspect.
        drawn(page, "map")
        page.locator("#map .points path").nth(5).click(force=True)
        assert page.get_by_role("dialog").locator("img").count() == 1
        page.get_by_role("button", name="Close").click()
        page.get_by_label("Row number").fill(str(run.rows[77]))
        page.keyboard.press("Enter")
        assert page.get_by_role("dialog").locator("#row-title").inner_text() == f"Row {run.rows[77]}"
        page.keyboard.press("Escape")
        page.get_by_label("Row number").fill("99999")
        page.get_by_role("button", name="Show", exact=True).click()
        assert page.locator("#not-found").inner_text() == "That row is not on this page."
        page.locator("#suspects button").first.click()
        assert "label issue" in page.locator("#row-facts").inner_text()


def test_hostile_names_are_text(browser, place):
    with opened(browser, place[0] / "hostile.html") as here:
        page = here.page
        for name in ("kept", "map", "scores"):
            drawn(page, name)
        assert page.title().startswith(HOSTILE[1])
        assert page.locator("h1").inner_text() == HOSTILE[1]
        assert page.locator("img[src='x'], b > script, h3 b, h3 script, h3 img").count() == 0
        titles = page.locator("#gallery h3").evaluate_all("all => all.map((one) => one.textContent)")
        assert titles[:3] == [*HOSTILE[:3]]
        assert all(len(title) <= 80 for title in titles) and "\n" not in "".join(titles)
        options = page.locator("#class option").all_inner_texts()
        assert options[1] == f"\u2068{HOSTILE[0]}\u2069" and len(options) == 1 + len(HOSTILE)
        ticks = "".join(page.locator("#kept .ytick text").evaluate_all("all => all.map((one) => one.textContent)"))
        assert "<script>document" in ticks and "$$\\frac{1}{0}$$" in ticks
        page.locator("#suspects button").first.click()
        assert page.locator("#row-facts dd").first.locator("*").count() == 1


def test_texts_in_place_of_images(browser, place):
    with opened(browser, place[0] / "texts.html", 390) as here:
        page = here.page
        shown = page.locator("#gallery .thumb bdi").evaluate_all("all => all.map((one) => one.textContent)")
        assert any(text.startswith(HOSTILE[0]) for text in shown)
        assert page.locator("#gallery img, #gallery script").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.locator("#gallery .thumb").first.click()
        assert page.locator("#row-view .text").evaluate("text => text.textContent") == shown[0]


def test_near_duplicates_are_shown_beside_a_row(browser, tmp_path, digit_rows):
    rows = digit_rows[0].select(range(300)).flatten_indices()
    run = recorded(rows, (8,))
    seen = np.random.default_rng(0).normal(size=(len(run), 16)).astype(np.float16)
    seen[[20, 30]] = seen[10]
    write_features(tmp_path, {"train": seen, "validation": seen[: len(run.validation_rows)]}, "mine")
    found = RowFeatures.find(tmp_path, "mine", run.rows, run.validation_rows)
    run = dataclasses.replace(run, features=found)
    group = audit(run)["near_duplicate_group"][:]
    mates = [place for place in range(len(run)) if group[place] == group[10] and place != 10]
    assert group[10] is not None and {20, 30} <= set(mates) and len(mates) < 8
    write_report(run, rows, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as here:
        page = here.page
        number = page.get_by_label("Row number")
        number.fill(str(run.rows[10]))
        number.press("Enter")
        alike = page.get_by_role("dialog").locator("#row-alike img")
        titles = [each.get_attribute("alt").split(",")[0] for each in alike.all()]
        assert titles == [f"Row {run.rows[place]}" for place in mates]
        alike.first.click()
        assert page.locator("#row-title").inner_text() == f"Row {run.rows[mates[0]]}"
        page.keyboard.press("Escape")
        number.fill(str(run.rows[group.index(None)]))
        number.press("Enter")
        assert page.locator("#row-alike").is_hidden()


def test_one_run_without_predictions(browser, tmp_path, digit_rows):
    rows = digit_rows[0].select(range(200)).flatten_indices()
    run = dataclasses.replace(recorded(rows, (8,)), signals={})
    write_report(run, rows, tmp_path / "page.html")
    with opened(browser, tmp_path / "page.html") as here:
        page = here.page
        drawn(page, "ranking")
        assert page.locator(".doubt").all_inner_texts() == [
            "Note: Only one run was recorded, so it is unknown how much the selection depends on the seed."
        ]
        assert page.locator("#suspects .suggested").count() == 0
        assert page.locator("#ranking .legendtext").all_text_contents() == ["stability: with the last ranking"]
