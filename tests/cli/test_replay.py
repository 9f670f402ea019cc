"""hf-ltc record --from-recipe: the same losses to the bit, of the same dataset, from a folder, a file and the Hub."""

import contextlib
import io
import json
from pathlib import Path

import pytest
from datasets import DatasetDict

from hf_ltc import RecordConfig, record
from hf_ltc.cli.main import main
from hf_ltc.scores.protocol import losses_digest
from hf_ltc.trajectories.value import Trajectories
from tests.cli.test_main import as_json, refused, succeeds

pytest_plugins = ["tests.hub_fixtures"]
# Not one at its default, which would be what a replay has anyway.
RECORD = ["--model", "test_vit", "--epochs", "2", "--batch-size", "32", "--learning-rate", "0.02", "--seed", "3"]
RECORD += ["--schedule", "cosine", "--signals", "margin", "--validation-fraction", "0.2", "--validation-seed", "1"]


@pytest.fixture(scope="module")
def place(small: DatasetDict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and recordings of it: of two seeds that hold other rows out, and with a validation split."""
    folder = tmp_path_factory.mktemp("replayed")
    small.save_to_disk(str(folder / "data"))
    for name, options in (
        ("rotated", ["--runs", "2", "--rotate-validation"]),
        ("split", ["--validation-split", "test", "--split", "train[:100]"]),
    ):
        line = ["record", "--dataset", folder / "data", *RECORD, *options, "--output-dir", folder / name]
        assert main([str(word) for word in line]) == 0
    return folder


def digest_of(folder: Path) -> str:
    return losses_digest(Trajectories.load(folder))


@pytest.mark.parametrize("recipe", ["rotated", "split/recipe.json"])
def test_a_recording_is_replayed_to_the_bit(place, tmp_path, capsys, recipe):
    line = ["record", "--from-recipe", place / recipe, "--output-dir", tmp_path / "again"]
    found = as_json(capsys, *line)
    was = (place / recipe).parent if recipe.endswith(".json") else place / recipe
    assert digest_of(tmp_path / "again") == digest_of(was) and found["same_losses"] is True
    now, before = (json.loads((folder / "recipe.json").read_text()) for folder in (tmp_path / "again", was))
    assert {**now["config"], "output_dir": None} == {**before["config"], "output_dir": None}
    assert now["dataset"] == before["dataset"] and now["validation"] == before["validation"]
    # The same again is the same run.
    assert f"The losses are those of {was}, to the bit." in succeeds(capsys, *line)


def test_losses_that_differ_are_told(place, tmp_path, capsys):
    recipe = json.loads((place / "split" / "recipe.json").read_text())
    # As another version of a library would do.
    recipe["config"]["learning_rate"] = 0.03
    recipe["versions"]["torch"] = "1.0"
    Trajectories.load(place / "split").save(tmp_path / "other")
    (tmp_path / "other" / "recipe.json").write_text(json.dumps(recipe))
    assert main([*map(str, ["record", "--from-recipe", tmp_path / "other", "--output-dir", tmp_path / "again"])]) == 0
    said = capsys.readouterr()
    assert f"The losses differ from those of {tmp_path / 'other'} by up to " in said.out
    assert "it was recorded with torch 1.0, now " in said.err


def test_what_cannot_be_replayed_is_refused(place, small, tmp_path, capsys):
    line = ["record", "--output-dir", tmp_path / "again", "--from-recipe"]
    assert "--epochs 5 goes not with --from-recipe" in refused(capsys, *line, place / "split", "--epochs", "5")
    assert "--split 'test' goes not with --from-recipe" in refused(capsys, *line, place / "split", "--split", "test")
    shuffled = DatasetDict({**small, "train": small["train"].shuffle(seed=1)})
    shuffled.save_to_disk(str(tmp_path / "shuffled"))
    said = refused(capsys, *line, place / "rotated", "--dataset", tmp_path / "shuffled")
    assert "give the dataset as it was recorded" in said
    DatasetDict({**small, "test": small["test"].select(range(39))}).save_to_disk(str(tmp_path / "fewer"))
    assert "39 rows" in refused(capsys, *line, place / "split", "--dataset", tmp_path / "fewer")
    assert "has no recipe.json" in refused(capsys, *line, place / "data")
    assert "no such recipe: './nowhere'" in refused(capsys, *line, "./nowhere")
    assert "is one of several runs" in refused(capsys, *line, place / "rotated" / "seed-4")
    itself = ["record", "--from-recipe", place / "split", "--output-dir", place / "split"]
    assert "is the recorded run itself: give a new folder" in refused(capsys, *itself)
    assert "nothing to record: give --dataset, or --from-recipe" in refused(capsys, "record")
    # Neither of these was recorded by the command.
    Trajectories([[1.0]] * 3, [[1.0]] * 3, [0], [0]).save(tmp_path / "elsewhere")
    assert "it is of a training of your own" in refused(capsys, *line, tmp_path / "elsewhere")
    config = RecordConfig(model="test_resnet", epochs=2, batch_size=32, output_dir=str(tmp_path / "python"))
    record(config, small["train"], small["test"])
    assert "were given in Python" in refused(capsys, *line, tmp_path / "python", "--dataset", place / "data")
    record(RecordConfig(**{**config.to_dict(), "output_dir": str(tmp_path / "held")}), small["train"])
    assert "does not say where its dataset is" in refused(capsys, *line, tmp_path / "held")
    assert not (tmp_path / "again").exists()


def commands(*lines: list[str]) -> str:
    """What commands print, in a process that reaches the Hub."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for line in lines:
            assert main(line) == 0, line
    return said.getvalue()


def test_what_was_pushed_is_replayed(place, client, visitor, tmp_path):
    run, data = str(place / "rotated"), str(place / "data")
    pushing = ["push", run, "me/replayed", "--fractions", "0.2", "0.5", "--preset", "cld", "--balance", "none"]
    client(commands, pushing)
    # The folder of the dataset is not told to others.
    line = ["record", "--from-recipe", "me/replayed", "--output-dir", str(tmp_path / "again")]
    said = visitor(commands, [*line, "--dataset", data])
    assert digest_of(tmp_path / "again") == digest_of(place / "rotated")
    (following,) = [each for each in said.splitlines() if each.startswith("Next: ")]
    assert following.startswith(f"Next: hf-ltc push {tmp_path / 'again'} ")
    assert "--fractions 0.2 0.5" in following and "--of differences" in following and "--balance none" in following
