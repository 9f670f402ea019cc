"""Cards: what they say, that their snippets work, and that what a person wrote stays."""

import datetime
import json
import os
import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import yaml
from datasets import ClassLabel, Dataset, DatasetDict, Value
from huggingface_hub import DatasetCard, HfFileSystem, ModelCard
from hypothesis import given
from hypothesis import strategies as st

from hf_ltc import InputError, Trajectories
from hf_ltc.data.columns import with_columns
from hf_ltc.hub import card_values, cards
from hf_ltc.hub.repository_recipe import RepositoryRecipe
from tests import hub_clients as do
from tests.hub_server import Client, Hub

pytest_plugins = ["tests.hub_fixtures"]
pytestmark = pytest.mark.usefixtures("no_faults_left")

_SUMMARY = {
    "rows": 4,
    "pool": 40,
    "held_out": 10,
    "flat": 1,
    "negative": 0,
    "score_column": "ltc_score",
    "score_range": [0.5, 0.75],
    "pool_score_range": [-0.5, 0.75],
    "classes": {"cat": 2, "dog | wolf": 2},
    "pool_classes": {"cat": 25, "dog | wolf": 15},
}
_FAMILY = {"of": "differences", "aggregate": "losses", "scope": "class", "weighting": "none"}
_ENTRY: dict[str, Any] = {
    "score_column": "ltc_score",
    "rank_column": "ltc_rank",
    "label_column": "label",
    "id_column": None,
    "selection": {"balance": "class", "keep": "highest", "coverage": None, "min_per_class": 0},
    "dataset": {"rows": 50, "repo_id": "owner/animals", "revision": "a" * 40, "split": "train"},
    "pool": 40,
    "held_out": 10,
    "flat": 1,
    "digest": "d" * 64,
    "family": _FAMILY,
    "run": {
        "config": {
            "model": "resnet18",
            "epochs": 30,
            "losses": "training",
            "weights": "averaged",
            "seed": 0,
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "schedule": "one-cycle",
            "batch_size": 128,
        },
        "seeds": [0, 1],
        "reliability": {"one": 0.61, "mean": 0.76, "runs": 2, "pairs": [0.61]},
        "parameters": 11_173_962,
        "seconds": {"training": 1_234.0, "validation": 10.4},
        "hardware": {"device": "NVIDIA H200"},
        "versions": {"torch": "2.9.0"},
    },
    "configs": {
        "coreset-10pct": {
            "fraction": 0.1,
            "size": 4,
            "stored": True,
            "digest": "d" * 64,
            "identity": {},
            "summary": _SUMMARY,
        }
    },
    "scores": "scores",
    "full": None,
    "trajectories": False,
    "evaluation": [
        {"rows": "coreset-10pct", "number": 4, "model": "vgg11_bn", "accuracy": [0.5, 0.6]},
        {"rows": "random rows", "number": 4, "model": "vgg11_bn", "accuracy": [0.4]},
    ],
}
_METADATA = {
    "license": "mit",
    "tags": ["coreset", "ltc"],
    "configs": [{"config_name": "coreset-10pct", "data_files": [{"split": "train", "path": "coreset-10pct/train-*"}]}],
    "dataset_info": [{"config_name": "coreset-10pct", "features": [{"name": "label", "dtype": "int64"}]}],
}


def _card(entry: dict[str, Any] | None = None, **options: Any) -> str:
    recipe = RepositoryRecipe.from_dict({"format": 1, "coresets": {"ltc": {**_ENTRY, **(entry or {})}}})
    return cards.dataset_card("me/animals-ltc", recipe, options.pop("metadata", _METADATA), **options)


