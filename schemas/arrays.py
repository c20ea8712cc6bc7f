"""Aliases of array types that several modules share; the name says what an array holds."""

import numpy as np
from jaxtyping import Float32, UInt8

Image = UInt8[np.ndarray, "height width 3"]
"""RGB, 0 to 255."""
Frames = UInt8[np.ndarray, "time height width 3"]
"""RGB frames of a clip, 0 to 255."""
Flow = Float32[np.ndarray, "2 height width"]
"""Displacement (x, y) of each pixel, pixels."""
MotionField = Float32[np.ndarray, "time 2 height width"]
"""Displacement (x, y) of each pixel from the start frame to each frame, pixels."""
Spectrum = Float32[np.ndarray, "freq 4 height width"]
"""Fourier coefficients of the displacement, pixels: re x, im x, re y, im y."""
