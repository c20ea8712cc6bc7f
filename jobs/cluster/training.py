"""Trains in several processes at once on Ray, which torch.distributed connects."""

import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr
from io import TextIOBase
from pathlib import Path
from threading import Thread
from typing import Any

from jobs.cluster.resources import Resources, capacity
from jobs.cluster.session import ray_session
from jobs.cluster.tasks import MAX_TASK_RETRIES


class TrainingDied(Exception):
    """Processes that train together died each time that they were started."""


def train_distributed(
    function: Callable[[Callable[..., None]], None],
    show: Callable[..., None],
    workers: int,
    out: Path,
    *,
    gpu: bool,
) -> None:
    """Runs `function(show)` in `workers` processes at once, which torch.distributed connects;
    `show` is called in this process with what the processes pass to theirs.

    If one of them dies, all start again, from the last checkpoint that they find. `out` is a folder
    that all nodes share. Raises ValueError and OSError as the function did, ValueError if the
    cluster has no room for so many, and TrainingDied.
    """
    try:
        _train_on_ray(function, show, workers, out, gpu)
    except ImportError as error:
        raise ValueError(
            f"--workers needs Ray and what it trains with ({error}), "
            "expected pip install 'quiver-motion[extract]'"
        ) from error


def _train_on_ray(
    function: Callable[[Callable[..., None]], None],
    show: Callable[..., None],
    workers: int,
    out: Path,
    gpu: bool,
) -> None:
    needs = Resources(1, float(gpu))
    out.mkdir(parents=True, exist_ok=True)
    with (
        ray_session(workers, needs),
        tempfile.TemporaryDirectory(prefix=".ray-", dir=out, ignore_cleanup_errors=True) as scratch,
    ):
        # Only now: when it is imported, Ray reads how it is closed to the world.
        import ray.train.torch  # noqa: F401
        from ray.util.queue import Queue

        if (fitting := capacity(workers, needs)) < workers:
            raise ValueError(
                f"--workers is {workers}, expected at most {fitting}, for which the cluster has "
                "room"
            )
        queue = Queue(actor_options={"num_cpus": 0})
        trainer = Thread(
            target=_run_trainer, args=(function, queue, workers, gpu, scratch), daemon=True
        )
        trainer.start()
        errors = _relay_messages(queue, show)
        trainer.join()  # Ray crashes when it is shut down under a thread that is still in it
        if errors:
            raise errors[0]


def _relay_messages(queue: Any, show: Callable[..., None]) -> list[Exception]:
    """Shows what the processes put into the queue until they have ended; returns their errors."""
    errors = []
    for message in iter(queue.get, None):
        if isinstance(message, Exception):
            errors.append(message)
        elif isinstance(message, str):
            print(message, end="", file=sys.stderr, flush=True)
        else:
            show(*message)
    return errors


class _QueueWriter(TextIOBase):
    """A stream that puts what is written to it into a queue."""

    def __init__(self, queue: Any):
        self.queue = queue

    def write(self, text: str) -> int:
        self.queue.put(text)
        return len(text)


def _run_trainer(
    function: Callable[[Callable[..., None]], None],
    queue: Any,
    workers: int,
    gpu: bool,
    scratch: str,
) -> None:
    """Trains to the end; puts what went wrong into the queue, and None last."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    hopeless = Path(scratch) / "hopeless"

    def train_loop() -> None:
        if hopeless.exists():
            return
        try:
            with redirect_stderr(_QueueWriter(queue)):
                function(lambda *message: queue.put(message))
        except (OSError, ValueError) as error:
            # A new start would not help. Raised, the error ends the other processes.
            queue.put(error)
            hopeless.touch()
            raise

    trainer = TorchTrainer(
        train_loop,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(
            storage_path=scratch, failure_config=FailureConfig(max_failures=MAX_TASK_RETRIES)
        ),
    )
    failure: TrainingDied | None = TrainingDied("Ray's trainer ended without a result")
    try:
        trainer.fit()
        failure = None
    except TrainingFailedError as error:
        failure = TrainingDied(
            f"the training died {MAX_TASK_RETRIES + 1} times: {str(error)[-500:]}"
        )
    finally:
        if failure:
            queue.put(failure)
        queue.put(None)
