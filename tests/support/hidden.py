"""Runs processes in which packages cannot be imported, as if they were not installed."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SITECUSTOMIZE = """
import os, sys

HIDDEN = set(os.environ["HIDDEN"].split(","))


class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = map(Without, sys.meta_path)
"""
MODULE_NAMES = {"opencv-python-headless": "cv2", "pillow": "PIL"}


def modules_by_extra() -> dict[str, set[str]]:
    """Returns the modules of each extra of pyproject.toml, without what every verb needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def modules(lines: list[str]) -> set[str]:
        names = {line.partition(">")[0].partition("[")[0] for line in lines}
        return {MODULE_NAMES.get(name, name).replace("-", "_") for name in names}

    always = modules(project["dependencies"])
    extras = {
        extra: modules(lines) - always for extra, lines in project["optional-dependencies"].items()
    }
    del extras["dev"]
    return extras


def make_environment(folder: Path, modules: set[str]) -> dict[str, str]:
    """Returns the environment of a process in which these modules cannot be imported."""
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    path = os.pathsep.join([str(folder), str(ROOT)])
    return os.environ | {"PYTHONPATH": path, "HIDDEN": ",".join(sorted(modules)), "COLUMNS": "100"}


def run_without(
    command: list[str], folder: Path, modules: set[str], **options
) -> subprocess.CompletedProcess:
    """Runs a process in which these modules cannot be imported."""
    return subprocess.run(
        [sys.executable, *command],
        env=make_environment(folder, modules),
        capture_output=True,
        text=True,
        timeout=200,
        **options,
    )


FORK_SCRIPT = """
import importlib, json, os, sys, tempfile
from contextlib import suppress
from jobs.cli.main import VERBS

for command in (commands := json.loads(sys.argv[1])):
    with suppress(ImportError):
        importlib.import_module(VERBS[command[1]][0])
for command in commands:
    sys.stdout.flush()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        if (child := os.fork()) == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv, code = command, 0
            try:
                from jobs.cli.main import main
                main()
            except SystemExit as stopped:
                code = stopped.code or 0
            except BaseException:
                try:
                    code = 1
                    sys.excepthook(*sys.exc_info())
                except SystemExit as stopped:
                    code = stopped.code
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        err.seek(0)
        print(json.dumps([code, out.read().decode(), err.read().decode()]))
"""


def run_commands_without(
    commands: list[list[str]], folder: Path, modules: set[str]
) -> list[tuple[int, str, str]]:
    """Runs each command, `quiver VERB ...`, in a process of its own; returns exit code, output and
    errors.

    They are forked from one that has imported what these verbs can import: a verb that lacks
    something fails again, and the others need not load torch anew.
    """
    done = run_without(["-c", FORK_SCRIPT, json.dumps(commands)], folder, modules)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]
