"""Rows for language models in each form that TRL takes, a tiny model, and TRL's own trainer for them."""

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig, SFTTrainer

from tests.recording.trainers import sentences

IGNORED = -100
# What the assistant says, and the end of it, is marked as generated.
CHAT = (
    "{% for m in messages %}[{{ m.role }}] "
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }} [EOS]{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %} {% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
SOURCES = ("almanac", "cookery", "almanac")


def tokenizer() -> PreTrainedTokenizerFast:
    special = ["[UNK]", "[PAD]", "[EOS]", "[user]", "[assistant]"]
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.train_from_iterator(sentences()["text"], trainers.WordLevelTrainer(special_tokens=special))
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "eos_token": "[EOS]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, chat_template=CHAT, additional_special_tokens=special[3:], **names
    )


def rows(kind: str, count: int = 36) -> Dataset:
    """Rows of different lengths, in one of the forms that TRL knows, with the source of each."""
    found = sentences().select(range(count))
    texts = [f"{one} {two}" if i % 3 else one for i, (one, two) in enumerate(zip(found["text"], found["text"][::-1]))]
    halves = [(text.rsplit(" ", 2)[0], " " + text.split(" ", len(text.split()) - 2)[-1]) for text in texts]
    sources = [SOURCES[label] for label in found["label"]]

    def said(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content.strip()}

    columns = {
        "text": {"text": texts},
        "prompt-completion": {"prompt": [one for one, _ in halves], "completion": [two for _, two in halves]},
        "chat": {"messages": [[said("user", one), said("assistant", two)] for one, two in halves]},
        "chat prompt": {
            "prompt": [[said("user", one)] for one, _ in halves],
            "completion": [[said("assistant", two)] for _, two in halves],
        },
    }
    return Dataset.from_dict({**columns[kind], "source": sources})


def encoded(kind: str, row: dict) -> tuple[list[int], list[int]]:
    """The tokens of a row, and its labels, by other means than TRL's."""
    encode = tokenizer()
    if kind == "text":
        ids = encode(row["text"] + " [EOS]")["input_ids"]
        return ids, ids
    if kind == "prompt-completion":
        prompt = encode(row["prompt"])["input_ids"]
        ids = encode(row["prompt"] + row["completion"] + " [EOS]")["input_ids"]
        return ids, [IGNORED] * len(prompt) + ids[len(prompt) :]
    messages = row["messages"] if kind == "chat" else [*row["prompt"], *row["completion"]]
    user, assistant = (encode(f"[{each['role']}] {each['content']}")["input_ids"] for each in messages)
    ids = [*user, *assistant, encode.eos_token_id]
    # The name of the role is no part of what is generated.
    return ids, [IGNORED] * (len(user) + 1) + ids[len(user) + 1 :]


def language_model(dropout: float = 0.0) -> nn.Module:
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        attention_dropout=dropout,
        pad_token_id=1,
        bos_token_id=None,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


@torch.no_grad()
def losses_of(model: nn.Module, pairs: list[tuple[list[int], list[int]]]) -> np.ndarray:
    """The mean negative log-likelihood of each row's labels, row by row and so without padding."""
    found = []
    model.eval()
    for ids, labels in pairs:
        scores = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(1)
        told = [-float(scores[i - 1, label]) for i, label in enumerate(labels) if i and label != IGNORED]
        found.append(np.mean(told))
    return np.array(found, dtype=np.float32)


def settings(folder, **options) -> SFTConfig:
    return SFTConfig(
        str(folder / "trainer"),
        **{
            "num_train_epochs": 3,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "save_strategy": "no",
            "disable_tqdm": True,
            "report_to": [],
            "dataloader_pin_memory": False,
            "use_cpu": True,
            # In full precision, for comparisons; without checkpoints of activations, of which transformers warns.
            "bf16": False,
            "gradient_checkpointing": False,
            **options,
        },
    )


def sft_trainer(folder, callback, model=None, extra=(), kind=SFTTrainer, peft=None, **options) -> SFTTrainer:
    made = kind(
        model=language_model() if model is None else model,
        args=settings(folder, **options),
        train_dataset=callback.train_dataset,
        eval_dataset=callback.validation_dataset,
        processing_class=tokenizer(),
        callbacks=list(extra),
        peft_config=peft,
    )
    callback.add_to(made)
    return made
