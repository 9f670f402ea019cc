# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ltc"]
# ///
"""Train on all rows, weighted by their scores, instead of on a coreset.

    python examples/train_with_weights.py --output-dir runs/weights

This needs no network: the images are scikit-learn's digits. Rows whose losses follow those of the validation samples
count more, and rows that contradict them do not count. Replace them with your own dataset and model.
"""

import argparse

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    default_data_collator,
    set_seed,
)

from hf_ltc import RecordConfig, digits, record


class WeightedTrainer(Trainer):
    """Multiplies the loss of each row by the column `weight`, whose mean is one."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        weights = inputs.pop("weight", 1.0)
        outputs = model(**inputs)
        loss = (weights * cross_entropy(outputs.logits, inputs["labels"], reduction="none")).mean()
        return (loss, outputs) if return_outputs else loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", default="runs/weights")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()

    train, test = digits()
    source = {"model": "test_resnet", "epochs": options.epochs, "augment": False}
    run = record(RecordConfig(output_dir=f"{options.output_dir}/recording", **source), train)
    # + weight, 0 for rows that contradict the validation samples, and null for the validation samples themselves.
    weighted = run.weights(train).select(run.rows)

    def inputs(rows):
        pixels = [torch.from_numpy(np.array(image, dtype=np.float32))[None] / 255 for image in rows["image"]]
        return {
            "pixel_values": pixels,
            "labels": rows["label"],
            **({"weight": rows["weight"]} if "weight" in rows else {}),
        }

    set_seed(0)
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
    trainer = WeightedTrainer(
        ViTForImageClassification(config),
        TrainingArguments(
            output_dir=f"{options.output_dir}/trainer",
            num_train_epochs=options.epochs,
            per_device_train_batch_size=32,
            learning_rate=2e-3,
            # The Trainer would take the weights away, which the model does not name.
            remove_unused_columns=False,
            save_strategy="no",
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to=[],
        ),
        train_dataset=weighted.with_transform(inputs),
        eval_dataset=test.with_transform(inputs),
        data_collator=default_data_collator,
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())},
    )
    trainer.train()
    zero = sum(weight == 0 for weight in weighted["weight"])
    reached = trainer.evaluate()["eval_accuracy"]
    print(f"Trained on {len(weighted):,} rows, {zero:,} of them with weight 0; accuracy {100 * reached:.1f}%")


if __name__ == "__main__":
    main()
