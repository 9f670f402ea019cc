"""Worker processes without room in shared memory, and killed ones: batches arrive, or one line says why not."""

import subprocess
import sys

HEAD = """
import io, multiprocessing, os, resource, signal, sys
import numpy as np, PIL.Image, torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from hf_ltc.training.batches import CollatedBatches
from hf_ltc.utils.errors import InputError
from hf_ltc.training.forward import evaluate
from hf_ltc.training.images import StoredImages
from hf_ltc.training.workers import Sending, received, workers_watched
from accelerate import PartialState
from torch.utils.data import DataLoader
from transformers import BatchFeature

def png(row):
    file = io.BytesIO()
    PIL.Image.new("RGB", (224, 224), (row, 2 * row, 3 * row)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}

rows = Dataset.from_dict({"image": [png(row) for row in range(48)]}, features=Features({"image": Image()}))
batches = np.split(np.arange(48), 6)
"""

# Files in shared memory are files: of a megabyte at most they cannot hold a batch, as in a /dev/shm that is full.
FULL = "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"

IMAGES = """
for pixels, positions in StoredImages(rows, "image", 224).batches(batches, num_workers=2):
    assert pixels.dtype == torch.uint8 and (pixels[:, 1, 100, 100] == 2 * positions).all()
    print(*positions.tolist())
"""

COLLATED = """
def collate(part):
    # More than fits, in the containers and types that models take.
    x = torch.tensor([row["x"] for row in part], dtype=torch.bfloat16)
    turned = torch.zeros(2**10, 2**10, dtype=torch.bool).T
    more = [torch.zeros(2**20), (torch.ones(3), "text"), turned, torch.tensor(7)]
    return BatchFeature({"x": x, "more": more})

class Model(torch.nn.Module):
    def forward(self, x, more):
        assert x.dtype == torch.bfloat16 and len(more[0]) == 2**20 and more[1][1] == "text"
        assert more[2].dtype == torch.bool and more[2].shape == (2**10, 2**10) and more[3].item() == 7
        return torch.stack([x.float(), -x.float()], 1)

def observe(positions, losses, logits, labels):
    assert (logits[:, 0] == positions).all()
    print(*positions.tolist())

numbers = Dataset.from_dict({"x": [float(row) for row in range(48)]})
with workers_watched():
    batches = CollatedBatches(numbers, torch.zeros(48, dtype=torch.int64), collate, num_workers=2)
    evaluate(Model(), batches, PartialState(), observe, batch_size=8)
"""

KILLED = """
def slow(part):
    if part[0] >= 2:
        signal.pause()
    return torch.tensor(part)

for how in ("while waited for", "while the model trains"):
    try:
        with workers_watched():
            loader = DataLoader(range(48), 1, collate_fn=Sending(slow), num_workers=1)
            for batch in received(loader):
                (worker,) = multiprocessing.active_children()
                if batch.item() == 0:
                    print(how)
                elif how == "while the model trains":
                    os.kill(worker.pid, signal.SIGKILL)
                    signal.pause()
                else:
                    os.kill(worker.pid, signal.SIGKILL)
        print("went on")
    except InputError as error:
        print(error)
"""


def run(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", HEAD + code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_batches_arrive_without_room_in_shared_memory():
    assert [int(row) for line in run(FULL + IMAGES + COLLATED) for row in line.split()] == [*range(48), *range(48)]


def test_a_killed_worker_is_one_line():
    waited, first, trained, second = run(KILLED)
    assert (waited, trained) == ("while waited for", "while the model trains")
    for line in (first, second):
        assert "worker process ended before its work" in line and "/dev/shm" in line and "`num_workers`" in line


def test_no_shared_memory_at_all_is_one_line():
    # As many open files as there are already: a process without semaphores says what one without /dev/shm says.
    code = """
soft = len(os.listdir("/proc/self/fd")) + 1
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
try:
    next(StoredImages(rows, "image", 224).batches(batches, num_workers=2))
except InputError as error:
    print(error)
"""
    (line,) = run(code)
    assert "cannot start 2 worker processes" in line and "/dev/shm" in line and "`num_workers` 0" in line
