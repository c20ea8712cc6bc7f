"""Measures what the filters see in synthetic scenes of known motion: a Markdown table per rule.

python -m benchmarks.filter_thresholds [no_motion cut fade frozen low_frame_rate too_much_motion
camera drift]

Scenes are rendered at 512 x 320, written as H.264 and measured at 256 x 160 as a run does. The last
column is the verdict of `subtle`. docs/design/decisions/0005-filters.md says what follows from it.
"""

import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations, pairwise, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import cv2
import numpy as np

from benchmarks.windows import first_window
from pipeline import filters
from pipeline.extract.config import BuildConfig
from pipeline.extract.window import measure_window, synchronize
from pipeline.filters import PRESETS, FrameDelta
from pipeline.filters.frames import UNCHANGED_LEVELS
from pipeline.filters.lines import trend
from pipeline.filters.motion import MOVING_PX
from pipeline.flow.config import FlowConfig
from pipeline.motion.spectrum import RunningSpectrum, interpolation_matrix, to_spectrum
from pipeline.synthetic import render as synthetic
from pipeline.synthetic.render import (
    VIDEO_SIZE,
    WORKING_SIZE,
    Layer,
    Mode,
    Scene,
    render_frame,
    wave,
)
from pipeline.synthetic.scenes import SCENES
from schemas.outcome import FilterMeasures

TIMES = np.arange(150) / 30
GRAIN = 2.0
"""Camera noise at 512 x 320, levels, wherever it is not what is swept."""
EVERYWHERE = wave(direction=(0.9, 0.44), cycles=(0.0, 0.0))
BROAD = wave(direction=(0.9, 0.44), cycles=(0.6, 0.4))
FINE = wave(direction=(0.9, 0.44), cycles=(2.0, 1.0))
LIMITS = PRESETS["subtle"]


def main(families: Sequence[str]) -> None:
    cv2.setNumThreads(1)
    for name in families or FAMILIES:
        print(f"\n### {name}")
        FAMILIES[name]()


def table(header: str, rows: Iterable[Sequence[Any]]) -> None:
    """Prints rows as they arrive, numbers with three digits."""
    print(f"\n| {header} |\n" + "|---" * (header.count("|") + 1) + "|")
    for row in rows:
        print(
            "|",
            " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row),
            "|",
            flush=True,
        )


# ---- scenes and their way through the pipeline


@functools.cache
def scene(name: str, seed: int = 0) -> Scene:
    return replace(SCENES[name](np.random.default_rng(seed)), grain=GRAIN)


def painted(name: str, *modes: Mode, **others: Any) -> Scene:
    """Returns the rearmost, opaque layer of a scene, with these modes."""
    return replace(
        scene(name), layers=(Layer(texture=scene(name).layers[0].texture, modes=modes),), **others
    )


def louder(subject: Scene, gain: float) -> Scene:
    """Returns the same scene with all its motion multiplied."""
    return replace(
        subject,
        layers=tuple(
            replace(x, modes=tuple(replace(m, amplitude_px=gain * m.amplitude_px) for m in x.modes))
            for x in subject.layers
        ),
    )


def growth(px: float) -> Mode:
    """Returns the beginning of a very slow sine: a lean that grows by `px` in 5 s."""
    return Mode(
        shape=BROAD, amplitude_px=px / np.sin(0.05 * np.pi), frequency_hz=0.005, phase=-np.pi / 2
    )


def sway(px: float, hz: float, phase: float = 0.0) -> Mode:
    return Mode(shape=BROAD, amplitude_px=px, frequency_hz=hz, phase=phase)


def truth(subject: Scene) -> np.ndarray:
    return synthetic.true_motion(subject, 0.0, TIMES)


def lit(image: np.ndarray, gain: Any) -> np.ndarray:
    return np.clip(np.rint(image * gain), 0, 255).astype(np.uint8)


def film(path: Path, images: Iterable[np.ndarray], fps: int, crf: int) -> None:
    """Encodes H.264 without B-frames, which need an edit list."""
    with av.open(str(path), "w") as file:
        options = {"crf": str(crf), "preset": "veryfast", "bf": "0", "threads": "1"}
        stream = file.add_stream(
            "libx264",
            rate=fps,
            width=VIDEO_SIZE[0],
            height=VIDEO_SIZE[1],
            pix_fmt="yuv420p",
            options=options,
        )
        for image in images:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        file.mux(stream.encode())


