"""From a dataset on the Hub to a coreset on the Hub by the commands, and source models."""

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict, Value, load_dataset
from huggingface_hub import ModelCard, snapshot_download
from safetensors.torch import save_file
from transformers import BertweetTokenizer

from hf_ltc import InputError, Trajectories, load_encoder, push_coreset, select_coreset
from hf_ltc.cli.main import main
from hf_ltc.coresets.choose import Selection
from hf_ltc.data import identity
from hf_ltc.data.columns import with_columns
from hf_ltc.data.identity import cached_origin
from hf_ltc.data.splits import evenly_spaced
from hf_ltc.hub import push, tables
from hf_ltc.hub.repository import Pushed
from hf_ltc.recipe import Identity
from hf_ltc.scores.ltc import DEFAULT, PRESETS, VARIANTS, ltc_scores
from hf_ltc.training.models import load_model
from tests import hub_clients as do
from tests.hub_server import Client, Hub

pytest_plugins = ["tests.hub_fixtures"]
pytestmark = pytest.mark.usefixtures("no_faults_left")


def _command(*arguments: Any) -> int:
    torch.set_num_threads(1)
    return main([str(argument) for argument in arguments])


def _told(*arguments: Any) -> tuple[int, str]:
    with contextlib.redirect_stderr(io.StringIO()) as error:
        return _command(*arguments), error.getvalue()


def _in_a_process(client: Client, *arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("hf-ltc"), *map(str, arguments)],
        env={**os.environ, **client.environment},
        cwd=client.home,
        capture_output=True,
        text=True,
        timeout=120,
    )


def _origin(repo_id: str, **options: Any) -> dict[str, str]:
    rows = load_dataset(repo_id, split="train", **options)
    mapped = rows.map(lambda row: row, load_from_cache_file=False)
    assert cached_origin(mapped) == {} and cached_origin(rows.select([9, 4, 5]).shuffle(seed=0)) == cached_origin(rows)
    return cached_origin(rows)


def test_a_loaded_dataset_tells_where_it_is_from(client: Client, small: DatasetDict):
    first = client(do.push_rows, small, "me/origin")
    assert client(_origin, "me/origin") == {"repo_id": "me/origin", "revision": first}
    second = client(do.push_rows, small, "me/origin", config_name="small")
    assert client(_origin, "me/origin", name="small") == {
        "repo_id": "me/origin", "revision": second, "config": "small"
    }  # fmt: skip
    assert client(_origin, "me/origin", revision=first)["revision"] == first
    assert cached_origin(small["train"]) == {}


