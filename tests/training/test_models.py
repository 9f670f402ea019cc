"""Models by name: what they map to what, their stems and patches, and their way to disk and back."""

import copy
import json

import pytest
import timm
import torch
from torch import nn
from transformers import BertConfig, ConvNextConfig, DeiTConfig, Dinov2Config, ResNetConfig, SwinConfig, ViTConfig

from hf_ltc.training.models import architecture_name, create_model, load_model, save_model
from hf_ltc.utils.errors import InputError
from tests.helpers import refused

CLASSES = 7
SIDES = [8, 28, 32, 64]
NAMES = [
    "resnet10t",
    "resnet18",
    "test_resnet",
    "vgg11_bn",
    "densenet121",
    "densenetblur121d",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
    "test_vit",
    "convnext_atto",
    "test_convnext",
    "mobilenetv3_small_050",
    "test_efficientnet",
]

torch.set_num_threads(1)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def sides(model, layers, size):
    """Height of what comes out of some layers, for images of a size."""
    found = []
    hooks = [layer.register_forward_hook(lambda *args: found.append(args[2].shape[-1])) for layer in layers]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("size", SIDES)
@pytest.mark.parametrize("name", NAMES)
def test_logits_of_small_images(name, size):
    model = create_model(name, CLASSES, size)
    assert model.training
    images = torch.randn(3, 3, size, size)
    logits = model(images)
    assert logits.shape == (3, CLASSES)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    # Every weight takes part: a layer that is left out would never learn.
    logits.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["vgg11_bn", "densenet121", "convnext_atto", "vit_tiny_patch16_224", "swin_tiny"])
def test_what_small_images_show_reaches_the_logits(name):
    torch.manual_seed(0)
    model = create_model(name, CLASSES, 28).eval()
    images = torch.rand(1, 3, 28, 28).repeat(2, 1, 1, 1)
    # A corner that poolings and patches must not cut off.
    images[1, :, -2:, -2:] += 5
    with torch.no_grad():
        one, other = model(images)
    assert not torch.equal(one, other)


def test_the_small_stem_of_a_resnet_keeps_the_resolution():
    model = create_model("resnet18", CLASSES, 32)
    assert (model.conv1.kernel_size, model.conv1.stride, model.conv1.padding) == ((3, 3), (1, 1), (1, 1))
    assert isinstance(model.maxpool, nn.Identity)
    stages = [model.layer1, model.layer2, model.layer3, model.layer4]
    assert sides(model, stages, 32) == [32, 16, 8, 4]
    deep = create_model("resnet10t", CLASSES, 32)
    assert sides(deep, [deep.layer1, deep.layer4], 32) == [32, 4]


def test_the_imagenet_stem_of_a_resnet_is_left_as_it_is():
    model = create_model("resnet18", CLASSES, 224)
    assert (model.conv1.kernel_size, model.conv1.stride) == ((7, 7), (2, 2))
    assert isinstance(model.maxpool, nn.MaxPool2d)
    published = timm.create_model("resnet18", num_classes=CLASSES)
    assert {k: v.shape for k, v in model.state_dict().items()} == {
        k: v.shape for k, v in published.state_dict().items()
    }
    assert sides(model, [model.layer1, model.layer4], 224) == [56, 7]


@pytest.mark.parametrize("size, small", [(32, True), (64, True), (65, False), (224, False)])
def test_which_stem_auto_takes(size, small):
    assert (create_model("resnet10t", CLASSES, size).conv1[0].stride == (1, 1)) == small
    assert create_model("resnet10t", CLASSES, size, stem="small").conv1[0].stride == (1, 1)
    assert create_model("resnet10t", CLASSES, size, stem="imagenet").conv1[0].stride == (2, 2)


def test_a_resnet_has_as_many_weights_with_either_stem_but_for_the_kernel():
    small, large = (create_model("resnet18", CLASSES, 32, stem=stem) for stem in ("small", "imagenet"))
    assert parameters(large) - parameters(small) == 64 * 3 * (49 - 9)


def test_small_stems_of_other_convolutional_models():
    dense = create_model("densenet121", CLASSES, 32)
    blocks = [getattr(dense.features, f"denseblock{i}") for i in (1, 2, 3, 4)]
    assert sides(dense, blocks, 32) == [32, 16, 8, 4]
    convnext = create_model("convnext_atto", CLASSES, 32)
    assert sides(convnext, convnext.stages, 32) == [16, 8, 4, 2]
    convnext = create_model("convnext_atto", CLASSES, 28)
    assert sides(convnext, convnext.stages, 28) == [14, 7, 3, 1]
    mobile = create_model("mobilenetv3_small_050", CLASSES, 32)
    assert sides(mobile, [mobile.conv_stem], 32) == [32]
    vgg = create_model("vgg11_bn", CLASSES, 32)
    assert sides(vgg, [vgg.features], 32) == [1]
    # Without the hidden layers of 7x7 features, 119 of its 129 million weights.
    assert parameters(vgg) < 1e7


