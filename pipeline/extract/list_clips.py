"""Lists the clips of `--clips`: of folders, files, URLs of object storage, and tables."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from pipeline.dataset.object_store import is_storage_url
from pipeline.dataset.remote_clips import list_object_urls
from pipeline.redact import check_no_secret, check_not_url
from schemas.clip import Clip
from schemas.outcome import to_printable

VIDEO_SUFFIXES = frozenset(
    [
        *[".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts"],
        *[".mts", ".m2ts", ".ogv", ".flv", ".wmv", ".3gp", ".gif", ".dv"],
    ]
)
_MAX_TEXT_CHARACTERS = 4096
"""Characters of a text in a table of clips: each of its windows repeats it."""
_MAX_CUT_TIME_S = 1e9
"""30 years: no time of a cut is later, or earlier, than that."""
_MISSING_NUMBER_WORDS = frozenset(["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None"])
"""Words of other programs for a number that is missing. For a text there is none: a clip may be
called NA.
"""
_TABLE_SUFFIXES = frozenset({".parquet", ".csv"})
_OPTIONAL_COLUMNS = {
    "clip_id": pa.string(),
    "start_s": pa.float64(),
    "end_s": pa.float64(),
    "licence": pa.string(),
    "source": pa.string(),
    "split": pa.string(),
}


def list_clips(paths: Sequence[str]) -> list[Clip]:
    """Returns the clips of folders (searched recursively), single files, and Parquet or CSV tables,
    in a fixed order.

    Raises ValueError, which names the path, if one does not exist, is no table, gives no clip, or
    would write a secret down.
    """
    if not paths or not all(paths):
        raise ValueError(
            "--clips is empty, expected folders, video files, or a .parquet or .csv table"
        )
    for path in paths:
        if not is_storage_url(path):
            check_not_url("--clips", path)
    clips = [
        clip
        for path in paths
        for clip in (_list_url(path) if is_storage_url(path) else _list_path(Path(path)))
    ]
    ids = [clip.clip_id for clip in clips if clip.clip_id is not None]
    if len(ids) != len(set(ids)):
        twice = next(clip_id for clip_id in ids if ids.count(clip_id) > 1)
        raise ValueError(f"clip_id {twice!r} is listed twice, expected each once")
    return clips


def _list_path(path: Path) -> list[Clip]:
    if path.is_dir():
        files, root = sorted(_find_videos(path)), str(path.absolute())
        places = [os.path.relpath(file, path) for file in files]
        clips = [
            Clip(uri=os.path.abspath(path / place), root=root, place=place) for place in places
        ]
        if not clips:
            raise ValueError(
                f"no video files in {str(path)!r}, expected some of "
                f"{' '.join(sorted(VIDEO_SUFFIXES))}"
            )
        return clips
    if path.suffix.lower() in _TABLE_SUFFIXES and path.exists():
        return _read_clip_table(path)
    if not path.exists():
        raise ValueError(
            f"--clips {str(path)!r} does not exist, expected a folder, a video file, or a .parquet "
            "or .csv table"
        )
    return [Clip(uri=os.path.abspath(path))]


def _find_videos(folder: Path) -> Iterator[Path]:
    """The videos below a folder, and the folders there that cannot be searched: links that lead out
    of it, which are not followed, and those that cannot be read. `plan_clip` gives these their
    outcome when it probes them.
    """
    unreadable: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=unreadable.append):
        paths = (Path(place, name) for name in files)
        yield from (path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES)
        paths = (Path(place, name) for name in folders)
        yield from (path for path in paths if path.is_symlink() and not is_inside(path, folder))
    yield from (Path(str(error.filename)) for error in unreadable)


def is_inside(path: str | Path, folder: str | Path) -> bool:
    """Whether a path, with all links followed, lies in a folder."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _list_url(url: str) -> list[Clip]:
    """Lists the videos under a URL of object storage. Tables there are not read."""
    urls = [
        video
        for video in list_object_urls(url)
        if PurePosixPath(video).suffix.lower() in VIDEO_SUFFIXES or video == url
    ]
    if not urls or PurePosixPath(url).suffix.lower() in _TABLE_SUFFIXES:
        raise ValueError(
            f"no video files in {url!r}, expected some of {' '.join(sorted(VIDEO_SUFFIXES))}, or a "
            "table of s3:// uris on this machine"
        )
    return [Clip(uri=video) for video in urls]


