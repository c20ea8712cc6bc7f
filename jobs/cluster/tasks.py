"""Runs functions in worker processes on Ray, and yields their results as they arrive."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from jobs.cluster.resources import Resources, capacity
from jobs.cluster.session import ray_session
from pipeline.dataset.folder import ContractMismatch
from pipeline.dataset.run_lock import FolderInUse

Item = TypeVar("Item")
Value = TypeVar("Value")

MAX_TASK_RETRIES = 3
"""How often a task is started again after its process died."""


class NodeMisconfigured(Exception):
    """A node lacks what the user asked for: weights, a device."""


class TaskDied(Exception):
    """The process of a task, or its node, died each time that the task was started."""


def parallel_map(
    function: Callable[[Item], Value], items: Sequence[Item], workers: int
) -> Iterator[tuple[Item, Value]]:
    """Yields (item, function(item)) as results arrive: computed in this process if there is one
    worker, else on the cluster. Raises what the function raised.
    """
    if workers == 1:
        yield from ((item, function(item)) for item in items)
        return
    with ray_session(workers, Resources()):
        for item, value in map_unordered(function, items, capacity(workers, Resources())):
            if isinstance(value, Exception):
                raise value
            yield item, value


def map_unordered(
    function: Callable[[Item], Value], items: Iterable[Item], at_once: int
) -> Iterator[tuple[Item, Value | Exception]]:
    """Yields (item, function(item)) as results arrive, each computed in a worker process; an
    exception instead of the result if the function raised or its process died.
    """

    def compute(item: Item) -> Iterator[Value]:
        yield function(item)

    for item, value in stream_unordered(compute, items, at_once, Resources()):
        if value is not None:
            yield item, value


def stream_unordered(
    function: Callable[[Item], Iterator[Value]],
    items: Iterable[Item],
    at_once: int,
    needs: Resources,
) -> Iterator[tuple[Item, Value | Exception | None]]:
    """Yields (item, value) for each value that `function(item)` yields in a worker process, then
    (item, None); or (item, error) if it raised. The error is TaskDied if its process died more than
    MAX_TASK_RETRIES times.
    """
    import ray

    @ray.remote(
        num_cpus=needs.cpus,
        num_gpus=needs.gpus,
        max_retries=MAX_TASK_RETRIES,
        num_returns="streaming",
    )
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
            value = _next_value(generator)
            yield running[generator], value
            if value is None or isinstance(value, Exception):
                del running[generator]


def _next_value(generator: Any) -> Any:
    """Returns the next value of a task, None after the last, or the exception that ended it: as the
    worker raised it if it is one that ends the run, TaskDied, or anything else as Ray reports it.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(next(generator))
    except StopIteration:
        return None
    except RayTaskError as error:
        fatal = OSError | ContractMismatch | FolderInUse | NodeMisconfigured | ValueError
        return error.cause if isinstance(error.cause, fatal) else error
    except RayError as error:
        return TaskDied(
            f"a process died {MAX_TASK_RETRIES + 1} times ({str(error).splitlines()[0]}): "
            "the same command tries again"
        )
