# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ltc"]
# ///
"""Record a dataset of texts, keep 30% of them, and print the first and last of the ranking.

    python examples/record_text.py --dataset fancyzhx/ag_news --text-column text --epochs 10 --output-dir runs/news
    accelerate launch examples/record_text.py ... --model transformers:distilbert-base-uncased --pretrained
    python examples/record_text.py --dataset snli --text-column premise --text-pair-column hypothesis ...

By default, it trains a bag of embeddings, which takes seconds on a CPU. After an interruption, run the same command
again: it resumes.
"""

import logging

from accelerate import PartialState
from transformers import HfArgumentParser

from hf_ltc import RecordConfig, load_split, record, reliability, select_coreset

_SHOWN = 70


def main() -> None:
    # A line an epoch where no bar is drawn, as in the log of a job.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hf_ltc").setLevel(logging.INFO)
    parser = HfArgumentParser(RecordConfig)
    parser.add_argument("--dataset", required=True, help="Hub id or folder")
    parser.add_argument("--split", default="train", help="split to record")
    config, given = parser.parse_args_into_dataclasses()

    train = load_split(given.dataset, given.split)
    # Trains the source model on every process; the losses of all texts come back on each of them.
    run = record(config, train)
    if not PartialState().is_main_process:
        return

    scored = run.score(train)  # + loss_trajectory, ltc_score, ltc_typicality, ltc_rank
    coreset = select_coreset(scored, fraction=0.3)
    coreset.save_to_disk(f"{config.output_dir}-30pct")
    truncated = run.recipe["training"].get("truncated", 0)
    print(f"Kept {len(coreset):,} of {len(run):,} texts in {config.output_dir}-30pct ({truncated:,} were cut)")
    # Those held out have no rank.
    order = scored.filter(lambda rank: rank is not None, input_columns="ltc_rank").sort("ltc_rank")
    for what, row in (("first", order[0]), ("last", order[len(order) - 1])):
        print(f"{what}: {row['ltc_score']:.3f} {' '.join(row[config.text_column].split())[:_SHOWN]}")
    if len(run.lengths) > 1:
        print(reliability(run))


if __name__ == "__main__":
    main()
