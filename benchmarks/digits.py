"""Easy data, few rows: what are coresets of handwritten digits worth, in the setting of the demo?

    python benchmarks/digits.py [--run runs/digits]

Records the digits of scikit-learn with two seeds, as `hf-ltc demo` does, and trains fresh models on the rows that
score variants, known scores and random draws keep at four budgets. Results go to results/digits.json and digits.md.
"""

import argparse
from pathlib import Path

import torch
from written import write

from hf_ltc import EvaluateConfig, RecordConfig, evaluate_coresets, record
from hf_ltc.cli.demo import digits

MODEL, STEPS, BATCH, RATE = "test_resnet", 200, 64, 0.05
MEMBERS = ["typical-weighted-das", "weighted-das", "das", "levels-losses-class", "ltc", "cld"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/digits"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    train, test = digits()
    shared = {"batch_size": BATCH, "learning_rate": RATE, "augment": False}
    source = RecordConfig(model=MODEL, epochs=20, runs=2, signals=["margin"], output_dir=str(options.run), **shared)
    targets = EvaluateConfig(
        models=[MODEL],
        fractions=[0.05, 0.1, 0.2, 0.3],
        members=MEMBERS,
        baselines=["random", "mean_loss", "dyn_unc", "aum", "ccs"],
        seeds=options.seeds,
        iterations=STEPS,
        output_dir=str(options.run / "evaluation"),
        **shared,
    )
    found = evaluate_coresets(targets, record(source, train), train, test)
    write(found, Path(__file__), f"--seeds {options.seeds}")


if __name__ == "__main__":
    main()
