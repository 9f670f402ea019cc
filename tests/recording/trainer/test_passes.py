"""A Trainer that resumes ends as if it had never stopped; each epoch is one pass, by the model's own account."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_ltc.recording.trainer.callback import TrajectoryCallback
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError, LTCWarning
from tests.processes import finish, start
from tests.recording.trainers import Dies, Spy, text_model, texts, trainer

pytestmark = pytest.mark.filterwarnings("ignore:the epoch was broken off")
# 52 rows to train on beside 6 that are held out: 7 steps of 8 rows an epoch.
ROWS, STEPS = 58, 7
FIRST = {"per_device_train_batch_size": 8, "num_train_epochs": 4}


def rows():
    labels = np.arange(ROWS) % 3
    numbers = np.random.default_rng(0).normal(size=(ROWS, 4)) + labels[:, None]
    features = Features(
        {"numbers": List(Value("float32")), "row": Value("int64"), "labels": ClassLabel(num_classes=3)}
    )
    return Dataset.from_dict({"numbers": numbers.tolist(), "row": range(ROWS), "labels": labels.tolist()}, features)


class Bookkeeper(nn.Module):
    """A classifier that writes down the loss of each row in each training pass."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.book = {row: [] for row in range(ROWS)}

    def forward(self, numbers, row, labels=None):
        logits = self.layers(numbers)
        if self.training:
            for number, loss in zip(row.tolist(), cross_entropy(logits, labels, reduction="none").tolist()):
                self.book[number].append(loss)
        return {"loss": None if labels is None else cross_entropy(logits, labels), "logits": logits}


class StopsAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def train(folder, stop=None, resume=False, book=None, kind=Trainer, order=None, torch_seed=0, **options):
    """One training, or what follows of it; the recording and the book."""
    callback = TrajectoryCallback(folder / "run", rows())
    model = Bookkeeper()
    model.book = book or model.book
    settings = {
        **FIRST,
        "learning_rate": 0.05,
        "save_strategy": "steps",
        "save_steps": 10**6,
        "seed": 3,
        "disable_tqdm": True,
        "report_to": [],
        "dataloader_pin_memory": False,
        "use_cpu": True,
        **options,
    }
    dataset = callback.train_dataset
    made = kind(
        model=model,
        args=TrainingArguments(str(folder / "trainer"), **settings),
        train_dataset=dataset if order is None else dataset.shuffle(seed=order),
        callbacks=[callback, *([] if stop is None else [StopsAt(stop)])],
    )
    torch.manual_seed(torch_seed)
    made.train(resume_from_checkpoint=resume)
    return callback.trajectories, model.book


