"""A recording whose validation samples rotate, pushed and loaded: every row is a candidate."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from hf_ltc import Trajectories
from hf_ltc.cli.main import main
from hf_ltc.data.splits import hold_out
from hf_ltc.scores.ltc import ltc_scores
from tests import hub_clients as do
from tests.hub_server import Client, Hub

pytest_plugins = ["tests.hub_fixtures"]
pytestmark = pytest.mark.usefixtures("no_faults_left")


def rotated(rows: Dataset, runs: int = 3, **recipe: Any) -> Trajectories:
    each = []
    for turn in range(runs):
        one = do.recorded(rows, seed=turn, **recipe)
        labels = np.asarray(rows.with_format(None)["label"])
        kept, held = hold_out(labels, 0.2, len(rows), turn=turn)
        draw = np.random.default_rng(turn)
        fall = np.linspace(2, 0.2, len(one.epochs), dtype=np.float32)[:, None]
        losses = fall + draw.random((len(one.epochs), len(rows)), dtype=np.float32)
        each.append(
            replace(
                one,
                losses=losses[:, kept],
                validation_losses=losses[:, held],
                labels=labels[kept],
                validation_labels=labels[held],
                rows=kept,
                validation_rows=held,
                signals={},
                recipe={**one.recipe, "validation": {"turn": turn, "validation_fraction": 0.2}},
            )
        )
    return Trajectories.average(each)


def _same(repo_id: str, run: Trajectories) -> list[bool]:
    found = Trajectories.from_hub(repo_id)
    names = ("losses", "validation_losses", "rows", "validation_rows", "labels", "validation_labels", "epochs")
    same = [np.array_equal(getattr(found, name), getattr(run, name), equal_nan=True) for name in names]
    return [*same, found.lengths == run.lengths, np.array_equal(ltc_scores(found), ltc_scores(run))]


def test_pushed_and_loaded_it_is_the_same(hub: Hub, client: Client, visitor: Client, rows: Dataset):
    run = rotated(rows)
    scored = run.score(rows)
    client(do.push, scored, "me/rotated", [0.5, 1.0], trajectories=run)
    client(run.push_to_hub, "me/rotated")
    assert all(visitor(_same, "me/rotated", run))
    files = hub.dataset("me/rotated").files
    recipe, card = json.loads(files["recipe.json"]), files["README.md"].decode()
    (entry,) = recipe["coresets"].values()
    assert entry["held_out"] == 0 and entry["pool"] == len(rows)
    assert entry["run"]["reliability"]["runs"] == 3
    assert "Each run held out different rows: they are NaN in `train`" in card
    assert "30, different ones in each run" in card
    assert "held out as validation samples are in no coreset" not in card
    assert len(visitor(do.load, "me/rotated", "coreset-100pct")[0]) == len(rows)


def test_rows_held_out_that_are_candidates_are_no_validation_split(
    rows: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    rows.save_to_disk(str(tmp_path / "data"))
    rotated(rows).save(tmp_path / "run")
    line = ["push", str(tmp_path / "run"), "me/held", "--dataset", str(tmp_path / "data"), "--held-out"]
    assert main(line) == 2
    (said,) = [one for one in capsys.readouterr().err.splitlines() if "error" in one]
    assert "--held-out: the validation samples rotate over runs, so they are candidate rows too" in said


@pytest.mark.parametrize("part", [lambda rows: rows.shuffle(seed=1), lambda rows: rows.select(range(140))])
def test_rows_held_out_have_no_ids_and_are_not_looked_for_by_their_old_numbers(
    rows: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: Callable[[Dataset], Dataset]
):
    # By their numbers rows that models train on were pushed as the split validation.
    rows = rows.add_column("id", [f"row {number}" for number in range(len(rows))])
    do.recorded(rows, ids="id").save(tmp_path / "run")
    part(rows).save_to_disk(str(tmp_path / "data"))
    line = ["push", str(tmp_path / "run"), "me/held", "--dataset", str(tmp_path / "data"), "--held-out"]
    assert main(line) == 2
    (said,) = [one for one in capsys.readouterr().err.splitlines() if "error" in one]
    assert "--held-out: rows are joined by id, which those held out have none of, and they stand elsewhere" in said
