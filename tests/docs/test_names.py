"""What the documentation names is there: files, modules and their members."""

import importlib
import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT

LAYERS = ("schemas", "pipeline", "model", "jobs")
PRODUCTS = ("evaluation", "card", "demo", "metrics")
"""Folders that a user or another program makes."""
TRACKED = set(
    subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
)


def words(page: Path) -> list[str]:
    """What stands in backticks, outside of blocks."""
    return re.findall(r"`([^`\s]+)`", re.sub(r"(?ms)^```.*?^```$", "", page.read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_exist(page):
    for word in words(page):
        path = word.removesuffix("/")
        if "/" in path and re.fullmatch(r"[\w./-]+\.(py|cpp|md|yaml|c)", path):
            assert path in TRACKED or path.split("/")[0] in PRODUCTS, word
        elif word.endswith("/") and word.split("/")[0] in (*LAYERS, "tests", "docs", "examples"):
            assert any(name.startswith(f"{path}/") for name in TRACKED), word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_dotted_names_exist(page):
    for word in words(page):
        if not re.fullmatch(rf"({'|'.join(LAYERS)})(\.\w+)+", word):
            continue
        module, names = word, []
        while (
            f"{module.replace('.', '/')}.py" not in TRACKED
            and f"{module.replace('.', '/')}/__init__.py" not in TRACKED
        ):
            module, _, name = module.rpartition(".")
            assert module, word
            names.insert(0, name)
        value = importlib.import_module(module)
        for name in names:
            value = getattr(value, name)


def test_pages_that_the_code_names_exist():
    for name in sorted(TRACKED):
        if name.startswith("docs/") or not name.endswith((".py", ".yaml", "Makefile", ".md")):
            continue
        for page in re.findall(r"(?<![\w/])docs/[\w/.-]+\.md", (ROOT / name).read_text()):
            assert page in TRACKED, f"{name} names {page}"
