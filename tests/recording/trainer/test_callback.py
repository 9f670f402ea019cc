"""The Trainer's callback: the right losses of the right rows, and a training that does not notice."""

import copy
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from accelerate.data_loader import SkipDataLoader
from datasets import Value
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, default_data_collator, set_seed

from hf_ltc.recording.trainer.callback import TrajectoryCallback
from hf_ltc.recording.trainer.passes import POSITION
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError, LTCWarning
from tests.processes import finish, start
from tests.recording.trainers import FROZEN, Dies, Spy, losses_of, text_model, texts, tiny_vit, trainer


def image_model() -> nn.Module:
    set_seed(0)
    return tiny_vit()


def test_losses_of_texts_are_those_of_each_row(tmp_path):
    train = texts()
    callback = TrajectoryCallback(tmp_path / "run", train, losses="both", signals=["correct"])
    training = trainer(tmp_path, callback, **FROZEN, num_train_epochs=2)
    training.train()
    run = callback.trajectories
    held = run.validation_rows
    assert sorted([*run.rows, *held]) == list(range(36))
    assert len(held) == 3
    expected = losses_of(training.model, train, run.rows)
    for losses in (run.losses, run.signals["evaluation_loss"]):
        assert losses.shape == (3, 33)
        np.testing.assert_allclose(losses, [expected] * 3, atol=1e-5)
    np.testing.assert_allclose(run.validation_losses, [losses_of(training.model, train, held)] * 3, atol=1e-5)
    assert set(np.unique(run.signals["correct"])) == {0, 1}
    assert run.recipe["config"]["model"] == "DistilBertForSequenceClassification"
    assert str(tmp_path) not in json.dumps(run.recipe)
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_from_a_dataset_to_a_coreset(tmp_path):
    train = texts()
    callback = TrajectoryCallback(tmp_path / "run", train, validation_fraction=0.2)
    trainer(tmp_path, callback).train()
    scored = callback.trajectories.score(train)
    ranks = [rank for rank in scored["ltc_rank"] if rank is not None]
    assert sorted(ranks) == list(range(36 - 6))
    assert scored["text"][:] == train["text"][:]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"label_smoothing_factor": 0.3},
        {"dataloader_num_workers": 1, "label_smoothing_factor": 0.1, "gradient_accumulation_steps": 3},
        {"bf16": True},
        {"eval_strategy": "steps", "eval_steps": 2},
    ],
    ids=["plain", "accumulated", "smoothed", "all", "bf16", "evaluated"],
)
def test_training_losses_are_those_that_the_optimizer_saw(tmp_path, options):
    train = texts()
    callback = TrajectoryCallback(tmp_path / "run", train, train.select(range(4)), allow_shared_rows=True)
    Spy.seen = {}
    # Where the Trainer evaluates, it does so on the very same rows.
    evaluated = callback.train_dataset
    trainer(tmp_path, callback, text_model(dropout=0.2), kind=Spy, evaluated=evaluated, **options).train()
    run = callback.trajectories
    expected = [Spy.seen[tuple(ids)] for ids in train["input_ids"]]
    np.testing.assert_allclose(run.losses[1:].T, expected, rtol=1e-6)
    assert run.losses.dtype == np.float32
    assert (np.abs(np.diff(run.losses, axis=0)).max(axis=1) > 0).all()


def noisy(rows):
    """Pixels with noise from numpy's global generator, as many augmentations draw it."""
    pixels = [np.array(image, dtype=np.float32)[None] / 255 for image in rows["image"]]
    return {
        "pixel_values": [torch.tensor(pixel + np.random.normal(0, 0.1), dtype=torch.float32) for pixel in pixels],
        "labels": rows["label"],
    }


