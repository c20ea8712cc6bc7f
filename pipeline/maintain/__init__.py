"""Verify, repair and watch a dataset.

verify         READ FIRST: every fault of a dataset, with its remedy
verify_shard   the faults of one shard
faults         a fault, and the remedies
repair         the steps that put faults right
status         how far a dataset is, without reading a shard
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "Fault": "pipeline.maintain.faults",
    "Remedy": "pipeline.maintain.faults",
    "VerifyReport": "pipeline.maintain.verify",
    "read_status": "pipeline.maintain.status",
}
"""The module of each name, which is loaded when the name is first used: they load pyarrow."""

__all__ = [*_MODULES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
