"""Allow one writer per folder, and fence off a run that was taken over (a fencing token each).

    .fence/N            the token of run N: its host, process and start time; emptied when it ends
    .fence/N.commits    locked while that run commits a shard

1. A run holds flock on the file of its own token, which its death releases, and touches the file
   every HEARTBEAT_S.
2. A new run needs the lock of the newest token's file; then it creates the file of the next token,
   exactly once.
3. With --take-over-s, a run starts without the lock of one that has been silent for that long. If
   that one wakes up, it finds a later token than its own and commits nothing (decision 0012).
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
from typing import IO, Any, BinaryIO, NamedTuple

from pipeline.atomic_files import add_path_to_errors, open_to_create, open_to_replace
from schemas.outcome import to_printable
from schemas.seal import to_json

LOCK_FOLDER = ".fence"
_TOKEN = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
HEARTBEAT_S = 2.0
STALE_AFTER_S = 60.0
"""A run without a heartbeat for this long is dead, or its whole process is stopped or stuck: a run
that only waits still sends heartbeats, from a thread of its own.
"""
_MAX_OWNER_CHARACTERS = 80
"""A token's file may come from a stranger, so that its texts are cut to this length."""


class FolderInUse(Exception):
    """Another run holds the folder, or has taken it over."""


class _NoToken(OSError):
    """A path with a token's name is no regular file, so that no run has made it. It may be a named
    pipe, which would block the process that opens it.
    """


class LockOwner(NamedTuple):
    """A run that has started and has not recorded its end."""

    host: str
    pid: int
    since: str
    still_s: float
    """Seconds since its last heartbeat."""

    def __str__(self) -> str:
        age_s = max(0.0, self.still_s)
        return f"process {self.pid} on {self.host}, since {self.since}, last seen {age_s:.0f} s ago"

    @property
    def is_stale(self) -> bool:
        return self.still_s >= STALE_AFTER_S

    def is_alive_elsewhere(self) -> bool:
        """Returns whether the run is alive on another machine, whose flock may not reach here."""
        return self.host != socket.gethostname() and not self.is_stale


