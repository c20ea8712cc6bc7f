"""Ray for the data jobs: the one place that starts it, places work on it, and hears back. It never
decides what is in a shard.
"""

import logging
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, redirect_stderr, suppress
from functools import cache
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from io import TextIOBase
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, TypeVar

from pipeline.dataset.folder import ContractMismatch
from pipeline.dataset.run_lock import FolderInUse

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# else a node starts workers for its first driver, and lets it wait until all are up: for ever,
# where one dies first
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")

Item = TypeVar("Item")
Value = TypeVar("Value")

_SUBMITTED_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray in the driver of a submitted job."""
_TOKEN_SOURCES = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"  # noqa: S105
_MAX_START_ATTEMPTS = 3
"""How often a Ray of our own is started before its failure is believed."""
_LONGEST_SOCKET_SUFFIX = (
    "/quiver-12345678/r/session_2026-01-02_03-04-05_678901_2345678/sockets/plasma_store"
)
MAX_TEMP_PATH_BYTES = 107 - len(_LONGEST_SOCKET_SUFFIX)
"""Bytes of the path of the folder in which Ray's is made; a socket's may have 107."""
_PORT_TAKEN_PATTERN = re.compile(r"already in use|already used by other processes", re.IGNORECASE)
MAX_TASK_RETRIES = 3
"""How often Ray starts a task again whose process died."""


class NodeMisconfigured(Exception):
    """A node lacks what the user asked for: weights, a device."""


class InsecureCluster(Exception):
    """A cluster takes work from whoever reaches it, or wants a token that we do not have."""


class RayNotStarted(Exception):
    """Ray itself did not come up, as on a machine with too much to do, or has no place for files."""


class TaskDied(Exception):
    """The process of a task, or its node, died each time that the task was started."""


class TrainingDied(Exception):
    """Processes that train together died each time that they were started."""


class Resources(NamedTuple):
    """What one task occupies."""

    cpus: int = 1
    gpus: float = 0.0


def is_submitted_job() -> bool:
    """Whether this process was started by `ray job submit`, in an uploaded copy of the working
    folder.
    """
    return _SUBMITTED_JOB_VARIABLE in os.environ


@contextmanager
def ray_session(workers: int | None, needs: Resources) -> Iterator[None]:
    """A connection to the cluster that RAY_ADDRESS names (a submitted job has one), else to a Ray
    of our own for `workers` tasks of these needs, or as many as there are cores, which ends with
    the block. Raises Unsafe, NotStarted.
    """
    own = not os.environ.get("RAY_ADDRESS")
    (_secure_local_ray if own else _require_token)()
    import ray

    cpus = max(os.cpu_count() or 1, needs.cpus) if workers is None else workers * needs.cpus
    with _session_folder() if own else nullcontext() as folder:
        try:
            if own:
                _start_ray(
                    address="local", num_cpus=cpus, include_dashboard=False, _temp_dir=folder
                )
            elif dashboard := _join_cluster(os.environ["RAY_ADDRESS"]):
                _check_dashboard_secured(dashboard)
            yield
        finally:
            ray.shutdown()


def _start_ray(**options: Any) -> None:
    """Starts a Ray of our own. Ray gives a node 30 s, which is too little on a busy machine, so it
    is tried STARTS times. Raises NotStarted.
    """
    import ray
    from ray.exceptions import RayError

    with suppress(
        ImportError, AttributeError
    ):  # Ray keeps the first token that this process has read
        from ray._raylet import AuthenticationTokenLoader  # pyright: ignore[reportAttributeAccessIssue]

        AuthenticationTokenLoader.instance().reset_cache()
    reason = ""
    for _ in range(_MAX_START_ATTEMPTS):
        others = _child_processes()
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
            return
        except Exception as error:
            # Ray has no kind of its own for a start that fails
            late = isinstance(error, TimeoutError | ConnectionError | RayError)
            if not late and type(error) not in (Exception, RuntimeError):
                raise
            reason = " ".join(str(error).split()) or "it gives no reason"
            ray.shutdown()
            for process in (
                _child_processes() - others
            ):  # a part that did start would hinder the next try
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            if _PORT_TAKEN_PATTERN.search(reason):
                words = "a port is taken, as by another Ray on this machine"
                remedy = "end that one, or unset RAY_GCS_SERVER_PORT, and Ray takes free ports"
                raise RayNotStarted(f"Ray did not start: {words}: {remedy}") from error
    words = f"Ray did not start in {_MAX_START_ATTEMPTS} tries ({reason[:300]})"
    raise RayNotStarted(
        f"{words}: the same command tries again, best when the machine has less to do"
    )


def _child_processes() -> set[int]:
    """Processes that this one has started, if the system tells."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(process) for children in tasks for process in children.read_text().split()}


