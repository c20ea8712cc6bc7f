"""Turns displacements over time into spectral volumes, and normalizes those for networks.

    spectrum.py       READ FIRST: the temporal Fourier coefficients (a running DFT, no FFT) of a
                      window, their inverse, their power (no torch)
    spectrum_gpu.py   the same sums on the device where the flow is computed (torch)
    normalize.py      coefficients as a network sees them, and back (its function of the same name
                      is imported from there)
    gpu.py            which GPUs there are, and how busy a device is (torch)

Imports of this package run one way: pipeline.flow imports it, it imports schemas only.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline.motion.normalize import Normalization, channel_scales

if TYPE_CHECKING:
    from pipeline.motion.spectrum import RunningSpectrum, power_spectrum, to_motion, to_spectrum

__all__ = [
    "Normalization",
    "RunningSpectrum",
    "channel_scales",
    "power_spectrum",
    "to_motion",
    "to_spectrum",
]


def __getattr__(name: str) -> Any:
    """Imports the spectrum when it is asked for: it needs OpenCV, which not every install has."""
    if name in __all__:
        return getattr(import_module("pipeline.motion.spectrum"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
