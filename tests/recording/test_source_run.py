"""Recordings against recomputation from the saved weights."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image
from huggingface_hub import ModelCard
from sklearn.datasets import load_sample_images
from torch.nn.functional import cross_entropy
from transformers import ConvNextConfig, SwinConfig, ViTConfig

from hf_ltc.recording.record import record
from hf_ltc.training import loop
from hf_ltc.training.images import StoredImages, channel_statistics, normalize
from hf_ltc.training.models import load_model
from hf_ltc.training.pixels import squares
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils import files
from hf_ltc.utils.errors import InputError
from tests.helpers import encoded
from tests.processes import finish, needs_compiler, start
from tests.recording.runs import FROZEN, command, saved, settings, snapshot, spoiled_at


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
        "The model is kept so that",
        "| source model | `test_resnet` |",
        f"| parameters | {recipe['parameters']:,} |",
        f"| time | {sum(recipe['seconds'].values()):,.0f} s on cpu |",
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


def test_faster_decoding_changes_losses_less_than_another_seed(tmp_path, monkeypatch):
    # The upper and the lower half of two photos, cut out of them with some luck.
    draw = np.random.default_rng(0)
    photos, classes = load_sample_images().images, np.arange(80) % 4
    tops = np.where(classes < 2, 0, 127)
    images = [
        photos[c % 2][top : top + 300, x : x + 500] for c, top, x in zip(classes, tops, draw.integers(140, size=80))
    ]
    stored = [{"bytes": encoded(image, "JPEG", quality=90), "path": None} for image in images]
    features = Features({"image": Image(), "label": ClassLabel(num_classes=4)})
    rows = Dataset.from_dict({"image": stored, "label": classes}, features=features)
    # Some of the cuts are four times as large, and decoded at half of their size.
    options = {"image_size": 72, "epochs": 2, "batch_size": 16, "learning_rate": 0.02, "num_workers": 0}
    quick = record(settings(tmp_path / "quick", **options), rows)
    other = record(settings(tmp_path / "other", seed=1, **options), rows)
    monkeypatch.setattr(squares, "_quick", lambda *given: None)
    pillow = record(settings(tmp_path / "pillow", **options), rows)
    both = np.intersect1d(quick.rows, other.rows)
    losses, another = (run.losses[:, np.searchsorted(run.rows, both)] for run in (quick, other))
    difference = np.abs(quick.losses - pillow.losses).mean(axis=1)
    assert 0 < difference[0] < 1e-3
    assert (difference[1:] < np.abs(losses - another)[1:].mean(axis=1) / 2).all()


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


def test_an_undecodable_image_is_named_by_its_row_and_leaves_nothing(small, tmp_path):
    train = spoiled_at(small["train"], 120)
    for cache in ("always", "never"):
        with pytest.raises(InputError, match=r"row 120, column 'image'"):
            record(settings(tmp_path / "run", cache_images=cache, num_workers=0, image_size=8), train)
        assert not (tmp_path / "run").exists()


def test_a_diverging_training_is_named_and_keeps_its_epochs(small, tmp_path):
    with pytest.raises(InputError, match=r"epoch \d: .*is not finite \(rows .*lower `learning_rate`"):
        record(settings(tmp_path / "run", learning_rate=1e30, epochs=4), small["train"])
    assert 0 in run_dir.published_epochs(tmp_path / "run")


def test_an_unknown_model_leaves_nothing_behind(small, tmp_path):
    with pytest.raises(InputError, match="did you mean"):
        record(settings(tmp_path / "run", model="resnet81"), small["train"])
    assert not (tmp_path / "run").exists()


def test_trackers_get_a_value_an_epoch(small, tmp_path):
    with pytest.raises(InputError, match=r"`report_to` is swanlab: swanlab is not installed: pip install swanlab"):
        record(settings(tmp_path / "run", report_to=["swanlab"]), small["train"])
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