class RunLock:
    """The lock of one folder, made of the tokens of its runs."""

    def __init__(self, root: Path):
        self.root, self.folder = root, root / LOCK_FOLDER

    def token_path(self, token: int) -> Path:
        return self.folder / str(token)

    def commit_lock_path(self, token: int) -> Path:
        return self.folder / f"{token}.commits"

    def newest_token(self) -> int:
        """Returns the newest token, 0 before the first. Raises OSError if its path is no regular
        file.
        """
        token = max_token(p.name for p in self.folder.iterdir()) if self.folder.is_dir() else 0
        if token and not S_ISREG(self.token_path(token).lstat().st_mode):
            raise _NoToken(
                f"{self.token_path(token)} is no run's token, which would be a file: remove it"
            )
        return token

    def owner(self) -> LockOwner | None:
        """Returns the run that started last, or None if it has ended."""
        return self._read_owner(self.newest_token())

    def is_locked(self) -> bool:
        """Returns whether the run that started last is alive, as far as this machine can tell."""
        token = self.newest_token()
        if (owner := self._read_owner(token)) is None:
            return False
        with open(self.token_path(token), "rb") as file:
            return owner.is_alive_elsewhere() or not try_lock(file, fcntl.LOCK_SH)

    @contextmanager
    def acquire(self, take_over_s: float | None = None) -> Iterator[int]:
        """Holds the folder within the block, and yields the token of this run. Raises FolderInUse
        while another run holds it, unless that one has sent no heartbeat for `take_over_s`.
        """
        token, file = self._take_next_token(take_over_s)
        ended = Event()
        heartbeats = Thread(target=self._send_heartbeats, args=(token, ended), daemon=True)
        heartbeats.start()
        try:
            yield token
        finally:
            ended.set()
            heartbeats.join()
            with file:
                file.truncate(0)

    def _send_heartbeats(self, token: int, ended: Event) -> None:
        while not ended.wait(HEARTBEAT_S):
            with suppress(OSError):  # the run's next write meets the error too, and reports it
                os.utime(self.token_path(token))

    def _take_next_token(self, take_over_s: float | None) -> tuple[int, IO[bytes]]:
        """Returns the next token and its open file, locked."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            last = self.newest_token()
            with (
                self._require_released(last, take_over_s),
                suppress(FileExistsError, FileNotFoundError),
            ):  # another run was faster
                return last + 1, self._create_token(last + 1)

    @contextmanager
    def _require_released(self, last: int, take_over_s: float | None) -> Iterator[None]:
        """Holds the lock of the last run, which has ended, so that only one of the waiting runs
        continues. Raises FolderInUse if that run has not ended and may not be taken over.
        """
        if not last:
            yield
            return
        # some network file systems lock only files that are open for writing
        with open(self.token_path(last), "r+b") as file:
            # several attempts, because is_locked holds the lock for an instant
            ended = any(try_lock(file, fcntl.LOCK_EX, wait_s) for wait_s in (0.0, 0.02, 0.1))
            owner = self._read_owner(last)
            if not ended or (owner and owner.is_alive_elsewhere()):
                self._check_takeover_allowed(owner, take_over_s)
            yield

    def _check_takeover_allowed(self, owner: LockOwner | None, take_over_s: float | None) -> None:
        """Raises FolderInUse unless the owner has been silent for `take_over_s`."""
        problem = f"another run is writing to {self.root}"
        if owner is None:
            raise FolderInUse(problem)
        if take_over_s is None or owner.still_s < take_over_s:
            advice = f"; extract-flow --take-over-s {STALE_AFTER_S:.0f} goes on in its place"
            can_take_over = take_over_s is None and owner.is_stale
            raise FolderInUse(f"{problem}: {owner}{advice if can_take_over else ''}")

    def _create_token(self, token: int) -> IO[bytes]:
        """Creates a token's file, which is locked before it gets its name, and returns it open.
        Raises FileExistsError if another run has created it.
        """
        owner = dict(
            host=socket.gethostname(),
            pid=os.getpid(),
            since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        )
        with ExitStack() as unless_created:
            with open_to_create(self.token_path(token)) as file:
                # the duplicate keeps the lock when `file` is closed
                locked = unless_created.enter_context(os.fdopen(os.dup(file.fileno()), "r+b"))
                try_lock(file, fcntl.LOCK_EX)
                file.write(to_json(owner))
            unless_created.pop_all()
            return locked

    def _read_owner(self, token: int) -> LockOwner | None:
        """Returns the owner that a token's file names, or None if that run has ended."""
        path = self.token_path(token)
        try:
            owner, heartbeat = json.loads(path.read_bytes()), path.stat().st_mtime
            return LockOwner(
                to_printable(str(owner["host"]), _MAX_OWNER_CHARACTERS),
                int(owner["pid"]),
                to_printable(str(owner["since"]), _MAX_OWNER_CHARACTERS),
                time.time() - heartbeat,
            )
        except (FileNotFoundError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
            return None


class LockedFolder:
    """A folder that one run at a time writes to, and the ways of writing that a take-over stops."""

    def __init__(self, root: Path):
        self.root, self.run_lock = root, RunLock(root)
        self.token: int | None = None
        """The token of the run that holds the folder, in its workers too; None for a reader."""

    @contextmanager
    def lock(self, take_over_s: float | None = None) -> Iterator[None]:
        """Holds the folder within the block. Raises FolderInUse while another run holds it, unless
        that one has sent no heartbeat for `take_over_s`.
        """
        with self.run_lock.acquire(take_over_s) as self.token:
            try:
                yield
            finally:
                self.token = None

    def is_locked(self) -> bool:
        """Returns whether a run is writing to the folder now."""
        return self.run_lock.is_locked()

    def newest_token(self) -> int:
        return self.run_lock.newest_token()

    def check_not_taken_over(self) -> None:
        """Raises FolderInUse if a later run has taken the folder over.

        A file is published in this order: create it under a temporary name, call this, rename it. A
        run that takes over removes all temporary files, so that a run which is paused between the
        check and the rename publishes nothing either.
        """
        if self.token is not None and self.newest_token() > self.token:
            raise FolderInUse(
                f"a later run has taken over {self.root}: this one, of token {self.token}, "
                "commits nothing any more"
            )

    @contextmanager
    def detect_takeover(self) -> Iterator[None]:
        """Raises FolderInUse instead of FileNotFoundError if a later run has taken the folder over
        and removed the temporary file that is missing.
        """
        try:
            yield
        except FileNotFoundError:
            self.check_not_taken_over()
            raise

    @contextmanager
    def open_for_publish(self, path: Path) -> Iterator[BinaryIO]:
        """Opens a temporary file that gets the name `path` at the end of the block, and replaces an
        older file. Raises FolderInUse after a take-over.
        """
        with self.detect_takeover(), open_to_replace(path) as file:
            yield file
            self.check_not_taken_over()

    def publish(self, path: Path, data: bytes | None) -> None:
        """Writes a file, or removes it if data is None. Raises FolderInUse after a take-over."""
        if data is None:
            self.check_not_taken_over()
            path.unlink(missing_ok=True)
            return
        with self.open_for_publish(path) as file:
            file.write(data)


def max_token(names: Iterable[str]) -> int:
    """Returns the greatest token among these file names, 0 if none of them is a token."""
    return max((int(name) for name in names if _TOKEN.fullmatch(name)), default=0)


def try_lock(file: IO[Any], kind: int, wait_s: float = 0.0) -> bool:
    """Tries to lock an open file after `wait_s` seconds; returns whether it was free. Raises
    OSError, with the file's name, if the file system has no locks.

    kind: fcntl.LOCK_SH or fcntl.LOCK_EX.
    """
    time.sleep(wait_s)
    with add_path_to_errors(Path(file.name)):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