def published(folder):
    files = sorted((folder / "run" / "trajectories").iterdir())
    return [(path.name, path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in files]


class PlainLoader(Trainer):
    """Draws the order of an epoch from torch's global generator, which no checkpoint tells the loader."""

    def get_train_dataloader(self):
        return DataLoader(self.train_dataset, batch_size=8, shuffle=True, collate_fn=self.data_collator)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """Copies a training that was stopped at a step into a folder; its book."""
    done = {}

    def stopped_at(step, folder):
        if step not in done:
            done[step] = tmp_path_factory.mktemp("stopped")
            _, done[step, "book"] = train(done[step], step)
        shutil.copytree(done[step], folder, dirs_exist_ok=True)
        return copy.deepcopy(done[step, "book"])

    return stopped_at


@pytest.mark.parametrize("stop", [STEPS, STEPS + 3], ids=["end", "inside"])
@pytest.mark.parametrize(
    "change",
    [{}, {"num_train_epochs": 6}, {"dataloader_num_workers": 1}, {"learning_rate": 0.01}],
    ids=["same", "epochs", "workers", "rate"],
)
def test_each_epoch_is_one_pass(stopped, tmp_path, stop, change):
    book = stopped(stop, tmp_path)
    run, book = train(tmp_path, resume=True, book=book, **change)
    epochs = change.get("num_train_epochs", 4)
    assert run.epochs.tolist() == list(range(epochs + 1))
    assert {len(book[row]) for row in run.rows.tolist()} == {epochs}
    np.testing.assert_allclose(run.losses[1:].T, [book[row] for row in run.rows.tolist()], rtol=1e-5, atol=1e-7)
    assert run.recipe["training"]["num_train_epochs"] == epochs


@pytest.mark.parametrize("change", [{"ignore_data_skip": True}, {"kind": PlainLoader}, {"data_seed": 5}, {"order": 2}])
def test_between_epochs_the_order_of_rows_may_change(stopped, tmp_path, change):
    # Of the whole epochs that come, none has anything to do with those before.
    book = stopped(STEPS, tmp_path)
    run, book = train(tmp_path, resume=True, book=book, **change)
    assert run.epochs.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(run.losses[1:].T, [book[row] for row in run.rows.tolist()], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("stop", "change", "match"),
    [
        (7, {"per_device_train_batch_size": 16}, "steps an epoch were 7, now 4; `per_device_.*` was 8, now 16"),
        (8, {"per_device_train_batch_size": 16}, "at step 8: steps an epoch were 7, now 4"),
        (14, {"per_device_train_batch_size": 4}, "steps an epoch were 7, now 13"),
        (14, {"gradient_accumulation_steps": 2}, "now 4; `gradient_accumulation_steps` was 1, now 2"),
        (
            7,
            {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
            "at step 7: `per_device_train_batch_size` was 8, now 4; `gradient_accumulation_steps` was 1, now 2",
        ),
        (10, {"ignore_data_skip": True}, "at step 10, inside of epoch 2: `ignore_data_skip` is True"),
        (10, {"data_seed": 5}, "inside of epoch 2: seed of the order was 0, now 5"),
        (10, {"torch_seed": 5}, "inside of epoch 2: seed of the order was 0, now 5"),
        (10, {"order": 2}, "inside of epoch 2: order of train_dataset was"),
        (10, {"train_sampling_strategy": "sequential"}, "sampler was SeedableRandomSampler, now SequentialSampler"),
        (10, {"accelerator_config": {"dispatch_batches": True}}, "loader was DataLoaderShard, now DataLoaderDisp"),
        (10, {"dataloader_drop_last": True}, "dataloader_drop_last leaves rows out"),
    ],
)
def test_what_would_mix_passes_is_refused(stopped, tmp_path, stop, change, match):
    book = stopped(stop, tmp_path)
    passes, files = copy.deepcopy(book), published(tmp_path)
    recipe = (tmp_path / "run" / "recipe.json").read_text()
    with pytest.raises(InputError, match=match) as error:
        train(tmp_path, resume=True, book=book, **change)
    assert "\n" not in str(error.value)
    # Not one batch was trained on, and the recording is as it was.
    assert book == passes
    assert published(tmp_path) == files and (tmp_path / "run" / "recipe.json").read_text() == recipe


def test_an_order_that_cannot_be_drawn_again_is_refused_when_a_row_comes_twice(tmp_path):
    _, book = train(tmp_path, STEPS + 3, kind=PlainLoader)
    files = published(tmp_path)
    with pytest.raises(InputError, match="inside of epoch 2: its sampler draws another order"):
        train(tmp_path, resume=True, book=book, kind=PlainLoader)
    assert published(tmp_path) == files


def test_the_checkpoint_of_another_training_is_refused(stopped, tmp_path):
    stopped(STEPS, tmp_path / "one")
    train(tmp_path / "two", STEPS)
    files = published(tmp_path / "one")
    with pytest.raises(InputError, match="the Trainer's checkpoint is of another training than the one recorded"):
        train(tmp_path / "one", resume=str(tmp_path / "two" / "trainer" / f"checkpoint-{STEPS}"))
    assert published(tmp_path / "one") == files
    # And where there is no recording, none is begun.
    (tmp_path / "three").mkdir()
    with pytest.raises(InputError, match="cannot resume at step 7: there is no"):
        train(tmp_path / "three", resume=str(tmp_path / "two" / "trainer" / f"checkpoint-{STEPS}"))
    assert not (tmp_path / "three" / "run").exists()


def refused(folder, told, **options):
    """Resumes on every process and writes down, for each, why it is refused."""
    try:
        train(folder, resume=True, **options)
    except InputError as error:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        (told / str(rank)).write_text(str(error))


def two_processes(one, two, told):
    """On two processes: resumes what one has begun, and begins what others will resume."""
    refused(Path(one), Path(told))
    train(Path(two), STEPS, per_device_train_batch_size=4)


def three_processes(two, told):
    refused(Path(two), Path(told), per_device_train_batch_size=4)


def test_other_processes_are_refused(stopped, tmp_path):
    for name in ("one", "by-two", "by-three"):
        (tmp_path / name).mkdir()
    one, two = tmp_path / "one", tmp_path / "two"
    stopped(STEPS, one)
    before = published(one)
    assert finish(start(two_processes, str(one), str(two), str(tmp_path / "by-two"), world=2)) == [0, 0]
    told = [(tmp_path / "by-two" / rank).read_text() for rank in "01"]
    assert all("steps an epoch were 7, now 4; processes were 1, now 2" in each for each in told)
    assert published(one) == before
    before = published(two)
    assert finish(start(three_processes, str(two), str(tmp_path / "by-three"), world=3)) == [0, 0, 0]
    told = [(tmp_path / "by-three" / rank).read_text() for rank in "012"]
    assert all("steps an epoch were 7, now 5; processes were 2, now 3" in each for each in told)
    # One process with batches twice as large has as many steps an epoch, and another order of rows all the same.
    with pytest.raises(InputError, match="processes were 2, now 1; `per_device_train_batch_size` was 4, now 8"):
        train(two, resume=True)
    assert published(two) == before
    assert run_dir.published_epochs(two / "run") == [0, 1]
    assert json.loads((two / "run" / "recipe.json").read_text())["training"]["processes"] == 2


RESUMED = {"num_train_epochs": 4, "per_device_train_batch_size": 8}


def resumable(folder, save_steps, extra=()):
    callback = TrajectoryCallback(folder / "run", texts(), losses="both", signals=["el2n"])
    model = text_model(dropout=0.2)
    return callback, trainer(
        folder, callback, model, extra, save_strategy="steps", save_steps=save_steps, save_total_limit=2, **RESUMED
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    callback, training = resumable(tmp_path_factory.mktemp("whole"), 500)
    training.train()
    return callback.trajectories


# An epoch has 5 steps.
@pytest.mark.parametrize(
    ("save_steps", "event", "step"),
    [
        (5, "on_save", 5),  # saved at the last step of an epoch, which is not written yet
        (5, "on_step_begin", 8),  # resumed at the start of an epoch
        (3, "on_step_begin", 8),  # resumed within one
        (4, "on_epoch_end", 10),  # resumed within an epoch that is written already
    ],
)
def test_resumed_with_the_trainer_it_is_as_if_never_ended(whole, tmp_path, save_steps, event, step):
    _, training = resumable(tmp_path, save_steps, [Dies(event, step)])
    with pytest.raises(RuntimeError, match="cable"):
        training.train()
    files = (tmp_path / "run" / "trajectories").iterdir()
    stamps = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
    callback, training = resumable(tmp_path, save_steps)
    training.train(resume_from_checkpoint=True)
    run = callback.trajectories
    assert run.epochs.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(run.losses, whole.losses)
    np.testing.assert_array_equal(run.validation_losses, whole.validation_losses)
    for name in ("evaluation_loss", "el2n"):
        np.testing.assert_array_equal(run.signals[name], whole.signals[name])
    assert stamps == {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in stamps}
    assert not (tmp_path / "run" / "checkpoint").exists()
    # And once more, with nothing left to do.
    callback, training = resumable(tmp_path, save_steps)
    training.train(resume_from_checkpoint=True)
    np.testing.assert_array_equal(callback.trajectories.losses, whole.losses)


def test_checkpoints_go_when_the_trainer_s_go(tmp_path):
    _, training = resumable(tmp_path, 2, [Dies("on_step_begin", 11)])
    with pytest.raises(RuntimeError, match="cable"):
        training.train()
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoint").iterdir())
    assert names == ["step-00000008.pt", "step-00000010.pt"]


class Stops(TrainerCallback):
    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.epoch == 2


def test_stopped_early_it_is_complete_and_can_go_on(whole, tmp_path):
    callback, training = resumable(tmp_path, 5, [Stops()])
    training.train()
    assert callback.trajectories.epochs.tolist() == [0, 1, 2]
    assert Trajectories.load(tmp_path / "run").recipe["epochs"] == [0, 1, 2]
    callback, training = resumable(tmp_path, 5)
    training.train(resume_from_checkpoint=True)
    np.testing.assert_array_equal(callback.trajectories.losses, whole.losses)


def test_an_epoch_that_is_broken_off_is_not_recorded(tmp_path):
    callback = TrajectoryCallback(tmp_path / "run", texts())
    with pytest.warns(LTCWarning, match="broken off at 2.60"):
        trainer(tmp_path, callback, max_steps=13).train()
    assert callback.trajectories.epochs.tolist() == [0, 1, 2]


class Skips(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_epoch_stop = state.global_step == 8


def test_after_an_epoch_that_is_broken_off_the_next_one_is_recorded(tmp_path):
    train = texts()
    callback = TrajectoryCallback(tmp_path / "run", train, train.select(range(4)), allow_shared_rows=True)
    Spy.seen = {}
    with pytest.warns(LTCWarning, match="broken off at 1.60"):
        trainer(tmp_path, callback, kind=Spy, extra=[Skips()]).train()
    run = callback.trajectories
    assert run.epochs.tolist() == [0, 1, 3]
    np.testing.assert_allclose(run.losses[-1], [Spy.seen[tuple(ids)][-1] for ids in train["input_ids"]], rtol=1e-6)


def test_begun_again_after_the_initial_losses(tmp_path):
    callback = TrajectoryCallback(tmp_path / "run", texts())
    with pytest.raises(RuntimeError, match="cable"):
        trainer(tmp_path, callback, extra=[Dies("on_step_begin", 2)]).train()
    other = text_model()
    other.classifier.bias.data[0] += 1.0
    with pytest.raises(InputError, match="of a model with other weights"):
        trainer(tmp_path, TrajectoryCallback(tmp_path / "run", texts()), other).train()
    again = TrajectoryCallback(tmp_path / "run", texts())
    trainer(tmp_path, again).train()
    assert again.trajectories.epochs.tolist() == [0, 1, 2, 3]
    # A training from the beginning does not go together with what is there.
    with pytest.raises(InputError, match=r"holds a recording up to epoch 3.*resume_from_checkpoint"):
        trainer(tmp_path, TrajectoryCallback(tmp_path / "run", texts())).train()


def test_resumed_without_its_checkpoint(tmp_path):
    _, training = resumable(tmp_path, 5, [Dies("on_step_begin", 8)])
    with pytest.raises(RuntimeError, match="cable"):
        training.train()
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    with pytest.raises(InputError, match=r"cannot resume at step 5: there is no '.*step-00000005.pt'"):
        resumable(tmp_path, 5)[1].train(resume_from_checkpoint=True)


@pytest.mark.parametrize(("before", "now"), [(3, 6), (3, None), (None, 3)])
def test_other_steps_between_checkpoints_are_refused(tmp_path, before, now):
    def training(every, *extra):
        callback = TrajectoryCallback(tmp_path / "run", texts(), losses="evaluation", record_every_steps=every)
        return trainer(tmp_path, callback, extra=extra, save_strategy="steps", save_steps=3)

    training(before, StopsAt(6)).train()
    files = published(tmp_path)
    with pytest.raises(InputError, match=rf"at step 6: `record_every_steps` was {before}, now {now}, .* other steps"):
        training(now).train(resume_from_checkpoint=True)
    assert published(tmp_path) == files
