"""The commands, thin over the functions of the package: each takes its options, and prints what it found."""

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import DataConfig, EvaluateConfig, RecordConfig
from ..utils.errors import InputError
from .following import (
    after_select,
    beside,
    differing,
    found_anywhere,
    next_command,
    next_in_python,
    repository_name,
    some_fraction,
    unless,
)
from .terminal import spelled

if TYPE_CHECKING:
    from datasets import Dataset

    from ..trajectories.value import Trajectories


def _family(options: argparse.Namespace) -> dict[str, str]:
    names = ("preset", "of", "aggregate", "scope", "weighting")
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _config(options: argparse.Namespace, settings: Any) -> Any:
    return settings(**{field.name: getattr(options, field.name) for field in dataclasses.fields(settings)})


def record(options: argparse.Namespace) -> None:
    config: RecordConfig = _config(options, RecordConfig)
    data: DataConfig = _config(options, DataConfig)
    from ..data.load import load_split
    from ..recording.record import record
    from ..scores.reliability import Reliability

    train = load_split(data.dataset, data.split, name=data.dataset_config, revision=data.revision)
    validation = None
    if data.validation_split is not None:
        validation = load_split(data.dataset, data.validation_split, name=data.dataset_config, revision=data.revision)
    run = record(config, train, validation, source=data.source())
    if os.environ.get("RANK", "0") != "0":
        return
    seconds, stored = run.recipe.get("seconds", {}), run.recipe.get("reliability")
    result = {
        "run": config.output_dir,
        "rows": len(run),
        "validation_rows": len(run.validation_labels),
        "checkpoints": list(run.lengths),
        "validation_loss": float(run.validation_losses[-1].mean()),
        "seconds": seconds,
        "reliability": stored,
    }
    text = [
        f"Recorded {len(run):,} rows and {len(run.validation_labels):,} validation samples at "
        f"{' + '.join(map(str, run.lengths))} checkpoints in {sum(seconds.values()):.0f} s "
        f"(validation loss {result['validation_loss']:.3f}).",
        *([str(Reliability.from_dict(stored))] if stored else []),
    ]
    run_dir = Path(config.output_dir)
    _report(options, result, text, next_command("score", run_dir, output=beside(run_dir, "-scored")))


def score(options: argparse.Namespace) -> None:
    import pyarrow.compute as pc

    from ..data.columns import read_column
    from ..scores.diagnostics import hard_first
    from ..scores.ltc import ltc_scores, score_variant
    from ..scores.reliability import reliability_of
    from ..trajectories.value import Trajectories
    from ..utils.files import finite
    from .outputs import SCORED, check_output, save

    run = Trajectories.load(options.run, losses=options.losses)
    source = run.recipe.get("dataset") or {}
    output = check_output(options.output, SCORED, options.run, options.dataset or source.get("path"))
    train = _recorded_split(options, run)
    family = _family(options)
    scored = run.score(train, balance=options.balance, **family)
    each = [ltc_scores(one, **family) for one in run.runs]
    found = reliability_of(each, run.labels) if len(each) > 1 else None
    scores = read_column(scored, "ltc_score")
    hard = hard_first(ltc_scores(run, **family), run)
    count, held = len(scores) - scores.null_count, read_column(scored, "loss_trajectory").null_count
    result = {
        "output": options.output,
        "rows": len(scored),
        "scored": count,
        "flat": len(scored) - held - count,
        "held_out": held,
        "mean": pc.mean(scores).as_py(),
        "reliability": found and found.to_dict(),
        "mean_loss_correlation": finite(hard),
    }
    made = {
        # As it is now, whatever the default will be.
        "family": score_variant(**family),
        "losses": run.loss_name,
        "balance": options.balance,
        "reliability": result["reliability"],
        # What the next commands have to be given, which never leaves this machine.
        "run": str(Path(options.run).resolve()),
        "dataset": found_anywhere(options.dataset),
    }
    save(scored, output, {**run.recipe, SCORED: made})
    text = [
        f"Scored {count:,} of {len(scored):,} rows ({held:,} held out, {result['flat']:,} flat), "
        f"mean {result['mean']:.3f}."
        if count
        else "No row has a score: all trajectories are flat.",
        *([str(found)] if found else []),
    ]
    fraction = some_fraction(result["rows"] - held, source)
    following = next_command(
        "select",
        Path(options.output),
        fraction=fraction,
        balance=unless("class", options.balance),
        output=beside(options.output, f"-{100 * fraction:g}pct"),
    )
    _report(options, result, text, following)


