"""The values for the templates of the cards."""

import json
import re
import statistics
from collections.abc import Collection, Iterable
from typing import Any

from ..coresets.choose import Selection
from ..coresets.order import said_typical
from ..data.columns import typicality_name
from ..recipe import Identity, Recipe, SeedReliability
from ..scores.ltc import PRESETS
from ..scores.protocol import LEAST_EPOCHS
from ..scores.reliability import LOW
from .repository_recipe import Coreset, Entry, RepositoryRecipe, Trained, TrajectoriesEntry

MUSES = """@article{nagaraj2025muses,
  title   = {Finding the Muses: Identifying Coresets through Loss Trajectories},
  author  = {Nagaraj, Manish and Ravikumar, Deepak and Soufleri, Efstathia and Roy, Kaushik},
  journal = {arXiv preprint arXiv:2503.09721},
  year    = {2025}
}"""
_CLD = """@article{nagaraj2025coresets,
  title   = {Coresets from Trajectories: Selecting Data via Correlation of Loss Differences},
  author  = {Nagaraj, Manish and Ravikumar, Deepak and Roy, Kaushik},
  journal = {arXiv preprint arXiv:2508.20230},
  year    = {2025}
}"""
_LOSSES = {
    "training": "training losses, as the optimizer saw them",
    "evaluation": "evaluation losses, from a pass after each epoch",
    "both": "training losses, as the optimizer saw them, and evaluation losses, from a pass after each epoch",
}
_AS_CODE = "source model"
# A longer table of classes is not readable.
_MOST_CLASSES = 1000
_WEIGHTS = {"averaged": "moving average over about one epoch", "raw": "the weights after each epoch"}


def dataset_values(repo_id: str, recipe: RepositoryRecipe) -> dict[str, Any]:
    entries, trajectories = recipe.coresets, recipe.trajectories
    first = next(iter(entries.values()), trajectories)
    what = "Coresets" if entries else "Loss trajectories"
    return {
        "title": f"{what} of {source_text(Identity() if first is None else first.dataset, link=False)}",
        "repo_id": repo_id,
        "coresets": [_coreset_values(name, entry, repo_id) for name, entry in entries.items()],
        "trajectories": None if trajectories is None else _trajectory_values(trajectories, bool(entries)),
        "limits": _limits(entries.values()),
        "citation": "\n\n".join([MUSES, _CLD] if _uses_cld(entries.values()) else [MUSES]),
    }


def _coreset_values(name: str, entry: Entry, repo_id: str) -> dict[str, Any]:
    configs, pool = entry.configs, entry.pool
    first = next(iter(configs.values()), None)
    fraction, size = (0.1, max(1, round(0.1 * pool))) if first is None else (first.fraction, first.size)
    pool_classes = {} if first is None else first.summary.pool_classes
    files, rank = f"hf://datasets/{repo_id}/{entry.scores}/*.parquet", _sql(entry.rank_column, '"')
    return {
        "heading": f"Coresets by {_score_title(name)}",
        "what": _what(name, entry),
        "configs": [_config_values(config, made, pool) for config, made in configs.items()],
        "pool": _pool_text(entry),
        "how": _how(entry.options),
        "judged": [f"{code(config)}: {plain(made.judge['text'])}" for config, made in configs.items() if made.judge],
        "recording": recording_rows(entry.run),
        "warning": _warning(name, entry.run),
        "evaluation": [_evaluation_row(row) for row in entry.evaluation or []],
        "stored": next((string(config) for config, made in configs.items() if made.stored), None),
        "full": code(entry.full) if entry.full else None,
        "full_string": string(entry.full),
        "rank_string": string(entry.rank_column),
        "scorer_string": None if name == "ltc" else string(name),
        "rebuilt": bool(entry.dataset.repo_id),
        "scores": code(entry.scores),
        "scores_string": string(entry.scores),
        "score_files": string(files),
        "sql": f"SELECT * FROM {_sql(files)} WHERE {rank} < {size} ORDER BY {rank};",
        "score_column": code(entry.score_column),
        "typicality": code(typicality_name(entry.score_column)) if entry.options.typical else None,
        "chosen": code(f"{entry.rank_column} < n"),
        "rank_column": code(entry.rank_column),
        "ids": bool(entry.id_column),
        "labels": entry.label_column is not None,
        "trajectories": entry.trajectories,
        "prefix": entry.options.is_nested,
        "example_size": size,
        "example_fraction": fraction or round(size / pool, 3),
        "classes": [
            {
                "name": plain(label),
                "pool": count,
                "counts": [made.summary.classes.get(label, 0) for made in configs.values()],
            }
            for label, count in list(pool_classes.items())[:_MOST_CLASSES]
        ],
        "more_classes": f"{len(pool_classes) - _MOST_CLASSES:,}" if len(pool_classes) > _MOST_CLASSES else None,
    }


