"""Counts how many tasks fit on the nodes of a Ray cluster.

How many GPUs does a worker take? For extraction jobs/cli/run_options.py decides, for training
jobs/cluster/training.py.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Resources(NamedTuple):
    """What one task occupies."""

    cpus: int = 1
    gpus: float = 0.0


def capacity(workers: int | None, needs: Resources) -> int:
    """Returns how many tasks of these needs run at once on the connected cluster, at most
    `workers`. Raises ValueError if not even one fits.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fitting = count_fitting_tasks(nodes, needs)
    return min(workers or fitting, fitting)


def count_fitting_tasks(nodes: Sequence[Mapping[str, float]], needs: Resources) -> int:
    """Returns how many tasks run at once on nodes with these resources, if each task runs on one
    node. Raises ValueError if not even one fits.
    """
    fitting = sum(_tasks_per_node(node, needs) for node in nodes)
    if not fitting:
        cpus, gpus = (
            max((node.get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU")
        )
        raise ValueError(
            f"a worker needs {needs.cpus} CPUs and {needs.gpus:g} GPUs, "
            f"the best node of the cluster has {cpus:g} and {gpus:g}; without a GPU: --device cpu"
        )
    return fitting


def _tasks_per_node(node: Mapping[str, float], needs: Resources) -> int:
    """Returns how many tasks run at once on one node."""
    shares = [(node.get("CPU", 0), needs.cpus), (node.get("GPU", 0), needs.gpus)]
    # Ray counts in ten-thousandths.
    return min(int(available / need + 1e-4) for available, need in shares if need)
