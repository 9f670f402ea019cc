"""The one exception for what a user can mend, the one warning, and how their messages name rows."""

from typing import Any

_NAMED = 5


class InputError(ValueError):
    """Raised for input that the user can mend: a dataset, a column, an option, a file.

    The message is one line that says what is wrong, where (row, column, parameter or file) and what to do. It names
    parameters in backticks, as Python spells them (`batch_size`, or `RecordConfig.batch_size` of another call than the
    one that failed). The command line turns these into its options, prints the line and exits with code 2.
    """


class LTCWarning(UserWarning):
    """What a user should know of a result that is there all the same, such as scores that chance ranks.

    The message is as that of an [`InputError`]. The command line prints it as a line, and goes on.
    """


def some_rows(rows: Any) -> str:
    """The first row numbers of an array, for a message."""
    return ", ".join(str(int(row)) for row in rows[:_NAMED]) + (", ..." if len(rows) > _NAMED else "")


def one_line(error: BaseException) -> str:
    """An error's message on one line of at most 300 characters, to quote in one of ours."""
    text = " ".join(str(error).split())
    if not text or isinstance(error, LookupError):
        # A KeyError's message is the key alone.
        text = f"{type(error).__name__} {text}".rstrip()
    return text if len(text) <= 300 else text[:297] + "..."
