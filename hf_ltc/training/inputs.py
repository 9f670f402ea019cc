"""What models get their inputs from, images or texts: one way for recordings, evaluations and judgements."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from datasets import Dataset

from ..config import EvaluateConfig, RecordConfig
from ..data.labels import InputColumns
from ..utils.errors import InputError, LTCWarning, some_rows
from ..utils.files import expanded, read_json
from . import batches, models
from .batches import ImageBatches
from .images import StoredImages, image_size
from .pixels.image_files import GreyRange
from .pixels.squares import DECODING
from .text.classifiers import create_text_model, usual_rates
from .text.encoders import EMBEDDING_BAG, Encoder, padded, saved_encoder, text_encoder
from .text.tokens import StoredTexts, TokenBatches, token_batches

# The inputs of some rows as stored, and in batches.
Stored: TypeAlias = StoredImages | StoredTexts
Batches: TypeAlias = ImageBatches | TokenBatches
# What a model is fitted to: the side of images in pixels, or the encoder of texts.
Form: TypeAlias = int | Encoder
_IMAGE_MODEL = "resnet18"
# Settings that only models of images, or of texts, heed, with their defaults.
_OF_IMAGES = {"image_size": None, "stem": "auto", "channels_last": False, "compile": False}
_OF_TEXTS = {"max_length": None}
# Peak learning rate and weight decay of recordings of images.
_RATES, _DECAY = {"sgd": 0.1, "adamw": 1e-3}, 5e-4


def usual_model(columns: InputColumns) -> str:
    """The model if none is named: of a size that a recording needs."""
    return _IMAGE_MODEL if columns.text is None else EMBEDDING_BAG


def settled(config: RecordConfig, columns: InputColumns) -> RecordConfig:
    """The settings of a recording, in which what was not given is as it should be for images, or for texts.

    Args:
        config ([`RecordConfig`]): The settings.
        columns ([`InputColumns`]): What is recorded.

    Raises:
        InputError: for a setting that only goes with the other kind of inputs.
    """
    check_settings(config, columns)
    is_text, model = columns.text is not None, config.model or usual_model(columns)
    optimizer = config.optimizer or ("adamw" if is_text else "sgd")
    rate, decay = _RATES[optimizer], _DECAY
    if is_text and optimizer == "adamw":
        rate, decay = usual_rates(model, config.pretrained)
    return replace(
        config,
        model=model,
        optimizer=optimizer,
        learning_rate=rate if config.learning_rate is None else config.learning_rate,
        weight_decay=decay if config.weight_decay is None else config.weight_decay,
    )


def check_settings(config: RecordConfig | EvaluateConfig, columns: InputColumns) -> None:
    """Refuses settings that models of these inputs would not heed."""
    given = config.to_dict()
    other, kind = (_OF_TEXTS, "texts") if columns.text is None else (_OF_IMAGES, "images")
    for name, default in other.items():
        if given.get(name, default) != default:
            raise InputError(
                f"`{name}` {given[name]!r} goes with {kind}, and {' and '.join(map(repr, columns.names))} holds "
                f"{'images' if columns.text is None else 'texts'}: leave it out"
            )


def input_form(
    config: RecordConfig | EvaluateConfig, dataset: Dataset, columns: InputColumns, model: str
) -> int | Encoder:
    """What a model of these rows is fitted to; of images only headers are read.

    Raises:
        InputError: for an image that cannot be read, and a model that takes no texts.
    """
    if columns.image is not None:
        return image_size(dataset, columns.image, config.image_size)
    return text_encoder(model, config.max_length, pair=columns.text_pair is not None)


def form_told(form: Form) -> dict[str, Any]:
    """What a recipe says of it."""
    return {"image_size": form, "decoding": DECODING} if isinstance(form, int) else {"max_length": form.max_length}


def create_classifier(
    name: str | None, num_classes: int, form: Form, *, stem: str = "auto", pretrained: bool = False
) -> Any:
    """Makes a classifier of inputs of a form, as [`create_model`] and [`create_text_model`]."""
    # In settings that are settled there is one.
    assert name is not None
    if isinstance(form, int):
        return models.create_model(name, num_classes, form, stem=stem, pretrained=pretrained)
    return create_text_model(name, num_classes, form, pretrained=pretrained)


def stored_inputs(
    dataset: Dataset,
    columns: InputColumns,
    form: Form,
    numbers: np.ndarray | None = None,
    grey_range: GreyRange | None = None,
) -> Stored:
    """The inputs of a dataset, of which none is read yet.

    Args:
        dataset (`datasets.Dataset`): The dataset.
        columns ([`InputColumns`]): Its columns.
        form (`int` or [`Encoder`]): What models are fitted to.
        numbers (`np.ndarray`, *optional*): int64 `(N,)`, row numbers for messages; the positions if not given.
        grey_range (`tuple[float, float]`, *optional*): As for [`StoredImages`].
    """
    if isinstance(form, int):
        assert columns.image is not None
        return StoredImages(dataset, columns.image, form, numbers, grey_range)
    return StoredTexts(dataset, columns.names, form, numbers)


def form_of(stored: Stored) -> Form:
    """What models of these inputs are fitted to."""
    return stored.size if isinstance(stored, StoredImages) else stored.encoder


def input_batches(
    config: RecordConfig | EvaluateConfig,
    device: torch.device,
    train: tuple[Stored, np.ndarray],
    other: tuple[Stored, np.ndarray] | None,
    what: str,
    progress: Callable[[int], Any] | None = None,
) -> list[Batches]:
    """Prepares train rows, and other rows that a model is not trained on, if there are any.

    Args:
        config ([`RecordConfig`] or [`EvaluateConfig`]): How images are read.
        device (`torch.device`): Where batches go.
        train (`tuple[Stored, np.ndarray]`): The inputs and labels of the train rows.
        other (`tuple[Stored, np.ndarray]`, *optional*): Those of the others.
        what (`str`): What the others are, for messages.
        progress (`Callable[[int], Any]`, *optional*): Called with the number of rows read into memory.

    Raises:
        InputError: for an image that cannot be decoded and a text that is null or empty, naming the row.
    """
    parts: Any = [train] if other is None else [train, other]
    if isinstance(train[0], StoredImages):
        return list(batches.paired_batches(config, device, *parts, what=what, progress=progress))
    made: list[TokenBatches] = []
    for number, (stored, labels) in enumerate(parts):
        try:
            made.append(token_batches(stored, labels, device, progress))
        except InputError as error:
            raise InputError(f"{what}: {error}") if number else error from None
    _say_truncated(made)
    return [*made]


def saved_settings(inputs: Batches, stem: str) -> dict[str, Any]:
    """What is kept beside the weights of a model: how it is made again, and how its inputs are made."""
    if isinstance(inputs, TokenBatches):
        encoder = inputs.stored.encoder
        return {"max_length": encoder.max_length, "vocabulary": encoder.vocabulary}
    grey_range = inputs.stored.grey_range
    return {
        "image_size": inputs.size,
        "stem": stem,
        "mean": inputs.mean.tolist(),
        "std": inputs.std.tolist(),
        **({} if grey_range is None else {"grey_range": list(grey_range)}),
    }


def save_encoder(folder: Path, form: Form) -> None:
    """Writes what turns texts into ids beside a model of texts."""
    if not isinstance(form, int):
        form.save(folder)


def load_encoder(folder: str | Path) -> Callable[..., dict[str, torch.Tensor]]:
    """Loads the encoder that turns texts into inputs of a run's source model.

    ```python
    model, encode = load_model(folder), load_encoder(folder)
    logits = model(**encode(["a text", "another one"]))
    ```

    Args:
        folder (`str` or `Path`): `RUN/source_model`.

    Returns:
        `Callable`: takes a list of texts (and a second list, for pairs of texts), and returns a mapping with
            `input_ids` and `attention_mask`, int64 `(B, L)`.

    Raises:
        InputError: for a folder without a text model. The encoder raises it for a string instead of a list, and for
            empty texts.
    """
    place = Path(expanded(folder))
    settings = read_json(place / "config.json")
    if "max_length" not in settings:
        raise InputError(f"the source model {str(place)!r} takes images, which need no encoder: see `mean` and `std`")
    return partial(_encoded, saved_encoder(place, settings))


def _encoded(encoder: Encoder, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
    for name, given in (("texts", texts), ("pairs", pairs)):
        # Its letters would be taken for texts.
        if isinstance(given, str):
            raise InputError(f"`{name}` is the string {given!r}: give a list of strings")
    if not len(texts):
        raise InputError("`texts` is empty: give at least one text")
    found = encoder.encode(texts, pairs)
    if empty := [number for number, ids in enumerate(found.ids) if not ids]:
        said = f"{len(empty)} of {len(found.ids)} texts have no words or signs"
        raise InputError(f"{said} (numbers {some_rows(empty)}): leave them out")
    return padded(found.ids, found.types, encoder.padding)


def _say_truncated(made: list[TokenBatches]) -> None:
    cut, rows = sum(each.tokens.truncated for each in made), sum(map(len, made))
    if cut:
        stored = made[0].stored
        warnings.warn(
            f"{cut:,} of {rows:,} texts of column {' and '.join(map(repr, stored.columns))} are longer than "
            f"{stored.encoder.max_length} tokens, and the rest of them is not read: raise `max_length` where the "
            "model takes more",
            LTCWarning,
            stacklevel=3,
        )
