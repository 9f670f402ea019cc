"""Recordings of texts: the same run directory, columns and processes as of images."""

import json
import os
import signal
import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Image, List, Value
from torch.nn.functional import cross_entropy

from hf_ltc import (
    LTCScorer,
    Trajectories,
    audit,
    dataset_identity,
    load_encoder,
    load_model,
    rank_coreset,
    select_coreset,
)
from hf_ltc.cli.main import main
from hf_ltc.config import RecordConfig
from hf_ltc.data.labels import InputColumns
from hf_ltc.recipe import Recipe
from hf_ltc.recording.record import record
from hf_ltc.report.page.previews import clipped, previews
from hf_ltc.training.inputs import settled
from hf_ltc.utils.errors import LTCWarning
from tests.helpers import encoded, error_of, names
from tests.processes import finish, start
from tests.recording.runs import record_from_disk, snapshot, wait_for
from tests.texts import docstrings, save_source


def settings(folder, **changes):
    defaults = {"text_column": "text", "epochs": 3, "batch_size": 32, "output_dir": str(folder)}
    return RecordConfig(**{**defaults, **changes})


@pytest.fixture(scope="module")
def rows():
    return docstrings()


@pytest.fixture(scope="module")
def bert(rows, tmp_path_factory):
    return save_source(tmp_path_factory.mktemp("source"), "bert", rows["text"])


