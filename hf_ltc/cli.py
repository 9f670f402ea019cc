"""The command line: thin, over the functions of the package."""

import argparse
import dataclasses
import json
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .config import DataConfig, RecordConfig
from .errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset

    from .trajectories import Trajectories

# The imports of each command are inside it: torch and timm take ten seconds, which --help need not wait for.


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments (`list[str]`, *optional*): The command line; that of the process if not given.

    Returns:
        `int`: exit code: 0, 2 for input that the user can mend, 130 or 143 if stopped by a signal.
    """
    # Without a network every try to reach the Hub would be a warning; the error says it once.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    options = _parser().parse_args(arguments)
    # Of several processes one speaks, or every message would come several times.
    speaks = os.environ.get("RANK", "0") == "0"
    try:
        options.command(options)
    except InputError as error:
        if speaks:
            print(f"hf-ltc: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        if speaks:
            print(f"hf-ltc: {stopped or 'stopped'}", file=sys.stderr)
        return 128 + (signal.SIGTERM if "SIGTERM" in str(stopped) else signal.SIGINT)
    return 0


def _parser() -> argparse.ArgumentParser:
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def error(self, message: str) -> NoReturn:
            self.exit(2, f"hf-ltc: error: {message}; see {self.prog} --help\n")

    parser = Parser(
        prog="hf-ltc", description="Record loss trajectories, score rows by LTC, keep the coreset.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('hf-ltc')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def command(name: str, run: Any, text: str, *settings: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False, dataclass_types=settings)
        added.set_defaults(command=run)
        added.add_argument("--json", action="store_true", help="print results as JSON")
        return added

    command("record", _record, "Train a source model and record every row's loss.", DataConfig, RecordConfig)

    score = command("score", _score, "Add loss_trajectory, ltc_score and ltc_rank to the recorded dataset.")
    score.add_argument("run", metavar="RUN", help="run directory of hf-ltc record")
    score.add_argument("--output", required=True, metavar="SCORED", help="folder for the scored dataset")
    score.add_argument("--dataset", default=None, help="the recorded dataset, if it is elsewhere now")
    _add_family(score)
    _add_balance(score)

    select = command("select", _select, "Keep the coreset of a budget.")
    select.add_argument("scored", metavar="SCORED", help="folder of hf-ltc score")
    budget = select.add_mutually_exclusive_group(required=True)
    budget.add_argument("--fraction", type=float, help="share of the rows that could be chosen, inside (0, 1]")
    budget.add_argument("--size", type=int, help="number of rows")
    select.add_argument("--output", required=True, metavar="CORESET", help="folder for the coreset")
    select.add_argument("--score-column", default="ltc_score", help="the score to choose by")
    select.add_argument("--label-column", default=None, help="the classes; found by its type if not given")
    select.add_argument("--keep", choices=["highest", "lowest"], default="highest", help="which scores are kept")
    select.add_argument("--coverage", choices=["stratified", "beta"], default=None, help="draw over all scores")
    select.add_argument("--min-per-class", type=int, default=0, help="rows that each class keeps at least")
    select.add_argument("--exclude-negative", action="store_true", help="never choose rows with a negative score")
    select.add_argument("--seed", type=int, default=0, help="seed of the draws of --coverage")
    _add_balance(select)

    push = command("push", _push, "Push coresets, scores, recipe and card to a dataset repository on the Hub.")
    push.add_argument("run", metavar="RUN", help="run directory of hf-ltc record")
    push.add_argument("repo_id", metavar="REPO_ID", help="dataset repository, OWNER/NAME; made if it is not there")
    push.add_argument("--fractions", type=float, nargs="+", default=[], help="budgets, as shares inside (0, 1]")
    push.add_argument("--sizes", type=int, nargs="+", default=[], help="budgets, as numbers of rows")
    push.add_argument(
        "--scores-only", action="store_true", help="push no rows: they are taken from the source dataset when loaded"
    )
    push.add_argument("--full", action="store_true", help="push the whole dataset in coreset order too")
    push.add_argument("--trajectories", action="store_true", help="put the loss trajectories beside the scores")
    push.add_argument("--splits", nargs="+", default=[], help="further splits of the dataset, such as test")
    push.add_argument("--held-out", action="store_true", help="push rows held out of training as split validation")
    push.add_argument("--dataset", default=None, help="the recorded dataset, if it is elsewhere now")
    push.add_argument("--source", default=None, metavar="REPO_ID", help="Hub id of the dataset, if recorded from disk")
    push.add_argument("--dataset-name", default=None, help="what the card calls a dataset that is not on the Hub")
    push.add_argument("--scored", default=None, help="folder of the scored dataset, for scores other than ltc_score")
    push.add_argument("--score-column", default="ltc_score", help="the score to choose by")
    push.add_argument("--keep", choices=["highest", "lowest"], default="highest", help="which scores are kept")
    push.add_argument("--license", default=None, help="licence of the rows; that of the source dataset if not given")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument("--source-model", default=None, metavar="REPO_ID", help="push the source model there too")
    push.add_argument("--max-shard-size", default="500MB", help="size of a Parquet file at most")
    _add_family(push)
    _add_balance(push)

    compare = command("compare", _compare, "Reliability of scores between two runs, and overlap of their coresets.")
    compare.add_argument("run_a", metavar="RUN_A", help="a run directory")
    compare.add_argument("run_b", metavar="RUN_B", help="another one, of the same dataset")
    _add_family(compare)

    demo = command("demo", _demo, "From handwritten digits to a coreset and what it is worth, in three minutes.")
    demo.add_argument("--output-dir", default="runs/demo", help="run directory of the demo")
    demo.add_argument("--fractions", type=float, nargs="+", default=[0.1, 0.3], help="budgets of the coresets")
    demo.add_argument("--seeds", type=int, default=3, help="models trained on each choice of rows")
    return parser


def _add_family(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=["ltc", "cld"], default=None, help="a published member of the family")
    parser.add_argument("--of", choices=["differences", "levels"], default=None, help="what is correlated")
    parser.add_argument(
        "--aggregate",
        choices=["correlations", "losses"],
        default=None,
        help="what is averaged over validation samples",
    )
    parser.add_argument(
        "--scope", choices=["dataset", "class"], default=None, help="validation samples of a row: all, or its class's"
    )
    parser.add_argument("--losses", choices=["training", "evaluation"], default=None, help="where both were recorded")


def _add_balance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--balance", choices=["class", "proportional", "none"], default="class", help="how classes share a coreset"
    )


def _family(options: argparse.Namespace) -> dict[str, str]:
    names = ("preset", "of", "aggregate", "scope")
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _config(options: argparse.Namespace, settings: Any) -> Any:
    return settings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(settings)})


def _record(options: argparse.Namespace) -> None:
    config: RecordConfig = _config(options, RecordConfig)
    data: DataConfig = _config(options, DataConfig)
    from .agreement import Reliability, said_of
    from .data import load_split
    from .source_run import record

    train = load_split(data.dataset, data.split, name=data.dataset_config, revision=data.revision)
    validation = None
    if data.validation_split is not None:
        validation = load_split(data.dataset, data.validation_split, name=data.dataset_config, revision=data.revision)
    run = record(config, train, validation, source=data.source())
    if os.environ.get("RANK", "0") != "0":
        return
    seconds, stored = run.recipe.get("seconds", {}), run.recipe.get("reliability")
    result = {
        "run": config.output_dir,
        "rows": len(run),
        "validation_rows": len(run.validation_labels),
        "checkpoints": list(run.lengths),
        "validation_loss": float(run.validation_losses[-1].mean()),
        "seconds": seconds,
        "reliability": stored,
    }
    text = [
        f"Recorded {len(run):,} rows and {len(run.validation_labels):,} validation samples at "
        f"{' + '.join(map(str, run.lengths))} checkpoints in {sum(seconds.values()):.0f} s "
        f"(validation loss {result['validation_loss']:.3f}).",
        *said_of(Reliability.from_dict(stored) if stored else None),
        f"Next: hf-ltc score {config.output_dir} --output {config.output_dir}-scored",
    ]
    _report(options, result, text)


def _score(options: argparse.Namespace) -> None:
    import pyarrow.compute as pc

    from .agreement import reliability, said_of
    from .columns import read_column
    from .trajectories import Trajectories

    _check_new(options.output)
    run = Trajectories.load(options.run, losses=options.losses)
    train = _recorded_split(options, run)
    family = _family(options)
    scored = run.score(train, balance=options.balance, **family)
    found = reliability(run, **family) if len(run.lengths) > 1 else None
    scores = read_column(scored, "ltc_score")
    count, held = len(scores) - scores.null_count, read_column(scored, "loss_trajectory").null_count
    result = {
        "output": options.output,
        "rows": len(scored),
        "scored": count,
        "flat": len(scored) - held - count,
        "held_out": held,
        "mean": pc.mean(scores).as_py(),
        "reliability": found and found.to_dict(),
    }
    made = {
        "family": family,
        "losses": run.loss_name,
        "balance": options.balance,
        "reliability": result["reliability"],
    }
    _save(scored, options.output, {**run.recipe, "score": made})
    text = [
        f"Scored {count:,} of {len(scored):,} rows ({held:,} held out, {result['flat']:,} flat), "
        f"mean {result['mean']:.3f}."
        if count
        else "No row has a score: all trajectories are flat.",
        *_few_differences(run, family),
        *said_of(found),
        f"Next: hf-ltc select {options.output} --fraction 0.1 --output {options.output}-10pct",
    ]
    _report(options, result, text)


def _few_differences(run: "Trajectories", family: dict[str, str]) -> list[str]:
    if min(run.lengths) > 3 or family.get("of") == "levels":
        return []
    return ["Two differences can only correlate at 1 or -1: record more epochs for scores that tell rows apart."]


def _select(options: argparse.Namespace) -> None:
    from datasets import load_from_disk

    from .data import one_line
    from .selection import describe_coreset, select_coreset

    _check_new(options.output)
    if not (Path(options.scored) / "state.json").is_file():
        raise InputError(
            f"no scored dataset {options.scored!r}: make one with hf-ltc score RUN --output {options.scored}"
        )
    try:
        scored = load_from_disk(options.scored)
    except Exception as error:
        raise InputError(
            f"cannot load the scored dataset {options.scored!r} ({one_line(error)}): make it again with hf-ltc score"
        ) from error
    names = ("fraction", "size", "balance", "score_column", "label_column", "keep", "coverage", "min_per_class")
    kept = {name: getattr(options, name) for name in (*names, "exclude_negative", "seed")}
    coreset = select_coreset(scored, **kept)
    summary = describe_coreset(
        coreset,
        scored,
        score_column=options.score_column,
        label_column=options.label_column,
        exclude_negative=options.exclude_negative,
    )
    _save(coreset, options.output, None)
    text = [str(summary), f'Next: datasets.load_from_disk("{options.output}"), and train on it']
    _report(options, {"output": options.output, **summary.to_dict()}, text)


def _push(options: argparse.Namespace) -> None:
    from datasets import load_from_disk

    from .hub import push_coreset, push_source_model
    from .trajectories import Trajectories

    run = Trajectories.load(options.run, losses=options.losses)
    if options.scored is None:
        scored = run.score(_recorded_split(options, run), balance=options.balance, **_family(options))
    elif (Path(options.scored) / "state.json").is_file():
        scored = load_from_disk(options.scored)
    else:
        raise InputError(f"no scored dataset {options.scored!r}: make one with hf-ltc score, or Dataset.save_to_disk")
    splits = {name: _recorded_split(options, run, name) for name in options.splits}
    if options.held_out:
        if "validation" in splits or not (run.validation_rows >= 0).any():
            raise InputError("--held-out: no rows were held out of training, or --splits has a validation already")
        splits["validation"] = scored.select(run.validation_rows)
    # First, since it is soon said if there is none.
    model = options.source_model and push_source_model(
        options.run, options.source_model, dataset_name=options.dataset_name, private=options.private or None
    )
    pushed = push_coreset(
        scored,
        options.repo_id,
        options.fractions,
        options.sizes,
        trajectories=run,
        scores_only=options.scores_only,
        full=options.full,
        with_trajectories=options.trajectories,
        splits=splits,
        pictures=sorted(Path(options.run).glob("*.png")),
        source={"repo_id": options.source} if options.source else None,
        dataset_name=options.dataset_name,
        license=options.license,
        private=options.private or None,
        max_shard_size=options.max_shard_size,
        score_column=options.score_column,
        balance=options.balance,
        keep=options.keep,
    )
    result: dict[str, Any] = {
        "repo_id": pushed.repo_id,
        "url": pushed.url,
        "revision": pushed.revision,
        "configs": list(pushed.configs),
    }
    text = [str(pushed)]
    if model:
        result["source_model"] = {"repo_id": model.repo_id, "url": model.url, "revision": model.revision}
        text.append(str(model))
    first = pushed.configs[0]
    if first.startswith("coreset"):
        text.append(f'Next: datasets.load_dataset("{pushed.repo_id}", "{first}", split="train"), and train on it')
    else:
        text.append(f'Next: hf_ltc.load_coreset("{pushed.repo_id}", fraction=0.1), and train on it')
    _report(options, result, text)


def _recorded_split(options: argparse.Namespace, run: "Trajectories", split: str | None = None) -> "Dataset":
    """The recorded dataset, or another split of it."""
    from .data import load_split

    source = run.recipe.get("dataset") or {}
    place = options.dataset or source.get("path") or source.get("repo_id")
    if place is None:
        raise InputError(f"{options.run!r} does not say which dataset it recorded: give it with --dataset")
    wanted = split or source.get("split", "train")
    return load_split(place, wanted, name=source.get("config"), revision=source.get("revision"))


def _compare(options: argparse.Namespace) -> None:
    from .agreement import overlap, reliability, said_of
    from .scoring import ltc_scores
    from .trajectories import Trajectories

    runs = [Trajectories.load(run, losses=options.losses) for run in (options.run_a, options.run_b)]
    together = Trajectories.average(runs)
    aligned = [run.take_rows(together.rows) for run in runs]
    found = reliability(aligned, **_family(options))
    one, two = (ltc_scores(run, **_family(options)) for run in aligned)
    shared = overlap(one, two, together.labels)
    text = said_of(found)
    text += [
        f"At {100 * fraction:g}% the coresets share {100 * share:.0f}% of their rows."
        for fraction, share in shared.items()
    ]
    _report(options, {**found.to_dict(), "overlap": shared}, text)


def _demo(options: argparse.Namespace) -> None:
    from .demo import run_demo

    for fraction in options.fractions:
        if not 0 < fraction <= 1:
            raise InputError(f"--fractions has {fraction!r}: each must be inside (0, 1]")
    if options.seeds < 1:
        raise InputError(f"--seeds is {options.seeds!r}: it must be 1 or more")
    result, text = run_demo(options.output_dir, options.fractions, options.seeds)
    _report(options, result, text)


def _check_new(output: str) -> None:
    if Path(output).exists():
        raise InputError(f"--output {output!r} exists already: give another folder, or take it away")


def _save(dataset: "Dataset", output: str, recipe: dict[str, Any] | None) -> None:
    from . import rundir

    with rundir.replacing(Path(output)) as temporary:
        dataset.save_to_disk(str(temporary))
        if recipe is not None:
            rundir.write_json(temporary / rundir.RECIPE, recipe)


def _report(options: argparse.Namespace, result: dict[str, Any], text: list[str]) -> None:
    print(json.dumps(result, indent=2) if options.json else "\n".join(text))
