# /// script
# requires-python = ">=3.11"
# dependencies = ["datasets>=5.2", "pillow", "torchvision", "transformers[torch]>=5.23"]
# ///
"""Train a model of another architecture on a coreset from the Hub, with plain `transformers` and without hf_ltc.

python examples/train_on_coreset.py --repo-id me/cifar100-ltc --model microsoft/swin-tiny-patch4-window7-224
"""

import argparse

import numpy as np
from datasets import ClassLabel, Image, load_dataset
from torchvision.transforms import v2
from transformers import AutoConfig, AutoModelForImageClassification, Trainer, TrainingArguments


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a model on a coreset.")
    parser.add_argument("--repo-id", required=True, help="repository that hf-ltc push wrote")
    parser.add_argument("--config", default="coreset-10pct", help="its configuration")
    parser.add_argument("--model", required=True, help="an image classifier: Hub id, or folder")
    parser.add_argument("--from-scratch", action="store_true", help="take its architecture, not its weights")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--epochs", type=float, default=30)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--output-dir", default="runs/on-coreset")
    arguments = parser.parse_args()

    coreset = load_dataset(arguments.repo_id, arguments.config)
    features = coreset["train"].features
    image = next(name for name, feature in features.items() if isinstance(feature, Image))
    label = next(name for name, feature in features.items() if isinstance(feature, ClassLabel))
    names = features[label].names

    config = AutoConfig.from_pretrained(
        arguments.model, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}
    )
    if arguments.from_scratch:
        model = AutoModelForImageClassification.from_config(config)
    else:
        model = AutoModelForImageClassification.from_pretrained(
            arguments.model, config=config, ignore_mismatched_sizes=True
        )

    side = (arguments.image_size, arguments.image_size)
    pixels = v2.Compose(
        [v2.PILToTensor(), v2.Resize(side, antialias=True), v2.ConvertImageDtype(), v2.Normalize([0.5], [0.5])]
    )

    def transform(batch: dict) -> dict:
        return {"pixel_values": [pixels(each.convert("RGB")) for each in batch[image]], "labels": batch[label]}

    def accuracy(predicted) -> dict[str, float]:
        return {"accuracy": float((np.argmax(predicted.predictions, axis=1) == predicted.label_ids).mean())}

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=arguments.output_dir,
            num_train_epochs=arguments.epochs,
            learning_rate=arguments.learning_rate,
            per_device_train_batch_size=arguments.batch_size,
            per_device_eval_batch_size=256,
            lr_scheduler_type="cosine",
            remove_unused_columns=False,
            report_to="none",
            save_strategy="no",
        ),
        train_dataset=coreset["train"].with_transform(transform),
        eval_dataset=coreset["test"].with_transform(transform) if "test" in coreset else None,
        compute_metrics=accuracy,
    )
    trainer.train()
    print(f"Trained on {len(coreset['train']):,} rows.")
    if "test" in coreset:
        reached = trainer.evaluate()["eval_accuracy"]
        print(f"Accuracy on {len(coreset['test']):,} test rows: {100 * reached:.1f}%")
    trainer.save_model()


if __name__ == "__main__":
    main()
