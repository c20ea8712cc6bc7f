"""Animates a photograph without a network: splats its colors along the motion and fills the holes
from their surroundings.

The motion has the working size, which is smaller than the photograph. `build_sampling_grid` says
for each pixel of the photograph where in the motion it is read: among the four working pixels
around it, nearer to those of a similar color, so that an edge of the motion stays on the edge in
the photograph. Frames are made one at a time.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from math import ceil
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8

from model.motion.series import MotionSeries
from model.render.splatting import splat, splat_lost_detail
from model.render.splatting_cpu import load_kernel, splat_photo

_COLOR_SIGMA = 25.0
"""Distance of two colors, gray levels, at which they count as dissimilar."""
_MIN_COLOR_WEIGHT = 1e-3
"""Weight of a neighbor of an entirely different color: if all are, nearness alone decides."""
_STRIP_ROWS = 128
"""Rows of the photograph whose sampling grid is computed at once."""
MARGIN = 0.25
"""The photograph is continued beyond its borders by at most this share of its longer side."""
_RESTORED_DETAIL_SHARE = 0.75
"""Share of the detail lost to splatting by fractions of a pixel that is given back
(docs/design/maths.md, 29).
"""
_MAX_METRIC_RANGE = 60.0
"""Largest range of a metric for which exp(metric - max) times the smallest share of a pixel is a
normal float32.
"""
THREADS = 2
"""Threads that make frames; encoding a frame takes longer than a thread needs to make it."""

_Picture = UInt8[np.ndarray, "rows columns 3"]
_Colors = Float32[np.ndarray, "rows columns 3"]
_Holes = Bool[np.ndarray, "rows columns"]
_RenderFrame = Callable[[np.ndarray, np.ndarray], _Picture]
"""Makes a frame of displacements [2, rows, columns], pixels of the photograph, and W."""


class _SamplingGrid(NamedTuple):
    """Where in the motion of the working size each pixel of the photograph reads its own."""

    x: Float32[np.ndarray, "rows columns"]
    y: Float32[np.ndarray, "rows columns"]
    scale: tuple[float, float]
    """Pixels of the photograph per working pixel, across and down."""

    def sample(
        self, values: Float32[np.ndarray, "height width"]
    ) -> Float32[np.ndarray, "rows columns"]:
        """Values at the working size, resampled for each pixel of the photograph."""
        return cv2.remap(values, self.x, self.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def build_sampling_grid(photo: _Picture, size: tuple[int, int]) -> _SamplingGrid:
    """The sampling grid for motion of the whole photograph at the working `size` (width, height),
    both at least 2 and at most those of the photograph (docs/design/maths.md, 27).
    """
    small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    rows, columns = photo.shape[:2]
    across, down = (
        (np.arange(pixels, dtype=np.float32) + 0.5) * working / pixels - 0.5
        for pixels, working in ((columns, size[0]), (rows, size[1]))
    )
    strips = [
        _compute_strip_grid(
            photo[i : i + _STRIP_ROWS].astype(np.float32), small, across, down[i : i + _STRIP_ROWS]
        )
        for i in range(0, rows, _STRIP_ROWS)
    ]
    x, y = (np.concatenate(parts) for parts in zip(*strips, strict=True))
    return _SamplingGrid(x, y, (columns / size[0], rows / size[1]))


def _compute_strip_grid(
    strip: _Colors,
    small: Float32[np.ndarray, "height width 3"],
    across: Float32[np.ndarray, " columns"],
    down: Float32[np.ndarray, " rows"],
) -> tuple[Float32[np.ndarray, "rows columns"], Float32[np.ndarray, "rows columns"]]:
    """x and y in the working picture for some rows of the photograph: the center of gravity of the
    four working pixels around each place, weighted by nearness and similarity of color.
    """
    left, top = (
        np.clip(np.floor(at), 0, size - 2).astype(int)
        for at, size in ((across, small.shape[1]), (down, small.shape[0]))
    )
    right, below = np.clip(across - left, 0, 1), np.clip(down - top, 0, 1)[:, None]
    total, x, y = (np.zeros(strip.shape[:2], np.float32) for _ in range(3))
    for column, u in ((left, 1 - right), (left + 1, right)):
        for row, v in ((top, 1 - below), (top + 1, below)):
            difference = np.square(strip - small[np.ix_(row, column)]).sum(axis=2)
            weight = u * v * (np.exp(difference / (-2 * _COLOR_SIGMA**2)) + _MIN_COLOR_WEIGHT)
            total, x, y = total + weight, x + weight * column, y + weight * row[:, None]
    return (x / total).astype(np.float32), (y / total).astype(np.float32)


def animate_frames(
    photo: _Picture,
    series: MotionSeries,
    weight: Float32[np.ndarray, "height width"],
    times: Iterable[float],
    mask: Float32[np.ndarray, "rows columns"] | None = None,
    render_frame: _RenderFrame | None = None,
    threads: int = THREADS,
) -> Generator[_Picture]:
    """The frames of the photograph at each time of the motion, made by `render_frame`, or else by
    `warp_frame`, which leaves pixels without motion as they are to the last bit.

    `series` and W, the `weight` (pixels), cover the whole photograph at the working size; pixels of
    larger W are in front. The motion is multiplied by `mask`, 0 to 1. The frames do not depend on
    the number of threads; a `render_frame` runs in one, since its memory may be large.
    """
    height, width = weight.shape
    grid = build_sampling_grid(photo, (width, height))
    share = np.float32(1) if mask is None else mask
    metric = grid.sample(weight) * share
    render = render_frame or partial(warp_frame, photo)

    def frame_at(time: float) -> _Picture:
        components = zip(series.at(time), grid.scale, strict=True)
        flow = [grid.sample(part) * (np.float32(scale) * share) for part, scale in components]
        return render(np.stack(flow), metric)

    return map_in_order(frame_at, times, threads if render_frame is None else 1)


def map_in_order(
    make: Callable[[float], _Picture], times: Iterable[float], threads: int
) -> Generator[_Picture]:
    """make(time) for each time, in order. Threads compute ahead of the consumer; at most one result
    more than there are threads is held in memory.
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
        finally:  # the consumer may stop early
            pool.shutdown(cancel_futures=True)


