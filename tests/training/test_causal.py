"""Losses of language models by row, and rows of which no token counts."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, List, Value

from hf_ltc.training.text import causal
from hf_ltc.training.text.causal import SequenceBatches, check_counted, require_labels, token_losses
from hf_ltc.utils.errors import InputError

LABELS = torch.tensor([[5, 3, -100, 2, -100], [-100, -100, 1, 0, 4]])


def test_the_mean_over_the_tokens_that_count_each_predicted_by_the_one_before():
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    known = logits.double().log_softmax(2)
    # The first label of a row is of no token that is predicted.
    expected = [-(known[0, 0, 3] + known[0, 2, 2]) / 2, -(known[1, 1, 1] + known[1, 2, 0] + known[1, 3, 4]) / 3]
    losses, counts = token_losses({"logits": logits.to(torch.bfloat16).float()}, LABELS)
    assert losses.dtype == torch.float32 and counts.tolist() == [2, 3]
    losses, _ = token_losses({"logits": logits}, LABELS)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    # In low precision the sum over the vocabulary is still one of float32.
    low, _ = token_losses({"logits": logits.to(torch.bfloat16)}, LABELS)
    np.testing.assert_allclose(low, token_losses({"logits": logits.to(torch.bfloat16).float()}, LABELS)[0])
    # What fills rows up changes nothing.
    filled = torch.cat([logits, torch.randn(2, 3, 7)], dim=1)
    longer = torch.cat([LABELS, torch.full((2, 3), -100)], dim=1)
    torch.testing.assert_close(token_losses({"logits": filled}, longer)[0], losses, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("outputs", "shown"),
    [({"logits": torch.zeros(2, 3)}, r"\[2, 3\]"), ({}, "NoneType"), (torch.zeros(2, 5, 7), "NoneType")],
)
def test_models_that_return_no_logits_of_tokens(outputs, shown):
    with pytest.raises(InputError, match=f"the model returned {shown} where logits of shape .* of shape \\[2, 5\\]"):
        token_losses(outputs, LABELS)


@pytest.mark.parametrize(
    ("batch", "shown"),
    [
        ({"labels": LABELS}, r"of shape \[2, 5\]"),
        ({"labels": LABELS.reshape(1, -1)}, r"of shape \[1, 10\]"),
        ({}, "m"),
    ],
)
def test_batches_whose_rows_have_no_labels_of_their_own(batch, shown):
    with pytest.raises(InputError, match=f"the labels of a batch of 3 rows are {shown}"):
        require_labels(batch, 3)


def test_rows_without_a_token_that_counts(monkeypatch):
    # Rows of several parts are told by their own numbers.
    monkeypatch.setattr(causal, "_CHUNK", 2)
    labels = [[1, 2], [-100, -100, 3], [7], [], [4, -100], [-100, 5]]
    features = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32"))})
    rows = Dataset.from_dict({"input_ids": [[9] * len(each) for each in labels], "labels": labels}, features)
    with pytest.raises(InputError, match=r"3 of 6 samples have no token whose loss counts \(rows 12, 13, 14\)"):
        check_counted(rows, "samples", np.arange(10, 16))
    check_counted(rows.select([0, 1, 5]), "samples", np.arange(3))
    # Where the collator makes the labels all tokens are taken to count.
    check_counted(rows.select([0, 1, 4, 5]).remove_columns("labels"), "samples", np.arange(4))
    batches = SequenceBatches(rows.select([5, 0, 2]), list, torch.device("cpu"))
    assert batches.lengths.tolist() == [2, 2, 1]
