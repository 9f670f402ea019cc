"""Models of images by name, fitted to their size; models of images and of texts saved and loaded again."""

import difflib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_torch_storage_id
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..utils.errors import InputError, as_input_error
from ..utils.files import expanded
from .text.classifiers import saved_text_model
from .text.encoders import EMBEDDING_BAG
from .transformers_models import TRANSFORMERS, Logits, made, model_config, model_place

_KIND = "image classifier"
# Up to here a stem that quarters the image before the first block leaves too little of it.
_SMALL_SIDE = 64
# Patches a side of a small image: of models that keep them, and of those that halve them three times.
_PATCHES, _HALVED_PATCHES = 8, 16
_WINDOW = 4
# Modules of timm with models whose patches may have any size.
_SWINS = {"swin_transformer", "swin_transformer_v2"}
_TRANSFORMERS = {"beit", "deit", "eva", "vision_transformer"}
# What timm adds to the names that papers and people use.
_SUFFIXES = ("_patch16_224", "_patch4_window7_224", "_window8_256")
# The smallest of its size class, for who names none.
_FAMILIES = {"convnext": "convnext_tiny", "mobilenet": "mobilenetv3_small_100"}
_SUGGESTIONS = 4
_ARCHITECTURE = "transformers"


def create_model(
    name: str,
    num_classes: int,
    image_size: int,
    *,
    stem: str = "auto",
    pretrained: bool = False,
) -> nn.Module:
    """Makes an image classifier that maps float32 `(B, 3, image_size, image_size)` to logits `(B, num_classes)`.

    Args:
        name (`str`):
            A timm model (`resnet18`; `vit_tiny` and `swin_tiny` do for `vit_tiny_patch16_224` and
            `swin_tiny_patch4_window7_224`, `convnext` and `mobilenet` for `convnext_tiny` and
            `mobilenetv3_small_100`), or `transformers:` with an image classifier's Hub id, folder or config
            file.
        num_classes (`int`): Number of classes.
        image_size (`int`): Side of the images in pixels.
        stem (`str`, *optional*, defaults to `"auto"`):
            `"small"` fits models made for 224 pixels to small images. ResNets and DenseNets get a 3x3 convolution of
            stride 1 and no pooling in front of the first block, as He et al. (arXiv 1512.03385) do on CIFAR;
            MobileNets and EfficientNets get a first convolution of stride 1; VGG classifies its last features
            directly, without hidden layers of 7x7; vision transformers get about 8 patches per side, those that halve
            them three times (Swin, ConvNeXt) about 16 or 32. `"imagenet"` leaves the models as published; `"auto"` is
            small up to 64 pixels.
        pretrained (`bool`, *optional*, defaults to `False`):
            Load pretrained weights; layers that were fitted to small images start untrained.

    Returns:
        `torch.nn.Module`: in training mode.

    Raises:
        InputError: for an unknown name, suggesting similar ones; for weights that cannot be loaded; for a model that
            does not take images of that size.
    """
    small = stem == "small" or (stem == "auto" and image_size <= _SMALL_SIDE)
    if name.startswith(TRANSFORMERS):
        model = _transformers_model(name, num_classes, image_size, small, pretrained)
    else:
        model = _timm_model(name, num_classes, image_size, small, pretrained)
    what = f"`model` {name!r} does not take images of {image_size}x{image_size} pixels"
    with as_input_error(what, "choose another `model` or a larger `image_size`"), torch.no_grad():
        shape = tuple(model.eval()(torch.zeros(2, 3, image_size, image_size)).shape)
    if shape != (2, num_classes):
        raise InputError(f"`model` {name!r} gives {list(shape[1:])} outputs an image, not {num_classes} logits")
    return model.train()


def _timm_model(name: str, num_classes: int, image_size: int, small: bool, pretrained: bool) -> nn.Module:
    import timm

    options: dict[str, Any] = {}
    elsewhere = name.startswith(("hf-hub:", "local-dir:"))
    known = name if elsewhere else _timm_name(name)
    with made(name, "cannot be made", pretrained):
        if not elsewhere:
            config = timm.get_pretrained_cfg(known)
            if config is not None and config.fixed_input_size:
                options["img_size"] = image_size
            if small:
                options |= _small_patches(known, image_size)
        model = timm.create_model(known, pretrained=pretrained, num_classes=num_classes, **options)
    if small:
        _fit_stem(model, num_classes, image_size)
    return model


