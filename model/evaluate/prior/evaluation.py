"""What is measured of each held-out window: READ THIS FIRST of model/evaluate/prior.

The prior samples several motions for the window's photograph; they, and the motions of the
baselines, are measured beside the window's own (measures.py), which none of them has seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex64, Float, UInt8

from model.evaluate.prior.baselines import (
    NEAREST,
    TrainingMotions,
    describe_photograph,
    predict_baselines,
)
from model.evaluate.prior.measures import (
    RealMotion,
    amplitude_map,
    measure_amplitudes,
    measure_samples,
)
from model.evaluate.prior.windows import EvaluationWindow, find_other_window, read_real_motion
from model.evaluate.spectral import seam
from model.prior.inference import Prior, make_loop_hook, sample_motion
from model.prior.loop_guidance import LOOP_RECURRENCE
from model.render.warp import warp_frame
from pipeline.images.draw import most_moving_row
from pipeline.motion.spectrum import modulus, to_motion
from schemas.sample import channels_to_complex

PRIOR_MEAN, PRIOR_SAMPLE, PRIOR_LOOP = (
    "prior, mean of samples",
    "prior, one sample",
    "prior, looped",
)
"""Rows of the prior: the mean of all samples' amplitudes; single samples, averaged; single samples
that are guided to loops, averaged.
"""
PRIORS = (PRIOR_MEAN, PRIOR_SAMPLE, PRIOR_LOOP)
_SLICE_STEP = 2
"""Every so-manieth frame of a window is in its X-t slices."""

_Spectrum = Complex64[np.ndarray, "freq 2 height width"]
_Picture = UInt8[np.ndarray, "rows columns 3"]


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How motion is sampled. Raises ValueError if a number is out of range."""

    samples: int = 4
    """Motions sampled for each photograph, of the seeds 0, 1, ..."""
    steps: int = 50
    """Steps of DDIM sampling, 1 to 1000."""
    guidance: float = 1.0
    """Weight of classifier-free guidance, -1 to 100; 0 is none."""
    loop_seconds: float | None = None
    """Also sample motion that is guided to loops of this length, and measure their seams."""
    device: str = "cpu"
    """Device on which the networks run."""

    def __post_init__(self):
        if not (1 <= self.samples <= 64 and 1 <= self.steps <= 1000):
            raise ValueError(
                f"--samples is {self.samples} and --steps {self.steps}, "
                "expected 1 to 64 and 1 to 1000"
            )
        if not -1 <= self.guidance <= 100:
            raise ValueError(f"--guidance is {self.guidance:g}, expected -1 to 100")


@dataclass(frozen=True, kw_only=True)
class WindowPictures:
    """What the page shows of a window."""

    photograph: _Picture
    nearest_photograph: _Picture
    amplitudes: dict[str, Float[np.ndarray, "height width"]]
    """Amplitude maps, pixels, by name."""
    slices: dict[str, UInt8[np.ndarray, "time width 3"]]
    """X-t slices of the photograph that is moved by each motion."""
    row: int
    """The row of the slices."""


@dataclass(frozen=True, kw_only=True)
class WindowResult:
    """The measures of one window."""

    window: EvaluationWindow
    nearest_key: str
    other_key: str | None
    real: dict[str, float]
    """Of the real motion itself: `measure_itself`, and its mean amplitude, pixels."""
    rows: dict[str, dict[str, float]]
    """Measures by the row of the table and by their keys."""
    pictures: WindowPictures | None


