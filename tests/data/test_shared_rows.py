"""Validation samples that are train rows: found to the byte, whatever holds them, and refused wherever one records."""

import io
import re
import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value, concatenate_datasets, load_dataset
from torch import nn

from hf_ltc import RecordConfig, TrajectoryCallback, record, record_checkpoints
from hf_ltc.data.columns import read_column
from hf_ltc.data.shared_rows import check_apart, shared_rows
from hf_ltc.recording.input_rows import input_rows, sequence_rows
from hf_ltc.recording.rows import source_rows
from hf_ltc.utils.errors import InputError, LTCWarning

IMAGES = [("image", "image")]


def found(dataset, other, columns=IMAGES):
    samples, rows, looked_for = shared_rows(dataset, other, columns)
    assert looked_for == len(dataset)
    return list(zip(samples.tolist(), rows.tolist()))


@pytest.mark.parametrize("paths", [False, True])
def test_they_are_found_by_their_bytes_or_files(small, tmp_path, paths):
    train, test = small["train"], small["test"]
    if paths:
        files = []
        for row, image in enumerate(train["image"][:]):
            files.append(str(tmp_path / f"{row}.png"))
            image.save(files[-1])
        whole = Dataset.from_dict({"image": files, "label": train["label"][:]}, features=train.features)
        train, test = whole.select(range(110)), whole.select(range(110, 150))
    assert found(test, train) == []
    shuffled = train.shuffle(seed=1)
    order = np.asarray(shuffled._indices.column(0)).tolist()
    assert found(train, shuffled) == [(row, order.index(row)) for row in range(len(train))]
    assert found(train.select(range(20, 100)), train.select(range(60))) == [(i, i + 20) for i in range(40)]
    # Rows that are stored and not shown are not there.
    assert found(train.select([3, 50]), train.select(range(40, 90))) == [(1, 10)]
    # Formats and transforms do not matter, nor what the column is called.
    other = train.rename_column("image", "picture").with_format("torch")
    everything = [(row, row) for row in range(len(train))]
    assert found(train.with_transform(lambda batch: 1 / 0), other, [("image", "picture")]) == everything


def test_copies_of_files_are_found_in_another_folder(small, tmp_path):
    for split, rows in (("train", range(30)), ("other", range(25, 45))):
        for row in rows:
            folder = tmp_path / split / str(small["train"]["label"][row])
            folder.mkdir(parents=True, exist_ok=True)
            small["train"]["image"][row].save(folder / f"{split}-{row:03}.png")
    train, other = (
        load_dataset("imagefolder", data_dir=str(tmp_path / split), split="train", cache_dir=str(tmp_path / "cache"))
        for split in ("train", "other")
    )
    pairs = found(other, train)
    assert len(pairs) == 5
    for sample, row in pairs:
        assert np.array_equal(np.array(other[sample]["image"]), np.array(train[row]["image"]))
    # Of two images as long, ending alike, only the equal one is shared.
    one, two, three = (b"\x00" * 50 + bytes([first]) + b"\x01" * 100 for first in (1, 2, 1))
    a, b = (
        Dataset.from_dict({"image": [{"bytes": x, "path": None} for x in each]}, Features({"image": Image()}))
        for each in ([one, two], [three])
    )
    assert found(a, b) == [(0, 0)] and found(b, a.select([1])) == []


def test_they_are_looked_for_without_holding_the_images(digit_rows):
    """Digits as uncompressed files of one length, which tells none of them from another."""

    def bitmap(image):
        file = io.BytesIO()
        image.resize((64, 64)).save(file, "BMP")
        return {"bytes": file.getvalue(), "path": None}

    train, test = (
        Dataset.from_dict({"image": [bitmap(image) for image in rows["image"]]}, Features({"image": Image()}))
        for rows in digit_rows
    )
    assert len({len(image["bytes"]) for image in read_column(train, "image").to_pylist()}) == 1
    total = train.data.nbytes
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    forms = {"itself": train, "shuffled": train.shuffle(seed=1), "half": train.select(range(0, len(train), 2))}
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        for name, other in forms.items():
            tracemalloc.reset_peak()
            assert found(test, other) == [], name
            assert pool.max_memory() + tracemalloc.get_traced_memory()[1] < total / 4, name
        assert len(found(train.select(range(100)), train.select(range(99, -1, -1)))) == 100
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def texts(rows, first=0):
    """Rows with a number of their own, as GLUE's have, and labels that need not agree."""
    features = Features({"text": Value("string"), "idx": Value("int32"), "label": ClassLabel(num_classes=2)})
    return Dataset.from_dict(
        {
            "text": rows,
            "idx": [first + i for i in range(len(rows))],
            "label": [(first + i) % 2 for i in range(len(rows))],
        },
        features,
    )