def _sql(text: str, mark: str = "'") -> str:
    """A text, or with double quotes the name of a column, as SQL has it."""
    return f"{mark}{text.replace(mark, 2 * mark)}{mark}"


def _config_values(config: str, made: Coreset, pool: int) -> dict[str, str]:
    counts, scores = list(made.summary.classes.values()), made.summary.score_range
    each = (
        ""
        if not counts
        else f"{min(counts):,}"
        if min(counts) == max(counts)
        else f"{min(counts):,} to {max(counts):,}"
    )
    return {
        "name": code(config, cell=True),
        "rows": f"{made.size:,}",
        "share": f"{100 * made.size / pool:.3g}%",
        "per_class": each,
        "scores": "{:.3g} to {:.3g}".format(*scores) if scores else "",
    }


_PRESETS = {
    "ltc": "LTC",
    "cld": "CLD",
    "das": "DAS, AlignPrune, arXiv 2604.07306",
    "weighted-das": "`weighted-das`: DAS, AlignPrune, arXiv 2604.07306, weighted by uncertainty",
}


def _what(name: str, entry: Entry) -> str:
    source = source_text(entry.dataset, link=True)
    if name == "ltc":
        text = f"These rows of {source} have losses that follow those of the validation samples during training. "
        if entry.family is None:
            return text + "The score of a row, from -1 to 1, is the correlation of the two."
        family = dict(entry.family.choices)
        if entry.dataset.is_text:
            # Texts are not weighted, whatever was asked for.
            family["weighting"] = "none"
        preset = next((_PRESETS[preset] for preset, variant in PRESETS.items() if variant == family), None)
        what = "loss changes" if family["of"] == "differences" else "losses"
        how = (
            f"mean Pearson correlation between the {what} of a row and those of each validation sample"
            if family["aggregate"] == "correlations"
            else f"Pearson correlation between the {what} of a row and the mean {what} of the validation samples"
        )
        how += " of its class" if family["scope"] == "class" else ""
        named = f" ({preset})" if preset else ""
        if family["weighting"] == "uncertainty":
            how += ", multiplied by the square root of how much the probability of the row's label varied"
            how += f" (Dyn-Unc, arXiv 2306.05175) if {LEAST_EPOCHS} epochs or more were recorded"
        choices = ", ".join(f"{option}={family[option]}" for option in ("of", "aggregate", "scope", "weighting"))
        return f"{text}The score{named} is the {how}: `{choices}`."
    keeps = "lowest" if entry.options.keep == "lowest" else "highest"
    return f"These rows of {source} have the {keeps} {code(entry.score_column)}."


def _score_title(name: str) -> str:
    known = {"ltc": "LTC", "el2n": "EL2N", "aum": "AUM", "tdds": "TDDS", "dual": "DUAL", "dyn_unc": "Dyn-Unc"}
    return known.get(name, plain(name.replace("_", " ")))


