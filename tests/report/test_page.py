"""The page as a file: what is in it and what is not, its size, and what is refused."""

import base64
import dataclasses
import hashlib
import json
import os
import re

import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value

from hf_ltc import write_report as exported
from hf_ltc.report.audit import audit
from hf_ltc.report.page.rows import BUDGETS, budget_sizes
from hf_ltc.report.page.write import write_report
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.trajectories.features import RowFeatures, write_features
from hf_ltc.trajectories.value import Trajectories
from tests.helpers import encoded, error_of
from tests.report.pages import HOSTILE, plain, recorded, renamed
from tests.trajectories.recordings import dataset as undecodable
from tests.trajectories.recordings import make, rotated

PLACE = "/home/alice/secret/digits"


@pytest.fixture(scope="module")
def rows(digit_rows):
    return digit_rows[0].select(range(300)).flatten_indices()


def data_of(file):
    """What the scripts of a page read."""
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', file.read_text("utf-8"), re.DOTALL
    )
    return json.loads(text)


def unpacked(values):
    return np.frombuffer(base64.b64decode(values["bytes"]), dtype=f"<{values['kind']}")


def test_what_the_page_holds_is_what_was_recorded(rows, tmp_path):
    run = recorded(rows)
    assert write_report(run, rows, tmp_path / "page.html") == tmp_path / "page.html"
    assert exported is write_report
    data = data_of(tmp_path / "page.html")
    scored = run.score(rows)
    shown = unpacked(data["rows"]["row"])
    # So few rows are all points of the data map.
    assert shown.tolist() == run.rows.tolist()
    np.testing.assert_array_equal(unpacked(data["rows"]["score"]), ltc_scores(run))
    ranks = np.array(scored["ltc_rank"][:])[run.rows]
    np.testing.assert_array_equal(unpacked(data["rows"]["rank"]), ranks)
    table = audit(run, rows)
    kinds = [data["kinds"][kind] for kind in unpacked(data["rows"]["kind"])]
    assert kinds == table["kind"][:]
    np.testing.assert_array_equal(unpacked(data["rows"]["suggested"]), table["suggested_label"][:])
    assert data["sizes"] == budget_sizes(len(run))
    for budget, size in enumerate(data["sizes"]):
        assert data["kept"][budget] == np.bincount(run.labels[ranks < size], minlength=10).tolist()
        for one in data["classes"]:
            mine = ranks[run.labels == one["number"]]
            kept, dropped = (ranks[one[part][budget]].tolist() for part in ("kept", "dropped"))
            assert kept == sorted(mine[mine < size])[::-1][: len(kept)]
            assert dropped == sorted(mine[mine >= size])[: len(dropped)]
            assert bool(dropped) == bool((mine >= size).any()) and bool(kept) == bool((mine < size).any())
    one = data["classes"][3]
    mine = np.sort(ranks[run.labels == one["number"]])
    assert ranks[one["first"]].tolist() == mine[: len(one["first"])].tolist()
    assert ranks[one["worst"]].tolist() == mine[::-1][: len(one["worst"])].tolist()
    epochs = len(data["epochs"])
    losses = unpacked(data["trajectories"]).reshape(len(run), epochs) * data["span"] / 65534
    np.testing.assert_allclose(losses, (run.losses[:12] + run.losses[12:]).T / 2, atol=data["span"] / 60_000)
    np.testing.assert_allclose(data["validation"], run.validation_losses.reshape(2, 12, -1).mean((0, 2)), rtol=1e-5)
    assert all(preview is not None for preview in data["previews"])


def test_losses_below_zero(rows, tmp_path):
    run = recorded(rows, (8,))
    run = dataclasses.replace(run, losses=run.losses - 1.5)
    data = data_of(write_report(run, rows, tmp_path / "page.html"))
    assert data["lowest"] == run.losses.min() < 0
    losses = data["lowest"] + unpacked(data["trajectories"]).reshape(len(run), 8) * data["span"] / 65534
    np.testing.assert_allclose(losses, run.losses.T, atol=data["span"] / 60_000)


