"""Tools that paint the layers of a scene: canvases, noise, color ramps, blades and foliage."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from pipeline.synthetic.render import ASPECT, MARGIN, TEXELS_PER_WIDTH, Layer, Mode

CANVAS_ROWS, CANVAS_COLUMNS = (
    round((ASPECT + 2 * MARGIN) * TEXELS_PER_WIDTH),
    round((1 + 2 * MARGIN) * TEXELS_PER_WIDTH),
)
X, Y = (
    np.stack(np.meshgrid(np.arange(CANVAS_COLUMNS), np.arange(CANVAS_ROWS))) + 0.5
) / TEXELS_PER_WIDTH - MARGIN
"""Position of each texel of a canvas, in picture widths."""


def noise(
    rng: np.random.Generator, cells: int = 4, octaves: int = 6, fall: float = 0.75
) -> Float32[np.ndarray, "rows columns"]:
    """Cloudy noise of mean 0 and deviation 1: octaves from `cells` cells per picture width upwards,
    each with `fall` times the amplitude of the last.
    """
    total = np.zeros((CANVAS_ROWS, CANVAS_COLUMNS), np.float32)
    for octave in range(octaves):
        count = cells * 2**octave
        lattice = rng.standard_normal(
            (round(count * 0.875) + 3, round(count * 1.25) + 3), np.float32
        )
        total += fall**octave * cv2.resize(
            lattice, (CANVAS_COLUMNS, CANVAS_ROWS), interpolation=cv2.INTER_CUBIC
        )
    return (total - total.mean()) / total.std()


def color_ramp(
    value: np.ndarray, *colors: tuple[int, int, int]
) -> Float32[np.ndarray, "rows columns 3"]:
    """Colors of a ramp through `colors` at values 0 to 1."""
    stops = np.linspace(0, 1, len(colors))
    return np.stack(
        [np.interp(value, stops, channel) for channel in np.transpose(colors)], -1
    ).astype(np.float32)


def draw_blade(
    canvas: UInt8[np.ndarray, "rows columns 4"],
    root: np.ndarray,
    tip: np.ndarray,
    *,
    bow: float,
    width: float,
    color: np.ndarray,
    leaf: float = 0.0,
) -> None:
    """Draws a curved blade whose two halves are lit differently: a tapered stalk with `leaf` 0, a
    leaf that is widest in its middle with `leaf` 1.

    `bow` is the sideways bulge as a share of the length; `width` is half the width, in picture
    widths.
    """
    s = np.linspace(0, 1, 14)[:, None]
    along = tip - root
    across = np.array([-along[1], along[0]]) / (np.hypot(*along) + 1e-9)
    spine = root + s * along + 4 * s * (1 - s) * bow * np.hypot(*along) * across
    half = width * (leaf * np.sin(np.pi * s**0.8) + (1 - leaf) * (1 - s) ** 0.6) * across
    for side, light in ((half, 1.0), (-half, 0.78)):
        outline = np.concatenate([spine, (spine + side)[::-1]])
        # fillPoly takes whole numbers of 1/16 texel
        points = np.rint(((outline + MARGIN) * TEXELS_PER_WIDTH - 0.5) * 16).astype(np.int32)
        rgba = (*(float(channel) * light for channel in color), 255.0)
        cv2.fillPoly(canvas, [points], rgba, cv2.LINE_AA, shift=4)


def make_layer(color: np.ndarray, alpha: np.ndarray | float, modes: tuple[Mode, ...] = ()) -> Layer:
    """A layer of painted colors, which are not yet multiplied by their alpha, 0 to 1."""
    full_alpha = np.broadcast_to(np.asarray(alpha, np.float32), (CANVAS_ROWS, CANVAS_COLUMNS))
    levels = full_alpha[..., None] * 255
    rgba = np.concatenate([np.clip(color, 0, 255) * levels / 255, levels], axis=-1)
    return blur_layer(rgba.astype(np.float32), modes)


def blur_layer(rgba: Float32[np.ndarray, "rows columns 4"], modes: tuple[Mode, ...]) -> Layer:
    """A layer blurred by about one texel, so that the video does not alias."""
    return Layer(texture=cv2.GaussianBlur(rgba, (0, 0), 1.1), modes=modes)


def layer_from_canvas(
    canvas: UInt8[np.ndarray, "rows columns 4"],
    rng: np.random.Generator,
    modes: tuple[Mode, ...],
    *,
    detail: float = 0.18,
) -> Layer:
    """A layer of what was drawn on a canvas, where colors are multiplied by alpha, with fine detail
    added.
    """
    rgba = canvas.astype(np.float32)
    rgba[..., :3] = np.clip(
        rgba[..., :3] * (1 + detail * noise(rng, 48, 4, 1.0))[..., None], 0, rgba[..., 3:]
    )
    return blur_layer(rgba, modes)


def random_shade(
    rng: np.random.Generator, light: float, *colors: tuple[int, int, int]
) -> np.ndarray:
    """One of the colors, varied, at the brightness `light`."""
    shade = light * rng.uniform(0.7, 1.25) * (np.array(rng.choice(colors)) + rng.normal(0, 10, 3))
    return np.clip(shade, 4, 250)


def draw_foliage(
    canvas: np.ndarray,
    rng: np.random.Generator,
    count: int,
    colors: tuple,
    *,
    size: float = 0.06,
    light: float = 1.0,
) -> None:
    """Draws leaves in all directions over the whole canvas, the later, nearer ones brighter."""
    for i in range(count):
        root = rng.uniform((-MARGIN, -MARGIN), (1 + MARGIN, ASPECT + MARGIN))
        angle = rng.uniform(0, 2 * np.pi)
        tip = root + size * rng.uniform(0.6, 1.4) * np.array([np.cos(angle), np.sin(angle)])
        draw_blade(
            canvas,
            root,
            tip,
            bow=rng.normal(0, 0.08),
            width=size * rng.uniform(0.12, 0.2),
            leaf=1.0,
            color=random_shade(rng, light * (0.3 + 0.7 * i / count), *colors),
        )


def make_canvas(color: tuple[int, int, int] | None = None) -> UInt8[np.ndarray, "rows columns 4"]:
    """A canvas filled with a color, or a transparent one."""
    return np.full(
        (CANVAS_ROWS, CANVAS_COLUMNS, 4),
        (0, 0, 0, 0) if color is None else (*color, 255),
        np.uint8,
    )
