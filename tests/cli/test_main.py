"""The commands as a user types them: what they print, write and return, also for bad input."""

import dataclasses
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_from_disk

from hf_ltc.cli.demo import digits
from hf_ltc.cli.main import _parser, main
from hf_ltc.cli.select import HALF_OR_MORE
from hf_ltc.cli.terminal import spelled
from hf_ltc.config import EvaluateConfig, RecordConfig
from hf_ltc.coresets.order import coreset_order
from hf_ltc.coresets.overlap import overlap
from hf_ltc.coresets.select import select_coreset
from hf_ltc.data.columns import read_column
from hf_ltc.scores.ltc import ltc_scores, score_variant
from hf_ltc.scores.reliability import within_class_spearman
from hf_ltc.scores.scorers import baseline_scores
from hf_ltc.scores.typicality import ltc_typicality
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.compare import reliability
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils import files
from hf_ltc.utils.errors import InputError

RECORD = ["--model", "test_resnet", "--epochs", "3", "--batch-size", "32", "--learning-rate", "0.02"]


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        code = stopped.code
    said = capsys.readouterr()
    return code, said.out, said.err


def succeeds(capsys, *arguments):
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    assert "Traceback" not in err
    return out


def warned_of(capsys, *arguments):
    """The warnings of a command that succeeds, each a line of stderr of its own, with JSON for its results."""
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0 and json.loads(out)
    lines = [line for line in err.splitlines() if line.startswith("hf-ltc: warning: ")]
    assert len(set(lines)) == len(lines) == err.count("warning")
    return "\n".join(lines)


