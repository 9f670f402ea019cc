"""`--store summary` on the command line: recorded, scored and chosen as with trajectories; what needs them says so."""

import pytest
from datasets import load_from_disk

from hf_ltc.cli.demo import digits
from hf_ltc.cli.main import main
from hf_ltc.data.columns import read_column
from tests.cli.test_main import RECORD, as_json, refused, succeeds


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """150 digits, recorded in both ways."""
    folder = tmp_path_factory.mktemp("summary")
    digits()[0].shuffle(seed=0).select(range(150)).flatten_indices().save_to_disk(folder / "data")
    for store in ("trajectories", "summary"):
        line = ["record", "--dataset", folder / "data", *RECORD, "--store", store, "--output-dir", folder / store]
        assert main([*map(str, line)]) == 0
    return folder


def test_from_a_recording_to_a_coreset(place, tmp_path, capsys):
    told = [
        as_json(capsys, "score", place / name, "--output", tmp_path / name) for name in ("trajectories", "summary")
    ]
    for name in ("rows", "scored", "flat", "held_out"):
        assert told[0][name] == told[1][name]
    for name in ("mean", "mean_loss_correlation"):
        assert told[1][name] == pytest.approx(told[0][name], abs=1e-5)
    out = succeeds(capsys, "select", tmp_path / "summary", "--fraction", 0.2, "--output", tmp_path / "coreset")
    succeeds(capsys, "select", tmp_path / "trajectories", "--fraction", 0.2, "--output", tmp_path / "other")
    coreset, other = (load_from_disk(tmp_path / name) for name in ("coreset", "other"))
    assert read_column(coreset, "ltc_rank").to_pylist() == read_column(other, "ltc_rank").to_pylist()
    # No command that needs trajectories comes next.
    assert "hf-ltc evaluate" not in str(out) and "hf-ltc push" not in str(out)


def test_what_needs_trajectories_says_so(place, tmp_path, capsys):
    run, scored = place / "summary", tmp_path / "scored"
    said = refused(capsys, "score", run, "--output", scored, "--baseline", "mean_loss")
    assert "--baseline 'mean_loss' needs trajectories, and" in said and "has running sums (--store summary)" in said
    said = refused(capsys, "score", run, "--output", scored, "--preset", "ltc")
    assert "--aggregate 'correlations' needs trajectories" in said
    for command in (["audit", run], ["report", run], ["compare", run, place / "trajectories"]):
        assert "has running sums and no trajectories (--store summary)" in refused(capsys, *command)
    succeeds(capsys, "score", run, "--output", scored)
    said = refused(capsys, "select", scored, "--fraction", 0.2, "--output", tmp_path / "coreset", "--judge")
    assert "--judge chooses other coresets by trajectories" in said
