"""Plants close to the camera: shrubs, flowers, branches, hanging strands."""

from dataclasses import replace

import numpy as np

from pipeline.synthetic.world import backgrounds, plants
from pipeline.synthetic.world.canvas import smoothstep
from pipeline.synthetic.world.light import Day
from pipeline.synthetic.world.painter import Painter


def shrub(p: Painter) -> None:
    """A shrub or a potted plant close before a wall or a garden out of focus."""
    p.add(p.backdrop())
    y = p.canvas.grid[1]
    floor = p.rng.uniform(0.52, 0.64)
    plain = backgrounds.ground(
        p.canvas, p.rng, p.day, floor - 0.1, p.rng.choice(["grass", "earth"])
    )
    p.add(
        plain * (1 - 0.4 * np.exp(-(((y - floor) / 0.02) ** 2)))[..., None],
        smoothstep(-0.003, 0.003, y - floor),
    )
    for _ in range(int(p.rng.integers(1, 4))):
        center = p.rng.uniform(0.15, 0.85)
        sheet = p.canvas.sheet()
        high = p.rng.uniform(0.2, 0.42)
        rods = plants.grow_shrub(p.rng, (center, floor + p.rng.uniform(0.0, 0.05)), high)
        plants.draw_wood(p.canvas, sheet, p.rng, p.day, rods)
        plants.draw_crown(
            p.canvas,
            sheet,
            p.rng,
            p.day,
            rods,
            leaf=p.rng.uniform(0.018, 0.045),
            count=int(p.rng.integers(900, 2400)),
            hue=p.rng.normal(0, 0.15),
            radius=0.12 * high,
        )
        p.add_sheet(sheet, p.rods(rods))


def flowers(p: Painter) -> None:
    """Flowers close to the camera, before a garden out of focus."""
    p.add(backgrounds.blurred_garden(p.canvas, p.rng, p.day))
    color = p.rng.uniform(0.3, 1.0, 3) ** 0.7
    for layer, blur in enumerate((p.rng.uniform(0.006, 0.014), 0.0)):
        count = int(p.rng.integers(4, 10))
        bases = np.stack([p.rng.uniform(-0.05, 1.05, count), np.full(count, 0.72)], 1)
        heights = p.rng.uniform(0.28, 0.62, count)
        tips = bases + np.stack([p.rng.normal(0, 0.09, count), -heights], 1)
        p.grass_row(0.7, p.rng.uniform(0.15, 0.4), 160 + 90 * layer, 0.7 * blur, 0.6)
        size = p.rng.uniform(0.045, 0.095)
        add_flowers(p, bases, tips, size, color, 0.7 + 0.3 * layer, blur)
    if p.rng.random() < 0.4:
        p.grass_row(0.76, p.rng.uniform(0.15, 0.3), 40, 0.012, 1.0)


def branch(p: Painter) -> None:
    """Branches that reach into the picture, some in blossom, before a blurred garden or a sky."""
    if p.rng.random() < 0.3:
        p.add(backgrounds.sky(p.canvas, p.rng, p.day, 0.5))
    else:
        p.add(p.backdrop())
    blossoms, color = p.rng.random() < 0.35, p.rng.uniform(0.55, 1.0, 3)
    for i in range(int(p.rng.integers(2, 5))):
        left = p.rng.random() < 0.5
        base = (-0.06 if left else 1.06, p.rng.uniform(0.05, 0.5))
        sheet = p.canvas.sheet()
        rods = plants.grow(
            p.rng,
            base,
            p.rng.uniform(0.4, 0.75),
            angle=p.rng.normal(0 if left else np.pi, 0.35),
            spread=p.rng.uniform(0.5, 0.8),
            forks=(7, 3),
            droop=0.25,
        )
        plants.draw_wood(p.canvas, sheet, p.rng, p.day, rods)
        plants.draw_crown(
            p.canvas,
            sheet,
            p.rng,
            p.day,
            rods,
            leaf=p.rng.uniform(0.035, 0.08),
            count=int(p.rng.integers(120, 380)),
            hue=p.rng.normal(0, 0.12),
            radius=0.035,
        )
        if blossoms:
            outer = rods.tips[rods.levels > 0]
            for tip in p.rng.permutation(np.concatenate([outer, outer]))[: p.rng.integers(15, 50)]:
                at, size = tip + p.rng.normal(0, 0.025, 2), p.rng.uniform(0.02, 0.035)
                plants.draw_flower(p.canvas, sheet, p.rng, p.day, at, size, color, 5)
        p.add_sheet(sheet, p.rods(rods), p.rng.uniform(0, 0.012) if i == 0 else 0.0)


