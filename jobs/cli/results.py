"""Writes what a verb measures: a folder with JSON and a page, and a table for the terminal."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from pipeline.atomic_files import replace_file
from schemas.run_contract import to_json_value
from schemas.seal import to_json


@contextmanager
def results_folder(folder: Path) -> Iterator[None]:
    """Creates the folder of --out; if nothing was written to it, a new folder is removed again.

    Raises ValueError if it is a file or holds a dataset, OSError if it cannot be written.
    """
    if (folder.exists() and not folder.is_dir()) or (folder / "run.json").exists():
        raise ValueError(f"--out is {str(folder)!r}, expected a folder that holds no dataset")
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    try:
        yield
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def load_page_maker(module: str, name: str, alternative: str = "") -> Callable[..., str]:
    """Returns the function `name` of `module`, which makes a page. If its libraries are missing,
    raises ValueError, which names the alternative.
    """
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name not in ("matplotlib", "jinja2", "markupsafe"):
            raise
        raise ValueError(
            f"the page needs {error.name}, which is not installed: "
            f"pip install 'quiver-motion[report]'{alternative and f', or {alternative}'}"
        ) from error


def write_results(folder: Path, name: str, record: Mapping[str, Any], page: str) -> list[Path]:
    """Writes NAME.json and NAME.html, each atomically; returns their paths."""
    files = {
        folder / f"{name}.json": to_json(to_json_value(record), indent=1),
        folder / f"{name}.html": page.encode(errors="replace"),
    }
    for path, data in files.items():
        replace_file(path, data)
    return list(files)


def align_columns(rows: Iterable[Sequence[str]]) -> str:
    """Returns rows of words as a table: the first column is left-aligned, the others are
    right-aligned.
    """
    table = [list(row) for row in rows]
    first, *others = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for name, *cells in table:
        words = [f"{cell:>{width}}" for cell, width in zip(cells, others, strict=True)]
        lines.append("  ".join([f"{name:<{first}}", *words]).rstrip())
    return "\n".join(lines)
