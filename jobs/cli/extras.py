"""Explains which extra of Quiver brings a package that is missing. Needs no package itself."""

import re
import sys
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec
from pathlib import Path

_DISTRIBUTION_NAMES = {"cv2": "opencv-python-headless", "PIL": "pillow"}
"""Distributions by module, if their names differ."""


def _find_extras(module: str) -> list[str]:
    """Returns the extras of pyproject.toml that bring a module, in its order; "" is what every verb
    needs. Empty for a module that none of them names, and if Quiver itself is not installed.
    """
    distribution = _DISTRIBUTION_NAMES.get(module, module).replace("_", "-").lower()
    try:
        lines = requires("quiver-motion") or []
    except PackageNotFoundError:
        return []
    requirements = (re.match(r"([\w.-]+)(?:.*extra == .([\w-]+))?", line) for line in lines)
    extras = [
        match[2] or "" for match in requirements if match and match[1].lower() == distribution
    ]
    return [extra for extra in extras if extra != "dev"]


def explain_missing_package(error: ImportError) -> str | None:
    """Returns a sentence that says what to install; None if the missing module is none of ours."""
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or not (extras := _find_extras(module)):
        return None
    if module in sys.modules or find_spec(module) is not None:  # only a part is missing
        return None
    verb = sys.argv[1:2] if Path(sys.argv[0]).stem == "quiver" else [Path(sys.argv[0]).stem]
    extra = "train" if "train" in extras and "train" in "".join(verb) else extras[0]
    package, option = _DISTRIBUTION_NAMES.get(module, module), f"'.[{extra}]'" if extra else "."
    return f"the package {package} is not installed, expected it here: pip install {option}"
