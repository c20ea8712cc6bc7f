"""Ray for the data jobs: the one place that starts it, places work on it, and hears back. It never decides what is in
a shard.
"""

import logging
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

Item = TypeVar("Item")
Value = TypeVar("Value")

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the driver of a submitted job."""
RETRIES = 3
"""How often Ray starts a task again whose process died."""


class Needs(NamedTuple):
    """What one task occupies."""

    cpus: int = 1
    gpus: float = 0.0


def in_submitted_job() -> bool:
    """Whether this process was started by `ray job submit`, in an uploaded copy of the working folder."""
    return JOB_VARIABLE in os.environ


@contextmanager
def connected(workers: int | None, needs: Needs) -> Iterator[int]:
    """A connection to the cluster that RAY_ADDRESS names (a submitted job has one), else to a Ray of our own with
    `workers` processes, which ends with the block. Gives the number of tasks of these needs that fit at once.

    Raises ValueError where not one fits.
    """
    own = not os.environ.get("RAY_ADDRESS")
    if own:
        close_to_the_world()
    import ray

    cpus = max(os.cpu_count() or 1, needs.cpus) if workers is None else workers * needs.cpus
    options: dict[str, Any] = dict(address="local", num_cpus=cpus, include_dashboard=False) if own else {}
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    try:
        fitting = tasks_that_fit(ray.cluster_resources(), needs)
        yield min(workers or fitting, fitting)
    finally:
        ray.shutdown()


def tasks_that_fit(resources: Mapping[str, float], needs: Needs) -> int:
    """How many tasks a cluster of these resources runs at once. Raises ValueError where not one fits."""
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    if needs.gpus > gpus:
        raise ValueError(f"a worker needs {needs.gpus:g} GPUs and Ray has {gpus:g}; RAFT runs without one with --device cpu")
    if needs.cpus > cpus:
        raise ValueError(f"a worker needs {needs.cpus} CPUs (--decoders-per-worker) and Ray has {cpus:g}")
    return int(min(cpus // needs.cpus, gpus // needs.gpus if needs.gpus else cpus))


def close_to_the_world() -> None:
    """Ray's own ports listen on every interface: a local Ray answers only to a token that is made for this process."""
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def map_unordered(function: Callable[[Item], Value], items: Iterable[Item], at_once: int) -> Iterator[tuple[Item, Value | Exception]]:
    """(item, result) as they come, each computed in a worker process; an exception where it raised or its process died."""

    def one(item: Item) -> Iterator[Value]:
        yield function(item)

    for item, value in stream_unordered(one, items, at_once, Needs()):
        if value is not None:
            yield item, value


def stream_unordered(
    function: Callable[[Item], Iterator[Value]], items: Iterable[Item], at_once: int, needs: Needs
) -> Iterator[tuple[Item, Value | Exception | None]]:
    """(item, value) for each value that `function(item)` yields in a worker process, then (item, None); or, where it
    raised or its process died more than RETRIES times, (item, error).
    """
    import ray

    @ray.remote(num_cpus=needs.cpus, num_gpus=needs.gpus, max_retries=RETRIES, num_returns="streaming")
    def task(item: Item) -> Iterator[Value]:
        yield from function(item)

    waiting, running = iter(items), {}
    while True:
        while len(running) < at_once and (item := next(waiting, None)) is not None:
            running[task.remote(item)] = item
        if not running:
            return
        ready, _ = ray.wait(list(running), num_returns=1, fetch_local=False)
        for generator in ready:
            value = _next(generator)
            yield running[generator], value
            if value is None or isinstance(value, Exception):
                del running[generator]


def _next(generator: Any) -> Any:
    """The next value of a task, None after the last, or the exception that ended it."""
    import ray
    from ray.exceptions import RayError

    try:
        return ray.get(next(generator))
    except StopIteration:
        return None
    except (RayError, OSError) as error:
        cause = getattr(error, "cause", None)
        return cause if isinstance(cause, OSError | ValueError) else error
