"""What users import does not change by accident."""

import re
from pathlib import Path

import hf_ltc
from tests.public_api import SNAPSHOT, public_api

_REFERENCE = Path(__file__).parents[1] / "docs" / "reference" / "python.md"


def test_names_and_signatures_are_those_of_the_snapshot():
    written = SNAPSHOT.read_text("utf-8")
    assert public_api() == written, "if the change is meant: python -m tests.public_api, and a line in CHANGELOG.md"


def test_the_reference_has_every_public_name():
    assert sorted(re.findall(r"^::: hf_ltc\.(\w+)$", _REFERENCE.read_text("utf-8"), re.MULTILINE)) == hf_ltc.__all__
