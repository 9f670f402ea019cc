"""Language models: the loss of a fresh model on held-out text, trained on what a small recorded one chose.

    python benchmarks/language.py [--runs runs/language] [--partial]

The text is what comes with Python: paragraphs of documentation (the language reference in pydoc_data, and docstrings)
and the code of functions in the standard library. Of the train rows 3,000 are documentation and 1,000 code, each of at
most 64 tokens; 250 rows of each are validation samples, and 250 test rows.

A Llama of 32 numbers a token is recorded by TRL's SFTTrainer for 6 epochs. Then a fresh Llama of 64, made from its
configuration, is trained for 200 steps of 32 rows on what each method keeps: equally many steps whatever the budget.
The result is its loss on the test rows in nats a token, the mean of the two sources. Random rows and those of S2L are
drawn anew for each seed. That typical rows do not come first by default was chosen by these numbers.

Results go to results/language.json and language.md. A stopped run is gone on with by the same command; --partial
writes what there is. At full size it takes about 50 minutes of a free core.
"""

import argparse
import ast
import importlib.util
import itertools
import statistics
import sysconfig
from functools import cache, partial
from pathlib import Path
from pydoc_data.topics import topics
from textwrap import dedent

import numpy as np
import torch
from datasets import Dataset
from recordings import provenance
from result_files import results_of, write_results
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from hf_ltc import Trajectories, TrajectoryCallback, select_coreset
from hf_ltc.evaluation.trials import run_trials

SIZES = {"documentation": 3000, "code": 1000}
HELD_OUT, TEST = 250, 250
TOKENS, VOCABULARY = 64, 2000
FRACTIONS, SEEDS = (0.1, 0.3, 0.5), (0, 1, 2)
ORDER = (0.3, 0.1, 0.5)
STEPS, BATCH = 200, 32
RATE = 3e-3
ALL = "all rows"
RANDOM, BY_SOURCE = "random", "random, by source"
# How each method scores, ranks and chooses.
METHODS: dict[str, dict] = {
    RANDOM: {},
    BY_SOURCE: {},
    "S2L": {"coverage": "clusters", "typical": 0.0},
    "default": {},
    "default, by source": {"balance": "source"},
    "typical rows first": {"typical": 0.1},
    "typical rows first, by source": {"typical": 0.1, "balance": "source"},
    "ltc": {"preset": "ltc"},
    "lowest loss": {"score_column": "mean_loss_score", "keep": "lowest"},
    "highest loss": {"score_column": "mean_loss_score", "keep": "highest", "typical": 0.0},
}


def texts() -> dict[str, list[str]]:
    """Paragraphs of documentation, and functions, in the standard library: each text once, in mixed order."""
    paragraphs, functions = [], []
    for text in topics.values():
        paragraphs += text.split("\n\n")
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-z]*.py")):
        source = file.read_text("utf-8")
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                paragraphs += (ast.get_docstring(node) or "").split("\n\n")
            if isinstance(node, ast.FunctionDef):
                functions.append(dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])))
    found = {"documentation": [" ".join(text.split()) for text in paragraphs], "code": functions}
    order = np.random.default_rng(0)
    kept = {}
    for name, each in found.items():
        long = sorted({text for text in each if len(text.split()) >= 10})
        kept[name] = [long[i] for i in order.permutation(len(long))]
    return kept


@cache
def data() -> dict[str, Dataset]:
    """The splits, with the source of each row."""
    found = texts()
    rows: dict[str, list[dict[str, str]]] = {"test": [], "validation": [], "train": []}
    for source, each in found.items():
        ends = np.cumsum([TEST, HELD_OUT, SIZES[source]])
        if len(each) < ends[-1]:
            raise SystemExit(f"the standard library has {len(each)} rows of {source}, and {ends[-1]} are needed")
        for split, part in zip(rows, np.split(np.array(each, dtype=object)[: ends[-1]], ends[:-1])):
            rows[split] += [{"text": text, "source": source} for text in part]
    return {split: Dataset.from_list(each) for split, each in rows.items()}


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(data()["train"]["text"][:], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")


def model(width: int, seed: int) -> LlamaForCausalLM:
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


def recorded(folder: Path) -> Trajectories:
    """The recording of the small model."""
    from transformers.trainer_utils import get_last_checkpoint
    from trl import SFTConfig, SFTTrainer

    if (folder / "recipe.json").exists() and "epochs" in (folder / "recipe.json").read_text():
        return Trajectories.load(folder)
    callback = TrajectoryCallback(folder, data()["train"], data()["validation"], language_model=True)
    arguments = SFTConfig(
        str(folder.with_name("trainer")),
        num_train_epochs=6,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        max_length=TOKENS,
        save_strategy="epoch",
        save_total_limit=1,
        bf16=False,
        use_cpu=True,
        report_to=[],
        dataloader_pin_memory=False,
    )
    trainer = SFTTrainer(
        model(32, 0),
        arguments,
        train_dataset=callback.train_dataset,
        eval_dataset=callback.validation_dataset,
        processing_class=tokenizer(),
    )
    callback.add_to(trainer)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(arguments.output_dir))
    return callback.trajectories


