# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ltc"]
# ///
"""Record trajectories while transformers' Trainer trains a text or image classifier.

    python examples/record_with_trainer.py --task text --output-dir runs/text
    python examples/record_with_trainer.py --task image --output-dir runs/image
    accelerate launch examples/record_with_trainer.py ...            # on all GPUs of the machine

This needs no network: the texts are sentences from the documentation of Python's standard library, classified by their
module, the images are scikit-learn's digits, and the models start untrained. Replace them with your own dataset,
tokenizer and model. After an interruption, run the same command again: it resumes.
"""

import argparse
import importlib
import inspect

import numpy as np
import torch
from accelerate import PartialState
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    DataCollatorWithPadding,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    default_data_collator,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from hf_ltc import TrajectoryCallback, digits, select_coreset

MODULES = ("asyncio", "datetime", "email.message", "logging", "pathlib", "unittest")


def docstrings() -> Dataset:
    """Sentences of Python's documentation, and the module of each."""
    rows: dict[str, list] = {"text": [], "label": []}
    for label, name in enumerate(MODULES):
        module = importlib.import_module(name)
        found = {inspect.getdoc(module)}
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__.startswith(name.split(".")[0]):
                found |= {inspect.getdoc(member) for _, member in inspect.getmembers(kind, callable)}
        sentences = {line.strip() for text in found if text for line in text.split("\n") if len(line.split()) > 3}
        rows["text"] += sorted(sentences)
        rows["label"] += [label] * len(sentences)
    return Dataset.from_dict(rows, Features({"text": Value("string"), "label": ClassLabel(names=list(MODULES))}))


def text_task():
    train = docstrings()
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        train["text"], trainers.WordLevelTrainer(vocab_size=2000, special_tokens=["[UNK]", "[PAD]"])
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    train = train.map(lambda batch: tokenizer(batch["text"], truncation=True, max_length=32), batched=True)
    config = DistilBertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=32, dim=32, hidden_dim=64, n_layers=2, n_heads=2
    )
    config.num_labels = len(MODULES)
    return train, DistilBertForSequenceClassification(config), DataCollatorWithPadding(tokenizer)


def image_task():
    train, _ = digits()

    def pixels(row):
        return {"pixel_values": np.array(row["image"], dtype=np.float32)[None] / 255}

    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    config.num_labels = 10
    return train.map(pixels).with_format("torch"), ViTForImageClassification(config), default_data_collator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("text", "image"), default="text")
    parser.add_argument("--output-dir", default="runs/trainer", help="The run directory.")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    arguments = TrainingArguments(
        output_dir=f"{options.output_dir}-trainer",
        num_train_epochs=options.epochs,
        per_device_train_batch_size=32,
        learning_rate=2e-3,
        save_strategy="epoch",
        save_total_limit=1,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[],
    )

    set_seed(arguments.seed)
    train, model, collator = text_task() if options.task == "text" else image_task()
    # Validation samples are held out of each class; give a dataset of them as the third argument to use your own.
    callback = TrajectoryCallback(options.output_dir, train)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=callback.train_dataset,  # train without the rows held out
        data_collator=collator,
        callbacks=[callback],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(arguments.output_dir))

    run = callback.trajectories
    if PartialState().is_main_process:
        scored = run.score(train)  # + loss_trajectory, ltc_score, ltc_rank
        coreset = select_coreset(scored, fraction=0.1)
        first, *_, last = run.losses.mean(axis=1)
        print(f"Kept {len(coreset):,} of {len(run):,} rows; the mean loss went from {first:.2f} to {last:.2f}")


if __name__ == "__main__":
    main()
