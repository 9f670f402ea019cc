"""The demo, as a user starts it, on smaller budgets of time."""

import json

import numpy as np
from sklearn.datasets import load_digits

from hf_ltc.cli import demo
from hf_ltc.cli.main import main


def test_digits_are_split_by_class_and_lossless(digit_rows):
    train, test = digit_rows
    loaded = load_digits()
    assert len(train) + len(test) == len(loaded.target) == 1797
    counts = np.bincount(test["label"][:])
    assert counts.tolist() == [round(0.2 * n) for n in np.bincount(loaded.target).tolist()]
    seen = {np.asarray(image, dtype=np.uint8).tobytes() for part in (train, test) for image in part["image"]}
    expected = {np.rint(image * 255 / 16).astype(np.uint8).tobytes() for image in loaded.images}
    assert seen == expected


def test_the_demo_says_what_it_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "_EPOCHS", 3)
    monkeypatch.setattr(demo, "_STEPS", 20)
    arguments = ["demo", "--output-dir", str(tmp_path / "run"), "--seeds", "2", "--fractions", "0.2"]
    assert main(arguments) == 0
    said, warned = capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["choices"]) == {"full data", "coreset, 20%", "random subset, 20%"}
    for name, choice in found["choices"].items():
        mean, deviation = np.mean(choice["accuracy"]), np.std(choice["accuracy"], ddof=1)
        (line,) = [line for line in said.splitlines() if line.startswith(name)]
        assert line.split()[-3:] == [f"{choice['rows']:,}", f"{mean:.1%}", f"{deviation:.1%}"]
    assert "hf-ltc record" in said
    page = tmp_path / "run" / "report.html"
    assert f"Open {page} in a browser" in said and found["page"] == str(page)
    assert "<title>scikit-learn&#39;s digits" in page.read_text("utf-8")
    assert "hardest" not in warned
    assert found["choices"]["coreset, 20%"]["rows"] == found["choices"]["random subset, 20%"]["rows"]


def test_bad_options_are_one_line(tmp_path, capsys):
    for option, value in (("--fractions", "1.5"), ("--seeds", "0")):
        assert main(["demo", "--output-dir", str(tmp_path / "run"), option, value]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"hf-ltc: error: {option}")
        assert value in line
    assert not (tmp_path / "run").exists()
