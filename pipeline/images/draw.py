"""Draws arrays as pictures, for the preview of a sample and for the report.

Displacements and amplitudes are in pixels, images are 8-bit RGB. Nothing here reads or writes a
file.
"""

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

import cv2
import numpy as np
from jaxtyping import Float, Float16, Float32, UInt8
from PIL import Image, ImageDraw, ImageFont

from pipeline.flow.consistency import pixel_grid
from pipeline.motion.spectrum import modulus

Picture = UInt8[np.ndarray, "height width 3"]
_AnyPicture = UInt8[np.ndarray, "rows columns 3"]

_HUE_STEPS = (("ry", 15), ("yg", 6), ("gc", 4), ("cb", 11), ("bm", 13), ("mr", 6))
"""The color wheel of Baker et al. (IJCV 2011): numbers of steps from red to yellow, to green, to
cyan, to blue, to magenta, and back to red.
"""
_PRIMARIES = {
    "r": (1, 0, 0),
    "y": (1, 1, 0),
    "g": (0, 1, 0),
    "c": (0, 1, 1),
    "b": (0, 0, 1),
    "m": (1, 0, 1),
}
_OUTLIER_SHARE = 0.005
"""Share of the values that may lie beyond the limit of a scale."""
_MAX_INVERSION_STEPS = 20
"""Steps of the fixed-point iteration, each of which multiplies the error by at most the gradient of
the flow.
"""
_CONVERGED_PX = 0.005
"""The iteration ends with a step that moves no pixel further than this."""
BACKGROUND_COLOR, _TEXT_COLOR = (24, 26, 30), (225, 228, 232)
"""Colors of the background and of text."""
_FONT_SIZE_PX, _LINE_HEIGHT_PX, GAP_PX = 12, 16, 6
"""Height of the font and of a line of text, and the space between pictures, pixels."""


def flow_colors(flow: Float[np.ndarray, "2 height width"], largest: float) -> Picture:
    """Flow in the colors of the usual wheel: the hue is the direction (right red, down yellow, left
    cyan, up violet), white is rest, and a displacement of `largest` pixels or more has the full
    color. Raises ValueError unless `largest` is over 0.
    """
    _check_largest(largest)
    x, y = flow.astype(np.float32)
    wheel = _wheel_hues()
    place = (np.arctan2(-y, -x) / np.pi + 1) / 2 * (len(wheel) - 1)
    before = place.astype(int)
    share = (place - before)[..., None]
    hue = (1 - share) * wheel[before] + share * wheel[(before + 1) % len(wheel)]
    strength = np.minimum(modulus(x, y) / np.float32(largest), 1)[..., None]
    return np.rint(255 * (1 - strength * (1 - hue))).astype(np.uint8)


@cache
def _wheel_hues() -> Float32[np.ndarray, "hues 3"]:
    """The full colors of the wheel, 0 to 1, beginning with red."""
    steps = [
        (_PRIMARIES[a], _PRIMARIES[b], i / count)
        for (a, b), count in _HUE_STEPS
        for i in range(count)
    ]
    return np.array(
        [(1 - share) * np.array(a) + share * np.array(b) for a, b, share in steps], np.float32
    )


