"""One writer per folder: who it is, whether it lives, and what keeps a run out that was thought
dead.

    .fence/N            of the run with token N, one more than the last: host, process and
                        beginning; emptied when it ends
    .fence/N.commits    locked while that run commits a shard

A run holds flock on its own file, which its death sets free, and touches it every BEAT_S. One that
begins needs the lock of the last token's file, and then creates the next, once. Where the user says
so, it does without the lock of a run that has not moved for long: that one, should it wake, finds a
later token than its own (docs/decisions/0012).
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

from pipeline.atomic_files import add_path_to_errors, open_to_create
from pipeline.dataset.shards import to_json
from schemas.outcome import to_printable

LOCK_FOLDER = ".fence"
_TOKEN = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
HEARTBEAT_S = 2.0
STALE_AFTER_S = 60.0
"""A run that has not moved for so long is stopped or stuck as a whole, or is dead. One that only
waits still beats, from a thread of its own.
"""
_MAX_OWNER_CHARACTERS = 80
"""Characters of a word in a token's file, which may be a stranger's."""


class FolderInUse(Exception):
    """Another run holds the folder, or has taken it over."""


class _NoToken(OSError):
    """Something that no run has made, as a named pipe that would keep whoever opens it waiting,
    stands where a token would.
    """


class LockOwner(NamedTuple):
    """A run that has begun and has not said that it ended."""

    host: str
    pid: int
    since: str
    still_s: float
    """Seconds since its last sign of life."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}, last seen {max(0.0, self.still_s):.0f} s ago"

    @property
    def is_stale(self) -> bool:
        return self.still_s >= STALE_AFTER_S

    def is_alive_elsewhere(self) -> bool:
        """Whether it lives on another machine, of which flock may not know."""
        return self.host != socket.gethostname() and not self.is_stale


class RunLock:
    """The tokens of one folder."""

    def __init__(self, root: Path):
        self.root, self.folder = root, root / LOCK_FOLDER

    def token_path(self, token: int) -> Path:
        return self.folder / str(token)

    def commit_lock_path(self, token: int) -> Path:
        return self.folder / f"{token}.commits"

    def newest_token(self) -> int:
        """The last token; 0 before the first. Raises NoToken where what has its name cannot be a
        run's.
        """
        last = max_token(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else 0
        if last and not S_ISREG(self.token_path(last).lstat().st_mode):
            raise _NoToken(
                f"{self.token_path(last)} is no run's token, which would be a file: remove it"
            )
        return last

    def owner(self) -> LockOwner | None:
        """The run that began last; None where it has ended."""
        return self._read_owner(self.newest_token())

    def is_locked(self) -> bool:
        """Whether the run that began last is still there, as far as can be seen from this machine."""
        if (holder := self._read_owner(last := self.newest_token())) is None:
            return False
        with open(self.token_path(last), "rb") as file:
            return holder.is_alive_elsewhere() or not try_lock(file, fcntl.LOCK_SH)

    @contextmanager
    def acquire(self, take_over_s: float | None = None) -> Iterator[int]:
        """The folder, with a new token. Raises FolderInUse while another run holds it, unless that
        one has not moved for `take_over_s`.
        """
        token, file = self._take_next_token(take_over_s)
        ended = Event()
        beating = Thread(target=self._send_heartbeats, args=(token, ended), daemon=True)
        beating.start()
        try:
            yield token
        finally:
            ended.set()
            beating.join()
            with file:
                file.truncate(0)

    def _send_heartbeats(self, token: int, ended: Event) -> None:
        while not ended.wait(HEARTBEAT_S):
            with suppress(OSError):  # whoever writes meets it too, and says so
                os.utime(self.token_path(token))

    def _take_next_token(self, take_over_s: float | None) -> tuple[int, IO[bytes]]:
        """The next token, and its file, locked."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            last = self.newest_token()
            with (
                self._require_released(last, take_over_s),
                suppress(FileExistsError, FileNotFoundError),
            ):  # another was faster
                return last + 1, self._create_token(last + 1)

    @contextmanager
    def _require_released(self, last: int, take_over_s: float | None) -> Iterator[None]:
        """Once the last run has ended; with its lock, so that of those that wait for it one goes
        on. Raises FolderInUse.
        """
        if not last:
            yield
            return
        with open(
            self.token_path(last), "r+b"
        ) as file:  # some network file systems lock only what could be written
            ended = any(
                try_lock(file, fcntl.LOCK_EX, wait_s) for wait_s in (0.0, 0.02, 0.1)
            )  # is_held has it for an instant
            holder = self._read_owner(last)
            if not ended or (holder and holder.is_alive_elsewhere()):
                self._check_takeover_allowed(holder, take_over_s)
            yield

    def _check_takeover_allowed(self, holder: LockOwner | None, take_over_s: float | None) -> None:
        """Raises FolderInUse unless that run may be taken over."""
        words = f"another run is writing to {self.root}"
        if holder is None:
            raise FolderInUse(words)
        if take_over_s is None or holder.still_s < take_over_s:
            advice = (
                f"; extract-flow --take-over-s {STALE_AFTER_S:.0f} goes on in its place"
                if take_over_s is None and holder.is_stale
                else ""
            )
            raise FolderInUse(f"{words}: {holder}{advice}")

    def _create_token(self, token: int) -> IO[bytes]:
        """A token's file, locked before it has its name. Raises FileExistsError where another run
        has it.
        """
        about = dict(
            host=socket.gethostname(),
            pid=os.getpid(),
            since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        )
        with ExitStack() as unless_created:
            with open_to_create(self.token_path(token)) as file:
                kept = unless_created.enter_context(os.fdopen(os.dup(file.fileno()), "r+b"))
                try_lock(file, fcntl.LOCK_EX)
                file.write(to_json(about))
            unless_created.pop_all()
            return kept

    def _read_owner(self, token: int) -> LockOwner | None:
        """What a token's file says; None where that run has ended."""
        try:
            about, seen = (
                json.loads(self.token_path(token).read_bytes()),
                self.token_path(token).stat().st_mtime,
            )
            return LockOwner(
                to_printable(str(about["host"]), _MAX_OWNER_CHARACTERS),
                int(about["pid"]),
                to_printable(str(about["since"]), _MAX_OWNER_CHARACTERS),
                time.time() - seen,
            )
        except (FileNotFoundError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
            return None


def max_token(names: Iterable[str]) -> int:
    """The greatest of the tokens among these names; 0 without one."""
    return max((int(name) for name in names if _TOKEN.fullmatch(name)), default=0)


def try_lock(file: IO[Any], kind: int, wait_s: float = 0.0) -> bool:
    """Whether a lock of this kind was had, after a pause. Raises OSError, with the file's name,
    where there are no locks.
    """
    time.sleep(wait_s)
    with add_path_to_errors(Path(file.name)):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
