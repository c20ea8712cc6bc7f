"""Handing batches from loader workers to the training process, so that a worker that fails ends the
training with one sentence.

A batch is passed on in shared memory. Left alone, torch moves it there in a thread of the worker,
which prints an error and drops the batch: the training would wait for it for ever.
"""

import os
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from multiprocessing.queues import Queue
from typing import Any

from torch import Tensor
from torch.utils.data import get_worker_info

_NO_WORKERS_HINT = "--loader-workers 0 reads without such processes"
_SHARED_MEMORY_HINT = (
    f"{_NO_WORKERS_HINT}; in a container, docker run --shm-size=2g gives them more shared memory"
)
_MAX_TMPDIR_BYTES = 107 - len("/pymp-12345678/listener-12345678")
"""Longest path of the folder for temporary files, in bytes: processes pass on descriptors through a
socket in it, whose own path may have 107.
"""
_EXIT_BATCH_LOST = 70
"""Exit code of a worker whose batch could not be handed over."""


def check_tmpdir() -> None:
    """Raises OSError if the path of the folder for temporary files leaves no room for a socket,
    since no batch could be received then.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > _MAX_TMPDIR_BYTES:
        raise OSError(
            f"TMPDIR is {folder!r}, longer than the {_MAX_TMPDIR_BYTES} bytes that the sockets of "
            f"processes that read ahead leave: name a shorter folder; {_NO_WORKERS_HINT}"
        )


def exit_on_lost_batch(_: int) -> None:
    """The worker_init_fn of a loader: the worker exits if a batch cannot be handed over, which the
    training process notices.
    """
    signal.signal(signal.SIGBUS, signal.SIG_DFL)  # torch's handler prints a message of its own
    setattr(Queue, "_on_queue_feeder_error", lambda *_: os._exit(_EXIT_BATCH_LOST))  # noqa: B010 - not public


def share_batch(batch: tuple[Any, ...]) -> tuple[Any, ...] | OSError:
    """Moves a batch's tensors to shared memory in a worker; returns the batch, or an error if it
    does not fit.
    """
    try:
        for value in batch if get_worker_info() else ():
            if isinstance(value, Tensor):
                value.share_memory_()
    except (RuntimeError, OSError) as error:
        size = sum(value.nbytes for value in batch if isinstance(value, Tensor))
        reason = " ".join(str(error).split())[-100:]
        return OSError(
            f"a batch of {size / 1e6:.3g} MB does not fit into shared memory, /dev/shm ({reason}): "
            f"{_SHARED_MEMORY_HINT}"
        )
    return batch


def receive_batches(batches: Iterable[Any]) -> Iterator[Any]:
    """Yields the batches of a DataLoader's workers. Raises OSError if one of them dies."""
    handler_before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(batches)
    if threading.current_thread() is threading.main_thread():
        # torch has set a handler that raises anywhere in this process; it also looks while it waits
        signal.signal(signal.SIGCHLD, handler_before)
    while True:
        try:
            batch = next(iterator, None)
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            if "in DataLoader worker process" in str(error):  # reading itself raised it
                raise
            reason = " ".join(str(error).split()).partition(". ")[0][:200] or type(error).__name__
            raise OSError(
                f"a process that reads ahead died, perhaps for lack of memory ({reason}): "
                f"{_SHARED_MEMORY_HINT}"
            ) from error
        if batch is None:
            return
        yield batch
