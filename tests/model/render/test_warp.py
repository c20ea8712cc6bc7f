"""A photograph that moves: known motion moves known pixels, and nothing else."""

import threading

import cv2
import numpy as np
import pytest

from model.motion.series import MotionSeries
from model.render.splatting_cpu import load_kernel
from model.render.warp import (
    animate_frames,
    build_sampling_grid,
    fill_holes,
    map_in_order,
    splat_fused,
    splat_padded,
    warp_frame,
)
from tests.support.videos import make_texture


def steady(flow: np.ndarray) -> MotionSeries:
    """Motion that stays where it is."""
    return MotionSeries(
        mean=flow.astype(np.float32), waves=np.zeros((0, *flow.shape), np.complex64), hz=np.zeros(0)
    )


def constant(dx: float, dy: float, height: int, width: int) -> np.ndarray:
    return np.broadcast_to(np.array([dx, dy], np.float32)[:, None, None], (2, height, width)).copy()


@pytest.mark.parametrize("size", [(48, 32), (96, 64), (17, 11)])
def test_without_motion_it_is_the_photograph(size):
    photo = make_texture(96, 64)
    (frame,) = animate_frames(
        photo, steady(constant(0, 0, *size[::-1])), np.zeros(size[::-1], np.float32), [0.0]
    )
    assert np.array_equal(frame, photo)


def test_motion_is_in_pixels_of_the_working_size():
    photo = make_texture(96, 64)
    (frame,) = animate_frames(
        photo, steady(constant(2, -1, 32, 48)), np.ones((32, 48), np.float32), [0.0]
    )
    assert np.array_equal(frame[:-2, 4:], photo[2:, :-4])


def test_what_a_mask_keeps_does_not_move():
    photo, moving = make_texture(96, 64), np.zeros((64, 96), np.float32)
    moving[:, 48:] = 1
    (frame,) = animate_frames(
        photo, steady(constant(0, 1, 32, 48)), np.ones((32, 48), np.float32), [0.0], moving
    )
    assert np.array_equal(frame[:, :48], photo[:, :48]) and np.array_equal(
        frame[2:, 48:], photo[:-2, 48:]
    )


def test_at_the_working_size_each_pixel_has_its_own_motion():
    place = build_sampling_grid(make_texture(40, 30), (40, 30))
    x, y = np.meshgrid(np.arange(40), np.arange(30))
    assert np.abs(place.x - x).max() < 1e-4 and np.abs(place.y - y).max() < 1e-4


def test_an_edge_of_motion_lies_on_the_edge_of_the_colours():
    photo = np.zeros((80, 80, 3), np.uint8)
    # The edge is halfway between two of the working pixels, which are 8 wide: nearness alone would
    # blur it over eight columns.
    photo[:, 40:] = 255
    values = np.zeros((10, 10), np.float32)
    values[:, 5:] = 1
    found = build_sampling_grid(photo, (10, 10)).sample(values)
    assert found[:, :40].max() < 0.05 and found[:, 40:].min() > 0.95


@pytest.mark.parametrize(
    ("left", "right", "share"), [(160, 240, 0), (158, 242, 0), (153, 247, 0), (156, 244, 0.01)]
)
def test_motion_does_not_bleed_across_an_edge_of_the_photograph(left, right, share):
    """A light blade of texture moves by 16 pixels over dark ground, at a working size of an eighth:
    the ground stays, and the blade moves as one, but for 3 pixels at its edges. In the last the
    edges halve working pixels, which are half of each.
    """
    photo, grain = np.zeros((256, 400, 3), np.uint8), make_texture(400, 256)[..., :1] // 6
    photo[:] = np.concatenate([grain + 20, grain + 60, grain + 130], axis=2)
    photo[:, left:right] = (grain + 150)[:, left:right]
    flow = constant(0, 0, 32, 50)
    flow[0, :, round(left / 8) : round(right / 8)] = 2
    (frame,) = animate_frames(photo, steady(flow), 10 * flow[0], [0.0])  # far in front
    wrong = np.abs(frame.astype(int) - photo).max(axis=2) > 2
    assert not wrong[:, : left - 3].any() and not wrong[:, right + 16 + 3 :].any()
    torn = (
        np.abs(np.roll(frame, -16, axis=1).astype(int) - photo).max(axis=2)[:, left + 3 : right - 3]
        > 2
    )
    assert torn.mean() <= share


def test_holes_are_filled_from_around_and_nothing_else_changes():
    picture, holes = np.full((33, 47, 3), 80, np.float32), np.zeros((33, 47), bool)
    picture[:, 24:] = 120
    holes[10:20, 5:12] = True
    found = fill_holes(np.where(holes[..., None], 0, picture).astype(np.float32), holes)
    assert np.abs(found[holes] - 80).max() < 1 and np.array_equal(found[~holes], picture[~holes])


