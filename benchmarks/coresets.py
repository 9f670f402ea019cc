"""What models trained on coresets reach: which score, recording and selection is worth what, and where.

    python benchmarks/recordings.py --data DATA                    # first: the recordings
    python benchmarks/coresets.py STAGE --data DATA [--runs runs/benchmarks]

Stages: screening, single, windows, finalists, longer, length, stopped, short, validation, noise, wrong, transfer,
architectures, sanity. Cells that are done are not done again, and several processes may be started at once on the same
stage. When all cells of a stage are done, its results are written to coresets-STAGE.json beside this file; --partial
writes those that are there. Some need recordings of their own (recordings.py with these options):

    transfer       --models test_efficientnet test_vit --seeds 0
    short          --epochs 5 --windows 0 0.25 1
    noise, wrong   --noise 0.1 0.2 0.4 --seeds 0
    architectures  --models resnet18 densenet121 vgg11_bn swin_tiny_patch4_window7_224 --datasets cifar100 --seeds 0
                   --epochs 10 --windows 1 --evaluated --mixed-precision bf16

Every target model is trained from scratch for the same number of steps whatever the budget and the method, with the
same settings, and tested after the last step. Nothing is tuned per budget or method.
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
from candidates import CANDIDATES, MEMBERS, WEIGHTED, within_class_ranks
from recordings import OPTIMIZERS, STEMS, WINDOWS, Data, path_of, provenance, stopped_at, trajectories
from tables import markdown, noise_tables, on_all_rows, ranked, transfer_table

from hf_ltc import Trajectories
from hf_ltc.coresets.order import coreset_order
from hf_ltc.evaluation.methods import DEFAULT_METHOD, FULL, RANDOM, chosen_rows, method_scores
from hf_ltc.evaluation.target import train_on
from hf_ltc.evaluation.trials import run_trials
from hf_ltc.training.loop import TrainingConfig
from hf_ltc.utils.files import write_json

# 500 steps are 1.7 epochs of all rows and 17 of a tenth of them: what is learned quickly is ahead. "longer" is held
# against it.
STEPS, LONGER, BATCH, RATE = 500, 2500, 32, 0.05
# What the screening chose, against which less and worse is held: the member that hf-ltc scores by.
DEFAULT = DEFAULT_METHOD
DATASETS = ("cifar100", "fashion_mnist")
# Rows drawn from all over a score, or by chance from the better half of it.
COVERED = {
    "levels_stratified": "levels-losses-class",
    "levels_half": "levels-losses-class",
    "levels_beta": "levels-losses-class",
    "probabilities_half": "probabilities",
}
# Whose way of drawing is taken over another score: CCS's strata and cut, DUAL's Beta density.
DRAWN = {"stratified": "ccs", "beta": "dual_beta"}
# The best six by mean rank over the four settings of the screening with two seeds, by method and window of averaged
# weights; and the best six of before all members that uncertainty weighs were in it, on the first seed.
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
# Of the stability that ends a recording; cifar100 does not reach 0.9 within its 30 epochs.
STOPS = (0.7, 0.8, 0.9)
BASELINES = ["mean_loss", "el2n", "forgetting", "aum", "dyn_unc", "tdds", "dual", "dual_beta", "ccs"]


@dataclass(frozen=True)
class Cell:
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
        usual = Cell(self.dataset, self.method)
        parts = [self.dataset, self.method, f"{self.fraction:g}", f"seed{self.seed}"]
        parts += [
            f"{key}={'-'.join(map(str, value)) if isinstance(value, tuple) else value}"
            for key, value in asdict(self).items()
            if key not in ("dataset", "method", "fraction", "seed") and value != getattr(usual, key)
        ]
        return "+".join(parts)

    @property
    def scorer(self) -> "Cell":
        """The cell without what only the training on its rows depends on."""
        return replace(self, fraction=1.0, seed=0, target="test_resnet", steps=STEPS)


@lru_cache
def data_of(folder: Path, name: str, noise: float) -> Data:
    return Data(folder, name, noise=noise)


@lru_cache(maxsize=8)
def recording(runs: Path, cell: Cell) -> list[Trajectories]:
    kind = cell.validation if cell.validation in ("corrupted", "noisy20", "noisy40") else "clean"
    each = []
    for seed in cell.runs:
        path = path_of(runs, cell.dataset, cell.source, cell.recorded, cell.noise, seed)
        run = trajectories(path, cell.losses, cell.window, kind)
        if kind == "clean" and cell.validation != "clean":
            run = with_validation(run, cell.validation)
        if cell.epochs is not None:
            run = run.truncate(cell.epochs)
        if cell.stop is not None:
            run = run.truncate(stopped_at(run, cell.stop))
        each.append(run if cell.every == 1 else run.every(cell.every))
    return each


def with_validation(run: Trajectories, kind: str) -> Trajectories:
    """A part of the validation samples: so many a class, or few of every other class."""
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
def scores_of(runs: Path, cell: Cell) -> np.ndarray:
    each = recording(runs, replace(cell, method=""))
    if cell.method in CANDIDATES:
        return np.mean([CANDIDATES[cell.method](run) for run in each], axis=0).astype(np.float32)
    return method_scores(cell.method, Trajectories.average(each))


def rows_of(runs: Path, cell: Cell, pool: int) -> np.ndarray:
    if cell.method == FULL:
        return np.arange(pool)
    size = round(cell.fraction * pool)
    run = Trajectories.average(recording(runs, replace(cell.scorer, method="")))
    if cell.method == RANDOM:
        return chosen_rows(RANDOM, run, size, seed=cell.seed)
    if cell.method in COVERED:
        scores = scores_of(runs, replace(cell.scorer, method=COVERED[cell.method]))
        if (way := cell.method.split("_")[1]) in DRAWN:
            return chosen_rows(DRAWN[way], run, size, seed=cell.seed, scores=scores)
        # Chance among the better half of each class.
        place = within_class_ranks(scores, run.labels)
        draw = np.random.default_rng(cell.seed).random(pool)
        return np.flatnonzero(coreset_order(np.where(place > 0.5, draw, place - 1), run.labels) < size)
    scores = scores_of(runs, cell.scorer)
    if cell.method in CANDIDATES:
        return np.flatnonzero(coreset_order(scores, run.labels) < size)
    return chosen_rows(cell.method, run, size, seed=cell.seed, scores=scores)


def training_of(cell: Cell) -> TrainingConfig:
    optimizer, rate = OPTIMIZERS.get(cell.target, ("sgd", RATE))
    return TrainingConfig(
        epochs=1,
        iterations=cell.steps,
        batch_size=BATCH,
        optimizer=optimizer,
        learning_rate=rate,
        weight_decay=0.05 if optimizer == "adamw" else 5e-4,
        augment=False,
        seed=cell.seed,
    )


def mark(cell: Cell) -> str:
    """Of how a cell's model is trained, which its name does not say."""
    settings = [asdict(training_of(cell)), STEMS.get(cell.target, "imagenet")]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def train_cell(options: argparse.Namespace, cell: Cell) -> dict:
    started = time.perf_counter()
    data = data_of(options.data, cell.dataset, cell.noise)
    rows = rows_of(options.runs, cell, len(data.rows))
    chosen = time.perf_counter()
    config = training_of(cell)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    stem = STEMS.get(cell.target, "imagenet")
    found = train_on(cell.target, data.train.take(rows), data.test, data.classes, config, accelerator, stem=stem)
    return {
        **asdict(cell),
        "training": mark(cell),
        "rows": len(rows),
        "accuracy": found,
        "wrong": float((data.labels[rows] != data.true[rows]).mean()),
        "seconds": {"choosing": round(chosen - started, 2), "training": round(time.perf_counter() - chosen, 2)},
    }


