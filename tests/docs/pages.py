"""The code blocks of the documentation."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PARSE_ONLY = "<!-- test: parse -->"
"""The line before a block that needs what the tests do not have, as a trained prior."""


class CodeBlock(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str
    runs: bool
    """Whether the block can run on a small dataset alone."""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def code_blocks(page: Path) -> Iterator[CodeBlock]:
    """The fenced blocks of a page, with the lines on which they begin."""
    lines, first = page.read_text().splitlines(), None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if first is None:
            first = number
            continue
        runs = first == 0 or lines[first - 1].strip() != PARSE_ONLY
        code = "".join(f"{text}\n" for text in lines[first + 1 : number])
        yield CodeBlock(page, first + 1, lines[first][3:].strip(), code, runs)
        first = None


def quiver_commands(block: CodeBlock) -> Iterator[list[str]]:
    """The `quiver` commands of a block, each as its words; `...` stands for words left out."""
    if block.language == "python":
        return
    for line in block.code.replace("\\\n", " ").splitlines():
        if line.startswith(("quiver ", "docker ")):
            words = shlex.split(line, comments=True)
            yield words[len(words) - words[::-1].index("quiver") :]
