"""The folder of a dataset on disk. Python code begins with `open_dataset`."""

from importlib import import_module
from typing import Any

_MODULES = {
    "DatasetSample": "pipeline.dataset.open",
    "DatasetView": "pipeline.dataset.open",
    "open_dataset": "pipeline.dataset.open",
}
"""The module of each name, which is loaded when the name is first used."""

__all__ = ["DatasetSample", "DatasetView", "open_dataset"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
