"""A spectral volume as a safetensors file, which a sampler writes and an animation reads."""

import hashlib
import json
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load, save

from schemas.seal import open_seal, seal

MOTION_VERSION = 2
_MAX_COEFFICIENT_PX = 1e9
"""Largest coefficient, pixels: far above any motion, and its square is far from overflow."""
_DECODE_ERRORS = (KeyError, OverflowError, TypeError, ValueError, SafetensorError, RecursionError)
MAX_FRAMES, MAX_FREQUENCIES = 100_000, 256
"""Largest window. The memory of an animation grows with its frequencies, not with its frames."""


@dataclass(frozen=True, kw_only=True)
class SpectralVolume:
    """The motion of a picture, as Fourier coefficients in pixels of that picture."""

    spectrum: Float32[np.ndarray, "freq 4 height width"]
    """re x, im x, re y, im y (docs/design/maths.md, 1)."""
    fps: float
    frames: int
    """T; frequency k stands at k fps / T Hz."""
    provenance: dict[str, Any]
    """What made it: a photograph, a checkpoint, a seed."""


def encode_volume(volume: SpectralVolume) -> bytes:
    """Returns a safetensors file; equal volumes give equal bytes."""
    spectrum = np.ascontiguousarray(volume.spectrum, np.float32)
    about = dict(
        format=MOTION_VERSION, fps=volume.fps, frames=volume.frames, made=volume.provenance
    )
    text = seal(about | {"spectrum": spectrum_sha256(spectrum)}).decode()
    return save({"spectrum": spectrum}, {"quiver": text})


def decode_volume(data: bytes) -> SpectralVolume:
    """Inverse of `encode_volume`.

    Raises ValueError if the file is no spectral volume, is not what was written, holds a number
    that is not finite or is too large, or has more than MAX_FRAMES or MAX_FREQUENCIES.
    """
    try:
        spectrum, text = load(data)["spectrum"], _read_metadata(data)["quiver"]
        about = json.loads(text)
        if about["format"] != MOTION_VERSION:
            words = f"format is {about['format']!r}, expected {MOTION_VERSION}"
            raise ValueError(f"{words}: quiver sample writes it again")
        fps, frames = about["fps"], about["frames"]
        if type(frames) is not int or type(fps) not in (int, float):
            words = f"frames is {frames!r:.40} and fps {fps!r:.40}"
            raise ValueError(f"{words}, expected a whole number and a number")
        _check_spectrum(spectrum, float(fps), frames)
        if open_seal(text.encode())["spectrum"] != spectrum_sha256(spectrum):
            raise ValueError("its spectrum has changed since it was written")
        provenance = dict(about["made"])
        return SpectralVolume(
            spectrum=spectrum, fps=float(fps), frames=frames, provenance=provenance
        )
    except _DECODE_ERRORS as error:
        raise ValueError(f"not a file of a spectral volume: {error}") from error


def spectrum_sha256(spectrum: np.ndarray) -> str:
    """sha256 of the coefficients, hexadecimal."""
    return hashlib.sha256(spectrum.tobytes()).hexdigest()


def _read_metadata(data: bytes) -> dict[str, str]:
    """Reads the metadata of a safetensors file that has been loaded without an error."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])["__metadata__"]


def _check_spectrum(spectrum: np.ndarray, fps: float, frames: int) -> None:
    """Raises ValueError unless these are finite coefficients that such a window can have."""
    if (
        spectrum.dtype != np.float32
        or spectrum.ndim != 4
        or spectrum.shape[1] != 4
        or min(spectrum.shape[2:]) < 2
    ):
        raise ValueError(
            f"spectrum is {spectrum.dtype}{list(spectrum.shape)}, expected float32[K, 4, height, "
            "width] of at least 2x2 pixels"
        )
    if not (isfinite(fps) and 0 < fps <= 1000 and 2 <= frames <= MAX_FRAMES):
        words = f"frames is {frames!s:.20} and fps {fps:g}"
        raise ValueError(f"{words}, expected 2 to {MAX_FRAMES}, and over 0 to 1000")
    if not 1 <= len(spectrum) <= min(frames // 2 + 1, MAX_FREQUENCIES):
        words = f"it has {len(spectrum)} frequencies of {frames} frames"
        raise ValueError(f"{words}, expected 1 to {min(frames // 2 + 1, MAX_FREQUENCIES)}")
    if not np.isfinite(spectrum).all():
        raise ValueError("spectrum has values that are not finite")
    if (largest := float(np.abs(spectrum).max())) > _MAX_COEFFICIENT_PX:
        raise ValueError(
            f"spectrum has values of up to {largest:.3g} pixels, expected at most "
            f"{_MAX_COEFFICIENT_PX:g}"
        )
