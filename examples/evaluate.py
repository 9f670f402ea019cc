# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ltc"]
# ///
"""What is a coreset worth? Train other architectures on it, on random rows and on all rows, and test each.

    python examples/evaluate.py --dataset uoft-cs/cifar100 --run runs/c100 --models vgg11_bn --output-dir worth
    accelerate launch examples/evaluate.py ...          # a model on each GPU of the machine

`hf-ltc evaluate --help` lists the options. After an interruption, run the same command again: it resumes.
"""

from transformers import HfArgumentParser

from hf_ltc import EvaluateConfig, Trajectories, evaluate_coresets, load_split


def main() -> None:
    parser = HfArgumentParser(EvaluateConfig)
    parser.add_argument("--dataset", required=True, help="the recorded dataset")
    parser.add_argument("--run", required=True, help="run directory of hf-ltc record")
    parser.add_argument("--validation-split", default=None, help="the recording's, if it had one")
    config, given = parser.parse_args_into_dataclasses()

    # Any datasets.Dataset will do: train as it was recorded, test with rows that no recording has seen.
    train, test = load_split(given.dataset, "train"), load_split(given.dataset, config.test_split)
    # Validation samples of a split of their own had a part in the scores: no test row may be one.
    validation = None if given.validation_split is None else load_split(given.dataset, given.validation_split)

    # Several runs, of source models by name, would be compared with one another: {"resnet18": run, "vit_tiny": other}.
    found = evaluate_coresets(config, Trajectories.load(given.run), train, test, validation)

    for row in found.rows:
        spread = "" if row["deviation"] is None else f" ± {100 * row['deviation']:.1f}"
        print(f"{row['model']}, {row['rows']:,} rows by {row['method']}: {100 * row['mean']:.1f}%{spread}")


if __name__ == "__main__":
    main()
