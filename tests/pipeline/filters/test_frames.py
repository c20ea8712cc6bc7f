"""Cuts, fades and repeated frames, on pictures of known content."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from pipeline.filters import (
    PRESETS,
    compute_frame_delta,
    compute_frame_stats,
    judge,
    measure_frames,
)
from schemas.outcome import FilterMeasures, Reason
from tests.support.datasets import PASSING_MEASURES
from tests.support.measures import add_grain
from tests.support.videos import make_texture, shift_image


def frame_measures(images: list[np.ndarray], rate: float = 30.0) -> dict[str, float]:
    stats = [compute_frame_stats(image) for image in images]
    deltas = [compute_frame_delta(a, b) for a, b in pairwise(stats)]
    return measure_frames(stats, deltas, np.arange(len(images)) / rate)


def verdicts(images: list[np.ndarray]) -> list[Reason]:
    """Verdicts on a window of these pictures whose motion is sound."""
    sound = FilterMeasures(**PASSING_MEASURES)
    return judge(replace(sound, **frame_measures(images)), PRESETS["subtle"])


def test_a_cut_between_two_scenes_is_a_cut():
    a, b = make_texture(256, 160, 1), make_texture(256, 160, 2)
    assert verdicts([a] * 10 + [b] * 10)[0] == Reason.CUT


def test_sway_and_noise_of_the_sensor_are_no_cut():
    image = make_texture(256, 160)
    assert (
        verdicts(add_grain([shift_image(image, 3 * np.sin(i / 3), 0) for i in range(20)], 3.0))
        == []
    )


def test_fading_to_black_is_a_fade_and_a_passing_cloud_is_not():
    image = make_texture(256, 160).astype(float)
    fade = [(image * level).astype(np.uint8) for level in np.linspace(1, 0.2, 60)]
    cloud = [(image * level).astype(np.uint8) for level in np.linspace(1, 0.93, 60)]
    assert Reason.FADE in verdicts(fade)
    assert verdicts(cloud) == []


@pytest.mark.parametrize("start", [0, 75, 120])
@pytest.mark.parametrize("level", [0.0, 128.0], ids=["black", "gray"])
@pytest.mark.parametrize("appears", [False, True], ids=["vanishes", "appears"])
def test_a_fade_of_a_second_is_a_fade_wherever_it_begins(start, level, appears):
    image = make_texture(256, 160).astype(np.float32)
    shares = np.clip((np.arange(150) - start) / 30, 0, 1)
    images = add_grain([image + (level - image) * share for share in shares])
    assert Reason.FADE in verdicts(images[::-1] if appears else images)


def test_a_flash_of_three_frames_is_no_fade():
    image = make_texture(256, 160).astype(np.float32)
    images = [image * 0.6 + (80 if 73 <= i < 76 else 0) for i in range(150)]
    assert Reason.FADE not in verdicts(add_grain(images))


def test_a_flower_that_opens_on_dark_ground_is_no_fade():
    """It covers a third of the picture at the end, and the rest is dark."""
    rows, columns = np.indices((160, 256), np.float32)
    distance = np.hypot(columns - 128, rows - 80)
    flower, ground = (
        make_texture(256, 160, 3) * np.float32(0.6) + 90,
        make_texture(256, 160) * 0.08 + 15,
    )
    images = [
        ground + (flower - ground) * np.clip(radius - distance, 0, 1)[..., None]
        for radius in np.linspace(32, 66, 150)
    ]
    images = add_grain(images)
    assert images[-1].mean() > 1.5 * images[0].mean()
    assert Reason.FADE not in verdicts(images)


@pytest.mark.parametrize("repeats, frozen", [(1, False), (2, False), (3, True), (20, True)])
def test_a_video_shown_twice_a_frame_is_sound_and_three_times_is_frozen(repeats, frozen):
    image = make_texture(128, 80)
    images = [shift_image(image, 0.5 * (i // repeats), 0) for i in range(40)]
    assert (Reason.FROZEN in verdicts(images)) == frozen
