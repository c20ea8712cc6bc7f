"""How well the confidence of the flow tells its errors, and what damping by it does, on scenes
whose motion is known.

python -m benchmarks.flow_confidence            # Markdown tables
python -m benchmarks.flow_confidence CLIP ...   # first window of real clips, where there is no
    truth

Scenes (benchmarks/flat_scenes.py) are rendered at 512 x 320, written as H.264 and measured with DIS
medium at 256 x 160 as a run does. Errors are end-point errors in pixels, averaged over all 150
frames of a window, on pixels that stay visible and are not at a layer's edge. A pixel is bare where
the grey levels of the start frame, without noise, deviate by less than BARE_LEVELS around it, and
else textured. docs/design/decisions/0006-flow-confidence.md says what follows.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import cv2
import numpy as np
from scipy.stats import spearmanr

from benchmarks.filter_thresholds import TIMES, film, lit, table
from benchmarks.flat_scenes import CHOSEN_ON, HELD_OUT, STANDARD, STANDARD_CHOSEN_ON, Case, Scenes
from benchmarks.windows import first_window
from pipeline.extract.config import BuildConfig
from pipeline.extract.frame_stream import PreparedFrame
from pipeline.extract.window import backward_frame_indices
from pipeline.flow.consistency import (
    Flow,
    confidence,
    consistency_confidence,
    damp,
    relative_disagreements,
    texture_confidence,
)
from pipeline.flow.estimator import make_estimator
from pipeline.motion.spectrum import to_spectrum
from pipeline.synthetic.render import WORKING_SIZE, render_frame, true_motion, trusted_mask

BARE_LEVELS, BARE_PX = 2.0, 9
"""Bare: the deviation of the clean picture's grey levels within this many pixels, a square's side,
is under this.
"""
CHECKS = (4, 8, 16, 29)
"""Numbers of backward flows; 29 is a fifth of the 149 forward ones."""
BINS = (0, 16, 64, 128, 192, 240, 256)
GROUPS = {
    "Constants were chosen on these": CHOSEN_ON,
    "And on scenery.py as it is": STANDARD_CHOSEN_ON,
    "Held out": HELD_OUT,
    "Held out: scenery.py as it is, other seeds": STANDARD,
}
CONFIG = BuildConfig()
ESTIMATOR = make_estimator(CONFIG.flow)


class Filmed(NamedTuple):
    """A window: what was measured, and what is true."""

    grey: np.ndarray
    forward: np.ndarray
    backward: dict[int, np.ndarray]
    true: np.ndarray
    valid: np.ndarray
    bare: np.ndarray


class Judged(NamedTuple):
    """One window's numbers: errors over all, bare and textured pixels, raw and for each kind of
    confidence.
    """

    raw: tuple[float, float, float]
    damped: dict[str, tuple[float, float, float]]
    rank: dict[str, float]
    spectrum: tuple[float, float]
    weight: tuple[float, float]
    bare_share: float
    mean_px: float
    bins: np.ndarray


def main(clips: Sequence[str]) -> None:
    cv2.setNumThreads(1)
    if clips:
        table(
            "clip | confidence, mean | share under 64 | W px, median | mean | 95 % | "
            "damped W px, median | mean | 95 %",
            map(real, clips),
        )
        return
    timing()
    for title, scenes in GROUPS.items():
        print(f"\n## {title}")
        report(scenes)


def report(scenes: Scenes) -> None:
    judged = {name: judge(filmed(make())) for name, make in scenes.items()}
    head = (
        "scene | bare share | true mean px | error raw: all | bare | textured | "
        "damped: all | bare | textured | spectrum error raw | damped | W error raw | damped"
    )
    table(
        head,
        (
            (name, j.bare_share, j.mean_px, *j.raw, *j.damped["both, 8"], *j.spectrum, *j.weight)
            for name, j in judged.items()
        ),
    )
    head = (
        "confidence from | damped to raw error, geometric mean: all | bare | textured | "
        "worst scene: all | bare | textured | rank correlation with the error"
    )
    table(
        head, (summary(kind, list(judged.values())) for kind in next(iter(judged.values())).damped)
    )
    counts, errors = np.sum([j.bins for j in judged.values()], axis=0)
    spans = [f"{low} to {high - 1}" for low, high in pairwise(BINS)]
    rows = (
        (span, count / counts.sum(), error / count)
        for span, count, error in zip(spans, counts, errors, strict=True)
        if count
    )
    table("confidence | share of pixels | mean error px", rows)


def summary(kind: str, judged: Sequence[Judged]) -> Sequence[Any]:
    ratios = np.log([np.divide(j.damped[kind], j.raw) for j in judged]).T
    present = [values[np.isfinite(values)] for values in ratios]
    means, worst = (
        [float(np.exp(f(values))) if values.size else float("nan") for values in present]
        for f in (np.mean, np.max)
    )
    return kind, *means, *worst, float(np.mean([j.rank[kind] for j in judged]))


# ---- one window


def window(path: Path) -> list[PreparedFrame]:
    """Returns the frames of a clip's first window."""
    return first_window(path, CONFIG).frames


def flow_to_all(frames: Sequence[PreparedFrame]) -> np.ndarray:
    """Computes flow from the first frame to all."""
    return ESTIMATOR.displace([(frames[0].flow_input, frame.flow_input) for frame in frames])


