"""The running spectrum against the FFT of a whole motion texture: 150 frames of 256 x 160, first 16
frequencies.

Each FFT gets the finished texture in memory, as float32 and contiguous, so that collecting it costs
the peers nothing. Quiver gets the same frames in blocks of 32, as the flow estimator hands them
over; `add` also sums the mean magnitude, the energy and every fourth pixel, which the peers do not
do, so it has a row of its own, with the complex volume included.
"""

import numpy as np
import scipy.fft

from benchmarks.rounds import (
    Target,
    arguments,
    interleaved,
    one_cpu,
    report,
    speedup,
    table,
    timings_table,
)
from pipeline.motion.spectrum import BLOCK_FRAMES, RunningSpectrum

SIZE, TIME, FPS, FREQUENCIES = (256, 160), 150, 30.0, 16


def main() -> None:
    options = arguments(__doc__).parse_args()
    one_cpu()
    motion = texture()
    contenders = {
        "Quiver, coefficients": lambda: coefficients(motion),
        "Quiver, everything": lambda: everything(motion).spectrum(),
        "numpy.fft.rfft": lambda: np.fft.rfft(motion, axis=0)[:FREQUENCIES],
        "scipy.fft.rfft": lambda: scipy.fft.rfft(motion, axis=0, workers=1)[:FREQUENCIES],
    }
    timings = interleaved(contenders, 1 if options.quick else 3 * options.rounds)
    coefficient_times, total_times, numpy_times, scipy_times = timings.values()
    exact = np.fft.rfft(motion.astype(np.float64), axis=0)[:FREQUENCIES]
    targets = [
        speedup("numpy.fft.rfft / Quiver, coefficients", 4, coefficient_times, numpy_times),
        speedup(
            "scipy.fft.rfft, one worker / Quiver, coefficients", 1.3, coefficient_times, scipy_times
        ),
        speedup("numpy.fft.rfft / Quiver, everything", 1, total_times, numpy_times),
        speedup("scipy.fft.rfft, one worker / Quiver, everything", 1, total_times, scipy_times),
        Target(
            name="running state",
            goal=20,
            reached=state_bytes(motion) / 1e6,
            unit="MB",
            at_most=True,
        ),
        Target(
            name="error, of the largest coefficient",
            goal=5e-7,
            reached=error(contenders["Quiver, everything"](), exact),
            unit="",
            at_most=True,
        ),
    ]
    errors = table(
        ("peer", "error, of the largest coefficient"),
        [(n, error(contenders[n](), exact)) for n in list(contenders)[2:]],
    )
    report(
        "spectrum",
        "Spectrum",
        __doc__,
        timings_table(timings, "ms", 1e3) + "\n\n" + errors,
        targets,
        keep=not options.quick,
    )


def texture() -> np.ndarray:
    """Draws smooth sway of a few pixels with noise on it, 0 in the first frame."""
    rng = np.random.default_rng(0)
    t, y, x = np.arange(TIME) / FPS, np.linspace(0, 6, SIZE[1]), np.linspace(0, 9, SIZE[0])
    phase = np.add.outer(2 * np.pi * 0.7 * t, np.add.outer(y, x))
    motion = np.stack([3 * np.cos(phase), np.sin(1.7 * phase)], axis=1) + 0.1 * rng.standard_normal(
        (TIME, 2, *SIZE[::-1])
    )
    return (motion - motion[0]).astype(np.float32)


def running() -> RunningSpectrum:
    return RunningSpectrum(
        np.arange(TIME) / FPS, time=TIME, fps=FPS, frequencies=FREQUENCIES, size=SIZE
    )


def everything(motion: np.ndarray) -> RunningSpectrum:
    """Sums up a window's flow to everything that a window keeps."""
    sums = running()
    for first in range(0, TIME, BLOCK_FRAMES):
        sums.add(motion[first : first + BLOCK_FRAMES])
    return sums


def coefficients(motion: np.ndarray) -> np.ndarray:
    """Computes the coefficients alone, as a sample holds them."""
    sums = running()
    for first in range(0, TIME, BLOCK_FRAMES):
        block = motion[first : first + BLOCK_FRAMES]
        sums._add_coefficients(block, sums.basis[:, first : first + len(block)])
        sums.frame_count += len(block)
    return sums.channels()


def state_bytes(motion: np.ndarray) -> int:
    """Returns all arrays that a window's sums hold at its end."""
    values = [
        item
        for value in vars(everything(motion)).values()
        for item in (value if isinstance(value, list) else [value])
    ]
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


def error(computed: np.ndarray, exact: np.ndarray) -> float:
    """Returns the largest difference, as a share of the largest coefficient."""
    return float(np.abs(computed - exact).max() / np.abs(exact).max())


if __name__ == "__main__":
    main()
