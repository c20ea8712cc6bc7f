"""A clip that the user listed, what a probe says of its video, and a window of it."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A video, or a cut of one, as the user listed it."""

    uri: str
    """Path of the video file."""
    clip_id: str | None = None
    """The user's name for the clip; None: its content names it."""
    start_s: float | None = None
    """Start of the cut, seconds after the first frame of the file, as a player counts; None: that
    frame.
    """
    end_s: float | None = None
    """End of the cut, exclusive, seconds after the first frame; None, or later than the last frame:
    the end of the file.
    """
    licence: str | None = None
    source: str | None = None
    """What the clip was cut from; all clips of one source are in the same split."""
    split: str | None = None
    """`train` or `test` if the user decides; None: a hash decides."""

    root: str | None = None
    """The folder in which the clip was found, which a link must not leave; None: listed by name."""
    place: str | None = field(default=None, compare=False)
    """The path as it was listed, within the folder or in the words of the table; None: `uri`. It
    names a clip whose content cannot be read, wherever the folder is moved.
    """

    def __post_init__(self):
        if self.split not in (None, "train", "test"):
            raise ValueError(f"split of {self.uri!r} is {self.split!r}, expected 'train' or 'test'")
        for name, value in (("start_s", self.start_s), ("end_s", self.end_s)):
            if value is not None and not np.isfinite(value):
                raise ValueError(f"{name} of {self.uri!r} is {value}, expected a number of seconds")


FileSignature = tuple[int, int, int]
"""Inode, length and time of change of a file, which tell it from one that replaced it."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a probe says of a video without decoding all of it; `times[i]` is of source frame i."""

    times: Float64[np.ndarray, " frames"]
    """Presentation times in order, seconds, as the container counts them; the first one need not be
    0.
    """
    end_s: float
    """Time of the last frame plus its duration, seconds."""
    aspect: float
    """Width over height as shown, after rotation, with the aspect of the pixels."""
    height: int
    """Rows as shown, after rotation."""
    keyframes: Int64[np.ndarray, " keyframes"]
    """Indices of the frames at which decoding can start."""
    decoder: str
    """Name and version of the decoder that returns these frames exactly."""
    decoder_reason: str
    """Why this decoder was chosen."""
    signature: FileSignature
    """Signature of the file that was probed."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A planned start frame of a clip, with the seconds that follow it."""

    key: str
    """Name of the sample in the shard and in the manifest, of letters, digits, `-` and `_`."""
    start_frame: int
    """Index of the source frame in the file, from 0."""
    start_time_s: float
    """Seconds after the first frame of the file."""
