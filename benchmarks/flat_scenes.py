"""Scenes with flat and dark parts, where optical flow has little to hold on to; their motion is
known (pipeline/synthetic/render.py).

CHOSEN_ON are those on which the constants of pipeline/flow/consistency.py were chosen, HELD_OUT
those it is then judged by: other paint, other shapes, other motion, other seeds, other grain. The
STANDARD ones are those of pipeline/synthetic/scenes.py as they are, with other seeds for either
purpose.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from pipeline.synthetic.paint import (
    X,
    Y,
    color_ramp,
    draw_blade,
    draw_foliage,
    make_canvas,
    make_layer,
    noise,
    random_shade,
)
from pipeline.synthetic.render import Layer, Mode, Scene, bend, swing, traveling_wave, wave
from pipeline.synthetic.scenes import SCENES

BROAD = wave(direction=(0.9, 0.44), cycles=(0.6, 0.4))


class Case(NamedTuple):
    """A scene and how it is filmed."""

    scene: Scene
    crf: int = 23
    light: Callable[[float], float] = lambda _: 1.0
    """Gain of the whole picture at a time, seconds."""


def flicker(t: float) -> float:
    """A flame's light, 15 % up and down."""
    return 1 + 0.1 * np.sin(2 * np.pi * 1.7 * t) + 0.05 * np.sin(2 * np.pi * 4.3 * t + 1)


def blobs(seed: int, cells: int = 4, level: float = 0.4) -> np.ndarray:
    """Smooth islands, 0 to 1, on about a third of the picture."""
    return np.clip((noise(np.random.default_rng(seed), cells, 2) - level) * 4 + 0.5, 0, 1)[
        ..., None
    ]


def painted_over(paint: Layer, where: np.ndarray, colour: tuple[int, int, int]) -> Layer:
    """The layer with one plain colour `where` that is 1."""
    rgb, alpha = paint.texture[..., :3], paint.texture[..., 3:]
    return replace(
        paint,
        texture=np.concatenate(
            [rgb + where * (np.array(colour) * alpha / 255 - rgb), alpha], -1
        ).astype(np.float32),
    )


def dimmed(paint: Layer, where: np.ndarray | float, gain: float, lift: float = 6.0) -> Layer:
    """The layer with its colours times `gain` plus `lift` levels `where` that is 1: texture of a
    few grey levels.
    """
    rgb, alpha = paint.texture[..., :3], paint.texture[..., 3:]
    return replace(
        paint,
        texture=np.concatenate(
            [rgb + where * ((gain - 1) * rgb + lift * alpha / 255), alpha], -1
        ).astype(np.float32),
    )


def standard(name: str, seed: int = 0, grain: float = 2.0) -> Scene:
    return replace(SCENES[name](np.random.default_rng(seed)), grain=grain)


def swaying(paint: Layer, px: float, hz: float = 0.6) -> Layer:
    return replace(paint, modes=(Mode(shape=BROAD, amplitude_px=px, frequency_hz=hz),))


def sky(*colours: tuple[int, int, int]) -> Layer:
    """A still gradient from top to bottom."""
    return make_layer(color_ramp(np.clip(Y / 0.625, 0, 1), *colours), 1.0)


DAY, DUSK, BLACK = (
    ((120, 160, 220), (190, 210, 235)),
    ((18, 20, 40), (60, 40, 50)),
    ((3, 3, 4), (10, 8, 8)),
)


# ---- scenes on which constants were chosen


def patches(grain: float) -> Case:
    """Pebbles that sway as one, with patches of plain colour."""
    return Case(
        Scene(
            layers=(
                painted_over(
                    swaying(standard("ripples").layers[0], 2.0), blobs(10), (128, 120, 110)
                ),
            ),
            grain=grain,
        )
    )


def shadows(grain: float) -> Case:
    """A hedge that sways as one, with shadows in which 4 % of its contrast is left."""
    return Case(
        Scene(
            layers=(dimmed(swaying(standard("plant").layers[0], 3.0, 0.8), blobs(11), 0.04),),
            grain=grain,
        )
    )


def shrub_and_sky(grain: float) -> Case:
    """A shrub sways before a still, plain sky."""
    return Case(Scene(layers=(sky(*DAY), standard("plant").layers[1]), grain=grain))


def night_lantern(grain: float) -> Case:
    """A flickering lantern swings before a hedge that is nearly black and still."""
    back, front = standard("lantern").layers
    return Case(
        Scene(layers=(dimmed(replace(back, modes=()), 1.0, 0.05), front), grain=grain),
        light=flicker,
    )


def plain_disc(grain: float) -> Case:
    """A plain disc sways before still pebbles."""
    disc = make_layer(
        np.full((*X.shape, 3), (200, 90, 60)),
        np.clip((0.16 - np.hypot(X - 0.5, Y - 0.3)) * 1024, 0, 1),
    )
    moves = Mode(
        shape=wave(direction=(0.9, 0.44), cycles=(0.0, 0.0)),
        amplitude_px=3.0,
        frequency_hz=0.6,
        phase=1.0,
    )
    return Case(
        Scene(
            layers=(
                replace(standard("ripples").layers[0], modes=()),
                replace(disc, modes=(moves,)),
            ),
            grain=grain,
        )
    )


# ---- scenes it is judged by


