"""The parent's side of a decoder process: asks, waits no longer than the deadline, kills, and says
what happened.
"""

import fcntl
import json
import mmap
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from pipeline.decode import sandbox
from pipeline.decode.config import DecodeConfig
from pipeline.decode.media_file import PictureResult
from pipeline.decode.worker import (
    DONE,
    READY,
    RELEASE_SLOT,
    SLOT_COUNT,
    batch_size,
    deserialize_video,
    memory_bytes,
    view_slots,
)
from schemas.clip import VideoInfo
from schemas.outcome import Quarantined, Reason, Stage, to_printable

_ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-P", "-m", "pipeline.decode.worker")
_MAX_READY_BYTES, _MAX_MESSAGE_BYTES = 1 << 10, 64 << 20
_MALFORMED_MESSAGE_ERRORS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading a message raises that is not one of ours."""
START_TIMEOUT_S = 60.0
"""How long a process may take to load itself; on a busy machine many times what it takes on
another.
"""
_MEMORY_POLL_S = 0.05
"""How often a silent decoder's memory is looked at."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_ALLOWED_VARIABLE_NAMES = (
    "PATH HOME TMPDIR TZ LANG LANGUAGE "
    "LC_ALL LC_COLLATE LC_CTYPE LC_MESSAGES LC_MONETARY LC_NUMERIC LC_TIME "
    "LD_LIBRARY_PATH LD_PRELOAD MALLOC_ARENA_MAX MALLOC_TRIM_THRESHOLD_ OPENBLAS_CORETYPE "
    "DECORD_EOF_RETRY_MAX DECORD_REWIND_RETRY_MAX "
    "PYTHONDONTWRITEBYTECODE PYTHONFAULTHANDLER PYTHONHASHSEED "
    "PYTHONHOME PYTHONIOENCODING PYTHONNOUSERSITE PYTHONPATH PYTHONPYCACHEPREFIX PYTHONUSERBASE "
    "PYTHONUTF8 PYTHONWARNINGS"
)
_ALLOWED_VARIABLES = frozenset(_ALLOWED_VARIABLE_NAMES.split())
"""Variables of the environment that a decoder is given, by name: each may change how Python or a
library of the decoder loads. The file that it opens might have a use for any other."""
_STDERR_TAIL_BYTES = 4096
"""How much of the end of a decoder's standard error is kept."""
_PIPE_BYTES = 1 << 20
"""More than a pipe holds."""
_MAX_DETAIL_LINES, _MAX_DETAIL_CHARACTERS = 5, 500
"""Lines of it in a crash's detail, and the characters of that."""
_VARYING_TEXT = re.compile(r"0x[0-9a-fA-F]+|\b\d{4}-\d\d-\d\d\b|\b\d{1,2}:\d\d:\d\d(?:[.,]\d+)?")
"""What differs between two runs of one crash: addresses, days, clock times."""