def _join_cluster(address: str) -> str:
    """Connects to the cluster at `address` and returns HOST:PORT of its dashboard, empty if it has
    none. Raises Unsafe, NotStarted, ConnectionError.
    """
    import ray
    from ray.exceptions import AuthenticationError

    try:
        return ray.init(log_to_driver=False, logging_level=logging.ERROR).dashboard_url or ""
    except AuthenticationError as error:
        raise InsecureCluster(
            f"RAY_ADDRESS is {address!r}, and no token is in {_TOKEN_SOURCES}"
        ) from error
    except ConnectionError as error:  # another token than the cluster's is no other error
        words = f"RAY_ADDRESS is {address!r}, where no Ray answers to the token in {_TOKEN_SOURCES} ({error})"
        raise ConnectionError(words) from error
    except Exception as error:
        if type(error) not in (Exception, RuntimeError):
            raise
        reason = " ".join(str(error).split())[:300] or "it gives no reason"
        words = f"Ray at {address!r} did not take us in ({reason}): the same command tries again"
        raise RayNotStarted(words) from error


@contextmanager
def _session_folder() -> Iterator[str]:
    """A folder for the sockets, logs and other files of a Ray of our own, which no other user can
    enter. It is removed with the block, unless RAY_TMPDIR says where somebody wants to read them.
    """
    outer = Path(tempfile.mkdtemp(prefix="quiver-", dir=find_temp_folder()))
    try:
        yield str(outer / "r")  # which Ray opens to everybody
    finally:
        if "RAY_TMPDIR" not in os.environ:
            shutil.rmtree(outer, ignore_errors=True)


