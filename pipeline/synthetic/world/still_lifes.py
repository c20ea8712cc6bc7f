"""Things that hang or burn: cloth, candles and fires, lanterns."""

import numpy as np

from pipeline.synthetic.world import backgrounds, plants, things
from pipeline.synthetic.world.canvas import Color, smoothstep
from pipeline.synthetic.world.painter import NODE_Y, Painter
from pipeline.synthetic.world.sway import drive, gust_fields


def cloth(p: Painter) -> None:
    """Cloths that hang from a line, before a wall or a garden."""
    p.add(p.backdrop())
    x, y = p.canvas.grid
    line = p.rng.uniform(0.03, 0.12)
    cord = smoothstep(0.004, 0.0015, np.abs(y - line))
    p.add(p.day.lit(np.full((*x.shape, 3), 0.35, np.float32), 0.7 + 0 * x), cord)
    left = p.rng.uniform(-0.1, 0.1)
    while left < 0.85:
        wide = p.rng.uniform(0.18, 0.75)
        bottom = line + p.rng.uniform(0.25, 0.6)
        color, mask = things.fabric(p.canvas, p.rng, p.day, left, left + wide, line, bottom)
        hang = np.clip((NODE_Y - line) / (bottom - line), 0, 1.3) ** 1.4
        waves = gust_fields(
            hang, tuple(p.rng.uniform(0.2, 3, 6)), p.rng, (1.0, p.rng.normal(0, 0.6)), 3.0
        )
        sway = drive(
            p.rng,
            waves,
            np.ones(6),
            slope=p.slope,
            resonances=p.rng.uniform(0.4, 1.2, 6),
            together=0.4,
        )
        p.add(color, mask, ((sway, p.rng.uniform(0.5, 1.0)),))
        left += wide + p.rng.uniform(0.03, 0.25)


def flames(p: Painter) -> None:
    """Candles or a fire in the dark."""
    x, y = p.canvas.grid
    fire = p.rng.random() < 0.4
    floor = p.rng.uniform(0.48, 0.58)
    center = p.rng.uniform(0.3, 0.7)
    back = backgrounds.wall(p.canvas, p.rng, p.day)
    back = np.where(
        (y > floor)[..., None],
        backgrounds.ground(p.canvas, p.rng, p.day, floor - 0.15, "earth"),
        back,
    )
    distance = np.hypot(x - center, (y - floor + 0.1) * 1.2)
    glow = np.exp(-distance / p.rng.uniform(0.12, 0.3))[..., None] * np.array([1.5, 0.85, 0.4])
    color = p.canvas.blur(back, 0.003) * (0.06 + glow).astype(np.float32)
    color = color + 0.12 * glow.astype(np.float32)
    if fire:
        color, _ = backgrounds.rocks(p.canvas, p.rng, p.day, color, floor, 0)
        count, spots = int(p.rng.integers(4, 8)), p.rng.normal(center, 0.06, 8)
        sizes = p.rng.uniform(0.14, 0.32, 8)
        feet = floor + p.rng.uniform(-0.01, 0.03, 8)
        wides = sizes * p.rng.uniform(0.35, 0.55, 8)
        color = _draw_logs(p, color, center, floor + 0.02)
    else:
        count = int(p.rng.integers(1, 6))
        spots = (np.arange(count) + p.rng.uniform(0.3, 0.7, count)) / count
        sizes = p.rng.uniform(0.1, 0.17, count)
        wides = sizes * p.rng.uniform(0.3, 0.4, count)
        feet = floor - p.rng.uniform(0.02, 0.2, count)
        for spot, foot in zip(spots, feet, strict=True):
            half = p.rng.uniform(0.025, 0.045)
            body = smoothstep(half + 0.002, half - 0.002, np.abs(x - spot))
            body = (
                body
                * smoothstep(0.0, 0.004, y - foot - 0.01)
                * smoothstep(0.002, -0.002, y - floor - 0.03)
            )
            wax = 0.25 + 0.75 * np.exp(-(y - foot) / 0.05) - 0.3 * ((x - spot) / half) ** 2
            tint = np.array([1.0, 0.8, 0.55]) * np.clip(wax, 0.05, 1.1)[..., None]
            color = color * (1 - body[..., None]) + tint.astype(np.float32) * body[..., None]
    p.add(color)
    for i in range(count):
        at = (float(spots[i]), float(feet[i]) + 0.008)
        flame, mask = things.flame(p.canvas, p.rng, at, sizes[i], wides[i])
        up = np.clip((at[1] - NODE_Y) / sizes[i], 0, 1.3) ** 1.5
        ways = [(1.0, 0.1), (1.0, -0.2), (0.1, 1.0), (0.8, 0.3)]
        fields = np.concatenate([gust_fields(up, (2.0,), p.rng, way, 4.0) for way in ways])
        sway = drive(
            p.rng,
            fields,
            np.array([1.0, 0.7, 0.9, 0.4]),
            slope=p.slope + 0.8,
            resonances=p.rng.uniform(1.0, 3.0, 4),
            together=0.2,
        )
        p.add(flame, mask, ((sway, p.rng.uniform(0.5, 1.0)),))


def _draw_logs(p: Painter, color: Color, center: float, floor: float) -> Color:
    sheet = p.canvas.sheet()
    bases = np.stack([center + p.rng.uniform(-0.2, 0.2, 6), floor + p.rng.uniform(0, 0.05, 6)], 1)
    tips = np.stack([center + p.rng.uniform(-0.08, 0.08, 6), floor - p.rng.uniform(0, 0.08, 6)], 1)
    rods = plants.Rods(bases, tips, np.full(6, 0.018), np.zeros(6))
    plants.draw_wood(p.canvas, sheet, p.rng, p.day, rods)
    mask = sheet[..., 3:] / np.float32(255)
    return color * (1 - mask) + sheet[..., :3] / np.float32(255) * (0.5, 0.32, 0.2) * mask


def lanterns(p: Painter) -> None:
    """Paper lanterns that swing on cords, before a garden or a wall."""
    p.add(p.backdrop() * p.rng.uniform(0.35, 0.9))
    x, y = p.canvas.grid
    for spot in np.arange(0.15, 1.0, p.rng.uniform(0.25, 0.45)):
        at = np.array([spot + p.rng.normal(0, 0.04), p.rng.uniform(0.2, 0.42)])
        radius = p.rng.uniform(0.05, 0.13)
        tint = np.array(
            [p.rng.uniform(0.7, 1.0), p.rng.uniform(0.15, 0.8), p.rng.uniform(0.1, 0.5)]
        )
        color, mask = things.lantern(p.canvas, p.rng, at, radius, tint)
        cord = (np.abs(x - at[0]) < 0.0022) & (y < at[1] - 0.8 * radius)
        color = np.where((cord & (mask < 0.5))[..., None], (0.12, 0.1, 0.08), color)
        pivot, weight = np.array([[at[0], -0.12]]), at[None] + (0, radius)
        cords = plants.Rods(pivot, weight, np.zeros(1), np.zeros(1))
        sways = p.rods(cords, p.rng.uniform(0.5, 1.0), 0.45, flutter=0.0, direct=0.01)
        p.add(color.astype(np.float32), np.maximum(mask, cord), sways)
