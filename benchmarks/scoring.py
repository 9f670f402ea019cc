"""Time and memory of scoring and ranking, on synthetic losses of the size of ImageNet, and against the official code.

    python benchmarks/scoring.py --official FOLDER

FOLDER is a checkout of https://github.com/manishnagaraj/CLD_Coresets_from_Trajectories; without it that part is left
out. Each part runs in a process of its own, so that its memory can be measured. Scores and reads are timed in turns,
and their medians reported; other times are the best of `--repeats`. Results are printed, and written to
results/scoring.json.
"""

import argparse
import contextlib
import io
import json
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

SIZE = {"rows": 1_281_167, "epochs": 90, "classes": 1000, "validation": 50_000}
QUICK = {"rows": 40_000, "epochs": 30, "classes": 100, "validation": 2_000}
OFFICIAL_SIZE = {"rows": 45_000, "epochs": 163, "classes": 100, "validation": 5_000}
MEMBERS = {
    "ltc": {"preset": "ltc"},
    "cld": {"preset": "cld"},
    "das": {"preset": "das"},
    "levels": {"of": "levels", "aggregate": "correlations", "scope": "dataset", "weighting": "none"},
    "levels, by class": {"of": "levels", "aggregate": "correlations", "scope": "class", "weighting": "none"},
    "default": {},
    "cld, weighted": {"of": "differences", "aggregate": "losses", "scope": "class", "weighting": "uncertainty"},
}
# All that `hf-ltc score` takes from the losses: the default, each run's own, typicality and the mean loss.
AT_ONCE = "default and all beside it"
SCORED = (*MEMBERS, AT_ONCE)
# Members with a weight, and the same without.
UNWEIGHTED = {"default": "das", "cld, weighted": "cld"}
MIB = 2**20


def table(rows, epochs, seed):
    """Losses that fall from ln(1000) at speeds of their own, with noise: float32 (epochs + 1, rows), made in place."""
    import numpy as np

    random = np.random.default_rng(seed)
    speed = random.gamma(2, 0.05, rows).astype(np.float32)
    made = np.empty((epochs + 1, rows), dtype=np.float32)
    for t in range(epochs + 1):
        random.random(out=made[t], dtype=np.float32)
        made[t] *= 0.3
        made[t] += 6.9 * np.exp(-speed * t)
    return made


def recording(size, seed):
    import numpy as np

    from hf_ltc.trajectories.value import Trajectories

    rows, epochs, classes, validation = (size[name] for name in ("rows", "epochs", "classes", "validation"))
    return Trajectories(
        losses=table(rows, epochs, seed),
        validation_losses=table(validation, epochs, seed + 1),
        labels=np.random.default_rng(seed + 2).integers(0, classes, rows),
        validation_labels=np.arange(validation) % classes,
        rows=np.arange(rows),
        validation_rows=np.full(validation, -1),
        epochs=np.arange(epochs + 1),
        lengths=(epochs + 1,),
    )


def best(function, repeats):
    """Seconds of the fastest of several calls, and the last result."""
    seconds, result = [], None
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def memory(name):
    """`VmRSS` now, or `VmHWM`, the most it ever was, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {name} in /proc/self/status: this benchmark needs Linux")


def peak_beyond(function):
    """The most bytes that a call takes beyond what the process had before it."""
    before = memory("VmRSS")
    # Resets the high-water mark to what is held now.
    Path("/proc/self/clear_refs").write_text("5")
    result = function()
    return memory("VmHWM") - before, result


def processor_seconds(function, repeats):
    """Seconds of processor time of all threads, which other jobs on the machine change little."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds)


def read_once(losses):
    return sum(float(epoch.sum()) for epoch in losses)


def scored(run, name):
    """Scores by one of `SCORED`."""
    from hf_ltc.scores.at_once import row_scores
    from hf_ltc.scores.ltc import ltc_scores

    return row_scores(run).scores if name == AT_ONCE else ltc_scores(run, **MEMBERS[name])


