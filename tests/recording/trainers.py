"""Small texts, small models, and a Trainer for them."""

import itertools

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    DataCollatorWithPadding,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["weather", "kitchen", "garden"])})
SENTENCES = {
    "weather": (
        ["Rain", "Snow", "A cold wind", "Fog"],
        ["came from the north", "stayed for days", "was not forecast"],
    ),
    "kitchen": (
        ["The soup", "Fresh bread", "A pot of tea", "The old pan"],
        ["is on the table", "smells good", "is hot"],
    ),
    "garden": (
        ["The roses", "Two apple trees", "The beans", "Weeds"],
        ["grow by the wall", "need water", "were late"],
    ),
}
# Without dropout, and with a learning rate of 0, training losses are those of the initial weights.
FROZEN = {"learning_rate": 0.0}


def sentences() -> Dataset:
    """36 sentences of three kinds, of different lengths, in mixed order."""
    rows = [
        (f"{subject} {predicate}", label)
        for label, parts in SENTENCES.items()
        for subject, predicate in itertools.product(*parts)
    ]
    order = np.random.default_rng(0).permutation(len(rows))
    texts, labels = zip(*(rows[i] for i in order))
    return Dataset.from_dict({"text": texts, "label": FEATURES["label"].str2int(list(labels))}, FEATURES)


def tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(sentences()["text"], trainers.WordLevelTrainer(special_tokens=["[UNK]", "[PAD]"]))
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]")


def texts() -> Dataset:
    encode = tokenizer()
    return sentences().map(lambda rows: encode(rows["text"]), batched=True)


def text_model(dropout: float = 0.0, labels: int = 3) -> nn.Module:
    set_seed(0)
    config = DistilBertConfig(
        vocab_size=80,
        max_position_embeddings=16,
        dim=8,
        hidden_dim=8,
        n_layers=1,
        n_heads=2,
        dropout=dropout,
        attention_dropout=dropout,
        seq_classif_dropout=dropout,
    )
    config.num_labels = labels
    return DistilBertForSequenceClassification(config)


def tiny_vit() -> ViTForImageClassification:
    """A classifier of 8x8 gray images with weights of the random state."""
    config = ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    config.num_labels = 10
    return ViTForImageClassification(config)


def trainer(
    folder, callback, model=None, extra=(), kind=Trainer, collator=None, dataset=None, evaluated=None, **options
):
    settings = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "disable_tqdm": True,
        "report_to": [],
        "dataloader_pin_memory": False,
        "use_cpu": True,
        **options,
    }
    return kind(
        model=text_model() if model is None else model,
        args=TrainingArguments(str(folder / "trainer"), **settings),
        train_dataset=callback.train_dataset if dataset is None else dataset,
        eval_dataset=evaluated,
        data_collator=DataCollatorWithPadding(tokenizer()) if collator is None else collator,
        callbacks=[*([callback] if callback is not None else []), *extra],
    )


def losses_of(model, dataset, rows):
    """Cross-entropy of each text, one by one, so without padding."""
    model.eval()
    found = []
    for row in np.asarray(rows).tolist():
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([dataset[row]["input_ids"]])).logits
        found.append(float(cross_entropy(logits, torch.tensor([dataset[row]["label"]]))))
    return found


class Spy(Trainer):
    """Keeps the loss of every text it trains on, by what the optimizer is given."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"].clone()
        keys = [tuple(row[row != 1].tolist()) for row in inputs["input_ids"]]
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        values = cross_entropy(outputs["logits"].detach().float(), labels, reduction="none")
        for key, value in zip(keys, values.tolist()):
            if model.training:
                self.seen.setdefault(key, []).append(value)
        return (loss, outputs) if return_outputs else loss


class Dies(TrainerCallback):
    """Ends a training as a broken cable would."""

    def __init__(self, event, step):
        setattr(self, event, self.die)
        self.step = step

    def die(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise RuntimeError("cable")