def architecture_name(name: str) -> str:
    """The one name of an architecture, whichever of its names was given.

    Args:
        name (`str`): As for [`create_model`].
    """
    if ":" in name:
        return name
    # Behind the point stand the weights.
    short = name.split(".")[0]
    for suffix in _SUFFIXES:
        short = short.removesuffix(suffix)
    return _FAMILIES.get(short, short)


def _timm_name(name: str) -> str:
    import timm

    for known in (name, *(name + suffix for suffix in _SUFFIXES), _FAMILIES.get(name, name)):
        if timm.is_model(known.split(".")[0]):
            return known
    if name == EMBEDDING_BAG:
        raise InputError(f"`model` {name!r} takes texts, not images: give a timm model, or name a `text_column`")
    near = difflib.get_close_matches(name, timm.list_models(), n=_SUGGESTIONS, cutoff=0.4)
    raise InputError(
        f"`model` {name!r} is no timm model: {'did you mean ' + ', '.join(near) if near else 'choose one'} of "
        f"timm.list_models()? Models of transformers are written {TRANSFORMERS}NAME"
    )


def _small_patches(name: str, image_size: int) -> dict[str, Any]:
    import timm

    module = timm.model_entrypoint(name.split(".")[0]).__module__.rpartition(".")[2]
    if module in _SWINS:
        return {"patch_size": _patch(image_size, _HALVED_PATCHES), "window_size": _WINDOW}
    return {"patch_size": _patch(image_size, _PATCHES)} if module in _TRANSFORMERS else {}


