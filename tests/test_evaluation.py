"""Target models: trained for as many steps at every budget, tested on other rows."""

import pytest
import torch
from accelerate import Accelerator

from hf_ltc import evaluation
from hf_ltc.batches import image_batches
from hf_ltc.data import read_labels
from hf_ltc.evaluation import accuracy, train_target
from hf_ltc.training import TrainingConfig, train_epoch


class Brightest(torch.nn.Module):
    """Predicts class 0 for an image whose upper half is brighter, else class 1."""

    def forward(self, pixels):
        upper = pixels[:, :, :4].mean((1, 2, 3))
        lower = pixels[:, :, 4:].mean((1, 2, 3))
        return torch.cat([upper[:, None], lower[:, None], torch.full((len(pixels), 8), -torch.inf)], dim=1)


def test_accuracy_is_the_share_of_right_rows(small):
    test = small["test"]
    labels = read_labels(test, "label")
    batches = image_batches(test, "image", labels, 8, device=torch.device("cpu"))
    ((pixels, classes, _),) = batches([torch.arange(40).numpy()])
    expected = (Brightest()(pixels).argmax(1) == classes).double().mean()
    assert accuracy(Brightest(), batches, Accelerator()) == pytest.approx(float(expected))


def test_training_learns_and_repeats(digit_rows):
    train, test = digit_rows
    config = TrainingConfig(epochs=6, batch_size=64, learning_rate=0.05, augment=False)
    first = train_target("test_resnet", train, test, config)
    assert first > 0.8
    assert train_target("test_resnet", train, test, config) == first


@pytest.mark.parametrize(("rows", "epochs"), [(40, 5), (150, 2), (8, 15)])
def test_iterations_become_whole_epochs(small, monkeypatch, rows, epochs):
    seen = []

    def counted(state, *arguments):
        train_epoch(state, *arguments)
        seen.append(state.epoch)

    monkeypatch.setattr(evaluation, "train_epoch", counted)
    config = TrainingConfig(epochs=1, batch_size=16)
    # 40 rows are 3 steps an epoch, 150 are 10, 8 are one.
    train_target("test_resnet", small["train"].select(range(rows)), small["test"], config, iterations=15)
    assert seen == list(range(1, epochs + 1))