def pixels_only(rows):
    """A collator as in many image scripts, which names what it takes."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


@pytest.mark.parametrize("kind", ["text", "image"])
def test_the_training_does_not_notice(small, tmp_path, kind):
    weights = []
    for recorded in (True, False):
        folder = tmp_path / str(recorded)
        rows = texts() if kind == "text" else small["train"].with_transform(noisy)
        callback = TrajectoryCallback(folder / "run", rows, losses="both", signals=["margin"])
        if kind == "text":
            model, options = text_model(dropout=0.2), {}
        else:
            model, options = image_model(), {"collator": pixels_only, "remove_unused_columns": False}
        plain = rows.select(callback._data.recorded.rows)
        training = trainer(
            folder,
            callback if recorded else None,
            model,
            dataset=callback.train_dataset if recorded else plain,
            **options,
        )
        training.train()
        weights.append(training.model.state_dict())
    assert weights[0].keys() == weights[1].keys()
    for name, values in weights[0].items():
        torch.testing.assert_close(values, weights[1][name], rtol=0, atol=0)


def test_images_with_columns_removed_by_default(small, tmp_path):
    train = small["train"].map(
        lambda row: {"pixel_values": np.array(row["image"], dtype=np.float32)[None] / 255},
    )
    validation = train.select(range(20))
    train = train.select(range(20, 150)).with_format("torch")
    callback = TrajectoryCallback(tmp_path / "run", train, validation.with_format("torch"))
    training = trainer(
        tmp_path,
        callback,
        image_model(),
        collator=default_data_collator,
        dataset=callback.train_dataset.shuffle(seed=1),
        evaluated=callback.train_dataset,
        eval_strategy="epoch",
        **FROZEN,
    )
    training.train()
    run = callback.trajectories
    assert run.validation_rows.tolist() == [-1] * 20
    with torch.no_grad():
        for losses, rows in ((run.losses, train), (run.validation_losses, validation.with_format("torch"))):
            logits = training.model.eval()(pixel_values=rows[:]["pixel_values"]).logits
            expected = cross_entropy(logits, rows[:]["label"], reduction="none").numpy()
            np.testing.assert_allclose(losses, [expected] * 4, atol=1e-5)


class Averager(TrainerCallback):
    """The moving average of the weights, written down as it is defined."""

    def on_train_begin(self, args, state, control, model, **kwargs):
        self.average = {name: value.clone() for name, value in model.state_dict().items()}

    def on_step_end(self, args, state, control, model, **kwargs):
        for name, value in model.state_dict().items():
            self.average[name] = self.decay * self.average[name] + (1 - self.decay) * value


@pytest.mark.parametrize("decay", [None, 0.5])
def test_validation_losses_are_those_of_averaged_weights(tmp_path, decay):
    train = texts()
    callback = TrajectoryCallback(tmp_path / "run", train, losses="both", average_decay=decay)
    averager = Averager()
    # 33 rows in batches of 8 are 5 steps an epoch.
    averager.decay = 1 - 1 / 5 if decay is None else decay
    training = trainer(tmp_path, callback, extra=[averager])
    training.train()
    run = callback.trajectories
    raw = losses_of(training.model, train, run.validation_rows)
    training.model.load_state_dict(averager.average)
    averaged = losses_of(training.model, train, run.validation_rows)
    assert np.abs(np.subtract(raw, averaged)).max() > 1e-3
    np.testing.assert_allclose(run.validation_losses[-1], averaged, atol=1e-5)
    expected = losses_of(training.model, train, run.rows)
    np.testing.assert_allclose(run.signals["evaluation_loss"][-1], expected, atol=1e-5)
    assert run.recipe["training"]["average_decay"] == pytest.approx(averager.decay)


def test_raw_weights(tmp_path):
    train = texts()
    callback = TrajectoryCallback(tmp_path / "run", train, losses="evaluation", weights="raw", initial_losses=False)
    training = trainer(tmp_path, callback)
    training.train()
    run = callback.trajectories
    assert run.epochs.tolist() == [1, 2, 3]
    assert run.loss_name == "evaluation_loss"
    for losses, rows in ((run.validation_losses, run.validation_rows), (run.losses, run.rows)):
        np.testing.assert_allclose(losses[-1], losses_of(training.model, train, rows), atol=1e-5)


def test_the_caller_s_model_stays_a_model(tmp_path):
    callback = TrajectoryCallback(tmp_path / "run", texts())
    model = text_model()
    training = trainer(tmp_path, callback, model)
    twin = copy.deepcopy(model)
    twin.classifier.bias.data.add_(1.0)
    inputs = {"input_ids": torch.tensor([[2, 3]])}
    difference = twin.eval()(**inputs).logits - model.eval()(**inputs).logits
    torch.testing.assert_close(difference, torch.ones(1, 3))
    training.train()
    assert not model._forward_hooks
    loaded = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(loaded.eval()(**inputs).logits, model.eval()(**inputs).logits)


class Bare(nn.Module):
    """A model of one's own, which returns no logits."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, attention_mask=None, labels=None):
        return {"loss": self.weight.sum()}


