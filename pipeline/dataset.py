"""A data set on disk: the run contract, the plan, the shards with their records, and what is derived from them.

    run.json  plan.parquet              written once, before the first shard
    shards/NAME.tar  histograms/NAME.safetensors  records/NAME.json       one of each per shard, in this order
    manifest.parquet  summary.json      derived from plan and records by a pure function, can be rebuilt

A record is the truth about its shard; nothing that it names is ever changed after it.
"""

import fcntl
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import statistics
from pipeline.shards import ShardWriter, create_file, replace_file, to_json
from schemas.outcome import Outcome
from schemas.run import RunContract, plain
from schemas.sample import Sample
from schemas.tables import MANIFEST, PLAN


class ContractMismatch(Exception):
    """The folder holds a data set made with another configuration or other videos; one line for each difference."""

    def __init__(self, lines: Sequence[str]):
        super().__init__("\n".join(lines))
        self.lines = list(lines)


class FolderInUse(Exception):
    """Another run holds the data set's folder."""


class DamagedShard(OSError):
    """A file that a commit record names is gone or is another."""


class Dataset:
    """The folder of one data set."""

    def __init__(self, root: Path | str):
        self.root = root = Path(root)
        self.shards, self.records, self.histograms = root / "shards", root / "records", root / "histograms"
        self.run, self.plan, self.manifest, self.summary = (root / n for n in ("run.json", "plan.parquet", "manifest.parquet", "summary.json"))

    def tar(self, shard: str) -> Path:
        return self.shards / f"{shard}.tar"

    def histogram(self, shard: str) -> Path:
        return self.histograms / f"{shard}.safetensors"

    def record(self, shard: str) -> Path:
        return self.records / f"{shard}.json"

    def open(self, rows: Sequence[dict], config: dict[str, Any], versions: dict[str, str]) -> list[str]:
        """Begins the data set in a folder that is held, or checks that it was begun with the same plan and settings.

        Returns a sentence for each library that is another version than when the data set was begun. Raises
        ContractMismatch, and OSError where the folder cannot be written.
        """
        for folder in (self.shards, self.records, self.histograms):
            folder.mkdir(exist_ok=True)
        plan = table_bytes(pa.Table.from_pylist(list(rows), PLAN))
        contract = RunContract(config=plain(config), inputs=inputs_digest(rows), plan=hashlib.sha256(plan).hexdigest(), versions=versions)
        if not self.run.exists():
            self.remove_temporary_files()
            replace_file(self.plan, plan)
            create_file(self.run, to_json(asdict(contract), indent=2))
            return []
        found = RunContract(**json.loads(self.run.read_bytes()))
        lines = found.differences(contract)
        if found.inputs != contract.inputs:
            lines += input_differences(self.planned_rows(), rows) or ["inputs: another plan"]
        if lines:
            raise ContractMismatch(lines)
        self.remove_temporary_files()
        return [f"{name} is {versions.get(name)} now and was {old}" for name, old in found.versions.items() if versions.get(name) != old]

    def check_flow(self, description: dict[str, Any]) -> None:
        """Raises ContractMismatch where flow would be measured otherwise than the run was begun with."""
        begun = RunContract(**json.loads(self.run.read_bytes()))
        now = replace(begun, config=begun.config | {"flow": plain(description)})
        if lines := begun.differences(now):
            raise ContractMismatch(lines)

    @contextmanager
    def held(self) -> Iterator[None]:
        """One writer per folder, on one machine. Raises FolderInUse while another process holds it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".lock", "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FolderInUse(f"another run is writing to {self.root}") from error
            yield

    def remove_temporary_files(self) -> None:
        """What a run left behind that was stopped while it wrote."""
        for path in self.root.glob("**/.*.tmp"):
            path.unlink()

    def planned_rows(self) -> list[dict]:
        return pq.read_table(self.plan).to_pylist()

    def is_committed(self, shard: str) -> bool:
        return self.record(shard).exists()

    def read_record(self, shard: str) -> dict[str, Any]:
        return json.loads(self.record(shard).read_bytes())

    def finalize(self) -> dict[str, Any]:
        """Writes manifest and summary from the plan and the records; returns the summary.

        Raises FileNotFoundError for a shard without its record, DamagedShard for a tar that is not the one recorded.
        """
        rows = self.planned_rows()
        shards = sorted({row["shard"] for row in rows if row["shard"]})
        records = {shard: self.read_record(shard) for shard in shards}
        for shard, record in records.items():
            check_tar_size(self.tar(shard), record["tar"])
        manifest = manifest_rows(rows, records)
        replace_file(self.manifest, table_bytes(pa.Table.from_pylist(manifest, MANIFEST)))
        summary = summarise(manifest, records)
        replace_file(self.summary, to_json(summary, indent=2))
        return summary


class ShardDraft:
    """A shard that is being built: samples go to its tar, rows, strips and histogram are held until the commit."""

    def __init__(self, dataset: Dataset, shard: str, frequencies: int):
        self.dataset, self.shard = dataset, shard
        self.writer = ShardWriter(dataset.tar(shard))
        self.counts = np.zeros((frequencies, 2, statistics.BINS), np.int64)
        self.rows: list[dict[str, Any]] = []
        self.strips: dict[str, str] = {}

    def add(self, row: dict[str, Any], sample: Sample | None, strip: str | None) -> None:
        """Takes a window's row, the sample where it is kept, and the strip of pictures where it is rejected."""
        if sample is not None:
            row = row | self.writer.add(sample)
            self.counts += statistics.histogram(sample.spectrum)
        if strip is not None:
            self.strips[row["key"]] = strip
        self.rows.append(row)

    def commit(self) -> None:
        """Publishes the tar (if a window was kept), then the histogram, then the record that makes both count.

        Raises FileExistsError where the shard was committed meanwhile.
        """
        if self.dataset.is_committed(self.shard):
            raise FileExistsError(f"shard {self.shard} has been committed already")
        tar = self.writer.publish() if self.writer.rows else None
        histogram = statistics.encode(self.counts)
        replace_file(self.dataset.histogram(self.shard), histogram)
        record = dict(
            shard=self.shard, tar=tar, histogram=hashlib.sha256(histogram).hexdigest(), values=int(self.counts.sum()),
            run=hashlib.sha256(self.dataset.run.read_bytes()).hexdigest(), rows=self.rows, strips=self.strips,
        )  # fmt: skip
        create_file(self.dataset.record(self.shard), to_json(record))

    def discard(self) -> None:
        """Removes what is not published."""
        self.writer.discard()


