"""Running sums as a value: what it adds to a dataset is what trajectories add, and what it has not is told."""

import dataclasses
import pickle

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_ltc.data.columns import read_column
from hf_ltc.recording.recorder import TrajectoryRecorder
from hf_ltc.scores.explain import explain
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.scorers import baseline_scores
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.compare import reliability
from hf_ltc.trajectories.summary import LossSummary, load_recording
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError, LTCWarning
from tests.scores.recordings import falling

N, EVERY = 40, np.arange(50)
HELD = EVERY[::5]
ROWS = np.setdiff1d(EVERY, HELD)
LENGTH = 14


def recorded(folder, store, seed=0, epochs=LENGTH, flat=True, every=1, **options):
    """Rows of three classes; the third one is flat."""
    rng = np.random.default_rng(seed)
    losses, held = falling(rng, (LENGTH,), N), falling(rng, (LENGTH,), len(HELD))
    losses[:, 3 if flat else []] = 0.5
    arguments = {"rows": ROWS, "labels": ROWS % 3, "validation_rows": HELD, "validation_labels": HELD % 3, **options}
    made = TrajectoryRecorder(folder, store=store, **arguments)
    for number, (one, other) in enumerate(zip(losses[:epochs], held)):
        with made.epoch(number * every):
            made.update(arguments["rows"], one)
            made.update(arguments["validation_rows"], other, split="validation")
    return made


def dataset():
    labels = {"label": EVERY % 3, "key": [f"k{i}" for i in EVERY]}
    return Dataset.from_dict(labels, Features({"label": ClassLabel(num_classes=3), "key": Value("string")}))


@pytest.mark.parametrize(
    "options", [{"typical": 0.1}, {"preset": "cld", "typical": 0.1}, {"balance": "none", "typical": 0}, {}], ids=str
)
def test_a_dataset_gets_the_columns_that_trajectories_give(tmp_path, options):
    whole, sums = (recorded(tmp_path / store, store).finish() for store in ("trajectories", "summary"))
    assert isinstance(sums, LossSummary) and isinstance(load_recording(tmp_path / "summary"), LossSummary)
    assert isinstance(load_recording(tmp_path / "trajectories"), Trajectories)
    expected, found = (run.score(dataset(), **options) for run in (whole, sums))
    assert found.column_names == [name for name in expected.column_names if name != "loss_trajectory"]
    for name in ("ltc_score", *(["ltc_typicality"] if options.get("typical") else []), "ltc_rank"):
        one, other = (read_column(each, name).to_numpy() for each in (expected, found))
        np.testing.assert_allclose(other, one, atol=1e-5, rtol=0)
        assert found.features[name] == expected.features[name]
    # A flat row has a rank, rows held out have none.
    assert read_column(found, "ltc_rank").null_count == 10 and read_column(found, "ltc_score").null_count == 11


def test_rows_are_joined_by_their_ids(tmp_path):
    keys = {"rows": [f"k{i}" for i in ROWS], "validation_rows": [f"k{i}" for i in HELD]}
    sums = recorded(tmp_path / "run", "summary", **keys).finish()
    shuffled = dataset().shuffle(seed=1)
    scored = sums.score(shuffled, id_column="key")
    by_number = recorded(tmp_path / "other", "summary").finish().score(dataset())
    found = dict(zip(scored["key"][:], scored["ltc_rank"][:]))
    assert found == dict(zip(by_number["key"][:], by_number["ltc_rank"][:]))


def test_of_a_recording_that_goes_on_there_are_scores_at_any_time(tmp_path):
    for epochs in (5, 12):
        folder = tmp_path / str(epochs)
        whole, made = (recorded(folder / store, store, epochs=epochs) for store in ("trajectories", "summary"))
        now = LossSummary.load(made.path)
        assert now.lengths == (epochs,) and not run_dir.is_finished(made.path)
        np.testing.assert_allclose(now.scores(), ltc_scores(whole.finish()), atol=1e-5)


@pytest.mark.parametrize("epochs", [4, 10, 11, 14])
def test_of_long_recordings_with_few_checkpoints_scores_are_weighted(tmp_path, epochs):
    options = {"every": 5, "epochs": epochs, "recipe": {"config": {"epochs": 65}}}
    whole, sums = (recorded(tmp_path / store, store, **options).finish() for store in ("trajectories", "summary"))
    np.testing.assert_allclose(sums.scores(), ltc_scores(whole), atol=1e-5)
    assert not np.allclose(ltc_scores(whole), ltc_scores(whole, preset="das"), atol=1e-2, equal_nan=True)


