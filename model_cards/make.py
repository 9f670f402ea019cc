"""Makes the cards in this folder: records and evaluates handwritten digits, and pushes to a Hub on loopback.

python model_cards/make.py --run runs/model-cards
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from hf_ltc import Trajectories, digits, push_coreset, push_source_model
from tests.hub_server import Client, Hub

_HERE = Path(__file__).parent
_CORESET, _MODEL = "hf-ltc/digits-ltc", "hf-ltc/digits-source-model"
_NAME = "scikit-learn's handwritten digits"
_FRACTIONS = (0.1, 0.3)


def push(run: str, choices: dict[str, dict[str, Any]], model: str, steps: int) -> None:
    """Runs in a process that sees the Hub on loopback."""
    train, test = digits()
    recorded = Trajectories.load(run)
    evaluation = [
        {
            "rows": name,
            "number": found["rows"],
            "model": model,
            "accuracy": found["accuracy"],
            "protocol": f"{steps} steps, last epoch",
        }
        for name, found in choices.items()
    ]
    push_coreset(
        recorded.score(train),
        _CORESET,
        _FRACTIONS,
        trajectories=recorded,
        full=True,
        splits={"test": test},
        evaluation=evaluation,
        dataset_name=_NAME,
        license="cc-by-4.0",
    )
    recorded.push_to_hub(_CORESET)
    push_source_model(run, _MODEL, dataset_name=_NAME)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the cards of the reference run.")
    parser.add_argument("--run", required=True, help="run directory")
    parser.add_argument("--seeds", type=int, default=5, help="models trained on each choice of rows")
    arguments = parser.parse_args()
    demo = ["demo", "--output-dir", arguments.run, "--fractions", *map(str, _FRACTIONS), "--seeds", arguments.seeds]
    command = [sys.executable, "-m", "hf_ltc", *map(str, demo), "--json"]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    print(said)
    result = json.loads(said)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    with tempfile.TemporaryDirectory() as home, Hub() as hub:
        hub.members["hf-ltc"] = ["me"]
        with Client(hub, Path(home)) as client:
            client(push, arguments.run, result["choices"], result["model"], result["iterations"])
        cards = {
            "digits-ltc.md": hub.dataset(_CORESET).files["README.md"],
            "digits-ltc.recipe.json": hub.dataset(_CORESET).files["recipe.json"],
            "digits-source-model.md": hub.model(_MODEL).files["README.md"],
        }
    for name, text in cards.items():
        (_HERE / name).write_bytes(text)


if __name__ == "__main__":
    main()