def _head(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---")[1])


def test_a_card_says_what_was_kept_and_how():
    card = _card(pictures=["images/loss_curves.png"])
    for said in (
        "# Coresets of owner/animals\n",
        f"[owner/animals](https://huggingface.co/datasets/owner/animals/tree/{'a' * 40})",
        "Pearson correlation between the loss changes of a row and the mean loss changes of the validation samples of "
        "its class",
        "The score (CLD) is",
        "| `coreset-10pct` | 4 | 10% | 2 | 0.5 to 0.75 |",
        "40 of 50 rows are candidates. 10 were held out as validation samples or have no score. 1 come last: their "
        "loss never changes, so they have no score.",
        "Classes take turns",
        "| source model | `resnet18` |",
        "| parameters | 11,173,962 |",
        "| epochs | 30 |",
        "| runs (seeds) | 2 (0, 1) |",
        "| reliability | 0.61 for one run, 0.76 for the mean of 2",
        "| time | 1,244 s on NVIDIA H200 |",
        "| coreset-10pct | 4 | `vgg11_bn` | 55.0% ± 7.1 | 2 |",
        "| random rows | 4 | `vgg11_bn` | 40.0% | 1 |",
        "![loss curves](images/loss_curves.png)",
        "arXiv:2503.09721",
        "arXiv:2508.20230",
        r"| dog \| wolf | 15 | 2 |",
        "## Limits",
    ):
        assert said in card, said
    assert card.index("<details>") < card.index("| cat | 25 | 2 |") < card.index("</details>")
    assert "\n\n\n" not in card and "{{" not in card and "None" not in card
    assert _head(card) == _METADATA


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"run": None}, "How the scores were made is unknown"),
        ({"run": {**_ENTRY["run"], "reliability": None}}, "Only one run was recorded"),
        (
            {"run": {**_ENTRY["run"], "reliability": {"one": 0.1, "mean": 0.2, "runs": 2, "pairs": [0.1]}}},
            "The reliability is below 0.5",
        ),
        (
            {"run": {**_ENTRY["run"], "reliability": {"one": None, "mean": None, "runs": 2, "pairs": [None]}}},
            "undefined: no class has two rows",
        ),
        ({"evaluation": []}, "has not been measured"),
        ({"dataset": {"rows": 50}}, "# Coresets of a dataset\n"),
        ({"dataset": {"rows": 50, "name": "My <digits>"}}, "# Coresets of My \\<digits\\>\n"),
        ({"selection": {**_ENTRY["selection"], "balance": "proportional"}}, "Every class keeps its share"),
        ({"selection": {**_ENTRY["selection"], "balance": "none", "keep": "lowest"}}, "The lowest scores are kept"),
        ({"selection": {**_ENTRY["selection"], "min_per_class": 3}}, "Each class keeps at least 3 rows"),
        ({"selection": {**_ENTRY["selection"], "coverage": "stratified", "cut": 0.2}}, "without the last 20%"),
        ({"selection": {**_ENTRY["selection"], "typical": 1.0}}, "All rows are ranked by their typicality instead"),
        ({"selection": {**_ENTRY["selection"], "typical": 25}}, "The rows with the best scores come next."),
        ({"family": {**_FAMILY, "of": "levels"}}, "between the losses of a row and"),
        ({"family": {**_FAMILY, "weighting": "uncertainty"}}, "multiplied by the square root of how much"),
        ({"full": "full"}, '"full", split="train", filters=[("ltc_rank", "<", 4)]'),
        ({"trajectories": True}, "and its loss trajectory"),
        ({"id_column": "name"}, "holds the row number, the id, label"),
    ],
)  # fmt: skip
def test_a_card_says_what_is_special(entry: dict[str, Any], said: str):
    assert said not in _card()
    assert said in _card(entry)


def test_a_card_of_scores_alone_shows_no_rows_to_load():
    stored = {"coreset-10pct": {**_ENTRY["configs"]["coreset-10pct"], "stored": False}}
    card = _card({"configs": stored})
    assert "coreset = load_dataset(" not in card and 'load_coreset("me/animals-ltc", fraction=0.1)' in card
    assert "This repository holds no rows of the source dataset." in card
    assert "load_coreset(" not in _card({"dataset": {"rows": 50}})


