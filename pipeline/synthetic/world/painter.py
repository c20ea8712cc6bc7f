"""Collects the layers of a scene from back to front, and gives their motion its size."""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from pipeline.filters.lines import fit_lines
from pipeline.synthetic.render import WORKING_SIZE, Layer, Scene
from pipeline.synthetic.world import backgrounds, plants
from pipeline.synthetic.world.canvas import Canvas, Color, Gray, Sheet, smoothstep
from pipeline.synthetic.world.light import make_day
from pipeline.synthetic.world.statistics import draw_real
from pipeline.synthetic.world.sway import (
    COLUMNS,
    NODES,
    ROWS,
    Sway,
    branch_fields,
    drive,
    gust_fields,
    unfold,
)

NODE_X, NODE_Y = NODES
_SLOPE_OFFSET = 0.5
"""By which the power of a weight falls less steeply than that of the displacement in a window: the
resonances and the slow waves make it steeper.
"""
_FLATTEST_SLOPE = -0.3
"""Flatter measured ones are those of the noise of the flow."""
Sways = tuple[tuple[Sway, float], ...]
"""Parts of a layer's motion, each with its size as a share of the scene's."""


_EXPOSURES = (0.85, 2.0)


class _Painted(NamedTuple):
    """A layer before it is photographed."""

    color: Color
    alpha: Gray
    sways: Sways
    blur: float