def _how(selection: Selection) -> str:
    balance = {
        "class": "Classes take turns, each giving its best row until it has none left, so the coreset is balanced.",
        "proportional": "Every class keeps its share of the rows.",
        "none": "Classes are ignored.",
    }[selection.balance]
    said = [balance]
    if selection.typical:
        first = said_typical(selection.typical, selection.balance)
        said.append(
            f"{first[0].upper()}{first[1:]}, easier ones first, drawn with the odds of DUAL (arXiv 2502.06905)."
        )
        if selection.typical != 1:
            said.append("The rows with the best scores come next.")
    if selection.keep == "lowest":
        said.append("The lowest scores are kept.")
    if selection.exclude_negative:
        said.append("Rows with a negative score are never chosen.")
    if selection.min_per_class:
        said.append(f"Each class keeps at least {selection.min_per_class} rows.")
    if selection.coverage == "stratified":
        said.append(
            f"Rows are drawn from strata of equal score width, without the last {selection.cut:.0%} of the rows."
        )
    elif selection.coverage == "clusters":
        within = "at random" if selection.cluster_order == "random" else "best score first"
        said.append(
            f"Each of {selection.clusters} clusters of similar trajectories gives the same number of rows, {within}."
        )
    elif selection.coverage == "beta":
        said.append(f"Rows are drawn by score and a Beta density (exponent {selection.beta_exponent:g}).")
    else:
        said.append("Coresets of different sizes are nested.")
    return " ".join(said)


def _pool_text(entry: Entry) -> str:
    rows, pool, held_out, flat = entry.dataset.rows, entry.pool, entry.held_out, entry.flat
    said = [f"{pool:,} of {rows:,} rows are candidates."]
    if held_out:
        said.append(f"{held_out:,} were held out as validation samples or have no score.")
    if flat:
        said.append(f"{flat:,} come last: their loss never changes, so they have no score.")
    return " ".join(said)


def recording_rows(recipe: Recipe) -> list[tuple[str, str]]:
    """How a recording was made, as cells of a Markdown table."""
    return [
        (name, code(value, cell=True) if name == _AS_CODE else plain(value))
        for name, value in recording_values(recipe)
    ]


def recording_values(recipe: Recipe) -> list[tuple[str, str]]:
    """How a recording was made, as names and plain texts."""
    config, training, seconds = recipe.config, recipe.training, sum(recipe.seconds.values())
    seeds = recipe.seeds or ([] if config.seed is None else [config.seed])
    rate, batch = _in("peak learning rate {:g}", config.learning_rate), _in("batch size {}", config.batch_size)
    optimizer = [config.optimizer, rate, config.schedule, batch] if config.optimizer else []
    said: dict[str, Any] = {
        _AS_CODE: config.model,
        "parameters": _in("{:,}", recipe.parameters),
        "epochs": config.epochs,
        "image size": _in("{} pixels", training.image_size),
        "tokens per text": _in("at most {}", training.max_length),
        "truncated texts": _in("{:,}", training.truncated),
        "losses of rows": _LOSSES.get(config.losses or ""),
        "weights for validation losses": _WEIGHTS.get(config.weights or ""),
        "validation samples": _in(
            "{:,}, different ones in each run" if recipe.validation.rotates else "{:,}", training.validation_rows
        ),
        "optimizer": ", ".join(filter(None, optimizer)),
        "runs (seeds)": f"{len(seeds)} ({', '.join(map(str, seeds))})" if seeds else None,
        "reliability": _reliability(recipe.reliability),
        "time": f"{seconds:,.0f} s on {recipe.hardware.device or 'unknown hardware'}" if seconds else None,
        "versions": ", ".join(f"{name} {number}" for name, number in recipe.versions.items()),
    }
    return [(name, str(value)) for name, value in said.items() if value]


def _in(text: str, value: float | None) -> str | None:
    return text.format(value) if value else None


