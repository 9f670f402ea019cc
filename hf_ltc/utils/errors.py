"""The one exception for what a user can fix, the one warning, and how their messages name rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class InputError(ValueError):
    """Raised for input that the user can fix: a dataset, a column, an option, a file.

    The message is one line that says what is wrong, where (row, column, parameter or file) and what to do. It names
    parameters in backticks, as in Python (`batch_size`, or `RecordConfig.batch_size` for a parameter of another call).
    The command line shows them as its options, prints the line and exits with code 2.
    """


class LTCWarning(UserWarning):
    """Warns about a result that may be of little use, such as scores whose ranking is mostly chance.

    The message is written like that of an [`InputError`]. The command line prints it as one line, and continues.
    """


def require(holds: Any, name: str, value: Any, wanted: str) -> None:
    """Checks the value of a parameter.

    Args:
        holds (`bool`): Whether it is as wanted.
        name (`str`): The parameter.
        value: Its value.
        wanted (`str`): What it must be.

    Raises:
        InputError: if it is not.
    """
    if not holds:
        # The repr of a model or a dataset, say, has many lines.
        shown = repr(value) if "\n" not in repr(value) else f"a {type(value).__name__}"
        raise InputError(f"`{name}` is {shown}: it must be {wanted}")


@contextmanager
def as_input_error(
    what: str, fix: str, errors: type[Exception] | tuple[type[Exception], ...] = Exception
) -> Iterator[None]:
    """Makes one line of the errors of a library: what was not possible, what the library says, and what to do.

    Args:
        what (`str`): What was not possible.
        fix (`str`): What to do.
        errors (`type` or `tuple[type, ...]`, *optional*, defaults to `Exception`): The errors.

    Raises:
        InputError: in place of these; another one stays as it is.
    """
    try:
        yield
    except InputError:
        raise
    except errors as error:
        raise InputError(f"{what} ({one_line(error)}): {fix}") from error


def listed(values: Any, show: Callable[[Any], str] = repr, most: int = 5, count: str = "") -> str:
    """The first of some values, for a message.

    Args:
        values (`Sequence` or `np.ndarray`): The values.
        show (`Callable`, *optional*, defaults to `repr`): How one is written.
        most (`int`, *optional*, defaults to `5`): How many are written.
        count (`str`, *optional*): What follows the number of all values, where not all are written: `"in all"`.
    """
    shown = ", ".join(map(show, values[:most]))
    if len(values) <= most:
        return shown
    return f"{shown}, ..." + (f" ({len(values)} {count})" if count else "")


def some_rows(rows: Any) -> str:
    """The first row numbers of an array, for a message."""
    return listed(rows, lambda row: str(int(row)))


def one_line(error: BaseException) -> str:
    """An error's message on one line of at most 300 characters, to quote in one of ours."""
    text = " ".join(str(error).split())
    if not text or isinstance(error, LookupError):
        # A KeyError's message is the key alone.
        text = f"{type(error).__name__} {text}".rstrip()
    return text if len(text) <= 300 else text[:297] + "..."
