"""Labelled texts: reliability of scores, and what coresets are worth, by a light source model and a transformer.

    python benchmarks/texts.py --data DATA [--runs runs/texts] [--partial]

DATA holds the folders trec, sst2 and banking77 (train.parquet and test.parquet with `text` and `label`). Each is
recorded by the light model for texts, `embedding_bag`, and by a small transformer: a DistilBERT of two layers of 64
numbers, made from its configuration, with a WordPiece tokenizer of 4,000 pieces made from the train texts. Fresh
models of both kinds are trained on what each method keeps: equally many steps whatever the budget, tested after the
last one. All subsets are balanced by class. Each seed is of the target, of the draws and of a recording of its own.

Nothing is chosen on sst2. What is trained is in SETTINGS, in its order: one seed of all comes first. Trials that are
done are not repeated, and several processes may be started at once. --partial writes the results that are there to
results/texts.json and texts.md. Seconds are those of a core.
"""

import argparse
import itertools
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from orders import VARIANTS, Recorded
from recordings import provenance
from regret import Cells, tables
from result_files import results_of, write_results
from scipy.stats import rankdata
from tokenizers import BertWordPieceTokenizer
from transformers import BertTokenizerFast, DistilBertConfig

from hf_ltc import EvaluateConfig, RecordConfig, Trajectories, ltc_scores, record
from hf_ltc.config import TYPICAL_SHARE
from hf_ltc.coresets.overlap import overlap
from hf_ltc.data.labels import InputColumns, read_labels
from hf_ltc.data.load import load_split
from hf_ltc.evaluation.methods import DEFAULT_METHOD, FULL, RANDOM, chosen_rows
from hf_ltc.evaluation.target import train_on
from hf_ltc.evaluation.trials import run_trials
from hf_ltc.scores.ltc import DEFAULT_PRESET
from hf_ltc.scores.reliability import reliability_of
from hf_ltc.scores.typicality import ltc_typicality
from hf_ltc.training.inputs import Batches, input_batches, stored_inputs
from hf_ltc.training.loop import TrainingConfig
from hf_ltc.training.text.encoders import EMBEDDING_BAG, text_encoder

DATASETS = ("trec", "banking77", "sst2")
# What is said of texts was chosen on the others.
UNSEEN = ("sst2",)
LIGHT, SMALL = EMBEDDING_BAG, "small transformer"
EPOCHS, PIECES, LENGTH = 15, 4000, 128
# Steps and batch size of targets; a learning rate above the product's suits a transformer as small as this one.
STEPS, BATCH = {LIGHT: 400, SMALL: 300}, {LIGHT: 128, SMALL: 64}
RATES = {LIGHT: (1e-2, 0.0), SMALL: (2e-3, 0.01)}
# Another score, in the default's order.
ADVISED = "typical-cld"
# On texts the default's score is das.
ALL = (RANDOM, DEFAULT_METHOD, ADVISED, "das", "ltc", "cld", "aum", "s2l", "ccs", "dual_beta")
MAIN = (RANDOM, DEFAULT_METHOD, ADVISED, "dual_beta", "ccs", "s2l")
# Of targets that have random rows of another source, the first is left out.
FEW = MAIN[:4]
SCORES = (DEFAULT_PRESET, "cld", "ltc")
# The default's order with so many typical rows of an average class, not a tenth of them.
FEWER = ("typical 15 rows", "typical 50 rows")


@dataclass(frozen=True)
class Trial:
    """One model, trained on the rows that one method chose by one recording."""

    dataset: str
    source: str
    target: str
    method: str
    budget: float
    seed: int

    @property
    def name(self) -> str:
        parts = (self.dataset, self.source, self.target, self.method, f"{self.budget:g}", f"seed{self.seed}")
        return "+".join(parts).replace(" ", "-")


