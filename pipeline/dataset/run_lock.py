"""One writer per folder: who it is, whether it lives, and what keeps a run out that was thought dead.

    .fence/N            of the run with token N, one more than the last: host, process and beginning; emptied when it ends
    .fence/N.commits    locked while that run commits a shard

A run holds flock on its own file, which its death sets free, and touches it every BEAT_S. One that begins needs the lock of the last
token's file, and then creates the next, once. Where the user says so, it does without the lock of a run that has not moved for
long: that one, should it wake, finds a later token than its own (docs/decisions/0012).
"""

import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from threading import Event, Thread
from typing import IO, Any, NamedTuple

from pipeline.dataset.shards import creating, named, to_json
from schemas.outcome import printable

FOLDER = ".fence"
TOKEN = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
BEAT_S = 2.0
STILL_S = 60.0
"""A run that has not moved for so long is stopped or stuck as a whole, or is dead. One that only waits still beats, from a thread of its own."""
LONGEST = 80
"""Characters of a word in a token's file, which may be a stranger's."""


class FolderInUse(Exception):
    """Another run holds the folder, or has taken it over."""


class NoToken(OSError):
    """Something that no run has made, as a named pipe that would keep whoever opens it waiting, stands where a token would."""


class Holder(NamedTuple):
    """A run that has begun and has not said that it ended."""

    host: str
    pid: int
    since: str
    still_s: float
    """Seconds since its last sign of life."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}, last seen {max(0.0, self.still_s):.0f} s ago"

    @property
    def still(self) -> bool:
        return self.still_s >= STILL_S

    def moves_elsewhere(self) -> bool:
        """Whether it lives on another machine, of which flock may not know."""
        return self.host != socket.gethostname() and not self.still


class Fence:
    """The tokens of one folder."""

    def __init__(self, root: Path):
        self.root, self.folder = root, root / FOLDER

    def path(self, token: int) -> Path:
        return self.folder / str(token)

    def commits(self, token: int) -> Path:
        return self.folder / f"{token}.commits"

    def newest(self) -> int:
        """The last token; 0 before the first. Raises NoToken where what has its name cannot be a run's."""
        last = last_of(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else 0
        if last and not S_ISREG(self.path(last).lstat().st_mode):
            raise NoToken(f"{self.path(last)} is no run's token, which would be a file: remove it")
        return last

    def last(self) -> Holder | None:
        """The run that began last; None where it has ended."""
        return self._holder(self.newest())

    def is_held(self) -> bool:
        """Whether the run that began last is still there, as far as can be seen from this machine."""
        if (holder := self._holder(last := self.newest())) is None:
            return False
        with open(self.path(last), "rb") as file:
            return holder.moves_elsewhere() or not locked(file, fcntl.LOCK_SH)

    @contextmanager
    def held(self, take_over_s: float | None = None) -> Iterator[int]:
        """The folder, with a new token. Raises FolderInUse while another run holds it, unless that one has not moved for
        `take_over_s`.
        """
        token, file = self._take(take_over_s)
        ended = Event()
        beating = Thread(target=self._beat, args=(token, ended), daemon=True)
        beating.start()
        try:
            yield token
        finally:
            ended.set()
            beating.join()
            with file:
                file.truncate(0)

    def _beat(self, token: int, ended: Event) -> None:
        while not ended.wait(BEAT_S):
            with suppress(OSError):  # whoever writes meets it too, and says so
                os.utime(self.path(token))

    def _take(self, take_over_s: float | None) -> tuple[int, IO[bytes]]:
        """The next token, and its file, locked."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            last = self.newest()
            with self._past(last, take_over_s), suppress(FileExistsError, FileNotFoundError):  # another was faster
                return last + 1, self._create(last + 1)

    @contextmanager
    def _past(self, last: int, take_over_s: float | None) -> Iterator[None]:
        """Once the last run has ended; with its lock, so that of those that wait for it one goes on. Raises FolderInUse."""
        if not last:
            yield
            return
        with open(self.path(last), "r+b") as file:  # some network file systems lock only what could be written
            ended = any(locked(file, fcntl.LOCK_EX, wait_s) for wait_s in (0.0, 0.02, 0.1))  # is_held has it for an instant
            holder = self._holder(last)
            if not ended or (holder and holder.moves_elsewhere()):
                self._check_still(holder, take_over_s)
            yield

    def _check_still(self, holder: Holder | None, take_over_s: float | None) -> None:
        """Raises FolderInUse unless that run may be taken over."""
        words = f"another run is writing to {self.root}"
        if holder is None:
            raise FolderInUse(words)
        if take_over_s is None or holder.still_s < take_over_s:
            advice = f"; extract-flow --take-over-s {STILL_S:.0f} goes on in its place" if take_over_s is None and holder.still else ""
            raise FolderInUse(f"{words}: {holder}{advice}")

    def _create(self, token: int) -> IO[bytes]:
        """A token's file, locked before it has its name. Raises FileExistsError where another run has it."""
        about = dict(host=socket.gethostname(), pid=os.getpid(), since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))
        with ExitStack() as unless_created:
            with creating(self.path(token)) as file:
                kept = unless_created.enter_context(os.fdopen(os.dup(file.fileno()), "r+b"))
                locked(file, fcntl.LOCK_EX)
                file.write(to_json(about))
            unless_created.pop_all()
            return kept

    def _holder(self, token: int) -> Holder | None:
        """What a token's file says; None where that run has ended."""
        try:
            about, seen = json.loads(self.path(token).read_bytes()), self.path(token).stat().st_mtime
            return Holder(printable(str(about["host"]), LONGEST), int(about["pid"]), printable(str(about["since"]), LONGEST), time.time() - seen)
        except (FileNotFoundError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
            return None


def last_of(names: Iterable[str]) -> int:
    """The greatest of the tokens among these names; 0 without one."""
    return max((int(name) for name in names if TOKEN.fullmatch(name)), default=0)


def locked(file: IO[Any], kind: int, wait_s: float = 0.0) -> bool:
    """Whether a lock of this kind was had, after a pause. Raises OSError, with the file's name, where there are no locks."""
    time.sleep(wait_s)
    with named(Path(file.name)):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
