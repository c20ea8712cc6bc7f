"""A data set on disk: the run contract, the plan, and the shards with their commit records.

    run.json  plan.parquet              written once, before the first shard
    retries/NNN.json                    what a later run tries again: rows that are added to the
                                        plan (rounds.py)
    shards/NAME.tar  histograms/NAME.safetensors  records/NAME.json       one of each per shard, in
                     this order

A record is the truth about its shard; nothing that it names is ever changed after it. Everything
else in the folder is derived from these (derived.py).
"""

import errno
import fcntl
import hashlib
import io
import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.atomic_files import TEMPORARY_NAME, open_to_create, open_to_replace
from pipeline.dataset.crashpoint import crashpoint
from pipeline.dataset.rounds import (
    DamagedRound,
    Round,
    encode_round,
    read_rounds,
    round_name,
    round_of_shard,
)
from pipeline.dataset.run_lock import FolderInUse, RunLock, try_lock
from pipeline.dataset.shards import to_json
from schemas.records import CLIP_FIELDS, PLAN_SCHEMA, PlanRow
from schemas.run_contract import FORMAT_VERSION, RunContract, check_contract, to_json_value
from schemas.seal import DIGEST, open_seal, seal
from schemas.shard_record import ShardRecord


class ContractMismatch(Exception):
    """The folder holds a data set, or `what` else, made with another configuration or other videos;
    one line for each difference.
    """

    def __init__(self, lines: Sequence[str], what: str = "a data set"):
        super().__init__("\n".join(lines))
        self.differences, self.subject = list(lines), what


class DamagedShard(OSError):
    """A commit record, or a file that it names, is gone or is another."""


class DamagedPlan(OSError):
    """The plan is gone or is another: what belongs into which shard is not known any more."""


SHARD_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
"""Name of a shard or a view: it becomes part of file names, and may come from a table of others."""
COMMIT_TIMEOUT_S = 600.0
"""A commit moves a file and writes two small ones."""
REMOVED_FOLDER = ".removed"
"""Where repair puts files that are none of the data set's."""
_REPLAN_ADVICE = "the same extract-flow command writes it again while its clips are what and where they were; else run it with a new --out"
RESTORE_ADVICE = """put it back from a copy, or move index.json and all files of its shards and of later \
rounds away: then quiver retry tries again what they held"""
NEW_FOLDER_ADVICE = "it cannot be repaired; run the same extract-flow command with a new --out"


