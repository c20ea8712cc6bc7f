"""Normalizes spectral coefficients for a network, and back (docs/maths.md, 10).

    adaptive     S' = sign(S) sqrt(|S / s|), s the scale of the frequency: equation 4 of the paper
    linear       S' = S / s: without the power transform
    log          S' = sign(S) log2(1 + |S / s|)
    resolution   S' = S / width for x, S / height for y: without statistics, the paper's ablation

Each is applied to real and imaginary parts one by one, and is odd and increasing, so that 0 stays
exactly 0; the first three take |S| = s to 1. The functions take numpy arrays and torch tensors
alike, and are differentiable for tensors.
"""

from math import log
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from schemas.statistics import SpectrumStatistics

Normalization = Literal["adaptive", "linear", "log", "resolution"]


def channel_scales(
    statistics: SpectrumStatistics, normalization: Normalization = "adaptive"
) -> Float32[np.ndarray, "freq 4 1 1"]:
    """The divisor of each channel (re x, im x, re y, im y) of each frequency, pixels.

    Raises ValueError if the scale of a frequency is 0, since nothing moves there.
    """
    if normalization == "resolution":
        per_component = np.broadcast_to(np.array(statistics.size), (len(statistics.scale), 2))
    else:
        scale = np.array(statistics.scale, np.float64)
        per_component = np.broadcast_to(scale.reshape(len(scale), -1), (len(scale), 2))
    if not (per_component > 0).all():
        k = int(np.flatnonzero((per_component <= 0).any(axis=1))[0])
        raise ValueError(
            f"the scale at {statistics.frequencies[k].hz:g} Hz is 0, expected more: "
            "nothing moves there, keep fewer frequencies"
        )
    return np.repeat(per_component, 2, axis=1).reshape(-1, 4, 1, 1).astype(np.float32)


def normalize(
    spectrum: Float32[Any, "*batch freq 4 height width"],
    scale: Float32[Any, "freq 4 1 1"],
    normalization: Normalization = "adaptive",
) -> Float32[Any, "*batch freq 4 height width"]:
    """S' of raw coefficients in pixels; `scale` is that of `channel_scales`."""
    ratio = spectrum / scale
    if normalization == "adaptive":
        return _apply("sign", ratio) * _apply("sqrt", abs(ratio))
    if normalization == "log":
        return _apply("sign", ratio) * (_apply("log1p", abs(ratio)) / log(2))
    return ratio


def denormalize(
    normalized: Float32[Any, "*batch freq 4 height width"],
    scale: Float32[Any, "freq 4 1 1"],
    normalization: Normalization = "adaptive",
) -> Float32[Any, "*batch freq 4 height width"]:
    """Raw coefficients in pixels: the inverse of `normalize`."""
    if normalization == "adaptive":
        return scale * (normalized * abs(normalized))
    if normalization == "log":
        return scale * (_apply("sign", normalized) * _apply("expm1", abs(normalized) * log(2)))
    return scale * normalized


def _apply(name: str, array: Any) -> Any:
    """The elementwise function of that name, of a torch tensor or of a numpy array."""
    return getattr(array, name)() if hasattr(array, name) else getattr(np, name)(array)