def table_bytes(table: pa.Table) -> bytes:
    """A table as Parquet; equal tables give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def inputs_digest(rows: Iterable[dict]) -> str:
    """sha256 of the plan, by content: a folder that was moved, or listed in another order, is the same input."""
    return hashlib.sha256(to_json([{name: value for name, value in row.items() if name != "uri"} for row in rows])).hexdigest()


def input_differences(old: Sequence[dict], new: Sequence[dict]) -> list[str]:
    """One line for every clip that was added, removed or changed, at most ten."""
    before, after = ({row["clip_id"]: row for row in rows} for rows in (old, new))
    lines = [f"clip added: {after[i]['uri']}" for i in after.keys() - before.keys()]
    lines += [f"clip removed: {before[i]['uri']}" for i in before.keys() - after.keys()]
    lines += [f"clip changed: {after[i]['uri']}" for i in after.keys() & before.keys() if inputs_digest([after[i]]) != inputs_digest([before[i]])]
    more = [f"and {len(lines) - 10} more"] if len(lines) > 10 else []
    return sorted(lines)[:10] + more


def check_tar_size(path: Path, recorded: dict[str, Any] | None) -> None:
    """Raises DamagedShard where a recorded tar is gone or has another size."""
    if recorded is None:
        return
    found = f"has {path.stat().st_size}" if path.exists() else "is gone, of"
    if found != f"has {recorded['bytes']}":
        raise DamagedShard(f"{path} {found} bytes, its record says {recorded['bytes']}: put it back, or remove its record to build it again")


def manifest_rows(plan: Sequence[dict], records: dict[str, dict[str, Any]]) -> list[dict]:
    """The plan's rows, each with what its shard's record says of it; a shard without a kept window has no tar."""
    outcomes = {row["key"]: row for record in records.values() for row in record["rows"]}
    rows = []
    for row in plan:
        result = outcomes[row["key"]] if row["key"] else {}
        no_tar = {"shard": None} if row["key"] is None else {}
        rows.append(row | result | no_tar)
    return rows


def summarise(manifest: Sequence[dict], records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Counts for a person: how many of what became what, and why."""
    outcomes = Counter(row["outcome"] for row in manifest)
    kept = [row for row in manifest if row["outcome"] == Outcome.KEPT]
    return dict(
        clips=len({(row["clip_id"], row["uri"]) for row in manifest}),
        windows=sum(row["key"] is not None for row in manifest),
        **{outcome.value: outcomes[outcome] for outcome in Outcome},
        rejected_by_reason=reasons(manifest, Outcome.REJECTED),
        quarantined_by_reason=reasons(manifest, Outcome.QUARANTINED),
        kept_by_split=dict(sorted(Counter(row["split"] for row in kept).items())),
        hours=sum(clip_hours(manifest)),
        shards=len(records),
        bytes=sum(record["tar"]["bytes"] for record in records.values() if record["tar"]),
    )


def clip_hours(manifest: Sequence[dict]) -> list[float]:
    """Length of every clip that could be read, hours."""
    return [d / 3600 for d in {(r["clip_id"], r["uri"]): r["duration_s"] or 0.0 for r in manifest}.values()]


def reasons(manifest: Sequence[dict], outcome: Outcome) -> dict[str, int]:
    """How often each reason stands, the commonest first."""
    return dict(Counter(row["reason"] for row in manifest if row["outcome"] == outcome).most_common())