def in_turns(calls, repeats):
    """Times of calls, one of which is a read pass: in turns, so that other jobs meet all alike."""
    seconds, processor = ({name: [] for name in calls} for _ in range(2))
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start, processor_start = time.perf_counter(), time.process_time()
            call()
            # The first turn loads what is needed.
            if turn:
                seconds[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - processor_start)

    def ratio(one, other):
        return statistics.median(x / y for x, y in zip(one, other))

    found = {
        name: {
            "seconds": statistics.median(seconds[name]),
            "fastest_seconds": min(seconds[name]),
            "processor_seconds": statistics.median(processor[name]),
            "over_one_read": ratio(seconds[name], seconds["read"]),
            "processor_over_one_read": ratio(processor[name], processor["read"]),
        }
        for name in calls
    }
    for name, without in UNWEIGHTED.items():
        if name in calls and without in calls:
            found[name]["over_unweighted"] = ratio(seconds[name], seconds[without])
            found[name]["processor_over_unweighted"] = ratio(processor[name], processor[without])
    return found


def scoring(size, repeats, seed):
    """Scores from an array in memory."""
    from hf_ltc.scores.typicality import ltc_typicality

    run = recording(size, seed)
    calls = {"read": lambda: read_once(run.losses), "typicality": lambda: ltc_typicality(run)}
    calls |= {name: lambda name=name: scored(run, name) for name in SCORED}
    return {"table_MiB": run.losses.nbytes / MIB, "members": in_turns(calls, repeats)}


def peak(size, seed, member):
    """Memory of the first call in a fresh process."""
    run = recording(size, seed)
    small = recording({**size, "rows": 100, "validation": 2 * size["classes"]}, seed)
    # Loads the modules and starts the threads that any call needs.
    scored(small, member)
    taken, _ = peak_beyond(lambda: scored(run, member))
    return {"peak_MiB_beyond_table": taken / MIB}


def on_disk(size, repeats, seed):
    """Scores from a run directory, which is never held whole, beside a pass that reads it."""
    from hf_ltc.trajectories.value import Trajectories

    names = ("ltc", "default", AT_ONCE)
    with tempfile.TemporaryDirectory() as folder:
        whole = recording(size, seed)
        expected = {name: scored(whole, name) for name in names}
        whole.save(Path(folder) / "run")
        del whole
        run = Trajectories.load(Path(folder) / "run", mmap=True)
        calls = {"read": lambda: read_once([run.losses[t] for t in range(len(run.losses))])}
        calls |= {name: lambda name=name: scored(run, name) for name in names}
        found = in_turns(calls, repeats)
        for name in names:
            taken, scores = peak_beyond(calls[name])
            found[name]["peak_MiB"] = taken / MIB
            found[name]["largest_difference"] = float(abs(scores - expected[name]).max())
    return found


def ranking(size, repeats, seed):
    """The class-balanced order, and the rows of a tenth."""
    import numpy as np
    import pyarrow as pa
    from datasets import ClassLabel, Dataset, Features, Value, disable_caching, disable_progress_bars

    from hf_ltc.coresets.order import coreset_order
    from hf_ltc.coresets.select import in_coreset, select_coreset
    from hf_ltc.scores.ltc import ltc_scores

    disable_progress_bars()
    disable_caching()
    run = recording({**size, "epochs": 10}, seed)
    scores = ltc_scores(run, preset="ltc")
    order, ranks = best(lambda: coreset_order(scores, run.labels), repeats)
    names = [str(number) for number in range(size["classes"])]
    dataset = Dataset(
        pa.table({"label": run.labels, "ltc_score": scores, "ltc_rank": ranks}),
    ).cast(Features({"label": ClassLabel(names=names), "ltc_score": Value("float32"), "ltc_rank": Value("int32")}))
    keep = size["rows"] // 10
    select, coreset = best(lambda: select_coreset(dataset, size=keep), repeats)
    filtered, again = best(
        lambda: dataset.filter(
            in_coreset, fn_kwargs={"size": keep}, input_columns="ltc_rank", batched=True, batch_size=100_000
        ),
        repeats,
    )
    assert len(coreset) == len(again) == keep
    counts = np.bincount(coreset.with_format("numpy")["label"][:])
    return {
        "order_seconds": order,
        "select_seconds": select,
        "filter_seconds": filtered,
        "smallest_and_largest_class": [int(counts.min()), int(counts.max())],
    }


