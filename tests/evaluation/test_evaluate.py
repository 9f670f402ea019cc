"""Evaluation: models trained on exactly the rows that were chosen, for as many steps, tested on rows not seen."""

import ast
import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import ClassLabel, DatasetDict

from hf_ltc import EvaluateConfig, RecordConfig, evaluate_coresets, record
from hf_ltc.coresets.select import select_coreset
from hf_ltc.data.labels import read_labels
from hf_ltc.evaluation import evaluate, results
from hf_ltc.evaluation.target import accuracy, train_on
from hf_ltc.training import batches
from hf_ltc.training.batches import image_batches
from hf_ltc.training.images import StoredImages
from hf_ltc.training.loop import TrainingConfig
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError
from hf_ltc.utils.processes import apart, rank
from tests.processes import finish, start

CPU = torch.device("cpu")


class Brightest(torch.nn.Module):
    """Predicts class 0 for an image whose upper half is brighter, else class 1."""

    def forward(self, pixels):
        upper = pixels[:, :, :4].mean((1, 2, 3))
        lower = pixels[:, :, 4:].mean((1, 2, 3))
        return torch.cat([upper[:, None], lower[:, None], torch.full((len(pixels), 8), -torch.inf)], dim=1)


def batches_of(dataset):
    return image_batches(StoredImages(dataset, "image", 8), read_labels(dataset, "label"), device=CPU)


def test_accuracy_is_the_share_of_right_rows(small):
    batches = batches_of(small["test"])
    ((pixels, classes, _),) = batches([torch.arange(40).numpy()])
    expected = (Brightest()(pixels).argmax(1) == classes).double().mean()
    assert accuracy(Brightest(), batches, Accelerator()) == pytest.approx(float(expected))


def test_training_learns_and_repeats(digit_rows):
    train, test = (batches_of(part) for part in digit_rows)
    config = TrainingConfig(epochs=1, iterations=30, batch_size=64, learning_rate=0.05, augment=False)
    first = train_on("test_resnet", train, test, 10, config, Accelerator())
    assert first > 0.5
    assert train_on("test_resnet", train, test, 10, config, Accelerator()) == first


@pytest.mark.parametrize("rows", [8, 40, 150])
def test_iterations_are_counted_to_the_step(small, rows):
    steps = []
    # 40 rows are 3 steps an epoch, 150 are 10, 8 are one: the last epoch of 8 steps has 2 of 3, 8 of 10, all of them.
    config = TrainingConfig(epochs=1, iterations=8, batch_size=16, seed=1)
    train, test = batches_of(small["train"]).take(np.arange(rows)), batches_of(small["test"])
    train_on(
        "test_vit", train, test, 10, config, Accelerator(), each_step=lambda: steps.append(torch.is_grad_enabled())
    )
    # Steps of the test are without gradients.
    assert steps.count(True) == 8 and steps.count(False) == 1


# A recording that is cheap to make, and cheap trials.


def recording(data, folder, **changes):
    options = {"model": "test_resnet", "epochs": 3, "batch_size": 32, "learning_rate": 0.02, "augment": False}
    return record(RecordConfig(**{**options, "output_dir": str(folder), **changes}), data)


def settings(folder, **changes):
    options = {"models": ["test_vit"], "fractions": [0.2], "seeds": 1, "iterations": 4, "batch_size": 16}
    return EvaluateConfig(**{**options, "output_dir": str(folder), **changes})


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    return recording(small["train"], tmp_path_factory.mktemp("evaluation") / "run", runs=2, signals=["margin"])


@pytest.fixture
def trained(monkeypatch):
    """What every model is trained on: name, pixels as stored, labels, settings; a training that takes no time."""
    seen = []

    def spy(model, train, test, classes, config, accelerator, **options):
        seen.append((model, train.pixels, train.labels, config, test))
        options["each_step"]()
        return len(seen) / 1000

    monkeypatch.setattr(evaluate, "train_on", spy)
    return seen