def test_from_the_hub_to_the_hub_by_the_commands(hub: Hub, client: Client, small: DatasetDict, tmp_path: Path):
    first = client(do.push_rows, small, "me/digits")
    run = tmp_path / "run"
    model = ("--model", "test_resnet", "--epochs", 3, "--batch-size", 32, "--learning-rate", 0.02, "--no-augment")
    assert client(_command, "record", "--dataset", "me/digits", "--output-dir", run, "--runs", 2, *model) == 0
    recorded = Trajectories.load(run)
    assert recorded.recipe["dataset"]["revision"] == first
    # Rows come from the revision that was recorded, whatever the repository has become.
    client(do.push_rows, DatasetDict({"train": small["test"], "test": small["train"]}), "me/digits")
    done = _in_a_process(
        client, "push", run, "me/digits-ltc", "--fractions", 0.1, 0.3, "--splits", "test", "--held-out",
        "--trajectories", "--full", "--source-model", "me/digits-ltc-source", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["revision"] == hub.dataset("me/digits-ltc").head
    assert told["configs"] == ["coreset-10pct", "coreset-30pct", "scores", "full"]
    scored = recorded.score(small["train"])
    # Images recorded for three epochs are ranked without typicality.
    columns = ["image", "label", "ltc_score", "ltc_rank"]
    rows, _ = client(do.load, "me/digits-ltc", "coreset-30pct")
    assert rows == do.content(select_coreset(scored, 0.3).select_columns(columns))
    test, _ = client(do.load, "me/digits-ltc", "coreset-10pct", split="test")
    assert [row["image"] for row in test] == [row["image"] for row in do.content(small["test"])]
    held_out, _ = client(do.load, "me/digits-ltc", "coreset-10pct", split="validation")
    assert [row["image"] for row in held_out] == [
        row["image"] for row in do.content(small["train"].select(recorded.validation_rows))
    ]
    scores, _ = client(do.load, "me/digits-ltc", "scores")
    assert [row["loss_trajectory"] for row in scores] == [row["loss_trajectory"] for row in do.content(scored)]
    recipe = json.loads(hub.dataset("me/digits-ltc").files["recipe.json"])["coresets"]["ltc"]
    assert recipe["dataset"]["revision"] == first and recipe["dataset"]["repo_id"] == "me/digits"
    assert recipe["run"]["reliability"]["runs"] == 2
    text = "".join(
        data.decode() for path, data in hub.dataset("me/digits-ltc").files.items() if path[-3:] in (".md", "son")
    )
    assert str(tmp_path) not in text and "| source model | `test_resnet` |" in text
    # Any other budget, from the source at that revision.
    done = _in_a_process(client, "push", run, "me/digits-scores", "--scores-only")
    assert done.returncode == 0 and "load_coreset('me/digits-scores', fraction=0.1)" in done.stdout
    rows, _ = client(do.load_by_budget, "me/digits-scores", 0.25)
    assert rows == do.content(select_coreset(scored, 0.25).select_columns(columns))
    _check_source_model(hub, client, tmp_path, told["source_model"]["revision"])


def _model(repo_id: str, folder: str) -> tuple[list[np.ndarray], list[str]]:
    place = snapshot_download(repo_id, local_dir=folder)
    card = ModelCard((Path(place) / "README.md").read_text())
    return [p.detach().numpy() for p in load_model(place, averaged=True).parameters()], list(card.data.tags)


def _check_source_model(hub: Hub, client: Client, tmp_path: Path, revision: str) -> None:
    repo = hub.model("me/digits-ltc-source")
    assert repo.head == revision
    assert set(repo.files) == {
        ".gitattributes", "README.md", "averaged_model.safetensors", "config.json", "model.safetensors", "recipe.json"
    }  # fmt: skip
    weights, tags = client(_model, "me/digits-ltc-source", str(tmp_path / "downloaded"))
    local = load_model(tmp_path / "run" / "seed-0" / "source_model", averaged=True)
    assert all(np.array_equal(one, two.detach().numpy()) for one, two in zip(weights, local.parameters(), strict=True))
    assert tags == ["coreset", "ltc"]
    card = repo.files["README.md"].decode()
    assert "# Source model of me/digits" in card and "datasets:\n- me/digits" in card
    # The card in the run directory names its folder, the pushed one its repository.
    beside = (tmp_path / "run" / "seed-0" / "source_model" / "README.md").read_text()
    folder = json.dumps(str(tmp_path / "run" / "seed-0" / "source_model"))
    assert f"load_model({folder}, averaged=True)" in beside
    assert 'load_model(snapshot_download("me/digits-ltc-source"), averaged=True)' in card
    assert str(tmp_path) not in card + repo.files["recipe.json"].decode() + repo.files["config.json"].decode()


def _encoded(repo_id: str, folder: str, texts: list[str]) -> list[list[int]]:
    return load_encoder(snapshot_download(repo_id, local_dir=folder))(texts)["input_ids"].tolist()


def test_a_model_of_texts_is_pushed_with_all_files_of_its_tokenizer(
    hub: Hub, client: Client, small: DatasetDict, tmp_path: Path
):
    do.recorded(small["train"]).save(tmp_path / "run")
    model = tmp_path / "run" / "source_model"
    model.mkdir()
    save_file({"weight": torch.zeros(1)}, model / "model.safetensors")
    settings = {"name": "transformers:vinai/bertweet", "num_classes": 2, "max_length": 9, "vocabulary": 7}
    (model / "config.json").write_text(json.dumps(settings))
    (tmp_path / "vocab.txt").write_text("ab 3\r\n@@c 2\n")
    (tmp_path / "bpe.codes").write_text("#version: 0.2\na b</w> 3\n")
    slow = BertweetTokenizer(str(tmp_path / "vocab.txt"), str(tmp_path / "bpe.codes"), name_or_path=str(tmp_path))
    slow.save_pretrained(model / "tokenizer")
    files = {f"tokenizer/{name}" for name in os.listdir(model / "tokenizer")}
    assert files > {"tokenizer/vocab.txt", "tokenizer/bpe.codes"}
    client(do.push_model, str(tmp_path / "run"), "me/texts")
    pushed = hub.model("me/texts").files
    assert {path for path in pushed if path.startswith("tokenizer/")} == files
    assert str(tmp_path) not in pushed["tokenizer/tokenizer_config.json"].decode()
    texts = ["ab xyz", "ab"]
    expected = load_encoder(model)(texts)["input_ids"].tolist()
    assert client(_encoded, "me/texts", str(tmp_path / "down"), texts) == expected
    # Of a later model with other files none of these is left.
    (model / "tokenizer" / "bpe.codes").unlink()
    client(do.push_model, str(tmp_path / "run"), "me/texts")
    pushed = hub.model("me/texts").files
    assert {path for path in pushed if path.startswith("tokenizer/")} == files - {"tokenizer/bpe.codes"}


def test_scores_of_another_kind_are_pushed(hub: Hub, client: Client, small: DatasetDict, tmp_path: Path):
    run = do.recorded(small["train"])
    run.save(tmp_path / "run")
    rows = run.score(small["train"])
    other = rows.add_column("aum_score", [float(i) for i in range(len(rows))])
    other.save_to_disk(str(tmp_path / "scored"))
    done = client(
        _command, "push", tmp_path / "run", "me/aum", "--sizes", 20, "--scored", tmp_path / "scored", "--score-column",
        "aum_score", "--keep", "lowest", "--balance", "none", "--license", "mit", "--private",
    )  # fmt: skip
    assert done == 0 and hub.dataset("me/aum").private
    loaded, _ = client(do.load, "me/aum", "coreset-aum-20rows")
    assert sorted(row["aum_rank"] for row in loaded) == list(range(20))
    card = hub.dataset("me/aum").files["README.md"].decode()
    assert "license: mit" in card and "Coresets by AUM" in card and "the lowest `aum_score`" in card


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing", "me/x", "--full"], "no run directory 'missing'"),
        (["RUN", "me/x"], "nothing to push"),
        (["RUN", "me/x", "--fractions", "2"], "--fractions is 2.0"),
        (["RUN", "me/x", "--sizes", "1000"], "--sizes is 1000, but there are only 120 candidate rows"),
        (["RUN", "me/x", "--scores-only", "--full"], "--scores-only pushes no rows"),
        (["RUN", "me/x", "--full", "--scored", "nowhere"], "no scored dataset 'nowhere'"),
        (["RUN", "me/x", "--full", "--splits", "dev"], "no split 'dev'"),
        (["RUN", "me/x", "--full", "--splits", "test"], "splits go with coresets"),
        (["RUN", "me/x", "--full", "--score-column", "el2n_score"], "no score column 'el2n_score'"),
        (["RUN", "me/x", "--full", "--max-shard-size", "big"], "--max-shard-size is 'big'"),
        (["missing", "me/x/y", "--full"], "'me/x/y': that is no name of a repository"),
        (["missing", "me/x", "--full", "--source-model", "me/a b"], "'me/a b': that is no name of a repository"),
        (["missing", "me/x", "--full", "--source", "/rows"], "'/rows': that is no name of a repository"),
        (["RUN", "me/x", "--scores-only"], "--scores-only needs to know where others find the rows"),
        (["RUN", "me/x", "--scores-only", "--source", "me/nothing"], "cannot find the source dataset 'me/nothing'"),
        (["RUN", "me/x", "--full", "--source-model", "me/y"], "no source model in"),
    ],
)
def test_bad_input_is_one_line(client: Client, small: DatasetDict, tmp_path: Path, arguments: list[str], said: str):
    small.save_to_disk(str(tmp_path / "data"))
    run = do.recorded(small["train"])
    run.save(tmp_path / "RUN")
    arguments = [str(tmp_path / "RUN") if argument == "RUN" else argument for argument in arguments]
    code, error = client(_told, "push", *arguments, "--dataset", tmp_path / "data")
    assert code == 2 and error.startswith("hf-ltc: error: ") and said in error and error.count("\n") == 1


