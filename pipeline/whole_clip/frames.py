"""Whole clips as pictures to be measured.

Frames are decoded at their own size and scaled here, so that two videos are brought to one size in
the same way, whatever decodes them.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float64, UInt8

from pipeline.decode.pool import DecoderPool
from pipeline.decode.readers import center_crop, cover_size
from pipeline.extract.frame_stream import probe_planned_video
from pipeline.extract.list_clips import VIDEO_SUFFIXES
from pipeline.extract.plan import clip_from_row, hash_file, window_span
from pipeline.preview.reconstruct import WindowSettings
from pipeline.whole_clip.first_window import display_size
from schemas.clip import VideoInfo
from schemas.outcome import Quarantined
from schemas.records import PlanRow

CROP_DESCRIPTION = "decoded at its own size, scaled to the smallest size that covers the crop (by area averaging; bilinear where enlarged), the middle of it"
"""What is done to every frame, in words for whoever compares numbers."""

Frames = UInt8[np.ndarray, "time height width 3"]


class ClipFrames(NamedTuple):
    """Some frames of a clip."""

    frames: Frames
    times: Float64[np.ndarray, " time"]
    """Seconds after the first of them, increasing."""
    size: tuple[int, int]
    """Width and height at which it was decoded."""
    sha256: str
    """Of the whole file."""
    decoder: str


class ClipSpan(NamedTuple):
    """Frames of a video that has been looked at, but not decoded."""

    path: str
    video: VideoInfo
    span: range
    """Their indices in the video."""
    size: tuple[int, int]
    """Width and height at which they are decoded: the video's own, or a data set's."""
    sha256: str | None = None
    """Of the whole file, where it is known from before: the file must still have it."""
    split: str | None = None
    """Of the data set that it is from."""

    @property
    def times(self) -> Float64[np.ndarray, " time"]:
        """Seconds after the first of them."""
        return (
            self.video.times[self.span.start : self.span.stop] - self.video.times[self.span.start]
        )

    def truncate(self, count: int) -> "ClipSpan":
        """Its first frames."""
        return self._replace(span=self.span[:count])


def collect_videos(folder: Path, option: str) -> dict[str, Path]:
    """The videos of a folder and those below it, by their names without suffix, in order.

    Raises ValueError, naming the option, where there is none, or two have one name.
    """
    if not folder.is_dir():
        raise ValueError(f"{option} is {str(folder)!r}, expected a folder of videos")
    found: dict[str, Path] = {}
    for path in sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()
    ):
        if path.stem in found:
            raise ValueError(
                f"{option} has {path} and {found[path.stem]}, expected one video of each name"
            )
        found[path.stem] = path
    if not found:
        raise ValueError(
            f"{option} is {str(folder)!r}, which has no video, expected some of {' '.join(sorted(VIDEO_SUFFIXES))}"
        )
    return found


def open_clip(path: Path, pool: DecoderPool) -> ClipSpan:
    """All of a video. Raises ValueError, in a sentence, where it cannot be read."""
    try:
        video = pool.probe(str(path))
    except Quarantined as error:
        raise _unusable_video_error(path, error) from error
    return ClipSpan(str(path), video, range(len(video.times)), display_size(video))


def open_window(row: PlanRow, settings: WindowSettings, pool: DecoderPool) -> ClipSpan:
    """The frames of a data set's window, by its row of the manifest. Raises ValueError where its
    video is gone or another, OSError where its folder is gone.
    """
    clip = clip_from_row(row)
    try:
        video = probe_planned_video(clip, [row], pool)
    except Quarantined as error:
        raise _unusable_video_error(clip.uri, error) from error
    return ClipSpan(
        clip.uri,
        video,
        window_span(clip, video, row.window(), settings.plan),
        settings.size,
        row.sha256,
        row.split,
    )


def decode_clip(take: ClipSpan, size: tuple[int, int], pool: DecoderPool) -> ClipFrames:
    """Its frames cropped to `size` (width, height) as CROPPING says. Raises ValueError
    where the video gives out, or is another than it was.
    """
    try:
        frames = np.stack(
            [
                _crop_to_size(image, size)
                for image in pool.frames(take.path, take.video, take.span, take.size)
            ]
        )
        digest, _ = hash_file(take.path)
    except Quarantined as error:
        raise _unusable_video_error(take.path, error) from error
    if take.sha256 not in (None, digest):
        raise ValueError(
            f"{take.path} has sha256 {digest}, expected {take.sha256}, as when the data set was made"
        )
    return ClipFrames(frames, take.times, take.size, digest, take.video.decoder)


def _unusable_video_error(path: str | Path, error: Quarantined) -> ValueError:
    return ValueError(f"{path} cannot be used: {error.detail} ({error.reason})")


def _crop_to_size(
    image: UInt8[np.ndarray, "_ _ 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """The middle of the picture, as CROPPING says; a picture of that size is returned as it is."""
    rows, columns = image.shape[:2]
    cover = cover_size(columns / rows, size)
    if cover != (columns, rows):
        image = cv2.resize(
            image, cover, interpolation=cv2.INTER_AREA if cover[0] < columns else cv2.INTER_LINEAR
        )
    return center_crop(image, size)