VARIANTS = [(losses, window) for losses in ("training", "evaluation") for window in (1.0, 0.0)]


def screening() -> list[Cell]:
    """Every way at two budgets, its scores the means of three recordings."""
    cells = []
    for seed in (0, 1):
        for dataset in DATASETS:
            cells.append(Cell(dataset, FULL, 1.0, seed))
            for fraction in (0.1, 0.3):
                at = {"dataset": dataset, "fraction": fraction, "seed": seed}
                cells += [Cell(method=name, **at) for name in (RANDOM, DEFAULT, *BASELINES, *CANDIDATES, *COVERED)]
                cells += [Cell(method=name, losses="evaluation", **at) for name in ("mean_loss", "aum")]
                members = [*MEMBERS, *WEIGHTED]
                cells += [Cell(method=m, losses=one, window=w, **at) for one, w in VARIANTS for m in members]
    return list(dict.fromkeys(cells))


def single() -> list[Cell]:
    """The scores of one recording instead of three, for everything that is screened."""
    alike = (FULL, RANDOM)
    return [replace(cell, runs=(0,)) for cell in screening() if cell.seed == 0 and cell.method not in alike]


def windows() -> list[Cell]:
    """Weights averaged over less and more than an epoch."""
    return [
        Cell(dataset, method, fraction, seed, window=window)
        for seed in (0, 1)
        for dataset in DATASETS
        for method in (DEFAULT, "das", "ltc")
        for fraction in (0.1, 0.3)
        for window in WINDOWS
    ]


