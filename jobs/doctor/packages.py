"""Checks Python and the packages of each extra against the oldest versions that Quiver accepts."""

import platform
import re
from importlib.metadata import PackageNotFoundError, requires, version

from jobs.doctor.finding import Finding, State

_REQUIREMENT_PATTERN = re.compile(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+)(?:.*extra == .(\w+))?")
EXTRAS = {
    "": ("packages", "every command"),
    "extract": (
        "packages of extract",
        "quiver extract-flow, repair, make-clips, and videos from animate",
    ),
    "train": ("packages of train", "quiver train-..., sample and animate --checkpoint"),
    "report": ("packages of report", "quiver report-statistics and benchmark-flow"),
}
"""For each extra of the package, the name of its check and what cannot be done without it."""
_PACKAGE_ALTERNATIVES = {"decord": "--decoder pyav"}
"""A package that is not built for every machine, and the option that makes it unnecessary."""


def check_python() -> Finding:
    # An older Python would not have come further than `import jobs`.
    return Finding(
        State.OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    )


def check_packages(extra: str) -> Finding:
    """Checks the packages of an extra; "" is what every command needs."""
    try:
        lines = requires("quiver-motion") or []
    except PackageNotFoundError:
        return Finding(
            State.WARNING,
            "quiver itself is not installed, so that what it needs is not known",
            "pip install -e . in its checkout",
        )
    requirements = [match.groups() for match in map(_REQUIREMENT_PATTERN.match, lines) if match]
    oldest = {name: least for name, least, owner in requirements if (owner or "") == extra}
    installed = {name: _installed_version(name) for name in oldest}
    missing = [name for name, number in installed.items() if number is None]
    outdated = [
        f"{name} {number} (needs {oldest[name]})"
        for name, number in installed.items()
        if number and _version_numbers(number) < _version_numbers(oldest[name])
    ]
    install = f"pip install -c constraints.txt 'quiver-motion{f'[{extra}]' * bool(extra)}'"
    if outdated:
        return Finding(State.WRONG, f"too old: {', '.join(outdated)}", install)
    if not missing:
        return Finding(
            State.OK, ", ".join(f"{name} {number}" for name, number in installed.items())
        )
    if set(missing) <= _PACKAGE_ALTERNATIVES.keys():
        alternatives = ", ".join(_PACKAGE_ALTERNATIVES[name] for name in missing)
        return Finding(
            State.WARNING,
            f"{', '.join(missing)} missing",
            f"{install}, or do without: {alternatives}",
        )
    return Finding(
        State.WARNING if extra else State.WRONG,
        f"{', '.join(missing)} missing, for {EXTRAS[extra][1]}",
        install,
    )


def _installed_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _version_numbers(text: str) -> tuple[int, ...]:
    """Returns the first three numbers of a version."""
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:3])
