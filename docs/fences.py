"""Two kinds of fenced blocks of the documentation: `math`, which GitHub draws too, and `options` of a command."""

import argparse
import html
import re
from typing import Any

from latex2mathml.converter import convert


def math(source: str, *_: Any, **__: Any) -> str:
    return convert(source, display="block")


def options(source: str, *_: Any, **__: Any) -> str:
    """A table of what `hf-ltc COMMAND --help` prints."""
    from hf_ltc.cli.main import _parser

    (commands,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    actions = commands.choices[source.strip()]._actions
    rows = [_row(action) for action in actions if not isinstance(action, argparse._HelpAction)]
    head = "<tr><th>option</th><th>meaning</th><th>if not given</th></tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _row(action: argparse.Action) -> str:
    name = action.option_strings[0] if action.option_strings else str(action.metavar)
    choices = "" if action.choices is None else f" One of {', '.join(map(str, action.choices))}."
    shown = html.escape(str(action.help) + choices)
    # Names of options in the text as code, as in the first column.
    shown = re.sub(r"(?<![\w-])--[a-z-]+\b", r"<code>\g<0></code>", shown)
    cells = (f"<code>{html.escape(name)}</code>", shown, _default(action))
    return '<tr><td style="white-space: nowrap">' + "</td><td>".join(cells) + "</td></tr>"


def _default(action: argparse.Action) -> str:
    if action.required:
        return "required"
    if action.default in (None, False, [], argparse.SUPPRESS):
        return ""
    values = action.default if isinstance(action.default, list) else [action.default]
    return f"<code>{html.escape(' '.join(map(str, values)))}</code>"
