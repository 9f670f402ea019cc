"""What does a coreset cost? A small source model, recorded to the end or until it is stable, selects for a larger one.

    python benchmarks/cost.py --data DATA [--run runs/cost]

Records test_resnet on 6,000 rows of Fashion-MNIST, once for all epochs and once until --stop-when-stable ends it. Then
trains ResNet-18 for the same number of epochs on all rows, on the rows that each recording chose, and on random rows
(--protocol epochs: a tenth of the rows takes a tenth of the steps). Results, with the seconds of each phase and the
cost as a share of training on all rows, go to results/cost.json and cost.md.

DATA holds the folder fashion_mnist with Parquet files (train*, test*).
"""

import argparse
from pathlib import Path

import torch
from written import write

from hf_ltc import EvaluateConfig, RecordConfig, evaluate_coresets, record
from hf_ltc.data.load import load_split

ROWS, EPOCHS = 6000, 15
# The shorter recording ends once LTC of half of its epochs agrees this well with LTC of all of them.
STABLE = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/cost"))
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    folder = options.data / "fashion_mnist"
    train, test = load_split(folder, f"train[:{ROWS}]"), load_split(folder, "test")
    runs = {}
    for name, stable in (("whole", None), ("stopped", STABLE)):
        config = RecordConfig(
            model="test_resnet",
            stem="imagenet",
            epochs=EPOCHS,
            stop_when_stable=stable,
            mixed_precision="bf16",
            output_dir=str(options.run / name),
        )
        runs[name] = record(config, train)
    targets = EvaluateConfig(
        models=["resnet18"],
        stem="imagenet",
        fractions=[0.1, 0.3],
        # For both recordings, though a short one would be ranked without typical rows.
        members=["typical-weighted-das"],
        seeds=options.seeds,
        protocol="epochs",
        epochs=EPOCHS,
        mixed_precision="bf16",
        output_dir=str(options.run / "evaluation"),
    )
    found = evaluate_coresets(targets, runs, train, test)
    write(found, Path(__file__), f"--data DATA --seeds {options.seeds}")


if __name__ == "__main__":
    main()
