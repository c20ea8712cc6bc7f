"""Write a shard whole or not at all; read its samples by offset.

A shard is written under a temporary name, synced, read back and checked, renamed, and only then recorded. The commit
record is the only truth: a tar without one is garbage from a run that was stopped, and a record is created once, never
replaced. Equal samples give equal bytes: no times, no owners, a fixed order of members.
"""

import hashlib
import json
import os
import tarfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from schemas.sample import KEY, MEMBERS, Sample, decode, encode
from schemas.tables import member_columns


class ShardWriter:
    """A tar under a temporary name beside `path`; nothing stands under `path` before `publish`."""

    def __init__(self, path: Path):
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        self.rows: dict[str, dict[str, int]] = {}
        self.sha256 = hashlib.sha256()
        self.file = open(self.temporary, "xb")  # noqa: SIM115 - closed by publish or discard

    def add(self, sample: Sample) -> dict[str, int]:
        """Appends a sample; returns the offset and the size of each member's bytes in the tar."""
        if not KEY.fullmatch(sample.key):
            raise ValueError(f"key is {sample.key!r}, expected {KEY.pattern}")
        columns: dict[str, int] = {}
        for member, data in encode(sample).items():
            offset_column, size_column = member_columns(member)
            columns[offset_column], columns[size_column] = self._member(f"{sample.key}.{member}", data), len(data)
        self.rows[sample.key] = columns
        return columns

    def _member(self, name: str, data: bytes) -> int:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o644
        header = info.tobuf(tarfile.USTAR_FORMAT)
        offset = self.file.tell() + len(header)
        for part in (header, data, bytes(-len(data) % tarfile.BLOCKSIZE)):
            self._write(part)
        return offset

    def _write(self, data: bytes) -> None:
        with named(self.path):
            self.file.write(data)
        self.sha256.update(data)

    def publish(self) -> dict[str, Any]:
        """Closes, syncs, reads back, and moves the tar to its name; returns its `sha256` and `bytes`.

        Raises ValueError where what was read back is not what was written.
        """
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        size = self.file.tell()
        with named(self.path):
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
        check_shard(self.temporary, self.rows, self.sha256.hexdigest())
        self.temporary.replace(self.path)
        sync_folder(self.path.parent)
        return {"sha256": self.sha256.hexdigest(), "bytes": size}

    def discard(self) -> None:
        """Removes the temporary file, if it is still there."""
        with suppress(OSError):  # a full disk, which closing meets again
            self.file.close()
        self.temporary.unlink(missing_ok=True)


def check_shard(path: Path, rows: dict[str, dict[str, int]], sha256: str) -> None:
    """Raises ValueError unless the tar has that digest and just these samples, whole and finite, at these offsets.

    Read once, from its beginning to its end.
    """
    with open(path, "rb") as file:
        found, end = hashlib.sha256(), 0
        for key, columns in rows.items():
            members, end = _read_members(file, key, columns, found, end)
            decode(key, members)
        rest = file.read()
    found.update(rest)
    if rest != bytes(2 * tarfile.BLOCKSIZE) or found.hexdigest() != sha256:
        raise ValueError(f"{path.name} has sha256 {found.hexdigest()} and {len(rest)} bytes after its samples, expected {sha256} and {2 * tarfile.BLOCKSIZE}")


def _read_members(file: BinaryIO, key: str, columns: Mapping[str, Any], digest: Any, end: int) -> tuple[dict[str, bytes], int]:
    """A sample's members, which must begin where the one before ended, and where they end."""
    members = {}
    for member in MEMBERS:
        offset, size = (columns[name] for name in member_columns(member))
        header, data, padding = file.read(tarfile.BLOCKSIZE), file.read(size), file.read(-size % tarfile.BLOCKSIZE)
        check_member(header, f"{key}.{member}", size, len(data))
        if offset != end + tarfile.BLOCKSIZE:
            raise ValueError(f"member {key}.{member} begins at {end + tarfile.BLOCKSIZE}, expected {offset}")
        for part in (header, data, padding):
            digest.update(part)
        members[member], end = data, offset + size + len(padding)
    return members, end


def read_sample(path: Path, key: str, columns: Mapping[str, Any]) -> Sample:
    """The sample `key` of a shard, given the offset and size columns of its manifest row; touches nothing else of it.

    Raises ValueError where its bytes are not that sample.
    """
    members = {}
    with open(path, "rb") as file:
        for member in MEMBERS:
            offset, size = (columns[name] for name in member_columns(member))
            file.seek(offset - tarfile.BLOCKSIZE)
            header, data = file.read(tarfile.BLOCKSIZE), file.read(size)
            check_member(header, f"{key}.{member}", size, len(data))
            members[member] = data
    return decode(key, members)


def check_member(header: bytes, name: str, size: int, found: int) -> None:
    """Raises ValueError unless a tar header names that member with that size and `found` bytes followed it."""
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except tarfile.HeaderError as error:
        raise ValueError(f"no member {name!r} at its offset: {error}") from error
    if (info.name, info.size, found) != (name, size, size):
        raise ValueError(f"member {info.name!r} of {info.size} bytes ({found} there), expected {name!r} of {size}")


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Adds the file's name to an error of writing to it, which does not say it by itself."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename:  # of another file, or not the system's
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync_folder(folder: Path) -> None:
    """Makes the folder's names durable: a rename is not until its folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file that is there whole or not at all, over an older one."""
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which at the end of the block stands under that name, whole, over an older one."""
    with _temporary(path) as file:
        yield file
    Path(file.name).replace(path)
    sync_folder(path.parent)


def create_file(path: Path, data: bytes) -> None:
    """Creates a file that is there whole or not at all. Raises FileExistsError where there is one already."""
    with _temporary(path) as file:
        file.write(data)
    try:
        os.link(file.name, path)
    finally:
        Path(file.name).unlink()
    sync_folder(path.parent)


@contextmanager
def _temporary(path: Path) -> Iterator[BinaryIO]:
    """A synced file beside `path`; removed where writing it fails."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with named(path), open(temporary, "xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            temporary.unlink()
            raise


def to_json(value: Any, indent: int | None = None) -> bytes:
    """JSON of which equal values give equal bytes; raises ValueError on a number that is not finite."""
    return json.dumps(value, sort_keys=True, allow_nan=False, indent=indent).encode() + b"\n"
