"""A photograph that moves without a network: its colours are splatted by the motion, and what is
laid bare is filled from around.

Motion is known at the working size. `build_sampling_grid` says for each pixel of the photograph
where in it its motion is read: among the four pixels around its own place, drawn to those of like
colour, so that the edge of what moves stays the edge in the photograph. Frames are made one at a
time.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from math import ceil
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8

from model.motion.series import MotionSeries
from model.render.splatting import splat, splat_lost_detail
from model.render.splatting_cpu import load_kernel, splat_photo

_COLOR_SIGMA = 25.0
"""Grey levels by which colours differ that are hardly alike any more."""
_MIN_COLOR_WEIGHT = 1e-3
"""Of a neighbour of quite another colour: where all are, nearness alone decides."""
_STRIP_ROWS = 128
"""Rows that are placed at once."""
MARGIN = 0.25
"""Share of the picture's longer side, at most, by which it is continued beyond its borders before
it is moved.
"""

_RESTORED_DETAIL_SHARE = 0.75
"""Share of what splatting by fractions of pixels smooths away (docs/maths.md, 29)."""
_MAX_METRIC_RANGE = 60.0
"""Of a metric: exp(-60) times the least share of a pixel is still an ordinary float32."""
THREADS = 2
"""Make frames; whoever encodes them takes longer than one of them."""

_Picture = UInt8[np.ndarray, "rows columns 3"]
_Colors = Float32[np.ndarray, "rows columns 3"]
_Holes = Bool[np.ndarray, "rows columns"]
_RenderFrame = Callable[[np.ndarray, np.ndarray], _Picture]
"""A frame of displacements [2, rows, columns] in pixels of the photograph, and W [rows, columns].
"""


class _SamplingGrid(NamedTuple):
    """Where in the working picture each pixel's motion is read."""

    x: Float32[np.ndarray, "rows columns"]
    y: Float32[np.ndarray, "rows columns"]
    scale: tuple[float, float]
    """Pixels of the photograph in one of the working picture, across and down."""

    def sample(
        self, values: Float32[np.ndarray, "height width"]
    ) -> Float32[np.ndarray, "rows columns"]:
        """The values at the working size for each pixel of the photograph."""
        return cv2.remap(values, self.x, self.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def build_sampling_grid(photo: _Picture, size: tuple[int, int]) -> _SamplingGrid:
    """For motion of the whole photograph at the working `size` (width, height), each at
    least 2 and no larger than the photograph (docs/maths.md, 27).
    """
    small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    rows, columns = photo.shape[:2]
    across, down = (
        (np.arange(many, dtype=np.float32) + 0.5) * few / many - 0.5
        for many, few in ((columns, size[0]), (rows, size[1]))
    )
    strips = [
        _compute_strip_grid(
            photo[i : i + _STRIP_ROWS].astype(np.float32), small, across, down[i : i + _STRIP_ROWS]
        )
        for i in range(0, rows, _STRIP_ROWS)
    ]
    x, y = (np.concatenate(parts) for parts in zip(*strips, strict=True))
    return _SamplingGrid(x, y, (columns / size[0], rows / size[1]))


def _compute_strip_grid(strip: Any, small: Any, across: Any, down: Any) -> tuple[Any, Any]:
    """The centre of gravity of the four working pixels around each place, weighted by nearness and
    likeness.
    """
    left, top = (
        np.clip(np.floor(at), 0, most - 2).astype(int)
        for at, most in ((across, small.shape[1]), (down, small.shape[0]))
    )
    right, below = np.clip(across - left, 0, 1), np.clip(down - top, 0, 1)[:, None]
    total, x, y = (np.zeros(strip.shape[:2], np.float32) for _ in range(3))
    for column, u in ((left, 1 - right), (left + 1, right)):
        for row, v in ((top, 1 - below), (top + 1, below)):
            unlike = np.square(strip - small[np.ix_(row, column)]).sum(axis=2)
            weight = u * v * (np.exp(unlike / (-2 * _COLOR_SIGMA**2)) + _MIN_COLOR_WEIGHT)
            total, x, y = total + weight, x + weight * column, y + weight * row[:, None]
    return (x / total).astype(np.float32), (y / total).astype(np.float32)


def animate_frames(
    photo: _Picture,
    series: MotionSeries,
    weight: Float32[np.ndarray, "height width"],
    times: Iterable[float],
    moving: Float32[np.ndarray, "rows columns"] | None = None,
    paint: _RenderFrame | None = None,
    threads: int = THREADS,
) -> Generator[_Picture]:
    """The photograph by the motion at each time, by `warp_frame` or another `paint`; `warp_frame`
    leaves what is still as it is to the last bit.

    `series` and W, the `weight` (pixels), are of the whole photograph at the working size; where W
    is larger is in front. Motion is multiplied by `moving`, 0 to 1. The frames are the same for any
    number of threads; another `paint` has one, since its memory may be large.
    """
    height, width = weight.shape
    place = build_sampling_grid(photo, (width, height))
    share = np.float32(1) if moving is None else moving
    metric = place.sample(weight) * share

    def frame(time: float) -> _Picture:
        motion = zip(series.at(time), place.scale, strict=True)
        return (paint or partial(warp_frame, photo))(
            np.stack([place.sample(part) * (np.float32(scale) * share) for part, scale in motion]),
            metric,
        )

    return map_in_order(frame, times, threads if paint is None else 1)


def map_in_order(
    make: Callable[[float], _Picture], times: Iterable[float], threads: int
) -> Generator[_Picture]:
    """What is made of each, made by threads ahead of whoever takes them: at most one more than
    there are threads is held.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque[Future[_Picture]]()
        try:
            for time in times:
                waiting.append(pool.submit(make, time))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # whoever takes them may stop early
            pool.shutdown(cancel_futures=True)


def warp_frame(
    photo: _Picture,
    flow: Float32[np.ndarray, "2 rows columns"],
    metric: Float32[np.ndarray, "rows columns"],
) -> _Picture:
    """Softmax splatting of the colours, by displacements in pixels of the photograph, nearly as
    sharp as they were (docs/maths.md, 29).
    """
    margin = min(ceil(float(np.abs(flow).max())), int(MARGIN * max(photo.shape)))
    # by what is farthest in front, not by what comes to each pixel: one exponential of each, where
    # none vanishes beside another
    fits = metric.max() - metric.min() <= _MAX_METRIC_RANGE
    picture, holes = (
        splat_fused(photo, flow, np.exp(metric - metric.max()), margin)
        if fits and load_kernel()
        else splat_padded(photo, flow, metric, margin)
    )
    return cv2.convertScaleAbs(fill_holes(np.clip(picture, 0, 255, out=picture), holes))


def splat_fused(photo: _Picture, flow: Any, front: Any, margin: int) -> tuple[_Colors, _Holes]:
    """Splatted by the kernel, without a copy of the colours."""
    colours, motion, shares = (
        torch.from_numpy(np.require(part, requirements=["C", "W"])) for part in (photo, flow, front)
    )
    out, holes = splat_photo(colours, motion, shares, margin, _RESTORED_DETAIL_SHARE)
    return out.numpy(), holes.numpy()


def splat_padded(photo: _Picture, flow: Any, metric: Any, margin: int) -> tuple[_Colors, _Holes]:
    """The same for any metric and without the kernel, of a photograph that is continued in memory."""
    sides = ((margin, margin), (margin, margin))
    colours = (
        np.pad(photo, (*sides, (0, 0)), mode="symmetric").transpose(2, 0, 1).astype(np.float32)
    )  # stripes of the last column would be seen
    flow, metric = np.pad(flow, ((0, 0), *sides), mode="edge"), np.pad(metric, sides, mode="edge")
    inside = np.s_[margin : margin + photo.shape[0], margin : margin + photo.shape[1]]
    with torch.no_grad():
        image, motion, front = (
            torch.from_numpy(one)[None] for one in (colours, flow, metric[None])
        )
        found, shown = splat(image, motion, "softmax", front), torch.zeros_like(front)
        shown[..., *inside] = 1
        picture = found.features + _RESTORED_DETAIL_SHARE * splat_lost_detail(
            image, found.features, motion, front, shown
        )
    return np.ascontiguousarray(picture[0].permute(1, 2, 0).numpy()[inside]), found.holes[
        0, 0
    ].numpy()[inside]


def fill_holes(picture: _Colors, holes: _Holes) -> _Colors:
    """Holes, which are 0, get the mean colour of what is around them, from ever coarser pictures
    (docs/maths.md, 28); all hole stays as it is.
    """
    if not holes.any() or holes.all():
        return picture
    known = (~holes).view(np.uint8)
    half = tuple(max(1, (n + 1) // 2) for n in holes.shape[::-1])
    total, share = (
        cv2.resize(part, half, interpolation=cv2.INTER_AREA)
        for part in (picture, known.astype(np.float32))
    )
    coarse = fill_holes(total / np.maximum(share, 1e-6)[..., None], share == 0)
    return cv2.copyTo(
        picture, known, cv2.resize(coarse, holes.shape[::-1], interpolation=cv2.INTER_LINEAR)
    )
