"""The kinds of scenes. The order of the random draws fixes a scene: equal seeds give equal scenes.

`Painter` collects the layers of a scene from back to front and gives their motion its size.
"""

from collections.abc import Callable

import numpy as np

from pipeline.synthetic.render import WORKING_SIZE, Layer, Scene
from pipeline.synthetic.world import backgrounds, plants, things
from pipeline.synthetic.world.canvas import (
    Canvas,
    Color,
    Gray,
    Sheet,
    make_canvas,
    smoothstep,
)
from pipeline.synthetic.world.light import make_day
from pipeline.synthetic.world.sway import (
    NODES,
    Sway,
    branch_fields,
    drive,
    gust_fields,
    unfold,
)

NODE_X, NODE_Y = NODES


class Painter:
    """The layers of a scene, as they are painted."""

    def __init__(self, rng: np.random.Generator, canvas: Canvas):
        self.rng, self.canvas, self.day = rng, canvas, make_day(rng)
        self.sway_px = float(np.exp(rng.normal(0.6, 0.8)))
        self.slope = float(rng.uniform(-2.2, -1.0))
        self.speed = float(rng.uniform(0.25, 1.0) * rng.choice([-1, 1]))
        self.layers: list[Layer] = []

    def add(
        self,
        color: Color,
        mask: Gray | None = None,
        sways: tuple[tuple[Sway, float], ...] = (),
        blur: float = 0.0,
    ) -> None:
        """Adds a layer: its colors, its mask (everything if there is none), its motion with the
        size of each part as a share of the scene's, and its blur in picture widths.
        """
        alpha = np.ones(color.shape[:2], np.float32) if mask is None else mask.astype(np.float32)
        rgb = self.day.grade(color, self.canvas) * alpha[..., None]
        rgba = np.concatenate([rgb, alpha[..., None]], -1) * np.float32(255)
        self._add_layer(rgba, sways, blur)

    def add_sheet(
        self, sheet: Sheet, sways: tuple[tuple[Sway, float], ...] = (), blur: float = 0.0
    ) -> None:
        """Adds a sheet of strokes, with fine detail."""
        color = sheet[..., :3].astype(np.float32) / 255
        detail = 1 + 0.07 * self.canvas.noise(self.rng.spawn(1)[0], 60, 4, 0.9)
        self.add(color * detail[..., None], sheet[..., 3] / np.float32(255), sways, blur)

    def _add_layer(self, rgba: np.ndarray, sways: tuple, blur: float) -> None:
        rgba = self.canvas.blur(rgba, max(blur, 0.0007))
        nodes = (np.linspace(0, n - 1, m).astype(int) for n, m in zip(rgba.shape, NODE_X.shape))
        rows, columns = nodes
        inside = (abs(NODE_X - 0.5) < 0.5) & (abs(NODE_Y - 0.3125) < 0.3125)
        covered = inside & (rgba[rows[:, None], columns, 3] > 127)
        modes = []
        for sway, share in sways:
            size = sway.sway_px(covered)
            if size > 0:
                modes.append(sway.scaled(share * self.sway_px / size))
        self.layers.append(Layer(texture=rgba, modes=unfold(tuple(modes)) if modes else ()))

    def branches(self, rods: plants.Rods, swing: float = 1.0) -> tuple[tuple[Sway, float], ...]:
        """The sway of a plant's rods, and the flutter of its leaves."""
        moving = rods.moving()
        lengths = np.linalg.norm(moving.tips - moving.bases, axis=1)
        fields = branch_fields(moving.bases, moving.tips, moving.levels)
        sway = drive(
            self.rng,
            fields,
            lengths * np.array([0.6, 1.0, 1.2])[moving.levels.astype(int)],
            slope=self.slope,
            resonances=0.2 / lengths**0.6 * self.rng.uniform(0.85, 1.15, len(lengths)),
            delays=moving.bases[:, 0] / self.speed,
        )
        free = smoothstep(0.0, 0.25, np.linalg.norm(fields[0], axis=-1))
        return (sway, swing), (self.flutter(free), 0.15 * swing)

    def flutter(self, profile: np.ndarray) -> Sway:
        """Small quick motion of leaves, in all directions."""
        angles = self.rng.uniform(0, 6.28, 6)
        fields = np.concatenate(
            [
                gust_fields(profile, (c,), self.rng, (np.cos(a), np.sin(a)), 6)
                for c, a in zip(self.rng.uniform(3, 9, 6), angles, strict=True)
            ]
        )
        peaks = self.rng.uniform(1.2, 3.0, 6)
        return drive(self.rng, fields, np.ones(6), slope=-0.5, resonances=peaks, together=0.2)

    def gusts(self, profile: np.ndarray, resonance: float, cycles: float = 2.5) -> Sway:
        """The sway of many stems side by side."""
        waves = (0.0, *self.rng.uniform(0.3, cycles, 5), *self.rng.uniform(cycles, 3 * cycles, 2))
        fields = gust_fields(profile, waves, self.rng)
        sizes = np.array([0.8, 1, 1, 1, 1, 1, 0.5, 0.5])
        return drive(
            self.rng,
            fields,
            sizes,
            slope=self.slope,
            resonances=np.full(8, resonance),
            together=0.5,
            delays=self.rng.uniform(0, 1.5, 8),
        )

    def landscape(self, horizon: float, kind: str = "grass") -> Color:
        """Sky, hills and a plain; sometimes with rocks or a fence."""
        canvas, rng, day = self.canvas, self.rng, self.day
        color = backgrounds.sky(canvas, rng, day, horizon)
        color, _ = backgrounds.ridges(canvas, rng, day, color, horizon)
        plain = backgrounds.ground(canvas, rng, day, horizon, kind)
        below = smoothstep(-0.003, 0.003, canvas.grid[1] - horizon)[..., None]
        color = color * (1 - below) + plain * below
        if rng.random() < 0.35:
            color, _ = backgrounds.fence(canvas, rng, day, color, horizon + rng.uniform(0.04, 0.1))
        if rng.random() < 0.4:
            count = int(rng.integers(2, 7))
            color, _ = backgrounds.rocks(canvas, rng, day, color, horizon + 0.03, count)
        return color

    def backdrop(self) -> Color:
        """A garden out of focus, or a wall."""
        if self.rng.random() < 0.6:
            return backgrounds.blurred_garden(self.canvas, self.rng, self.day)
        return self.canvas.blur(
            backgrounds.wall(self.canvas, self.rng, self.day), self.rng.uniform(0.0, 0.008)
        )

    def grass_row(self, line: float, high: float, count: int, blur: float, share: float) -> None:
        """Adds blades of grass with their roots at y = `line`, which do not move."""
        sheet = self.canvas.sheet()
        width = 0.02 * high + 0.0012
        plants.draw_grass(
            self.canvas,
            sheet,
            self.rng,
            self.day,
            line=line,
            high=high,
            count=count,
            width=width,
            hue=self.rng.normal(0, 0.08),
        )
        profile = np.clip((line - NODE_Y) / high, 0, 1.4) ** 1.5
        resonance = float(np.clip(0.35 / high**0.4, 0.4, 2.0))
        self.add_sheet(sheet, ((self.gusts(profile, resonance), share),), blur)


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


