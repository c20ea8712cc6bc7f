"""Wide scenes: meadows, trees and lakes."""

import numpy as np

from pipeline.synthetic.world import backgrounds, plants, things
from pipeline.synthetic.world.close_ups import add_flowers
from pipeline.synthetic.world.painter import NODE_Y, Painter
from pipeline.synthetic.world.sway import drive, gust_fields


def meadow(p: Painter) -> None:
    """A field of grass in perspective, with flowers."""
    horizon = p.rng.uniform(0.16, 0.36)
    p.add(p.landscape(horizon))
    rows = int(p.rng.integers(3, 6))
    color, dots = p.rng.uniform(0.45, 1.0, 3), p.rng.random() < 0.6
    for i in range(rows):
        near = (i + 1) / rows
        line = horizon + 0.03 + (0.75 - horizon) * near**1.4
        high = (0.05 + 0.3 * near**1.5) * p.rng.uniform(0.7, 1.1)
        blur = 0.006 * max(0.0, near - 0.75) * p.rng.uniform(0, 4)
        p.grass_row(line, high, round(1500 - 900 * near), blur, 0.25 + 0.75 * near)
        if dots and near < 0.9:
            _scatter_flowers(p, line, high, near, color)


def tree(p: Painter) -> None:
    """One to three trees on a plain, and grass before them."""
    horizon = p.rng.uniform(0.38, 0.52)
    p.add(p.landscape(horizon))
    for i in range(int(p.rng.integers(1, 4))):
        foot = horizon + 0.02 + 0.05 * i + p.rng.uniform(0, 0.03)
        high = p.rng.uniform(0.22, 0.34) * (1 + 0.4 * i)
        _add_tree(p, (p.rng.uniform(0.1, 0.9), foot), high, 0.6 + 0.2 * i)
    p.grass_row(0.7, p.rng.uniform(0.08, 0.2), 900, p.rng.uniform(0, 0.004), 0.5)


def _add_tree(p: Painter, foot: tuple[float, float], high: float, share: float) -> None:
    sheet = p.canvas.sheet()
    rods = plants.grow(
        p.rng,
        foot,
        high,
        angle=-np.pi / 2 + p.rng.normal(0, 0.06),
        spread=p.rng.uniform(0.45, 0.95),
        forks=(int(p.rng.integers(5, 9)), 4, 3),
        droop=p.rng.choice([0.0, 0.0, 0.35]),
    )
    plants.draw_wood(p.canvas, sheet, p.rng, p.day, rods)
    plants.draw_crown(
        p.canvas,
        sheet,
        p.rng,
        p.day,
        rods,
        leaf=p.rng.uniform(0.009, 0.017),
        count=int(p.rng.integers(3000, 6000)),
        hue=p.rng.normal(0, 0.12),
        radius=p.rng.uniform(0.06, 0.1) * high,
    )
    p.add_sheet(sheet, p.rods(rods, share))


def lake(p: Painter) -> None:
    """Water that reflects hills and trees on its far shore, and reeds on the near one."""
    shore = p.rng.uniform(0.22, 0.36)
    color = backgrounds.sky(p.canvas, p.rng, p.day, shore)
    color, _ = backgrounds.ridges(p.canvas, p.rng, p.day, color, shore)
    if p.rng.random() < 0.5:
        color, _ = backgrounds.rocks(p.canvas, p.rng, p.day, color, shore - 0.02, 5)
    p.add(color)
    water, mask = things.reflect(p.canvas, p.rng, p.day, color, shore)
    near = np.clip((NODE_Y - shore) / 0.3, 0, 1.4)
    cycles = p.rng.uniform(1.2, 5, 6)
    fields = np.concatenate(
        [gust_fields(near**0.8, (0.4 * c,), p.rng, (0.35, 1.0), 2.2 * c) for c in cycles]
    )
    sizes = 1 / cycles
    sway = drive(
        p.rng, fields, sizes, slope=p.slope + 0.4, resonances=0.28 * np.sqrt(cycles), together=0.0
    )
    p.add(water, mask, ((sway, 1.0),))
    if p.rng.random() < 0.7:
        p.grass_row(0.74, p.rng.uniform(0.15, 0.45), int(p.rng.integers(60, 400)), 0.002, 0.8)


def _scatter_flowers(p: Painter, line: float, high: float, near: float, color: np.ndarray) -> None:
    """Adds small flowers between the rows of a meadow, on stems that sway."""
    count = int(p.rng.integers(6, 22))
    bases = np.stack([p.rng.uniform(-0.05, 1.05, count), np.full(count, line)], 1)
    tips = (
        bases + np.stack([p.rng.normal(0, 0.15, count), -p.rng.uniform(0.6, 1.0, count)], 1) * high
    )
    add_flowers(p, bases, tips, 0.008 + 0.022 * near, color, 0.3 + 0.6 * near)
