"""The command line: which commands there are, and the exit code of each outcome."""

import argparse
import atexit
import gc
import json
import os
import signal
import sys
from contextlib import redirect_stdout

from .. import __version__
from ..config import RecordConfig
from ..utils.errors import InputError
from .audit import Audit
from .command import Command
from .demo import Demo
from .evaluate import Evaluate
from .parsing import Parser, command_line, dashed, option_names, parsed
from .push import Push
from .record import Compare, Record
from .report import Report
from .score import Score
from .select import Select
from .terminal import Output, heard_news, is_first, spelled

COMMANDS: tuple[type[Command], ...] = (Record, Score, Select, Push, Evaluate, Compare, Audit, Report, Demo)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments (`list[str]`, *optional*): The command line; that of the process if not given.

    Returns:
        `int`: exit code: 0, 2 for input that the user can fix, 130 or 143 if stopped by a signal, 141 if nobody
        reads the output.
    """
    # Only where this is the whole process, and no caller has other streams in place, such as a test.
    output = Output() if sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__ else None
    try:
        code = _run(arguments)
    except SystemExit as ended:
        # After --help, or for an unknown option.
        code = int(ended.code or 0)
    if output is None:
        return code
    # Python's last look for garbage takes a second or two: most objects are those of modules, which are none.
    gc.freeze()
    return output.exit_code(code)


def _run(arguments: list[str] | None) -> int:
    # Without a network every try to reach the Hub would be a warning; the error says it once.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    options = _parser().parse_args(dashed(sys.argv[1:] if arguments is None else arguments))
    try:
        _check_text(options)
        with heard_news(options.names, is_first(), late=options.command.IS_SHORT):
            # Trackers and other libraries print news of their own, which are no JSON.
            with redirect_stdout(sys.stderr if options.json else sys.stdout):
                results = parsed(options, options.command).execute()
            if results is not None:
                following = [what if isinstance(what, str) else command_line(what) for what in results.following]
                if options.json:
                    print(json.dumps({**results.values, "next": following}, indent=2))
                    # Some have a last word when the process ends.
                    atexit.register(_print_to_stderr)
                else:
                    said = map(_next_line, results.following, following)
                    print("\n".join([spelled("\n".join(results.text), options.names), *said]))
    except InputError as error:
        if is_first():
            print(f"hf-ltc: error: {spelled(str(error), options.names)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        if is_first():
            print(f"hf-ltc: {spelled(str(stopped), options.names) or 'stopped'}", file=sys.stderr)
        return 128 + (signal.SIGTERM if "SIGTERM" in str(stopped) else signal.SIGINT)
    return 0


def _print_to_stderr() -> None:
    sys.stdout = sys.stderr


def _next_line(what: Command | str, line: str) -> str:
    return f"Next, in Python: {line}" if isinstance(what, str) else f"Next: {line}"


def _check_text(options: argparse.Namespace) -> None:
    """Checks that all values are text: pyarrow cannot open a name that the encoding of the system does not have."""
    for name, value in vars(options).items():
        for each in value if isinstance(value, list) else [value]:
            try:
                str(each).encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"`{name}` {each!r} has characters that are none in the encoding of this terminal, "
                    f"{sys.getfilesystemencoding()}: set LC_ALL=C.UTF-8, or give another name"
                ) from error


def _parser() -> Parser:
    parser = Parser(prog="hf-ltc", description="Record loss trajectories, score rows by LTC, keep the coreset.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    of_record = {f"RecordConfig.{name}": option for name, option in option_names(RecordConfig).items()}
    for command in COMMANDS:
        text = str(command.__doc__)
        added = commands.add_parser(command.__name__.lower(), help=text, description=text)
        own = option_names(command)
        others = {parameter: own[option] for parameter, option in command.PARAMETERS.items()}
        names = {**own, **others, **of_record}
        added.add_options(command, names)
        added.add_argument("--json", action="store_true", help="print results as JSON, and what to run next")
        added.set_defaults(command=command, names=names)
    return parser