def select(options: argparse.Namespace) -> None:
    from datasets import load_from_disk

    from ..coresets.select import select_coreset
    from ..coresets.summary import describe_coreset
    from ..utils.errors import one_line
    from .outputs import CORESET, SCORED, check_output, recipe_beside, save

    output = check_output(options.output, CORESET, options.scored)
    if not (Path(options.scored) / "state.json").is_file():
        raise InputError(
            f"no scored dataset {options.scored!r}: make one with hf-ltc score RUN --output {options.scored}"
        )
    try:
        scored = load_from_disk(options.scored)
    except Exception as error:
        raise InputError(
            f"cannot load the scored dataset {options.scored!r} ({one_line(error)}): make it again with hf-ltc score"
        ) from error
    names = ("fraction", "size", "balance", "score_column", "label_column", "keep", "coverage", "min_per_class")
    kept = {name: getattr(options, name) for name in (*names, "exclude_negative", "seed")}
    recipe = recipe_beside(options.scored)
    recorded = (recipe.get("dataset") or {}).get("label_column")
    if kept["label_column"] is None and recorded in scored.column_names:
        kept["label_column"] = recorded
    coreset = select_coreset(scored, **kept)
    summary = describe_coreset(
        coreset,
        scored,
        score_column=options.score_column,
        label_column=kept["label_column"],
        exclude_negative=options.exclude_negative,
    )
    made = {**kept, "rows": summary.rows, "pool": summary.pool}
    save(coreset, output, {**recipe, CORESET: made})
    following = [next_in_python(f"import datasets; coreset = datasets.load_from_disk({options.output!r})")]
    if "run" in recipe.get(SCORED, {}):
        following.insert(0, after_select(recipe, options.scored, made))
    _report(options, {"output": options.output, **summary.to_dict()}, [str(summary)], *following)


