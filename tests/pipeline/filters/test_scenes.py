"""Scenes whose motion is known are rendered as pictures and measured with the flow of a run. The
default preset rejects each for the fault that it has, and keeps those that sway.
"""

from functools import cache

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from pipeline.filters import PRESETS, judge
from schemas.outcome import Reason
from tests.support.measures import (
    SIZE,
    MeasuredPictures,
    add_grain,
    measure_images,
    move_image,
)
from tests.support.videos import make_texture

WIDTH, HEIGHT = SIZE
TIMES = np.arange(150) / 30
SUBTLE = PRESETS["subtle"]
ROWS, COLUMNS = np.indices((HEIGHT, WIDTH), np.float32)
MOVING_PX = 1.0

pytestmark = pytest.mark.slow


def background(seed: int = 0) -> np.ndarray:
    return make_texture(WIDTH, HEIGHT, seed)


def verdicts_on(scene: MeasuredPictures) -> list[Reason]:
    return judge(scene.measures, SUBTLE)


def paste(image: np.ndarray, part: np.ndarray, alpha: np.ndarray, x: float, y: float):
    """The picture with a part [h, w, 3] before it, whose corner is at (x, y); alpha is 0 to 1."""
    matrix = np.array([[1, 0, x], [0, 1, y]], np.float32)
    color = cv2.warpAffine(part, matrix, SIZE, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    cover = cv2.warpAffine(alpha.astype(np.float32), matrix, SIZE)[..., None]
    return image * (1 - cover) + color * cover


# ---- what passes, and what flow invents


@cache
def passing_figure() -> MeasuredPictures:
    """A figure of 20 x 70 px walks through the picture from 1.2 s to 3.2 s."""
    still, figure = background(), make_texture(20, 70, 5)
    silhouette = np.zeros((70, 20), np.float32)
    silhouette[1:-1, 1:-1] = 1
    images = [paste(still, figure, silhouette, -20 + 276 * (t - 1.2) / 2, 60) for t in TIMES]
    return measure_images(add_grain(images))


def test_a_figure_that_walks_through_the_picture_is_rejected():
    scene = passing_figure()
    assert scene.measures.mean_motion_px < MOVING_PX
    assert {*verdicts_on(scene)} & {Reason.PASSING, Reason.UNRELIABLE_FLOW}


@cache
def dark(noise_levels: float) -> MeasuredPictures:
    """Two thirds of the picture are a dark gradient that flickers and is noisy; the rest is still
    texture.
    """
    rng, still, images = np.random.default_rng(1), background(), []
    for _ in TIMES:
        noise = cv2.GaussianBlur(rng.normal(size=(HEIGHT, WIDTH)), (0, 0), 1.5)
        level = (6 + 20 * COLUMNS / WIDTH) * rng.uniform(0.9, 1.1)
        level += noise_levels / noise.std() * noise
        images.append(np.where(COLUMNS[..., None] < WIDTH / 3, still, level[..., None]))
    return measure_images(add_grain(images, 0.5))


def test_motion_that_flow_invents_in_the_dark_is_not_counted():
    scene = dark(1.0)
    assert scene.weight.mean() > MOVING_PX > 20 * scene.measures.mean_motion_px
    assert verdicts_on(scene) == [Reason.NO_MOTION]


def test_noise_that_is_strong_enough_to_pass_for_texture_is_unreliable_flow():
    scene = dark(2.3)
    assert scene.measures.sway_px > SUBTLE.no_sway_px
    assert Reason.UNRELIABLE_FLOW in verdicts_on(scene)


# ---- what sways


@cache
def swinging_lantern() -> MeasuredPictures:
    """A lantern of 11 px radius swings before a still background."""
    still, lantern = background(), make_texture(24, 24, 3)
    rows, columns = np.indices((24, 24))
    disk = np.clip(11.5 - np.hypot(rows - 11.5, columns - 11.5), 0, 1)
    images = [
        paste(still, lantern, disk, 120 + 3.0 * np.sin(2 * np.pi * 0.6 * t), 70) for t in TIMES
    ]
    return measure_images(add_grain(images))


def test_one_small_lantern_that_swings_is_kept():
    scene = swinging_lantern()
    assert 0.005 < scene.measures.moving_share < 0.02
    assert verdicts_on(scene) == []


def sway_everywhere(t: float, amplitude: float = 1.8) -> tuple[np.ndarray, np.ndarray]:
    """Displacement (dx, dy) of a close-up in the wind, whose parts do not sway in step."""
    phase = 2 * np.pi * (1.6 * COLUMNS / WIDTH + 0.7 * ROWS / HEIGHT)
    across = 2 * np.pi * (0.9 * COLUMNS / WIDTH - 1.3 * ROWS / HEIGHT)
    dx = amplitude * (
        np.sin(2 * np.pi * 0.8 * t + phase) + 0.5 * np.sin(2 * np.pi * 1.2 * t + across)
    )
    dy = 0.6 * amplitude * np.sin(2 * np.pi * 0.6 * t + across + phase)
    return dx, dy


def shake(rms_px: float = 1.5, seed: int = 2) -> np.ndarray:
    """Shift in x and y and the turn at the right border of a camera held in hands [3, time],
    pixels; each is smooth over 0.2 s, and the turn is a third of the shift.
    """
    rng = np.random.default_rng(seed)
    paths = gaussian_filter1d(rng.normal(size=(3, len(TIMES) + 100)), 6.0, axis=1)[:, 50:-50]
    paths -= paths.mean(axis=1, keepdims=True)
    return paths / paths.std(axis=1, keepdims=True) * rms_px * np.array([[1], [1], [1 / 3]])


def camera_shift(path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Displacement (dx, dy) of a picture whose camera shifts and turns: path is (x, y, turn)."""
    x, y = 2 * COLUMNS / WIDTH - 1, (2 * ROWS - HEIGHT) / WIDTH
    return path[0] - path[2] * y, path[1] + path[2] * x


@cache
def close_up(shaken_px: float = 0.0, amplitude: float = 1.8) -> MeasuredPictures:
    still = background(4)
    images = []
    for t, path in zip(TIMES, shake(max(shaken_px, 1e-9)).T, strict=True):
        swayed = move_image(still, *sway_everywhere(t, amplitude))
        images.append(move_image(swayed, *camera_shift(path)) if shaken_px else swayed)
    return measure_images(add_grain(images))


def test_a_close_up_that_sways_all_over_before_a_static_camera_is_kept():
    scene = close_up()
    assert scene.measures.moving_share > 0.95
    assert scene.measures.camera_share < SUBTLE.camera_share / 2
    assert verdicts_on(scene) == []


@cache
def filmed(kind: str) -> MeasuredPictures:
    """A still scene before a camera that moves."""
    still = background(4)
    if kind == "shake":
        paths = [camera_shift(path) for path in shake().T]
    elif kind == "pan":
        paths = [(2.0 * t, 0.0) for t in TIMES]
    else:
        x, y = COLUMNS - WIDTH / 2, ROWS - HEIGHT / 2
        paths = [(0.012 * t * x, 0.012 * t * y) for t in TIMES]
    return measure_images(add_grain([move_image(still, *path) for path in paths]))


@pytest.mark.parametrize("kind", ["shake", "pan", "zoom"])
def test_a_camera_that_moves_before_a_still_scene_is_camera_motion(kind):
    assert filmed(kind).measures.camera_share > 0.9
    assert Reason.CAMERA_MOTION in verdicts_on(filmed(kind))


def test_hand_shake_under_sway_is_camera_motion():
    assert verdicts_on(close_up(1.5, 0.8))[0] == Reason.CAMERA_MOTION


# ---- what does not come back


def lift(px: float) -> np.ndarray:
    """A plant's displacement upwards, which increases outwards from its root; its mean over the
    picture is `px`.
    """
    reach = (1 - ROWS / HEIGHT) * (1 - 0.8 * np.abs(COLUMNS / WIDTH - 0.5))
    shape = reach**2 * (1 + np.sin(COLUMNS / 20)) / 2
    return px * shape / shape.mean()


@cache
def growing(px: float, breath: bool = False) -> MeasuredPictures:
    still = background(6)
    course = (1 - np.cos(2 * np.pi * TIMES / 4)) / 2 if breath else TIMES / TIMES[-1]
    return measure_images(add_grain([move_image(still, 0.0, -lift(px) * c) for c in course]))


@pytest.mark.parametrize("px", [1.5, 3.0])
def test_growth_is_drift_and_a_slow_breath_of_its_size_is_kept(px):
    assert growing(px).measures.drift_px == pytest.approx(px, rel=0.25)
    assert Reason.DRIFT in verdicts_on(growing(px))
    assert verdicts_on(growing(px, breath=True)) == []


@cache
def falling() -> MeasuredPictures:
    """Texture falls by 3 px a frame through the middle of a still picture."""
    still, water = background(8), make_texture(100, 900, 9)
    images = []
    for i in range(len(TIMES)):
        image = still.copy()
        image[:, 80:180] = water[700 - 3 * i : 860 - 3 * i]
        images.append(image)
    return measure_images(add_grain(images))


def test_falling_texture_is_unreliable_flow():
    assert Reason.UNRELIABLE_FLOW in verdicts_on(falling())


@cache
def before_a_wall() -> MeasuredPictures:
    """A plant swings before a uniform gray wall, whose noise is faint."""
    plant = make_texture(70, 120, 10).astype(np.float32)
    rows, columns = np.indices((120, 70))
    cover = np.clip(33 * (0.4 + 0.6 * np.sin(np.pi * rows / 119)) - np.abs(columns - 35), 0, 1)
    wall = np.full((HEIGHT, WIDTH, 3), 150, np.float32)
    image = paste(wall, plant, cover, 90, 40)
    bend = np.clip(1 - ROWS / HEIGHT, 0, 1) ** 1.5 * 5
    return measure_images(
        add_grain([move_image(image, bend * np.sin(2 * np.pi * 0.7 * t), 0.0) for t in TIMES], 1.0)
    )


def test_a_clean_swing_before_a_blank_wall_is_kept():
    scene = before_a_wall()
    assert scene.measures.believed_share < 0.5
    assert verdicts_on(scene) == []