def finalists() -> list[Cell]:
    """The best of the screening at five budgets, with five seeds; AUM, LTC and chance to hold them against."""
    cells = []
    for seed, fraction in itertools.product(range(5), (0.1, 0.3, 0.2, 0.05, 0.5)):
        for dataset in DATASETS:
            at = {"dataset": dataset, "fraction": fraction, "seed": seed}
            cells += [Cell(**at, method=method) for method in (RANDOM, *FINALISTS, "aum", "ltc")]
            cells += [Cell(**at, method=method, window=window) for method, window in BEST]
            if fraction == 0.1:
                cells.append(Cell(dataset, FULL, seed=seed))
    return list(dict.fromkeys(cells))


def longer() -> list[Cell]:
    """Trained five times as long, which all rows need to be worth more than some: with a seed that chose nothing."""
    cells = []
    for seed, fraction in itertools.product((5,), (0.1, 0.3, 0.5)):
        for dataset in DATASETS:
            at = {"dataset": dataset, "seed": seed, "steps": LONGER}
            cells.append(Cell(method=FULL, **at))
            methods = (RANDOM, DEFAULT, "aum", "dual_beta", "ltc")
            cells += [Cell(method=method, fraction=fraction, **at) for method in methods]
    return list(dict.fromkeys(cells))


def length() -> list[Cell]:
    """Less of each recording: its first epochs, or every second, third, fifth."""
    cells = []
    for seed, dataset, fraction in itertools.product((0, 1), DATASETS, (0.1, 0.3)):
        at = {"dataset": dataset, "fraction": fraction, "seed": seed}
        cells += [Cell(**at, method=RANDOM), Cell(**at, method=DEFAULT)]
        cells += [Cell(**at, method=DEFAULT, epochs=epochs) for epochs in (6, 15)]
        cells += [Cell(**at, method=DEFAULT, every=every) for every in (2, 3, 5)]
    return list(dict.fromkeys(cells))


def stopped() -> list[Cell]:
    """Recordings ended where the ranking of their first half agrees with that of the whole, as --stop-when-stable."""
    cells = []
    for seed, dataset, fraction in itertools.product((0, 1), DATASETS, (0.1, 0.3)):
        at = {"dataset": dataset, "fraction": fraction, "seed": seed}
        cells.append(Cell(**at, method=RANDOM))
        cells += [Cell(**at, method=method, stop=stop) for method in (DEFAULT, "ltc") for stop in (None, *STOPS)]
    return cells


def short() -> list[Cell]:
    """Recordings of 5 epochs, a sixth of the others, one or the mean of three; by losses of training or evaluation."""
    cells = []
    for seed, dataset, fraction in itertools.product((0, 1), DATASETS, (0.1, 0.3)):
        at = {"dataset": dataset, "fraction": fraction, "seed": seed}
        cells += [Cell(**at, method=RANDOM), Cell(**at, method=DEFAULT)]
        for losses, runs in itertools.product(("training", "evaluation"), ((0,), (0, 1, 2))):
            cells.append(Cell(**at, method=DEFAULT, losses=losses, runs=runs, recorded=5))
    return cells


