"""What a spectral volume makes move: motion at any time, loops, and pictures that can be dragged.

series       READ FIRST: motion at any time, slow motion, magnification; how a loop is closed
compose      chooses loop, length and strength of the motion for a film
sinusoids    matching pursuit: the frequencies of waves between the bands of a volume
modal        bands as damped oscillators: drag, release, strike, wind
"""

from model.motion.modal import Modes, State, to_modes
from model.motion.series import (
    MotionSeries,
    crossfade_loop,
    extrapolate,
    magnify,
    snap_loop,
    start_at_rest,
    to_series,
)

__all__ = [
    "Modes",
    "MotionSeries",
    "State",
    "crossfade_loop",
    "extrapolate",
    "magnify",
    "snap_loop",
    "start_at_rest",
    "to_modes",
    "to_series",
]