def _read_clip_table(path: Path) -> list[Clip]:
    """Relative uris are relative to the table's folder."""
    try:
        table = _read_csv(path) if path.suffix.lower() == ".csv" else parquet.read_table(path)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        words = f"{to_printable(str(error))}; expected Parquet, or CSV in UTF-8"
        raise ValueError(f"table {str(path)!r} cannot be read: {words}") from error
    if table.column_names.count("uri") != 1 or not len(table):
        raise ValueError(
            f"table {str(path)!r} has columns {table.column_names} and {len(table)} rows, expected "
            "one uri column and a row"
        )
    columns = {"uri": pa.string()} | {
        n: t for n, t in _OPTIONAL_COLUMNS.items() if n in table.column_names
    }
    try:
        rows = table.select(list(columns)).cast(pa.schema(columns.items())).to_pylist()
    except (pa.ArrowException, KeyError) as error:
        raise ValueError(
            f"table {str(path)!r} has a column twice or of the wrong type: "
            f"{to_printable(str(error))}"
        ) from error
    if empty := [i for i, row in enumerate(rows) if not row["uri"]]:
        raise ValueError(f"table {str(path)!r} has no uri in row {empty[0] + 1}")
    for number, row in enumerate(rows, 1):
        _check_clip_row(f"of row {number} of table {str(path)!r}", row)
    return [_clip_from_table_row(row, path.parent) for row in rows]


def _check_clip_row(which: str, row: dict[str, Any]) -> None:
    """Raises ValueError if a row says what no row of a plan may: a URL, a password, a text
    without end.
    """
    for name, value in row.items():
        if isinstance(value, str):
            if len(value) > _MAX_TEXT_CHARACTERS:
                raise ValueError(
                    f"{name} {which} has {len(value)} characters, expected at most "
                    f"{_MAX_TEXT_CHARACTERS}"
                )
            check_no_secret(f"{name} {which}", value)
    if not is_storage_url(row["uri"]):
        check_not_url(f"uri {which}", row["uri"])


def _read_csv(path: Path) -> pa.Table:
    """A CSV with a header; known columns keep their type, whatever their values look like, and only
    an empty text is none.
    """
    texts = {name: pa.string() for name in ("uri", *_OPTIONAL_COLUMNS)}
    options = csv.ConvertOptions(column_types=texts, strings_can_be_null=True, null_values=[""])
    table = csv.read_csv(path, convert_options=options)
    for place, name in enumerate(table.column_names):
        if _OPTIONAL_COLUMNS.get(name) == pa.float64():
            numbers = [
                None if text in _MISSING_NUMBER_WORDS else text for text in table[name].to_pylist()
            ]
            table = table.set_column(place, name, pa.array(numbers, pa.string()).cast(pa.float64()))
    return table


def _clip_from_table_row(row: dict[str, Any], folder: Path) -> Clip:
    """A clip from a row of a table. NaN is left out, and a time beyond `_MAX_CUT_TIME_S` is set to
    that: no value costs more than its row.
    """
    floats = {name: value for name, value in row.items() if isinstance(value, float)}
    numbers = {name: clamp_cut_time(value) for name, value in floats.items() if not np.isnan(value)}
    texts = {name: value for name, value in row.items() if isinstance(value, str) and value}
    columns: dict[str, Any] = texts | numbers
    place = columns.pop("uri")
    uri = place if is_storage_url(place) else os.path.abspath(folder / place)
    return Clip(uri=uri, place=place, **columns)


def clamp_cut_time(seconds: float) -> float:
    """The time of a cut, at most `_MAX_CUT_TIME_S` before or after the first frame."""
    return min(max(seconds, -_MAX_CUT_TIME_S), _MAX_CUT_TIME_S)