class DecoderDied(Exception):
    """The process is gone: it crashed, was killed for its silence or its memory, or spoke nonsense."""

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class DecoderProcess:
    """One decoder process, used by one thread at a time. After `DecoderDied` it is dead and cannot
    be used again.
    """

    def __init__(self, config: DecodeConfig, command: Sequence[str] = COMMAND):
        self.config, self.request_count, self.resident_bytes = config, 0, 0
        self.memory = os.fdopen(
            os.memfd_create("quiver-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "r+b"
        )
        fcntl.fcntl(
            self.memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK
        )  # memory that the child takes away would kill us
        self.is_overdue = self.has_started = False
        self.path, self.stderr_tail = "", b""
        self.defenses = sandbox.conceal()
        """Names of what holds, keys of sandbox.DEFENSES; complete once the process has started."""
        self.connection, theirs = Pipe()
        # a decoder that nobody listens to loses words and never waits
        ours, stderr = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.errors = os.fdopen(ours, "rb", buffering=0)
        descriptors = theirs.fileno(), self.memory.fileno()
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        with theirs, os.fdopen(stderr, "wb"):
            self.process = subprocess.Popen(  # noqa: S603 - our own module
                [*command, *map(str, (*descriptors, config.decoder_memory_mb, os.getpid()))],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=_filter_environment(os.environ)
                | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        self._await_start()

    def probe(self, path: str) -> VideoInfo:
        """Raises Quarantined, or DecoderDied."""
        self._send_request(path)
        message = self._receive()
        try:
            return deserialize_video(message)
        except _MALFORMED_MESSAGE_ERRORS as error:
            raise self._fail(Reason.CRASH, "the decoder spoke nonsense") from error

    def pictures(
        self, path: str, video: VideoInfo, indices: Sequence[int], size: tuple[int, int]
    ) -> Iterator[PictureResult]:
        """Copies of the frames at `indices` of a probed video, in order, or what is wrong with
        them.

        Raises Quarantined if the file cannot be read any further, or DecoderDied.
        """
        needed, batch, turns = (
            memory_bytes(size),
            batch_size(size),
            -(-len(indices) // batch_size(size)),
        )
        if os.fstat(self.memory.fileno()).st_size < needed:
            self.memory.truncate(needed)
        if not turns:
            return
        self._send_request(
            path, indices=[int(i) for i in indices], size=size, signature=video.signature
        )
        done = 0
        with mmap.mmap(self.memory.fileno(), needed) as memory:
            for turn in range(turns):
                expected = min(batch, len(indices) - turn * batch)
                count, others = self._receive_batch(expected)
                images = _copy_slot(memory, size, turn, count)
                if turn + SLOT_COUNT < turns:
                    self._send(RELEASE_SLOT)
                for i, image in enumerate(images):
                    decoder, damage = others.get(i, (video.decoder, None))
                    yield PictureResult(None if damage else image, decoder, damage)
                done += count
                if count < expected:
                    break
        if self._receive() != DONE or done < len(indices):
            raise self._fail(
                Reason.CRASH, f"the decoder spoke nonsense after {done} of {len(indices)} pictures"
            )

    def is_alive(self) -> bool:
        return self.process.poll() is None and not self.connection.closed

    def is_worn(self, most: int) -> bool:
        """Whether it has answered so many requests, or holds half of the memory that it may take."""
        return (
            self.request_count >= most or self.resident_bytes > self.config.decoder_memory_mb << 19
        )

    def close(self) -> None:
        """Ends the process at once, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        self.connection.close()
        self.memory.close()
        self.errors.close()

    def _await_start(self) -> None:
        """Until it has loaded itself, which is no clip's time; where it does not, a request waits
        once more, and finds that out.
        """
        with suppress(EOFError, OSError):
            if not self.has_started and self.connection.poll(START_TIMEOUT_S):
                ready, *defenses = self.connection.recv_bytes(_MAX_READY_BYTES).split(b"\n")
                self.has_started = ready == READY
                self.defenses += (name.decode() for name in defenses)

    def _send_request(self, path: str, **request: object) -> None:
        self.request_count += 1
        self._await_start()
        if self.connection.poll():  # it would pass for the answer
            raise self._fail(
                Reason.CRASH, self._exit_reason("the decoder spoke without being asked")
            )
        if not self.has_started:
            raise self._fail(
                Reason.TIMEOUT, f"the decoder had not loaded itself after {2 * START_TIMEOUT_S:g} s"
            )
        self._drain_stderr()
        self.path, self.stderr_tail = path, b""  # what it said before is of another clip
        self._send(json.dumps(dict(path=path, config=asdict(self.config), **request)).encode())

    def _send(self, message: bytes) -> None:
        with (
            suppress(BrokenPipeError, ConnectionResetError),
            self._deadline(),
        ):  # receiving will find out and say why
            self.connection.send_bytes(message)

    def _receive_batch(self, most: int) -> tuple[int, dict[int, tuple[str, str | None]]]:
        """How many pictures stand in the next slot (as many as fit, or fewer before a refusal), and
        of those that the video's decoder did not give whole: who did, and what is wrong with them.
        """
        message = self._receive()
        with suppress(*_MALFORMED_MESSAGE_ERRORS):
            answer = json.loads(message)
            count = answer["pictures"]
            others = {
                int(i): (str(one["decoder"]), one["damage"] and to_printable(one["damage"]))
                for i, one in answer["others"].items()
            }
            if type(count) is int and 0 < count <= most and all(0 <= i < count for i in others):
                return count, others
        raise self._fail(
            Reason.CRASH, f"the decoder spoke nonsense where {most} pictures were expected"
        )

    def _receive(self) -> bytes:
        """The next message. Raises Quarantined where it is a refusal, DecoderDied where none comes."""
        try:
            with self._deadline():
                while not self.connection.poll(_MEMORY_POLL_S):
                    self._drain_stderr()
                    self._check_memory()
                message = self.connection.recv_bytes(_MAX_MESSAGE_BYTES)
        except (EOFError, OSError) as error:
            if not self.connection.readable:
                raise self._fail(
                    Reason.CRASH,
                    f"the decoder announced a message of more than {_MAX_MESSAGE_BYTES >> 20} MB",
                ) from error
            if self.is_overdue:
                raise self._fail(
                    Reason.TIMEOUT, f"the decoder was silent for {self.config.deadline_s:g} s"
                ) from error
            raise self._fail(
                Reason.CRASH, self._exit_reason("the decoder closed its connection")
            ) from error
        self._drain_stderr()
        self._check_memory()
        _raise_if_quarantined(message)
        return message

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        """Kills the process if the block lasts longer: even in the middle of a message."""
        timer = threading.Timer(self.config.deadline_s, self._expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self.is_overdue = True
        self.process.kill()

    def _check_memory(self) -> None:
        """Kills a process that takes too much, and notes how much it takes."""
        try:
            self.resident_bytes = (
                int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE_BYTES
            )
        except (
            OSError,
            IndexError,
        ):  # it is gone, or there is no /proc: its own limit on memory remains
            return
        if self.resident_bytes > self.config.decoder_memory_mb << 20:
            raise self._fail(
                Reason.OUT_OF_MEMORY,
                f"the decoder took {self.resident_bytes >> 20} MB, at most {self.config.decoder_memory_mb}",
            )

    def _exit_reason(self, otherwise: str) -> str:
        """How it ended, of a process that seems to be gone; or what else is wrong with it."""
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(timeout=1)
            return (
                f"the decoder was ended by {signal.Signals(-code).name}"
                if code < 0
                else f"the decoder exited with code {code}"
            )
        return otherwise

    def _drain_stderr(self) -> None:
        """Takes what the decoder has written to standard error, and keeps its end."""
        self.stderr_tail = (self.stderr_tail + (self.errors.read(_PIPE_BYTES) or b""))[
            -_STDERR_TAIL_BYTES:
        ]

    def _fail(self, reason: Reason, detail: str) -> DecoderDied:
        if reason == Reason.CRASH:
            self._drain_stderr()
            renamed = {str(self.process.pid): "PID", self.path: "the file"}
            detail += _format_stderr_tail(
                self.stderr_tail, renamed, _MAX_DETAIL_CHARACTERS - len(detail)
            )
        self.close()
        return DecoderDied(reason, detail)


def _filter_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name in _ALLOWED_VARIABLES}


def _format_stderr_tail(said: bytes, renamed: Mapping[str, str], room: int) -> str:
    """The end of what a process said, printable, as `; it said: ...` of at most `room` characters;
    empty if it said nothing.

    Two runs of one crash give the same text: `renamed` says what stands for names that
    differ.
    """
    words = said.decode(errors="replace")
    for name, other in renamed.items():
        words = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", other, words) if name else words
    lines = [
        to_printable(line) for line in _VARYING_TEXT.sub("?", words).splitlines() if line.strip()
    ]
    before, text = "; it said: ", " / ".join(lines[-_MAX_DETAIL_LINES:])
    return before + text[max(0, len(text) - max(0, room - len(before))) :] if text else ""


def _raise_if_quarantined(message: bytes) -> None:
    """Raises Quarantined where the message is one; any other passes."""
    if not message.startswith(b'{"stage"'):
        return
    with suppress(*_MALFORMED_MESSAGE_ERRORS):
        refusal = json.loads(message)
        raise Quarantined(
            Stage(refusal["stage"]), Reason(refusal["reason"]), str(refusal["detail"])
        )


def _copy_slot(
    memory: mmap.mmap, size: tuple[int, int], turn: int, count: int
) -> UInt8[np.ndarray, "count height width 3"]:
    """The first `count` pictures that stand in the slot of that turn."""
    return view_slots(memory, size)[turn % SLOT_COUNT, :count].copy()
