"""Samples as pictures: a card for each chosen window, with its motion beside the real frames."""

import base64
import io
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from jaxtyping import Float64, UInt8
from PIL import Image

from pipeline.dataset.open import DatasetView
from pipeline.dataset.shards import read_sample
from pipeline.images import draw
from pipeline.images.encode import encode_h264, pad_to_even, time_frames
from pipeline.preview.reconstruct import Reconstruction, read_settings, reconstruct_sample
from pipeline.report import queries
from schemas.outcome import Quarantined
from schemas.records import ManifestRow

_RANDOM_SAMPLES = 6
_MAX_WIDTH_PX = 256
"""Pictures are at most so wide: that is how large they are shown."""
_GAP_PX = 16
"""Columns between real frames and reconstruction: those of the page's grid, which covers them."""
_CRF_LADDER = (20, 24, 28, 34, 42, 51)
"""x264's CRF: the first of which the video is within LARGEST bytes, so that the page stays under 15
MB.
"""
MAX_VIDEO_BYTES = 500_000
_WHEEL_PX = 40
_EXTREMES = {
    "mean_motion_px": ("most motion", -1),
    "-mean_motion_px": ("least motion", 1),
    "drift_px": ("most drift", -1),
    "inconsistent_share": ("least consistent flow", -1),
}
"""Measure (a minus: the least of it), and what a reader calls the window that has it."""

_Picture = UInt8[np.ndarray, "_ _ 3"]


def choose_windows(
    kept: pa.Table, averaged: pa.Table, error: Float64[np.ndarray, " windows"]
) -> list[dict[str, Any]]:
    """Rows of the windows to be shown, each with `why`: some at random, each of another clip as
    long as there are others, then the extreme ones. `error` is of the `averaged` windows.
    """
    found: dict[tuple[int, str], dict] = {}
    rest = [
        *_find_extremes(kept),
        (averaged.slice(int(error.argmax()), 1).to_pylist()[0], "largest error at this K"),
    ]
    for row, why in [
        (row, "at random") for row in queries.draw_varied_windows(kept, _RANDOM_SAMPLES)
    ] + rest:
        place = found.setdefault((row["set"], row["key"]), row | dict(why=[]))
        place["why"].append(why)
    return list(found.values())


def _find_extremes(kept: pa.Table) -> Iterator[tuple[dict[str, Any], str]]:
    for name, (why, sign) in _EXTREMES.items():
        values = sign * queries.read_numbers(kept, name.removeprefix("-"))
        yield kept.slice(int(np.nanargmin(values)), 1).to_pylist()[0], why


def build_cards(
    selections: Sequence[DatasetView], chosen: Sequence[dict], hz: Sequence[float]
) -> list[dict[str, Any]]:
    """A card for each chosen row; `hz` are the frequencies of which amplitudes are shown."""
    return [
        _build_card(selections[row["set"]], row, hz)
        for row in queries.read_full_rows(selections, chosen)
    ]


def _build_card(selection: DatasetView, row: dict[str, Any], hz: Sequence[float]) -> dict[str, Any]:
    """The pictures of one window; `gone` says why where its sample cannot be read."""
    try:
        sample = read_sample(selection.dataset.tar_path(row["shard"]), row["key"], row)
        made = reconstruct_sample(ManifestRow.load(row), sample, read_settings(selection.dataset))
    except (OSError, ValueError) as error:
        return dict(row=row, gone=str(error))
    return dict(row=row, gone=None) | _draw_still_pictures(made, hz) | _draw_moving_pictures(made)


