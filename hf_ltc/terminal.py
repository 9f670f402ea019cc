"""What a command says, in the words of its user."""

import re
from collections.abc import Mapping

# How messages name a parameter (see [`InputError`]); not what stands in backticks inside a user's own words.
_PARAMETER = re.compile(r"(?<![^\s(])`(?:(?P<of>RecordConfig)\.)?(?P<name>[a-z_]+)`(?![^\s),.:;])")


def spelled(text: str, names: Mapping[str, str]) -> str:
    """A message of the library in the words of a command: its parameters as options.

    Args:
        text (`str`): The message, which has parameters in backticks; others than those named stay as they are.
        names (`Mapping[str, str]`): The options by parameter; those of `RecordConfig` with its name before.
    """
    return _PARAMETER.sub(lambda found: names.get(found[0].strip("`"), found[0]), text)
