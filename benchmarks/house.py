"""How readable the house is, in numbers: functions, folders, lines, dictionaries without a type.

    python -m benchmarks.house

It reads the syntax trees of the four packages and prints one table. A function counts as called
once if its name stands at one place of the packages besides its definition.
"""

import ast
import re
import statistics
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("schemas", "pipeline", "model", "jobs")
MAX_LINE = 100


def main() -> None:
    table = Table(title="Quiver's packages")
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, value in measure_packages().items():
        table.add_row(name, value)
    Console(width=MAX_LINE).print(table)


def measure_packages() -> dict[str, str]:
    """The figures by name, as text."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    functions = [
        node
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = sorted(_body_lines(node) for node in functions)
    module_level = [
        node.name
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    private = sum(name.startswith("_") for name in module_level)
    words = Counter(word for text in texts.values() for word in re.findall(r"\b\w+\b", _code(text)))
    once = sum(words[name] == 2 for name in module_level if name != "main")
    lines = [line for text in texts.values() for line in text.splitlines()]
    long = sum(len(line) > MAX_LINE for line in lines)
    folders = Counter(str(path.parent.relative_to(ROOT)) for path in paths)
    folder, count = folders.most_common(1)[0]
    return {
        "files": str(len(paths)),
        "lines": str(len(lines)),
        "lines of a function: median / 90th percentile / longest": (
            f"{statistics.median(lengths):.0f} / {lengths[int(0.9 * len(lengths))]} / {lengths[-1]}"
        ),
        "functions of modules, public : private": f"{len(module_level) - private} : {private}",
        "functions that are called once": str(once),
        "largest folder": f"{folder}, {count} files",
        f"lines over {MAX_LINE} characters": f"{long} ({100 * long / len(lines):.1f} %)",
        "lines with a dict of Any": str(sum("dict[str, Any]" in line for line in lines)),
    }


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body without its docstring."""
    has_docstring = ast.get_docstring(node, clean=False) is not None
    statements = node.body[1:] if has_docstring else node.body
    return statements[-1].end_lineno - statements[0].lineno + 1 if statements else 0


def _code(text: str) -> str:
    """A file's text without its docstrings and comments."""
    return re.sub(r'"""[\s\S]*?"""|#.*', "", text)


if __name__ == "__main__":
    main()
