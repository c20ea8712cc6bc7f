"""Connects to a Ray cluster, or starts a Ray of our own that ends with its block."""

import logging
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from jobs.cluster.resources import Resources
from jobs.cluster.tokens import (
    TOKEN_SOURCES,
    InsecureCluster,
    check_dashboard_secured,
    require_token,
    secure_local_ray,
)

_SUBMITTED_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets this variable in the driver of a submitted job."""
_MAX_START_ATTEMPTS = 3
_LONGEST_SOCKET_SUFFIX = (
    "/quiver-12345678/r/session_2026-01-02_03-04-05_678901_2345678/sockets/plasma_store"
)
MAX_TEMP_PATH_BYTES = 107 - len(_LONGEST_SOCKET_SUFFIX)
"""The longest path, in bytes, of the folder in which Ray's own is made: the path of a socket may
have 107."""
_PORT_TAKEN_PATTERN = re.compile(r"already in use|already used by other processes", re.IGNORECASE)


class RayNotStarted(Exception):
    """Ray itself did not start, as on an overloaded machine, or has no folder for its files."""


def is_submitted_job() -> bool:
    """Whether this process was started by `ray job submit`, in an uploaded copy of the working
    folder.
    """
    return _SUBMITTED_JOB_VARIABLE in os.environ


@contextmanager
def ray_session(workers: int | None, needs: Resources) -> Iterator[None]:
    """Connects to the cluster that RAY_ADDRESS names (a submitted job has one). Without it, starts
    a Ray of our own with room for `workers` tasks of these needs, or as many as there are cores; it
    ends with the block. Raises InsecureCluster, RayNotStarted, ConnectionError.
    """
    is_local = not os.environ.get("RAY_ADDRESS")
    (secure_local_ray if is_local else require_token)()
    import ray

    cpus = max(os.cpu_count() or 1, needs.cpus) if workers is None else workers * needs.cpus
    with _session_folder() if is_local else nullcontext() as folder:
        try:
            if is_local:
                _start_ray(
                    address="local", num_cpus=cpus, include_dashboard=False, _temp_dir=folder
                )
            elif dashboard := _join_cluster(os.environ["RAY_ADDRESS"]):
                check_dashboard_secured(dashboard)
            yield
        finally:
            ray.shutdown()


def _start_ray(**options: Any) -> None:
    """Starts a Ray of our own. Ray gives a node 30 s, which is too little on a busy machine, so
    that _MAX_START_ATTEMPTS attempts are made. Raises RayNotStarted.
    """
    import ray
    from ray.exceptions import RayError

    with suppress(ImportError, AttributeError):
        # Ray keeps the first token that this process has read.
        from ray._raylet import (
            AuthenticationTokenLoader,  # pyright: ignore[reportAttributeAccessIssue]
        )

        AuthenticationTokenLoader.instance().reset_cache()
    reason = ""
    for _ in range(_MAX_START_ATTEMPTS):
        earlier_processes = _child_processes()
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
            return
        except Exception as error:
            # Ray has no exception of its own for a start that fails.
            timed_out = isinstance(error, TimeoutError | ConnectionError | RayError)
            if not timed_out and type(error) not in (Exception, RuntimeError):
                raise
            said = str(error).partition("Traceback (most recent call last)")[0]
            reason = " ".join(said.split()) or "it gives no reason"
            ray.shutdown()
            # A part that did start would be in the way of the next attempt.
            for process in _child_processes() - earlier_processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            if _PORT_TAKEN_PATTERN.search(reason):
                raise RayNotStarted(
                    "Ray did not start: a port is taken, as by another Ray on this machine: end "
                    "that one, or unset RAY_GCS_SERVER_PORT, and Ray takes free ports"
                ) from error
    raise RayNotStarted(
        f"Ray did not start in {_MAX_START_ATTEMPTS} attempts ({reason[:300]}): the same command "
        "tries again, best when the machine has less to do"
    )


def _child_processes() -> set[int]:
    """Returns the processes that this one has started; none if the system does not list them."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(process) for children in tasks for process in children.read_text().split()}


def _join_cluster(address: str) -> str:
    """Connects to the cluster at `address` and returns HOST:PORT of its dashboard, empty if it has
    none. Raises InsecureCluster, RayNotStarted, ConnectionError.
    """
    import ray
    from ray.exceptions import AuthenticationError

    try:
        return ray.init(log_to_driver=False, logging_level=logging.ERROR).dashboard_url or ""
    except AuthenticationError as error:
        raise InsecureCluster(
            f"RAY_ADDRESS is {address!r}, and no token is in {TOKEN_SOURCES}"
        ) from error
    except ConnectionError as error:  # a token that differs from the cluster's ends here too
        raise ConnectionError(
            f"RAY_ADDRESS is {address!r}, where no Ray answers to the token in {TOKEN_SOURCES} "
            f"({error})"
        ) from error
    except Exception as error:
        if type(error) not in (Exception, RuntimeError):
            raise
        reason = " ".join(str(error).split())[:300] or "it gives no reason"
        raise RayNotStarted(
            f"Ray at {address!r} did not accept the connection ({reason}): the same command tries "
            "again"
        ) from error


@contextmanager
def _session_folder() -> Iterator[str]:
    """A folder for the sockets, logs and other files of a Ray of our own, which no other user can
    enter. It is removed with the block, unless RAY_TMPDIR says where somebody wants to read them.
    """
    outer = Path(tempfile.mkdtemp(prefix="quiver-", dir=find_temp_folder()))
    try:
        yield str(outer / "r")  # Ray opens this one to everybody
    finally:
        if "RAY_TMPDIR" not in os.environ:
            shutil.rmtree(outer, ignore_errors=True)


def find_temp_folder() -> str:
    """Returns where the folder of a Ray of our own is made: RAY_TMPDIR, TMPDIR or /tmp, the first
    that is writable and leaves room for the path of a socket below it. Raises RayNotStarted.
    """
    candidates = [os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp"]  # noqa: S108
    folders = [os.path.abspath(candidate) for candidate in candidates if candidate]
    for folder in folders:
        with suppress(OSError):
            if len(os.fsencode(folder)) <= MAX_TEMP_PATH_BYTES:
                Path(tempfile.mkdtemp(dir=folder)).rmdir()
                return folder
    names = ", ".join(repr(candidate) for candidate in candidates if candidate)
    raise RayNotStarted(
        f"Ray needs a folder that can be written, with a path of at most {MAX_TEMP_PATH_BYTES} "
        f"bytes, and none of {names} is one: set RAY_TMPDIR"
    )