def _reliability(found: SeedReliability) -> str | None:
    if found.runs is None:
        return None
    if found.one is None or found.mean is None:
        return "undefined: no class has two rows with different scores"
    said = f"{found.one:.2f} for one run"
    said += f", {found.mean:.2f} for the mean of {found.runs}" if found.runs > 1 else ""
    return said + " (Spearman correlation, within classes, with the scores of other seeds)"


def _warning(scorer: str, recipe: Recipe) -> str | None:
    if recipe == Recipe():
        return "How the scores were made is unknown: the push named no recording."
    found = recipe.reliability
    if found.runs is None and scorer != "ltc":
        return None
    if found.runs is None:
        return "Only one run was recorded, so it is unknown how much the selection depends on the seed."
    if found.mean is None or found.mean < LOW:
        return f"The reliability is below {LOW}: another seed would select quite different rows."
    return None


def _evaluation_row(row: Trained) -> dict[str, str]:
    values = [100 * float(value) for value in row.accuracy]
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return {
        "rows": plain(row.rows),
        "number": f"{row.number:,}" if row.number is not None else "",
        "model": code(row.model, cell=True),
        "accuracy": f"{statistics.mean(values):.1f}%{spread}",
        "seeds": str(len(values)),
        "protocol": plain(row.protocol or ""),
    }


def _trajectory_values(entry: TrajectoriesEntry, told: bool) -> dict[str, Any]:
    return {
        "rows": f"{entry.rows:,}",
        "validation_rows": f"{entry.validation_rows:,}",
        "rotated": entry.run.validation.rotates,
        "checkpoints": " + ".join(map(str, entry.layout.lengths)),
        "recording": [] if told else recording_rows(entry.run),
    }


def _limits(entries: Collection[Entry]) -> list[str]:
    labeled = not entries or any(entry.dataset.task is None for entry in entries)
    said = [
        "A coreset has the biases of its source dataset, and may add to them: it is most likely to leave out rare, "
        "hard or mislabeled rows.",
        f"The rows were selected with one source model, for one task{': predicting these labels' if labeled else ''}.",
    ]
    if any(entry.held_out for entry in entries):
        said.append("Rows held out as validation samples are in no coreset.")
    return said


def _uses_cld(entries: Iterable[Entry]) -> bool:
    return any(entry.family is not None and entry.family.aggregate == "losses" for entry in entries)


def source_text(dataset: Identity, *, link: bool) -> str:
    repo_id, revision = dataset.repo_id, dataset.revision
    if not repo_id:
        return plain(dataset.name or "a dataset")
    if not link:
        return plain(repo_id)
    parts = {"config": dataset.config, "split": dataset.split, "revision": revision}
    where = ", ".join(f"{name} {code(part)}" for name, part in parts.items() if part)
    url = f"https://huggingface.co/datasets/{repo_id}" + (f"/tree/{revision}" if revision else "")
    return f"[{plain(repo_id)}]({url})" + (f" ({where})" if where else "")


def plain(value: Any) -> str:
    """Escapes a text so that Markdown shows it as it is, also in a table."""
    text = re.sub(r"\s+", " ", _written(value)).strip()
    return re.sub(r"([\\`*_\[\]|<>~$&#])", r"\\\1", text)


def code(value: Any, *, cell: bool = False) -> str:
    """Formats a text as code in Markdown, or in a `cell` of a table; line breaks and tabs become spaces."""
    text = re.sub(r"\s", " ", _written(value))
    if not text.strip():
        return plain(repr(value))
    # Backticks longer than any inside the text, and spaces, which Markdown strips again.
    mark = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text[0] in "` " or text[-1] in "` " else ""
    written = f"{mark}{space}{text}{space}{mark}"
    return written.replace("|", "\\|") if cell else written


def string(value: Any) -> str:
    """Quotes a text as a string of Python and JSON."""
    return json.dumps(_written(value), ensure_ascii=False)


def _written(value: Any) -> str:
    """Replaces characters that cannot be written: a class named by a folder of another encoding may have them."""
    return str(value).encode(errors="replace").decode()