def _scatter_flowers(p: Painter, line: float, high: float, near: float, color: np.ndarray) -> None:
    """Adds small flowers between the rows of a meadow, on stems that sway."""
    count = int(p.rng.integers(6, 22))
    bases = np.stack([p.rng.uniform(-0.05, 1.05, count), np.full(count, line)], 1)
    tips = bases + np.stack([p.rng.normal(0, 0.15, count), -p.rng.uniform(0.6, 1.0, count)], 1) * high
    _add_flowers(p, bases, tips, 0.008 + 0.022 * near, color, 0.3 + 0.6 * near)


def _add_flowers(
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
    plants.draw_wood(p.canvas, sheet, p.rng, replace_earth(p, 0.6), rods)
    petals = int(p.rng.integers(5, 14))
    for tip in tips[np.argsort(tips[:, 1])]:
        tone = np.clip(color * p.rng.uniform(0.85, 1.15, 3), 0, 1)
        scale = size * p.rng.uniform(0.7, 1.2)
        plants.draw_flower(p.canvas, sheet, p.rng, p.day, tip, scale, tone, petals)
    fields = branch_fields(bases, tips, np.zeros(count), 0.012)
    lengths = np.linalg.norm(tips - bases, axis=1)
    sway = drive(
        p.rng,
        fields,
        lengths,
        slope=p.slope,
        resonances=0.3 / lengths**0.5 * p.rng.uniform(0.8, 1.2, count),
        delays=bases[:, 0] / p.speed,
    )
    p.add_sheet(sheet, ((sway, share),), blur)


def replace_earth(p: Painter, share: float):
    """The day, with stems the color of leaves."""
    from dataclasses import replace

    stem = tuple(float(share * c) for c in np.asarray(p.day.leaves[2]))
    return replace(p.day, earth=(p.day.leaves[0], stem))


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
        leaf=p.rng.uniform(0.012, 0.022),
        count=int(p.rng.integers(2500, 4500)),
        hue=p.rng.normal(0, 0.12),
        radius=p.rng.uniform(0.06, 0.1) * high,
    )
    p.add_sheet(sheet, p.branches(rods, share))