_BLOCK = f"{cards.BEGIN}\nnew\n{cards.END}"


@given(st.text(), st.text(), st.text())
def test_what_stands_around_the_block_stays(before: str, old: str, after: str):
    old = old.replace("<!--", "")
    text = f"{before}{cards.BEGIN}{old}{cards.END}{after}"
    assert cards.splice(text, _BLOCK) == before + _BLOCK + after
    # A card of an earlier version, whose first mark has other words.
    earlier = f"{before}<!-- hf_ltc: earlier words -->{old}{cards.END}{after}"
    assert cards.splice(earlier, _BLOCK) == before + _BLOCK + after
    # Where the marks are gone the whole text is the person's.
    assert cards.splice(before, _BLOCK).startswith(before.rstrip())


def test_a_second_card_keeps_what_a_person_wrote():
    first = _card()
    head, body = _head(first), first.split("---", 2)[2]
    edited = {
        "pretty_name": "Animals, the best of",
        **head,
        "license": "cc-by-4.0",
        "tags": ["coreset", "animals"],
        "configs": [*head["configs"], {"config_name": "mine", "data_files": "mine/*"}],
    }
    body = body.replace("# Coresets of owner/animals", "# Animals").replace("Limits", "Limitations")
    there = f"---\n{yaml.safe_dump(edited, sort_keys=False)}---\n{body}\nWritten by hand.\n"
    other = {**_ENTRY["configs"], "coreset-30pct": _ENTRY["configs"]["coreset-10pct"]}
    metadata = {
        **_METADATA,
        "configs": [{"config_name": "coreset-30pct", "data_files": "coreset-30pct/*"}],
        "dataset_info": [{"config_name": "coreset-30pct", "features": []}],
        "size_categories": ["n<1K"],
    }
    second = _card(
        {"configs": other}, existing=there, previous=_METADATA, metadata=metadata, removed=["coreset-10pct"]
    )
    found = _head(second)
    assert list(found)[:3] == list(edited)[:3]
    assert found["pretty_name"] == "Animals, the best of" and found["license"] == "cc-by-4.0"
    assert found["tags"] == ["coreset", "animals"], "a tag that was deleted does not come back"
    assert [entry["config_name"] for entry in found["configs"]] == ["mine", "coreset-30pct"]
    assert [entry["config_name"] for entry in found["dataset_info"]] == ["coreset-30pct"]
    assert found["size_categories"] == ["n<1K"]
    assert second.count("# Animals\n") == 1 and second.endswith("Written by hand.\n")
    assert "## Limits\n" in second and "Limitations" not in second and "`coreset-30pct`" in second
    # What nobody touched follows the new push.
    renewed = _card(existing=first, previous=_METADATA, metadata={**_METADATA, "license": "apache-2.0"})
    assert _head(renewed)["license"] == "apache-2.0"
    assert _card(existing=first, previous=_METADATA) == first


def test_a_head_that_is_no_yaml_is_named():
    with pytest.raises(InputError, match=r"the head of README.md of 'me/animals-ltc' is not valid YAML"):
        _card(existing="---\nlicense: [mit\n---\n\n# Mine\n")


@given(st.text(max_size=30))
def test_any_class_name_is_one_cell_of_a_table(name: str):
    summary = {**_SUMMARY, "classes": {name: 2}, "pool_classes": {name: 25}}
    made = {"coreset-10pct": {**_ENTRY["configs"]["coreset-10pct"], "summary": summary}}
    card = _card({"configs": made})
    rows = [line for line in card.splitlines() if line.endswith("| 25 | 2 |")]
    assert len(rows) == 1 and len(re.findall(r"(?<!\\)(?:\\\\)*\|", rows[0])) == 4
    assert card.count("<details>") == card.count("</details>") == 1


@pytest.mark.parametrize(
    ("rows", "said"), [(999, "n<1K"), (1_000, "1K<n<10K"), (1_281_167, "1M<n<10M"), (10**7, "10M<n<100M")]
)
def test_sizes_are_the_hubs(rows: int, said: str):
    assert cards.size_category(rows) == said


