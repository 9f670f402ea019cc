"""How accurate are models trained on coresets? Compares scores, recordings and selections.

    python benchmarks/recordings.py --data DATA                    # first: the recordings
    python benchmarks/coresets.py STAGE --data DATA [--runs runs/benchmarks]

Stages: screening, single, windows, finalists, typical, longer, length, stopped, short, weight, brief, validation,
noise, wrong, transfer, architectures, sanity. Finished trials are not repeated, and you can start several processes at
once on the same stage. When all trials of a stage are done, its results are written to results/coresets-STAGE.json;
--partial writes the results so far. Some stages need their own recordings, made by recordings.py with these options:

    transfer       --models test_efficientnet test_vit --seeds 0
    short          --epochs 5 --windows 0 0.25 1
    weight, brief  --epochs 5 10 --windows 1 --evaluated --seeds 0 1 2
                   --datasets cifar100 fashion_mnist clothing digits
    noise, wrong   --noise 0.1 0.2 0.4 --seeds 0
    architectures  --models resnet18 densenet121 vgg11_bn swin_tiny_patch4_window7_224 --datasets cifar100 --seeds 0
                   --epochs 10 --windows 1 --evaluated --mixed-precision bf16

Every target model is trained from scratch with the same settings at every budget and for every method, for the same
number of steps, and tested after the last one. Nothing is tuned per budget or method. converged.py trains longer, with
augmentation.
"""

import argparse
import hashlib
import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from candidates import CANDIDATES, MEMBERS, WEIGHTED, heavy_das, within_class_ranks
from data import Data
from recordings import OPTIMIZERS, STEMS, WINDOWS, path_of, provenance, stopped_at, trajectories
from result_files import results_of, write_results
from tables import markdown, noise_tables, on_all_rows, ranked, transfer_table

from hf_ltc import Trajectories
from hf_ltc.config import TYPICAL_ROWS
from hf_ltc.coresets.order import coreset_order
from hf_ltc.evaluation.methods import DEFAULT_METHOD, FULL, RANDOM, chosen_rows, method_scores
from hf_ltc.evaluation.target import train_on
from hf_ltc.evaluation.trials import run_trials
from hf_ltc.scores.ltc import DEFAULT_PRESET
from hf_ltc.scores.typicality import ltc_typicality
from hf_ltc.training.loop import TrainingConfig

# 500 steps are 1.7 epochs of all rows and 17 of a tenth of them, which favors rows that are learned quickly; "longer"
# checks that.
STEPS, LONGER, BRIEF, BATCH, RATE = 500, 2500, 150, 32, 0.05
# The score variant that the screening chose, ranked by the score alone; DEFAULT_METHOD has typical rows first.
DEFAULT = DEFAULT_PRESET
DATASETS = ("cifar100", "fashion_mnist")
PHOTOGRAPHS, EASY = "clothing", "digits"
# Rows sampled over the whole range of a score, or at random from its better half.
COVERED = {
    "levels_stratified": "levels-losses-class",
    "levels_half": "levels-losses-class",
    "levels_beta": "levels-losses-class",
    "probabilities_half": "probabilities",
}
# Sampling of a known method, applied to another score: CCS's strata and cut, DUAL's Beta density.
DRAWN = {"stratified": "ccs", "beta": "dual_beta"}
# The default and its score alone, with the weight that recordings of so few epochs go without.
HEAVY = {"typical-heavy-das": TYPICAL_ROWS, "heavy-das": 0.0}
# The best six by mean rank over the four settings of the screening with two seeds, by method and window of averaged
# weights; and the best six on its first seed, before all score variants weighted by uncertainty were in it.
BEST = (
    (DEFAULT, 1.0),
    ("levels-correlations-dataset-uncertainty", 1.0),
    ("levels-correlations-class-uncertainty", 0.0),
    ("levels-correlations-class-uncertainty", 1.0),
    ("levels-losses-class-uncertainty", 0.0),
    ("levels-losses-class-uncertainty", 1.0),
)
FINALISTS = (
    DEFAULT,
    "levels_and_dyn_unc",
    "das",
    "dual_beta",
    "probabilities",
    "dataset_probabilities",
)
MODELS = ("test_resnet", "test_efficientnet", "test_vit")
SWIN = "swin_tiny_patch4_window7_224"
ARCHITECTURES = ("resnet18", "densenet121", "vgg11_bn", SWIN)
NOISE = (0.1, 0.2, 0.4)
# Stabilities that end a recording; cifar100 does not reach 0.9 within its 30 epochs.
STOPS = (0.7, 0.8, 0.9)
# The order that hf-ltc ranks by, its score alone, and what it has to be ahead of.
ORDERS = (RANDOM, DEFAULT_METHOD, DEFAULT, "dual_beta", "ccs", "aum")
BASELINES = ["mean_loss", "el2n", "forgetting", "aum", "dyn_unc", "tdds", "dual", "dual_beta", "ccs"]


