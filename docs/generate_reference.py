"""Writes the references: docs/reference/cli.md from the parsers of the verbs, and
docs/reference/python.md from what the packages offer (`__all__`).

    python docs/generate_reference.py
"""

import contextlib
import importlib
import inspect
import io
import os
import pkgutil
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
REFERENCE = ROOT / "docs" / "reference"
WIDTH = 98
PRESETS = {
    name: ["smoke", "--help"]
    for name in ("train-autoencoder", "train-denoiser", "train-renderer", "ablate")
}
"""Verbs whose options follow a preset."""


def main() -> None:
    """Writes both pages."""
    os.environ |= {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb"}
    (REFERENCE / "cli.md").write_text("\n".join(cli_page()))
    (REFERENCE / "python.md").write_text("\n".join(python_page()))


def cli_page() -> Iterator[str]:
    """The lines of the page of verbs."""
    from jobs.cli.main import VERBS

    yield "# Command line\n"
    yield "Written by `docs/generate_reference.py` from the parsers; `quiver VERB --help` prints"
    yield "the same. Exit codes are [the same for all verbs](exit-codes.md).\n"
    for verb, (module, summary) in VERBS.items():
        yield f"## {verb}\n\n{summary[0].upper()}{summary[1:]}.\n"
        yield f"```text\n{help_text(module, PRESETS.get(verb, ['--help']))}\n```\n"


def help_text(module: str, arguments: list[str]) -> str:
    """What a verb prints as its help, without the boxes."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        importlib.import_module(module).main(arguments)
    lines = []
    for line in re.sub(r"\x1b\[[\d;]*m", "", output.getvalue()).splitlines():
        line = re.sub(r"^[│╭╰] ?(.*?) *[│╮╯]?$", r" \1", line).rstrip()
        if line.strip(" ─-"):
            lines += [line] if line.startswith(" ") else textwrap.wrap(line, WIDTH)
        elif lines and lines[-1] and not line:
            lines.append("")
    return "\n".join(_rewrap_help(lines)).strip().replace(str(Path.home()), "~")


def _rewrap_help(lines: list[str]) -> list[str]:
    """Fills the lines of each option's help, which tyro also breaks where its docstring does."""
    rewrapped: list[str] = []
    for line in lines:
        column = len(line) - len(line.lstrip())
        if column > 8 and rewrapped and re.match(rf".{{{column - 2}}}  \S", rewrapped[-1]):
            rewrapped[-1] += f" {line.strip()}"
        else:
            rewrapped.append(line)
    return [part for line in rewrapped for part in _wrap_help_line(line)]


def _wrap_help_line(line: str) -> list[str]:
    """The line within WIDTH; its continuation begins in the column of the help."""
    if len(line) <= WIDTH:
        return [line]
    gap = re.match(r" *(?:-\S.*?  +)?", line)
    below = " " * (gap.end() if gap else 0)
    return textwrap.wrap(
        line, WIDTH, subsequent_indent=below, break_long_words=False, break_on_hyphens=False
    )


def python_page() -> Iterator[str]:
    """The lines of the page of packages."""
    yield "# Python\n"
    yield "Written by `docs/generate_reference.py` from the packages' `__all__`. Shapes are"
    yield "those of jaxtyping: `UInt8[ndarray, 'height width 3']`. Python code begins with"
    yield "`open_dataset`, `load_prior` and `animate`.\n"
    for package in packages():
        yield f"## {package.__name__}\n\n{_fence_columns(inspect.getdoc(package) or '')}\n"
        for name in sorted(package.__all__):
            yield from describe(name, getattr(package, name))


def _fence_columns(docstring: str) -> str:
    """The docstring with its lists in two columns as blocks, which Markdown would run together."""
    paragraphs = docstring.split("\n\n")
    for i, paragraph in enumerate(paragraphs):
        if re.search(r"\S {2,}\S", paragraph):
            paragraphs[i] = f"```text\n{textwrap.dedent(paragraph).strip()}\n```"
    return "\n\n".join(paragraphs)


def packages() -> Iterator[ModuleType]:
    """The packages that say what they offer, in the order of the layers."""
    for layer in ("schemas", "pipeline", "model"):
        root = importlib.import_module(layer)
        found = pkgutil.walk_packages(root.__path__, f"{layer}.")
        for name in [layer, *(module.name for module in found if module.ispkg)]:
            package = importlib.import_module(name)
            if getattr(package, "__all__", None):
                yield package


def describe(name: str, value: Any) -> Iterator[str]:
    """A function or a class, its signature, docstring and public methods."""
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        yield f"### {name}\n"
        return
    yield f"### {name}\n\n```text\n{signature(name, value)}\n```\n"
    text = inspect.getdoc(value) or ""
    if not text.startswith(f"{name}("):  # which a dataclass without a docstring has
        yield f"{text}\n"
    if not inspect.isclass(value):
        return
    for method, member in vars(value).items():
        function = member.fget if isinstance(member, property) else member
        text = inspect.getdoc(function)
        if not method.startswith("_") and text and inspect.isroutine(function):
            first = text.split("\n\n")[0].replace("\n", " ")
            yield textwrap.fill(f"- `{method}`: {first}", WIDTH, subsequent_indent="  ")
    yield ""


def signature(name: str, value: Any) -> str:
    """The call, on one line if it fits."""
    try:
        sign = inspect.signature(value)
    except (TypeError, ValueError):
        return name
    line = short_names(f"{name}{sign}")
    if len(line) <= WIDTH:
        return line
    after = "" if sign.return_annotation is sign.empty else line[line.rindex(" -> ") :]
    parameters = [short_names(str(parameter)) for parameter in sign.parameters.values()]
    kinds = [parameter.kind for parameter in sign.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds:
        parameters.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    return f"{name}(\n    " + ",\n    ".join(parameters) + f"\n){after}"


def short_names(text: str) -> str:
    """Types without the modules that they are from."""
    return re.sub(r"\bjax(?=[A-Z]\w*\[)", "", re.sub(r"\b(?:[a-z_]+\.)+(?=\w)", "", text))


if __name__ == "__main__":
    main()
