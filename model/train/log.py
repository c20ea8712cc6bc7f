"""What rank 0 of a training writes down: what it has come to, in two files.

    OUT/log.jsonl    one line every few steps, none of them twice
    OUT/events.*     the same for TensorBoard, with pictures

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
    """What the log says of a step."""

    step: int
    scalars: dict[str, float]


class Log:
    """Goes on after `step`; of a `quiet` rank nothing is written. Raises OSError, naming the file,
    where it cannot be.
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
        """Time in this block was spent on waiting for samples."""
        entered = time.monotonic()
        yield
        self.data_wait_s += time.monotonic() - entered

    @contextmanager
    def exclude_time(self) -> Iterator[None]:
        """Time in this block is no time of training: its rates do not count it."""
        entered = time.monotonic()
        yield
        self.started_at += time.monotonic() - entered

    def add(self, scalars: dict[str, Tensor]) -> None:
        """Of one step."""
        self.sums = {name: self.sums.get(name, 0) + value for name, value in scalars.items()}
        self.count += 1

    def record_evaluation(
        self,
        step: int,
        scalars: dict[str, float],
        pictures: dict[str, Float[Tensor, "3 height width"]],
    ) -> None:
        """On the test split; the scalars stand in the next line."""
        self.test_scalars = {f"test_{name}": value for name, value in scalars.items()}
        if self.board:
            self.board.pictures(step, pictures)

    def write_entry(self, step: int) -> LogEntry:
        """Means since the last line."""
        seconds = time.monotonic() - self.started_at
        scalars = {
            name: float(value) / self.count for name, value in self.sums.items()
        } | self.test_scalars
        scalars |= dict(
            samples_a_second=self.batch * self.count / seconds,
            waiting_share=self.data_wait_s / seconds,
        )
        if self.board:
            line = {"step": step, "at": round(time.time(), 2)} | {
                name: round(value, 6) for name, value in scalars.items()
            }
            append(self.file, (json.dumps(line) + "\n").encode())
            self.board.scalars(step, scalars)
        self._reset()
        return LogEntry(step, scalars)


def _truncate_after_step(path: Path, step: int) -> None:
    """Takes out of a log what a training that was killed wrote after its last checkpoint, and a
    line that it did not finish.
    """
    before = path.read_bytes() if path.exists() else b""
    kept = b"".join(
        line
        for line in before.splitlines(keepends=True)
        if line.endswith(b"\n") and _entry_step(line) <= step
    )
    if kept != before:
        replace_file(path, kept)


def _entry_step(line: bytes) -> float:
    """Infinite of what is no line of a log."""
    try:
        return float(json.loads(line)["step"])
    except (KeyError, RecursionError, TypeError, ValueError):
        return float("inf")


def append(path: Path, data: bytes) -> None:
    with add_path_to_errors(path), path.open("ab") as file:
        file.write(data)


class _TensorBoardWriter:
    """A file of TensorBoard's events, each written at once: its own writer does it in a thread,
    where a full disk is heard of late and with a traceback. Raises ValueError where TensorBoard is
    not installed.
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
        if step:  # what an earlier attempt has shown of later steps is taken back
            self._write(
                step + 1, session_log=self.proto.SessionLog(status=self.proto.SessionLog.START)
            )

    def scalars(self, step: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self._write(step, summary=self.summary.scalar(name, value))

    def pictures(self, step: int, pictures: dict[str, Float[Tensor, "3 height width"]]) -> None:
        """Of values in 0 to 1."""
        for name, picture in pictures.items():
            self._write(step, summary=self.summary.image(name, picture, dataformats="CHW"))

    def _write(self, step: int, **content: Any) -> None:
        event = self.proto.Event(wall_time=time.time(), step=step, **content)
        with add_path_to_errors(self.path), self.path.open("ab") as file:
            self.record_writer(file).write(event.SerializeToString())