@dataclass(frozen=True)
class Trial:
    """One model, trained on the rows that one method chose."""

    dataset: str
    method: str
    fraction: float = 1.0
    seed: int = 0
    losses: str = "training"
    window: float = 1.0
    runs: tuple[int, ...] = (0, 1, 2)
    source: str = "test_resnet"
    target: str = "test_resnet"
    noise: float = 0.0
    epochs: int | None = None
    every: int = 1
    stop: float | None = None
    recorded: int = 30
    validation: str = "clean"
    steps: int = STEPS

    @property
    def name(self) -> str:
        usual = Trial(self.dataset, self.method)
        parts = [self.dataset, self.method, f"{self.fraction:g}", f"seed{self.seed}"]
        parts += [
            f"{key}={'-'.join(map(str, value)) if isinstance(value, tuple) else value}"
            for key, value in asdict(self).items()
            if key not in ("dataset", "method", "fraction", "seed") and value != getattr(usual, key)
        ]
        return "+".join(parts)

    @property
    def scorer(self) -> "Trial":
        """The trial with only the settings that its scores depend on."""
        return replace(self, fraction=1.0, seed=0, target="test_resnet", steps=STEPS)


@lru_cache
def data_of(folder: Path, name: str, noise: float) -> Data:
    return Data(folder, name, noise=noise)


@lru_cache(maxsize=8)
def recording(runs: Path, trial: Trial) -> list[Trajectories]:
    kind = trial.validation if trial.validation in ("corrupted", "noisy20", "noisy40") else "clean"
    each = []
    for seed in trial.runs:
        path = path_of(runs, trial.dataset, trial.source, trial.recorded, trial.noise, seed)
        run = trajectories(path, trial.losses, trial.window, kind)
        if kind == "clean" and trial.validation != "clean":
            run = with_validation(run, trial.validation)
        if trial.epochs is not None:
            run = run.truncate(trial.epochs)
        if trial.stop is not None:
            run = run.truncate(stopped_at(run, trial.stop))
        each.append(run if trial.every == 1 else run.every(trial.every))
    return each


def with_validation(run: Trajectories, kind: str) -> Trajectories:
    """A part of the validation samples: a number per class, or few of every other class."""
    order = np.random.default_rng(3).permutation(len(run.validation_labels))
    place = np.empty(len(order), dtype=np.int64)
    for c in np.unique(run.validation_labels):
        members = order[run.validation_labels[order] == c]
        place[members] = np.arange(len(members))
    if kind == "skewed":
        kept = (run.validation_labels % 2 == 0) | (place < 2)
    else:
        kept = place < int(kind.removeprefix("perclass"))
    return replace(
        run,
        validation_losses=run.validation_losses[:, kept],
        validation_labels=run.validation_labels[kept],
        validation_rows=run.validation_rows[kept],
    )


@lru_cache(maxsize=512)
def scores_of(runs: Path, trial: Trial) -> np.ndarray:
    each = recording(runs, replace(trial, method=""))
    if trial.method in CANDIDATES:
        return np.mean([CANDIDATES[trial.method](run) for run in each], axis=0).astype(np.float32)
    return method_scores(trial.method, Trajectories.average(each))


def rows_of(runs: Path, trial: Trial, pool: int) -> np.ndarray:
    if trial.method == FULL:
        return np.arange(pool)
    size = round(trial.fraction * pool)
    run = Trajectories.average(recording(runs, replace(trial.scorer, method="")))
    if trial.method == RANDOM:
        return chosen_rows(RANDOM, run, size, seed=trial.seed)
    if trial.method in COVERED:
        scores = scores_of(runs, replace(trial.scorer, method=COVERED[trial.method]))
        if (way := trial.method.split("_")[1]) in DRAWN:
            return chosen_rows(DRAWN[way], run, size, seed=trial.seed, scores=scores)
        # Rows at random from the better half of each class.
        place = within_class_ranks(scores, run.labels)
        draw = np.random.default_rng(trial.seed).random(pool)
        return np.flatnonzero(coreset_order(np.where(place > 0.5, draw, place - 1), run.labels) < size)
    if trial.method in HEAVY:
        scores = np.mean([heavy_das(each) for each in recording(runs, replace(trial.scorer, method=""))], axis=0)
        typical = HEAVY[trial.method]
        keys = ltc_typicality(run) if typical else None
        return np.flatnonzero(coreset_order(scores, run.labels, typicality=keys, typical=typical) < size)
    scores = scores_of(runs, trial.scorer)
    if trial.method in CANDIDATES:
        return np.flatnonzero(coreset_order(scores, run.labels) < size)
    return chosen_rows(trial.method, run, size, seed=trial.seed, scores=scores)


