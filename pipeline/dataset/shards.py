"""Write a shard whole or not at all; read its samples by offset.

A shard is written under a temporary name, synced, read back and checked, renamed, and only then
recorded. The commit record is the only truth: a tar without one is garbage from a run that was
stopped, and a record is created once, never replaced. Equal samples give equal bytes: no times, no
owners, a fixed order of members.
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
from schemas.seal import to_json as to_json
from schemas.shard_record import (
    HEADER_CHECKSUM_COLUMN,
    TarDigest,
    checksum_column,
    member_columns,
)

CHUNK = 1 << 20


class ShardWriter:
    """A tar under a temporary name beside `path`; nothing stands under `path` before `publish`."""

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
        """Appends a sample; returns the offset, the size and the checksum of each member's bytes in
        the tar.
        """
        if not KEY_PATTERN.fullmatch(sample.key):
            raise ValueError(f"key is {sample.key[:80]!r}, expected {KEY_PATTERN.pattern}")
        columns: dict[str, int] = {}
        for member, data in encode_sample(sample).items():
            offset_column, size_column = member_columns(member)
            columns[offset_column], columns[size_column] = (
                self._write_member(f"{sample.key}.{member}", data),
                len(data),
            )
            columns[checksum_column(member)] = zlib.crc32(data)
            if member == MOTION_MEMBER:
                columns[HEADER_CHECKSUM_COLUMN] = header_checksum(data)
            crashpoint(f"after-{member}-member", self.path.stem)
        self.rows[sample.key] = columns
        return columns

    def _write_member(self, name: str, data: bytes) -> int:
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
        """Syncs, closes and reads back the tar, which is then ready to be published; returns its
        `sha256` and `bytes`.

        Raises ValueError where what was read back is not what was written.
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
        """Moves the finished tar to its name."""
        with add_path_to_errors(self.path):
            self.temporary_path.replace(self.path)
        crashpoint("after-rename", self.path.stem)
        sync_folder(self.path.parent)

    def discard(self) -> None:
        """Removes the temporary file, if it is still there."""
        with suppress(OSError):  # a full disk, which closing meets again
            self.file.close()
        self.temporary_path.unlink(missing_ok=True)


class _ScannedSample(NamedTuple):
    """A sample of a shard, as it was found; None where it is not the one that was written, and
    `faults` say why.
    """

    key: str
    sample: Sample | None
    faults: list[str]