@pytest.fixture(scope="module")
def run(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded") / "run"
    return record(
        settings(folder, epochs=8, losses="both", weights="raw", signals=["predicted"], features=True), rows
    ), folder


def test_losses_are_those_of_the_saved_model(rows, run, bert, tmp_path):
    pair = {"text_column": "name", "text_pair_column": "text"}
    config = settings(
        tmp_path / "run", model=bert, losses="evaluation", weights="raw", max_length=30, features=True, **pair
    )
    with pytest.warns(LTCWarning, match=r"\d+ of 240 texts of column 'name' and 'text' are longer than 30 tokens"):
        recorded = record(config, rows)
    for made, folder, columns in ((run[0], run[1], ["text"]), (recorded, tmp_path / "run", ["name", "text"])):
        model, encode = load_model(folder / "source_model"), load_encoder(folder / "source_model")
        labels = torch.tensor(rows["label"][:])
        with torch.no_grad():
            logits = model(**encode(*(list(rows[column]) for column in columns)))
        losses = cross_entropy(logits, labels, reduction="none").numpy()
        evaluated = Trajectories.load(folder, losses="evaluation")
        np.testing.assert_allclose(evaluated.losses[-1], losses[made.rows], atol=1e-5)
        np.testing.assert_allclose(made.validation_losses[-1], losses[made.validation_rows], atol=1e-5)
        # Untrained models know nothing, and trained ones do.
        assert made.losses[0].mean() == pytest.approx(np.log(4), abs=0.3)
        head = model.head if made is run[0] else model.model.classifier
        with torch.no_grad():
            again = head(torch.from_numpy(made.features.of(made.rows)).float())
        torch.testing.assert_close(again, logits[torch.from_numpy(made.rows)], atol=0.02, rtol=0.02)
    assert run[0].losses[-1].mean() < 0.9
    training = recorded.recipe["training"]
    assert training["max_length"] == 30 and 0 < training["truncated"] < 240 and "image_size" not in training
    assert recorded.recipe["dataset"]["text_pair_column"] == "text"
    card = (tmp_path / "run" / "source_model" / "README.md").read_text()
    assert 'encode(["a text"], ["the other text of the pair"])' in card and "pipeline_tag: text-classification" in card
    assert "| tokens per text | at most 30 |" in card and "pixels" not in card.lower()


def test_defaults_of_texts_are_their_own(run):
    config = run[0].recipe["config"]
    assert (config["model"], config["optimizer"], config["learning_rate"]) == ("embedding_bag", "adamw", 1e-2)
    assert config["weight_decay"] == 0 and run[0].recipe["training"]["max_length"] == 512


def test_every_step_from_losses_to_a_coreset(rows, run):
    recorded, _ = run
    scored = recorded.attach(rows).map(LTCScorer.from_trajectories(recorded), batched=True)
    scored = rank_coreset(scored)
    coreset = select_coreset(scored, fraction=0.3)
    kept = {int(rank) for rank in coreset["ltc_rank"][:]}
    assert kept == set(range(len(coreset))) and len(coreset) == round(0.3 * len(recorded))
    assert coreset["text"][:] == [row["text"] for row in scored if row["ltc_rank"] in kept]
    whole = recorded.score(rows)
    assert whole["ltc_rank"][:] == scored["ltc_rank"][:]
    found = audit(recorded, rows)
    assert found["row"][:] != [] and {"kind", "is_label_issue"} <= set(found.column_names)
    other = rows.select(range(100))
    assert "the dataset has 100 rows" in error_of(recorded.attach, other)


def test_processes_and_interruptions_change_nothing(rows, bert, tmp_path):
    """Without dropout the losses of two processes are those of one; killed and resumed they are the same bits."""
    rows.save_to_disk(str(tmp_path / "data"))
    common = {"text_column": "text", "epochs": 3, "losses": "both", "eval_batch_size": 50, "model": "embedding_bag"}

    def config(name, batch, **changes):
        return {**common, "batch_size": batch, "output_dir": str(tmp_path / name), **changes}

    data = str(tmp_path / "data")
    one, two = start(record_from_disk, data, config("one", 32)), None
    assert finish(one) == [0]
    two = start(record_from_disk, data, config("two", 16), world=2)
    assert finish(two) == [0, 0]
    first, second = (Trajectories.load(tmp_path / name, losses="evaluation") for name in ("one", "two"))
    np.testing.assert_allclose(first.losses, second.losses, atol=1e-4)
    np.testing.assert_allclose(first.validation_losses, second.validation_losses, atol=1e-4)
    assert (first.rows == second.rows).all()

    # Of a model with dropout, whose random state is part of the bits.
    whole = start(record_from_disk, data, config("whole", 32, model=bert, epochs=6))
    assert finish(whole) == [0]
    killed = start(record_from_disk, data, config("killed", 32, model=bert, epochs=6))
    wait_for(tmp_path / "killed" / "trajectories" / "epoch-00002.safetensors", killed)
    os.kill(killed[0].pid, signal.SIGKILL)
    assert finish(killed) == [-signal.SIGKILL]
    assert finish(start(record_from_disk, data, config("killed", 32, model=bert, epochs=6))) == [0]
    assert snapshot(tmp_path / "whole") == snapshot(tmp_path / "killed")


def frame(**columns):
    return Dataset.from_dict({"text": ["one", "two", "three", "four"] * 5, "label": [0, 1] * 10, **columns})


def test_rows_that_cannot_be_recorded_are_refused(tmp_path, bert):
    def message(dataset, **changes):
        return error_of(record, settings(tmp_path / "run", **{"label_column": "label", **changes}), dataset)

    rows = frame()
    assert "name the one that holds the texts with `text_column` (one of 'text')" in message(rows, text_column=None)
    assert "`text_column` 'txt': no such column (it has 'text', 'label')" in message(rows, text_column="txt")
    assert "column 'label' holds int64, not texts" in message(rows, text_column="label")
    assert "`text_column` and `text_pair_column` are both 'text'" in message(rows, text_pair_column="text")
    assert "give `text_column` too" in message(rows, text_column=None, text_pair_column="text")
    assert "are both given: a model takes images or texts" in message(rows, image_column="text")
    assert "is to be the input and the label" in message(rows, label_column="text")
    assert "1 of 18 texts of column 'text' are null (rows 4)" in message(
        frame(text=[None if row == 4 else "a b c"[row % 3 :] + str(row) for row in range(20)])
    )
    assert "are empty (rows" in message(frame(text=["", *("a" * row for row in range(1, 20))]))
    one = message(frame(label=[1] * 20))
    assert one.startswith("column 'label' has fewer than two classes: all 20 rows are '1'")
    many = frame(label=[[0], [0, 1]] * 10).cast_column("label", List(ClassLabel(names=["a", "b"])))
    assert "column 'label' holds lists, as multi-label columns do, and each row has one class" in message(many)
    assert "`model` 'resnet18' does not take texts" in message(rows, model="resnet18")
    assert "`max_length` is 65, but `model`" in message(rows, model=bert, max_length=65)
    for name, value in (("image_size", 32), ("stem", "small"), ("channels_last", True), ("compile", True)):
        said = message(rows, **{name: value})
        assert said == f"`{name}` {value!r} goes with images, and 'text' holds texts: leave it out"
    assert not (tmp_path / "run").exists()


def test_settings_of_texts_are_refused_for_images(small, tmp_path):
    config = RecordConfig(max_length=9, output_dir=str(tmp_path / "run"))
    assert error_of(record, config, small["train"]) == (
        "`max_length` 9 goes with texts, and 'image' holds images: leave it out"
    )


def test_labels_may_be_strings_and_samples_of_another_split(tmp_path, rows):
    named = rows.cast_column("label", Value("int64")).map(lambda row: {"kind": f"module {row['label']}"})
    named = named.remove_columns("label").rename_column("text", 'the "text"')
    config = settings(tmp_path / "run", text_column='the "text"', label_column="kind", runs=2, rotate_validation=False)
    validation, train = named.select(range(40)), named.select(range(40, 240))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LTCWarning)
        recorded = record(config, train, validation)
    assert recorded.recipe["dataset"]["names"] == [f"module {number}" for number in range(4)]
    assert (recorded.validation_rows < 0).all() and len(recorded.validation_labels) == 40
    assert len(recorded.lengths) == 2 and recorded.recipe["reliability"]["runs"] == 2
    assert "are train rows too" in error_of(record, config, named, validation)
    assert "the dataset is not the recorded one" in error_of(
        recorded.attach, train.map(lambda row: {'the "text"': row['the "text"'].upper()})
    )


