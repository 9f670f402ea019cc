"""What others may read: no path of this machine and no token is left in it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_ltc.utils import public

_NAMES = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-.", min_size=1, max_size=8).filter(
    lambda name: name.strip(".") != ""
)


@pytest.mark.parametrize(
    ("given_text", "left"),
    [
        ("/home/me/models/vit.json", "vit.json"),
        ("transformers:/home/me/my models/vit.json", "transformers:vit.json"),
        ("transformers:google/vit-base", "transformers:google/vit-base"),
        (r"C:\Users\me\vit.json", "vit.json"),
        ("~/models/vit", "vit"),
        ("file:///data/private/rows.parquet", "rows.parquet"),
        ("read from /data/private/rows.parquet, then", "read from rows.parquet, then"),
        ("a=/scratch/me/x b=~/y/z", "a=x b=z"),
        ("https://huggingface.co/datasets/a/b", "https://huggingface.co/datasets/a/b"),
        ("hf://datasets/a/b@main/train.parquet", "hf://datasets/a/b@main/train.parquet"),
        ("owner/name", "owner/name"),
        ("resnet18", "resnet18"),
        ("x0.1 at 1/2 and 3/4", "x0.1 at 1/2 and 3/4"),
        ("token hf_abcdefghijklmnopqrstuvwxyz", "token hf_***"),
        ("hf_ltc", "hf_ltc"),
        ("/", "/"),
        ("", ""),
    ],
)
def test_of_a_path_its_last_part_is_left(given_text: str, left: str):
    assert public.without_paths(given_text) == left


@given(st.lists(_NAMES, min_size=2, max_size=5), st.sampled_from(["", "made in ", "see: ", "'", "("]))
def test_no_folder_of_a_path_is_left(parts: list[str], before: str):
    said = public.without_paths(f"{before}/{'/'.join(parts)}")
    assert "/" not in said and said == before + parts[-1]


def test_a_public_recipe_says_what_matters_and_no_path():
    recipe = {
        "config": {"model": "/models/vit", "output_dir": "runs/x", "report_to": ["tensorboard"], "eval_batch_size": 9},
        "dataset": {"path": "/data/digits", "rows": 4, "repo_id": "me/digits", "names": ["/m/01", "path"]},
        "path": {"path": 3},
        "validation": {"path": "/data/digits", "held_out": 2},
        "seeds": (0, 1),
        "note": Path("/home/me/notes.txt"),
        "loss": float("nan"),
        "runs": [{"config": {"output_dir": "/tmp/a", "seed": 1}}],
    }
    assert public.public_recipe(recipe) == {
        # The last bits of a loss depend on the size of its batch.
        "config": {"model": "vit", "eval_batch_size": 9},
        "dataset": {"rows": 4, "repo_id": "me/digits", "names": ["/m/01", "path"]},
        "path": {"path": 3},
        "validation": {"held_out": 2},
        "seeds": [0, 1],
        "note": "notes.txt",
        "loss": None,
        "runs": [{"config": {"seed": 1}}],
    }
