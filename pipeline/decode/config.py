"""The settings of decoding: which decoder, and the limits of what is decoded."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    decoder: Literal["auto", "pyav"] = "auto"
    """auto uses decord for files on which it is exact and PyAV for all others; pyav never uses
    decord, which has no wheels for some machines.
    """
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
            raise ValueError(
                f"decoder_memory_mb is {self.decoder_memory_mb}, expected at least 256"
            )
