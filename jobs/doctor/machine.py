"""Checks the GPU, the memory and the shared memory of this machine."""

import os
import re
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from math import inf
from pathlib import Path

from jobs.doctor.finding import Finding, State

_MIN_MEMORY_GIB = 4
"""Less free memory is a warning."""
MIN_SHARED_MIB = 2048
"""Less shared memory is a warning: in the largest presets eight processes read two batches ahead,
each of 96 samples with 1.1 MiB at 256 x 160.
"""
_CGROUP_LIMIT_FILES = {
    "memory.max": "memory.current",
    "memory.limit_in_bytes": "memory.usage_in_bytes",
}
"""Files of a control group, of version 2 and 1: its limit, and what it uses."""


def check_gpu() -> Finding:
    from pipeline.motion.gpu import list_gpus

    if gpus := list_gpus():
        return Finding(State.OK, f"{', '.join(gpus)}, torch {version('torch')}")
    alternative = "--flow dis needs none; RAFT and training want --device cpu and are slow"
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) in ("", "-1"):
        return Finding(
            State.WARNING,
            f"none is to be used: CUDA_VISIBLE_DEVICES is {visible!r}",
            f"unset it; {alternative}",
        )
    if Path("/proc/driver/nvidia/version").exists():
        return Finding(
            State.WRONG,
            f"there is an NVIDIA driver, and torch {version('torch')} finds no GPU",
            "install a build of torch for CUDA that the driver is new enough for",
        )
    return Finding(
        State.WARNING, f"none; torch {version('torch')} computes on the CPU", alternative
    )


def check_memory() -> Finding:
    """Checks how much memory the machine and the container still have."""
    if (free := available_memory_bytes()) is None:
        return Finding(State.OK, "how much is free is not known on this system")
    if (gib := free / (1 << 30)) < _MIN_MEMORY_GIB:
        return Finding(
            State.WARNING,
            f"{gib:.1f} GiB are free",
            "--workers 1; a decoder takes up to 2 GiB (--decoder-memory-mb)",
        )
    return Finding(State.OK, f"{gib:.1f} GiB are free, for {os.cpu_count()} cores")


def check_shared_memory(mount: Path = Path("/dev/shm")) -> Finding:  # noqa: S108 - only looked at
    """Checks the memory through which batches of a training pass, and in which Ray keeps what tasks
    return.
    """
    if not mount.is_dir():
        return Finding(State.OK, f"there is no {mount} on this system")
    mib = shutil.disk_usage(mount).free / (1 << 20)
    if mib < MIN_SHARED_MIB:
        return Finding(
            State.WARNING,
            f"{mib:.0f} MiB are free in {mount}, and a training that reads ahead may take "
            f"{MIN_SHARED_MIB}",
            f"--loader-workers 0; in a container docker run --shm-size={MIN_SHARED_MIB >> 10}g",
        )
    return Finding(State.OK, f"{mib / 1024:.1f} GiB are free in {mount}")


def available_memory_bytes(root: Path = Path("/")) -> float | None:
    """Returns what is left of the machine and of the control groups of this process, which a
    container has; None if it is not known.
    """
    meminfo = root / "proc/meminfo"
    kilobytes = (
        re.search(r"MemAvailable:\s+(\d+)", meminfo.read_text()) if meminfo.exists() else None
    )
    if kilobytes is None:
        return None
    return min(int(kilobytes[1]) << 10, *map(_available_cgroup_bytes, _control_groups(root)))


def _control_groups(root: Path) -> Iterator[Path]:
    """Folders of the control groups that limit memory, by either version, each with all its
    parents; a container may see only the topmost.
    """
    listing, top = root / "proc/self/cgroup", root / "sys/fs/cgroup"
    for line in listing.read_text().splitlines() if listing.exists() else ():
        number, controllers, name = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            base, group = top if number == "0" else top / "memory", Path(name.strip("/"))
            yield from (base / folder for folder in (group, *group.parents))


def _available_cgroup_bytes(group: Path) -> float:
    """Returns what a control group may still take; its cache of files that were read counts as
    free.
    """
    for limit_file, usage_file in _CGROUP_LIMIT_FILES.items():
        path = group / limit_file
        if path.exists() and (limit := path.read_text().strip()).isdecimal():
            statistics = (group / "memory.stat").read_text()
            cache = re.search(r"^(?:total_)?inactive_file (\d+)", statistics, re.MULTILINE)
            usage = int((group / usage_file).read_text())
            return int(limit) - usage + int(cache[1] if cache else 0)
    return inf
