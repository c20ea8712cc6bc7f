"""Files that are written whole or not at all, and digests of them."""

import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from schemas.seal import to_json as to_json

TEMPORARY_NAME = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
"""Name of a file that is being written."""


def bytes_sha256(data: bytes) -> str:
    """sha256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path | str) -> str:
    """sha256 of the content of a file, hexadecimal. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_path(path: Path) -> Path:
    """Returns a unique name beside `path` that matches TEMPORARY_NAME."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


@contextmanager
def add_path_to_errors(path: Path) -> Iterator[None]:
    """Names the file in an OSError of the block that names no file, or the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not str(error.filename or ".tmp").endswith(".tmp"):
            raise  # an error of another file
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable: a rename is not until its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with add_path_to_errors(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all, in place of an older one."""
    with open_to_replace(path) as file:
        file.write(data)


@contextmanager
def open_to_replace(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to write to, which replaces an older one of that name when the block ends."""
    with _open_temporary(path) as file:
        yield file
    try:
        with add_path_to_errors(path):
            Path(file.name).replace(path)
    except OSError:
        Path(file.name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def create_file(path: Path, data: bytes) -> None:
    """Writes a new file whole or not at all. Raises FileExistsError if there is one already."""
    with open_to_create(path) as file:
        file.write(data)


@contextmanager
def open_to_create(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to write to, which gets its name when the block ends. Raises FileExistsError
    if there is one of that name already.
    """
    with _open_temporary(path) as file:
        yield file
    try:
        with add_path_to_errors(path):
            os.link(file.name, path)
    finally:
        Path(file.name).unlink(missing_ok=True)
    sync_folder(path.parent)


@contextmanager
def _open_temporary(path: Path) -> Iterator[BinaryIO]:
    """Opens a file beside `path`, synced at the end, or removed if the block raises."""
    with (
        add_path_to_errors(path),
        open(temporary_path(path), "xb") as file,
        ExitStack() as unless_written,
    ):
        unless_written.callback(Path(file.name).unlink, missing_ok=True)
        yield file
        file.flush()
        os.fsync(file.fileno())
        unless_written.pop_all()
