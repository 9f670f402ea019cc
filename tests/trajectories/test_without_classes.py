"""Rows of language models, which have no class: scored, balanced by any column, and refused where classes count."""

import dataclasses

import numpy as np
import pytest
from datasets import ClassLabel

from hf_ltc.coresets.select import in_coreset, rank_coreset, select_coreset
from hf_ltc.report.audit import audit
from hf_ltc.report.page.write import write_report
from hf_ltc.scores.ltc import VARIANTS, ltc_scores
from hf_ltc.scores.scorers import LTCScorer
from hf_ltc.trajectories.compare import reliability
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError, LTCWarning
from tests.chats import chats, recorded


@pytest.fixture
def rows():
    return chats()


@pytest.fixture
def run(rows, tmp_path):
    return recorded(tmp_path / "run", rows)


def test_scores_of_all_rows_alike(run, rows):
    assert run.recipe["dataset"]["classes"] == 0
    assert len(run) == 48
    scored = run.score(rows)
    scores = np.array(scored["ltc_score"], dtype=float)
    order = np.argsort(-scores[run.rows], kind="stable")
    # Those that score best first, whatever their source.
    assert np.array(scored["ltc_rank"], dtype=float)[run.rows][order].tolist() == list(range(48))
    assert select_coreset(scored, 0.25, balance="none").num_rows == 12
    said = r"\(one of 'source', 'turns'\) or cast .*; rows without classes are chosen with `balance` 'none'"
    for choose in (rank_coreset, lambda rows: select_coreset(rows, 0.25)):
        with pytest.raises(InputError, match=said):
            choose(scored)
    assert run.attach(rows, ["tokens"])["tokens_trajectory"][int(run.rows[0])] == [3.0] * 5
    mapped = run.attach(rows).map(LTCScorer.from_trajectories(run), batched=True)
    assert mapped["ltc_score"] == scored["ltc_score"]


def test_typical_rows_come_first_only_where_it_is_asked_for(run, rows):
    alone = run.score(rows)
    assert "ltc_typicality" not in alone.column_names
    asked = run.score(rows, typical=0.1)
    first = [row for row, rank in enumerate(asked["ltc_rank"]) if rank is not None and rank < 5]
    typicality = np.array(asked["ltc_typicality"], dtype=float)
    assert sorted(np.argsort(-np.nan_to_num(typicality, nan=-np.inf))[:5]) == first
    assert asked["ltc_rank"] != alone["ltc_rank"]
    # What another score left there is not taken for this recording's.
    again = run.score(asked)
    assert "ltc_typicality" not in again.column_names and again["ltc_rank"] == alone["ltc_rank"]
    mapped = run.attach(asked).map(LTCScorer.from_trajectories(run), batched=True)
    assert set(mapped["ltc_typicality"]) == {None}
    assert rank_coreset(mapped, balance="none")["ltc_rank"] == alone["ltc_rank"]


def test_language_models_whose_rows_have_classes(rows, tmp_path):
    run = recorded(tmp_path / "by source", rows, label_column="source")
    assert run.recipe["dataset"]["classes"] == 3
    assert "ltc_typicality" not in run.score(rows).column_names
    # Weighted by uncertainty they are not either, however long the recording.
    long = dataclasses.replace(
        run,
        losses=np.repeat(run.losses, 6, axis=0),
        validation_losses=np.repeat(run.validation_losses, 6, axis=0),
        epochs=np.arange(30),
        lengths=(30,),
        signals={},
    )
    np.testing.assert_array_equal(ltc_scores(long), ltc_scores(long, preset="das"))


def test_weights_instead_of_a_choice(run, rows):
    weighted = run.weights(rows, preset="das")
    scores = np.fmax(np.array(weighted["ltc_score"], dtype=float)[run.rows], 0)
    np.testing.assert_allclose(np.array(weighted["weight"], float)[run.rows], scores / scores.mean(), rtol=1e-5)
    assert weighted["weight"].count(None) == len(run.validation_rows)
    assert weighted["ltc_score"] == run.score(rows, preset="das")["ltc_score"]
    with pytest.raises(InputError, match="`weight_column` 'turns' is a column of the dataset already: give another"):
        run.weights(rows, weight_column="turns")
    assert run.weights(weighted, preset="das", weight_column="w")["w"] == weighted["weight"]


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant["scope"] == "class"])
def test_scores_by_class_are_refused(run, rows, variant):
    said = "no classes, which scope='class' needs: give scope='dataset'"
    for score in (lambda: ltc_scores(run, **variant), lambda: run.score(rows, **variant)):
        with pytest.raises(InputError, match=said):
            score()
    with pytest.raises(InputError, match=said):
        LTCScorer.from_trajectories(run, preset="cld")


def test_pages_and_audits_are_refused(run, rows, tmp_path):
    with pytest.raises(InputError, match="no classes, which an audit looks through"):
        audit(run, rows)
    with pytest.raises(InputError, match="no classes, which the page shows"):
        write_report(run, rows, tmp_path / "page.html")


@pytest.mark.parametrize("column", ["source", "turns"])
def test_any_column_takes_the_place_of_classes(run, rows, column):
    scored = run.score(rows, balance=column)
    encoded = run.attach(rows.class_encode_column(column)).map(LTCScorer.from_trajectories(run), batched=True)
    expected = rank_coreset(encoded, label_column=column)
    assert scored["ltc_rank"] == expected["ltc_rank"]
    kept = select_coreset(scored, size=12, balance=column)
    assert kept["messages"] == expected.select(np.flatnonzero(np.array(scored["ltc_rank"], float) < 12))["messages"]
    values = list(kept[column])
    assert {values.count(value) for value in set(values)} == {12 // len(set(rows[column]))}
    clusters = select_coreset(scored, size=12, balance=column, coverage="clusters", clusters=6)
    values = list(clusters[column])
    assert {values.count(value) for value in set(values)} == {12 // len(set(rows[column]))}


def test_columns_that_cannot_be_balanced_by(run, rows):
    scored = run.score(rows)
    with pytest.raises(InputError, match="`balance` is 'sources': it must be one of class, proportional, none, or"):
        select_coreset(scored, 0.1, balance="sources")
    with pytest.raises(InputError, match="`balance` is the column 'source', and `label_column` is 'turns'"):
        select_coreset(scored, 0.1, balance="source", label_column="turns")
    with pytest.raises(InputError, match="column 'ltc_score' holds float32, not class labels: choose another `bal"):
        select_coreset(scored, 0.1, balance="ltc_score")
    with pytest.raises(
        InputError, match=r"'loss_trajectory' holds lists, .* each row has one class: choose another `b"
    ):
        select_coreset(scored, 0.1, balance="loss_trajectory")
    gone = rows.map(lambda row: {"source": None if row["turns"] == 2 else row["source"]})
    with pytest.raises(
        InputError, match=r"column 'source' has 20 rows without one of its 3 classes \(row 2: null.*other `b"
    ):
        run.score(gone, balance="source")


def test_classes_that_the_recording_did_not_have(rows, tmp_path):
    rows = rows.add_column("quality", [i % 2 for i in range(60)]).cast_column("quality", ClassLabel(num_classes=2))
    run = recorded(tmp_path / "run", rows)
    scored = run.score(rows)
    # Whoever does not say "none" is told that the order is another one.
    with pytest.warns(LTCWarning, match="'ltc_rank' has another order of these rows .* `balance` and `typical` too"):
        assert np.bincount(select_coreset(scored, size=12)["quality"]).tolist() == [6, 6]
    kept = select_coreset(scored, size=12, balance="none")
    assert sorted(kept["ltc_rank"]) == list(range(12))
    first = scored.filter(in_coreset, fn_kwargs={"size": 12}, input_columns="ltc_rank", batched=True)
    assert kept["messages"][:] == first["messages"][:]


def test_other_rows_are_refused(run, rows):
    with pytest.raises(InputError, match="'messages' differs on the rows compared"):
        run.attach(rows.shuffle(seed=1))
    with pytest.raises(InputError, match="the dataset has 59 rows, the recorded one had 60"):
        run.attach(rows.select(range(59)))
    # Other columns may come and go.
    assert run.attach(rows.remove_columns("source")).num_rows == 60


def test_runs_are_kept_and_joined(rows, run, tmp_path):
    other = recorded(tmp_path / "other", rows, seed=1)
    both = Trajectories.average([run, other])
    both.save(tmp_path / "both")
    assert Trajectories.load(tmp_path / "both").score(rows)["ltc_score"] == both.score(rows)["ltc_score"]
    assert -1 <= reliability([run, other]).one <= 1
    run.to_parquet(tmp_path / "parquet")
    assert Trajectories.from_parquet(tmp_path / "parquet").score(rows)["ltc_rank"] == run.score(rows)["ltc_rank"]
