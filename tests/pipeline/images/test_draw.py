"""Pictures of motion against motion that is known."""

import cv2
import numpy as np
import pytest
import torch

from pipeline import torchvision_import  # noqa: F401 - torchvision, where its plain import fails
from pipeline.images.draw import (
    BACKGROUND_COLOR,
    GAP_PX,
    amplitudes,
    busiest_row,
    draw_color_wheel,
    draw_inset,
    draw_notice,
    enlarge,
    flow_colors,
    heat_map,
    invert_flow,
    scale_limit,
    slice_xt,
    stack_horizontally,
    stack_vertically,
    warp,
    wrap_text,
)
from pipeline.motion.spectrum import to_spectrum
from schemas.sample import complex_to_channels
from tests.support.videos import make_texture

H, W, T = 40, 64, 30


def field(x, y) -> np.ndarray:
    """A flow, float32 [2, H, W]; numbers or arrays."""
    return np.stack([np.broadcast_to(np.float32(part), (H, W)) for part in (x, y)])


def test_colours_are_those_of_torchvision():
    from torchvision.utils import flow_to_image

    flow = np.random.default_rng(1).normal(size=(2, H, W)).astype(np.float32)
    theirs = flow_to_image(torch.from_numpy(flow)).permute(1, 2, 0).numpy()
    assert (
        np.abs(flow_colors(flow, float(np.hypot(*flow).max())).astype(int) - theirs).max() <= 2
    )  # they round down, twice


def test_rest_is_white_right_is_red_and_more_than_the_largest_is_no_more():
    assert (flow_colors(field(0, 0), 1.0) == 255).all()
    assert (flow_colors(field(2, 0), 2.0) == (255, 0, 0)).all()
    assert (flow_colors(field(5, 0), 2.0) == (255, 0, 0)).all()
    assert (flow_colors(field(1, 0), 2.0)[0, 0] == (255, 128, 128)).all()


