"""What a user means by `DATASET` or `DATASET:VIEW`: the windows that are kept, and the histogram of
the training ones.

A view (views.py) judges the windows of a data set by other thresholds; its files stand in views/
beside each other and say the same of it as manifest.parquet, index.json and histogram.safetensors
say of the whole.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset import histogram as statistics
from pipeline.dataset.folder import SHARD_NAME, DamagedShard, Dataset
from pipeline.dataset.shards import read_sample, to_json
from pipeline.filters import Thresholds
from schemas.outcome import Outcome, to_printable
from schemas.records import DatasetIndex, IndexEntry
from schemas.sample import Sample
from schemas.seal import open_seal


class DamagedDerived(ValueError):
    """A file that follows from the records is another than was written; `quiver finalize` writes it
    again.
    """


TABLE_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, IndexError, pa.ArrowException)
"""What a flipped bit in a table may be to pyarrow, or to who uses what came of it."""


_MIN_CACHE_AGE_NS = 2_000_000_000
"""Age of a file from which on another change of it shows in its time."""


@dataclass(frozen=True)
class DatasetView:
    """A data set, or a view of it."""

    dataset: Dataset
    view: str | None = None
    derived: Dataset | None = None
    """Where the derived files are, if not in the data set's folder."""
    unsealed: bool = False
    """The table was written by who reads it now, before the index that is to hold its digest."""

    def __str__(self) -> str:
        return f"{self.dataset.root}:{self.view}" if self.view else str(self.dataset.root)

    def base(self) -> "DatasetView":
        """The data set of which this is a view."""
        return DatasetView(self.dataset)

    @property
    def derived_dataset(self) -> Dataset:
        """In whose folder the derived files are."""
        return self.derived or self.dataset

    def derived_path(self, name: str) -> Path:
        """A derived file: the data set's, or the view's of the same meaning."""
        root = self.derived_dataset.root
        return root / "views" / f"{self.view}.{name}" if self.view else root / name

    @property
    def manifest_path(self) -> Path:
        """One row for every row of the plan, with what became of it."""
        return self.derived_path("parquet" if self.view else "manifest.parquet")

    def thresholds(self) -> Thresholds:
        """By which its windows are kept. Raises ValueError where they cannot be read."""
        path = self.derived_path("json") if self.view else self.dataset.run_json
        begun = self.dataset.contract()
        try:
            settings = self.read_definition() if self.view else begun.config
            return Thresholds(
                **{name: float(value) for name, value in settings["thresholds"].items()}
            )
        except FileNotFoundError:
            raise ValueError(f"{path} is not there: quiver refilter makes the view again") from None
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
        ) as error:
            words = f"{path} does not have the thresholds of the filters: {error}"
            again = f": quiver refilter {self.dataset.root} --name {self.view} makes the view again"
            raise ValueError(words + again * bool(self.view)) from error

    def read_definition(self) -> dict[str, Any]:
        """What a view was made by. Raises ValueError if it has changed, KeyError if it is none."""
        found = open_seal(self.derived_path("json").read_bytes(), indent=1)
        run = hashlib.sha256(self.dataset.run_json.read_bytes()).hexdigest()
        if (found["view"], found["run"]) != (self.view, run):
            raise ValueError(f"it is of the view {found['view']!r}, or of another data set")
        return found

    def read_index(self) -> DatasetIndex:
        """Shards by name: split, number of kept windows, content. Raises ValueError where it is
        missing or out of date, or, of a view, where it was made of other shards than are there now.
        """
        path, rebuild = (
            self.derived_path("index.json"),
            f"quiver finalize {self.dataset.root} rebuilds it",
        )
        self.dataset.contract()
        try:
            index = DatasetIndex.load(path.read_bytes())
        except FileNotFoundError:
            self.dataset.check_finished()
            raise ValueError(f"{path} is not there: {rebuild}") from None
        except (ValueError, RecursionError) as error:
            raise DamagedDerived(f"{path} is damaged ({error!r:.200}): {rebuild}") from error
        committed = {path.stem for path in self.dataset.records.glob("*.json")}
        if index.run != self.dataset.run_digest() or index.shards.keys() != committed:
            raise ValueError(
                f"{path} is of another set of shards than {self.dataset.records} holds: {rebuild}"
            )
        if self.view and index.tars() != self.base().read_index().tars():
            raise ValueError(f"{path} is of other tars than {self.dataset.index} names: {rebuild}")
        return index

    def training_shards(self) -> dict[str, IndexEntry]:
        """The shards of the index with kept training windows. Raises ValueError where there is
        none.
        """
        shards = self.read_index().shards
        training = {shard: entry for shard, entry in shards.items() if entry.has_training_windows()}
        if not training:
            kept = sum(entry.kept for entry in shards.values())
            if kept:
                words = f"all {kept} windows that were kept are held out for test; extract-flow --test-fraction 0 holds out none"
            else:
                words = f"no window was kept in its {len(shards)} shards; the columns reason and detail of its manifest say why"
            raise ValueError(f"{self} has no training window: {words}")
        return training

    def read_histogram(self) -> np.ndarray:
        """Of the kept training windows, int64 [K, 2, BINS]. Raises ValueError where there is none
        or the file is damaged.
        """
        self.training_shards()
        path, sha256 = self.derived_path("histogram.safetensors"), self.read_index().histogram
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DamagedDerived(
                f"{path} {'is damaged' if data else 'is not there'}: quiver finalize {self.dataset.root} rebuilds it"
            )
        return statistics.decode(data)

    def kept_windows(self, columns: Sequence[str], split: str = "train") -> pa.Table:
        """These columns of the windows of a split that are kept."""
        return self.read_table(
            columns=list(columns),
            filters=[("outcome", "=", Outcome.KEPT.value), ("split", "=", split)],
        )

    def read_table(self, **selected: Any) -> pa.Table:
        """Rows of the manifest. Raises DamagedDerived where it cannot be read; FileNotFoundError
        where there is none.
        """
        self.check_manifest()
        with self.wrap_read_errors():
            return pq.read_table(self.manifest_path, page_checksum_verification=True, **selected)

    def iter_row_groups(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The same, of these columns, a part at a time."""
        self.check_manifest()
        with (
            self.wrap_read_errors(),
            pq.ParquetFile(self.manifest_path, page_checksum_verification=True) as file,
        ):
            for i in range(file.num_row_groups):
                yield file.read_row_group(i, columns=list(columns))

    def check_manifest(self) -> None:
        """Raises DamagedDerived if the table is not the one of the index: Parquet's own checksums
        leave out its footer, by which whole groups of rows may be skipped. FileNotFoundError if
        there is none, ValueError as `index`.
        """
        found = None if self.unsealed else file_sha256(self.manifest_path)
        if found is not None and found != self.read_index().manifest:
            words = f"it is not the table that {self.derived_path('index.json').name} names"
            again = f"quiver finalize {self.dataset.root} rebuilds it"
            raise DamagedDerived(f"{self.manifest_path} cannot be read ({words}): {again}")

    @contextmanager
    def wrap_read_errors(self) -> Iterator[None]:
        """Around what is read of the table: raises DamagedDerived for whatever it is that fails."""
        try:
            yield
        except FileNotFoundError:
            raise
        except TABLE_READ_ERRORS as error:
            words = f"quiver finalize {self.dataset.root} rebuilds it"
            raise DamagedDerived(
                f"{self.manifest_path} cannot be read ({to_printable(str(error))}): {words}"
            ) from error


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, read again only where the file may have changed."""
    found = path.stat()
    if time.time_ns() - found.st_mtime_ns < _MIN_CACHE_AGE_NS:
        return _cached_sha256.__wrapped__(path)
    return _cached_sha256(path, found.st_size, found.st_mtime_ns, found.st_ino)


@lru_cache(64)
def _cached_sha256(path: Path, *_: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_dataset(text: str) -> DatasetView:
    """`DATASET` or `DATASET:VIEW`. Raises ValueError where there is no such data set or view."""
    folder, colon, view = text.rpartition(":")
    if not colon or os.path.exists(text):
        folder, view = text, None
    selection = DatasetView(Dataset(folder), view)
    selection.dataset.contract()
    if view is not None and not (SHARD_NAME.fullmatch(view) and selection.manifest_path.exists()):
        views = sorted(path.stem for path in selection.dataset.views.glob("*.parquet"))
        words = (
            f"expected one of {', '.join(views)}"
            if views
            else f"and none at all: quiver refilter {folder} --name {view} makes one"
        )
        raise ValueError(f"{folder} has no view {view!r}, {words}")
    return selection


def training_digest(selections: Sequence[DatasetView]) -> str:
    """Of the exact set of training shards, in whatever order they are given."""
    contents = sorted(
        str(entry.content)
        for selection in selections
        for entry in selection.training_shards().values()
    )
    return hashlib.sha256(to_json(contents)).hexdigest()


def iter_samples(selection: DatasetView, shard: str) -> Iterator[Sample]:
    """The kept samples of one shard. Raises DamagedShard naming one whose bytes are not the sample
    that was written.
    """
    filters: Any = [("outcome", "=", Outcome.KEPT.value), ("shard", "=", shard)]
    for row in selection.read_table(filters=filters).to_pylist():
        try:
            sample = read_sample(selection.dataset.tar_path(shard), row["key"], row)
        except ValueError as error:
            raise DamagedShard(
                f"{error}: quiver verify {selection.dataset.root} names every fault, quiver repair puts it right"
            ) from error
        yield sample
