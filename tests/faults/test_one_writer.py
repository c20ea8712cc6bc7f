"""P14: of runs into one folder one proceeds, also after it was paused."""

import os
import signal
import time
from pathlib import Path

import pytest

from jobs.exits import Exit
from tests.faults.reference import FULL, SHARDS, counted
from tests.faults.runs import built, ended, start_command, start_here

pytestmark = [pytest.mark.promise("P14"), pytest.mark.timeout(3600)]
ROUNDS, TOGETHER = counted(10, 2), (2, 4, 8) if FULL else (3,)


def outputs(folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    return [folder / f"{i}.log" for i in range(count)]


@pytest.mark.parametrize("start", [start_here, start_command][: counted(2, 1)])
@pytest.mark.parametrize("count", TOGETHER)
def test_runs_that_begin_together(reference, injected, tmp_path, count, start):
    """One that begins when the first has ended finds nothing left to do. Of the real command one round."""
    for number in range(ROUNDS if start is start_here else 1):
        out, said = tmp_path / f"{number}" / "dataset", outputs(tmp_path / f"{number}", count)
        runs = [start(reference.clips, out, output) for output in said]
        codes = [ended(run) for run in runs]
        assert set(codes) <= {Exit.DONE, Exit.IN_USE} and Exit.DONE in codes, [path.read_text() for path in said]
        assert all("another run is writing to" in path.read_text() for path, code in zip(said, codes, strict=True) if code == Exit.IN_USE)
        assert sum(bool(built(path)) for path in said) == 1
        assert sorted(shard for path in said for shard in built(path)) == sorted(SHARDS)
        injected.ended(out)


@pytest.mark.parametrize("start", [start_here, start_command][: counted(2, 1)])
def test_a_run_that_begins_while_the_first_is_paused(reference, injected, tmp_path, start):
    for number in range(ROUNDS if start is start_here else 1):
        out, (first, second) = tmp_path / f"{number}" / "dataset", outputs(tmp_path / f"{number}", 2)
        holder = start(reference.clips, out, first)
        while not built(first) and holder.is_alive():
            time.sleep(0.01)
        os.kill(holder.pid, signal.SIGSTOP)
        try:
            assert ended(start(reference.clips, out, second)) == Exit.IN_USE, second.read_text()
        finally:
            os.kill(holder.pid, signal.SIGCONT)
        assert ended(holder) == Exit.DONE and sorted(built(first)) == sorted(SHARDS) and not built(second)
        injected.ended(out)