def training_of(trial: Trial) -> TrainingConfig:
    optimizer, rate = OPTIMIZERS.get(trial.target, ("sgd", RATE))
    return TrainingConfig(
        epochs=1,
        iterations=trial.steps,
        batch_size=BATCH,
        optimizer=optimizer,
        learning_rate=rate,
        weight_decay=0.05 if optimizer == "adamw" else 5e-4,
        augment=False,
        seed=trial.seed,
    )


def mark(trial: Trial) -> str:
    """A digest of how a trial's model is trained, which its name does not say."""
    settings = [asdict(training_of(trial)), STEMS.get(trial.target, "imagenet")]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def train_on_rows(data: Data, rows: np.ndarray, trial: Trial) -> float:
    """The test accuracy of a trial's model, trained on some rows."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    stem, config = STEMS.get(trial.target, "imagenet"), training_of(trial)
    return train_on(trial.target, data.train.take(rows), data.test, data.classes, config, accelerator, stem=stem)


def train_trial(options: argparse.Namespace, trial: Trial) -> dict:
    started = time.perf_counter()
    data = data_of(options.data, trial.dataset, trial.noise)
    rows = rows_of(options.runs, trial, len(data.rows))
    chosen = time.perf_counter()
    found = train_on_rows(data, rows, trial)
    return {
        **asdict(trial),
        "training": mark(trial),
        "rows": len(rows),
        "accuracy": found,
        "wrong": float((data.labels[rows] != data.true[rows]).mean()),
        "seconds": {"choosing": round(chosen - started, 2), "training": round(time.perf_counter() - chosen, 2)},
    }


VARIANTS = [(losses, window) for losses in ("training", "evaluation") for window in (1.0, 0.0)]


def screening() -> list[Trial]:
    """Every method at two budgets, with scores that are means over three recordings."""
    trials = []
    for seed in (0, 1):
        for dataset in DATASETS:
            trials.append(Trial(dataset, FULL, 1.0, seed))
            for fraction in (0.1, 0.3):
                at = {"dataset": dataset, "fraction": fraction, "seed": seed}
                trials += [Trial(method=name, **at) for name in (RANDOM, DEFAULT, *BASELINES, *CANDIDATES, *COVERED)]
                trials += [Trial(method=name, losses="evaluation", **at) for name in ("mean_loss", "aum")]
                members = [*MEMBERS, *WEIGHTED]
                trials += [Trial(method=m, losses=one, window=w, **at) for one, w in VARIANTS for m in members]
    return list(dict.fromkeys(trials))


def single() -> list[Trial]:
    """The same with the scores of one recording instead of three."""
    alike = (FULL, RANDOM)
    return [replace(trial, runs=(0,)) for trial in screening() if trial.seed == 0 and trial.method not in alike]


def windows() -> list[Trial]:
    """Weights averaged over less than an epoch and over more."""
    return [
        Trial(dataset, method, fraction, seed, window=window)
        for seed in (0, 1)
        for dataset in DATASETS
        for method in (DEFAULT, "das", "ltc")
        for fraction in (0.1, 0.3)
        for window in WINDOWS
    ]


def finalists() -> list[Trial]:
    """The best of the screening at five budgets, with five seeds, compared with AUM, LTC and random rows."""
    trials = []
    for seed, fraction in itertools.product(range(5), (0.1, 0.3, 0.2, 0.05, 0.5)):
        for dataset in DATASETS:
            at = {"dataset": dataset, "fraction": fraction, "seed": seed}
            trials += [Trial(**at, method=method) for method in (RANDOM, *FINALISTS, "aum", "ltc")]
            trials += [Trial(**at, method=method, window=window) for method, window in BEST]
            if fraction == 0.1:
                trials.append(Trial(dataset, FULL, seed=seed))
    return list(dict.fromkeys(trials))


def typical() -> list[Trial]:
    """Typical rows first, at budgets from 5 to 90%; each seed has a recording of its own, whose luck it shows."""
    trials = []
    for seed, fraction in itertools.product(range(3), (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)):
        for dataset in DATASETS:
            at = {"dataset": dataset, "fraction": fraction, "seed": seed, "runs": (seed,)}
            trials += [Trial(**at, method=method) for method in ORDERS]
            trials.append(Trial(dataset, FULL, seed=seed))
    return list(dict.fromkeys(trials))


def longer() -> list[Trial]:
    """Trained five times as long, which all rows need to be worth more than some, with a seed that no choice used."""
    trials = []
    for seed, fraction in itertools.product((5,), (0.1, 0.3, 0.5)):
        for dataset in DATASETS:
            at = {"dataset": dataset, "seed": seed, "steps": LONGER}
            trials.append(Trial(method=FULL, **at))
            methods = (RANDOM, DEFAULT, "aum", "dual_beta", "ltc")
            trials += [Trial(method=method, fraction=fraction, **at) for method in methods]
    return list(dict.fromkeys(trials))


def length() -> list[Trial]:
    """Less of each recording: its first epochs, or every second, third or fifth."""
    trials = []
    for seed, dataset, fraction in itertools.product((0, 1), DATASETS, (0.1, 0.3)):
        at = {"dataset": dataset, "fraction": fraction, "seed": seed}
        trials += [Trial(**at, method=RANDOM), Trial(**at, method=DEFAULT_METHOD)]
        # Short recordings are ranked without typical rows.
        trials.append(Trial(**at, method=DEFAULT, epochs=6))
        trials.append(Trial(**at, method=DEFAULT_METHOD, epochs=15))
        trials += [Trial(**at, method=DEFAULT_METHOD, every=every) for every in (2, 3, 5)]
    return list(dict.fromkeys(trials))


def stopped() -> list[Trial]:
    """Recordings cut where --stop-when-stable ends them: once the ranking by half of them agrees with the whole."""
    trials = []
    for seed, dataset, fraction in itertools.product((0, 1), DATASETS, (0.1, 0.3)):
        at = {"dataset": dataset, "fraction": fraction, "seed": seed}
        trials.append(Trial(**at, method=RANDOM))
        trials += [Trial(**at, method=method, stop=stop) for method in (DEFAULT, "ltc") for stop in (None, *STOPS)]
    return trials


def short() -> list[Trial]:
    """Recordings of 5 epochs, a sixth of the others: one or the mean of three, training or evaluation losses."""
    trials = []
    for seed, dataset, fraction in itertools.product((0, 1), DATASETS, (0.1, 0.3)):
        at = {"dataset": dataset, "fraction": fraction, "seed": seed}
        trials += [Trial(**at, method=RANDOM), Trial(**at, method=DEFAULT_METHOD)]
        for losses, runs in itertools.product(("training", "evaluation"), ((0,), (0, 1, 2))):
            for method in (DEFAULT, DEFAULT_METHOD):
                trials.append(Trial(**at, method=method, losses=losses, runs=runs, recorded=5))
    return trials


def weight() -> list[Trial]:
    """The weight of uncertainty after few epochs, and typical rows first; each seed has a recording of its own."""
    trials = []
    cells = [*itertools.product((*DATASETS, PHOTOGRAPHS), (0.1, 0.3)), *((EASY, f) for f in (0.05, 0.1, 0.3))]
    for seed, recorded, (dataset, fraction) in itertools.product(range(3), (5, 10), cells):
        at = {"dataset": dataset, "fraction": fraction, "seed": seed, "recorded": recorded, "runs": (seed,)}
        trials += [Trial(**at, method=method) for method in (RANDOM, DEFAULT_METHOD, "das", *HEAVY)]
    return trials


def brief() -> list[Trial]:
    """A recording of 5 epochs and half an epoch of training: too little for rows that take long to learn."""
    trials = []
    for seed, dataset, fraction in itertools.product(range(3), (*DATASETS, PHOTOGRAPHS), (0.1, 0.3)):
        at = {"dataset": dataset, "fraction": fraction, "seed": seed, "recorded": 5, "runs": (seed,), "steps": BRIEF}
        # DUAL needs ten epochs.
        methods = [method for method in ORDERS if method != "dual_beta"]
        trials += [Trial(**at, method=method) for method in (*methods, "mean_loss")]
    return trials


def validation() -> list[Trial]:
    """Fewer and worse validation samples."""
    kinds = ("clean", "perclass1", "perclass5", "perclass15", "skewed", "corrupted", "noisy20", "noisy40")
    return [
        Trial(dataset, DEFAULT_METHOD, fraction, validation=kind)
        for dataset in DATASETS
        for fraction in (0.1, 0.3)
        for kind in kinds
    ]


def transfer() -> list[Trial]:
    """Rows chosen by one architecture for another; the patches of the transformer fit CIFAR-100 alone."""
    trials = []
    for seed, fraction, target in itertools.product((0, 1), (0.1, 0.3), MODELS):
        at = {"dataset": "cifar100", "fraction": fraction, "seed": seed, "target": target}
        trials.append(Trial(**at, method=RANDOM))
        trials += [Trial(**at, method=DEFAULT_METHOD, source=source, runs=(0,)) for source in MODELS]
        trials.append(Trial("cifar100", FULL, seed=seed, target=target))
    return list(dict.fromkeys(trials))


def architectures() -> list[Trial]:
    """The papers' transfer: ResNet-18 chooses for DenseNet-121, VGG-11 and Swin-T, and each for itself."""
    trials = []
    for fraction, target in itertools.product((0.1, 0.3), ARCHITECTURES):
        at = {"dataset": "cifar100", "fraction": fraction, "target": target, "recorded": 10, "runs": (0,)}
        trials.append(Trial(**at, method=RANDOM, source="resnet18"))
        trials += [Trial(**at, method=DEFAULT, source=source) for source in dict.fromkeys(("resnet18", target))]
        trials.append(Trial("cifar100", FULL, target=target))
    return list(dict.fromkeys(trials))


