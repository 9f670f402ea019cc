"""The page as one HTML file: its data packed, its scripts named by their digests, every text escaped."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from plotly.offline import get_plotlyjs

from ... import __version__
from ...utils.files import finite
from ..audit import KINDS
from .contents import Contents
from .rows import BUDGETS, ClassRows

# By which a file is known as one that may be replaced.
GENERATOR = "hf-ltc report"
_TEMPLATES = Path(__file__).parent / "templates"
_SCRIPTS = ("base.js", "charts.js", "rows.js", "main.js")
# What a trajectory has in place of NaN, and of the highest loss; 0 is the lowest, or no loss.
_NONE, _TOP = 65535, 65534


def page(contents: Contents, title: str, facts: list[tuple[str, str]], doubts: list[str], left_out: list[str]) -> str:
    """Writes the page.

    Args:
        contents ([`Contents`]): What it shows.
        title (`str`): Name of the dataset.
        facts (`list[tuple[str, str]]`): How it was recorded.
        doubts (`list[str]`): Warnings.
        left_out (`list[str]`): What is not on the page.
    """
    # What is marked as safe in the template is ours, or plotly's.
    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    scripts = [_script(get_plotlyjs()), _script(_source(*_SCRIPTS))]
    ranked = contents.ranked
    reliability = np.nan if contents.ranking.last is None else contents.ranking.last.mean
    counts = np.bincount(ranked.kinds, minlength=len(KINDS)).tolist()
    return environment.get_template("page.html").render(
        title=title,
        version=__version__,
        generator=GENERATOR,
        policy=_policy(scripts),
        style=_source("page.css"),
        scripts=scripts,
        rows=len(contents),
        classes=len(np.unique(ranked.labels)),
        reliability=None if np.isnan(reliability) else f"{reliability:.2f}",
        runs=contents.runs,
        kinds=dict(zip(KINDS, counts)),
        conflicts=int(np.isfinite(ranked.conflicts).sum()),
        facts=facts,
        doubts=doubts,
        left_out=left_out,
        evaluated=contents.evaluation is not None,
        recommended=_recommended(contents),
        data=finite(page_data(contents)),
    )


def page_data(contents: Contents) -> dict[str, Any]:
    """What the scripts read, as plain JSON values."""
    ranked, shown = contents.ranked, contents.shown
    histograms = contents.histograms
    # Losses of one's own loop may be below 0.
    lowest = float(np.nanmin(contents.trajectories, initial=0))
    span = float(np.nanmax(contents.trajectories, initial=0)) - lowest or 1.0
    scaled = np.nan_to_num(np.rint((contents.trajectories.T - lowest) * (_TOP / span)), nan=_NONE)
    rows = {
        "row": packed(contents.numbers, "u4"),
        "label": packed(ranked.labels[shown], "u4"),
        "suggested": packed(ranked.suggested[shown], "i4"),
        "score": packed(ranked.scores[shown], "f4"),
        "rank": packed(ranked.ranks[shown], "u4"),
        "group": packed(ranked.groups[shown], "i4"),
        "kind": packed(ranked.kinds[shown], "u1"),
        "quality": packed(ranked.quality[shown], "f4"),
        "probability": packed(ranked.probability[shown], "f4"),
        "variability": packed(ranked.variability[shown], "f4"),
        "known": {name: packed(scores[shown], "f4") for name, scores in ranked.known.items()},
    }
    return {
        "names": contents.names,
        "kinds": list(KINDS),
        "budgets": list(BUDGETS),
        "sizes": contents.sizes,
        "total": np.bincount(ranked.labels, minlength=len(contents.names)).tolist(),
        "kept": contents.kept.tolist(),
        "rows": rows,
        "trajectories": packed(scaled, "u2"),
        "lowest": lowest,
        "span": span,
        "previews": [contents.previews.values.get(place) for place in range(len(shown))],
        "preview": contents.previews.kind,
        "side": contents.previews.side,
        "epochs": contents.grid.tolist(),
        "validation": contents.validation.tolist(),
        "validationClasses": packed(contents.validation_classes.T, "f4"),
        "classes": [_class(each, shown) for each in contents.classes],
        "suspects": np.searchsorted(shown, contents.suspects).tolist(),
        "points": np.searchsorted(shown, contents.points).tolist(),
        "histogram": {
            "edges": histograms.edges.tolist(),
            "every": packed(histograms.every, _smallest(histograms.every)),
            "kept": packed(histograms.kept, _smallest(histograms.kept)),
            "lines": histograms.kept.shape[1],
        },
        "losses": {
            "mean": contents.losses.mean.tolist(),
            "low": contents.losses.low.tolist(),
            "high": contents.losses.high.tolist(),
            "parts": {name: values.tolist() for name, values in contents.losses.parts.items()},
        },
        "ranking": {
            "epochs": contents.ranking.epochs,
            "stability": contents.ranking.stability,
            "reliability": contents.ranking.reliability,
        },
        "accuracy": _accuracy(contents),
    }


def packed(values: np.ndarray, kind: str) -> dict[str, str]:
    """An array as its bytes, little-endian, in base64: a third of the size of its digits, and faster to read."""
    return {"kind": kind, "bytes": base64.b64encode(np.ascontiguousarray(values, dtype=f"<{kind}").tobytes()).decode()}


def _smallest(counts: np.ndarray) -> str:
    return next(kind for kind in ("u1", "u2", "u4") if counts.max(initial=0) < 256 ** int(kind[1]))


def _class(rows: ClassRows, shown: np.ndarray) -> dict[str, Any]:
    def places(positions: np.ndarray) -> list[int]:
        return np.searchsorted(shown, positions).tolist()

    return {
        "number": rows.number,
        "first": places(rows.first),
        "worst": places(rows.worst),
        "conflicting": places(rows.conflicting),
        "kept": [places(each) for each in rows.kept],
        "dropped": [places(each) for each in rows.dropped],
    }


def _accuracy(contents: Contents) -> list[dict[str, Any]] | None:
    """What models reach, row by row of the evaluation's table."""
    from ...evaluation.methods import FULL
    from ...utils.public import without_paths

    evaluation = contents.evaluation
    if evaluation is None:
        return None
    several = len(evaluation.sources) > 1
    return [
        {
            "model": without_paths(row["model"]),
            "method": row["method"] + (f" ({without_paths(row['source'])})" if several and row["source"] else ""),
            "full": row["method"] == FULL,
            "fraction": row["fraction"],
            "rows": row["rows"],
            "mean": row["mean"],
            "deviation": row["deviation"],
            "n": row["n"],
        }
        for row in evaluation.rows
    ]


def _recommended(contents: Contents) -> list[str]:
    """The smallest budget that is worth nearly as much as all rows, in sentences."""
    from ...evaluation.budget import words
    from ...utils.public import without_paths

    found = None if contents.evaluation is None else contents.evaluation.recommendation
    return [] if found is None else [without_paths(said) for said in (words.headline(found), *words.details(found))]


def _source(*names: str) -> str:
    return "".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in names)


def _script(source: str) -> str:
    # An end of the element inside a string would be one for HTML too.
    return source.replace("</script", "<\\/script").replace("\r\n", "\n")


def _policy(scripts: list[str]) -> str:
    """What the page may do: run these scripts, show its own images, and nothing over a network."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    others = "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {allowed}; {others}"
