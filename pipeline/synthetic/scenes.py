"""Paints the scenes of the demo and the tests, and says how their layers sway.

pipeline/synthetic/render.py explains scenes, layers and modes; pipeline/synthetic/paint.py has the
tools. The order of the random draws fixes the scenes: equal seeds give equal scenes.
"""

from collections.abc import Callable

import cv2
import numpy as np
from scipy.spatial import KDTree

from pipeline.synthetic.paint import (
    CANVAS_COLUMNS,
    CANVAS_ROWS,
    X,
    Y,
    blur_layer,
    color_ramp,
    draw_blade,
    draw_foliage,
    layer_from_canvas,
    make_canvas,
    make_layer,
    noise,
    random_shade,
)
from pipeline.synthetic.render import (
    TEXELS_PER_WIDTH,
    Layer,
    Mode,
    Points,
    Scene,
    bend,
    swing,
    traveling_wave,
    wave,
)

_GREENS = ((96, 132, 48), (136, 160, 62), (70, 112, 52), (168, 172, 84))
_STRAW = ((190, 170, 96), (158, 150, 72), (116, 140, 60), (206, 190, 128))


def reeds(rng: np.random.Generator) -> Scene:
    """A wall of reeds in gusts, and a nearer clump of cattails before it."""
    tall = 2.6
    gust = (
        Mode(
            shape=bend(length=tall), amplitude_px=1.0, frequency_hz=0.4, phase=rng.uniform(0, 6.28)
        ),
        *traveling_wave(
            bend,
            length=tall,
            waves=1.3,
            amplitude_px=1.35,
            frequency_hz=0.6,
            phase=rng.uniform(0, 6.28),
        ),
        Mode(
            shape=bend(length=tall, waves=0.8),
            amplitude_px=0.4,
            frequency_hz=1.13,
            phase=rng.uniform(0, 6.28),
        ),
        Mode(
            shape=bend(length=tall, order=2, waves=0.5),
            amplitude_px=0.3,
            frequency_hz=2.2,
            phase=rng.uniform(0, 6.28),
        ),
    )
    wall, near = make_canvas((40, 52, 30)), make_canvas()
    _draw_reed_bed(wall, rng, 1500, light=(0.3, 1.0), tips=(-0.15, 0.5), spread=(-0.15, 1.15))
    for center in (0.14, 0.86):
        _draw_reed_bed(
            near,
            rng,
            200,
            light=(0.9, 1.25),
            tips=(-0.1, 0.35),
            spread=(center - 0.1, center + 0.1),
            heads=8,
        )
    lean = Mode(
        shape=bend(length=tall), amplitude_px=0.35, frequency_hz=0.8, phase=rng.uniform(0, 6.28)
    )
    return Scene(
        layers=(layer_from_canvas(wall, rng, gust), layer_from_canvas(near, rng, (*gust, lean)))
    )


