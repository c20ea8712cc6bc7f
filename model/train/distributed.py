"""The processes that train together: joining them, sharing batches evenly, and the lock on the
folder that they write to.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed
from torch.distributed.rendezvous import rendezvous

from pipeline.dataset.run_lock import FolderInUse


class DistributedGroup(NamedTuple):
    """The processes that train together, as one of them sees it."""

    rank: int = 0
    world_size: int = 1


def current_group() -> DistributedGroup:
    """The group that torch.distributed has connected, or this process alone."""
    if not torch.distributed.is_initialized():
        return DistributedGroup()
    return DistributedGroup(torch.distributed.get_rank(), torch.distributed.get_world_size())


def is_main_process() -> bool:
    """Whether this process prints for the group, connected already or yet to be, by torchrun."""
    if torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def distributed_group(device: str) -> Iterator[DistributedGroup]:
    """Connects the processes of torchrun, if this is one of them; else the group is this process
    alone.
    """
    if "RANK" not in os.environ or torch.distributed.is_initialized():
        yield current_group()
        return
    store, rank, world_size = next(iter(rendezvous("env://")))
    # torchrun gives every attempt the same store, which holds the addresses of the processes of the
    # attempt before, which are dead
    prefix = f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    store = torch.distributed.PrefixStore(prefix, store)  # pyright: ignore
    torch.distributed.init_process_group(
        "nccl" if device == "cuda" else "gloo", store=store, rank=rank, world_size=world_size
    )
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        yield current_group()
    finally:
        torch.distributed.destroy_process_group()


def wait_for_others() -> None:
    """Returns when every process of the group has called it."""
    if current_group().world_size > 1:
        torch.distributed.barrier()


def check_batch_divisible(group: DistributedGroup, accumulate: int, **batches: int) -> None:
    """Raises ValueError naming the option unless the processes can share each batch evenly, and
    take their share in `accumulate` equal parts.
    """
    for name, batch in batches.items():
        option = f"--{name.replace('_', '-')} is {batch}"
        if batch % group.world_size:
            raise ValueError(f"{option}, expected a multiple of the {group.world_size} processes")
        if batch // group.world_size % accumulate:
            raise ValueError(
                f"{option} and --accumulate {accumulate}, expected a divisor of the "
                f"{batch // group.world_size} samples of a process"
            )


@contextmanager
def training_lock(out: Path, group: DistributedGroup) -> Iterator[None]:
    """Allows one training in a folder, on one machine; rank 0 holds the lock. Raises FolderInUse
    while another process trains there.
    """
    if group.rank:
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("a") as file:
        try:
            # the lock is this process's own: loader workers, which are forked later, do not hold it
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUse(f"another training is writing to {out}") from None
        yield
