"""Paints scenes: a contact sheet, X-t slices of each kind, and how many scenes a second.

    python -m benchmarks.painted_scenes FOLDER [--count 24] [--width 256] [--seed 0]

FOLDER gets contact.png, and motion.png with a line per kind: the first frame with a bright line, a
later frame, the X-t slice along the line, and the mean displacement.
"""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

from pipeline.extract.config import BuildConfig
from pipeline.images.draw import heat_map, most_moving_row
from pipeline.synthetic.render import ASPECT, render_frame
from pipeline.synthetic.world.dataset import (
    build_scene_window,
    iter_known_motion,
    paint_first_frame,
    plan_scenes,
)
from pipeline.synthetic.world.scenes import WORLD, make_scene
from schemas.sample import encode_sample

COLUMNS = 6


def paint_contact_sheet(count: int, width: int, seed: int) -> np.ndarray:
    """The first frames of `count` scenes, the kinds in turn, in rows of COLUMNS."""
    size = (width, round(width * ASPECT))
    kinds = list(WORLD)
    scenes = [(kinds[i % len(kinds)], seed + i // len(kinds)) for i in range(count)]
    pictures = [paint_first_frame(make_scene(*scene, 2 * width), size) for scene in scenes]
    pictures += [np.zeros_like(pictures[0])] * (-count % COLUMNS)
    rows = [pictures[i : i + COLUMNS] for i in range(0, len(pictures), COLUMNS)]
    return np.vstack([np.hstack(row) for row in rows])


def paint_motion(kind: str, seed: int, width: int) -> np.ndarray:
    """The line of motion.png of one kind."""
    size, times = (width, round(width * ASPECT)), np.arange(150) / 30
    scene = make_scene(kind, seed, 2 * width)
    motion = np.concatenate(list(iter_known_motion(scene, times, size)))
    weight = np.linalg.norm(motion, axis=1).mean(axis=0)
    row = most_moving_row(weight, size[1])
    frames = [render_frame(scene, t, size) for t in times[::5]]
    slices = cv2.resize(np.stack([f[row] for f in frames]), size, interpolation=cv2.INTER_NEAREST)
    marked = frames[0].copy()
    marked[row] = 255
    return np.hstack(
        [marked, frames[-1], slices, heat_map(weight, float(np.percentile(weight, 99.5)))]
    )


def measure_speed(count: int, width: int) -> None:
    """Prints the time of a scene of each kind, from its seed to the bytes of its sample."""
    config = BuildConfig(size=(width, round(width * 0.5625)), pairs=1, damp=False)
    seconds = []
    for row in plan_scenes(tuple(WORLD), count, 7, config):
        began = time.process_time()
        sample = build_scene_window(row, config).sample
        assert sample
        size = sum(map(len, encode_sample(sample).values()))
        seconds.append(time.process_time() - began)
        print(f"{row.uri}: {seconds[-1]:.2f} s, {size / 1e6:.1f} MB")
    print(
        f"{config.size[0]}x{config.size[1]}: {1 / np.mean(seconds):.2f} scenes a second of a core"
    )


def main() -> None:
    """Writes the pictures and prints the times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    sheet = paint_contact_sheet(options.count, options.width, options.seed)
    motion = np.vstack([paint_motion(kind, options.seed, options.width) for kind in WORLD])
    for name, picture in (("contact", sheet), ("motion", motion)):
        cv2.imwrite(str(options.folder / f"{name}.png"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    measure_speed(2 * len(WORLD), options.width)


if __name__ == "__main__":
    main()