def shrub(p: Painter) -> None:
    """A shrub or a potted plant close before a wall or a garden out of focus."""
    p.add(p.backdrop())
    x, y = p.canvas.grid
    floor = p.rng.uniform(0.52, 0.64)
    plain = backgrounds.ground(p.canvas, p.rng, p.day, floor - 0.1, p.rng.choice(["grass", "earth"]))
    p.add(plain * (1 - 0.4 * np.exp(-((y - floor) / 0.02) ** 2))[..., None], smoothstep(-0.003, 0.003, y - floor))
    for _ in range(int(p.rng.integers(1, 4))):
        center = p.rng.uniform(0.15, 0.85)
        sheet = p.canvas.sheet()
        high = p.rng.uniform(0.16, 0.3)
        rods = plants.grow(
            p.rng,
            (center, floor + p.rng.uniform(0.0, 0.05)),
            high,
            spread=p.rng.uniform(0.5, 1.0),
            forks=(9, 5, 2),
        )
        plants.draw_wood(p.canvas, sheet, p.rng, p.day, rods)
        plants.draw_crown(
            p.canvas,
            sheet,
            p.rng,
            p.day,
            rods,
            leaf=p.rng.uniform(0.02, 0.05),
            count=int(p.rng.integers(700, 1800)),
            hue=p.rng.normal(0, 0.15),
            radius=0.12 * high,
        )
        p.add_sheet(sheet, p.branches(rods))


def flowers(p: Painter) -> None:
    """Flowers close to the camera, before a garden out of focus."""
    p.add(backgrounds.blurred_garden(p.canvas, p.rng, p.day))
    color = p.rng.uniform(0.3, 1.0, 3) ** 0.7
    for layer, blur in enumerate((p.rng.uniform(0.006, 0.014), 0.0)):
        count = int(p.rng.integers(3, 9))
        bases = np.stack([p.rng.uniform(-0.05, 1.05, count), np.full(count, 0.72)], 1)
        heights = p.rng.uniform(0.28, 0.62, count)
        tips = bases + np.stack([p.rng.normal(0, 0.09, count), -heights], 1)
        p.grass_row(0.7, p.rng.uniform(0.15, 0.4), 160 + 90 * layer, 0.7 * blur, 0.6)
        size = p.rng.uniform(0.035, 0.07)
        _add_flowers(p, bases, tips, size, color, 0.7 + 0.3 * layer, blur)
    if p.rng.random() < 0.4:
        p.grass_row(0.76, p.rng.uniform(0.15, 0.3), 40, 0.012, 1.0)


def branch(p: Painter) -> None:
    """A leafy branch that reaches into the picture, before a blurred garden or a sky."""
    if p.rng.random() < 0.3:
        p.add(backgrounds.sky(p.canvas, p.rng, p.day, 0.5))
    else:
        p.add(p.backdrop())
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
        p.add_sheet(sheet, p.branches(rods), p.rng.uniform(0, 0.012) if i == 0 else 0.0)


