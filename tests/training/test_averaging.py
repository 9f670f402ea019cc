"""Models with one tensor under several names, or one in another: trained, kept, resumed and loaded."""

import copy

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file, save_model
from torch import nn

from hf_ltc import record_checkpoints
from hf_ltc.training import models
from hf_ltc.training.batches import image_batches
from hf_ltc.training.forward import AveragedWeights
from hf_ltc.training.images import StoredImages
from hf_ltc.training.loop import TrainingConfig, load_checkpoint, prepare_training, save_checkpoint, train_epoch


class Shared(nn.Module):
    """Every way in which weights share memory."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 16))
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.position = nn.Linear(16, 16)
        self.blocks = nn.ModuleList([nn.Sequential(self.position, nn.ReLU()) for _ in range(2)])
        # Not contiguous, and a part of another.
        self.head = nn.Parameter(torch.randn(16, 10).T)
        self.register_buffer("whole", torch.randn(20))
        self.register_buffer("part", self.whole[2:12])

    def forward(self, pixels):
        hidden = self.second(self.first(self.stem(pixels)).relu())
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return hidden @ self.head.T + self.part


def same(model, other):
    one, two = model.state_dict(), other.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def coat():
    return timm.create_model("coat_lite_tiny", num_classes=10, img_size=32)


@pytest.mark.parametrize("make", [Shared, coat])
def test_a_checkpoint_is_restored(small, tmp_path, make):
    labels = np.asarray(small["test"]["label"][:], dtype=np.int64)
    batches = image_batches(StoredImages(small["test"], "image", 32), labels, device=torch.device("cpu"))
    config, accelerator = TrainingConfig(epochs=2, batch_size=20, learning_rate=0.01), Accelerator()
    state = prepare_training(make(), len(labels), config, accelerator, average_decay=0.8)
    with pytest.raises(RuntimeError, match="share memory"):
        # As safetensors has it, for which the model was chosen.
        save_file(state.model.state_dict(), tmp_path / "refused")
    train_epoch(state, batches, config, accelerator)
    save_checkpoint(tmp_path, state, accelerator)
    other = prepare_training(make(), len(labels), config, accelerator, average_decay=0.8)
    assert not same(state.model, other.model)
    load_checkpoint(tmp_path, other, accelerator)
    assert same(state.model, other.model) and same(state.averaged, other.averaged)
    for each in (state, other):
        train_epoch(each, batches, config, accelerator)
    assert same(state.model, other.model) and same(state.averaged, other.averaged)


def test_what_has_two_names_is_averaged_once_a_step():
    model, steps = Shared(), [Shared(seed).state_dict() for seed in (1, 2, 3)]
    average = AveragedWeights(model, decay=0.75)
    expected = {name: value.double() for name, value in copy.deepcopy(model).state_dict().items()}
    for step in steps:
        model.load_state_dict(step)
        average.update_parameters(model)
        expected = {name: 0.75 * value + 0.25 * model.state_dict()[name] for name, value in expected.items()}
    for name, value in average.module.state_dict().items():
        if name not in ("whole", "part"):
            torch.testing.assert_close(value.double(), expected[name], atol=1e-6, rtol=0)


def test_a_source_model_is_loaded_bit_by_bit(tmp_path):
    settings = {"name": "coat_lite_tiny", "num_classes": 10, "image_size": 32, "stem": "imagenet"}
    model = models.create_model(**settings)
    models.save_model(tmp_path, model, settings)
    assert same(model, models.load_model(tmp_path))
    # As others write it, without the second name of what is shared.
    save_model(model, str(tmp_path / "model.safetensors"))
    assert len(load_file(tmp_path / "model.safetensors")) < len(model.state_dict())
    assert same(model, models.load_model(tmp_path))


def collate(rows):
    pixels = torch.stack([torch.from_numpy(np.array(row["image"].convert("RGB"))) for row in rows])
    return pixels.permute(0, 3, 1, 2).float() / 255


class Tied(nn.Module):
    """What safetensors' own function saves: some names are left out."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(192, 192), nn.Linear(192, 192)
        self.second.weight = self.first.weight
        self.head = nn.Linear(192, 10)

    def forward(self, pixels):
        return self.head(self.second(self.first(pixels.flatten(1)).relu()))


def test_checkpoints_that_leave_out_shared_names_are_recorded(small, tmp_path):
    given = {"file": [], "folder": [], "state": []}
    for step in range(3):
        model = Tied(step)
        given["state"].append(model.state_dict())
        (tmp_path / f"step-{step}").mkdir()
        given["folder"].append(tmp_path / f"step-{step}")
        given["file"].append(tmp_path / f"step-{step}" / "model.safetensors")
        save_model(model, str(given["file"][-1]), {"format": "pt"})
        assert "second.weight" not in load_file(given["file"][-1]) or "first.weight" not in load_file(
            given["file"][-1]
        )
    runs = {
        form: record_checkpoints(each, small["train"], output_dir=tmp_path / form, model=Tied(9), collate=collate)
        for form, each in given.items()
    }
    assert len(np.unique(runs["state"].losses[:, 0])) == 3
    for form in ("file", "folder"):
        np.testing.assert_array_equal(runs[form].losses, runs["state"].losses)