def _scored(small: DatasetDict) -> tuple[Dataset, Trajectories]:
    run = do.recorded(small["train"])
    return run.score(small["train"]), run


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fractions": [0.1], "balanced": "class"}, "push_coreset has no option 'balanced'"),
        ({"fractions": [0.1], "balance": "none"}, "column 'ltc_rank' ranks the rows in another order"),
        ({"fractions": [0.1], "source": {"name": "x"}}, "`source` has no 'name'"),
        ({"fractions": [0.1], "pictures": ["nothing.png"]}, "no picture 'nothing.png'"),
        ({"fractions": [0.1], "judgement": {"rows": 3}}, "`judgement` is not what hf-ltc select --judge writes"),
        ({"fractions": [0.1], "evaluation": [{"rows": "all"}]}, "has no 'model'"),
        (
            {"fractions": [0.1], "evaluation": [{"rows": "all", "model": "x", "accuracy": [91.0]}]},
            "accuracy is [91.0]",
        ),
        ({"fractions": [0.1], "evaluation": [{"rows": "all", "model": "x", "accuracy": []}]}, "accuracy is []"),
        ({"fractions": [0.1], "evaluation": [{"rows": "all", "model": "x", "accuracy": ["high"]}]}, "is ['high']"),
        ({"fractions": 0.1}, "`fractions` is 0.1: give a list, such as [0.1]"),
        ({"sizes": 20}, "`sizes` is 20: give a list, such as [20]"),
        ({"fractions": [0.1, 0.1 + 1e-12]}, "so near that both are called 'coreset-10pct'"),
        ({"fractions": [0.1], "score_column": "a[1]_score"}, "`score_column` is 'a[1]_score': folders on the Hub"),
        ({"fractions": [0.1], "score_column": "a/b_score"}, "`score_column` is 'a/b_score': folders on the Hub"),
        ({"fractions": [0.1], "score_column": "_score"}, "`score_column` is '_score': folders on the Hub"),
        ({"full": True, "min_per_class": 1}, "`full` is an order that begins with each coreset: with `coverage` or"),
        ({"fractions": [0.1], "splits": {"train": None}}, "a further split cannot be called 'train'"),
        ({"fractions": [0.1], "splits": {"a b": None}}, "a further split cannot be called 'a b'"),
        ({"fractions": [0.1], "label_column": "image"}, "column 'image'"),
        ({"fractions": [0.1], "variant": "lct"}, "`variant` is 'lct': give one of 'ltc', 'cld', "),
        ({"fractions": [0.1], "variant": 3}, "`variant` is 3: give one of"),
        ({"fractions": [0.1], "variant": {"preset": "ltc"}}, "`variant` has 'preset': give one of"),
        ({"fractions": [0.1], "variant": {"of": "level"}}, "`of` is 'level': it must be one of"),
    ],
)
def test_bad_options_are_refused_before_anything_is_sent(small: DatasetDict, options: dict[str, Any], said: str):
    scored, run = _scored(small)
    # The tests' own processes are offline: a request would be another error.
    with pytest.raises(InputError) as error:
        push_coreset(scored, "me/x", trajectories=run, **options)
    assert said in str(error.value)


