"""Opens and decodes whole clips for metrics.

Frames are decoded at the clip's own size and scaled here, so that all videos are brought to one
size in the same way, whatever decodes them.
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
from pipeline.extract.plan import clip_from_row
from pipeline.extract.plan_clip import hash_file, window_span
from pipeline.preview.reconstruct import WindowSettings
from pipeline.whole_clip.first_window import display_size
from schemas.arrays import Frames
from schemas.clip import VideoInfo
from schemas.outcome import Quarantined
from schemas.records import PlanRow

CROP_DESCRIPTION = (
    "decoded at its own size, scaled to the smallest size that covers the crop"
    " (by area averaging; bilinear where enlarged), the middle of it"
)
"""How every frame is cropped, in the words of the protocols of metrics."""


class ClipFrames(NamedTuple):
    """Decoded frames of a clip."""

    frames: Frames
    times: Float64[np.ndarray, " time"]
    """Seconds after the first frame, increasing."""
    size: tuple[int, int]
    """Width and height at which the clip was decoded."""
    sha256: str
    """Digest of the whole file."""
    decoder: str


class ClipSpan(NamedTuple):
    """Frames of a video that has been probed, but not decoded."""

    path: str
    video: VideoInfo
    span: range
    """Their indices in the video."""
    size: tuple[int, int]
    """Width and height at which they are decoded: those of the video, or of a dataset."""
    sha256: str | None = None
    """Digest that the whole file must have, if it is known from a dataset."""
    split: str | None = None
    """Split of the dataset that the window is from."""

    @property
    def times(self) -> Float64[np.ndarray, " time"]:
        """Seconds of the frames after the first of them."""
        return (
            self.video.times[self.span.start : self.span.stop] - self.video.times[self.span.start]
        )

    def truncate(self, count: int) -> "ClipSpan":
        """The first `count` frames."""
        return self._replace(span=self.span[:count])


def collect_videos(folder: Path, option: str) -> dict[str, Path]:
    """The videos in a folder and its subfolders by their names without suffix, in order of paths.

    Raises ValueError, naming the option, if there is no video or two have the same name.
    """
    if not folder.is_dir():
        raise ValueError(f"{option} is {str(folder)!r}, expected a folder of videos")
    videos: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in VIDEO_SUFFIXES or not path.is_file():
            continue
        if path.stem in videos:
            raise ValueError(
                f"{option} has {path} and {videos[path.stem]}, expected one video of each name"
            )
        videos[path.stem] = path
    if not videos:
        suffixes = " ".join(sorted(VIDEO_SUFFIXES))
        raise ValueError(
            f"{option} is {str(folder)!r}, which has no video, expected some of {suffixes}"
        )
    return videos


def open_clip(path: Path, pool: DecoderPool) -> ClipSpan:
    """All frames of a video. Raises ValueError if it cannot be read."""
    try:
        video = pool.probe(str(path))
    except Quarantined as error:
        raise _unusable_video_error(path, error) from error
    return ClipSpan(str(path), video, range(len(video.times)), display_size(video))


def open_window(row: PlanRow, settings: WindowSettings, pool: DecoderPool) -> ClipSpan:
    """The frames of a dataset's window, given its manifest row. Raises ValueError if its video is
    missing or has changed, OSError if its folder is missing.
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


def decode_clip(clip: ClipSpan, size: tuple[int, int], pool: DecoderPool) -> ClipFrames:
    """The frames of a clip, cropped to `size` (width, height) as CROP_DESCRIPTION says. Raises
    ValueError if decoding fails or the file has changed.
    """
    try:
        images = pool.frames(clip.path, clip.video, clip.span, clip.size)
        frames = np.stack([_crop_to_size(image, size) for image in images])
        digest, _ = hash_file(clip.path)
    except Quarantined as error:
        raise _unusable_video_error(clip.path, error) from error
    if clip.sha256 not in (None, digest):
        raise ValueError(
            f"{clip.path} has sha256 {digest}, expected {clip.sha256} as when the dataset was made"
        )
    return ClipFrames(frames, clip.times, clip.size, digest, clip.video.decoder)


def _unusable_video_error(path: str | Path, error: Quarantined) -> ValueError:
    return ValueError(f"{path} cannot be used: {error.detail} ({error.reason})")


def _crop_to_size(
    image: UInt8[np.ndarray, "_ _ 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """The middle of the picture, as CROP_DESCRIPTION says; a picture of that size is returned as it
    is.
    """
    rows, columns = image.shape[:2]
    cover = cover_size(columns / rows, size)
    if cover != (columns, rows):
        image = cv2.resize(
            image, cover, interpolation=cv2.INTER_AREA if cover[0] < columns else cv2.INTER_LINEAR
        )
    return center_crop(image, size)