def growth(size, repeats, seed):
    """Processor seconds by N, T and Q, and the exponent that fits them: 1 is linear."""
    import numpy as np

    from hf_ltc.scores.ltc import ltc_scores, references

    def measured(name, values, function, other):
        seconds = []
        for value in values:
            run = recording({**size, **other, name: value}, seed)
            function(run)
            seconds.append(processor_seconds(lambda run=run: function(run), repeats))
        exponent = np.polyfit(np.log(values), np.log(seconds), 1)[0]
        return {"values": list(values), "processor_seconds": seconds, "exponent": float(exponent)}

    few = {"validation": 2 * size["classes"]}
    return {
        "N": measured("rows", [size["rows"] // part for part in (8, 4, 2, 1)], ltc_scores, few),
        "T": measured("epochs", [60, 120, 240, 480], ltc_scores, {**few, "rows": size["rows"] // 4}),
        "Q": measured(
            "validation", [size["validation"] * part for part in (1, 2, 4, 8)], references, {"rows": size["classes"]}
        ),
    }


def images(gib, seed):
    """`run.score` on rows with image bytes: bytes written to disk, and memory taken."""
    import numpy as np
    import pyarrow as pa
    from datasets import ClassLabel, Dataset, Features, Image

    block, each = 512, 256 * 1024
    blocks = int(gib * 2**30 / (block * each))
    rows = block * blocks
    # The same 128 MiB of bytes in every block: in memory once, in the dataset many times.
    noise = np.random.default_rng(seed).bytes(block * each)
    offsets = pa.py_buffer(np.arange(block + 1, dtype=np.int32) * each)
    encoded = pa.BinaryArray.from_buffers(pa.binary(), block, [None, offsets, pa.py_buffer(noise)])
    path = pa.nulls(block, pa.string())
    column = pa.chunked_array([pa.StructArray.from_arrays([encoded, path], ["bytes", "path"])] * blocks)
    run = recording({"rows": rows, "epochs": 30, "classes": 10, "validation": 100}, seed)
    features = Features({"image": Image(), "label": ClassLabel(names=list("abcdefghij"))})
    stored = pa.table({"image": column, "label": run.labels}, schema=features.arrow_schema)
    # With a fingerprint: without one `datasets` would hash the ten GiB.
    dataset = Dataset(stored, fingerprint="synthetic")

    def written():
        lines = Path("/proc/self/io").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("wchar")).split()[1])

    small = recording({"rows": block, "epochs": 30, "classes": 10, "validation": 100}, seed)
    small.score(dataset.select(range(block)), preset="ltc")

    def score():
        before, start = written(), time.perf_counter()
        scored = run.score(dataset, preset="ltc")
        return scored, time.perf_counter() - start, written() - before

    taken, (scored, seconds, wrote) = peak_beyond(score)
    return {
        "rows": rows,
        "image_GiB": sum(len(chunk) for chunk in column.chunks) * each / 2**30,
        "seconds": seconds,
        "bytes_written": wrote,
        "peak_MiB": taken / MIB,
        "columns": scored.column_names,
    }


def official_input(folder, seed):
    """Writes what the official code reads, a pickle of lists of numpy scalars, and the same as a run directory."""
    run = recording(OFFICIAL_SIZE, seed)
    run.save(folder / "run")
    with (folder / "losses.pkl").open("wb") as file:
        pickle.dump(
            {
                "tr_loss": [list(epoch) for epoch in run.losses],
                "val_loss": [list(epoch) for epoch in run.validation_losses],
                "tr_lbl": [list(run.labels) for _ in run.losses],
                "val_lbl": [list(run.validation_labels) for _ in run.losses],
            },
            file,
            pickle.HIGHEST_PROTOCOL,
        )
    return {}


def theirs(folder, official):
    """Their main(), from the pickle to the sorted rows of each class, without the start of Python and its imports."""
    import types

    # Their command line, which is not what is measured.
    sys.modules["fire"] = types.ModuleType("fire")
    sys.path.insert(0, str(Path(official).resolve()))
    os.chdir(folder)
    import Compute_CLD_scores

    reading = []

    def load(file):
        start = time.process_time()
        content = pickle.load(file)
        reading.append(time.process_time() - start)
        return content

    Compute_CLD_scores.pickle = types.SimpleNamespace(**{**vars(pickle), "load": load})
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        taken, _ = peak_beyond(lambda: Compute_CLD_scores.main(loss_path="losses.pkl"))
    seconds = time.process_time() - start
    return {
        "processor_seconds": seconds,
        "processor_seconds_without_reading": seconds - reading[0],
        "peak_MiB": taken / MIB,
    }


def ours(folder, repeats):
    """The same from the run directory: read, score, sort within classes."""
    import numpy as np

    from hf_ltc.scores.ltc import ltc_scores
    from hf_ltc.trajectories.value import Trajectories

    def ranked(mmap):
        run = Trajectories.load(folder / "run", mmap=mmap)
        scores = ltc_scores(run, preset="cld")
        # By class, then by falling score.
        return run, scores, np.lexsort((-scores, run.labels))

    taken, (_, scores, order) = peak_beyond(lambda: ranked(True))
    held = Trajectories.load(folder / "run")
    found = {
        "processor_seconds": processor_seconds(lambda: ranked(True), repeats),
        "processor_seconds_without_reading": processor_seconds(
            lambda: np.lexsort((-ltc_scores(held, preset="cld"), held.labels)), repeats
        ),
        "processor_seconds_scoring_alone": processor_seconds(lambda: ltc_scores(held, preset="cld"), repeats),
        "peak_MiB": taken / MIB,
    }
    stored = folder / "Scores" / "CLD_indices_sorted_CIFAR100_resnet18.pkl"
    with stored.open("rb") as file:
        other = pickle.load(file)
    theirs = np.concatenate([other[str(label)] for label in range(OFFICIAL_SIZE["classes"])])
    elsewhere = np.flatnonzero(theirs != order)
    return found | {
        "rows_at_another_place": len(elsewhere),
        "largest_score_gap_there": float(np.abs(scores[theirs] - scores[order])[elsewhere].max(initial=0)),
    }


def in_a_process(part, **arguments):
    """Runs one of the functions above in a fresh process, and returns what it returns."""
    print(f"{part} ...", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, "--part", part, "--arguments", json.dumps(arguments)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def hardware():
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_GiB": round(pages / 2**30),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", metavar="FOLDER", help="checkout of the official code")
    parser.add_argument("--repeats", type=int, default=7, help="calls of which the fastest counts (7)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the synthetic losses (0)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    results = Path(__file__).parent / "results" / "scoring.json"
    parser.add_argument("--output", type=Path, default=results, help="where results are written")
    parser.add_argument(
        "--only", nargs="+", metavar="PART", help="measure these parts again, keep the others' results"
    )
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--arguments", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        arguments = json.loads(given.arguments)
        if "folder" in arguments:
            arguments["folder"] = Path(arguments["folder"])
        print(json.dumps(globals()[given.part](**arguments)))
        return

    size = QUICK if given.quick else SIZE
    each = {"size": size, "seed": given.seed}
    repeated = {**each, "repeats": given.repeats}
    parts = {
        "scoring": lambda: in_a_process("scoring", **repeated),
        "memory": lambda: {name: in_a_process("peak", **each, member=name) for name in SCORED},
        "run_directory": lambda: in_a_process("on_disk", **repeated),
        "ranking": lambda: in_a_process("ranking", **repeated),
        "growth": lambda: in_a_process("growth", **repeated),
        "images": lambda: in_a_process("images", gib=0.5 if given.quick else 10, seed=given.seed),
    }
    if given.official:
        parts["official"] = lambda: beside_official(given.official, given.repeats, given.seed)
    if unknown := set(given.only or ()) - set(parts):
        parser.error(f"no part {', '.join(sorted(unknown))} among {', '.join(parts)} (official needs --official)")
    flags = " --official FOLDER" * bool(given.official) + " --quick" * given.quick
    results = {
        "command": f"python benchmarks/scoring.py{flags} --repeats {given.repeats}",
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), **{n: version(n) for n in ("numpy", "datasets", "pyarrow")}},
        "seed": given.seed,
        "repeats": given.repeats,
        "size": size,
        # Of the machine before each part: times are comparable where it is well below the number of cores.
        "load_average": {},
    }
    output = given.output
    if given.only:
        before = json.loads(output.read_text())
        results = {**before, **results, "load_average": before["load_average"]}
    for part in given.only or parts:
        results["load_average"][part] = os.getloadavg()[0]
        results[part] = parts[part]()
    output.write_text(json.dumps(results, indent=2) + "\n")
    show(results)


def beside_official(official, repeats, seed):
    with tempfile.TemporaryDirectory() as folder:
        in_a_process("official_input", folder=folder, seed=seed)
        other = in_a_process("theirs", folder=folder, official=str(Path(official).resolve()))
        own = in_a_process("ours", folder=folder, repeats=repeats)
    return {
        "size": OFFICIAL_SIZE,
        "theirs": other,
        "ours": own,
        "times_faster": other["processor_seconds"] / own["processor_seconds"],
        "times_faster_without_reading": other["processor_seconds_without_reading"]
        / own["processor_seconds_without_reading"],
        "their_whole_run_over_scoring_alone": other["processor_seconds"] / own["processor_seconds_scoring_alone"],
        "times_less_memory": other["peak_MiB"] / own["peak_MiB"],
    }


def show(results):
    """Prints the results as a table beside their goals."""
    lines = []
    for name, member in results["scoring"]["members"].items():
        weighted = name in UNWEIGHTED
        if weighted:
            lines.append((f"{name}: time of the unweighted", f"{member['over_unweighted']:.2f}", "3"))
        if name != "read":
            goal = "" if weighted or name in ("typicality", AT_ONCE) else "3"
            lines.append((f"{name}: time of one read pass", f"{member['over_one_read']:.2f}", goal))
        lines.append((f"{name}: seconds", f"{member['seconds']:.3f}", ""))
        if name in results["memory"]:
            taken = results["memory"][name]["peak_MiB_beyond_table"]
            lines.append((f"{name}: MiB beyond the table", f"{taken:.0f}", "95 (100 MB)"))
    for name, member in results["run_directory"].items():
        lines.append((f"run directory, {name}: seconds", f"{member['seconds']:.3f}", ""))
        if name != "read":
            lines.append((f"run directory, {name}: time of one read pass", f"{member['over_one_read']:.2f}", "3"))
            lines.append((f"run directory, {name}: MiB", f"{member['peak_MiB']:.0f}", "95 (100 MB)"))
    for name in ("order", "select", "filter"):
        lines.append((f"{name}: seconds", f"{results['ranking'][f'{name}_seconds']:.3f}", "0.5"))
    for name, measured in results["growth"].items():
        lines.append((f"growth in {name}: exponent", f"{measured['exponent']:.2f}", "1"))
    lines.append(("run.score: bytes written", str(results["images"]["bytes_written"]), "0"))
    if "official" in results:
        lines.append(("official code: times faster", f"{results['official']['times_faster']:.0f}", "500"))
        without = results["official"]["times_faster_without_reading"]
        lines.append(("official code: times faster without reading", f"{without:.0f}", "500"))
        alone = results["official"]["their_whole_run_over_scoring_alone"]
        lines.append(("official code: its whole run over our scoring alone", f"{alone:.0f}", ""))
        lines.append(("official code: times less memory", f"{results['official']['times_less_memory']:.0f}", "20"))
        lines.append(
            ("official code: rows at another place", str(results["official"]["ours"]["rows_at_another_place"]), "0")
        )
    width = max(len(name) for name, _, _ in lines)
    print(f"{'':{width}}  {'measured':>10}  goal")
    for name, value, goal in lines:
        print(f"{name:{width}}  {value:>10}  {goal}")


if __name__ == "__main__":
    main()
