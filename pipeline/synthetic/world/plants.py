"""Plants: what they look like, and the rods by which they sway."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

from pipeline.synthetic.world.canvas import Canvas, Sheet, blade_polygons, leaf_polygons
from pipeline.synthetic.world.light import Day

_LEVELS_THAT_MOVE = 3


@dataclass(frozen=True, eq=False)
class Rods:
    """The branches of a plant."""

    bases: Float[np.ndarray, "rods 2"]
    tips: Float[np.ndarray, "rods 2"]
    widths: Float[np.ndarray, " rods"]
    """Half the width at the base, picture widths."""
    levels: Num[np.ndarray, " rods"]
    """0 for the trunk, then one more with each fork."""

    def moving(self) -> "Rods":
        """Those that sway by themselves; finer ones are carried."""
        chosen = self.levels < _LEVELS_THAT_MOVE
        return Rods(*(part[chosen] for part in vars(self).values()))


def grow(
    rng: np.random.Generator,
    base: tuple[float, float],
    length: float,
    *,
    angle: float = -np.pi / 2,
    spread: float = 0.6,
    forks: tuple[int, ...] = (5, 4, 3),
    droop: float = 0.0,
) -> Rods:
    """A tree whose branches are trees: each rod carries `forks[level]` shorter ones, which leave it
    at angles around `spread` and bow down by `droop`.
    """
    rods: list[tuple] = []

    def sprout(at: np.ndarray, angle: float, length: float, width: float, level: int) -> None:
        tip = at + length * np.array([np.cos(angle), np.sin(angle)])
        rods.append((at, tip, width, level))
        if level == len(forks):
            return
        for i in range(forks[level]):
            share = 0.35 + 0.65 * (i + rng.random()) / forks[level]
            side = -1 if i % 2 else 1
            turn = side * spread * rng.uniform(0.6, 1.3) * (1.15 - 0.6 * share)
            turned = angle + turn
            turned += droop * np.cos(turned)  # towards the ground
            child = length * rng.uniform(0.5, 0.72) * (1.1 - 0.35 * share)
            sprout(at + share * (tip - at), turned, child, 0.55 * width, level + 1)

    sprout(np.asarray(base, float), angle, length, 0.035 * length + 0.002, 0)
    return Rods(*(np.array(column) for column in zip(*rods, strict=True)))


def grow_shrub(rng: np.random.Generator, base: tuple[float, float], length: float) -> Rods:
    """Several stems that fan out from one root, each a small tree."""
    angles = -np.pi / 2 + np.linspace(-0.9, 0.9, int(rng.integers(4, 7)))
    stems = [
        grow(rng, base, length * rng.uniform(0.6, 1), angle=a, spread=0.7, forks=(4, 3))
        for a in angles + rng.normal(0, 0.12, len(angles))
    ]
    columns = zip(*(vars(stem).values() for stem in stems), strict=True)
    return Rods(*map(np.concatenate, columns))


def draw_wood(canvas: Canvas, sheet: Sheet, rng: np.random.Generator, day: Day, rods: Rods) -> None:
    """Draws branches, each with a lit and a shaded side, and bark."""
    order = np.argsort(-rods.levels, kind="stable")
    bases, tips, widths = rods.bases[order], rods.tips[order], rods.widths[order]
    bow = rng.normal(0, 0.05, len(bases))
    side = np.stack([-(tips - bases)[:, 1], (tips - bases)[:, 0]], -1)
    side /= np.linalg.norm(side, axis=1, keepdims=True) + 1e-9
    facing = side @ np.asarray(day.direction)
    for shift, light in ((0.0, 0.35), (0.35, 0.75)):
        offset = (shift * widths * np.sign(facing))[:, None] * side
        shade = np.full(len(bases), light) + rng.normal(0, 0.05, len(bases))
        colors = day.lit(np.outer(shade, day.earth[1]) * 0.9, shade)
        wide = np.maximum(widths * (1 - 0.6 * shift), 0.0012)
        draw_blades = blade_polygons(bases + offset, tips + offset, wide, bow)
        canvas.draw(sheet, draw_blades, colors)


def draw_crown(
    canvas: Canvas,
    sheet: Sheet,
    rng: np.random.Generator,
    day: Day,
    rods: Rods,
    *,
    leaf: float,
    count: int,
    hue: float = 0.0,
    radius: float = 0.06,
) -> None:
    """Draws `count` leaves of length `leaf` in clusters around the outer branches. Leaves on the
    sun's side of a cluster and of the whole crown are bright, those deep inside dark.
    """
    outer = rods.levels >= max(1, rods.levels.max() - 1)
    bases, tips = rods.bases[outer], rods.tips[outer]
    cluster = rng.integers(0, len(tips), count)
    depth = rng.random(count)
    offset = rng.normal(0, 1, (count, 2))
    offset /= np.maximum(1, np.linalg.norm(offset, axis=1, keepdims=True) / 1.6)
    along = rng.uniform(0.3, 1.1, count)[:, None]
    centers = bases[cluster] + along * (tips - bases)[cluster] + radius * offset
    middle, size = centers.mean(0), centers.std(0) + 1e-3
    sun = np.asarray(day.direction)
    local = (offset @ sun) / 1.6
    whole = np.clip(((centers - middle) / size) @ sun / 2, -1, 1)
    tone = rng.normal(0, 0.1, len(tips))[cluster]
    shade = np.clip(0.18 + 0.4 * depth + 0.2 * local + 0.2 * whole + tone, 0, 1)
    order = np.argsort(depth + 0.2 * local, kind="stable")
    angles = rng.uniform(0, 2 * np.pi, count)
    lengths = leaf * rng.uniform(0.6, 1.3, count)
    polygons = leaf_polygons(centers, angles, lengths, lengths * rng.uniform(0.2, 0.42, count))
    canvas.draw(sheet, polygons[order], day.foliage(rng, shade, hue)[order])


def draw_frond(
    canvas: Canvas,
    sheet: Sheet,
    rng: np.random.Generator,
    day: Day,
    base: np.ndarray,
    tip: np.ndarray,
    *,
    leaf: float,
    bow: float,
    shade: float,
) -> None:
    """Draws a frond from `base` to `tip`: a midrib that bows by a share `bow` of its length, and
    leaves up to `leaf` long on both sides, shorter towards the tip.
    """
    s = np.linspace(0.12, 1, max(8, round(np.hypot(*(tip - base)) / 0.014)))
    along, across = tip - base, np.array([base[1] - tip[1], tip[0] - base[0]])
    spine = base + s[:, None] * along + (bow * s**2)[:, None] * across
    slope = along + (2 * bow * s)[:, None] * across
    angles = np.arctan2(slope[:, 1], slope[:, 0])
    lengths = leaf * np.sqrt(np.sin(np.pi * (0.12 + 0.85 * s))) * rng.uniform(0.85, 1.1, len(s))
    canvas.draw(
        sheet,
        blade_polygons(base[None], tip[None], np.array([0.003]), np.array([bow])),
        day.foliage(rng, np.array([0.3])),
    )
    for side in (-1, 1):
        turned = angles + side * (1.15 - 0.5 * s) + rng.normal(0, 0.05, len(s))
        facing = np.stack([np.cos(turned), np.sin(turned)], 1) @ np.asarray(day.direction)
        polygons = leaf_polygons(spine, turned, lengths, 0.16 * lengths + 0.001)
        canvas.draw(sheet, polygons, day.foliage(rng, shade + 0.15 * facing))


def draw_grass(
    canvas: Canvas,
    sheet: Sheet,
    rng: np.random.Generator,
    day: Day,
    *,
    line: float,
    high: float,
    count: int,
    width: float,
    hue: float = 0.0,
    light: float = 1.0,
) -> None:
    """Draws blades of grass with their roots around y = `line`, up to `high` long, in patches."""
    roots = np.stack(
        [rng.uniform(-0.13, 1.13, count), line + rng.uniform(0, 0.35, count) * high], 1
    )
    roots = roots[np.argsort(roots[:, 1], kind="stable")]
    patch = np.sin(roots[:, 0] * rng.uniform(9, 25) + rng.uniform(0, 6)) * 0.12
    length = high * rng.uniform(0.45, 1.05, count) * (1 + patch)
    lean = rng.normal(0.05, 0.3, count)
    tips = roots + np.stack([np.sin(lean), -np.cos(lean)], 1) * length[:, None]
    shade = np.clip(rng.beta(2, 2, count) * light + patch, 0, 1)
    polygons = blade_polygons(
        roots, tips, width * rng.uniform(0.6, 1.3, count), rng.normal(0, 0.25, count)
    )
    canvas.draw(sheet, polygons, day.foliage(rng, shade, hue))


def draw_flower(
    canvas: Canvas,
    sheet: Sheet,
    rng: np.random.Generator,
    day: Day,
    at: np.ndarray,
    size: float,
    color: np.ndarray,
    petals: int,
) -> None:
    """Draws a blossom that is seen a little from above: petals, a darker ring, and its middle."""
    sun = np.asarray(day.direction)
    tilt, turn = rng.uniform(0.5, 0.95), rng.uniform(0, 6.28)
    angles = turn + np.arange(petals) * 2 * np.pi / petals + rng.normal(0, 0.08, petals)
    facing = np.stack([np.cos(angles), np.sin(angles)], 1) @ sun
    order = np.argsort(np.sin(angles), kind="stable")
    shade = np.clip(0.75 + 0.22 * facing + rng.normal(0, 0.06, petals), 0, 1.2)
    for ring, bright in ((1.0, 1.0), (0.5, 0.8)):  # the inner half of a petal is darker
        lengths = np.full(petals, size * ring)
        widths = lengths * 2.7 / petals / ring**0.5
        shapes = leaf_polygons(np.zeros((petals, 2)), angles, lengths, widths) * (1, tilt) + at
        colors = day.lit(np.asarray(color) * (bright * shade)[:, None], shade)
        canvas.draw(sheet, shapes[order], colors[order])
    dots = rng.normal(0, 0.09 * size, (14, 2)) * (1, tilt) + at
    middle = leaf_polygons(
        dots, rng.uniform(0, 6, 14), np.full(14, 0.22 * size), np.full(14, 0.1 * size)
    )
    tones = rng.uniform(0.5, 1.1, (14, 1)) * np.array([0.85, 0.62, 0.15])
    canvas.draw(sheet, middle, day.lit(tones, np.ones(14)))