def draw_strip(selection: DatasetView, row: dict[str, Any]) -> str:
    """Three true frames of a sample that is stored, as a data URI; "" where it cannot be read."""
    try:
        sample = read_sample(selection.dataset.tar_path(row["shard"]), row["key"], row)
    except (OSError, ValueError):
        return ""
    later = sample.pair_image[len(sample.pair_image) // 2 :]
    return webp_uri(
        np.hstack(
            [fit_to_width(image, _MAX_WIDTH_PX // 2) for image in (sample.image, *later[[0, -1]])]
            if len(later)
            else [fit_to_width(sample.image)]
        )
    )


def _draw_still_pictures(made: Reconstruction, hz: Sequence[float]) -> dict[str, Any]:
    """Start frame, flow at the moment of largest motion, mean magnitude, amplitudes."""
    lengths = np.hypot(made.motion[:, 0], made.motion[:, 1])
    moment = int(lengths.mean(axis=(1, 2)).argmax())
    full, most = (
        draw.scale_limit(lengths[moment]),
        draw.scale_limit(made.sample.weight.astype(np.float32)),
    )
    flow = fit_to_width(draw.flow_colors(made.motion[moment], full))
    fps, frames = made.settings.plan.fps, made.settings.plan.frames
    amplitudes = draw.amplitudes(made.sample.spectrum, frames)
    bands = [round(one * frames / fps) for one in hz]
    return dict(
        image=webp_uri(fit_to_width(made.sample.image)),
        flow=webp_uri(draw.draw_inset(flow, draw.draw_color_wheel(min(_WHEEL_PX, len(flow) // 4)))),
        full=full,
        moment=moment / fps,
        weight=webp_uri(fit_to_width(draw.heat_map(made.sample.weight, most))),
        most=most,
        bands=[_draw_amplitudes(amplitudes[k], k * fps / frames) for k in bands],
    )


def _draw_amplitudes(amplitude: Any, hz: float) -> dict[str, Any]:
    """The amplitudes of one frequency, small."""
    most = draw.scale_limit(amplitude)
    return dict(
        hz=hz,
        most=most,
        picture=webp_uri(fit_to_width(draw.heat_map(amplitude, most), _MAX_WIDTH_PX // 2)),
    )


def _draw_moving_pictures(made: Reconstruction) -> dict[str, Any]:
    """The video of real frames and reconstruction, and their X-t slices; `real` says why where the
    real ones are gone.
    """
    height = len(made.sample.image)
    margin = height // 10  # what comes in at the edge is not sway
    moved, row = (
        [fit_to_width(frame) for frame in made.frames()],
        margin + draw.busiest_row(made.motion[:, :, margin : height - margin]),
    )
    place = min(row * len(moved[0]) // height, len(moved[0]) - 1)
    try:
        real, gone = [fit_to_width(frame) for frame in made.real_frames()], None
    except Quarantined as error:
        real, gone = [], error.detail
    video = (
        [
            np.hstack([a, np.zeros((len(a), _GAP_PX, 3), np.uint8), b])
            for a, b in zip(real, moved, strict=True)
        ]
        if real
        else moved
    )
    slices = [webp_uri(draw.slice_xt(frames, place)) for frames in (real, moved) if frames]
    return dict(
        video=mp4_uri(video, made.settings.plan.fps),
        poster=webp_uri(video[0]),
        slices=slices,
        no_real=gone,
        line=(row + 0.5) / height,
        aspect=moved[0].shape[1] / len(moved[0]),
    )


def draw_legends() -> dict[str, str]:
    """The colour wheel of flow, and the colours from 0 to the largest value."""
    ramp = draw.heat_map(np.linspace(0, 1, 160, dtype=np.float32)[None].repeat(10, axis=0), 1.0)
    wheel = draw.draw_color_wheel(112)
    inside = np.dstack([wheel, 255 * wheel.any(axis=2).astype(np.uint8)])
    return dict(wheel=webp_uri(inside), ramp=webp_uri(ramp))


def fit_to_width(image: _Picture, width: int = _MAX_WIDTH_PX) -> _Picture:
    """The picture, no wider than it is shown."""
    if image.shape[1] <= width:
        return image
    return cv2.resize(
        image,
        (width, max(1, round(width * len(image) / image.shape[1]))),
        interpolation=cv2.INTER_AREA,
    )


def webp_uri(image: UInt8[np.ndarray, "height width channels"]) -> str:
    """As a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "webp", quality=84, method=4)
    return _data_uri("image/webp", buffer.getvalue())


def mp4_uri(frames: Sequence[_Picture], fps: float) -> str:
    """As a data URI of an H.264 video."""
    data = b""
    for crf in _CRF_LADDER:
        data = encode_h264(
            time_frames(map(pad_to_even, frames), fps),
            rate=Fraction(fps).limit_denominator(1001),
            options=dict(crf=str(crf), preset="fast"),
        )
        if len(data) <= MAX_VIDEO_BYTES:
            break
    return _data_uri("video/mp4", data)


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
