"""Recipes: read as they are, written back as they were, and refused where they are malformed."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_ltc import Trajectories, TrajectoryRecorder
from hf_ltc.recipe import Config, Hardware, Identity, Recipe, SeedReliability, Training
from hf_ltc.utils.errors import InputError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
TEXT, NUMBER = st.none() | st.text(max_size=3), st.none() | st.integers() | st.floats(allow_nan=False)


def section(kind, **known):
    """Values of a section: some of its keys, and some that it does not know."""
    names = {field.name for field in dataclasses.fields(kind)}
    more = st.dictionaries(st.text().filter(lambda name: name not in names), JSON, max_size=3)
    values = st.fixed_dictionaries({}, optional=known)
    return st.none() | st.builds(lambda known, more: {**known, **more}, values, more)


IDENTITY = section(
    Identity,
    rows=NUMBER,
    features=st.dictionaries(st.text(), JSON, max_size=2),
    label_column=TEXT,
    names=st.none() | st.lists(st.text(), max_size=3),
    repo_id=TEXT,
    more=JSON,
)
RECIPES = section(
    Recipe,
    format=JSON,
    run=TEXT,
    epochs=JSON,
    dataset=IDENTITY,
    validation=IDENTITY,
    config=section(Config, model=TEXT, seed=NUMBER, learning_rate=NUMBER),
    training=section(Training, image_size=NUMBER, grey_range=st.none() | st.lists(st.integers(), max_size=2)),
    hardware=section(Hardware, device=TEXT),
    reliability=section(SeedReliability, one=NUMBER, mean=NUMBER, runs=NUMBER),
    seconds=st.dictionaries(st.text(), st.floats(0, 9), max_size=2),
    seeds=st.lists(st.integers(), max_size=2),
    runs=st.lists(st.dictionaries(st.text(), JSON, max_size=2), max_size=2),
    more=JSON,
).filter(lambda recipe: recipe is not None)


@given(recipe=RECIPES)
def test_a_recipe_comes_back_as_it_was(recipe):
    read = Recipe.from_dict(recipe)
    assert read.to_dict() == recipe
    assert Recipe.from_dict(read.to_dict()) == read
    assert json.loads(json.dumps(recipe)) == recipe


def test_keys_that_are_missing_null_or_unknown():
    nothing = Recipe.from_dict({"dataset": None, "config": {}, "seconds": None, "mine": {"model": "mlp"}})
    assert nothing == dataclasses.replace(Recipe(), more=nothing.more)
    assert nothing.dataset.names is None and nothing.config.model is None and nothing.reliability.mean is None
    assert nothing.more == {"dataset": None, "config": {}, "seconds": None, "mine": {"model": "mlp"}}
    newer = {"format": 2, "dataset": {"rows": 3, "shards": [1, 2]}, "carbon": {"grams": 1.5}}
    assert Recipe.from_dict(newer).to_dict() == newer


MALFORMED = [
    ({"dataset": ["label"]}, "'dataset' is a list, not an object"),
    ({"dataset": "cifar10"}, "'dataset' is text, not an object"),
    ({"dataset": {"label_column": 3}}, "'dataset.label_column' is a number, not text"),
    ({"dataset": {"names": ["ant", 1]}}, "'dataset.names.1' is a number, not text"),
    ({"dataset": {"names": "ant"}}, "'dataset.names' is text, not a list"),
    ({"validation": {"content": ["a"]}}, "'validation.content' is a list, not an object"),
    ({"config": {"model": {"name": "resnet18"}}}, "'config.model' is an object, not text"),
    ({"training": {"image_size": True}}, "'training.image_size' is true or false, not a number"),
    ({"hardware": "H100"}, "'hardware' is text, not an object"),
    ({"seconds": {"training": "long"}}, "'seconds.training' is text, not a number"),
    ({"reliability": 0.5}, "'reliability' is a number, not an object"),
    ({"runs": [{}, 2]}, "'runs.1' is a number, not an object"),
    ([1], "'recipe' is a list, not an object"),
]


@pytest.mark.parametrize(("recipe", "problem"), MALFORMED, ids=str)
def test_a_malformed_recipe_is_refused_by_its_key(recipe, problem, tmp_path):
    for make in (Recipe.from_dict, recording, lambda recipe: recorder(tmp_path / "run", recipe)):
        with pytest.raises(InputError) as error:
            make(recipe)
        assert problem in str(error.value) and str(error.value).startswith("`recipe` cannot be used")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("recipe", "problem"), MALFORMED[:-1], ids=str)
def test_a_malformed_recipe_of_a_run_is_refused_by_file_and_key(recipe, problem, tmp_path):
    recording({}).save(tmp_path / "run")
    place = tmp_path / "run" / "recipe.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **recipe}))
    with pytest.raises(InputError) as error:
        Trajectories.load(tmp_path / "run")
    assert problem in str(error.value) and repr(str(place)) in str(error.value) and "\n" not in str(error.value)


def test_what_users_keep_in_a_recipe_is_theirs(tmp_path):
    mine = {"note": ["mine", None], "dataset": {"names": ["x", "y"], "license": None}, "epochs": 40, "model": "mlp"}
    made = recorder(tmp_path / "run", mine)
    for epoch in range(3):
        with made.epoch():
            made.update(np.arange(4), np.full(4, 1 / (1 + epoch)))
            made.update(np.arange(2), np.full(2, 1 / (2 + epoch)), split="validation")
        run = Trajectories.load(tmp_path / "run")
        assert len(run.epochs) == epoch + 1
        assert {name: run.recipe[name] for name in mine} == mine
    run = made.finish()
    assert run.recipe == {**mine, "format": 1, "run": made.run, "epochs": [0, 1, 2]}
    run.to_parquet(tmp_path / "parquet")
    assert Trajectories.from_parquet(tmp_path / "parquet").recipe == run.recipe
    run.save(tmp_path / "copy")
    assert Trajectories.load(tmp_path / "copy").recipe == run.recipe


def test_runs_keep_the_recipes_that_they_had(tmp_path):
    each = [recording({"seed": seed, "seconds": {"training": 1.0 + seed}}) for seed in range(3)]
    Trajectories.average(each).save(tmp_path / "run")
    loaded = Trajectories.load(tmp_path / "run")
    assert [run.recipe["seed"] for run in loaded.runs] == [0, 1, 2]
    assert [run.recipe["seconds"] for run in loaded.runs] == [run.recipe["seconds"] for run in each]


def recording(recipe):
    return Trajectories(
        losses=np.ones((3, 4), np.float32),
        validation_losses=np.ones((3, 2), np.float32),
        labels=np.arange(4) % 2,
        validation_labels=np.arange(2),
        rows=np.arange(4),
        validation_rows=np.full(2, -1),
        epochs=np.arange(3),
        lengths=(3,),
        recipe=recipe,
    )


def recorder(path, recipe):
    return TrajectoryRecorder(path, rows=4, labels=[0, 1, 0, 1], validation_labels=[0, 1], recipe=recipe)