def backward(frames: Sequence[PreparedFrame], checks: Sequence[int]) -> dict[int, np.ndarray]:
    indices = sorted({i for count in checks for i in backward_frame_indices(len(frames), count)})
    return {
        i: ESTIMATOR.displace([(frames[i].flow_input, frames[0].flow_input)])[0] for i in indices
    }


def filmed(case: Case) -> Filmed:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.mp4"
        film(
            path,
            (lit(render_frame(case.scene, i / 30), case.light(i / 30)) for i in range(156)),
            30,
            case.crf,
        )
        frames = window(path)
    true = true_motion(case.scene, 0.0, TIMES)
    return Filmed(
        frames[0].stats.gray,
        flow_to_all(frames),
        backward(frames, CHECKS),
        true,
        trusted_mask(case.scene, 0.0, true[::10], TIMES[::10]),
        deviation(render_frame(replace(case.scene, grain=0.0), 0.0, WORKING_SIZE)) < BARE_LEVELS,
    )


def deviation(image: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    mean, square = (cv2.blur(x, (BARE_PX, BARE_PX)) for x in (grey, grey * grey))
    return np.sqrt(np.maximum(square - mean * mean, 0))


def checked(film: Filmed, count: int) -> list[tuple[Flow, Flow]]:
    return [
        (film.forward[i], film.backward[i])
        for i in backward_frame_indices(len(film.forward), count)
    ]


def kinds(film: Filmed) -> dict[str, np.ndarray]:
    """Computes confidence from everything, and from parts of it."""
    confidences = {
        f"both, {count}": confidence(film.grey, relative_disagreements(checked(film, count)))
        for count in (8, 4, 16, 29)
    }
    parts = {
        "texture alone": texture_confidence(film.grey),
        "consistency alone, 8": consistency_confidence(relative_disagreements(checked(film, 8))),
    }
    return confidences | {
        name: np.rint(255 * part).astype(np.uint8) for name, part in parts.items()
    }


def judge(film: Filmed) -> Judged:
    error, confidences = size(film.forward - film.true), kinds(film)
    areas = (film.valid, film.valid & film.bare, film.valid & ~film.bare)
    damped = {kind: damp(film.forward, certain) for kind, certain in confidences.items()}
    chosen, truth = confidences["both, 8"], to_spectrum(film.true, 16)
    volume = to_spectrum(film.forward, 16).astype(np.complex64)
    weights = size(film.forward), damp(size(film.forward), chosen)
    return Judged(
        raw=over(error, areas),
        damped={kind: over(size(motion - film.true), areas) for kind, motion in damped.items()},
        rank={
            kind: float(
                spearmanr(255 - certain[film.valid].astype(int), error[film.valid]).statistic
            )
            for kind, certain in confidences.items()
        },
        spectrum=tuple(
            relative((spectrum - truth)[:, :, film.valid], truth[:, :, film.valid])
            for spectrum in (volume, damp(volume, chosen))
        ),
        weight=tuple(
            float(np.abs(weight - size(damped["both, 8"]))[film.valid].mean()) for weight in weights
        ),
        bare_share=float(areas[1].sum() / areas[0].sum()),
        mean_px=float(size(film.true)[film.valid].mean()),
        bins=np.stack(
            [
                np.histogram(chosen[film.valid], BINS, weights=w)[0]
                for w in (np.ones(film.valid.sum()), error[film.valid])
            ]
        ),
    )


def size(motion: np.ndarray) -> np.ndarray:
    """Returns the mean over time of the length, [H, W]."""
    return np.hypot(*motion.swapaxes(0, 1)).mean(axis=0)


def over(error: np.ndarray, areas: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Returns the mean over each area, NaN if it is empty."""
    return tuple(float(error[area].mean()) if area.any() else float("nan") for area in areas)


def relative(difference: np.ndarray, truth: np.ndarray) -> float:
    return (
        float(np.linalg.norm(difference) / np.linalg.norm(truth)) if truth.any() else float("nan")
    )


# ---- without truth


def real(clip: str) -> Sequence[Any]:
    frames = window(Path(clip))
    forward, back = flow_to_all(frames), backward(frames, (8,))
    certain = confidence(
        frames[0].stats.gray, relative_disagreements([(forward[i], b) for i, b in back.items()])
    )
    weights = size(forward), size(damp(forward, certain))
    figures = [float(f) for w in weights for f in (np.median(w), w.mean(), np.quantile(w, 0.95))]
    return Path(clip).name, float(certain.mean()), float((certain < 64).mean()), *figures


def timing(repeats: int = 50) -> None:
    """Prints milliseconds a window, median, on one thread."""
    film = filmed(CHOSEN_ON["patches, grain 2"]())
    certain, volume = (
        confidence(film.grey, relative_disagreements(checked(film, 8))),
        to_spectrum(film.forward, 16).astype(np.complex64),
    )

    def ms(call: Any) -> float:
        starts = [perf_counter() for _ in range(repeats + 1) if call() is not None]
        return 1e3 * float(np.median(np.diff(starts)))

    rows = [
        (
            f"confidence, {count} checks",
            ms(
                lambda count=count: confidence(
                    film.grey, relative_disagreements(checked(film, count))
                )
            ),
        )
        for count in CHECKS
    ]
    table("step | ms", [*rows, ("damp, K = 16", ms(lambda: damp(volume, certain)))])


if __name__ == "__main__":
    main(sys.argv[1:])