def test_added_to_a_trainer_that_is_made(tmp_path):
    callback = TrajectoryCallback(tmp_path / "run", texts())
    late = trainer(tmp_path, None, dataset=callback.train_dataset)
    late.add_callback(callback)
    with pytest.raises(InputError, match=r"came after the Trainer was made.*callbacks=\[callback\].*add_callback"):
        late.train()
    assert not (tmp_path / "run").exists()
    # Where all columns stay in, nothing is lost by it. The collator makes the inputs, so that no text comes through.
    callback = TrajectoryCallback(tmp_path / "run", texts().remove_columns("text"))
    late = trainer(tmp_path, None, dataset=callback.train_dataset, remove_unused_columns=False)
    late.add_callback(callback)
    late.train()
    assert callback.trajectories.losses.shape == (4, 33)


class OwnLoader(Trainer):
    """As many scripts have it: a loader of torch's, which accelerate has not prepared."""

    def get_train_dataloader(self):
        return DataLoader(
            self.train_dataset.remove_columns("text"), batch_size=8, shuffle=True, collate_fn=self.data_collator
        )


class Prepared(OwnLoader):
    def get_train_dataloader(self):
        return self.accelerator.prepare(super().get_train_dataloader())


class Skipping(Prepared):
    """A wrapper of accelerate's of another kind."""

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        return SkipDataLoader(loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn)


class Listed(OwnLoader):
    def get_train_dataloader(self):
        return list(super().get_train_dataloader())


@pytest.mark.parametrize("kind", [OwnLoader, Prepared, Skipping])
def test_a_loader_of_one_s_own(tmp_path, kind):
    train = texts()
    callback = TrajectoryCallback(tmp_path / "run", train)
    training = trainer(tmp_path, callback, kind=kind, **FROZEN)
    training.train()
    run = callback.trajectories
    np.testing.assert_allclose(run.losses, [losses_of(training.model, train, run.rows)] * 4, atol=1e-5)


def test_batches_that_no_loader_makes(tmp_path):
    callback = TrajectoryCallback(tmp_path / "run", texts())
    with pytest.raises(InputError, match="get_train_dataloader returned a list"):
        trainer(tmp_path, callback, kind=Listed).train()


