"""One stored sample, moving again, beside the real frames that it was made from.

The motion comes from the stored coefficients alone. The real frames are decoded again from the
video, if it is still there, and brought to the same instants by the nearest presentation time: to
be looked at, not to be measured.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Float32, UInt8

from pipeline.dataset.folder import Dataset
from pipeline.dataset.open import DatasetView
from pipeline.dataset.remote_clips import local_clip_path
from pipeline.dataset.shards import read_sample
from pipeline.decode.config import DecodeConfig
from pipeline.decode.pool import shared_pool
from pipeline.extract.config import PlanConfig, from_contract
from pipeline.extract.frame_stream import Frame, decode_chunk
from pipeline.images.draw import warp
from pipeline.motion.spectrum import to_motion
from schemas.outcome import Outcome, Quarantined, Reason, Stage
from schemas.records import ManifestRow
from schemas.sample import Sample, channels_to_complex

_KEPT = [("outcome", "==", str(Outcome.KEPT))]
_EXAMPLE_KEY_COUNT = 3
"""Keys that are named to one who asked for another."""


class WindowSettings(NamedTuple):
    """How a data set's windows were cut and decoded."""

    plan: PlanConfig
    decode: DecodeConfig
    size: tuple[int, int]
    """Working resolution, width x height."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """A sample's motion at the working rate."""

    row: ManifestRow
    sample: Sample
    settings: WindowSettings
    motion: Float32[np.ndarray, "time 2 height width"]
    """Displacement from the start frame, pixels, of the stored frequencies alone."""

    def frames(
        self, magnify: float = 1.0, step: int = 1
    ) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """The start frame moved by `magnify` times the motion at every `step`-th instant
        (pictures.warp).
        """
        for flow in self.motion[::step]:
            yield warp(self.sample.image, np.float32(magnify) * flow)

    def real_frames(self, step: int = 1) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """The video's frames nearest in time to the same instants, decoded as they are asked for;
        one that is so again is the same array (`count_repeats`).

        Raises Quarantined, at the first or a later frame, where the video is gone, another, or
        cannot be read.
        """
        plan, decode, size = self.settings
        with _local_file(self.row.uri) as path:
            stream = decode_chunk([replace(self.row, uri=path)], shared_pool(decode, 1), plan, size)
            next(stream)  # what was found of the video
            instants = self.row.window().start_time_s + np.arange(plan.frames) / plan.fps
            yield from islice(
                nearest_frames((frame for frame in stream if isinstance(frame, Frame)), instants),
                0,
                None,
                step,
            )


@contextmanager
def _local_file(uri: str) -> Iterator[str]:
    """A video's file, for as long as it is read. Raises Quarantined where it cannot be had: all
    else of a sample is shown without.
    """
    try:
        with ExitStack() as stack:
            try:
                path = stack.enter_context(local_clip_path(uri, None))
            except ValueError as error:  # this machine has no boto3
                raise Quarantined(Stage.DECODE, Reason.UNREADABLE, str(error)) from error
            yield path
    except OSError as error:
        raise Quarantined(Stage.DECODE, Reason.UNREADABLE, str(error)) from error


def nearest_frames(
    frames: Iterator[Frame], instants: Float[np.ndarray, " time"]
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """At each instant the frame nearest to it, of two as near the earlier; both in order of time."""
    before = after = next(frames)
    for instant in instants:
        while after.time < instant and (following := next(frames, None)):
            before, after = after, following
        yield (before if abs(instant - before.time) <= abs(after.time - instant) else after).image


def count_repeats(frames: Iterable[UInt8[np.ndarray, "height width 3"]]) -> int:
    """How many of a sample's real frames are the one before again, since the video has none that is
    nearer.
    """
    return sum(one is before for before, one in pairwise(frames))


def reconstruct(selection: DatasetView, key: str) -> Reconstruction:
    """The sample `key` of a data set whose run has finished, or of a view.

    Raises ValueError, in a sentence, where there is no manifest, no such sample, or its files are
    damaged.
    """
    row = _find_kept_row(selection, key)
    settings = read_settings(selection.dataset)
    return reconstruct_sample(
        row,
        read_sample(selection.dataset.tar_path(str(row.shard)), key, row.members or {}),
        settings,
    )


def reconstruct_sample(
    row: ManifestRow, sample: Sample, settings: WindowSettings
) -> Reconstruction:
    """A sample that has been read, with its row of the manifest."""
    return Reconstruction(
        row=row,
        sample=sample,
        settings=settings,
        motion=to_motion(channels_to_complex(sample.spectrum), settings.plan.frames),
    )


def _find_kept_row(selection: DatasetView, key: str) -> ManifestRow:
    """The row of the manifest of a kept window. Raises ValueError saying what became of it, and
    naming some that are kept.
    """
    rows = read_manifest(selection, filters=[("key", "==", key)])
    if rows and rows[0].outcome == Outcome.KEPT:
        return rows[0]
    kept = read_manifest_table(selection, columns=["key"], filters=_KEPT)["key"].to_pylist()
    fate = (
        f"was {_describe_outcome(rows[0])}, so there is no sample of it"
        if rows
        else f"is not in {selection}"
    )
    raise ValueError(f"key {key!r} {fate}; {_format_example_keys(kept)}")


def find_most_moving_key(selection: DatasetView) -> str:
    """The key of the kept window of most motion. Raises ValueError where no window is kept."""
    kept = read_manifest_table(selection, columns=["mean_motion_px", "key"], filters=_KEPT).to_pylist()
    if not kept:
        raise ValueError(f"{selection} keeps no window, expected at least 1")
    return max(kept, key=lambda row: (row["mean_motion_px"], row["key"]))["key"]


def _describe_outcome(row: ManifestRow) -> str:
    """What became of a window, and why: `rejected (cut)`."""
    return f"{row.outcome} ({', '.join(filter(None, [row.reason, row.detail]))})"


def _format_example_keys(kept: Sequence[str]) -> str:
    """Some of the keys, spread over all."""
    if not kept:
        return "no window of this data set was kept"
    some = sorted({kept[i * len(kept) // _EXAMPLE_KEY_COUNT] for i in range(_EXAMPLE_KEY_COUNT)})
    return f"expected one of {len(kept)} that are kept, as {', '.join(some)}"


def read_manifest(selection: DatasetView, filters: Any) -> list[ManifestRow]:
    """Rows of the manifest. Raises ValueError where there is none that can be read."""
    return [ManifestRow.load(row) for row in read_manifest_table(selection, filters=filters).to_pylist()]


def read_manifest_table(selection: DatasetView, **selected: Any) -> pa.Table:
    """Some columns or rows of the manifest. Raises ValueError as `read_manifest` does."""
    try:
        return selection.read_table(**selected)
    except FileNotFoundError as error:
        raise ValueError(
            f"{selection} has no {selection.manifest_path.name}, expected a data set whose run has finished"
        ) from error


def read_settings(dataset: Dataset) -> WindowSettings:
    """The settings of the run that are needed to decode its windows again. Raises ValueError where
    run.json has none.
    """
    config = from_contract(dataset.contract().config)
    return WindowSettings(config.plan, config.decode, config.size)
