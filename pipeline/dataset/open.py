"""Open DATASET or DATASET:VIEW for reading: its index, manifest, histogram and samples.

A view (views.py) judges the windows of a dataset by other thresholds. Its files in views/ have the
same meaning as manifest.parquet, index.json, histogram.safetensors and statistics.json have for the
dataset; `DatasetView` reads either.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Complex64, Float32, UInt8

from pipeline.dataset import histogram
from pipeline.dataset.folder import SHARD_NAME, DamagedShard, Dataset
from pipeline.dataset.shards import read_sample
from pipeline.filters import Thresholds
from pipeline.motion.normalize import Normalization, Normalizer, channel_scales
from pipeline.motion.spectrum import to_motion
from schemas.outcome import Outcome, to_printable
from schemas.records import DatasetIndex, IndexEntry
from schemas.sample import Sample, channels_to_complex
from schemas.seal import open_seal, to_json
from schemas.shard_record import MEMBER_COLUMNS
from schemas.spectral_volume import SpectralVolume
from schemas.statistics import decode_statistics

if TYPE_CHECKING:
    from pipeline.dataset.torch_dataset import TorchDataset


class DamagedDerived(ValueError):
    """A derived file has changed since it was written; `quiver finalize` writes it again."""


TABLE_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, IndexError, pa.ArrowException)
"""Errors of reading a damaged table with pyarrow, or of using what it returned."""

_MIN_CACHE_AGE_NS = 2_000_000_000
"""A digest is cached once the file is this old: a later change has another time of change then."""


_LOCATION_COLUMNS = ("key", "shard", "split", *MEMBER_COLUMNS)
"""Columns of the manifest that say where a kept sample is stored."""


@dataclass(frozen=True)
class DatasetSample:
    """One kept window as Python code reads it."""

    stored: Sample
    """The sample as it is stored, with its metadata and its later frames."""
    frames: int
    """T, the frames of the window at the working rate."""
    fps: float
    """The working rate, frames a second."""

    @property
    def key(self) -> str:
        """The name of the sample."""
        return self.stored.key

    @property
    def image(self) -> UInt8[np.ndarray, "height width 3"]:
        """The start frame, RGB."""
        return self.stored.image

    @property
    def spectrum(self) -> Complex64[np.ndarray, "freq 2 height width"]:
        """The coefficients of the displacement (x, y), pixels (docs/design/maths.md, 1)."""
        return channels_to_complex(self.stored.spectrum)

    def motion(self) -> Float32[np.ndarray, "time 2 height width"]:
        """The displacement (x, y) of every pixel at each of the T frames, pixels."""
        return to_motion(self.spectrum, self.frames)

    def volume(self) -> SpectralVolume:
        """The motion as `model.render.animate` takes it."""
        channels = self.stored.spectrum.astype(np.float32)
        return SpectralVolume(
            spectrum=channels, fps=self.fps, frames=self.frames, provenance={"sample": self.key}
        )


@dataclass(frozen=True)
class DatasetView:
    """A dataset, or a view of it: a sequence of the samples of both splits, in the order of its
    manifest.
    """

    dataset: Dataset
    view: str | None = None
    derived: Dataset | None = None
    """The folder of the derived files, if it is not the dataset's."""
    unsealed: bool = False
    """The manifest was just written, and its digest is not in the index yet."""

    def __str__(self) -> str:
        return f"{self.dataset.root}:{self.view}" if self.view else str(self.dataset.root)

    def __len__(self) -> int:
        """The number of kept windows. Raises ValueError as `__getitem__` does."""
        return len(self._kept_rows)

    def __iter__(self) -> Iterator[DatasetSample]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> DatasetSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[DatasetSample]: ...
    def __getitem__(self, index: int | slice) -> DatasetSample | list[DatasetSample]:
        """A sample, or a list of samples, read from the shards.

        Raises IndexError if there is no such sample, and ValueError if the manifest or the sample
        is missing or damaged.
        """
        rows = self._kept_rows
        if isinstance(index, slice):
            return [self[i] for i in range(len(rows))[index]]
        row = rows.slice(range(len(rows))[index], 1).to_pylist()[0]
        try:
            sample = read_sample(self.dataset.tar_path(row["shard"]), row["key"], row)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{error}: quiver verify {self.dataset.root} names every fault"
            ) from error
        plan = self.dataset.contract().config["plan"]
        return DatasetSample(sample, plan["frames"], float(plan["fps"]))

    @cached_property
    def _kept_rows(self) -> pa.Table:
        """Where each kept sample is stored."""
        kept: Any = [("outcome", "=", Outcome.KEPT.value)]
        try:
            return self.read_table(columns=list(_LOCATION_COLUMNS), filters=kept)
        except FileNotFoundError:
            self.dataset.check_finished()
            raise ValueError(
                f"{self.manifest_path} is missing: quiver finalize {self.dataset.root} writes it"
            ) from None

    def normalizer(self, normalisation: Normalization = "adaptive") -> Normalizer:
        """The normalization of spectra by the scales of the training samples.

        Raises ValueError if the statistics are missing, damaged or of other training shards, and
        as `channel_scales` does.
        """
        path, shards = self.derived_path("statistics.json"), training_digest([self])
        rebuild = f"quiver finalize {self.dataset.root} rebuilds it"
        if not path.exists():
            raise ValueError(f"{path} is missing: {rebuild}")
        scales = decode_statistics(path.read_bytes())
        if scales.shards != shards:
            raise ValueError(f"{path} is of other training shards than {self} has: {rebuild}")
        return Normalizer(channel_scales(scales, normalisation), normalisation)

    def to_torch(
        self, split: str = "train", normalisation: Normalization = "adaptive"
    ) -> "TorchDataset":
        """The samples of a split, "train" or "test", as a map-style PyTorch dataset.

        Raises ValueError if there is no such split, and as `normalizer` does.
        """
        from pipeline.dataset.torch_dataset import TorchDataset  # not above: loads torch

        if split not in ("train", "test"):
            raise ValueError(f"split is {split!r}, expected 'train' or 'test'")
        splits = self._kept_rows["split"].to_pylist()
        indices = [i for i, name in enumerate(splits) if name == split]
        return TorchDataset(self, indices, self.normalizer(normalisation))

    def base(self) -> "DatasetView":
        """Returns the dataset of which this is a view."""
        return DatasetView(self.dataset)

    @property
    def derived_dataset(self) -> Dataset:
        """The folder of the derived files."""
        return self.derived or self.dataset

    def derived_path(self, name: str) -> Path:
        """Returns the path of a derived file of the dataset, or of the same file of the view."""
        root = self.derived_dataset.root
        return root / "views" / f"{self.view}.{name}" if self.view else root / name

    @property
    def manifest_path(self) -> Path:
        """A table of every planned window, with its outcome."""
        return self.derived_path("parquet" if self.view else "manifest.parquet")

    def thresholds(self) -> Thresholds:
        """Returns the thresholds by which windows are kept. Raises ValueError if they cannot be
        read.
        """
        path = self.derived_path("json") if self.view else self.dataset.run_json
        contract = self.dataset.contract()
        try:
            settings = self.read_definition() if self.view else contract.config
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
            problem = f"{path} does not have the thresholds of the filters: {error}"
            command = f"quiver refilter {self.dataset.root} --name {self.view}"
            advice = f": {command} makes the view again"
            raise ValueError(problem + advice * bool(self.view)) from error

    def clip_choice(self) -> tuple[list[str], list[str] | None]:
        """The clip ids and sources of which the view keeps nothing, and those of which alone it
        keeps windows, or None. Raises ValueError if the definition cannot be read.
        """
        if not self.view:
            return [], None
        try:
            definition = self.read_definition()
            without, only = definition.get("without", []), definition.get("only")
            if not all(isinstance(name, str) for name in (*without, *(only or ()))):
                raise ValueError("a list of clips is no list of names")
            return without, only
        except (AttributeError, KeyError, OSError, TypeError, RecursionError) as error:
            raise ValueError(f"{self.derived_path('json')} cannot be read: {error!r}") from error

    def read_definition(self) -> dict[str, Any]:
        """Returns the definition of a view. Raises ValueError if the file has changed, KeyError if
        it is no definition.
        """
        definition = open_seal(self.derived_path("json").read_bytes(), indent=1)
        if (definition["view"], definition["run"]) != (self.view, self.dataset.run_digest()):
            raise ValueError(f"it is of the view {definition['view']!r}, or of another dataset")
        return definition

    def read_index(self) -> DatasetIndex:
        """Reads the index. Raises ValueError if it is missing or damaged, or if the dataset now has
        other shards than those of the index.
        """
        path = self.derived_path("index.json")
        rebuild = f"quiver finalize {self.dataset.root} rebuilds it"
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
        """Returns the shards with kept training windows. Raises ValueError if there is none."""
        shards = self.read_index().shards
        training = {shard: entry for shard, entry in shards.items() if entry.has_training_windows()}
        if not training:
            kept = sum(entry.kept for entry in shards.values())
            reason = (
                f"all {kept} windows that were kept are held out for test; "
                "extract-flow --test-fraction 0 holds out none"
                if kept
                else f"no window was kept in its {len(shards)} shards; "
                "the columns reason and detail of its manifest say why"
            )
            raise ValueError(f"{self} has no training window: {reason}")
        return training

    def read_histogram(self) -> np.ndarray:
        """Reads the histogram of the kept training windows, int64 [K, 2, BINS]. Raises ValueError
        if there is no training window, or the file is missing or damaged.
        """
        self.training_shards()
        path, sha256 = self.derived_path("histogram.safetensors"), self.read_index().histogram
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != sha256:
            problem = "is damaged" if data else "is not there"
            raise DamagedDerived(
                f"{path} {problem}: quiver finalize {self.dataset.root} rebuilds it"
            )
        return histogram.decode(data)

    def kept_windows(self, columns: Sequence[str], split: str = "train") -> pa.Table:
        """Reads columns of the manifest, for the kept windows of a split."""
        return self.read_table(
            columns=list(columns),
            filters=[("outcome", "=", Outcome.KEPT.value), ("split", "=", split)],
        )

    def read_table(self, **selected: Any) -> pa.Table:
        """Reads the manifest; `selected` are arguments of pyarrow.parquet.read_table. Raises
        DamagedDerived if it cannot be read, FileNotFoundError if it is missing.
        """
        self.check_manifest()
        with self.wrap_read_errors():
            return pq.read_table(self.manifest_path, page_checksum_verification=True, **selected)

    def iter_row_groups(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yields columns of the manifest by its row groups. Raises as `read_table`."""
        self.check_manifest()
        with (
            self.wrap_read_errors(),
            pq.ParquetFile(self.manifest_path, page_checksum_verification=True) as file,
        ):
            for i in range(file.num_row_groups):
                yield file.read_row_group(i, columns=list(columns))

    def check_manifest(self) -> None:
        """Raises DamagedDerived if the manifest is not the one of the index, FileNotFoundError if
        it is missing, and ValueError as `read_index`.

        Parquet's own checksums do not cover the footer; a flipped bit in it may skip row groups.
        """
        if self.unsealed or file_sha256(self.manifest_path) == self.read_index().manifest:
            return
        problem = f"it is not the table that {self.derived_path('index.json').name} names"
        rebuild = f"quiver finalize {self.dataset.root} rebuilds it"
        raise DamagedDerived(f"{self.manifest_path} cannot be read ({problem}): {rebuild}")

    @contextmanager
    def wrap_read_errors(self) -> Iterator[None]:
        """Turns errors of reading the manifest into DamagedDerived."""
        try:
            yield
        except FileNotFoundError:
            raise
        except TABLE_READ_ERRORS as error:
            rebuild = f"quiver finalize {self.dataset.root} rebuilds it"
            raise DamagedDerived(
                f"{self.manifest_path} cannot be read ({to_printable(str(error))}): {rebuild}"
            ) from error


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file's content, which is read again only if the file has changed."""
    status = path.stat()
    if time.time_ns() - status.st_mtime_ns < _MIN_CACHE_AGE_NS:
        return _cached_sha256.__wrapped__(path)
    return _cached_sha256(path, status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(64)
def _cached_sha256(path: Path, *_: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_dataset(path: str | Path) -> DatasetView:
    """Opens `DATASET` or `DATASET:VIEW`. Raises ValueError if there is no such dataset or view."""
    text = str(path)
    folder, colon, name = text.rpartition(":")
    if not colon or os.path.exists(text):
        folder, name = text, None
    view = DatasetView(Dataset(folder), name)
    view.dataset.contract()
    if name is not None and not (SHARD_NAME.fullmatch(name) and view.manifest_path.exists()):
        names = sorted(path.stem for path in view.dataset.views.glob("*.parquet"))
        expected = (
            f"expected one of {', '.join(names)}"
            if names
            else f"and none at all: quiver refilter {folder} --name {name} makes one"
        )
        raise ValueError(f"{folder} has no view {name!r}, {expected}")
    return view


def training_digest(views: Sequence[DatasetView]) -> str:
    """Returns a digest of the set of training shards of these datasets, in whatever order."""
    contents = sorted(
        str(entry.content) for view in views for entry in view.training_shards().values()
    )
    return hashlib.sha256(to_json(contents)).hexdigest()


def iter_samples(view: DatasetView, shard: str) -> Iterator[Sample]:
    """Yields the kept samples of one shard. Raises DamagedShard if the bytes of one are not those
    that were written.
    """
    filters: Any = [("outcome", "=", Outcome.KEPT.value), ("shard", "=", shard)]
    for row in view.read_table(filters=filters).to_pylist():
        try:
            sample = read_sample(view.dataset.tar_path(shard), row["key"], row)
        except ValueError as error:
            raise DamagedShard(
                f"{error}: quiver verify {view.dataset.root} names every fault, "
                "quiver repair puts it right"
            ) from error
        yield sample
