"""Writes results of `evaluate_coresets` beside the script that made them."""

from pathlib import Path

from results import write_results

from hf_ltc.evaluation.pictures import RESULTS, markdown
from hf_ltc.evaluation.results import Evaluation


def write(found: Evaluation, script: Path, options: str) -> None:
    """Writes SCRIPT.json and SCRIPT.md.

    Args:
        found ([`Evaluation`]): The results.
        script (`Path`): The script.
        options (`str`): Its options on the command line.
    """
    command, results = f"python benchmarks/{script.name} {options}", script.with_suffix(".json")
    write_results(results, {"command": command, **found.to_dict()})
    text = markdown(found).replace(RESULTS, results.name)
    script.with_suffix(".md").write_text(f"Made by `{command}`.\n\n{text}")
