"""Docstrings in Hugging Face's form, which griffe reads as Google's: types without their Markdown, names as links."""

import re
from typing import Any

import griffe

import hf_ltc

# name (`type`, *optional*, defaults to `x`): the default stands in the signature.
_PARAMETER = re.compile(r"^(\s+\*{0,2}\w+ \()(.+?)(?:, defaults to `[^`]*`(?: [^)]*)?)?(\):)", re.MULTILINE)
# one, two, three: what is true of each.
_SEVERAL = re.compile(r"^(\s{4,})(\w+(?:, \w+)+):", re.MULTILINE)
_NAME = re.compile(r"\[`([\w.]+)`\](?![\[(])")


class HuggingFace(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = _SEVERAL.sub(_each, _PARAMETER.sub(_parameter, obj.docstring.value))
            obj.docstring.value = _NAME.sub(_link, text)


def _parameter(found: re.Match[str]) -> str:
    kind = re.sub(r"[`*]", "", _NAME.sub(r"\1", found[2]))
    return found[1] + kind + found[3]


def _each(found: re.Match[str]) -> str:
    *names, last = found[2].split(", ")
    return "".join(f"{found[1]}{name}: As `{last}`.\n" for name in names) + f"{found[1]}{last}:"


def _link(found: re.Match[str]) -> str:
    is_public = found[1].split(".")[0] in hf_ltc.__all__
    return f"[`{found[1]}`][hf_ltc.{found[1]}]" if is_public else f"`{found[1]}`"
