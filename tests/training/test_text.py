"""Texts as tokens: the ids that a tokenizer gives, in one buffer; padding changes no loss."""

import itertools
import re
import zlib

import numpy as np
import pytest
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import AutoTokenizer, ViTConfig

from hf_ltc.data.labels import read_labels
from hf_ltc.training.forward import features_of
from hf_ltc.training.inputs import load_encoder
from hf_ltc.training.loop import TrainingConfig, epoch_shares, steps_per_epoch
from hf_ltc.training.models import create_model, load_model, save_model
from hf_ltc.training.text.classifiers import create_text_model
from hf_ltc.training.text.encoders import _WORD, WordHashes, text_encoder
from hf_ltc.training.text.tokens import StoredTexts, token_batches
from tests.helpers import error_of
from tests.texts import CONFIGS, docstrings, save_source, save_tokenizer

CPU = torch.device("cpu")
CLASSES = 4


@pytest.fixture(scope="module")
def rows():
    return docstrings(120)


@pytest.fixture(scope="module")
def sources(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return {kind: save_source(folder / kind, kind, rows["text"]) for kind in CONFIGS}


def batches_of(rows, model, columns=("text",), max_length=None):
    stored = StoredTexts(rows, list(columns), text_encoder(model, max_length))
    return token_batches(stored, read_labels(rows, "label"), CPU)


@pytest.mark.parametrize("columns", [("text",), ("name", "text")])
@pytest.mark.parametrize("kind", ["embedding_bag", *CONFIGS])
def test_padding_changes_no_loss(rows, sources, kind, columns):
    name = sources.get(kind, kind)
    batches = batches_of(rows, name, columns, 40)
    torch.manual_seed(0)
    model = create_text_model(name, CLASSES, batches.stored.encoder).eval()
    assert len(set(batches.lengths)) > 10
    with torch.no_grad():
        ((inputs, _, positions),) = batches([np.arange(len(rows))])
        together = model(**inputs)
        alone = torch.cat([model(**one) for one, _, _ in batches(np.arange(len(rows))[:, None])])
    assert positions.tolist() == list(range(len(rows))) and together.std() > 0.01
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["embedding_bag", *CONFIGS])
def test_padding_changes_no_features(rows, sources, kind):
    name = sources.get(kind, kind)
    batches = batches_of(rows, name, max_length=40)
    torch.manual_seed(0)
    model = create_text_model(name, CLASSES, batches.stored.encoder)
    together, alone = (features_of(model, batches, PartialState(), size, CLASSES) for size in (len(rows), 1))
    assert together.std() > 0.01
    np.testing.assert_allclose(alone, together, atol=2e-3, rtol=2e-3)


def test_ids_are_those_of_the_tokenizer_and_the_rest_is_counted(rows, sources):
    tokenizer = AutoTokenizer.from_pretrained(sources["bert"].removeprefix("transformers:"))
    for columns in (("text",), ("name", "text")):
        given = [list(rows[column]) for column in columns]
        batches = batches_of(rows, sources["bert"], columns, 20)
        expected = tokenizer(*given, truncation=True, max_length=20, padding=True, return_tensors="pt")
        ((inputs, _, _),) = batches([np.arange(len(rows))])
        whole = [len(ids) for ids in tokenizer(*given)["input_ids"]]
        assert torch.equal(inputs["input_ids"], expected["input_ids"])
        assert torch.equal(inputs["attention_mask"], expected["attention_mask"])
        if len(columns) == 2:
            assert torch.equal(inputs["token_type_ids"], expected["token_type_ids"])
            assert inputs["token_type_ids"].max() == 1
        assert batches.tokens.truncated == sum(length > 20 for length in whole) > 0
    assert text_encoder(sources["bert"]).max_length == 64
    # Positions are counted from behind the padding.
    assert text_encoder(sources["roberta"]).max_length == 65
    beside = sources["bert"] + "/config.json"
    assert text_encoder(beside).vocabulary == len(tokenizer)


