"""Draws a reconstructed sample: frames of panels side by side, or a sheet of all its pictures.

The real frames are decoded from the video. If they cannot be had, a panel says why, and so does the
callback `report_missing`, which gets one sentence.
"""

from collections.abc import Callable, Iterator
from itertools import repeat

import numpy as np
from jaxtyping import UInt8

from pipeline.images import draw
from pipeline.images.draw import (
    draw_notice,
    flow_colors,
    heat_map,
    scale_limit,
    stack_horizontally,
    stack_vertically,
)
from pipeline.motion.spectrum import modulus
from pipeline.preview.reconstruct import Reconstruction
from schemas.outcome import Quarantined

_MIN_PANEL_WIDTH_PX = 240
"""Narrower pictures are enlarged to at least this width."""
_COLOR_WHEEL_PX = 44
"""Size of the legend of the colors of flow."""
_MAX_SHEET_FREQUENCIES = 6
"""A sheet shows the amplitudes of at most so many frequencies."""
_SCALE_HEIGHT_PX, _DASH_LENGTH_PX = 5, 4
"""Height of a color scale, and length of the dashes that mark a row, pixels."""
_DASH_COLOR = (255, 214, 64)

_Panel = UInt8[np.ndarray, "_ _ 3"]
ReportMissing = Callable[[str], None]


def draw_motion_frames(
    reconstruction: Reconstruction, magnify: float, step: int, report_missing: ReportMissing
) -> Iterator[_Panel]:
    """For every `step`-th instant: the start frame, the motion in colors, the start frame moved by
    `magnify` times the motion, and the real frame.
    """
    motion = reconstruction.motion
    largest = scale_limit(modulus(motion[:, 0], motion[:, 1]))
    start = _enlarge(reconstruction.sample.image)
    captions = [
        "start frame",
        f"stored motion, full colour at {largest:g} px",
        f"start frame moved by it{_magnify_caption(magnify)}",
        "real frames",
    ]
    for flow, moved, real in zip(
        motion[::step],
        reconstruction.frames(magnify, step),
        _draw_real_panels(reconstruction, step, report_missing),
        strict=False,  # a panel that says why frames are missing is repeated without end
    ):
        panels = [start, _draw_flow(flow, largest), _enlarge(moved), real]
        yield stack_horizontally(panels, captions)


def _draw_real_panels(
    reconstruction: Reconstruction, step: int, report_missing: ReportMissing
) -> Iterator[_Panel]:
    """The real frames; as soon as decoding fails, a panel that says why, without end."""
    try:
        yield from map(_enlarge, reconstruction.real_frames(step))
    except Quarantined as error:
        shape = _enlarge(reconstruction.sample.image).shape
        yield from repeat(_draw_missing(error, shape, report_missing))


def _draw_missing(
    error: Quarantined, shape: tuple[int, ...], report_missing: ReportMissing
) -> _Panel:
    report_missing(f"no real frames: {error.detail} ({error.reason})")
    return draw_notice(f"no real frames: {error.detail}", *shape[:2])


def draw_sheet(
    reconstruction: Reconstruction, magnify: float, report_missing: ReportMissing
) -> _Panel:
    """One picture with the start frame, the maps, the strongest frequencies and the X-t slices."""
    rows = [
        _draw_overview(reconstruction),
        _draw_maps(reconstruction),
        *_draw_amplitudes(reconstruction),
        _draw_slices(reconstruction, magnify, report_missing),
    ]
    plan, (width, height) = reconstruction.settings.plan, reconstruction.settings.size
    title = (
        f"{reconstruction.row.key}: {plan.frames / plan.fps:g} s"
        f" at {plan.fps:g} frames a second, {width} x {height} pixels"
    )
    under_title = rows[0][:0, : -2 * draw.GAP_PX]
    return stack_vertically([stack_horizontally([under_title], [title]), *rows])


