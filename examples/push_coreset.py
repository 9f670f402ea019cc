# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ltc"]
# ///
"""Score a recorded dataset and push coresets of it to the Hub.

    python examples/push_coreset.py --run runs/cifar100 --dataset uoft-cs/cifar100 --repo-id me/cifar100-ltc

Anyone can then load a coreset with `load_dataset("me/cifar100-ltc", "coreset-10pct")`, or one of any other budget with
`hf_ltc.load_coreset("me/cifar100-ltc", fraction=0.2)`. Log in first: `hf auth login`.
"""

import argparse

from datasets import load_dataset

from hf_ltc import Trajectories, push_coreset


def main() -> None:
    parser = argparse.ArgumentParser(description="Push coresets of a recorded dataset.")
    parser.add_argument("--run", required=True, help="run directory of hf-ltc record")
    parser.add_argument("--dataset", required=True, help="the dataset that was recorded, on the Hub")
    parser.add_argument("--repo-id", required=True, help="dataset repository to push to")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.1, 0.3], help="budgets")
    parser.add_argument("--scores-only", action="store_true", help="for rows that may not be redistributed")
    arguments = parser.parse_args()

    dataset = load_dataset(arguments.dataset)
    run = Trajectories.load(arguments.run)
    scored = run.score(dataset["train"])  # + loss_trajectory, ltc_score, ltc_typicality, ltc_rank

    # Splits other than train go along, so that a model trained on the coreset can be tested.
    splits = {name: rows for name, rows in dataset.items() if name != "train"}
    pushed = push_coreset(
        scored,
        arguments.repo_id,
        fractions=arguments.fractions,
        trajectories=run,
        scores_only=arguments.scores_only,
        splits={} if arguments.scores_only else splits,
        source={"repo_id": arguments.dataset, "split": "train"},
    )
    print(pushed)

    # The trajectories too, for other scores and other budgets: Trajectories.from_hub(repo_id) has them back.
    print(run.push_to_hub(pushed.repo_id))


if __name__ == "__main__":
    main()