@pytest.mark.parametrize("size, patches", [(8, 8), (28, 7), (32, 8), (36, 9), (48, 8), (64, 8)])
def test_small_images_are_cut_into_about_eight_patches_a_side(size, patches):
    assert create_model("test_vit", CLASSES, size).patch_embed.grid_size == (patches, patches)


def test_a_prime_number_of_pixels_is_cut_too():
    assert create_model("vit_tiny_patch16_224", CLASSES, 37).patch_embed.grid_size == (9, 9)


@pytest.mark.parametrize("size, patches", [(8, 8), (28, 14), (32, 16), (64, 16)])
def test_patches_of_swin(size, patches):
    assert create_model("swin_tiny", CLASSES, size).patch_embed.grid_size == (patches, patches)


def test_patches_of_large_images_are_those_of_the_name():
    model = create_model("test_vit", CLASSES, 96)
    assert model.patch_embed.patch_size == (16, 16)


@pytest.mark.parametrize(
    "short, full",
    [
        ("vit_tiny", "vit_tiny_patch16_224"),
        ("deit_tiny", "deit_tiny_patch16_224"),
        ("swin_tiny", "swin_tiny_patch4_window7_224"),
        ("swinv2_tiny", "swinv2_tiny_window8_256"),
        ("convnext", "convnext_tiny"),
        ("mobilenet", "mobilenetv3_small_100"),
    ],
)
def test_short_names(short, full):
    assert architecture_name(short) == architecture_name(full) == architecture_name(f"{full}.some_weights")
    one, other = (create_model(name, CLASSES, 32) for name in (short, full))
    assert type(one) is type(other)
    assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in other.state_dict().items()}


@pytest.mark.parametrize(
    "name, near",
    [("resnet81", "resnet18"), ("vgg11bn", "vgg11_bn"), ("densnet121", "densenet121"), ("swin_tinny", "swin_")],
)
def test_near_names_are_suggested(name, near):
    with pytest.raises(InputError, match=f"`model` '{name}' is no timm model: did you mean .*{near}") as error:
        create_model(name, CLASSES, 32)
    refused(error)


@pytest.mark.parametrize("name", ["", "?", "%" * 30])
def test_a_name_like_no_other(name):
    with pytest.raises(InputError, match=r"is no timm model: choose one of timm.list_models\(\)") as error:
        create_model(name, CLASSES, 32)
    assert repr(name) in refused(error)


def test_an_unknown_tag():
    with pytest.raises(InputError, match=r"`model` 'resnet18.nonsense' cannot be made \(.*nonsense"):
        create_model("resnet18.nonsense", CLASSES, 32)


def test_a_model_that_does_not_take_the_size():
    with pytest.raises(InputError, match=r"`model` 'levit_128s' does not take images of 28x28 pixels \(") as error:
        create_model("levit_128s", CLASSES, 28)
    assert "choose another `model` or a larger `image_size`" in refused(error)


def test_the_same_seed_makes_the_same_weights():
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(create_model("test_resnet", CLASSES, 32).state_dict())
    assert all(torch.equal(value, models[1][key]) for key, value in models[0].items())


@pytest.mark.parametrize("name", ["resnet18", "transformers:someone/vit", "hf-hub:someone/resnet18"])
def test_weights_that_cannot_be_had(name):
    with pytest.raises(InputError, match=f"`model` '{name}' cannot be (had|read)") as error:
        create_model(name, CLASSES, 32, pretrained=True)
    refused(error)


# transformers

CONFIGS = {
    "vit": ViTConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48),
    "deit": DeiTConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48),
    "dinov2": Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2),
    "swin": SwinConfig(embed_dim=12, depths=[1, 1, 1, 1], num_heads=[1, 2, 3, 4]),
    "convnext": ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic"),
}


@pytest.fixture
def config_file(tmp_path):
    def write(config):
        (tmp_path / "config.json").write_text(config.to_json_string())
        return f"transformers:{tmp_path / 'config.json'}"

    return write


@pytest.mark.parametrize("size", [*SIDES, 96])
@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_of_transformers(config_file, kind, size):
    model = create_model(config_file(CONFIGS[kind]), CLASSES, size)
    assert model.training
    logits = model(torch.randn(3, 3, size, size))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (3, CLASSES)
    assert model.model.config.num_labels == CLASSES


@pytest.mark.parametrize(
    "kind, size, patch",
    [("vit", 32, 4), ("vit", 28, 4), ("vit", 96, 16), ("convnext", 32, 2), ("swin", 64, 2), ("swin", 96, 4)],
)
def test_patches_of_transformers(config_file, kind, size, patch):
    config = create_model(config_file(CONFIGS[kind]), CLASSES, size).model.config
    assert (config.image_size, config.patch_size) == (size, patch)


def test_a_folder_of_transformers(tmp_path, config_file):
    config_file(CONFIGS["vit"])
    assert create_model(f"transformers:{tmp_path}", CLASSES, 32)(torch.zeros(2, 3, 32, 32)).shape == (2, CLASSES)


