"""hf-ltc select --judge, evaluate --quick, and the push of what was kept."""

import json
import shlex
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import DatasetDict, load_from_disk

from hf_ltc import Trajectories
from hf_ltc.cli.main import main
from hf_ltc.coresets.select import select_coreset
from hf_ltc.evaluation.judge import proxies
from hf_ltc.evaluation.judge.choices import OTHERS
from hf_ltc.evaluation.methods import DEFAULT_METHOD, chosen_rows
from tests import hub_clients as do
from tests.cli.test_main import as_json, refused, succeeds
from tests.judging import recorded

pytest_plugins = ["tests.hub_fixtures"]
CANDIDATES = [DEFAULT_METHOD, *OTHERS]
STEPS = ["--judge-steps", "3"]
KEEP = "To keep what is ahead: hf-ltc score this run, then hf-ltc select --judge."


@pytest.fixture(scope="module")
def place(small, tmp_path_factory):
    """A dataset, its recording, and what hf-ltc score makes of it; beside them the same without a test split."""
    folder = tmp_path_factory.mktemp("judge")
    DatasetDict(small).save_to_disk(folder / "data")
    DatasetDict({"train": small["train"]}).save_to_disk(folder / "alone")
    for data, run in (("data", "run"), ("alone", "no-test")):
        made = recorded(small["train"])
        made.recipe["dataset"]["path"] = str(folder / data)
        made.recipe["dataset"]["image_column"] = "image"
        made.save(folder / run)
        assert main(["score", str(folder / run), "--output", str(folder / f"{run}-scored")]) == 0
    return folder


@pytest.fixture
def best(monkeypatch):
    """Proxies of the candidate that is named as the best are right more often; no model is trained."""
    wanted = SimpleNamespace(name=DEFAULT_METHOD, calls=0)

    def spy(*arguments, **options):
        name = CANDIDATES[wanted.calls % len(CANDIDATES)]
        wanted.calls += 1
        return 0.9 if name == wanted.name else 0.5

    monkeypatch.setattr(proxies, "train_on", spy)
    return wanted


def judge(capsys, place, output, *options):
    line = ["select", place / "run-scored", "--fraction", "0.2", "--judge", *STEPS, "--output", output, *options]
    return as_json(capsys, *line)


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("name", CANDIDATES)
def test_the_coreset_is_that_of_the_candidate_that_is_named(place, small, tmp_path, capsys, best, name, seed):
    best.name = name
    found = judge(capsys, place, tmp_path / "kept", "--seed", seed)
    told = found["judge"]
    assert (told["kept"], told["rows"], told["steps"], told["seed"]) == (name, found["rows"], 3, seed)
    assert [each["name"] for each in told["candidates"]] == CANDIDATES
    run = Trajectories.load(place / "run")
    coreset, rows = load_from_disk(tmp_path / "kept"), run.rows[chosen_rows(name, run, 24, seed=seed)]
    assert coreset["image"][:] == small["train"].select(rows)["image"][:]
    # The recipe has what was compared, and the options that keep the same rows again.
    recipe = json.loads((tmp_path / "kept" / "recipe.json").read_text())["coreset"]
    assert recipe["judge"] == told and recipe["seed"] == seed and recipe["fraction"] == 0.2
    assert recipe["score_column"] in coreset.column_names
    same = {key: value for key, value in recipe.items() if key not in ("judge", "rows", "pool", "fraction", "size")}
    again = select_coreset(coreset, size=10, **same)
    assert len(again) == 10
    if name == DEFAULT_METHOD:
        # Nothing was changed.
        plain = ["select", place / "run-scored", "--fraction", "0.2", "--output", tmp_path / "plain", "--seed", seed]
        succeeds(capsys, *plain)
        assert load_from_disk(tmp_path / "plain").data.equals(coreset.data)


