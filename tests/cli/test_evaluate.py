"""hf-ltc evaluate as a user types it, and what hf-ltc push makes of its results."""

import json
import re
import shlex
import shutil

import pytest
from datasets import DatasetDict

from hf_ltc import Trajectories, load_split
from hf_ltc.cli.main import main
from hf_ltc.evaluation.pictures import markdown
from hf_ltc.evaluation.results import Evaluation, card_rows
from hf_ltc.hub.repository import Pushed
from hf_ltc.scores.ltc import DEFAULT, DEFAULT_PRESET
from hf_ltc.scores.protocol import losses_digest
from tests.cli.test_main import as_json, refused, succeeds

RECORD = ["--model", "test_resnet", "--epochs", "2", "--batch-size", "32", "--learning-rate", "0.02"]
QUICK = ["--models", "test_vit", "--fractions", "0.2", "--seeds", "1", "--iterations", "2", "--batch-size", "16"]


@pytest.fixture(scope="module")
def place(small, tmp_path_factory):
    """A dataset with a test split, and a run recorded on its train split, beside one with other validation samples."""
    folder = tmp_path_factory.mktemp("command")
    splits = {**small, "validation": small["test"].select(range(20)), "test": small["test"].select(range(20, 40))}
    DatasetDict(splits).save_to_disk(str(folder / "data"))
    for name, options in (("run", []), ("split", ["--validation-split", "validation"])):
        line = ["record", "--dataset", folder / "data", *RECORD, *options, "--output-dir", folder / name]
        assert main([str(word) for word in line]) == 0
    return folder


def test_evaluate_prints_its_tables_and_what_comes_next(place, tmp_path, capsys):
    shutil.copytree(place / "run", tmp_path / "run")
    line = ["evaluate", tmp_path / "run", *QUICK]
    said = succeeds(capsys, *line)
    found = Evaluation.load(tmp_path / "run" / "evaluation" / "results.json")
    assert said.startswith(markdown(found))
    folder = tmp_path / "run" / "evaluation"
    assert f"Written to {folder}: results.json, results.md, accuracy.png." in said
    pushing = f"Next: hf-ltc push {tmp_path / 'run'} data-ltc --fractions 0.2 --evaluation {folder}/results.json"
    assert pushing in said
    (seeing,) = [
        line.removeprefix("To see it: hf-ltc ") for line in said.splitlines() if line.startswith("To see it: ")
    ]
    succeeds(capsys, *shlex.split(seeing))
    assert "What the rows are worth" in (tmp_path / "run" / "report.html").read_text("utf-8")
    assert [trial["method"] for trial in found.trials] == ["full", DEFAULT_PRESET, "random"]
    # The same again trains nothing; more methods, as JSON, train theirs.
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    more = as_json(capsys, *line, "--members", DEFAULT_PRESET, "levels-losses-class", "--no-full")
    assert more["output_dir"] == str(folder)
    assert [cell["method"] for cell in more["cells"]] == ["full", DEFAULT_PRESET, "random", "levels-losses-class"]
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    assert after.items() > before.items() and len(after) == len(before) + 1
    # A finished run stays one that hf-ltc record finds finished.
    succeeds(capsys, "record", "--dataset", place / "data", *RECORD, "--output-dir", tmp_path / "run")


def test_evaluate_recommends_a_budget_and_goes_on_where_it_was_stopped(place, tmp_path, capsys):
    shutil.copytree(place / "run", tmp_path / "run")
    line = ["evaluate", tmp_path / "run", *QUICK[:2], *QUICK[6:], "--seeds", "2", "--recommend", "0.9"]
    refusals = {
        "--no-full": "--members are weighted-das, --full is False, --seeds 2",
        "--seeds=1": "by 2 --seeds or more",
        "--fractions=0.5": "--recommend finds budgets itself: leave --fractions 0.5 out",
        "--models=test_resnet test_vit": "1 recordings and 2 models are given: give one",
    }
    for option, said in refusals.items():
        name, _, values = option.partition("=")
        assert said in refused(capsys, *line, name, *values.split())
    assert not (tmp_path / "run" / "evaluation").exists()
    found = as_json(capsys, *line)
    recommended = found["recommendation"]
    # Whatever two steps teach, it is within 90 points of that: down to a row of each class.
    assert recommended["fraction"] == 0.1 and recommended["rows"] == 13
    assert recommended["cost"]["models"] == len(found["cells"])
    folder = tmp_path / "run" / "evaluation"
    assert json.loads((folder / "results.json").read_text())["recommendation"] == recommended
    said = succeeds(capsys, *line)
    assert said.startswith("Keep 10% of the rows (13 of ")
    assert "--fractions 0.1 --evaluation" in said.splitlines()[-1]
    assert (folder / "results.md").read_text().splitlines()[2] == said.splitlines()[0]
    # What was lost is trained again, and nothing else.
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    lost = sorted(before)[0]
    (folder / "cells" / lost).unlink()
    assert as_json(capsys, *line)["recommendation"]["budgets"] == recommended["budgets"]
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {lost}
    # It stays when more is evaluated, and is on the page and the card.
    more = as_json(capsys, "evaluate", tmp_path / "run", *QUICK)
    assert more["recommendation"]["fraction"] == 0.1
    succeeds(capsys, "report", tmp_path / "run", "--evaluation", folder / "results.json")
    assert "Keep 10% of the rows (13 of " in (tmp_path / "run" / "report.html").read_text("utf-8")
    of_run = Trajectories.load(tmp_path / "run")
    rows = card_rows(Evaluation.load(folder / "results.json"), losses_digest(of_run), DEFAULT, "class", 0.0, 25)
    assert [row["rows"] for row in rows if "smallest" in row["rows"]] == [
        f"coreset by {DEFAULT_PRESET}, 10% (the smallest within 90 points of full data)"
    ]


