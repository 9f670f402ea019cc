# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ltc"]
# ///
"""Record trajectories in your own training loop.

    python examples/record_own_loop.py --output-dir runs/mine
    accelerate launch examples/record_own_loop.py ...            # on all GPUs of the machine

Once per epoch, the recorder needs the loss of every row and of every validation sample. The model and the training are
up to you. After an interruption, run the same command again: it resumes.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from hf_ltc import TrajectoryRecorder, dataset_identity, digits, select_coreset


def tensors(dataset) -> TensorDataset:
    """Row numbers, images and labels: a row number stays with its row through every shuffle."""
    rows = dataset[:]
    images = np.stack([np.array(image, dtype=np.float32) / 255 for image in rows["image"]])
    return TensorDataset(torch.arange(len(dataset)), torch.from_numpy(images), torch.tensor(rows["label"]))


@torch.no_grad()
def record_losses(recorder: TrajectoryRecorder, model: nn.Module, loader: DataLoader, split: str) -> None:
    for rows, images, labels in loader:
        recorder.update(rows, cross_entropy(model(images), labels, reduction="none"), split=split)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", default="runs/own_loop", help="The run directory.")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    accelerator = Accelerator()
    torch.manual_seed(0)

    train, validation = digits()
    batches = DataLoader(tensors(train), batch_size=64, shuffle=True)
    held = DataLoader(tensors(validation), batch_size=256)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    # Validation losses at weights averaged over about one epoch give rankings that other seeds agree with.
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / len(batches)), use_buffers=True)
    average = average.to(accelerator.device)
    model, optimizer, batches, held = accelerator.prepare(model, optimizer, batches, held)

    recorder = TrajectoryRecorder(
        options.output_dir,
        rows=len(train),
        labels=train["label"][:],
        validation_labels=validation["label"][:],
        recipe={"dataset": dataset_identity(train, "label")},
        accelerator=accelerator,
    )
    checkpoint = Path(f"{options.output_dir}-checkpoint.pt")
    first = 0
    if checkpoint.exists():
        stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
        accelerator.unwrap_model(model).load_state_dict(stored["model"])
        optimizer.load_state_dict(stored["optimizer"])
        average.load_state_dict(stored["average"])
        first = stored["epoch"] + 1

    for epoch in range(first, options.epochs + 1):
        torch.manual_seed(epoch)  # the order of an epoch's batches is its own, so it can be run again
        # Epoch 0 is the untrained model. An epoch is written when the block ends, whole or not at all.
        with recorder.epoch(epoch) if epoch >= recorder.next_epoch else nullcontext():
            if epoch == 0:
                record_losses(recorder, accelerator.unwrap_model(model), batches, "train")
            else:
                for rows, images, labels in batches:
                    losses = cross_entropy(model(images), labels, reduction="none")
                    accelerator.backward(losses.mean())
                    optimizer.step()
                    optimizer.zero_grad()
                    average.update_parameters(accelerator.unwrap_model(model))
                    recorder.update(rows, losses)
            record_losses(recorder, average.eval(), held, "validation")
        states = {"model": accelerator.unwrap_model(model).state_dict(), "average": average.state_dict()}
        accelerator.save({**states, "optimizer": optimizer.state_dict(), "epoch": epoch}, checkpoint)
    run = recorder.finish()

    if accelerator.is_main_process:
        scored = run.score(train)  # + loss_trajectory, ltc_score, ltc_typicality, ltc_rank
        print(f"Kept {len(select_coreset(scored, fraction=0.1)):,} of {len(run):,} rows")


if __name__ == "__main__":
    main()