def _draw_reed_bed(
    sheet: np.ndarray,
    rng: np.random.Generator,
    count: int,
    *,
    light: tuple[float, float],
    tips: tuple[float, float],
    spread: tuple[float, float],
    heads: int = 30,
) -> None:
    """Draws blades from below the picture, the last ones brightest, with cattail heads on some."""
    for i in range(count):
        root = np.array([rng.uniform(*spread), 0.8])
        tip = np.array([root[0] + rng.normal(0, 0.09), rng.uniform(*tips)])
        glow = light[0] + (light[1] - light[0]) * i / count
        draw_blade(
            sheet,
            root,
            tip,
            bow=rng.normal(0, 0.05),
            width=rng.uniform(0.004, 0.011),
            color=random_shade(rng, glow, *_GREENS, *_STRAW),
        )
        if i % (count // heads) == 0:
            along = (tip - root) / np.hypot(*(tip - root))
            draw_blade(
                sheet,
                tip + 0.1 * along,
                tip - 0.005 * along,
                bow=0.0,
                width=0.012,
                leaf=0.8,
                color=random_shade(rng, glow, (112, 70, 40)),
            )


def plant(rng: np.random.Generator) -> Scene:
    """A leafy shrub before a hedge: bending, bobbing and fluttering at once."""
    behind, shrub = make_canvas((24, 38, 28)), make_canvas()
    draw_foliage(
        behind, rng, 2600, ((58, 92, 70), (80, 110, 84), (44, 80, 74)), size=0.05, light=0.8
    )
    for i in range(64):
        _draw_branch(shrub, rng, 0.45 + 0.6 * i / 64)
    tall = 1.5
    sway = (
        Mode(
            shape=bend(length=tall), amplitude_px=1.5, frequency_hz=0.6, phase=rng.uniform(0, 6.28)
        ),
        *traveling_wave(
            bend,
            length=tall,
            waves=1.0,
            lift=0.5,
            amplitude_px=1.05,
            frequency_hz=0.93,
            phase=rng.uniform(0, 6.28),
        ),
    )
    bob = Mode(
        shape=wave(direction=(0.2, 1.0), cycles=(0.5, 0.2), shift=0.1),
        amplitude_px=0.35,
        frequency_hz=1.4,
        phase=rng.uniform(0, 6.28),
    )
    flutter = Mode(
        shape=wave(direction=(0.8, 0.6), cycles=(3.0, 1.5)),
        amplitude_px=0.35,
        frequency_hz=2.27,
        phase=rng.uniform(0, 6.28),
    )
    return Scene(
        layers=(
            layer_from_canvas(behind, rng, sway),
            layer_from_canvas(shrub, rng, (*sway, bob, flutter)),
        )
    )


def _draw_branch(sheet: np.ndarray, rng: np.random.Generator, light: float) -> None:
    """Draws a stem from the foot of the shrub with leaves on both sides."""
    root = np.array([rng.normal(0.5, 0.06), 0.78])
    angle, reach = rng.normal(0, 0.55), rng.uniform(0.35, 0.75)
    tip = root + reach * np.array([np.sin(angle), -np.cos(angle)])
    draw_blade(
        sheet, root, tip, bow=0.0, width=0.006, color=random_shade(rng, light, (104, 78, 50))
    )
    for s in np.linspace(0.25, 1, 13):
        for side in (-1, 1):
            turn = angle + side * rng.normal(0.9 - 0.5 * s, 0.15)
            at = root + s * (tip - root)
            leaf_tip = at + rng.uniform(0.06, 0.11) * np.array([np.sin(turn), -np.cos(turn)])
            draw_blade(
                sheet,
                at,
                leaf_tip,
                bow=0.1 * side,
                width=rng.uniform(0.012, 0.018),
                leaf=1.0,
                color=random_shade(rng, light, *_GREENS, (150, 186, 78)),
            )


def cloth(rng: np.random.Generator) -> Scene:
    """A printed cloth hanging from a rail before a brick wall."""

    def hang(q: Points) -> np.ndarray:
        return 1 - np.exp((0.028 - q[1]) / 0.11)

    modes = (
        Mode(
            shape=wave(direction=(1.0, 0.1), cycles=(0.0, 0.0), envelope=hang),
            amplitude_px=1.15,
            frequency_hz=0.4,
            phase=rng.uniform(0, 6.28),
        ),
        *traveling_wave(
            wave,
            direction=(0.9, 0.5),
            cycles=(1.5, 0.4),
            envelope=hang,
            amplitude_px=1.5,
            frequency_hz=0.8,
            phase=rng.uniform(0, 6.28),
        ),
        Mode(
            shape=wave(direction=(0.3, 1.0), cycles=(1.0, 1.0), envelope=hang),
            amplitude_px=0.4,
            frequency_hz=1.37,
            phase=rng.uniform(0, 6.28),
        ),
    )
    fabric = make_canvas((206, 192, 160))
    inks = ((150, 44, 40), (30, 62, 104), (196, 140, 50), (52, 96, 70))
    draw_foliage(fabric, rng, 900, inks, size=0.05, light=1.0)
    turn = 2 * np.pi * (6.5 * X + 0.2 * np.sin(5 * X) + 0.15 * np.sin(4 * Y + 9 * X))
    fold = (np.cos(turn) + 0.35 * np.cos(2 * turn + 1)) * (0.7 + 0.4 * Y)
    weave = np.cos(2 * np.pi * 110 * X) * np.cos(2 * np.pi * 110 * Y)
    light = 0.86 + 0.27 * fold + 0.05 * weave + 0.1 * noise(rng, 48, 5, 0.95)
    shape = np.clip((0.46 - np.abs(X - 0.5)) * TEXELS_PER_WIDTH, 0, 1) * np.clip(
        (Y - 0.028) * TEXELS_PER_WIDTH, 0, 1
    )
    return Scene(
        layers=(
            make_layer(_paint_bricks(rng), 1.0),
            make_layer(fabric[..., :3] * light[..., None], shape, modes),
        )
    )


def _paint_bricks(rng: np.random.Generator) -> np.ndarray:
    """A brick wall with a wooden rail across its top, RGB."""
    row = np.floor(Y / 0.045)
    column = np.floor(X / 0.11 + 0.5 * (row % 2))
    tone = rng.uniform(0.2, 0.9, (64, 64))[row.astype(int) % 64, column.astype(int) % 64]
    mortar = np.minimum((Y / 0.045) % 1 * 0.045, (X / 0.11 + 0.5 * (row % 2)) % 1 * 0.11) < 0.006
    wall = np.where(
        mortar[..., None],
        (150, 142, 130),
        color_ramp(tone, (92, 46, 36), (150, 82, 60), (176, 112, 84)),
    )
    rail = np.where(
        (np.abs(Y - 0.026) < 0.009)[..., None],
        (104, 66, 36) * (1 - 60 * (Y - 0.026))[..., None],
        wall,
    )
    return rail * (1 + 0.2 * noise(rng, 16, 6, 0.95))[..., None]


def lantern(rng: np.random.Generator) -> Scene:
    """A paper lantern swinging before a hedge in the wind."""
    hedge = make_canvas((20, 34, 24))
    draw_foliage(hedge, rng, 3200, _GREENS, size=0.05, light=0.75)
    tall = 1.6
    sway = (
        *traveling_wave(
            bend,
            length=tall,
            waves=0.9,
            amplitude_px=1.6,
            frequency_hz=0.8,
            phase=rng.uniform(0, 6.28),
        ),
        Mode(
            shape=bend(length=tall, lift=0.5),
            amplitude_px=0.8,
            frequency_hz=0.47,
            phase=rng.uniform(0, 6.28),
        ),
    )
    pendulum = (
        Mode(
            shape=swing(pivot=(0.5, -0.25), length=0.6),
            amplitude_px=1.5,
            frequency_hz=0.6,
            phase=rng.uniform(0, 6.28),
        ),
        Mode(
            shape=wave(direction=(0.0, 1.0), cycles=(0.0, 0.0)),
            amplitude_px=0.4,
            frequency_hz=1.2,
            phase=rng.uniform(0, 6.28),
        ),
    )
    return Scene(layers=(layer_from_canvas(hedge, rng, sway), _paper_lantern(rng, pendulum)))


def _paper_lantern(rng: np.random.Generator, modes: tuple[Mode, ...]) -> Layer:
    """Ribbed paper lit from inside, with a printed pattern, caps, a cord and a tassel."""
    sheet = make_canvas()
    draw_blade(
        sheet,
        np.array([0.5, 0.2]),
        np.array([0.5, -0.3]),
        bow=0.0,
        width=0.006,
        leaf=0.5,
        color=np.array((70, 50, 40)),
    )
    for _ in range(60):
        root = np.array([rng.uniform(0.47, 0.53), 0.47])
        draw_blade(
            sheet,
            root,
            root + np.array([rng.normal(0, 0.012), rng.uniform(0.1, 0.15)]),
            bow=0.0,
            width=0.004,
            color=random_shade(rng, 1.0, (206, 150, 50)),
        )
    across, up = (X - 0.5) / 0.17, (Y - 0.3) / 0.17
    radius = np.hypot(across, up)
    motif = make_canvas((214, 72, 40))
    draw_foliage(motif, rng, 900, ((238, 176, 70), (160, 30, 28), (250, 206, 110)), size=0.04)
    rib = np.cos(2 * np.pi * 11 * np.arcsin(np.clip(up, -1, 1)) / np.pi)
    glow = (1.2 - 0.65 * radius**2) * (0.88 + 0.24 * rib) * (1 + 0.14 * noise(rng, 48, 4, 1.0))
    paper = np.where(
        (np.abs(up) > 0.9)[..., None],
        (52, 36, 32) * (1 + 0.3 * noise(rng, 40, 4, 0.9))[..., None],
        motif[..., :3] * glow[..., None],
    )
    body = (np.clip((1 - radius) * 0.17 * TEXELS_PER_WIDTH, 0, 1) * (np.abs(up) < 0.98))[..., None]
    cord_and_tassel = sheet.astype(np.float32) * (1 - body)
    rgba = np.concatenate([np.clip(paper, 0, 255) * body, 255 * body], -1) + cord_and_tassel
    return blur_layer(rgba.astype(np.float32), modes)


def ripples(rng: np.random.Generator) -> Scene:
    """Pebbles under shallow water, whose picture is moved by the refraction of waves; the shore at
    the top is dry.
    """

    def depth(q: Points) -> np.ndarray:
        return 1 / (1 + np.exp((0.16 - q[1]) / 0.04))

    waves = (
        (2.0, 1.4, 0.6, 1.3),
        (-1.2, 2.4, 0.8, 1.1),
        (3.4, -1.1, 1.07, 0.6),
        (0.8, 4.2, 1.4, 0.45),
        (-4.2, 1.8, 1.73, 0.3),
    )
    modes = tuple(
        mode
        for across, down, frequency, amplitude in waves
        for mode in traveling_wave(
            wave,
            direction=tuple(np.array([across, down]) / np.hypot(across, down)),
            cycles=(across, down),
            envelope=depth,
            amplitude_px=amplitude,
            frequency_hz=frequency,
            phase=rng.uniform(0, 6.28),
        )
    )
    ground = (
        np.maximum(_paint_pebbles(rng, 700), 0.8 * _paint_pebbles(rng, 4000))
        * (1 + 0.2 * noise(rng, 48, 4, 1.0))[..., None]
    )
    water = depth(np.stack([X, Y]))[..., None]
    caustics = np.clip(1 - np.abs(noise(rng, 9, 2, 0.5)) * 2.5, 0, 1)[..., None] ** 2
    wet = ground * np.array([0.62, 0.82, 0.84]) + caustics * (50, 70, 62)
    return Scene(layers=(make_layer(ground * (1 - water) * 1.1 + wet * water, 1.0, modes),))


def _paint_pebbles(rng: np.random.Generator, count: int) -> np.ndarray:
    """Rounded stones, RGB: wobbly Voronoi cells, domed and lit from the upper left, with dark gaps.
    They are painted at half size.
    """
    seeds = rng.uniform((-0.15, -0.15), (1.15, 0.8), (count, 2))
    points = np.stack([axis + 0.003 * noise(rng, 20, 2) for axis in (X, Y)], -1)[::2, ::2]
    distances, cell = map(np.asarray, KDTree(seeds).query(points, k=2))
    nearest, second = distances[..., 0], distances[..., 1]
    dome = np.clip((second - nearest) / second / 0.3, 0, 1) ** 0.8
    slope = (points - seeds[cell[..., 0]]).sum(-1) / second
    tone = rng.uniform(0, 1, count)[cell[..., 0]]
    stone = color_ramp(
        tone, (84, 80, 78), (150, 132, 112), (188, 176, 160), (120, 96, 80), (214, 208, 196)
    )
    return cv2.resize(
        stone * (dome * (0.95 - 0.35 * slope) + 0.12)[..., None],
        (CANVAS_COLUMNS, CANVAS_ROWS),
        interpolation=cv2.INTER_CUBIC,
    )


SCENES: dict[str, Callable[[np.random.Generator], Scene]] = dict(
    reeds=reeds, plant=plant, cloth=cloth, lantern=lantern, ripples=ripples
)
