# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ltc"]
# ///
"""Record trajectories from saved weights, after the training.

    python examples/record_checkpoints.py --output-dir runs/checkpoints
    accelerate launch examples/record_checkpoints.py ...            # each process evaluates its part of the rows

Here, a small network first trains on scikit-learn's digits and saves its weights after every epoch. Replace it with
your own checkpoints, model and rows. If you run it again after an interruption, it skips recorded checkpoints.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy

from hf_ltc import digits, record_checkpoints, select_coreset


def make_model() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def collate(rows: list[dict]) -> torch.Tensor:
    """Turns a list of rows into the input of the model: a tensor, or a dict of tensors for a model of transformers."""
    return torch.stack([torch.tensor(np.array(row["image"]), dtype=torch.float32) / 255 for row in rows])


def train_and_save(train, epochs: int, folder: Path) -> list[Path]:
    """An ordinary training run, without hf_ltc."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rows = train[:]
    images = collate([{"image": image} for image in rows["image"]])
    labels = torch.tensor(rows["label"])
    paths = []
    for epoch in range(epochs + 1):
        paths.append(folder / f"epoch-{epoch}.pt")
        torch.save(model.state_dict(), paths[-1])
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", default="runs/checkpoints", help="The run directory.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rows", type=int, help="Train on so many rows only.")
    options = parser.parse_args()

    train, validation = digits()
    if options.rows is not None:
        train = train.select(range(options.rows))
    accelerator = Accelerator()
    with accelerator.main_process_first():
        paths = train_and_save(train, options.epochs, Path(f"{options.output_dir}-weights"))

    run = record_checkpoints(
        paths,
        train,
        validation,  # rows that the models were not trained on
        output_dir=options.output_dir,
        model=make_model(),
        collate=collate,
        epochs=range(options.epochs + 1),  # 0 is the untrained model
    )
    if accelerator.is_main_process:
        scored = run.score(train)  # + loss_trajectory, ltc_score, ltc_typicality, ltc_rank
        print(f"Kept {len(select_coreset(scored, fraction=0.1)):,} of {len(run):,} rows")


if __name__ == "__main__":
    main()