def ferns(p: Painter) -> None:
    """Ferns or palms whose fronds fan out from the ground, before a garden or a wall."""
    p.add(p.backdrop())
    for layer in range(int(p.rng.integers(2, 4))):
        count, near = int(p.rng.integers(7, 13)), p.rng.uniform(0.7, 1.2)
        base = np.array([p.rng.uniform(0.1, 0.9), p.rng.uniform(0.58, 0.72)])
        angles = np.linspace(-2.7, -0.45, count) + p.rng.normal(0, 0.1, count)
        lengths = near * p.rng.uniform(0.28, 0.5, count)
        tips = base + lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        sheet, leaf = p.canvas.sheet(), near * p.rng.uniform(0.05, 0.1)
        for rank, i in enumerate(p.rng.permutation(count)):
            bow, shade = 0.35 * float(np.cos(angles[i])), 0.25 + 0.5 * rank / count
            plants.draw_frond(
                p.canvas, sheet, p.rng, p.day, base, tips[i], leaf=leaf, bow=bow, shade=shade
            )
        bases = np.repeat(base[None], count, 0)
        rods = plants.Rods(bases, tips, np.zeros(count), np.zeros(count))
        p.add_sheet(sheet, p.rods(rods, 0.7 + 0.15 * layer, 0.3), 0.004 * max(0, 1 - layer))


def strands(p: Painter) -> None:
    """Strands of leaves that hang from above, some with blossoms, before a wall or a garden."""
    p.add(p.backdrop())
    color = p.rng.uniform(0.4, 1.0, 3)
    for layer in range(3):
        count = int(p.rng.integers(4, 10))
        bases = np.stack([p.rng.uniform(-0.1, 1.1, count), np.full(count, -0.06)], 1)
        tips = bases + np.stack([p.rng.normal(0, 0.05, count), p.rng.uniform(0.25, 0.6, count)], 1)
        rods = plants.Rods(bases, tips, np.full(count, 0.002), np.ones(count))
        sheet = p.canvas.sheet()
        plants.draw_wood(p.canvas, sheet, p.rng, p.day, rods)
        plants.draw_crown(
            p.canvas,
            sheet,
            p.rng,
            p.day,
            rods,
            leaf=p.rng.uniform(0.018, 0.04),
            count=count * int(p.rng.integers(40, 90)),
            hue=p.rng.normal(0, 0.12),
            radius=p.rng.uniform(0.008, 0.02),
        )
        if p.rng.random() < 0.3:
            for tip in p.rng.permutation(tips)[: count // 2]:
                plants.draw_flower(p.canvas, sheet, p.rng, p.day, tip, 0.025, color, 5)
        sways = p.rods(rods, 0.6 + 0.2 * layer, 0.4)
        p.add_sheet(sheet, sways, 0.003 * max(0, 1 - layer))


def add_flowers(
    p: Painter,
    bases: np.ndarray,
    tips: np.ndarray,
    size: float,
    color: np.ndarray,
    share: float,
    blur: float = 0.0,
) -> None:
    """Adds a layer of flowers on stems: bases stay, blossoms sway most."""
    sheet, count = p.canvas.sheet(), len(bases)
    rods = plants.Rods(bases, tips, np.full(count, 0.08 * size + 0.001), np.zeros(count))
    plants.draw_wood(p.canvas, sheet, p.rng, _day_of_stems(p), rods)
    petals = int(p.rng.integers(5, 14))
    for tip in tips[np.argsort(tips[:, 1])]:
        tone = np.clip(color * p.rng.uniform(0.85, 1.15, 3), 0, 1)
        scale = size * p.rng.uniform(0.7, 1.2)
        plants.draw_flower(p.canvas, sheet, p.rng, p.day, tip, scale, tone, petals)
    p.add_sheet(sheet, p.rods(rods, share, 0.3, flutter=0.0), blur)


def _day_of_stems(p: Painter) -> Day:
    """The day of a scene, with wood in the colors of leaves."""
    red, green, blue = (0.6 * channel for channel in p.day.leaves[2])
    return replace(p.day, earth=(p.day.leaves[0], (red, green, blue)))
