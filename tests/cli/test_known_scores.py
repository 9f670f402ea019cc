"""`--baseline` of hf-ltc score and compare: known scores from the command line."""

import json
import shlex

import numpy as np
import pytest
from datasets import load_from_disk

from hf_ltc.cli.demo import digits
from hf_ltc.cli.main import main
from hf_ltc.coresets.overlap import overlap
from hf_ltc.data.columns import read_column
from hf_ltc.scores.scorers import BaselineScorer
from hf_ltc.trajectories.value import Trajectories
from tests.cli.test_main import RECORD, as_json, refused, succeeds, tree, warned_of
from tests.helpers import error_of

NAMES = ["aum", "el2n", "mean_loss", "random"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """150 digits, two runs of other seeds recorded on them with metrics, and one without."""
    folder = tmp_path_factory.mktemp("known")
    digits()[0].shuffle(seed=0).select(range(150)).flatten_indices().save_to_disk(folder / "data")
    for name, seed, options in (("a", 0, ["--signals", "margin", "el2n"]), ("b", 1, ["--signals", "margin"])):
        line = ["record", "--dataset", folder / "data", *RECORD, "--seed", seed, *options]
        assert main([*map(str, line), "--output-dir", str(folder / name)]) == 0
    assert main([*map(str, ["record", "--dataset", folder / "data", *RECORD]), "--output-dir", str(folder / "c")]) == 0
    return folder


def test_score_adds_known_scores(place, tmp_path, capsys):
    line = ["score", place / "a", "--output", tmp_path / "scored"]
    found = as_json(capsys, *line, "--baseline", *NAMES)
    scored, run = load_from_disk(tmp_path / "scored"), Trajectories.load(place / "a")
    # Of the epochs after training began, of which el2n takes the first ten.
    wanted = {"aum": run.signals["margin"][1:].mean(axis=0), "el2n": run.signals["el2n"][1:].mean(axis=0)}
    wanted["mean_loss"] = run.losses[1:].mean(axis=0)
    for name, values in wanted.items():
        column = read_column(scored, f"{name}_score")
        assert str(scored.features[f"{name}_score"]) == "Value('float32')"
        np.testing.assert_allclose(np.array(column.to_pylist(), dtype=float)[run.rows], values, rtol=1e-5)
        assert [row for row in range(150) if column[row].as_py() is None] == sorted(run.validation_rows)
        keep = {"mean_loss": "lowest"}.get(name, "highest")
        mean = found["baselines"][name].pop("mean")
        assert mean == pytest.approx(float(values.mean()), rel=1e-5)
        assert found["baselines"][name] == {"column": f"{name}_score", "keep": keep}
        recipe = json.loads((tmp_path / "scored" / "recipe.json").read_text())["score"]["baselines"]
        assert recipe[name] == {"column": f"{name}_score", "keep": keep, "options": {}}
    assert recipe["random"]["options"] == {"seed": 0}
    # The other columns are what they are without.
    as_json(capsys, "score", place / "a", "--output", tmp_path / "plain")
    plain = load_from_disk(tmp_path / "plain")
    for name in ("loss_trajectory", "ltc_score", "ltc_rank"):
        assert read_column(scored, name).to_pylist() == read_column(plain, name).to_pylist()
    assert set(scored.column_names) - set(plain.column_names) == {f"{name}_score" for name in NAMES}


def test_they_are_what_map_gives_also_streamed(place, tmp_path, capsys):
    succeeds(capsys, "score", place / "a", "--output", tmp_path / "scored", "--baseline", *NAMES)
    scored, run = load_from_disk(tmp_path / "scored"), Trajectories.load(place / "a")
    attached = run.attach(load_from_disk(place / "data"), ["margin", "el2n"]).to_iterable_dataset()
    for name in NAMES:
        scorer = BaselineScorer.from_trajectories(run, name)
        mapped = attached.map(scorer, batched=True, batch_size=7, with_indices=name == "random")
        column = f"{name}_score"
        streamed = [row[column] for row in scored.to_iterable_dataset()]
        assert streamed == [row[column] for row in mapped]
        assert sum(value is None for value in streamed) == len(run.validation_rows)


def test_the_lines_that_score_prints_choose_by_each(place, tmp_path, capsys):
    output = tmp_path / "scored"
    said = succeeds(capsys, "score", place / "a", "--output", output, "--baseline", "aum", "mean_loss")
    assert "Added aum_score, mean " in said and "its highest are kept." in said and "its lowest are kept." in said
    lines = [line.removeprefix("Next: hf-ltc ") for line in said.splitlines() if line.startswith("Next: ")]
    assert len(lines) == 3
    for line, column, sign in zip(lines[1:], ("aum_score", "mean_loss_score"), (1, -1)):
        succeeds(capsys, *shlex.split(line))
        coreset = load_from_disk(output_of(line))
        everything = load_from_disk(output)
        for label in set(coreset["label"][:]):
            kept = [sign * score for score, each in zip(coreset[column], coreset["label"]) if each == label]
            others = [
                sign * score
                for score, each in zip(everything[column], everything["label"])
                if each == label and score is not None
            ]
            assert sorted(kept) == sorted(others)[-len(kept) :]


def output_of(line):
    words = shlex.split(line)
    return words[words.index("--output") + 1]


def test_compare_by_a_known_score(place, capsys):
    found = as_json(capsys, "compare", place / "a", place / "b", "--baseline", "mean_loss")
    runs = [Trajectories.load(place / name) for name in "ab"]
    scores = [-run.losses[1:].mean(axis=0) for run in runs]
    shared = overlap(*scores, runs[0].labels)
    assert found["overlap"] == {str(fraction): pytest.approx(share) for fraction, share in shared.items()}
    # Spearman within classes, by hand.
    total = 0.0
    for label in np.unique(runs[0].labels):
        one, two = (np.argsort(np.argsort(each[runs[0].labels == label])) for each in scores)
        total += len(one) * np.corrcoef(one, two)[0, 1]
    assert found["one"] == pytest.approx(total / len(runs[0]), abs=1e-9)
    assert as_json(capsys, "compare", place / "a", place / "b")["one"] != pytest.approx(found["one"], abs=1e-3)
    said = succeeds(capsys, "compare", place / "a", place / "b", "--baseline", "aum")
    assert f"Next: hf-ltc score {place / 'a'} --output {place / 'a'}-scored --baseline aum" in said
    if found["mean"] < 0.5:
        assert "Below 0.5" in warned_of(capsys, "compare", place / "a", place / "b", "--baseline", "mean_loss")


def test_what_is_refused(place, tmp_path, capsys):
    before = tree(tmp_path)
    missing = "which was not recorded (there are: {}): record again with --signals {}"
    for name, run, message in [
        (["aum"], "c", f"aum needs the signal 'margin', {missing.format('none', 'margin')}"),
        (["aum", "el2n"], "b", f"el2n needs the signal 'el2n', {missing.format('margin', 'el2n')}"),
        (["best"], "a", "no baseline 'best': there are 'mean_loss', "),
        (["aum", "aum"], "a", "--baseline is ['aum', 'aum']: it must be a list of different names"),
        (["dyn_unc"], "a", "dyn_unc needs 11 checkpoints or more, but only 3 were recorded"),
    ]:
        line = refused(capsys, "score", place / run, "--output", tmp_path / "scored", "--baseline", *name)
        assert line.startswith(f"hf-ltc: error: {message}"), line
    assert tree(tmp_path) == before
    compare = ["compare", place / "a", place / "b"]
    for options, message in [
        (["--baseline", "el2n"], f"'{place / 'b'}' cannot be compared by --baseline 'el2n': el2n needs the signal"),
        (["--baseline", "best"], "no baseline 'best'"),
        (["--baseline", "aum", "--preset", "cld"], "--preset 'cld' does not go with --baseline 'aum'"),
        (["--baseline", "aum", "--typical", "0.2"], "--typical 0.2 does not go with --baseline 'aum'"),
    ]:
        assert message in refused(capsys, *compare, *options)
    succeeds(capsys, *compare, "--baseline", "aum", "--typical", "0")


@pytest.mark.parametrize("names", ["aum", ("aum", "aum")])
def test_python_takes_a_list_of_names(place, names):
    said = error_of(Trajectories.load(place / "a").score, load_from_disk(place / "data"), baselines=names)
    assert said == f"`baselines` is {names!r}: it must be a list of different names"
