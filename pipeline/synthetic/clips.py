"""The clips that `quiver make-clips` writes: good ones at several frame rates, four that an
extraction has to reject or quarantine, and by name those of painted scenes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from pipeline.sizes import human_size
from pipeline.synthetic.render import TICKS_PER_SECOND, Layer, Scene, write_clip, write_truth
from pipeline.synthetic.scenes import SCENES
from pipeline.synthetic.world.scenes import WORLD, make_scene

WINDOW_S = 5.0
"""Seconds of one window, which the truth of a clip covers."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a clip is made."""

    scene: Callable[[np.random.Generator], Scene]
    fps: float | None
    """Frames per second; None if the rate varies from 20 to 45."""
    has_truth: bool = True
    duration_share: float = 1.0
    """Length as a share of the length that is asked for."""
    kept_bytes_share: float = 1.0
    """Share of the file's bytes that is kept; under 1 the index at its end is lost."""


def _panned_scene(rng: np.random.Generator) -> Scene:
    """Ripples, from a camera that turns slowly: 6 px of displacement on average over a window."""
    return replace(SCENES["ripples"](rng), pan_px_per_s=(2.2, 0.5))


def _cut_scene(rng: np.random.Generator) -> Scene:
    """Cloth, and ripples from 3 s on."""
    return replace(SCENES["cloth"](rng), cut_to=(3.0, SCENES["ripples"](rng)))


def _still_scene(rng: np.random.Generator) -> Scene:
    """A plant on a calm day; only the camera's noise moves."""
    layers = tuple(Layer(texture=layer.texture) for layer in SCENES["plant"](rng).layers)
    return Scene(layers=layers, grain=1.5)


RECIPES = {
    "lantern-50fps": Recipe(scene=SCENES["lantern"], fps=50.0),
    "reeds-25fps": Recipe(scene=SCENES["reeds"], fps=25.0),
    "plant-30fps": Recipe(scene=SCENES["plant"], fps=30.0),
    "cloth-24fps": Recipe(scene=SCENES["cloth"], fps=24.0),
    "ripples-vfr": Recipe(scene=SCENES["ripples"], fps=None),
    "pan-30fps": Recipe(scene=_panned_scene, fps=30.0, duration_share=0.75),
    "cut-30fps": Recipe(scene=_cut_scene, fps=30.0, has_truth=False, duration_share=0.75),
    "still-30fps": Recipe(scene=_still_scene, fps=30.0, has_truth=False, duration_share=0.75),
    "damaged-30fps": Recipe(
        scene=SCENES["ripples"],
        fps=30.0,
        has_truth=False,
        duration_share=0.25,
        kept_bytes_share=0.6,
    ),
}


def _paint_world(kind: str, rng: np.random.Generator) -> Scene:
    """A painted scene of the outdoors (pipeline/synthetic/world)."""
    return make_scene(kind, int(rng.integers(1_000_000)))


WORLD_RECIPES = {
    f"{kind}-30fps": Recipe(scene=partial(_paint_world, kind), fps=30.0) for kind in WORLD
}
"""Clips of painted scenes, which are made only if they are asked for by name: `cloth-30fps` is of
the world, `cloth-24fps` of RECIPES.
"""


def make_clip(
    name: str, folder: Path, *, seconds: float, fps: float | None = None, seed: int = 0
) -> str:
    """Writes the clip of the recipe `name`, of either table, to `folder`, and its truth as
    NAME.truth.safetensors if it has one; returns a line that says so.

    `fps` replaces the recipe's frame rate, also in the file's name. Equal seeds give equal bytes.
    """
    cv2.setNumThreads(1)
    recipe, rng = (RECIPES | WORLD_RECIPES)[name], np.random.default_rng([seed, *name.encode()])
    scene = recipe.scene(rng)
    times = timestamps(fps or recipe.fps, seconds * recipe.duration_share, rng)
    name = clip_name_at(name, fps)
    path = folder / f"{name}.mp4"
    write_clip(path, scene, times)
    if recipe.kept_bytes_share < 1:
        path.write_bytes(path.read_bytes()[: int(recipe.kept_bytes_share * path.stat().st_size)])
    if recipe.has_truth:
        write_truth(folder / f"{name}.truth.safetensors", scene)
    ending = ", with truth" if recipe.has_truth else ""
    return f"{name}: {len(times)} frames, {human_size(path.stat().st_size)}{ending}"


def clip_name_at(name: str, fps: float | None) -> str:
    """The name of a clip at another frame rate: `reeds-25fps` at 30 is `reeds-30fps`."""
    return name if fps is None else f"{name.rpartition('-')[0]}-{fps:g}fps"


def timestamps(fps: float | None, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Presentation times from 0, in seconds; whole ticks of the file's clock if the rate varies."""
    if fps is not None:
        return np.arange(round(seconds * fps)) / fps
    times = np.cumsum(rng.uniform(1 / 45, 1 / 20, int(seconds * 45)))
    times = np.concatenate([[0.0], times[times < seconds]])
    return np.rint(times * TICKS_PER_SECOND) / TICKS_PER_SECOND