def push(options: argparse.Namespace) -> None:
    from datasets import load_from_disk

    from ..data.columns import read_column
    from ..hub.parquet import scorer_name
    from ..hub.push import push_coreset
    from ..hub.repository import check_repo_id
    from ..trajectories.hub import push_source_model, source_model_folder
    from ..trajectories.value import Trajectories

    # All of them before any work is done.
    for name in ("repo_id", "source", "source_model"):
        if (given := getattr(options, name)) is not None:
            check_repo_id(given, name)
    if options.source_model is not None:
        source_model_folder(options.run)
    run = Trajectories.load(options.run, losses=options.losses)
    if options.scored is None:
        scored = run.score(_recorded_split(options, run), balance=options.balance, **_family(options))
    elif (Path(options.scored) / "state.json").is_file():
        scored = load_from_disk(options.scored)
    else:
        raise InputError(f"no scored dataset {options.scored!r}: make one with hf-ltc score, or Dataset.save_to_disk")
    splits = {name: _recorded_split(options, run, name) for name in options.splits}
    if options.held_out:
        if "validation" in splits or not (run.validation_rows >= 0).any():
            raise InputError("--held-out: no rows were held out of training, or --splits has a validation already")
        splits["validation"] = scored.select(run.validation_rows)
    evaluation, pictures = _evaluation(options, run)
    pushed = push_coreset(
        scored,
        options.repo_id,
        options.fractions,
        options.sizes,
        trajectories=run,
        scores_only=options.scores_only,
        full=options.full,
        with_trajectories=options.trajectories,
        splits=splits,
        pictures=[*sorted(Path(options.run).glob("*.png")), *pictures],
        evaluation=evaluation,
        source={"repo_id": options.source} if options.source else None,
        dataset_name=options.dataset_name,
        license=options.license,
        private=options.private or None,
        max_shard_size=options.max_shard_size,
        score_column=options.score_column,
        balance=options.balance,
        keep=options.keep,
    )
    # After what may be refused.
    model = options.source_model and push_source_model(
        options.run, options.source_model, dataset_name=options.dataset_name, private=options.private or None
    )
    result: dict[str, Any] = {
        "repo_id": pushed.repo_id,
        "url": pushed.url,
        "revision": pushed.revision,
        "configs": list(pushed.configs),
    }
    text = [str(pushed)]
    if model:
        result["source_model"] = {"repo_id": model.repo_id, "url": model.url, "revision": model.revision}
        text.append(str(model))
    first = pushed.configs[0]
    if first.startswith("coreset"):
        loaded = f"import datasets; coreset = datasets.load_dataset({pushed.repo_id!r}, {first!r}, split='train')"
    else:
        pool = len(scored) - read_column(scored, options.score_column).null_count
        budget = f"fraction={(options.fractions or [some_fraction(pool, {})])[0]:g}"
        scorer = scorer_name(options.score_column)
        budget += "" if scorer == "ltc" else f", scorer={scorer!r}"
        loaded = f"import hf_ltc; coreset = hf_ltc.load_coreset({pushed.repo_id!r}, {budget})"
    _report(options, result, text, next_in_python(loaded))


def _evaluation(options: argparse.Namespace, run: "Trajectories") -> "tuple[list[dict[str, Any]], list[Path]]":
    """What models reached on the rows that are pushed, for the card, and the picture of it."""
    from ..evaluation.pictures import PICTURE
    from ..evaluation.results import Evaluation, card_rows
    from ..hub.parquet import scorer_name
    from ..scores.ltc import score_variant
    from ..scores.protocol import losses_digest

    if options.evaluation is None:
        return [], []
    path = Path(options.evaluation)
    of_family = options.score_column == "ltc_score"
    scorer = score_variant(**_family(options)) if of_family else scorer_name(options.score_column)
    picture = path.with_name(PICTURE)
    rows = card_rows(Evaluation.load(path), losses_digest(run), scorer, options.balance)
    return rows, [picture] if picture.is_file() else []


def _recorded_split(options: argparse.Namespace, run: "Trajectories", split: str | None = None) -> "Dataset":
    """The recorded dataset, or another split of it."""
    from ..data.load import load_split

    source = run.recipe.get("dataset") or {}
    place = options.dataset or source.get("path") or source.get("repo_id")
    if place is None:
        raise InputError(f"{options.run!r} does not say which dataset it recorded: give it with --dataset")
    wanted = split or source.get("split", "train")
    return load_split(place, wanted, name=source.get("config"), revision=source.get("revision"))