def sanity() -> list[Trial]:
    """The first experiment of the papers, at a size for two cores: ResNet-18 on a tenth."""
    trials = [Trial(dataset, FULL, target="resnet18") for dataset in DATASETS]
    methods = (RANDOM, "ltc", DEFAULT)
    return trials + [Trial(dataset, method, 0.1, target="resnet18") for dataset in DATASETS for method in methods]


def wrong() -> list[Trial]:
    """What models reach on coresets of data with wrong labels, tested on correct ones."""
    trials = []
    for dataset, share in itertools.product(DATASETS, (0.2, 0.4)):
        trials.append(Trial(dataset, FULL, noise=share))
        for method, fraction in itertools.product((RANDOM, DEFAULT, "ltc", "aum", "dual_beta"), (0.1, 0.3)):
            trials.append(Trial(dataset, method, fraction, noise=share, runs=(0,)))
    return trials


def noise(options: argparse.Namespace) -> list[dict]:
    """The share of wrong labels that each method keeps at each budget, where a share of the train labels is wrong."""
    found = []
    names = [DEFAULT, "ltc", "cld", *CANDIDATES, *BASELINES, RANDOM]
    for dataset, share, losses in itertools.product(DATASETS, NOISE, ("training", "evaluation")):
        data = data_of(options.data, dataset, share)
        # With correct labels, as in the paper, and with as many wrong ones as rows held out of such data have.
        kinds = ["clean", *(kind for kind in ("noisy20", "noisy40") if kind == f"noisy{round(100 * share)}")]
        for seed, kind, method in itertools.product((0, 1), kinds, names):
            if not path_of(options.runs, dataset, "test_resnet", 30, share, seed).exists():
                continue
            kept = {}
            for fraction in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7):
                trial = Trial(dataset, method, fraction, seed, losses, runs=(seed,), noise=share, validation=kind)
                rows = rows_of(options.runs, trial, len(data.rows))
                kept[f"{fraction:g}"] = round(float((data.labels[rows] != data.true[rows]).mean()), 4)
            about = {"dataset": dataset, "noise": share, "losses": losses, "validation": kind}
            found.append({**about, "method": method, "seed": seed, "wrong labels kept": kept})
    return found


