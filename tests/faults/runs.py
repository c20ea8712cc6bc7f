"""Runs that a test may kill: the real command, and the same run without Ray, which begins in an
instant.

The second is forked from a process that has everything loaded and runs no thread.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from jobs.cli.errors import error_boundary
from jobs.cli.progress import RunProgress
from jobs.cli.workers import collect_readable, plan_in_worker
from jobs.extract_flow import parse_job, reject_relative_paths
from pipeline.dataset.commit import AlreadyCommitted
from pipeline.dataset.crashpoint import CRASHPOINT_VARIABLE
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from pipeline.dataset.remote import build_session, finalize_session, locate_dataset
from pipeline.dataset.remote_clips import local_clip_rows
from pipeline.dataset.rounds import EarlierFates
from pipeline.dataset.run_lock import STALE_AFTER_S
from pipeline.decode.pool import shared_pool
from pipeline.extract.build_shard import build_shard
from pipeline.extract.config import BuildConfig, from_contract, to_contract
from pipeline.extract.list_clips import list_clips
from pipeline.extract.plan import keep_earlier_decisions, plan_rows
from pipeline.extract.plan_clip import retry_clip
from pipeline.extract.retry import begin_round, find_retryable, unbuilt_shards
from pipeline.extract.timing import ShardTiming
from pipeline.extract.versions import library_versions
from schemas.outcome import Outcome
from schemas.records import PlanRow
from tests.faults.reference import ROOT, SINGLE_THREAD_ENV, extract, extract_command

TAKE_OVER_OPTIONS = ("--take-over-s", f"{STALE_AFTER_S:.0f}")
WORKER_COUNT = 2
FORKSERVER = get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    ["pytest", "pandas", "tests.faults.runs", "tests.faults.test_twins"]
)


def build_in_process(arguments: list[str]) -> None:
    """What jobs.extract_flow does, in this process: the same plan, shards and commits, one after
    the other.
    """
    with error_boundary():
        job = parse_job(arguments)
        reject_relative_paths(job)
        clips, dataset = list_clips(job.clips), locate_dataset(job.out, job.staging)
        with dataset.lock(job.take_over_s):
            probed = collect_readable(
                (plan_in_worker(job.build, job.staging, clip) for clip in clips),
                len(clips),
                job.quarantine_limit,
            )
            rows = plan_rows(keep_earlier_decisions(probed, dataset.earlier_plan()), job.build.plan)
            dataset.create_or_resume(rows, to_contract(job.build), library_versions(job.build))
            mine = {
                shard: [row for row in rows if row.shard == shard]
                for shard in dict.fromkeys(row.shard for row in rows if row.key)
            }
            build_missing(dataset, mine | unbuilt_shards(dataset), job.build, job.staging)


def build_missing(
    dataset: Dataset, shards: dict[str, list[PlanRow]], config: BuildConfig, staging: Path | None
) -> None:
    """Those that are not committed, and then the derived files."""
    fates = EarlierFates(dataset.rounds())
    with RunProgress(sum(map(len, shards.values())), dataset.progress, dataset.token) as progress:
        for shard, rows in shards.items():
            results: list[Outcome | ShardTiming] = []
            if not dataset.is_committed(shard):
                with (
                    build_session(dataset, shard),
                    local_clip_rows(fates.add_fates(rows), staging) as here,
                    suppress(AlreadyCommitted),
                ):
                    results += build_shard(dataset, shard, here, config)
            for value in results:
                progress.record_shard(shard, value) if isinstance(
                    value, ShardTiming
                ) else progress.record_window(shard, value)
    with finalize_session(dataset):
        finalize(dataset)


def retry_in_process(out: str, staging: Path | None) -> None:
    """What jobs.retry does, in this process: the same round, shards and commits."""
    with error_boundary():
        dataset = locate_dataset(out, staging).absolute()
        with dataset.lock():
            dataset.resume()
            config = from_contract(dataset.contract().config)
            if not unbuilt_shards(dataset):
                found, probe = find_retryable(dataset), shared_pool(config.decode, 1).probe
                begin_round(
                    dataset,
                    found.windows,
                    [retry_clip(row, config.plan, probe, staging) for row in found.clips],
                    config.plan,
                )
            build_missing(dataset, unbuilt_shards(dataset), config, staging)


def run_forked(function: Callable[..., None], *args: Any, output: Path, **env: str) -> int:
    """Exit code of a function in a process of its own; what it prints goes to a file."""
    return wait_for_exit(start_forked(function, *args, output=output, **env))


def start_forked(
    function: Callable[..., None], *args: Any, output: Path, **env: str
) -> BaseProcess:
    process = FORKSERVER.Process(target=enter_process, args=(function, args, str(output), env))
    process.start()
    return process


def wait_for_exit(process: BaseProcess) -> int:
    """Its exit code."""
    process.join(280)
    if process.exitcode is None:
        process.kill()
        pytest.fail("a run did not end within 280 s")
    return process.exitcode


def enter_process(
    function: Callable[..., None], args: tuple, output: str, env: dict[str, str]
) -> None:
    """In the new process."""
    with open(output, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(SINGLE_THREAD_ENV | env)
    function(*args)


def start_without_ray(
    clips: Path, out: Path, output: Path, *options: str, **env: str
) -> BaseProcess:
    """A run without Ray that has begun."""
    return start_forked(
        build_in_process, extract_command(clips, out, *options)[3:], output=output, **env
    )


def start_command(clips: Path, out: Path, output: Path, *options: str) -> BaseProcess:
    """The real command, begun."""
    return start_forked(exec_command, extract_command(clips, out, *options), output=output)


def wait_until_stopped(process: BaseProcess) -> None:
    """By SIGSTOP; fails where it ends instead."""
    while (
        state := Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    ) != "T":
        assert state != "Z"
        time.sleep(0.01)


def read_built_shards(output: Path) -> list[str]:
    """The shards that a run says it has committed."""
    lines = output.read_text().splitlines() if output.exists() else []
    return [match[1] for line in lines if (match := re.match(r"shard (\S+): \d+ kept", line))]


def kill_without_ray(clips: Path, out: Path, armed: str) -> int:
    """Exit code of a run without Ray that is killed at a crash point."""
    return run_forked(
        build_in_process,
        extract_command(clips, out)[3:],
        output=out.with_suffix(".log"),
        **{CRASHPOINT_VARIABLE: armed},
    )


def kill_command(clips: Path, out: Path, armed: str) -> int:
    """Exit code of the real command, which is killed together with its worker when that one passes
    a crash point.
    """
    return run_forked(
        exec_command, extract_command(clips, out), armed, output=out.with_suffix(".log")
    )


def exec_command(arguments: list[str], armed: str | None = None) -> None:
    """Becomes the command; its workers inherit the crash point, and whom else to kill."""
    if armed:
        os.environ[CRASHPOINT_VARIABLE] = f"{armed} {os.getpid()}"
    os.chdir(ROOT)
    os.execv(arguments[0], arguments)


def run_without_ray(clips: Path, out: Path, options: Sequence[str] = (), **env: str) -> int:
    """Exit code of a run without Ray."""
    return run_forked(
        build_in_process,
        extract_command(clips, out, *options)[3:],
        output=out.with_suffix(".log"),
        **env,
    )


def run_command(clips: Path, out: Path) -> int:
    """Exit code of the real command."""
    done = extract(clips, out)
    out.with_suffix(".log").write_text(done.stdout + done.stderr)
    return done.returncode


@contextmanager
def running_command(clips: Path, out: Path, **env: str) -> Iterator[subprocess.Popen]:
    """The real command; killed at the end of the block where it still runs."""
    with out.with_suffix(".log").open("ab") as log:
        run = subprocess.Popen(
            extract_command(clips, out, workers=WORKER_COUNT),
            cwd=ROOT,
            env=os.environ | SINGLE_THREAD_ENV | env,
            stdout=log,
            stderr=log,
        )
    try:
        yield run
    finally:
        run.kill()
        run.wait()


def descendants(process: int) -> dict[int, str]:
    """Command lines of a process's children, theirs, and so on."""
    parents, lines = {}, {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            parents[int(entry)] = int(
                Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1]
            )
            lines[int(entry)] = (
                Path(f"/proc/{entry}/cmdline")
                .read_bytes()
                .replace(b"\0", b" ")
                .decode(errors="replace")
            )
        except OSError:  # it has ended
            continue
    found, new = {}, {process}
    while new := {
        child for child, parent in parents.items() if parent in new and child not in found
    }:
        found |= {child: lines.get(child, "") for child in new}
    return found


def find_workers(run: int, names: tuple[str, ...] = ("ray::task", "ray::IDLE")) -> list[int]:
    """Ray's worker processes: those with a task, and those that wait for one."""
    return sorted(process for process, line in descendants(run).items() if line.startswith(names))


def is_running_after(run: subprocess.Popen, seconds: float | None) -> bool:
    """Whether the run goes on for so long; None: it is waited for to its end."""
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def build_preload_library(source: str, folder: Path) -> Path:
    """A C file of this folder as a library to preload; without a compiler the test is skipped."""
    library = folder / Path(source).with_suffix(".so").name
    try:
        arguments = [
            "cc",
            "-O2",
            "-Wall",
            "-shared",
            "-fPIC",
            "-o",
            str(library),
            str(Path(__file__).with_name(source)),
            "-ldl",
        ]
        subprocess.run(arguments, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no C compiler for the library to preload")
    return library


if __name__ == "__main__":
    build_in_process(sys.argv[1:])