def rows_in(pixels, dataset):
    """The rows of a dataset that have these images, found by their pixels alone."""
    stored = {image.numpy().tobytes(): row for row, image in enumerate(StoredImages(dataset, "image", 8).read())}
    assert len(stored) == len(dataset)
    return [stored[image.numpy().tobytes()] for image in pixels]


def test_models_are_trained_on_the_chosen_rows(small, run, tmp_path, trained):
    config = settings(tmp_path, members=["ltc", "levels-losses-class"], baselines=["random", "mean_loss"], seeds=2)
    found = evaluate_coresets(config, run, small["train"], small["test"])
    labels = np.array(small["train"]["label"][:])
    assert len(trained) == len(found.trials) == 2 * (1 + 4)
    by_hand = {
        ("ltc", 0): run.score(small["train"], preset="ltc"),
        ("levels-losses-class", 0): run.score(
            small["train"], of="levels", aggregate="losses", scope="class", weighting="none"
        ),
    }
    random = []
    for trial, (model, pixels, classes, config, test) in zip(found.trials, trained):
        rows = rows_in(pixels, small["train"])
        assert model == "test_vit" and config.iterations == 4 and config.seed == trial["seed"]
        assert classes.tolist() == labels[rows].tolist()
        assert len(rows) == trial["rows"] == len(set(rows))
        # Rows that were held out are in no subset.
        assert not set(rows) & set(run.validation_rows.tolist())
        assert len(test) == 40
        scored = by_hand.get((trial["method"], 0))
        if trial["method"] == "full":
            assert rows == run.rows.tolist()
        elif scored is not None:
            wanted = select_coreset(scored, fraction=0.2, typical=0)
            assert torch.equal(pixels, StoredImages(wanted, "image", 8).read())
        else:
            counts = np.bincount(labels[rows], minlength=10)
            assert np.ptp(counts) <= 1
            if trial["method"] == "random":
                random.append(set(rows))
    assert random[0] != random[1]


def test_rows_joined_by_id_are_the_right_ones(small, tmp_path, trained):
    keyed = small["train"].add_column("key", [f"row {row}" for row in range(150)])
    run = recording(keyed, tmp_path / "run", id_column="key")
    scored = run.score(keyed)
    wanted = set(select_coreset(scored, fraction=0.2)["key"])
    shuffled = keyed.shuffle(seed=3).flatten_indices()
    for number, dataset in enumerate((shuffled, keyed.shuffle(seed=4), keyed.select(range(149, -1, -1)))):
        trained.clear()
        evaluate_coresets(settings(tmp_path / f"out{number}", full=False), run, dataset, small["test"])
        ltc, random = (rows_in(pixels, dataset) for _, pixels, _, _, _ in trained)
        keys = np.array(dataset["key"][:])
        assert set(keys[ltc]) == wanted
        held = set(np.array(keyed["key"][:])[run.validation_rows])
        assert not held & {*keys[ltc], *keys[random]}
        for _, pixels, classes, _, _ in trained:
            assert classes.tolist() == np.array(dataset["label"][:])[rows_in(pixels, dataset)].tolist()
    # Of a part of the rows, those that are there are chosen from.
    trained.clear()
    part = shuffled.select(range(90))
    found = evaluate_coresets(settings(tmp_path / "part"), run, part, small["test"])
    there = [key for key in part["key"] if key in set(np.array(keyed["key"][:])[run.rows])]
    assert found.trials[0]["rows"] == len(there)
    assert [part["key"][row] for row in rows_in(trained[0][1], part)] == there


def test_the_dataset_s_form_does_not_matter(small, run, tmp_path, trained):
    plain = small["train"].with_format("torch")
    evaluate_coresets(settings(tmp_path / "a", full=False), run, small["train"], small["test"])
    evaluate_coresets(settings(tmp_path / "b", full=False), run, plain, small["test"].with_format("numpy"))
    pixels = [each[1] for each in trained]
    assert torch.equal(pixels[0], pixels[2]) and torch.equal(pixels[1], pixels[3])


