"""Samples as pictures: a card for each chosen window, with its motion beside the real frames."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Float64, UInt8

from pipeline.dataset.open import DatasetView
from pipeline.dataset.shards import read_sample
from pipeline.images import draw
from pipeline.images.film import encode_h264, pad_to_even, time_frames
from pipeline.preview.reconstruct import Reconstruction, read_settings, reconstruct_sample
from pipeline.report import queries
from pipeline.report.layout import data_uri, fit_to_width, webp_uri
from schemas.outcome import Quarantined
from schemas.records import ManifestRow

_RANDOM_SAMPLES = 6
_SMALL_WIDTH_PX = 128
"""Largest width of pictures that share a column."""
_GAP_PX = 16
"""Columns between real frames and reconstruction: those of the page's grid, which covers them."""
_CRF_LADDER = (20, 24, 28, 34, 42, 51)
"""Values of x264's CRF that are tried until a video has at most MAX_VIDEO_BYTES."""
MAX_VIDEO_BYTES = 500_000
"""Keeps the page under 15 MB."""
_WHEEL_PX = 40
_EXTREMES = (
    ("mean_motion_px", -1, "most motion"),
    ("mean_motion_px", 1, "least motion"),
    ("drift_px", -1, "most drift"),
    ("inconsistent_share", -1, "least consistent flow"),
)
"""A measure, whether its largest (-1) or its least value (1) is shown, and the label of the window
that has it.
"""

_Picture = UInt8[np.ndarray, "_ _ 3"]


def choose_windows(
    kept: pa.Table, averaged: pa.Table, error: Float64[np.ndarray, " windows"]
) -> list[dict[str, Any]]:
    """Rows of the windows to show, each with `why`, the list of reasons: some windows drawn at
    random, of different clips as long as there are any, then the extreme ones.

    `error` has the truncation error of each of the `averaged` windows.
    """
    reasons = [(row, "at random") for row in queries.draw_varied_windows(kept, _RANDOM_SAMPLES)]
    for measure, sign, label in _EXTREMES:
        index = int(np.nanargmin(sign * queries.read_numbers(kept, measure)))
        reasons.append((kept.slice(index, 1).to_pylist()[0], label))
    largest = averaged.slice(int(error.argmax()), 1).to_pylist()[0]
    reasons.append((largest, "largest error at this K"))
    windows: dict[tuple[int, str], dict] = {}
    for row, label in reasons:
        windows.setdefault((row["set"], row["key"]), row | dict(why=[]))["why"].append(label)
    return list(windows.values())


def build_cards(
    selections: Sequence[DatasetView], rows: Sequence[dict], hz: Sequence[float]
) -> list[dict[str, Any]]:
    """A card for each chosen row, with the amplitudes of the frequencies `hz`."""
    return [
        _build_card(selections[row["set"]], row, hz)
        for row in queries.read_full_rows(selections, rows)
    ]


def _build_card(selection: DatasetView, row: dict[str, Any], hz: Sequence[float]) -> dict[str, Any]:
    """The pictures of one window; if its sample cannot be read, `gone` says why."""
    try:
        sample = read_sample(selection.dataset.tar_path(row["shard"]), row["key"], row)
        reconstruction = reconstruct_sample(
            ManifestRow.load(row), sample, read_settings(selection.dataset)
        )
    except (OSError, ValueError) as error:
        return dict(row=row, gone=str(error))
    return (
        dict(row=row, gone=None)
        | _draw_still_pictures(reconstruction, hz)
        | _draw_moving_pictures(reconstruction)
    )


