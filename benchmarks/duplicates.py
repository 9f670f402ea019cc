"""Which cosine of features finds near-duplicates? Copies are planted among real images and counted.

    python benchmarks/duplicates.py --data DATA [--runs runs/duplicates] [--only record|table]

The first 5,000 rows of a dataset get copies of 600 of them, 100 of each kind: equal pixel by pixel, encoded again as
JPEG, brighter or darker, shifted by two pixels, cropped to 7/8 of their side and resized back, and mirrored. All rows
are recorded with their features, as a user would. Then pairs of rows are searched by the cosine of their features in
several spaces: plain features, centered on their mean, centered on the mean of their class, and whitened, so that all
directions have the same variance (Jégou and Chum, ECCV 2012). The similarity is the cosine itself, or CSLS, which
compares it with the neighborhood: twice the cosine minus the mean cosine of each row with its ten nearest neighbors
(Conneau et al., arXiv 1710.04087). Recall is the share of copies found with their originals at a threshold. Precision
is the share of these pairs among all pairs found; it is a lower bound, because the datasets have near-duplicates of
their own. The last part tests `near_duplicates`, with rows instead of pairs: the share of the rows in groups that are
copies or their originals.

DATA is as for recordings.py. Results go to results/duplicates.json and duplicates.md.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from audit import BATCH, EPOCHS, MODEL, STEM, rows_of
from datasets import Dataset
from PIL import Image, ImageEnhance, ImageOps
from recordings import DATASETS, provenance
from result_files import results_of, write_results

from hf_ltc import RecordConfig, Trajectories, record
from hf_ltc.report.duplicates import SIMILARITY, near_duplicates
from hf_ltc.trajectories.run_dir import is_finished

COPIES = 100
COSINES = (0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99)
SCALED = (0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7)
NEIGHBORS = 10


def encoded(image: Image.Image, kind: str = "PNG", **options) -> dict:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return {"bytes": file.getvalue(), "path": None}


def shifted(image: Image.Image) -> Image.Image:
    return ImageOps.expand(image, 2).crop((0, 0, *image.size))


def cut(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 16, height // 16, width - width // 16, height - height // 16)).resize(image.size)


KINDS = {
    "equal": lambda image, at: encoded(image),
    "JPEG": lambda image, at: encoded(image, "JPEG", quality=60),
    "brightness": lambda image, at: encoded(ImageEnhance.Brightness(image).enhance((0.75, 1.3)[at % 2])),
    "shifted": lambda image, at: encoded(shifted(image)),
    "cut": lambda image, at: encoded(cut(image)),
    "mirrored": lambda image, at: encoded(ImageOps.mirror(image)),
}


def planted(data: Path, name: str) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """The rows and the copies; of each copy the row it is of, and its kind."""
    rows, labels = rows_of(data, name)
    chosen = np.random.default_rng(3).permutation(len(rows))[: COPIES * len(KINDS)]
    kinds = np.repeat(np.arange(len(KINDS)), COPIES)
    makers = list(KINDS.values())
    copies = [makers[kind](rows[int(row)]["image"], at) for at, (row, kind) in enumerate(zip(chosen, kinds))]
    stored = [*rows.with_format(None).data.column("image").to_pylist(), *copies]
    values = {"image": stored, "label": [*labels.tolist(), *labels[chosen].tolist()]}
    return Dataset.from_dict(values, features=rows.features), chosen, kinds


def spaces(features: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    plain = features.astype(np.float32)
    centered = plain - plain.mean(0)
    by_class = plain.copy()
    for label in np.unique(labels):
        by_class[labels == label] -= plain[labels == label].mean(0)
    found = {"features": plain, "centered": centered, "centered by class": by_class}
    for name, values in (("whitened", centered), ("whitened by class", by_class)):
        variances, axes = np.linalg.eigh(np.cov(values.T))
        kept = variances > 1e-4 * variances.max()
        found[name] = values @ (axes[:, kept] / np.sqrt(variances[kept]))
    return {name: values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-12) for name, values in found.items()}


def measured(run: Trajectories, originals: np.ndarray, kinds: np.ndarray, count: int) -> list[dict]:
    """Recall of each kind and precision, by space and threshold; of rows that were held out nothing is asked."""
    place = np.full(count, -1)
    place[run.rows] = np.arange(len(run))
    copies = place[np.arange(count - len(originals), count)]
    sources = place[originals]
    there = (copies >= 0) & (sources >= 0)
    made = []
    for name, values in spaces(run.features.of(run.rows), run.labels).items():
        cosine = values @ values.T
        np.fill_diagonal(cosine, -1)
        near = -np.partition(-cosine, NEIGHBORS, axis=1)[:, :NEIGHBORS].mean(1)
        scaled = 2 * cosine - near[:, None] - near
        for how, similarity, thresholds in (("cosine", cosine, COSINES), ("scaled", scaled, SCALED)):
            pairs_of = similarity[np.triu_indices(len(similarity), 1)]
            of_copies = similarity[copies[there], sources[there]]
            for threshold in thresholds:
                pairs, hit = int((pairs_of >= threshold).sum()), of_copies >= threshold
                recall, precision = float(hit.mean()), float(hit.sum()) / max(pairs, 1)
                made.append(
                    {
                        "space": name,
                        "similarity": how,
                        "threshold": threshold,
                        "recall": {
                            kind: round(float(hit[kinds[there] == k].mean()), 3) for k, kind in enumerate(KINDS)
                        },
                        "all": round(recall, 4),
                        "copies": int(there.sum()),
                        "pairs": pairs,
                        "precision": round(precision, 4),
                        "F1": round(2 * recall * precision / max(recall + precision, 1e-9), 4),
                    }
                )
    group = near_duplicates(run.features.of(run.rows))
    hit, inside = group[copies[there]] == group[sources[there]], np.flatnonzero(group >= 0)
    hit &= group[copies[there]] >= 0
    of_copies = np.isin(inside, np.concatenate([copies[there], sources[there]])).mean()
    made.append(
        {
            "space": "near_duplicates",
            "similarity": "either",
            "threshold": SIMILARITY,
            "recall": {kind: round(float(hit[kinds[there] == k].mean()), 3) for k, kind in enumerate(KINDS)},
            "all": round(float(hit.mean()), 4),
            "copies": int(there.sum()),
            "pairs": len(inside),
            "precision": round(float(of_copies), 4),
            "F1": round(2 * hit.mean() * of_copies / (hit.mean() + of_copies), 4),
        }
    )
    return made


def report(results: list[dict]) -> str:
    parts = []
    for name in dict.fromkeys(each["dataset"] for each in results):
        heads = ["space", "similarity", "at", *KINDS, "all copies", "pairs", "precision", "F1"]
        lines = [f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * (len(heads) - 2)]
        here = [each for each in results if each["dataset"] == name]
        best = {}
        for each in here:
            key = (each["space"], each["similarity"])
            best[key] = max(best.get(key, each), each, key=lambda each: each["F1"])
        # Of each the best; all of the space that was chosen; the others are in the JSON.
        for each in (each for each in here if each in best.values() or each["space"] == "whitened"):
            cells = [f"{each['recall'][kind]:.2f}" for kind in KINDS]
            cells += [f"{each['all']:.2f}", f"{each['pairs']:,}", f"{each['precision']:.2f}", f"{each['F1']:.2f}"]
            lines.append(f"| {each['space']} | {each['similarity']} | {each['threshold']:g} | {' | '.join(cells)} |")
        parts.append(f"## {name}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/duplicates"))
    parser.add_argument("--only", choices=["record", "table"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for name in DATASETS:
        rows, originals, kinds = planted(options.data, name)
        folder = options.runs / name
        if options.only != "table":
            config = RecordConfig(
                model=MODEL,
                stem=STEM,
                epochs=EPOCHS,
                batch_size=BATCH,
                features=True,
                num_workers=0,
                output_dir=str(folder),
            )
            record(config, rows, accelerator=Accelerator(cpu=True))
        if options.only != "record" and folder.is_dir() and is_finished(folder):
            found = measured(Trajectories.load(folder), originals, kinds, len(rows))
            results += [{"dataset": name, **each} for each in found]
    if options.only != "record":
        output, command = results_of(__file__), "python benchmarks/duplicates.py --data DATA"
        settings = {"model": MODEL, "epochs": EPOCHS, "batch_size": BATCH, "copies of each kind": COPIES}
        made = {"command": command, "settings": settings, **provenance(), "results": results}
        write_results(output, made)
        output.with_suffix(".md").write_text(f"Made by `{command}`; duplicates.py says how.\n\n{report(results)}\n")


if __name__ == "__main__":
    main()
