"""Read and write the rounds of `quiver retry`, which retry what an environment may have failed.

    retries/001.json    the rows of the first round, sealed; created once, before its first shard is
                        built

A round adds rows to the plan and changes none. A window that is retried keeps its key and belongs
to a shard of the round. A clip that gave no window has a row for each window that it gives now, or
one with the final reason. In the manifest and in every count, such a row replaces the earlier one;
the record that holds the earlier one is left as it is.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from schemas.outcome import Outcome, Stage, is_environmental
from schemas.records import PLAN_SCHEMA, PlanRow
from schemas.seal import seal
from schemas.shard_record import FATE_COLUMNS, RecordRow

_ROUND_SHARD = re.compile(r"(?:train|test)-retry([0-9]{3,6})-[0-9]{6,9}", re.ASCII)
_ROUND_READ_ERRORS = (
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    RecursionError,
    IsADirectoryError,
)
"""Errors of reading a file that is no round."""


class DamagedRound(ValueError):
    """The file of a round has changed since it was written, or is missing."""

    def __init__(self, path: Path, problem: str, is_missing: bool = False):
        super().__init__(f"{path} {problem}")
        self.name, self.problem, self.is_missing = path.name, problem, is_missing


class Round(NamedTuple):
    """One round of `quiver retry`."""

    number: int
    """1 for the first round."""
    sha256: str
    """The digest of its file, hexadecimal, which the file of the next round holds."""
    rows: list[PlanRow]
    """Each has its `round`; and `before` if it is a window that is tried again, or `retried`."""


def round_name(number: int) -> str:
    """Returns the name of a round's file."""
    return f"{number:03d}.json"


def round_number(name: str) -> int | None:
    """Returns the number of the round whose file has this name; None if no round has."""
    number = int(name[:-5]) if re.fullmatch(r"[0-9]{3,6}\.json", name, re.ASCII) else 0
    return number if number and name == round_name(number) else None


def round_of_shard(shard: str) -> int:
    """Returns the number of the round to whose shards this name belongs; 0 for the first plan."""
    match = _ROUND_SHARD.fullmatch(shard)
    return int(match[1]) if match else 0


def shard_label(number: int) -> str:
    """Returns the part of a shard's name between its split and its number, in this round."""
    return f"retry{number:03d}-"


def encode_round(number: int, run: str, last: str | None, rows: Sequence[PlanRow]) -> bytes:
    """Returns the bytes of a round's file.

    run: the digest of run.json. last: the digest of the previous round's file, None for the first.
    """
    dumped = [row.dump_round_row() for row in rows]
    return seal(dict(round=number, run=run, last=last, rows=dumped))


def read_rounds(folder: Path, run: str, newest: int = 0) -> list[Round]:
    """Reads every round of a folder, in order.

    newest: the number of the last round that has shards, which tells whether the last file is
    missing; each round holds the digest of the one before.
    Raises DamagedRound if a round is missing, has changed, or belongs to another run.
    """
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    numbers = {number for name in names if (number := round_number(name))}
    rounds: list[Round] = []
    for number in range(1, max(numbers | {newest}, default=0) + 1):
        path = folder / round_name(number)
        if number not in numbers:
            raise DamagedRound(path, "is gone, and what came after it is there", is_missing=True)
        last = rounds[-1].sha256 if rounds else None
        rounds.append(_read_round(path, number, run, last))
    return rounds


def _read_round(path: Path, number: int, run: str, last: str | None) -> Round:
    try:
        data = path.read_bytes()
        record = json.loads(data)
        record.pop("digest")
        intact = seal(record) == data
    except _ROUND_READ_ERRORS as error:
        raise DamagedRound(path, "is no round of quiver retry") from error
    if not intact:
        raise DamagedRound(path, "has changed since it was written")
    if record.get("round") != number:
        raise DamagedRound(path, f"is not round {number}")
    if record.get("run") != run or record.get("last") != last:
        raise DamagedRound(path, "is of another run, or follows another round")
    rows = record.get("rows")
    if not (isinstance(rows, list) and rows and all(_is_round_row(row, number) for row in rows)):
        raise DamagedRound(path, "has rows that no round has")
    _check_columns(path, rows)
    sha256 = hashlib.sha256(data).hexdigest()
    return Round(number, sha256, [replace(PlanRow.load(row), round=number) for row in rows])


def _is_round_row(row: Any, number: int) -> bool:
    """Returns whether a row has the values on which its readers rely: a seal, which anyone can
    make, does not guarantee them.
    """
    if not (isinstance(row, dict) and row.keys() >= {"key", "shard"}):
        return False
    if not all(isinstance(row.get(name), str) for name in ("clip_id", "uri")):
        return False
    is_retried_clip = isinstance(row.get("retried"), str)
    if row["key"] is None:
        return is_retried_clip and row["shard"] is None and row.get("outcome") in list(Outcome)
    shard = rf"(train|test)-{shard_label(number)}[0-9]{{6,9}}"
    if not re.fullmatch(shard, str(row["shard"])) or row["shard"].split("-")[0] != row.get("split"):
        return False
    return type(row.get("start_frame")) is int and (is_retried_clip or _is_fate(row.get("before")))


def _is_fate(before: Any) -> bool:
    """Returns whether `before` is a failure that may be retried."""
    if not (isinstance(before, dict) and set(before) == set(FATE_COLUMNS)):
        return False
    return is_environmental(before["outcome"], before["reason"]) and before["stage"] in list(Stage)


def _check_columns(path: Path, rows: list[dict[str, Any]]) -> None:
    """Raises DamagedRound if a value is of another kind than its column in a plan."""
    try:
        pa.Table.from_pylist(rows, PLAN_SCHEMA)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise DamagedRound(path, "has a value of another kind than a plan") from error


class SupersededRows:
    """The set of rows that a row of a later round replaces. Windows are identified by their key,
    clips by their id and uri.
    """

    def __init__(self, rounds: Iterable[Round]):
        self.newest_round: dict[tuple[str, ...], int] = {}
        for retry_round in rounds:
            for row in retry_round.rows:
                self.newest_round |= dict.fromkeys(_replaced_identities(row), retry_round.number)

    def __contains__(self, row: PlanRow) -> bool:
        return self.newest_round.get(_row_identity(row), 0) > row.round


def _row_identity(row: PlanRow) -> tuple[str, ...]:
    return (row.key,) if row.key else (row.clip_id, row.uri)


def _replaced_identities(row: PlanRow) -> Iterator[tuple[str, ...]]:
    """Yields the identities of the earlier rows that a row of a round replaces."""
    if row.key:
        yield (row.key,)
    if row.retried:
        yield row.retried, row.uri


class EarlierFates:
    """How each retried window had failed before each of the rounds that retried it."""

    def __init__(self, rounds: Iterable[Round]):
        self._fates: dict[str, list[tuple[int, RecordRow]]] = {}
        for retry_round in rounds:
            for row in retry_round.rows:
                if row.before:
                    fates = self._fates.setdefault(row.before.key, [])
                    fates.append((retry_round.number, row.before))

    def add_fates(self, rows: Iterable[PlanRow]) -> list[PlanRow]:
        """Returns the rows of one shard as they are to be built. A window that a later round has
        retried gets its failure as `known_result`: so a shard that is rebuilt has the same bytes,
        and no window is in two tars.
        """
        return [self._add_fate(row) for row in rows]

    def _add_fate(self, row: PlanRow) -> PlanRow:
        for number, fate in self._fates.get(row.window().key, []):
            if number > row.round:
                return replace(row, known_result=fate)
        return row