def test_a_border_that_is_laid_bare_shows_the_picture_going_on():
    photo = np.full((40, 60, 3), 200, np.uint8)
    frame = warp_frame(photo, np.full((2, 40, 60), 5, np.float32), np.zeros((40, 60), np.float32))
    assert (frame == 200).all()


def test_what_moves_more_is_in_front():
    photo = np.zeros((8, 24, 3), np.uint8)
    photo[:, 4:8], photo[:, 12:16] = 50, 250
    flow = np.zeros((2, 8, 24), np.float32)
    flow[0, :, 4:8] = 8
    metric = np.where(flow[0] > 0, 8, 0).astype(np.float32)
    assert np.abs(warp_frame(photo, flow, metric)[:, 12:16].astype(int) - 50).max() <= 1


def swirl(height: int, width: int, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Smooth motion this way and that, and its length."""
    random = np.random.default_rng(3)
    flow = np.stack(
        [
            cv2.resize(random.normal(0, length, (5, 7)).astype(np.float32), (width, height))
            for _ in range(2)
        ]
    )
    return flow, np.hypot(*flow)


@pytest.mark.skipif(load_kernel() is None, reason="the kernel cannot be built here")
@pytest.mark.parametrize("length", [0.0, 0.4, 3.0, 200.0])
@pytest.mark.parametrize("margin", [0, 5, 150])
def test_one_pass_over_the_colours_is_splatting_of_the_photograph_that_goes_on(length, margin):
    photo, (flow, metric) = make_texture(97, 63), swirl(63, 97, length)
    metric = np.minimum(metric, 20)
    flow[:, 3, 4] = np.nan
    (picture, holes), (expected, laid_bare) = (
        splat_fused(photo, flow, np.exp(metric - metric.max()), margin),
        splat_padded(photo, flow, metric, margin),
    )
    assert (
        np.array_equal(holes, laid_bare) and np.abs(picture - expected).max() < 0.2
    )  # places are rounded elsewhere
    assert length < 100 or holes.mean() > 0.1


@pytest.mark.parametrize("way", [warp_frame, splat_padded])
def test_half_a_pixel_leaves_stripes_nearly_as_sharp_as_they_were(way):
    """Half a pixel keeps a = cos(pi / 4) of 4-pixel stripes; given back, a + 3/4 a (1 - a^2)."""
    stripes = np.cos(np.pi / 2 * np.arange(64))
    photo = (
        np.broadcast_to((120 + 100 * stripes)[None, :, None], (16, 64, 3)).round().astype(np.uint8)
    )
    still, flow = np.zeros((16, 64), np.float32), constant(0.5, 0, 16, 64)
    found = (way(photo, flow, still) if way is warp_frame else way(photo, flow, still, 1)[0])[
        8, 8:56, 0
    ].astype(float)
    moved_by_half = np.cos(np.pi / 2 * (np.arange(8, 56) - 0.5))
    assert (found - 120) @ moved_by_half / (100 * moved_by_half @ moved_by_half) == pytest.approx(
        0.5**0.5 * (1 + 0.75 * 0.5), abs=0.01
    )


def test_however_much_more_one_pixel_moves_than_another_both_are_seen():
    photo, flow = np.full((8, 24, 3), 90, np.uint8), np.zeros((2, 8, 24), np.float32)
    metric = np.zeros((8, 24), np.float32)
    metric[:, 12:] = 500
    assert np.array_equal(warp_frame(photo, flow, metric), photo)


def test_frames_are_the_same_for_any_number_of_threads():
    photo, (flow, metric) = make_texture(192, 120), swirl(30, 48, 2.0)
    wave = MotionSeries(
        mean=np.zeros_like(flow), waves=flow[None].astype(np.complex64), hz=np.array([1.0])
    )
    films = [
        np.stack(list(animate_frames(photo, wave, metric, np.arange(12) / 10, threads=threads)))
        for threads in (1, 2, 5)
    ]
    assert np.array_equal(films[0], films[1]) and np.array_equal(films[0], films[2])
    assert (films[0][1:] != films[0][:-1]).any(axis=(1, 2, 3)).all()


def test_frames_are_made_a_few_ahead_in_order_and_no_more_once_nobody_takes_them():
    before, begun = threading.active_count(), []

    def make(time: float) -> np.ndarray:
        begun.append(time)
        return np.full((1, 1, 3), time, np.uint8)

    frames = map_in_order(make, map(float, range(100)), 3)
    for number in range(10):
        assert next(frames)[0, 0, 0] == number
        assert len(begun) <= number + 4
    frames.close()
    assert len(begun) <= 13 and threading.active_count() == before


def test_what_goes_wrong_with_a_frame_is_raised_where_it_is_taken():
    def make(time: float) -> np.ndarray:
        raise ValueError(f"no frame at {time:g}")

    with pytest.raises(ValueError, match="no frame at 2"):
        list(map_in_order(make, [2.0, 3.0], 2))
