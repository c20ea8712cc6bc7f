"""Moves a photograph as a video does: python examples/move_photograph.py PHOTO VIDEO OUT.gif

Photograph and video should show the same kind of thing in the same place, as a tree in the middle.
"""

import sys
from pathlib import Path

import numpy as np

from model.render import animate
from pipeline.extract.config import BuildConfig
from pipeline.filters import PRESETS
from pipeline.images.encode import write_animation
from pipeline.images.photo import read_photograph, shrink_to_width
from pipeline.whole_clip.first_window import motion_of_video
from schemas.spectral_volume import SpectralVolume


def main(photo: str, video: str, out: str, fps: float = 25.0) -> None:
    """Writes a loop of 4 s, 640 pixels wide at most."""
    config = BuildConfig(thresholds=PRESETS["none"])
    motion = motion_of_video(Path(video), config)
    volume = SpectralVolume(
        spectrum=motion.sample.spectrum.astype(np.float32),
        fps=config.plan.fps,
        frames=motion.frames,
        provenance={"video": video},
    )
    picture = shrink_to_width(read_photograph(Path(photo)), 640)
    frames = animate(picture, volume, seconds=4.0, fps=fps, loop="snap")
    write_animation(Path(out), frames, fps)
    print(f"{out}: a loop of 4 s")


if __name__ == "__main__":
    main(*sys.argv[1:])
