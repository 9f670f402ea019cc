"""Coresets of rows without classes: pushed, loaded by any budget, and by any column in the place of classes."""

import json

import pytest
import torch

from hf_ltc import push_coreset, select_coreset
from hf_ltc.cli.main import main
from tests import hub_clients as do
from tests.chats import chats, recorded
from tests.helpers import error_of
from tests.hub_server import Client, Hub


def _command(*arguments: str) -> int:
    torch.set_num_threads(1)
    return main([*arguments])


pytest_plugins = ["tests.hub_fixtures"]
pytestmark = pytest.mark.usefixtures("no_faults_left")

_COLUMNS = ["messages", "source", "turns", "ltc_score", "ltc_rank"]


@pytest.mark.parametrize("balance", [None, "source"])
def test_pushed_and_loaded(hub: Hub, client: Client, tmp_path, balance: str | None):
    rows = chats()
    run = recorded(tmp_path / "run", rows)
    scored = run.score(rows, balance=balance)
    repo_id = f"me/chats-{balance}"
    client(do.push_rows, rows, f"{repo_id}-source")
    options = {} if balance is None else {"balance": balance}
    source = {"repo_id": f"{repo_id}-source", "split": "train"}
    client(do.push, scored, repo_id, [0.25], full=True, trajectories=run, source=source, **options)
    by = {"balance": balance or "none"}
    expected = select_coreset(scored, 0.25, **by).select_columns(_COLUMNS)
    assert client(do.load_by_budget, repo_id, 0.25) == (do.content(expected), expected.features)
    # From the whole dataset in coreset order, and from the source dataset.
    for other in ({"size": 7}, {"size": 13}):
        expected = select_coreset(scored, **other, **by).select_columns(_COLUMNS)
        assert client(do.load_by_budget, repo_id, **other)[0] == do.content(expected)
    client(do.push, scored, f"{repo_id}-scores", scores_only=True, trajectories=run, source=source, **options)
    # Without the recording nobody knows that there are no classes.
    assert "are chosen with `balance` 'none'" in client(error_of, push_coreset, scored, f"{repo_id}-plain", [0.25])
    client(do.push, scored, f"{repo_id}-plain", [0.25], **by)
    assert client(do.load, f"{repo_id}-plain", "coreset-25pct")[0] == client(do.load, repo_id, "coreset-25pct")[0]
    assert client(do.load_by_budget, f"{repo_id}-scores", size=7)[0] == client(do.load_by_budget, repo_id, size=7)[0]
    scores, _ = client(do.load, repo_id, "scores")
    assert ("label" in scores[0]) is (balance is not None)
    files = hub.dataset(repo_id).files
    card = files["README.md"].decode()
    assert "text-generation" in card and "text-classification" not in card
    assert json.loads(files["recipe.json"])["coresets"]["ltc"]["label_column"] == balance


@pytest.mark.parametrize("options", [[], ["--balance-column", "source"]], ids=["all alike", "by source"])
def test_pushed_by_the_command(hub: Hub, client: Client, tmp_path, options: list[str]):
    rows = chats()
    rows.save_to_disk(tmp_path / "rows")
    run = recorded(tmp_path / "run", rows)
    repo_id = f"me/commanded-{len(options)}"
    line = ["push", str(tmp_path / "run"), repo_id, "--dataset", str(tmp_path / "rows"), "--fractions", "0.25"]
    assert client(_command, *line, *options) == 0
    balance = options[-1] if options else "none"
    expected = select_coreset(run.score(rows, balance=balance), 0.25, balance=balance).select_columns(_COLUMNS)
    assert client(do.load, repo_id, "coreset-25pct")[0] == do.content(expected)