def evaluate_windows(
    prior: Prior,
    windows: Sequence[EvaluationWindow],
    all_windows: Sequence[EvaluationWindow],
    training: TrainingMotions,
    config: SamplingConfig,
    pictured: int = 0,
) -> Iterator[WindowResult]:
    """Yields the measures of each window; the first window of the first `pictured` scenes also has
    pictures. A window of which no pixel's flow is believed is left out.
    """
    scenes = list(dict.fromkeys(window.scene for window in windows))[:pictured]
    for number, window in enumerate(windows):
        sample = window.load()
        real = read_real_motion(sample, prior.normalizer.frequencies)
        if not real.believed.any():
            continue
        wants_pictures = window.scene in scenes
        if wants_pictures:
            scenes.remove(window.scene)
        other = find_other_window(window, all_windows, sample.frames / sample.fps / 2)
        nearest = training.nearest(describe_photograph(prior, sample.image, config.device))
        motions = predict_baselines(
            training, nearest, other, config.samples, np.random.default_rng([0, number])
        )
        motions = _sample_prior(prior, sample.image, config) | motions
        rows = {PRIOR_MEAN: measure_amplitudes(motions[PRIOR_SAMPLE], real)}
        rows |= {name: measure_samples(spectra, real) for name, spectra in motions.items()}
        if config.loop_seconds is not None:
            period = round(config.loop_seconds * sample.fps)
            for name in (PRIOR_SAMPLE, PRIOR_LOOP):
                rows[name] |= _measure_seams(motions[name], sample.frames, period)
        yield WindowResult(
            window=window,
            nearest_key=nearest.key,
            other_key=None if other is None else other.key,
            real=real.itself | dict(amplitude_px=float(real.amplitude[real.believed].mean())),
            rows=rows,
            pictures=_draw_window(sample.image, real, motions, nearest) if wants_pictures else None,
        )


def _sample_prior(
    prior: Prior, image: UInt8[np.ndarray, "height width 3"], config: SamplingConfig
) -> dict[str, list[_Spectrum]]:
    """Motions of all seeds for a photograph, free and, if asked for, guided to loops."""
    seeds = range(config.samples)
    variants = {PRIOR_SAMPLE: {}}
    if config.loop_seconds is not None:
        hook = make_loop_hook(prior, config.loop_seconds, config.device)
        variants[PRIOR_LOOP] = dict(hook=hook, recurrence=LOOP_RECURRENCE)
    return {
        name: [
            channels_to_complex(channels)
            for channels in sample_motion(
                prior,
                [image] * len(seeds),
                seeds,
                steps=config.steps,
                guidance=config.guidance,
                device=config.device,
                **options,
            )
        ]
        for name, options in variants.items()
    }


def _measure_seams(spectra: Sequence[_Spectrum], frames: int, period: int) -> dict[str, float]:
    """The jumps of position and velocity (docs/design/maths.md, 22) where the first `period` frames
    of a motion are repeated as they are, averaged over the samples.
    """
    seams = [seam(to_motion(spectrum, frames)[:period]) for spectrum in spectra]
    return dict(
        seam_position=float(np.mean([jump.position for jump in seams])),
        seam_velocity=float(np.mean([jump.velocity for jump in seams])),
    )


def _draw_window(
    image: UInt8[np.ndarray, "height width 3"],
    real: RealMotion,
    motions: dict[str, list[_Spectrum]],
    nearest: EvaluationWindow,
) -> WindowPictures:
    """Amplitudes, and slices along the row that moves most in the real window."""
    row = most_moving_row(np.where(real.believed, real.amplitude, 0), len(image))
    frames = real.frames
    shown = {
        "real": real.spectrum,
        "sampled": motions[PRIOR_SAMPLE][0],
        "nearest": motions[NEAREST][0],
    }
    amplitudes = {name: amplitude_map(spectrum, frames) for name, spectrum in shown.items()}
    amplitudes["sampled"] = np.mean(
        [amplitude_map(spectrum, frames) for spectrum in motions[PRIOR_SAMPLE]], axis=0
    )
    return WindowPictures(
        photograph=image,
        nearest_photograph=nearest.load().image,
        amplitudes=amplitudes,
        slices={name: _slice_motion(image, s, frames, row) for name, s in shown.items()},
        row=row,
    )


def _slice_motion(
    image: UInt8[np.ndarray, "height width 3"], spectrum: _Spectrum, frames: int, row: int
) -> UInt8[np.ndarray, "time width 3"]:
    """One row of the photograph as it is moved by a motion from rest, time downwards."""
    motion = to_motion(spectrum, frames).astype(np.float32)
    motion -= motion[:1].copy()
    weight = modulus(motion[:, 0], motion[:, 1]).mean(axis=0)
    return np.stack([warp_frame(image, flow, weight)[row] for flow in motion[::_SLICE_STEP]])
