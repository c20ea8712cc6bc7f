"""Motion textures to spectral volumes and back: the only file that knows the DFT (docs/maths.md).

S_k(p) = sum_t F_t(p) exp(-2 pi i k t / T) for t = 0 .. T-1 at the working frame rate, F_0 = 0:
unnormalised forward, 1/T on the inverse. Displacements are measured at the video's own frames and
brought to the working rate by linear interpolation in time, F = A f. A is folded into the Fourier
basis, so that the spectrum is one matrix product over the source frames, taken in blocks of 32 as
the flow is produced; no motion texture is ever held.
"""

from typing import Any

import cv2
import numpy as np
import scipy.fft
from jaxtyping import Complex, Float, Float32, Float64
from scipy.linalg.blas import sgemm  # pyright: ignore[reportAttributeAccessIssue]
from threadpoolctl import ThreadpoolController

BLOCK_FRAMES = 32
"""Displacement frames per matrix product. Part of the run contract: float32 sums depend on it."""
PRODUCT_ROWS = 32
"""Rows per matrix product: 16 frequencies. Fixed, so that a smaller K gives the same bits as a
prefix of a larger one.
"""
GRID_STEP = 4
"""The full power spectrum is measured on every GRID-th pixel in both directions."""

_threads = ThreadpoolController()


def to_spectrum(
    motion: Float[np.ndarray, "time 2 height width"], frequencies: int
) -> Complex[np.ndarray, "freq 2 height width"]:
    """The first `frequencies` coefficients of a motion texture sampled at the working rate
    (docs/maths.md, 1).

    Raises ValueError unless 1 <= frequencies <= T/2 + 1.
    """
    check_frequencies(frequencies, len(motion))
    return np.fft.rfft(motion, axis=0)[:frequencies]


def to_motion(
    spectrum: Complex[np.ndarray, "freq 2 height width"], time: int
) -> Float[np.ndarray, "time 2 height width"]:
    """The motion texture of `time` frames whose coefficients beyond those given are zero
    (docs/maths.md, 2).

    T-periodic, as the coefficients stand on whole bins. Inverse of `to_spectrum` when all T/2 +
    1 are given.
    """
    check_frequencies(len(spectrum), time)
    return np.fft.irfft(spectrum, n=time, axis=0)


def check_frequencies(frequencies: int, time: int) -> None:
    """Raises ValueError unless a window of `time` frames has that many coefficients."""
    if not 1 <= frequencies <= time // 2 + 1:
        raise ValueError(
            f"frequencies is {frequencies}, expected 1 to {time // 2 + 1} for windows of {time} frames"
        )


def interpolation_matrix(
    times: Float64[np.ndarray, " source"], time: int, fps: float
) -> Float64[np.ndarray, "time source"]:
    """A with F = A f: displacements at `times` (seconds after the start, increasing) to t = 0 ..
    time-1 at `fps`.

    Linear between neighbours; after the last source frame (at the end of a clip up to two may be
    missing) held.
    """
    grid = np.arange(time) / fps
    right = np.clip(np.searchsorted(times, grid, side="right"), 1, len(times) - 1)
    span = times[right] - times[right - 1]
    share = np.clip((grid - times[right - 1]) / span, 0, 1)
    matrix = np.zeros((time, len(times)))
    matrix[np.arange(time), right - 1] = 1 - share
    matrix[np.arange(time), right] = share
    return matrix


