"""What is given in place of a split: said in one line at every public entrance, before anything is done with it."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDatasetDict, Value

from hf_ltc import (
    EvaluateConfig,
    LTCScorer,
    RecordConfig,
    Trajectories,
    TrajectoryCallback,
    TrajectoryRecorder,
    baseline_scores,
    describe_coreset,
    evaluate_coresets,
    explain,
    explain_validation,
    load_coreset,
    ltc_scores,
    push_coreset,
    rank_coreset,
    record,
    record_checkpoints,
    reliability,
    select_coreset,
    split_coreset,
)
from hf_ltc.utils.errors import InputError
from tests.trajectories.recordings import make

COLUMNS = {"text": ["a", "b", "c", "d"], "label": [0, 1, 0, 1]}
SPLIT = Dataset.from_dict(
    COLUMNS, features=Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
)


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int) -> dict:
        return SPLIT[row]


GIVEN = {
    "splits": (DatasetDict({"train": SPLIT, "test": SPLIT}), "a DatasetDict", "one of its splits ('train', 'test')"),
    "a dict of splits": ({"fold1": SPLIT}, "a dict", "one of its splits ('fold1')"),
    "a stream": (SPLIT.to_iterable_dataset(), "an IterableDataset", "without streaming=True"),
    "streams": (IterableDatasetDict({"train": SPLIT.to_iterable_dataset()}), "an IterableDatasetDict", "without"),
    "rows": (list(SPLIT), "a list", "Dataset.from_list"),
    "columns": (COLUMNS, "a dict", "Dataset.from_dict"),
    "a frame": (pd.DataFrame(COLUMNS), "a DataFrame", "Dataset.from_pandas"),
    "a table": (pa.table(COLUMNS), "a Table", "datasets.Dataset(...)"),
    "nothing": (None, "None", "load_dataset"),
    "a name": ("mnist", "a str", "load_dataset"),
    "torch": (Rows(), "a Rows", "Dataset.from_generator"),
    "a loader": (torch.utils.data.DataLoader(Rows()), "a DataLoader", "Dataset.from_generator"),
    "a class": (Dataset, "the class Dataset", "load_dataset"),
}


def entrances(folder, given):
    """Every public function that takes rows, with the parameter that it takes them as."""
    run = make()
    config = RecordConfig(model="test_resnet", epochs=2, output_dir=str(folder))
    evaluate = EvaluateConfig(models=["test_resnet"], fractions=[0.5], output_dir=str(folder))
    yield "train", lambda: record(config, given)
    yield "train", lambda: TrajectoryCallback(str(folder), given)
    yield "train", lambda: record_checkpoints([torch.nn.Linear(1, 2)] * 2, given, output_dir=str(folder))
    yield "train", lambda: evaluate_coresets(evaluate, run, given, SPLIT)
    yield "test", lambda: evaluate_coresets(evaluate, run, SPLIT, given)
    yield "dataset", lambda: run.attach(given)
    yield "dataset", lambda: run.positions(given)
    yield "dataset", lambda: run.score(given)
    for choose in (rank_coreset, select_coreset, split_coreset):
        yield "dataset", lambda choose=choose: choose(given, **({} if choose is rank_coreset else {"size": 1}))
    yield "coreset", lambda: describe_coreset(given, SPLIT)
    yield "scored", lambda: push_coreset(given, "me/it", sizes=[1])
    if given is not None:
        yield "validation", lambda: record(config, SPLIT, given)
        yield "validation", lambda: TrajectoryCallback(str(folder), SPLIT, given)
        yield "validation", lambda: evaluate_coresets(evaluate, run, SPLIT, SPLIT, given)
        yield "dataset", lambda: load_coreset("me/it", size=1, dataset=given)


@pytest.mark.parametrize("kind", GIVEN)
def test_what_is_no_split_is_named_with_what_to_give(tmp_path, kind):
    given, named, mend = GIVEN[kind]
    for parameter, call in entrances(tmp_path / "run", given):
        with pytest.raises(InputError) as caught:
            call()
        message = str(caught.value)
        assert message.startswith(f"`{parameter}` is {named}, not a datasets.Dataset: ")
        assert mend in message and "\n" not in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", ["runs/mine", 7, None, np.zeros((3, 4), np.float32), SPLIT], ids=repr)
def test_what_is_given_in_place_of_a_recording(tmp_path, given):
    config = EvaluateConfig(models=["test_resnet"], output_dir=str(tmp_path))
    entrances = {
        "trajectories": (
            lambda: ltc_scores(given),
            lambda: LTCScorer.from_trajectories(given, preset="cld"),
            lambda: baseline_scores(given, "aum"),
            lambda: explain(given, [0]),
            *([] if given is None else [lambda: push_coreset(SPLIT, "me/it", sizes=[1], trajectories=given)]),
        ),
        "runs": (
            lambda: reliability([given, given]),
            lambda: Trajectories.average([make(), given]),
            lambda: evaluate_coresets(config, {"it": given}, SPLIT, SPLIT),
        ),
    }
    for name, calls in entrances.items():
        for call in calls:
            with pytest.raises(InputError) as told:
                call()
            message = str(told.value)
            assert message.startswith(f"`{name}` is a {type(given).__name__}, ") and "\n" not in message
            assert f"Trajectories.load({given!r})" in message or not isinstance(given, str)


@pytest.mark.parametrize("given", [[0.5], np.array([1.0, 2.0]), ["a"], 1.5, [True, False]], ids=repr)
def test_rows_asked_for_are_integers(given):
    for name, call in (("rows", explain), ("samples", explain_validation)):
        with pytest.raises(InputError, match=rf"^`{name}` is .*: give integers"):
            call(make(), given)


@pytest.mark.parametrize("given", [None, 5, [1, 2], "rows", np.zeros(3)], ids=repr)
def test_what_is_given_to_a_scorer_in_place_of_rows(given):
    with pytest.raises(InputError, match=rf"^a scorer got a {type(given).__name__}, not rows"):
        LTCScorer.from_trajectories(make())(given)


@pytest.mark.parametrize("given", [None, 3, "weights", torch.nn.Linear(1, 1), {"weight": torch.zeros(1)}], ids=str)
def test_what_is_given_in_place_of_checkpoints(tmp_path, given):
    with pytest.raises(InputError, match=rf"^`checkpoints` is a {type(given).__name__}, not a list"):
        record_checkpoints(given, SPLIT, output_dir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", [None, SPLIT, "a/b"], ids=lambda given: type(given).__name__)
def test_what_is_given_in_place_of_splits_of_trajectories(given):
    with pytest.raises(InputError, match=rf"^`dataset` is a {type(given).__name__}: give a datasets.DatasetDict"):
        Trajectories.from_dataset(given)


@pytest.mark.parametrize("given", [{"epochs": 2}, None, "settings.json", RecordConfig], ids=repr)
def test_what_is_given_in_place_of_settings(given):
    with pytest.raises(InputError, match=rf"^`config` is a {type(given).__name__}: give RecordConfig"):
        record(given, SPLIT)
    with pytest.raises(InputError, match=rf"^`config` is a {type(given).__name__}: give EvaluateConfig"):
        evaluate_coresets(given, make(), SPLIT, SPLIT)


@pytest.mark.parametrize("fraction", ["0.1", "10%", [0.1], float("nan")])
def test_a_fraction_is_a_number(fraction):
    scored = SPLIT.add_column("ltc_score", [0.1, 0.2, 0.3, 0.4])
    with pytest.raises(InputError, match=r"^`fraction` is "):
        select_coreset(scored, fraction)


@pytest.mark.parametrize("given", ["x" * 300, "a\0b", 7, None, [], SPLIT], ids=lambda given: repr(given)[:12])
def test_what_is_given_in_place_of_a_path(given):
    entrances = {
        "path": (lambda: Trajectories.load(given), lambda: make().save(given)),
        "folder": (lambda: Trajectories.from_parquet(given), lambda: make().to_parquet(given)),
        "output_dir": (
            lambda: RecordConfig(output_dir=given),
            lambda: TrajectoryCallback(given, SPLIT),
            lambda: TrajectoryRecorder(given, rows=2, labels=[0, 1], validation_labels=[0]),
        ),
    }
    for name, calls in entrances.items():
        for call in calls:
            with pytest.raises(InputError, match=rf"^`{name}` ") as told:
                call()
            assert "\n" not in str(told.value)