def test_what_is_told_of_texts_beside_images_is_of_the_texts(rows, tmp_path):
    """Where a dataset has images and other strings too: its identity, its page and its audit."""
    files = [{"bytes": encoded(np.full((8, 8), row, np.uint8)), "path": None} for row in range(len(rows))]
    both = rows.add_column("image", files, feature=Image())
    recorded = record(settings(tmp_path / "run", validation_fraction=0.2), both)
    assert list(recorded.recipe["dataset"]["content"]) == ["text"]
    recorded.attach(both.remove_columns(["image", "name"]))
    assert "'text' differs on the rows compared" in error_of(
        recorded.attach, both.map(lambda row: {"text": row["text"].upper()})
    )
    shown = previews(both, Recipe.from_dict(recorded.recipe).dataset, np.arange(3), np.arange(3))
    assert shown.kind == "text" and shown.values[0] == clipped(both[0]["text"], 400)
    # A train row with the text of a validation sample, under another name.
    texts, row = list(both["text"]), int(recorded.rows[5])
    texts[row] = texts[int(recorded.validation_rows[0])]
    copied = both.remove_columns("text").add_column("text", texts)
    identity = dataset_identity(copied, "label", text_columns=["text"])
    recipe = {**recorded.recipe, "dataset": {**recorded.recipe["dataset"], **identity}}
    kinds = audit(replace(recorded, recipe=recipe), copied, fraction=0.001)["kind"]
    assert kinds[5] == "shared with validation"


def test_the_least_tokens_of_a_pair(rows, bert, tmp_path):
    config = settings(tmp_path / "run", model=bert, text_column="name", text_pair_column="text", max_length=3)
    assert "puts 3 tokens around a pair of texts: raise it" in error_of(record, config, rows)


def test_the_weight_decay_is_as_its_help_says():
    told = next(each.metadata["help"] for each in fields(RecordConfig) if each.name == "weight_decay")
    assert "5e-4 for images and for SGD" in told
    assert settled(RecordConfig(text_column="text", optimizer="sgd"), InputColumns(text="text")).weight_decay == 5e-4


def test_the_command_records_scores_and_evaluates_texts(rows, tmp_path, capsys, bert):
    (tmp_path / "data").mkdir()
    for name, part in (("train", range(180)), ("test", range(180, 240))):
        rows.select(part).to_parquet(str(tmp_path / "data" / f"{name}.parquet"))
    data, run_folder = str(tmp_path / "data"), str(tmp_path / "run")

    def command(*words):
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    made = command("record", "--dataset", data, "--text-column", "text", "--epochs", "4", "--output-dir", run_folder)
    assert made["rows"] + made["validation_rows"] == 180
    scored = str(tmp_path / "scored")
    command("score", run_folder, "--output", scored)
    assert main(["select", scored, "--fraction", "0.3", "--output", str(tmp_path / "kept")]) == 0
    printed = capsys.readouterr().out
    assert "hf-ltc evaluate" in printed and "--models embedding_bag" in printed
    found = command(
        *("evaluate", run_folder, "--models", "embedding_bag", bert, "--fractions", "0.3", "--seeds", "1"),
        *("--epochs", "2", "--max-length", "40", "--no-full"),
        *("--baselines", "random", "s2l"),
    )
    # Chance orders the rows of a cluster, and agrees with nothing.
    (told,) = (method for method in found["methods"] if method["method"] == "s2l")
    assert told["reliability"] is None and told["mean_loss"] is None
    assert {row["model"] for row in found["cells"]} == {"embedding_bag", bert}
    assert {row["training"]["learning_rate"] for row in found["cells"]} == {1e-2, 5e-4}
    assert "evaluation.json" in names(tmp_path / "run" / "evaluation")
    quick = command("evaluate", run_folder, "--quick", "--fractions", "0.3", "--output-dir", str(tmp_path / "quick"))
    assert quick["judgements"][0]["model"] == "embedding_bag"
