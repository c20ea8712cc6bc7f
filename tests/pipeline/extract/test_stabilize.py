"""The motion of the camera comes off the displacements, and nothing else does."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from pipeline.dataset.folder import ContractMismatch, Dataset
from pipeline.extract.config import BuildConfig, PlanConfig, to_contract
from pipeline.extract.stabilize import camera_displacements, fit_window_camera
from pipeline.extract.window import add_stabilized
from pipeline.filters import PRESETS
from pipeline.motion.spectrum import BLOCK_FRAMES, GRID_STEP, RunningSpectrum, to_spectrum
from pipeline.motion.spectrum_gpu import DeviceSpectrum
from schemas.sample import channels_to_complex
from tests.support import videos
from tests.support.building import build_results, plan_video

T, WIDTH, HEIGHT = 40, 128, 80
TEXTURE = videos.make_texture(WIDTH, HEIGHT)
GRAY = cv2.cvtColor(TEXTURE, cv2.COLOR_RGB2GRAY)
PHASES = 2 * np.pi * np.arange(T) / T


def sway(amplitude: float, share: float, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """The displacements of a picture whose left `share` sways by `amplitude` pixels, all of it
    alike but for a little phase, [T, 2, H, W].
    """
    phase = PHASES[:, None, None] * 3 + np.linspace(0, 1, HEIGHT)[:, None]
    moving = np.arange(WIDTH) < share * WIDTH
    path = amplitude * (np.sin(phase) - np.sin(phase[:1])) * moving
    motion = np.stack([path, 0.3 * path], axis=1)
    rng = np.random.default_rng(seed)
    return (motion + noise * rng.standard_normal(motion.shape)).astype(np.float32)


def hand(px: float, seed: int = 0) -> np.ndarray:
    """A path of the camera from 0 on, [T, 4]: some slow sines in each number."""
    rng = np.random.default_rng(seed)
    waves = np.sin(PHASES[:, None, None] * [[[1], [2], [3]]] + rng.uniform(0, 6, (1, 3, 4)))
    path = px * waves.mean(axis=1) * [1, 1, 0.5, 0.5]
    return path - path[0]


def on_grid(motion: np.ndarray) -> np.ndarray:
    return motion[:, :, ::GRID_STEP, ::GRID_STEP]


@pytest.mark.parametrize("seed", range(12))
def test_the_camera_comes_off_a_sway_if_most_of_the_picture_is_at_rest(seed):
    rng = np.random.default_rng(seed)
    px, amplitude = rng.uniform(0, 8), rng.uniform(0, 6)
    share, noise = rng.uniform(0, 0.4), rng.uniform(0, 0.1)
    true = camera_displacements(hand(px, seed), GRAY.shape)
    fit = fit_window_camera(on_grid(true + sway(amplitude, share, noise, seed)), GRAY)
    assert fit.is_fitted
    assert np.abs(camera_displacements(fit.path, GRAY.shape) - true).max() < 0.1
    rms = np.sqrt(np.square(true).sum(axis=1).mean())
    assert fit.rms_px == pytest.approx(rms, abs=0.05)


@pytest.mark.parametrize("px", [0.0, 1.0, 8.0])
def test_a_sway_of_less_than_half_a_pixel_does_not_pull_at_the_camera(px):
    true = camera_displacements(hand(px), GRAY.shape)
    fit = fit_window_camera(on_grid(true + sway(0.4, 0.4, 0.02)), GRAY)
    assert np.abs(camera_displacements(fit.path, GRAY.shape) - true).max() < 0.1


def test_the_motion_before_a_still_camera_keeps_its_bits():
    fit = fit_window_camera(on_grid(sway(4.0, 0.4)), GRAY)
    assert fit.is_fitted and fit.rms_px == 0 and not fit.path.any()
    assert not np.signbit(fit.path).any()


def test_a_subject_that_fills_the_picture_is_not_taken_for_the_camera():
    """Each column of the wall sways at its own phase, as much below as above."""
    phase = 3 * PHASES[:, None, None] + np.linspace(0, 9, WIDTH)
    path = 3 * (np.sin(phase) - np.sin(phase[:1])) * np.ones((HEIGHT, 1))
    fit = fit_window_camera(on_grid(np.stack([path, 0 * path], 1).astype(np.float32)), GRAY)
    assert not fit.is_fitted and "comes to rest" in fit.detail
    assert fit.path.shape == (T, 4) and not fit.path.any() and fit.rms_px == 0


def test_a_subject_before_a_plain_sky_says_nothing_of_the_camera():
    gray = GRAY.copy()
    gray[:, WIDTH // 4 :] = 128
    fit = fit_window_camera(on_grid(sway(3.0, 0.25)), gray)
    assert not fit.is_fitted and "have texture, expected at least 40%" in fit.detail
    assert not fit.path.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_flow_that_is_not_finite_stays_visible(bad):
    motion = sway(1.0, 0.3)
    motion[5, 0, 8, 8] = bad
    fit = fit_window_camera(on_grid(motion), GRAY)
    assert not fit.is_fitted and "not finite" in fit.detail and np.isfinite(fit.path).all()


def test_tensors_of_a_device_are_stabilized_like_arrays():
    motion = sway(2.0, 0.3) + camera_displacements(hand(3.0), GRAY.shape)
    shape: dict[str, Any] = dict(time=T, fps=30.0, frequencies=8, size=(WIDTH, HEIGHT))
    times = np.arange(T) / 30
    blocks = [motion[i : i + BLOCK_FRAMES] for i in range(0, T, BLOCK_FRAMES)]
    expected, on_device = (
        RunningSpectrum(times, **shape),
        DeviceSpectrum(times, device="cpu", **shape),
    )
    fit = add_stabilized(expected, blocks, GRAY)
    device_fit = add_stabilized(on_device, [torch.from_numpy(block) for block in blocks], GRAY)
    on_device.synchronize()
    np.testing.assert_array_equal(fit.path, device_fit.path)
    np.testing.assert_allclose(on_device.spectrum(), expected.spectrum(), atol=1e-2)
    np.testing.assert_allclose(on_device.weight(), expected.weight(), atol=1e-4)
    np.testing.assert_allclose(
        expected.spectrum(), to_spectrum(sway(2.0, 0.3), 8), atol=0.1 * T, rtol=0
    )


CONFIG = BuildConfig(
    size=(WIDTH, HEIGHT),
    frequencies=8,
    plan=PlanConfig(frames=T, stride=10),
    thresholds=PRESETS["none"],
)


def write_hand_held(path, shake: np.ndarray) -> np.ndarray:
    """Writes a video in which a band across the middle sways, seen by a camera that is shifted by
    `shake` pixels [frames, 2]; returns the true displacements of the first T frames without the
    shake.
    """
    height = np.clip(1.5 - 4 * np.abs(np.linspace(-1, 1, HEIGHT)), 0, 1)
    swing = 2.0 * np.sin(2 * np.pi * np.arange(len(shake)) / 20)
    columns, rows = np.meshgrid(
        np.arange(WIDTH, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32)
    )
    frames = [
        cv2.remap(
            videos.shift_image(
                cv2.remap(
                    TEXTURE,
                    columns - np.float32(by) * height[:, None].astype(np.float32),
                    rows,
                    cv2.INTER_CUBIC,
                    borderMode=cv2.BORDER_WRAP,
                ),
                *pose,
            ),
            columns,
            rows,
            cv2.INTER_NEAREST,
        )
        for by, pose in zip(swing, shake, strict=True)
    ]
    videos.write_video(path, frames, list(np.arange(len(shake)) / 30))
    motion = np.zeros((T, 2, HEIGHT, WIDTH), np.float32)
    motion[:, 0] = swing[:T, None, None] * height[:, None]
    return motion


def test_a_hand_held_video_gives_the_spectrum_of_its_scene_and_the_path_of_the_hand(tmp_path):
    shake = hand(3.0)[:, :2]
    shake = np.concatenate([shake, shake[-1:]])
    true = write_hand_held(tmp_path / "a.mp4", shake)
    rows = plan_video(tmp_path / "a.mp4", CONFIG)[:1]
    (raw,), (stabilized,) = (
        build_results(rows, replace(CONFIG, stabilize=on)) for on in (False, True)
    )
    assert raw.sample and stabilized.sample and raw.row.measures and stabilized.row.measures
    inside = np.s_[..., 8:-8, 8:-8]  # the picture is wrapped around
    known = to_spectrum(true, 8)[inside]
    errors = [
        np.abs(channels_to_complex(sample.spectrum)[inside] - known).mean() / T
        for sample in (raw.sample, stabilized.sample)
    ]
    assert errors[1] < 0.3 * errors[0] and errors[1] < 0.1
    assert raw.row.measures.camera_share > 0.6 > 0.2 > stabilized.row.measures.camera_share

    assert raw.sample.meta["stabilized"] is False and "camera" not in raw.sample.meta
    meta = stabilized.sample.meta
    assert meta["stabilized"] is True and meta["camera"]["detail"] == ""
    path = np.array(meta["camera"]["path"])
    assert path.shape == (T, 4) and (path == path.round(3)).all()
    np.testing.assert_allclose(path[:, :2], shake[:T], atol=0.25)
    assert meta["camera"]["rms_px"] == pytest.approx(
        np.sqrt(np.square(shake[:T]).sum(axis=1).mean()), abs=0.1
    )
    for name in ("pair_flow", "pair_image", "confidence", "image"):
        np.testing.assert_array_equal(getattr(raw.sample, name), getattr(stabilized.sample, name))


def test_a_window_without_a_fit_is_what_it_would_have_been_and_says_so(tmp_path):
    times = np.arange(T + 2) / 30
    plain = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    plain[: HEIGHT // 8] = TEXTURE[: HEIGHT // 8]
    frames = [videos.shift_image(plain, np.sin(9 * t), 0) for t in times]
    rows = plan_video(videos.write_video(tmp_path / "a.mp4", frames, list(times)), CONFIG)[:1]
    (raw,), (left,) = (build_results(rows, replace(CONFIG, stabilize=on)) for on in (False, True))
    assert raw.sample and left.sample
    assert left.sample.meta["stabilized"] is False
    camera = left.sample.meta["camera"]
    assert "have texture" in camera["detail"] and camera["rms_px"] == 0
    assert np.shape(camera["path"]) == (T, 4) and not np.any(camera["path"])
    np.testing.assert_array_equal(left.sample.spectrum, raw.sample.spectrum)
    np.testing.assert_array_equal(left.sample.weight, raw.sample.weight)
    assert left.row == raw.row


def test_a_run_is_not_resumed_with_the_other_choice(tmp_path):
    rows = plan_video(videos.write_swaying(tmp_path / "a.mp4", seconds=2), CONFIG)
    dataset = Dataset(tmp_path / "out")
    dataset.root.mkdir()
    dataset.create_or_resume(rows, to_contract(CONFIG), {})
    with pytest.raises(ContractMismatch, match="stabilize: False -> True"):
        dataset.create_or_resume(rows, to_contract(replace(CONFIG, stabilize=True)), {})
