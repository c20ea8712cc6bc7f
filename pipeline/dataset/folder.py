"""The folder of a dataset: its run contract, its plan, its commit records, and its one writer.

    run.json  plan.parquet              written once, before the first shard
    retries/NNN.json                    the rows that a round of `quiver retry` adds to the plan
                                        (rounds.py)
    shards/NAME.tar  histograms/NAME.safetensors  records/NAME.json
                                        one of each per shard, written in this order (commit.py)
    .fence/                             the lock of the run that writes (run_lock.py)

A record is the truth about its shard, and nothing that it names ever changes afterwards. Everything
else in the folder is derived from these files (finalize.py).
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.atomic_files import TEMPORARY_NAME, open_to_create
from pipeline.dataset.crashpoint import crashpoint
from pipeline.dataset.rounds import (
    DamagedRound,
    Round,
    encode_round,
    read_rounds,
    round_name,
    round_of_shard,
)
from pipeline.dataset.run_lock import LockedFolder
from schemas.records import CLIP_FIELDS, PLAN_SCHEMA, PlanRow
from schemas.run_contract import FORMAT_VERSION, RunContract, check_contract, to_json_value
from schemas.seal import DIGEST, open_seal, seal, to_json
from schemas.shard_record import ShardRecord


class ContractMismatch(Exception):
    """The folder holds a dataset, or another `subject`, that was made with other settings or from
    other videos; `differences` has one line for each.
    """

    def __init__(self, lines: Sequence[str], what: str = "a dataset"):
        super().__init__("\n".join(lines))
        self.differences, self.subject = list(lines), what


class DamagedShard(OSError):
    """A commit record, or a file that it names, is missing or has changed."""


class DamagedPlan(OSError):
    """The plan or a round is missing or has changed: nobody knows what the shards hold."""


SHARD_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
"""Names of shards and views. They become parts of file names, and may come from foreign tables."""
REMOVED_FOLDER = ".removed"
"""The folder into which repair moves files that do not belong to the dataset."""
_REPLAN_ADVICE = (
    "the same extract-flow command writes it again while its clips are what and where they were; "
    "else run it with a new --out"
)
RESTORE_ADVICE = (
    "put it back from a copy, or move index.json and all files of its shards and of later "
    "rounds away: then quiver retry tries again what they held"
)
NEW_FOLDER_ADVICE = "it cannot be repaired; run the same extract-flow command with a new --out"
_MAX_DIFFERENCES = 10
"""Changed clips that are listed."""


class Dataset(LockedFolder):
    """The folder of one dataset. Methods that write raise FolderInUse if a later run has taken the
    folder over.
    """

    def __init__(self, root: Path | str):
        super().__init__(root := Path(root))
        self.run_json = root / "run.json"
        self.plan = root / "plan.parquet"
        self.retries = root / "retries"

        self.shards = root / "shards"
        self.histograms = root / "histograms"
        self.records = root / "records"

        self.manifest = root / "manifest.parquet"
        self.index = root / "index.json"
        self.summary = root / "summary.json"
        self.merged_histogram = root / "histogram.safetensors"
        self.statistics = root / "statistics.json"
        self.card = root / "README.md"
        self.report = root / "report.html"
        self.views = root / "views"

        self.progress = root / "progress.jsonl"

    def absolute(self) -> "Dataset":
        """Returns the same dataset for a process with another current folder."""
        dataset = Dataset(self.root.absolute())
        dataset.token = self.token
        return dataset

    def tar_path(self, shard: str) -> Path:
        return self.shards / f"{_check_shard_name(shard)}.tar"

    def histogram_path(self, shard: str) -> Path:
        return self.histograms / f"{_check_shard_name(shard)}.safetensors"

    def record_path(self, shard: str) -> Path:
        return self.records / f"{_check_shard_name(shard)}.json"

    def display_path(self, path: Path) -> str:
        """Returns the location of a file for a person."""
        return str(path)

    def tar_size(self, shard: str) -> int | None:
        """Returns the size of a shard's tar in bytes, or None if it does not exist."""
        path = self.tar_path(shard)
        return path.stat().st_size if path.exists() else None

    # Create or resume; the caller holds the lock

    def create_or_resume(
        self, rows: Sequence[PlanRow], config: dict[str, Any], versions: dict[str, str]
    ) -> list[str]:
        """Creates the dataset if it is missing, or else checks that it has the same plan and
        settings.

        Returns a sentence for each library of which the dataset was created with another version.
        Raises ContractMismatch, ValueError if run.json is no contract, DamagedPlan if the plan is
        lost and these are other rows, and OSError if the folder cannot be written.
        """
        self._check_no_foreign_files()
        self._prepare_folders()
        plan = _encode_plan(rows)
        contract = RunContract(
            config=to_json_value(config),
            inputs=inputs_digest(rows),
            plan=hashlib.sha256(plan).hexdigest(),
            versions=versions,
        )
        if not self.run_json.exists():
            # Temporary files first, then the check for a take-over: see check_not_taken_over.
            with self.detect_takeover(), open_to_create(self.run_json) as file:
                file.write(seal(asdict(contract), indent=2))
                self.publish(self.plan, plan)
                crashpoint("after-plan", "run")
            return []
        existing = self._read_contract()
        if existing.format != FORMAT_VERSION:
            raise ContractMismatch([f"format: {existing.format} -> {FORMAT_VERSION}"])
        try:
            self.check_plan()
        except DamagedPlan:
            if contract.plan != existing.plan:
                raise
            self.publish(self.plan, plan)
        lines = existing.differences(contract)
        if existing.inputs != contract.inputs:
            changed = _input_differences(self.stream_first_plan(), rows)
            lines += changed or ([] if lines else ["inputs: another plan"])
        if lines:
            raise ContractMismatch(lines)
        return version_changes(existing, versions)

    def resume(self) -> None:
        """Prepares an existing dataset for more shards. Raises ValueError if there is none,
        DamagedPlan.
        """
        self.check_plan()
        self._prepare_folders()

    def _prepare_folders(self) -> None:
        for folder in (self.shards, self.records, self.histograms):
            folder.mkdir(exist_ok=True)
        self.remove_temporary_files()

    def _check_no_foreign_files(self) -> None:
        """Raises ValueError if there is no dataset yet and the folder holds other files."""
        if self.run_json.exists():
            return
        own_names = {path.name for path in (self.shards, self.records, self.histograms, self.plan)}
        foreign_names = sorted(
            path.name
            for path in self.root.iterdir()
            if path.name not in own_names and not path.name.startswith(".")
        )
        if foreign_names:
            raise ValueError(
                f"{self.root} holds other files ({', '.join(foreign_names[:3])}), "
                "expected a new or an empty folder, or a dataset"
            )

    # The run contract

    def contract(self) -> RunContract:
        """Returns the run contract. Raises ValueError if it is missing or has another format."""
        try:
            contract = self._read_contract()
        except FileNotFoundError:
            advice = (
                " (one in s3:// is copied into a folder first: aws s3 cp --recursive URL FOLDER)"
            )
            is_url = {"s3", "s3:"} & {*self.root.parts}
            raise ValueError(
                f"{self.root} holds no dataset: there is no run.json{advice if is_url else ''}"
            ) from None
        if contract.format != FORMAT_VERSION:
            raise ValueError(
                f"{self.root} has format {contract.format}, expected {FORMAT_VERSION}: it lacks "
                "what this Quiver measures of each window, so extract it again"
            )
        return contract

    def _read_contract(self) -> RunContract:
        """Returns the run contract, unchecked if its format is another. Raises FileNotFoundError,
        and ValueError if run.json is no contract.
        """
        try:
            data = self.run_json.read_bytes()
            fields = json.loads(data)
            if fields.get("format", FORMAT_VERSION) != FORMAT_VERSION:
                return RunContract(**{name: fields[name] for name in fields if name != DIGEST})
            contract = RunContract(**open_seal(data, indent=2))
            check_contract(contract)
            return contract
        except (AttributeError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{self.run_json} is no run contract: {error}") from error

    def run_digest(self) -> str:
        """Returns the sha256 of run.json, hexadecimal."""
        return hashlib.sha256(self.run_json.read_bytes()).hexdigest()

    def check_flow_settings(self, description: dict[str, Any]) -> None:
        """Raises ContractMismatch if this description of a flow estimator is not the contract's."""
        contract = self.contract()
        actual = replace(contract, config=contract.config | {"flow": to_json_value(description)})
        if lines := contract.differences(actual):
            raise ContractMismatch(lines)

    # The plan and its rounds

    def check_plan(self) -> None:
        """Raises DamagedPlan if plan.parquet is not the file that run.json names."""
        expected = self.contract().plan
        try:
            with open(self.plan, "rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise DamagedPlan(f"{self.plan} is gone: {_REPLAN_ADVICE}") from None
        if actual != expected:
            raise DamagedPlan(f"{self.plan} is not the plan of run.json: {_REPLAN_ADVICE}")

    def check_finished(self) -> None:
        """Raises ValueError if a shard of the plan has no record, DamagedPlan."""
        self.check_plan()
        shards = list(dict.fromkeys(row.shard for row in self.stream_plan() if row.shard))
        unbuilt = [shard for shard in shards if not self.is_committed(shard)]
        if unbuilt:
            raise ValueError(
                f"{len(unbuilt)} of {len(shards)} shards of {self.root} are not built yet "
                f"({', '.join(unbuilt[:3])}): the same extract-flow command builds them"
            )

    def planned_rows(self) -> list[PlanRow]:
        return list(self.stream_plan())

    def stream_plan(self) -> Iterator[PlanRow]:
        """Yields the rows of the first plan, shard by shard, and then those of every round.

        Rows that a later round replaces are among them: they are in their shard's record, and no
        longer count (rounds.SupersededRows).
        """
        yield from self.stream_first_plan()
        for retry_round in self.rounds():
            yield from retry_round.rows

    def stream_first_plan(self) -> Iterator[PlanRow]:
        """Yields the rows of plan.parquet."""
        yield from _PlanFile(self.plan)

    def earlier_plan(self) -> Iterable[PlanRow]:
        """Returns the rows of plan.parquet, which are read anew for each iteration; no rows if
        there is no dataset yet, or if the plan is damaged.
        """
        try:
            self.check_plan()
        except (DamagedPlan, ValueError):  # create_or_resume reports it
            return []
        return _PlanFile(self.plan)

    def rounds(self) -> list[Round]:
        """Returns the rounds of `quiver retry`, in order. Raises DamagedPlan if the file of one is
        missing or has changed.
        """
        try:
            return read_rounds(self.retries, self.run_digest(), self.newest_round_number())
        except DamagedRound as error:
            move_advice = "quiver repair puts it aside, then quiver retry tries again"
            advice = RESTORE_ADVICE if error.is_missing else move_advice
            raise DamagedPlan(f"{error}: {advice}") from error

    def newest_round_number(self) -> int:
        """Returns the number of the last round of which a shard is or was committed, by the names
        of the records and of the shards in index.json; 0 if there is none.
        """
        try:
            indexed = list(json.loads(self.index.read_bytes())["shards"])
        except (KeyError, TypeError, ValueError, OSError, RecursionError):
            indexed = []
        committed = [path.stem for path in self.records.glob("*-retry*.json")]
        return max(map(round_of_shard, [*committed, *map(str, indexed)]), default=0)

    def add_round(self, rows: Sequence[PlanRow]) -> None:
        """Adds a round to the plan. Raises FileExistsError if another run has added it.

        The report is removed first, since it shows results that the round replaces; the run that
        finishes the round writes a new one.
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

    # The commit records

    def is_committed(self, shard: str) -> bool:
        return self.record_path(shard).exists()

    def read_record(self, shard: str) -> ShardRecord:
        """Returns the record of a shard. Raises DamagedShard if the file has changed since it was
        written, or is of another shard or run.
        """
        path = self.record_path(shard)
        try:
            record = ShardRecord.load(path.read_bytes())
            record.check_owner(shard, self.run_digest())
            return record
        except ValueError as error:
            raise DamagedShard(f"{path} {error}: quiver repair builds its shard again") from error

    # Temporary files

    def remove_temporary_files(self) -> None:
        """Removes what a stopped run left behind. Raises FolderInUse after a take-over: the files
        are those of the later run then.
        """
        self.check_not_taken_over()
        for path in self.temporary_files():
            path.unlink(missing_ok=True)  # a worker that is about to end may remove its own

    def temporary_files(self) -> list[Path]:
        """Returns the temporary files of this run or a stopped one. Their names and folders tell
        them from files of other programs.
        """
        subfolders = (self.shards, self.records, self.histograms, self.views, self.retries)
        return sorted(
            path
            for folder in (self.root, *subfolders, self.run_lock.folder)
            for path in folder.glob(".*.tmp")
            if TEMPORARY_NAME.fullmatch(path.name)
        )


class _PlanFile:
    """The rows of a plan's file, which are read anew for each iteration, 1024 at a time."""

    def __init__(self, path: Path):
        self._path = path

    def __iter__(self) -> Iterator[PlanRow]:
        for batch in pq.ParquetFile(self._path).iter_batches(1024):
            yield from map(PlanRow.load, batch.to_pylist())


def _encode_plan(rows: Iterable[PlanRow]) -> bytes:
    """Returns the plan as Parquet; equal rows give equal bytes."""
    buffer = io.BytesIO()
    table = pa.Table.from_pylist([row.dump() for row in rows], PLAN_SCHEMA)
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def inputs_digest(rows: Iterable[PlanRow]) -> str:
    """Returns the sha256 of the plan's content, without the paths of the videos: a folder that was
    moved is the same input.
    """
    names = [name for name in PLAN_SCHEMA.names if name not in ("uri", "root")]
    content = [{name: getattr(row, name) for name in names} for row in rows]
    return hashlib.sha256(to_json(content)).hexdigest()


def _input_differences(old: Iterable[PlanRow], new: Iterable[PlanRow]) -> list[str]:
    """Returns a line for each clip that was added, removed or changed, at most ten and one that
    counts the others. The windows into which a clip was cut make no difference.
    """
    before, after = ({row.clip_id: _clip_columns(row) for row in rows} for rows in (old, new))
    lines = [f"clip added: {after[i].uri}" for i in after.keys() - before.keys()]
    lines += [f"clip removed: {before[i].uri}" for i in before.keys() - after.keys()]
    lines += [
        f"clip changed: {after[i].uri}"
        for i in after.keys() & before.keys()
        if inputs_digest([after[i]]) != inputs_digest([before[i]])
    ]
    more = len(lines) - _MAX_DIFFERENCES
    return sorted(lines)[:_MAX_DIFFERENCES] + ([f"and {more} more"] if more > 0 else [])


def _clip_columns(row: PlanRow) -> PlanRow:
    """Returns the row with only the columns of its clip, and its split."""
    columns: dict[str, Any] = {field.name: getattr(row, field.name) for field in CLIP_FIELDS}
    return PlanRow(**columns, split=row.split)


def version_changes(contract: RunContract, versions: dict[str, str]) -> list[str]:
    """Returns a sentence for each library that has another version than in the contract."""
    return [
        f"{name} is {versions.get(name)} now and was {version}"
        for name, version in contract.versions.items()
        if versions.get(name) != version
    ]


def _check_shard_name(shard: str) -> str:
    """Returns the name. Raises ValueError for one that could lead out of the folder."""
    if not SHARD_NAME.fullmatch(shard):
        raise ValueError(f"shard is {shard[:80]!r}, expected up to 60 letters, digits, - and _")
    return shard