def _folded_basis(
    matrix: Float64[np.ndarray, "time source"], frequencies: int
) -> Float32[np.ndarray, "rows source"]:
    """Rows re S_0, im S_0, re S_1, ... as weights on the source frames (docs/maths.md, 3), padded
    to whole ROWS.

    The phase k t is reduced modulo T before the cosine, so that it is exact for any k.
    """
    time = len(matrix)
    count = -(-2 * frequencies // PRODUCT_ROWS) * PRODUCT_ROWS // 2
    angle = 2 * np.pi * (np.outer(np.arange(count), np.arange(time)) % time) / time
    basis = np.stack([np.cos(angle), -np.sin(angle)], axis=1).reshape(2 * count, time)
    return (basis @ matrix).astype(np.float32)


class RunningSpectrum:
    """Spectral volume, mean magnitude and power of one window, summed up while its flow is
    computed.

    Feed `add` with the displacement frames of source frames 0, 1, ... in order, BLOCK at a time
    (the last may be shorter). State at 256 x 160 and K = 16: 10 MB of coefficients, 3 MB of every
    fourth pixel.
    """

    def __init__(
        self,
        times: Float64[np.ndarray, " source"],
        *,
        time: int,
        fps: float,
        frequencies: int,
        size: tuple[int, int],
    ):
        check_frequencies(frequencies, time)
        self.frequencies, (self.width, self.height) = frequencies, size
        self.matrix = interpolation_matrix(times, time, fps)
        with _threads.limit(limits=1, user_api="blas"):
            self.basis = _folded_basis(self.matrix, frequencies)
            self.gram = self.matrix.T @ self.matrix
        self.frame_count = 0
        self.sums: Any = np.zeros(
            (len(self.basis) // PRODUCT_ROWS, 2 * self.height * self.width, PRODUCT_ROWS),
            np.float32,
        )
        self.magnitude: Any = np.zeros((self.height, self.width), np.float32)
        self.energy: Any = np.zeros(2)
        self.last_frame: Any = None
        self.grid_blocks: list[Any] = []

    def add(self, block: Float32[Any, "block 2 height width"]) -> None:
        """Takes the next displacement frames, in pixels."""
        columns = slice(self.frame_count, self.frame_count + len(block))
        self._add_coefficients(block, self.basis[:, columns])
        self._add_magnitude(block, self.matrix[:, columns].mean(axis=0))
        self._add_energy(block)
        self.grid_blocks.append(
            block[:, :, ::GRID_STEP, ::GRID_STEP] + 0
        )  # a copy: the block is dropped
        self.frame_count += len(block)

    def _add_coefficients(self, block: Any, basis: np.ndarray) -> None:
        """sums += frames^T basis^T in place, a pixel's coefficients side by side: BLAS, which
        thinks in columns, is faster so.
        """
        frames = block.reshape(len(block), -1)
        with _threads.limit(limits=1, user_api="blas"):
            for sums, rows in zip(
                self.sums, basis.reshape(-1, PRODUCT_ROWS, len(block)), strict=True
            ):
                sgemm(1.0, rows, frames.T, beta=1.0, c=sums.T, trans_b=True, overwrite_c=True)

    def _add_magnitude(self, block: Any, weights: np.ndarray) -> None:
        for (x, y), weight in zip(block, weights, strict=True):
            cv2.scaleAdd(modulus(x, y), float(weight), self.magnitude, self.magnitude)

    def _add_energy(self, block: Any) -> None:
        """sum_t |F_t|^2 = sum_ij gram_ij f_i f_j, where linear interpolation makes the gram matrix
        tridiagonal.
        """
        with _threads.limit(limits=1, user_api="blas"):
            for frame, alone, across in zip(
                block.reshape(len(block), 2, -1), *self._gram_weights(len(block)), strict=True
            ):
                before = frame if self.last_frame is None else self.last_frame
                self.energy += [
                    alone * np.dot(f, f) + 2 * across * np.dot(b, f)
                    for b, f in zip(before, frame, strict=True)
                ]
                self.last_frame = frame
        self.last_frame = self.last_frame.copy()

    def _gram_weights(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """gram_ii and gram_{i-1,i} of the next frames; the very first has none before it."""
        frames = np.arange(self.frame_count, self.frame_count + count)
        return self.gram[frames, frames], np.where(frames > 0, self.gram[frames - 1, frames], 0)

    def synchronize(self) -> None:
        """To be called before the results are asked for: waits for sums that are still under way."""

    def is_finite(self) -> bool:
        """Whether every displacement was: one that is not leaves its mark in the sums."""
        return bool(np.isfinite(self.magnitude).all())

    def spectrum(self) -> Complex[np.ndarray, "freq 2 height width"]:
        """S, raw, in pixels; complex64. Raises ValueError unless every source frame was added."""
        real, imaginary = np.moveaxis(
            self.channels().reshape(self.frequencies, 2, 2, self.height, self.width), 2, 0
        )
        return real + 1j * imaginary

    def channels(self) -> Float32[np.ndarray, "freq 4 height width"]:
        """S as re x, im x, re y, im y, raw, in pixels. Raises ValueError unless every source frame
        was added.
        """
        if self.frame_count != self.matrix.shape[1]:
            raise ValueError(
                f"{self.frame_count} displacement frames were added, expected {self.matrix.shape[1]}"
            )
        channels = np.empty(
            (len(self.sums), PRODUCT_ROWS // 2, 2, 2, self.height * self.width), np.float32
        )
        for some, sums in zip(
            channels, self.sums.reshape(len(self.sums), 2, -1, PRODUCT_ROWS), strict=True
        ):
            for component in range(2):
                some[:, component] = cv2.transpose(sums[component]).reshape(
                    PRODUCT_ROWS // 2, 2, -1
                )
        return channels.reshape(-1, 4, self.height, self.width)[: self.frequencies]

    def weight(self) -> Float32[np.ndarray, "height width"]:
        """W: the mean over time of |F_t|, pixels, by the trapezoid weights of the source frames
        (docs/maths.md, 5).
        """
        return self.magnitude

    def total_energy(self) -> Float64[np.ndarray, "2"]:
        """sum_t F_t^2 of x and of y, averaged over all pixels, px^2; 1/T times the power of all T
        frequencies.
        """
        return self.energy / (self.height * self.width)

    def grid_motion(self) -> Float32[np.ndarray, "time 2 rows columns"]:
        """The motion texture at the working rate on every GRID-th pixel."""
        source = np.concatenate(self.grid_blocks)
        with _threads.limit(limits=1, user_api="blas"):
            flat = self.matrix.astype(np.float32) @ source.reshape(len(source), -1)
        return flat.reshape(-1, *source.shape[1:])


def modulus(
    x: Float32[np.ndarray, "*shape"], y: Float32[np.ndarray, "*shape"]
) -> Float32[np.ndarray, "*shape"]:
    """sqrt(x^2 + y^2), the same bits wherever the arrays lie: those of OpenCV's magnitude depend on
    their alignment.
    """
    squares = x * x
    squares += y * y
    return np.sqrt(squares, out=squares)


def power_spectrum(
    motion: Float32[np.ndarray, "time 2 height width"],
) -> Float64[np.ndarray, "2 all_freq"]:
    """|S_k|^2 of x and of y at all T/2 + 1 frequencies, averaged over the pixels, px^2 (figure 2,
    left).
    """
    coefficients: Any = scipy.fft.rfft(motion, axis=0, workers=1)
    return (
        (np.square(coefficients.real) + np.square(coefficients.imag))
        .mean(axis=(2, 3), dtype=np.float64)
        .T
    )
