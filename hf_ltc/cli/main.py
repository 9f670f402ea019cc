"""The command line: its options, and what a command's end means to the shell."""

import argparse
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from ..config import DataConfig, EvaluateConfig, RecordConfig
from ..utils.errors import InputError
from ..utils.files import expanded
from . import commands
from .terminal import Output, heard_news, spelled

# Parameters of the functions that commands call, where the option has another name.
_OTHER_NAMES = {
    "record": {"train": "split", "validation": "validation_split", "name": "dataset_config"},
    "push": {"with_trajectories": "trajectories", "trajectories": "run", "fraction": "fractions", "size": "sizes"},
    "evaluate": {"validation": "validation_split", "test": "test_split", "model": "models", "fraction": "fractions"},
}
# Options that are paths where they are strings, as a dataset need not be.
_PATHS = {"run", "runs", "run_a", "run_b", "scored", "output", "output_dir", "evaluation"}
# Commands that are done so soon that what they have to say comes with the results.
_SHORT = {"score", "select", "push", "compare"}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments (`list[str]`, *optional*): The command line; that of the process if not given.

    Returns:
        `int`: exit code: 0, 2 for input that the user can mend, 130 or 143 if stopped by a signal, 141 if nobody
        reads the output.
    """
    # Of a process of its own, and not of who calls this with other streams, such as a test.
    output = Output() if sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__ else None
    try:
        code = _run(arguments)
    except SystemExit as ended:
        # After --help, or for an option that there is not.
        code = int(ended.code or 0)
    return code if output is None else output.exit_code(code)


def _run(arguments: list[str] | None) -> int:
    # Without a network every try to reach the Hub would be a warning; the error says it once.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    options = _parser().parse_args(arguments)
    # Of several processes one speaks, or every message would come several times.
    speaks = os.environ.get("RANK", "0") == "0"
    try:
        _check_text(options)
        for name in _PATHS & vars(options).keys():
            value = getattr(options, name)
            if isinstance(value, str | list):
                setattr(options, name, _path(value) if isinstance(value, str) else [_path(each) for each in value])
        with heard_news(options.names, speaks, late=options.command in _SHORT):
            getattr(commands, options.command)(options)
    except InputError as error:
        if speaks:
            print(f"hf-ltc: error: {spelled(str(error), options.names)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        if speaks:
            print(f"hf-ltc: {spelled(str(stopped), options.names) or 'stopped'}", file=sys.stderr)
        return 128 + (signal.SIGTERM if "SIGTERM" in str(stopped) else signal.SIGINT)
    return 0


def _path(value: str) -> str:
    """A path with `~` for a home, which shells leave in `--option=~/folder`, and without a slash at its end."""
    return str(Path(expanded(value))) if value else value


def _check_text(options: argparse.Namespace) -> None:
    """Checks that all values are text: what an encoding has not, pyarrow cannot open either."""
    for name, value in vars(options).items():
        for each in value if isinstance(value, list) else [value]:
            try:
                str(each).encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"`{name}` {each!r} has characters that are none in the encoding of this terminal, "
                    f"{sys.getfilesystemencoding()}: set LC_ALL=C.UTF-8, or give another name"
                ) from error


def _parser() -> argparse.ArgumentParser:
    from transformers import HfArgumentParser

    class Parser(HfArgumentParser):
        def options(self) -> dict[str, str]:
            """The options and arguments by the name of their value."""
            found: dict[str, str] = {}
            for action in self._actions:
                option = next((each for each in action.option_strings if "_" not in each), action.metavar)
                found.setdefault(action.dest, str(option))
            return found

        def name(self, names: Mapping[str, str]) -> None:
            """Takes what parameters are called in this command, for its help and its messages."""
            self.set_defaults(names=names)
            for action in self._actions:
                action.help = spelled(action.help or "", names)

        def error(self, message: str) -> NoReturn:
            self.exit(2, f"hf-ltc: error: {message}; see {self.prog} --help\n")

    parser = Parser(
        prog="hf-ltc", description="Record loss trajectories, score rows by LTC, keep the coreset.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    made: dict[str, Parser] = {}

    def command(name: str, text: str, *settings: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False, dataclass_types=settings)
        made[name] = added
        added.set_defaults(command=name)
        added.add_argument("--json", action="store_true", help="print results as JSON")
        return added

    command("record", "Train a source model and record every row's loss.", DataConfig, RecordConfig)

    score = command("score", "Add loss_trajectory, ltc_score and ltc_rank to the recorded dataset.")
    score.add_argument("run", metavar="RUN", help="run directory of hf-ltc record")
    score.add_argument("--output", required=True, metavar="SCORED", help="folder for the scored dataset")
    score.add_argument("--dataset", default=None, help="the recorded dataset, if it is elsewhere now")
    _add_family(score)
    _add_balance(score)

    select = command("select", "Keep the coreset of a budget.")
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

    push = command("push", "Push coresets, scores, recipe and card to a dataset repository on the Hub.")
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
    push.add_argument(
        "--evaluation", default=None, metavar="RESULTS", help="results.json of hf-ltc evaluate, for the card"
    )
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument("--source-model", default=None, metavar="REPO_ID", help="push the source model there too")
    push.add_argument("--max-shard-size", default="500MB", help="size of a Parquet file at most")
    _add_family(push)
    _add_balance(push)

    evaluate = command(
        "evaluate",
        "Train models on coresets, random subsets and all rows, and test what each is worth.",
        EvaluateConfig,
    )
    evaluate.add_argument("runs", metavar="RUN", nargs="+", help="run directories of hf-ltc record")
    evaluate.add_argument("--dataset", default=None, help="the recorded dataset, if it is elsewhere now")
    evaluate.add_argument(
        "--validation-split",
        default=None,
        help="the split of the validation samples, where they are of another one than the train rows; as recorded if "
        "not given",
    )
    _add_losses(evaluate)

    compare = command("compare", "Reliability of scores between two runs, and overlap of their coresets.")
    compare.add_argument("run_a", metavar="RUN_A", help="a run directory")
    compare.add_argument("run_b", metavar="RUN_B", help="another one, of the same dataset")
    _add_family(compare)

    demo = command("demo", "From handwritten digits to a coreset and what it is worth, in three minutes.")
    demo.add_argument("--output-dir", default="runs/demo", help="run directory of the demo")
    demo.add_argument("--fractions", type=float, nargs="+", default=[0.1, 0.3], help="budgets of the coresets")
    demo.add_argument("--seeds", type=int, default=3, help="models trained on each choice of rows")

    of_record = {f"RecordConfig.{field.name}": made["record"].options()[field.name] for field in fields(RecordConfig)}
    for name, parsed in made.items():
        own = parsed.options()
        others = {parameter: own[option] for parameter, option in _OTHER_NAMES.get(name, {}).items()}
        parsed.name({**own, **others, **of_record})
    return parser


def _add_family(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset", choices=["ltc", "cld", "das", "weighted-das"], default=None, help="a score variant by its name"
    )
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
    parser.add_argument(
        "--weighting", choices=["none", "uncertainty"], default=None, help="whether uncertainty weighs in"
    )
    _add_losses(parser)


def _add_losses(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--losses", choices=["training", "evaluation"], default=None, help="where both were recorded")


def _add_balance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--balance", choices=["class", "proportional", "none"], default="class", help="how classes share a coreset"
    )
