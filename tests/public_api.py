"""The public names of hf_ltc and their parameters: `python -m tests.public_api` writes tests/public_api.txt."""

from pathlib import Path

import griffe

import hf_ltc

ROOT = Path(__file__).parents[1]
SNAPSHOT = Path(__file__).with_suffix(".txt")


def public_api() -> str:
    """A line for each function, class and public method, from the sources: the same in every version of Python."""
    package = griffe.load("hf_ltc", search_paths=[ROOT])
    return "".join(f"{line}\n" for name in hf_ltc.__all__ for line in _lines(name, package[name]))


def _lines(name: str, found: griffe.Object | griffe.Alias) -> list[str]:
    if not found.is_class:
        return [_signature(name, found)]
    # The fields of a dataclass are the parameters of its constructor.
    members = {key: member for key, member in found.all_members.items() if not key.startswith("_")}
    methods = [_signature(f"{name}.{key}", members[key]) for key in sorted(members) if members[key].is_function]
    properties = [f"{name}.{key}" for key in sorted(members) if "property" in members[key].labels]
    return [_signature(name, found), *methods, *properties]


def _signature(name: str, found: griffe.Object | griffe.Alias) -> str:
    parameters = [f"{each.name}" + ("" if each.required else "=") for each in found.parameters]
    kinds = {"variadic positional": "*", "variadic keyword": "**"}
    marked = []
    for text, each in zip(parameters, found.parameters):
        kind = each.kind.value
        if kind == "keyword-only" and not any(part.startswith("*") for part in marked):
            marked.append("*")
        marked.append(kinds[kind] + each.name if kind in kinds else text)
    return f"{name}({', '.join(part for part in marked if part not in ('self', 'cls'))})"


if __name__ == "__main__":
    SNAPSHOT.write_text(public_api(), encoding="utf-8")
