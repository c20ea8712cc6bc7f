"""P4: nodes of a cluster are lost while a run goes on, and others join."""

import os
import random
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest

from jobs.cluster import MAX_TASK_RETRIES
from tests.faults.reference import choose_count
from tests.faults.runs import descendants, find_workers, is_running_after, running_command
from tests.support import nodes


def lose(node: int) -> None:
    """Nothing of it goes on, its decoders neither."""
    for process in [node, *descendants(node)]:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def lost_during(
    run: subprocess.Popen, others: list[int], join: Callable[[], int], rng: random.Random
) -> int:
    """How many nodes were lost, each while it worked, and replaced, until the run has ended."""
    lost = 0
    while is_running_after(run, rng.uniform(0, 1)):
        if busy := [node for node in others if find_workers(node, ("ray::task",))]:
            lose(busy[0])
            others.remove(busy[0])
            others.append(join())
            lost += 1
    return lost


@pytest.mark.thorough
@pytest.mark.promise("P4")
@pytest.mark.timeout(3600)
def test_a_node_is_lost_while_it_works_and_another_joins(reference, injected, tmp_path):
    """Of three, of which the head stays. Where a shard's task has been lost with so many that Ray
    gives it up, the same command again.
    """
    rng = random.Random(0)
    with nodes.start_head(cpus=1) as head, ExitStack() as joined:
        others = [joined.enter_context(nodes.start_node(head, cpus=1)) for _ in range(2)]
        while injected.injections < choose_count(10, 1):
            out, lost, code = tmp_path / f"{injected.injections}", 0, None
            while code != 0:
                with running_command(reference.clips, out, **head.env, RAY_ADDRESS=head.gcs) as run:
                    during = lost_during(
                        run,
                        others,
                        lambda: joined.enter_context(nodes.start_node(head, cpus=1)),
                        rng,
                    )
                code, lost = run.returncode, lost + during
                assert code == 0 or during > MAX_TASK_RETRIES, out.with_suffix(".log").read_text()
            injected.record_ended(out, lost)
