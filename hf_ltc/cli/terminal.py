"""Messages of a command with options in place of parameters, and streams that can always be written to."""

import errno
import io
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import MemoryHandler
from typing import Any, TextIO

from ..utils.errors import InputError, LTCWarning

# How messages name a parameter (see [`InputError`]); not what stands in backticks inside a user's own words.
_PARAMETER = re.compile(r"(?<![^\s(])`(?:(?P<of>RecordConfig)\.)?(?P<name>[a-z_]+)`(?![^\s),.:;=])")
_MOST = 10_000
_LEADS = {logging.WARNING: "hf-ltc: warning: ", logging.ERROR: "hf-ltc: "}


def is_first() -> bool:
    """Whether this process is the first of those that a launcher started, the only one that prints."""
    return os.environ.get("RANK", "0") == "0"


def spelled(text: str, names: Mapping[str, str]) -> str:
    """A message of the library with the options of a command in place of parameters.

    Args:
        text (`str`): The message, which has parameters in backticks; others than those named stay as they are.
        names (`Mapping[str, str]`): The options by parameter; those of `RecordConfig` with its name before.
    """
    return _PARAMETER.sub(lambda found: names.get(found[0].strip("`"), found[0]), text)


@contextmanager
def heard_news(names: Mapping[str, str], speaks: bool, late: bool = False) -> Iterator[None]:
    """Shows the log and the warnings of the library as lines of stderr, with the options of a command.

    Args:
        names (`Mapping[str, str]`): As for [`spelled`].
        speaks (`bool`): Whether this process shows warnings, which all would.
        late (`bool`, *optional*, defaults to `False`):
            Show them at the end, and not at all if there is an [`InputError`]: then there is no result to warn of.
    """
    logger = logging.getLogger("hf_ltc")
    level, propagate, show = logger.level, logger.propagate, warnings.showwarning
    lines = logging.StreamHandler()
    lines.setFormatter(_Line(names))
    kept = MemoryHandler(_MOST, logging.CRITICAL, lines)
    handler: logging.Handler = kept if late else lines

    def shown(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, LTCWarning):
            logger.warning("%s", message)
        else:
            show(message, category, *where, **more)

    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always" if speaks else "ignore", LTCWarning)
            warnings.showwarning = shown
            yield
    except InputError:
        kept.setTarget(None)
        raise
    finally:
        kept.close()
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _Line(logging.Formatter):
    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self.names = names

    def format(self, record: logging.LogRecord) -> str:
        return _LEADS.get(record.levelno, "") + spelled(super().format(record), self.names)


class _Descriptor(io.FileIO):
    """A descriptor of this process that swallows what is written once nobody reads it, so that work goes on."""

    failed: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failed = error
            # Also for libraries that write to the descriptor itself.
            _to_nowhere(self.fileno())
            return len(data)


class Output:
    """stdout and stderr of a command, which can always be written to.

    Characters that their encoding does not have are escaped. Where the reader has gone or the disk is full, what is
    written is lost, and [`Output.exit_code`] says so.
    """

    def __init__(self) -> None:
        for descriptor in (1, 2):
            try:
                os.fstat(descriptor)
            except OSError:
                # Closed by the caller: the next file to be opened would get this number, and the output.
                _to_nowhere(descriptor)
        self._stdout = _Descriptor(1, "w", closefd=False)
        self._before = (sys.stdout, sys.stderr)
        sys.stdout = _text(self._stdout, sys.__stdout__)
        sys.stderr = _text(_Descriptor(2, "w", closefd=False), sys.__stderr__, line_buffering=True)

    def exit_code(self, code: int) -> int:
        """Flushes both streams; returns another exit code than the given one if output was lost."""
        sys.stdout.flush()
        failed = self._stdout.failed
        if failed is not None and failed.errno != errno.EPIPE:
            print(f"hf-ltc: error: cannot write the output ({failed.strerror})", file=sys.stderr)
            code = code or 1
        elif failed is not None:
            # That of a process ended by SIGPIPE, which Python ignores.
            code = 128 + signal.SIGPIPE
        sys.stderr.flush()
        sys.stdout, sys.stderr = self._before
        return code


def _text(descriptor: _Descriptor, like: TextIO | None, line_buffering: bool = False) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(descriptor),
        encoding=like.encoding if like is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=line_buffering or descriptor.isatty(),
        write_through=isinstance(like, io.TextIOWrapper) and like.write_through,
    )


def _to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
