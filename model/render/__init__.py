"""From motion to pictures. Python code begins with `animate`."""

from importlib import import_module
from typing import Any

_MODULES = {
    "animate": "model.render.animation",
}
"""The module of each name, which is loaded when the name is first used."""

__all__ = ["animate"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
