"""docs/guides/other-tools.md on files that aum, cleanlab and Dataset Cartography's format have of one training."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from aum import AUMCalculator
from scipy.stats import spearmanr
from sklearn.datasets import load_digits

from hf_ltc.scores.ltc import ltc_scores

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "other-tools.md"
EPOCHS = 6


@pytest.fixture(scope="module")
def trained():
    """Rows, labels and the logits of each epoch, of train rows and of the validation samples among them."""
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = torch.tensor(pixels[:300] / 16, dtype=torch.float32), torch.tensor(labels[:300])
    held = torch.arange(300) % 5 == 0
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    found = {
        "train": (torch.arange(300)[~held], labels[~held], []),
        "validation": (torch.arange(60), labels[held], []),
    }
    for _ in range(EPOCHS):
        logits = model(pixels)
        for name, part in (("train", ~held), ("validation", held)):
            found[name][2].append(logits[part].detach())
        for batch in torch.nonzero(~held)[:, 0].split(16):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(pixels[batch]), labels[batch]).backward()
            optimizer.step()
    return found


@pytest.fixture(scope="module")
def true(trained):
    """Scores by the losses themselves, the first being of the untrained model, as another tool cannot know."""
    tables = [
        torch.stack([torch.nn.functional.cross_entropy(each, labels, reduction="none") for each in logits])
        for _, labels, logits in trained.values()
    ]
    return tables


def run_block(tool, folder, monkeypatch):
    (code,) = re.findall(rf"## {tool}\n.*?```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(folder)
    names = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


def shuffled(count, seed):
    return np.random.default_rng(seed).permutation(count)


def assert_recorded(run, trained, true, exact=True):
    assert run.labels.tolist() == trained["train"][1].tolist()
    assert run.epochs.tolist() == [*range(1, EPOCHS + 1)]
    assert run.validation_labels.tolist() == trained["validation"][1].tolist()
    if exact:
        np.testing.assert_allclose(run.losses, true[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(run.validation_losses, true[1], rtol=1e-5, atol=1e-6)
    expected = ltc_scores(*true, preset="das")
    scores = ltc_scores(run, preset="das")
    assert np.abs(scores - expected).max() < 1e-4 if exact else spearmanr(scores, expected)[0] > 0.7
    assert np.isfinite(ltc_scores(run)).all()


def test_cartography(trained, true, tmp_path, monkeypatch):
    for name, (rows, labels, logits) in trained.items():
        folder = tmp_path / name / "training_dynamics"
        folder.mkdir(parents=True)
        for epoch, each in enumerate(logits):
            lines = [
                json.dumps({"guid": int(rows[i]), f"logits_epoch_{epoch}": each[i].tolist(), "gold": int(labels[i])})
                for i in shuffled(len(rows), epoch)
            ]
            (folder / f"dynamics_epoch_{epoch}.jsonl").write_text("\n".join(lines) + "\n")
    run = run_block("Dataset Cartography", tmp_path, monkeypatch)["run"]
    assert run.rows.tolist() == trained["train"][0].tolist()
    assert_recorded(run, trained, true)


# aum 1.0.2 with pandas 3.
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_aum(trained, true, tmp_path, monkeypatch):
    for name, folder in (("train", "aum"), ("validation", "aum-validation")):
        rows, labels, logits = trained[name]
        calculator = AUMCalculator(str(tmp_path / folder), compressed=False)
        for epoch, each in enumerate(logits):
            for batch in np.array_split(shuffled(len(rows), epoch), 3):
                calculator.update(each[batch], labels[batch], rows[batch].tolist())
        calculator.finalize()
    found = run_block("AUM", tmp_path, monkeypatch)
    run, aum = found["run"], found["aum"]
    assert run.rows.tolist() == trained["train"][0].tolist()
    assert_recorded(run, trained, true, exact=False)
    theirs = found["pd"].read_csv("aum/aum_values.csv").set_index("sample_id")["aum"].loc[run.rows]
    np.testing.assert_allclose(aum, theirs, atol=1e-5)
    # As the page says: less than the whole loss, by the logarithm of the other nine classes at most.
    less = true[0].numpy() - run.losses
    assert less.min() > -1e-5 and less.max() < np.log(9) + 1e-5


def test_cleanlab(trained, true, tmp_path, monkeypatch):
    for name, folder, file in (
        ("train", "pred_probs", "labels"),
        ("validation", "pred_probs-validation", "validation_labels"),
    ):
        _, labels, logits = trained[name]
        (tmp_path / folder).mkdir()
        np.save(tmp_path / f"{file}.npy", labels)
        for epoch, each in enumerate(logits):
            np.save(tmp_path / folder / f"epoch-{epoch:02d}.npy", each.softmax(1).numpy())
    assert_recorded(run_block("cleanlab", tmp_path, monkeypatch)["run"], trained, true)
