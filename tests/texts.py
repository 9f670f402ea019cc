"""Real texts that come with Python: docstrings, by the module that they are of; and small models of transformers."""

import datetime
import decimal
import inspect
import os
import socket
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, GPT2Config, PreTrainedTokenizerFast, RobertaConfig

_MODULES = (datetime, decimal, os, socket)


def docstrings(rows: int = 240) -> Dataset:
    """Docstrings in `text`, their names in `name`, and what they are of in `label`; as many of each module."""
    found = {"name": [], "text": [], "label": []}
    for label, module in enumerate(_MODULES):
        taken = 0
        for name, text in _documented(module):
            if taken == rows // len(_MODULES):
                break
            if text.strip() and text not in found["text"]:
                found = {**found, "name": [*found["name"], name], "text": [*found["text"], text]}
                found["label"] = [*found["label"], label]
                taken += 1
    labels = ClassLabel(names=[module.__name__ for module in _MODULES])
    features = Features({"name": Value("string"), "text": Value("string"), "label": labels})
    return Dataset.from_dict(found, features=features).shuffle(seed=0).flatten_indices()


def _documented(module):
    for name, value in inspect.getmembers(module):
        if inspect.isclass(value):
            yield from ((f"{name}.{inner}", inspect.getdoc(each) or "") for inner, each in inspect.getmembers(value))
        yield name, inspect.getdoc(value) or ""


def save_tokenizer(folder: Path, texts: list[str], *, padding: bool = True, **options) -> PreTrainedTokenizerFast:
    """Trains a tokenizer of word pieces on texts, as BERT's, and saves it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=500, special_tokens=special))
    ends = [(each, tokenizer.token_to_id(each)) for each in special[2:]]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names, **({"pad_token": "[PAD]"} if padding else {}), **options
    )
    made.save_pretrained(folder)
    return made


SIZES = {
    "initializer_range": 0.3,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
# From much larger weights than usual, with which logits of different texts differ.
CONFIGS = {
    "bert": BertConfig(**SIZES, vocab_size=500, max_position_embeddings=64),
    "roberta": RobertaConfig(**SIZES, vocab_size=500, max_position_embeddings=66, pad_token_id=0),
    # Classifies by the last token, which it finds by the padding behind it.
    "gpt2": GPT2Config(initializer_range=0.3, n_embd=16, n_layer=1, n_head=2, vocab_size=500, n_positions=64),
}


def save_source(folder: Path, kind: str, texts: list[str], **options) -> str:
    """A config and a tokenizer beside it, as a model by its name."""
    types = ["input_ids", *(["token_type_ids"] if kind == "bert" else []), "attention_mask"]
    save_tokenizer(folder, texts, model_input_names=types, **options)
    CONFIGS[kind].save_pretrained(folder)
    return f"transformers:{folder}"
