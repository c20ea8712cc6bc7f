"""Rows of the plan and the manifest, with their Arrow schemas, and the index of the shards.

docs/reference/data-format.md describes the files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa

from schemas.clip import Window
from schemas.outcome import FilterMeasures
from schemas.seal import open_seal, seal
from schemas.shard_record import (
    FATE_COLUMNS,
    MEASURE_NAMES,
    MEMBER_COLUMNS,
    RecordRow,
    nested_columns,
)

CLIP_FIELDS = [
    pa.field("clip_id", pa.string()),
    pa.field("uri", pa.string()),
    pa.field("sha256", pa.string()),
    pa.field("bytes", pa.int64()),
    pa.field("duration_s", pa.float64()),
    pa.field("clip_start_s", pa.float64()),
    pa.field("clip_end_s", pa.float64()),
    pa.field("licence", pa.string()),
    pa.field("source", pa.string()),
]
_WINDOW_FIELDS = [
    pa.field("key", pa.string()),
    pa.field("start_frame", pa.int64()),
    pa.field("start_time_s", pa.float64()),
    pa.field("split", pa.string()),
    pa.field("shard", pa.string()),
]
_OUTCOME_FIELDS = [
    pa.field("outcome", pa.string()),
    pa.field("stage", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("verdicts", pa.list_(pa.string())),
    pa.field("detail", pa.string()),
    pa.field("attempts", pa.int32()),
]
_MEASURE_FIELDS = [pa.field(name, pa.float64()) for name in MEASURE_NAMES]
_POWER_FIELDS = [
    pa.field("power_x", pa.list_(pa.float64())),
    pa.field("power_y", pa.list_(pa.float64())),
    pa.field("energy_x", pa.float64()),
    pa.field("energy_y", pa.float64()),
]
_MEMBER_FIELDS = [pa.field(column, pa.int64()) for column in MEMBER_COLUMNS]

_ROOT_FIELD = pa.field("root", pa.string())
"""The folder in which a clip was found, which a link must not leave; null if it was listed by name.
"""
_FATE_FIELDS = [field for field in _OUTCOME_FIELDS if field.name != "verdicts"]
PLAN_SCHEMA = pa.schema([*_WINDOW_FIELDS, *CLIP_FIELDS, *_FATE_FIELDS, _ROOT_FIELD])
"""One row for every window planned; one with a null key and an outcome for every clip that gave
none.

