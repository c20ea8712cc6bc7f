"""Trainings in processes of their own, which a test may kill: alone, or several that
torch.distributed connects.

They are forked from one process that has imported torch and runs no thread, so that each starts in
an instant.
"""

import os
import signal
import socket
import sys
from collections.abc import Callable
from multiprocessing import connection, get_context, set_start_method
from pathlib import Path
from typing import Any

import torch

from jobs import train_autoencoder, train_denoiser  # noqa: F401 - loaded before the fork
from model import checkpoints

FORKSERVER = get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    ["pytest", "torch.distributed", "torch.utils.tensorboard.summary", "tests.support.attempts"]
)


def run_ranks(function: Callable[..., None], *args: Any, output: Path, ranks: int = 1) -> list[int]:
    """Runs `function(*args)` on each rank; returns the exit codes. If one rank fails or is killed,
    the others are killed, as torchrun does.
    """
    port = free_port()
    processes = [
        FORKSERVER.Process(target=enter_process, args=(function, args, output, rank, ranks, port))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    running = {process.sentinel: process for process in processes}
    while running:
        for sentinel in connection.wait(list(running)):
            running.pop(sentinel).join()
        if any(process.exitcode for process in processes):
            for process in running.values():
                process.kill()
    return [process.exitcode for process in processes]


def enter_process(
    function: Callable[..., None], args: tuple, output: Path, rank: int, ranks: int, port: int
) -> None:
    """Sets up the new process and calls `function(*args)` in it."""
    with output.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    set_start_method(
        "fork", force=True
    )  # of loader workers, as in a process that a shell has started
    torch.set_num_threads(1)
    if ranks > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(ranks),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    function(*args)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def checkpoint_bytes(out: Path) -> dict[str, bytes]:
    """The bytes of the weights of the last checkpoint, by file name."""
    (folder,) = checkpoints.step_folders(out)[-1:]
    assert checkpoints.read(folder)
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")} | {
        "step": folder.name.encode()
    }


def run_until_rename(main: Callable[[list[str]], None], arguments: list[str], last: str) -> None:
    """Runs a command in a process that is killed just before a file of this name is renamed into
    place; an empty name lets it finish.
    """

    def hook(event: str, found: tuple) -> None:
        if event == "os.rename" and last and str(found[1]).endswith(last):
            kill_self()

    sys.addaudithook(hook)
    main(arguments)
