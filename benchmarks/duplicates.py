"""Which cosine of features tells near-duplicates? Copies planted among real images, and counted.

    python benchmarks/duplicates.py --data DATA [--runs runs/duplicates] [--only record|table]

To the first 5,000 rows of a dataset, copies of 600 of them are added, 100 of each kind: equal pixel by pixel, encoded
again as JPEG, made brighter or darker, shifted by two pixels, cut to 7/8 of their side and made as large again, and
mirrored. All of them are recorded with their features, as a user would. Then the neighbors by the cosine of features
are looked for, in several spaces: of the features as they are, centered on their mean, centered on that of their
class, and whitened, which gives all directions the same variance (Jégou and Chum, ECCV 2012). Recall is the share of
the copies that are found with their originals at a threshold; precision is the share of these pairs among all that are
found, and a lower bound: the datasets have near-duplicates of their own.

DATA is as for recordings.py. Results go to duplicates.json and duplicates.md beside this file.
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

from hf_ltc import RecordConfig, Trajectories, record
from hf_ltc.trajectories.run_dir import is_finished
from hf_ltc.utils.files import write_json

COPIES = 100
THRESHOLDS = (0.8, 0.85, 0.9, 0.925, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999)


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
        upper = np.triu(cosine, 1)
        of_copies = cosine[copies[there], sources[there]]
        for threshold in THRESHOLDS:
            pairs = int((upper >= threshold).sum())
            hit = of_copies >= threshold
            made.append(
                {
                    "space": name,
                    "threshold": threshold,
                    "recall": {kind: round(float(hit[kinds[there] == k].mean()), 3) for k, kind in enumerate(KINDS)},
                    "all": round(float(hit.mean()), 4),
                    "pairs": pairs,
                    "precision": round(float(hit.sum()) / pairs, 4) if pairs else None,
                }
            )
    return made


def report(results: list[dict]) -> str:
    parts = []
    for name in dict.fromkeys(each["dataset"] for each in results):
        heads = ["space", "threshold", *KINDS, "all copies", "pairs found", "precision"]
        lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
        for each in results:
            if each["dataset"] == name and each["all"] > 0.02:
                cells = [f"{each['recall'][kind]:.2f}" for kind in KINDS]
                precision = "" if each["precision"] is None else f"{each['precision']:.2f}"
                cells += [f"{each['all']:.2f}", f"{each['pairs']:,}", precision]
                lines.append(f"| {each['space']} | {each['threshold']:g} | {' | '.join(cells)} |")
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
        here, command = Path(__file__), "python benchmarks/duplicates.py --data DATA"
        settings = {"model": MODEL, "epochs": EPOCHS, "batch_size": BATCH, "copies of each kind": COPIES}
        made = {"command": command, "settings": settings, **provenance(), "results": results}
        write_json(here.with_suffix(".json"), made)
        here.with_suffix(".md").write_text(f"Made by `{command}`; duplicates.py says how.\n\n{report(results)}\n")


if __name__ == "__main__":
    main()
