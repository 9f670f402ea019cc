"""Language models in TRL's SFTTrainer: the right losses of the right rows, and a training that does not notice."""

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig, PromptTuningConfig
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    set_seed,
)
from trl import SFTTrainer

from hf_ltc.recording.checkpoints import record_checkpoints
from hf_ltc.recording.trainer.callback import TrajectoryCallback
from hf_ltc.recording.trainer.passes import POSITION
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError
from tests.processes import finish, start
from tests.recording.trainer.sft import (
    encoded,
    language_model,
    losses_of,
    rows,
    settings,
    sft_trainer,
    tokenizer,
)
from tests.recording.trainers import Dies

FROZEN = {"learning_rate": 0.0}
KINDS = ["text", "prompt-completion", "chat", "chat prompt"]
# TRL and transformers warn of what they themselves call.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


def recorder(folder, train, validation=None, **options):
    return TrajectoryCallback(folder / "run", train, validation, language_model=True, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_each_row_alone(tmp_path, kind):
    train = rows(kind)
    callback = recorder(tmp_path, train, losses="both")
    options = {"assistant_only_loss": True} if kind == "chat" else {}
    training = sft_trainer(tmp_path, callback, **FROZEN, **options)
    training.train()
    run = callback.trajectories
    assert sorted([*run.rows, *run.validation_rows]) == list(range(36))
    assert len(run.validation_rows) == 4
    pairs = [encoded(kind, row) for row in train]
    expected = losses_of(language_model(), pairs)
    assert len({len(ids) for ids, _ in pairs}) > 3
    for losses in (run.losses, run.signals["evaluation_loss"]):
        np.testing.assert_allclose(losses, [expected[run.rows]] * 4, atol=1e-5)
    np.testing.assert_allclose(run.validation_losses, [expected[run.validation_rows]] * 4, atol=1e-5)
    counts = [sum(label != -100 for label in labels[1:]) for _, labels in pairs]
    np.testing.assert_array_equal(run.signals["tokens"], [np.array(counts)[run.rows]] * 4)


class Spy(SFTTrainer):
    """Computes the loss of each row again before the model trains on it."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        if self.model.training:
            for position, ids, labels in zip(inputs[POSITION], inputs["input_ids"], inputs["labels"]):
                length = int((ids != 1).sum())
                pair = (ids[:length].tolist(), labels[:length].tolist())
                self.seen.setdefault(int(position), []).append(float(losses_of(self.model, [pair])[0]))
            self.model.train()
        return super().compute_loss(model, inputs, *args, **kwargs)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 2, "dataloader_num_workers": 1},
        {"label_smoothing_factor": 0.3},
        {"loss_type": "dft", "eval_strategy": "steps", "eval_steps": 2},
        {"gradient_checkpointing": True},
    ],
    ids=["plain", "accumulated", "smoothed", "other loss", "checkpointed"],
)
def test_training_losses_are_those_before_each_step(tmp_path, options):
    callback = recorder(tmp_path, rows("text"))
    Spy.seen = {}
    sft_trainer(tmp_path, callback, kind=Spy, **options).train()
    run = callback.trajectories
    expected = [Spy.seen[position] for position in range(len(run))]
    np.testing.assert_allclose(run.losses[1:].T, expected, atol=1e-5)
    assert (np.ptp(run.losses, axis=0) > 1e-2).all()


@pytest.mark.parametrize("peft", [None, LoraConfig(r=2, target_modules=["q_proj", "v_proj"])], ids=["all", "adapters"])
def test_the_training_does_not_notice(tmp_path, peft):
    weights = []
    train = rows("text")
    for recorded in (True, False):
        folder = tmp_path / str(recorded)
        callback = recorder(folder, train, losses="both")
        if recorded:
            training = sft_trainer(folder, callback, peft=peft)
        else:
            training = SFTTrainer(
                language_model(),
                settings(folder),
                train_dataset=train.select(callback._data.recorded.rows),
                processing_class=tokenizer(),
                peft_config=peft,
            )
        training.train()
        weights.append(training.model.state_dict())
    assert weights[0].keys() == weights[1].keys()
    for name, values in weights[0].items():
        torch.testing.assert_close(values, weights[1][name], rtol=0, atol=0)


@pytest.mark.parametrize("peft", [None, LoraConfig(r=2, target_modules="all-linear")], ids=["all", "adapters"])
@pytest.mark.parametrize("decay", [None, 0.999999])
def test_which_weights_are_evaluated(tmp_path, peft, decay):
    train = rows("prompt-completion")
    weights = {"weights": "raw"} if decay is None else {"average_decay": decay}
    callback = recorder(tmp_path, train, losses="evaluation", **weights)
    training = sft_trainer(tmp_path, callback, peft=peft)
    pairs = [encoded("prompt-completion", row) for row in train]
    first = losses_of(training.model, pairs)
    training.train()
    run = callback.trajectories
    # The average hardly moves from the first weights, while the model itself does.
    last = losses_of(training.model, pairs)
    assert np.abs(first - last).max() > 1e-2
    np.testing.assert_allclose(run.losses[0], first[run.rows], atol=1e-5)
    np.testing.assert_allclose(run.losses[-1], (last if decay is None else first)[run.rows], atol=1e-4)
    expected = (last if decay is None else first)[run.validation_rows]
    np.testing.assert_allclose(run.validation_losses[-1], expected, atol=1e-4)


def test_virtual_tokens_before_a_prompt(tmp_path):
    train = rows("text")
    callback = recorder(tmp_path, train, losses="both", weights="raw")
    peft = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    training = sft_trainer(tmp_path, callback, peft=peft, **FROZEN)
    training.train()
    run = callback.trajectories
    model, expected = training.model.eval(), []
    for row in run.rows.tolist():
        ids, _ = encoded("text", train[row])
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([ids])).logits[0, 2:-1].log_softmax(1)
        # The first token is predicted from the virtual ones.
        expected.append(-float(scores[torch.arange(len(ids)), ids].mean()))
        assert run.signals["tokens"][0][len(expected) - 1] == len(ids)
    np.testing.assert_allclose(run.losses, [expected] * 4, atol=1e-5)
    np.testing.assert_allclose(run.signals["evaluation_loss"], [expected] * 4, atol=1e-5)


def test_labels_that_the_trainer_takes_away(tmp_path):
    encode = tokenizer()
    callback = recorder(tmp_path, rows("text").map(lambda row: encode(row["text"])), initial_losses=False)
    options = {"save_strategy": "no", "report_to": [], "use_cpu": True, "label_smoothing_factor": 0.1}
    training = Trainer(
        language_model(),
        TrainingArguments(str(tmp_path / "trainer"), **options),
        train_dataset=callback.train_dataset,
        data_collator=DataCollatorForLanguageModeling(encode, mlm=False),
        callbacks=[callback],
    )
    with pytest.raises(InputError, match=r"'labels' \(which label_smoothing_factor takes away\): let compute_loss"):
        training.train()


def test_of_adapters_the_average_is_as_small(tmp_path):
    callback = recorder(tmp_path, rows("text"))
    training = sft_trainer(tmp_path, callback, peft=LoraConfig(r=1, target_modules=["q_proj"]))
    training.train()
    kept = callback._averaged.state_dict()
    adapters = {f"module.{name}": each.shape for name, each in training.model.named_parameters() if "lora" in name}
    assert {name: each.shape for name, each in kept.items() if "rotary" not in name} == adapters


def test_a_checkpoint_every_few_steps(tmp_path):
    train = rows("text")
    callback = recorder(tmp_path, train, losses="evaluation", weights="raw", record_every_steps=4)
    # 33 rows are 9 steps an epoch, and 18 in two.
    training = sft_trainer(tmp_path, callback, num_train_epochs=2, save_strategy="steps", save_steps=4)
    training.train()
    run = callback.trajectories
    assert run.epochs.tolist() == [0, 1, 2, 3, 4]
    assert run.recipe["training"]["record_every_steps"] == 4
    pairs = [encoded("text", train[int(row)]) for row in run.rows]
    model = language_model()
    np.testing.assert_allclose(run.losses[0], losses_of(model, pairs), atol=1e-5)
    for t in (1, 2, 3, 4):
        saved = model.from_pretrained(tmp_path / "trainer" / f"checkpoint-{4 * t}")
        np.testing.assert_allclose(run.losses[t], losses_of(saved, pairs), atol=1e-5)


@pytest.mark.parametrize("step", [2, 9, 13])
@pytest.mark.parametrize("every", [None, 4])
def test_killed_and_resumed_as_if_not_killed(tmp_path, step, every):
    saving = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    found = []
    for name, dies in (("whole", []), ("killed", [Dies("on_step_begin", step)])):
        folder = tmp_path / name
        how = {"losses": "both"} if every is None else {"losses": "evaluation", "record_every_steps": every}
        training = sft_trainer(folder, recorder(folder, rows("text"), **how), extra=dies, **saving)
        if dies:
            with pytest.raises(RuntimeError, match="cable"):
                training.train()
            training = sft_trainer(folder, recorder(folder, rows("text"), **how), **saving)
        training.train(resume_from_checkpoint=bool(dies))
        found.append(Trajectories.load(folder / "run"))
    one, other = found
    assert one.epochs.tolist() == other.epochs.tolist()
    np.testing.assert_allclose(one.losses, other.losses, atol=1e-6)
    np.testing.assert_allclose(one.validation_losses, other.validation_losses, atol=1e-6)
    np.testing.assert_array_equal(one.signals["tokens"], other.signals["tokens"])


def train_with(folder, batch_size):
    callback = recorder(folder, rows("prompt-completion"), losses="both", validation_fraction=4 / 36)
    sft_trainer(folder, callback, per_device_train_batch_size=batch_size).train()


def test_two_processes_record_as_one(tmp_path):
    # 32 rows: no process fills its last batch up with others.
    for world, batch_size in ((1, 8), (2, 4)):
        folder = tmp_path / str(world)
        folder.mkdir()
        assert finish(start(train_with, folder, batch_size, world=world)) == [0] * world
    one, two = (Trajectories.load(tmp_path / world / "run") for world in ("1", "2"))
    assert len(one) == 32
    assert two.recipe["training"]["processes"] == 2
    np.testing.assert_array_equal(one.rows, two.rows)
    np.testing.assert_array_equal(one.signals["tokens"], two.signals["tokens"])
    np.testing.assert_allclose(one.losses, two.losses, atol=1e-5)
    np.testing.assert_allclose(one.signals["evaluation_loss"], two.signals["evaluation_loss"], atol=1e-5)
    np.testing.assert_allclose(one.validation_losses, two.validation_losses, atol=1e-5)


def test_a_plain_trainer_of_tokens(tmp_path):
    encode = tokenizer()
    train = rows("text").map(lambda row: encode(row["text"]))
    callback = recorder(tmp_path, train, losses="both")
    arguments = TrainingArguments(
        str(tmp_path / "trainer"),
        num_train_epochs=2,
        learning_rate=0.0,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
    )
    Trainer(
        language_model(),
        arguments,
        train_dataset=callback.train_dataset,
        data_collator=DataCollatorForLanguageModeling(encode, mlm=False),
        callbacks=[callback],
    ).train()
    run = callback.trajectories
    expected = losses_of(language_model(), [(ids, ids) for ids in train["input_ids"]])
    np.testing.assert_allclose(run.losses, [expected[run.rows]] * 3, atol=1e-5)
    np.testing.assert_allclose(run.signals["evaluation_loss"], [expected[run.rows]] * 3, atol=1e-5)
    np.testing.assert_allclose(run.validation_losses, [expected[run.validation_rows]] * 3, atol=1e-5)


def test_rows_that_are_trained_on_twice_an_epoch(tmp_path):
    train = rows("prompt-completion")
    callback = recorder(tmp_path, train, losses="both")
    callback.train_dataset = concatenate_datasets([callback.train_dataset, callback.train_dataset.select([5, 0, 9])])
    sft_trainer(tmp_path, callback, **FROZEN).train()
    run = callback.trajectories
    expected = losses_of(language_model(), [encoded("prompt-completion", row) for row in train])[run.rows]
    for losses in (run.losses, run.signals["evaluation_loss"]):
        np.testing.assert_allclose(losses, [expected] * 4, atol=1e-5)


def test_sums_of_losses_in_place_of_trajectories(tmp_path):
    train = rows("text")
    found = []
    for store in ("trajectories", "summary"):
        callback = recorder(tmp_path / store, train, store=store)
        sft_trainer(tmp_path / store, callback).train()
        found.append(callback.trajectories.score(train)["ltc_score"])
    np.testing.assert_allclose(*(np.array(each, dtype=float) for each in found), atol=1e-4)


def test_saved_language_models(tmp_path):
    encode = tokenizer()
    train = rows("text").map(lambda row: encode(row["text"]))
    models = [language_model(), language_model(), language_model()]
    for number, model in enumerate(models):
        with torch.no_grad():
            model.lm_head.weight.mul_(1 + number)
        model.save_pretrained(tmp_path / f"checkpoint-{number + 1}")
    run = record_checkpoints(
        [tmp_path / f"checkpoint-{number}" for number in (1, 2, 3)],
        train,
        output_dir=tmp_path / "run",
        collate=DataCollatorForLanguageModeling(encode, mlm=False),
        language_model=True,
        batch_size=5,
    )
    pairs = [(ids, ids) for ids in train["input_ids"]]
    for t, model in enumerate(models):
        expected = losses_of(model, pairs)
        np.testing.assert_allclose(run.losses[t], expected[run.rows], atol=1e-5)
        np.testing.assert_allclose(run.validation_losses[t], expected[run.validation_rows], atol=1e-5)
    assert run.signals["tokens"][0].tolist() == [len(train["input_ids"][row]) - 1 for row in run.rows.tolist()]
    assert run.score(train.remove_columns("attention_mask"))["ltc_rank"].count(None) == 4
    with pytest.raises(InputError, match="`language_model` needs `collate`, which fills rows up"):
        record_checkpoints(models, train, output_dir=tmp_path, language_model=True)
    with pytest.raises(InputError, match=r"`signals` \['margin'\] are of classes"):
        record_checkpoints(models, train, output_dir=tmp_path, language_model=True, signals=["margin"])


def test_validation_samples_of_another_dataset(tmp_path):
    train, validation = rows("chat").select(range(30)), rows("chat").select(range(30, 36))
    callback = recorder(tmp_path, train, validation)
    sft_trainer(tmp_path, callback, assistant_only_loss=True, **FROZEN).train()
    run = callback.trajectories
    assert len(run) == 30
    assert (run.validation_rows == -1).all()
    expected = losses_of(language_model(), [encoded("chat", row) for row in validation])
    np.testing.assert_allclose(run.validation_losses, [expected] * 4, atol=1e-5)
    with pytest.raises(InputError, match=r"validation samples are train rows too \(sample 0 is row 29"):
        recorder(tmp_path / "other", train, rows("chat").select(range(29, 33)))


def test_classes_by_a_column(tmp_path):
    train = rows("text")
    callback = recorder(tmp_path, train, label_column="source", validation_fraction=0.25)
    sft_trainer(tmp_path, callback).train()
    run = callback.trajectories
    assert run.recipe["dataset"]["names"] == ["almanac", "cookery"]
    assert [run.recipe["dataset"]["names"][label] for label in run.labels] == [
        train["source"][row] for row in run.rows.tolist()
    ]
    # A quarter of each, and their own samples.
    assert np.bincount(run.validation_labels).tolist() == [6, 3]
    assert run.score(train, preset="cld")["ltc_score"].count(None) == 9


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"signals": ["margin"]}, r"`signals` \['margin'\] are of classes: leave them out with `language_model`"),
        ({"record_every_steps": 5}, "`record_every_steps` 5 goes with losses='evaluation'"),
        ({"record_every_steps": 0, "losses": "evaluation"}, "`record_every_steps` is 0: it must be 1 or more"),
        ({"label_column": "origin"}, "`label_column` 'origin': no such column"),
    ],
)
def test_settings_that_do_not_go_together(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        recorder(tmp_path, rows("text"), **options)


@pytest.mark.parametrize("name", ["packing", "padding_free", "eval_packing"])
def test_packed_rows_are_refused(tmp_path, name):
    options = {name: True, "max_length": None if name == "padding_free" else 16}
    with pytest.raises(InputError, match=f"{name}=True puts several rows into one sequence"):
        sft_trainer(tmp_path, recorder(tmp_path, rows("text")), **options)


def test_a_trainer_that_was_not_told(tmp_path):
    callback = recorder(tmp_path, rows("text"))
    given = {"train_dataset": callback.train_dataset, "processing_class": tokenizer()}
    training = SFTTrainer(language_model(), settings(tmp_path), callbacks=[callback], **given)
    with pytest.raises(InputError, match=r"no column 'hf_ltc_position'.*call callback.add_to\(trainer\)"):
        training.train()
    with pytest.raises(InputError, match="no validation samples: give eval_dataset=callback"):
        callback.add_to(training)
    of_classes = TrajectoryCallback(tmp_path / "classes", rows("text").class_encode_column("source"))
    with pytest.raises(InputError, match="add_to goes with `language_model`"):
        of_classes.add_to(training)


def test_rows_of_which_no_token_counts(tmp_path):
    train = rows("text")
    short = Dataset.from_dict({"text": [*train["text"][:35], "[EOS]"]})
    callback = recorder(tmp_path, short, train.select(range(35, 36)).remove_columns("source"), allow_shared_rows=True)
    with pytest.raises(InputError, match=r"1 of 36 rows have no token whose loss counts \(rows 35\)"):
        sft_trainer(tmp_path, callback).train()
    folder = tmp_path / "prompts"
    callback = recorder(folder, rows("prompt-completion"))
    with pytest.raises(InputError, match=r"the Trainer has \d+ of the 32 rows .* a prompt fills `max_length`"):
        sft_trainer(folder, callback, max_length=4).train()


def test_too_few_checkpoints(tmp_path):
    callback = recorder(tmp_path, rows("text"), losses="evaluation", record_every_steps=20)
    with pytest.raises(InputError, match=r"records 2 checkpoints .*so lower `record_every_steps`"):
        sft_trainer(tmp_path, callback).train()


def test_models_that_read_the_whole_row(tmp_path):
    set_seed(0)
    encode = tokenizer()
    config = BertConfig(vocab_size=len(encode), hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    config.num_attention_heads = 2
    callback = recorder(tmp_path, rows("text").map(lambda row: encode(row["text"])))
    training = Trainer(
        BertForMaskedLM(config),
        TrainingArguments(str(tmp_path / "trainer"), save_strategy="no", report_to=[], use_cpu=True),
        train_dataset=callback.train_dataset,
        data_collator=DataCollatorForLanguageModeling(encode, mlm=False),
        callbacks=[callback],
    )
    with pytest.raises(InputError, match="the model BertForMaskedLM is no causal language model"):
        training.train()
