"""What users import does not change by accident."""

import re
import subprocess
import sys
from pathlib import Path

import hf_ltc
from tests.public_api import ROOT, SNAPSHOT

_REFERENCE = Path(__file__).parents[1] / "docs" / "reference" / "python.md"


def test_names_and_signatures_are_those_of_the_snapshot():
    written = SNAPSHOT.read_text("utf-8")
    # In a process of its own: Python 3.11 fails to compile to a syntax tree where another thread does too, and Ray's
    # threads of other tests may (python/cpython#106905).
    code = "from tests.public_api import public_api; print(public_api(), end='')"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert told.stdout == written, "if the change is meant: python -m tests.public_api, and a line in CHANGELOG.md"


def test_the_reference_has_every_public_name():
    assert sorted(re.findall(r"^::: hf_ltc\.(\w+)$", _REFERENCE.read_text("utf-8"), re.MULTILINE)) == hf_ltc.__all__
