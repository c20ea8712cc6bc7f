"""What is measured goes into a folder, as JSON and as a page, and into the terminal, as a table."""

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
    """Makes the folder of --out; one that was made for nothing is removed again.

    Raises ValueError where it is a file or holds a data set, OSError where it cannot be written.
    """
    if (folder.exists() and not folder.is_dir()) or (folder / "run.json").exists():
        raise ValueError(f"--out is {str(folder)!r}, expected a folder that is no data set")
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    try:
        yield
    finally:
        if new and not any(folder.iterdir()):
            folder.rmdir()


def load_page_maker(module: str, name: str) -> Callable[..., str]:
    """The function of that name that makes a page. Raises ValueError where its libraries are
    missing.
    """
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name not in ("matplotlib", "jinja2", "markupsafe"):
            raise
        raise ValueError(
            f"the page needs {error.name}, which is not installed: pip install 'quiver-motion[report]'"
        ) from error


def write_results(folder: Path, name: str, found: Mapping[str, Any], page: str) -> list[Path]:
    """Writes NAME.json and NAME.html, each whole or not at all."""
    files = {
        folder / f"{name}.json": to_json(to_json_value(found), indent=1),
        folder / f"{name}.html": page.encode(errors="replace"),
    }
    for path, data in files.items():
        replace_file(path, data)
    return list(files)


def align_columns(rows: Iterable[Sequence[str]]) -> str:
    """Rows of words, in columns; the first stands to the left and the others to the right."""
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            f"{word:{'<' if i == 0 else '>'}{width}}"
            for i, (word, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )
