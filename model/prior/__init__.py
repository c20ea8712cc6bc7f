"""The motion prior. Python code begins with `load_prior`, and `Prior.sample`."""

from importlib import import_module
from typing import Any

_MODULES = {
    "Prior": "model.prior.inference",
    "load_prior": "model.prior.inference",
}
"""The module of each name, which is loaded when the name is first used."""

__all__ = ["Prior", "load_prior"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