def test_what_is_printed_can_be_pushed_and_the_card_says_what_was_compared(
    hub, client, visitor, place, tmp_path, capsys, best, small
):
    for name, column, config in (
        ("dual_beta", "dual", "coreset-dual-20pct"),
        ("random", "random", "coreset-random-20pct"),
        (DEFAULT_METHOD, "ltc", "coreset-20pct"),
    ):
        best.name, best.calls, output = name, 0, tmp_path / f"kept-{column}"
        line = ["select", place / "run-scored", "--fraction", "0.2", "--judge", *STEPS, "--seed", "4"]
        said = succeeds(capsys, *line, "--output", output).splitlines()
        text = json.loads((output / "recipe.json").read_text())["coreset"]["judge"]["text"]
        assert (
            said[0] == text
            and "This is only advice" in said[1]
            and said[2].startswith("The coreset has 24 of the 120")
        )
        (pushing,) = [each.removeprefix("Next: hf-ltc ") for each in said if each.startswith("Next: hf-ltc ")]
        assert pushing == f"push {place / 'run'} data-ltc --judged {output} --private"
        repo = f"me/judged-{column}"
        assert client(main, [word.replace("data-ltc", repo) for word in shlex.split(pushing)]) == 0
        files = hub.dataset(repo).files
        made = json.loads(files["recipe.json"])["coresets"][column]["configs"][config]
        assert made["judge"]["text"] == text and made["judge"]["kept"] == name
        assert "judge" not in json.loads(files["recipe.json"])["coresets"][column]
        card = files["README.md"].decode().replace("\\", "")
        assert f"`{config}`: {text}" in card
        pushed, _ = client(do.load, repo, config)
        kept = load_from_disk(output)
        assert [row["image"]["bytes"] for row in pushed] == [row["image"]["bytes"] for row in do.content(kept)]
    # A push of the same again, with another budget and without the judgement, does not forget it.
    again = ["push", str(place / "run"), "me/judged-ltc", "--fractions", "0.2", "0.4"]
    assert client(main, again) == 0
    made = json.loads(hub.dataset("me/judged-ltc").files["recipe.json"])["coresets"]["ltc"]["configs"]
    assert made["coreset-20pct"]["judge"]["text"] == text and "judge" not in made["coreset-40pct"]


def test_real_models_judge_a_selection_of_ones_own(place, tmp_path, capsys):
    found = judge(capsys, place, tmp_path / "kept", "--typical", "0", "--min-per-class", "1")
    told = found["judge"]
    assert [each["name"] for each in told["candidates"]] == ["weighted-das", *OTHERS]
    assert all(0 <= value <= 1 for each in told["candidates"] for value in each["accuracies"])
    again = judge(capsys, place, tmp_path / "again", "--typical", "0", "--min-per-class", "1")["judge"]
    assert again["candidates"] == told["candidates"]
    assert load_from_disk(tmp_path / "kept").data.equals(load_from_disk(tmp_path / "again").data)


def test_other_selections_have_the_name_of_their_score(place, tmp_path, capsys, best):
    for options in (["--coverage", "stratified"], ["--keep", "lowest"]):
        told = judge(capsys, place, tmp_path / "kept", *options)["judge"]
        assert told["candidates"][0]["name"] == "ltc_score"
    # Without the run directory there are no margins, and without a number of epochs no DUAL.
    recipe = json.loads((place / "run-scored" / "recipe.json").read_text())
    moved = load_from_disk(place / "run-scored")
    moved.save_to_disk(tmp_path / "moved")
    recipe["score"]["run"] = str(tmp_path / "nowhere")
    (tmp_path / "moved" / "recipe.json").write_text(json.dumps(recipe))
    line = ["select", tmp_path / "moved", "--size", "30", "--judge", *STEPS, "--output", tmp_path / "out"]
    told = as_json(capsys, *line)["judge"]
    assert [each["name"] for each in told["candidates"]] == [DEFAULT_METHOD, "dual_beta", "random"]