def test_word_hashes_are_of_words_and_of_two_in_a_row():
    def number(gram):
        return 1 + zlib.crc32(gram.encode()) % 2**15

    hashes = WordHashes(3)
    found = hashes.encode(["What, WHAT is it?", "東京 ok"])
    grams = [",", "what", "what ,", ", what"]
    assert sorted(found.ids[0]) == sorted(map(number, ["what", *grams]))
    assert found.ids[1] == list(map(number, ["東", "京", "ok", "東 京", "京 ok"]))
    # What stands behind three words is left out, and counted.
    assert found.truncated == 1 and found.types is None
    (pair,) = hashes.encode(["a b"], ["a b"]).ids
    assert pair[:3] == hashes.encode(["a b"]).ids[0] and not set(pair[:3]) & set(pair[3:])
    assert min(pair) > 0 and max(pair) < hashes.vocabulary


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ㅋㅋㅋ 재밌다", ["ㅋㅋㅋ", "재밌다"]),
        ("ㄅㄆ ㈱", ["ㄅㄆ", "㈱"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("ที่นี่ 1", ["ที่นี่", "1"]),
        ("cafe\u0301s \u0301", ["cafe\u0301s", "\u0301"]),
        ("a豈b か\u3099", ["a", "豈", "b", "か\u3099"]),
    ],
)
def test_words_of_any_script_are_whole(text, words):
    assert _WORD.findall(text) == words


def test_rows_that_are_taken_share_the_buffer(rows):
    view = rows.shuffle(seed=1).with_format("torch")
    batches = batches_of(view, "embedding_bag")
    at = np.array([5, 2, 90])
    taken = batches.take(at)
    ((one, labels, positions),) = taken([np.arange(3)])
    ((other, _, _),) = batches([at])
    assert torch.equal(one["input_ids"], other["input_ids"]) and positions.tolist() == [0, 1, 2]
    assert labels.tolist() == read_labels(view, "label")[at].tolist()
    assert taken.tokens.ids is batches.tokens.ids and batches.tokens.ids.dtype == torch.int32
    expected = WordHashes().encode([view.with_format(None)["text"][int(row)] for row in at]).ids
    assert [ids[mask.bool()].tolist() for ids, mask in zip(one["input_ids"], one["attention_mask"])] == expected


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([None, "a", "b"], "1 of 3 texts of column 'text' are null (rows 10)"),
        (["a", " \n", ""], "2 of 3 texts of column 'text' are empty (rows 11, 12)"),
    ],
)
def test_texts_of_nothing_are_refused(texts, said):
    rows = Dataset.from_dict({"text": texts, "label": [0, 1, 0]})
    stored = StoredTexts(rows, ["text"], WordHashes(), np.array([10, 11, 12]))
    assert said in error_of(stored.read)


def test_a_pair_needs_one_text():
    rows = Dataset.from_dict({"one": ["a", ""], "two": ["", "b"]})
    assert StoredTexts(rows, ["one", "two"], WordHashes()).read().lengths.tolist() == [1, 1]
    rows = Dataset.from_dict({"one": ["a", "\x00\x01"], "two": ["", "\u200b"]})
    assert StoredTexts(rows, ["two"], WordHashes()).take(np.array([1])).numbers.tolist() == [1]
    assert "2 of 2 texts of column 'one' and 'two' are empty" in error_of(
        StoredTexts(Dataset.from_dict({"one": ["", " "], "two": ["", ""]}), ["one", "two"], WordHashes()).read
    )


