"""The running DFT against numpy's FFT: values, bits, phases and Parseval's theorem."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from pipeline.motion.spectrum import (
    BLOCK_FRAMES,
    RunningSpectrum,
    interpolation_matrix,
    modulus,
    power_spectrum,
    to_motion,
    to_spectrum,
)

T, FPS = 150, 30.0


def sway(
    times: np.ndarray, hertz: float, size: tuple[int, int] = (12, 8), seed: int = 0
) -> np.ndarray:
    """A motion texture [n, 2, H, W] that is 0 at the start, with a random amplitude and phase at
    each pixel.
    """
    rng = np.random.default_rng(seed)
    amplitude = rng.uniform(0.1, 2, (2, size[1], size[0]))
    phase = rng.uniform(0, 2 * np.pi, (2, size[1], size[0]))
    angle = 2 * np.pi * hertz * times[:, None, None, None] + phase
    return (amplitude * (np.cos(angle) - np.cos(phase))).astype(np.float32)


def stream(
    motion: np.ndarray, times: np.ndarray, frequencies: int = 16, time: int = T, fps: float = FPS
) -> RunningSpectrum:
    running = RunningSpectrum(
        times, time=time, fps=fps, frequencies=frequencies, size=(motion.shape[3], motion.shape[2])
    )
    for first in range(0, len(motion), BLOCK_FRAMES):
        running.add(motion[first : first + BLOCK_FRAMES])
    return running


@given(st.integers(2, 80), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_all_frequencies_give_the_motion_back(time, seed):
    motion = np.random.default_rng(seed).normal(0, 5, (time, 2, 3, 4))
    np.testing.assert_allclose(
        to_motion(to_spectrum(motion, time // 2 + 1), time), motion, atol=1e-10
    )


def test_streaming_gives_all_frequencies_back_to_float32_accuracy():
    motion = np.random.default_rng(1).normal(0, 3, (T, 2, 6, 10)).astype(np.float32)
    running = stream(motion, np.arange(T) / FPS, frequencies=T // 2 + 1)
    np.testing.assert_allclose(to_motion(running.spectrum(), T), motion, atol=2e-5)


def test_a_sinusoid_on_a_bin_is_one_peak_and_a_constant_is_only_dc():
    t = np.arange(T)
    motion = np.zeros((T, 2, 1, 1))
    motion[:, 0, 0, 0] = 1.5 * np.cos(2 * np.pi * 7 * t / T + 0.3)
    motion[:, 1] = 2.0
    spectrum = to_spectrum(motion, 76)[..., 0, 0]
    expected = np.zeros((76, 2))
    expected[7, 0], expected[0, 1] = 1.5 * T / 2, 2.0 * T
    np.testing.assert_allclose(np.abs(spectrum), expected, atol=1e-9)
    assert np.angle(spectrum[7, 0]) == pytest.approx(0.3)


@pytest.mark.parametrize("frequencies", [1, 4, 15, 24, 76])
def test_a_smaller_k_is_bit_for_bit_a_prefix(frequencies):
    times = np.arange(126) / 25
    motion = sway(times, 0.9, size=(64, 40))
    full = stream(motion, times, 76).spectrum()
    prefix = stream(motion, times, frequencies).spectrum()
    np.testing.assert_array_equal(prefix, full[:frequencies])


def test_blas_threads_do_not_change_a_bit():
    times = np.arange(150) / 30
    motion = sway(times, 0.9, size=(256, 160))
    spectra = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            spectra.append(stream(motion, times).spectrum())
    np.testing.assert_array_equal(*spectra)


@pytest.mark.parametrize("rate", [24.0, 25.0, 29.97, 30.0, 50.0])
def test_source_frames_at_any_rate_give_the_spectrum_of_the_interpolated_motion(rate):
    times = np.arange(round(5 * rate) + 1) / rate
    motion = sway(times, 0.55)
    resampled = np.stack(
        [
            np.interp(np.arange(T) / FPS, times, column)
            for column in motion.reshape(len(motion), -1).T
        ],
        axis=1,
    ).reshape(T, *motion.shape[1:])
    running = stream(motion, times)
    np.testing.assert_allclose(running.spectrum(), to_spectrum(resampled, 16), atol=1e-3)
    np.testing.assert_allclose(
        running.total_energy(), np.square(resampled).sum(0).mean((1, 2)), rtol=1e-5
    )
    np.testing.assert_allclose(running.grid_motion(), resampled[:, :, ::4, ::4], atol=1e-4)


def test_variable_frame_times_keep_the_phase_of_a_sway():
    rng = np.random.default_rng(3)
    times = np.concatenate([[0.0], np.cumsum(rng.uniform(1 / 45, 1 / 20, 220))])
    times = times[: np.searchsorted(times, 5.0) + 1]
    band = stream(sway(times, 0.6), times).spectrum()[3]
    expected = to_spectrum(sway(np.arange(T) / FPS, 0.6), 4)[3]
    assert np.abs(np.angle(band / expected)).max() < 0.02
    assert np.abs(np.abs(band) / np.abs(expected) - 1).max() < 0.03


def test_the_last_displacement_is_held_where_the_clip_ends_between_frames():
    matrix = interpolation_matrix(np.arange(120) / 24, T, FPS)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    assert matrix[-1, -1] == 1 and matrix[-2, -1] < 1


def test_power_obeys_parseval():
    motion = np.random.default_rng(5).normal(size=(T, 2, 5, 6)).astype(np.float32)
    doubled = np.full(T // 2 + 1, 2.0)
    doubled[[0, -1]] = 1
    np.testing.assert_allclose(
        (power_spectrum(motion) * doubled).sum(axis=1) / T,
        np.square(motion).sum(0).mean((1, 2)),
        rtol=1e-5,
    )


def test_bits_do_not_depend_on_where_the_numbers_lie_in_memory():
    """Some of OpenCV's functions depend on it, and a dataset's bytes would with them."""
    motion = np.random.default_rng(0).normal(0, 3, (8, 2, 16, 24)).astype(np.float32)
    memory = np.empty(motion.size + 64, np.float32)
    results = set()
    for offset in range(0, 32, 3):
        block = memory[offset : offset + motion.size].reshape(motion.shape)
        block[...] = motion
        running = stream(block, np.arange(8) / 30, frequencies=4, time=8)
        parts = (
            running.channels(),
            running.weight(),
            running.total_energy(),
            running.grid_motion(),
            modulus(block[:, 0], block[:, 1]),
        )
        results.add(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))
    assert len(results) == 1


@pytest.mark.parametrize("frequencies", [0, 77, -1])
def test_a_number_of_frequencies_that_the_window_has_not_is_refused(frequencies):
    with pytest.raises(ValueError, match=f"frequencies is {frequencies}, expected 1 to 76"):
        to_spectrum(np.zeros((T, 2, 1, 1)), frequencies)


def test_a_spectrum_of_missing_frames_is_refused():
    with pytest.raises(ValueError, match="32 displacement frames were added, expected 150"):
        running = RunningSpectrum(np.arange(T) / FPS, time=T, fps=FPS, frequencies=4, size=(4, 4))
        running.add(np.zeros((BLOCK_FRAMES, 2, 4, 4), np.float32))
        running.spectrum()