def _patch(image_size: int, patches: int) -> int:
    """Side of the patches that divide the image into about this many per side."""
    dividing = [side for side in range(1, image_size + 1) if image_size % side == 0]
    nearest = min(dividing, key=lambda side: abs(math.log(image_size / side / patches)))
    # Of a prime number of pixels a border is left over.
    return nearest if patches <= 2 * image_size / nearest <= 4 * patches else max(image_size // patches, 1)


def _fit_stem(model: nn.Module, num_classes: int, image_size: int) -> None:
    """Fits the layers that are made for large images to small ones."""
    from timm.layers import ClassifierHead
    from timm.models import VGG, ConvNeXt, DenseNet, EfficientNet, MobileNetV3, ResNet

    # The types of timm's attributes are too wide to assign to them.
    fitted: Any = model
    if isinstance(model, ResNet):
        if isinstance(fitted.conv1, nn.Sequential):
            first: Any = fitted.conv1[0]
            first.stride = (1, 1)
        else:
            fitted.conv1 = _unstrided(fitted.conv1)
        fitted.maxpool = nn.Identity()
    elif isinstance(model, DenseNet):
        fitted.features.conv0 = _unstrided(fitted.features.conv0)
        fitted.features.pool0 = nn.Identity()
    elif isinstance(model, ConvNeXt):
        old, side = fitted.stem[0], _patch(image_size, _HALVED_PATCHES)
        if old.kernel_size != old.stride:
            # A stem of overlapping convolutions.
            old.stride = (1, 1)
        elif side != old.kernel_size[0]:
            fitted.stem[0] = nn.Conv2d(old.in_channels, old.out_channels, side, side, bias=old.bias is not None)
            nn.init.trunc_normal_(fitted.stem[0].weight, std=0.02)
            if old.bias is not None:
                nn.init.zeros_(fitted.stem[0].bias)
    elif isinstance(model, EfficientNet | MobileNetV3):
        fitted.conv_stem.stride = (1, 1)
    elif isinstance(model, VGG):
        for layer in fitted.features:
            if isinstance(layer, nn.MaxPool2d):
                # The fifth halving of 28 pixels would leave nothing.
                layer.ceil_mode = True
        fitted.head = ClassifierHead(fitted.pre_logits.fc1.in_channels, num_classes)
        fitted.pre_logits = nn.Identity()


def _unstrided(old: nn.Conv2d) -> nn.Conv2d:
    new = nn.Conv2d(old.in_channels, old.out_channels, 3, stride=1, padding=1, bias=old.bias is not None)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new


def _transformers_model(name: str, num_classes: int, image_size: int, small: bool, pretrained: bool) -> nn.Module:
    from transformers import AutoModelForImageClassification

    config = model_config(name, _KIND, num_labels=num_classes)
    settings = config.to_dict()
    if "image_size" in settings:
        config.image_size = image_size
    if isinstance(settings.get("patch_size"), int):
        _fit_patches(config, image_size, small)
    with made(name, f"is no {_KIND}", pretrained):
        if pretrained:
            place = model_place(name, _KIND)
            model = AutoModelForImageClassification.from_pretrained(place, config=config, ignore_mismatched_sizes=True)
        else:
            model = AutoModelForImageClassification.from_config(config)
    return Logits(model)


def _fit_patches(config: Any, image_size: int, small: bool) -> None:
    """Sets patches of a configuration of transformers for small images, and windows that fit."""
    halvings = len(getattr(config, "depths", [0])) - 1
    windows = hasattr(config, "window_size")
    if small:
        # Windows have to fit into what is left after all halvings, so there is more to halve.
        wanted = _WINDOW << halvings if windows else _HALVED_PATCHES if halvings else _PATCHES
        config.patch_size = _patch(image_size, wanted)
    if windows:
        config.window_size = min(config.window_size, math.ceil(image_size / config.patch_size / 2**halvings))


def save_model(folder: Path, model: nn.Module, settings: dict[str, Any], averaged: nn.Module | None = None) -> None:
    """Writes weights and the settings that make the model again, for [`load_model`].

    Args:
        folder (`Path`): An existing folder.
        model (`torch.nn.Module`): The model.
        settings (`dict`): What [`create_model`] or [`create_text_model`] was called with, plain JSON values.
        averaged (`torch.nn.Module`, *optional*): The same model with averaged weights.
    """
    if isinstance(model, Logits):
        # With it the model can be made again without the file or the network that it came from.
        settings = {**settings, _ARCHITECTURE: json.loads(model.model.config.to_json_string(use_diff=False))}
    save_file(own_weights(model), folder / "model.safetensors")
    if averaged is not None:
        save_file(own_weights(averaged), folder / "averaged_model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_model(folder: str | Path, averaged: bool = False) -> nn.Module:
    """Loads the source model of a run.

    Args:
        folder (`str` or `Path`): `RUN/source_model`.
        averaged (`bool`, *optional*, defaults to `False`): Load the averaged weights, with which losses were recorded.

    Returns:
        `torch.nn.Module`: in evaluation mode.

    Raises:
        InputError: for a missing or damaged file, naming it.
    """
    folder = Path(expanded(folder))
    path = folder / ("averaged_model.safetensors" if averaged else "model.safetensors")
    what = f"cannot read the source model {str(path)!r}"
    with as_input_error(what, "restore it", (OSError, ValueError, SafetensorError)):
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(path)
    architecture = settings.get(_ARCHITECTURE)
    what = f"the weights {str(path)!r} do not fit the model of config.json"
    with as_input_error(what, "restore both", (KeyError, RuntimeError)):
        if "max_length" in settings:
            model = saved_text_model(settings, architecture)
        elif architecture is not None:
            from transformers import AutoConfig, AutoModelForImageClassification

            config = AutoConfig.for_model(**architecture)
            model = Logits(AutoModelForImageClassification.from_config(config))
        else:
            model = create_model(**{key: settings[key] for key in ("name", "num_classes", "image_size", "stem")})
        model.load_state_dict(all_weights(model, weights))
    return model.eval()


def own_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a model on the CPU; none shares memory with another, which safetensors refuses."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}


def all_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights completed by those that were not saved because the model has the same tensor under another name."""
    same: dict[Any, list[str]] = {}
    for name, value in model.state_dict().items():
        where = (get_torch_storage_id(value), value.storage_offset(), value.shape, value.stride())
        same.setdefault(where, []).append(name)
    found = dict(weights)
    for names in same.values():
        if there := [name for name in names if name in weights]:
            found |= {name: weights[there[0]] for name in names if name not in weights}
    return found
