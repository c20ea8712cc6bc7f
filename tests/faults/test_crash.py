"""P1: whatever a run is doing when it is killed, the same command ends at the same bytes and
touches nothing that is committed.
"""

import signal

import pytest

from pipeline.dataset.crashpoint import POINTS
from tests.faults.reference import FULL_COUNTS, PLACED_SHARDS, committed_files
from tests.faults.runs import kill_command, kill_without_ray, run_command, run_without_ray

pytestmark = pytest.mark.promise("P1")
PASSES = {"mid-member": 3}
"""Which passage of a point ends the run: of the members, the largest."""
CRASHES = [
    (point, place)
    for i, point in enumerate(POINTS)
    for j, place in enumerate(PLACED_SHARDS)
    if FULL_COUNTS or i % 3 == j
]
"""All in `make test-faults`; each point once in `make test`."""


def armed(point: str, place: str) -> str:
    return f"{point} {PLACED_SHARDS[place]} {PASSES.get(point, 1)}"


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.parametrize("point, place", CRASHES, ids=lambda value: value)
def test_a_run_killed_at(reference, injected, tmp_path, point, place):
    out = tmp_path / "dataset"
    assert kill_without_ray(reference.clips, out, armed(point, place)) == -signal.SIGKILL
    before = committed_files(out)
    assert run_without_ray(reference.clips, out) == 0, out.with_suffix(".log").read_text()
    assert before.items() <= committed_files(out).items()
    injected.record_ended(out)


@pytest.mark.parametrize(
    "point, place",
    [crash for i, crash in enumerate(CRASHES) if FULL_COUNTS and i % 3 == i // 3 % 3],
    ids=lambda value: value,
)
def test_the_command_and_its_worker_killed_at(reference, injected, tmp_path, point, place):
    """Each point once, with two workers, in the full counts."""
    out = tmp_path / "dataset"
    assert kill_command(reference.clips, out, armed(point, place)) == -signal.SIGKILL
    before = committed_files(out)
    assert run_command(reference.clips, out) == 0, out.with_suffix(".log").read_text()
    assert before.items() <= committed_files(out).items()
    injected.record_ended(out)
