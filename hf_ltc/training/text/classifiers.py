"""Models of texts: a bag of embeddings, and sequence classifiers of transformers."""

from typing import Any

import torch
from torch import nn

from ...utils.errors import InputError, as_input_error
from ..transformers_models import TRANSFORMERS, Logits, made, model_config, model_place
from .encoders import EMBEDDING_BAG, Encoder

_KIND = "sequence classifier"
# Numbers a token: of more a training takes longer, and is not better.
_WIDTH = 32
# Of torch's own embeddings, which have deviation 1, a mean of few says nothing of the class for long.
_DEVIATION = 0.1


class EmbeddingBag(nn.Module):
    """The mean of the embeddings of a text's tokens, and a linear classifier on it (Joulin et al., arXiv 1607.01759).

    Args:
        vocabulary (`int`): Token ids, of which 0 is padding and counts for nothing.
        num_classes (`int`): Number of classes.
    """

    def __init__(self, vocabulary: int, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(vocabulary, _WIDTH, mode="mean", padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=_DEVIATION)
        self.head = nn.Linear(_WIDTH, num_classes)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.head(self.embedding(input_ids))


def create_text_model(name: str, num_classes: int, encoder: Encoder, *, pretrained: bool = False) -> nn.Module:
    """Makes a classifier of texts that maps `input_ids` and `attention_mask`, int64 `(B, L)`, to logits `(B, C)`.

    Args:
        name (`str`): As for [`text_encoder`].
        num_classes (`int`): Number of classes.
        encoder ([`Encoder`]): That of the same name.
        pretrained (`bool`, *optional*, defaults to `False`): Load pretrained weights; the classifier starts untrained.

    Returns:
        `torch.nn.Module`: in training mode.

    Raises:
        InputError: for a model that is no classifier of texts, whose weights cannot be had, or that does not take the
            encoder's tokens.
    """
    if name == EMBEDDING_BAG:
        if pretrained:
            raise InputError(f"`pretrained` with `model` {name!r}: there are no weights of it, so leave it out")
        return EmbeddingBag(encoder.vocabulary, num_classes)
    from transformers import AutoModelForSequenceClassification

    config = model_config(name, _KIND, num_labels=num_classes)
    config.pad_token_id = encoder.padding
    with made(name, f"is no {_KIND}", pretrained):
        if pretrained:
            place = model_place(name, _KIND)
            model = AutoModelForSequenceClassification.from_pretrained(
                place, config=config, ignore_mismatched_sizes=True
            )
        else:
            model = AutoModelForSequenceClassification.from_config(config)
    known = model.get_input_embeddings().num_embeddings
    if encoder.vocabulary > known:
        raise InputError(
            f"`model` {name!r} has embeddings of {known:,} tokens, and its tokenizer {encoder.vocabulary:,} tokens: "
            "give the tokenizer of that model"
        )
    classifier = Logits(model)
    what = f"`model` {name!r} does not take texts of {encoder.max_length} tokens"
    with as_input_error(what, "lower `max_length`"), torch.no_grad():
        ids = torch.full((1, encoder.max_length), (encoder.padding + 1) % encoder.vocabulary)
        classifier.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    return classifier.train()


def saved_text_model(settings: dict[str, Any], architecture: dict[str, Any] | None) -> nn.Module:
    """Makes a model again from the settings that it was saved with.

    Args:
        settings (`dict`): Those of the folder, `name`, `num_classes` and `max_length` among them.
        architecture (`dict`, *optional*): The configuration of a model of transformers.
    """
    if architecture is None:
        return EmbeddingBag(settings["vocabulary"], settings["num_classes"])
    from transformers import AutoConfig, AutoModelForSequenceClassification

    return Logits(AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**architecture)))


def usual_rates(name: str, pretrained: bool) -> tuple[float, float]:
    """Peak learning rate and weight decay of AdamW for a model of texts, if they are not given."""
    if name.startswith(TRANSFORMERS):
        return (5e-5 if pretrained else 5e-4), 0.01
    return 1e-2, 0.0