def test_texts_and_lists_are_compared_too():
    train = texts(["rain", "snow", "a cold wind", "fog", "", "sun"])
    validation = texts(["hail", "fog", "snowy", "mud"], first=101)
    with pytest.raises(InputError, match=r"1 of 4 validation samples are train rows too \(sample 1 is row 3\)"):
        input_rows(RecordConfig(), train, validation)
    assert len(input_rows(RecordConfig(allow_shared_rows=True), train, validation).recorded.validation) == 4
    assert len(input_rows(RecordConfig(), train, validation.select([0, 2, 3])).recorded.validation) == 3
    tokens = {"input_ids": List(Value("int64")), "attention_mask": List(Value("int8")), "idx": Value("int64")}
    encoded, other = (
        Dataset.from_dict(
            {
                "input_ids": ids,
                "attention_mask": [[1] * len(row) for row in ids],
                "idx": range(start, start + len(ids)),
                "labels": [i % 2 for i in range(len(ids))],
            },
            Features({**tokens, "labels": ClassLabel(num_classes=2)}),
        )
        for start, ids in ((0, [[1, 2], [3], [4, 5, 6], [2, 1]]), (50, [[1], [4, 5, 6], [2, 2], [2, 1]]))
    )
    with pytest.raises(InputError, match=r"2 of 4 .*\(sample 1 is row 2, sample 3 is row 3\)"):
        input_rows(RecordConfig(), encoded, other)


def test_rows_of_train_that_are_alike_are_no_fault_of_a_hold_out(small):
    tile = small["train"].select([5] * 40)
    tiles = Dataset.from_dict(
        {"image": read_column(tile, "image").to_pylist(), "label": [0, 1] * 20},
        Features({"image": Image(), "label": ClassLabel(num_classes=2)}),
    )
    assert len(source_rows(RecordConfig(epochs=2), tiles, None).recorded.validation) == 4
    with pytest.raises(InputError, match=r"10 of 10 .*sample 2 is row 0, \.\.\.\).*like blank tiles"):
        source_rows(RecordConfig(epochs=2), tiles, tiles.select(range(10)))
    allowed = RecordConfig(epochs=2, allow_shared_rows=True)
    assert len(source_rows(allowed, tiles, tiles.select(range(10))).recorded.validation) == 10


def test_of_rows_held_out_of_a_dataset_with_copies_it_warns(small):
    """As of classes that were made larger by copies of their rows."""
    train, one = small["train"], RecordConfig(epochs=2)
    twice = concatenate_datasets([train, train])
    with pytest.warns(LTCWarning, match="leave copies out of the dataset, give other `validation` samples") as caught:
        held = source_rows(one, twice, None).recorded.validation_rows
    (said,) = [str(each.message) for each in caught if each.category is LTCWarning]
    counts = re.match(r"(\d+) of (\d+) rows held out as validation samples are among the train rows too ", said)
    alone = [row for row in held if (row + 150) % 300 not in held]
    assert [int(count) for count in counts.groups()] == [len(alone), len(held)]
    pairs = re.findall(r"row (\d+) is row (\d+)", said)
    assert len(pairs) == 3 and all(int(other) == (int(row) + 150) % 300 for row, other in pairs)
    words = Dataset.from_dict({"text": ["a b", "c d", "e f"] * 9, "label": [0, 1, 1] * 9})
    words = words.cast_column("label", ClassLabel(num_classes=2))
    for rows in (lambda: input_rows(one, words, None), lambda: sequence_rows(one, words, None)):
        with pytest.warns(LTCWarning, match="rows held out as validation samples are among the train rows too"):
            rows()
    with warnings.catch_warnings():
        warnings.simplefilter("error", LTCWarning)
        # A few rows of a dataset may be there twice, or all be alike by nature.
        source_rows(one, concatenate_datasets([train, train.select(range(3))]), None)
        source_rows(replace(one, allow_shared_rows=True), twice, None)
        # Of seeds that hold out other rows the first call, which is for all of them, has said so.
        source_rows(replace(one, rotate_validation=True), twice, None)


def test_many_are_looked_for_among_some(monkeypatch, small):
    monkeypatch.setattr("hf_ltc.data.shared_rows._LOOKED_FOR", 10)
    samples, _, looked_for = shared_rows(small["train"], small["train"], IMAGES)
    assert looked_for == 10 and len(samples) == 10 and samples[0] == 0 and samples[-1] == 149
    with pytest.raises(InputError, match="10 of 10 validation samples"):
        check_apart(small["train"], small["train"], IMAGES, allow_shared_rows=False)


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, image, label=None):
        return self.layer(image.float().flatten(1))


def test_every_recording_refuses_them(small, tmp_path):
    train, validation = small["train"], small["train"].select(range(30, 60)).shuffle(seed=0)
    folder = tmp_path / "run"
    for made in (
        lambda: record(RecordConfig(model="test_resnet", epochs=2, output_dir=str(folder)), train, validation),
        lambda: record(RecordConfig(model="test_resnet", epochs=2, runs=2, output_dir=str(folder)), train, validation),
        lambda: TrajectoryCallback(folder, train, validation),
        lambda: record_checkpoints([Linear()] * 3, train, validation, output_dir=folder),
    ):
        with pytest.raises(InputError, match=r"30 of 30 validation samples are train rows too \(sample 0 is row "):
            made()
        assert not folder.exists()