def warp_frame(
    photo: _Picture,
    flow: Float32[np.ndarray, "2 rows columns"],
    metric: Float32[np.ndarray, "rows columns"],
) -> _Picture:
    """The photograph, softmax-splatted along `flow`, in pixels of the photograph, with the holes
    filled. It stays nearly as sharp as it was (docs/design/maths.md, 29).
    """
    margin = min(ceil(float(np.abs(flow).max())), int(MARGIN * max(photo.shape)))
    # The kernel takes one exponential per pixel, relative to the largest metric of the picture
    # instead of the largest at each target. That is exact unless the range makes some vanish.
    fits = metric.max() - metric.min() <= _MAX_METRIC_RANGE
    picture, holes = (
        splat_fused(photo, flow, np.exp(metric - metric.max()), margin)
        if fits and load_kernel()
        else splat_padded(photo, flow, metric, margin)
    )
    return cv2.convertScaleAbs(fill_holes(np.clip(picture, 0, 255, out=picture), holes))


def splat_fused(
    photo: _Picture,
    flow: Float32[np.ndarray, "2 rows columns"],
    front: Float32[np.ndarray, "rows columns"],
    margin: int,
) -> tuple[_Colors, _Holes]:
    """The splatted colors and the holes, by the compiled kernel, without a padded copy of the
    photograph. `front` is exp(metric) up to a factor.
    """
    colors, motion, weights = (
        torch.from_numpy(np.require(part, requirements=["C", "W"])) for part in (photo, flow, front)
    )
    out, holes = splat_photo(colors, motion, weights, margin, _RESTORED_DETAIL_SHARE)
    return out.numpy(), holes.numpy()


def splat_padded(
    photo: _Picture,
    flow: Float32[np.ndarray, "2 rows columns"],
    metric: Float32[np.ndarray, "rows columns"],
    margin: int,
) -> tuple[_Colors, _Holes]:
    """What `splat_fused` computes, for any metric and without the kernel: from a padded copy of the
    photograph.
    """
    sides = ((margin, margin), (margin, margin))
    # The colors are mirrored: repeating the last column would leave visible stripes.
    padded = np.pad(photo, (*sides, (0, 0)), mode="symmetric")
    colors = padded.transpose(2, 0, 1).astype(np.float32)
    flow, metric = np.pad(flow, ((0, 0), *sides), mode="edge"), np.pad(metric, sides, mode="edge")
    inside = np.s_[margin : margin + photo.shape[0], margin : margin + photo.shape[1]]
    with torch.no_grad():
        image, motion, front = (
            torch.from_numpy(array)[None] for array in (colors, flow, metric[None])
        )
        splatted, visible = splat(image, motion, "softmax", front), torch.zeros_like(front)
        visible[..., *inside] = 1
        lost_detail = splat_lost_detail(image, splatted.features, motion, front, visible)
        picture = splatted.features + _RESTORED_DETAIL_SHARE * lost_detail
    pixels = np.ascontiguousarray(picture[0].permute(1, 2, 0).numpy()[inside])
    return pixels, splatted.holes[0, 0].numpy()[inside]


def fill_holes(picture: _Colors, holes: _Holes) -> _Colors:
    """The picture with its holes, which are 0, filled with the mean color of their surroundings,
    from ever coarser pictures (docs/design/maths.md, 28). A picture that is all hole stays as it
    is.
    """
    if not holes.any() or holes.all():
        return picture
    valid = (~holes).view(np.uint8)
    half = tuple(max(1, (n + 1) // 2) for n in holes.shape[::-1])
    total, share = (
        cv2.resize(part, half, interpolation=cv2.INTER_AREA)
        for part in (picture, valid.astype(np.float32))
    )
    coarse = fill_holes(total / np.maximum(share, 1e-6)[..., None], share == 0)
    return cv2.copyTo(
        picture, valid, cv2.resize(coarse, holes.shape[::-1], interpolation=cv2.INTER_LINEAR)
    )
