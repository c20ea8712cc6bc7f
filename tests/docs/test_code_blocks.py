"""Every code block of the documentation: Python runs on a small dataset, and the verb and the
options of each `quiver` command are those that there are.
"""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import args as command_line
from jobs.cli import training
from jobs.cli.main import VERBS
from tests.docs.pages import PAGES, ROOT, CodeBlock, code_blocks, quiver_commands
from tests.support.datasets import write_dataset

BLOCKS = [block for page in PAGES for block in code_blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
LAYERS = ("schemas", "pipeline", "model")
COMMANDS = {tuple(words): block for block in BLOCKS for words in quiver_commands(block)}


def test_there_are_blocks():
    assert len(PYTHON) >= 5 and len(COMMANDS) >= 40


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[str, str]:
    """What each Python block printed, or its error; all run in one process, which loads torch once,
    in a folder with the dataset of the demo.
    """
    folder = tmp_path_factory.mktemp("docs")
    shards = {"train-000000": [{}] * 3, "test-000000": [{}]}
    write_dataset(folder / "demo" / "dataset", shards)
    runnable = [block for block in PYTHON if block.runs]
    for number, block in enumerate(runnable):
        (folder / f"block_{number}.py").write_text(block.code)
    driver = (
        "import importlib, traceback\n"
        f"for number in range({len(runnable)}):\n"
        "    try:\n"
        "        importlib.import_module(f'block_{number}')\n"
        "        print('\\0done', end='\\0')\n"
        "    except Exception:\n"
        "        print('\\0' + traceback.format_exc(), end='\\0')\n"
    )
    (folder / "driver.py").write_text(driver)
    done = subprocess.run(
        [sys.executable, "driver.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    ends = done.stdout.split("\0")[1::2]
    assert len(ends) == len(runnable), done.stderr
    return {str(block): end for block, end in zip(runnable, ends, strict=True)}


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_runs(block: CodeBlock, outputs):
    if block.runs:
        assert outputs[str(block)] == "done"
        return
    for node in ast.walk(ast.parse(block.code)):  # at least what it imports is there
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names)


class Parsed(BaseException):
    """The command line was understood."""


@pytest.fixture
def parse_only(monkeypatch):
    """Verbs end once they have read their command line."""
    read = command_line.run_parser

    def stop(*arguments):
        read(*arguments)
        raise Parsed

    for module in (command_line, training):
        monkeypatch.setattr(module, "run_parser", stop)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: f"{COMMANDS[words]}-{words[0]}")
def test_a_command_is_understood(words: tuple[str, ...], parse_only, capsys):
    block = COMMANDS[words]
    verb, *options = words
    assert verb in VERBS, f"{block} has the verb {verb!r}"
    if "..." in options:
        return
    try:
        importlib.import_module(VERBS[verb][0]).main(options)
    except Parsed:
        return
    except SystemExit:
        pytest.fail(f"{block}: quiver {' '.join(words)}: {capsys.readouterr().err}")
    pytest.fail(f"{block}: quiver {verb} read no command line")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path):
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text())
    for target in re.findall(r"\]\(([^)\s#]+)", text):
        if not target.startswith(("http", "mailto")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_references_have_every_verb_and_every_name():
    """`python docs/generate_reference.py` writes both pages anew."""
    verbs = re.findall(r"(?m)^## (\S+)$", (ROOT / "docs/reference/cli.md").read_text())
    assert verbs == list(VERBS)
    headings = re.findall(r"(?m)^##+ (\S+)$", (ROOT / "docs/reference/python.md").read_text())
    for init in (path for layer in LAYERS for path in sorted((ROOT / layer).rglob("__init__.py"))):
        names = getattr(importlib.import_module(module_name(init)), "__all__", ())
        assert set(names) <= set(headings), init


def module_name(init: Path) -> str:
    """The package of an `__init__.py`."""
    return ".".join(init.parent.relative_to(ROOT).parts)
