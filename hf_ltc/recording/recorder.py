"""The losses of an epoch: kept on the device, joined across processes once, checked, and published."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pyarrow as pa
import torch

from ..config import RESUME_MAY_CHANGE, Store
from ..data.identity import WHERE
from ..data.inputs import check_apart, class_numbers, row_numbers
from ..recipe import Recipe
from ..scores.protocol import RecordedColumns
from ..scores.running_sums import RunningSums, mean_validation_losses
from ..training.metrics import LossBuffer, sample_values
from ..trajectories import run_dir
from ..trajectories.compact import COMPACT, check_logarithms, compact_range, compacted
from ..trajectories.run_dir import LOSSES, SUMS_OF, VALIDATION_LOSS, write_rows
from ..trajectories.run_sums import drop_older_sums, read_sums, sums_to_write
from ..trajectories.summary import load_recording
from ..trajectories.value import Trajectories
from ..utils import files
from ..utils.errors import InputError, listed, require
from ..utils.processes import Processes, together
from .places import Places

TRAIN, EVALUATION, VALIDATION = "train", "evaluation", "validation"
# Keys of the state beside the splits, and what follows a split in that of its class numbers.
_PROCESSES, _CLASSES = "processes", "-classes"


class TrajectoryRecorder:
    """Records losses in your own training loop.

    ```python
    recorder = TrajectoryRecorder("runs/mine", rows=len(train), labels=train_labels, validation_labels=labels)
    for epoch in range(epochs):
        with recorder.epoch():
            for rows, batch in loader:
                losses = cross_entropy(model(batch), ..., reduction="none")
                recorder.update(rows, losses)
            for rows, batch in validation_loader:
                recorder.update(rows, ..., split="validation")
    trajectories = recorder.finish()
    ```

    An epoch is written when its block ends without an error, as a whole. A recorder with the same arguments resumes
    after the last written epoch: count from `next_epoch` on, with the weights that the training had then. A loop that
    begins anew needs another `output_dir`.

    Args:
        output_dir (`str` or `Path`): The run directory.
        rows (`int` or `Sequence`): The number of rows in the dataset, or the numbers or unique ids of recorded rows.
        labels (`np.ndarray`): int64 `(N,)`, the classes of these rows.
        validation_labels (`np.ndarray`): int64 `(Q,)`, classes of the validation samples.
        validation_rows (`Sequence`, *optional*):
            Row numbers of the validation samples in the same dataset, or their unique ids. If not given, they are a
            separate split with the numbers 0 to Q - 1.
        losses (`Sequence[str]`, *optional*, defaults to `("training_loss",)`):
            `"training_loss"`, `"evaluation_loss"` or both, and per-sample metrics such as `"margin"`. With both, pass
            evaluation losses as `split="evaluation"`. `"predicted"` holds class numbers, integers from 0.
        ids (`pyarrow.Array`, *optional*):
            `(N,)` unique ids to join by, for rows that are given by number.
        first_epoch (`int`, *optional*, defaults to `0`): Number of the first recorded epoch, 0 for an untrained model.
        recipe (`dict`, *optional*): Anything to keep with the recording; `attach` checks the dataset against
            `recipe["dataset"]`.
        accelerator (`Accelerator` or `PartialState`, *optional*): The processes; this one alone if not given.
        store (`str`, *optional*, defaults to `"trajectories"`):
            `"trajectories"`; `"compact"`: trajectories with one byte per loss, which keeps losses from 0.0001 to 20 to
            within 2.5%; or `"summary"`: running sums for each row, whose size does not depend on the number of epochs,
            for one kind of loss and no metrics. Then `finish` returns a [`LossSummary`], and `LossSummary.load` reads
            one after any epoch.

    Raises:
        InputError: if the folder holds something else, or a recording made with other arguments.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        rows: int | Sequence[Any] | np.ndarray,
        labels: Any,
        validation_labels: Any,
        validation_rows: Sequence[Any] | np.ndarray | None = None,
        losses: Sequence[str] = ("training_loss",),
        ids: pa.Array | None = None,
        first_epoch: int = 0,
        recipe: Mapping[str, Any] | None = None,
        accelerator: Processes | None = None,
        store: Store = "trajectories",
    ) -> None:
        require(store in get_args(Store), "store", store, f"one of {listed(get_args(Store))}")
        if store == "summary" and (len(losses) != 1 or losses[0] not in LOSSES):
            raise InputError(
                f"`store` 'summary' keeps running sums of one kind of loss, and `losses` is {', '.join(losses)}: give "
                "training_loss or evaluation_loss alone, or store='trajectories'"
            )
        self.path = files.local(output_dir, "output_dir")
        self.accelerator = accelerator
        device = accelerator.device if accelerator is not None else torch.device("cpu")
        self.labels = class_numbers(labels, "labels")
        self.validation_labels = class_numbers(validation_labels, "validation_labels")
        numbers, self.ids = row_numbers(rows, "rows", or_count=True)
        own_split = validation_rows is None
        asked = np.arange(len(self.validation_labels)) if validation_rows is None else validation_rows
        held, held_ids = row_numbers(asked, "validation_rows")
        for what, count, expected in (
            ("labels", len(self.labels), len(numbers)),
            ("validation_labels", len(self.validation_labels), len(held)),
        ):
            if count != expected:
                raise InputError(f"`{what}` has {count} values for {expected} rows")
        self._held_ids = held_ids
        if not own_split:
            check_apart(numbers, ids if ids is not None and held_ids is not None else self.ids, held, held_ids)
        order = np.argsort(numbers)
        self.rows = numbers = numbers[order]
        if ids is not None:
            self.ids = ids.take(pa.array(order))
        self.labels = self.labels[order]
        # Of another split, or told by an id, a validation sample has no row number in the dataset.
        self.validation_rows = np.full(len(held), -1, np.int64) if own_split or held_ids is not None else held
        train = Places(numbers, self.ids if ids is None else None, device)
        self._places = {TRAIN: train, EVALUATION: train, VALIDATION: Places(held, held_ids, device)}
        self._known = {TRAIN: numbers, EVALUATION: numbers, VALIDATION: held}
        self._names = list(losses)
        both = set(LOSSES) <= set(losses)
        names = {TRAIN: [name for name in losses if not both or name != LOSSES[1]], VALIDATION: [VALIDATION_LOSS]}
        if both:
            names[EVALUATION] = [LOSSES[1]]
        self._buffers = {split: LossBuffer(names[split], len(self._known[split]), device) for split in names}
        # Refuses one that is malformed, before anything is recorded.
        Recipe.check(recipe or {})
        self._recipe = dict(recipe or {})
        if store == "summary":
            self._recipe[SUMS_OF] = losses[0]
        if store == "compact":
            self._recipe[COMPACT] = compact_range()
        # Those of the epochs written so far, once one is to be written.
        self._sums: tuple[int | None, RunningSums] | None = None
        self._open()
        # What else the files of epochs say of themselves.
        self.marks: dict[str, str] = {}
        published = run_dir.published_epochs(self.path)
        self._next_epoch = published[-1] + 1 if published else first_epoch
        # Whether there are epochs that the caller's loop has not shown to know of.
        self._is_unaware = bool(published)

    @property
    def next_epoch(self) -> int:
        """The number of the epoch after the last written."""
        # Who asks knows of the epochs that are there.
        self._is_unaware = False
        return self._next_epoch

    @property
    def is_main(self) -> bool:
        return self.accelerator is None or self.accelerator.is_main_process

    @property
    def _processes(self) -> int:
        return 1 if self.accelerator is None else self.accelerator.num_processes

    @contextmanager
    def epoch(self, number: int | None = None) -> Iterator[None]:
        """Records one epoch: everything that `update` adds inside the block is checked and written at its end.

        Args:
            number (`int`, *optional*): The epoch; if not given, the one after the last written.

        Raises:
            InputError: for an epoch that is recorded, and without a number in a folder with epochs that the loop does
                not know of: those of another training, if it begins anew.
        """
        if number is None and self._is_unaware:
            raise InputError(
                f"{str(self.path)!r} has epochs up to {self._next_epoch - 1}, and a training that starts over would "
                f"be recorded as their continuation: count on from recorder.next_epoch ({self._next_epoch}) with the "
                "weights of that training, or give another `output_dir`"
            )
        number = self._next_epoch if number is None else number
        if number < self._next_epoch:
            raise InputError(
                f"epoch {number} is recorded already in {str(self.path)!r}, and epochs are not rewritten: continue "
                f"with epoch {self._next_epoch} (recorder.next_epoch), or give another `output_dir`"
            )
        self._is_unaware = False
        self.clear()
        yield
        self.publish(number, self.collect(number))

    def update(self, rows: Any, losses: Any, *, split: str = TRAIN, **metrics: Any) -> None:
        """Adds the losses of a batch.

        Args:
            rows (`torch.Tensor`, `np.ndarray` or `Sequence`): `(B,)` row numbers or ids, as given to the recorder.
            losses (`torch.Tensor` or `np.ndarray`): `(B,)`, cross-entropy of each sample, natural logarithm.
            split (`str`, *optional*, defaults to `"train"`): `"train"`, `"validation"`, or `"evaluation"`.
            **metrics: Further values of each sample, `(B,)`, for each name in the recorder's `losses` except the
                first.

        Raises:
            InputError: for rows that are not recorded, or losses of another shape, saying which.
        """
        if split not in self._buffers:
            raise InputError(f"split={split!r}: recorded are {', '.join(self._buffers)}")
        buffer = self._buffers[split]
        given = {buffer.names[0]: losses, **metrics}
        if set(given) != set(buffer.names):
            raise InputError(f"update got {', '.join(given)} of each sample, recorded are {', '.join(buffer.names)}")
        positions = self._places[split](rows)
        values = [sample_values(given[name], positions, name) for name in buffer.names]
        buffer.add(positions, *values)

    def add(self, split: str, positions: torch.Tensor, *values: torch.Tensor) -> None:
        """Like `update`, but by position among the recorded rows (int64 on the device), and without checks."""
        self._buffers[split].add(positions, *values)

    def clear(self) -> None:
        """Discards what was added since the last epoch was collected."""
        for buffer in self._buffers.values():
            buffer.clear()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What all processes added since the last epoch was collected, to resume within an epoch with
        [`load_state_dict`]; call it on every process."""
        tables = {name: table.clone() for name, table in self._tables().items()}
        if self.accelerator is not None and self.accelerator.num_processes > 1:
            operations = torch.distributed.ReduceOp
            for name, table in tables.items():
                torch.distributed.all_reduce(table, operations.SUM if name in self._buffers else operations.MAX)
        return {split: table.cpu() for split, table in tables.items()} | {_PROCESSES: torch.tensor(self._processes)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores what [`state_dict`] returned; call it on every process.

        Raises:
            InputError: if it comes from another recorder, or from another number of processes, which would get the
                rows in another order.
        """
        tables = {split: table for split, table in state.items() if split != _PROCESSES}
        if (was := int(state.get(_PROCESSES, self._processes))) != self._processes:
            raise InputError(
                f"the state is of an epoch begun on {was} processes, and now {self._processes} continue it, with rows "
                f"in another order: start {was}, or begin the epoch again without load_state_dict"
            )
        shapes = {name: tuple(table.shape) for name, table in tables.items()}
        if shapes != (own := {name: tuple(table.shape) for name, table in self._tables().items()}):
            raise InputError(
                f"the state is of another recorder (it has {shapes}, this one {own}): make the recorder with the same "
                "rows, losses and validation samples"
            )
        self.clear()
        if self.is_main:
            for name, table in self._tables().items():
                table.copy_(tables[name])

    def _tables(self) -> dict[str, torch.Tensor]:
        """The values of each split, and its class numbers where there are any."""
        tables = {split: buffer.table for split, buffer in self._buffers.items()}
        classes = {f"{split}{_CLASSES}": buffer.classes for split, buffer in self._buffers.items()}
        return tables | {name: table for name, table in classes.items() if len(table)}

    def collect(self, epoch: int) -> dict[str, np.ndarray]:
        """Joins and checks what was added; called on every process. Returns float32 `(N,)` and `(Q,)` by name, and
        int32 of class numbers."""
        arrays = {
            name: values
            for split, buffer in self._buffers.items()
            for name, values in buffer.collect(self.accelerator, epoch, self._known[split]).items()
        }
        if COMPACT in self._recipe:
            check_logarithms(arrays, LOSSES, epoch, self.rows)
        return arrays

    def write(self, epoch: int, arrays: Mapping[str, np.ndarray], path: Path) -> None:
        """Writes the file of an epoch; called on the main process."""
        if SUMS_OF in self._recipe:
            arrays = self._summed(epoch, arrays)
        if COMPACT in self._recipe:
            arrays = compacted(arrays, LOSSES)
        run_dir.write_epoch(path, arrays, {"run": self.run, "epoch": str(epoch), **self.marks})

    def _summed(self, epoch: int, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The validation losses of an epoch, and the sums of all epochs up to it."""
        drop_older_sums(self.path)
        before = max(run_dir.published_epochs(self.path), default=None)
        classes = int(max(self.labels.max(initial=0), self.validation_labels.max(initial=0))) + 1
        if self._sums is not None and self._sums[0] == before:
            sums = self._sums[1]
        elif before is None:
            sums = RunningSums.none(len(self.rows), classes)
        else:
            sums = read_sums(run_dir.epoch_path(self.path, before))
        # Of another epoch as soon as they are added to: if this one is not written, they are read again.
        self._sums = (epoch, sums)
        losses = arrays[VALIDATION_LOSS]
        means = mean_validation_losses(losses, self.validation_labels, classes)
        sums.add(arrays[self._recipe[SUMS_OF]], self.labels, means, trained=epoch > 0)
        return {VALIDATION_LOSS: losses, **sums_to_write(sums)}

    def publish(self, epoch: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes an epoch that was collected into the run directory; called on every process."""
        with together(self.accelerator):
            if self.is_main:
                self.write(epoch, arrays, run_dir.epoch_path(self.path, epoch))
        self._next_epoch = epoch + 1

    def wait(self) -> None:
        """Waits for the other processes."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()

    def finish(self, **recipe: Any) -> Trajectories:
        """Marks the recording as complete.

        Args:
            **recipe: Further entries of the recipe.

        Returns:
            [`Trajectories`], or [`LossSummary`] with `store="summary"`.
        """
        if self.is_main:
            if SUMS_OF in self._recipe:
                drop_older_sums(self.path)
            published = run_dir.published_epochs(self.path)
            files.write_json(self.path / files.RECIPE, {**self._recipe, **recipe, "epochs": published})
        self.wait()
        # For type checkers what it is without `store="summary"`.
        return cast(Trajectories, load_recording(self.path))

    def _open(self) -> None:
        marks = {key: value for key, value in self._recipe.items() if key in ("config", "dataset", "validation")}
        # Neither how fast it runs nor where the dataset is kept makes it another recording.
        for name, left_out in (("config", RESUME_MAY_CHANGE), ("dataset", WHERE)):
            if marks.get(name):
                marks[name] = {k: v for k, v in marks[name].items() if k not in left_out}
        marks |= {key: self._recipe[key] for key in (SUMS_OF, COMPACT) if key in self._recipe}
        made = sha256(json.dumps([marks, self._names], sort_keys=True, default=str).encode())
        for numbers in (self.rows, self.labels, self.validation_rows, self.validation_labels):
            made.update(len(numbers).to_bytes(8, "little") + numbers.astype("<i8").tobytes())
        for ids in (self.ids, self._held_ids):
            made.update(repr(None if ids is None else ids.to_pylist()).encode())
        self.run = made.hexdigest()[:16]
        recipe = self.path / files.RECIPE
        files.check_free(self.path, may_hold)
        if recipe.exists():
            stored = files.read_json(recipe)
            if Recipe.read(recipe).run != self.run:
                raise InputError(
                    f"{str(self.path)!r} holds another recording (other rows, labels, losses or settings): give "
                    "another folder, or make the recorder with the same arguments"
                )
            self._recipe = stored
        else:
            self._recipe = run_dir.marked({"run": self.run, **self._recipe})
        self.wait()
        with together(self.accelerator):
            if self.is_main and not recipe.exists():
                # Of a recording it writes the rows alone.
                write_rows(self.path, cast(RecordedColumns, self))
                files.write_json(recipe, self._recipe)


def may_hold(path: Path) -> bool:
    """Whether a folder holds a recording, or only what an interrupted start left in it."""
    return (path / files.RECIPE).exists() or all(
        entry.name.startswith(".") or entry.name == run_dir.ROWS for entry in path.iterdir()
    )
