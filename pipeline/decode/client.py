"""Starts a decoder process, sends it requests, and kills it if it misses its deadline, takes too
much memory or sends anything malformed.
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
"""Exceptions of parsing a message that is malformed."""
START_TIMEOUT_S = 60.0
"""Time in which a process should load its libraries, which takes very long on a busy machine."""
_MEMORY_POLL_S = 0.05
"""Interval at which the memory of a silent decoder is checked."""
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
"""Environment variables that are passed to a decoder, because Python or a library may need them to
load. A hostile file might misuse any other, such as a secret.
"""
_STDERR_TAIL_BYTES = 4096
"""Size of the end of a decoder's standard error that is kept."""
_PIPE_BYTES = 1 << 20
"""More than the capacity of a pipe."""
_MAX_DETAIL_LINES, _MAX_DETAIL_CHARACTERS = 5, 500
"""Lines of standard error in a crash's detail, and the length of the whole detail."""
_VARYING_TEXT = re.compile(r"0x[0-9a-fA-F]+|\b\d{4}-\d\d-\d\d\b|\b\d{1,2}:\d\d:\d\d(?:[.,]\d+)?")
"""Text that differs between two runs of one crash: addresses, dates, clock times."""


class DecoderDied(Exception):
    """The process has ended: it crashed, or was killed because it was silent, took too much memory
    or sent a malformed message.
    """

    def __init__(self, reason: Reason, detail: str):
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class DecoderProcess:
    """One decoder process. One thread at a time may use it, and nobody after `DecoderDied`."""

    def __init__(self, config: DecodeConfig, command: Sequence[str] = COMMAND):
        self.config, self.request_count, self.resident_bytes = config, 0, 0
        memory = os.memfd_create("quiver-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.memory = os.fdopen(memory, "r+b")
        # if the child could shrink the memory, reading it would kill this process
        fcntl.fcntl(self.memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.is_overdue = self.has_started = False
        self.path, self.stderr_tail = "", b""
        self.defenses = sandbox.conceal()
        """Names of the defenses that hold, keys of sandbox.DEFENSES; complete after the start."""
        self.connection, child_connection = Pipe()
        # not blocking: a decoder whose errors are not read loses them and never waits
        errors, child_errors = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.errors = os.fdopen(errors, "rb", buffering=0)
        descriptors = child_connection.fileno(), self.memory.fileno()
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        environment = {name: os.environ[name] for name in _ALLOWED_VARIABLES & os.environ.keys()}
        environment |= dict(PYTHONPATH=path, OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
        with child_connection, os.fdopen(child_errors, "wb"):
            self.process = subprocess.Popen(  # noqa: S603 - our own module
                [*command, *map(str, (*descriptors, config.decoder_memory_mb, os.getpid()))],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=child_errors,
                env=environment,
            )
        self._await_start()

    def probe(self, path: str) -> VideoInfo:
        """Times and properties of a video. Raises Quarantined or DecoderDied."""
        self._send_request(path)
        message = self._receive()
        try:
            return deserialize_video(message)
        except _MALFORMED_MESSAGE_ERRORS as error:
            raise self._fail(Reason.CRASH, "the decoder spoke nonsense") from error

    def pictures(
        self, path: str, video: VideoInfo, indices: Sequence[int], size: tuple[int, int]
    ) -> Iterator[PictureResult]:
        """Copies of the frames at `indices` of a probed video, in order, of `size` = (width,
        height); the damage of those that are damaged.

        Raises Quarantined if the file cannot be read any further, or DecoderDied.
        """
        needed, batch = memory_bytes(size), batch_size(size)
        turns = -(-len(indices) // batch)
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
                count, exceptions = self._receive_batch(expected)
                images = view_slots(memory, size)[turn % SLOT_COUNT, :count].copy()
                if turn + SLOT_COUNT < turns:
                    self._send(RELEASE_SLOT)
                for i, image in enumerate(images):
                    decoder, damage = exceptions.get(i, (video.decoder, None))
                    yield PictureResult(None if damage else image, decoder, damage)
                done += count
                if count < expected:
                    break
        if self._receive() != DONE or done < len(indices):
            raise self._fail(
                Reason.CRASH, f"the decoder spoke nonsense after {done} of {len(indices)} pictures"
            )

    def is_alive(self) -> bool:
        """Whether the process runs and can be sent requests."""
        return self.process.poll() is None and not self.connection.closed

    def is_worn(self, most: int) -> bool:
        """Whether it has had `most` requests or more, or takes over half of its memory limit."""
        half_limit = self.config.decoder_memory_mb << 19
        return self.request_count >= most or self.resident_bytes > half_limit

    def close(self) -> None:
        """Ends the process at once, whatever it is doing."""
        self.process.kill()
        self.process.wait()
        self.connection.close()
        self.memory.close()
        self.errors.close()

    def _await_start(self) -> None:
        """Waits until the process has loaded its libraries, which does not count as a clip's time.
        If it has not by then, the next request waits once more and then fails.
        """
        with suppress(EOFError, OSError):
            if not self.has_started and self.connection.poll(START_TIMEOUT_S):
                ready, *defenses = self.connection.recv_bytes(_MAX_READY_BYTES).split(b"\n")
                self.has_started = ready == READY
                self.defenses += (name.decode() for name in defenses)

    def _send_request(self, path: str, **request: object) -> None:
        self.request_count += 1
        self._await_start()
        if self.connection.poll():  # this message would be taken for the answer
            raise self._fail(
                Reason.CRASH, self._exit_reason("the decoder spoke without being asked")
            )
        if not self.has_started:
            raise self._fail(
                Reason.TIMEOUT, f"the decoder had not loaded itself after {2 * START_TIMEOUT_S:g} s"
            )
        self._drain_stderr()
        self.path, self.stderr_tail = path, b""  # errors until now are about another clip
        self._send(json.dumps(dict(path=path, config=asdict(self.config), **request)).encode())

    def _send(self, message: bytes) -> None:
        # if the process has died, receiving the answer finds that out and says why
        with suppress(BrokenPipeError, ConnectionResetError), self._deadline():
            self.connection.send_bytes(message)

    def _receive_batch(self, most: int) -> tuple[int, dict[int, tuple[str, str | None]]]:
        """Number of pictures in the next slot (fewer than `most` before a refusal); decoder and
        damage of those that are damaged or that the video's own decoder did not read.
        """
        message = self._receive()
        with suppress(*_MALFORMED_MESSAGE_ERRORS):
            answer = json.loads(message)
            count = answer["pictures"]
            exceptions = {
                int(i): (str(entry["decoder"]), entry["damage"] and to_printable(entry["damage"]))
                for i, entry in answer["others"].items()
            }
            if type(count) is int and 0 < count <= most and all(0 <= i < count for i in exceptions):
                return count, exceptions
        raise self._fail(
            Reason.CRASH, f"the decoder spoke nonsense where {most} pictures were expected"
        )

    def _receive(self) -> bytes:
        """The next message. Raises Quarantined if it is a refusal, DecoderDied if none comes."""
        try:
            with self._deadline():
                while not self.connection.poll(_MEMORY_POLL_S):
                    self._drain_stderr()
                    self._check_memory()
                message = self.connection.recv_bytes(_MAX_MESSAGE_BYTES)
        except (EOFError, OSError) as error:
            if not self.connection.readable:
                limit_mb = _MAX_MESSAGE_BYTES >> 20
                raise self._fail(
                    Reason.CRASH, f"the decoder announced a message of more than {limit_mb} MB"
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
        if message.startswith(b'{"stage"'):
            with suppress(*_MALFORMED_MESSAGE_ERRORS):
                refusal = json.loads(message)
                raise Quarantined(
                    Stage(refusal["stage"]), Reason(refusal["reason"]), str(refusal["detail"])
                )
        return message

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        """Kills the process if the block takes longer than the deadline, even within a message."""
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
        """Measures the memory of the process, and kills it if that is too much."""
        try:
            pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):  # it has ended, or there is no /proc: rlimits still hold
            return
        self.resident_bytes = int(pages) * PAGE_BYTES
        if self.resident_bytes > self.config.decoder_memory_mb << 20:
            raise self._fail(
                Reason.OUT_OF_MEMORY,
                f"the decoder took {self.resident_bytes >> 20} MB, "
                f"at most {self.config.decoder_memory_mb}",
            )

    def _exit_reason(self, otherwise: str) -> str:
        """How the process ended, or `otherwise` if it still runs."""
        try:
            code = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return otherwise
        if code < 0:
            return f"the decoder was ended by {signal.Signals(-code).name}"
        return f"the decoder exited with code {code}"

    def _drain_stderr(self) -> None:
        """Reads what the decoder has written to standard error, and keeps the end of it."""
        text = self.stderr_tail + (self.errors.read(_PIPE_BYTES) or b"")
        self.stderr_tail = text[-_STDERR_TAIL_BYTES:]

    def _fail(self, reason: Reason, detail: str) -> DecoderDied:
        """Ends the process, and returns the exception to raise; a crash gets its last errors."""
        if reason == Reason.CRASH:
            self._drain_stderr()
            aliases = {str(self.process.pid): "PID", self.path: "the file"}
            limit = _MAX_DETAIL_CHARACTERS - len(detail)
            detail += _format_stderr_tail(self.stderr_tail, aliases, limit)
        self.close()
        return DecoderDied(reason, detail)


def _format_stderr_tail(stderr: bytes, aliases: Mapping[str, str], limit: int) -> str:
    """The end of a process's standard error, printable, as `; it said: ...` of at most `limit`
    characters; empty if there is none.

    Two runs of one crash give the same text: `aliases` maps names that differ between them to
    others, and addresses and times are masked.
    """
    text = stderr.decode(errors="replace")
    for name, alias in aliases.items():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", alias, text) if name else text
    lines = [
        to_printable(line) for line in _VARYING_TEXT.sub("?", text).splitlines() if line.strip()
    ]
    prefix, end = "; it said: ", " / ".join(lines[-_MAX_DETAIL_LINES:])
    return prefix + end[max(0, len(end) - max(0, limit - len(prefix))) :] if end else ""
