"""Commit a shard exactly once, whatever process dies when.

READ FIRST in this folder. The protocol of `ShardDraft`:

1. Samples go into a tar under a temporary name. Rows, strips and the histogram stay in memory.
2. The tar is synced, read back and checked (shards.ShardWriter.finish).
3. Under the commit lock, nothing happens if the shard has a record already (AlreadyCommitted).
4. The temporary files of the record and of the histogram are created.
5. The run checks that no later run has taken the folder over. That run would have removed the
   temporary files, so that from here on a rename fails if it happens too late.
6. The tar gets its name, then the histogram. Neither counts yet.
7. The record gets its name, by a link that fails if the name exists. It holds the digests of tar
   and histogram and is the only truth: the shard is committed.

A process that dies before 7 leaves files that the next attempt replaces. In object storage, an
upload follows (remote.py).
"""

import errno
import fcntl
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from pipeline.atomic_files import open_to_create, open_to_replace
from pipeline.dataset import histogram
from pipeline.dataset.crashpoint import crashpoint
from pipeline.dataset.folder import Dataset
from pipeline.dataset.run_lock import try_lock
from pipeline.dataset.shards import ShardWriter
from pipeline.version import quiver_version
from schemas.sample import Sample
from schemas.shard_record import RecordRow, ShardRecord

COMMIT_TIMEOUT_S = 600.0
"""A commit moves a file and writes two small ones, so that a longer one hangs or was stopped."""


class AlreadyCommitted(Exception):
    """Another attempt, which was thought dead, has committed the shard meanwhile."""


class ShardDraft:
    """A shard that is being built, until it is committed or discarded."""

    def __init__(
        self,
        dataset: Dataset,
        shard: str,
        frequencies: int,
        provenance: dict[str, str] | None = None,
    ):
        """provenance: added to the metadata of every sample (`contract_provenance`)."""
        self.dataset, self.shard, self.provenance = dataset, shard, provenance or {}
        self.writer = ShardWriter(dataset.tar_path(shard))
        self.counts = np.zeros((frequencies, 2, histogram.BINS), np.int64)
        self.rows: list[RecordRow] = []
        self.strips: dict[str, str] = {}

    def add(self, row: RecordRow, sample: Sample | None, strip: str | None) -> None:
        """Adds a window: its row, its sample if it is kept, and its strip of pictures if it is
        rejected.
        """
        if sample is not None:
            members = self.writer.add(replace(sample, meta=sample.meta | self.provenance))
            row = replace(row, members=members)
            histogram.add_sample(sample, self.counts)
        if strip is not None:
            self.strips[row.key] = strip
        self.rows.append(row)

    def commit(self) -> None:
        """Publishes the tar, if a window is kept, then the histogram, then the record.

        Raises AlreadyCommitted if another attempt has committed the shard meanwhile, FolderInUse if
        a later run has taken the folder over, TimeoutError as `commit_lock`.
        """
        with self.dataset.detect_takeover():
            tar = self.writer.finish() if self.writer.rows else None
            counts = histogram.encode(self.counts)
            record = ShardRecord(
                shard=self.shard,
                tar=tar,
                histogram=hashlib.sha256(counts).hexdigest(),
                values=int(self.counts.sum()),
                run=self.dataset.run_digest(),
                rows=self.rows,
                strips=self.strips,
                quiver=quiver_version(),
            )
            with commit_lock(self.dataset):
                if self.dataset.is_committed(self.shard):
                    raise AlreadyCommitted(self.shard)
                try:
                    self._publish(counts, record.dump())
                except FileExistsError:  # on file systems without locks
                    raise AlreadyCommitted(self.shard) from None
                remove_stray_tar(self.dataset, record)
        crashpoint("after-record", self.shard)

    def _publish(self, counts: bytes, record: bytes) -> None:
        """Steps 4 to 7: a file gets its name at the end of its block."""
        with open_to_create(self.dataset.record_path(self.shard)) as record_file:
            with open_to_replace(self.dataset.histogram_path(self.shard)) as histogram_file:
                histogram_file.write(counts)
                self.dataset.check_not_taken_over()
                if self.writer.rows:
                    self.writer.publish()
            record_file.write(record[: len(record) // 2])
            crashpoint("mid-record", self.shard)
            record_file.write(record[len(record) // 2 :])

    def discard(self) -> None:
        """Removes the temporary tar, if it is not published."""
        self.writer.discard()


@contextmanager
def commit_lock(dataset: Dataset) -> Iterator[None]:
    """Lets one shard be committed at a time. Two attempts at a shard may have different bytes, as
    on a GPU, and the tar of one must not get the record of the other.

    Raises TimeoutError if another process has been committing for COMMIT_TIMEOUT_S.
    """
    token = dataset.token
    path = dataset.run_json if token is None else dataset.run_lock.commit_lock_path(token)
    with open(path, "ab") as file:  # some network file systems lock only files open for writing
        deadline = time.monotonic() + COMMIT_TIMEOUT_S
        while not try_lock(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                problem = f"another process has been committing a shard for {COMMIT_TIMEOUT_S:g} s"
                raise TimeoutError(errno.ETIMEDOUT, problem, str(path))
            time.sleep(0.02)
        yield


def remove_stray_tar(dataset: Dataset, record: ShardRecord) -> None:
    """Removes the tar of an earlier attempt that died before its record, if the committed one keeps
    no window.

    This needs the record: before it, a run that was taken over could wake up and remove the tar
    that the later run has just committed.
    """
    if record.tar is None and dataset.tar_path(record.shard).exists():
        dataset.publish(dataset.tar_path(record.shard), None)
