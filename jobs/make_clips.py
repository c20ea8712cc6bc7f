"""Writes a small set of videos of swaying things, with their true motion: the demo's input and the
tests' ground truth.

    quiver make-clips --out data/clips

The set holds good clips at 24, 25, 30 and 50 frames a second and at a varying rate, and four that a
dataset run has to turn away: a panning camera, a hard cut, a still scene and a damaged file.
`clips.csv` beside them lists all.
"""

import csv
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from jobs.cli.args import parse_args
from jobs.cli.console import print_output
from jobs.cli.errors import error_boundary
from pipeline.sizes import human_size
from pipeline.synthetic import render
from pipeline.synthetic.render import Layer, Scene
from pipeline.synthetic.scenes import SCENES

WINDOW_S = 5.0


@dataclass(frozen=True, kw_only=True)
class MakeClips:
    """Writes synthetic videos of swaying things with known motion, their truth, and clips.csv."""

    out: Path
    """Folder to write to; made if it is not there."""
    seconds: float = 8.0
    """Length of the good clips; truth covers the first 5 s."""
    only: tuple[str, ...] | None = None
    """Names of the clips to write; without any, all."""
    fps: float | None = None
    """Frames a second of all, which their names then say; without a number, each its own."""
    seed: int = 0
    """Of everything that is drawn by chance; the same seed gives the same bytes."""
    processes: int = 2
    """Clips made at the same time."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    scene: Callable[[np.random.Generator], Scene]
    fps: float | None
    """Frames a second; None: varying from 20 to 45."""
    has_truth: bool = True
    duration_share: float = 1.0
    """As a share of `seconds`."""
    kept_bytes_share: float = 1.0
    """Share of the file's bytes that is kept; under 1 the index at its end is lost."""


def _panned_scene(rng: np.random.Generator) -> Scene:
    """Ripples, from a camera that turns slowly: 6 px of displacement on average over a window."""
    return replace(SCENES["ripples"](rng), pan_px_per_s=(2.2, 0.5))


def _cut_scene(rng: np.random.Generator) -> Scene:
    """Cloth, and from 3 s on ripples."""
    return replace(SCENES["cloth"](rng), cut_to=(3.0, SCENES["ripples"](rng)))


def _still_scene(rng: np.random.Generator) -> Scene:
    """A plant on a calm day; only the camera's noise moves."""
    layers = tuple(Layer(texture=layer.texture) for layer in SCENES["plant"](rng).layers)
    return Scene(layers=layers, grain=1.5)


RECIPES = {
    "lantern-50fps": Recipe(scene=SCENES["lantern"], fps=50),
    "reeds-25fps": Recipe(scene=SCENES["reeds"], fps=25),
    "plant-30fps": Recipe(scene=SCENES["plant"], fps=30),
    "cloth-24fps": Recipe(scene=SCENES["cloth"], fps=24),
    "ripples-vfr": Recipe(scene=SCENES["ripples"], fps=None),
    "pan-30fps": Recipe(scene=_panned_scene, fps=30, duration_share=0.75),
    "cut-30fps": Recipe(scene=_cut_scene, fps=30, has_truth=False, duration_share=0.75),
    "still-30fps": Recipe(scene=_still_scene, fps=30, has_truth=False, duration_share=0.75),
    "damaged-30fps": Recipe(
        scene=SCENES["ripples"], fps=30, has_truth=False, duration_share=0.25, kept_bytes_share=0.6
    ),
}


def main(args: list[str] | None = None) -> None:
    """Runs the job; a wrong request ends it with one sentence and exit code 2."""
    with error_boundary():
        config = parse_args(MakeClips, "quiver make-clips", args)
        _check_job(config)
        _run_job(config)


def _check_job(config: MakeClips) -> None:
    """Raises ValueError, naming the value and what was expected, for a request that cannot be met."""
    if not WINDOW_S <= config.seconds <= 600:
        raise ValueError(f"--seconds is {config.seconds:g}, expected 5 (one window) to 600")
    if config.fps is not None and not 1 <= config.fps <= 1000:
        raise ValueError(f"--fps is {config.fps:g}, expected 1 to 1000")
    if config.seed < 0:
        raise ValueError(f"--seed is {config.seed}, expected 0 or more")
    if config.processes < 1:
        raise ValueError(f"--processes is {config.processes}, expected 1 or more")
    unknown = [name for name in config.only or () if name not in RECIPES]
    if unknown or config.only == ():
        raise ValueError(
            f"--only names {', '.join(map(repr, unknown)) or 'nothing'}, expected some of {', '.join(RECIPES)}"
        )


def _run_job(config: MakeClips) -> None:
    """Writes the clips, a few at a time, and then the list of them."""
    names = tuple(RECIPES) if config.only is None else config.only
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        _write_clip_list(
            config.out / "clips.csv", [clip_name_at(name, config.fps) for name in names]
        )
    except OSError as error:
        raise ValueError(
            f"--out is {config.out}, expected a folder that can be written to ({error.strerror})"
        ) from None
    with ProcessPoolExecutor(
        min(config.processes, len(names)), mp_context=get_context("spawn")
    ) as pool:
        for line in pool.map(make_clip, names, [config] * len(names)):
            print_output(line)
    print_output(f"{len(names)} clips are in {config.out}, listed in {config.out / 'clips.csv'}")


def clip_name_at(name: str, fps: float | None) -> str:
    """`reeds-25fps` at 30 frames a second is `reeds-30fps`."""
    return name if fps is None else f"{name.rpartition('-')[0]}-{fps:g}fps"


def _write_clip_list(path: Path, names: Sequence[str]) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["uri", "clip_id", "source", "licence"])
        rows.writerows(
            [f"{name}.mp4", name, f"quiver-synthetic/{name}", "CC0-1.0"] for name in names
        )


def make_clip(name: str, config: MakeClips) -> str:
    """Writes NAME.mp4 and, where there is one, NAME.truth.safetensors; returns a line that says so."""
    import cv2  # not above: `jobs` must come first, which says what brings it if it is missing

    cv2.setNumThreads(1)
    recipe, rng = RECIPES[name], np.random.default_rng([config.seed, *name.encode()])
    scene, times = (
        recipe.scene(rng),
        timestamps(config.fps or recipe.fps, config.seconds * recipe.duration_share, rng),
    )
    name = clip_name_at(name, config.fps)
    path = config.out / f"{name}.mp4"
    render.write_clip(path, scene, times)
    if recipe.kept_bytes_share < 1:
        path.write_bytes(path.read_bytes()[: int(recipe.kept_bytes_share * path.stat().st_size)])
    if recipe.has_truth:
        render.write_truth(config.out / f"{name}.truth.safetensors", scene)
    return f"{name}: {len(times)} frames, {human_size(path.stat().st_size)}" + (
        ", with truth" if recipe.has_truth else ""
    )


def timestamps(fps: float | None, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Presentation times from 0, seconds, in whole ticks of the file's clock."""
    if fps is not None:
        return np.arange(round(seconds * fps)) / fps
    gaps = np.cumsum(rng.uniform(1 / 45, 1 / 20, int(seconds * 45)))
    times = np.concatenate([[0.0], gaps[gaps < seconds]])
    return np.rint(times * render.TICKS_PER_SECOND) / render.TICKS_PER_SECOND


if __name__ == "__main__":
    main()
