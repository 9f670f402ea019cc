"""Images per second and core, from files to batches of pixels: hf_ltc against torchvision and timm.

    python benchmarks/decoding.py [--repeats 7]

Photographs (JPEG of 300, 500 and 1,600 pixels; PNG and WebP of 500) become squares of 224, 128 and 64 pixels: random
crops for training, center crops for evaluation. Three implementations do the same:

- hf_ltc: the batches of `StoredImages`, as recordings and evaluations read them;
- torchvision: `torchvision.io.decode_image` and transforms v2 (`RandomResizedCrop`, `RandomHorizontalFlip`; `Resize`,
  `CenterCrop`);
- timm: Pillow, and the transforms that timm makes for training, without color jitter, and for evaluation.

All run in one process and one thread, batches of uint8 images included. Each repeat measures the processor time of all
three, one after another. The results are medians of their ratios, because other work on the machine changes these
little. At 64 pixels, hf_ltc shrinks the whole image, and crops it later on the device; the others work as at any size.

The photographs are the two in scikit-learn (640 pixels wide), cropped and shrunk, or tiled to make larger ones.
Results go to results/decoding.json and decoding.md.
"""

import argparse
import io
import os
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import PIL.Image
import torch
from datasets import Dataset, Features, Image
from recordings import provenance
from result_files import results_of, write_results
from sklearn.datasets import load_sample_images
from timm.data import create_transform
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from hf_ltc.training.images import SMALL_SIDE, StoredImages

FILES = {
    "JPEG, 300 pixels": ("JPEG", 300),
    "JPEG, 500 pixels": ("JPEG", 500),
    "JPEG, 1,600 pixels": ("JPEG", 1600),
    "PNG, 500 pixels": ("PNG", 500),
    "WebP, 500 pixels": ("WEBP", 500),
}
SIZES = (224, 128, 64)
COUNT, BATCH, _DIFFERENT = 96, 32, 24
# The usual enlargement of an image whose center is cut out.
CENTER = 0.875
Make = Callable[[list[bytes], Dataset], list[torch.Tensor]]


def photographs(kind: str, width: int) -> list[bytes]:
    """Files of photographs of a width, three quarters as high, each another part of a scene."""
    draw, files = np.random.default_rng(0), []
    scenes = load_sample_images().images
    for number in range(_DIFFERENT):
        scene = scenes[number % len(scenes)]
        if width > scene.shape[1]:
            # Copies beside each other: enlarged, they would have no detail, which takes a decoder its time.
            scene = np.tile(scene, (4, 4, 1))
            w, h = width, width * 3 // 4
        else:
            w, h = min(scene.shape[1], scene.shape[0] * 4 // 3), min(scene.shape[0], scene.shape[1] * 3 // 4)
        left, top = draw.integers(scene.shape[1] - w + 1), draw.integers(scene.shape[0] - h + 1)
        image = PIL.Image.fromarray(scene[top : top + h, left : left + w])
        file = io.BytesIO()
        image.resize((width, width * 3 // 4), PIL.Image.Resampling.LANCZOS).save(file, kind, quality=90)
        files.append(file.getvalue())
    return files * (COUNT // _DIFFERENT)


def ours(size: int, train: bool) -> Make:
    def make(files: list[bytes], rows: Dataset) -> list[torch.Tensor]:
        augmented = (0, 0) if train else None
        batches = np.split(np.arange(COUNT), range(BATCH, COUNT, BATCH))
        return [pixels for pixels, _ in StoredImages(rows, "image", size).batches(batches, augmented=augmented)]

    return make


def torchvision(size: int, train: bool) -> Make:
    if train:
        transform = v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip()])
    else:
        transform = v2.Compose([v2.Resize(round(size / CENTER), antialias=True), v2.CenterCrop(size)])

    def make(files: list[bytes], rows: Dataset) -> list[torch.Tensor]:
        stored = (torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files)
        return stacked([transform(decode_image(file, ImageReadMode.RGB)) for file in stored])

    return make


def timm(size: int, train: bool) -> Make:
    options = {"color_jitter": 0.0} if train else {"crop_pct": CENTER}
    # Pixels, as its fast loader has them, which normalizes on the device.
    made = create_transform(size, is_training=train, interpolation="bilinear", use_prefetcher=True, **options)

    def make(files: list[bytes], rows: Dataset) -> list[torch.Tensor]:
        opened = (PIL.Image.open(io.BytesIO(file)).convert("RGB") for file in files)
        return stacked([torch.as_tensor(np.asarray(made(image))) for image in opened])

    return make


def stacked(images: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.stack(images[first : first + BATCH]) for first in range(0, COUNT, BATCH)]


def seconds(make: Make, files: list[bytes], rows: Dataset) -> float:
    begun = time.process_time()
    pixels = make(files, rows)
    taken = time.process_time() - begun
    assert sum(map(len, pixels)) == COUNT and all(each.dtype == torch.uint8 for each in pixels)
    return taken


def measured(repeats: int) -> list[dict]:
    results = []
    for name, (kind, width) in FILES.items():
        files = photographs(kind, width)
        features = Features({"image": Image()})
        rows = Dataset.from_dict({"image": [{"bytes": file, "path": None} for file in files]}, features=features)
        for size in SIZES:
            for train in (True, False):
                ways = {way.__name__: way(size, train) for way in (ours, torchvision, timm)}
                times: dict[str, list[float]] = {way: [] for way in ways}
                for repeat in range(repeats + 1):
                    for way, make in ways.items():
                        taken = seconds(make, files, rows)
                        if repeat:
                            times[way].append(taken)
                rates = {way: COUNT / statistics.median(taken) for way, taken in times.items()}
                against = {
                    way: statistics.median(other / mine for other, mine in zip(times[way], times["ours"]))
                    for way in ("torchvision", "timm")
                }
                result = {"files": name, "size": size, "train": train}
                result |= {"images a second": {way: round(rate) for way, rate in rates.items()}}
                result |= {"times as fast as": {way: round(ratio, 2) for way, ratio in against.items()}}
                results.append(result)
                print(result, flush=True)
    return results


def markdown(results: list[dict]) -> str:
    lines = ["| files | to | for | hf_ltc | torchvision | timm | over torchvision | over timm |"]
    lines.append("|---|---:|---|" + "---:|" * 5)
    for each in results:
        rates, ratios = each["images a second"], each["times as fast as"]
        what = "training" if each["train"] else "evaluation"
        cells = [f"{rates[way]:,}" for way in ("ours", "torchvision", "timm")]
        cells += [f"{ratios[way]:.2f}" for way in ("torchvision", "timm")]
        lines.append(f"| {each['files']} | {each['size']} | {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    # torchvision's decoders are to be removed one day; they are still what most compare with.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    load = os.getloadavg()[0]
    results = measured(options.repeats)
    command = f"python benchmarks/decoding.py --repeats {options.repeats}"
    names = ("torchvision", "torchcodec", "pillow")
    about = {"command": command, "load of the machine": [round(load, 1), round(os.getloadavg()[0], 1)], **provenance()}
    about["versions"] |= {name: version(name) for name in names}
    output = results_of(__file__)
    write_results(output, {**about, "results": results})
    note = (
        f"Made by `{command}`; decoding.py says how. Images a second of one core, and the median of {options.repeats} "
        f"ratios within the same run. At {SMALL_SIDE} pixels this package shrinks the whole image."
    )
    output.with_suffix(".md").write_text(f"{note}\n\n{markdown(results)}\n")


if __name__ == "__main__":
    main()