def draw_color_wheel(size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The legend of `flow_colors`: a disc each point of which has the color of the displacement
    from the center to it, the longest at the rim; black outside.
    """
    axis = (np.arange(size, dtype=np.float32) * 2 + 1) / size - 1
    flow = np.stack(np.meshgrid(axis, axis))
    inside = np.clip((1 - np.hypot(*flow)) * size / 2 + 0.5, 0, 1)[..., None]
    return np.rint(flow_colors(flow, 1.0) * inside).astype(np.uint8)


def heat_map(values: Float[np.ndarray, "height width"], largest: float) -> Picture:
    """Values from 0 (black) to `largest` and more (pale yellow) in a perceptually uniform map.

    Raises ValueError unless `largest` is over 0.
    """
    return cv2.cvtColor(
        cv2.applyColorMap(_to_levels(values, largest), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB
    )


def gray_map(values: Float[np.ndarray, "height width"], largest: float) -> Picture:
    """Values from 0 (black) to `largest` and more (white). Raises ValueError unless `largest` is
    over 0.
    """
    return cv2.cvtColor(_to_levels(values, largest), cv2.COLOR_GRAY2RGB)


def _to_levels(
    values: Float[np.ndarray, "height width"], largest: float
) -> UInt8[np.ndarray, "height width"]:
    """Levels from 0 at 0 and below to 255 at `largest` and above."""
    _check_largest(largest)
    return np.rint(255 * np.clip(values.astype(np.float32) / np.float32(largest), 0, 1)).astype(
        np.uint8
    )


def _check_largest(largest: float) -> None:
    if not 0 < largest < np.inf:
        raise ValueError(f"the scale ends at {largest:g}, expected a number over 0")


def scale_limit(values: Float[np.ndarray, "*shape"]) -> float:
    """The limit of a scale from 0: the least number of two digits that all but _OUTLIER_SHARE of
    the values do not exceed, but at least 0.01, so that tiny motion looks tiny.
    """
    value = max(float(np.quantile(values, 1 - _OUTLIER_SHARE)), 0.01)
    digit = 10.0 ** (np.floor(np.log10(value)) - 1)
    return float(f"{np.ceil(value / digit - 1e-6) * digit:.2g}")


def amplitudes(
    spectrum: Float16[np.ndarray, "freq 4 height width"], time: int
) -> Float32[np.ndarray, "freq height width"]:
    """Amplitude in pixels of the oscillation at each frequency, from raw coefficients re x, im x,
    re y, im y (docs/maths.md, 2).

    A_k = 2/T sqrt(|S_k,x|^2 + |S_k,y|^2): along a line, x(t) = A cos(2 pi k t / T + phi); on an
    ellipse with half-axes a and b, sqrt(a^2 + b^2). A_0 = |S_0| / T is the length of the mean
    displacement; k = T/2 has 1/T too.
    """
    rows = spectrum.reshape(-1, spectrum.shape[-1])
    parts = cv2.add(rows, 0.0, dtype=cv2.CV_32F).reshape(spectrum.shape)  # pyright: ignore
    result = []
    for k, (re_x, im_x, re_y, im_y) in enumerate(parts):
        coefficients = 1 if k == 0 or 2 * k == time else 2
        length = modulus(modulus(re_x, im_x), modulus(re_y, im_y))
        result.append(np.float32(coefficients / time) * length)
    return np.stack(result)


def busiest_row(motion: Float[np.ndarray, "time 2 height width"]) -> int:
    """The row whose pixels sway most from side to side: with the largest variance of x over time,
    averaged along the row.
    """
    return int(motion[:, 0].var(axis=0).mean(axis=1).argmax())


def most_moving_row(weight: Float[np.ndarray, "height width"], rows: int) -> int:
    """The row of a picture of `rows` rows whose pixels move furthest on average, by the mean
    displacement `weight` at another size.
    """
    return int((weight.mean(axis=1).argmax() + 0.5) / len(weight) * rows)


def slice_xt(frames: Iterable[Picture], row: int) -> UInt8[np.ndarray, "time width 3"]:
    """An X-t slice: one row of every frame, time downwards. Raises ValueError if there is no such
    row or no frame.
    """
    lines = []
    for frame in frames:
        if not 0 <= row < len(frame):
            raise ValueError(f"row is {row}, expected 0 to {len(frame) - 1}")
        lines.append(frame[row].copy())  # a view would keep the frame
    if not lines:
        raise ValueError("there are 0 frames, expected at least 1")
    return np.stack(lines)


def warp(image: Picture, flow: Float32[np.ndarray, "2 height width"]) -> Picture:
    """The start frame moved by F: I_t(x) = I_0(x - u(x)) with u = invert_flow(F).

    At the edges of what moves, where F folds over, contents stretch and shrink: F does not say what
    covers what, or what was behind. Beyond the picture its edge is repeated.
    """
    x, y = pixel_grid(*image.shape[:2])
    u = invert_flow(flow)
    return cv2.remap(image, x - u[0], y - u[1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def invert_flow(
    flow: Float32[np.ndarray, "2 height width"],
) -> Float32[np.ndarray, "2 height width"]:
    """u with u(x) = F(x - u(x)): the displacement of what is at x after the motion, while F is that
    of what is at x before.

    It is found by fixed-point iteration, which converges where the gradient of F is under 1.
    """
    x, y = pixel_grid(*flow.shape[1:])
    forward = u = cv2.merge(list(flow))
    for _ in range(_MAX_INVERSION_STEPS):
        last = u
        map_x, map_y = x - u[..., 0], y - u[..., 1]
        u = cv2.remap(forward, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        if cv2.norm(u, last, cv2.NORM_INF) < _CONVERGED_PX:
            break
    return np.stack(cv2.split(u))


def enlarge(image: Picture, width: int) -> _AnyPicture:
    """The picture, enlarged by the least whole factor that makes it at least `width` wide."""
    factor = max(1, -(-width // image.shape[1]))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def stack_horizontally(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], captions: Sequence[str]
) -> Picture:
    """Pictures from left to right, each under its caption, which is wrapped to the picture's width.

    Raises ValueError unless each picture has a caption.
    """
    if len(images) != len(captions) or not images:
        raise ValueError(
            f"there are {len(images)} pictures and {len(captions)} captions, expected one for each"
        )
    texts = [
        _draw_text(caption, image.shape[1]) for image, caption in zip(images, captions, strict=True)
    ]
    text_height, image_height = max(map(len, texts)), max(map(len, images))
    columns = [
        np.vstack(
            [
                pad_to_size(text, text_height, text.shape[1]),
                pad_to_size(image, image_height, image.shape[1]),
            ]
        )
        for image, text in zip(images, texts, strict=True)
    ]
    gap = pad_to_size(columns[0][:0, :0], text_height + image_height, GAP_PX)
    row = np.hstack([part for column in columns for part in (gap, column)] + [gap])
    return pad_to_size(row, len(row) + GAP_PX, row.shape[1])


def stack_vertically(images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Picture:
    """Pictures from top to bottom, aligned at the left."""
    width = max(image.shape[1] for image in images)
    return np.vstack([pad_to_size(image, len(image), width) for image in images])


def pad_to_size(image: _AnyPicture, height: int, width: int) -> Picture:
    """The picture in the upper left corner of a background of that size."""
    padded = np.full((height, width, 3), BACKGROUND_COLOR, np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


def draw_inset(image: Picture, small: _AnyPicture) -> Picture:
    """The picture with a small one, whose black is transparent, over its lower right corner."""
    result, (height, width) = image.copy(), small.shape[:2]
    corner = result[-height:, -width:]
    corner[:] = np.where(small.any(axis=2, keepdims=True), small, corner)
    return result


@lru_cache(64)
def _draw_text(text: str, width: int) -> Picture:
    """Text on a strip of that width, as high as its lines need."""
    font = ImageFont.load_default(_FONT_SIZE_PX)
    lines = wrap_text(text, width)
    strip = Image.new("RGB", (width, _LINE_HEIGHT_PX * len(lines)), BACKGROUND_COLOR)
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        draw.text((0, _LINE_HEIGHT_PX * number), line, _TEXT_COLOR, font)
    return np.asarray(strip)


def wrap_text(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` pixels; a wider word has a line of its own."""
    font, lines = ImageFont.load_default(_FONT_SIZE_PX), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def draw_notice(text: str, height: int, width: int) -> Picture:
    """A panel with a text that says why there is no picture."""
    words = _draw_text(text, max(1, width - 2 * GAP_PX))[:height]
    panel = pad_to_size(words[:0, :0], height, width)
    top = (height - len(words)) // 2
    panel[top : top + len(words), GAP_PX : GAP_PX + words.shape[1]] = words[:, : width - GAP_PX]
    return panel