@dataclass(frozen=True)
class Setting:
    """Methods compared by one source on one target."""

    source: str
    target: str
    methods: tuple[str, ...]
    budgets: tuple[float, ...]
    seeds: tuple[int, ...]
    datasets: tuple[str, ...] = DATASETS

    def trials(self) -> Iterator[Trial]:
        for seed, budget, dataset in itertools.product(self.seeds, self.budgets, self.datasets):
            for method in self.methods:
                yield Trial(dataset, self.source, self.target, method, budget, seed)


# In the order in which they are trained.
SETTINGS = (
    Setting(LIGHT, LIGHT, ALL, (0.1, 0.3), (0,)),
    Setting(LIGHT, LIGHT, MAIN, (0.3,), (1,)),
    Setting(LIGHT, SMALL, FEW, (0.3,), (0,), DATASETS[:1]),
    Setting(LIGHT, LIGHT, MAIN, (0.3,), (2,)),
    Setting(LIGHT, LIGHT, MAIN, (0.1,), (1, 2)),
    Setting(LIGHT, LIGHT, (FULL,), (1.0,), (0,)),
    Setting(LIGHT, LIGHT, MAIN, (0.5,), (0, 1, 2)),
    Setting(SMALL, SMALL, FEW[1:], (0.3,), (0,), DATASETS[:1]),
    Setting(SMALL, LIGHT, FEW[1:], (0.3,), (0,), DATASETS[:1]),
    Setting(LIGHT, LIGHT, ALL, (0.1, 0.2, 0.3, 0.5, 0.7), (0, 1, 2, 3, 4)),
    Setting(LIGHT, SMALL, FEW, (0.3, 0.1), (0, 1, 2)),
    Setting(SMALL, SMALL, FEW[1:], (0.3, 0.1), (0, 1, 2)),
    Setting(SMALL, LIGHT, FEW[1:], (0.3, 0.1), (0, 1, 2)),
    Setting(SMALL, SMALL, (FULL,), (1.0,), (0,)),
    Setting(LIGHT, LIGHT, FEWER, (0.1, 0.3, 0.5), (0, 1, 2)),
)


