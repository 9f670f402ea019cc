"""Source and target models by name, fitted to the size of the images."""

import difflib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from .errors import InputError

TRANSFORMERS = "transformers:"
# Up to here a stem that quarters the image before the first block leaves too little of it.
_SMALL_SIDE = 64
_PATCHES = 8
_SUGGESTIONS = 4


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
            A timm model (`resnet18`), or `transformers:` with an image classifier's Hub id, folder or config file.
        num_classes (`int`): Number of classes.
        image_size (`int`): Side of the images in pixels.
        stem (`str`, *optional*, defaults to `"auto"`):
            For ResNets: `"small"` takes a 3x3 convolution of stride 1 and no pooling in front of the first block, as
            He et al. (arXiv 1512.03385) do on CIFAR; `"imagenet"` leaves the 7x7 of stride 2 with pooling; `"auto"`
            is small up to 64 pixels. Vision transformers get patches that cut the side in eight.
        pretrained (`bool`, *optional*, defaults to `False`): Load pretrained weights.

    Returns:
        `torch.nn.Module`: in training mode.

    Raises:
        InputError: for an unknown name, suggesting near ones; for weights that cannot be had; for a model that does
            not take images of that size.
    """
    small = stem == "small" or (stem == "auto" and image_size <= _SMALL_SIDE)
    if name.startswith(TRANSFORMERS):
        model = _transformers_model(name.removeprefix(TRANSFORMERS), num_classes, image_size, small, pretrained)
    else:
        model = _timm_model(name, num_classes, image_size, small, pretrained)
    try:
        with torch.no_grad():
            shape = tuple(model.eval()(torch.zeros(2, 3, image_size, image_size)).shape)
    except Exception as error:
        raise InputError(
            f"--model {name!r} does not take images of {image_size}x{image_size} pixels "
            f"({_first_line(error)}): choose another --model or a larger --image-size"
        ) from error
    if shape != (2, num_classes):
        raise InputError(f"--model {name!r} gives {list(shape[1:])} outputs an image, not {num_classes} logits")
    return model.train()


def _timm_model(name: str, num_classes: int, image_size: int, small: bool, pretrained: bool) -> nn.Module:
    import timm

    if not name.startswith(("hf-hub:", "local-dir:")) and not timm.is_model(name.split(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), n=_SUGGESTIONS, cutoff=0.4)
        raise InputError(
            f"--model {name!r} is no timm model: {'did you mean ' + ', '.join(near) if near else 'choose one'} of "
            "timm.list_models()? Models of transformers are written transformers:NAME"
        )
    options: dict[str, Any] = {}
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is not None and config.fixed_input_size:
        options["img_size"] = image_size
        if small:
            options |= _small_patches(name, image_size)
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **options)
    except Exception as error:
        if pretrained:
            raise _no_weights(name, error) from error
        raise InputError(f"--model {name!r} cannot be made ({_first_line(error)}): choose another") from error
    if small and isinstance(model, timm.models.resnet.ResNet):
        _small_stem(model)
    return model


def _small_patches(name: str, image_size: int) -> dict[str, Any]:
    side = max(image_size // _PATCHES, 1)
    if name.startswith("swin"):
        # Three merges halve the grid of patches three times, so it starts from finer ones.
        return {"patch_size": max(image_size // 16, 1), "window_size": 4}
    return {"patch_size": side} if name.startswith(("vit_", "deit_", "test_vit")) else {}


def _small_stem(model: Any) -> None:
    """Replaces a ResNet's stem by one that keeps the resolution."""
    if isinstance(model.conv1, nn.Sequential):
        model.conv1[0].stride = (1, 1)  # type: ignore[assignment]
    else:
        old = model.conv1
        model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, stride=1, padding=1, bias=old.bias is not None)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()


def _transformers_model(name: str, num_classes: int, image_size: int, small: bool, pretrained: bool) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification

    options: dict[str, Any] = {"num_labels": num_classes}
    try:
        config = AutoConfig.from_pretrained(name, **options)
    except Exception as error:
        raise InputError(
            f"--model {TRANSFORMERS + name!r} cannot be read ({_first_line(error)}): give the Hub id, the folder or "
            "the config.json of an image classifier"
        ) from error
    settings = config.to_dict()
    if "image_size" in settings:
        config.image_size = image_size
        if small and isinstance(settings.get("patch_size"), int) and not pretrained:
            config.patch_size = max(image_size // _PATCHES, 1)
    try:
        if pretrained:
            model = AutoModelForImageClassification.from_pretrained(name, config=config, ignore_mismatched_sizes=True)
        else:
            model = AutoModelForImageClassification.from_config(config)
    except Exception as error:
        if pretrained:
            raise _no_weights(TRANSFORMERS + name, error) from error
        raise InputError(
            f"--model {TRANSFORMERS + name!r} is no image classifier ({_first_line(error)}): choose another"
        ) from error
    return Logits(model)


class Logits(nn.Module):
    """A transformers model that returns its logits alone, as timm's models do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=pixels).logits


def save_model(folder: Path, model: nn.Module, settings: dict[str, Any], averaged: nn.Module | None = None) -> None:
    """Writes weights and the settings that make the model again, for [`load_model`].

    Args:
        folder (`Path`): An existing folder.
        model (`torch.nn.Module`): The model.
        settings (`dict`): What [`create_model`] was called with, plain JSON values.
        averaged (`torch.nn.Module`, *optional*): The same model with averaged weights.
    """
    save_file(_own(model), folder / "model.safetensors")
    if averaged is not None:
        save_file(_own(averaged), folder / "averaged_model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_model(folder: str | Path, averaged: bool = False) -> nn.Module:
    """Loads the source model of a run.

    Args:
        folder (`str` or `Path`): `RUN/source_model`.
        averaged (`bool`, *optional*, defaults to `False`): Its averaged weights, which losses were recorded with.

    Returns:
        `torch.nn.Module`: in evaluation mode.

    Raises:
        InputError: for a file that is missing or damaged, naming it.
    """
    folder = Path(folder)
    path = folder / ("averaged_model.safetensors" if averaged else "model.safetensors")
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"cannot read the source model {str(path)!r} ({_first_line(error)})") from error
    known = {key: settings[key] for key in ("name", "num_classes", "image_size", "stem")}
    model = create_model(**known)
    model.load_state_dict(weights)
    return model.eval()


def _own(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}


def _no_weights(name: str, error: Exception) -> InputError:
    return InputError(
        f"pretrained weights of --model {name!r} cannot be had ({_first_line(error)}): check the name and the "
        "network, or train from scratch without --pretrained"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