class Painter:
    """The layers of a scene, as they are painted. The size and the spectrum of the sway are drawn
    from what real clips do (statistics.py), and so is the brightness of the picture.
    """

    def __init__(self, rng: np.random.Generator, canvas: Canvas):
        self.rng, self.canvas, self.day = rng, canvas, make_day(rng)
        self.sway_px = draw_real(rng, "sway_px")
        self.slope = min(draw_real(rng, "power_slope") + _SLOPE_OFFSET, _FLATTEST_SLOPE)
        self.speed = float(rng.uniform(0.25, 1.0) * rng.choice([-1, 1]))
        """Of gusts across the picture, picture widths a second."""
        self.brightness = draw_real(rng, "brightness")
        self.sheets: list[_Painted] = []

    def add(
        self, color: Color, mask: Gray | None = None, sways: Sways = (), blur: float = 0.0
    ) -> None:
        """Adds a layer: its colors, its mask (everything if there is none), its motion, and its
        blur in picture widths.
        """
        alpha = np.ones(color.shape[:2], np.float32) if mask is None else mask.astype(np.float32)
        self.sheets.append(_Painted(np.asarray(color, np.float32), alpha, sways, blur))

    def add_sheet(self, sheet: Sheet, sways: Sways = (), blur: float = 0.0) -> None:
        """Adds a sheet of strokes, with fine detail."""
        detail = 1 + 0.07 * self.canvas.noise(self.rng, 60, 4, 0.9)
        color = cv2.multiply(sheet[..., :3], cv2.merge([detail / 255] * 3), dtype=cv2.CV_32F)
        self.add(color, sheet[..., 3] / np.float32(255), sways, blur)

    def finish(self) -> Scene:
        """The scene as a camera sees it: with the exposure that gives the picture its brightness,
        and all motion scaled so that what sways most sways by `sway_px`, but by less if a layer
        would fold over.
        """
        exposure = self._meter()
        textures = [self._develop(sheet, exposure) for sheet in self.sheets]
        covered = [_at_nodes(texture[..., 3]) > 127 for texture in textures]
        motions = [
            [sway.scaled(share / max(sway.size(nodes), 1e-9)) for sway, share in sheet.sways]
            if nodes.any()
            else []
            for sheet, nodes in zip(self.sheets, covered, strict=True)
        ]
        sway_px = self._sway_px(covered, motions)
        factor = self.sway_px / sway_px if sway_px > 0 else 0.0
        modes = [unfold([sway.scaled(factor) for sway in sways]) for sways in motions]
        layers = zip(textures, modes, strict=True)
        return Scene(layers=tuple(Layer(texture=t, modes=m) for t, m in layers))

    def _meter(self) -> float:
        """The exposure that gives the picture its mean brightness, within what a photographer
        would do: a night stays dark.
        """
        picture = np.zeros((ROWS, COLUMNS), np.float32)
        for sheet in self.sheets:
            gray, alpha = cv2.cvtColor(sheet.color, cv2.COLOR_RGB2GRAY), _at_nodes(sheet.alpha)
            picture += alpha * (_at_nodes(gray) - picture)
        mean = float(np.clip(picture[_INSIDE], 0, 1).mean())
        return float(np.clip(self.brightness / 255 / (mean + 1e-3), *_EXPOSURES))

    def _develop(self, sheet: "_Painted", exposure: float) -> np.ndarray:
        """The texture of a layer."""
        graded = self.day.grade(sheet.color, self.canvas, exposure)
        levels = cv2.merge([sheet.alpha * np.float32(255)] * 3)
        rgba = cv2.merge([*cv2.split(cv2.multiply(graded, levels)), levels[..., 0]])
        return self.canvas.blur(rgba, max(sheet.blur, 0.0007))

    def _sway_px(self, covered: list[np.ndarray], motions: list[list[Sway]]) -> float:
        """How far what sways most would sway, pixels at 256 wide."""
        front = np.zeros((ROWS, COLUMNS), int)
        for index, nodes in enumerate(covered):
            front[nodes] = index
        times = np.arange(0, 5, 1 / 10)
        motion = [np.zeros((len(times), 2, 1), np.float32)]
        for index, sways in enumerate(motions):
            seen = (front == index) & _INSIDE
            for i, sway in enumerate(sways):
                weights = sway.weights(times).T.astype(np.float32)
                part = np.moveaxis(np.tensordot(weights, sway.fields[:, seen], 1), 2, 1)
                motion.append(part if i == 0 else motion.pop() + part)
        return WORKING_SIZE[0] * _largest_sway(np.concatenate(motion, -1), int(_INSIDE.sum()))

    def rods(
        self,
        rods: plants.Rods,
        share: float = 1.0,
        pitch: float = 0.2,
        flutter: float = 0.15,
        direct: float = 0.25,
    ) -> Sways:
        """The sway of a plant's rods, of which one picture width long swings at `pitch` Hz, and the
        flutter of its leaves (`drive` explains `direct`). The stronger the wind, the more do
        neighbors go together.
        """
        moving = rods.moving()
        lengths = np.linalg.norm(moving.tips - moving.bases, axis=1)
        softness = 0.02 * (1 + self.sway_px / 4)
        fields = branch_fields(moving.bases, moving.tips, moving.levels, softness)
        sway = drive(
            self.rng,
            fields,
            lengths * np.array([0.6, 1.0, 1.2])[moving.levels.astype(int)],
            slope=self.slope,
            resonances=pitch / lengths**0.6 * self.rng.uniform(0.85, 1.15, len(lengths)),
            direct=direct,
            delays=moving.bases[:, 0] / self.speed,
        )
        if not flutter:
            return ((sway, share),)
        free = smoothstep(0.0, 0.25, np.linalg.norm(fields, axis=-1).max(0))
        return (sway, share), (self.flutter(free), flutter * share)

    def flutter(self, profile: np.ndarray) -> Sway:
        """Small quick motion of leaves, in all directions."""
        angles = self.rng.uniform(0, 6.28, 6)
        fields = np.concatenate(
            [
                gust_fields(profile, (c,), self.rng, (np.cos(a), np.sin(a)), 6.0)
                for c, a in zip(self.rng.uniform(3, 9, 6), angles, strict=True)
            ]
        )
        peaks = self.rng.uniform(1.2, 3.0, 6)
        return drive(self.rng, fields, np.ones(6), slope=-0.5, resonances=peaks, together=0.2)

    def gusts(self, profile: np.ndarray, resonance: float) -> Sway:
        """The sway of many stems side by side. The stronger the wind, the longer are its gusts."""
        waves = (0.0, *self.rng.uniform(0.2, 4 / (1 + self.sway_px / 4), 7))
        lift = self.rng.normal(-0.25, 0.45, 8)
        fields = np.concatenate(
            [
                gust_fields(profile, (c,), self.rng, (1.0, y))
                for c, y in zip(waves, lift, strict=True)
            ]
        )
        sizes = 1 / (1 + np.array(waves))
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


_INSIDE = (abs(NODE_X - 0.5) < 0.5) & (abs(NODE_Y - 0.3125) < 0.3125)
"""The nodes within the picture."""


def _at_nodes(image: Gray) -> Float[np.ndarray, "node_rows node_columns"]:
    """The values of a canvas at the nodes of the fields."""
    return cv2.resize(image, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA)


def _largest_sway(motion: np.ndarray, nodes: int) -> float:
    """The measure `sway_px` of pipeline/filters/motion.py: what 1 % of all `nodes` exceed, of a
    motion [time, 2, points] of those that move; or a tenth of these, if they are few.
    """
    centered = motion - motion.mean(axis=0)
    energies = np.square(centered).sum(axis=(0, 1))
    trends, _ = fit_lines(centered)
    sways = np.sort(np.sqrt(2 * np.maximum(energies - trends, 0) / len(motion)))
    return float(sways[-max(1, min(nodes // 100, len(sways) // 10))])
