# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ltc", "trl"]
# ///
"""Record trajectories while TRL's SFTTrainer fine-tunes a causal language model, and keep a coreset by source.

    python examples/record_sft.py --output-dir runs/sft
    accelerate launch examples/record_sft.py ...                     # on all GPUs of the machine

This needs no network: the rows are questions about Python's standard library, answered by its own documentation, and
the model starts untrained. Replace them with your own dataset (texts, prompts with completions, or chats) and model;
nothing else has to change, not even with PEFT. After an interruption, run the same command again: it resumes.
"""

import argparse
import importlib
import inspect

import torch
from accelerate import PartialState
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from hf_ltc import TrajectoryCallback, select_coreset

MODULES = ("asyncio", "collections", "datetime", "email.message", "logging", "pathlib", "statistics", "unittest")


def questions() -> Dataset:
    """Questions about functions and methods, answered by the first paragraph of their documentation."""
    rows = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for owner in [module, *(kind for _, kind in inspect.getmembers(module, inspect.isclass))]:
            place = name if owner is module else f"{name}.{owner.__name__}"
            for member, value in inspect.getmembers(owner, callable):
                text = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
                if not member.startswith("_") and len(text.split()) > 3:
                    # The same answer is given once.
                    rows.setdefault(text, (f"What does {place}.{member} do?", name))
    return Dataset.from_dict(
        {
            "prompt": [question for question, _ in rows.values()],
            "completion": [f" {text}" for text in rows],
            "source": [source for _, source in rows.values()],
        }
    )


def made_tokenizer(rows: Dataset) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*rows["prompt"], *rows["completion"]], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", default="runs/sft", help="The run directory.")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rows", type=int, help="Number of rows; all if not given.")
    parser.add_argument("--batch-size", type=int, default=16, help="Rows per process and step.")
    options = parser.parse_args()
    train = questions()
    if options.rows is not None:
        train = train.shuffle(seed=0).select(range(options.rows))

    tokenizer = made_tokenizer(train)
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    arguments = SFTConfig(
        output_dir=f"{options.output_dir}-trainer",
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        learning_rate=3e-3,
        max_length=128,
        save_strategy="epoch",
        save_total_limit=1,
        bf16=torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[],
    )

    # A tenth of the rows is held out; give a dataset as the third argument to use your own validation samples.
    callback = TrajectoryCallback(options.output_dir, train, language_model=True)
    trainer = SFTTrainer(
        model=LlamaForCausalLM(config),
        args=arguments,
        train_dataset=callback.train_dataset,  # train without the rows held out
        eval_dataset=callback.validation_dataset,
        processing_class=tokenizer,
    )
    callback.add_to(trainer)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(arguments.output_dir))

    run = callback.trajectories
    if PartialState().is_main_process:
        scored = run.score(train, balance="source")  # + loss_trajectory, ltc_score, ltc_rank
        coreset = select_coreset(scored, fraction=0.3, balance="source")
        first, *_, last = run.losses.mean(axis=1)
        tokens = int(run.signals["tokens"][0].sum())
        print(
            f"Kept {len(coreset):,} of {len(run):,} rows with {tokens:,} tokens that count, of "
            f"{len(set(coreset['source']))} sources; the mean loss went from {first:.2f} to {last:.2f}"
        )


if __name__ == "__main__":
    main()
