"""Arrow schemas of the tables in a data set (docs/data-format.md)."""

from dataclasses import fields

import pyarrow as pa

from schemas.outcome import FilterMeasures
from schemas.sample import MEMBERS

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
_MEASURE_FIELDS = [pa.field(f.name, pa.float64()) for f in fields(FilterMeasures)]
_POWER_FIELDS = [
    pa.field("power_x", pa.list_(pa.float64())),
    pa.field("power_y", pa.list_(pa.float64())),
    pa.field("energy_x", pa.float64()),
    pa.field("energy_y", pa.float64()),
]


def member_columns(member: str) -> tuple[str, str]:
    """Names of the columns that hold a member's byte offset in the tar and its size."""
    name = member.split(".")[0]
    return f"{name}_offset", f"{name}_size"


def checksum_column(member: str) -> str:
    """Name of the column that holds the CRC-32 of a member's bytes: tells where in a tar a bit
    flipped.
    """
    return f"{member.split('.')[0]}_crc32"


HEADER_CHECKSUM_COLUMN = "motion_header_crc32"
"""Column that holds the CRC-32 of the header of a sample's arrays, in which each array has its own:
what seals a read of a part of them.
"""
MEMBER_COLUMNS = [
    *(name for member in MEMBERS for name in (*member_columns(member), checksum_column(member))),
    HEADER_CHECKSUM_COLUMN,
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
