"""The site as `make docs` builds it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The site, and what was said."""
    folder = tmp_path_factory.mktemp("checkout") / "hf_ltc"
    made = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "runs", "site", "tests", "*.json")
    shutil.copytree(ROOT, folder, ignore=made)
    environment = ["-o", ".venv/.installed-test", f"BIN={Path(sys.executable).parent}"]
    done = subprocess.run(["make", *environment, "docs"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site", done.stdout + done.stderr


def test_no_warning_is_given(built):
    assert "No issues found" in built[1]
    assert not re.findall(r"griffe: .*|.*[Ww]arning.*", built[1])


def test_no_page_asks_a_network_for_anything(built):
    pages = list(built[0].rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loaded = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?(https?:[^\" >]+)", page.read_text("utf-8")
        )
        assert not [address for address in loaded if not address.startswith("https://zensical.org")], page


def test_options_and_docstrings_are_there(built):
    options = (built[0] / "docs" / "reference" / "cli.html").read_text("utf-8")
    assert "<code>--stop-when-stable</code>" in options
    names = (built[0] / "docs" / "reference" / "python.html").read_text("utf-8")
    assert 'id="hf_ltc.Trajectories.attach"' in names and "*optional*" not in names
