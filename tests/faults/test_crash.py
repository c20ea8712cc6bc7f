"""P1: whatever a run is doing when it is killed, the same command ends at the same bytes and touches nothing that is committed."""

import signal

import pytest

from pipeline.dataset.crashpoint import POINTS
from tests.faults.reference import FULL, PLACES, committed
from tests.faults.runs import ended_command, ended_here, killed_command, killed_here

pytestmark = pytest.mark.promise("P1")
PASSES = {"mid-member": 3}
"""Which passage of a point ends the run: of the members, the largest."""
CRASHES = [(point, place) for i, point in enumerate(POINTS) for j, place in enumerate(PLACES) if FULL or i % 3 == j]
"""All in `make test-faults`; each point once in `make test`."""


def armed(point: str, place: str) -> str:
    return f"{point} {PLACES[place]} {PASSES.get(point, 1)}"


@pytest.mark.parametrize("point, place", CRASHES, ids=lambda value: value)
def test_a_run_killed_at(reference, injected, tmp_path, point, place):
    out = tmp_path / "dataset"
    assert killed_here(reference.clips, out, armed(point, place)) == -signal.SIGKILL
    before = committed(out)
    assert ended_here(reference.clips, out) == 0, out.with_suffix(".log").read_text()
    assert before.items() <= committed(out).items()
    injected.ended(out)


@pytest.mark.parametrize("point, place", [crash for i, crash in enumerate(CRASHES) if FULL and i % 3 == i // 3 % 3], ids=lambda value: value)
def test_the_command_and_its_worker_killed_at(reference, injected, tmp_path, point, place):
    """Each point once, with two workers, in the full counts."""
    out = tmp_path / "dataset"
    assert killed_command(reference.clips, out, armed(point, place)) == -signal.SIGKILL
    before = committed(out)
    assert ended_command(reference.clips, out) == 0, out.with_suffix(".log").read_text()
    assert before.items() <= committed(out).items()
    injected.ended(out)
