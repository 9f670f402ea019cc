# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-ltc"]
# ///
"""Record a source model on a dataset, score its rows, and keep a coreset.

    python examples/record.py --dataset uoft-cs/cifar100 --label-column fine_label --epochs 30 --output-dir runs/c100
    accelerate launch examples/record.py ...            # on all GPUs of the machine

`hf-ltc record --help` lists the options. Run again after an interruption, the same command resumes.
"""

import logging

from accelerate import PartialState
from transformers import HfArgumentParser

from hf_ltc import RecordConfig, load_split, record, reliability, select_coreset
from hf_ltc.config import DataConfig


def main() -> None:
    # A line an epoch where no bar is drawn, as in the log of a job.
    logging.basicConfig(format="%(message)s")
    logging.getLogger("hf_ltc").setLevel(logging.INFO)
    data, config = HfArgumentParser((DataConfig, RecordConfig)).parse_args_into_dataclasses()

    # Any datasets.Dataset with an image and a class label column will do: change this to your own.
    train = load_split(data.dataset, data.split, name=data.dataset_config, revision=data.revision)
    validation = None
    if data.validation_split is not None:
        validation = load_split(data.dataset, data.validation_split, name=data.dataset_config, revision=data.revision)

    # Trains the source model on every process; the losses of all rows come back on each of them.
    run = record(config, train, validation, source=data.source())

    if PartialState().is_main_process:
        scored = run.score(train)  # + loss_trajectory, ltc_score, ltc_rank
        coreset = select_coreset(scored, fraction=0.1)
        coreset.save_to_disk(f"{config.output_dir}-10pct")
        print(f"Kept {len(coreset):,} of {len(run):,} rows in {config.output_dir}-10pct")
        if len(run.lengths) > 1:
            print(reliability(run))


if __name__ == "__main__":
    main()