def _draw_still_pictures(reconstruction: Reconstruction, hz: Sequence[float]) -> dict[str, Any]:
    """Start frame, flow at the moment of largest motion, mean magnitude, confidence, amplitudes."""
    sample, motion = reconstruction.sample, reconstruction.motion
    fps, frames = reconstruction.settings.plan.fps, reconstruction.settings.plan.frames
    lengths = np.hypot(motion[:, 0], motion[:, 1])
    moment = int(lengths.mean(axis=(1, 2)).argmax())
    full = draw.scale_limit(lengths[moment])
    most = draw.scale_limit(sample.weight.astype(np.float32))
    flow = fit_to_width(draw.flow_colors(motion[moment], full))
    amplitudes = draw.amplitudes(sample.spectrum, frames)
    bands = [round(frequency * frames / fps) for frequency in hz]
    return dict(
        image=webp_uri(fit_to_width(sample.image)),
        flow=webp_uri(draw.draw_inset(flow, draw.draw_color_wheel(min(_WHEEL_PX, len(flow) // 4)))),
        full=full,
        moment=moment / fps,
        weight=webp_uri(fit_to_width(draw.heat_map(sample.weight, most))),
        most=most,
        confidence=webp_uri(fit_to_width(draw.gray_map(sample.confidence / 255, 1.0))),
        bands=[_draw_amplitudes(amplitudes[k], k * fps / frames) for k in bands],
    )


def _draw_amplitudes(amplitude: Float32[np.ndarray, "height width"], hz: float) -> dict[str, Any]:
    """The amplitudes of one frequency, small."""
    most = draw.scale_limit(amplitude)
    picture = webp_uri(fit_to_width(draw.heat_map(amplitude, most), _SMALL_WIDTH_PX))
    return dict(hz=hz, most=most, picture=picture)


def _draw_moving_pictures(reconstruction: Reconstruction) -> dict[str, Any]:
    """The video of real frames and reconstruction, and their X-t slices; if the real frames cannot
    be decoded, `no_real` says why.
    """
    height = len(reconstruction.sample.image)
    margin = height // 10  # what comes in at the edge is not sway
    reconstructed = [fit_to_width(frame) for frame in reconstruction.frames()]
    row = margin + draw.busiest_row(reconstruction.motion[:, :, margin : height - margin])
    slice_row = min(row * len(reconstructed[0]) // height, len(reconstructed[0]) - 1)
    try:
        real = [fit_to_width(frame) for frame in reconstruction.real_frames()]
        no_real = None
    except Quarantined as error:
        real, no_real = [], error.detail
    video = reconstructed
    if real:
        gap = np.zeros((len(reconstructed[0]), _GAP_PX, 3), np.uint8)
        video = [
            np.hstack([left, gap, right]) for left, right in zip(real, reconstructed, strict=True)
        ]
    fps = reconstruction.settings.plan.fps
    return dict(
        video=mp4_uri(video, fps),
        poster=webp_uri(video[0]),
        slices=[
            webp_uri(draw.slice_xt(frames, slice_row)) for frames in (real, reconstructed) if frames
        ],
        no_real=no_real,
        line=(row + 0.5) / height,
        aspect=reconstructed[0].shape[1] / len(reconstructed[0]),
    )


def draw_strip(selection: DatasetView, row: dict[str, Any]) -> str:
    """Up to three true frames of a stored sample, side by side, as a data URI; "" if the sample
    cannot be read.
    """
    try:
        sample = read_sample(selection.dataset.tar_path(row["shard"]), row["key"], row)
    except (OSError, ValueError):
        return ""
    later = sample.pair_image[len(sample.pair_image) // 2 :]
    if not len(later):
        return webp_uri(fit_to_width(sample.image))
    images = (sample.image, *later[[0, -1]])
    return webp_uri(np.hstack([fit_to_width(image, _SMALL_WIDTH_PX) for image in images]))


def draw_legends() -> dict[str, str]:
    """The color wheel of flow, and the ramps of both maps from 0 to their limit."""
    ramp = draw.heat_map(np.linspace(0, 1, 160, dtype=np.float32)[None].repeat(10, axis=0), 1.0)
    wheel = draw.draw_color_wheel(112)
    transparent = np.dstack([wheel, 255 * wheel.any(axis=2).astype(np.uint8)])
    gray = draw.gray_map(np.linspace(0, 1, 160, dtype=np.float32)[None].repeat(10, axis=0), 1.0)
    return dict(wheel=webp_uri(transparent), ramp=webp_uri(ramp), gray=webp_uri(gray))


def mp4_uri(frames: Sequence[_Picture], fps: float) -> str:
    """The frames as a data URI of an H.264 video of at most MAX_VIDEO_BYTES, if any CRF of the
    ladder makes it so small.
    """
    data = b""
    for crf in _CRF_LADDER:
        data = encode_h264(
            time_frames(map(pad_to_even, frames), fps),
            rate=Fraction(fps).limit_denominator(1001),
            options=dict(crf=str(crf), preset="fast"),
        )
        if len(data) <= MAX_VIDEO_BYTES:
            break
    return data_uri("video/mp4", data)
