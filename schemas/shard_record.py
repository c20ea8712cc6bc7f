"""The commit record of a shard: what became of each of its windows, and the digests of its files.

The digest that a record holds of itself finds a bit that flipped (`schemas.seal`). It keeps nobody
from writing a record of their own, so `ShardRecord.load` checks the fields too. The file is
described in docs/data-format.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from schemas.outcome import FilterMeasures, Outcome
from schemas.sample import MEMBERS
from schemas.seal import open_seal, seal


def member_columns(member: str) -> tuple[str, str]:
    """Names of the columns that hold a member's byte offset in the tar and its size."""
    name = member.split(".")[0]
    return f"{name}_offset", f"{name}_size"


def checksum_column(member: str) -> str:
    """Name of the column that holds the CRC-32 of a member's bytes, which tells where in a tar a
    bit flipped.
    """
    return f"{member.split('.')[0]}_crc32"


HEADER_CHECKSUM_COLUMN = "motion_header_crc32"
"""Column that holds the CRC-32 of the header of a sample's arrays. The header has a checksum of
each array, so this one vouches for a read of a part of them.
"""
MEMBER_COLUMNS = (
    *(name for member in MEMBERS for name in (*member_columns(member), checksum_column(member))),
    HEADER_CHECKSUM_COLUMN,
)
MEASURE_NAMES = tuple(field.name for field in fields(FilterMeasures))
FATE_COLUMNS = ("outcome", "stage", "reason", "detail", "attempts")
"""Columns that say what became of a window or a clip, but not what was measured on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordRow:
    """What became of one window, as the record of its shard says it.

    The JSON of a row is flat and leaves out what is None. The types of `stage`, `detail` and the
    powers are promised for the rows that Quiver writes; `load` does not check them.
    """

    key: str
    outcome: str
    """An `Outcome`."""
    stage: str | None
    """The `Stage` at which it was decided."""
    reason: str | None = None
    """A `Reason`; None for a kept window."""
    verdicts: Sequence[str] | None = None
    """Every rule that rejects the window, the reason first."""
    detail: str | None = None
    attempts: int | None = 1
    measures: FilterMeasures | None = None
    """None for a window that could not be measured."""
    power_x: Sequence[float] | None = None
    """Power spectrum of the x displacement, px^2, at every frequency k / T."""
    power_y: Sequence[float] | None = None
    energy_x: float | None = None
    """Energy of the x displacement over all frequencies, px^2."""
    energy_y: float | None = None
    members: Mapping[str, int] | None = None
    """Of a kept window, the MEMBER_COLUMNS: where its members stand in the tar, with checksums."""

    def dump(self) -> dict[str, Any]:
        """Returns the row as flat JSON, without what is None."""
        columns = {name: getattr(self, name) for name in self.__slots__}
        measures, members = columns.pop("measures"), columns.pop("members")
        columns |= (asdict(measures) if measures else {}) | dict(members or {})
        return {name: value for name, value in columns.items() if value is not None}

    @classmethod
    def load(cls, columns: Any) -> "RecordRow":
        """Returns the row of a parsed JSON value.

        Raises ValueError unless it says what became of a window and, of a kept one, all measures.
        """
        if not (isinstance(columns, dict) and isinstance(columns.get("key"), str)):
            raise ValueError("a row has no key")
        if columns.get("outcome") not in list(Outcome):
            raise ValueError("a row has no outcome")
        if not isinstance(columns.get("reason"), str | None):
            raise ValueError("the reason of a row is no text")
        measures = {name: columns.get(name) for name in MEASURE_NAMES}
        if columns["outcome"] == Outcome.KEPT and not all(
            type(value) in (int, float) for value in measures.values()
        ):
            raise ValueError("a row of a kept window lacks a measure")
        return cls(**nested_columns(columns, _FLAT_RECORD_COLUMNS))


_FLAT_RECORD_COLUMNS = tuple(
    field.name for field in fields(RecordRow) if field.name not in ("measures", "members")
)


def nested_columns(columns: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Arguments of a row from flat columns: `names` as they are, measures and members grouped."""
    measures: dict[str, Any] = {name: columns.get(name) for name in MEASURE_NAMES}
    members = {name: columns[name] for name in MEMBER_COLUMNS if columns.get(name) is not None}
    return {name: columns.get(name) for name in names} | dict(
        measures=None if None in measures.values() else FilterMeasures(**measures),
        members=members or None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TarDigest:
    """The sha256 of a tar, hexadecimal, and its length."""

    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRecord:
    """The truth about one committed shard."""

    shard: str
    run: str
    """sha256 of the run.json of its dataset."""
    rows: Sequence[RecordRow]
    """One row for each window that was planned for the shard, in the order of the plan."""
    tar: TarDigest | None
    """None if no window was kept, so that there is no tar."""
    histogram: str
    """sha256 of the shard's histogram."""
    values: int
    """Values that the histogram counts."""
    strips: Mapping[str, str]
    """By key, three frames of a rejected window as a base64 JPEG."""
    quiver: str | None = None
    """The version of Quiver that built the shard."""

    def dump(self) -> bytes:
        """Returns the file: JSON with the digest of everything else in it."""
        record = {name: getattr(self, name) for name in self.__slots__}
        record["rows"] = [row.dump() for row in self.rows]
        record["tar"] = self.tar and asdict(self.tar)
        if self.quiver is None:
            del record["quiver"]
        return seal(record)

    @classmethod
    def load(cls, data: bytes) -> "ShardRecord":
        """Returns the record of a file.

        Raises ValueError, to stand after the file's name, if a bit of it has changed or its fields
        are not those of a record.
        """
        record = open_seal(data)
        try:
            return cls(
                shard=_typed(record["shard"], str),
                run=_typed(record["run"], str),
                rows=[RecordRow.load(row) for row in _typed(record["rows"], list)],
                tar=_load_tar(record["tar"]),
                histogram=_typed(record["histogram"], str),
                values=_typed(record["values"], int),
                strips=_typed(record["strips"], dict),
                quiver=record.get("quiver"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "is no commit record: a field is missing, or of another kind"
            ) from error

    def check_owner(self, shard: str, run: str) -> None:
        """Raises ValueError unless the record is of this shard of this run."""
        if self.run != run or self.shard != shard:
            raise ValueError(
                f"is of shard {self.shard} of run {self.run[:12]}, "
                f"expected {shard} of run {run[:12]}"
            )

    def kept_members(self) -> dict[str, Mapping[str, int]]:
        """Returns the MEMBER_COLUMNS of each kept window, by its key, in the order of the tar."""
        return {row.key: row.members or {} for row in self.rows if row.outcome == Outcome.KEPT}


def _typed(value: Any, kind: type) -> Any:
    """Returns the value. Raises TypeError if its type is another; a bool is no int here."""
    if type(value) is not kind:
        raise TypeError(f"{value!r:.80} is no {kind.__name__}")
    return value


def _load_tar(tar: Any) -> TarDigest | None:
    if tar is None:
        return None
    return TarDigest(sha256=_typed(tar["sha256"], str), bytes=_typed(tar["bytes"], int))
