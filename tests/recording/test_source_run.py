"""Recordings against recomputation; killed against not killed; one process against several."""

import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Image, load_from_disk
from huggingface_hub import ModelCard
from torch.nn.functional import cross_entropy
from transformers import ConvNextConfig, SwinConfig, ViTConfig

from hf_ltc.cli.main import main
from hf_ltc.config import RecordConfig
from hf_ltc.recording.record import record
from hf_ltc.training import batches, loop
from hf_ltc.training.images import StoredImages, channel_statistics, normalize
from hf_ltc.training.models import load_model
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils import files
from hf_ltc.utils.errors import InputError
from tests.processes import finish, needs_compiler, start

# Without batch norm, whose training losses depend on the rows that share a batch, and so on the number of processes.
FROZEN = {"model": "test_vit", "learning_rate": 0.0}


def settings(folder, **changes):
    defaults = {
        "model": "test_resnet",
        "epochs": 2,
        "batch_size": 32,
        "learning_rate": 0.05,
        "output_dir": str(folder),
    }
    return RecordConfig(**{**defaults, **changes})


def recomputed(run_folder, train, rows, averaged):
    """Losses of rows under the saved weights, from the images on."""
    model = load_model(Path(run_folder) / "source_model", averaged=averaged)
    recorded_rows = files.read_arrays(Path(run_folder) / run_dir.ROWS)["train_rows"]
    mean, std = channel_statistics(StoredImages(train.select(recorded_rows), "image", 8).read())
    pixels = normalize(StoredImages(train.select(rows), "image", 8).read(), mean, std)
    with torch.no_grad():
        return cross_entropy(model(pixels), torch.tensor(train.select(rows)["label"][:]), reduction="none").numpy()


@pytest.mark.parametrize("weights", ["averaged", "raw"])
def test_recorded_losses_are_those_of_the_saved_weights(small, tmp_path, weights):
    train = small["train"]
    run = record(settings(tmp_path / "run", losses="both", weights=weights), train)
    averaged = weights == "averaged"
    expected = recomputed(tmp_path / "run", train, run.rows, averaged)
    np.testing.assert_allclose(run.signals["evaluation_loss"][-1], expected, atol=1e-5, rtol=1e-5)
    expected = recomputed(tmp_path / "run", train, run.validation_rows, averaged)
    np.testing.assert_allclose(run.validation_losses[-1], expected, atol=1e-5, rtol=1e-5)
    # Of the untrained model both kinds of losses are the same.
    np.testing.assert_array_equal(run.losses[0], run.signals["evaluation_loss"][0])
    assert not np.array_equal(run.losses[1], run.signals["evaluation_loss"][1])


def test_the_run_directory_is_as_designed(small, tmp_path):
    run = record(settings(tmp_path / "run", signals=["margin", "el2n"], epochs=3), small["train"])
    names = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    epochs = {f"trajectories/epoch-{t:05d}.safetensors" for t in range(4)}
    saved = ("model.safetensors", "averaged_model.safetensors", "config.json", "README.md")
    model = {f"source_model/{name}" for name in saved}
    assert names == {"recipe.json", "rows.safetensors"} | epochs | model
    table = files.read_arrays(tmp_path / "run" / run_dir.ROWS)
    assert {name: values.dtype for name, values in table.items()} == dict.fromkeys(table, np.dtype(np.int64))
    labels = np.array(small["train"]["label"][:])
    held, rows = table["validation_rows"], table["train_rows"]
    assert sorted([*held, *rows]) == list(range(150))
    np.testing.assert_array_equal(table["train_labels"], labels[rows])
    np.testing.assert_array_equal(table["validation_labels"], labels[held])
    assert np.bincount(labels[held]).tolist() == [max(1, round(0.1 * n)) for n in np.bincount(labels).tolist()]
    arrays = files.read_arrays(run_dir.epoch_path(tmp_path / "run", 2))
    assert set(arrays) == {"training_loss", "validation_loss", "margin", "el2n"}
    assert all(values.dtype == np.float32 for values in arrays.values())
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert recipe["epochs"] == [0, 1, 2, 3]
    assert recipe["config"]["epochs"] == 3
    assert recipe["dataset"]["rows"] == 150
    assert recipe["training"]["average_decay"] == pytest.approx(1 - 1 / recipe["training"]["steps_per_epoch"])
    assert run.losses.shape == (4, len(rows))