def test_its_scripts_and_nothing_else_may_run(rows, tmp_path):
    text = write_report(recorded(rows), rows, tmp_path / "page.html").read_text("utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy.startswith("default-src 'none'; script-src " + " ".join(f"'sha256-{digest}'" for digest in digests))
    assert "connect-src" not in policy and "unsafe-eval" not in policy
    assert not re.search(r'<(?:link|iframe|img|script)[^>]*(?:src|href)="https?:', plain(tmp_path / "page.html"))


def test_no_path_no_token_and_no_user(rows, tmp_path):
    run = recorded(rows, path=PLACE)
    run.recipe["config"] |= {"output_dir": "/home/alice/runs", "model": "local:/home/alice/model"}
    run.recipe["token"] = "hf_abcdefghijklmnopqrst"
    text = plain(write_report(run, rows, tmp_path / "page.html"))
    for secret in ("alice", "secret", "hf_abcdefghij", "/home", str(tmp_path)):
        assert secret not in text
    assert "<title>digits – " in text
    named = plain(write_report(run, rows, tmp_path / "page.html", dataset_name="My digits"))
    assert "<title>My digits – " in named


def test_hostile_names_cannot_leave_the_data(rows, tmp_path):
    odd = renamed(rows, HOSTILE)
    file = write_report(recorded(odd), odd, tmp_path / "page.html", dataset_name=HOSTILE[0])
    # A name that is too long is cut, and of one that is empty there is something to see.
    assert data_of(file)["names"] == [*HOSTILE[:-2], "n" * 199 + "…", "''"]
    text = plain(file)
    assert "<script>document" not in text and 'onerror="' not in text
    assert text.count("</script>") == 2


def test_names_that_no_encoding_has(rows, tmp_path):
    odd = renamed(rows, ["caf\udce9", "two"])
    file = write_report(recorded(odd), odd, tmp_path / "page.html")
    assert data_of(file)["names"] == ["caf?", "two"]


def test_images_that_cannot_be_read_are_counted(tmp_path):
    file = write_report(make(lengths=(12, 9)), undecodable(), tmp_path / "page.html")
    assert data_of(file)["previews"] == [None] * 50
    assert "50 images could not be read." in plain(file)


def test_samples_that_rotate_and_rows_joined_by_id(tmp_path):
    data = undecodable()
    run = Trajectories.average(rotated(ids=True, data=data, lengths=(6, 6, 9)))
    part = data.shuffle(seed=1).select(range(40))
    file = write_report(run, part, tmp_path / "page.html")
    shown = data_of(file)
    assert unpacked(shown["rows"]["row"]).tolist() == run.rows.tolist()
    losses = unpacked(shown["trajectories"]).reshape(len(run), -1)
    # The last epochs are those of the third run, which held some rows out.
    held = np.isin(run.rows, run.runs[2].rows, invert=True)
    assert held.any() and (losses[held, 6:] == 65535).all()
    assert (losses[~held] < 65535).all() and (losses[held, :6] < 65535).all()


def test_large_images_become_small_ones_and_formats_do_not_matter(tmp_path):
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (300, 400, 3), dtype=np.uint8) for _ in range(8)]
    files = [encoded(noise[row % 8], ("JPEG", "PNG")[row % 2]) for row in range(60)]
    plain_rows = undecodable()
    images = [{"bytes": file, "path": None} for file in files]
    rows = Dataset.from_dict(
        {"image": images, "label": plain_rows["label"][:], "key": plain_rows["key"][:]},
        features=Features({**plain_rows.features, "image": Image()}),
    )
    file = write_report(make(rows, lengths=(12,)), rows.with_format("numpy"), tmp_path / "page.html")
    data = data_of(file)
    assert all(preview is not None for preview in data["previews"])
    assert file.stat().st_size < 15e6


@pytest.mark.parametrize("letter", ["\u0634", "<", "'", "\U0001f600"])
def test_texts_of_any_length_leave_the_page_below_its_limit(tmp_path, letter):
    n = 5_000
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    texts = [f"{letter * 2_000} {row}" for row in range(n)]
    rows = Dataset.from_dict({"text": texts, "label": np.arange(n) % 2}, features=features)
    file = write_report(recorded(rows, (6,)), rows, tmp_path / "page.html")
    assert file.stat().st_size < 15e6
    shown = [text for text in data_of(file)["previews"] if text is not None]
    assert all(text.startswith(letter) and text.endswith("…") for text in shown)
    assert "Long texts are shortened." in plain(file)


