"""Results as they are committed: JSON in which a list of records is a table, with a row on each line.

The same values as a list of objects in a fifth of the space, so that a change of them can be read:

    {"results": {"same": {"target": "test_resnet"}, "columns": ["method", "accuracy"], "rows": [["random", 0.25]]}}
"""

import json
from pathlib import Path
from typing import Any

from hf_ltc.utils.files import finite, replacing

# Fewer records are short as they are.
_MANY = 20
# In a row, where its record has no value of that name. `null` is a value.
_ABSENT = "absent"


def results_of(script: str | Path, name: str | None = None) -> Path:
    """The file of a script's results: `results/NAME.json` beside it, by its own name if none is given."""
    script = Path(script)
    return script.parent / "results" / f"{name or script.stem}.json"


def write_results(path: Path, made: dict[str, Any]) -> None:
    """Writes results, whole or not at all."""
    parts = [f"{json.dumps(name)}: {_text(value)}" for name, value in finite(made).items()]
    with replacing(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def read_results(path: Path) -> dict[str, Any]:
    """Reads what was written, the records as a list of objects again."""
    made = json.loads(path.read_text(encoding="utf-8"))
    return {name: _records(value) if _is_table(value) else value for name, value in made.items()}


def _text(value: Any) -> str:
    if not (isinstance(value, list) and len(value) >= _MANY and all(isinstance(each, dict) for each in value)):
        return json.dumps(value, indent=1, ensure_ascii=False)
    names = list({name: None for record in value for name in record})
    # As JSON, since 1, 1.0 and true are the same to Python.
    cells = [[_json(record[name]) if name in record else _json(_ABSENT) for name in names] for record in value]
    assert all(record.get(name) != _ABSENT for record in value for name in names)
    alike = [all(row[i] == cells[0][i] != _json(_ABSENT) for row in cells) for i in range(len(names))]
    same = {name: value[0][name] for name, is_alike in zip(names, alike) if is_alike}
    columns = [name for name, is_alike in zip(names, alike) if not is_alike]
    rows = ["[" + ",".join(cell for cell, is_alike in zip(row, alike) if not is_alike) + "]" for row in cells]
    return f'{{"same": {_json(same)},\n"columns": {_json(columns)},\n"rows": [\n' + ",\n".join(rows) + "\n]}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["same", "columns", "rows"]


def _records(table: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [dict(zip(table["columns"], row)) for row in table["rows"]]
    return [table["same"] | {name: value for name, value in row.items() if value != _ABSENT} for row in rows]