def test_several_runs_have_the_mean_score(tmp_path):
    for store in ("trajectories", "summary"):
        for seed in (0, 1):
            recorded(tmp_path / store / f"seed-{seed}", store, seed, flat=seed == 0).finish()
    whole, sums = (load_recording(tmp_path / store) for store in ("trajectories", "summary"))
    np.testing.assert_allclose(sums.scores(), ltc_scores(whole), atol=1e-5)
    np.testing.assert_allclose(sums.mean_losses(), baseline_scores(whole, "mean_loss"), rtol=1e-6)
    with pytest.warns(LTCWarning, match="Reliability"):
        found = sums.reliability()
    with pytest.warns(LTCWarning, match="Reliability"):
        assert found.one == pytest.approx(reliability(whole).one, abs=1e-6)
    # As likely as with trajectories, and of the same rows.
    known = np.isfinite(sums.typicality())
    assert known.all() and sums.score(dataset())["ltc_rank"][:].count(None) == 10
    one, two = sums.runs
    other = dataclasses.replace(two, rows=two.rows + 1)
    with pytest.raises(InputError, match=r"different rows: .*`RecordConfig.validation_seed`"):
        LossSummary.together([one, other])
    with pytest.raises(InputError, match="needs two runs or more"):
        one.reliability()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"labels": (ROWS + 1) % 3}, r"recorded on different datasets \(labels differ\)"),
        ({"validation_labels": (HELD + 1) % 3}, "different validation samples"),
        ({"recipe": {"dataset": {"rows": 50, "content": {"image": "others"}}}}, r"datasets \(rows, content differ\)"),
        ({"losses": ["evaluation_loss"]}, "one holds training_loss, the other evaluation_loss"),
    ],
)
def test_runs_of_other_rows_samples_or_losses_are_not_joined(tmp_path, options, said):
    one = recorded(tmp_path / "one", "summary").finish()
    other = recorded(tmp_path / "other", "summary", **options).finish()
    with pytest.raises(InputError, match=f"run 2 cannot be joined with run 0: .*{said}"):
        LossSummary.together([one, one, other])


def test_what_needs_trajectories_says_so(tmp_path):
    sums = recorded(tmp_path / "summary", "summary").finish()
    whole = recorded(tmp_path / "trajectories", "trajectories").finish()
    for needs in (ltc_scores, lambda run: explain(run, [1]), lambda run: baseline_scores(run, "dual")):
        with pytest.raises(InputError, match="has running sums and no trajectories"):
            needs(sums)
    names = {"attach": ": the recording has running sums", "truncate": ": the recording", "colour": "$"}
    for name, why in names.items():
        with pytest.raises(AttributeError, match=f"LossSummary has no '{name}'{why}"):
            getattr(sums, name)
    assert len(pickle.loads(pickle.dumps(sums))) == N
    with pytest.raises(InputError, match=r"has running sums and no trajectories .*hf-ltc score or LossSummary.load"):
        Trajectories.load(tmp_path / "summary")
    with pytest.raises(InputError, match=r"has trajectories and no running sums: load it with Trajectories.load"):
        LossSummary.load(tmp_path / "trajectories")
    recorded(tmp_path / "seeds" / "seed-0", "summary")
    with pytest.raises(InputError, match=r"no run in .*seeds' is finished yet: run the same hf-ltc record command"):
        LossSummary.load(tmp_path / "seeds")
    with pytest.raises(InputError, match="`aggregate` 'correlations' needs trajectories"):
        sums.scores(preset="ltc")
    with pytest.raises(InputError, match=r"`losses` is 'evaluation', and .* has running sums of its training_loss"):
        load_recording(tmp_path / "summary", losses="evaluation")
    assert whole.loss_name == sums.loss_name


def test_validation_samples_that_are_flat_or_missing_are_named_as_with_trajectories(tmp_path):
    sums = recorded(tmp_path / "run", "summary").finish()
    flat = dataclasses.replace(sums, validation_losses=np.ones_like(sums.validation_losses))
    with pytest.raises(InputError, match="validation losses are flat"):
        flat.scores()
    with pytest.raises(InputError, match="no validation samples in class 2:"):
        dataclasses.replace(sums, validation_labels=HELD % 2).scores(preset="cld")
    with pytest.raises(InputError, match="fewer than two differences"):
        recorded(tmp_path / "short", "summary", epochs=2).finish().scores()