def test_bad_input_of_select_and_push(place, tmp_path, capsys, best, small):
    with warnings.catch_warnings(action="ignore"):
        scored = Trajectories.load(place / "run").score(small["train"])
    scored.save_to_disk(tmp_path / "by-hand")
    recipe = json.loads((place / "run-scored" / "recipe.json").read_text())
    for name, rows, changes in (
        ("no-images", scored.remove_columns("image"), {}),
        ("no-config", scored, {"config": {}}),
        ("no-losses", scored.remove_columns("loss_trajectory"), {"score": {**recipe["score"], "run": "nowhere"}}),
    ):
        rows.save_to_disk(tmp_path / name)
        (tmp_path / name / "recipe.json").write_text(json.dumps({**recipe, **changes}))
    out = ["--output", tmp_path / "out"]
    judged = ["--fraction", "0.2", "--judge", *out]
    for line, message in [
        ([tmp_path / "by-hand", *judged], "there is no recipe with the rows of"),
        ([tmp_path / "no-images", *judged], "no column of type Image"),
        ([tmp_path / "no-config", *judged], "the recipe does not say how: record"),
        ([tmp_path / "no-losses", *judged], "no column 'loss_trajectory' in the dataset"),
        ([place / "run-scored", "--fraction", "0.2", *STEPS, *out], "--judge-steps 3 goes with --judge"),
        (
            [place / "run-scored", *judged, "--balance-column", "label"],
            "--judge trains classifiers of the recorded classes, and --balance-column is 'label': leave one",
        ),
        ([place / "run-scored", *judged, "--judge-steps", "0"], "--judge-steps is 0: it must be 1 or more"),
        ([place / "run-scored", "--fraction", "1", "--judge", *out], "all 120 candidate rows are kept"),
    ]:
        assert message in refused(capsys, "select", *line), line
    assert best.calls == 0 and not (tmp_path / "out").exists()
    succeeds(capsys, "select", place / "run-scored", "--fraction", "0.2", "--output", tmp_path / "plain")
    judge(capsys, place, tmp_path / "kept")
    best.name, best.calls = "ccs", 0
    judge(capsys, place, tmp_path / "drawn")
    for option in (["--coverage", "stratified"], ["--min-per-class", "1"], ["--exclude-negative"]):
        best.name, best.calls = DEFAULT_METHOD, 0
        output = tmp_path / option[0]
        judge(capsys, place, output, *option)
        said = refused(capsys, "push", place / "run", "me/refused", "--judged", output, "--space", "me/look")
        name = option[0].removeprefix("--").replace("-", "_")
        assert f"--space shows the order by score alone, and '{output}' was chosen with {name} " in said
    push = ["push", place / "run", "me/refused"]
    for line, message in [
        (["--judged", tmp_path / "plain"], "no judged coreset"),
        (["--judged", tmp_path / "nowhere"], "no judged coreset"),
        (["--judged", tmp_path / "kept", "--balance", "none"], "--balance 'none' is not what"),
        (["--judged", tmp_path / "kept", "--score-column", "el2n_score"], "--score-column 'el2n_score' is not what"),
        (["--judged", tmp_path / "kept", "--fractions", "0.3"], "`judgement` is of 24 rows, and the coresets"),
        (["--judged", tmp_path / "drawn", "--evaluation", tmp_path / "x"], "--evaluation has no models trained on"),
    ]:
        assert message in refused(capsys, *push, *line), line


