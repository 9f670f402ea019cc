"""The job of docs/guides/other-places.md, as far as it goes without the Hub."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from hf_ltc.cli.main import _parser

ROOT = Path(__file__).parents[2]


def test_the_job_is_what_the_client_of_the_hub_and_the_script_take(tmp_path):
    text = (ROOT / "docs" / "guides" / "other-places.md").read_text("utf-8")
    (command,) = re.findall(r"```bash\n(hf jobs .*?)```", text, re.DOTALL)
    hf, jobs, *words = shlex.split(command.replace("\\\n", " "))
    done = subprocess.run(
        [str(Path(sys.executable).parent / hf), jobs, *words[:2], "--dry-run", "--namespace", "me", *words[2:]],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"volumes\s+hf://buckets/me/ltc:/runs\n", done.stdout) and "Job not submitted" in done.stdout
    place = words.index("examples/record.py")
    # Options of the script are those of the command.
    options = _parser().parse_args(["record", *words[place + 1 :]])
    assert (options.output_dir, options.runs) == ("/runs/cifar100", 2)
    head = re.search(r"# /// script\n(.*?)# ///", (ROOT / words[place]).read_text("utf-8"), re.DOTALL)
    needed = tomllib.loads(re.sub(r"^# ?", "", head[1], flags=re.MULTILINE))
    assert [Requirement(each).name for each in needed["dependencies"]] == ["hf-ltc"]
