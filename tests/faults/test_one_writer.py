"""P14: of runs into one folder one proceeds, also after it was paused; of one that was taken over
nothing counts any more.
"""

import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from jobs.cli.errors import ExitCode
from pipeline.dataset.crashpoint import CRASHPOINT_VARIABLE, SIGNAL_VARIABLE
from pipeline.dataset.run_lock import STALE_AFTER_S, RunLock
from tests.faults.reference import FULL_COUNTS, SHARDS, Reference, choose_count, committed_files
from tests.faults.runs import (
    TAKE_OVER_OPTIONS,
    read_built_shards,
    start_command,
    start_without_ray,
    wait_for_exit,
    wait_until_stopped,
)

pytestmark = [pytest.mark.promise("P14"), pytest.mark.timeout(3600)]
ROUNDS, TOGETHER = choose_count(10, 2), (2, 4, 8) if FULL_COUNTS else (3,)


def outputs(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    return [folder / f"{i}.log" for i in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("start", [start_without_ray, start_command][: choose_count(2, 1)])
@pytest.mark.parametrize("count", TOGETHER)
def test_runs_that_begin_together(reference, injected, tmp_path, count, start):
    """One that begins when the first has ended finds nothing left to do. Of the real command one
    round.
    """
    for number in range(ROUNDS if start is start_without_ray else 1):
        out, said = tmp_path / f"{number}" / "dataset", outputs(tmp_path / f"{number}", count)
        runs = [start(reference.clips, out, output) for output in said]
        codes = [wait_for_exit(run) for run in runs]
        assert set(codes) <= {ExitCode.SUCCESS, ExitCode.IN_USE} and ExitCode.SUCCESS in codes, [
            path.read_text() for path in said
        ]
        assert all(
            "another run is writing to" in path.read_text()
            for path, code in zip(said, codes, strict=True)
            if code == ExitCode.IN_USE
        )
        assert sum(bool(read_built_shards(path)) for path in said) == 1
        assert sorted(shard for path in said for shard in read_built_shards(path)) == sorted(SHARDS)
        injected.record_ended(out)


@pytest.mark.thorough
@pytest.mark.parametrize("start", [start_without_ray, start_command][: choose_count(2, 1)])
def test_a_run_that_begins_while_the_first_is_paused(reference, injected, tmp_path, start):
    for number in range(ROUNDS if start is start_without_ray else 1):
        out, (first, second) = (
            tmp_path / f"{number}" / "dataset",
            outputs(tmp_path / f"{number}", 2),
        )
        holder = start(reference.clips, out, first)
        while not read_built_shards(first) and holder.is_alive():
            time.sleep(0.01)
        os.kill(holder.pid, signal.SIGSTOP)
        try:
            assert wait_for_exit(start(reference.clips, out, second)) == ExitCode.IN_USE, (
                second.read_text()
            )
        finally:
            os.kill(holder.pid, signal.SIGCONT)
        assert (
            wait_for_exit(holder) == ExitCode.SUCCESS
            and sorted(read_built_shards(first)) == sorted(SHARDS)
            and not read_built_shards(second)
        )
        injected.record_ended(out)


PAUSED_AT = [
    ("after-plan", "run"),
    *(
        (point, SHARDS[1])
        for point in ("after-open", "after-verify", "after-rename", "mid-record", "mid-finalize")
    ),
]
"""The first, after-rename and mid-record are past the last look at the fence."""


def let_time_pass(out: Path) -> None:
    """The last sign of life of the run that holds the folder was long ago."""
    fence = RunLock(out)
    os.utime(fence.token_path(fence.newest_token()), (time.time() - 2 * STALE_AFTER_S,) * 2)


def check_taken_over(
    reference: Reference,
    out: Path,
    holder: BaseProcess,
    said: list[Path],
    start: Callable[..., BaseProcess],
) -> None:
    """The holder is stopped; runs that take over begin together, one goes on to the end; the holder
    wakes and changes nothing.
    """
    try:
        let_time_pass(out)
        runs = [start(reference.clips, out, output, *TAKE_OVER_OPTIONS) for output in said[1:]]
        codes = [wait_for_exit(run) for run in runs]
        assert set(codes) <= {ExitCode.SUCCESS, ExitCode.IN_USE} and ExitCode.SUCCESS in codes, [
            path.read_text() for path in said
        ]
        assert (
            sum(bool(read_built_shards(path)) for path in said[1:]) <= 1
        )  # of the real command the holder's workers may have built all before
        before = everything(out)
    finally:
        os.kill(holder.pid, signal.SIGCONT)
    assert (
        wait_for_exit(holder) == ExitCode.IN_USE
        and f"a later run has taken over {out}" in said[0].read_text()
    ), said[0].read_text()
    assert everything(out) == before


def everything(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of what is committed and derived; and which temporary files there are. A
    driver that wakes may log what was built before.
    """
    paths = [
        path for path in (*out.glob("*.*"), *out.rglob("*.tmp")) if path.name != "progress.jsonl"
    ]
    return committed_files(out) | {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths
    }


@pytest.mark.thorough
@pytest.mark.parametrize("start", [start_without_ray, start_command][: choose_count(2, 1)])
@pytest.mark.parametrize("count", (1, *TOGETHER))
def test_a_paused_run_is_taken_over(reference, injected, tmp_path, count, start):
    """Of the real command the driver is paused, and its workers go on until they see the later
    token.
    """
    for number in range(ROUNDS if start is start_without_ray and count == 1 else 1):
        out, said = tmp_path / f"{number}" / "dataset", outputs(tmp_path / f"{number}", count + 1)
        holder = start(reference.clips, out, said[0])
        while not read_built_shards(said[0]) and holder.is_alive():
            time.sleep(0.01)
        os.kill(holder.pid, signal.SIGSTOP)
        wait_until_stopped(holder)
        check_taken_over(reference, out, holder, said, start)
        injected.record_ended(out)


@pytest.mark.thorough
@pytest.mark.parametrize("point, shard", PAUSED_AT)
def test_a_run_that_is_paused_while_it_writes_is_taken_over(
    reference, injected, tmp_path, point, shard
):
    out, said = tmp_path / "dataset", [tmp_path / "first.log", tmp_path / "second.log"]
    holder = start_without_ray(
        reference.clips,
        out,
        said[0],
        **{CRASHPOINT_VARIABLE: f"{point} {shard} 1", SIGNAL_VARIABLE: "SIGSTOP"},
    )
    wait_until_stopped(holder)
    check_taken_over(reference, out, holder, said, start_without_ray)
    injected.record_ended(out)


@pytest.mark.slow
def test_a_run_that_moves_is_not_taken_over(reference, injected, tmp_path):
    out, (first, second) = tmp_path / "dataset", [tmp_path / "first.log", tmp_path / "second.log"]
    holder = start_without_ray(reference.clips, out, first)
    while not read_built_shards(first) and holder.is_alive():
        time.sleep(0.01)
    os.kill(holder.pid, signal.SIGSTOP)
    try:
        assert (
            wait_for_exit(start_without_ray(reference.clips, out, second, *TAKE_OVER_OPTIONS))
            == ExitCode.IN_USE
        ), second.read_text()
        assert f"another run is writing to {out}: process {holder.pid} on " in second.read_text()
    finally:
        os.kill(holder.pid, signal.SIGCONT)
    assert wait_for_exit(holder) == ExitCode.SUCCESS
    injected.record_ended(out)