def validation() -> list[Cell]:
    """Fewer and worse validation samples."""
    kinds = ("clean", "perclass1", "perclass5", "perclass15", "skewed", "corrupted", "noisy20", "noisy40")
    return [
        Cell(dataset, DEFAULT, fraction, validation=kind)
        for dataset in DATASETS
        for fraction in (0.1, 0.3)
        for kind in kinds
    ]


def transfer() -> list[Cell]:
    """Rows chosen by one architecture, for another; the transformer's patches fit CIFAR-100 alone."""
    cells = []
    for seed, fraction, target in itertools.product((0, 1), (0.1, 0.3), MODELS):
        at = {"dataset": "cifar100", "fraction": fraction, "seed": seed, "target": target}
        cells.append(Cell(**at, method=RANDOM))
        cells += [Cell(**at, method=DEFAULT, source=source, runs=(0,)) for source in MODELS]
        cells.append(Cell("cifar100", FULL, seed=seed, target=target))
    return list(dict.fromkeys(cells))


def architectures() -> list[Cell]:
    """The papers' transfer: ResNet-18 chooses for DenseNet-121, VGG-11 and Swin-T, and each for itself."""
    cells = []
    for fraction, target in itertools.product((0.1, 0.3), ARCHITECTURES):
        at = {"dataset": "cifar100", "fraction": fraction, "target": target, "recorded": 10, "runs": (0,)}
        cells.append(Cell(**at, method=RANDOM, source="resnet18"))
        cells += [Cell(**at, method=DEFAULT, source=source) for source in dict.fromkeys(("resnet18", target))]
        cells.append(Cell("cifar100", FULL, target=target))
    return list(dict.fromkeys(cells))


def sanity() -> list[Cell]:
    """The first experiment of the papers, at a size for two cores: ResNet-18 on a tenth."""
    cells = [Cell(dataset, FULL, target="resnet18") for dataset in DATASETS]
    methods = (RANDOM, "ltc", DEFAULT)
    return cells + [Cell(dataset, method, 0.1, target="resnet18") for dataset in DATASETS for method in methods]


def wrong() -> list[Cell]:
    """What models reach on coresets of data with wrong labels; tested on right ones."""
    cells = []
    for dataset, share in itertools.product(DATASETS, (0.2, 0.4)):
        cells.append(Cell(dataset, FULL, noise=share))
        for method, fraction in itertools.product((RANDOM, DEFAULT, "ltc", "aum", "dual_beta"), (0.1, 0.3)):
            cells.append(Cell(dataset, method, fraction, noise=share, runs=(0,)))
    return cells


def noise(options: argparse.Namespace) -> list[dict]:
    """Wrong labels that every method keeps at each budget, where a share of the train labels is wrong."""
    found = []
    names = [DEFAULT, "ltc", "cld", *CANDIDATES, *BASELINES, RANDOM]
    for dataset, share, losses in itertools.product(DATASETS, NOISE, ("training", "evaluation")):
        data = data_of(options.data, dataset, share)
        # As right as the paper has them, and as wrong as those of train rows, as a hold-out of such data is.
        kinds = ["clean", *(kind for kind in ("noisy20", "noisy40") if kind == f"noisy{round(100 * share)}")]
        for seed, kind, method in itertools.product((0, 1), kinds, names):
            if not path_of(options.runs, dataset, "test_resnet", 30, share, seed).exists():
                continue
            kept = {}
            for fraction in (0.05, 0.1, 0.2, 0.3, 0.5, 0.7):
                cell = Cell(dataset, method, fraction, seed, losses, runs=(seed,), noise=share, validation=kind)
                rows = rows_of(options.runs, cell, len(data.rows))
                kept[f"{fraction:g}"] = round(float((data.labels[rows] != data.true[rows]).mean()), 4)
            about = {"dataset": dataset, "noise": share, "losses": losses, "validation": kind}
            found.append({**about, "method": method, "seed": seed, "wrong labels kept": kept})
    return found


def stops(runs: Path) -> list[dict]:
    """After which of its epochs each recording would have ended."""
    found = []
    for dataset, threshold in itertools.product(DATASETS, STOPS):
        each = recording(runs, Cell(dataset, ""))
        ended = [stopped_at(run, threshold) for run in each]
        share = sum(ended) / sum(run.lengths[0] - 1 for run in each)
        found.append({"dataset": dataset, "stop": threshold, "epochs": ended, "share of the epochs": round(share, 2)})
    return found


