"""From a dataset on the Hub to a coreset on the Hub by the commands, and source models."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, load_dataset
from huggingface_hub import ModelCard, snapshot_download

from hf_ltc import InputError, Trajectories, push_coreset, select_coreset
from hf_ltc.cli.main import main
from hf_ltc.data.identity import cached_origin
from hf_ltc.scores.ltc import VARIANTS
from hf_ltc.training.models import load_model
from tests import hub_clients as do
from tests.hub_server import Client, Hub

pytest_plugins = ["tests.hub_fixtures"]
pytestmark = pytest.mark.usefixtures("no_faults_left")

_COLUMNS = ["image", "label", "ltc_score", "ltc_rank"]


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
    rows, _ = client(do.load, "me/digits-ltc", "coreset-30pct")
    assert rows == do.content(select_coreset(scored, 0.3).select_columns(_COLUMNS))
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
    assert rows == do.content(select_coreset(scored, 0.25).select_columns(_COLUMNS))
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
    assert "license: mit" in card and "Chosen by AUM" in card and "the lowest `aum_score`" in card


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
        ({"full": True, "min_per_class": 1}, "`full` is an order of which coresets are the beginning"),
        ({"fractions": [0.1], "splits": {"train": None}}, "a further split cannot be called 'train'"),
        ({"fractions": [0.1], "splits": {"a b": None}}, "a further split cannot be called 'a b'"),
        ({"fractions": [0.1], "label_column": "image"}, "column 'image'"),
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
    with pytest.raises(InputError, match="the split 'test' has no column 'image'"):
        push_coreset(scored, "me/x", [0.1], trajectories=run, splits={"test": small["test"].remove_columns("image")})
    other = small["test"].rename_column("label", "x").add_column("label", [0] * len(small["test"]))
    with pytest.raises(InputError, match="column 'label' of the split 'test' is Value"):
        push_coreset(scored, "me/x", [0.1], trajectories=run, splits={"test": other})


@pytest.mark.parametrize("member", VARIANTS, ids=lambda member: "-".join(member.values()))
def test_the_member_of_the_family_is_found(small: DatasetDict, member: dict[str, str]):
    from hf_ltc.hub.entry import _family

    run = do.recorded(small["train"], held=100)
    scored = run.score(small["train"], **member)
    assert _family(run, scored, "ltc_score") == member


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