def evaluate(options: argparse.Namespace) -> None:
    from ..evaluation.evaluate import evaluate_coresets
    from ..evaluation.methods import METHODS
    from ..evaluation.pictures import PICTURE, RESULTS, TABLE, markdown
    from ..scores.ltc import DEFAULT

    config: EvaluateConfig = _config(options, EvaluateConfig)
    if config.output_dir is None:
        config = dataclasses.replace(config, output_dir=str(Path(options.runs[0]) / "evaluation"))
    runs = _named_runs(options)
    first = next(iter(runs.values()))
    train = _recorded_split(options, first)
    try:
        test = _recorded_split(options, first, config.test_split)
    except InputError as error:
        raise InputError(f"--test-split {config.test_split!r}: {error}") from error
    evaluation = evaluate_coresets(config, runs, train, test, _validation_split(options, first))
    if os.environ.get("RANK", "0") != "0":
        return
    folder = Path(str(config.output_dir))
    text = [
        markdown(evaluation),
        f"In {folder}: {', '.join(name for name in (RESULTS, TABLE, PICTURE) if (folder / name).is_file())}.",
    ]
    member = next((METHODS[name].family for name in config.members), None)
    following = next_command(
        "push",
        Path(options.runs[0]),
        repository_name(first.recipe.get("dataset") or {}),
        fractions=list(config.fractions),
        evaluation=folder / RESULTS,
        balance=unless("class", config.balance),
        losses=options.losses,
        dataset=options.dataset,
        private=True,
        **differing(member or DEFAULT, DEFAULT),
    )
    _report(options, {"output_dir": str(folder), **evaluation.to_dict()}, text, following)


def _named_runs(options: argparse.Namespace) -> "dict[str, Trajectories]":
    """The recordings by their source model, and as much of their folder as tells those of one model apart."""
    from ..evaluation.scores import source_model
    from ..trajectories.value import Trajectories

    paths = [Path(path).resolve() for path in options.runs]
    if len(set(paths)) < len(paths):
        raise InputError(f"the same RUN is given twice: {' '.join(options.runs)}")
    runs = [Trajectories.load(path, losses=options.losses) for path in options.runs]
    names: list[str] = []
    for depth in range(1 + max(len(path.parts) for path in paths)):
        folders = [path.parts[max(0, len(path.parts) - depth) :] for path in paths]
        names = ["-".join([source_model(run) or "run", *folder]) for run, folder in zip(runs, folders)]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, runs))


def _validation_split(options: argparse.Namespace, run: "Trajectories") -> "Dataset | None":
    """The validation samples, where they are a split of the recorded dataset."""
    if options.validation_split is not None:
        return _recorded_split(options, run, options.validation_split)
    recorded = run.recipe.get("validation") or {}
    if recorded.get("split") is None:
        return None
    try:
        split = _recorded_split(options, run, recorded["split"])
    except InputError:
        # Of another dataset, which only Python takes.
        return None
    # A recipe may name the split without the slice of it that was taken.
    return split if len(split) == recorded["rows"] else None


def compare(options: argparse.Namespace) -> None:
    from ..scores.ltc import ltc_scores
    from ..trajectories.compare import overlap, reliability
    from ..trajectories.value import Trajectories

    runs = [Trajectories.load(run, losses=options.losses) for run in (options.run_a, options.run_b)]
    together = Trajectories.average(runs)
    aligned = [run.take_rows(together.rows) for run in runs]
    found = reliability(aligned, **_family(options))
    one, two = (ltc_scores(run, **_family(options)) for run in aligned)
    shared = overlap(one, two, together.labels)
    text = [str(found)]
    text += [
        f"At {100 * fraction:g}% the coresets share {100 * share:.0f}% of their rows."
        for fraction, share in shared.items()
    ]
    output = beside(options.run_a, "-scored")
    following = next_command("score", Path(options.run_a), losses=options.losses, **_family(options), output=output)
    _report(options, {**found.to_dict(), "overlap": shared}, text, following)


def demo(options: argparse.Namespace) -> None:
    from .demo import run_demo

    for fraction in options.fractions:
        if not 0 < fraction <= 1:
            raise InputError(f"--fractions has {fraction!r}: each must be inside (0, 1]")
    if options.seeds < 1:
        raise InputError(f"--seeds is {options.seeds!r}: it must be 1 or more")
    result, text = run_demo(options.output_dir, options.fractions, options.seeds)
    _report(options, result, text)


def _report(options: argparse.Namespace, result: dict[str, Any], text: list[str], *following: str) -> None:
    # What follows is in the words of the command line already.
    said = [spelled("\n".join(text), options.names), *following]
    print(json.dumps(result, indent=2) if options.json else "\n".join(said))
