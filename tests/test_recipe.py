"""Recipes: read as they are, written back as they were, and refused where they are malformed."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_ltc import Trajectories, TrajectoryRecorder
from hf_ltc.recipe import Config, Hardware, Identity, Recipe, SeedReliability, Training
from hf_ltc.utils.errors import InputError, LTCWarning
from tests.helpers import error_of

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


RELIED_ON = [
    ({"dataset": ["label"]}, "'dataset' is a list, not an object"),
    ({"dataset": "cifar10"}, "'dataset' is text, not an object"),
    ({"dataset": {"label_column": 3}}, "'dataset.label_column' is a number, not text"),
    ({"dataset": {"names": ["ant", 1]}}, "'dataset.names.1' is a number, not text"),
    ({"dataset": {"names": "ant"}}, "'dataset.names' is text, not a list"),
    ({"validation": {"content": ["a"]}}, "'validation.content' is a list, not an object"),
    ({"run": 3}, "'run' is a number, not text"),
    ({"runs": [{}, 2]}, "'runs.1' is a number, not an object"),
]
DESCRIPTIVE = [
    ({"config": {"model": {"name": "resnet18"}, "seed": 3}}, "'config.model' is an object, not text"),
    ({"training": {"image_size": True, "grey_range": [0, 9]}}, "'training.image_size' is true or false, not a number"),
    ({"training": {"grey_range": [0, "white"]}}, "'training.grey_range.1' is text, not a number"),
    ({"hardware": "H100"}, "'hardware' is text, not an object"),
    ({"hardware": {"device": ["H100", "H100"]}}, "'hardware.device' is a list, not text"),
    ({"versions": "0.1"}, "'versions' is text, not an object"),
    ({"seconds": {"training": "long"}}, "'seconds.training' is text, not a number"),
    ({"reliability": 0.5}, "'reliability' is a number, not an object"),
    ({"parameters": "11M"}, "'parameters' is text, not a number"),
    ({"seeds": 3}, "'seeds' is a number, not a list"),
    ({"validation_loss": [1.5, 0.5]}, "'validation_loss' is a list, not a number"),
    ({"hardware": "H100", "seeds": 3}, "'hardware' is text, not an object; 'seeds' is a number, not a list"),
]
NO_RECIPE = ([1], "'recipe' is a list, not an object")


@pytest.mark.parametrize(("recipe", "problem"), [*RELIED_ON, *DESCRIPTIVE, NO_RECIPE], ids=str)
def test_a_recorder_refuses_a_malformed_recipe_by_its_key(recipe, problem, tmp_path):
    for make in (Recipe.check, lambda recipe: recorder(tmp_path / "run", recipe)):
        said = error_of(make, recipe)
        assert said.startswith(f"`recipe` cannot be used ({problem.split(';')[0]})")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("recipe", "problem"), [*RELIED_ON, NO_RECIPE], ids=str)
def test_a_recipe_is_refused_where_checks_rely_on_it(recipe, problem):
    for make in (Recipe.from_dict, recording):
        said = error_of(make, recipe)
        assert problem in said and said.startswith("`recipe` cannot be used")


@pytest.mark.parametrize(("recipe", "problem"), RELIED_ON, ids=str)
def test_a_run_is_refused_where_checks_rely_on_its_recipe_by_file_and_key(recipe, problem, tmp_path):
    place = stored(tmp_path / "run", recipe)
    said = error_of(Trajectories.load, tmp_path / "run")
    assert problem in said and repr(str(place)) in said


@pytest.mark.parametrize(("recipe", "problem"), DESCRIPTIVE, ids=str)
def test_a_run_is_loaded_with_a_warning_where_its_recipe_only_describes_it(recipe, problem, tmp_path):
    place = stored(tmp_path / "run", recipe)
    run = warned_of(place, problem, lambda: Trajectories.load(tmp_path / "run"))
    assert run.recipe == json.loads(place.read_text())
    # Written back as it was, by whatever came of the run.
    run.truncate(1).save(tmp_path / "copy")
    copy = json.loads((tmp_path / "copy" / "recipe.json").read_text())
    assert {**copy, "epochs": [0, 1, 2]} == run.recipe
    run.to_parquet(tmp_path / "parquet")
    again = warned_of(
        tmp_path / "parquet" / "recipe.json", problem, lambda: Trajectories.from_parquet(tmp_path / "parquet")
    )
    assert again.recipe == run.recipe


def test_of_another_kind_is_as_not_given():
    recipe = {"config": {"model": ["a", "b"], "seed": 3}, "hardware": "H100", "seconds": {"training": "long"}}
    read = Recipe.from_dict(recipe)
    assert read.config == Config(seed=3, more={"model": ["a", "b"]})
    assert read.hardware == Hardware() and read.seconds == {}
    assert read.to_dict() == recipe
    assert dataclasses.replace(read, hardware=Hardware(device="cpu")).to_dict() == {
        **recipe,
        "hardware": {"device": "cpu"},
    }


@given(values=st.dictionaries(st.sampled_from(sorted(set(Recipe().__dict__) - {"more"})), JSON))
def test_whatever_it_describes_comes_back_as_it_was(values):
    described = {key: value for key, value in values.items() if key not in Recipe.RELIED_ON}
    read = Recipe.from_dict(described)
    assert read.to_dict() == described
    # What is malformed is told, and nothing else is refused.
    assert bool(read.misfits()) == is_refused(described)


def is_refused(recipe):
    try:
        Recipe.check(recipe)
    except InputError:
        return True
    return False


@pytest.mark.parametrize("together", [{}, {"seeds": "two", "note": "mine"}], ids=str)
def test_each_file_of_several_runs_is_warned_of_once(tmp_path, together):
    places = [stored(tmp_path / "runs" / f"seed-{seed}", {"hardware": f"H{seed}"}) for seed in range(2)]
    if together:
        (tmp_path / "runs" / "recipe.json").write_text(json.dumps(together))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = Trajectories.load(tmp_path / "runs")
    assert len(caught) == len(places) + bool(together)
    assert all(repr(str(place)) in str(each.message) for place, each in zip(places, caught))
    if together:
        assert run.recipe == together
    else:
        assert [one.recipe["hardware"] for one in run.runs] == ["H0", "H1"]


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


def stored(folder, recipe):
    """A run directory in whose recipe some values were written; the recipe's path."""
    recording({}).save(folder)
    place = folder / "recipe.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), **recipe}))
    return place


def warned_of(place, problem, load):
    """What is loaded with one warning, of this file and problem, at the line that loads."""
    with pytest.warns(LTCWarning) as caught:
        found = load()
    (said,) = caught
    assert str(said.message).startswith(f"in {str(place)!r} {problem}: ") and "\n" not in str(said.message)
    assert said.filename == __file__
    return found
