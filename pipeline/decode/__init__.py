"""A video file becomes frames at the working resolution, with their own presentation times.

    probe.py          what a file is, and when each of its frames is shown (PyAV)
    container.py      opening a file that may be hostile; its frames, each with what is wrong with it
    choice.py         which decoder reads it: decord, if its frames are PyAV's
    readers.py        the frames themselves, by that decoder and by PyAV wherever it fails
    pyav_reader.py    frames by PyAV, decord_reader.py by decord, picture.py from a frame to RGB
    child.py          all of this in a process of its own, which may hang, leak or crash without harm
    process.py        the parent's side of it, sandbox.py what it may not do
    pool.py           several such processes, and frames ahead of the one who needs them

Nothing outside this folder opens a video.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    decoder: Literal["auto", "pyav"] = "auto"
    """auto is decord wherever it is exact and PyAV elsewhere; pyav does without decord, as where it has no wheels."""
    max_pixels: int = 8192 * 4320
    """A video with larger frames is quarantined before it is decoded."""
    max_frames: int = 250_000
    """A video with more frames is quarantined before it is decoded."""
    max_frame_rate: int = 250
    """A video with more frames than this within one second is quarantined before it is decoded."""
    deadline_s: float = 60.0
    """A decoder that is silent for longer is killed."""
    decoder_memory_mb: int = 2048
    """A decoder that takes more memory is killed."""

    def __post_init__(self):
        for name in ("max_pixels", "max_frames", "max_frame_rate", "deadline_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")
        if self.decoder_memory_mb < 256:
            raise ValueError(f"decoder_memory_mb is {self.decoder_memory_mb}, expected at least 256")