@pytest.mark.parametrize("weights", ["averaged", "raw"])
def test_the_card_beside_the_weights_says_how_to_load_them(small, tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    source = {"repo_id": "owner/digits", "split": "train"}
    # The folder as it was given, which the command can be run from again.
    run = record(settings('my "run"', weights=weights), small["train"], source=source)
    text = (tmp_path / 'my "run"' / "source_model" / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.library_name == "hf_ltc" and card.data.datasets == ["owner/digits"]
    recipe = json.loads((tmp_path / 'my "run"' / "recipe.json").read_text())
    for said in (
        "# Source model of owner/digits\n",
        "It is kept so that",
        "| source model | `test_resnet` |",
        f"| parameters | {recipe['parameters']:,} |",
        f"| seconds | {sum(recipe['seconds'].values()):,.0f} on cpu |",
        f"after the last epoch: {run.validation_losses[-1].mean():.3f} (",
    ):
        assert said in text, said
    assert "snapshot_download" not in text and "None" not in text and "{{" not in text
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(snippet, names)
    expected = load_model(tmp_path / 'my "run"' / "source_model", averaged=weights == "averaged").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in names["model"].state_dict().items())
    # Other weights than these would not do.
    if weights == "averaged":
        other = load_model(tmp_path / 'my "run"' / "source_model").state_dict()
        assert not all(torch.equal(value, other[name]) for name, value in names["model"].state_dict().items())


def test_record_every_and_no_initial_losses(small, tmp_path):
    run = record(settings(tmp_path / "run", epochs=5, record_every=2, initial_losses=False), small["train"])
    assert run.epochs.tolist() == [2, 4, 5]


def test_a_validation_split_is_never_part_of_the_rows(small, tmp_path):
    run = record(settings(tmp_path / "run"), small["train"], small["test"])
    assert run.rows.tolist() == list(range(150))
    assert run.validation_rows.tolist() == [-1] * 40
    assert run.validation_labels.tolist() == small["test"]["label"][:]


def test_the_dataset_s_form_does_not_matter(small, tmp_path):
    train = small["train"]

    def transform(batch):
        raise AssertionError("the user's transform was called")

    plain = record(settings(tmp_path / "a", epochs=2), train)
    for name, other in {
        "b": train.with_format("torch"),
        "c": train.with_transform(transform),
        "d": train.select(range(149, -1, -1)).select(range(149, -1, -1)),
    }.items():
        again = record(settings(tmp_path / name, epochs=2), other)
        np.testing.assert_array_equal(again.losses, plain.losses)


def test_streaming_and_caching_record_the_same(small, tmp_path):
    cached = record(settings(tmp_path / "a", cache_images="always"), small["train"])
    streamed = record(settings(tmp_path / "b", cache_images="never", num_workers=0), small["train"])
    np.testing.assert_array_equal(cached.losses, streamed.losses)
    np.testing.assert_array_equal(cached.validation_losses, streamed.validation_losses)


def test_mixed_precision_records_float32(small, tmp_path):
    run = record(settings(tmp_path / "run", mixed_precision="no"), small["train"])
    code = (
        "import sys; from datasets import load_from_disk; from hf_ltc import RecordConfig, record\n"
        "config = RecordConfig(model='test_resnet', epochs=2, batch_size=32, learning_rate=0.05,"
        " output_dir=sys.argv[2], mixed_precision='bf16')\n"
        "record(config, load_from_disk(sys.argv[1]))"
    )
    small["train"].save_to_disk(str(tmp_path / "data"))
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "data"), str(tmp_path / "bf16")], check=True)
    half = Trajectories.load(tmp_path / "bf16")
    assert half.losses.dtype == np.float32
    # The losses themselves carry more digits than bf16's eight bits: they were not rounded with the logits' sum.
    assert (half.losses.view(np.uint32) & 0xFFFF).any()
    np.testing.assert_allclose(half.losses[0], run.losses[0], atol=0.05)


SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
CONFIGS = {
    "vit": ViTConfig(**SMALL),
    "swin": SwinConfig(embed_dim=12, depths=[1, 1, 1, 1], num_heads=[1, 2, 3, 4]),
    "convnext": ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_classifiers_of_transformers_are_recorded_from_a_configuration(small, tmp_path, kind):
    (tmp_path / "model.json").write_text(CONFIGS[kind].to_json_string())
    model = f"transformers:{tmp_path / 'model.json'}"
    train = small["train"]
    config = settings(tmp_path / "run", model=model, losses="both", optimizer="adamw", learning_rate=1e-3)
    run = record(config, train)
    (tmp_path / "model.json").unlink()
    expected = recomputed(tmp_path / "run", train, run.rows, averaged=True)
    np.testing.assert_allclose(run.signals["evaluation_loss"][-1], expected, atol=1e-5, rtol=1e-5)
    assert (np.ptp(run.losses, axis=0) > 0).all()


def test_how_a_step_is_computed_does_not_change_what_is_recorded(small, tmp_path):
    # Without batch norm, which would see other batches, and with steps that do not multiply differences of 1e-7.
    base = {"model": "test_vit", "learning_rate": 0.01, "losses": "both"}
    plain = record(settings(tmp_path / "plain", **base), small["train"])
    for name, changes in {
        "accumulated": {"batch_size": 8, "gradient_accumulation_steps": 4},
        "channels_last": {"channels_last": True},
        "streamed": {"cache_images": "never", "num_workers": 1, "eval_batch_size": 16},
    }.items():
        other = record(settings(tmp_path / name, **{**base, **changes}), small["train"])
        np.testing.assert_allclose(other.losses, plain.losses, atol=1e-5, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(other.validation_losses, plain.validation_losses, atol=1e-5, rtol=1e-5)
        assert other.recipe["training"]["steps_per_epoch"] == plain.recipe["training"]["steps_per_epoch"]
    assert np.abs(np.diff(plain.validation_losses, axis=0)).mean() > 1e-3


def test_label_smoothing_is_no_part_of_recorded_losses(small, tmp_path):
    signals = ["margin", "correct", "el2n"]
    frozen = {**FROZEN, "losses": "both", "signals": signals}
    plain = record(settings(tmp_path / "plain", **frozen), small["train"])
    smoothed = record(settings(tmp_path / "smoothed", **frozen, label_smoothing=0.3), small["train"])
    np.testing.assert_array_equal(smoothed.losses, plain.losses)
    assert set(plain.signals) >= {"evaluation_loss", *signals}
    for name, values in plain.signals.items():
        np.testing.assert_array_equal(smoothed.signals[name], values)
    # That of the smoothed objective would be another one.
    trained = record(settings(tmp_path / "trained", label_smoothing=0.3), small["train"])
    assert not np.array_equal(trained.losses, record(settings(tmp_path / "without"), small["train"]).losses)


def test_several_runs_share_their_hold_out(small, tmp_path):
    run = record(settings(tmp_path / "run", runs=2, epochs=2, seed=5), small["train"])
    assert run.lengths == (3, 3)
    one, two = (Trajectories.load(tmp_path / "run" / f"seed-{seed}") for seed in (5, 6))
    np.testing.assert_array_equal(one.validation_rows, two.validation_rows)
    assert not np.array_equal(one.losses, two.losses)
    np.testing.assert_array_equal(run.losses, np.concatenate([one.losses, two.losses]))
    alone = record(settings(tmp_path / "alone", epochs=2, seed=6), small["train"])
    np.testing.assert_array_equal(alone.losses, two.losses)
    stored = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert stored["reliability"]["runs"] == 2
    # More runs add to those that are there.
    more = record(settings(tmp_path / "run", runs=3, epochs=2, seed=5), small["train"])
    assert more.lengths == (3, 3, 3)
    np.testing.assert_array_equal(more.losses[:6], run.losses)


def test_a_finished_run_is_returned_as_it_is(small, tmp_path):
    record(settings(tmp_path / "run"), small["train"])
    before = snapshot(tmp_path / "run")
    record(settings(tmp_path / "run", num_workers=1), small["train"])
    assert snapshot(tmp_path / "run") == before


def test_another_configuration_or_dataset_is_refused(small, tmp_path):
    train = small["train"]
    record(settings(tmp_path / "run"), train)
    before = snapshot(tmp_path / "run")
    with pytest.raises(InputError, match=r"`learning_rate` was 0\.05, now 0\.2"):
        record(settings(tmp_path / "run", learning_rate=0.2), train)
    with pytest.raises(InputError, match="another dataset: its rows differs"):
        record(settings(tmp_path / "run"), train.select(range(140)))
    with pytest.raises(InputError, match="another dataset: its labels differs"):
        record(settings(tmp_path / "run"), train.shuffle(seed=1))
    with pytest.raises(InputError, match="other validation samples"):
        record(settings(tmp_path / "run"), train, small["test"])
    with pytest.raises(InputError, match=r"holds a single run: give another one for `runs` 2"):
        record(settings(tmp_path / "run", runs=2), train)
    assert snapshot(tmp_path / "run") == before


def test_seeds_of_another_configuration_are_refused(small, tmp_path):
    record(settings(tmp_path / "runs", runs=2), small["train"])
    before = snapshot(tmp_path / "runs")
    with pytest.raises(InputError, match=r"`epochs` was 2, now 3.*`learning_rate` was 0\.05, now 0\.01"):
        record(settings(tmp_path / "runs", runs=2, seed=2, epochs=3, learning_rate=0.01), small["train"])
    with pytest.raises(InputError, match="holds several runs"):
        record(settings(tmp_path / "runs"), small["train"])
    assert snapshot(tmp_path / "runs") == before


def test_where_the_dataset_is_kept_does_not_matter(small, tmp_path):
    first = record(settings(tmp_path / "run"), small["train"], source={"path": "/a", "split": "train"})
    again = record(settings(tmp_path / "run"), small["train"], source={"path": "/b"})
    np.testing.assert_array_equal(first.losses, again.losses)


def spoilt_at(train, row):
    """The same rows with one image of which only the header is left, which tells the size."""
    stored = train.cast_column("image", Image(decode=False))
    images = [{"bytes": image["bytes"], "path": None} for image in stored["image"]]
    images[row]["bytes"] = images[row]["bytes"][:50]
    return stored.remove_columns("image").add_column("image", images).cast_column("image", Image())


def test_an_undecodable_image_is_named_by_its_row_and_leaves_nothing(small, tmp_path):
    train = spoilt_at(small["train"], 120)
    for cache in ("always", "never"):
        with pytest.raises(InputError, match=r"row 120, column 'image'"):
            record(settings(tmp_path / "run", cache_images=cache, num_workers=0, image_size=8), train)
        assert not (tmp_path / "run").exists()


def test_an_epoch_file_that_is_gone_is_named_before_going_on(small, tmp_path):
    process = start(record_from_disk, saved(small, tmp_path), vars(settings(tmp_path / "run", epochs=60)))
    wait_for(run_dir.epoch_path(tmp_path / "run", 3), process)
    process[0].kill()
    finish(process)
    gone = run_dir.epoch_path(tmp_path / "run", 1)
    content = gone.read_bytes()
    gone.unlink()
    with pytest.raises(InputError, match=r"no file .*epoch-00001"):
        record(settings(tmp_path / "run", epochs=60), small["train"])
    gone.write_bytes(content[:-8])
    with pytest.raises(InputError, match=r"cannot read .*epoch-00001"):
        record(settings(tmp_path / "run", epochs=60), small["train"])


def test_two_commands_do_not_write_into_one_run(small, tmp_path):
    process = start(record_from_disk, saved(small, tmp_path), vars(settings(tmp_path / "run", epochs=500)))
    wait_for(run_dir.epoch_path(tmp_path / "run", 1), process)
    with pytest.raises(InputError, match="is being recorded into by another process"):
        record(settings(tmp_path / "run", epochs=500), small["train"])
    assert process[0].is_alive()
    process[0].kill()
    finish(process)


def test_processes_that_accelerate_does_not_join_are_refused(small, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"2 processes were started, but accelerate joins 1: .*ACCELERATE_USE_CPU=1"):
        record(settings(tmp_path / "run"), small["train"])
    assert not (tmp_path / "run").exists()


def test_a_diverging_training_is_named_and_keeps_its_epochs(small, tmp_path):
    with pytest.raises(InputError, match=r"epoch \d: .*is not finite \(rows .*lower `learning_rate`"):
        record(settings(tmp_path / "run", learning_rate=1e30, epochs=4), small["train"])
    assert 0 in run_dir.published_epochs(tmp_path / "run")


def test_an_unknown_model_leaves_nothing_behind(small, tmp_path):
    with pytest.raises(InputError, match="did you mean"):
        record(settings(tmp_path / "run", model="resnet81"), small["train"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", ["checkpoint", "model"])
def test_what_resuming_needs_is_named_when_it_is_gone(small, tmp_path, missing):
    process = start(record_from_disk, saved(small, tmp_path), vars(settings(tmp_path / "run", epochs=60)))
    wait_for(run_dir.epoch_path(tmp_path / "run", 2), process)
    process[0].kill()
    finish(process)
    checkpoint = max((tmp_path / "run" / "checkpoint").glob("epoch-*"))
    if missing == "checkpoint":
        shutil.rmtree(tmp_path / "run" / "checkpoint")
    else:
        (checkpoint / "model.safetensors").unlink()
    with pytest.raises(InputError, match=str(tmp_path / "run")):
        record(settings(tmp_path / "run", epochs=60), small["train"])


# Killed against not killed.


def saved(small, folder):
    small["train"].save_to_disk(str(folder / "data"))
    return str(folder / "data")


def record_from_disk(data, config):
    torch.set_num_threads(1)
    record(RecordConfig(**config), load_from_disk(data))


def dying_recorder(data, config, call):
    """Records, and is killed by the kernel at the n-th call that puts a file in its place."""
    calls = iter(range(call + 1))

    def dying(function):
        def called(*arguments, **options):
            if next(calls, None) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return called

    os.replace, os.link, os.fsync = dying(os.replace), dying(os.link), dying(os.fsync)
    record_from_disk(data, config)


def wait_for(path, processes, timeout=120):
    end = time.monotonic() + timeout
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        assert all(process.is_alive() for process in processes), f"ended before {path} appeared"
        time.sleep(0.01)


def snapshot(folder):
    """What a recording is, bit by bit: trajectories and final weights."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*.safetensors"))
        if "checkpoint" not in path.parts
    }


KILLED = {"epochs": 4, "losses": "both", "signals": ["margin"]}


@pytest.fixture(scope="module")
def uninterrupted(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    data = saved(small, folder)
    for name in ("first", "second"):
        # The first start has the imports before it, which later ones do not wait for.
        begun = time.monotonic()
        assert finish(start(record_from_disk, data, vars(settings(folder / name, **KILLED)))) == [0]
    assert snapshot(folder / "first") == snapshot(folder / "second")
    return data, snapshot(folder / "first"), time.monotonic() - begun


def check_published(folder, whole, known):
    """Published epochs are complete, right, and never written again."""
    for path in (folder / "trajectories").glob("epoch-*"):
        name = str(path.relative_to(folder))
        assert hashlib.sha256(path.read_bytes()).hexdigest() == whole[name]
        assert known.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns


def test_killed_at_twenty_random_moments_it_ends_bit_by_bit_the_same(uninterrupted, tmp_path):
    data, whole, duration = uninterrupted
    generator = random.Random(0)
    killed, number = 0, 0
    known = {}
    folder = tmp_path / "run-0"
    while killed < 20:
        process = start(record_from_disk, data, vars(settings(folder, **KILLED)))
        process[0].join(generator.uniform(0, duration))
        process[0].kill()
        (code,) = finish(process)
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        check_published(folder, whole, known)
        if code == 0:
            assert snapshot(folder) == whole
            number += 1
            folder = tmp_path / f"run-{number}"
    assert finish(start(record_from_disk, data, vars(settings(folder, **KILLED)))) == [0]
    assert snapshot(folder) == whole


@pytest.mark.parametrize("first", range(3))
def test_killed_while_a_file_is_put_in_its_place(uninterrupted, tmp_path, first):
    data, whole, _ = uninterrupted
    known = {}
    folder = tmp_path / "run"
    codes = []
    # Each start dies one or some steps further on, so that all kinds of steps are cut off.
    for call in range(first, 60, 7):
        codes += finish(start(dying_recorder, data, vars(settings(folder, **KILLED)), call))
        if folder.exists():
            check_published(folder, whole, known)
        if codes[-1] == 0:
            break
    assert codes.count(-signal.SIGKILL) >= 3
    if codes[-1] != 0:
        assert finish(start(record_from_disk, data, vars(settings(folder, **KILLED)))) == [0]
    assert snapshot(folder) == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_between_steps_and_say_how_to_go_on(small, tmp_path, number):
    arguments = ["record", "--dataset", saved(small, tmp_path), "--model", "test_resnet", "--epochs", "2000"]
    arguments += ["--batch-size", "32", "--output-dir", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_ltc", *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 120
    while not run_dir.epoch_path(tmp_path / "run", 2).exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}" in said.splitlines()[-1]
    assert "run the same command again" in said.splitlines()[-1]
    assert "Traceback" not in said
    Trajectories.load(tmp_path / "run")


def short_of_space(data, config, said):
    """Records where no file can be larger than 100 kB: losses fit, checkpoints do not."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        record_from_disk(data, config)
    except InputError as error:
        Path(said).write_text(str(error))


def test_without_space_it_says_so_and_keeps_what_it_has(uninterrupted, tmp_path):
    data, whole, _ = uninterrupted
    folder = tmp_path / "run"
    said = tmp_path / "said"
    assert finish(start(short_of_space, data, vars(settings(folder, **KILLED)), str(said))) == [0]
    (line,) = said.read_text().splitlines()
    assert line.startswith(f"cannot write '{folder / 'checkpoint' / 'epoch-00001'}'")
    assert "File too large" in line
    check_published(folder, whole, {})
    assert run_dir.published_epochs(folder) == [0]
    assert finish(start(record_from_disk, data, vars(settings(folder, **KILLED)))) == [0]
    assert snapshot(folder) == whole


def test_trackers_get_a_value_an_epoch(small, tmp_path):
    record(settings(tmp_path / "run", report_to=["tensorboard"], channels_last=True), small["train"])
    logs = list((tmp_path / "run" / "logs").rglob("events.out.tfevents.*"))
    assert any(b"validation_loss" in log.read_bytes() for log in logs)


@needs_compiler
def test_compiled_it_records_the_same_and_resumes(small, tmp_path, monkeypatch):
    train = small["train"]
    # Batches of one size, 30 rows, of which one model is compiled: that is what takes the time.
    config = {"batch_size": 30, "learning_rate": 0.002, "schedule": "constant"}
    plain = record(settings(tmp_path / "plain", **config), train, small["test"])
    compiled = record(settings(tmp_path / "compiled", compile=True, **config), train, small["test"])
    # What is compiled adds float32 numbers up in another order, which moves losses by some 1e-7 a step; at this
    # learning rate ten steps do not multiply that. The steps themselves move the losses by far more.
    np.testing.assert_allclose(compiled.losses, plain.losses, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(compiled.validation_losses, plain.validation_losses, atol=1e-4, rtol=1e-4)
    assert np.abs(np.diff(plain.validation_losses, axis=0)).mean() > 1e-3
    assert not np.array_equal(compiled.losses, plain.losses)
    for averaged in (False, True):
        model = load_model(tmp_path / "compiled" / "source_model", averaged=averaged)
        other = load_model(tmp_path / "plain" / "source_model", averaged=averaged)
        assert type(model) is type(other)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], atol=1e-4, rtol=1e-4)
    whole = loop.train_epoch

    def cut(state, *arguments):
        if state.epoch == 1:
            raise OSError("cable")
        whole(state, *arguments)

    monkeypatch.setattr(loop, "train_epoch", cut)
    with pytest.raises(OSError, match="cable"):
        record(settings(tmp_path / "run", compile=True, **config), train, small["test"])
    monkeypatch.undo()
    # As in another process, the model is compiled again.
    torch.compiler.reset()
    record(settings(tmp_path / "run", compile=True, **config), train, small["test"])
    assert snapshot(tmp_path / "run") == snapshot(tmp_path / "compiled")


def without_compiler(folder, *arguments):
    os.environ |= {"RANK": "0", "PATH": folder, "CXX": "g++", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache"}
    command(folder, *arguments)


def test_without_a_compiler_it_says_so_and_leaves_nothing(small, tmp_path):
    arguments = ["--dataset", saved(small, tmp_path), "--output-dir", str(tmp_path / "run"), "--model", "test_resnet"]
    arguments += ["--epochs", "2", "--compile"]
    assert finish(start(without_compiler, str(tmp_path), *arguments)) == [2]
    (line,) = (tmp_path / "err-0").read_text().splitlines()
    assert line.startswith("hf-ltc: error: --compile: torch.compile does not work here (")
    assert line.endswith("): install a C++ compiler such as g++, or record without --compile")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("world", [1, 2])
def test_killed_in_the_second_of_two_runs_it_ends_the_same(uninterrupted, tmp_path, world):
    data, _, _ = uninterrupted
    config = {**KILLED, "runs": 2}
    assert set(finish(start(record_from_disk, data, vars(settings(tmp_path / "whole", **config)), world=world))) == {0}
    processes = start(record_from_disk, data, vars(settings(tmp_path / "run", **config)), world=world)
    wait_for(run_dir.epoch_path(tmp_path / "run" / "seed-1", 1), processes)
    for process in processes:
        process.kill()
    finish(processes)
    assert not (tmp_path / "run" / "recipe.json").exists()
    assert set(finish(start(record_from_disk, data, vars(settings(tmp_path / "run", **config)), world=world))) == {0}
    assert snapshot(tmp_path / "run") == snapshot(tmp_path / "whole")


def stopped_recording(data, config, folder):
    try:
        record_from_disk(data, config)
    except KeyboardInterrupt as stopped:
        (Path(folder) / f"said-{os.environ['RANK']}").write_text(str(stopped))


def test_a_signal_to_both_processes_stops_both(small, tmp_path):
    data = saved(small, tmp_path)
    config = vars(settings(tmp_path / "run", epochs=500, losses="both"))
    processes = start(stopped_recording, data, config, str(tmp_path), world=2)
    wait_for(run_dir.epoch_path(tmp_path / "run", 2), processes)
    for process in processes:
        os.kill(process.pid, signal.SIGTERM)
    assert finish(processes, timeout=120) == [0, 0]
    assert all("run the same command again" in (tmp_path / f"said-{rank}").read_text() for rank in (0, 1))


# One process against several.


def record_cases(folder, world):
    torch.set_num_threads(1)
    for name, config in cases(folder, world).items():
        data = load_from_disk(str(Path(folder) / "data"))
        rows = int(name.split("-")[0])
        record(RecordConfig(**config), data["train"].select(range(rows)), data["test"])


def cases(folder, world):
    """For each number of rows what to record: one more and one less than the batches hold, a prime, almost none."""
    made = {}
    for rows in (16 * 2 + 1, 16 * 2 - 1, 37, 2):
        for losses in ("training", "both"):
            name = f"{rows}-{losses}"
            config = settings(f"{folder}/{world}-{name}", **FROZEN, losses=losses, signals=["margin"])
            made[name] = vars(config) | {"batch_size": 8}
    return made


@pytest.fixture(scope="module")
def alone(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    train = small["train"]
    # The first two rows have to be of two classes, which the case with two rows needs.
    other = next(row for row in range(150) if train[row]["label"] != train[0]["label"])
    order = [0, other, *(row for row in range(1, 150) if row != other)]
    small.__class__({"train": train.select(order), "test": small["test"]}).save_to_disk(str(folder / "data"))
    record_cases(folder, 1)
    return folder


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_record_what_one_does(alone, world):
    assert finish(start(record_cases, str(alone), world, world=world)) == [0] * world
    for name in cases(alone, world):
        one, several = (Trajectories.load(alone / f"{count}-{name}") for count in (1, world))
        assert one.losses.shape == several.losses.shape == (3, int(name.split("-")[0]))
        np.testing.assert_allclose(several.losses, one.losses, atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(several.validation_losses, one.validation_losses, atol=1e-5, rtol=1e-5)
        for signal_name, values in one.signals.items():
            np.testing.assert_allclose(several.signals[signal_name], values, atol=1e-4, rtol=1e-4)


def refused_recording(data, config, said):
    with pytest.raises(InputError) as error:
        record_from_disk(data, config)
    Path(f"{said}-{os.environ.get('RANK', 0)}").write_text(str(error.value))


def test_two_processes_killed_end_bit_by_bit_the_same(uninterrupted, tmp_path):
    data, _, duration = uninterrupted
    assert finish(start(record_from_disk, data, vars(settings(tmp_path / "whole", **KILLED)), world=2)) == [0, 0]
    whole = snapshot(tmp_path / "whole")
    generator = random.Random(1)
    known = {}
    for _ in range(4):
        processes = start(record_from_disk, data, vars(settings(tmp_path / "run", **KILLED)), world=2)
        processes[0].join(generator.uniform(0.3, 1.2) * duration)
        for process in processes:
            process.kill()
        finish(processes)
        if (tmp_path / "run").exists():
            check_published(tmp_path / "run", whole, known)
    assert finish(start(record_from_disk, data, vars(settings(tmp_path / "run", **KILLED)), world=2)) == [0, 0]
    assert snapshot(tmp_path / "run") == whole
    # Begun on two, and not ended: as many rows a step on one or three are none of the same training.
    recipe = files.read_json(tmp_path / "run" / "recipe.json")
    files.write_json(tmp_path / "run" / "recipe.json", {k: v for k, v in recipe.items() if k != "epochs"})
    before = snapshot(tmp_path / "run")
    for world in (1, 3):
        config = vars(settings(tmp_path / "run", **KILLED))
        assert (
            finish(start(refused_recording, data, config, str(tmp_path / f"by-{world}"), world=world)) == [0] * world
        )
        for rank in range(world):
            (line,) = (tmp_path / f"by-{world}-{rank}").read_text().splitlines()
            assert f"it ran on 2 processes, now on {world}" in line and "give another `output_dir`" in line
    assert snapshot(tmp_path / "run") == before


def command(folder, *arguments):
    """The command line, with what each process prints in a file of its own."""
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(folder) / f"{name}-{os.environ['RANK']}", os.O_WRONLY | os.O_CREAT), descriptor)
    # So few rows are decoded for the channels' statistics that the spoilt one is found while recording.
    batches._STATISTICS_ROWS = 2
    sys.exit(main(["record", *arguments]))


@pytest.mark.parametrize("row", [3, 140])
@pytest.mark.parametrize("initial", [True, False])
def test_an_image_that_one_process_cannot_decode_ends_both_with_a_line(small, tmp_path, row, initial):
    spoilt_at(small["train"], row).save_to_disk(str(tmp_path / "data"))
    arguments = ["--dataset", str(tmp_path / "data"), "--output-dir", str(tmp_path / "run"), "--model", "test_vit"]
    arguments += ["--epochs", "3", "--batch-size", "16", "--image-size", "8", "--cache-images", "never"]
    arguments += ["--num-workers", "0", "--validation-per-class", "1", "--initial-losses", str(initial)]
    assert finish(start(command, str(tmp_path), *arguments, world=2), timeout=120) == [2, 2]
    main_said, other_said = ((tmp_path / f"err-{rank}").read_text() for rank in (0, 1))
    (line,) = main_said.splitlines()
    assert line.startswith("hf-ltc: error: ")
    named = f"row {row}, column 'image': not a readable image"
    if initial:
        # Each evaluates its half of the rows, so it is known which of them fails.
        assert (named in line) == (row < 75)
    if named in line:
        assert other_said == ""
    else:
        assert "stopped because another process failed or was killed" in line
        (line,) = other_said.splitlines()
        assert line.startswith(f"hf-ltc: process 1: {named}")
    printed = [line for rank in (0, 1) for line in (tmp_path / f"out-{rank}").read_text().splitlines()]
    # torch 2.9 tells there that the processes are connected.
    assert [line for line in printed if not line.startswith("[Gloo] ")] == []


def test_a_process_that_is_killed_ends_the_other_with_a_line(small, tmp_path):
    arguments = ["--dataset", saved(small, tmp_path), "--output-dir", str(tmp_path / "run"), "--model", "test_vit"]
    arguments += ["--epochs", "500", "--batch-size", "16"]
    processes = start(command, str(tmp_path), *arguments, world=2)
    wait_for(run_dir.epoch_path(tmp_path / "run", 1), processes)
    processes[1].kill()
    assert finish(processes, timeout=120) == [2, -signal.SIGKILL]
    said = (tmp_path / "err-0").read_text()
    assert said.splitlines()[-1].startswith("hf-ltc: error: stopped because another process failed or was killed")
    assert "Traceback" not in said
