"""Writes results of `evaluate_coresets` of a script."""

from pathlib import Path

from result_files import results_of, write_results

from hf_ltc.evaluation.pictures import RESULTS, markdown
from hf_ltc.evaluation.results import Evaluation


def write(found: Evaluation, script: Path, options: str) -> None:
    """Writes results/SCRIPT.json and SCRIPT.md.

    Args:
        found ([`Evaluation`]): The results.
        script (`Path`): The script.
        options (`str`): Its options on the command line.
    """
    command, results = f"python benchmarks/{script.name} {options}", results_of(script)
    write_results(results, {"command": command, **found.to_dict()})
    text = markdown(found).replace(RESULTS, results.name)
    results.with_suffix(".md").write_text(f"Made by `{command}`.\n\n{text}")
