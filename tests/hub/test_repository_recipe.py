"""Recipes of repositories: read as they are, written back as they were, and refused where they are malformed."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, Value

from hf_ltc import InputError, rank_coreset
from hf_ltc.data.columns import with_columns
from hf_ltc.hub.repository_recipe import RepositoryRecipe, budget_name
from tests import hub_clients as do
from tests.hub_server import Client, Hub

pytest_plugins = ["tests.hub_fixtures"]


@pytest.fixture(scope="module")
def text(hub: Hub, client: Client, scored: Dataset, run: Any) -> str:
    """The recipe of a repository that has everything."""
    numbers = pa.array([float(i) for i in range(len(scored))], pa.float32())
    other = with_columns(scored, {"aum_score": (numbers, Value("float32"))})
    other = rank_coreset(other, score_column="aum_score", keep="lowest")
    evaluation = [{"rows": "all rows", "number": 120, "model": "vgg11_bn", "accuracy": [0.5], "protocol": "3 epochs"}]
    client(do.push, scored, "me/recipe", [0.1], [30], trajectories=run, full=True, evaluation=evaluation)
    client(do.push, other, "me/recipe", [0.2], score_column="aum_score", keep="lowest")
    client(run.push_to_hub, "me/recipe")
    return hub.dataset("me/recipe").files["recipe.json"].decode()


def test_a_recipe_comes_back_as_it_was(text: str):
    read = RepositoryRecipe.read(text, "me/recipe")
    assert read.to_json() == text and RepositoryRecipe.read(read.to_json(), "me/recipe") == read
    assert list(read.coresets) == ["ltc", "aum"] and list(read.coresets["ltc"].configs) == [
        "coreset-10pct",
        "coreset-30rows",
    ]
    assert read.configs == {
        "trajectories", "coreset-10pct", "coreset-30rows", "scores", "full", "coreset-aum-20pct", "scores-aum"
    }  # fmt: skip
    assert read.folders == read.configs | {"splits", "splits-aum"}
    # What other versions look for is there, even where there is nothing to say.
    entry = json.loads(text)["coresets"]["aum"]
    for name in ("id_column", "family", "run", "full", "full_features"):
        assert entry[name] is None
    assert entry["splits"] == entry["evaluation"] == []
    assert "features" in entry["configs"]["coreset-aum-20pct"]
    assert text.startswith('{\n  "format": 1,\n  "coresets": {\n    "ltc": {\n      "score_column": "ltc_score",\n')


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(part)


def test_keys_that_are_unknown_or_were_not_there_yet_stay_so(text: str):
    recipe = json.loads(text)
    # Of whose keys any is the name of something.
    named = [
        recipe["coresets"], recipe["files"], *(entry["configs"] for entry in recipe["coresets"].values()),
        *(made["summary"][of] for entry in recipe["coresets"].values() for made in entry["configs"].values()
          for of in ("classes", "pool_classes")),
        *(run["seconds"] for run in (recipe["coresets"]["ltc"]["run"], recipe["trajectories"]["run"])),
    ]  # fmt: skip
    objects = [each for each in _objects(recipe) if not any(each is other for other in named)]
    assert len(objects) > 40
    for each in objects:
        each["by a newer version"] = {"x": [1, None, {}]}
    assert RepositoryRecipe.read(json.dumps(recipe), "me/x").to_dict() == recipe
    del recipe["files"], recipe["coresets"]["ltc"]["full_features"], recipe["coresets"]["ltc"]["family"]["weighting"]
    for made in recipe["coresets"]["ltc"]["configs"].values():
        del made["features"]
    assert RepositoryRecipe.read(json.dumps(recipe), "me/x").to_dict() == recipe


def test_a_push_keeps_the_keys_of_other_versions(hub: Hub, client: Client, scored: Dataset, run: Any):
    client(do.push, scored, "me/newer", [0.1], trajectories=run)
    client(run.push_to_hub, "me/newer")
    repo = hub.dataset("me/newer")
    recipe = json.loads(repo.files["recipe.json"])
    recipe["license"] = recipe["trajectories"]["note"] = {"by": "a newer version"}
    recipe["coresets"]["ltc"]["configs"]["coreset-10pct"]["note"] = [1]
    recipe["coresets"]["other"] = {**copy.deepcopy(recipe["coresets"]["ltc"]), "scores": "scores-other", "note": 2}
    repo.add_commit("main", {**repo.files, "recipe.json": json.dumps(recipe).encode()}, "newer")
    client(do.push, scored, "me/newer", [0.2], trajectories=run)
    found = json.loads(repo.files["recipe.json"])
    assert list(found["coresets"]["ltc"]["configs"]) == ["coreset-10pct", "coreset-20pct"]
    for name in ("license", "trajectories", "format"):
        assert found[name] == recipe[name]
    assert found["coresets"]["other"] == recipe["coresets"]["other"]
    made = found["coresets"]["ltc"]["configs"]["coreset-10pct"]
    assert made == recipe["coresets"]["ltc"]["configs"]["coreset-10pct"]


def _ltc(recipe: dict[str, Any]) -> Any:
    return recipe["coresets"]["ltc"]


_MALFORMED: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda recipe: recipe.update(coresets=[1]), "'coresets' is a list, not an object"),
    (lambda recipe: recipe.update(files="x"), "'files' is text, not an object"),
    (lambda recipe: recipe.update(files={"a": 3}), "'files.a' is a number, not text"),
    (lambda recipe: recipe.update(card=[]), "'card' is a list, not an object"),
    (lambda recipe: recipe["coresets"].update(el2n=None), "'coresets.el2n' is null, not an object"),
    (lambda recipe: _ltc(recipe).pop("pool"), "in 'coresets.ltc' it lacks 'pool'"),
    (lambda recipe: _ltc(recipe).update(pool="many"), "'coresets.ltc.pool' is text, not a number"),
    (lambda recipe: _ltc(recipe).update(full=True), "'coresets.ltc.full' is true or false, not text"),
    (lambda recipe: _ltc(recipe).update(rank_column=None), "'coresets.ltc.rank_column' is null, not text"),
    (lambda recipe: _ltc(recipe)["dataset"].update(rows="many"), "'coresets.ltc.dataset.rows' is text, not a number"),
    (lambda recipe: _ltc(recipe)["family"].pop("of"), "in 'coresets.ltc.family' it lacks 'of'"),
    (lambda recipe: _ltc(recipe)["run"].update(dataset=3), "'coresets.ltc.run.dataset' is a number, not an object"),
    (lambda recipe: _ltc(recipe)["selection"].update(balance="x"), "'coresets.ltc.selection' cannot be used: `bal"),
    (lambda recipe: _ltc(recipe)["selection"].update(cut="x"), "'coresets.ltc.selection' cannot be used: "),
    (lambda recipe: _ltc(recipe).update(configs=None), "'coresets.ltc.configs' is null, not an object"),
    (
        lambda recipe: _ltc(recipe)["configs"]["coreset-10pct"].update(stored="yes"),
        "'coresets.ltc.configs.coreset-10pct.stored' is text, not true or false",
    ),
    (
        lambda recipe: _ltc(recipe)["evaluation"][0].update(accuracy=[None]),
        "'coresets.ltc.evaluation.0.accuracy.0' is null, not a number",
    ),
    (lambda recipe: _ltc(recipe).update(evaluation={"rows": 1}), "'coresets.ltc.evaluation' is an object, not a list"),
    (lambda recipe: recipe["trajectories"].pop("layout"), "in 'trajectories' it lacks 'layout'"),
    (lambda recipe: recipe["trajectories"]["layout"].update(lengths=6), "'trajectories.layout.lengths' is a number, "),
]


@pytest.mark.parametrize(("change", "problem"), _MALFORMED, ids=[problem for _, problem in _MALFORMED])
def test_a_malformed_recipe_is_refused_by_its_key(text: str, change: Callable[[dict[str, Any]], Any], problem: str):
    recipe = json.loads(text)
    change(recipe)
    with pytest.raises(InputError) as error:
        RepositoryRecipe.read(json.dumps(recipe), "me/x")
    said = str(error.value)
    assert said.startswith("recipe.json of 'me/x' is damaged (") and problem in said and "\n" not in said
    assert said.endswith("): its owner can restore an earlier revision")


def test_what_only_describes_a_run_is_kept_as_it_is(text: str):
    recipe = json.loads(text)
    _ltc(recipe)["run"] |= {"config": 3, "hardware": {"device": ["H100", "H100"]}}
    read = RepositoryRecipe.read(json.dumps(recipe), "me/x")
    assert read.to_dict() == recipe
    assert read.coresets["ltc"].run.config.model is None


def test_a_malformed_recipe_is_not_pushed_to_and_not_loaded(hub: Hub, client: Client, scored: Dataset, run: Any):
    client(do.push, scored, "me/malformed", [0.1], trajectories=run)
    repo = hub.dataset("me/malformed")
    recipe = json.loads(repo.files["recipe.json"])
    del recipe["coresets"]["ltc"]["configs"]["coreset-10pct"]["digest"]
    repo.add_commit("main", {**repo.files, "recipe.json": json.dumps(recipe).encode()}, "damaged")
    before = repo.head
    for call in ((do.push, scored, "me/malformed", [0.2]), (do.load_by_budget, "me/malformed", 0.1)):
        assert client(do.complaint, *call) == (
            "recipe.json of 'me/malformed' is damaged (in 'coresets.ltc.configs.coreset-10pct' it lacks 'digest'): "
            "its owner can restore an earlier revision"
        )
    assert repo.head == before


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"format": 2}', "{}"])
def test_other_recipes_are_refused(text: str):
    with pytest.raises(InputError, match=r"recipe\.json of 'me/x' (is not JSON|has format)"):
        RepositoryRecipe.read(text, "me/x")
    assert RepositoryRecipe.read(json.dumps({"format": 1}), "me/x") == RepositoryRecipe()
    assert RepositoryRecipe().to_dict() == {"format": 1}


@pytest.mark.parametrize(
    ("scorer", "fraction", "size", "name"),
    [
        ("ltc", 0.1, None, "coreset-10pct"),
        ("ltc", 0.07, None, "coreset-7pct"),
        ("ltc", 0.005, None, "coreset-0.5pct"),
        ("ltc", 1.0, None, "coreset-100pct"),
        ("el2n", 1 / 3, None, "coreset-el2n-33.3333pct"),
        ("ltc", None, 500, "coreset-500rows"),
    ],
)
def test_names_of_budgets(scorer: str, fraction: float | None, size: int | None, name: str):
    assert budget_name(scorer, fraction, size) == name