def check_shard(path: Path, rows: dict[str, dict[str, int]], sha256: str) -> None:
    """Raises ValueError unless the tar has that digest and just these samples, whole and finite, at
    these offsets.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        faults = [
            fault for scanned in scan_samples(file, rows, digest) for fault in scanned.faults
        ] + scan_end(file, digest)
    if faults or digest.hexdigest() != sha256:
        raise ValueError(
            f"{path.name}: {faults[0] if faults else f'its sha256 is {digest.hexdigest()}, expected {sha256}'}"
        )


def scan_samples(
    file: BinaryIO, rows: Mapping[str, Mapping[str, Any]], digest: Any
) -> Iterator[_ScannedSample]:
    """Every sample of a shard, read in order from its beginning, in memory one at a time; `digest`
    takes the bytes.

    `rows` hold each sample's columns of offsets, sizes and checksums. Never raises for what the
    file holds.
    """
    size = os.fstat(file.fileno()).st_size
    for key, columns in rows.items():
        members, faults = {}, []
        if file.tell() >= size:
            yield _ScannedSample(
                key, None, [f"sample {key} is not there: the file ends at byte {size}"]
            )
            continue
        for member in MEMBERS:
            members[member], fault = _scan_member(file, key, member, columns, digest)
            faults += fault
        yield _decode_scanned(key, members, columns, faults)


def _scan_member(
    file: BinaryIO, key: str, member: str, columns: Mapping[str, Any], digest: Any
) -> tuple[bytes, list[str]]:
    """The member that begins here, and what is wrong with it, if anything."""
    name, (offset, size) = f"{key}.{member}", (columns[column] for column in member_columns(member))
    left, began = os.fstat(file.fileno()).st_size - file.tell(), file.tell() + tarfile.BLOCKSIZE
    parts = [
        file.read(min(length, left))
        for length in (tarfile.BLOCKSIZE, size, -size % tarfile.BLOCKSIZE)
    ]
    for part in parts:
        digest.update(part)
    header, data, padding = parts
    checks = (
        (len(data) == size, f"ends after {len(data)} of {size} bytes, with the file"),
        (began == offset, f"begins at byte {began}, expected {offset}"),
        (header == tar_header(name, size), "has another header than was written"),
        (_has_checksum(data, columns, member), "has other bytes than were written"),
        (padding == bytes(-size % tarfile.BLOCKSIZE), "is not followed by zeros"),
    )
    return data, [f"member {name} {what}" for sound, what in checks if not sound][:1]


def _decode_scanned(
    key: str,
    members: dict[str, bytes],
    columns: Mapping[str, Any],
    faults: list[str],
) -> _ScannedSample:
    """The sample of these members, unless there is something wrong with it."""
    if faults:
        return _ScannedSample(key, None, faults)
    try:
        sample = decode_sample(key, members)
    except ValueError as error:
        return _ScannedSample(key, None, [str(error)])
    if columns.get(HEADER_CHECKSUM_COLUMN) != header_checksum(members[MOTION_MEMBER]):
        words = f"the row of sample {key} has another checksum of the header of its arrays"
        return _ScannedSample(key, None, [words])
    return _ScannedSample(key, sample, [])


def scan_end(file: BinaryIO, digest: Any) -> list[str]:
    """What is wrong with the file from here on, where only the two empty blocks that end a tar
    should be.
    """
    length, zeros = 0, True
    while part := file.read(CHUNK):
        digest.update(part)
        length, zeros = length + len(part), zeros and not any(part)
    if length != 2 * tarfile.BLOCKSIZE:
        return [f"has {length} bytes after its samples, expected {2 * tarfile.BLOCKSIZE}"]
    return [] if zeros else ["the blocks that end it are not zeros"]


def check_ends(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """A look at a committed tar that costs a few small reads, whatever its size: the headers of its
    first and its last sample, the bytes that come last in it, and the blocks that end it.

    Finds a tar that is another's, is cut, or whose tail is zeros; a flipped bit is found by reading
    all (scan_samples). `rows` hold each sample's columns of offsets, sizes and checksums. Raises
    ValueError, to stand after the file's name.
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
    """Raises ValueError unless the last array of a motion member ends with the bytes written."""
    head = file.read(8)
    head += file.read(min(int.from_bytes(head, "little"), size))
    layout = motion_layout(head, size)
    name, array = max(layout.arrays.items(), key=lambda item: item[1]["data_offsets"])
    first, after = array["data_offsets"]
    length = (after - first) // max(len(layout.checksums[name]), 1)
    file.seek(offset + layout.data_offset + after - length)
    if layout.checksums[name] and zlib.crc32(file.read(length)) != layout.checksums[name][-1]:
        raise ValueError("has other bytes at its end than were written")


def tar_header(name: str, size: int) -> bytes:
    """The 512 bytes before a member: no time, no owner, so that equal members have equal headers."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


def read_sample(path: Path, key: str, columns: Mapping[str, Any]) -> Sample:
    """The sample `key` of a shard, given the columns of its members in its manifest row; touches
    nothing else of the tar.

    Raises ValueError where its bytes are not that sample.
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
    """Whether a member's bytes have the checksum of its row; a row without one vouches for none."""
    return zlib.crc32(data) == columns.get(checksum_column(member))


def check_member(header: bytes, name: str, size: int, found: int) -> None:
    """Raises ValueError unless this is the tar header of the member, and all its bytes were found."""
    if header == tar_header(name, size) and found == size:
        return
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except tarfile.HeaderError as error:
        raise ValueError(f"no member {name!r} at its offset: {error}") from error
    if info.type != tarfile.REGTYPE:
        raise ValueError(f"member {info.name[:200]!r} is of type {info.type!r}, expected a file")
    if (info.name, info.size, found) != (name, size, size):
        raise ValueError(
            f"member {info.name[:200]!r} of {info.size} bytes ({found} there), expected {name!r} of {size}"
        )
    raise ValueError(f"member {name!r} has another header than was written")