def test_what_is_not_of_the_recording_is_refused(small: DatasetDict):
    scored, run = _scored(small)
    with pytest.raises(InputError, match="is not what this recording gives"):
        push_coreset(scored, "me/x", [0.1], trajectories=do.recorded(small["train"], seed=0, runs=2))
    with pytest.raises(InputError, match="the dataset is not the recorded one"):
        push_coreset(scored.shuffle(seed=1), "me/x", [0.1], trajectories=run)
    with pytest.raises(InputError, match=r"`scored` is a DatasetDict, not a datasets\.Dataset"):
        push_coreset(small, "me/x", [0.1])
    with pytest.raises(InputError, match="`variant` is of the recording that is given as `trajectories`"):
        push_coreset(scored, "me/x", [0.1], variant="ltc")
    with pytest.raises(InputError, match="the split 'test' has no column 'image'"):
        push_coreset(scored, "me/x", [0.1], trajectories=run, splits={"test": small["test"].remove_columns("image")})
    other = small["test"].rename_column("label", "x").add_column("label", [0] * len(small["test"]))
    with pytest.raises(InputError, match="column 'label' of the split 'test' is Value"):
        push_coreset(scored, "me/x", [0.1], trajectories=run, splits={"test": other})


def _variant_pushed(run: Trajectories, scored: Dataset, told: Any = None, column: str = "ltc_score") -> Any:
    told = None if told is None else push.read_variant(told)
    entry, _ = tables.describe_scored(scored, column, None, Selection(), Identity())
    found = push.with_recording(entry, run, scored, told).family
    return None if found is None else found.to_dict()


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, str]]]:
    """Of each score that a push computes how many rows, and the variant."""
    found: list[tuple[int, dict[str, str]]] = []

    def counted(run: Trajectories, **variant: str) -> np.ndarray:
        found.append((len(run), variant))
        return ltc_scores(run, **variant)

    monkeypatch.setattr(push, "ltc_scores", counted)
    return found


