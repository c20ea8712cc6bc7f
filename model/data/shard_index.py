"""Which samples there are, and where their bytes stand: the kept windows of one split of several
data sets, or views of them.

They are numbered by the sha256 of their tar, then by key. So neither a folder's name nor the order
in which data sets are given matters, and a view numbers its samples in the order in which the whole
does.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

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
    """Where a sample stands."""

    tar_path: Path
    """Of the tar."""
    key: str
    frequencies: int
    """K of its data set."""
    image_span: tuple[int, int]
    """Offset and size of the picture's bytes."""
    motion_span: tuple[int, int]
    checksums: tuple[int, int]
    """CRC-32 of the picture's bytes, and of the header of the arrays, in which each has its own."""


class _Shard(NamedTuple):
    digest: str
    """sha256 of the tar."""
    path: Path
    frequencies: int


class ShardIndex:
    """A sequence of `Row`, held as a few arrays, which worker processes share or get as a copy in
    no time.
    """

    def __init__(self, selections: Sequence[DatasetView], split: str):
        _check_held_out(selections)
        parts = [
            part for selection in selections for part in _locate_kept_samples(selection, split)
        ]
        parts.sort(key=lambda part: part[0].digest)
        self.shards = [shard for shard, _, _ in parts]
        if len({shard.digest for shard in self.shards}) != len(self.shards):
            raise ValueError(
                f"a {split} shard is there twice: two of the data sets are the same, or a data set and a view of it; expected each sample once"
            )
        self.shard = np.repeat(np.arange(len(parts)), [len(keys) for _, keys, _ in parts])
        self.keys = np.concatenate([np.zeros(0, "S1"), *(keys for _, keys, _ in parts)])
        self.locations = np.concatenate(
            [np.zeros((0, len(_LOCATION_COLUMNS)), np.int64), *(places for _, _, places in parts)]
        )

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> SampleLocation:
        shard, places = self.shards[self.shard[index]], self.locations[index].tolist()
        image, motion, checksums = ((places[i], places[i + 1]) for i in (0, 2, 4))
        key = self.keys[index].decode()
        return SampleLocation(shard.path, key, shard.frequencies, image, motion, checksums)


def _locate_kept_samples(
    selection: DatasetView, split: str
) -> list[tuple[_Shard, np.ndarray, Int64[np.ndarray, "samples 6"]]]:
    """Each shard of a split with the keys of its kept windows, in their order, and PLACES of each.

    Raises ValueError where the table of windows, or what stands in the folder, is not of the shards
    that the index names.
    """
    entries = {
        name: entry
        for name, entry in selection.read_index().shards.items()
        if entry.split == split and entry.kept
    }
    table = selection.kept_windows(["shard", "key", *_LOCATION_COLUMNS], split)
    shards, frequencies = (
        np.array(table["shard"].to_pylist(), str),
        selection.dataset.contract().config["frequencies"],
    )
    places = np.stack([table[name].to_numpy() for name in _LOCATION_COLUMNS], axis=1)
    if (
        Counter(shards.tolist()) != {name: entry.kept for name, entry in entries.items()}
        or places.dtype != np.int64
    ):
        raise DamagedDerived(
            f"{selection.manifest_path} is of another set of shards than index.json names: quiver finalize {selection.dataset.root} rebuilds it"
        )
    keys, found = np.array(table["key"].to_pylist(), np.bytes_), []
    for name, entry in entries.items():
        _check_shard_unchanged(selection, name, str(entry.tar))
        here = np.flatnonzero(shards == name)
        here = here[np.argsort(keys[here], kind="stable")]
        found.append(
            (
                _Shard(str(entry.tar), selection.dataset.tar_path(name), frequencies),
                keys[here],
                places[here],
            )
        )
    return found


def _check_shard_unchanged(selection: DatasetView, shard: str, sha256: str) -> None:
    """Raises ValueError where a shard was exchanged for another after the index was made, as far as
    its record and its length tell.
    """
    record, tar = selection.dataset.read_record(shard).tar, selection.dataset.tar_path(shard)
    if not tar.exists() or record != TarDigest(sha256=sha256, bytes=tar.stat().st_size):
        raise ValueError(
            f"{tar} is not the shard that index.json names: quiver verify {selection.dataset.root} names every fault"
        )


def _check_held_out(selections: Sequence[DatasetView]) -> None:
    """Raises ValueError where a video is for training in one data set and held out for test in
    another.
    """
    for trained, tested in permutations(selections, 2):
        if both := _collect_video_ids(trained, "train") & _collect_video_ids(tested, "test"):
            raise ValueError(
                f"{len(both)} videos are for training in {trained} and held out for test in {tested} ({min(both)[:16]}): split both alike"
            )


def _collect_video_ids(selection: DatasetView, split: str) -> set[str]:
    """By content, and by the source of which they are clips."""
    table = selection.kept_windows(["sha256", "source"], split)
    return {name for column in table.columns for name in column.unique().to_pylist() if name}
