"""The lock of a folder and its tokens; tests/faults/test_one_writer.py has the runs that use it."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.cli.errors import ExitCode
from jobs.extract_flow import main as extract_flow
from pipeline.dataset.commit import commit_lock
from pipeline.dataset.folder import Dataset
from pipeline.dataset.run_lock import STALE_AFTER_S, FolderInUse, RunLock

ELSEWHERE = dict(host="another-machine", pid=1, since="2026-11-28 12:00:00 UTC")


def elsewhere(root: Path, age_s: float) -> RunLock:
    """Returns the lock of a folder which a run on another machine holds, whose flock is not visible
    here and whose last heartbeat has this age.
    """
    lock = RunLock(root)
    lock.folder.mkdir()
    lock.token_path(1).write_text(json.dumps(ELSEWHERE))
    os.utime(lock.token_path(1), (time.time() - age_s,) * 2)
    return lock


def test_tokens_grow_by_one_and_say_whose_they_are_until_the_run_ends(tmp_path):
    lock = RunLock(tmp_path)
    assert (lock.newest_token(), lock.owner(), lock.is_locked()) == (0, None, False)
    for number in (1, 2):
        with lock.acquire() as token:
            assert token == number == lock.newest_token() and lock.is_locked()
            assert (
                lock.owner()[:2] == (os.uname().nodename, os.getpid()) and not lock.owner().is_stale
            )
        assert lock.owner() is None and not lock.is_locked()


def test_a_run_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.dataset.run_lock.HEARTBEAT_S", 0.02)
    with RunLock(tmp_path).acquire() as token:
        os.utime(RunLock(tmp_path).token_path(token), (0, 0))
        deadline = time.monotonic() + 60
        while RunLock(tmp_path).owner().is_stale and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not RunLock(tmp_path).owner().is_stale


def test_a_run_that_was_killed_holds_nothing_and_is_told_from_one_that_has_ended(tmp_path):
    code = (
        "import sys; from pipeline.dataset.run_lock import RunLock; from pathlib import Path\n"
        f"with RunLock(Path({str(tmp_path)!r})).acquire(): print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    ) as process:
        process.stdout.readline()
        assert RunLock(tmp_path).is_locked()
        with pytest.raises(
            FolderInUse,
            match=f"another run is writing to {tmp_path}: process {process.pid} on .*, "
            "since .* UTC, last seen [0-9]+ s ago$",
        ):
            RunLock(tmp_path).acquire().__enter__()
        process.send_signal(signal.SIGKILL)
    assert not RunLock(tmp_path).is_locked() and RunLock(tmp_path).owner().pid == process.pid
    with RunLock(tmp_path).acquire() as token:
        assert token == 2


def test_a_run_that_lives_on_another_machine_holds_the_folder_where_flock_does_not_reach(tmp_path):
    lock = elsewhere(tmp_path, STALE_AFTER_S / 2)
    assert lock.is_locked()
    with pytest.raises(
        FolderInUse,
        match=r"process 1 on another-machine, since 2026-11-28 12:00:00 UTC, "
        r"last seen 3[0-9] s ago",
    ):
        lock.acquire().__enter__()


def test_a_run_that_died_on_another_machine_holds_nothing_after_a_while(tmp_path):
    lock = elsewhere(tmp_path, STALE_AFTER_S * 2)
    assert not lock.is_locked()
    with lock.acquire() as token:
        assert token == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '{"host": 1}',
        '{"host": "a", "pid": "x", "since": ""}',
        '{"host": "a", "pid": Infinity, "since": ""}',
        "[" * 100_000,
    ],
)
def test_a_token_file_of_whatever_content_stops_nothing(tmp_path, text):
    lock = elsewhere(tmp_path, 0)
    lock.token_path(1).write_text(text)
    assert lock.owner() is None and not lock.is_locked()
    with lock.acquire() as token:
        assert token == 2


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)],
    ids=["a pipe", "a folder", "a link"],
)
def test_what_is_no_file_is_no_token_and_a_sentence(tmp_path, capsys, make):
    lock = elsewhere(tmp_path, STALE_AFTER_S * 2)
    make(lock.token_path(2))
    for look in (lock.owner, lock.is_locked, lock.acquire().__enter__):
        with pytest.raises(
            OSError,
            match=rf"^{lock.token_path(2)} is no run's token, which would be a file: remove it$",
        ):
            look()
    (tmp_path / "a.mp4").touch()
    with pytest.raises(SystemExit) as ended:
        extract_flow(["--clips", str(tmp_path / "a.mp4"), "--out", str(tmp_path)])
    assert ended.value.code == ExitCode.STORAGE and "is no run's token" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["0", "007", "\u0663", "9" * 200, "2.commits", "-1"])
def test_what_has_another_name_is_no_token(tmp_path, name):
    lock = elsewhere(tmp_path, STALE_AFTER_S * 2)
    os.mkfifo(lock.folder / name)
    with lock.acquire() as token:
        assert token == 2


def test_a_token_file_of_a_stranger_cannot_speak_to_a_terminal(tmp_path):
    lock = elsewhere(tmp_path, 0)
    lock.token_path(1).write_text(
        json.dumps(
            ELSEWHERE | dict(host="a\nquiver: all is well\x1b[31m", since="b\n" + "c" * 10_000)
        )
    )
    assert str(lock.owner()).isprintable() and len(str(lock.owner())) < 300


def test_an_older_token_publishes_nothing(tmp_path):
    old, new = Dataset(tmp_path), Dataset(tmp_path)
    with old.lock():
        os.utime(old.run_lock.token_path(1), (0, 0))
        with new.lock(STALE_AFTER_S):
            new.check_not_taken_over()
            for writer in (old, old.absolute()):
                with pytest.raises(FolderInUse, match=f"a later run has taken over {tmp_path}"):
                    writer.remove_temporary_files()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refused(file, kind):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    dataset = Dataset(tmp_path)
    dataset.run_json.write_text("{}")
    monkeypatch.setattr(fcntl, "flock", refused)
    for block, path in (
        (dataset.lock(), f"{tmp_path}/.fence/1"),
        (commit_lock(dataset), str(dataset.run_json)),
    ):
        with pytest.raises(OSError, match="No locks available") as said, block:
            pass
        assert said.value.filename == path


def test_a_run_is_not_taken_over_at_once(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        extract_flow(
            ["--clips", str(tmp_path), "--out", str(tmp_path / "out"), "--take-over-s", "5"]
        )
    assert (
        ended.value.code == ExitCode.USAGE
        and "--take-over-s is 5, expected at least 60" in capsys.readouterr().err
    )
