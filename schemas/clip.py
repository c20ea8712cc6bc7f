"""Clips, videos and windows: what is listed, what is found in it, what is planned."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One video, or a cut of one, as the user listed it."""

    uri: str
    """Path of the video file."""
    clip_id: str | None = None
    """The user's name for it; without one it is named by its content."""
    start_s: float | None = None
    """The cut begins so many seconds after the first frame of the file, as a player counts; None:
    at that frame.
    """
    end_s: float | None = None
    """The cut ends before so many seconds after the first frame; None, or later than the last: at
    the file's end.
    """
    licence: str | None = None
    source: str | None = None
    """What the clip was cut from: clips of one source never part between train and test."""
    split: str | None = None
    """`train` or `test` where the user decides; None: by hash."""

    root: str | None = None
    """The folder in which it was found; a link that leaves it is refused. None: listed by name."""
    place: str | None = field(default=None, compare=False)
    """Its path as it was listed: in the folder in which it was found, or as the table says it.
    None: `uri`. It names a clip whose content cannot be read, wherever the folder is moved.
    """

    def __post_init__(self):
        if self.split not in (None, "train", "test"):
            raise ValueError(f"split of {self.uri!r} is {self.split!r}, expected 'train' or 'test'")
        for name, value in (("start_s", self.start_s), ("end_s", self.end_s)):
            if value is not None and not np.isfinite(value):
                raise ValueError(f"{name} of {self.uri!r} is {value}, expected a number of seconds")


FileSignature = tuple[int, int, int]
"""Inode, bytes and time of change of a file: what tells it from one that replaced it."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a probe finds in a file without decoding it all; index i of `times` is source frame i."""

    times: Float64[np.ndarray, " frames"]
    """Presentation times in order, seconds, as the container counts them: the first may be
    anything.
    """
    end_s: float
    """Last time plus that frame's duration, seconds."""
    aspect: float
    """Width over height as shown: rotated, with the pixels' own aspect."""
    height: int
    """Rows as shown: rotated."""
    keyframes: Int64[np.ndarray, " keyframes"]
    """Indices of the frames at which decoding can begin."""
    decoder: str
    """Name and version of the decoder that returns these frames exactly."""
    decoder_reason: str
    """Why that one."""
    signature: FileSignature
    """Of the file in which all this was found."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """One planned start frame of a clip."""

    key: str
    """Name of the sample in the shard and in the manifest: letters, digits, `-` and `_`."""
    start_frame: int
    """Index of the source frame, counted from the beginning of the file."""
    start_time_s: float
    """Its time in seconds after the first frame of the file."""
