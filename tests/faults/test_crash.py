"""P1: whatever a run is doing when it is killed, the same command ends at the same bytes and touches nothing that is committed."""

import signal

import pytest

from pipeline.crashpoint import POINTS
from tests.faults.reference import FULL, PLACES, committed
from tests.faults.runs import ended_command, ended_here, killed_command, killed_here

pytestmark = pytest.mark.promise("P1")
PASSES = {"mid-member": 3}
"""Which passage of a point ends the run: of the members, the largest."""
CRASHES = [(point, place) for i, point in enumerate(POINTS) for j, place in enumerate(PLACES) if FULL or i % 3 == j]
"""All in `make test-faults`; each point once in `make test`."""


@pytest.mark.parametrize("point, place", CRASHES, ids=lambda value: value)
def test_a_run_killed_at(reference, injected, tmp_path, point, place):
    out, armed = tmp_path / "dataset", f"{point} {PLACES[place]} {PASSES.get(point, 1)}"
    killed, ended = (killed_command, ended_command) if FULL else (killed_here, ended_here)
    assert killed(reference.clips, out, armed) == -signal.SIGKILL
    before = committed(out)
    assert ended(reference.clips, out) == 0, (tmp_path / "dataset.log").read_text()
    assert {path: stamp for path, stamp in committed(out).items() if path in before} == before
    injected.ended(out)
