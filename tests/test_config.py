"""Settings: their help, their ranges, and their way through the command line."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import HfArgumentParser

from hf_ltc.config import EVALUATION_MAY_ADD, RESUME_MAY_CHANGE, DataConfig, EvaluateConfig, RecordConfig
from hf_ltc.utils.errors import InputError

FIELDS = {f.name: f for f in dataclasses.fields(RecordConfig)}
EVALUATE = {f.name: f for f in dataclasses.fields(EvaluateConfig)}


@pytest.mark.parametrize("config", [RecordConfig, DataConfig, EvaluateConfig])
def test_every_field_is_documented(config):
    for f in dataclasses.fields(config):
        assert f.metadata["help"].endswith("."), f.name
        assert len(f.metadata["help"]) > 10, f.name


def test_it_is_frozen():
    config = RecordConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.epochs = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        DataConfig("digits").split = "test"


def test_a_list_is_not_shared_between_configurations():
    one, other = RecordConfig(), RecordConfig()
    one.signals.append("margin")
    assert other.signals == []


@pytest.mark.parametrize("config", [RecordConfig, EvaluateConfig])
@pytest.mark.parametrize(
    "given, kept", [("runs/a/", "runs/a"), ("./a//", "a"), (Path("a/b/"), "a/b"), ("~/a/", "/home/me/a")]
)
def test_a_folder_is_kept_as_it_is_called(config, given, kept, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert config(output_dir=given).output_dir == kept


@pytest.mark.parametrize("config", [RecordConfig, EvaluateConfig])
def test_a_tilde_that_is_no_home_belongs_to_the_name(config):
    kept = config(output_dir="~no-such-user/a").output_dir
    assert kept == str(Path.cwd() / "~no-such-user" / "a") == config(output_dir=kept).output_dir


# For each option values that are refused, and the last that are taken.
BAD = {
    "epochs": [0, -1, 1, 2.5, "10", None, True, math.nan],
    "batch_size": [0, -3, 1.0],
    "eval_batch_size": [0],
    "record_every": [0, -1],
    "runs": [0, -1, 2.0],
    "gradient_accumulation_steps": [0],
    "seed": [-1, 2**32, 1.5],
    "validation_seed": [-1, 2**32, "0"],
    "rotate_validation": [None, 1, "yes"],
    "allow_shared_rows": [None, 1, "yes"],
    "num_workers": [-1, 0.5],
    "weight_decay": [-1e-9, math.nan, math.inf, "5e-4"],
    "learning_rate": [-0.1, math.nan, math.inf, -math.inf, "0.1", True],
    "validation_fraction": [0, 1, 1.0, 0.0, -0.1, 1.1, math.nan],
    "validation_per_class": [0, -1],
    "label_smoothing": [-0.1, 1, 1.0, math.nan],
    "average_decay": [-0.1, 1.0, math.nan, "0.9"],
    "stop_when_stable": [0, 0.0, 1.01, math.nan],
    "image_size": [3, 0, -8, 8.0],
    "cache_budget": [-1, math.nan, math.inf],
    "losses": ["train", "", None, 1, ["training"]],
    "weights": ["average"],
    "store": ["sums", None, True],
    "optimizer": ["SGD", "adam"],
    "schedule": ["linear"],
    "stem": ["large", True],
    "mixed_precision": ["fp8", None, "yes"],
    "cache_images": ["sometimes", True],
    "signals": ["margin", ["loss"], ["margin", "el2n", "margin"], [1], None],
    "report_to": ["tensorboard", [None]],
    "initial_losses": [1, "yes", None],
    "features": [None, 1, "yes"],
    "pretrained": ["no", 0],
    "augment": [1],
    "channels_last": ["true"],
    "compile": [0],
    "model": [18],
    "output_dir": [None, 3],
    "image_column": [1],
    "text_column": [1],
    "text_pair_column": [["a", "b"]],
    "max_length": [0, -1, 2.5],
    "label_column": [["label"]],
    "id_column": [0],
}
GOOD = {
    "epochs": [2, 1000],
    "batch_size": [1],
    "record_every": [1, 15],
    "runs": [1, 5],
    "seed": [0, 2**32 - 1],
    "validation_seed": [0, 2**32 - 1],
    "rotate_validation": [True],
    "allow_shared_rows": [True],
    "num_workers": [0],
    "weight_decay": [0, 0.0, 1],
    "learning_rate": [None, 0, 0.0, 1, 1e-9],
    "model": [None, "resnet18"],
    "optimizer": [None, "sgd", "adamw"],
    "max_length": [None, 1, 8192],
    "validation_fraction": [1e-9, 0.999],
    "validation_per_class": [1],
    "label_smoothing": [0, 0.0, 0.999],
    "average_decay": [None, 0, 0.0, 0.9999],
    "stop_when_stable": [None, 1, 0.98],
    "image_size": [None, 4, 224],
    "cache_budget": [0, 0.5],
    "signals": [[], ["margin", "correct", "el2n"], ("margin",)],
    "report_to": [[], ["tensorboard"]],
    "id_column": [None, "key"],
}


def test_bad_values_of_every_option_are_here():
    assert BAD.keys() == FIELDS.keys()


@pytest.mark.parametrize("name, value", [(name, value) for name, values in BAD.items() for value in values])
def test_bad_values_are_quoted(name, value):
    with pytest.raises(InputError) as error:
        RecordConfig(**{name: value})
    message = str(error.value)
    assert "\n" not in message
    option = f"`{name}` "
    assert message.startswith(option)
    quoted = message.removeprefix(option)
    # Of a list the item that is wrong, or the list.
    items = [value, *value] if isinstance(value, list | str) and name == "signals" else [value]
    assert any(quoted.startswith((f"is {item!r}: it must be ", f"{item!r} with `record_every` 1 ")) for item in items)


@pytest.mark.parametrize("name, value", [(name, value) for name, values in GOOD.items() for value in values])
def test_the_last_good_values_are_taken(name, value):
    assert getattr(RecordConfig(**{name: value}), name) == value


CHOICES = {name: get_args(kind) for name, kind in RecordConfig.__annotations__.items() if get_origin(kind) is Literal}


@pytest.mark.parametrize("name, choice", [(name, choice) for name, choices in CHOICES.items() for choice in choices])
def test_all_choices_are_taken(name, choice):
    assert getattr(RecordConfig(**{name: choice}), name) == choice


def test_the_seeds_of_all_runs_are_seeds():
    RecordConfig(seed=2**32 - 3, runs=3)
    with pytest.raises(InputError, match=f"`seed` is {2**32 - 3}"):
        RecordConfig(seed=2**32 - 3, runs=4)


def test_a_path_becomes_a_string(tmp_path):
    assert RecordConfig(output_dir=tmp_path).output_dir == str(tmp_path)


@given(st.integers(1, 60), st.integers(1, 70), st.booleans())
@settings(max_examples=300, deadline=None)
def test_recorded_epochs(epochs, every, initial):
    wanted = [t for t in range(1, epochs + 1) if t % every == 0]
    if epochs % every:
        wanted.append(epochs)
    wanted = [0] * initial + wanted
    if len(wanted) < 3:
        with pytest.raises(InputError) as error:
            RecordConfig(epochs=epochs, record_every=every, initial_losses=initial)
        said = f"`epochs` {epochs} with `record_every` {every} records {len(wanted)} checkpoints, {len(wanted) - 1} "
        assert str(error.value).startswith(said)
        return
    assert RecordConfig(epochs=epochs, record_every=every, initial_losses=initial).recorded_epochs() == wanted


def test_to_dict_is_plain_json_and_makes_it_again():
    config = RecordConfig(epochs=7, signals=["margin"], average_decay=0.5, initial_losses=False)
    assert RecordConfig(**json.loads(json.dumps(config.to_dict()))) == config
    assert config.to_dict().keys() == FIELDS.keys()


def test_what_may_change_are_options():
    assert FIELDS.keys() > RESUME_MAY_CHANGE
    assert EVALUATE.keys() > EVALUATION_MAY_ADD


def test_help_names_only_options_and_choices_that_are_there():
    options = FIELDS.keys() | EVALUATE.keys() | {f.name for f in dataclasses.fields(DataConfig)}
    for f in [*FIELDS.values(), *EVALUATE.values(), *dataclasses.fields(DataConfig)]:
        for option in re.findall(r"--([a-z-]+)", f.metadata["help"]):
            assert option.replace("-", "_") in options, f.name


# Values that are no default, for every option.
GIVEN = {
    "model": "vit_tiny",
    "epochs": 7,
    "output_dir": "runs/other",
    "image_column": "picture",
    "text_column": "premise",
    "text_pair_column": "hypothesis",
    "label_column": "class",
    "id_column": "key",
    "losses": "both",
    "weights": "raw",
    "average_decay": 0.75,
    "initial_losses": False,
    "record_every": 2,
    "signals": ["margin", "el2n"],
    "features": True,
    # Running sums go with none of the metrics and features above.
    "store": "trajectories",
    "validation_fraction": 0.25,
    "validation_per_class": 9,
    "validation_seed": 4,
    "rotate_validation": True,
    "allow_shared_rows": True,
    "batch_size": 16,
    "eval_batch_size": 17,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "label_smoothing": 0.125,
    "gradient_accumulation_steps": 2,
    "seed": 5,
    "runs": 3,
    "stop_when_stable": 0.98,
    "stem": "imagenet",
    "pretrained": True,
    "image_size": 48,
    "max_length": 96,
    "augment": False,
    "mixed_precision": "bf16",
    "channels_last": True,
    "compile": True,
    "cache_images": "never",
    "cache_budget": 0.5,
    "num_workers": 0,
    "report_to": ["tensorboard"],
}


def words(dash, form):
    """The command line that gives these values, in one of the spellings that people use."""
    line = []
    for name, value in GIVEN.items():
        option = f"--{name.replace('_', dash)}"
        if isinstance(value, bool):
            if form == "flag":
                line.append(option if value else f"--no{dash}{name.replace('_', dash)}")
            else:
                line.append(f"{option}={str(value).lower()}")
        elif isinstance(value, list):
            line += [option, *value]
        else:
            line += [f"{option}={value}"] if form == "equals" else [option, str(value)]
    return line


@pytest.mark.parametrize("dash", ["_", "-"])
@pytest.mark.parametrize("form", ["flag", "equals"])
def test_every_option_is_parsed_in_every_spelling(dash, form):
    assert GIVEN.keys() == FIELDS.keys()
    assert [name for name, value in GIVEN.items() if value == getattr(RecordConfig(), name)] == ["store"]
    (config,) = HfArgumentParser(RecordConfig).parse_args_into_dataclasses(words(dash, form))
    assert config == RecordConfig(**GIVEN)


def test_a_store_is_parsed():
    (config,) = HfArgumentParser(RecordConfig).parse_args_into_dataclasses(["--store", "summary"])
    assert config == RecordConfig(store="summary")


def test_defaults_are_parsed_from_nothing():
    config, data = HfArgumentParser((RecordConfig, DataConfig)).parse_args_into_dataclasses(["--dataset", "digits"])
    assert config == RecordConfig()
    assert data == DataConfig("digits")
    assert (data.split, data.validation_split, data.dataset_config, data.revision) == ("train", None, None, None)


def test_a_bad_value_on_the_command_line_is_an_input_error():
    with pytest.raises(InputError, match=r"`batch_size` is 0: it must be 1 or more"):
        HfArgumentParser(RecordConfig).parse_args_into_dataclasses(["--batch_size", "0"])


# Evaluation: the same checks, for the fields that it has of its own or with another meaning.
BAD_EVALUATION = {
    "models": [[], ["resnet18", "resnet18"], "resnet18", [18]],
    "fractions": [[], [0], [0.1, 1.5], [-0.1], [math.nan], [0.1, 0.1], ["0.1"], [True], 0.1],
    "members": [["ltc", "ltc"], "ltc", [1]],
    "baselines": [["random", "random"], [None]],
    "full": [1, "yes"],
    "seeds": [0, -1, 2.0, None],
    "seed": [-1, 2**32, 1.5],
    "output_dir": [3],
    "test_split": [None, 3],
    "balance": ["fair", None],
    "protocol": ["steps", None],
    "epochs": [0, 1.5],
    "iterations": [0, -1, 2.5],
    "batch_size": [0],
    "optimizer": ["adam", None],
    "learning_rate": [-0.1, math.nan, "0.1"],
    "weight_decay": [-1e-9, math.inf],
    "label_smoothing": [-0.1, 1],
    "image_size": [3],
    "cache_budget": [-1],
    "num_workers": [-1],
    "schedule": ["linear"],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, all in BAD_EVALUATION.items() for value in all])
def test_bad_values_of_an_evaluation_are_quoted(name, value):
    with pytest.raises(InputError) as error:
        EvaluateConfig(**{name: value})
    message = str(error.value)
    items = [value, *value] if isinstance(value, list) else [value]
    assert any(message.startswith(f"`{name}` is {item!r}: it must be ") for item in items)
    assert "\n" not in message


def test_the_seeds_of_an_evaluation_are_seeds():
    EvaluateConfig(seed=2**32 - 3, seeds=3)
    with pytest.raises(InputError, match=f"`seed` is {2**32 - 3}"):
        EvaluateConfig(seed=2**32 - 3, seeds=4)


def test_an_evaluation_of_nothing_and_steps_for_epochs():
    with pytest.raises(InputError, match="nothing to evaluate"):
        EvaluateConfig(members=[], baselines=[], full=False)
    assert EvaluateConfig(members=[], baselines=[]).full
    with pytest.raises(InputError, match="`iterations` 9 goes with `protocol` iterations, not epochs"):
        EvaluateConfig(iterations=9, protocol="epochs")


GIVEN_EVALUATION = {
    "models": ["vit_tiny", "vgg11_bn"],
    "fractions": [0.05, 1.0],
    "members": ["cld", "levels-losses-class"],
    "baselines": ["aum"],
    "full": False,
    "seeds": 5,
    "seed": 2,
    "recommend": 0.01,
    "output_dir": "results",
    "test_split": "test[:100]",
    "allow_shared_rows": True,
    "image_column": "picture",
    "text_column": "premise",
    "text_pair_column": "hypothesis",
    "label_column": "class",
    "id_column": "key",
    "balance": "none",
    "protocol": "iterations",
    "epochs": 3,
    "iterations": 500,
    "batch_size": 16,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "label_smoothing": 0.125,
    "augment": False,
    "stem": "imagenet",
    "pretrained": True,
    "image_size": 48,
    "max_length": 96,
    "mixed_precision": "bf16",
    "channels_last": True,
    "cache_images": "never",
    "cache_budget": 0.5,
    "num_workers": 0,
}


def test_every_option_of_an_evaluation_is_parsed():
    assert GIVEN_EVALUATION.keys() == EVALUATE.keys()
    line = []
    for name, value in GIVEN_EVALUATION.items():
        values = [str(item) for item in value] if isinstance(value, list) else [str(value)]
        line += [f"--{name.replace('_', '-')}", *values]
    (config,) = HfArgumentParser(EvaluateConfig).parse_args_into_dataclasses(line)
    assert config == EvaluateConfig(**GIVEN_EVALUATION)
    assert EvaluateConfig(**json.loads(json.dumps(config.to_dict()))) == config
    assert HfArgumentParser(EvaluateConfig).parse_args_into_dataclasses([]) == (EvaluateConfig(),)


def test_what_means_the_same_has_the_same_default_and_help():
    for name in ("schedule", "augment", "mixed_precision", "cache_images", "num_workers"):
        assert EVALUATE[name].default == FIELDS[name].default
        assert EVALUATE[name].metadata["help"] == FIELDS[name].metadata["help"]