def measure_scene(
    subject: Scene,
    *,
    fps: int = 30,
    crf: int = 23,
    hold: int = 1,
    light: Callable[[float], Any] = lambda _: 1.0,
    preset: Any = "medium",
) -> tuple[FilterMeasures, RunningSpectrum]:
    """Films 5.2 s of a scene and measures its first window; a picture stays for `hold` frames."""
    config = BuildConfig(flow=FlowConfig(dis_preset=preset))
    with TemporaryDirectory() as folder:
        path, count = Path(folder) / "a.mp4", round(5.2 * fps)
        pictures = (
            lit(render_frame(subject, i / fps), light(i / fps)) for i in range(0, count, hold)
        )
        film(path, [picture for picture in pictures for _ in range(hold)][:count], fps, crf)
        window = first_window(path, config)
    moved = synchronize(window.motion, window.frames[0].stats.gray)
    return measure_window(window.frames, moved), moved.sums


def verdict(measures: FilterMeasures) -> str:
    return ", ".join(filters.judge(measures, LIMITS)) or "kept"


def spectrum_error(motion: RunningSpectrum, true: np.ndarray) -> float:
    """Returns the relative error of the coefficients k = 1 .. 15 of the top 5 % in true size."""
    results, known = motion.spectrum()[1:], to_spectrum(true, 16)[1:]
    strong = np.abs(known) >= np.quantile(np.abs(known), 0.95)
    return float(np.linalg.norm((results - known)[strong]) / np.linalg.norm(known[strong]))


def mean_size(motion: np.ndarray) -> float:
    return float(np.hypot(*motion.swapaxes(0, 1)).mean())


def endpoint_error(motion: RunningSpectrum, true: np.ndarray) -> float:
    """Returns the mean over time and every fourth pixel, px."""
    return mean_size(motion.grid_motion() - true[:, :, ::4, ::4])


# ---- one function per rule


