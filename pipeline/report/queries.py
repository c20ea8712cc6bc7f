"""What the report reads of data sets: columns of manifests, the records that hold a chosen strip,
the log of a run.

No more than a few columns of all rows are held at once; wide columns, samples and records are read
for chosen windows.
"""

import base64
import binascii
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64
from PIL import Image

from pipeline.dataset.open import DatasetView
from pipeline.report.stats import MeasuredWindows, ShardLogEntry
from schemas.outcome import FilterMeasures, Outcome
from schemas.records import MANIFEST_SCHEMA
from schemas.sample import MEMBERS
from schemas.shard_record import member_columns

SIZE_COLUMNS = [member_columns(member)[1] for member in MEMBERS]
_MEASURE_NAMES = [field.name for field in fields(FilterMeasures)]
_REPORT_COLUMNS = [
    "key",
    "shard",
    "clip_id",
    "uri",
    "licence",
    "start_time_s",
    "duration_s",
    "split",
    "outcome",
    "reason",
    "energy_x",
    "energy_y",
    *SIZE_COLUMNS,
    *_MEASURE_NAMES,
]
_DICTIONARY_COLUMNS = ["shard", "clip_id", "uri", "licence", "split", "outcome", "reason"]
"""Columns with few different values, held once each."""
_MAX_STRIP_BYTES = 40_000
_MAX_LOG_NUMBER = 1e12
"""A number in a log of at least so many seconds or windows is none."""
_JPEG_URI_PREFIX = "data:image/jpeg;base64,"


def read_rows(selections: Sequence[DatasetView]) -> pa.Table:
    """One row for every row of their tables; `set` is the place of the data set in `selections`."""
    tables = [
        one.read_table(columns=_REPORT_COLUMNS, read_dictionary=_DICTIONARY_COLUMNS)
        for one in selections
    ]
    return pa.concat_tables(
        [
            table.append_column("set", pa.array(np.full(len(table), i, np.int32)))
            for i, table in enumerate(tables)
        ]
    ).unify_dictionaries()


def filter_rows(table: pa.Table, **equal: str) -> pa.Table:
    """The rows in which these columns have these values."""
    for name, value in equal.items():
        # pyright: ignore[reportAttributeAccessIssue]
        table = table.filter(pc.equal(table[name].cast(pa.string()), value))
    return table


def read_numbers(table: pa.Table, name: str) -> Float64[np.ndarray, " rows"]:
    """Numbers; NaN where there is none."""
    return table[name].to_numpy().astype(np.float64)


def select_measured(table: pa.Table) -> pa.Table:
    """The windows of which every measure was taken."""
    return table.filter(
        np.isfinite([read_numbers(table, name) for name in _MEASURE_NAMES]).all(axis=0)
    )


def group_by_dataset(table: pa.Table, selections: Sequence[DatasetView]) -> list[MeasuredWindows]:
    """The measured windows of each data set, with its thresholds."""
    # pyright: ignore[reportAttributeAccessIssue]
    groups = [(one, table.filter(pc.equal(table["set"], i))) for i, one in enumerate(selections)]
    return [
        MeasuredWindows(
            SimpleNamespace(**{name: read_numbers(part, name) for name in _MEASURE_NAMES}),
            one.thresholds(),
            np.isfinite(read_numbers(part, SIZE_COLUMNS[0])),
        )
        for one, part in groups
    ]


def draw_windows(table: pa.Table, count: int) -> pa.Table:
    """At most `count` of its windows, in the order of a hash of their keys: random, and the same
    for the same windows.
    """
    order = sorted(range(len(table)), key=_random_order_keys(table).__getitem__)
    return table.take(pa.array(order[:count], pa.int64()))


def draw_varied_windows(table: pa.Table, count: int) -> list[dict[str, Any]]:
    """So many windows, drawn like those of `drawn`, each of another clip as long as there are
    others.
    """
    some = draw_windows(table, 50 * count).to_pylist()
    seen: dict[tuple[int, str], int] = {}
    turns = []
    for row in some:
        clip = (row["set"], row["clip_id"])
        seen[clip] = turn = seen.get(clip, -1) + 1
        turns.append(turn)
    return [some[i] for i in sorted(range(len(some)), key=turns.__getitem__)[:count]]


def _random_order_keys(table: pa.Table) -> list[tuple[bytes, int]]:
    """What decides whether a window is drawn."""
    keys, sets = table["key"].to_pylist(), table["set"].to_pylist()
    return [
        (hashlib.sha256(key.encode()).digest(), place)
        for key, place in zip(keys, sets, strict=True)
    ]


