"""hf-ltc report: what it prints and writes."""

import pytest

from hf_ltc.cli.demo import digits
from hf_ltc.cli.main import main
from hf_ltc.report.page.write import write_report
from hf_ltc.trajectories.value import Trajectories
from tests.cli.test_main import RECORD, as_json, refused, succeeds, tree


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    rows = digits()[0].shuffle(seed=0).select(range(150)).flatten_indices()
    rows.save_to_disk(folder / "data")
    for name, options in (("run", ["--signals", "margin", "predicted"]), ("plain", [])):
        line = ["record", "--dataset", folder / "data", *RECORD, *options, "--output-dir", folder / name]
        assert main([str(word) for word in line]) == 0
    return folder, rows


def test_the_page_of_a_run(place, tmp_path, capsys):
    folder, rows = place
    said = succeeds(capsys, "report", folder / "run", "--output", tmp_path / "page.html", "--baseline", "aum")
    file = tmp_path / "page.html"
    assert said.startswith(f"Wrote {file} (") and "it needs no network.\n" in said
    assert said.splitlines()[-1].startswith(f"Next: hf-ltc push {folder / 'run'} data-ltc --fractions 0.1")
    run = Trajectories.load(folder / "run")
    other = write_report(run, rows, tmp_path / "other.html", baselines=["aum"])
    assert file.read_bytes() == other.read_bytes()
    found = as_json(capsys, "report", folder / "run", "--output", file, "--preset", "ltc", "--balance", "none")
    (following,) = found.pop("next")
    assert following.startswith("hf-ltc push ")
    assert found == {"output": str(file), "bytes": file.stat().st_size, "rows": len(run)}
    assert file.read_bytes() != other.read_bytes()


def test_it_goes_into_the_run_directory(place, capsys):
    folder, _ = place
    said = succeeds(capsys, "report", folder / "plain")
    assert "It suggests no labels: record with --signals predicted for that.\n" in said
    assert (folder / "plain" / "report.html").is_file()
    # The run directory is read as before, and the page is replaced.
    succeeds(capsys, "report", folder / "plain")


def test_what_is_refused(place, tmp_path, capsys):
    folder, _ = place
    (tmp_path / "file.html").write_text("mine")
    (tmp_path / "losses.png").write_text("mine")
    before = tree(tmp_path)
    for line, message in [
        (["nothing"], "no run directory 'nothing'"),
        (
            [folder / "run", "--output", tmp_path / "file.html"],
            f"--output '{tmp_path / 'file.html'}' exists and is no",
        ),
        ([folder / "run", "--output", tmp_path], f"--output '{tmp_path}' is a folder"),
        (
            [folder / "run", "--output", tmp_path / "page.html", "--pictures"],
            f"--pictures would replace '{tmp_path / 'losses.png'}', which is no picture of a report",
        ),
        ([folder / "run", "--baseline", "aum", "aum"], "--baseline is ['aum', 'aum']: it must be a list of different"),
        ([folder / "run", "--evaluation", "none.json"], "none.json"),
        ([folder / "run", "--dataset", "nowhere"], "nowhere"),
        ([folder / "run", "--losses", "evaluation"], "has no evaluation losses"),
    ]:
        assert message in refused(capsys, "report", *line), line
    assert tree(tmp_path) == before
