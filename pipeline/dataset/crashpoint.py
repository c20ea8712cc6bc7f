"""Kill a run at a point of the commit path, as a power cut would; only tests/faults does so."""

import os
import signal
from collections import Counter

CRASHPOINT_VARIABLE = "QUIVER_CRASHPOINT"
"""NAME SHARD N PID ...: when a process passes that point of that shard for the N-th time, it and
those processes are killed.
"""
SIGNAL_VARIABLE = "QUIVER_CRASHPOINT_SIGNAL"
"""The signal that they get instead of SIGKILL."""
POINTS = (
    "before-open",
    "after-open",
    "mid-member",
    "after-json-member",
    "before-close",
    "after-fsync",
    "after-close",
    "after-verify",
    "after-rename",
    "mid-record",
    "after-record",
    "mid-finalize",
)
REMOTE_POINTS = (
    "after-contract",
    "after-upload-tar",
    "after-upload-safetensors",
    "after-commit",
    "after-copy",
    "after-derived",
)
"""The points of a dataset in object storage (remote.py)."""
ROUND_POINTS = ("mid-round", "after-round")
"""The points of `quiver retry`, beside those of the shards that it builds; their shard is `run`.
A dataset in object storage has "after-round-upload" too.
"""
_pass_counts: Counter[tuple[str, str]] = Counter()


def crashpoint(name: str, shard: str) -> None:
    """Marks a point of the commit path; does nothing unless QUIVER_CRASHPOINT names it."""
    if CRASHPOINT_VARIABLE not in os.environ:
        return
    _pass_counts[name, shard] += 1
    armed_name, armed_shard, count, *pids = os.environ[CRASHPOINT_VARIABLE].split()
    if (armed_name, armed_shard, int(count)) == (name, shard, _pass_counts[name, shard]):
        for pid in (*map(int, pids), os.getpid()):
            os.kill(pid, signal.Signals[os.environ.get(SIGNAL_VARIABLE, "SIGKILL")])
