"""Trajectories from saved weights: the losses of those weights, in the order of training, recorded once."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy

from hf_ltc.recording.checkpoints import record_checkpoints
from hf_ltc.training import models
from hf_ltc.training.batches import CollatedBatches
from hf_ltc.training.forward import evaluate
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError
from tests.processes import finish, start
from tests.recording.trainers import tiny_vit


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def collate(rows):
    return torch.stack([torch.tensor(np.array(row["image"]), dtype=torch.float32) / 255 for row in rows])


def weights(count, seed=0):
    """State dicts of `network`, as a training would leave them."""
    generator = torch.Generator().manual_seed(seed)
    return [
        {"1.weight": torch.randn(10, 64, generator=generator) / 8, "1.bias": torch.randn(10, generator=generator)}
        for _ in range(count)
    ]


def losses_of(state, dataset, rows):
    pixels = np.stack([np.array(dataset[row]["image"], dtype=np.float64).ravel() / 255 for row in rows])
    logits = pixels @ state["1.weight"].double().numpy().T + state["1.bias"].double().numpy()
    own = logits[np.arange(len(rows)), [dataset[row]["label"] for row in rows]]
    return np.logaddexp.reduce(logits, axis=1) - own


def check(run, train, states):
    held = run.validation_rows.tolist()
    assert sorted([*run.rows.tolist(), *held]) == list(range(len(train)))
    np.testing.assert_allclose(run.losses, [losses_of(s, train, run.rows.tolist()) for s in states], rtol=1e-5)
    np.testing.assert_allclose(run.validation_losses, [losses_of(s, train, held) for s in states], rtol=1e-5)


def as_state_dict(state, path):
    return state


def as_file(state, path):
    torch.save(state, path.with_suffix(".pt"))
    return str(path.with_suffix(".pt"))


def as_file_of_a_distributed_loop(state, path):
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, "optimizer": {}, "state_dict": wrapped}, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def as_safetensors(state, path):
    save_file(state, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def as_folder(state, path):
    path.mkdir()
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    return path


def as_model(state, path):
    made = network()
    made.load_state_dict(state)
    return made


def as_function(state, path):
    return lambda: as_model(state, path)


FORMS = [
    as_state_dict,
    as_file,
    as_file_of_a_distributed_loop,
    as_safetensors,
    as_folder,
    as_model,
    as_function,
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_losses_are_those_of_the_weights(small, tmp_path, form):
    train, states = small["train"], weights(3)
    given = [form(state, tmp_path / f"step-{10 * number}") for number, state in enumerate(states)]
    model = None if form in (as_model, as_function) else network()
    run = record_checkpoints(given, train, output_dir=tmp_path / "run", model=model, collate=collate, batch_size=64)
    check(run, train, states)
    assert run.epochs.tolist() == [1, 2, 3]
    assert run.loss_name == "evaluation_loss"
    assert run.losses.dtype == np.float32
    assert run.recipe["config"]["losses"] == "evaluation"
    assert run.score(train)["ltc_rank"][:].count(None) == len(run.validation_rows)


def test_a_validation_split_signals_epochs_and_ids(small, tmp_path):
    train, states = small["train"].add_column("key", [f"row {i}" for i in range(150)]), weights(3)
    run = record_checkpoints(
        states,
        train,
        small["test"],
        output_dir=tmp_path / "run",
        model=network(),
        collate=collate,
        signals=["margin"],
        epochs=[0, 5, 30],
        id_column="key",
    )
    assert run.epochs.tolist() == [0, 5, 30]
    assert run.validation_rows.tolist() == [-1] * 40
    assert run.ids.to_pylist() == train["key"][:]
    expected = [losses_of(state, small["test"], range(40)) for state in states]
    np.testing.assert_allclose(run.validation_losses, expected, rtol=1e-5)
    images = collate(train)
    model = as_model(states[1], None)
    logits = model(images).detach().numpy()
    labels = np.array(train["label"][:])
    own = logits[np.arange(150), labels]
    logits[np.arange(150), labels] = -np.inf
    np.testing.assert_allclose(run.signals["margin"][1], own - logits.max(1), atol=1e-5)
    assert run.attach(train.shuffle(seed=3))["loss_trajectory"][0] is not None


class Cable(Exception):
    pass


def test_what_is_recorded_is_not_loaded_again(small, tmp_path):
    train, states, calls = small["train"], weights(4), []

    def checkpoint(number, breaks=False):
        def make():
            calls.append(number)
            if breaks:
                raise Cable
            return as_model(states[number], None)

        return make

    def record(checkpoints):
        return record_checkpoints(checkpoints, train, output_dir=tmp_path / "run", collate=collate)

    with pytest.raises(Cable):
        record([checkpoint(0), checkpoint(1), checkpoint(2, breaks=True)])
    stamps = {path: path.read_bytes() for path in (tmp_path / "run" / "trajectories").iterdir()}
    assert run_dir.published_epochs(tmp_path / "run") == [1, 2]
    check(record([checkpoint(0), checkpoint(1), checkpoint(2)]), train, states[:3])
    assert calls == [0, 1, 2, 2]
    assert all(path.read_bytes() == content for path, content in stamps.items())
    # A training that has gone on since.
    check(record([checkpoint(number) for number in range(4)]), train, states)
    assert calls == [0, 1, 2, 2, 3]


@pytest.mark.parametrize("form", [as_state_dict, as_model, as_file, as_safetensors, as_folder])
def test_other_weights_are_not_taken_for_those_recorded(small, tmp_path, form):
    """The same files written again by another training, into the same run directory."""

    def record(folder, states, epochs=None):
        (tmp_path / folder).mkdir()
        made = [form(state, tmp_path / folder / f"weights-{number}") for number, state in enumerate(states)]
        options = {"model": network(), "collate": collate, "epochs": epochs}
        return record_checkpoints(made, small["train"], output_dir=tmp_path / "run", **options)

    states = weights(4)
    check(record("first", states[:3]), small["train"], states[:3])
    check(record("more", states), small["train"], states)
    with pytest.raises(InputError, match=r"run' has epoch 3 of other weights than those given for it: give another"):
        record("one", [*states[:2], *weights(2, seed=1)])
    with pytest.raises(InputError, match="has epoch 1 of other weights"):
        record("all", weights(4, seed=1))
    with pytest.raises(InputError, match=r"has epoch 1, and no checkpoint is given for it, only for 10, 20, 30: "):
        record("epochs", weights(3, seed=1), [10, 20, 30])


def test_folders_of_transformers_need_no_model(small, tmp_path):
    # The default collator, and columns that forward does not name left out.
    train = small["train"].map(lambda row: {"pixel_values": np.array(row["image"], dtype=np.float32)[None] / 255})
    folders, expected = [], []
    for step in (90, 100):
        torch.manual_seed(step)
        model = tiny_vit().eval()
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
        folders.append(tmp_path / f"checkpoint-{step}")
        with torch.no_grad():
            logits = model(pixel_values=torch.tensor(train["pixel_values"][:])).logits
        expected.append(cross_entropy(logits, torch.tensor(train["label"][:]), reduction="none").numpy())
    run = record_checkpoints(folders, train, output_dir=tmp_path / "run")
    np.testing.assert_allclose(run.losses, np.array(expected)[:, run.rows], atol=1e-5)
    np.testing.assert_allclose(run.validation_losses, np.array(expected)[:, run.validation_rows], atol=1e-5)


def test_source_models_of_runs(small, tmp_path):
    torch.manual_seed(0)
    settings = {"name": "test_vit", "num_classes": 10, "image_size": 8, "stem": "auto"}
    model = models.create_model("test_vit", 10, 8).eval()
    (tmp_path / "source_model").mkdir()
    models.save_model(tmp_path / "source_model", model, settings)

    def as_color(rows):
        return collate(rows)[:, None].expand(-1, 3, -1, -1)

    run = record_checkpoints(
        [tmp_path / "source_model"], small["train"], output_dir=tmp_path / "run", collate=as_color
    )
    with torch.no_grad():
        logits = model(as_color(small["train"].select(run.rows)))
    expected = cross_entropy(logits, torch.from_numpy(run.labels), reduction="none")
    np.testing.assert_allclose(run.losses[0], expected, atol=1e-5)


def test_models_keep_their_modes_and_random_states_their_draws(small):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.BatchNorm1d(64), nn.Linear(64, 10)).train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def noisy(rows):
        return collate(rows) + np.random.normal() + torch.randn(1)

    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(2).tolist(), np.random.random(2).tolist()
    torch.manual_seed(1)
    np.random.seed(1)
    seen = []
    targets = torch.tensor(small["train"]["label"][:])

    def observe(positions, *_):
        seen.extend(positions.tolist())

    evaluate(model, CollatedBatches(small["train"], targets, noisy), PartialState(), observe, batch_size=7)
    assert seen == list(range(150))
    assert (torch.rand(2).tolist(), np.random.random(2).tolist()) == expected
    assert [module.training for module in model] == [True, True, False, True]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=6, unique=True))
def test_checkpoints_that_are_not_in_the_order_of_training_are_named(small, steps):
    paths = [f"out/checkpoint-{step}" for step in steps]
    with pytest.raises(InputError) as caught:
        record_checkpoints(paths, small["train"], output_dir="never-made")
    wrong = [(a, b) for a, b in itertools.pairwise(steps) if b < a]
    if wrong:
        first, second = wrong[0]
        assert f"'checkpoint-{first}' comes before 'checkpoint-{second}'" in str(caught.value)
    else:
        assert f"no checkpoint 'out/checkpoint-{steps[0]}'" in str(caught.value)
    assert not Path("never-made").exists()


def test_bad_input_is_named(small, tmp_path):
    train, states = small["train"], weights(2)

    def record(match, checkpoints, **options):
        settings = {"model": network(), "collate": collate, **options}
        with pytest.raises(InputError, match=match) as caught:
            record_checkpoints(checkpoints, train, output_dir=tmp_path / "run", **settings)
        assert "\n" not in str(caught.value)

    record("no checkpoints", [])
    with pytest.raises(InputError, match="`train` is a DatasetDict, not a"):
        record_checkpoints(states, small, output_dir=tmp_path / "run", model=network())
    with pytest.raises(InputError, match="`validation` is an IterableDataset, not a"):
        record_checkpoints(states, train, train.to_iterable_dataset(), output_dir=tmp_path / "run", model=network())
    record("epochs has 1 numbers for 2 checkpoints", states, epochs=[1])
    record("give increasing numbers from 0 on", states, epochs=[2, 1])
    record("`signals` has 'hope'", states, signals=["hope"])
    record("needs model=", states, model=None)
    assert not (tmp_path / "run").exists()
    record("a checkpoint does not fit the model", [{"weight": torch.zeros(1)}])
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    record(r"cannot load the checkpoint '.*broken.pt'", [tmp_path / "broken.pt"])
    (tmp_path / "empty").mkdir()
    record(r"cannot load the checkpoint '.*empty'", [tmp_path / "empty"])
    record("is no folder with a config.json: give model=", [tmp_path / "empty"], model=None)
    tiny_vit().save_pretrained(tmp_path / "vit")
    save_file({"vit.layernorm.bias": torch.zeros(8)}, tmp_path / "vit" / "model.safetensors", {"format": "pt"})
    record(r"has no weights for .* missing\)", [tmp_path / "vit"], model=None)
    record("the collator made 1 samples of", states, collate=lambda rows: collate(rows[:1]))
    narrow = {"1.weight": torch.zeros(4, 64), "1.bias": torch.zeros(4)}
    record("returned 4 logits a row for labels up to 9", [narrow], model=nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))
    diverged = {name: value * float("nan") for name, value in states[0].items()}
    record("evaluation_loss of .* rows is not finite", [diverged])


def test_code_in_a_file_of_weights_is_not_run(small, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    torch.save({"weights": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(InputError, match=r"cannot load the checkpoint '.*trap.pt'"):
        record_checkpoints(
            [tmp_path / "trap.pt"], small["train"], output_dir=tmp_path / "run", model=network(), collate=collate
        )
    assert not (tmp_path / "sprung").exists()


def distributed(train, output_dir):
    """One rank of a recording, in a process of its own."""
    record_checkpoints(weights(2), train, output_dir=output_dir, model=network(), collate=collate, batch_size=16)


def test_processes_record_as_one(small, tmp_path):
    train = small["train"].select(range(101))
    assert finish(start(distributed, train, str(tmp_path / "run"), world=2)) == [0, 0]
    run = Trajectories.load(tmp_path / "run")
    assert run.recipe["hardware"]["processes"] == 2
    check(run, train, weights(2))
