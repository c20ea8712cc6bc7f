"""TODO: what this file is."""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from schemas.seal import to_json as to_json

TEMPORARY_NAME = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
"""Name of a file in the making."""


def temporary_path(path: Path) -> Path:
    """A name of TEMPORARY beside `path`, which no other file has."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


@contextmanager
def add_path_to_errors(path: Path) -> Iterator[None]:
    """Adds the file's name to an error of writing to it, which does not say it by itself, or says
    the temporary one.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or not str(error.filename or ".tmp").endswith(
            ".tmp"
        ):  # of something else that was done meanwhile
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync_folder(folder: Path) -> None:
    """Makes the folder's names durable: a rename is not until its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with add_path_to_errors(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file that is there whole or not at all, over an older one."""
    with open_to_replace(path) as file:
        file.write(data)


@contextmanager
def open_to_replace(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which at the end of the block stands under that name, whole, over an
    older one.
    """
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
    """Creates a file that is there whole or not at all. Raises FileExistsError where there is one
    already.
    """
    with open_to_create(path) as file:
        file.write(data)


@contextmanager
def open_to_create(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which at the end of the block stands under that name, whole. Raises
    FileExistsError where there is one already.
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
    """A synced file beside `path`; removed where writing it fails."""
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