def test_validation_samples_that_the_recording_does_not_name_are_asked_for(place, tmp_path, capsys):
    shutil.copytree(place / "split", tmp_path / "run")
    # As record leaves it where Python gave it the samples.
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    recipe["validation"]["split"] = None
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(recipe))
    line = ["evaluate", tmp_path / "run", *QUICK, "--no-full"]
    said = refused(capsys, *line)
    assert "the 20 validation samples of the recording 'test_resnet' are no rows of the recorded dataset" in said
    assert not (tmp_path / "run" / "evaluation").exists()
    assert "no split 'held'" in refused(capsys, *line, "--validation-split", "held")
    assert "; 5 were)" in refused(capsys, *line, "--validation-split", "test[:5]")
    shared = refused(capsys, *line, "--validation-split", "test")
    assert "100% of the test rows are in the validation samples too" in shared
    succeeds(capsys, *line, "--validation-split", "validation")


def test_several_runs_are_named_by_their_model_or_folder(place, tmp_path, capsys):
    line = ["record", "--dataset", place / "data", *RECORD, "--model", "test_vit", "--output-dir", tmp_path / "vit"]
    succeeds(capsys, *line)
    quick = [*QUICK, "--no-full", "--output-dir"]
    found = as_json(capsys, "evaluate", place / "run", tmp_path / "vit", *quick, tmp_path / "out")
    assert {name: each["model"] for name, each in found["sources"].items()} == {
        "test_resnet": "test_resnet",
        "test_vit": "test_vit",
    }
    shutil.copytree(place / "run", tmp_path / "again")
    paths = [place / "run", tmp_path / "again"]
    found = as_json(capsys, "evaluate", *paths, *quick, tmp_path / "other")
    names = ["test_resnet-run", "test_resnet-again"]
    assert list(found["sources"]) == names
    assert [cell["source"] for cell in found["cells"]] == [*names, None]
    first, second, _ = found["cells"]
    assert first["accuracy"] == second["accuracy"]


def test_bad_input_of_evaluate(place, tmp_path, capsys):
    run, split = place / "run", place / "split"
    out = ["--output-dir", tmp_path / "out"]
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    for line, message in [
        ([], "the following arguments are required: RUN"),
        (["nothing", *out], "no run directory 'nothing'"),
        ([run, run, *out], "the same RUN is given twice"),
        ([run, *out, "--dataset", tmp_path / "nowhere"], "nowhere"),
        (
            [run, *out, "--test-split", "held"],
            r"--test-split 'held': no split 'held' .* it has train \(150 rows\), test",
        ),
        ([run, *out, "--test-split", "train"], "100% of the test rows are in the recorded dataset too"),
        ([run, *out, "--test-split", "train[:20]"], "give other --test-split rows"),
        ([split, *out, "--test-split", "validation"], "the test rows are the validation samples of the recording"),
        ([split, *out, "--test-split", "validation[5:]"], "100% of the test rows are in the validation samples too"),
        ([run, *out, "--models", "resnet81"], "'resnet81' is no timm model: did you mean"),
        ([run, *out, "--members", "best"], "no method 'best': there are ltc, cld"),
        ([run, *out, "--baselines", "random", "aum"], "aum needs the signal 'margin', which was not recorded"),
        (
            [run, *out, "--fractions", "0.05"],
            r"--fractions 0.05 of the \d+ candidate rows is \d rows, fewer",
        ),
        ([run, *out, "--fractions", "1.5"], r"--fractions is 1.5: it must be inside \(0, 1\]"),
        ([run, *out, "--fractions", "few"], "argument --fractions: invalid float value: 'few'"),
        ([run, *out, "--seeds", "0"], "--seeds is 0: it must be 1 or more"),
        ([run, *out, "--protocol", "steps"], "argument --protocol: invalid choice: 'steps'"),
        ([run, *out, "--protocol", "epochs", "--iterations", "3"], "--iterations 3 goes with --protocol iterations"),
        ([run, "--output-dir", tmp_path / "taken"], "holds other files and no evaluation.json"),
        ([run, "--output-dir", tmp_path / "taken" / "mine"], "is a file"),
        ([run, *out, "--losses", "evaluation"], "has no evaluation losses"),
    ]:
        assert re.search(message, refused(capsys, "evaluate", *line)), line
    assert not (tmp_path / "out").exists() and not (run / "evaluation").exists()


@pytest.fixture
def pushed(monkeypatch):
    """The options of each push, which goes nowhere."""
    found = []

    def push(scored, repo_id, fractions, sizes, **options):
        found.append(options)
        return Pushed(repo_id, "https://hub", "0" * 40, ("coreset-20pct",))

    monkeypatch.setattr("hf_ltc.hub.push.push_coreset", push)
    return found


def test_results_of_rows_joined_by_id_are_those_of_the_recording(place, tmp_path, capsys, pushed):
    data = DatasetDict.load_from_disk(str(place / "data"))
    data["train"] = data["train"].add_column("key", [f"row {row}" for row in range(150)])
    data.save_to_disk(str(tmp_path / "data"))
    line = ["record", "--dataset", tmp_path / "data", *RECORD, "--id-column", "key", "--output-dir", tmp_path / "run"]
    succeeds(capsys, *line)
    data["train"] = data["train"].shuffle(seed=3).flatten_indices()
    data.save_to_disk(str(tmp_path / "shuffled"))
    for name in ("shuffled", "data"):
        given = ["--dataset", tmp_path / name]
        succeeds(capsys, "evaluate", tmp_path / "run", *given, *QUICK, "--output-dir", tmp_path / f"out-{name}")
        results = tmp_path / f"out-{name}" / "results.json"
        line = ["push", tmp_path / "run", "me/coreset", *given, "--fractions", "0.2", "--evaluation", results]
        succeeds(capsys, *line)
    assert len(pushed) == 2 and all(options["evaluation"] for options in pushed)


def test_push_puts_the_results_on_the_card(place, tmp_path, capsys, pushed):
    evaluate = ["evaluate", place / "run", *QUICK, "--members", "ltc", "cld", "--output-dir", tmp_path / "out"]
    found = as_json(capsys, *evaluate)
    line = [
        "push",
        place / "run",
        "me/coreset",
        "--fractions",
        "0.2",
        "--evaluation",
        tmp_path / "out" / "results.json",
        "--typical",
        "0",
    ]
    for preset in ("ltc", "cld"):
        succeeds(capsys, *line, "--preset", preset)
    reached = {row["method"]: row["accuracy"] for row in found["results"]}
    for options, method in zip(pushed, ("ltc", "cld")):
        rows = {row["rows"]: row for row in options["evaluation"]}
        assert list(rows) == ["full data", f"coreset by {method}, 20%", "random subset, 20%"]
        assert rows[f"coreset by {method}, 20%"]["accuracy"] == reached[method]
        assert rows["full data"]["protocol"] == "2 steps, last one"
        assert options["pictures"] == [tmp_path / "out" / "accuracy.png"]
    # A folder of before there was typicality is ranked by the score alone, whatever the default is.
    older = Trajectories.load(place / "run").score(load_split(place / "data"), preset="ltc", typical=0)
    older.save_to_disk(tmp_path / "older")
    succeeds(capsys, *line[:-2], "--preset", "ltc", "--scored", tmp_path / "older")
    assert "coreset by ltc, 20%" in {row["rows"] for row in pushed.pop()["evaluation"]}
    assert "of --balance class, the coresets pushed are of none" in refused(
        capsys, *line, "--preset", "ltc", "--balance", "none"
    )
    assert "no results of weighted-das or levels-" in refused(capsys, *line, "--of", "levels")
    assert "no results of typical-ltc or " in refused(capsys, *line[:-1], "25", "--preset", "ltc")
    assert "} with --typical 0.1, but of " in refused(capsys, *line[:-1], "0.1", "--preset", "ltc")
    line[1] = place / "split"
    assert "--evaluation is of other recordings" in refused(capsys, *line)
    line[-1] = tmp_path / "nothing.json"
    assert str(tmp_path / "nothing.json") in refused(capsys, *line)
    assert len(pushed) == 2
    assert json.loads((tmp_path / "out" / "results.json").read_text())["format"] == 1
