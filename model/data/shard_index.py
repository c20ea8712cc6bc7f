"""Where each training sample is stored: the kept windows of one split of several datasets or views.

Samples are ordered by the sha256 of their tar, then by key. So neither the name of a folder nor the
order of the datasets matters, and a view orders its samples as its dataset does.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from model.data.scenes import scene_digest
from pipeline.dataset.open import DamagedDerived, DatasetView
from schemas.sample import IMAGE_MEMBER, MOTION_MEMBER
from schemas.shard_record import HEADER_CHECKSUM_COLUMN, TarDigest, checksum_column, member_columns

_LOCATION_COLUMNS = (
    *member_columns(IMAGE_MEMBER),
    *member_columns(MOTION_MEMBER),
    checksum_column(IMAGE_MEMBER),
    HEADER_CHECKSUM_COLUMN,
)


class SampleLocation(NamedTuple):
    """Where the bytes of a sample are, and how to verify them."""

    tar_path: Path
    key: str
    frequencies: int
    """K of the dataset."""
    image_span: tuple[int, int]
    """Offset and size of the image's bytes in the tar."""
    motion_span: tuple[int, int]
    """Offset and size of the motion member's bytes in the tar."""
    checksums: tuple[int, int]
    """CRC-32 of the image's bytes and of the motion member's header, which has one for each array.
    """


class _Shard(NamedTuple):
    digest: str
    """sha256 of the tar."""
    path: Path
    frequencies: int


class _ShardSamples(NamedTuple):
    """The kept samples of a shard, ordered by key."""

    shard: _Shard
    keys: np.ndarray
    locations: Int64[np.ndarray, "samples 6"]
    """The values of `_LOCATION_COLUMNS`."""
    scenes: np.ndarray
    """The digest of each sample's scene (scenes.py)."""
    dataset: int
    """Which of the datasets it is of, counted from 0."""


class ShardIndex:
    """A sequence of `SampleLocation`, stored as a few arrays, which loader workers share or copy in
    no time.

    Raises ValueError if a shard occurs twice, if a video is for training in one dataset and held
    out in another, or if a dataset's derived files do not belong to its shards.
    """

    def __init__(self, views: Sequence[DatasetView], split: str):
        _check_held_out(views)
        samples = [
            shard_samples
            for number, view in enumerate(views)
            for shard_samples in _kept_samples(view, number, split)
        ]
        samples.sort(key=lambda shard_samples: shard_samples.shard.digest)
        self.shards = [shard_samples.shard for shard_samples in samples]
        if len({shard.digest for shard in self.shards}) != len(self.shards):
            raise ValueError(
                f"a {split} shard occurs twice: two of the datasets are the same, or one is a view "
                "of another; expected each sample once"
            )
        counts = [len(shard_samples.keys) for shard_samples in samples]
        self.shard_numbers = np.repeat(np.arange(len(samples)), counts)
        no_keys, no_locations = np.zeros(0, "S1"), np.zeros((0, len(_LOCATION_COLUMNS)), np.int64)
        self.keys = np.concatenate([no_keys, *(part.keys for part in samples)])
        self.scenes = np.concatenate([no_keys, *(part.scenes for part in samples)])
        self.datasets = np.repeat([part.dataset for part in samples], counts).astype(np.int64)
        self.locations = np.concatenate([no_locations, *(part.locations for part in samples)])

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> SampleLocation:
        shard, columns = self.shards[self.shard_numbers[index]], self.locations[index].tolist()
        image, motion, checksums = ((columns[i], columns[i + 1]) for i in (0, 2, 4))
        key = self.keys[index].decode()
        return SampleLocation(shard.path, key, shard.frequencies, image, motion, checksums)


def _kept_samples(view: DatasetView, number: int, split: str) -> Iterator[_ShardSamples]:
    """The kept samples of each shard of a split. Raises ValueError if the manifest or a shard's tar
    is not the one that the index names.
    """
    entries = {
        name: entry
        for name, entry in view.read_index().shards.items()
        if entry.split == split and entry.kept
    }
    table = view.kept_windows(["shard", "key", "source", "clip_id", *_LOCATION_COLUMNS], split)
    shard_names = np.array(table["shard"].to_pylist(), str)
    locations = np.stack([table[name].to_numpy() for name in _LOCATION_COLUMNS], axis=1)
    counts = {name: entry.kept for name, entry in entries.items()}
    if Counter(shard_names.tolist()) != counts or locations.dtype != np.int64:
        raise DamagedDerived(
            f"{view.manifest_path} is of another set of shards than index.json names: "
            f"quiver finalize {view.dataset.root} rebuilds it"
        )
    keys = np.array(table["key"].to_pylist(), np.bytes_)
    names = zip(table["source"].to_pylist(), table["clip_id"].to_pylist(), strict=True)
    scenes = np.array([scene_digest(*name) for name in names], np.bytes_)
    frequencies = view.dataset.contract().config["frequencies"]
    for name, entry in entries.items():
        tar = view.dataset.tar_path(name)
        digest = str(entry.tar)
        record = view.dataset.read_record(name).tar
        # was the shard replaced after the index was made? its record and its length tell
        if not tar.exists() or record != TarDigest(sha256=digest, bytes=tar.stat().st_size):
            raise ValueError(
                f"{tar} is not the shard that index.json names: "
                f"quiver verify {view.dataset.root} names every fault"
            )
        rows = np.flatnonzero(shard_names == name)
        rows = rows[np.argsort(keys[rows], kind="stable")]
        shard = _Shard(digest, tar, frequencies)
        yield _ShardSamples(shard, keys[rows], locations[rows], scenes[rows], number)


def _check_held_out(views: Sequence[DatasetView]) -> None:
    """Raises ValueError if a video is for training in one dataset and held out in another."""
    for training_view, test_view in permutations(views, 2):
        if common := _video_ids(training_view, "train") & _video_ids(test_view, "test"):
            raise ValueError(
                f"{len(common)} videos are for training in {training_view} and held out for test "
                f"in {test_view} ({min(common)[:16]}): split both alike"
            )


def _video_ids(view: DatasetView, split: str) -> set[str]:
    """The videos of a split, by their content and by the source that they are clips of."""
    table = view.kept_windows(["sha256", "source"], split)
    return {name for column in table.columns for name in column.unique().to_pylist() if name}
