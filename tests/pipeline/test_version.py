"""Which Quiver this is, by the files of a checkout, with git or without."""

import shutil
import subprocess

import pytest

from pipeline.version import CHECKOUT, quiver_version

COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40
PROJECT = '[project]\nname = "quiver-motion"\nversion = "3.2.1"\n'


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def detached(git):
    write(git / "HEAD", COMMIT + "\n")


def on_a_branch(git):
    write(git / "HEAD", "ref: refs/heads/a/b\n")
    write(git / "refs/heads/a/b", COMMIT + "\n")
    write(git / "packed-refs", f"# pack-refs with: peeled\n{OTHER} refs/heads/a/b\n")


def packed(git):
    write(git / "HEAD", "ref: refs/heads/main\n")
    lines = f"{OTHER} refs/heads/other\n{COMMIT} refs/heads/main\n^{OTHER}\n"
    write(git / "packed-refs", f"# pack-refs\n{lines}")


def in_a_worktree(git):
    place = git.parent / "elsewhere" / "worktrees" / "w"
    write(git, f"gitdir: {place}\n")
    write(place / "HEAD", "ref: refs/heads/main\n")
    write(place / "commondir", "../..\n")
    write(place / "../../refs/heads/main", COMMIT + "\n")


@pytest.mark.parametrize("make", [detached, on_a_branch, packed, in_a_worktree])
def test_the_commit_of_a_checkout(tmp_path, make):
    write(tmp_path / "pyproject.toml", PROJECT)
    make(tmp_path / ".git")
    assert quiver_version(tmp_path) == f"3.2.1+g{COMMIT[:12]}"


HEADS = [
    None,
    "",
    "ref: refs/heads/none\n",
    "no commit",
    "ref: " + "x" * 5000,
    "\0",
    "ref: ../../pyproject.toml",
]


@pytest.mark.parametrize("head", HEADS)
def test_no_commit_is_no_error(tmp_path, head):
    """An upload to a cluster has no .git, and a new repository has no commit."""
    write(tmp_path / "pyproject.toml", PROJECT)
    if head is not None:
        write(tmp_path / ".git" / "HEAD", head)
    assert quiver_version(tmp_path) == "3.2.1"


OTHERS = [None, "[project]\n", "[[[", PROJECT.replace("quiver-motion", "another")]


@pytest.mark.parametrize("project", OTHERS)
def test_another_project_says_nothing_of_it(tmp_path, project):
    if project is not None:
        write(tmp_path / "pyproject.toml", project)
    write(tmp_path / ".git" / "HEAD", COMMIT)
    assert quiver_version(tmp_path) != "3.2.1" and "+g" not in quiver_version(tmp_path)


HERE = (CHECKOUT / ".git").exists() and shutil.which("git") is not None


@pytest.mark.skipif(not HERE, reason="no checkout, or no git")
def test_git_says_the_same():
    command = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(
        command, cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    assert quiver_version().partition("+g")[2] == commit[:12]