def as_json(capsys, *arguments):
    def reject(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(succeeds(capsys, *arguments, "--json"), parse_constant=reject)


def refused(capsys, *arguments):
    """The one line that a command says of bad input."""
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("hf-ltc: error: ")
    return line


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """150 digits, two runs of other seeds recorded on them, a value of two runs, and scores of the first."""
    folder = tmp_path_factory.mktemp("cli")
    train, _ = digits()
    train.shuffle(seed=0).select(range(150)).flatten_indices().save_to_disk(folder / "data")
    for seed in (0, 1):
        line = [
            "record",
            "--dataset",
            folder / "data",
            *RECORD,
            "--seed",
            seed,
            "--output-dir",
            folder / f"run-{seed}",
        ]
        assert main([str(word) for word in line]) == 0
    runs = [Trajectories.load(folder / f"run-{seed}") for seed in (0, 1)]
    Trajectories.average(runs).save(folder / "both")
    assert main(["score", str(folder / "run-0"), "--output", str(folder / "scored")]) == 0
    return folder


def copy(place, folder, name="run-0"):
    shutil.copytree(place / name, folder / name)
    return folder / name


# record, score, select, compare


def test_record_makes_a_run(place, tmp_path, capsys):
    line = ["record", "--dataset", place / "data", *RECORD, "--output-dir", tmp_path / "run"]
    said = succeeds(capsys, *line)
    made = Trajectories.load(tmp_path / "run")
    assert made.recipe["dataset"]["path"] == str(place / "data")
    assert f"Recorded {len(made):,} rows and {len(made.validation_rows):,} validation samples at 4 checkpoints" in said
    assert f"Next: hf-ltc score {tmp_path / 'run'} --output" in said
    # The same command again finds it finished.
    before = tree(tmp_path)
    found = as_json(capsys, *line)
    assert tree(tmp_path) == before
    assert found["run"] == str(tmp_path / "run")
    assert (found["rows"], found["validation_rows"]) == (len(made), len(made.validation_rows))
    assert found["checkpoints"] == [4]
    assert found["validation_loss"] == pytest.approx(float(made.validation_losses[-1].mean()))
    assert found["reliability"] is None


def test_record_several_runs_and_score_them(place, tmp_path, capsys):
    line = ["record", "--dataset", place / "data", *RECORD, "--runs", "2", "--output-dir", tmp_path / "runs"]
    found = as_json(capsys, *line)
    made = Trajectories.load(tmp_path / "runs")
    assert found["checkpoints"] == [4, 4]
    assert found["reliability"] == reliability(made).to_dict()
    assert f"Reliability {found['reliability']['one']:.2f} for one run" in succeeds(capsys, *line)
    scored = as_json(capsys, "score", tmp_path / "runs", "--output", tmp_path / "scored", "--preset", "cld")
    # The reliability is that of the score that was asked for.
    assert scored["reliability"] == reliability(made, preset="cld").to_dict()
    assert scored["reliability"] != found["reliability"]


def test_record_with_a_validation_split(tmp_path, capsys):
    train, test = digits()
    data = DatasetDict(train=train.shuffle(seed=0).select(range(120)), test=test.select(range(40)))
    data.save_to_disk(tmp_path / "data")
    line = ["record", "--dataset", tmp_path / "data", *RECORD, "--output-dir", tmp_path / "run"]
    found = as_json(capsys, *line, "--split", "train[:100]", "--validation-split", "test")
    assert (found["rows"], found["validation_rows"]) == (100, 40)
    scored = as_json(capsys, "score", tmp_path / "run", "--output", tmp_path / "scored")
    assert (scored["rows"], scored["scored"], scored["held_out"]) == (100, 100, 0)


@pytest.mark.parametrize("family", [{}, {"preset": "cld"}, {"of": "levels", "scope": "class"}], ids=str)
@pytest.mark.parametrize("name", ["run-0", "both"])
def test_score_adds_the_columns(place, tmp_path, capsys, family, name):
    options = [word for key, value in family.items() for word in (f"--{key}", value)]
    line = ["score", place / name, "--output", tmp_path / "scored", "--balance", "none", *options]
    found = as_json(capsys, *line)
    made, scored = Trajectories.load(place / name), load_from_disk(tmp_path / "scored")
    wanted = made.score(load_from_disk(place / "data"), balance="none", **family)
    for column in ("label", "loss_trajectory", "ltc_score", "ltc_rank"):
        assert read_column(scored, column).to_pylist() == read_column(wanted, column).to_pylist()
    scores = ltc_scores(made, **family)
    assert found["mean"] == pytest.approx(float(scores.mean()), abs=1e-6)
    assert (found["rows"], found["scored"], found["flat"], found["held_out"]) == (150, len(made), 0, 150 - len(made))
    assert (found["reliability"] is None) == (name == "run-0")
    assert found["mean_loss_correlation"] == pytest.approx(
        within_class_spearman(scores, baseline_scores(made, "mean_loss"), made.labels)
    )
    recipe = json.loads((tmp_path / "scored" / "recipe.json").read_text())
    # Every choice, so that it means the same with another default.
    assert recipe["score"]["family"] == score_variant(**family)
    assert recipe["dataset"]["rows"] == 150
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scored"]


def test_score_counts_flat_rows(place, tmp_path, capsys):
    run_folder = copy(place, tmp_path)
    marks = {"run": json.loads((run_folder / "recipe.json").read_text())["run"]}
    for epoch in range(4):
        arrays = files.read_arrays(run_dir.epoch_path(run_folder, epoch))
        arrays["training_loss"] = np.where(np.arange(len(arrays["training_loss"])) < 3, 1, arrays["training_loss"])
        arrays["training_loss"] = arrays["training_loss"].astype(np.float32)
        files.write_arrays(run_dir.epoch_path(run_folder, epoch), arrays, {**marks, "epoch": str(epoch)})
    found = as_json(capsys, "score", run_folder, "--output", tmp_path / "scored")
    assert (found["flat"], found["scored"] + found["held_out"]) == (3, 147)
    assert "3 flat" in succeeds(capsys, "score", run_folder, "--output", tmp_path / "again")


@pytest.mark.parametrize(
    ("name", "part", "has"), [("run-0", ".", "epochs up to 2"), ("both", "seed-1", "1 of 2 runs")]
)
def test_what_comes_of_an_interrupted_recording_says_so(place, tmp_path, capsys, name, part, has):
    folder = copy(place, tmp_path, name)
    recipe = folder / part / "recipe.json"
    whole = json.loads(recipe.read_text())
    recipe.write_text(json.dumps({key: value for key, value in whole.items() if key != "epochs"}))
    (folder / part / "trajectories" / "epoch-00003.safetensors").unlink()
    said = f"{name}' is not finished, and this is of the {has} that are there: run the same hf-ltc record command"
    for line in (["score", folder, "--output", tmp_path / "scored"], ["audit", folder], ["compare", folder, folder]):
        assert said in warned_of(capsys, *line)
    assert "is not finished" not in warned_of(capsys, "audit", place / name)


def test_score_warns_where_hard_rows_come_first(place, tmp_path, capsys):
    run = Trajectories.load(place / "run-0")
    # A quarter of the rows is learned when the validation samples are; the others were known from the start, or never
    # are.
    alike, shape = np.arange(len(run)) % 4 == 0, run.losses.shape
    validation = np.array([2.0, 1.9, 0.5, 0.4])[:, None]
    noise = np.random.default_rng(0).uniform(0, 0.05, shape)
    for name, level, warned in (("known", 0.1, True), ("never", 3.0, False)):
        made = dataclasses.replace(
            run,
            losses=(np.where(alike, validation, level) + noise).astype(np.float32),
            validation_losses=np.broadcast_to(validation, run.validation_losses.shape).astype(np.float32),
        )
        made.save(tmp_path / name)
        for typical in ("0", "0.1"):
            output = tmp_path / f"{name}-scored-{typical}"
            said = warned_of(capsys, "score", tmp_path / name, "--typical", typical, "--output", output)
            assert ("rows consists of the hardest ones" in said) == (warned and typical == "0")
            select = ("select", output, "--fraction", "0.1", "--typical", typical, "--output", f"{output}-10pct")
            assert ("rows consists of the hardest ones" in warned_of(capsys, *select)) == (warned and typical == "0")


def test_scores_of_two_differences_are_said_to_be_coarse(place, tmp_path, capsys):
    Trajectories.load(place / "run-0").truncate(2).save(tmp_path / "short")
    warned = [["--preset", "ltc"], ["--preset", "cld"], ["--of", "differences"]]
    for number, options in enumerate([*warned, [], ["--of", "levels"], ["--scope", "class"]]):
        said = warned_of(capsys, "score", tmp_path / "short", *options, "--output", tmp_path / f"scored-{number}")
        assert ("With two differences, every correlation is 1 or -1" in said) == (options in warned)
    enough = warned_of(capsys, "score", place / "run-0", "--preset", "ltc", "--output", tmp_path / "other")
    assert "two differences" not in enough


def test_a_preset_is_its_four_choices(place, tmp_path, capsys):
    choices = ["--of", "differences", "--aggregate", "correlations", "--scope", "dataset", "--weighting", "none"]
    for name, options in (("choices", choices), ("preset", ["--preset", "ltc"]), ("default", [])):
        succeeds(capsys, "score", place / "run-0", *options, "--output", tmp_path / name)
    one, two, default = (load_from_disk(tmp_path / name) for name in ("choices", "preset", "default"))
    for column in ("ltc_score", "ltc_rank"):
        assert read_column(one, column).to_pylist() == read_column(two, column).to_pylist()
    assert read_column(default, "ltc_score").to_pylist() != read_column(two, "ltc_score").to_pylist()
    recipes = [json.loads((tmp_path / name / "recipe.json").read_text()) for name in ("choices", "preset")]
    assert recipes[0]["score"] == recipes[1]["score"]
    found = [as_json(capsys, "compare", place / "run-0", place / "run-1", *o) for o in (choices, ["--preset", "ltc"])]
    # What is to be run next has the options as they were given.
    assert found[0].pop("next") != found[1].pop("next") and found[0] == found[1]


def test_a_choice_that_contradicts_the_preset_is_refused(place, tmp_path, capsys):
    for line in (
        ["score", place / "run-0", "--output", tmp_path / "scored"],
        ["push", place / "run-0", "me/coreset", "--fractions", "0.2"],
        ["compare", place / "run-0", place / "run-1"],
    ):
        said = refused(capsys, *line, "--preset", "ltc", "--weighting", "uncertainty")
        assert "--preset 'ltc' has weighting='none': leave weighting='uncertainty' out" in said
    assert list(tmp_path.iterdir()) == []


def test_score_finds_the_dataset_elsewhere(place, tmp_path, capsys):
    shutil.copytree(place / "data", tmp_path / "moved")
    run_folder = copy(place, tmp_path)
    recipe = json.loads((run_folder / "recipe.json").read_text())
    recipe["dataset"]["path"] = str(tmp_path / "gone")
    files.write_json(run_folder / "recipe.json", recipe)
    message = refused(capsys, "score", run_folder, "--output", tmp_path / "scored")
    assert repr(str(tmp_path / "gone")) in message
    succeeds(capsys, "score", run_folder, "--output", tmp_path / "scored", "--dataset", tmp_path / "moved")
    del recipe["dataset"]["path"]
    files.write_json(run_folder / "recipe.json", recipe)
    message = refused(capsys, "score", run_folder, "--output", tmp_path / "other")
    assert "does not say which dataset it recorded: give it with --dataset" in message


@pytest.mark.parametrize(
    "options, kept",
    [
        (["--fraction", "0.1"], {"fraction": 0.1}),
        (["--size", "25", "--balance", "proportional"], {"size": 25, "balance": "proportional"}),
        (["--size", "25", "--keep", "lowest", "--balance", "none"], {"size": 25, "keep": "lowest", "balance": "none"}),
        (["--fraction", "0.3", "--coverage", "beta", "--seed", "3"], {"fraction": 0.3, "coverage": "beta", "seed": 3}),
        (["--size", "30", "--min-per-class", "2", "--balance", "none"],
         {"size": 30, "min_per_class": 2, "balance": "none"}),
        (["--size", "9", "--exclude-negative"], {"size": 9, "exclude_negative": True}),
    ],
    ids=str,
)  # fmt: skip
def test_select_keeps_the_coreset(place, tmp_path, capsys, options, kept):
    found = as_json(capsys, "select", place / "scored", *options, "--output", tmp_path / "coreset")
    coreset = load_from_disk(tmp_path / "coreset")
    wanted = select_coreset(load_from_disk(place / "scored"), **kept)
    for column in ("label", "ltc_score", "ltc_rank"):
        assert read_column(coreset, column).to_pylist() == read_column(wanted, column).to_pylist()
    assert found["rows"] == len(coreset) == sum(found["classes"].values())
    assert coreset[0]["image"].size == (8, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["coreset"]


def test_select_follows_the_order_that_score_ranked_by(place, tmp_path, capsys):
    for typical in ("0", "0.4"):
        scored, output = tmp_path / f"scored-{typical}", tmp_path / f"coreset-{typical}"
        succeeds(capsys, "score", place / "run-0", "--typical", typical, "--output", scored)
        succeeds(capsys, "select", scored, "--size", "20", "--output", output)
        ranked = load_from_disk(scored)
        assert load_from_disk(output)["ltc_rank"][:] == [r for r in ranked["ltc_rank"][:] if r is not None and r < 20]
        assert json.loads((output / "recipe.json").read_text())["coreset"]["typical"] == float(typical)


def test_score_says_how_a_short_recording_is_ranked(place, tmp_path, capsys):
    line = ["score", place / "run-0", "--output", tmp_path / "scored"]
    needs = ": that needs 15 epochs per run. Short recordings make weaker coresets: record more if you can."
    assert f"Not weighted by uncertainty and without typical rows first{needs}" in succeeds(capsys, *line)
    assert f"Not weighted by uncertainty{needs}" in succeeds(capsys, *line, "--typical", "0.1")


def test_images_whose_validation_loss_rises_are_ranked_by_typicality(place, tmp_path, capsys):
    run = Trajectories.load(place / "run-0")
    held = run.validation_losses.copy()
    held[-1] += 3
    dataclasses.replace(run, validation_losses=held).save(tmp_path / "run")
    assert "without typical rows first" not in succeeds(
        capsys, "score", tmp_path / "run", "--output", tmp_path / "scored"
    )
    succeeds(capsys, "select", tmp_path / "scored", "--size", "20", "--output", tmp_path / "coreset")
    order = coreset_order(ltc_typicality(run), run.labels)
    ranks = load_from_disk(tmp_path / "scored")["ltc_rank"][:]
    assert [rank for rank in ranks if rank is not None] == order.tolist()
    assert load_from_disk(tmp_path / "coreset")["ltc_rank"][:] == [r for r in ranks if r is not None and r < 20]
    for folder, kind in (("scored", "score"), ("coreset", "coreset")):
        assert json.loads((tmp_path / folder / "recipe.json").read_text())[kind]["typical"] == 1


def test_select_says_what_else_there_is_for_half_of_the_images_or_more(place, tmp_path, capsys):
    scored = tmp_path / "scored"
    succeeds(capsys, "score", place / "run-0", "--typical", "25", "--output", scored)
    for options, told in [
        (["--fraction", "0.5"], True),
        (["--fraction", "0.49"], False),
        (["--fraction", "1"], False),
        (["--fraction", "0.5", "--typical", "0"], False),
        (["--fraction", "0.5", "--typical", "1"], False),
        (["--fraction", "0.5", "--coverage", "stratified"], False),
        (["--fraction", "0.5", "--keep", "lowest"], False),
    ]:
        said = succeeds(capsys, "select", scored, *options, "--output", tmp_path / "coreset")
        assert (HALF_OR_MORE in said) == told, options


def test_select_says_what_it_kept_and_what_comes_next(place, tmp_path, capsys):
    said = succeeds(capsys, "select", place / "scored", "--size", "20", "--output", tmp_path / "coreset")
    assert "The coreset has 20 of the " in said
    assert (
        f"Next, in Python: import datasets; coreset = datasets.load_from_disk({str(tmp_path / 'coreset')!r})" in said
    )


def test_json_has_what_comes_next(place, tmp_path, capsys):
    line = ["select", place / "scored", "--size", "20", "--output", tmp_path / "coreset"]
    assert as_json(capsys, *line)["next"][-1].startswith("import datasets; coreset = datasets.load_from_disk(")
    (following,) = as_json(capsys, "compare", place / "run-0", place / "run-1")["next"]
    assert following == f"hf-ltc score {place / 'run-0'} --output {place / 'run-0-scored'}"


# Trackio prints so, when it begins and when the process ends.
_TALKING = """
import atexit, sys
from hf_ltc.cli.main import main
from hf_ltc.cli.select import Select
execute = Select.execute
def talking(self):
    print("* Trackio project initialized")
    atexit.register(print, "* Run finished")
    return execute(self)
Select.execute = talking
sys.exit(main())
"""


def test_stdout_has_nothing_but_json_whatever_libraries_print(place, tmp_path):
    line = ["select", place / "scored", "--size", "20", "--output", tmp_path / "coreset", "--json"]
    done = subprocess.run([sys.executable, "-c", _TALKING, *line], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["rows"] == 20
    assert "* Trackio project initialized" in done.stderr and "* Run finished" in done.stderr


def test_compare(place, capsys):
    runs = [Trajectories.load(place / f"run-{seed}") for seed in (0, 1)]
    wanted = reliability(runs, of="levels")
    found = as_json(capsys, "compare", place / "run-0", place / "run-1", "--of", "levels")
    assert {key: found[key] for key in ("one", "mean", "runs", "pairs")} == wanted.to_dict()
    scores, keys = [ltc_scores(each, of="levels") for each in runs], [ltc_typicality(each) for each in runs]
    shared = overlap(*scores, runs[0].labels, typicality=keys)
    assert found["overlap"] == {str(fraction): share for fraction, share in shared.items()}
    alone = as_json(capsys, "compare", place / "run-0", place / "run-1", "--of", "levels", "--typical", "0")["overlap"]
    assert alone == {str(fraction): share for fraction, share in overlap(*scores, runs[0].labels).items()}
    said = succeeds(capsys, "compare", place / "run-0", place / "run-1", "--of", "levels")
    assert said.startswith(str(wanted))
    assert f"At 10% the coresets share {100 * shared[0.1]:.0f}% of their rows." in said


def test_a_run_compared_with_itself(place, capsys):
    found = as_json(capsys, "compare", place / "run-0", place / "run-0")
    assert found["one"] == pytest.approx(1, abs=1e-12)
    assert found["overlap"] == {"0.1": 1.0, "0.3": 1.0, "0.5": 1.0}


def test_json_of_an_undefined_reliability(place, tmp_path, capsys):
    for seed in (0, 1):
        each = Trajectories.load(place / f"run-{seed}")
        table = np.ones_like(each.losses)
        table[:, 0] = np.arange(4)
        Trajectories(**{**vars(each), "losses": table}).save(tmp_path / f"flat-{seed}")
    found = as_json(capsys, "compare", tmp_path / "flat-0", tmp_path / "flat-1")
    assert found["one"] is None
    assert "Reliability undefined" in succeeds(capsys, "compare", tmp_path / "flat-0", tmp_path / "flat-1")


def test_a_low_reliability_is_warned_of(place, tmp_path, capsys):
    found = reliability([Trajectories.load(place / f"run-{seed}") for seed in (0, 1)])
    assert found.mean < 0.5
    said = f"hf-ltc: warning: {found} Below 0.5, the ranking depends more on chance than on the data: record with "
    assert warned_of(capsys, "compare", place / "run-0", place / "run-1").startswith(said)
    lines = warned_of(capsys, "score", place / "both", "--output", tmp_path / "scored").splitlines()
    assert sum(line.startswith(said) for line in lines) == 1
    assert warned_of(capsys, "compare", place / "run-0", place / "run-0") == ""


# Help


def texts(capsys, *arguments):
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    return out


COMMANDS = ["record", "score", "select", "push", "evaluate", "compare", "audit", "report", "demo"]
NEEDED_OPTIONS = {"record": "--dataset DATASET", "score": "--output SCORED", "select": "--output CORESET"}


def test_help_names_every_command(capsys):
    said = texts(capsys, "--help")
    assert all(re.search(rf"^    {command} ", said, re.MULTILINE) for command in COMMANDS)
    assert re.fullmatch(r"hf-ltc \d+\.\d+\.\d+\S*\n", texts(capsys, "--version"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_the_default_of_every_option(capsys, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    # Help of long names stands in a line of its own.
    said = re.sub(r"\n {24}", "  ", texts(capsys, command, "--help"))
    options = re.findall(r"^  (-.*?)  +(.*)$", said, re.MULTILINE)
    assert len(options) > 2
    for names, help in options:
        if names not in ("-h, --help", NEEDED_OPTIONS.get(command)) and not names.startswith("--no-"):
            assert re.search(r"\(default: .*\)$", help), names


def test_the_console_script_and_the_module_are_the_same(place):
    script = Path(sys.executable).with_name("hf-ltc")
    said = [
        subprocess.run(
            [*command, "compare", place / "run-0", place / "run-1", "--json"], capture_output=True, text=True
        )
        for command in ([script], [sys.executable, "-m", "hf_ltc"])
    ]
    assert said[0].returncode == said[1].returncode == 0
    assert json.loads(said[0].stdout) == json.loads(said[1].stdout)


def test_bad_input_in_a_process_of_its_own(tmp_path):
    script = Path(sys.executable).with_name("hf-ltc")
    # As on a machine without network: the addresses of the Hub lead nowhere.
    nowhere = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    for line in (
        ["record", "--dataset", "someone/nothing", "--output-dir", "run"],
        ["record", "--dataset", "data", "--epochs", "many"],
        [],
    ):
        ran = subprocess.run([script, *line], capture_output=True, text=True, cwd=tmp_path, env=nowhere)
        assert ran.returncode == 2, line
        assert ran.stdout == ""
        (said,) = ran.stderr.splitlines()
        assert said.startswith("hf-ltc: error: ")
    assert list(tmp_path.iterdir()) == []


# Bad input: a dataset


def encoded(mode="RGB", side=8, format="PNG", shade=0):
    with io.BytesIO() as file:
        pixels = np.random.default_rng(shade).integers(0, 255, (side, side), dtype=np.uint8)
        PIL.Image.fromarray(pixels).convert(mode).save(file, format)
        return file.getvalue()


def table(labels, label, images=None):
    """A dataset of small images with these labels, as stored: nothing is checked."""
    images = images or [encoded("L", shade=row) for row in range(len(labels))]
    features = Features({"image": Image(), "label": label})
    columns = {"image": [{"bytes": image, "path": None} for image in images], "label": labels}
    return Dataset(pa.table(columns, schema=features.arrow_schema))


CLASSES = ClassLabel(names=["ant", "bee"])
HALVES = [0, 1] * 20


def undecodable():
    images = [encoded("L", shade=row) for row in range(40)]
    images[7] = b"no image"
    return table(HALVES, CLASSES, images)


LABEL, IMAGE, KEY = "--label-column", "--image-column", "--id-column"
DATASETS = {
    "label -1": (lambda: table([*HALVES[:-1], -1], CLASSES), [], r"'label'.*row 39: -1"),
    "label null": (lambda: table([None, *HALVES[1:]], CLASSES), [], r"'label'.*row 0: null"),
    "label of text": (lambda: table(["a", "b"] * 20, Value("string")), [], r"--label-column.*'label'"),
    "label a number": (lambda: table([0.5] * 40, Value("float32")), [LABEL, "label"], r"'label' holds float32"),
    "no such label": (lambda: table(HALVES, CLASSES), [LABEL, "class"], "--label-column 'class': no such column"),
    "no such image": (lambda: table(HALVES, CLASSES), [IMAGE, "img"], "--image-column 'img': no such column"),
    "no such id": (lambda: table(HALVES, CLASSES), [KEY, "key"], "no column 'key'"),
    "ids that repeat": (lambda: table(HALVES, CLASSES), [KEY, "label"], "--id-column 'label' has ids that occur"),
    "an image for a label": (lambda: table(HALVES, CLASSES), [LABEL, "image"], "'image' holds Image"),
    "one class": (lambda: table([1] * 40, CLASSES), [], r"fewer than two classes: all 40 rows are 'bee'"),
    "a class of one row": (lambda: table([0] + [1] * 39, CLASSES), [], r"'ant'; give a validation split"),
    "an undecodable image": (undecodable, [], "row 7"),
    "no such split": (lambda: table(HALVES, CLASSES), ["--split", "test"], "no split 'test'"),
    "a bad slice": (lambda: table(HALVES, CLASSES), ["--split", "train[:x]"], r"no split 'train\[:x\]'"),
    "no such validation split": (
        lambda: table(HALVES, CLASSES),
        ["--validation-split", "validation"],
        "no split 'validation'",
    ),
    "no rows": (lambda: table(HALVES, CLASSES), ["--split", "train[:0]"], "has no rows"),
}  # fmt: skip


@pytest.mark.parametrize("bad", DATASETS)
def test_datasets_that_cannot_be_recorded(tmp_path, capsys, bad):
    build, options, message = DATASETS[bad]
    build().save_to_disk(tmp_path / "data")
    before = tree(tmp_path)
    line = ["record", "--dataset", tmp_path / "data", *RECORD, "--output-dir", tmp_path / "run", *options]
    assert re.search(message, refused(capsys, *line))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["/nothing/here", "./nothing", "nothing.parquet", "a/b/c", "", "someone/nothing"])
def test_no_such_dataset(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert repr(name) in refused(capsys, "record", "--dataset", name, *RECORD)
    (tmp_path / "empty").mkdir()
    assert "'empty' is empty" in refused(capsys, "record", "--dataset", "empty", *RECORD)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_images_of_every_mode_and_size_are_recorded(tmp_path, capsys):
    kinds = [("L", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("P", "PNG"), ("I;16", "PNG"), ("1", "PNG")]
    images = []
    for row in range(40):
        mode, format = kinds[row % len(kinds)]
        side = 8 + row % 5
        if mode == "I;16":
            with io.BytesIO() as file:
                PIL.Image.fromarray(np.full((side, side), 257 * row, np.uint16)).save(file, format)
                images.append(file.getvalue())
        else:
            images.append(encoded(mode, side, format, row))
    table(HALVES, CLASSES, images).save_to_disk(tmp_path / "data")
    line = ["record", "--dataset", tmp_path / "data", *RECORD, "--output-dir", tmp_path / "run"]
    assert as_json(capsys, *line)["rows"] == 36


# Bad input: options


OPTIONS = {
    "unknown model": (["--model", "resnet81"], "--model 'resnet81' is no timm model: did you mean .*resnet18"),
    "unknown transformers": (["--model", "transformers:./no"], "--model 'transformers:./no': no such folder"),
    "no differences": (["--epochs", "1"], "--epochs 1 with --record-every 1 records 2 checkpoints, 1 differences"),
    "few epochs": (["--record-every", "9"], "--epochs 3 with --record-every 9 records 2 checkpoints"),
    "no epochs": (["--epochs", "0"], "--epochs is 0: it must be 1 or more"),
    "no number": (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
    "no choice": (["--losses", "test"], "argument --losses: invalid choice: 'test'"),
    "bad fraction": (["--validation-fraction", "1.5"], r"--validation-fraction is 1.5: it must be inside \(0, 1\)"),
    "one run": (["--rotate-validation"], "--rotate-validation with --runs 1: no other run records the rows"),
    "bad rate": (["--learning_rate", "nan"], "--learning-rate is nan"),
    "unknown signal": (["--signals", "margin", "loss"], "--signals is 'loss': it must be of margin, correct, el2n"),
    "unknown option": (["--epoch", "3"], "unrecognized arguments: --epoch 3; see hf-ltc --help"),
    "no value": (["--seed"], "argument --seed: expected one argument"),
    "not a bool": (["--augment", "maybe"], "argument --augment: .*maybe"),
}


@pytest.mark.parametrize("bad", OPTIONS)
def test_bad_options_of_record(place, tmp_path, capsys, bad):
    options, message = OPTIONS[bad]
    line = ["record", "--dataset", place / "data", *RECORD, "--output-dir", tmp_path / "run", *options]
    assert re.search(message, refused(capsys, *line))
    assert list(tmp_path.iterdir()) == []


def test_a_run_directory_of_another_configuration_or_dataset(place, tmp_path, capsys):
    run_folder = copy(place, tmp_path)
    digits()[0].select(range(150)).save_to_disk(tmp_path / "other")
    before = tree(tmp_path)
    line = ["record", "--dataset", place / "data", *RECORD, "--output-dir", run_folder]
    message = refused(capsys, *line, "--epochs", "4", "--learning-rate", "0.3")
    assert "--epochs was 3, now 4; --learning-rate was 0.02, now 0.3" in message
    assert repr(str(run_folder)) in message
    line[2] = tmp_path / "other"
    assert "another dataset" in refused(capsys, *line)
    for folder, said in ((place / "data", "holds other files"), (tmp_path / "other" / "state.json", "is a file")):
        assert said in refused(capsys, "record", "--dataset", place / "data", *RECORD, "--output-dir", folder)
    nested = tmp_path / "other" / "state.json" / "run"
    message = refused(capsys, "record", "--dataset", place / "data", *RECORD, "--output-dir", nested)
    assert f"cannot write {str(nested)!r}" in message or repr(str(nested))[:-1] in message
    assert tree(tmp_path) == before


def test_a_loss_that_becomes_nan(place, tmp_path, capsys):
    line = ["record", "--dataset", place / "data", *RECORD, "--output-dir", tmp_path / "run"]
    message = refused(capsys, *line, "--learning-rate", "1e12", "--schedule", "constant", "--epochs", "4")
    assert re.search(r"epoch \d: \w+_loss of \d+ of \d+ rows is not finite \(rows \d+, \d+", message)
    assert "lower --learning-rate" in message
    assert run_dir.published_epochs(tmp_path / "run")[0] == 0
    assert list(tmp_path.rglob("*.tmp")) == []


def test_bad_input_of_score(place, tmp_path, capsys):
    output = ["--output", tmp_path / "scored"]
    data = load_from_disk(place / "data")
    shuffled, relabelled = data.shuffle(seed=1).flatten_indices(), data.select(range(150))
    relabelled = relabelled.remove_columns("label").add_column(
        "label", (np.array(data["label"]) + 1) % 10, feature=data.features["label"]
    )
    for name, changed in {
        "shuffled": shuffled,
        "filtered": data.select(range(100)),
        "relabelled": relabelled,
        "different": digits()[0].select(range(150)),
    }.items():
        changed.save_to_disk(tmp_path / name)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    for line, message in [
        (["nothing", *output], "no run directory 'nothing'"),
        ([place / "data", *output], "recipe.json"),
        ([place / "run-0", "--output", tmp_path / "taken"], f"--output '{tmp_path / 'taken'}' exists already"),
        ([place / "run-0"], "the following arguments are required: --output"),
        ([place / "run-0", *output, "--preset", "best"], "argument --preset: invalid choice: 'best'"),
        ([place / "run-0", *output, "--preset", "cld", "--of", "levels"], "preset"),
        ([place / "run-0", *output, "--losses", "evaluation"], "has no evaluation losses, it has training_loss"),
        ([place / "run-0", *output, "--dataset", tmp_path / "nowhere"], "nowhere"),
        ([place / "run-0", *output, "--dataset", tmp_path / "shuffled"], r"\(shuffled\?\)"),
        ([place / "run-0", *output, "--dataset", tmp_path / "filtered"], r"100 rows, the recorded one had 150"),
        ([place / "run-0", *output, "--dataset", tmp_path / "relabelled"], r"\(relabeled\?\)"),
        ([place / "run-0", *output, "--dataset", tmp_path / "different"], "is not the recorded one"),
    ]:
        assert re.search(message, refused(capsys, "score", *line)), line
    assert tree(tmp_path) == before


def test_an_output_that_cannot_be_written(place, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    output = tmp_path / "file" / "scored"
    message = refused(capsys, "score", place / "run-0", "--output", output)
    assert message.startswith(f"hf-ltc: error: cannot write {str(output)!r} (")
    message = refused(capsys, "select", place / "scored", "--size", "9", "--output", output)
    assert message.startswith(f"hf-ltc: error: cannot write {str(output)!r} (")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_bad_input_of_select(place, tmp_path, capsys):
    output = ["--output", tmp_path / "coreset"]
    scored = place / "scored"
    shutil.copytree(scored, tmp_path / "damaged")
    next((tmp_path / "damaged").glob("*.arrow")).write_bytes(b"nothing")
    before = tree(tmp_path)
    for line, message in [
        (["nothing", "--size", "3", *output], "no scored dataset 'nothing'"),
        ([place / "run-0", "--size", "3", *output], "no scored dataset"),
        ([place / "data", "--size", "3", *output], "no score column 'ltc_score'"),
        ([tmp_path / "damaged", "--size", "3", *output], f"cannot load the scored dataset '{tmp_path / 'damaged'}'"),
        ([scored, *output], "one of the arguments --fraction --size is required"),
        (
            [scored, "--size", "3", "--fraction", "0.1", *output],
            "argument --fraction: not allowed with argument --size",
        ),
        ([scored, "--fraction", "0", *output], r"--fraction is 0.0: it must be in \(0, 1\]"),
        ([scored, "--fraction", "1.5", *output], r"--fraction is 1.5: it must be in \(0, 1\]"),
        ([scored, "--fraction", "nan", *output], "--fraction is nan"),
        ([scored, "--fraction", "-0.1", *output], "--fraction is -0.1"),
        ([scored, "--size", "0", *output], "--size is 0"),
        ([scored, "--size", "1000", *output], r"--size is 1000, but there are only 13\d candidate rows"),
        ([scored, "--size", "2.5", *output], "argument --size: invalid int value: '2.5'"),
        ([scored, "--size", "3", "--score-column", "best", *output], "no score column 'best'"),
        ([scored, "--size", "3", "--label-column", "best", *output], "--label-column 'best': no such column"),
        ([scored, "--size", "3", "--balance", "fair", *output], "argument --balance: invalid choice: 'fair'"),
        ([scored, "--size", "3", "--min-per-class", "-1", *output], "-1"),
        ([scored, "--size", "3", "--output", scored], f"--output '{scored}' holds '{scored}', which is read"),
    ]:
        assert re.search(message, refused(capsys, "select", *line)), line
    assert tree(tmp_path) == before


def test_bad_input_of_compare(place, tmp_path, capsys):
    other = [
        "record",
        "--dataset",
        place / "data",
        *RECORD,
        "--validation-seed",
        "1",
        "--output-dir",
        tmp_path / "run",
    ]
    succeeds(capsys, *other)
    for line, message in [
        ([place / "run-0"], "the following arguments are required: RUN_B"),
        ([place / "run-0", "nothing"], "no run directory 'nothing'"),
        (
            [place / "run-0", tmp_path / "run"],
            "run 1 cannot be averaged with run 0: they have different validation samples",
        ),
        ([place / "run-0", place / "run-1", "--scope", "all"], "argument --scope: invalid choice: 'all'"),
        ([place / "run-0", place / "run-1", "--output", "x"], "unrecognized arguments: --output x"),
    ]:
        assert re.search(message, refused(capsys, "compare", *line)), line


@pytest.mark.parametrize("line", [[], ["nothing"], ["--nothing"], ["scor", "run"], ["-x"]], ids=str)
def test_bad_commands(capsys, line):
    assert re.search(r"COMMAND|unrecognized", refused(capsys, *line))


def test_a_process_that_does_not_speak(place, capsys, monkeypatch):
    # Of several processes the first says what is wrong, the others only stop.
    monkeypatch.setenv("RANK", "1")
    assert run(capsys, "score", "nothing", "--output", "scored") == (2, "", "")


# names of parameters

# Values that the parser takes and the settings refuse, and what all options of a command are called.
REFUSED = {
    "record": [("validation_fraction", 2.0), ("record_every", 0), ("seed", -1), ("average_decay", 1.0)],
    "evaluate": [("seeds", 0), ("iterations", 0), ("label_smoothing", 1.5), ("cache_budget", -1.0)],
}
NEEDED = {
    "record": ["record", "--dataset", "data"],
    "score": ["score", "run", "--output", "scored"],
    "select": ["select", "scored", "--size", "3", "--output", "coreset"],
    "push": ["push", "run", "me/repo"],
    "evaluate": ["evaluate", "run"],
    "compare": ["compare", "run", "run"],
    "audit": ["audit", "run"],
    "report": ["report", "run"],
    "demo": ["demo"],
}


@pytest.mark.parametrize(
    "command, name, value", [(command, *each) for command, cases in REFUSED.items() for each in cases]
)
def test_python_is_told_the_parameter_and_the_command_line_the_option(capsys, command, name, value):
    settings = {"record": RecordConfig, "evaluate": EvaluateConfig}[command]
    with pytest.raises(InputError) as error:
        settings(**{name: value})
    assert str(error.value).startswith(f"`{name}` is {value!r}: it must be ")
    option = "--" + name.replace("_", "-")
    line = refused(capsys, *NEEDED[command], option, value)
    assert line == f"hf-ltc: error: {str(error.value).replace(f'`{name}`', option)}"


@pytest.mark.parametrize("settings, command", [(RecordConfig, "record"), (EvaluateConfig, "evaluate")])
def test_every_setting_that_an_error_names_is_an_option(settings, command):
    options = _parser().parse_args(NEEDED[command])
    for field in dataclasses.fields(settings):
        with pytest.raises(InputError) as error:
            settings(**{field.name: object()})
        assert str(error.value).startswith(f"`{field.name}` is ")
        said = spelled(str(error.value), options.names)
        assert said.startswith(f"--{field.name.replace('_', '-')} is ")


def test_what_messages_name_in_the_words_of_each_command():
    def said(command, text):
        return spelled(text, _parser().parse_args(NEEDED[command]).names)

    assert said("record", "`validation` and `train` share 3 rows") == "--validation-split and --split share 3 rows"
    assert said("evaluate", "`test`, `validation`: `model` 'x'.") == "--test-split, --validation-split: --models 'x'."
    assert said("evaluate", "the `runs` and (`runs`); record with `RecordConfig.runs` 2") == (
        "the RUN and (RUN); record with --runs 2"
    )
    assert said("score", "record with `RecordConfig.signals` el2n") == "record with --signals el2n"
    assert said("push", "`with_trajectories` of `trajectories` to `repo_id`") == "--trajectories of RUN to REPO_ID"
    # What is no parameter of the command, and what a user has typed.
    for text in ("`pixel_values` is empty", "no folder 'a`losses`'", "no folder '`losses`'", "`losses"):
        assert said("score", text) == text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_options(capsys, command):
    assert "`" not in texts(capsys, command, "--help")


def test_a_slash_at_the_end_of_a_folder_is_none_of_its_name(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    said = succeeds(capsys, "record", "--dataset", place / "data", *RECORD, "--output-dir", f"{tmp_path}/./run//")
    assert f"Next: hf-ltc score {tmp_path}/run --output {tmp_path}/run-scored" in said
    said = succeeds(capsys, "score", f"{tmp_path}/run/", "--output=~/scored/")
    assert f"Next: hf-ltc select {tmp_path}/scored --fraction 0.1 --output {tmp_path}/scored-10pct" in said
    succeeds(capsys, "select", "~/scored/", "--fraction", "0.3", "--output", f"{tmp_path}/coreset/")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "scored", "coreset"}
    assert Trajectories.load("~/run").recipe == Trajectories.load(tmp_path / "run").recipe
    monkeypatch.chdir(tmp_path / "run")
    said = succeeds(capsys, "record", "--dataset", place / "data", *RECORD, "--output-dir", "./")
    assert f"--output {tmp_path}/run-scored" in said


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_the_umask_decides_who_reads_a_run_and_its_scores(place, tmp_path, capsys, umask):
    before = os.umask(umask)
    try:
        line = ["record", "--dataset", place / "data", *RECORD, "--id-column", "row", "--output-dir", tmp_path / "run"]
        rows = load_from_disk(place / "data")
        rows.add_column("row", list(range(len(rows)))).save_to_disk(tmp_path / "data")
        line[2] = tmp_path / "data"
        succeeds(capsys, *line)
        succeeds(capsys, "score", tmp_path / "run", "--output", tmp_path / "scored")
    finally:
        os.umask(before)
    made = [path for name in ("run", "scored") for path in (tmp_path / name, *(tmp_path / name).rglob("*"))]
    assert {path.name for path in made} >= {"ids.parquet", "rows.safetensors", "recipe.json", "model.safetensors"}
    for path in made:
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path
