"""The log of a training, written by rank 0 in two forms.

    OUT/log.jsonl    one line every few steps, each step once
    OUT/events.*     the same for TensorBoard, and images

A full disk is an OSError that names the file.
"""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from pipeline.atomic_files import add_path_to_errors, replace_file


class LogEntry(NamedTuple):
    """The line of the log for a step."""

    step: int
    scalars: dict[str, float]


class Log:
    """Averages scalars and writes them down, after what was logged up to `step`.

    Ranks other than 0 are `quiet`: they average, and write nothing. Raises OSError, naming the
    file, if it cannot be written.
    """

    def __init__(self, out: Path, *, batch: int, step: int, quiet: bool):
        self.file, self.board = out / "log.jsonl", None
        self.quiet, self.batch = quiet, batch
        self._reset()
        if not quiet:
            out.mkdir(parents=True, exist_ok=True)
            _truncate_after_step(self.file, step)
            self.board = _TensorBoardWriter(out, step)

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.test_scalars: dict[str, float] = {}
        self.count, self.data_wait_s, self.started_at = 0, 0.0, time.monotonic()

    @contextmanager
    def time_data_wait(self) -> Iterator[None]:
        """Counts the time in this block as waiting for samples."""
        entered = time.monotonic()
        yield
        self.data_wait_s += time.monotonic() - entered

    @contextmanager
    def exclude_time(self) -> Iterator[None]:
        """Leaves the time in this block out of the rates."""
        entered = time.monotonic()
        yield
        self.started_at += time.monotonic() - entered

    def add(self, scalars: dict[str, Tensor]) -> None:
        """Adds the scalars of one step to the averages."""
        self.sums = {name: self.sums.get(name, 0) + value for name, value in scalars.items()}
        self.count += 1

    def record_evaluation(
        self,
        step: int,
        scalars: dict[str, float],
        images: dict[str, Float[Tensor, "3 height width"]],
    ) -> None:
        """Keeps scalars measured on the test split for the next line, and writes the images (0 to
        1) now.
        """
        self.test_scalars = {f"test_{name}": value for name, value in scalars.items()}
        if self.board:
            self.board.write_images(step, images)

    def write_entry(self, step: int) -> LogEntry:
        """Writes the averages since the last line, the rates, and the scalars of the test split."""
        seconds = time.monotonic() - self.started_at
        scalars = {name: float(value) / self.count for name, value in self.sums.items()}
        scalars |= self.test_scalars
        scalars |= dict(
            samples_a_second=self.batch * self.count / seconds,
            waiting_share=self.data_wait_s / seconds,
        )
        if self.board:
            line = {"step": step, "at": round(time.time(), 2)}
            line |= {name: round(value, 6) for name, value in scalars.items()}
            with add_path_to_errors(self.file), self.file.open("ab") as file:
                file.write((json.dumps(line) + "\n").encode())
            self.board.write_scalars(step, scalars)
        self._reset()
        return LogEntry(step, scalars)


def _truncate_after_step(path: Path, step: int) -> None:
    """Removes from a log what a killed training wrote after its last checkpoint, and a line that it
    did not finish.
    """
    log = path.read_bytes() if path.exists() else b""
    valid = b"".join(
        line
        for line in log.splitlines(keepends=True)
        if line.endswith(b"\n") and _entry_step(line) <= step
    )
    if valid != log:
        replace_file(path, valid)


def _entry_step(line: bytes) -> float:
    """The step of a line of the log; infinity if it is malformed."""
    try:
        return float(json.loads(line)["step"])
    except (KeyError, RecursionError, TypeError, ValueError):
        return float("inf")


class _TensorBoardWriter:
    """Writes a file of TensorBoard's events, each of them at once.

    TensorBoard's own SummaryWriter writes in a thread, where a full disk is noticed late and with a
    traceback. Raises ValueError if TensorBoard is not installed.
    """

    def __init__(self, out: Path, step: int):
        try:
            from tensorboard.compat.proto import event_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
            from torch.utils.tensorboard import summary
        except ImportError as error:
            raise ValueError(
                "TensorBoard is not installed, expected pip install 'quiver-motion[train]'"
            ) from error
        self.proto: Any = event_pb2
        self.summary, self.record_writer = summary, RecordWriter
        self.path = out / f"events.out.tfevents.{int(time.time())}.{uuid.uuid4().hex}"
        self._write(0, file_version="brain.Event:2")
        if step:  # TensorBoard then discards what an earlier attempt wrote about later steps
            start = self.proto.SessionLog(status=self.proto.SessionLog.START)
            self._write(step + 1, session_log=start)

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self._write(step, summary=self.summary.scalar(name, value))

    def write_images(self, step: int, images: dict[str, Float[Tensor, "3 height width"]]) -> None:
        """Writes images of values in 0 .. 1."""
        for name, image in images.items():
            self._write(step, summary=self.summary.image(name, image, dataformats="CHW"))

    def _write(self, step: int, **content: Any) -> None:
        event = self.proto.Event(wall_time=time.time(), step=step, **content)
        with add_path_to_errors(self.path), self.path.open("ab") as file:
            self.record_writer(file).write(event.SerializeToString())
