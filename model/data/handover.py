"""Batches from processes that read ahead: what such a process lacks reaches the training as one
sentence.

A batch passes through shared memory. By itself torch moves it there in a thread of the process,
which prints what goes wrong and forgets the batch: the training would wait for it for ever.
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
"""Bytes of the path of the folder for temporary files: processes pass descriptors on by a socket in
it, whose own path may have 107."""
_EXIT_BATCH_LOST = 70
"""Exit code of a process whose batch could not be handed over."""


def check_tmpdir() -> None:
    """Raises OSError if batches of other processes could not be received at all."""
    if len(os.fsencode(place := tempfile.gettempdir())) > _MAX_TMPDIR_BYTES:
        limit = f"the {_MAX_TMPDIR_BYTES} bytes that sockets of processes that read ahead leave"
        raise OSError(
            f"TMPDIR is {place!r}, longer than {limit}: name a shorter folder; {_NO_WORKERS_HINT}"
        )


def exit_on_lost_batch(_: int) -> None:
    """For the start of a process that reads ahead: it ends if a batch cannot be handed over, and so
    is missed.
    """
    signal.signal(signal.SIGBUS, signal.SIG_DFL)  # torch's handler says a sentence of its own
    setattr(Queue, "_on_queue_feeder_error", lambda *_: os._exit(_EXIT_BATCH_LOST))  # noqa: B010 - not public


def share_batch(batch: tuple[Any, ...]) -> tuple[Any, ...] | OSError:
    """The same batch, its tensors in shared memory if this is a process that reads ahead; or what
    is in the way.
    """
    try:
        for value in batch if get_worker_info() else ():
            if isinstance(value, Tensor):
                value.share_memory_()
    except (RuntimeError, OSError) as error:
        size = sum(value.nbytes for value in batch if isinstance(value, Tensor))
        reason = " ".join(str(error).split())[-100:]
        words = (
            f"a batch of {size / 1e6:.3g} MB does not fit into shared memory, /dev/shm ({reason})"
        )
        return OSError(f"{words}: {_SHARED_MEMORY_HINT}")
    return batch


def receive_batches(batches: Iterable[Any]) -> Iterator[Any]:
    """What the processes of a DataLoader hand over. Raises OSError if one of them dies."""
    before = signal.getsignal(signal.SIGCHLD)
    waiting = iter(batches)
    if threading.current_thread() is threading.main_thread():
        # torch's raises in the middle of anything; it also looks while it waits
        signal.signal(signal.SIGCHLD, before)
    while True:
        try:
            batch = next(waiting, None)
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            if "in DataLoader worker process" in str(error):  # what reading itself raised
                raise
            reason = " ".join(str(error).split()).partition(". ")[0][:200] or type(error).__name__
            words = f"a process that reads ahead died, as for lack of memory ({reason})"
            raise OSError(f"{words}: {_SHARED_MEMORY_HINT}") from error
        if batch is None:
            return
        yield batch
