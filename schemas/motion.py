"""A spectral volume in a file of its own: what a sampler writes and an animation reads."""

import json
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load, save

MOTION_VERSION = 1
LARGEST = 1e9
"""Of a coefficient, pixels: far over any motion, and far under what overflows when it is squared."""


@dataclass(frozen=True, kw_only=True)
class SpectralVolume:
    """The motion of a picture, as coefficients in pixels of `size`."""

    spectrum: Float32[np.ndarray, "freq 4 height width"]
    """re x, im x, re y, im y (docs/maths.md, 1)."""
    fps: float
    frames: int
    """T; frequency k stands at k fps / T Hz."""
    made: dict[str, Any]
    """What made it: a photograph, a checkpoint, a seed."""


def encode(volume: SpectralVolume) -> bytes:
    """safetensors; equal volumes give equal bytes."""
    about = dict(format=MOTION_VERSION, fps=volume.fps, frames=volume.frames, made=volume.made)
    return save({"spectrum": np.ascontiguousarray(volume.spectrum, np.float32)}, {"quiver": json.dumps(about, sort_keys=True, allow_nan=False)})


def decode(data: bytes) -> SpectralVolume:
    """Inverse of `encode`. Raises ValueError where the file is no spectral volume, or holds a number that is not finite or over LARGEST."""
    try:
        spectrum, about = load(data)["spectrum"], json.loads(metadata(data)["quiver"])
        if about["format"] != MOTION_VERSION:
            raise ValueError(f"format is {about['format']!r}, expected {MOTION_VERSION}")
        fps, frames = float(about["fps"]), int(about["frames"])
        check(spectrum, fps, frames)
        return SpectralVolume(spectrum=spectrum, fps=fps, frames=frames, made=dict(about["made"]))
    except (KeyError, TypeError, ValueError, SafetensorError, RecursionError) as error:
        raise ValueError(f"not a file of a spectral volume: {error}") from error


def metadata(data: bytes) -> dict[str, str]:
    """Of a safetensors file that was loaded before."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])["__metadata__"]


def check(spectrum: np.ndarray, fps: float, frames: int) -> None:
    """Raises ValueError unless these are finite coefficients of windows that have as many."""
    if spectrum.dtype != np.float32 or spectrum.ndim != 4 or spectrum.shape[1] != 4 or min(spectrum.shape[2:]) < 2:
        raise ValueError(f"spectrum is {spectrum.dtype}{list(spectrum.shape)}, expected float32[K, 4, height, width] of at least 2x2 pixels")
    if not (isfinite(fps) and 0 < fps <= 1000 and 2 <= frames <= 100_000 and 1 <= len(spectrum) <= frames // 2 + 1):
        raise ValueError(f"{len(spectrum)} frequencies of {frames} frames at {fps:g} a second")
    if not np.isfinite(spectrum).all():
        raise ValueError("spectrum has values that are not finite")
    if (largest := float(np.abs(spectrum).max())) > LARGEST:
        raise ValueError(f"spectrum has values of up to {largest:.3g} pixels, expected at most {LARGEST:g}")
