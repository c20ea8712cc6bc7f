"""P2 and P3: workers, or the driver, are killed while a run goes on."""

import os
import random
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from jobs.cli.errors import ExitCode
from jobs.cluster import MAX_TASK_RETRIES
from tests.faults.reference import choose_count, committed_files
from tests.faults.runs import (
    WORKER_COUNT,
    find_workers,
    is_running_after,
    run_command,
    running_command,
)

SEED = int(os.environ.get("QUIVER_KILL_SEED", "0"))


def in_flight(root: Path) -> set[str]:
    """Shards that were begun, by what stands of their tars, and not committed."""
    tars = {
        path.name.removeprefix(".").partition(".tar")[0]
        for path in (root / "shards").glob("*.tar*")
    }
    tars |= {
        path.name.removeprefix(".").partition(".tar")[0]
        for path in (root / "shards").glob(".*.tmp")
    }
    return tars - {path.stem for path in (root / "records").glob("*.json")}


def killed(clips: Path, out: Path, pauses: Iterator[float], rng: random.Random) -> tuple[int, int]:
    """How many workers were killed, one after each pause in which there is one, until the run has
    ended by itself, and by how many commands: the same again where it ends with exit code 1, which
    is once a shard's worker has died four times.
    """
    kills, commands, code = 0, 0, int(ExitCode.FAILURE)
    while code == ExitCode.FAILURE:
        commands += 1
        with running_command(clips, out) as run:
            while is_running_after(run, next(pauses, None) if find_workers(run.pid) else 0.01):
                with suppress(ProcessLookupError, IndexError):  # none is left
                    os.kill(rng.choice(find_workers(run.pid)), signal.SIGKILL)
                    kills += 1
            code = run.returncode
    assert code == 0, out.with_suffix(".log").read_text()
    return kills, commands


@pytest.mark.thorough
@pytest.mark.promise("P2")
@pytest.mark.timeout(3600)
def test_a_random_worker_is_killed_every_half_to_two_seconds(
    reference, injected, record_property, tmp_path
):
    """Until so many are; how many commands that takes, and how far each comes, is the machine's
    speed: the report has it.
    """
    rng, runs, commands = random.Random(SEED), 0, 0
    while (left := choose_count(100, 2) - injected.injections) > 0:
        out = tmp_path / f"{left}"
        kills, begun = killed(reference.clips, out, (rng.uniform(0.5, 2) for _ in range(left)), rng)
        injected.record_ended(out, kills)
        runs, commands = runs + 1, commands + begun
    record_property("commands", f"{commands} for {runs} data sets")


@pytest.mark.thorough
@pytest.mark.promise("P2")
@pytest.mark.timeout(3600)
def test_the_first_worker_is_killed_as_it_begins(reference, injected, tmp_path):
    """Before Ray knows it."""
    for number in range(choose_count(10, 1)):
        out = tmp_path / f"{number}"
        kills, commands = killed(reference.clips, out, iter([0.0]), random.Random(SEED))
        assert commands == 1
        injected.record_ended(out, kills)


@pytest.mark.thorough
@pytest.mark.promise("P2")
@pytest.mark.timeout(3600)
def test_no_clip_is_to_blame_for_workers_that_are_killed_while_they_probe_it(
    reference, injected, tmp_path
):
    """The run ends before it has a plan; the same command then has all that the clips are."""
    out, kills = tmp_path / "dataset", 0
    with running_command(reference.clips, out) as run:
        while is_running_after(run, 0.01):
            for worker in find_workers(run.pid, ("ray::task",)):
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
                    kills += 1
    said = [
        line
        for line in out.with_suffix(".log").read_text().splitlines()
        if line.startswith("quiver:")
    ]
    assert (
        run.returncode == ExitCode.FAILURE
        and not (out / "run.json").exists()
        and "a process died 4 times" in said[-1]
    ), said
    assert kills > MAX_TASK_RETRIES
    injected.record_ended(
        out, kills + killed(reference.clips, out, iter(()), random.Random(SEED))[0]
    )


@pytest.mark.thorough
@pytest.mark.promise("P3")
@pytest.mark.timeout(3600)
def test_the_driver_is_killed_at_random_times(reference, injected, tmp_path):
    """Of the time in which its workers work; the same command goes on at once, while they may still
    be ending.
    """
    rng, kills, number = random.Random(SEED), 0, 0
    while kills < choose_count(20, 2):
        number, before, goes_on = number + 1, kills, True
        out = tmp_path / f"{number}"
        while goes_on and kills < choose_count(20, 2):
            done = committed_files(out)
            with running_command(reference.clips, out) as run:
                while not find_workers(run.pid, ("ray::task",)) and is_running_after(run, 0.02):
                    pass
                goes_on = is_running_after(run, rng.uniform(0, choose_count(15, 4)))
            kills += goes_on
            assert goes_on or run.returncode == 0, out.with_suffix(".log").read_text()
            assert (
                len(in_flight(out)) <= WORKER_COUNT and done.items() <= committed_files(out).items()
            )
        done = committed_files(out)
        assert (
            run_command(reference.clips, out) == 0 and done.items() <= committed_files(out).items()
        )
        injected.record_ended(out, kills - before)