`split` is null for a clip whose split its content decides, if the content could not be read.
"""

MANIFEST_SCHEMA = pa.schema(
    [
        *_WINDOW_FIELDS,
        *CLIP_FIELDS,
        *_OUTCOME_FIELDS,
        *_MEASURE_FIELDS,
        *_POWER_FIELDS,
        *_MEMBER_FIELDS,
    ]
)
"""The same rows with what became of each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRow:
    """A planned window, or a clip that gave no window, which has no key and an outcome.

    Windows have no outcome in the plan; the record of their shard has it.
    """

    key: str | None = None
    """Name of the window's sample; None for a clip that gave no window."""
    start_frame: int | None = None
    """Index of the start frame in the file."""
    start_time_s: float | None = None
    """Seconds after the first frame of the file."""
    split: str | None = None
    """`train` or `test`; None for a clip whose split its content decides, if the content could not
    be read.
    """
    shard: str | None = None
    clip_id: str
    uri: str
    """Path or URL of the video."""
    sha256: str | None = None
    """The digest of the video's content, hexadecimal; None if it could not be read."""
    bytes: int | None = None
    duration_s: float | None = None
    clip_start_s: float | None = None
    clip_end_s: float | None = None
    licence: str | None = None
    source: str | None = None
    outcome: str | None = None
    stage: str | None = None
    reason: str | None = None
    detail: str | None = None
    attempts: int | None = None
    root: str | None = None
    """The folder in which the clip was found; None if it was listed by name."""

    round: int = 0
    """The round of `quiver retry` that added the row; 0 for the first plan."""
    before: RecordRow | None = None
    """In a round, what became earlier of the window that is tried again."""
    retried: str | None = None
    """In a round, the id that the clip had when it gave no window."""
    known_result: RecordRow | None = None
    """What became of the window, if that is decided: its shard records it and does not build it."""

    def window(self) -> Window:
        """Returns the window of the row. Raises ValueError for a clip that gave no window."""
        if self.key is None or self.start_frame is None or self.start_time_s is None:
            raise ValueError(f"the row of clip {self.clip_id} has no window")
        return Window(key=self.key, start_frame=self.start_frame, start_time_s=self.start_time_s)

    def dump(self) -> dict[str, Any]:
        """Returns the columns of PLAN_SCHEMA."""
        return {name: getattr(self, name) for name in PLAN_SCHEMA.names}

    def dump_round_row(self) -> dict[str, Any]:
        """Returns the row as JSON for the file of a round, whose number it leaves out."""
        columns = self.dump()
        if self.retried is not None:
            columns["retried"] = self.retried
        if self.before is not None:
            columns["before"] = {name: getattr(self.before, name) for name in FATE_COLUMNS}
        return columns

    @classmethod
    def load(cls, columns: Mapping[str, Any]) -> "PlanRow":
        """Returns the row of a plan's table, or of a round's file; a missing column is None."""
        before = columns.get("before")
        planned: dict[str, Any] = {name: columns.get(name) for name in PLAN_SCHEMA.names}
        return cls(
            **planned,
            before=RecordRow(key=columns["key"], **before) if before else None,
            retried=columns.get("retried"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestRow(PlanRow):
    """A row of the plan with what became of it."""

    verdicts: Sequence[str] | None = None
    measures: FilterMeasures | None = None
    """None for a window that could not be measured."""
    power_x: Sequence[float] | None = None
    power_y: Sequence[float] | None = None
    energy_x: float | None = None
    energy_y: float | None = None
    members: Mapping[str, int] | None = None
    """The MEMBER_COLUMNS of a kept window (`RecordRow`)."""

    @classmethod
    def join(cls, planned: PlanRow, result: RecordRow | None) -> "ManifestRow":
        """Returns a row of the plan with its row of the shard's record, if it has one."""
        columns = {field.name: getattr(planned, field.name) for field in fields(PlanRow)}
        if result is not None:
            columns |= {field.name: getattr(result, field.name) for field in fields(RecordRow)}
        return cls(**columns)

    def dump(self) -> dict[str, Any]:
        """Returns the columns of MANIFEST_SCHEMA that are not null."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        columns |= (asdict(self.measures) if self.measures else {}) | dict(self.members or {})
        return {name: columns.get(name) for name in MANIFEST_SCHEMA.names}

    @classmethod
    def load(cls, columns: Mapping[str, Any]) -> "ManifestRow":
        """Returns the row of a manifest's table; a missing column is None."""
        return cls(**nested_columns(columns, _FLAT_MANIFEST_COLUMNS))


_FLAT_MANIFEST_COLUMNS = tuple(
    field.name for field in (*_WINDOW_FIELDS, *CLIP_FIELDS, *_OUTCOME_FIELDS, *_POWER_FIELDS)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexEntry:
    """What a shard holds, for readers that need not read its record."""

    split: str
    kept: int
    """Windows that are kept."""
    tar: str | None
    """sha256 of its tar; None if no window was kept when it was built."""
    content: str | None
    """Digest that tells one set of kept samples from another."""

    def has_training_windows(self) -> bool:
        return self.split == "train" and self.kept > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetIndex:
    """The shards of a dataset, or of a view of it, and digests of the files beside the index."""

    run: str
    """sha256 of run.json."""
    shards: Mapping[str, IndexEntry]
    histogram: str | None
    """sha256 of the merged histogram; None if there is no training window."""
    manifest: str
    """sha256 of the manifest."""

    def tars(self) -> dict[str, str | None]:
        """Returns the digest of each shard's tar."""
        return {shard: entry.tar for shard, entry in self.shards.items()}

    def dump(self) -> bytes:
        """Returns the file: JSON with the digest of everything else in it."""
        return seal(asdict(self), indent=1)

    @classmethod
    def load(cls, data: bytes) -> "DatasetIndex":
        """Returns the index of a file. Raises ValueError if it is not one that `dump` wrote."""
        index = open_seal(data, indent=1)
        try:
            shards = {shard: _load_entry(entry) for shard, entry in index["shards"].items()}
            if not isinstance(index["histogram"], str | None):
                raise ValueError(f"histogram is {index['histogram']!r}")
            if not isinstance(index["manifest"], str):
                raise ValueError(f"manifest is {index['manifest']!r}")
            return cls(
                run=index["run"],
                shards=shards,
                histogram=index["histogram"],
                manifest=index["manifest"],
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"is no index: {error!r}") from error


def _load_entry(entry: Mapping[str, Any]) -> IndexEntry:
    if (
        entry["split"] not in ("train", "test")
        or type(entry["kept"]) is not int
        or (entry["kept"] and not isinstance(entry["content"], str))
    ):
        raise ValueError(f"an entry is {entry}")
    return IndexEntry(
        split=entry["split"], kept=entry["kept"], tar=entry["tar"], content=entry["content"]
    )
