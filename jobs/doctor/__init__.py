"""`quiver doctor`: checks whether this machine can do what the other commands need.

No module here imports a package before a check needs it, since a missing package is what the
checks look for.

- command: the command line, the list of checks, the output (READ FIRST)
- finding: what a check returns
- packages: Python and the packages of each extra
- components: decoders, encoders, splatting, weights
- machine: GPU, memory, shared memory
- storage: disk, output folder, locks
- cluster_check: Ray
"""

from jobs.doctor.cluster_check import check_local_ray, check_ray
from jobs.doctor.command import exit_code, list_checks, main, run_check
from jobs.doctor.components import check_raft_weights, check_sandbox
from jobs.doctor.finding import Finding, State
from jobs.doctor.machine import (
    MIN_SHARED_MIB,
    available_memory_bytes,
    check_gpu,
    check_shared_memory,
)
from jobs.doctor.storage import find_local_lock_options

__all__ = [
    "MIN_SHARED_MIB",
    "Finding",
    "State",
    "available_memory_bytes",
    "check_gpu",
    "check_local_ray",
    "check_raft_weights",
    "check_ray",
    "check_sandbox",
    "check_shared_memory",
    "exit_code",
    "find_local_lock_options",
    "list_checks",
    "main",
    "run_check",
]
