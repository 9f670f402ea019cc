"""The one exception for what a user can mend, and how its messages name rows."""

from typing import Any

_NAMED = 5


class InputError(ValueError):
    """Raised for input that the user can mend: a dataset, a column, an option, a file.

    The message is one line that says what is wrong, where (row, column, option or file) and what to do. The command
    line prints it and exits with code 2.
    """


def some_rows(rows: Any) -> str:
    """The first row numbers of an array, for a message."""
    return ", ".join(str(int(row)) for row in rows[:_NAMED]) + (", ..." if len(rows) > _NAMED else "")
