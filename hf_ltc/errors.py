"""The one exception for what a user can mend."""


class InputError(ValueError):
    """Raised for input that the user can mend: a dataset, a column, an option, a file.

    The message is one line that says what is wrong, where (row, column, option or file) and what to do. The command
    line prints it and exits with code 2.
    """