def reeds_at_dusk(grain: float) -> Case:
    """Reeds before a still, dark sky."""
    return Case(Scene(layers=(sky(*DUSK), standard("reeds", 1).layers[1]), grain=grain), crf=26)


def cloth_by_candlelight(grain: float) -> Case:
    """A cloth with plain patches before a dark brick wall, in flickering light."""
    wall, sheet = standard("cloth", 1).layers
    return Case(
        Scene(
            layers=(dimmed(wall, 1.0, 0.05), painted_over(sheet, blobs(21, 5), (150, 140, 120))),
            grain=grain,
        ),
        light=flicker,
    )


def candle(grain: float) -> Case:
    """A flame on a candle before a wall that is black but for the flame's glow."""
    glow = np.exp(-np.hypot(X - 0.5, Y - 0.25) / 0.12)[..., None] * (26, 16, 8)
    radius = np.hypot((X - 0.5) / 0.07, np.where(Y < 0.28, (Y - 0.28) / 0.2, (Y - 0.28) / 0.1))
    flame = make_layer(
        color_ramp(np.clip(1 - radius, 0, 1), (255, 150, 40), (255, 220, 120), (255, 250, 220)),
        np.clip(3 * (1 - radius), 0, 1),
    )
    stick = make_layer(
        color_ramp(np.clip((X - 0.44) / 0.12, 0, 1), (60, 50, 40), (150, 130, 100), (50, 40, 30)),
        np.clip((0.06 - abs(X - 0.5)) * 300, 0, 1) * (Y > 0.36),
    )
    lean = Mode(shape=swing(pivot=(0.5, 0.35), length=0.15), amplitude_px=2.5, frequency_hz=0.9)
    flutter = Mode(
        shape=swing(pivot=(0.5, 0.35), length=0.15), amplitude_px=1.0, frequency_hz=2.1, phase=1.0
    )
    wall = make_layer(color_ramp(Y, *BLACK) + glow, 1.0)
    return Case(
        Scene(layers=(wall, stick, replace(flame, modes=(lean, flutter))), grain=grain),
        light=flicker,
    )


def plain_leaves(grain: float) -> Case:
    """Large leaves of one colour each before a plain sky."""
    rng, sheet = np.random.default_rng(23), make_canvas()
    draw_foliage(sheet, rng, 60, ((90, 130, 60), (120, 150, 70)), size=0.2)
    sway = traveling_wave(
        bend, length=1.5, waves=1.0, lift=0.3, amplitude_px=2.5, frequency_hz=0.73
    )
    return Case(
        Scene(
            layers=(
                sky((200, 205, 210), (225, 225, 220)),
                Layer(texture=sheet.astype(np.float32), modes=sway),
            ),
            grain=grain,
        )
    )


def mast(grain: float) -> Case:
    """The thin beams of a mast that bends a little, before a bright sky."""
    rng, sheet = np.random.default_rng(24), make_canvas()
    for i in range(12):
        for side in (-1, 1):
            root, tip = (
                np.array([0.5 + 0.06 * side, 0.7 - i * 0.06]),
                np.array([0.5 - 0.06 * side, 0.64 - i * 0.06]),
            )
            draw_blade(
                sheet, root, tip, bow=0.0, width=0.004, color=random_shade(rng, 0.5, (120, 90, 40))
            )
            draw_blade(
                sheet,
                root,
                np.array([0.5 + 0.06 * side, 0.63 - i * 0.06]),
                bow=0.0,
                width=0.008,
                color=random_shade(rng, 0.5, (120, 90, 40)),
            )
    lean = Mode(shape=bend(length=0.9), amplitude_px=1.5, frequency_hz=0.5)
    return Case(
        Scene(
            layers=(
                sky((150, 180, 215), (215, 220, 225)),
                Layer(texture=sheet.astype(np.float32), modes=(lean,)),
            ),
            grain=grain,
        )
    )


def shaded_reeds(grain: float) -> Case:
    """A wall of reeds in gusts, with shadows and patches of plain colour that move along."""
    wall = standard("reeds", 2).layers[0]
    return Case(
        Scene(
            layers=(
                painted_over(dimmed(wall, blobs(25, 6), 0.05), blobs(26, 5, 0.8), (90, 100, 60)),
            ),
            grain=grain,
        ),
        crf=20,
    )


def as_they_are(name: str, seed: int) -> Case:
    return Case(standard(name, seed))


Scenes = dict[str, Callable[[], Case]]


def at_grains(makers: Sequence[Callable[[float], Case]], grains: Sequence[float]) -> Scenes:
    """Each scene at each level of camera noise (deviation at 512 x 320, grey levels), painted when
    called.
    """
    return {
        f"{make.__name__}, grain {grain:g}": partial(make, grain)
        for make in makers
        for grain in grains
    }


CHOSEN_ON: Scenes = at_grains(
    (patches, shadows, shrub_and_sky, night_lantern, plain_disc), (0.0, 2.0, 6.0)
)
HELD_OUT: Scenes = at_grains(
    (reeds_at_dusk, cloth_by_candlelight, candle, plain_leaves, mast, shaded_reeds), (1.0, 4.0, 8.0)
)
STANDARD_CHOSEN_ON: Scenes = {name: partial(as_they_are, name, 0) for name in SCENES}
STANDARD: Scenes = {name: partial(as_they_are, name, 3) for name in SCENES}
