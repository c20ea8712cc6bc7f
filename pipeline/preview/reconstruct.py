"""Reconstructs one stored sample: its motion, the frames that it makes, and the real frames.

The motion comes from the stored coefficients alone. The real frames are decoded again from the
video, if it is still there; for each instant the frame of the nearest presentation time is taken,
which is good enough to look at, not to measure.
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
from schemas.spectral_volume import SpectralVolume

_KEPT = [("outcome", "==", str(Outcome.KEPT))]
_EXAMPLE_KEY_COUNT = 3
"""A message about an unknown key names so many others as examples."""


class WindowSettings(NamedTuple):
    """How the windows of a dataset were cut and decoded."""

    plan: PlanConfig
    decode: DecodeConfig
    size: tuple[int, int]
    """Working resolution, width x height."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """A sample and its motion at the working rate."""

    row: ManifestRow
    """The row of the manifest."""
    sample: Sample
    settings: WindowSettings
    motion: Float32[np.ndarray, "time 2 height width"]
    """Displacement from the start frame, pixels, of the stored frequencies alone."""

    @property
    def volume(self) -> SpectralVolume:
        """The stored motion as a spectral volume, float32."""
        return SpectralVolume(
            spectrum=self.sample.spectrum.astype(np.float32),
            frames=self.settings.plan.frames,
            fps=self.settings.plan.fps,
            provenance={},
        )

    def frames(
        self, magnify: float = 1.0, step: int = 1
    ) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """The start frame moved by `magnify` times the motion at every `step`-th instant
        (pipeline.images.draw.warp).
        """
        for flow in self.motion[::step]:
            yield warp(self.sample.image, np.float32(magnify) * flow)

    def real_frames(self, step: int = 1) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        """The video's frames nearest in time to the same instants, decoded lazily. A frame that is
        nearest to several instants is the same array each time (`count_repeats`).

        Raises Quarantined, at the first or a later frame, if the video is missing, has changed, or
        cannot be read.
        """
        plan, decode, size = self.settings
        with _local_file(self.row.uri) as path:
            stream = decode_chunk([replace(self.row, uri=path)], shared_pool(decode, 1), plan, size)
            next(stream)  # the ChunkInfo
            instants = self.row.window().start_time_s + np.arange(plan.frames) / plan.fps
            frames = (item for item in stream if isinstance(item, Frame))
            yield from islice(nearest_frames(frames, instants), 0, None, step)


@contextmanager
def _local_file(uri: str) -> Iterator[str]:
    """The local path of a video while it is read. Raises Quarantined for every reason why there is
    none, because the rest of a sample can be shown without it.
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
    """The frame nearest to each instant, the earlier of two that are equally near. Frames and
    instants must be in order of time.
    """
    before = after = next(frames)
    for instant in instants:
        while after.time < instant and (following := next(frames, None)):
            before, after = after, following
        yield (before if abs(instant - before.time) <= abs(after.time - instant) else after).image


def count_repeats(frames: Iterable[UInt8[np.ndarray, "height width 3"]]) -> int:
    """How many of a sample's real frames repeat the one before, because the video has no frame that
    is nearer.
    """
    return sum(frame is before for before, frame in pairwise(frames))


def reconstruct(selection: DatasetView, key: str) -> Reconstruction:
    """Reconstructs the sample `key` of a dataset whose run has finished, or of a view.

    Raises ValueError if there is no manifest or no such sample, or if its files are damaged.
    """
    row = _find_kept_row(selection, key)
    settings = read_settings(selection.dataset)
    sample = read_sample(selection.dataset.tar_path(str(row.shard)), key, row.members or {})
    return reconstruct_sample(row, sample, settings)


def reconstruct_sample(
    row: ManifestRow, sample: Sample, settings: WindowSettings
) -> Reconstruction:
    """Reconstructs a sample that has been read, with its row of the manifest."""
    return Reconstruction(
        row=row,
        sample=sample,
        settings=settings,
        motion=to_motion(channels_to_complex(sample.spectrum), settings.plan.frames),
    )


def _find_kept_row(selection: DatasetView, key: str) -> ManifestRow:
    """The manifest row of a kept window. Raises ValueError, naming its outcome and the keys of some
    kept windows, if the window was not kept.
    """
    rows = read_manifest(selection, filters=[("key", "==", key)])
    if rows and rows[0].outcome == Outcome.KEPT:
        return rows[0]
    outcome = f"is not in {selection}"
    if rows:
        why = ", ".join(filter(None, [rows[0].reason, rows[0].detail]))
        outcome = f"was {rows[0].outcome} ({why}), so there is no sample of it"
    kept = read_manifest_table(selection, columns=["key"], filters=_KEPT)["key"].to_pylist()
    raise ValueError(f"key {key!r} {outcome}; {_format_example_keys(kept)}")


def find_most_moving_key(selection: DatasetView) -> str:
    """The key of the kept window with the most motion. Raises ValueError if no window is kept."""
    columns = ["mean_motion_px", "key"]
    rows = read_manifest_table(selection, columns=columns, filters=_KEPT).to_pylist()
    if not rows:
        raise ValueError(f"{selection} keeps no window, expected at least 1")
    return max(rows, key=lambda row: (row["mean_motion_px"], row["key"]))["key"]


def _format_example_keys(keys: Sequence[str]) -> str:
    """Names some of the keys, spread over all."""
    if not keys:
        return "no window of this dataset was kept"
    examples = {keys[i * len(keys) // _EXAMPLE_KEY_COUNT] for i in range(_EXAMPLE_KEY_COUNT)}
    return f"expected one of {len(keys)} that are kept, such as {', '.join(sorted(examples))}"


def read_manifest(selection: DatasetView, filters: Any) -> list[ManifestRow]:
    """Rows of the manifest. Raises ValueError if there is no manifest or it is damaged."""
    table = read_manifest_table(selection, filters=filters)
    return [ManifestRow.load(row) for row in table.to_pylist()]


def read_manifest_table(selection: DatasetView, **options: Any) -> pa.Table:
    """Columns or rows of the manifest; `options` are those of DatasetView.read_table. Raises
    ValueError if there is no manifest or it is damaged.
    """
    try:
        return selection.read_table(**options)
    except FileNotFoundError as error:
        name = selection.manifest_path.name
        raise ValueError(
            f"{selection} has no {name}, expected a dataset whose run has finished"
        ) from error


def read_settings(dataset: Dataset) -> WindowSettings:
    """The settings of the run that are needed to decode its windows again. Raises ValueError if
    run.json does not have them.
    """
    config = from_contract(dataset.contract().config)
    return WindowSettings(config.plan, config.decode, config.size)
