"""hf-ltc audit: what it prints and writes, also of hostile names."""

import json
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, load_from_disk

from hf_ltc.cli.demo import digits
from hf_ltc.cli.main import main
from hf_ltc.report.audit import KINDS, audit
from hf_ltc.trajectories.value import Trajectories
from tests.cli.test_main import RECORD, as_json, refused, succeeds, tree
from tests.texts import docstrings

SIGNALS = ["--signals", "margin", "predicted"]
# What would end the line, color the terminal, or turn the text around.
HOSTILE = ["<script>\n", "\x1b[31mred", "‮right to left", "a" * 200, "'\"", *map(str, range(5, 10))]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    rows = digits()[0].shuffle(seed=0).select(range(150)).flatten_indices()
    rows.save_to_disk(folder / "data")
    labels = rows["label"][:]
    rows = rows.remove_columns("label").add_column("label", labels, feature=ClassLabel(names=HOSTILE))
    rows.save_to_disk(folder / "hostile")
    for name, data, options in (("run", "data", SIGNALS), ("plain", "data", []), ("odd", "hostile", SIGNALS)):
        line = ["record", "--dataset", folder / data, *RECORD, *options, "--output-dir", folder / name]
        assert main([str(word) for word in line]) == 0
    return folder


def test_what_it_prints_and_writes(place, tmp_path, capsys):
    line = ["audit", place / "run", "--output", tmp_path / "found"]
    said = succeeds(capsys, *line)
    table = audit(Trajectories.load(place / "run"), load_from_disk(place / "data"))
    frame = pd.read_parquet(tmp_path / "found" / "audit.parquet")
    assert Dataset.from_parquet(str(tmp_path / "found" / "audit.parquet"))[:] == table[:]
    assert frame.kind.isin(KINDS).all()
    counts = ", ".join(f"{np.count_nonzero(frame.kind == kind):,} {kind}" for kind in KINDS)
    assert said.startswith(f"{len(frame):,} rows: {counts}.\nThe 20 labels that are most likely wrong:\n")
    shown = [each.split() for each in said.splitlines()[3:23]]
    worst = frame.sort_values("label_quality", kind="stable")[:20]
    assert [int(each[0]) for each in shown] == worst.row.tolist()
    recipe = json.loads((tmp_path / "found" / "recipe.json").read_text())
    assert recipe["audit"]["rows"] == len(frame) and recipe["dataset"]["rows"] == 150
    # Again, into the folder that it made.
    found = as_json(capsys, *line, "--fraction", "0.1")
    assert found["kinds"]["label issue"] == round(0.1 * len(frame))
    assert [each["row"] for each in found["worst"]] == worst.row.tolist()
    assert pd.read_parquet(tmp_path / "found" / "audit.parquet").is_label_issue.sum() == round(0.1 * len(frame))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found"]


def test_without_an_output_nothing_is_written(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = tree(place)
    said = succeeds(capsys, "audit", place / "plain")
    assert "No labels are suggested: that needs a recording with --signals predicted." in said
    assert (
        "Near-duplicates were not searched for: that needs --features, which can be added to a finished run." in said
    )
    assert list(tmp_path.iterdir()) == [] and tree(place) == before


def test_near_duplicates_once_a_finished_run_has_features(place, tmp_path, capsys):
    shutil.copytree(place / "run", tmp_path / "run")
    line = ["record", "--dataset", place / "data", *RECORD, *SIGNALS, "--features", "--output-dir", tmp_path / "run"]
    succeeds(capsys, *line)
    said = succeeds(capsys, "audit", tmp_path / "run", "--similarity", "0.5")
    found = as_json(capsys, "audit", tmp_path / "run", "--similarity", "0.5")
    assert found["kinds"]["near-duplicate"] > 0
    assert f"Near-duplicates are in {found['near_duplicate_groups']:,} groups." in said
    assert "record with" not in said
    assert as_json(capsys, "audit", tmp_path / "run", "--similarity", "0.99")["kinds"]["near-duplicate"] == 0


def test_the_new_texts_are_recorded_as_the_old_ones_were(tmp_path, capsys):
    # Of a split that is not called train, which the new dataset knows.
    DatasetDict({"test": docstrings(80)}).save_to_disk(tmp_path / "data")
    line = ["record", "--dataset", tmp_path / "data", "--split", "test"]
    line += ["--text-column", "text", "--epochs", "3", "--max-length", "20"]
    succeeds(capsys, *line, "--output-dir", tmp_path / "run")
    output = tmp_path / "found"
    said = succeeds(capsys, "audit", tmp_path / "run", "--output", output, "--apply", "drop", "--fraction", "0.2")
    (again,) = (each for each in said.splitlines() if "hf-ltc record" in each)
    words = shlex.split(again[again.index("hf-ltc record") :])[1:]
    assert words[words.index("--dataset") + 1] == str(output / "dataset")
    succeeds(capsys, *words)
    old, new = (Trajectories.load(tmp_path / name) for name in ("run", "run-drop"))
    assert new.recipe["training"]["max_length"] == old.recipe["training"]["max_length"] == 20
    assert new.recipe["dataset"]["rows"] == len(load_from_disk(output / "dataset")) < 80


def test_hostile_names_are_text(place, capsys):
    said = succeeds(capsys, "audit", place / "odd")
    lines = said.splitlines()
    # A count, two headings, the rows, and what was not recorded.
    assert len(lines) == 1 + 2 + 20 + 1
    assert all(line.isprintable() for line in lines) and max(map(len, lines)) < 140
    names = {each for row in as_json(capsys, "audit", place / "odd")["worst"] for each in (row["label"],)}
    assert names <= set(range(10))


def test_what_is_refused(place, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "recipe.json").write_text("{}")
    before = tree(tmp_path)
    output = ["--output", tmp_path / "found"]
    for line, message in [
        (["nothing"], "no run directory 'nothing'"),
        ([place / "run", "--output", tmp_path / "taken"], f"--output '{tmp_path / 'taken'}' exists already"),
        ([place / "run", "--output", tmp_path / "file"], f"--output '{tmp_path / 'file'}' exists already"),
        ([place / "run", "--output", tmp_path / "recipe"], f"--output '{tmp_path / 'recipe'}' exists already"),
        ([place / "run", "--output", place], f"--output '{place}' holds '{place / 'run'}', which is read"),
        ([place / "run", *output, "--fraction", "1.5"], "--fraction is 1.5: it must be inside (0, 1)"),
        ([place / "run", *output, "--similarity", "0"], "--similarity is 0.0: it must be inside (0, 1)"),
        ([place / "run", *output, "--dataset", place / "nowhere"], "nowhere"),
        ([place / "run", *output, "--dataset", place / "hostile"], "column 'label' has 10 classes with other names"),
        ([place / "run", *output, "--validation-split", "none"], "none"),
        ([place / "run", *output, "--losses", "evaluation"], "has no evaluation losses"),
    ]:
        assert message in refused(capsys, "audit", *line), line
    assert tree(tmp_path) == before
