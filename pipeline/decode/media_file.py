"""Checks whether a video file can be read at all, and defines what decoders know about it."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from schemas.clip import FileSignature, VideoInfo
from schemas.outcome import Quarantined, Reason, Stage


@dataclass(frozen=True, kw_only=True)
class Source:
    """A probed video file: what the pipeline knows (`video`), and what only its readers need."""

    path: str
    video: VideoInfo
    pts: Int64[np.ndarray, " frames"]
    """Time stamps of the frames, in ticks of the stream."""
    is_seekable: bool
    """Whether frames can be found by their time stamps after a seek; otherwise they are counted
    from the beginning.
    """
    ordinals: Int64[np.ndarray, " frames"]
    """Index of each frame in the decoder's output from the beginning of the file."""
    is_limited_range: bool
    """Whether gray levels run from 16 to 235, which is so unless the stream says otherwise."""
    orientation: tuple[int, int, int, int]
    """How stored images are mirrored and rotated to be shown (picture.py)."""
    max_pixels: int
    """A frame with more pixels is refused."""


class PictureResult(NamedTuple):
    """A frame at the working resolution, or the reason why there is none that can be trusted."""

    image: UInt8[np.ndarray, "height width 3"] | None
    decoder: str
    """Name and version of the decoder that returned it."""
    damage: str | None = None
    """Why its content may be wrong, or why it is missing; None if `image` can be trusted."""


class PacketInfo(NamedTuple):
    """The properties of a packet of the video stream, without its data."""

    pts: int | None
    dts: int | None
    duration: int
    is_keyframe: bool
    is_discarded: bool
    is_corrupt: bool
    """Whether a part of its data is missing in the file."""


def file_signature(path: str) -> FileSignature | None:
    """Inode, size and modification time, which change when a file is replaced; None if there is no
    file.

    Raises OSError if its folder is missing too, or the file system does not answer: a lost mount is
    not the clip's fault.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        os.stat(Path(path).parent)
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def check_readable(path: str) -> None:
    """Raises Quarantined (missing, unreadable, not_media) unless `path` is a file that is not empty
    and that this process may read.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            os.scandir(path).close()
        if not stat.S_ISREG(mode):  # opening a pipe would wait forever
            kind = "folder" if stat.S_ISDIR(mode) else "pipe, a socket or a device"
            raise quarantine_error(Reason.NOT_MEDIA, f"a {kind}, expected a file")
        with open(path, "rb") as file:
            if not file.read(1):
                raise quarantine_error(Reason.NOT_MEDIA, "the file is empty")
    except FileNotFoundError as error:
        raise quarantine_error(Reason.MISSING, "there is no such file") from error
    except OSError as error:
        raise quarantine_error(Reason.UNREADABLE, error.strerror or "cannot be opened") from error


def looks_like_video(path: str) -> bool:
    """Whether the first bytes are those of an ISO, RIFF or Matroska file: if such a file cannot be
    opened, it was cut off.
    """
    with open(path, "rb") as file:
        head = file.read(12)
    return head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") or head[:4] in (
        b"RIFF",
        b"\x1a\x45\xdf\xa3",
    )


def quarantine_error(reason: Reason, detail: str, stage: Stage = Stage.PROBE) -> Quarantined:
    """The exception for a file that cannot become samples; by default it fails its probe."""
    return Quarantined(stage, reason, detail)
