"""P2 and P3: workers, or the driver, are killed while a run goes on."""

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.exits import Exit
from tests.faults.reference import ALONE, ROOT, command, committed, counted
from tests.faults.runs import ended_command

WORKERS = 2
SEED = int(os.environ.get("QUIVER_KILL_SEED", "0"))


@contextmanager
def running(clips: Path, out: Path) -> Iterator[subprocess.Popen]:
    """The real command; killed at the end of the block where it still runs."""
    with out.with_suffix(".log").open("ab") as log:
        run = subprocess.Popen(command(clips, out, workers=WORKERS), cwd=ROOT, env=os.environ | ALONE, stdout=log, stderr=log)
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
            parents[int(entry)] = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            lines[int(entry)] = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
    found, new = {}, {process}
    while new := {child for child, parent in parents.items() if parent in new and child not in found}:
        found |= {child: lines.get(child, "") for child in new}
    return found


def workers(run: int, names: tuple[str, ...] = ("ray::task", "ray::IDLE")) -> list[int]:
    """Ray's worker processes: those with a task, and those that wait for one."""
    return sorted(process for process, line in descendants(run).items() if line.startswith(names))


def in_flight(root: Path) -> set[str]:
    """Shards that were begun, by what stands of their tars, and not committed."""
    tars = {path.name.removeprefix(".").partition(".tar")[0] for path in (root / "shards").glob("*.tar*")}
    tars |= {path.name.removeprefix(".").partition(".tar")[0] for path in (root / "shards").glob(".*.tmp")}
    return tars - {path.stem for path in (root / "records").glob("*.json")}


def until(run: subprocess.Popen, seconds: float) -> bool:
    """Whether the run goes on for so long."""
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


@pytest.mark.promise("P2")
@pytest.mark.timeout(3600)
def test_a_random_worker_is_killed_every_half_to_two_seconds(reference, injected, tmp_path):
    """Again and again the same command, since a run ends, with exit code 1, once a shard's worker has died four times."""
    rng, kills, number = random.Random(SEED), 0, 0
    while kills < counted(100, 2):
        number, before, code = number + 1, kills, int(Exit.FAILURE)
        out = tmp_path / f"{number}"
        while code == Exit.FAILURE:
            with running(reference.clips, out) as run:
                while until(run, rng.uniform(0.5, 2) if workers(run.pid) else 0.05):
                    if found := workers(run.pid):
                        os.kill(rng.choice(found), signal.SIGKILL)
                        kills += 1
                code = run.returncode
        assert code == 0, out.with_suffix(".log").read_text()
        injected.ended(out, kills - before)


@pytest.mark.promise("P2")
@pytest.mark.timeout(3600)
def test_the_first_worker_is_killed_as_it_begins(reference, injected, tmp_path):
    """Before Ray knows it."""
    for number in range(counted(10, 1)):
        out = tmp_path / f"{number}"
        with running(reference.clips, out) as run:
            while not (found := workers(run.pid)) and until(run, 0.01):
                pass
            os.kill(found[0], signal.SIGKILL)
            assert run.wait() == 0, out.with_suffix(".log").read_text()
        injected.ended(out)


@pytest.mark.promise("P3")
@pytest.mark.timeout(3600)
def test_the_driver_is_killed_at_random_times(reference, injected, tmp_path):
    """Of the time in which its workers work; the same command goes on at once, while they may still be ending."""
    rng, kills, number = random.Random(SEED), 0, 0
    while kills < counted(20, 2):
        number, before, goes_on = number + 1, kills, True
        out = tmp_path / f"{number}"
        while goes_on and kills < counted(20, 2):
            done = committed(out)
            with running(reference.clips, out) as run:
                while not workers(run.pid, ("ray::task",)) and until(run, 0.02):
                    pass
                goes_on = until(run, rng.uniform(0, counted(15, 4)))
            kills += goes_on
            assert goes_on or run.returncode == 0, out.with_suffix(".log").read_text()
            assert len(in_flight(out)) <= WORKERS and done.items() <= committed(out).items()
        done = committed(out)
        assert ended_command(reference.clips, out) == 0 and done.items() <= committed(out).items()
        injected.ended(out, kills - before)