def chosen(run: Trajectories, method: str, fraction: float, seed: int) -> np.ndarray:
    """The rows that a method keeps."""
    train = data()["train"]
    if method in (RANDOM, BY_SOURCE):
        order, size = np.random.default_rng(seed).permutation(len(train)), round(fraction * len(train))
        groups = [order]
        if method == BY_SOURCE:
            sources = np.array(train["source"])[order]
            groups = [order[sources == source] for source in SIZES]
        return np.sort(np.concatenate([group[: size // len(groups)] for group in groups]))
    options = {"balance": "none", **METHODS[method]}
    preset = options.pop("preset", None)
    how = {"balance": options["balance"], "typical": options.get("typical")}
    scored = run.score(train, preset=preset, baselines=["mean_loss"], **how)
    scored = scored.add_column("row", np.arange(len(scored))).remove_columns("ltc_rank")
    return np.array(select_coreset(scored, fraction, seed=seed, **options)["row"])


@cache
def encoded(split: str) -> torch.Tensor:
    """The tokens of all rows, int64 `(N, TOKENS)`, 0 where there are none."""
    ids = [[*each[: TOKENS - 1], 1] for each in tokenizer()(data()[split]["text"][:])["input_ids"]]
    return torch.tensor([[*each, *[0] * (TOKENS - len(each))] for each in ids])


def losses(target: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """The loss of each token that is predicted, and nothing of what fills rows up, `(n, TOKENS - 1)`."""
    ids = ids[:, : int((ids > 0).sum(1).max())]
    logits = target(input_ids=ids, attention_mask=(ids > 0).long()).logits[:, :-1]
    return cross_entropy(logits.transpose(1, 2), ids[:, 1:], ignore_index=0, reduction="none")


def train_target(runs: Path, method: str, fraction: float, seed: int) -> dict:
    """Trains a fresh model on what a method keeps."""
    kept = np.arange(len(data()["train"])) if method == ALL else chosen(recorded(runs / "run"), method, fraction, seed)
    target = model(64, 100 + seed).train()
    optimizer = torch.optim.AdamW(target.parameters(), lr=RATE, weight_decay=0.01)
    schedule = OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    draw = np.random.default_rng(seed)
    # Epoch after epoch, each in an order of its own.
    epochs = -(-STEPS * BATCH // len(kept))
    order = np.concatenate([draw.permutation(kept) for _ in range(epochs)])
    ids = encoded("train")
    for step in range(STEPS):
        found = losses(target, ids[order[step * BATCH : (step + 1) * BATCH]])
        optimizer.zero_grad()
        (found.sum() / (found > 0).sum()).backward()
        optimizer.step()
        schedule.step()
    target.eval()
    sources = np.array(data()["test"]["source"])
    reached = {}
    with torch.no_grad():
        for source in SIZES:
            parts = encoded("test")[np.flatnonzero(sources == source)].split(64)
            each = [losses(target, part) for part in parts]
            reached[source] = sum(float(one.sum()) for one in each) / sum(int((one > 0).sum()) for one in each)
    share = float(np.mean(np.array(data()["train"]["source"])[kept] == "code"))
    return {
        "method": method,
        "fraction": fraction,
        "seed": seed,
        "rows": len(kept),
        "share of code": round(share, 4),
        "loss": statistics.mean(reached.values()),
        **{f"loss of {source}": value for source, value in reached.items()},
    }


def markdown(results: list[dict]) -> str:
    """Losses, and the share of code in what was kept."""

    def cell(method: str, fraction: float, name: str) -> str:
        values = [each[name] for each in results if (each["method"], each["fraction"]) == (method, fraction)]
        if not values:
            return ""
        if name == "share of code":
            return f"{statistics.mean(values):.0%}"
        deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.3f}{deviation} ({len(values)})"

    parts = [
        "Nats a token on the test rows, ± deviation over seeds (their number). `loss` is the mean of the sources."
    ]
    for name in ("loss", *(f"loss of {source}" for source in SIZES), "share of code"):
        lines = [f"| {name} | {' | '.join(f'{fraction:.0%}' for fraction in FRACTIONS)} |", "|---|---:|---:|---:|"]
        for method in METHODS:
            lines.append(f"| {method} | {' | '.join(cell(method, fraction, name) for fraction in FRACTIONS)} |")
        parts.append("\n".join(lines) + f"\n\nAll rows: {cell(ALL, 1.0, name)}.")
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/language"))
    parser.add_argument("--partial", action="store_true", help="write the results that are there")
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    work = {}
    # One seed of all first, then the others budget by budget.
    for seeds, fractions in ((SEEDS[:1], FRACTIONS), *((SEEDS[1:], (fraction,)) for fraction in ORDER)):
        for fraction, seed, method in itertools.product(fractions, seeds, METHODS):
            name = f"{method.replace(', ', '-').replace(' ', '-')}+{fraction:g}+seed{seed}"
            work[name] = partial(train_target, options.runs, method, fraction, seed)
        for seed in seeds:
            work[f"all+seed{seed}"] = partial(train_target, options.runs, ALL, 1.0, seed)
    folder, asked = options.runs / "trained", len(work)
    if options.partial:
        work = {name: each for name, each in work.items() if (folder / f"{name}.json").exists()}
    elif importlib.util.find_spec("trl") is None:
        raise SystemExit("the small model is recorded by TRL: pip install trl")
    else:
        recorded(options.runs / "run")
    results = list(run_trials(folder, work, "training").values())
    output = results_of(__file__)
    command, note = "python benchmarks/language.py", f"{len(results)} of the {asked} trials are done"
    write_results(output, {"command": command, "note": note, **provenance(), "results": results})
    said = f"Made by `{command}`; language.py says how. {note.capitalize()}."
    output.with_suffix(".md").write_text(f"{said}\n\n{markdown(results)}\n")


if __name__ == "__main__":
    main()
