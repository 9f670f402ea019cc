"""Every block of Python and shell in README.md and docs/ runs as it stands, or says why it does not."""

import re
import shutil
from pathlib import Path

import pytest
from datasets import DatasetDict

from tests import hub_clients as do
from tests.docs.blocks import datasets_of_pages, run_page
from tests.hub_server import Client, Hub

pytest_plugins = ["tests.hub_fixtures"]
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "skills" / "hf-ltc" / "SKILL.md"]
_FENCE = re.compile(r"^ *```(\w*)", re.MULTILINE)
# Languages of blocks that nobody runs.
_SHOWN = {"text", "json", "bibtex", "math", "options"}
_RECORDED = "runs/cifar100"
_RECORD = f"""```bash
hf-ltc record --dataset uoft-cs/cifar100 --label-column fine_label --model resnet18 --epochs 30 --runs 2 \\
    --signals margin predicted --features --output-dir {_RECORDED}
hf-ltc score {_RECORDED} --output scored
```
"""


@pytest.fixture(scope="module")
def recorded(hub: Hub, client: Client, small: DatasetDict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the dataset of the pages was recorded and scored."""
    for repo_id, rows in datasets_of_pages(small).items():
        hub.members[repo_id.split("/")[0]] = ["me"]
        client(do.push_rows, rows, repo_id)
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "record.md").write_text(_RECORD)
    client(run_page, folder / "record.md", folder)
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_blocks_of_a_page_run(page: Path, client: Client, recorded: Path, tmp_path: Path):
    text = page.read_text("utf-8")
    languages = _FENCE.findall(text)[::2]
    assert {*languages} <= {"python", "bash", *_SHOWN}, "what is not to be run is text"
    if not languages:
        pytest.skip("a page without code")
    # A page that records has to begin without a run; all others go on from the quick start.
    if f"output-dir {_RECORDED}" not in text and f'output_dir="{_RECORDED}"' not in text:
        shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    reasons = client(run_page, page, tmp_path)
    assert len(reasons) == sum(language in ("python", "bash") for language in languages)
    assert all(reason is not None for reason in reasons)