def no_motion() -> None:
    """Finds the noise floor, and the motion from which on a spectrum means something."""

    def still(name: str, grain: float, crf: int) -> Sequence[Any]:
        m, _ = measure_scene(painted(name, grain=grain), crf=crf)
        return name, grain, crf, m.mean_motion_px, m.sway_px, verdict(m)

    floor = [
        (name, grain, 23) for name in ("ripples", "plant") for grain in (0.0, 1.0, 2.0, 4.0)
    ] + [("plant", 4.0, crf) for crf in (12, 33)]
    table(
        "still scene | grain | crf | mean_motion_px | sway_px | verdict",
        (still(*case) for case in floor),
    )

    def faint(name: str, mean: float, preset: str) -> Sequence[Any]:
        subject = louder(scene(name), mean / mean_size(truth(scene(name))))
        m, motion = measure_scene(subject, preset=preset)
        return (
            name,
            preset,
            mean,
            m.mean_motion_px,
            m.sway_px,
            endpoint_error(motion, truth(subject)),
            spectrum_error(motion, truth(subject)),
            verdict(m),
        )

    sway = [
        (name, mean, "medium")
        for name in ("ripples", "plant")
        for mean in (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
    ]
    fine = [("ripples", mean, "fine") for mean in (0.05, 0.1, 0.2)]
    table(
        "scene | dis | true mean px | mean_motion_px | sway_px | end-point error px | "
        "spectrum error | verdict",
        (faint(*case) for case in sway + fine),
    )


def cut() -> None:
    """Compares steps over a cut with ordinary steps, on rendered frames; called a cut by
    correlation, by histogram.
    """
    looks = {
        (name, seed): filters.compute_frame_stats(
            render_frame(scene(name, seed), 0.0, WORKING_SIZE)
        )
        for name in SCENES
        for seed in (0, 1)
    }

    def steps(change: Callable[[Scene], np.ndarray]) -> list[FrameDelta]:
        return [
            filters.compute_frame_delta(
                looks[name, 0], filters.compute_frame_stats(change(scene(name)))
            )
            for name in SCENES
        ]

    def swayed(subject: Scene, px: float) -> Scene:
        mode = Mode(shape=FINE, amplitude_px=px, frequency_hz=1.0)
        return replace(
            subject, layers=tuple(replace(x, modes=(*x.modes, mode)) for x in subject.layers)
        )

    def later(
        light: float = 1.0, grain: float = GRAIN, pan: float = 0.0, sway: float = 0.0
    ) -> list[FrameDelta]:
        return steps(
            lambda subject: lit(
                render_frame(
                    replace(swayed(subject, sway), grain=grain, pan_px_per_s=(pan * 30, 0.0)),
                    (not sway) / 30,
                    WORKING_SIZE,
                ),
                light,
            )
        )

    results = {
        "cut to another scene": [
            filters.compute_frame_delta(looks[a], looks[b])
            for a, b in combinations(looks, 2)
            if a[0] != b[0]
        ]
    }
    results |= {
        "cut to another seed": [
            filters.compute_frame_delta(looks[name, 0], looks[name, 1]) for name in SCENES
        ],
        "jump cut, moved 30 px": later(pan=30),
    }
    results |= {
        "cut to black": later(light=0),
        "first of 10 steps of a dissolve": steps(
            lambda subject: dissolve(subject, scene("ripples", 1))
        ),
    }
    results |= {f"sway of {px} px a frame": later(sway=px) for px in (2, 5)} | {
        f"pan of {px} px a frame": later(pan=px) for px in (2, 5, 10)
    }
    results |= {f"grain {grain}": later(grain=grain) for grain in (4, 16)} | {
        f"light x {light}": later(light=light) for light in (1.1, 1.2, 0.8, 0.6)
    }
    table(
        "step | n | correlation | histogram distance | by correlation | by histogram",
        (summary(name, steps) for name, steps in results.items()),
    )


def dissolve(subject: Scene, following: Scene) -> np.ndarray:
    return lit(
        0.9 * render_frame(subject, 1 / 30, WORKING_SIZE)
        + 0.1 * render_frame(following, 1 / 30, WORKING_SIZE),
        1.0,
    )


def summary(name: str, steps: Sequence[FrameDelta]) -> Sequence[Any]:
    near, far, _ = np.array(steps).T
    called = np.sum(near < LIMITS.cut_correlation), np.sum(far > LIMITS.cut_histogram)
    return (
        name,
        len(steps),
        f"{near.min():.2f} to {near.max():.2f}",
        f"{far.min():.2f} to {far.max():.2f}",
        *called,
    )


def fade() -> None:
    """Changes the light over a window, and measures the flow of a sway of about 0.5 px."""
    subject = louder(scene("ripples"), 0.5)

    def fading(t: float) -> Any:
        return 1 - t / 5

    def cloud(t: float) -> Any:
        return 1 - np.sin(np.pi * t / 5) ** 2

    def shadow(t: float) -> Any:
        """A soft edge, a tenth of the picture wide, crosses from left to right."""
        return 1 / (1 + np.exp((t / 5 - np.arange(VIDEO_SIZE[0]) / VIDEO_SIZE[0]) / 0.025))[:, None]

    def row(light: Callable[[float], Any], depth: float) -> Sequence[Any]:
        m, motion = measure_scene(subject, light=lambda t: 1 - depth + depth * light(t))
        return (
            light.__name__,
            f"{depth:.0%}",
            m.light_change,
            endpoint_error(motion, truth(subject)),
            spectrum_error(motion, truth(subject)),
            verdict(m),
        )

    cases = [(fading, depth) for depth in (0.0, 0.1, 0.2, 0.4, 1.0)] + [
        (light, depth) for light in (cloud, shadow) for depth in (0.2, 0.4)
    ]
    table(
        "light | down by | light_change | end-point error px | spectrum error | verdict",
        (row(*case) for case in cases),
    )


def frozen() -> None:
    """Shows pictures for several frames: the share of steps that change nothing, and the sway's
    error.
    """

    def row(hold: int, crf: int, grain: float) -> Sequence[Any]:
        subject = replace(scene("plant"), grain=grain)
        plain = [
            filters.compute_frame_stats(render_frame(subject, (i - i % hold) / 30, WORKING_SIZE))
            for i in range(60)
        ]
        before = np.mean(
            [
                filters.compute_frame_delta(a, b).difference < UNCHANGED_LEVELS
                for a, b in pairwise(plain)
            ]
        )
        m, motion = measure_scene(subject, hold=hold, crf=crf)
        return (
            hold,
            crf,
            grain,
            1 - 1 / hold,
            float(before),
            m.frozen_share,
            spectrum_error(motion, truth(subject)),
            verdict(m),
        )

    cases = [(hold, crf, GRAIN) for crf in (23, 12) for hold in (1, 2, 3, 5)]
    table(
        "shown for | crf | grain | 1 - 1/n | share before H.264 | frozen_share | spectrum error | "
        "verdict",
        (row(*case) for case in cases),
    )


def low_frame_rate() -> None:
    """Compares amplitude by frame rate with sinc^2(f/r), and measures the error of one gap in a
    30 fps video at its worst phase.
    """
    bands, subject = (
        (5, 10, 15),
        painted(
            "ripples",
            *(
                Mode(shape=BROAD, amplitude_px=0.8, frequency_hz=f, phase=f)
                for f in (1.0, 2.0, 3.0)
            ),
        ),
    )
    known = to_spectrum(truth(subject), 16)

    def row(fps: int) -> Sequence[Any]:
        m, motion = measure_scene(subject, fps=fps)
        gains = [
            np.vdot(known[k], motion.spectrum()[k]).real / np.vdot(known[k], known[k]).real
            for k in bands
        ]
        return (
            fps,
            *(
                f"{gain:.2f} ({np.sinc(k / 5 / fps) ** 2:.2f})"
                for k, gain in zip(bands, gains, strict=True)
            ),
            verdict(m),
        )

    table(
        "frames/s | gain at 1 Hz (sinc^2) | at 2 Hz | at 3 Hz | verdict",
        (row(fps) for fps in (8, 10, 12, 15, 24, 30)),
    )

    def gap(frames: int) -> Sequence[Any]:
        """Returns the error of the worst band, as a share of the amplitude of a pure sway."""
        kept = np.delete(np.arange(150), np.arange(60, 59 + frames))
        sways = [
            np.cos(2 * np.pi * k * TIMES[:, None] / 5 + np.linspace(0, np.pi, 16)) for k in bands
        ]
        errors = [
            np.abs(
                to_spectrum(interpolation_matrix(TIMES[kept], 150, 30.0) @ sway[kept] - sway, 16)
            ).max()
            / 75
            for sway in sways
        ]
        return (
            frames / 30,
            *map(float, errors),
            "low_frame_rate" if frames / 30 > LIMITS.longest_gap_s else "kept",
        )

    table(
        "gap s | worst error, sway at 1 Hz | at 2 Hz | at 3 Hz | verdict",
        (gap(frames) for frames in (2, 4, 7, 9, 12, 18, 30)),
    )


def too_much_motion() -> None:
    """Finds where the flow stops being usable."""

    def sway(name: str, px: float, shape: Any = BROAD, **others: Any) -> Scene:
        return painted(name, Mode(shape=shape, amplitude_px=px, frequency_hz=0.6), **others)

    def occluded(px: float) -> Scene:
        """Returns a lantern before a still hedge, pushed sideways as a whole."""
        back, front = scene("lantern").layers
        moves = Mode(shape=EVERYWHERE, amplitude_px=px, frequency_hz=0.6, phase=-np.pi / 2)
        return replace(
            scene("lantern"),
            layers=(Layer(texture=back.texture), Layer(texture=front.texture, modes=(moves,))),
        )

    def row(name: str, subject: Scene) -> Sequence[Any]:
        m, motion = measure_scene(subject)
        error, mean = endpoint_error(motion, truth(subject)), mean_size(truth(subject))
        return (
            name,
            mean,
            m.mean_motion_px,
            f"{error:.2f} ({error / mean:.0%})",
            spectrum_error(motion, truth(subject)),
            m.large_motion_px,
            m.unexplained_share,
            verdict(m),
        )

    scenes = {
        f"{name}, broad sway {px} px": sway(name, px)
        for name in ("ripples", "plant")
        for px in (1, 2, 4, 8, 12, 16)
    }
    scenes |= {f"ripples, finer sway {px} px": sway("ripples", px, FINE) for px in (4, 8)} | {
        f"large occluder, {px} px": occluded(px) for px in (4, 12, 40)
    }
    scenes |= {
        f"ripples, broad sway 2 px, grain {grain}": sway("ripples", 2.0, grain=grain)
        for grain in (10.0, 30.0)
    }
    head = (
        "scene | true mean px | mean_motion_px | end-point error px | spectrum error | "
        "large_motion_px | unexplained_share | verdict"
    )
    table(head, (row(*case) for case in scenes.items()))


def camera() -> None:
    """Compares turning and shaking cameras with scenes in which much sways."""

    def row(name: str, subject: Scene) -> Sequence[Any]:
        m, _ = measure_scene(subject)
        true = float((np.hypot(*truth(subject).swapaxes(0, 1)).mean(axis=0) > MOVING_PX).mean())
        return name, true, m.moving_share, m.camera_share, m.mean_motion_px, verdict(m)

    scenes = {
        f"{name}, pan {v} px/s": replace(scene(name), pan_px_per_s=(v, 0.0))
        for name in ("ripples", "plant")
        for v in (0.0, 0.1, 0.3, 1.0)
    }
    scenes |= {f"still, pan {v} px/s": painted("plant", pan_px_per_s=(v, 0.0)) for v in (0.3, 1.0)}
    scenes |= {
        f"still, shake of {px} px": painted(
            "plant", Mode(shape=EVERYWHERE, amplitude_px=px, frequency_hz=1.4)
        )
        for px in (1, 2)
    }
    scenes |= {
        f"{name}, twice the wind": louder(scene(name), 2.0)
        for name in ("plant", "reeds", "ripples")
    }
    table(
        "scene | true moving share | moving_share | camera_share | mean_motion_px | verdict",
        (row(*case) for case in scenes.items()),
    )


def drift() -> None:
    """Compares slow sway with growth: the true motion at 24 phases, a few through the pipeline."""

    def moving(*modes: Mode) -> np.ndarray:
        return (
            synthetic.true_motion(painted("ripples", *modes), 0.0, TIMES, (32, 20)).reshape(
                len(TIMES), 2, -1
            )
            * 8
        )

    def row(px: float, *sways: tuple[float, float]) -> Sequence[Any]:
        """Adds sways (px, Hz) to growth by `px`, at all phases of the first, some of the second."""
        phases = product(
            *([p / count * 2 * np.pi for p in range(count)] for count in (24, 8)[: len(sways)])
        )
        results = [
            trend(moving(growth(px), *(sway(*s, p) for s, p in zip(sways, at, strict=True))))
            for at in phases
        ]
        shares, lengths = np.array(results).T
        hits = np.sum(
            ((shares > LIMITS.drift_share) & (lengths > LIMITS.drift_px))
            | (shares > LIMITS.drift_share_alone)
        )
        name = " + ".join(f"{px} px at {hz} Hz" for px, hz in sways) or "none"
        return (
            px,
            name,
            f"{shares.min():.2f} to {shares.max():.2f}",
            f"{lengths.min():.2f} to {lengths.max():.2f}",
            f"{hits} of {len(results)}",
        )

    cases = [(0.0, (px, hz)) for hz in (0.1, 0.15, 0.2, 0.3) for px in (1.0, 3.0)] + [
        (0.0, (2.0, 0.2), (px, 0.3)) for px in (1.0, 2.0)
    ]
    cases += [(px,) for px in (1.0, 8.0)] + [
        (px, (1.5, hz)) for hz in (0.2, 0.6) for px in (1.0, 2.0, 4.0, 8.0)
    ]
    table(
        "growth px | sway | trend_share | drift_px | called drift", (row(*case) for case in cases)
    )

    def filmed(px: float, *modes: Mode) -> Sequence[Any]:
        (m, _), (share, length) = (
            measure_scene(painted("ripples", growth(px), *modes)),
            trend(moving(growth(px), *modes)),
        )
        sways = (
            " + ".join(f"{mode.amplitude_px} px at {mode.frequency_hz} Hz" for mode in modes)
            or "none"
        )
        return (
            px,
            sways,
            f"{m.trend_share:.2f} ({share:.2f})",
            f"{m.drift_px:.2f} ({length:.2f})",
            verdict(m),
        )

    shown = [
        (0.0, sway(2.0, 0.15, -1.57)),
        (0.0, sway(3.0, 0.2, -1.57)),
        (1.0,),
        (4.0, sway(1.5, 0.6, 0.0)),
        (8.0, sway(1.5, 0.6, 0.0)),
    ]
    table(
        "filmed: growth px | sway | trend_share (true) | drift_px (true) | verdict",
        (filmed(*case) for case in shown),
    )


FAMILIES = {
    family.__name__: family
    for family in (no_motion, cut, fade, frozen, low_frame_rate, too_much_motion, camera, drift)
}

if __name__ == "__main__":
    main(sys.argv[1:])