def test_the_wheel_has_the_colour_of_each_direction_at_its_place():
    wheel = draw_color_wheel(101)
    assert (wheel[50, 50] == 255).all() and not wheel[0, 0].any()
    for dx, dy in ((40, 0), (0, 40), (-30, -20)):
        flow = field(dx, dy)
        assert (
            np.abs(wheel[50 + dy, 50 + dx].astype(int) - flow_colors(flow, 50.5)[0, 0]).max() <= 1
        )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_heat_rises_in_brightness_and_ends_at_the_largest(dtype):
    values = np.tile(np.linspace(0, 2, W, dtype=dtype), (H, 1))
    brightness = heat_map(values, 1.0)[0].astype(int) @ [30, 59, 11]
    assert (np.diff(brightness[: W // 2]) > 0).all() and (
        heat_map(values, 1.0)[:, W // 2 :] == heat_map(values, 1.0)[0, -1]
    ).all()
    assert heat_map(values, 1.0)[0, 0].max() < 10 and heat_map(values, 1.0)[0, -1, 0] > 240


@pytest.mark.parametrize("largest", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_must_end_above_zero(largest):
    for picture in (
        lambda: heat_map(np.ones((H, W)), largest),
        lambda: flow_colors(field(1, 1), largest),
    ):
        with pytest.raises(ValueError, match="the scale ends at"):
            picture()


def test_a_scale_ends_at_a_round_number_that_few_values_pass():
    values = np.linspace(0, 1.234, 10_000)
    assert scale_limit(values) == 1.3
    assert scale_limit(np.append(values, 1000.0)) == 1.3
    assert scale_limit(np.full(10, 0.30)) == 0.3
    assert scale_limit(np.full(10, 31.2)) == 32
    assert scale_limit(np.zeros(10)) == 0.01


def test_amplitudes_are_those_of_the_oscillations_put_in():
    t = np.arange(T)[:, None, None]
    x = 0.5 + 0.75 * np.cos(2 * np.pi * 3 * t / T + 1) + 0.3 * np.cos(2 * np.pi * 5 * t / T)
    y = 0.4 * np.sin(2 * np.pi * 5 * t / T) + 0.2 * np.cos(np.pi * t)
    motion = np.broadcast_to(np.stack([x, y], 1), (T, 2, 4, 6))
    spectrum = complex_to_channels(to_spectrum(motion, T // 2 + 1).astype(np.complex64)).astype(
        np.float16
    )
    found = amplitudes(spectrum, T)
    expected = np.zeros(T // 2 + 1)
    expected[[0, 3, 5, T // 2]] = 0.5, 0.75, 0.5, 0.2
    assert found.dtype == np.float32 and np.abs(found - expected[:, None, None]).max() < 1e-3


def test_the_busiest_row_sways_from_side_to_side():
    motion = np.zeros((T, 2, H, W), np.float32)
    motion[:, 0, 11] = np.sin(np.arange(T))[:, None]
    motion[:, 0, 20] = 9  # far from where it began, but at rest
    motion[:, 1, 30] = 5 * np.sin(np.arange(T))[:, None]
    assert busiest_row(motion) == 11


def test_a_slice_is_one_row_of_every_frame():
    frames = np.random.default_rng(2).integers(0, 256, (T, H, W, 3), np.uint8)
    assert (slice_xt(frames, 7) == frames[:, 7]).all() and (
        slice_xt(iter(frames), 0) == frames[:, 0]
    ).all()
    for row in (-1, H):
        with pytest.raises(ValueError, match=f"row is {row}, expected 0 to {H - 1}"):
            slice_xt(frames, row)
    with pytest.raises(ValueError, match="0 frames"):
        slice_xt(frames[:0], 0)


def test_a_translation_moves_the_picture_there():
    image = make_texture(W, H)
    moved = warp(image, field(5, -3))
    assert (moved[: H - 3, 5:] == image[3:, : W - 5]).all()
    assert (moved[H - 3 :, 5:] == image[-1, : W - 5]).all()


def test_half_a_pixel_is_half_a_pixel():
    ramp = np.broadcast_to((2 * np.arange(W))[None, :, None], (H, W, 3)).astype(np.uint8)
    assert (warp(ramp, field(0.5, 0))[:, 2:-2] == ramp[:, 2:-2] - 1).all()


def test_a_field_of_known_inverse_is_inverted():
    """u(x) = a sin(k x) is given; F(q) = u(x) at q = x - u(x), solved by Newton's method (Kepler's
    equation).
    """
    a, k = 3.0, 2 * np.pi / W
    q = np.arange(W, dtype=float)
    x = q.copy()
    for _ in range(50):
        x -= (x - a * np.sin(k * x) - q) / (1 - a * k * np.cos(k * x))
    found = invert_flow(field(a * np.sin(k * x), 0.5))
    assert np.abs(found[0, :, 5:-5] - a * np.sin(k * q[5:-5])).max() < 0.02 and np.allclose(
        found[1], 0.5
    )


def test_what_was_at_p_is_seen_at_p_plus_its_displacement():
    x, y = np.meshgrid(np.arange(W), np.arange(H))
    flow = field(2 * np.sin(x / 9 + y / 11), 1.5 * np.cos(x / 12))
    image = np.broadcast_to(
        (127 + 100 * np.sin(x / 7) * np.cos(y / 8))[..., None], (H, W, 3)
    ).astype(np.uint8)
    again = cv2.remap(
        warp(image, flow), np.float32(x + flow[0]), np.float32(y + flow[1]), cv2.INTER_CUBIC
    )
    assert np.abs(again[6:-6, 6:-6].astype(float) - image[6:-6, 6:-6]).mean() < 0.7


def test_pictures_stand_beside_each_other_under_their_captions():
    a, b = make_texture(60, 40, 1), make_texture(90, 30, 2)
    sheet = stack_horizontally(
        [a, b], ["start frame", "a caption that is longer than its picture is wide"]
    )
    row = sheet.shape[0] - 40 - GAP_PX
    places = [
        np.argwhere((sheet[row : row + p.shape[0]] == p[:, :1]).all(axis=(0, 2))) for p in (a, b)
    ]
    left_a, left_b = (int(place[0, 0]) for place in places)
    assert (sheet[row : row + 40, left_a : left_a + 60] == a).all() and (
        sheet[row : row + 30, left_b : left_b + 90] == b
    ).all()
    assert (
        left_b >= left_a + 60
        and (sheet[row + 30 :, left_b : left_b + 90] == BACKGROUND_COLOR).all()
    )
    above = sheet[:row]
    assert (above[:, left_a : left_a + 60] != BACKGROUND_COLOR).any() and (
        above[row // 2 :, left_b : left_b + 90] != BACKGROUND_COLOR
    ).any()
    with pytest.raises(ValueError, match="2 pictures and 1 captions"):
        stack_horizontally([a, b], ["one"])


def test_words_are_broken_into_lines_and_none_is_lost():
    text = "the file is gone or has another size than when it was planned"
    lines = wrap_text(text, 120)
    assert " ".join(lines) == text and len(lines) > 2
    assert wrap_text("", 120) == [""] and wrap_text("unbreakable", 10) == ["unbreakable"]


def test_a_notice_has_its_size_and_says_something():
    for height, width in ((40, 64), (160, 256), (5, 8)):
        panel = draw_notice(
            "the file is gone or has another size than when it was planned", height, width
        )
        assert panel.shape == (height, width, 3)
    assert (draw_notice("gone", 160, 256) != BACKGROUND_COLOR).any() and (
        draw_notice("", 160, 256) == BACKGROUND_COLOR
    ).all()


def test_small_pictures_are_enlarged_by_whole_factors():
    image = make_texture(64, 40)
    large = enlarge(image, 240)
    assert large.shape == (160, 256, 3) and (large[::4, ::4] == image).all()
    assert (enlarge(image, 30) == image).all()


def test_rows_stand_beneath_each_other_and_a_legend_in_the_corner():
    a, b = make_texture(60, 40, 1), make_texture(90, 30, 2)
    sheet = stack_vertically([a, b])
    assert (
        (sheet[:40, :60] == a).all()
        and sheet.shape[1] == 90
        and (sheet[:40, 60:] == BACKGROUND_COLOR).all()
    )
    small = np.zeros((10, 12, 3), np.uint8)
    small[3:7] = 200
    marked = draw_inset(a, small)
    assert (
        (marked[33:37, -12:] == 200).all()
        and (marked[:30] == a[:30]).all()
        and (marked[-3:, -12:] == a[-3:, -12:]).all()
    )