@pytest.mark.parametrize("run", ["run", "no-test"])
def test_a_quick_evaluation_needs_no_test_rows(place, tmp_path, capsys, run):
    line = ["evaluate", place / run, "--fractions", "0.2", "0.4", "--quick", *STEPS, "--output-dir", tmp_path / "out"]
    found = as_json(capsys, *line)
    assert found["output_dir"] == str(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "judgements.json").read_text())
    assert written["judgements"] == found["judgements"]
    assert [each["rows"] for each in found["judgements"]] == [24, 48]
    assert [each["name"] for each in found["judgements"][0]["candidates"]] == CANDIDATES
    said = succeeds(capsys, *line).splitlines()
    assert [each.startswith("Judged at ") for each in said[:2]] == [True, True]
    assert said[3] == f"In {tmp_path / 'out'}: judgements.json."
    if run == "no-test":
        kept = {each["kept"] for each in found["judgements"]}
        push = f"Next: hf-ltc push {place / run} alone-ltc --fractions 0.2 0.4 --private --typical 25"
        assert said[4] == (push if kept == {DEFAULT_METHOD} else KEEP)
        return
    # The same candidates, tested: in the same folder.
    expected = f"Next: hf-ltc evaluate {place / run} --models test_resnet --fractions 0.2 0.4 --baselines"
    assert said[4] == f"{expected} dual_beta ccs random --output-dir {tmp_path / 'out'}"
    short = ["--seeds", "1", "--iterations", "1", "--batch-size", "16", "--no-full", "--fractions", "0.2"]
    words = [each for each in shlex.split(said[4].removeprefix("Next: hf-ltc ")) if each not in ("dual_beta", "ccs")]
    succeeds(capsys, *words, *short)
    assert {"judgements.json", "results.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    # And again after it.
    succeeds(capsys, *line)


def test_what_comes_next_builds_the_source_model_as_it_was_recorded(place, tmp_path, capsys, best):
    made = Trajectories.load(place / "run")
    made.recipe["config"] |= {"stem": "imagenet", "image_size": 16}
    made.save(tmp_path / "run")
    scored, coreset = tmp_path / "scored", tmp_path / "coreset"
    succeeds(capsys, "score", tmp_path / "run", "--output", scored)
    for line in (
        ["select", scored, "--fraction", "0.2", "--output", coreset],
        ["evaluate", tmp_path / "run", "--fractions", "0.2", "--quick", "--output-dir", tmp_path / "out"],
    ):
        (following,) = [each for each in succeeds(capsys, *line).splitlines() if each.startswith("Next: hf-ltc eval")]
        assert "--models test_resnet" in following
        assert "--stem imagenet --image-size 16" in following


def test_a_quick_evaluation_pushes_only_what_it_would_keep(place, tmp_path, capsys, best):
    line = ["evaluate", place / "no-test", "--fractions", "0.2", "--quick", "--output-dir", tmp_path / "out"]
    assert succeeds(capsys, *line).splitlines()[-1].endswith(" --private --typical 25")
    best.name = "random"
    assert succeeds(capsys, *line).splitlines()[-1] == KEEP
    best.name, best.calls = DEFAULT_METHOD, 0
    last = succeeds(capsys, *line, "--members", "das").splitlines()[-1]
    assert last.endswith(" --private --weighting none --typical 0")


def test_margins_of_another_recording_are_not_taken(place, tmp_path, capsys, best):
    """A recording that was made anew in the folder of the one that was scored."""
    shutil.copytree(place / "run", tmp_path / "run")
    assert main(["score", str(tmp_path / "run"), "--output", str(tmp_path / "scored")]) == 0
    capsys.readouterr()
    line = ["select", tmp_path / "scored", "--fraction", "0.2", "--judge", *STEPS, "--output", tmp_path / "kept"]
    names = [each["name"] for each in as_json(capsys, *line)["judge"]["candidates"]]
    assert names == CANDIDATES
    other = Trajectories.load(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    replace(other, losses=other.losses + 1).save(tmp_path / "run")
    names = [each["name"] for each in as_json(capsys, *line)["judge"]["candidates"]]
    assert names == [each for each in CANDIDATES if each != "ccs"]


def test_bad_input_of_a_quick_evaluation(place, tmp_path, capsys, best):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    out = ["--quick", "--output-dir", tmp_path / "out"]
    for line, message in [
        ([place / "run", *out, "--models", "test_vit"], "--models ['test_vit'] goes not with --quick"),
        ([place / "run", *out, "--iterations", "5"], "--iterations 5 goes not with --quick"),
        ([place / "run", *out, "--no-augment"], "--augment False goes not with --quick"),
        ([place / "run", *out, "--members", "best"], "no method 'best'"),
        ([place / "run", *out, "--fractions", "0.01"], "is 1 rows, fewer than the"),
        ([place / "run", place / "no-test", *out], "--quick takes one RUN, and 2 are given"),
        ([place / "run", "--quick", "--output-dir", tmp_path / "taken"], "holds other files and no evaluation.json"),
        ([place / "run", *out, "--fractions", "0.2", "1"], "all 120 candidate rows are kept"),
        ([place / "run", "--output-dir", tmp_path / "out", *STEPS], "--judge-steps 3 goes with --quick"),
        ([tmp_path / "nothing", *out], "no run directory"),
    ]:
        assert message in refused(capsys, "evaluate", *line), line
    assert not (tmp_path / "out").exists()
    assert [path.name for path in Path(tmp_path / "taken").iterdir()] == ["mine"]
    # All budgets are looked at before any model is trained.
    assert best.calls == 0
