"""Places in the commit path where tests/faults ends a run as a power cut would; nothing else arms
one.
"""

import os
import signal
from collections import Counter

CRASHPOINT_VARIABLE = "QUIVER_CRASHPOINT"
"""NAME SHARD N PID ...: where a process passes that point of that shard the n-th time, those
processes and it are killed.
"""
SIGNAL_VARIABLE = "QUIVER_CRASHPOINT_SIGNAL"
"""What they get instead of SIGKILL."""
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
"""Those of a data set in object storage (staging.py)."""
ROUND_POINTS, _REMOTE_ROUND_POINTS = ("mid-round", "after-round"), ("after-round-upload",)
"""Those of `quiver retry`, beside those of the shards that it builds; the shard is `run`."""
_pass_counts: Counter[tuple[str, str]] = Counter()


def crashpoint(name: str, shard: str) -> None:
    """Does nothing unless QUIVER_CRASHPOINT names this point."""
    if CRASHPOINT_VARIABLE not in os.environ:
        return
    _pass_counts[name, shard] += 1
    point, armed, number, *others = os.environ[CRASHPOINT_VARIABLE].split()
    if (point, armed, int(number)) == (name, shard, _pass_counts[name, shard]):
        for process in (*map(int, others), os.getpid()):
            os.kill(process, signal.Signals[os.environ.get(SIGNAL_VARIABLE, "SIGKILL")])