def stops(runs: Path) -> list[dict]:
    """The epoch after which each recording would have ended."""
    found = []
    for dataset, threshold in itertools.product(DATASETS, STOPS):
        each = recording(runs, Trial(dataset, ""))
        ended = [stopped_at(run, threshold) for run in each]
        share = sum(ended) / sum(run.lengths[0] - 1 for run in each)
        found.append({"dataset": dataset, "stop": threshold, "epochs": ended, "share of the epochs": round(share, 2)})
    return found


def protocol(stage: str, trials: list[Trial]) -> dict:
    """How the recordings and the targets of a stage were trained."""
    sources = {(trial.source, trial.recorded) for trial in trials if trial.method not in (FULL, RANDOM)}

    def said(models: set[str], rate: float) -> dict[str, str]:
        each = {model: OPTIMIZERS.get(model, ("sgd", rate)) for model in sorted(models)}
        return {model: f"{name}, peak learning rate {rate:g}" for model, (name, rate) in each.items()}

    made = {
        "pool": "the first 10,000 rows (of clothing 3,068, of digits 1,438), less a tenth of each class, at most 50, "
        "held out for validation",
        "sources": said({model for model, _ in sources}, 0.1),
        "source epochs": sorted({epochs for _, epochs in sources}),
        "source": "one-cycle, batch 64, crops and flips (none for digits), "
        + ("bf16 autocast" if stage == "architectures" else "float32"),
        "recordings": sorted({len(trial.runs) for trial in trials if trial.method not in (FULL, RANDOM)}),
    }
    if stage == "noise":
        return made
    alone = all(trial.runs == (trial.seed,) for trial in trials if trial.method not in (FULL, RANDOM))
    return {
        **made,
        "targets": said({trial.target for trial in trials}, RATE),
        "target": "one-cycle, bf16 autocast, no augmentation, tested after the last step",
        "steps": sorted({trial.steps for trial in trials}),
        "batch size": BATCH,
        "target seeds": sorted({trial.seed for trial in trials}),
        "deviation": "over seeds of the targets and of draws; "
        + ("each has a recording of its own" if alone else "the recordings are the same for all of them"),
    }


