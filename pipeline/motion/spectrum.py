"""Computes spectral volumes from motion textures, and motion textures from spectral volumes.

Where is the FFT? There is none in a dataset run. `RunningSpectrum.add` sums up the discrete Fourier
transform (DFT) block by block while the flow is computed, and never holds a motion texture. The
numbers are those of docs/design/maths.md:

    (1)  S_k(p) = sum_t F_t(p) exp(-2 pi i k t / T),  t = 0 .. T-1 at the working frame rate
    (3)  F = A f: displacements f_i at the video's own frames, linearly interpolated in time
         S = (E A) f with E_kt = exp(-2 pi i k t / T): one matrix product over the source frames

A is `interpolation_matrix`, E A is `_folded_basis`, and `RunningSpectrum._add_coefficients` adds
the product for 32 frames. `to_spectrum` (1) and `to_motion` (2) are numpy's FFT of a whole texture,
and `power_spectrum` (4) is scipy's; no other file has a Fourier transform in time.
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
"""Rows per matrix product, the real and imaginary parts of 16 frequencies. The number is fixed so
that a smaller K gives the same bits as the first K coefficients of a larger one.
"""
GRID_STEP = 4
"""The full power spectrum is measured on every GRID_STEP-th pixel in both directions."""

_threads = ThreadpoolController()


class RunningSpectrum:
    """Spectral volume, mean magnitude and energy of one window, summed up while its flow is
    computed.

    Call `add` with the displacement frames of source frames 0, 1, ... in order, BLOCK_FRAMES at a
    time (the last block may be shorter), then `synchronize`, then read the results. At 256 x 160
    and K = 16 the sums take 10 MB, and every fourth pixel of the flow 3 MB.
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
        """`times`: presentation times of the source frames, seconds after the start frame; `time`:
        T, frames of the window at the working rate `fps`; `frequencies`: K; `size`: width and
        height, pixels.

        Raises ValueError unless 1 <= K <= T/2 + 1.
        """
        check_frequencies(frequencies, time)
        self.frequencies, (self.width, self.height) = frequencies, size
        self.matrix = interpolation_matrix(times, time, fps)
        with _threads.limit(limits=1, user_api="blas"):
            self.basis = _folded_basis(self.matrix, frequencies)
            self.gram = self.matrix.T @ self.matrix
        self.frame_count = 0
        # [matrix products, 2 height width, rows]: the coefficients of a pixel lie side by side
        self.sums: Any = np.zeros(
            (len(self.basis) // PRODUCT_ROWS, 2 * self.height * self.width, PRODUCT_ROWS),
            np.float32,
        )
        self.magnitude: Any = np.zeros((self.height, self.width), np.float32)
        self.energy: Any = np.zeros(2)
        self.last_frame: Any = None
        self.grid_blocks: list[Any] = []

    def add(self, block: Float32[Any, "block 2 height width"]) -> None:
        """Adds the next displacement frames, in pixels, to all sums."""
        columns = slice(self.frame_count, self.frame_count + len(block))
        self._add_coefficients(block, self.basis[:, columns])
        self._add_magnitude(block, self.matrix[:, columns].mean(axis=0))
        self._add_energy(block)
        # `+ 0` copies, so that the block itself can be freed
        self.grid_blocks.append(block[:, :, ::GRID_STEP, ::GRID_STEP] + 0)
        self.frame_count += len(block)

    def to_device(self, array: np.ndarray) -> Any:
        """The array as float32, where the displacements are that `add` takes."""
        return np.asarray(array, np.float32)

    def _add_coefficients(self, block: Any, basis: np.ndarray) -> None:
        """The running DFT: sums += frames^T basis^T in place (docs/design/maths.md, 3).

        BLAS thinks in columns and is faster if the coefficients of a pixel lie side by side.
        """
        frames = block.reshape(len(block), -1)
        with _threads.limit(limits=1, user_api="blas"):
            for sums, rows in zip(
                self.sums, basis.reshape(-1, PRODUCT_ROWS, len(block)), strict=True
            ):
                sgemm(1.0, rows, frames.T, beta=1.0, c=sums.T, trans_b=True, overwrite_c=True)

    def _add_magnitude(self, block: Any, weights: np.ndarray) -> None:
        """magnitude += sum_i w_i |f_i| (docs/design/maths.md, 5)."""
        for (x, y), weight in zip(block, weights, strict=True):
            cv2.scaleAdd(modulus(x, y), float(weight), self.magnitude, self.magnitude)

    def _add_energy(self, block: Any) -> None:
        """energy += sum_ij G_ij f_i f_j, where linear interpolation makes the Gram matrix G = A^T A
        tridiagonal (docs/design/maths.md, 4).
        """
        with _threads.limit(limits=1, user_api="blas"):
            for frame, diagonal, off_diagonal in zip(
                block.reshape(len(block), 2, -1), *self._gram_weights(len(block)), strict=True
            ):
                previous = frame if self.last_frame is None else self.last_frame
                self.energy += [
                    diagonal * np.dot(f, f) + 2 * off_diagonal * np.dot(p, f)
                    for p, f in zip(previous, frame, strict=True)
                ]
                self.last_frame = frame
        self.last_frame = self.last_frame.copy()

    def _gram_weights(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """G_ii and G_{i-1,i} of the next `count` frames; G_{-1,0} counts as 0."""
        frames = np.arange(self.frame_count, self.frame_count + count)
        return self.gram[frames, frames], np.where(frames > 0, self.gram[frames - 1, frames], 0)

    def synchronize(self) -> None:
        """Waits for sums that are still being computed. Must be called before results are read."""

    def is_finite(self) -> bool:
        """Whether every displacement was finite: one that is not stays visible in the sums."""
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
                f"{self.frame_count} displacement frames were added, "
                f"expected {self.matrix.shape[1]}"
            )
        products, half = len(self.sums), PRODUCT_ROWS // 2
        channels = np.empty((products, half, 2, 2, self.height * self.width), np.float32)
        for i, sums in enumerate(self.sums.reshape(products, 2, -1, PRODUCT_ROWS)):
            for component in range(2):
                channels[i, :, component] = cv2.transpose(sums[component]).reshape(half, 2, -1)
        return channels.reshape(-1, 4, self.height, self.width)[: self.frequencies]

    def weight(self) -> Float32[np.ndarray, "height width"]:
        """W, the mean over time of |F_t|, pixels (docs/design/maths.md, 5)."""
        return self.magnitude

    def total_energy(self) -> Float64[np.ndarray, "2"]:
        """sum_t F_t^2 of x and of y, averaged over all pixels, px^2 (docs/design/maths.md, 4). By
        Parseval it is 1/T times the power of all T frequencies.
        """
        return self.energy / (self.height * self.width)

    def grid_motion(self) -> Float32[np.ndarray, "time 2 rows columns"]:
        """The motion texture at the working rate on every GRID_STEP-th pixel, pixels."""
        source = np.concatenate(self.grid_blocks)
        with _threads.limit(limits=1, user_api="blas"):
            flat = self.matrix.astype(np.float32) @ source.reshape(len(source), -1)
        return flat.reshape(-1, *source.shape[1:])


def interpolation_matrix(
    times: Float64[np.ndarray, " source"], time: int, fps: float
) -> Float64[np.ndarray, "time source"]:
    """A with F = A f (docs/design/maths.md, 3): from displacements at `times` (seconds after the
    start, increasing) to t = 0 .. time-1 at `fps`.

    Linear between neighbors. After the last source frame its displacement is held: at the end of a
    clip up to two frames may be missing.
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
    """E A (docs/design/maths.md, 3) as weights on the source frames, in rows re S_0, im S_0, re
    S_1, ..., padded to a multiple of PRODUCT_ROWS.

    The phase k t is reduced modulo T before the cosine, so that it is exact for any k.
    """
    time = len(matrix)
    count = -(-2 * frequencies // PRODUCT_ROWS) * PRODUCT_ROWS // 2
    angle = 2 * np.pi * (np.outer(np.arange(count), np.arange(time)) % time) / time
    basis = np.stack([np.cos(angle), -np.sin(angle)], axis=1).reshape(2 * count, time)
    return (basis @ matrix).astype(np.float32)


def to_spectrum(
    motion: Float[np.ndarray, "time 2 height width"], frequencies: int
) -> Complex[np.ndarray, "freq 2 height width"]:
    """The first `frequencies` coefficients of a motion texture sampled at the working rate
    (docs/design/maths.md, 1), pixels.

    Raises ValueError unless 1 <= frequencies <= T/2 + 1.
    """
    check_frequencies(frequencies, len(motion))
    return np.fft.rfft(motion, axis=0)[:frequencies]


def to_motion(
    spectrum: Complex[np.ndarray, "freq 2 height width"], time: int
) -> Float[np.ndarray, "time 2 height width"]:
    """The motion texture of `time` frames (docs/design/maths.md, 2), pixels; coefficients that are
    not given count as 0.

    It is T-periodic, since the coefficients stand on whole bins. The inverse of `to_spectrum` if
    all T/2 + 1 coefficients are given. Raises ValueError if there are more.
    """
    check_frequencies(len(spectrum), time)
    return np.fft.irfft(spectrum, n=time, axis=0)


def check_frequencies(frequencies: int, time: int) -> None:
    """Raises ValueError unless a window of `time` frames has that many coefficients."""
    if not 1 <= frequencies <= time // 2 + 1:
        raise ValueError(
            f"frequencies is {frequencies}, "
            f"expected 1 to {time // 2 + 1} for windows of {time} frames"
        )


def power_spectrum(
    motion: Float32[np.ndarray, "time 2 height width"],
) -> Float64[np.ndarray, "2 all_freq"]:
    """|S_k|^2 of x and of y at all T/2 + 1 frequencies, averaged over the pixels, px^2
    (docs/design/maths.md, 4; the paper's figure 2, left).
    """
    coefficients: Any = scipy.fft.rfft(motion, axis=0, workers=1)
    power = np.square(coefficients.real) + np.square(coefficients.imag)
    return power.mean(axis=(2, 3), dtype=np.float64).T


def modulus(
    x: Float32[np.ndarray, "*shape"], y: Float32[np.ndarray, "*shape"]
) -> Float32[np.ndarray, "*shape"]:
    """sqrt(x^2 + y^2), with the same bits wherever the arrays lie in memory: those of OpenCV's
    magnitude depend on their alignment.
    """
    squares = x * x
    squares += y * y
    return np.sqrt(squares, out=squares)
