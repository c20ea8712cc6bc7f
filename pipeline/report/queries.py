"""Reads what the report needs of datasets: columns of manifests, records, the log of a run.

Of all rows only a few columns are held at once; wide columns, samples and records are read for
chosen windows alone. A window is known by its key and the place of its dataset in the list of
datasets, in the column `set`.
"""

import base64
import binascii
import hashlib
import io
import json
from collections import Counter
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
    "source",
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
_DICTIONARY_COLUMNS = ["shard", "clip_id", "uri", "licence", "source", "split", "outcome", "reason"]
"""Columns with few different values, each of which is held once."""
_MAX_STRIP_BYTES = 40_000
_MAX_LOG_NUMBER = 1e12
"""A line of a log with a number of seconds or windows as large as this is skipped as damaged."""
_JPEG_URI_PREFIX = "data:image/jpeg;base64,"


def read_rows(selections: Sequence[DatasetView]) -> pa.Table:
    """Every row of the datasets' tables, with the place of its dataset in `selections` as `set`."""
    tables = [
        selection.read_table(columns=_REPORT_COLUMNS, read_dictionary=_DICTIONARY_COLUMNS)
        for selection in selections
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
        table = table.filter(
            pc.equal(table[name].cast(pa.string()), value)  # pyright: ignore[reportAttributeAccessIssue]
        )
    return table


def read_numbers(table: pa.Table, name: str) -> Float64[np.ndarray, " rows"]:
    """A column as float64; null becomes NaN."""
    return table[name].to_numpy().astype(np.float64)


def select_measured(table: pa.Table) -> pa.Table:
    """The windows for which every measure of the filters is finite."""
    return table.filter(
        np.isfinite([read_numbers(table, name) for name in _MEASURE_NAMES]).all(axis=0)
    )


def group_by_dataset(table: pa.Table, selections: Sequence[DatasetView]) -> list[MeasuredWindows]:
    """The measured windows of each dataset, with its thresholds."""
    groups = []
    for i, selection in enumerate(selections):
        windows = table.filter(pc.equal(table["set"], i))  # pyright: ignore
        groups.append(
            MeasuredWindows(
                SimpleNamespace(**{name: read_numbers(windows, name) for name in _MEASURE_NAMES}),
                selection.thresholds(),
                np.isfinite(read_numbers(windows, SIZE_COLUMNS[0])),
            )
        )
    return groups


def draw_windows(table: pa.Table, count: int) -> pa.Table:
    """At most `count` windows of the table, in the order of a hash of their keys: random, and the
    same for the same windows.
    """
    keys, sets = table["key"].to_pylist(), table["set"].to_pylist()
    hashes = [
        (hashlib.sha256(key.encode()).digest(), dataset)
        for key, dataset in zip(keys, sets, strict=True)
    ]
    order = sorted(range(len(table)), key=hashes.__getitem__)
    return table.take(pa.array(order[:count], pa.int64()))


def draw_varied_windows(table: pa.Table, count: int) -> list[dict[str, Any]]:
    """At most `count` windows, drawn as `draw_windows` does, of different clips as long as there
    are any.
    """
    windows = draw_windows(table, 50 * count).to_pylist()
    windows_of_clip = Counter[tuple[int, str]]()
    turns = []  # how many windows of its clip were drawn before each window
    for row in windows:
        clip = (row["set"], row["clip_id"])
        turns.append(windows_of_clip[clip])
        windows_of_clip[clip] += 1
    return [windows[i] for i in sorted(range(len(windows)), key=turns.__getitem__)[:count]]


def read_powers(
    selections: Sequence[DatasetView], table: pa.Table
) -> Float64[np.ndarray, "windows 2 all_freq"]:
    """Power of x and y of the chosen windows, px^2, in their order. Only one row group of a
    manifest is in memory at a time.
    """
    windows = list(zip(table["set"].to_pylist(), table["key"].to_pylist(), strict=True))
    powers = {
        window: [row["power_x"], row["power_y"]]
        for window, row in _look_up_rows(selections, windows, ["key", "power_x", "power_y"])
    }
    return np.array([powers[window] for window in windows], np.float64)


def read_full_rows(selections: Sequence[DatasetView], rows: Sequence[dict]) -> list[dict[str, Any]]:
    """The chosen rows with every column of their tables but the powers."""
    columns = [name for name in MANIFEST_SCHEMA.names if not name.startswith("power_")]
    windows = [(row["set"], row["key"]) for row in rows]
    full_rows = dict(_look_up_rows(selections, windows, columns))
    return [row | full_rows[window] for row, window in zip(rows, windows, strict=True)]


def _look_up_rows(
    selections: Sequence[DatasetView], windows: Sequence[tuple[int, str]], columns: list[str]
) -> Iterable[tuple[tuple[int, str], dict]]:
    """Columns of the windows (dataset, key), in no promised order."""
    for i in sorted({dataset for dataset, _ in windows}):
        keys = pa.array([key for dataset, key in windows if dataset == i], pa.string())
        for group in selections[i].iter_row_groups(columns):
            is_chosen = pc.is_in(group["key"], value_set=keys)  # pyright: ignore
            yield from (((i, row["key"]), row) for row in group.filter(is_chosen).to_pylist())


def read_quarantined(selections: Sequence[DatasetView], max_rows: int) -> list[dict[str, Any]]:
    """The first `max_rows` quarantined rows, with their detail."""
    columns = ["clip_id", "uri", "start_time_s", "stage", "reason", "detail"]
    quarantined: list[dict[str, Any]] = []
    for selection in selections:
        for group in selection.iter_row_groups(["outcome", *columns]):
            rows = filter_rows(group, outcome=Outcome.QUARANTINED.value).select(columns)
            quarantined += rows.slice(0, max_rows - len(quarantined)).to_pylist()
    return quarantined


def read_strips(
    selections: Sequence[DatasetView], rows: Sequence[dict]
) -> dict[tuple[int, str], str]:
    """The stored pictures of rejected windows as data URIs, by window (dataset, key): "" if they
    are damaged, no entry if there are none. Reads each record only once.
    """
    strips: dict[tuple[int, str], str] = {}
    for i, shard in sorted({(row["set"], row["shard"]) for row in rows}):
        strips_by_key = selections[i].dataset.read_record(shard).strips
        for row in rows:
            key = row["key"]
            if (row["set"], row["shard"]) == (i, shard) and key in strips_by_key:
                strips[i, key] = (
                    _JPEG_URI_PREFIX + strips_by_key[key] if is_jpeg(strips_by_key[key]) else ""
                )
    return strips


def is_jpeg(text: Any) -> bool:
    """Whether this value of a record is base64 of a small JPEG that decodes."""
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
    """The lines of progress.jsonl in order; those that cannot be read are skipped."""
    try:
        text = selection.dataset.progress.read_text(errors="replace")
    except OSError:
        return []
    return [entry for line in text.splitlines() if (entry := _parse_log_line(line))]


def _parse_log_line(line: str) -> ShardLogEntry | None:
    """Returns None for a line that is incomplete or damaged."""
    try:
        entry = json.loads(line)
        windows = sum(int(entry[outcome.value]) for outcome in Outcome)
        numbers = [float(entry[name]) for name in ("elapsed_s", "seconds", "waiting_share", "at")]
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    if not np.isfinite(numbers).all():
        return None
    if min(*numbers, windows) < 0 or max(*numbers, windows) >= _MAX_LOG_NUMBER:
        return None
    elapsed, seconds, waiting, at = numbers
    return ShardLogEntry(elapsed, windows, seconds, waiting, at - elapsed)
