"""Scoring and selecting rows on a Ray cluster of two workers: time and memory for 2, 10 and 50 million rows.

    pip install "hf-ltc[ray]"
    python benchmarks/scaling.py [--millions 2 10 50] [--score-millions 2 10 50] [--folder runs/scaling]

The cluster has a head without CPUs and two workers with one CPU each, on this machine. For each number of rows:

- score: read Parquet files with the losses of 91 checkpoints, score by the default, write row, label, score and
  typicality; a million rows are 0.38 GB;
- bounds: read such scores, and find the bounds of a coreset of a tenth, balanced over 1,000 classes;
- select: read them again, and count the rows within the bounds.

Losses and scores are random numbers. Seconds of one core are summed over all processes of Ray and the driver; other
jobs on the machine change them less than wall time. Memory is the most that these processes hold at once, and the part
of it in the object store. With the smallest number of rows, the coreset is compared with that of `rank_coreset` in
memory, row by row. Finished steps are not repeated, and files are deleted after use. Results go to
results/scaling.json and scaling.md.
"""

import argparse
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster
from recordings import provenance
from result_files import results_of, write_results

from hf_ltc import LTCScorer, Trajectories, coreset_bounds
from hf_ltc.coresets.order import coreset_order
from hf_ltc.evaluation.trials import run_trials

EPOCHS, CLASSES, VALIDATION, FRACTION = 90, 1_000, 2_000, 0.1
# Rows of a file, and of a batch of scores.
FILE, BATCH = 262_144, 65_536
MILLION, MIB = 1_000_000, 2**20
STEPS = ("score", "bounds", "select")
# Seconds between looks at the memory.
PAUSE = 1.0


def fallen(rows: int, seed: int) -> np.ndarray:
    """Losses that fall from ln(1000) at speeds of their own, with noise: float32 (epochs + 1, rows)."""
    random = np.random.default_rng(seed)
    speed = random.gamma(2, 0.05, rows).astype(np.float32)
    return np.stack(
        [6.9 * np.exp(-speed * t) + 0.3 * random.random(rows, dtype=np.float32) for t in range(EPOCHS + 1)]
    )


@cache
def recording() -> Trajectories:
    """The losses that every file of trajectories is made of."""
    random = np.random.default_rng(2)
    return Trajectories(
        losses=fallen(FILE, 0),
        validation_losses=fallen(VALIDATION, 1),
        labels=random.integers(0, CLASSES, FILE),
        validation_labels=np.arange(VALIDATION) % CLASSES,
        rows=np.arange(FILE),
        validation_rows=np.full(VALIDATION, -1),
        epochs=np.arange(EPOCHS + 1),
        lengths=(EPOCHS + 1,),
    )


def parts(rows: int) -> Iterator[tuple[int, np.ndarray]]:
    for number, start in enumerate(range(0, rows, FILE)):
        yield number, np.arange(start, min(start + FILE, rows))


def write_trajectories(folder: Path, rows: int) -> None:
    run = recording()
    flat = np.ascontiguousarray(run.losses.T)
    for number, part in parts(rows):
        # Of each file others: all losses raised by some part of a row's own.
        values = pa.array((flat[: len(part)] * np.float32(1 + number / 1000)).reshape(-1))
        table = pa.table(
            {
                "row": part,
                "label": run.labels[: len(part)],
                "loss_trajectory": pa.FixedSizeListArray.from_arrays(values, EPOCHS + 1),
            }
        )
        pq.write_table(table, folder / f"{number:04}.parquet", compression="none", use_dictionary=False)


def drawn(number: int, part: np.ndarray) -> pa.Table:
    random = np.random.default_rng([3, number])
    labels = random.integers(0, CLASSES, len(part))
    scores = random.uniform(-1, 1, len(part)).astype(np.float32)
    typicality = random.gumbel(size=len(part)).astype(np.float32)
    return pa.table(
        {
            "row": part,
            "label": labels,
            "ltc_score": scores,
            # About a tenth of the rows may come first.
            "ltc_typicality": pa.array(typicality, mask=typicality < 2.25),
        }
    )