def read_powers(
    selections: Sequence[DatasetView], chosen: pa.Table
) -> Float64[np.ndarray, "windows 2 all_freq"]:
    """Power of x and y of the chosen windows, px^2, in their order; one row group of a manifest in
    memory at a time.
    """
    wanted = list(zip(chosen["set"].to_pylist(), chosen["key"].to_pylist(), strict=True))
    found = {
        place: [row["power_x"], row["power_y"]]
        for place, row in _look_up_rows(selections, wanted, ["key", "power_x", "power_y"])
    }
    return np.array([found[place] for place in wanted], np.float64)


def read_full_rows(
    selections: Sequence[DatasetView], chosen: Sequence[dict]
) -> list[dict[str, Any]]:
    """The same rows with every column of their tables but the powers."""
    columns = [name for name in MANIFEST_SCHEMA.names if not name.startswith("power_")]
    found = dict(_look_up_rows(selections, [(row["set"], row["key"]) for row in chosen], columns))
    return [row | found[row["set"], row["key"]] for row in chosen]


def _look_up_rows(
    selections: Sequence[DatasetView], wanted: Sequence[tuple[int, str]], columns: list[str]
) -> Iterable[tuple[tuple[int, str], dict]]:
    """Columns of the wanted windows (data set, key), in no promised order."""
    for i in sorted({place for place, _ in wanted}):
        keys = pa.array([key for place, key in wanted if place == i], pa.string())
        for group in selections[i].iter_row_groups(columns):
            # pyright: ignore[reportAttributeAccessIssue]
            part = group.filter(pc.is_in(group["key"], value_set=keys))
            yield from (((i, row["key"]), row) for row in part.to_pylist())


def read_quarantined(selections: Sequence[DatasetView], most: int) -> list[dict[str, Any]]:
    """The first `most` rows that were quarantined, with their detail."""
    columns, found = ["clip_id", "uri", "start_time_s", "stage", "reason", "detail"], []
    for one in selections:
        for group in one.iter_row_groups(["outcome", *columns]):
            found += (
                filter_rows(group, outcome=Outcome.QUARANTINED.value)
                .select(columns)
                .slice(0, most - len(found))
                .to_pylist()
            )
    return found


def read_strips(
    selections: Sequence[DatasetView], chosen: Sequence[dict]
) -> dict[tuple[int, str], str]:
    """For each of these rejected windows its stored pictures as a data URI, or "" where they are
    damaged; windows without stored pictures are left out. Reads each record that holds one of them
    once.
    """
    found: dict[tuple[int, str], str] = {}
    for i, shard in sorted({(row["set"], row["shard"]) for row in chosen}):
        stored = selections[i].dataset.read_record(shard).strips
        wanted = [
            row["key"]
            for row in chosen
            if (row["set"], row["shard"]) == (i, shard) and row["key"] in stored
        ]
        found |= {
            (i, key): _JPEG_URI_PREFIX + stored[key] if is_jpeg(stored[key]) else ""
            for key in wanted
        }
    return found


def is_jpeg(text: Any) -> bool:
    """Whether this is base64 of a small JPEG that decodes."""
    if not isinstance(text, str) or len(text) > _MAX_STRIP_BYTES:
        return False
    try:
        with Image.open(
            io.BytesIO(base64.b64decode(text, validate=True)), formats=["JPEG"]
        ) as image:
            if max(image.size) <= 4096:
                image.load()
                return True
    except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        pass
    return False


def read_log(selection: DatasetView) -> list[ShardLogEntry]:
    """The lines of progress.jsonl that can be read, in order."""
    try:
        text = selection.dataset.progress.read_text(errors="replace")
    except OSError:
        return []
    return [entry for line in text.splitlines() if (entry := _parse_log_line(line))]


def _parse_log_line(line: str) -> ShardLogEntry | None:
    """None for a line that is torn or something else."""
    try:
        entry = json.loads(line)
        windows = sum(int(entry[outcome.value]) for outcome in Outcome)
        numbers = [float(entry[name]) for name in ("elapsed_s", "seconds", "waiting_share", "at")]
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    sound = (
        np.isfinite(numbers).all()
        and min(*numbers, windows) >= 0
        and max(*numbers, windows) < _MAX_LOG_NUMBER
    )
    elapsed, seconds, waiting, at = numbers
    return ShardLogEntry(elapsed, windows, seconds, waiting, at - elapsed) if sound else None