def test_pretrained_weights_from_a_folder(tmp_path, config_file):
    one = create_model(config_file(CONFIGS["vit"]), CLASSES, 96)
    one.model.save_pretrained(tmp_path / "saved")
    other = create_model(f"transformers:{tmp_path / 'saved'}", CLASSES, 96, pretrained=True)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize(
    "name, message",
    [
        ("transformers:", "no such folder or file ''"),
        ("transformers:./nothing", "no such folder or file './nothing'"),
        ("transformers:/nothing/config.json", "no such folder or file '/nothing/config.json'"),
        ("transformers:a/b/c", "no such folder or file 'a/b/c'"),
        ("transformers:someone/something", r"cannot be read \(We couldn't connect"),
    ],
)
def test_unknown_models_of_transformers(name, message):
    with pytest.raises(InputError, match=f"`model` '{name}'.*{message}") as error:
        create_model(name, CLASSES, 32)
    assert "give the Hub id, the folder or the config.json of an image classifier" in refused(error)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": "nothing"}'])
def test_damaged_configurations(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"`model` 'transformers:.*config.json' cannot be read \(") as error:
        create_model(f"transformers:{tmp_path / 'config.json'}", CLASSES, 32)
    refused(error)


def test_a_model_of_text(config_file):
    with pytest.raises(InputError, match=r"`model` 'transformers:.*' is no image classifier \(") as error:
        create_model(config_file(BertConfig()), CLASSES, 32)
    refused(error)


# To disk and back


def saved(folder, name, size, stem="auto"):
    """A model with weights, buffers and averaged weights that are not those it starts with."""
    torch.manual_seed(0)
    model = create_model(name, CLASSES, size, stem=stem)
    with torch.no_grad():
        model(torch.randn(4, 3, size, size))
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    averaged = copy.deepcopy(model)
    with torch.no_grad():
        for value in averaged.state_dict().values():
            if value.is_floating_point():
                value *= 0.75
    settings = {"name": name, "num_classes": CLASSES, "image_size": size, "stem": stem, "classes": list("abcdefg")}
    save_model(folder, model, settings, averaged)
    return model.eval(), averaged.eval()


def assert_same(one, other, size):
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert value.dtype == theirs[name].dtype
        assert torch.equal(value, theirs[name]), name
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(one(images), other(images))


@pytest.mark.parametrize(
    "name, stem",
    [
        ("test_resnet", "auto"),
        ("test_resnet", "imagenet"),
        ("test_vit", "auto"),
        ("test_vit", "imagenet"),
        ("test_convnext", "small"),
        ("test_convnext", "imagenet"),
        ("mobilenetv3_small_050", "auto"),
        ("vgg11_bn", "auto"),
    ],
)
def test_saved_is_loaded_bit_by_bit(tmp_path, name, stem):
    model, averaged = saved(tmp_path, name, 32, stem)
    loaded, loaded_averaged = load_model(tmp_path), load_model(str(tmp_path), averaged=True)
    assert not loaded.training and not loaded_averaged.training
    assert_same(model, loaded, 32)
    assert_same(averaged, loaded_averaged, 32)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["classes"] == list("abcdefg")


@pytest.mark.parametrize("kind", CONFIGS)
def test_transformers_are_loaded_without_the_file_they_came_from(tmp_path, config_file, kind):
    (tmp_path / "saved").mkdir()
    model, averaged = saved(tmp_path / "saved", config_file(CONFIGS[kind]), 28)
    (tmp_path / "config.json").unlink()
    assert_same(model, load_model(tmp_path / "saved"), 28)
    assert_same(averaged, load_model(tmp_path / "saved", averaged=True), 28)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{"])
def test_a_file_of_a_model_that_is_missing_or_damaged(tmp_path, name, content):
    saved(tmp_path, "test_resnet", 32)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read the source model '.*model.safetensors'") as error:
        load_model(tmp_path)
    refused(error)


def test_weights_of_another_model(tmp_path):
    saved(tmp_path, "test_resnet", 32)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, "num_classes": 3}))
    with pytest.raises(InputError, match=r"the weights '.*' do not fit the model of config.json") as error:
        load_model(tmp_path)
    refused(error)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="do not fit"):
        load_model(tmp_path)


def test_without_averaged_weights_there_are_none(tmp_path):
    model = create_model("test_resnet", CLASSES, 32)
    save_model(tmp_path, model, {"name": "test_resnet", "num_classes": CLASSES, "image_size": 32, "stem": "auto"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(InputError, match=r"averaged_model.safetensors' \(No such file"):
        load_model(tmp_path, averaged=True)


def test_architectures_of_other_libraries_keep_their_names():
    for name in ("transformers:google/vit-base-patch16-224", "hf-hub:timm/resnet18.a1_in1k", "resnet18"):
        assert architecture_name(name) == name