# Over the Hub


class _Files(HfFileSystem):
    """The files that DuckDB asks for by `hf://`, which its own client would read from huggingface.co alone."""

    def modified(self, path: str) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)


def _snippets(card: str) -> list[dict[str, Any]]:
    """Runs the snippets of a card, and says what each of them loaded."""
    loaded: list[dict[str, Any]] = []
    for language, snippet in re.findall(r"```(python|sql)\n(.*?)```", card, re.DOTALL):
        if language == "sql":
            with duckdb.connect() as database:
                database.register_filesystem(_Files())
                loaded.append({"rows": len(database.sql(snippet).fetchall())})
            continue
        names: dict[str, Any] = {}
        # So would that of Polars: it is given the same file by its URL.
        place = f"{os.environ['HF_ENDPOINT']}/datasets/\\1/resolve/main/\\2/train-00000-of-00001.parquet"
        exec(re.sub(r"hf://datasets/([^/]+/[^/]+)/([^/]+)/\*.parquet", place, snippet), names)
        kept = ("coreset", "stream", "run", "scores")
        made = {name: value for name, value in names.items() if name in kept}
        loaded.append({name: len(list(value)) if name == "stream" else len(value) for name, value in made.items()})
    return loaded


def test_snippets_work_as_they_stand(hub: Hub, client: Client, visitor: Client, scored: Dataset, run: Trajectories):
    client(do.push_rows, scored.select_columns(["image", "label"]), "me/card-source")
    source = {"repo_id": "me/card-source", "split": "train"}
    client(do.push, scored, "me/card", [0.1, 0.3], trajectories=run, full=True, source=source)
    client(run.push_to_hub, "me/card")
    card = hub.dataset("me/card").files["README.md"].decode()
    loaded = [{"coreset": 12}, {"coreset": 12, "stream": 12}, {"coreset": 12}]
    # By DuckDB, Polars and datasets.
    queried = [{"rows": 12}, {"scores": 12}, {"scores": 12}]
    assert visitor(_snippets, card) == [*loaded, *queried, {"run": 120}]
    client(do.push, scored, "me/card-scores", [0.3], trajectories=run, scores_only=True, source=source)
    card = hub.dataset("me/card-scores").files["README.md"].decode()
    assert visitor(_snippets, card) == [{"coreset": 36}, {"rows": 36}, {"scores": 36}, {"scores": 36}]


def test_license_and_task_are_carried_over(hub: Hub, client: Client, scored: Dataset, run: Trajectories):
    client(do.push_rows, scored.select_columns(["image", "label"]), "me/licensed")
    repo = hub.dataset("me/licensed")
    text = repo.files["README.md"].decode()
    text = text.replace("---\n", "---\nlicense: other\nlicense_name: mine\ntask_categories:\n- object-detection\n", 1)
    repo.add_commit("main", {**repo.files, "README.md": text.encode()}, "license")
    client(do.push, scored, "me/licensed-ltc", [0.1], trajectories=run, source={"repo_id": "me/licensed"})
    head = _head(hub.dataset("me/licensed-ltc").files["README.md"].decode())
    assert head["license"] == "other" and head["license_name"] == "mine"
    assert head["task_categories"] == ["object-detection"] and head["source_datasets"] == ["me/licensed"]
    assert head["size_categories"] == ["n<1K"] and head["tags"] == ["coreset", "ltc"]
    client(do.push, scored, "me/unlicensed-ltc", [0.1], trajectories=run, license="cc0-1.0")
    head = _head(hub.dataset("me/unlicensed-ltc").files["README.md"].decode())
    assert head["license"] == "cc0-1.0" and head["task_categories"] == ["image-classification"]
    assert "source_datasets" not in head


