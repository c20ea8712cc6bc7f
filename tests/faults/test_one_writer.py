"""P14: of runs into one folder one proceeds, also after it was paused."""

import os
import signal
import time
from pathlib import Path

import pytest

from jobs.exits import Exit
from tests.faults.reference import FULL, SHARDS, counted
from tests.faults.runs import built, ended, started_run

pytestmark = [pytest.mark.promise("P14"), pytest.mark.timeout(1800)]
ROUNDS, TOGETHER = counted(10, 2), (2, 4, 8) if FULL else (3,)


def outputs(folder: Path, count: int) -> list[Path]:
    return [folder / f"{i}.log" for i in range(count)]


@pytest.mark.parametrize("count", TOGETHER)
def test_runs_that_begin_together(reference, injected, tmp_path, count):
    """One that begins when the first has ended finds nothing left to do."""
    for number in range(ROUNDS):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        said = outputs(folder, count)
        runs = [started_run(reference.clips, folder / "dataset", output) for output in said]
        codes = [ended(run) for run in runs]
        assert set(codes) <= {Exit.DONE, Exit.IN_USE} and Exit.DONE in codes, [path.read_text() for path in said]
        assert all("another run is writing to" in path.read_text() for path, code in zip(said, codes, strict=True) if code == Exit.IN_USE)
        assert sorted(shard for path in said for shard in built(path)) == sorted(SHARDS)
        assert sum(bool(built(path)) for path in said) == 1
        injected.ended(folder / "dataset")


def test_a_run_that_begins_while_the_first_is_paused(reference, injected, tmp_path):
    for number in range(ROUNDS):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        first, second = outputs(folder, 2)
        holder = started_run(reference.clips, folder / "dataset", first)
        while not built(first) and holder.is_alive():
            time.sleep(0.01)
        os.kill(holder.pid, signal.SIGSTOP)
        try:
            assert ended(started_run(reference.clips, folder / "dataset", second)) == Exit.IN_USE, second.read_text()
        finally:
            os.kill(holder.pid, signal.SIGCONT)
        assert ended(holder) == Exit.DONE and sorted(built(first)) == sorted(SHARDS) and not built(second)
        injected.ended(folder / "dataset")