def _draw_overview(reconstruction: Reconstruction) -> _Panel:
    """The start frame, and the motion when it is largest."""
    motion, image = reconstruction.motion, reconstruction.sample.image.copy()
    length = modulus(motion[:, 0], motion[:, 1])
    largest, moment = scale_limit(length), int(length.mean(axis=(1, 2)).argmax())
    row = draw.busiest_row(motion)
    image[row, np.arange(image.shape[1]) % (2 * _DASH_LENGTH_PX) < _DASH_LENGTH_PX] = _DASH_COLOR
    seconds = moment / reconstruction.settings.plan.fps
    return stack_horizontally(
        [_enlarge(image), _draw_flow(motion[moment], largest)],
        [
            "start frame; dashes: row of the X-t slices",
            f"motion after {seconds:.2f} s, full colour at {largest:g} px",
        ],
    )


def _draw_maps(reconstruction: Reconstruction) -> _Panel:
    """The mean displacement W and the confidence."""
    weight = reconstruction.sample.weight.astype(np.float32)
    confidence = reconstruction.sample.confidence.astype(np.float32) / 255
    largest = scale_limit(weight)
    return stack_horizontally(
        [_draw_with_scale(weight, largest), _draw_with_scale(confidence, 1.0, draw.gray_map)],
        [f"W, mean displacement: 0 to {largest:g} px", "confidence in the motion: 0 to 1"],
    )


def _draw_amplitudes(reconstruction: Reconstruction) -> list[_Panel]:
    """The amplitudes of the strongest oscillations by frequency, two in a row."""
    plan = reconstruction.settings.plan
    amplitudes = draw.amplitudes(reconstruction.sample.spectrum, plan.frames)
    strongest = sorted(
        1 + np.argsort(-amplitudes[1:].mean(axis=(1, 2)), kind="stable")[:_MAX_SHEET_FREQUENCIES]
    )
    limits = {k: scale_limit(amplitudes[k]) for k in strongest}
    panels = [_draw_with_scale(amplitudes[k], limits[k]) for k in strongest]
    captions = [
        f"amplitude at {k * plan.fps / plan.frames:.4g} Hz: 0 to {limits[k]:g} px"
        for k in strongest
    ]
    return [
        stack_horizontally(panels[i : i + 2], captions[i : i + 2]) for i in range(0, len(panels), 2)
    ]


def _draw_slices(
    reconstruction: Reconstruction, magnify: float, report_missing: ReportMissing
) -> _Panel:
    """X-t slices of the moved start frame and of the real frames."""
    row = draw.busiest_row(reconstruction.motion)
    warped = _enlarge(draw.slice_xt(reconstruction.frames(magnify), row))
    try:
        real = _enlarge(draw.slice_xt(reconstruction.real_frames(), row))
    except Quarantined as error:
        real = _draw_missing(error, warped.shape, report_missing)
    return stack_horizontally(
        [warped, real],
        [
            f"X-t slice of the start frame moved{_magnify_caption(magnify)}",
            "X-t slice of the real frames; time runs down",
        ],
    )


def _magnify_caption(magnify: float) -> str:
    return "" if magnify == 1 else f", motion x {magnify:g}"


def _enlarge(image: _Panel) -> _Panel:
    return draw.enlarge(image, _MIN_PANEL_WIDTH_PX)


def _draw_flow(flow: np.ndarray, largest: float) -> _Panel:
    """Flow in colors, with the color wheel in the corner."""
    return draw.draw_inset(
        _enlarge(flow_colors(flow, largest)), draw.draw_color_wheel(_COLOR_WHEEL_PX)
    )


def _draw_with_scale(
    values: np.ndarray, largest: float, color_map: Callable[[np.ndarray, float], _Panel] = heat_map
) -> _Panel:
    """The values in colors, over the scale of the colors from 0 to `largest`."""
    image = _enlarge(color_map(values, largest))
    ramp = np.tile(np.linspace(0, largest, image.shape[1]), (_SCALE_HEIGHT_PX, 1))
    return np.vstack(
        [draw.pad_to_size(image, len(image) + 2, image.shape[1]), color_map(ramp, largest)]
    )