class Dataset:
    """The folder of one data set."""

    def __init__(self, root: Path | str):
        self.root = root = Path(root)
        self.shards, self.records, self.histograms = (
            root / "shards",
            root / "records",
            root / "histograms",
        )
        self.run_json, self.plan, self.progress = (
            root / "run.json",
            root / "plan.parquet",
            root / "progress.jsonl",
        )
        self.manifest, self.index, self.summary = (
            root / "manifest.parquet",
            root / "index.json",
            root / "summary.json",
        )
        self.merged_histogram, self.statistics, self.card = (
            root / "histogram.safetensors",
            root / "statistics.json",
            root / "README.md",
        )
        self.report, self.views, self.retries = (
            root / "report.html",
            root / "views",
            root / "retries",
        )
        self.run_lock = RunLock(root)
        self.token: int | None = None
        """Of the run that holds the folder, in its workers too."""

    def absolute(self) -> "Dataset":
        """The same for a process whose current folder is another."""
        dataset = Dataset(self.root.absolute())
        dataset.token = self.token
        return dataset

    def tar_path(self, shard: str) -> Path:
        return self.shards / f"{_check_shard_name(shard)}.tar"

    def histogram_path(self, shard: str) -> Path:
        return self.histograms / f"{_check_shard_name(shard)}.safetensors"

    def record_path(self, shard: str) -> Path:
        return self.records / f"{_check_shard_name(shard)}.json"

    def create_or_resume(
        self, rows: Sequence[PlanRow], config: dict[str, Any], versions: dict[str, str]
    ) -> list[str]:
        """Begins the data set in a folder that is held, or checks that it was begun with the same
        plan and settings.

        Returns a sentence for each library that is another version than when the data set was
        begun. Raises ContractMismatch, ValueError where run.json is none, DamagedPlan where the
        plan is gone and this is another, and OSError where the folder cannot be written.
        """
        self.check_no_foreign_files()
        for folder in (self.shards, self.records, self.histograms):
            folder.mkdir(exist_ok=True)
        plan = _table_bytes(pa.Table.from_pylist([row.dump() for row in rows], PLAN_SCHEMA))
        contract = RunContract(
            config=to_json_value(config),
            inputs=inputs_digest(rows),
            plan=hashlib.sha256(plan).hexdigest(),
            versions=versions,
        )
        self.remove_temporary_files()
        if not self.run_json.exists():
            self._create_contract(contract, plan)
            return []
        if (found := self._read_contract()).format != FORMAT_VERSION:
            raise ContractMismatch([f"format: {found.format} -> {FORMAT_VERSION}"])
        self._restore_plan(contract, plan)
        lines = found.differences(contract)
        if found.inputs != contract.inputs:
            changed = _input_differences(list(self.stream_first_plan()), rows)
            lines += changed or ([] if lines else ["inputs: another plan"])
        if lines:
            raise ContractMismatch(lines)
        return version_changes(found, versions)

    def _create_contract(self, contract: RunContract, plan: bytes) -> None:
        """Plan, then contract; both are begun before the look at the fence (check_fence)."""
        with self.detect_takeover(), open_to_create(self.run_json) as run:
            run.write(seal(asdict(contract), indent=2))
            with open_to_replace(self.plan) as file:
                file.write(plan)
                self.check_not_taken_over()
            crashpoint("after-plan", "run")

    def _restore_plan(self, contract: RunContract, plan: bytes) -> None:
        """Writes the plan again where it is gone, or is another, and this is it."""
        try:
            self.check_plan()
        except DamagedPlan:
            if contract.plan != self.contract().plan:
                raise
            self.publish(self.plan, plan)

    def earlier_plan(self) -> Iterable[PlanRow]:
        """The rows of the plan with which the data set was begun, in a folder that is held, read
        anew each time; none if it was not, or if they are damaged.
        """
        try:
            self.check_plan()
        except (DamagedPlan, ValueError):  # open says so
            return []
        return _StoredRows(self.plan)

    def resume(self) -> None:
        """Goes on with a data set in a folder that is held, as it was begun. Raises ValueError if
        there is none, DamagedPlan.
        """
        self.check_plan()
        for folder in (self.shards, self.records, self.histograms):
            folder.mkdir(exist_ok=True)
        self.remove_temporary_files()

    def add_round(self, rows: Sequence[PlanRow]) -> None:
        """Adds a round to the plan, which is known from then on. The report, which shows what will
        no longer be so, is removed before: whatever finishes the round finds none. Raises
        FileExistsError if another run has begun it.
        """
        rounds = self.rounds()
        self.retries.mkdir(exist_ok=True)
        self.publish(self.report, None)
        number, last = len(rounds) + 1, rounds[-1].sha256 if rounds else None
        with self.detect_takeover(), open_to_create(self.retries / round_name(number)) as file:
            file.write(encode_round(number, self.run_digest(), last, rows))
            self.check_not_taken_over()
            crashpoint("mid-round", "run")
        crashpoint("after-round", "run")

    def run_digest(self) -> str:
        """sha256 of run.json, hexadecimal."""
        return hashlib.sha256(self.run_json.read_bytes()).hexdigest()

    def rounds(self) -> list[Round]:
        """What was tried again, round by round. Raises DamagedPlan if a file of one is missing, or
        is not what was written.
        """
        try:
            return read_rounds(self.retries, self.run_digest(), self.newest_round_number())
        except DamagedRound as error:
            words = "quiver repair puts it aside, then quiver retry tries again"
            raise DamagedPlan(
                f"{error}: {RESTORE_ADVICE if error.is_missing else words}"
            ) from error

    def newest_round_number(self) -> int:
        """The number of the last round of which a shard is committed or was, by the names of the
        records and in index.json; 0 if there is none.
        """
        try:
            named = list(json.loads(self.index.read_bytes())["shards"])
        except (KeyError, TypeError, ValueError, OSError, RecursionError):
            named = []
        committed = [path.stem for path in self.records.glob("*-retry*.json")]
        return max(map(round_of_shard, [*committed, *map(str, named)]), default=0)

    def check_no_foreign_files(self) -> None:
        """Raises ValueError where the folder is to be begun and holds what is none of ours."""
        ours = {path.name for path in (self.shards, self.records, self.histograms, self.plan)}
        others = sorted(
            path.name
            for path in self.root.iterdir()
            if path.name not in ours and not path.name.startswith(".")
        )
        if others and not self.run_json.exists():
            raise ValueError(
                f"{self.root} holds other files ({', '.join(others[:3])}), expected a new or an empty folder, or a data set"
            )

    @contextmanager
    def build_session(self, shard: str) -> Iterator[None]:  # noqa: ARG002
        """Around the building of a shard, in a worker: where the data set is kept elsewhere
        (staging.py), it is handed over at the end.
        """
        yield

    @contextmanager
    def finalize_session(self) -> Iterator[None]:
        """Around the deriving of all that follows from the records, likewise."""
        self.check_not_taken_over()
        yield

    def tar_size(self, shard: str) -> int | None:
        """Bytes of a shard's tar; None where there is none."""
        path = self.tar_path(shard)
        return path.stat().st_size if path.exists() else None

    def display_path(self, path: Path) -> str:
        """What a person is told of where a file is."""
        return str(path)

    def remove_stray_tar(self, record: ShardRecord) -> None:
        """Of an attempt that was stopped before its record, where a later one kept no window: with
        its record there, since a run that was taken over could wake before it removes a tar and
        find the one that is committed.
        """
        if record.tar is None and self.tar_path(record.shard).exists():
            self.publish(self.tar_path(record.shard), None)

    def check_flow_settings(self, description: dict[str, Any]) -> None:
        """Raises ContractMismatch where flow would be measured otherwise than the run was begun
        with.
        """
        begun = self.contract()
        now = replace(begun, config=begun.config | {"flow": to_json_value(description)})
        if lines := begun.differences(now):
            raise ContractMismatch(lines)

    @contextmanager
    def lock(self, take_over_s: float | None = None) -> Iterator[None]:
        """One writer per folder. Raises FolderInUse while another run holds it, unless that one has
        not moved for `take_over_s`.
        """
        with self.run_lock.acquire(take_over_s) as self.token:
            try:
                yield
            finally:
                self.token = None

    def newest_token(self) -> int:
        return self.run_lock.newest_token()

    def check_not_taken_over(self) -> None:
        """Raises FolderInUse where a later run has taken the folder over.

        What is to be published has to stand under its temporary name before: a run that takes over
        removes all of these, so that a run that is paused after this check publishes nothing
        either.
        """
        if self.token is not None and self.newest_token() > self.token:
            raise FolderInUse(
                f"a later run has taken over {self.root}: this one, of token {self.token}, commits nothing any more"
            )

    @contextmanager
    def detect_takeover(self) -> Iterator[None]:
        """Within it, a file that is gone means that: a run which takes over removes what others
        have in the making.
        """
        try:
            yield
        except FileNotFoundError:
            self.check_not_taken_over()
            raise

    @contextmanager
    def open_for_publish(self, path: Path) -> Iterator[BinaryIO]:
        """A file to write to, which then stands in this folder under that name, over an older one.
        Raises FolderInUse after a take-over.
        """
        with self.detect_takeover(), open_to_replace(path) as file:
            yield file
            self.check_not_taken_over()

    def publish(self, path: Path, data: bytes | None) -> None:
        """Writes such a file, or, without data, removes one that may be there."""
        if data is None:
            self.check_not_taken_over()
            path.unlink(missing_ok=True)
            return
        with self.open_for_publish(path) as file:
            file.write(data)

    @contextmanager
    def commit_lock(self) -> Iterator[None]:
        """One shard is committed at a time: a twin's tar, of other bytes on a GPU, must not come
        under another's record.

        Raises TimeoutError where another process has been committing for LONGEST_COMMIT_S: it
        hangs, or was stopped.
        """
        path = self.run_json if self.token is None else self.run_lock.commit_lock_path(self.token)
        with open(path, "ab") as file:  # some network file systems lock only what could be written
            deadline = time.monotonic() + COMMIT_TIMEOUT_S
            while not try_lock(file, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        errno.ETIMEDOUT,
                        f"another process has been committing a shard for {COMMIT_TIMEOUT_S:g} s",
                        str(path),
                    )
                time.sleep(0.02)
            yield

    def is_locked(self) -> bool:
        """Whether a run is writing to the folder now."""
        return self.run_lock.is_locked()

    def remove_temporary_files(self) -> None:
        """What a run left behind that was stopped while it wrote; a worker of it may be about to
        end, and remove its own.

        Raises FolderInUse where a later run has taken over: they are that one's.
        """
        self.check_not_taken_over()
        for path in self.temporary_files():
            path.unlink(missing_ok=True)

    def temporary_files(self) -> list[Path]:
        """Files in the making, of this run or of one that was stopped: by their name and place none
        is another program's.
        """
        made = (self.shards, self.records, self.histograms, self.views, self.retries)
        folders = (self.root, *made, self.run_lock.folder)
        return sorted(
            path
            for folder in folders
            for path in folder.glob(".*.tmp")
            if TEMPORARY_NAME.fullmatch(path.name)
        )

    def contract(self) -> RunContract:
        """The run contract. Raises ValueError where the folder holds none, or one of another
        format.
        """
        try:
            found = self._read_contract()
        except FileNotFoundError:
            copied = (
                " (one in s3:// is copied into a folder first: aws s3 cp --recursive URL FOLDER)"
                if {"s3", "s3:"} & {*self.root.parts}
                else ""
            )
            raise ValueError(
                f"{self.root} holds no data set: there is no run.json{copied}"
            ) from None
        if found.format != FORMAT_VERSION:
            raise ValueError(
                f"{self.root} has format {found.format}, expected {FORMAT_VERSION}: extract it again"
            )
        return found

    def _read_contract(self) -> RunContract:
        """The run contract; of another format, unchecked. Raises FileNotFoundError, and ValueError
        where run.json is none.
        """
        try:
            data = self.run_json.read_bytes()
            fields = json.loads(data)
            if fields.get("format", FORMAT_VERSION) != FORMAT_VERSION:
                return RunContract(**{name: fields[name] for name in fields if name != DIGEST})
            found = RunContract(**open_seal(data, indent=2))
            check_contract(found)
            return found
        except (AttributeError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{self.run_json} is no run contract: {error}") from error

    def check_plan(self) -> None:
        """Raises DamagedPlan where the plan is not the one that run.json names."""
        expected = self.contract().plan
        try:
            with open(self.plan, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            found = None
        if found != expected:
            raise DamagedPlan(
                f"{self.plan} {'is not the plan of run.json' if found else 'is gone'}: {_REPLAN_ADVICE}"
            )

    def check_finished(self) -> None:
        """Raises ValueError where shards of the plan have no record, DamagedPlan where it is not
        the plan of run.json.
        """
        self.check_plan()
        shards = list(dict.fromkeys(row.shard for row in self.stream_plan() if row.shard))
        left = [shard for shard in shards if not self.is_committed(shard)]
        if left:
            words = f"{len(left)} of {len(shards)} shards of {self.root} are not built yet ({', '.join(left[:3])})"
            raise ValueError(f"{words}: the same extract-flow command builds them")

    def planned_rows(self) -> list[PlanRow]:
        return list(self.stream_plan())

    def stream_plan(self) -> Iterator[PlanRow]:
        """The rows of the plan, shard by shard, and those of every round after it, which have its
        number as `round`.

        Some of the rows may be Superseded: they are in their shard's record, and count no more.
        """
        yield from self.stream_first_plan()
        for one in self.rounds():
            yield from one.rows

    def stream_first_plan(self) -> Iterator[PlanRow]:
        """The rows with which the data set was begun, a few at a time."""
        yield from _StoredRows(self.plan)

    def is_committed(self, shard: str) -> bool:
        return self.record_path(shard).exists()

    def read_record(self, shard: str) -> ShardRecord:
        """Raises DamagedShard where its bytes are not those that were written, or it is another
        shard's or another run's.
        """
        path = self.record_path(shard)
        try:
            record = ShardRecord.load(path.read_bytes())
            record.check_owner(shard, self.run_digest())
            return record
        except ValueError as error:
            raise DamagedShard(f"{path} {error}: quiver repair builds its shard again") from error


class _StoredRows:
    """The rows of a Parquet file, read anew each time, a few at a time."""

    def __init__(self, path: Path):
        self._path = path

    def __iter__(self) -> Iterator[PlanRow]:
        for batch in pq.ParquetFile(self._path).iter_batches(1024):
            yield from map(PlanRow.load, batch.to_pylist())


def _check_shard_name(shard: str) -> str:
    """The name of a shard. Raises ValueError for one that could lead out of the folder."""
    if not SHARD_NAME.fullmatch(shard):
        raise ValueError(f"shard is {shard[:80]!r}, expected up to 60 letters, digits, - and _")
    return shard


def _table_bytes(table: pa.Table) -> bytes:
    """A table as Parquet; equal tables give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def version_changes(contract: RunContract, versions: dict[str, str]) -> list[str]:
    """A sentence for each library that is another version than when the data set was begun."""
    return [
        f"{name} is {versions.get(name)} now and was {old}"
        for name, old in contract.versions.items()
        if versions.get(name) != old
    ]


def inputs_digest(rows: Iterable[PlanRow]) -> str:
    """sha256 of the plan, by content: a folder that was moved, or listed in another order, is the
    same input.
    """
    names = [name for name in PLAN_SCHEMA.names if name not in ("uri", "root")]
    content = [{name: getattr(row, name) for name in names} for row in rows]
    return hashlib.sha256(to_json(content)).hexdigest()


def _input_differences(old: Sequence[PlanRow], new: Sequence[PlanRow]) -> list[str]:
    """One line for every clip that was added, removed or changed, at most ten; in what windows it
    was cut is no change of it.
    """
    before, after = ({row.clip_id: _clip_columns(row) for row in rows} for rows in (old, new))
    lines = [f"clip added: {after[i].uri}" for i in after.keys() - before.keys()]
    lines += [f"clip removed: {before[i].uri}" for i in before.keys() - after.keys()]
    lines += [
        f"clip changed: {after[i].uri}"
        for i in after.keys() & before.keys()
        if inputs_digest([after[i]]) != inputs_digest([before[i]])
    ]
    more = [f"and {len(lines) - 10} more"] if len(lines) > 10 else []
    return sorted(lines)[:10] + more


def _clip_columns(row: PlanRow) -> PlanRow:
    """The row with nothing but its clip and its split."""
    columns: dict[str, Any] = {field.name: getattr(row, field.name) for field in CLIP_FIELDS}
    return PlanRow(**columns, split=row.split)