def _edit(repo_id: str) -> None:
    card = DatasetCard.load(repo_id)
    card.text = card.text.replace("# Coresets of a dataset", "# Digits, by hand") + "\nMy own words.\n"
    card.data["pretty_name"] = "Digits"
    card.push_to_hub(repo_id)


def test_an_edited_card_is_pushed_to_again(
    hub: Hub, client: Client, visitor: Client, scored: Dataset, run: Trajectories
):
    client(do.push, scored, "me/edited", [0.1], trajectories=run)
    client(_edit, "me/edited")
    repo = hub.dataset("me/edited")
    repo.add_commit("main", {**repo.files, "notes/mine.txt": b"mine"}, "a file of mine")
    # The dataset has another column now, which its features have to follow.
    more = scored.add_column("size", [8] * len(scored))
    client(do.push, more, "me/edited", [0.1, 0.2], trajectories=run)
    card = repo.files["README.md"].decode()
    head = _head(card)
    assert "# Digits, by hand" in card and card.endswith("My own words.\n") and head["pretty_name"] == "Digits"
    assert repo.files["notes/mine.txt"] == b"mine"
    assert [entry["config_name"] for entry in head["configs"]] == ["coreset-10pct", "coreset-20pct", "scores"]
    loaded, features = visitor(do.load, "me/edited", "coreset-10pct")
    assert len(loaded) == 12 and list(features) == [
        "image",
        "label",
        "size",
        "ltc_score",
        "ltc_typicality",
        "ltc_rank",
    ]


def test_a_configuration_of_someone_else_is_not_overwritten(hub: Hub, client: Client, scored: Dataset):
    client(do.push_rows, scored.select_columns(["label"]), "me/clash", config_name="scores")
    repo = hub.dataset("me/clash")
    before = repo.head
    said = client(do.complaint, do.push, scored, "me/clash", [0.1])
    assert said == (
        "'me/clash' has a configuration 'scores' that hf_ltc did not write: rename it, or push to another repository"
    )
    assert repo.head == before
    client(do.push_rows, scored.select_columns(["label"]), "me/no-clash", config_name="mine")
    client(do.push, scored, "me/no-clash", [0.1])
    head = _head(hub.dataset("me/no-clash").files["README.md"].decode())
    assert [entry["config_name"] for entry in head["configs"]] == ["mine", "coreset-10pct", "scores"]
    assert len(client(do.load, "me/no-clash", "mine")[0]) == len(scored)


def test_a_repository_of_another_dataset_is_left_alone(client: Client, scored: Dataset, small: DatasetDict):
    client(do.push, scored, "me/other", [0.1])
    other = do.recorded(small["test"], held=10).score(small["test"])
    said = client(do.complaint, do.push, other, "me/other", [0.1])
    assert said == "'me/other' holds coresets by 'ltc' of another dataset: push to another repository"


_ODD = ["a|b", "`a`", "``", "a``b", "<b>bold</b>", "<!-- a", "$a$", "~~a~~", "&lt;", "*a*", "_a_", "[a](b)", "![a](b)",
        "a\nb", "\\\\|", "# a", " ", "</details>", "{{ a }}", "日本", "---", "a\\", "| --- |"]  # fmt: skip


def _shown(card: str) -> list[str]:
    """The names in the table of the classes, as a reader of Markdown sees them: marks after a backslash are text."""
    _, _, table = card.partition("<summary>Rows of each class</summary>")
    rows = [line for line in table.partition("</details>\n\n")[0].splitlines() if line.startswith("|")][2:]
    cells = [re.split(r"(?<!\\)(?:\\\\)*\|", row)[1].strip() for row in rows]
    assert not any(re.search(r"(?<!\\)(?:\\\\)*[`*_<>\[\]~$&#]", cell) for cell in cells)
    return [re.sub(r"\\([\\`*_\[\]|<>~$&#])", r"\1", cell) for cell in cells]