def test_models_that_take_no_texts_are_refused(rows, sources, tmp_path):
    assert error_of(text_encoder, "resnet18") == (
        "`model` 'resnet18' does not take texts: give embedding_bag, or transformers:NAME of a sequence classifier"
    )
    CONFIGS["bert"].save_pretrained(tmp_path / "bare")
    assert "no tokenizer of `model`" in error_of(text_encoder, f"transformers:{tmp_path / 'bare'}")
    assert "no such folder or file" in error_of(text_encoder, "transformers:./nowhere")
    save_tokenizer(tmp_path / "bare", rows["text"], padding=False)
    message = error_of(text_encoder, f"transformers:{tmp_path / 'bare'}")
    assert "has no padding token" in message and "tokenizer.pad_token = tokenizer.eos_token" in message
    assert "`max_length` is 65, but `model`" in error_of(text_encoder, sources["bert"], 65)
    for pair, least in ((False, 3), (True, 4)):
        said = error_of(text_encoder, sources["bert"], least - 1, pair=pair)
        assert said.startswith(f"`max_length` is {least - 1}, but the tokenizer of `model` ")
        assert said.endswith(f" puts {least - 1} tokens around a {'pair of texts' if pair else 'text'}: raise it")
        encoder = text_encoder(sources["bert"], least, pair=pair)
        found = encoder.encode(["what is it"], ["what is it"] if pair else None)
        assert list(map(len, found.ids)) == [least] and found.truncated == 1
    encoder = text_encoder("embedding_bag")
    assert "there are no weights of it" in error_of(create_text_model, "embedding_bag", 2, encoder, pretrained=True)
    assert "`model` 'embedding_bag' takes texts, not images" in error_of(create_model, "embedding_bag", 2, 32)
    encoder = text_encoder(sources["bert"])
    ViTConfig().save_pretrained(tmp_path / "vit")
    message = error_of(create_text_model, f"transformers:{tmp_path / 'vit'}", 2, encoder)
    assert "is no sequence classifier" in message
    CONFIGS["bert"].__class__(**{**CONFIGS["bert"].to_dict(), "vocab_size": 99}).save_pretrained(tmp_path / "few")
    message = error_of(create_text_model, f"transformers:{tmp_path / 'few'}", 2, encoder)
    assert "has embeddings of 99 tokens, and its tokenizer" in message
    CONFIGS["bert"].__class__(**{**CONFIGS["bert"].to_dict(), "max_position_embeddings": 8}).save_pretrained(
        tmp_path / "short"
    )
    message = error_of(create_text_model, f"transformers:{tmp_path / 'short'}", 2, encoder)
    assert re.search(r"does not take texts of 64 tokens .*: lower `max_length`", message)
    assert "takes images, which need no encoder" in error_of(load_encoder, saved(create_image(), tmp_path / "image"))


def create_image():
    return create_model("test_resnet", 2, 32), {"name": "test_resnet", "num_classes": 2, "image_size": 32}


def saved(made, folder):
    model, settings = made
    folder.mkdir()
    save_model(folder, model, {"stem": "auto", **settings})
    return folder


@pytest.mark.parametrize("kind", ["embedding_bag", "bert"])
def test_a_saved_model_reads_texts_again(rows, sources, tmp_path, kind):
    name = sources.get(kind, kind)
    encoder = text_encoder(name, 30)
    model = create_text_model(name, CLASSES, encoder).eval()
    settings = {"name": name, "num_classes": CLASSES, "max_length": 30, "vocabulary": encoder.vocabulary}
    folder = saved((model, settings), tmp_path / "model")
    encoder.save(folder)
    again, encode = load_model(folder), load_encoder(str(folder))
    assert not again.training
    ((inputs, _, _),) = batches_of(rows, name, max_length=30)([np.arange(9)])
    texts = list(rows["text"][:9])
    assert torch.equal(again(**encode(texts)), model(**inputs))
    assert encode(texts, texts)["input_ids"].shape[1] > 0
    assert error_of(encode, "hello you") == "`texts` is the string 'hello you': give a list of strings"
    assert error_of(encode, ["a"], "b") == "`pairs` is the string 'b': give a list of strings"
    assert error_of(encode, []) == "`texts` is empty: give at least one text"
    if kind == "embedding_bag":
        said = error_of(encode, ["a", "", " "])
        assert said == "2 of 3 texts have no words or signs (numbers 1, 2): leave them out"


@pytest.mark.parametrize("processes", [1, 3])
def test_steps_have_rows_of_like_length(processes):
    rows, lengths = 1000, np.random.default_rng(0).integers(1, 200, 1000)
    config = TrainingConfig(epochs=2, batch_size=24 // processes, seed=3)
    assert steps_per_epoch(rows, config, processes) == 42

    def steps(epoch, **options):
        shares = [list(epoch_shares(rows, config, epoch, each, processes, **options)) for each in range(processes)]
        return [np.concatenate([positions for ((positions, _, _),) in step]) for step in zip(*shares)]

    alike, others = steps(1, lengths=lengths), steps(1)
    assert sorted(itertools.chain(*alike)) == list(range(rows))
    assert max(np.ptp(lengths[step]) for step in alike) < 20 < min(np.ptp(lengths[step]) for step in others)
    # Not from short to long, and another way each epoch.
    means = np.array([lengths[step].mean() for step in alike])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5
    assert sorted(map(tuple, alike)) != sorted(map(tuple, steps(2, lengths=lengths)))
    alone = [
        positions.tolist()
        for ((positions, _, _),) in epoch_shares(
            rows, TrainingConfig(epochs=2, batch_size=24, seed=3), 1, lengths=lengths
        )
    ]
    assert alone == [step.tolist() for step in alike]
