"""The folder of a dataset on disk or in object storage. Python code begins with `open_dataset`.

commit          READ FIRST: how a shard is committed exactly once
folder          the folder: run contract, plan, records
run_lock        one writer per folder, and what stops a run that was taken over
shards          the tar of a shard: write, check, read
rounds          what `quiver retry` adds to the plan
finalize        all files that are derived from plan and records
histogram, scales   counts of coefficients, and the scales from them
card            README.md for Hugging Face
open            DATASET or DATASET:VIEW for readers
views           a dataset judged again by other thresholds
remote          a dataset in object storage
object_store, remote_clips   S3 calls; clips that are in S3
crashpoint      where tests kill a run
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "ContractMismatch": "pipeline.dataset.folder",
    "DamagedDerived": "pipeline.dataset.open",
    "DamagedPlan": "pipeline.dataset.folder",
    "DamagedShard": "pipeline.dataset.folder",
    "Dataset": "pipeline.dataset.folder",
    "DatasetView": "pipeline.dataset.open",
    "FolderInUse": "pipeline.dataset.run_lock",
    "ShardDraft": "pipeline.dataset.commit",
    "iter_samples": "pipeline.dataset.open",
    "locate_dataset": "pipeline.dataset.remote",
    "open_dataset": "pipeline.dataset.open",
    "read_sample": "pipeline.dataset.shards",
    "refilter": "pipeline.dataset.views",
}
"""The module of each name, which is loaded when the name is first used: most load pyarrow."""

__all__ = [*_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