def test_names_are_text_in_the_tables_of_a_card(hub: Hub, client: Client):
    rows = do.labeled(len(_ODD) * 4, classes=len(_ODD)).cast_column("label", ClassLabel(names=_ODD))
    scored = do.recorded(rows, held=4).score(rows)
    client(do.push, scored, "me/odd", [0.5], dataset_name="<i>$x$ | `y`\nz")
    card = hub.dataset("me/odd").files["README.md"].decode()
    assert _shown(card) == [" ".join(name.split()) for name in _ODD]
    assert "\n# Coresets of \\<i\\>\\$x\\$ \\| \\`y\\` z\n" in card


def test_names_of_columns_are_code_and_strings_in_a_card(hub: Hub, client: Client, visitor: Client):
    for column, shown in (
        ('it\'s "$my$" `score`_score', '``it\'s "$my$" `score`_score``'),
        ("`_score", "`` `_score ``"),
    ):
        rows = do.labeled(40, 2)
        scores = pa.array(np.random.default_rng(0).random(40, dtype=np.float32))
        scored = with_columns(rows, {column: (scores, Value("float32"))})
        repo_id = f"me/code-{len(column)}"
        client(do.push, scored, repo_id, [0.5], score_column=column, full=True)
        card = hub.dataset(repo_id).files["README.md"].decode()
        assert f"These rows of a dataset have the highest {shown}." in card
        queried = [{"rows": 20}, {"scores": 20}, {"scores": 20}]
        assert visitor(_snippets, card) == [{"coreset": 20}, {"coreset": 20, "stream": 20}, *queried]


@pytest.mark.parametrize(
    ("value", "text", "cell"),
    [("a", "`a`", "`a`"), ("a`b", "``a`b``", "``a`b``"), ("`", "`` ` ``", "`` ` ``"), ("a|b", "`a|b`", r"`a\|b`"),
     (" a", "`  a `", "`  a `"), ("a\nb", "`a b`", "`a b`"), ("", "''", "''"), ("a\ud800", "`a?`", "`a?`")],
)  # fmt: skip
def test_code_in_markdown(value: str, text: str, cell: str):
    assert card_values.code(value) == text and card_values.code(value, cell=True) == cell


def test_two_pictures_of_one_name_are_refused(client: Client, scored: Dataset, tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my curve (1).png").write_bytes(b"x")
    pictures = [tmp_path / folder / "my curve (1).png" for folder in ("a", "b")]
    said = client(do.complaint, do.push, scored, "me/pictures", [0.1], pictures=pictures)
    assert said == "two of `pictures` are called 'my curve (1).png': give them names of their own"
    assert "![my curve (1)](images/my%20curve%20%281%29.png)" in _card(pictures=["images/my curve (1).png"])


def test_of_very_many_classes_a_card_shows_some(hub: Hub, client: Client, visitor: Client):
    names = [f"class {i:05d}" for i in range(3_000)]
    rows = do.labeled(6_000, classes=3_000).cast_column("label", ClassLabel(names=names))
    scores = pa.array(np.random.default_rng(0).random(6_000, dtype=np.float32))
    client(do.push, with_columns(rows, {"ltc_score": (scores, Value("float32"))}), "me/very-many", [0.5])
    card = hub.dataset("me/very-many").files["README.md"].decode()
    assert len(_shown(card)) == 1_000 and "`recipe.json` has the numbers of 2,000 more classes." in card
    assert visitor(do.load, "me/very-many", "coreset-50pct")[1]["label"].names == names


def test_a_card_of_many_classes(hub: Hub, client: Client):
    rows = do.labeled(3_000, classes=300).cast_column("label", ClassLabel(names=[f"{i}|<b>" for i in range(300)]))
    scored = do.recorded(rows, held=300).score(rows)
    client(do.push, scored, "me/classes", [0.5])
    repo = hub.dataset("me/classes")
    card = repo.files["README.md"].decode()
    assert card.count(r"\|\<b\>") == 300
    assert json.loads(repo.files["recipe.json"])["coresets"]["ltc"]["pool"] == 2_700
    assert ModelCard(card).text  # The head is valid YAML.