class Bench:
    """Data, models and recordings, each made once."""

    def __init__(self, data: Path, runs: Path) -> None:
        self.data, self.runs = data, runs
        self.rows = cache(lambda name: {split: load_split(data / name, split) for split in ("train", "test")})
        self.model, self.batches = cache(self._model), cache(self._batches)
        self.run = lru_cache(8)(lambda *which: Trajectories.load(self.folder(*which)))

    def _model(self, dataset: str, name: str) -> str:
        """A model as the product takes it; the transformer's files are written first."""
        if name == LIGHT:
            return name
        folder = self.runs / f"small-{dataset}"
        if not (folder / "tokenizer_config.json").exists():
            made = BertWordPieceTokenizer(lowercase=True)
            made.train_from_iterator(self.rows(dataset)["train"]["text"][:], PIECES, show_progress=False)
            config = DistilBertConfig(
                vocab_size=made.get_vocab_size(),
                dim=64,
                hidden_dim=128,
                n_layers=2,
                n_heads=4,
                max_position_embeddings=LENGTH,
            )
            config.save_pretrained(folder)
            pieces = BertTokenizerFast(tokenizer_object=made._tokenizer, model_max_length=LENGTH)
            pieces.save_pretrained(folder)
        return f"transformers:{folder / 'config.json'}"

    def _batches(self, dataset: str, name: str) -> tuple[Batches, Batches, int]:
        """The texts of train and test rows as tokens of a model, and the number of classes."""
        encoder, columns, parts = text_encoder(self.model(dataset, name)), InputColumns(text="text"), []
        for split in self.rows(dataset).values():
            parts.append((stored_inputs(split, columns, encoder), read_labels(split, "label")))
        train, test = input_batches(EvaluateConfig(), torch.device("cpu"), *parts, what="test rows")
        return train, test, len(self.rows(dataset)["train"].features["label"].names)

    def folder(self, dataset: str, source: str, seed: int) -> Path:
        return self.runs / f"{dataset}-{source.replace(' ', '-')}-seed{seed}"

    def record(self, dataset: str, source: str, seed: int) -> dict:
        """Makes a recording; one that was interrupted is made anew, so that its seconds are those of all of it."""
        folder = self.folder(dataset, source, seed)
        shutil.rmtree(folder, ignore_errors=True)
        model, train, started = self.model(dataset, source), self.rows(dataset)["train"], time.process_time()
        rate, decay = RATES[source]
        config = RecordConfig(
            model=model,
            text_column="text",
            epochs=EPOCHS,
            batch_size=BATCH[source],
            learning_rate=rate,
            weight_decay=decay,
            signals=["margin", "correct"],
            seed=seed,
            output_dir=str(folder),
        )
        run = record(config, train)
        means = np.asarray(run.validation_losses).mean(axis=1)
        return {
            "dataset": dataset,
            "source": source,
            "seed": seed,
            "rows": len(run),
            "seconds": round(time.process_time() - started, 1),
            "train accuracy": round(float(run.signals["correct"][-1].mean()), 4),
            "validation loss": round(float(means[-1]), 4),
            "lowest validation loss": round(float(means.min()), 4),
        }

    def train(self, trial: Trial) -> dict:
        started = time.process_time()
        run = self.run(trial.dataset, trial.source, trial.seed)
        rows, size = np.arange(len(run)), round(trial.budget * len(run))
        if trial.method in FEWER:
            rows = VARIANTS[trial.method](Recorded(run), size, trial.seed)
        elif trial.method != FULL:
            rows = chosen_rows(trial.method, run, size, seed=trial.seed)
        train, test, classes = self.batches(trial.dataset, trial.target)
        rate, decay = RATES[trial.target]
        config = TrainingConfig(
            epochs=1,
            iterations=STEPS[trial.target],
            batch_size=BATCH[trial.target],
            optimizer="adamw",
            learning_rate=rate,
            weight_decay=decay,
            seed=trial.seed,
        )
        model = self.model(trial.dataset, trial.target)
        found = train_on(model, train.take(run.rows[rows]), test, classes, config, Accelerator(cpu=True))
        return {
            **asdict(trial),
            "rows": len(rows),
            "steps": config.iterations,
            "accuracy": round(found, 5),
            "seconds": round(time.process_time() - started, 1),
        }

    def reliability(self, recorded: Sequence[dict]) -> list[dict]:
        """Agreement of the recordings of a dataset by one source that differ in the seed, four at most."""
        found = []
        for dataset, source in dict.fromkeys((each["dataset"], each["source"]) for each in recorded):
            seeds = [each["seed"] for each in recorded if (each["dataset"], each["source"]) == (dataset, source)]
            runs = [self.run(dataset, source, seed) for seed in sorted(seeds)[:4]]
            for preset in SCORES if len(runs) > 1 else ():
                scores, typical = [ltc_scores(run, preset=preset) for run in runs], None
                if preset == DEFAULT_PRESET:
                    typical = [ltc_typicality(run) for run in runs]
                shared: dict[float, list[float]] = {}
                for i, j in itertools.combinations(range(len(runs)), 2):
                    keys = typical and [typical[i], typical[j]]
                    alike = overlap(
                        scores[i], scores[j], runs[0].labels, (0.1, 0.3), typicality=keys, typical=TYPICAL_SHARE
                    )
                    for budget, value in alike.items():
                        shared.setdefault(budget, []).append(value)
                found.append(
                    {
                        "dataset": dataset,
                        "source": source,
                        "score": preset,
                        "seeds": len(runs),
                        "reliability": round(reliability_of(scores, runs[0].labels).one, 3),
                        **{f"shared at {budget:.0%}": round(statistics.mean(v), 3) for budget, v in shared.items()},
                    }
                )
        return found


