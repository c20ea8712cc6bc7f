"""P4: nodes of a cluster are lost while a run goes on, and others join."""

import os
import random
import signal
from contextlib import ExitStack, suppress

import pytest

from jobs.exits import Exit
from tests import nodes
from tests.faults.reference import counted
from tests.faults.runs import descendants, running, until, workers


def lose(node: int) -> None:
    """Nothing of it goes on, its decoders neither."""
    for process in [node, *descendants(node)]:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@pytest.mark.promise("P4")
@pytest.mark.timeout(3600)
def test_a_node_is_lost_while_it_works_and_another_joins(reference, injected, tmp_path):
    """Of three, of which the head stays; again and again the same command, as where workers are killed."""
    rng, lost, number = random.Random(0), 0, 0
    with nodes.head(cpus=1) as head, ExitStack() as joined:
        others = [joined.enter_context(nodes.node(head, cpus=1)) for _ in range(2)]
        while lost < counted(10, 1):
            number, before, code = number + 1, lost, int(Exit.FAILURE)
            out = tmp_path / f"{number}"
            while code == Exit.FAILURE:
                with running(reference.clips, out, **head.env, RAY_ADDRESS=head.gcs) as run:
                    while until(run, rng.uniform(0, 1)):
                        if busy := [node for node in others if workers(node, ("ray::task",))]:
                            lose(busy[0])
                            lost += 1
                            others.remove(busy[0])
                            others.append(joined.enter_context(nodes.node(head, cpus=1)))
                    code = run.returncode
            assert code == 0, out.with_suffix(".log").read_text()
            injected.ended(out, lost - before)