def test_streamed_images_are_the_same(small, run, tmp_path, monkeypatch):
    found = []
    for cache in ("never", "always"):
        config = settings(tmp_path / cache, cache_images=cache, num_workers=0, full=False)
        found.append(
            [trial["accuracy"] for trial in evaluate_coresets(config, run, small["train"], small["test"]).trials]
        )
    assert found[0] == found[1]


def test_steps_are_equal_by_iterations_and_epochs_by_epochs(small, run, tmp_path, trained):
    pool, batch = len(run), 16
    config = settings(tmp_path / "a", iterations=None, epochs=3, fractions=[0.1, 0.5])
    found = evaluate_coresets(config, run, small["train"], small["test"])
    assert {trial["steps"] for trial in found.trials} == {3 * -(-pool // batch)} == {found.settings["iterations"]}
    assert {each[3].iterations for each in trained} == {3 * -(-pool // batch)}
    config = settings(tmp_path / "b", iterations=None, epochs=3, fractions=[0.1, 0.5], protocol="epochs")
    found = evaluate_coresets(config, run, small["train"], small["test"])
    assert found.settings["iterations"] is None
    for trial in found.trials:
        assert trial["steps"] == 3 * -(-trial["rows"] // batch)


def test_models_without_batch_norm_are_trained_by_adamw(small, run, tmp_path, trained):
    options = {"models": ["test_resnet", "test_vit"], "baselines": [], "full": False}
    evaluate_coresets(settings(tmp_path / "a", **options), run, small["train"], small["test"])
    evaluate_coresets(
        settings(tmp_path / "b", **options, optimizer="sgd", learning_rate=0.3, weight_decay=0.0),
        run,
        small["train"],
        small["test"],
    )
    used = [(c.optimizer, c.learning_rate, c.weight_decay) for _, _, _, c, _ in trained]
    assert used == [("sgd", 0.1, 5e-4), ("adamw", 1e-3, 0.05), ("sgd", 0.3, 0.0), ("sgd", 0.3, 0.0)]


def test_results_are_written_and_read_again(small, run, tmp_path):
    config = settings(tmp_path / "out", members=["ltc"], baselines=["random", "aum"], seeds=2, fractions=[0.1, 0.4])
    found = evaluate_coresets(config, run, small["train"], small["test"])
    names = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert names == {"evaluation.json", "cells", "results.json", "results.md", "accuracy.png"}
    stored = json.loads((tmp_path / "out" / "results.json").read_text())
    again = results.Evaluation.load(tmp_path / "out" / "results.json")
    assert again == found and again.rows == found.rows == stored["results"]
    # One model on all rows, three methods by two budgets, each by two seeds.
    assert len(stored["cells"]) == 2 * (1 + 3 * 2)
    by_method = {each["method"]: each for each in stored["methods"]}
    assert set(by_method) == {"ltc", "aum"}
    assert by_method["aum"]["aum"] == pytest.approx(1) and by_method["ltc"]["reliability"]["runs"] == 2
    assert stored["sources"]["test_resnet"]["seconds"] == pytest.approx(seconds_of(run))
    assert str(tmp_path) not in (tmp_path / "out" / "results.json").read_text()
    # The same call trains nothing and finds the same; one with more trains what is new.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}
    assert evaluate_coresets(config, run, small["train"], small["test"]).trials == found.trials
    more = dataclasses.replace(config, seeds=3, fractions=[0.1, 0.4, 0.6], full=False)
    wider = evaluate_coresets(more, run, small["train"], small["test"])
    assert len(wider.trials) == 2 + 3 * 3 * 3
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert wider.trials[: len(found.trials)] == found.trials


def test_results_are_of_all_trials_of_the_folder_as_first_asked(small, run, tmp_path, trained):
    train, test = small["train"], small["test"]
    config = settings(tmp_path, members=["ltc"], seeds=2)
    first = evaluate_coresets(config, run, train, test)
    other = {"members": ["cld"], "baselines": ["mean_loss"], "models": ["test_resnet"], "fractions": [0.3]}
    found = evaluate_coresets(settings(tmp_path, **other, full=False), run, train, test)
    assert found.trials[: len(first.trials)] == first.trials
    assert [(trial["model"], trial["method"], trial["fraction"]) for trial in found.trials[len(first.trials) :]] == [
        ("test_resnet", "cld", 0.3),
        ("test_resnet", "mean_loss", 0.3),
    ]
    assert [each["method"] for each in found.methods] == ["ltc", "cld", "mean_loss"]
    # It keeps the lowest.
    assert found.methods[2]["mean_loss"] == pytest.approx(-1)
    assert found == results.Evaluation.load(tmp_path / "results.json")
    said = (tmp_path / "results.md").read_text()
    assert all(f"| {name} " in said for name in ("full data", "ltc", "random", "cld", "mean_loss"))
    again = evaluate_coresets(config, run, train, test)
    assert (again.trials, again.methods[0]["method"]) == (found.trials, "ltc")
    # What is no result of this version is left out, and so is what another command is at.
    (tmp_path / "cells" / "of-another-version.json").write_text("{}")
    assert evaluate_coresets(config, run, train, test).trials == found.trials


def test_a_second_recording_leaves_the_trials_of_the_first(small, run, tmp_path, trained):
    train, test = small["train"], small["test"]
    other = recording(train, tmp_path / "run", seed=7)
    config = settings(tmp_path / "out", members=["ltc"])
    first = evaluate_coresets(config, run, train, test)
    assert list(first.sources) == ["test_resnet"] and len(trained) == 3
    # As the command names them once there are two.
    found = evaluate_coresets(config, {"test_resnet-a": run, "test_resnet-b": other}, train, test)
    assert len(trained) == 4 and list(found.sources) == ["test_resnet", "test_resnet-b"]
    assert found.trials[:3] == first.trials and found.trials[3]["source"] == "test_resnet-b"
    # And as it names the second alone, without the first one's scores: its trials and what was said of it are there.
    alone = evaluate_coresets(dataclasses.replace(config, seeds=2), {"mine": other}, train, test)
    assert len(trained) == 7 and alone.trials[:4] == found.trials and alone.sources == found.sources
    of_first = [each for each in found.methods if each["source"] == "test_resnet"]
    assert [each for each in alone.methods if each["source"] == "test_resnet"] == of_first
    assert [(each["method"], each["source"]) for each in alone.methods] == [
        ("ltc", "test_resnet-b"),
        ("ltc", "test_resnet"),
    ]
    (tmp_path / "out" / "results.json").write_text("{}")
    again = evaluate_coresets(dataclasses.replace(config, seeds=2), {"mine": other}, train, test)
    assert [each["source"] for each in again.methods] == ["test_resnet-b"]
    assert all((row["seconds"]["scoring"] is None) == (row["source"] == "test_resnet") for row in again.rows)
    # A copy under a name of its own is one of its own.
    evaluate_coresets(config, {"test_resnet": run, "copy": run}, train, test)
    assert len(trained) == 8
    with pytest.raises(InputError, match="the recording 'test_resnet-b' is another one"):
        evaluate_coresets(config, {"test_resnet-b": run.truncate(2), "x": run}, train, test)


def test_the_seconds_of_a_recording_are_those_of_all_its_runs(small, run, tmp_path, trained):
    folder = Path(run.recipe["config"]["output_dir"])
    each = [seconds_of(Trajectories.load(folder / f"seed-{seed}")) for seed in (0, 1)]
    shutil.copytree(folder, tmp_path / "joined")
    (tmp_path / "joined" / "recipe.json").unlink()
    other = recording(small["train"], tmp_path / "run", seed=7)
    third = seconds_of(other)
    unknown = dataclasses.replace(other, recipe={**other.recipe, "seconds": {}})
    runs = {
        "recorded together": (run, sum(each)),
        "a folder without a recipe": (Trajectories.load(tmp_path / "joined"), sum(each)),
        "averaged": (Trajectories.average([other, run]), sum(each) + third),
        "averaged the other way": (Trajectories.average([run, other]), sum(each) + third),
        "unknown in part": (Trajectories.average([run, unknown]), None),
    }
    config = settings(tmp_path / "out", members=["ltc"], baselines=[], full=False)
    found = evaluate_coresets(config, {name: run for name, (run, _) in runs.items()}, small["train"], small["test"])
    for name, (_, seconds) in runs.items():
        assert found.sources[name]["seconds"] == (seconds and pytest.approx(seconds, abs=0.05)), name


def test_devices_are_those_of_the_trials(small, run, tmp_path, trained, monkeypatch):
    train, test = small["train"], small["test"]
    config = settings(tmp_path, members=["ltc"])
    first = evaluate_coresets(config, run, train, test)
    assert first.settings["hardware"]["devices"] == ["cpu"]
    assert all(row["training_share"] is not None for row in first.rows)
    here = evaluate.hardware
    monkeypatch.setattr(evaluate, "hardware", lambda accelerator: {**here(accelerator), "device": "another"})
    found = evaluate_coresets(dataclasses.replace(config, fractions=[0.2, 0.5]), run, train, test)
    assert found.settings["hardware"]["devices"] == ["cpu", "another"] and "device" not in found.settings["hardware"]
    assert "Trained on cpu and another (" in (tmp_path / "results.md").read_text()
    for row in found.rows:
        assert (row["training_share"] is None) == (row["cost"] is None) == (row["fraction"] == 0.5)


def test_the_runs_of_a_recording_are_taken_apart_once_and_by_the_first_process(
    small, run, tmp_path, trained, monkeypatch
):
    taken = []
    runs = Trajectories.runs.fget
    monkeypatch.setattr(Trajectories, "runs", property(lambda self: taken.append(self) or runs(self)))
    config = settings(tmp_path, members=["ltc", "cld"], baselines=["mean_loss"])
    # Scoring takes none apart.
    evaluate_coresets(config, run, small["train"], small["test"])
    assert len(taken) == 1
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = (tmp_path / "results.json").read_bytes()
    found = evaluate_coresets(config, run, small["train"], small["test"])
    assert len(taken) == 1 and len(found.trials) == 4
    assert (tmp_path / "results.json").read_bytes() == before


def test_all_rows_are_not_copied(small, run, tmp_path, trained, monkeypatch):
    made = []
    make = batches.image_batches
    monkeypatch.setattr(batches, "image_batches", lambda *a, **k: made.append(make(*a, **k)) or made[-1])
    evaluate_coresets(settings(tmp_path, fractions=[0.2, 1.0]), run, small["train"], small["test"])
    assert [pixels is made[0].pixels for _, pixels, *_ in trained] == [True, False, False, True, True]


def test_evaluation_uses_nothing_of_the_hub():
    imported = {
        node.module
        for node in ast.walk(ast.parse(Path(evaluate.__file__).read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    }
    assert "trajectories.value" in imported
    assert not any(module.startswith("hub") for module in imported)


@pytest.mark.parametrize("process", ["0", "1"])
def test_a_process_that_fails_says_so(small, run, tmp_path, monkeypatch, caplog, process):
    def fail(*_, **__):
        raise InputError("row 7 cannot be read")

    for name, value in {"RANK": process, "LOCAL_RANK": process, "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    said = ["process 1: row 7 cannot be read"] if process == "1" else []
    for name, folder in (("input_batches", "images"), ("train_on", "cells")):
        with monkeypatch.context() as failing:
            failing.setattr(evaluate, name, fail)
            with pytest.raises(InputError, match="row 7 cannot be read"):
                evaluate_coresets(settings(tmp_path / folder), run, small["train"], small["test"])
        assert caplog.messages == said
        caplog.clear()


def test_a_folder_of_other_settings_is_refused(small, run, tmp_path, trained):
    train, test = small["train"], small["test"]
    config = settings(tmp_path / "out")
    evaluate_coresets(config, run, train, test)
    for changes, said in (
        ({"learning_rate": 0.3}, "`learning_rate` was None, now 0.3"),
        ({"iterations": 5, "balance": "none"}, "`balance` was 'class', now 'none'; `iterations` was 4, now 5"),
        ({"image_size": 16}, "`image_size` was 8, now 16"),
    ):
        with pytest.raises(InputError, match=said) as error:
            evaluate_coresets(dataclasses.replace(config, **changes), run, train, test)
        assert str(tmp_path / "out") in str(error.value)
    with pytest.raises(InputError, match="the test rows: rows"):
        evaluate_coresets(config, run, train, test.select(range(30)))
    with pytest.raises(InputError, match="the recording 'test_resnet' is another one"):
        evaluate_coresets(config, run.truncate(2), train, test)
    # Epochs are of no matter where the steps are given.
    evaluate_coresets(dataclasses.replace(config, epochs=7, num_workers=0), run, train, test)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").touch()
    with pytest.raises(InputError, match="holds other files"):
        evaluate_coresets(settings(tmp_path / "other"), run, train, test)


def seconds_of(run):
    """Decoding left out, which the models that it is held against have behind them."""
    return sum(seconds for phase, seconds in run.recipe["seconds"].items() if phase != "decoding")


def refused(config, run, train, test, validation=None):
    with pytest.raises(InputError) as error:
        evaluate_coresets(config, run, train, test, validation)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_input_is_one_line_before_anything_is_written(small, run, digit_rows, tmp_path, trained):
    train, test = small["train"], small["test"]
    out = tmp_path / "out"
    other_names = test.cast_column("label", ClassLabel(names=[*"012345678", "ten"]))
    for config, rows, said in (
        (settings(out, members=["best"]), test, "no method 'best'"),
        (
            settings(out, members=["aum"]),
            test,
            "`members` has 'aum': there are ltc, cld, das, weighted-das, differences-",
        ),
        (settings(out, baselines=["cld"]), test, "`baselines` has 'cld': there are mean_loss"),
        (settings(out, baselines=["el2n"]), test, "'el2n', which was not recorded (there are: margin)"),
        (settings(out, models=["test_vit", "resnet81"]), test, "'resnet81' is no timm model: did you mean"),
        (
            settings(out, fractions=[0.2, 0.05]),
            test,
            f"`fractions` 0.05 of the {len(run)} candidate rows is",
        ),
        (settings(out, label_column="class"), test, "`label_column` 'class': no such column"),
        (settings(out), test.remove_columns("image"), "test rows: no column of type Image"),
        (settings(out), other_names, "test rows: column 'label' has classes that the train rows do not have: 'ten'"),
        (settings(out), DatasetDict(test=test), "`test` is a DatasetDict, not a datasets.Dataset"),
        (settings(out), train, "of the test rows are in the recorded dataset too"),
        (settings(out), train, "give other `test` rows, or set `allow_shared_rows` if such rows"),
        (settings(out), train.select(run.validation_rows), "100% of the test rows are in the recorded dataset too"),
        (settings(out), train.select(range(100, 150)), "100% of the test rows are in the recorded dataset too"),
    ):
        assert said in refused(config, run, train, rows), said
    assert "6 rows, fewer than the 10 classes: raise it" in refused(
        settings(out, fractions=[0.05]), run, train, test
    ) or ("7 rows, fewer" in refused(settings(out, fractions=[0.05]), run, train, test))
    assert "is not the recorded one" in refused(settings(out), run, train.shuffle(seed=1), test)
    assert "give one or more" in refused(settings(out), {}, train, test)
    assert "EvaluateConfig(output_dir=...)" in refused(
        dataclasses.replace(settings(out), output_dir=None), run, train, test
    )
    assert not trained
    assert not out.exists()


def test_a_model_that_diverges_is_one_line_and_no_result(small, run, tmp_path):
    out = tmp_path / "out"
    config = settings(out, models=["test_resnet"], learning_rate=1e30, full=False)
    said = refused(config, run, small["train"], small["test"])
    assert said.startswith("test_resnet with seed 0 diverged") and "lower `learning_rate`, which was 1e+30" in said
    assert not list((out / "cells").glob("*.json"))


def test_validation_samples_are_no_test_rows(small, tmp_path, trained):
    train, test = small["train"].select(range(100)), small["test"]
    options = RecordConfig(model="test_vit", epochs=2, batch_size=32, output_dir=str(tmp_path / "run"))
    run = record(options, train, test.select(range(20)))
    config = settings(tmp_path / "out", full=False)
    # Known by what the recipe says of them, or, as a part of others, where they are given.
    assert "are the validation samples" in refused(config, run, train, test.select(range(20)))
    said = refused(config, run, train, test.select(range(40)), test.select(range(20)))
    assert "50% of the test rows are in the validation samples too" in said
    assert "give other `test` rows" in said
    # Where nobody shows them, nobody can tell.
    said = refused(config, run, train, test.select(range(20, 40)))
    assert "give them too (`validation`; none were), or `allow_shared_rows`" in said
    said = refused(config, run, train, test.select(range(20, 40)), test.select(range(10)))
    assert "the 20 validation samples of the recording" in said and "; 10 were)" in said
    evaluate_coresets(config, run, train, test.select(range(20, 40)), test.select(range(20)))
    assert len(trained) == 2


def test_shared_rows_can_be_allowed(small, run, tmp_path, trained):
    config = settings(tmp_path, full=False)
    found = evaluate_coresets(
        dataclasses.replace(config, allow_shared_rows=True), run, small["train"], small["train"].select(range(30))
    )
    assert found.settings["config"]["allow_shared_rows"] and len(trained) == 2


def test_recordings_of_other_rows_do_not_go_together(small, run, tmp_path, trained):
    other = recording(small["train"], tmp_path / "run", validation_seed=1)
    said = refused(settings(tmp_path / "out"), {"one": run, "two": other}, small["train"], small["test"])
    assert "the recordings 'one' and 'two' are of different rows" in said


def test_transfer_shares_random_and_full_and_is_what_the_trials_say(small, run, tmp_path):
    other = recording(small["train"], tmp_path / "run", model="test_vit", learning_rate=0.01)
    config = settings(tmp_path / "out", models=["test_resnet", "test_vit"], seeds=2, members=["ltc"])
    found = evaluate_coresets(config, {"test_resnet": run, "test_vit": other}, small["train"], small["test"])
    assert len(found.trials) == 2 * 2 * (1 + 1 + 2)
    reached = {}
    for trial in found.trials:
        if trial["method"] == "ltc":
            reached[trial["source"], trial["model"], trial["seed"]] = trial["accuracy"]
    assert len(found.transfer) == 4
    for each in found.transfer:
        source, model = each["source"], each["model"]
        loss = np.mean([reached[model, model, seed] - reached[source, model, seed] for seed in (0, 1)])
        assert each["loss"] == pytest.approx(loss)
        assert each["mean"] == pytest.approx(np.mean([reached[source, model, seed] for seed in (0, 1)]))


# Real processes


def evaluating(data, run, folder, changes=None):
    torch.set_num_threads(1)
    splits = DatasetDict.load_from_disk(data)
    evaluate_coresets(settings(folder, **(changes or {})), Trajectories.load(run), splits["train"], splits["test"])


@pytest.fixture(scope="module")
def place(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    small.save_to_disk(str(folder / "data"))
    recording(small["train"], folder / "run")
    return folder


def accuracies(folder):
    stored = json.loads((Path(folder) / "results.json").read_text())
    return {(c["model"], c["method"], c["fraction"], c["seed"]): c["accuracy"] for c in stored["cells"]}


MORE = {"seeds": 2, "models": ["test_vit", "test_resnet"], "iterations": 8}


@pytest.fixture(scope="module")
def uninterrupted(place):
    (alone,) = start(evaluating, place / "data", place / "run", place / "alone", MORE)
    assert finish([alone]) == [0]
    return accuracies(place / "alone")


def test_killed_and_gone_on_with_is_as_if_not_killed(place, uninterrupted, tmp_path):
    for wanted in (2, 5):
        (process,) = start(evaluating, place / "data", place / "run", tmp_path, MORE)
        while len(list(tmp_path.glob("cells/*.json"))) < wanted:
            assert process.is_alive()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*.json")}
    assert 5 <= len(before) < len(uninterrupted)
    (process,) = start(evaluating, place / "data", place / "run", tmp_path, MORE)
    assert finish([process]) == [0]
    assert accuracies(tmp_path) == uninterrupted
    assert all((tmp_path / "cells" / name).stat().st_mtime_ns == when for name, when in before.items())


def test_two_ranks_share_the_trials_and_find_the_same(place, uninterrupted, tmp_path):
    ranks = start(evaluating, place / "data", place / "run", tmp_path, MORE, world=2)
    assert finish(ranks) == [0, 0]
    assert accuracies(tmp_path) == uninterrupted
    assert json.loads((tmp_path / "results.json").read_text())["hardware"]["processes"] == 2


def evaluating_told(data, run, folder, beside):
    """Evaluates, and writes down how many models this process has begun to train."""
    train, begun = evaluate.train_on, []

    def told(*given, **options):
        begun.append(given[0])
        (beside / f"{os.getpid()}.begun").write_text(str(len(begun)))
        # Nobody trains alone, however long the other one takes to start.
        while len(list(beside.glob("*.begun"))) < 2:
            time.sleep(0.02)
        return train(*given, **options)

    evaluate.train_on = told
    evaluating(data, run, folder, MORE)


def test_two_commands_on_one_folder_train_each_model_once_and_find_the_same(place, uninterrupted, tmp_path):
    given = (place / "data", place / "run", tmp_path / "out", tmp_path)
    commands = [start(evaluating_told, *given)[0] for _ in range(2)]
    assert finish(commands) == [0, 0]
    begun = [int(path.read_text()) for path in tmp_path.glob("*.begun")]
    assert len(begun) == 2 and sum(begun) == len(uninterrupted)
    assert accuracies(tmp_path / "out") == uninterrupted


def test_a_signal_stops_between_two_steps(place, tmp_path):
    (process,) = start(stopped, place, tmp_path)
    while not list(tmp_path.glob("out/cells/*.json")):
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    assert finish([process]) == [143]
    assert "finished models are in" in (tmp_path / "said").read_text()
    assert "run the same command again" in (tmp_path / "said").read_text()
    assert not (tmp_path / "out" / "results.json").exists()


def stopped(place, folder):
    from contextlib import redirect_stderr

    from hf_ltc.cli.main import main

    with (folder / "said").open("w") as said, redirect_stderr(said):
        line = f"evaluate {place / 'run'} --dataset {place / 'data'} --models test_vit --fractions 0.2 --iterations 40"
        code = main([*line.split(), "--batch-size", "16", "--output-dir", str(folder / "out")])
    os._exit(code)


def test_processes_of_a_launcher_train_apart_each_on_its_device(monkeypatch):
    devices = []
    for name, value in {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "ACCELERATE_USE_FSDP": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    before = dict(os.environ)
    with apart():
        assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "ACCELERATE_USE_FSDP"} & os.environ.keys()
        assert os.environ["ACCELERATE_USE_CPU"] == "1"
    assert devices == [1] and dict(os.environ) == before
    assert rank() == (3, 4)
