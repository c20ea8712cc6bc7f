"""Write the tar of a shard, check it, and read its samples by their offsets.

A tar is written under a temporary name, synced, read back and checked, and then renamed; commit.py
says when. Equal samples give equal bytes: headers have no times and no owners, and members have a
fixed order.

Functions that take `rows` expect, for each sample's key, the MEMBER_COLUMNS of its record: offsets,
sizes and checksums of its members.
"""

import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pipeline.atomic_files import add_path_to_errors, sync_folder, temporary_path
from pipeline.dataset.crashpoint import crashpoint
from schemas.sample import (
    KEY_PATTERN,
    MEMBERS,
    MOTION_MEMBER,
    Sample,
    decode_sample,
    encode_sample,
    header_checksum,
    motion_layout,
)
from schemas.shard_record import (
    HEADER_CHECKSUM_COLUMN,
    TarDigest,
    checksum_column,
    member_columns,
)

CHUNK = 1 << 20
"""Bytes that are read at once."""


class ShardWriter:
    """Writes a tar under a temporary name beside `path`; `publish` gives it the name `path`."""

    def __init__(self, path: Path):
        self.path = path
        self.temporary_path = temporary_path(path)
        self.rows: dict[str, dict[str, int]] = {}
        self.sha256 = hashlib.sha256()
        crashpoint("before-open", path.stem)
        with add_path_to_errors(path):
            self.file = open(self.temporary_path, "xb")  # noqa: SIM115 - closed by finish or discard
        crashpoint("after-open", path.stem)

    def add(self, sample: Sample) -> dict[str, int]:
        """Appends a sample; returns its MEMBER_COLUMNS: offset, size and CRC-32 of each member."""
        if not KEY_PATTERN.fullmatch(sample.key):
            raise ValueError(f"key is {sample.key[:80]!r}, expected {KEY_PATTERN.pattern}")
        columns: dict[str, int] = {}
        for member, data in encode_sample(sample).items():
            offset_column, size_column = member_columns(member)
            columns[offset_column] = self._write_member(f"{sample.key}.{member}", data)
            columns[size_column] = len(data)
            columns[checksum_column(member)] = zlib.crc32(data)
            if member == MOTION_MEMBER:
                columns[HEADER_CHECKSUM_COLUMN] = header_checksum(data)
            crashpoint(f"after-{member}-member", self.path.stem)
        self.rows[sample.key] = columns
        return columns

    def _write_member(self, name: str, data: bytes) -> int:
        """Writes header, data and padding; returns the offset of the data."""
        header, half = tar_header(name, len(data)), len(data) // 2
        offset = self.file.tell() + len(header)
        self._write(header + data[:half])
        crashpoint("mid-member", self.path.stem)
        self._write(data[half:] + bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset

    def _write(self, data: bytes) -> None:
        with add_path_to_errors(self.path):
            self.file.write(data)
        self.sha256.update(data)

    def finish(self) -> TarDigest:
        """Ends, syncs, closes and reads back the tar, which is ready to be published then.

        Raises ValueError if the bytes that were read back are not those that were written.
        """
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        size = self.file.tell()
        with add_path_to_errors(self.path):
            crashpoint("before-close", self.path.stem)
            self.file.flush()
            os.fsync(self.file.fileno())
            crashpoint("after-fsync", self.path.stem)
            self.file.close()
            crashpoint("after-close", self.path.stem)
        check_shard(self.temporary_path, self.rows, self.sha256.hexdigest())
        crashpoint("after-verify", self.path.stem)
        return TarDigest(sha256=self.sha256.hexdigest(), bytes=size)

    def publish(self) -> None:
        """Renames the finished tar to `path`."""
        with add_path_to_errors(self.path):
            self.temporary_path.replace(self.path)
        crashpoint("after-rename", self.path.stem)
        sync_folder(self.path.parent)

    def discard(self) -> None:
        """Closes and removes the temporary file, if it still exists."""
        with suppress(OSError):  # on a full disk, closing fails again
            self.file.close()
        self.temporary_path.unlink(missing_ok=True)


class _ScannedSample(NamedTuple):
    """A sample that was read from a shard."""

    key: str
    sample: Sample | None
    """None if it is not the sample that was written."""
    faults: list[str]
    """Sentences that say why."""


def check_shard(path: Path, rows: dict[str, dict[str, int]], sha256: str) -> None:
    """Reads a whole tar. Raises ValueError unless it has that digest and exactly the samples of
    `rows`, complete and finite, at their offsets.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        faults = [fault for scanned in scan_samples(file, rows, digest) for fault in scanned.faults]
        faults += scan_end(file, digest)
    if digest.hexdigest() != sha256:
        faults.append(f"its sha256 is {digest.hexdigest()}, expected {sha256}")
    if faults:
        raise ValueError(f"{path.name}: {faults[0]}")


def scan_samples(
    file: BinaryIO, rows: Mapping[str, Mapping[str, Any]], digest: Any
) -> Iterator[_ScannedSample]:
    """Yields every sample of a shard, which is read from its beginning; `digest` is updated with
    the bytes. Whatever the file holds becomes a fault of a sample, never an exception.
    """
    size = os.fstat(file.fileno()).st_size
    for key, columns in rows.items():
        if file.tell() >= size:
            fault = f"sample {key} is not there: the file ends at byte {size}"
            yield _ScannedSample(key, None, [fault])
            continue
        members, faults = {}, []
        for member in MEMBERS:
            members[member], member_faults = _scan_member(file, key, member, columns, digest)
            faults += member_faults
        yield _decode_scanned(key, members, columns, faults)


def _scan_member(
    file: BinaryIO, key: str, member: str, columns: Mapping[str, Any], digest: Any
) -> tuple[bytes, list[str]]:
    """Reads the member at the file's position; returns its bytes and the first fault, if any."""
    name, (offset, size) = f"{key}.{member}", (columns[column] for column in member_columns(member))
    left, start = os.fstat(file.fileno()).st_size - file.tell(), file.tell() + tarfile.BLOCKSIZE
    lengths = (tarfile.BLOCKSIZE, size, -size % tarfile.BLOCKSIZE)
    header, data, padding = blocks = [file.read(min(length, left)) for length in lengths]
    for block in blocks:
        digest.update(block)
    checks = (
        (len(data) == size, f"ends after {len(data)} of {size} bytes, with the file"),
        (start == offset, f"begins at byte {start}, expected {offset}"),
        (header == tar_header(name, size), "has another header than was written"),
        (_has_checksum(data, columns, member), "has other bytes than were written"),
        (padding == bytes(-size % tarfile.BLOCKSIZE), "is not followed by zeros"),
    )
    return data, [f"member {name} {problem}" for is_sound, problem in checks if not is_sound][:1]


def _decode_scanned(
    key: str,
    members: dict[str, bytes],
    columns: Mapping[str, Any],
    faults: list[str],
) -> _ScannedSample:
    """Decodes the members of a sample, unless they have faults."""
    if faults:
        return _ScannedSample(key, None, faults)
    try:
        sample = decode_sample(key, members)
    except ValueError as error:
        return _ScannedSample(key, None, [str(error)])
    if columns.get(HEADER_CHECKSUM_COLUMN) != header_checksum(members[MOTION_MEMBER]):
        fault = f"the row of sample {key} has another checksum of the header of its arrays"
        return _ScannedSample(key, None, [fault])
    return _ScannedSample(key, sample, [])


def scan_end(file: BinaryIO, digest: Any) -> list[str]:
    """Reads the rest of a shard, which should be the two empty blocks that end a tar; returns the
    fault, if any.
    """
    length, is_empty = 0, True
    while chunk := file.read(CHUNK):
        digest.update(chunk)
        length, is_empty = length + len(chunk), is_empty and not any(chunk)
    if length != 2 * tarfile.BLOCKSIZE:
        return [f"has {length} bytes after its samples, expected {2 * tarfile.BLOCKSIZE}"]
    return [] if is_empty else ["the blocks that end it are not zeros"]


def check_ends(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks the headers of the first and the last sample of a tar, its last array, and the blocks
    that end it: a few small reads, whatever its size.

    This detects the tar of another shard, a truncated one, and one whose tail is zeros. Only a scan
    of the whole tar detects a flipped bit. Raises ValueError, whose text follows the file's name.
    """
    if not rows:
        raise ValueError("is there, and its record keeps no window")
    first, last = next(iter(rows)), list(rows)[-1]
    with open(path, "rb") as file:
        for key in dict.fromkeys([first, last]):
            for member in MEMBERS:
                offset, size = (rows[key][column] for column in member_columns(member))
                file.seek(max(offset - tarfile.BLOCKSIZE, 0))
                if file.read(tarfile.BLOCKSIZE) != tar_header(f"{key}.{member}", size):
                    raise ValueError(f"does not hold {key}.{member} where its record says")
        offset, size = (rows[last][column] for column in member_columns(MEMBERS[-1]))
        file.seek(offset)
        _check_last_array(file, offset, size)
        file.seek(offset + size)
        if any(file.read(-size % tarfile.BLOCKSIZE)) or scan_end(file, hashlib.sha256()):
            raise ValueError("does not end as a tar of Quiver does")


def _check_last_array(file: BinaryIO, offset: int, size: int) -> None:
    """Raises ValueError unless the last checksummed part of a motion member has the bytes that were
    written.
    """
    head = file.read(8)
    head += file.read(min(int.from_bytes(head, "little"), size))
    layout = motion_layout(head, size)
    name, array = max(layout.arrays.items(), key=lambda item: item[1]["data_offsets"])
    start, end = array["data_offsets"]
    length = (end - start) // max(len(layout.checksums[name]), 1)
    file.seek(offset + layout.data_offset + end - length)
    if layout.checksums[name] and zlib.crc32(file.read(length)) != layout.checksums[name][-1]:
        raise ValueError("has other bytes at its end than were written")


def tar_header(name: str, size: int) -> bytes:
    """Returns the 512 bytes before a member, without time and owner."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def read_sample(path: Path, key: str, columns: Mapping[str, Any]) -> Sample:
    """Reads one sample of a shard, and nothing else of the tar.

    columns: the MEMBER_COLUMNS of its row in the manifest. Raises ValueError if the bytes are not
    those of that sample.
    """
    members = {}
    with open(path, "rb") as file:
        for member in MEMBERS:
            offset, size = (columns[name] for name in member_columns(member))
            if (
                offset < tarfile.BLOCKSIZE
                or size < 0
                or offset + size > os.fstat(file.fileno()).st_size
            ):
                raise ValueError(
                    f"member {key}.{member}, {size} bytes from {offset} on, is not in {path.name}"
                )
            file.seek(offset - tarfile.BLOCKSIZE)
            header, data = file.read(tarfile.BLOCKSIZE), file.read(size)
            check_member(header, f"{key}.{member}", size, len(data))
            if not _has_checksum(data, columns, member):
                raise ValueError(
                    f"member {key}.{member} of {path.name} has other bytes than were written"
                )
            members[member] = data
    return decode_sample(key, members)


def _has_checksum(data: bytes, columns: Mapping[str, Any], member: str) -> bool:
    """Returns whether the bytes of a member have the checksum of its row; False if it has none."""
    return zlib.crc32(data) == columns.get(checksum_column(member))


def check_member(header: bytes, name: str, size: int, length: int) -> None:
    """Raises ValueError unless this is the tar header of the member, and all its `size` bytes were
    read, `length` of them.
    """
    if header == tar_header(name, size) and length == size:
        return
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except tarfile.HeaderError as error:
        raise ValueError(f"no member {name!r} at its offset: {error}") from error
    if info.type != tarfile.REGTYPE:
        raise ValueError(f"member {info.name[:200]!r} is of type {info.type!r}, expected a file")
    if (info.name, info.size, length) != (name, size, size):
        raise ValueError(
            f"member {info.name[:200]!r} of {info.size} bytes ({length} there), "
            f"expected {name!r} of {size}"
        )
    raise ValueError(f"member {name!r} has another header than was written")