def _searched(run: Trajectories, scored: Dataset) -> dict[str, str] | None:
    """What the first of all variants is that gives each score, computed for all rows by each."""
    where, known = run.positions(scored), np.array(scored["ltc_score"], dtype=np.float64)
    for variant in (DEFAULT, *PRESETS.values(), *VARIANTS):
        try:
            made = np.where(where >= 0, ltc_scores(run, **variant)[where], np.nan)
        except InputError:
            continue
        if np.allclose(made, known, rtol=0, atol=1e-5, equal_nan=True):
            return variant
    return None


_BY_NAME = {"ids": lambda variant: "-".join(variant.values())}


@pytest.mark.parametrize("variant", VARIANTS, **_BY_NAME)
def test_the_score_variant_that_is_told_is_the_only_one_computed(small: DatasetDict, variant: Any, computed: Any):
    run = do.recorded(small["train"], held=100)
    assert _variant_pushed(run, run.score(small["train"], **variant), variant) == variant
    assert computed == [(len(run), variant)]


@pytest.mark.parametrize("variant", VARIANTS, **_BY_NAME)
def test_the_score_variant_is_found_by_a_sample_of_the_rows(variant: dict[str, str], computed: Any):
    rows = do.labeled(2_500)
    run = do.recorded(rows, held=100, checkpoints=16)
    scored = run.score(rows, **variant)
    assert _variant_pushed(run, scored) == variant == _searched(run, scored)
    assert [count for count, _ in computed if count > 1_000] == [2_400] and computed[-1] == (2_400, variant)


def test_of_score_variants_that_agree_the_likeliest_is_found():
    rows = do.labeled(60, classes=2)
    run = do.recorded(rows, held=20)
    # Both classes have the same validation samples, so that by class and by dataset are one.
    twice = np.repeat(run.validation_losses[:, :10], 2, axis=1)
    run = replace(run, validation_losses=twice, validation_labels=np.tile([0, 1], 10))
    scored = run.score(rows, **{**DEFAULT, "scope": "class"})
    assert _variant_pushed(run, scored) == DEFAULT == _searched(run, scored)
    found = {"of": "levels", "aggregate": "correlations", "scope": "dataset", "weighting": "none"}
    scored = run.score(rows, **{**found, "scope": "class"})
    assert _variant_pushed(run, scored) == found == _searched(run, scored)
    # Without any score all agree.
    flat = replace(run, losses=np.ones_like(run.losses))
    assert _variant_pushed(flat, flat.score(rows)) == DEFAULT == _searched(flat, flat.score(rows))


def test_a_row_outside_the_sample_decides_too():
    rows = do.labeled(2_500)
    run = do.recorded(rows, held=100)
    scored = run.score(rows).remove_columns("ltc_rank")
    sampled = run.rows[evenly_spaced(len(run), 1_000)]
    (other,) = np.setdiff1d(run.rows, sampled)[[700]]
    values = np.array(scored["ltc_score"], dtype=np.float32)
    assert _variant_pushed(run, scored) == DEFAULT
    values[other] += 0.001
    column = (pa.array(values, mask=np.isnan(values)), Value("float32"))
    changed = with_columns(scored, {"ltc_score": column})
    assert _searched(run, changed) is None
    with pytest.raises(InputError) as error:
        _variant_pushed(run, changed)
    assert str(error.value) == (
        "column 'ltc_score' is not what this recording gives, by any score variant: score the dataset with the "
        "trajectories that are pushed, or push without them"
    )
    with pytest.raises(InputError, match="'weighted-das' of this recording"):
        _variant_pushed(run, changed, "weighted-das")


@pytest.mark.parametrize(
    ("told", "named"),
    [("ltc", "'ltc'"), (PRESETS["das"], "'das'"), ({"scope": "class"}, str({**DEFAULT, "scope": "class"}))],
)
def test_another_score_variant_than_is_told_is_refused(small: DatasetDict, told: Any, named: str):
    run = do.recorded(small["train"], held=100)
    with pytest.raises(InputError) as error:
        push_coreset(run.score(small["train"], preset="cld"), "me/x", [0.1], trajectories=run, variant=told)
    assert str(error.value).startswith(f"column 'ltc_score' is not the score variant {named} of this recording: ")
    assert "\n" not in str(error.value)


def test_a_score_variant_of_another_column_is_told(small: DatasetDict):
    run = do.recorded(small["train"], held=100)
    scored = run.score(small["train"], preset="cld").rename_column("ltc_score", "cld_score")
    scored = scored.remove_columns("ltc_rank")
    assert _variant_pushed(run, scored, "cld", "cld_score") == PRESETS["cld"]
    assert _variant_pushed(run, scored, None, "cld_score") is None
    with pytest.raises(InputError, match="column 'cld_score' is not the score variant 'ltc'"):
        _variant_pushed(run, scored, "ltc", "cld_score")


