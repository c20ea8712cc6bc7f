"""Measures what --stabilize does to scenes of known motion, and to clips: a Markdown table.

python -m benchmarks.stabilize [CLIP ...]

Without clips, procedural scenes are filmed by a still, a shaken and a turning camera, and the error
of the spectrum is that against the truth of the scene before a still camera, over the pixels whose
truth can be trusted. The shake is a smooth random shift with some rotation and zoom, applied to the
rendered frames. Each verdict is that of the default preset.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from benchmarks.filter_thresholds import TIMES, film, scene, table, truth, verdict
from benchmarks.windows import first_window
from pipeline.extract.config import BuildConfig
from pipeline.extract.window import measure_window, synchronize
from pipeline.motion.spectrum import to_spectrum
from pipeline.synthetic.render import (
    VIDEO_SIZE,
    WORKING_SIZE,
    Scene,
    render_frame,
    trusted_mask,
)

FRAMES = 156
SMOOTHED_FRAMES = 6
"""Standard deviation of the Gaussian that makes white noise a hand: most of the shake is under
1 Hz.
"""
ROTATION, ZOOM = 0.003, 0.003
"""Root mean square of the angle, radians, and of the relative change in size, per px of shift."""


def resting_behind(subject: Scene) -> Scene:
    """Returns the same scene with its rearmost layer at rest."""
    back, *front = subject.layers
    return replace(subject, layers=(replace(back, modes=()), *front))


def shake_path(px: float, seed: int) -> np.ndarray:
    """Returns shift x and y (pixels at 256 wide), angle and growth of each frame, from 0 at the
    first.
    """
    noise = np.random.default_rng(seed).standard_normal((FRAMES, 4))
    smooth = gaussian_filter1d(noise, SMOOTHED_FRAMES, axis=0, mode="wrap")
    smooth = (smooth - smooth.mean(axis=0)) / smooth.std(axis=0)
    path = px * smooth * [2**-0.5, 2**-0.5, ROTATION, ZOOM]
    return path - path[0]


def shaken(image: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Returns the picture as the shaken camera sees it."""
    x, y, angle, growth = pose
    matrix = cv2.getRotationMatrix2D(
        ((VIDEO_SIZE[0] - 1) / 2, (VIDEO_SIZE[1] - 1) / 2), np.degrees(angle), 1 + growth
    )
    matrix[:, 2] += np.array([x, y]) * VIDEO_SIZE[0] / WORKING_SIZE[0]
    return cv2.warpAffine(
        image, matrix, VIDEO_SIZE, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )


def measured(path: Path, stabilize: bool) -> tuple[Any, Any]:
    """Returns the measures of a video's first window, and its motion."""
    window = first_window(path, BuildConfig(stabilize=stabilize))
    motion = synchronize(window.motion, window.frames[0].stats.gray)
    return measure_window(window.frames, motion), motion


def spectrum_error(motion: Any, true: np.ndarray, trusted: np.ndarray) -> float:
    """Returns the error of the coefficients k = 1 .. 15 over the trusted pixels, px of motion, root
    mean square.
    """
    error = (motion.sums.spectrum() - to_spectrum(true, 16))[1:, :, trusted]
    return float(np.sqrt(2 * np.square(np.abs(error)).sum(axis=(0, 1)).mean())) / len(true)


def rows_of(name: str, subject: Scene, shakes: Sequence[float]) -> Iterator[Sequence[Any]]:
    still = replace(subject, pan_px_per_s=(0.0, 0.0))
    true = truth(still)
    trusted = trusted_mask(still, 0.0, true[::5], TIMES[::5])
    size = np.sqrt(
        2 * np.square(np.abs(to_spectrum(true, 16)[1:, :, trusted])).sum(axis=(0, 1)).mean()
    ) / len(true)
    for px in shakes:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "a.mp4"
            poses = shake_path(px, seed=0)
            frames = (shaken(render_frame(subject, i / 30), poses[i]) for i in range(FRAMES))
            film(path, frames, 30, 23)
            (raw, raw_motion), (left, motion) = (measured(path, on) for on in (False, True))
        yield (
            name,
            px,
            float(size),
            spectrum_error(raw_motion, true, trusted),
            spectrum_error(motion, true, trusted),
            motion.camera.rms_px if motion.camera.is_fitted else "no fit",
            f"{raw.camera_share:.2f}, {left.camera_share:.2f}",
            verdict(raw),
            verdict(left),
        )


def clip_row(path: Path) -> Sequence[Any]:
    (raw, _), (left, motion) = (measured(path, on) for on in (False, True))
    return (
        path.stem,
        motion.camera.rms_px if motion.camera.is_fitted else "no fit",
        f"{raw.sway_px:.2f}, {left.sway_px:.2f}",
        f"{raw.camera_share:.2f}, {left.camera_share:.2f}",
        f"{raw.drift_px:.2f}, {left.drift_px:.2f}",
        f"{raw.unexplained_share:.2f}, {left.unexplained_share:.2f}",
        verdict(raw),
        verdict(left),
    )


def main(clips: Sequence[str]) -> None:
    cv2.setNumThreads(1)
    if clips:
        head = (
            "clip | camera px | sway px raw, stabilized | camera_share | drift px | unexplained "
            "share | verdict raw | stabilized"
        )
        table(head, (clip_row(Path(clip)) for clip in clips))
        return
    plant, lantern = (resting_behind(scene(name)) for name in ("plant", "lantern"))
    cases = [
        ("lantern before rest", lantern, (0.0, 1.0, 3.0)),
        ("the same, pan of 4 px/s", replace(lantern, pan_px_per_s=(4.0, 0.0)), (0.0,)),
        ("reeds", scene("reeds"), (0.0, 2.0)),
        ("plant before rest", plant, (0.0, 2.0)),
        ("cloth", scene("cloth"), (0.0, 2.0)),
    ]
    table(
        "scene | shake px | true px | error px raw | stabilized | camera px | camera_share raw, "
        "stabilized | verdict raw | stabilized",
        (row for case in cases for row in rows_of(*case)),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
