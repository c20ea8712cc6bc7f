"""Tells which version of Quiver this is; a dataset records it."""

import re
import tomllib
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_DISTRIBUTION = "quiver-motion"
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_COMMIT_DIGITS = 12
"""Digits of a commit that the version shows."""
CHECKOUT = Path(__file__).resolve().parents[1]


@cache
def quiver_version(folder: Path = CHECKOUT) -> str:
    """Returns the version, and after `+g` the commit of the checkout: `0.1.0+g8ba38bb0c5f3`.

    Changes that are not committed do not show. An installed Quiver, and one that was uploaded to a
    cluster, have no commit.
    """
    if (release := _read_release(folder)) is None:
        with suppress(PackageNotFoundError):
            return version(_DISTRIBUTION)
        return "unknown"
    commit = _read_commit(folder / ".git")
    return release + (f"+g{commit[:_COMMIT_DIGITS]}" if commit else "")


def _read_release(folder: Path) -> str | None:
    """Returns the version of a checkout of Quiver; None for the folder of another project."""
    with suppress(OSError, KeyError, ValueError):
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return project["version"] if project["name"] == _DISTRIBUTION else None
    return None


def _read_commit(git: Path) -> str | None:
    """Reads the commit that is checked out from git's own files: git need not be installed."""
    try:
        if git.is_file():  # a worktree or a submodule has a path here
            git = git.parent / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head if _COMMIT.fullmatch(head) else None
        name = head.removeprefix("ref: ")
        common = git / "commondir"  # a worktree has the path of its branches here
        folders = [git]
        if common.exists():
            folders.append(git / common.read_text(encoding="utf-8").strip())
        commits = (_resolve_branch(folder, name) for folder in folders)
        return next(filter(None, commits), None)
    except (OSError, ValueError):
        return None


def _resolve_branch(git: Path, name: str) -> str | None:
    """Returns the commit of a branch, which has a file of its own or a line in packed-refs."""
    path, packed = git / name, git / "packed-refs"
    lines = [path.read_text(encoding="utf-8")] if path.is_file() else []
    lines += packed.read_text(encoding="utf-8").splitlines() if packed.is_file() else []
    fields = [line.split() for line in lines]
    commits = [f[0] for f in fields if len(f) == 1 or (len(f) == 2 and f[1] == name)]
    return next(filter(_COMMIT.fullmatch, commits), None)
