"""Ray: the only package that imports it, starts it, places work on it and collects the results.

Nothing here decides what is in a shard. Ray is imported when it is first needed.

- resources: how many tasks fit on the nodes of a cluster
- tokens: authentication, of a Ray of our own and of a cluster
- session: a connection to a cluster, or a Ray of our own
- tasks: functions that run in worker processes, and their results (READ FIRST)
- training: processes that train together
"""

import os

# Ray reads both when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Otherwise a node starts workers for its first driver and makes it wait until all of them are up:
# forever, if one of them dies first.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")

from jobs.cluster.resources import Resources, capacity, count_fitting_tasks
from jobs.cluster.session import (
    RayNotStarted,
    find_temp_folder,
    is_submitted_job,
    ray_session,
)
from jobs.cluster.tasks import (
    MAX_TASK_RETRIES,
    NodeMisconfigured,
    TaskDied,
    map_unordered,
    parallel_map,
    stream_unordered,
)
from jobs.cluster.tokens import InsecureCluster, find_exposed_token, session_token
from jobs.cluster.training import TrainingDied, train_distributed

__all__ = [
    "MAX_TASK_RETRIES",
    "InsecureCluster",
    "NodeMisconfigured",
    "RayNotStarted",
    "Resources",
    "TaskDied",
    "TrainingDied",
    "capacity",
    "count_fitting_tasks",
    "find_exposed_token",
    "find_temp_folder",
    "is_submitted_job",
    "map_unordered",
    "parallel_map",
    "ray_session",
    "session_token",
    "stream_unordered",
    "train_distributed",
]