def work(options: argparse.Namespace, trials: list[Trial]) -> list[dict]:
    todo = {trial.name: partial(train_trial, options, trial) for trial in trials}
    folder = options.runs / "cells"
    if options.partial:
        there = {name: folder / f"{name}.json" for name in todo}
        found = {name: json.loads(path.read_text()) for name, path in there.items() if path.exists()}
    else:
        found = run_trials(folder, todo, options.stage)
    if other := [
        name for name, trial in zip(todo, trials) if found.get(name, {}).get("training", mark(trial)) != mark(trial)
    ]:
        sys.exit(f"{folder / other[0]}.json was trained with other settings: delete it, and it is done again")
    # Trials that are older than a field have its default, and no mark.
    return [{**asdict(trial), **found[trial.name]} for trial in trials if trial.name in found]


STAGES = {
    "screening": screening,
    "single": single,
    "windows": windows,
    "finalists": finalists,
    "typical": typical,
    "longer": longer,
    "length": length,
    "stopped": stopped,
    "short": short,
    "weight": weight,
    "brief": brief,
    "validation": validation,
    "wrong": wrong,
    "transfer": transfer,
    "architectures": architectures,
    "sanity": sanity,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, "noise"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--partial", action="store_true", help="write the results that are there")
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    results = noise(options) if options.stage == "noise" else work(options, STAGES[options.stage]())
    noises = [Trial(d, DEFAULT, runs=(0,), noise=share) for d in DATASETS for share in NOISE]
    trials = noises if options.stage == "noise" else STAGES[options.stage]()
    command = f"python benchmarks/coresets.py {options.stage} --data DATA"
    made = {"command": command, "protocol": protocol(options.stage, trials)}
    if options.stage == "stopped":
        made["stops"] = stops(options.runs)
    asked = len(results) if options.stage == "noise" else len(trials)
    if len(results) < asked:
        made["note"] = f"{len(results)} of {asked} trials: the others were not trained"
    output = results_of(__file__, f"coresets-{options.stage}")
    write_results(output, {**made, **provenance(), "results": results})
    if options.stage == "noise":
        text = noise_tables(results)
    elif options.stage == "transfer":
        text = transfer_table(results, MODELS, MODELS)
    elif options.stage == "architectures":
        text = transfer_table(results, ARCHITECTURES, ("resnet18",))
    else:
        if options.stage in ("typical", "weight", "brief"):
            # A seed of the target and its recording are one case.
            results = [{**each, "runs": "one for each seed"} for each in results]
        text = f"{markdown(ranked(results))}\n\n{on_all_rows(results)}"
    if options.stage == "stopped":
        text += "".join(
            f"\n\n{each['dataset']}, {each['stop']}: ended after epochs {', '.join(map(str, each['epochs']))} of 30, "
            f"{each['share of the epochs']:.0%} of them."
            for each in made["stops"]
        )
    note = f" Only {made['note']}." if "note" in made else ""
    said = f"Made by `{made['command']}`; coresets.py says how.{note}"
    output.with_suffix(".md").write_text(f"{said}\n\n{text}\n")


if __name__ == "__main__":
    main()