def write_scores(folder: Path, rows: int) -> None:
    for number, part in parts(rows):
        pq.write_table(drawn(number, part), folder / f"{number:04}.parquet")


@contextmanager
def files(place: Path, write: Callable[[Path, int], None], rows: int) -> Iterator[Path]:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        write(place, rows)
        yield place
    finally:
        shutil.rmtree(place)


def family() -> list[int]:
    """This process and all that it started, and so on."""
    above = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may have spaces.
            above[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [os.getpid()]
    for process in found:
        found += [each for each, parent in above.items() if parent == process]
    return found


def memory(processes: list[int]) -> dict[str, int]:
    """Bytes that processes hold, what several share counted once, and how many of these are the object store's."""
    total = {"Pss": 0, "Pss_Shmem": 0}
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        for name, value, *_ in (line.split() for line in lines[1:]):
            if name[:-1] in total:
                total[name[:-1]] += 1024 * int(value)
    return {"all": total["Pss"], "object store": total["Pss_Shmem"]}


def core_seconds(processes: list[int]) -> float:
    ticks = 0
    for process in processes:
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, Any]]:
    """What a step returns, its seconds, and the memory that it held at most."""
    most: dict[str, int] = {}
    over = threading.Event()
    # Seconds that looking took itself.
    looking: list[float] = []

    def watch() -> None:
        while not over.wait(PAUSE):
            for name, size in memory(family()).items():
                most[name] = max(size, most.get(name, 0))
        looking.append(time.thread_time())

    watcher = threading.Thread(target=watch)
    watcher.start()
    before, started = core_seconds(family()), time.perf_counter()
    try:
        found = work()
    finally:
        seconds = time.perf_counter() - started
        over.set()
        watcher.join()
        used = core_seconds(family()) - before
    load = os.getloadavg()[0]
    return found, {"seconds": seconds, "seconds of a core": used - looking[0], "bytes": most, "load": load}


def score(options: argparse.Namespace, rows: int) -> dict:
    scorer = LTCScorer.from_trajectories(recording())
    place = options.folder / "scores"
    with files(options.folder / "trajectories", write_trajectories, rows) as folder:
        size = sum(path.stat().st_size for path in folder.iterdir())

        def work() -> None:
            scored = ray.data.read_parquet(str(folder)).map_batches(scorer, batch_format="pyarrow", batch_size=BATCH)
            scored.select_columns(["row", "label", "ltc_score", "ltc_typicality"]).write_parquet(str(place))

        shutil.rmtree(place, ignore_errors=True)
        _, found = measured(work)
    written = sum(path.stat().st_size for path in place.iterdir())
    shutil.rmtree(place)
    return {
        "rows": rows,
        "step": "score",
        "bytes read a row": size / rows,
        "bytes written a row": written / rows,
    } | found


def choose(options: argparse.Namespace, rows: int) -> dict:
    with files(options.folder / "scores", write_scores, rows) as folder:
        size = sum(path.stat().st_size for path in folder.iterdir())
        scores = ray.data.read_parquet(str(folder))
        bounds, one = measured(lambda: coreset_bounds(scores, fraction=FRACTION))
        count, two = measured(lambda: scores.map_batches(bounds, batch_format="pyarrow").count())
        assert count == bounds.size == round(FRACTION * rows)
        if rows == min(options.millions) * MILLION:
            kept = scores.map_batches(bounds, batch_format="pyarrow").select_columns(["row"]).to_pandas()["row"]
            check(rows, np.sort(kept.to_numpy()))
    about = {"rows": rows, "bytes read a row": size / rows}
    return {"steps": [{**about, "step": "bounds", **one}, {**about, "step": "select", **two}]}


