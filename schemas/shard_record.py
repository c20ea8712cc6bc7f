"""A commit record: its seal, and what those who read one rely on (docs/data-format.md).

The seal finds a bit that flipped. It keeps nobody from writing a record of their own, so that its
fields are checked too.
"""

from dataclasses import fields
from typing import Any

from schemas.outcome import FilterMeasures, Outcome
from schemas.seal import open_seal, seal


def dump_record(record: dict[str, Any]) -> bytes:
    """A record as it is written, with the digest of all else in it: nothing but it holds a rejected
    window's measures.
    """
    return seal(record)


def load_record(data: bytes) -> dict[str, Any]:
    """Inverse of `dump_record`. Raises ValueError saying what it is instead where one bit of it has
    changed, or its fields are not a record's.
    """
    record = open_seal(data)
    if not _has_fields(record):
        raise ValueError("is no commit record: a field is missing, or of another kind")
    return record


def _has_fields(record: dict[str, Any]) -> bool:
    """Whether it has what those who read a record rely on; a digest of its own, which anyone can
    make, says nothing of that.
    """
    rows, tar, strips = (record.get(name) for name in ("rows", "tar", "strips"))
    return (
        isinstance(rows, list)
        and all(map(_is_row, rows))
        and (
            tar is None
            or (
                isinstance(tar, dict)
                and isinstance(tar.get("sha256"), str)
                and type(tar.get("bytes")) is int
            )
        )
        and isinstance(strips, dict)
        and isinstance(record.get("histogram"), str)
        and type(record.get("values")) is int
    )


def _is_row(row: Any) -> bool:
    """Whether it says of a window what became of it, and, of one that was kept, all measures."""
    if not (isinstance(row, dict) and isinstance(row.get("key"), str)):
        return False
    if row.get("outcome") not in list(Outcome) or not isinstance(row.get("reason"), str | None):
        return False
    return row["outcome"] != Outcome.KEPT or all(
        type(row.get(field.name)) in (int, float) for field in fields(FilterMeasures)
    )


def check_record_owner(record: dict[str, Any], shard: str, run: str) -> None:
    """Raises ValueError unless the record is of this shard of this run."""
    if record.get("run") != run or record.get("shard") != shard:
        raise ValueError(
            f"is of shard {record.get('shard')} of run {str(record.get('run'))[:12]}, expected {shard} of run {run[:12]}"
        )