def protocol(stage: str, cells: list[Cell]) -> dict:
    """How the recordings and the targets of a stage were trained."""
    sources = {(cell.source, cell.recorded) for cell in cells if cell.method not in (FULL, RANDOM)}

    def said(models: set[str], rate: float) -> dict[str, str]:
        each = {model: OPTIMIZERS.get(model, ("sgd", rate)) for model in sorted(models)}
        return {model: f"{name}, peak learning rate {rate:g}" for model, (name, rate) in each.items()}

    made = {
        "pool": "the first 10,000 rows, less 50 of each class, held out for validation",
        "sources": said({model for model, _ in sources}, 0.1),
        "source epochs": sorted({epochs for _, epochs in sources}),
        "source": "one-cycle, batch 64, crops and flips, "
        + ("bf16 autocast" if stage == "architectures" else "float32"),
        "recordings": sorted({len(cell.runs) for cell in cells if cell.method not in (FULL, RANDOM)}),
    }
    if stage == "noise":
        return made
    return {
        **made,
        "targets": said({cell.target for cell in cells}, RATE),
        "target": "one-cycle, bf16 autocast, no augmentation, tested after the last step",
        "steps": sorted({cell.steps for cell in cells}),
        "batch size": BATCH,
        "target seeds": sorted({cell.seed for cell in cells}),
        "deviation": "over seeds of the targets and of draws; the recordings are the same for all of them",
    }


def work(options: argparse.Namespace, cells: list[Cell]) -> list[dict]:
    todo = {cell.name: partial(train_cell, options, cell) for cell in cells}
    folder = options.runs / "cells"
    if options.partial:
        there = {name: folder / f"{name}.json" for name in todo}
        found = {name: json.loads(path.read_text()) for name, path in there.items() if path.exists()}
    else:
        found = run_trials(folder, todo, options.stage)
    if other := [
        name for name, cell in zip(todo, cells) if found.get(name, {}).get("training", mark(cell)) != mark(cell)
    ]:
        sys.exit(f"{folder / other[0]}.json was trained with other settings: delete it, and it is done again")
    # Cells of before a field was there have its default, and no mark.
    return [{**asdict(cell), **found[cell.name]} for cell in cells if cell.name in found]


STAGES = {
    "screening": screening,
    "single": single,
    "windows": windows,
    "finalists": finalists,
    "longer": longer,
    "length": length,
    "stopped": stopped,
    "short": short,
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
    here = Path(__file__)
    results = noise(options) if options.stage == "noise" else work(options, STAGES[options.stage]())
    noises = [Cell(d, DEFAULT, runs=(0,), noise=share) for d in DATASETS for share in NOISE]
    cells = noises if options.stage == "noise" else STAGES[options.stage]()
    command = f"python benchmarks/coresets.py {options.stage} --data DATA"
    made = {"command": command, "protocol": protocol(options.stage, cells)}
    if options.stage == "stopped":
        made["stops"] = stops(options.runs)
    asked = len(results) if options.stage == "noise" else len(cells)
    if len(results) < asked:
        made["note"] = f"{len(results)} of {asked} cells: the others were not trained"
    output = here.with_name(f"coresets-{options.stage}.json")
    write_json(output, {**made, **provenance(), "results": results})
    if options.stage == "noise":
        text = noise_tables(results)
    elif options.stage == "transfer":
        text = transfer_table(results, MODELS, MODELS)
    elif options.stage == "architectures":
        text = transfer_table(results, ARCHITECTURES, ("resnet18",))
    else:
        text = f"{markdown(ranked(results))}\n\n{on_all_rows(results)}"
    if options.stage == "stopped":
        text += "".join(
            f"\n\n{each['dataset']}, {each['stop']}: ended after epochs {', '.join(map(str, each['epochs']))} of 30, "
            f"{each['share of the epochs']:.0%} of them."
            for each in made["stops"]
        )
    note = f" Only {made['note']}." if "note" in made else ""
    said = f"Made by `{made['command']}`; how, stands in coresets.py.{note}"
    output.with_suffix(".md").write_text(f"{said}\n\n{text}\n")


if __name__ == "__main__":
    main()
