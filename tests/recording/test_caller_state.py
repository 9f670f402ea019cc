"""What a caller has set in torch, a default dtype or a mode without gradients, changes no recording."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments

from hf_ltc import (
    EvaluateConfig,
    RecordConfig,
    TrajectoryCallback,
    TrajectoryRecorder,
    evaluate_coresets,
    record,
    record_checkpoints,
)


@contextmanager
def caller(dtype, mode):
    torch.set_default_dtype(dtype)
    try:
        with mode():
            yield
            assert torch.get_default_dtype() is dtype
            assert torch.is_grad_enabled() == (mode is torch.enable_grad)
    finally:
        torch.set_default_dtype(torch.float32)


CALLERS = pytest.mark.parametrize(
    ("dtype", "mode"),
    [
        (torch.float64, torch.enable_grad),
        (torch.bfloat16, torch.no_grad),
        (torch.float32, torch.inference_mode),
    ],
    ids=["float64", "bfloat16-no_grad", "inference"],
)


@pytest.fixture(scope="module")
def recorded(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("recorded") / "run"
    config = RecordConfig(model="test_resnet", epochs=2, batch_size=32, output_dir=str(folder))
    return config, record(config, small["train"])


@CALLERS
def test_record_and_its_checkpoint(small, recorded, tmp_path, dtype, mode):
    config, expected = recorded
    with caller(dtype, mode):
        run = record(RecordConfig(**{**config.to_dict(), "output_dir": str(tmp_path / "run")}), small["train"])
    np.testing.assert_array_equal(run.losses, expected.losses)
    np.testing.assert_array_equal(run.validation_losses, expected.validation_losses)


def as_color(rows):
    pixels = np.stack([np.array(row["image"], dtype=np.float32) / 255 for row in rows])
    return torch.from_numpy(pixels)[:, None].repeat(1, 3, 1, 1)


@CALLERS
def test_checkpoints(small, recorded, tmp_path, dtype, mode):
    folder = f"{recorded[0].output_dir}/source_model"
    plain = record_checkpoints([folder], small["train"], output_dir=tmp_path / "plain", collate=as_color)
    with caller(dtype, mode):
        run = record_checkpoints([folder], small["train"], output_dir=tmp_path / "run", collate=as_color)
    np.testing.assert_array_equal(run.losses, plain.losses)


@pytest.mark.parametrize(("dtype", "mode"), [(torch.float64, torch.no_grad), (torch.bfloat16, torch.inference_mode)])
def test_evaluate(small, recorded, tmp_path, dtype, mode):
    found = []
    for name in ("plain", "set"):
        config = EvaluateConfig(
            models=["test_resnet"], fractions=[0.5], seeds=1, epochs=2, output_dir=str(tmp_path / name), num_workers=0
        )
        with caller(*((dtype, mode) if name == "set" else (torch.float32, torch.enable_grad))):
            found.append(evaluate_coresets(config, recorded[1], small["train"], small["test"]))
    assert [trial["accuracy"] for trial in found[0].trials] == [trial["accuracy"] for trial in found[1].trials]


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)

    def forward(self, numbers, labels=None):
        logits = self.layer(numbers)
        return {"loss": None if labels is None else cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_trainer_s_callback(tmp_path, dtype):
    numbers = np.random.default_rng(0).normal(size=(30, 4)).tolist()
    train = Dataset.from_dict(
        {"numbers": numbers, "labels": [0, 1, 2] * 10},
        Features({"numbers": List(Value("float32")), "labels": ClassLabel(num_classes=3)}),
    )
    with caller(dtype, torch.enable_grad):
        callback = TrajectoryCallback(tmp_path / "run", train)
        model = Linear()
        assert model.layer.weight.dtype is dtype
        with torch.no_grad():
            logits = model(torch.tensor(numbers))["logits"].float()
        arguments = TrainingArguments(
            str(tmp_path / "trainer"),
            num_train_epochs=3,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        Trainer(model, arguments, train_dataset=callback.train_dataset, callbacks=[callback]).train()
    run = callback.trajectories
    assert run.losses.dtype == np.float32 and run.losses.shape == (4, 27)
    expected = cross_entropy(logits, torch.tensor([0, 1, 2] * 10), reduction="none").numpy()
    np.testing.assert_allclose(run.losses[0], expected[run.rows], rtol=1e-5, atol=1e-6)


@CALLERS
def test_a_loop_of_one_s_own(tmp_path, dtype, mode):
    losses = np.random.default_rng(0).random((3, 5), dtype=np.float32)
    with caller(dtype, mode):
        made = TrajectoryRecorder(tmp_path / "run", rows=5, labels=[0, 1] * 2 + [0], validation_labels=[0, 1])
    for number, values in enumerate(losses):
        with made.epoch(), caller(dtype, mode) if number == 1 else torch.enable_grad():
            made.update(range(5), torch.from_numpy(values))
            made.update([0, 1], values[:2], split="validation")
    np.testing.assert_array_equal(made.finish().losses, losses)