def strands(p: Painter) -> None:
    """Strands of leaves or blossoms that hang from above, as of a willow, before a wall or trees."""
    p.add(p.backdrop())
    color = p.rng.uniform(0.4, 1.0, 3)
    for layer in range(2):
        count = int(p.rng.integers(9, 18))
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
        lengths = np.linalg.norm(tips - bases, axis=1)
        sway = drive(
            p.rng,
            branch_fields(bases, tips, np.zeros(count), 0.015),
            lengths,
            slope=p.slope,
            resonances=0.4 / np.sqrt(lengths),
            delays=bases[:, 0] / p.speed,
        )
        p.add_sheet(sheet, ((sway, 0.6 + 0.4 * layer),), 0.004 * (1 - layer))


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
    cycles = p.rng.uniform(2, 7, 6)
    fields = np.concatenate(
        [
            gust_fields(near**0.8, (0.4 * c,), p.rng, (0.35, 1.0), 2.2 * c)
            for c in cycles
        ]
    )
    sizes = 1 / cycles
    sway = drive(
        p.rng, fields, sizes, slope=p.slope + 0.4, resonances=0.28 * np.sqrt(cycles), together=0.0
    )
    p.add(water, mask, ((sway, 1.0),))
    if p.rng.random() < 0.7:
        p.grass_row(0.74, p.rng.uniform(0.15, 0.45), int(p.rng.integers(60, 400)), 0.002, 0.8)


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
        waves = gust_fields(hang, tuple(p.rng.uniform(0.2, 3, 6)), p.rng, (1.0, 0.25), 3)
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
    back = np.where((y > floor)[..., None], backgrounds.ground(p.canvas, p.rng, p.day, floor - 0.15, "earth"), back)
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
            body = body * smoothstep(0.0, 0.004, y - foot - 0.01) * smoothstep(0.002, -0.002, y - floor - 0.03)
            wax = 0.25 + 0.75 * np.exp(-(y - foot) / 0.05) - 0.3 * ((x - spot) / half) ** 2
            tint = np.array([1.0, 0.8, 0.55]) * np.clip(wax, 0.05, 1.1)[..., None]
            color = color * (1 - body[..., None]) + tint.astype(np.float32) * body[..., None]
    p.add(color)
    for i in range(count):
        at = (float(spots[i]), float(feet[i]) + 0.008)
        flame, mask = things.flame(p.canvas, p.rng, at, sizes[i], wides[i])
        up = np.clip((at[1] - NODE_Y) / sizes[i], 0, 1.3) ** 1.5
        ways = [(1.0, 0.1), (1.0, -0.2), (0.1, 1.0), (0.8, 0.3)]
        fields = np.concatenate([gust_fields(up, (2.0,), p.rng, way, 4) for way in ways])
        sway = drive(
            p.rng, fields, np.array([1.0, 0.7, 0.9, 0.4]), slope=p.slope + 0.8,
            resonances=p.rng.uniform(1.0, 3.0, 4), together=0.2,
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
        tint = np.array([p.rng.uniform(0.7, 1.0), p.rng.uniform(0.15, 0.8), p.rng.uniform(0.1, 0.5)])
        color, mask = things.lantern(p.canvas, p.rng, at, radius, tint)
        cord = (np.abs(x - at[0]) < 0.0022) & (y < at[1] - 0.8 * radius)
        color = np.where((cord & (mask < 0.5))[..., None], (0.12, 0.1, 0.08), color)
        pivot, weight = np.array([[at[0], -0.12]]), at[None] + (0, radius)
        fields = branch_fields(pivot, weight, np.zeros(1))
        sway = drive(
            p.rng, fields, np.ones(1), slope=p.slope, resonances=p.rng.uniform(0.5, 0.9, 1)
        )
        p.add(color.astype(np.float32), np.maximum(mask, cord), ((sway, p.rng.uniform(0.5, 1.0)),))


WORLD: dict[str, Callable[[Painter], None]] = dict(
    meadow=meadow,
    tree=tree,
    shrub=shrub,
    flowers=flowers,
    branch=branch,
    strands=strands,
    lake=lake,
    cloth=cloth,
    flames=flames,
    lanterns=lanterns,
)


def make_scene(kind: str, seed: int, texels: int = 1024) -> Scene:
    """The scene of a kind and a seed, painted at `texels` per picture width."""
    rng = np.random.default_rng([seed, *kind.encode()])
    painter = Painter(rng, make_canvas(texels))
    WORLD[kind](painter)
    return Scene(layers=tuple(painter.layers))
