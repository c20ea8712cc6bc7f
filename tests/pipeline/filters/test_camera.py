"""The fit of the camera, against similarity transforms that are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.filters.camera import CameraPath, camera_share, fit_camera, pixel_places

ROWS, COLUMNS, FRAMES = 40, 64, 12
X, Y = pixel_places(ROWS, COLUMNS)
EVERYWHERE = np.ones((ROWS, COLUMNS), bool)

sizes = st.floats(-6, 6)


def make_path(shift_x: float, shift_y: float, growth: float, turn: float) -> CameraPath:
    """A path that reaches these pixels in the last frame."""
    steps = np.linspace(0, 1, FRAMES)
    return CameraPath(shift_x * steps, shift_y * steps, growth * steps, turn * steps)


@settings(max_examples=25, deadline=None)
@given(sizes, sizes, sizes, sizes, st.integers(0, 1000))
def test_a_similarity_is_recovered_under_forty_percent_of_outliers(x, y, growth, turn, seed):
    rng, path = np.random.default_rng(seed), make_path(x, y, growth, turn)
    motion = path.displacements(X, Y)
    outliers = rng.random((ROWS, COLUMNS)) < 0.4
    motion[:, :, outliers] += rng.normal(0, 8, (FRAMES, 2, outliers.sum())).astype(np.float32)
    motion[:, :, outliers] += np.float32(10)
    found = fit_camera(motion.astype(np.float32), EVERYWHERE)
    np.testing.assert_allclose(np.stack(found), np.stack(path), atol=0.05)


@settings(max_examples=25, deadline=None)
@given(sizes, sizes, sizes, sizes)
def test_the_fit_looks_only_at_pixels_that_are_believed(x, y, growth, turn):
    path, believed = make_path(x, y, growth, turn), EVERYWHERE.copy()
    motion = path.displacements(X, Y)
    believed[:, 20:] = False
    motion[:, :, ~believed] = 1e4
    found = fit_camera(motion, believed)
    np.testing.assert_allclose(np.stack(found), np.stack(path), atol=0.05)


def test_believed_pixels_in_one_row_are_enough_to_solve_the_fit():
    believed = np.zeros_like(EVERYWHERE)
    believed[7, 10] = True
    found = fit_camera(make_path(3, 1, 0, 0).displacements(X, Y), believed)
    assert np.isfinite(np.stack(found)).all()


@pytest.mark.parametrize(
    "path", [(4, 0, 0, 0), (0, -3, 0, 0), (0, 0, 4, 0), (0, 0, 0, 4), (2, 1, 3, -2)]
)
def test_the_whole_picture_moves_with_a_camera(path):
    assert camera_share(make_path(*path).displacements(X, Y), EVERYWHERE) >= 0.95


def test_nothing_moves_with_the_camera_in_a_still_picture():
    still = np.zeros((FRAMES, 2, ROWS, COLUMNS), np.float32)
    noise = np.random.default_rng(0).normal(0, 0.15, still.shape).astype(np.float32)
    assert camera_share(still, EVERYWHERE) == 0.0
    assert camera_share(noise, EVERYWHERE) == 0.0
    assert camera_share(still + 5, ~EVERYWHERE) == 0.0


def test_the_share_is_that_of_the_parts_that_the_camera_carries():
    """A quarter of the picture stands still, as a title before a pan."""
    motion = make_path(6, 0, 0, 0).displacements(X, Y)
    motion[:, :, :, 48:] = 0
    assert camera_share(motion, EVERYWHERE) == pytest.approx(0.75, abs=0.01)
    believed = EVERYWHERE.copy()
    believed[:, 48:] = False
    assert camera_share(motion, believed) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("cycles", [1.0, 2.0])
def test_sway_whose_phase_differs_over_the_picture_is_not_the_camera(cycles):
    times = np.arange(150) / 30
    motion = np.zeros((150, 2, ROWS, COLUMNS), np.float32)
    motion[:, 0] = 3 * np.sin(2 * np.pi * (0.7 * times[:, None, None] + cycles * X))
    assert camera_share(motion, EVERYWHERE) < 0.1
