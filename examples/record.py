# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ltc"]
# ///
"""Record a source model on a dataset, score its rows, and keep a coreset.

    python examples/record.py --dataset uoft-cs/cifar100 --label-column fine_label --epochs 30 --output-dir runs/c100
    accelerate launch examples/record.py ...            # on all GPUs of the machine

`hf-ltc record --help` lists the options. After an interruption, run the same command again: it resumes.
"""

import logging
from functools import partial
from pathlib import Path

from accelerate import PartialState
from transformers import HfArgumentParser

from hf_ltc import RecordConfig, load_split, record, reliability, select_coreset


def main() -> None:
    # A line an epoch where no bar is drawn, as in the log of a job.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hf_ltc").setLevel(logging.INFO)
    parser = HfArgumentParser(RecordConfig)
    parser.add_argument("--dataset", required=True, help="Hub id or folder")
    parser.add_argument("--split", default="train", help="split to record")
    parser.add_argument("--validation-split", default=None, help="validation samples; held out if not given")
    parser.add_argument("--dataset-config", default=None, help="configuration of the dataset, where it has several")
    parser.add_argument("--revision", default=None, help="revision of a dataset on the Hub")
    config, given = parser.parse_args_into_dataclasses()

    # Any datasets.Dataset with an image and a class label column will do: change this to your own.
    load = partial(load_split, given.dataset, name=given.dataset_config, revision=given.revision)
    train = load(given.split)
    validation = None if given.validation_split is None else load(given.validation_split)

    # Where the dataset is, for the commands that read the run directory.
    place = Path(given.dataset)
    source = {"path": str(place.resolve())} if place.exists() else {"repo_id": given.dataset}
    source |= {"split": given.split, "config": given.dataset_config, "revision": given.revision}
    # Trains the source model on every process; the losses of all rows come back on each of them.
    run = record(config, train, validation, source=source)

    if PartialState().is_main_process:
        scored = run.score(train)  # + loss_trajectory, ltc_score, ltc_typicality, ltc_rank
        coreset = select_coreset(scored, fraction=0.1)
        coreset.save_to_disk(f"{config.output_dir}-10pct")
        print(f"Kept {len(coreset):,} of {len(run):,} rows in {config.output_dir}-10pct")
        if len(run.lengths) > 1:
            print(reliability(run))


if __name__ == "__main__":
    main()