def cells_of(results: Sequence[dict]) -> Cells:
    """Accuracy in percent by setting and budget, method and seed."""
    cells: Cells = {}
    pairs = list(dict.fromkeys((each["source"], each["target"]) for each in results))
    for each in sorted(results, key=lambda each: each["budget"]):
        # No source has a part in random rows and all rows: their targets were trained once.
        without = each["method"] in (RANDOM, FULL)
        for source, target in pairs:
            if target == each["target"] and (without or source == each["source"]):
                where = (f"{each['dataset']}, {source} to {target}", f"{each['budget']:.0%}")
                cells.setdefault(where, {}).setdefault(each["method"], {})[each["seed"]] = 100 * each["accuracy"]
    return cells


def ranks(cells: Cells) -> str:
    """The mean rank of each method over the settings and seeds that have all of some methods."""
    lines = ["| source to target | settings | models of each | mean ranks |", "|---|---:|---:|---|"]
    pairs = dict.fromkeys(setting.split(", ")[1] for setting, _ in cells)
    for pair, methods in itertools.product(pairs, (ALL, MAIN, FEW)):
        means, models = [], 0
        for (setting, _), each in cells.items():
            seeds = set.intersection(*(set(each.get(method, {})) for method in methods))
            if setting.endswith(f", {pair}") and seeds:
                means.append([-statistics.mean(each[method][seed] for seed in seeds) for method in methods])
                models += len(seeds)
        if means:
            mean = np.mean([rankdata(each) for each in means], axis=0)
            told = ", ".join(f"{methods[i]} {mean[i]:.1f}" for i in np.argsort(mean, kind="stable"))
            lines.append(f"| {pair} | {len(means)} | {models} | {told} |")
    return "\n".join(lines)


def recorded_table(recorded: Sequence[dict], agreement: Sequence[dict]) -> str:
    """What recordings reach and cost, and how far their scores agree."""
    lines = [
        "| dataset | source | recordings | seconds of a core | train accuracy | validation loss (lowest) | score "
        "| reliability | shared at 10% | at 30% |",
        "|---|---|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    for each in agreement:
        here = [one for one in recorded if (one["dataset"], one["source"]) == (each["dataset"], each["source"])]
        numbers = ("seconds", "train accuracy", "validation loss", "lowest validation loss")
        mean = {name: statistics.mean(one[name] for one in here) for name in numbers}
        lines.append(
            f"| {each['dataset']} | {each['source']} | {each['seeds']} | {mean['seconds']:.0f} "
            f"| {mean['train accuracy']:.2f} | {mean['validation loss']:.2f} ({mean['lowest validation loss']:.2f}) "
            f"| {each['score']} | {each['reliability']:.2f} | {each['shared at 10%']:.0%} "
            f"| {each['shared at 30%']:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/texts"))
    parser.add_argument("--partial", action="store_true", help="write the results that are there")
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    bench, output = Bench(options.data, options.runs), results_of(__file__)
    asked = list(dict.fromkeys(trial for each in SETTINGS for trial in each.trials()))
    work, folder = {}, options.runs / "trials"
    for trial in asked:
        which = (trial.dataset, trial.source, trial.seed)
        work.setdefault(f"recorded+{bench.folder(*which).name}", partial(bench.record, *which))
        work[trial.name] = partial(bench.train, trial)
    if options.partial:
        work = {name: each for name, each in work.items() if (folder / f"{name}.json").exists()}
    found = run_trials(folder, work, "recording and training")
    recorded = [each for name, each in found.items() if name.startswith("recorded+")]
    results = [found[trial.name] for trial in asked if trial.name in found]
    agreement = bench.reliability(recorded)
    command = "python benchmarks/texts.py --data DATA"
    made = {
        "command": command,
        "note": f"{len(results)} of the {len(asked)} trials are done",
        **provenance(),
        "recordings": recorded,
        "reliability": agreement,
        "results": results,
    }
    write_results(output, made)
    cells = cells_of(results)
    said = f"Made by `{command}`; texts.py says how. {made['note'].capitalize()}. Accuracies are in percent, ± their "
    said += "deviation (n)."
    parts = (said, recorded_table(recorded, agreement), ranks(cells), tables(cells, DEFAULT_METHOD, UNSEEN))
    output.with_suffix(".md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