def check(rows: int, kept: np.ndarray) -> None:
    """The same rows as in memory."""
    table = pa.concat_tables([drawn(*part) for part in parts(rows)])
    scores, labels, typicality = (table[name].to_numpy() for name in ("ltc_score", "label", "ltc_typicality"))
    ranks = coreset_order(scores, labels, typicality=typicality)
    assert np.array_equal(np.flatnonzero(ranks < round(FRACTION * rows)), kept)


@contextmanager
def cluster(store: int) -> Iterator[None]:
    # Ray's workers yield to all other jobs on the machine otherwise.
    os.environ.setdefault("RAY_worker_niceness", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * MIB})
    for _ in range(2):
        made.add_node(num_cpus=1, object_store_memory=store)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # Workers are started, and have imported what they need.
    few = ray.data.from_arrow([drawn(number, np.arange(1_000) + 1_000 * number) for number in range(4)])
    few.map_batches(coreset_bounds(few, fraction=FRACTION), batch_format="pyarrow").count()
    try:
        yield
    finally:
        ray.shutdown()
        made.shutdown()


def report(results: list[dict]) -> str:
    lines = [
        "| step | million rows | seconds | seconds of a core | a million more rows | GiB held | of the object store |"
    ]
    lines.append("|---|" + "---:|" * 6)
    for step in STEPS:
        each = sorted((one for one in results if one["step"] == step), key=lambda one: one["rows"])
        for before, one in zip([None, *each], each):
            more = ""
            if before is not None:
                grown = one["seconds of a core"] - before["seconds of a core"]
                more = f"{grown / (one['rows'] - before['rows']) * MILLION:.2f}"
            held = " | ".join(f"{one['bytes'][name] / 2**30:.1f}" for name in ("all", "object store"))
            seconds = f"{one['seconds']:.1f} | {one['seconds of a core']:.1f}"
            lines.append(f"| {step} | {one['rows'] / MILLION:g} | {seconds} | {more} | {held} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/scaling"))
    parser.add_argument("--millions", type=float, nargs="+", default=[2, 10, 50])
    parser.add_argument("--score-millions", type=float, nargs="+", default=[2, 10, 50])
    parser.add_argument("--store", type=float, default=2.0, help="GiB of the object store of each worker")
    options = parser.parse_args()
    todo: dict[str, Callable[[], dict]] = {}
    for name, function, sizes in (("score", score, options.score_millions), ("choose", choose, options.millions)):
        todo |= {f"{name}-{each:g}": partial(function, options, round(each * MILLION)) for each in sorted(sizes)}
    done = options.folder / "steps"
    if all((done / f"{name}.json").exists() for name in todo):
        found = {name: json.loads((done / f"{name}.json").read_text()) for name in todo}
    else:
        with cluster(int(options.store * 2**30)):
            found = run_trials(done, todo, "steps")
    results = [one for each in found.values() for one in each.get("steps", [each])]
    given = [" ".join(f"{each:g}" for each in sizes) for sizes in (options.millions, options.score_millions)]
    command = f"python benchmarks/scaling.py --millions {given[0]} --score-millions {given[1]}"
    about = provenance()
    about["versions"] |= {name: version(name) for name in ("ray", "pyarrow")}
    protocol = {
        "cluster": "a head without processors, two workers with one each, on one machine",
        "checkpoints": EPOCHS + 1,
        "classes": CLASSES,
        "coreset": FRACTION,
        "score": "the default, with typicality",
    }
    output = results_of(__file__)
    write_results(output, {"command": command, "protocol": protocol, **about, "results": results})
    loads = [each["load"] for each in results]
    said = (
        f"Made by `{command}`; scaling.py says how. The load of the machine was {min(loads):.0f} to {max(loads):.0f}."
    )
    output.with_suffix(".md").write_text(f"{said}\n\n{report(results)}\n")


if __name__ == "__main__":
    main()
