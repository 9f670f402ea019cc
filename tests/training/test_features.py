"""Features of real models of timm and of transformers: what their own methods call so, on one process."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator, PartialState
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    BertConfig,
    BertForSequenceClassification,
    ConvNextConfig,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

from hf_ltc.training.batches import image_batches
from hf_ltc.training.forward import classifier_inputs, features_of
from hf_ltc.training.images import StoredImages
from hf_ltc.training.models import Logits, create_model
from tests.helpers import error_of
from tests.training.test_models import CLASSES, NAMES

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def features(model, *inputs, classes=CLASSES, **named):
    with torch.no_grad(), classifier_inputs(model.eval(), classes) as found:
        model(*inputs, **named)
        return found()


@pytest.mark.parametrize("name", NAMES)
def test_of_timm_they_are_its_pre_logits(name):
    model = create_model(name, CLASSES, 32)
    found = features(model, IMAGES)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(IMAGES), pre_logits=True)
    torch.testing.assert_close(found, expected)
    assert found.shape == (3, model.get_classifier().in_features)
    # Nothing is left on the model.
    assert not any(module._forward_pre_hooks for module in model.modules())


SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
CONFIGS = {
    "vit": ViTConfig(**SMALL, image_size=32, patch_size=8),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic"),
    "convnext": ConvNextConfig(hidden_sizes=[8, 8, 8, 12], depths=[1, 1, 1, 1]),
    "swin": SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2, image_size=32, patch_size=4),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_of_transformers_they_are_the_pooled_last_hidden_state(name):
    config = CONFIGS[name]
    config.num_labels = CLASSES
    model = Logits(AutoModelForImageClassification.from_config(config))
    found = features(model, IMAGES)
    with torch.no_grad():
        made = model.model.base_model(pixel_values=IMAGES)
    expected = made.last_hidden_state[:, 0] if name == "vit" else made.pooler_output.flatten(1)
    torch.testing.assert_close(found, expected)


def test_of_texts_they_are_what_the_pooler_makes():
    config = BertConfig(**SMALL, vocab_size=20, num_labels=CLASSES)
    model = BertForSequenceClassification(config)
    tokens = torch.arange(12).reshape(3, 4)
    with torch.no_grad():
        expected = model.eval().bert(input_ids=tokens).pooler_output
    torch.testing.assert_close(features(model, input_ids=tokens), expected)


def test_of_features_with_a_place_the_mean_is_taken():
    head = nn.Conv2d(3, CLASSES, 1)
    model = nn.Sequential(head, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.testing.assert_close(features(model, IMAGES), IMAGES.mean((2, 3)))
    tokens = torch.randn(3, 5, 4)
    torch.testing.assert_close(features(nn.Linear(4, CLASSES), tokens), tokens.mean(1))
    last = torch.randn(3, 5, 6, 4)
    torch.testing.assert_close(features(nn.Linear(4, CLASSES), last), last.mean((1, 2)))


def test_of_several_layers_with_as_many_outputs_the_last_one_counts():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, CLASSES), nn.ReLU(), nn.Linear(CLASSES, CLASSES))
    with torch.no_grad():
        expected = model[:3](IMAGES)
    torch.testing.assert_close(features(model, IMAGES), expected)


@pytest.fixture(scope="module")
def batches(small):
    labels = np.asarray(small["test"]["label"][:], dtype=np.int64)
    return image_batches(StoredImages(small["test"], "image", 8), labels, device=torch.device("cpu"))


def test_a_pass_over_the_rows(batches):
    model, state, seen = create_model("test_resnet", 10, 8), Accelerator(), []
    found = features_of(model, batches, state, 16, 10, seen.append)
    assert found.dtype == np.float16 and found.shape == (40, model.get_classifier().in_features)
    assert sum(seen) == 40 and max(seen) <= 16
    assert model.training
    (pixels, _, _) = next(batches([np.arange(40)]))
    expected = features(model, pixels, classes=10)
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-3, atol=1e-3)
    assert not np.array_equal(found[0], found[1])


def test_bad_models_are_named(batches):
    state = PartialState()
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 12))
    said = error_of(features_of, model, batches, state, 16, 10)
    assert said.startswith("`features`: no linear layer of the model Sequential makes 10 logits")
    huge = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Linear(4, 10))
    nn.init.constant_(huge[1].bias, 1e5)
    said = error_of(features_of, huge, batches, state, 16, 10)
    assert said.startswith("`features` of 40 of 40 rows are beyond 65504, the most that float16 holds")
