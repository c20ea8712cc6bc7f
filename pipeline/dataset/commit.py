"""TODO: what this file is."""

import hashlib
from dataclasses import replace

import numpy as np

from pipeline.atomic_files import open_to_create, open_to_replace
from pipeline.dataset import histogram as statistics
from pipeline.dataset.crashpoint import crashpoint
from pipeline.dataset.folder import Dataset
from pipeline.dataset.shards import ShardWriter
from pipeline.version import quiver_version
from schemas.sample import Sample
from schemas.shard_record import RecordRow, ShardRecord


class AlreadyCommitted(Exception):
    """A shard was committed meanwhile, by a twin of an attempt that was thought dead."""


class ShardDraft:
    """A shard that is being built: samples go to its tar, rows, strips and histogram are held until
    the commit.
    """

    def __init__(
        self,
        dataset: Dataset,
        shard: str,
        frequencies: int,
        made: dict[str, str] | None = None,
    ):
        """`made` stands in the metadata of every sample (`contract_provenance`)."""
        self.dataset, self.shard, self.provenance = dataset, shard, made or {}
        self.writer = ShardWriter(dataset.tar_path(shard))
        self.counts = np.zeros((frequencies, 2, statistics.BINS), np.int64)
        self.rows: list[RecordRow] = []
        self.strips: dict[str, str] = {}

    def add(self, row: RecordRow, sample: Sample | None, strip: str | None) -> None:
        """Takes a window's row, the sample where it is kept, and the strip of pictures where it is
        rejected.
        """
        if sample is not None:
            members = self.writer.add(replace(sample, meta=sample.meta | self.provenance))
            row = replace(row, members=members)
            statistics.add_sample(sample.spectrum, self.counts)
        if strip is not None:
            self.strips[row.key] = strip
        self.rows.append(row)

    def commit(self) -> None:
        """Publishes the tar (if a window was kept), then the histogram, then the record that makes
        both count.

        Raises AlreadyCommitted where a twin of this attempt, which was thought dead, has done it
        meanwhile, FolderInUse where a later run has taken the folder over.
        """
        with self.dataset.detect_takeover():
            tar, histogram = (
                self.writer.finish() if self.writer.rows else None,
                statistics.encode(self.counts),
            )
            record = ShardRecord(
                shard=self.shard,
                tar=tar,
                histogram=hashlib.sha256(histogram).hexdigest(),
                values=int(self.counts.sum()),
                run=hashlib.sha256(self.dataset.run_json.read_bytes()).hexdigest(),
                rows=self.rows,
                strips=self.strips,
                quiver=quiver_version(),
            )
            with self.dataset.commit_lock():
                if self.dataset.is_committed(self.shard):
                    raise AlreadyCommitted(self.shard)
                try:
                    self._publish(histogram, record.dump())
                except FileExistsError:  # where locks do not reach
                    raise AlreadyCommitted(self.shard) from None
                self.dataset.remove_stray_tar(record)
        crashpoint("after-record", self.shard)

    def _publish(self, histogram: bytes, record: bytes) -> None:
        """All three are begun before the last look at the fence (check_fence); the record has its
        name last.
        """
        with open_to_create(self.dataset.record_path(self.shard)) as file:
            with open_to_replace(self.dataset.histogram_path(self.shard)) as counts:
                counts.write(histogram)
                self.dataset.check_not_taken_over()
                if self.writer.rows:
                    self.writer.publish()
            file.write(record[: len(record) // 2])
            crashpoint("mid-record", self.shard)
            file.write(record[len(record) // 2 :])

    def discard(self) -> None:
        """Removes what is not published."""
        self.writer.discard()
