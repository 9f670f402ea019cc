"""Models of transformers by Hub id, folder or config file, and why one cannot be made."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import nn

from ..utils.errors import InputError, as_input_error
from ..utils.files import expanded

TRANSFORMERS = "transformers:"


def model_place(model: str, kind: str) -> str:
    """Where a model is: an id on the Hub, a folder or a file.

    Args:
        model (`str`): `transformers:` and the place.
        kind (`str`): What it should be, for messages.

    Raises:
        InputError: for a path that is not there.
    """
    name = model.removeprefix(TRANSFORMERS)
    path = Path(expanded(name))
    if not name or (not path.exists() and (name.startswith(("/", ".", "~")) or name.count("/") > 1)):
        raise InputError(f"`model` {model!r}: no such folder or file {name!r}: {_fix(kind)}")
    return str(path) if path.exists() else name


def model_config(model: str, kind: str, **settings: Any) -> Any:
    """The configuration of a model, as [`model_place`] names it.

    Raises:
        InputError: if there is none.
    """
    from transformers import AutoConfig

    place = model_place(model, kind)
    with as_input_error(f"`model` {model!r} cannot be read", _fix(kind)):
        config = AutoConfig.from_pretrained(place, **settings)
    # Of configurations without it some classes cannot be found.
    config.architectures = config.architectures or []
    return config


def made(name: str, refused: str, pretrained: bool) -> AbstractContextManager[None]:
    """Explains why a model cannot be made: with pretrained weights it is those that are missing."""
    if pretrained:
        fix = "check the name and the network, or train from scratch without `pretrained`"
        return as_input_error(f"pretrained weights of `model` {name!r} cannot be had", fix)
    return as_input_error(f"`model` {name!r} {refused}", "choose another")


class Logits(nn.Module):
    """A classifier of transformers that returns its logits alone, as timm's models do.

    It takes pixels as one tensor, and tokens by the names of its parameters.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Any = None, **tokens: Any) -> Any:
        return self.model(**(tokens or {"pixel_values": pixel_values})).logits


def _fix(kind: str) -> str:
    article = "an" if kind[0] in "aeiou" else "a"
    return f"give the Hub id, the folder or the config.json of {article} {kind}"