class Hungry(Spy):
    """Has no memory for batches of 8, and notices it in a forward pass."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.passes += model.training
        if self.passes == self.full and len(inputs["labels"]) == 8:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().compute_loss(model, inputs, *args, **kwargs)


# An epoch has 5 steps.
@pytest.mark.parametrize(
    ("full", "recorded"), [(1, "the recording starts over with it;"), (14, "without the 2 epochs")]
)
def test_out_of_memory_it_is_recorded_anew(tmp_path, full, recorded):
    train = texts()
    callback = TrajectoryCallback(tmp_path / "run", train, train.select(range(4)), allow_shared_rows=True)
    Hungry.seen, Hungry.passes, Hungry.full = {}, 0, full
    hungry = trainer(tmp_path, callback, kind=Hungry, auto_find_batch_size=True, num_train_epochs=4)
    with pytest.warns(LTCWarning, match=f"no memory for batches of 8, .* begins again with 7, .*{recorded}"):
        hungry.train()
    run = callback.trajectories
    assert run.epochs.tolist() == [0, 1, 2, 3, 4]
    # What the optimizer saw in the training that was ended, not in the one that was broken off before it.
    expected = [Hungry.seen[tuple(ids)][-4:] for ids in train["input_ids"]]
    np.testing.assert_allclose(run.losses[1:].T, expected, rtol=1e-6)
    told = run.recipe["training"]
    # 36 rows in batches of 7.
    assert (told["per_device_train_batch_size"], told["steps_per_epoch"]) == (7, 6)
    assert told["average_decay"] == pytest.approx(1 - 1 / 6)


def test_no_memory_to_evaluate_ends_it(tmp_path):
    class Large(Bare):
        def forward(self, input_ids, attention_mask=None, labels=None):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    callback = TrajectoryCallback(tmp_path / "run", texts())
    with pytest.raises(InputError, match=r"batches of 32 .*lower `per_device_eval_batch_size`"):
        trainer(tmp_path, callback, Large(), auto_find_batch_size=True, per_device_eval_batch_size=32).train()


class Leaves(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        inputs = {name: value for name, value in inputs.items() if name != POSITION}
        return super().compute_loss(model, inputs, return_outputs, **kwargs)


def test_what_cannot_be_recorded_is_named(tmp_path):
    train = texts()

    def training(match, *, callback=None, **options):
        made = callback or TrajectoryCallback(tmp_path / "run", train)
        with pytest.raises(InputError, match=match):
            trainer(tmp_path, made, **options).train()
        shutil.rmtree(tmp_path / "run", ignore_errors=True)

    made = TrajectoryCallback(tmp_path / "run", train)
    training("have no column 'hf_ltc_position'.*callback.train_dataset", dataset=train)
    training("has 20 of the 33 rows", callback=made, dataset=made.train_dataset.select(range(20)))
    training("dataloader_drop_last leaves rows out", dataloader_drop_last=True)
    training("records 2 checkpoints .max_steps 5, 5 steps an epoch", num_train_epochs=1)
    training("returned 2 logits a row for labels up to 2.*num_labels=3", model=text_model(labels=2))
    training("returned NoneType where logits", model=Bare())
    training("trained without 'hf_ltc_position'", kind=Leaves)
    training("epoch 1: training_loss of .* rows is not finite", learning_rate=1e30, max_grad_norm=0)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x")
    training("holds other files")
    for match, options in {
        "`losses` is 'all'": {"losses": "all"},
        "`weights` is 'mean'": {"weights": "mean"},
        r"`average_decay` is 1.5: it must be inside \[0, 1\)": {"average_decay": 1.5},
        "`signals` has 'hope': it must be of margin": {"signals": ["hope"]},
        "column 'text' holds strings": {"label_column": "text"},
        "no such column": {"label_column": "kind"},
        "occur twice": {"id_column": "label"},
    }.items():
        with pytest.raises(InputError, match=match):
            TrajectoryCallback(tmp_path / "other", train, **options)
    with pytest.raises(InputError, match="another recording"):
        TrajectoryCallback(tmp_path / "a", train, signals=["margin"])._data.recorded.recorder(
            tmp_path / "a", ["training_loss"], PartialState(), {"config": {"seed": 0}}
        )
        trainer(tmp_path, TrajectoryCallback(tmp_path / "a", train)).train()


def test_integer_labels_that_leave_classes_out(tmp_path):
    train = texts().cast_column("label", Value("int64"))
    train = train.filter(lambda label: label != 1, input_columns="label")
    callback = TrajectoryCallback(tmp_path / "run", train, id_column="text")
    training = trainer(tmp_path, callback, **FROZEN)
    training.train()
    run = callback.trajectories
    # Numbered by class, but computed with the numbers that the model has.
    assert sorted(set(run.labels.tolist())) == [0, 1]
    np.testing.assert_allclose(run.losses[0], losses_of(training.model, train, run.rows), atol=1e-5)
    assert run.ids.to_pylist() == [train[row]["text"] for row in run.rows.tolist()]


def distributed(folder, batch_size, epochs, died=None, resume=False):
    """One rank of a training, in a process of its own."""
    callback = TrajectoryCallback(Path(folder) / "run", texts(), losses="both", signals=["margin"])
    extra = [] if died is None else [Dies("on_step_begin", died)]
    training = trainer(
        Path(folder),
        callback,
        extra=extra,
        per_device_train_batch_size=batch_size,
        num_train_epochs=epochs,
        save_strategy="steps",
        save_steps=3,
        **FROZEN,
    )
    try:
        training.train(resume_from_checkpoint=resume)
    except RuntimeError as error:
        assert str(error) == "cable"


def test_two_processes_record_as_one(tmp_path):
    # 33 rows on two processes: the sampler pads the last batches with rows that were seen.
    assert finish(start(distributed, str(tmp_path / "two"), 5, 2, 6, world=2)) == [0, 0]
    assert run_dir.published_epochs(tmp_path / "two" / "run") == [0, 1]
    assert finish(start(distributed, str(tmp_path / "two"), 5, 2, None, True, world=2)) == [0, 0]
    distributed(tmp_path / "one", 10, 2)
    one, two = (Trajectories.load(tmp_path / name / "run") for name in ("one", "two"))
    assert two.recipe["hardware"]["processes"] == 2
    np.testing.assert_array_equal(two.rows, one.rows)
    np.testing.assert_allclose(two.losses, one.losses, atol=1e-6)
    np.testing.assert_allclose(two.validation_losses, one.validation_losses, atol=1e-6)
    for name in ("evaluation_loss", "margin"):
        np.testing.assert_allclose(two.signals[name], one.signals[name], atol=1e-6)