def find_temp_folder() -> str:
    """Where the folder of a Ray of our own goes: RAY_TMPDIR, TMPDIR or /tmp, the first that can be
    written and is short enough for a socket's path below it. Raises NotStarted.
    """
    places = [os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp"]  # noqa: S108
    for place in (os.path.abspath(place) for place in places if place):
        with suppress(OSError):
            if len(os.fsencode(place)) <= MAX_TEMP_PATH_BYTES:
                Path(tempfile.mkdtemp(dir=place)).rmdir()
                return place
    named = ", ".join(repr(place) for place in places if place)
    words = f"Ray needs a folder that can be written, with a path of at most {MAX_TEMP_PATH_BYTES} bytes"
    raise RayNotStarted(f"{words}, and none of {named} is one: set RAY_TMPDIR")


def capacity(workers: int | None, needs: Resources) -> int:
    """How many tasks of these needs run at once on the cluster, at most `workers`. Raises
    ValueError where not one fits.
    """
    import ray

    fitting = count_fitting_tasks(
        [node["Resources"] for node in ray.nodes() if node["Alive"]], needs
    )
    return min(workers or fitting, fitting)


def count_fitting_tasks(nodes: Sequence[Mapping[str, float]], needs: Resources) -> int:
    """How many tasks nodes of these resources run at once, each on one node. Raises ValueError
    where not one fits.
    """
    fitting = sum(_tasks_per_node(node, needs) for node in nodes)
    if not fitting:
        most = {
            name: max((node.get(name, 0) for node in nodes), default=0) for name in ("CPU", "GPU")
        }
        has = f"the best node of the cluster has {most['CPU']:g} and {most['GPU']:g}"
        raise ValueError(
            f"a worker needs {needs.cpus} CPUs and {needs.gpus:g} GPUs, {has}; without a GPU: --device cpu"
        )
    return fitting


def _tasks_per_node(node: Mapping[str, float], needs: Resources) -> int:
    """How many tasks one node runs at once; Ray counts in ten-thousandths."""
    shares = [(node.get("CPU", 0), needs.cpus), (node.get("GPU", 0), needs.gpus)]
    return min(int(has / need + 1e-4) for has, need in shares if need)


def _secure_local_ray() -> None:
    """A Ray of our own answers only to a token that is made for this process, and only on this
    machine. Ray reads all of this when it is imported.
    """
    os.environ.update(
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=session_token(),
        # on any system: no port but of the loopback interface
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        RAY_enable_metrics_collection="0",
    )


def _require_token() -> None:
    """Raises Unsafe where somebody else's Ray is to be used without a token: its ports listen on
    every interface too.
    """
    if (mode := os.environ.setdefault("RAY_AUTH_MODE", "token")).lower() != "token":
        words = "expected 'token': without it whoever reaches the cluster runs programs on it"
        raise InsecureCluster(
            f"RAY_AUTH_MODE is {mode!r} and RAY_ADDRESS {os.environ['RAY_ADDRESS']!r}, {words}"
        )


def _check_dashboard_secured(dashboard: str) -> None:
    """Raises Unsafe where the dashboard at `HOST:PORT`, through which jobs are submitted, answers
    without a token. One that cannot be reached from here says nothing of that.
    """
    connection = HTTPConnection(dashboard, timeout=10)
    with suppress(OSError, HTTPException), closing(connection):
        connection.request("GET", "/api/jobs/")
        if connection.getresponse().status < HTTPStatus.BAD_REQUEST:
            words = "start it with RAY_AUTH_MODE=token (docs/guides/cluster.md)"
            raise InsecureCluster(
                f"the dashboard of Ray at {dashboard} answers without a token, so that whoever reaches it runs programs on the cluster: {words}"
            )


def find_exposed_token() -> Path | None:
    """The file of Ray's token, where others on this machine may read it."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return path if path.exists() and path.stat().st_mode & 0o077 else None


@cache
def session_token() -> str:
    """One for each process: Ray knows no other once it was started."""
    return secrets.token_hex(32)


def parallel_map(
    function: Callable[[Item], Value], items: Sequence[Item], workers: int
) -> Iterator[tuple[Item, Value]]:
    """(item, result) as they come: in this process with one worker, else on the cluster. Raises
    what the function raised.
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
    """(item, result) as they come, each computed in a worker process; an exception where it raised
    or its process died.
    """

    def one(item: Item) -> Iterator[Value]:
        yield function(item)

    for item, value in stream_unordered(one, items, at_once, Resources()):
        if value is not None:
            yield item, value


def stream_unordered(
    function: Callable[[Item], Iterator[Value]],
    items: Iterable[Item],
    at_once: int,
    needs: Resources,
) -> Iterator[tuple[Item, Value | Exception | None]]:
    """(item, value) for each value that `function(item)` yields in a worker process, then (item,
    None); or (item, error) where it raised, with Died where its process died more than RETRIES
    times.
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
    """The next value of a task, None after the last, or the exception that ended it: what a worker
    raised to end the run as it raised it, Died, anything else as Ray reports it.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(next(generator))
    except StopIteration:
        return None
    except RayTaskError as error:
        return (
            error.cause
            if isinstance(
                error.cause,
                OSError | ContractMismatch | FolderInUse | NodeMisconfigured | ValueError,
            )
            else error
        )
    except RayError as error:
        return TaskDied(
            f"a process died {MAX_TASK_RETRIES + 1} times ({str(error).splitlines()[0]}): the same command tries again"
        )


def train_distributed(
    function: Callable[[Callable[..., None]], None],
    show: Callable[..., None],
    workers: int,
    out: Path,
    *,
    gpu: bool,
) -> None:
    """Runs `function(show)` in so many processes at once, which Ray connects by torch.distributed;
    what they show is shown here.

    When one of them dies, all begin again, from the last checkpoint that they find. `out` is a
    folder that all nodes share. Raises ValueError and OSError as the function did, ValueError where
    the cluster has no room for so many, and Failed.
    """
    try:
        _train_on_ray(function, show, workers, out, gpu)
    except ImportError as error:
        raise ValueError(
            f"--workers needs Ray and what it trains with ({error}), expected pip install 'quiver-motion[extract]'"
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
        import ray.train.torch  # noqa: F401 - only now: Ray reads how it is to be closed to the world when it is imported
        from ray.util.queue import Queue

        if (fitting := capacity(workers, needs)) < workers:
            raise ValueError(
                f"--workers is {workers}, expected at most {fitting}, for which the cluster has room"
            )
        heard = Queue(actor_options={"num_cpus": 0})
        trainer = Thread(
            target=_run_trainer, args=(function, heard, workers, gpu, scratch), daemon=True
        )
        trainer.start()
        errors = _relay_messages(heard, show)
        trainer.join()  # Ray crashes when it is shut down under a thread that is still in it
        if errors:
            raise errors[0]


def _relay_messages(heard: Any, show: Callable[..., None]) -> list[Exception]:
    """Shows what the processes say until they have ended; returns what went wrong."""
    errors = []
    for said in iter(heard.get, None):
        if isinstance(said, Exception):
            errors.append(said)
        elif isinstance(said, str):
            print(said, end="", file=sys.stderr, flush=True)
        else:
            show(*said)
    return errors


class _QueueWriter(TextIOBase):
    """What a process says on standard error, handed on."""

    def __init__(self, heard: Any):
        self.queue = heard

    def write(self, text: str) -> int:
        self.queue.put(text)
        return len(text)


def _run_trainer(
    function: Callable[[Callable[..., None]], None],
    heard: Any,
    workers: int,
    gpu: bool,
    scratch: str,
) -> None:
    """Trains to the end, and puts into the queue what went wrong, and at last None."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    hopeless = Path(scratch) / "hopeless"

    def one() -> None:
        if hopeless.exists():
            return
        try:
            with redirect_stderr(_QueueWriter(heard)):
                function(lambda *said: heard.put(said))
        except (
            OSError,
            ValueError,
        ) as error:  # beginning again would not mend it; raised, it ends the other processes
            heard.put(error)
            hopeless.touch()
            raise

    trainer = TorchTrainer(
        one,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(
            storage_path=scratch, failure_config=FailureConfig(max_failures=MAX_TASK_RETRIES)
        ),
    )
    ended: TrainingDied | None = TrainingDied("Ray's trainer ended without a result")
    try:
        trainer.fit()
        ended = None
    except TrainingFailedError as error:
        ended = TrainingDied(f"the training died {MAX_TASK_RETRIES + 1} times: {str(error)[-500:]}")
    finally:
        if ended:
            heard.put(ended)
        heard.put(None)
