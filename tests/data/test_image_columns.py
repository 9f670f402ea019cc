"""Columns of images that are no `Image`, as pandas and pyarrow write them: taken where they are named."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Image, Value

from hf_ltc import EvaluateConfig, RecordConfig, evaluate_coresets, record
from hf_ltc.cli.main import main
from hf_ltc.data.identity import check_identity, dataset_identity
from hf_ltc.data.labels import find_image_column
from hf_ltc.data.load import load_split
from hf_ltc.data.shared_rows import shared_rows
from hf_ltc.training.images import StoredImages, image_size
from hf_ltc.utils.errors import InputError
from tests.helpers import encoded

ROWS = 24


def png(row: int) -> bytes:
    return encoded(np.random.default_rng(row).integers(0, 256, (8, 8, 3), dtype=np.uint8))


FILES = [png(row) for row in range(ROWS)]
LABELS = [["ant", "bee"][row % 2] for row in range(ROWS)]
OTHERS = {"kind": LABELS, "name": [f"{row}.png" for row in range(ROWS)]}
PLACED = [{"bytes": file, "path": f"{row}.png"} for row, file in enumerate(FILES)]
COLUMNS = {
    "bytes": pa.array(FILES, pa.binary()),
    "large bytes": pa.array(FILES, pa.large_binary()),
    "struct": pa.array(PLACED, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
    "struct of another order": pa.array(PLACED, pa.struct({"path": pa.string(), "bytes": pa.binary()})),
    "struct of large bytes": pa.array(PLACED, pa.struct({"bytes": pa.large_binary(), "path": pa.large_string()})),
    "struct of bytes alone": pa.array([{"bytes": file} for file in FILES]),
    "struct of more": pa.array([{**row, "width": 8} for row in PLACED]),
}


def written(path, kind: str) -> None:
    pq.write_table(pa.table({"photo": COLUMNS[kind], **OTHERS}), path)


def as_images() -> Dataset:
    rows = [{"bytes": file, "path": None} for file in FILES]
    return Dataset.from_dict({"photo": rows, **OTHERS}).cast_column("photo", Image())


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_named_column_of_files_is_taken_as_images(tmp_path, kind):
    written(tmp_path / "rows.parquet", kind)
    rows = load_split(tmp_path / "rows.parquet")
    with pytest.raises(InputError, match=r"with `image_column` \(one of 'photo'\)"):
        find_image_column(rows)
    assert find_image_column(rows, "photo") == "photo"
    assert image_size(rows, "photo") == 8
    expected = StoredImages(as_images(), "photo", 8).read()
    for view in (rows, rows.with_format("torch"), rows.select(range(ROWS))):
        assert (StoredImages(view, "photo", 8).read() == expected).all()

    # The identity is of the files, in whichever form they are.
    found = dataset_identity(rows, "kind", "photo") | {"image_column": "photo"}
    assert found["content"] == dataset_identity(as_images(), "kind")["content"]
    check_identity(as_images(), found)
    check_identity(rows, found)
    swapped = rows.select([1, 0, *range(2, ROWS)]).flatten_indices()
    with pytest.raises(InputError):
        check_identity(swapped, found)
    assert shared_rows(rows.select(range(5)), rows, [("photo", "photo")])[0].tolist() == [0, 1, 2, 3, 4]


def test_pandas_rows_are_recorded_and_evaluated(tmp_path):
    def frame(start: int) -> pd.DataFrame:
        files = [png(start + row) for row in range(ROWS)]
        return pd.DataFrame({"photo": files, **OTHERS})

    train, test = Dataset.from_pandas(frame(0)), Dataset.from_pandas(frame(1000))
    assert train.features["photo"] == Value("binary")
    options = {"image_column": "photo", "label_column": "kind"}
    config = RecordConfig("test_resnet", epochs=2, output_dir=str(tmp_path / "run"), batch_size=8, **options)
    run = record(config, train)
    assert len(run.attach(train)) == ROWS
    evaluate = EvaluateConfig(
        models=["test_resnet"], fractions=[0.5], seeds=1, epochs=1, output_dir=str(tmp_path / "evaluation")
    )
    assert evaluate_coresets(evaluate, run, train, test).trials


def test_the_command_line_names_it_too(tmp_path, capsys):
    written(tmp_path / "rows.parquet", "struct")
    command = ["record", "--dataset", str(tmp_path / "rows.parquet"), "--label-column", "kind"]
    command += ["--model", "test_resnet", "--epochs", "2", "--batch-size", "8", "--output-dir", str(tmp_path / "run")]
    assert main(command) == 2
    assert "--image-column (one of 'photo')" in capsys.readouterr().err.splitlines()[-1]
    assert main([*command, "--image-column", "photo"]) == 0
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["dataset"]["image_column"] == "photo"


@pytest.mark.parametrize("name", ["name", "kind"])
def test_what_cannot_be_images_is_refused(name):
    rows = Dataset.from_dict({"photo": FILES, **OTHERS})
    with pytest.raises(InputError, match=rf"column '{name}' holds string, not images.*'photo'"):
        find_image_column(rows, name)
    with pytest.raises(InputError, match=r"row 0, column 'photo': not a readable image"):
        image_size(Dataset.from_dict({"photo": [b"no image"] * 3, "kind": LABELS[:3]}), "photo")
