"""The one exception for what a user can fix, the one warning, and how their messages name rows."""

from collections.abc import Callable
from typing import Any


class InputError(ValueError):
    """Raised for input that the user can fix: a dataset, a column, an option, a file.

    The message is one line that says what is wrong, where (row, column, parameter or file) and what to do. It names
    parameters in backticks, as Python spells them (`batch_size`, or `RecordConfig.batch_size` of another call than the
    one that failed). The command line turns these into its options, prints the line and exits with code 2.
    """


class LTCWarning(UserWarning):
    """What a user should know of a result that is there all the same, such as scores that chance ranks.

    The message is as that of an [`InputError`]. The command line prints it as a line, and goes on.
    """


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
