"""Which Quiver this is: what a data set says of how it was made."""

import re
import tomllib
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_DISTRIBUTION = "quiver-motion"
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_COMMIT_DIGITS = 12
"""Digits of a commit."""
CHECKOUT = Path(__file__).resolve().parents[1]


@cache
def quiver_version(folder: Path = CHECKOUT) -> str:
    """The version, and after `+g` the commit of the checkout, as `0.1.0+g8ba38bb0c5f3`.

    What is changed and not committed is not seen. An installed Quiver, and one that was uploaded to
    a cluster, have no commit.
    """
    if (release := _read_release(folder)) is None:
        with suppress(PackageNotFoundError):
            return version(_DISTRIBUTION)
        return "unknown"
    commit = _read_commit(folder / ".git")
    return release + (f"+g{commit[:_COMMIT_DIGITS]}" if commit else "")


def _read_release(folder: Path) -> str | None:
    """The version that a checkout of Quiver states; None for the folder of another project."""
    with suppress(OSError, KeyError, ValueError):
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return project["version"] if project["name"] == _DISTRIBUTION else None
    return None


def _read_commit(git: Path) -> str | None:
    """The commit that is checked out, by git's own files: git need not be installed."""
    try:
        if git.is_file():  # of a worktree or a submodule: a path
            git = git.parent / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head if _COMMIT.fullmatch(head) else None
        name = head.removeprefix("ref: ")
        common = git / "commondir"  # of a worktree: where its branches are
        places = [git]
        if common.exists():
            places.append(git / common.read_text(encoding="utf-8").strip())
        return next((found for place in places if (found := _resolve_branch(place, name))), None)
    except (OSError, ValueError):
        return None


def _resolve_branch(git: Path, name: str) -> str | None:
    """The commit of a branch, in a file of its own or among the packed ones."""
    path, packed = git / name, git / "packed-refs"
    lines = [path.read_text(encoding="utf-8")] if path.is_file() else []
    lines += packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else []
    fields = [line.split() for line in lines]
    found = [one[0] for one in fields if len(one) == 1 or (len(one) == 2 and one[1] == name)]
    return next((one for one in found if _COMMIT.fullmatch(one)), None)