def test_pictures(rows, tmp_path):
    odd = renamed(rows, HOSTILE)
    file = write_report(recorded(odd), odd, tmp_path / "page.html", pictures=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "data_map.png", "losses.png", "page.html", "rows_kept_and_dropped.png",
    ]  # fmt: skip
    for picture in file.parent.glob("*.png"):
        with PIL.Image.open(picture) as image:
            assert min(image.size) > 300 and len(image.convert("RGB").getcolors(2**24)) > 20
    write_report(recorded(odd), odd, file, pictures=True)
    for content in (b"mine", picture.read_bytes()[:20]):
        (tmp_path / "losses.png").write_bytes(content)
        before = (tmp_path / "data_map.png").stat().st_mtime_ns
        said = error_of(write_report, recorded(odd), odd, file, pictures=True)
        assert said == (
            f"`pictures` would replace {str(tmp_path / 'losses.png')!r}, which is no picture of a report: give "
            "another folder, or delete it"
        )
        assert (tmp_path / "losses.png").read_bytes() == content
        assert (tmp_path / "data_map.png").stat().st_mtime_ns == before
    PIL.Image.new("RGB", (9, 9)).save(tmp_path / "losses.png")
    assert "no picture of a report" in error_of(write_report, recorded(odd), odd, file, pictures=True)
    texts = rows.remove_columns("image").add_column("text", ["one"] * len(rows))
    write_report(recorded(texts), texts, tmp_path / "texts" / "page.html", pictures=True)
    assert sorted(os.listdir(tmp_path / "texts")) == ["data_map.png", "losses.png", "page.html"]


def test_negative_losses_are_drawn_whole(rows, tmp_path):
    # A loop of one's own may minimize anything.
    run, drawn = recorded(rows, (8,)), []
    for shift in (0, 3):
        lower = dataclasses.replace(run, losses=run.losses - shift, validation_losses=run.validation_losses - shift)
        write_report(lower, rows, tmp_path / str(shift) / "page.html", pictures=True)
        pixels = np.asarray(PIL.Image.open(tmp_path / str(shift) / "losses.png").convert("RGB"))
        drawn.append((pixels == (0x2A, 0x7F, 0xB8)).all(axis=2).sum())
    assert drawn[0] > 500 and abs(drawn[1] / drawn[0] - 1) < 0.3


def test_the_page_is_replaced_and_nothing_else(rows, tmp_path):
    run = recorded(rows, (8,))
    file = write_report(run, rows, tmp_path / "new" / "page.html")
    before = file.read_bytes()
    assert write_report(run, rows, file).read_bytes() == before
    assert os.listdir(file.parent) == ["page.html"]
    mine = tmp_path / "mine.html"
    mine.write_text("<html>mine")
    said = error_of(write_report, run, rows, mine)
    assert said == f"`path` {str(mine)!r} exists and is no report: give another file, or delete it"
    assert mine.read_text() == "<html>mine"
    said = error_of(write_report, run, rows, tmp_path)
    inside = str(tmp_path / "report.html")
    assert said == f"`path` {str(tmp_path)!r} is a folder: give a file, such as {inside!r}"


def test_bad_input_is_named(rows, tmp_path):
    run, file = recorded(rows, (8,)), tmp_path / "page.html"
    assert error_of(write_report, "run", rows, file).startswith("`trajectories` is a str, not a recording")
    assert error_of(write_report, run, "rows", file).startswith("`dataset` is a str, not a datasets.Dataset")
    assert error_of(write_report, run, rows, file, baselines="aum").startswith(
        "`baselines` is 'aum': it must be a list"
    )
    assert "el2n" in error_of(write_report, run, rows, file, baselines=["el2n"])
    assert "the dataset has 299 rows" in error_of(write_report, run, rows.select(range(299)), file)
    assert "preset" in error_of(write_report, run, rows, file, preset="no")
    (tmp_path / "results.json").write_text("{}")
    assert "holds no results" in error_of(write_report, run, rows, file, evaluation=tmp_path / "results.json")
    assert not file.exists()
    assert BUDGETS[-1] == 1


def test_of_many_rows_near_duplicates_are_not_looked_for(rows, tmp_path, monkeypatch):
    run = recorded(rows)
    random = np.random.default_rng(0).normal(size=(len(rows), 32)).astype(np.float16)
    random[run.rows[20]] = random[run.rows[10]]
    write_features(tmp_path, {"train": random[run.rows], "validation": random[run.validation_rows]}, "mine")
    found = RowFeatures.find(tmp_path, "mine", run.rows, run.validation_rows)
    run = dataclasses.replace(run, features=found)
    pages = {}
    for limit in (len(run), len(run) - 1):
        monkeypatch.setattr("hf_ltc.report.page.contents.MOST_COMPARED", limit)
        file = write_report(run, rows, tmp_path / f"{limit}.html")
        data = data_of(file)
        kinds = [data["kinds"][kind] for kind in unpacked(data["rows"]["kind"])]
        pages[limit] = "near-duplicate" in kinds, "Near-duplicates are not searched for among 270 rows" in plain(file)
    assert pages == {270: (True, False), 269: (False, True)}
    assert audit(run, rows, duplicates=False)["near_duplicate_group"][:] == [None] * 270