def _told_by_the_command(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> Any:
    told: list[Any] = []

    def pushed(*_: Any, variant: Any, **__: Any) -> Pushed:
        told.append(variant)
        return Pushed("me/x", "https://hub", "0" * 40, ("coreset-20pct",))

    monkeypatch.setattr("hf_ltc.hub.push.push_coreset", pushed)
    assert _command("push", *arguments, "me/x", "--fractions", "0.2") == 0
    return told[0]


def test_the_command_tells_the_score_variant(small: DatasetDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small.save_to_disk(str(tmp_path / "data"))
    run, scored, data = tmp_path / "run", tmp_path / "scored", ("--dataset", tmp_path / "data")
    do.recorded(small["train"], held=100).save(run)
    assert _told_by_the_command(monkeypatch, run, *data) == DEFAULT
    assert _told_by_the_command(monkeypatch, run, *data, "--preset", "cld") == PRESETS["cld"]
    assert _command("score", run, *data, "--preset", "ltc", "--output", scored) == 0
    beside = json.loads((scored / "recipe.json").read_text())
    assert _told_by_the_command(monkeypatch, run, "--scored", scored) == PRESETS["ltc"]
    assert _told_by_the_command(monkeypatch, run, "--scored", scored, "--preset", "das") == PRESETS["das"]
    assert _told_by_the_command(monkeypatch, run, "--scored", scored, "--score-column", "aum_score") is None
    # Before there was a weighting.
    del beside["score"]["family"]["weighting"]
    (scored / "recipe.json").write_text(json.dumps(beside))
    assert _told_by_the_command(monkeypatch, run, "--scored", scored) == PRESETS["ltc"]
    # Rows that the user has scored and saved.
    for other in ({}, {"score": None}, {"score": {}}):
        (scored / "recipe.json").write_text(json.dumps(other))
        assert _told_by_the_command(monkeypatch, run, "--scored", scored) is None
    (scored / "recipe.json").unlink()
    assert _told_by_the_command(monkeypatch, run, "--scored", scored) is None


def test_a_dataset_is_digested_once(small: DatasetDict, monkeypatch: pytest.MonkeyPatch):
    digested: list[tuple[str, int]] = []

    def counted(module: Any, name: str) -> None:
        function = getattr(module, name)

        def digest(rows: Dataset, *arguments: Any) -> Any:
            digested.append((name, len(rows)))
            return function(rows, *arguments)

        monkeypatch.setattr(module, name, digest)

    rows = small["train"]
    run = do.recorded(rows)
    scored = run.score(rows)
    for name in ("_label_digests", "_content_digest"):
        counted(identity, name)
    monkeypatch.setattr("hf_ltc.hub.push.publish", lambda *_, **__: digested.append(("sent", 0)))
    push_coreset(scored, "me/x", [0.1, 0.5], trajectories=run, full=True, with_trajectories=True)
    # The whole dataset, for the check against the recording and for the recipe, and each coreset.
    each = [(name, count) for count in (len(rows), 12, 60) for name in ("_label_digests", "_content_digest")]
    assert digested == [*each, ("sent", 0)]
    # A label column of another name than was recorded is digested beside it.
    digested.clear()
    copied = scored.add_column("other", rows["label"][:]).cast_column("other", rows.features["label"])
    push_coreset(copied, "me/x", [0.1], trajectories=run, label_column="other")
    assert digested.count(("_label_digests", len(rows))) == 2 and digested.count(("_content_digest", len(rows))) == 1
    # What was handed over decides nothing else.
    with pytest.raises(InputError, match="the dataset is not the recorded one"):
        push_coreset(scored.shuffle(seed=1), "me/x", [0.1], trajectories=run)


def test_a_source_model_is_not_pushed_with_a_coreset_that_is_refused(
    hub: Hub, client: Client, small: DatasetDict, tmp_path: Path
):
    small.save_to_disk(str(tmp_path / "data"))
    do.recorded(small["train"]).save(tmp_path / "run")
    (tmp_path / "run" / "source_model").mkdir()
    arguments = [
        tmp_path / "run",
        "me/x",
        "--sizes",
        1_000,
        "--source-model",
        "me/early",
        "--dataset",
        tmp_path / "data",
    ]
    code, error = client(_told, "push", *arguments)
    assert code == 2 and "only 120 candidate rows" in error and ("model", "me/early") not in hub.repos
