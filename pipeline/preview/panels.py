"""TODO: what this file is."""

from collections.abc import Callable

import numpy as np

from pipeline.images import draw
from pipeline.images.draw import Picture, flow_colors, heat_map, scale_limit, stack_horizontally
from pipeline.motion.spectrum import modulus
from pipeline.preview.reconstruct import Reconstruction

_MIN_PANEL_WIDTH_PX = 240
"""Least width of a picture: smaller ones are enlarged."""
_COLOR_WHEEL_PX = 44
"""Size of the legend of the colours."""
_MAX_SHEET_FREQUENCIES = 6
"""Frequencies of which a sheet shows the amplitude."""
_SCALE_HEIGHT_PX, _DASH_LENGTH_PX = 5, 4
"""Height of a scale, and length of the dashes that mark a row, pixels."""
_DASH_COLOR = (255, 214, 64)


def sheet_title(shown: Reconstruction) -> str:
    """What is shown, in words."""
    plan, (columns, rows) = shown.settings.plan, shown.settings.size
    return f"{shown.row.key}: {plan.frames / plan.fps:g} s at {plan.fps:g} frames a second, {columns} x {rows} pixels"


def draw_overview(shown: Reconstruction) -> Picture:
    """The start frame, and the motion when it is largest."""
    length, image = displacement_magnitude(shown), shown.sample.image.copy()
    largest, when = scale_limit(length), int(length.mean(axis=(1, 2)).argmax())
    row = draw.busiest_row(shown.motion)
    image[row, np.arange(image.shape[1]) % (2 * _DASH_LENGTH_PX) < _DASH_LENGTH_PX] = _DASH_COLOR
    flow = draw_flow_panel(shown.motion[when], largest)
    return stack_horizontally(
        [enlarge_to_panel(image), flow],
        [
            "start frame; dashes: row of the X-t slices",
            f"motion after {when / shown.settings.plan.fps:.2f} s, full colour at {largest:g} px",
        ],
    )


def draw_maps(shown: Reconstruction) -> Picture:
    """W and the confidence."""
    weight, certain = (
        shown.sample.weight.astype(np.float32),
        shown.sample.confidence.astype(np.float32) / 255,
    )
    largest = scale_limit(weight)
    captions = [f"W, mean displacement: 0 to {largest:g} px", "confidence in the motion: 0 to 1"]
    return stack_horizontally(
        [_draw_with_scale(weight, largest), _draw_with_scale(certain, 1.0, draw.gray_map)], captions
    )


def draw_amplitudes(shown: Reconstruction) -> list[Picture]:
    """The amplitudes of the strongest oscillations, two in a row, by frequency."""
    plan = shown.settings.plan
    amplitudes = draw.amplitudes(shown.sample.spectrum, plan.frames)
    strongest = sorted(
        1 + np.argsort(-amplitudes[1:].mean(axis=(1, 2)), kind="stable")[:_MAX_SHEET_FREQUENCIES]
    )
    ends = {k: scale_limit(amplitudes[k]) for k in strongest}
    panels = [_draw_with_scale(amplitudes[k], ends[k]) for k in strongest]
    captions = [
        f"amplitude at {k * plan.fps / plan.frames:.4g} Hz: 0 to {ends[k]:g} px" for k in strongest
    ]
    return [
        stack_horizontally(panels[i : i + 2], captions[i : i + 2]) for i in range(0, len(panels), 2)
    ]


def displacement_magnitude(shown: Reconstruction) -> np.ndarray:
    """|F_t(p)|, pixels, [time, height, width]."""
    return modulus(shown.motion[:, 0], shown.motion[:, 1])


def magnify_caption(magnify: float) -> str:
    return "" if magnify == 1 else f", motion x {magnify:g}"


def enlarge_to_panel(image: Picture) -> Picture:
    return draw.enlarge(image, _MIN_PANEL_WIDTH_PX)


def draw_flow_panel(flow: np.ndarray, largest: float) -> Picture:
    return draw.draw_inset(
        enlarge_to_panel(flow_colors(flow, largest)), draw.draw_color_wheel(_COLOR_WHEEL_PX)
    )


def _draw_with_scale(
    values: np.ndarray, largest: float, colours: Callable[[np.ndarray, float], Picture] = heat_map
) -> Picture:
    """The values in colours over the colours' scale."""
    image = enlarge_to_panel(colours(values, largest))
    scale = colours(
        np.tile(np.linspace(0, largest, image.shape[1]), (_SCALE_HEIGHT_PX, 1)), largest
    )
    return np.vstack([draw.pad_to_size(image, len(image) + 2, image.shape[1]), scale])
