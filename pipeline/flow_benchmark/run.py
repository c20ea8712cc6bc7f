"""Measures flow estimators: on pairs with known flow, on swaying scenes with known motion, and on
real clips.

Each `evaluate_*` function takes one case and all estimators, and returns a result for each
estimator, by name, and the images of the case. The results of all cases make a `FlowCard`, which is
written to flow_card.json; summary.py says what follows from it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from pipeline.flow.estimator import FlowEstimator
from pipeline.flow_benchmark import metrics
from pipeline.flow_benchmark.metrics import BandError, DetailMeasure
from pipeline.flow_benchmark.middlebury import KnownPair
from pipeline.motion.spectrum import BLOCK_FRAMES, to_spectrum
from pipeline.synthetic.render import (
    VIDEO_SIZE,
    WORKING_SIZE,
    render_frame,
    true_motion,
    trusted_mask,
)
from pipeline.synthetic.scenes import SCENES
from schemas.arrays import Flow

FPS = 30.0
FREQUENCIES = 16

Picture = UInt8[np.ndarray, "height width 3"]
_Mask = Bool[np.ndarray, "height width"]
_Estimators = Mapping[str, FlowEstimator]


@dataclass(frozen=True, kw_only=True)
class TimePerPair:
    """Time of one pair of images, with its share of what is done once per image."""

    wall_s: float
    cpu_s: float
    """Time of this process; on an idle machine it is `wall_s` if the estimator runs on one core."""


@dataclass(frozen=True, kw_only=True)
class FlowErrors:
    """One flow beside the truth. Measures near motion edges are None if the truth has none."""

    epe_px: float | None
    """End-point error."""
    angle_deg: float | None
    epe_near_px: float | None
    """End-point error near motion edges."""
    epe_inside_px: float | None
    """End-point error away from them."""
    blur_px: float | None
    """Standard deviation of the Gaussian that blurs the truth as much."""
    details: list[DetailMeasure | None]
    """For each octave of metrics.OCTAVE_SIGMAS_PX."""


@dataclass(frozen=True, kw_only=True)
class KnownResult(FlowErrors, TimePerPair):
    """An estimator on a pair with known flow."""


@dataclass(frozen=True, kw_only=True)
class SceneResult(FlowErrors, TimePerPair):
    """An estimator on a procedural scene. `epe_px` is over all times; the rest of FlowErrors is at
    the time of the largest motion.
    """

    bands: list[BandError]
    """Errors of the spectral volume at each frequency."""
    spectrum_error: float | None
    """Error of the spectral volume without its mean, as a share of the true one."""


@dataclass(frozen=True, kw_only=True)
class ClipResult(TimePerPair):
    """An estimator on a real clip, which has no truth. All estimators are measured on the pixels
    that all of them keep in the image (docs/design/maths.md, 54); measures are None if there are
    none.
    """

    disagreement_px: float | None
    inconsistent_share: float | None
    inside_share: float
    """Share of the pixels that this estimator keeps in the image."""
    common_share: float
    """Share of the pixels that all estimators keep in the image."""
    photometric: float | None
    """Difference of the later images, warped back by the flow, from the first; gray levels."""
    photometric_still: float | None
    """The same without any motion."""


@dataclass(frozen=True, kw_only=True)
class MeasureComparison:
    learned: float
    """Mean over the cases."""
    classical: float
    smoother: int
    """Number of cases in which the learned estimator is the smoother one by this measure."""


@dataclass(frozen=True, kw_only=True)
class SmoothingComparison:
    """A learned estimator beside a classical one on the cases with motion edges of one part."""

    part: str
    learned: str
    classical: str
    cases: int
    measures: dict[str, MeasureComparison]


@dataclass(frozen=True, kw_only=True)
class FlowCard:
    """The content of flow_card.json. Results are by case, then by estimator."""

    format: int = 1
    protocol: dict[str, Any]
    """All settings that decide the numbers."""
    estimators: dict[str, dict[str, Any]]
    """Descriptions of the estimators."""
    left_out: dict[str, str]
    """A sentence for each estimator that could not be measured."""
    known: dict[str, dict[str, KnownResult]]
    scenes: dict[str, dict[str, SceneResult]]
    clips: dict[str, dict[str, ClipResult]]
    smoothing: list[SmoothingComparison]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One pair of images, the flow of each estimator, and the true flow if it is known."""

    name: str
    image: Picture
    truth: Flow | None
    valid: _Mask
    flows: dict[str, Flow]


def _estimate_timed(
    estimator: FlowEstimator, images: Sequence[Picture], pairs: Sequence[tuple[int, int]]
) -> tuple[Float32[np.ndarray, "pairs 2 height width"], TimePerPair]:
    """Flow between pairs of images, given by their indices."""
    wall, cpu = time.perf_counter(), time.process_time()
    prepared = estimator.prepare(images)
    flows = []
    for first in range(0, len(pairs), BLOCK_FRAMES):
        block = pairs[first : first + BLOCK_FRAMES]
        flow = estimator.displace([(prepared[i], prepared[j]) for i, j in block])
        flows.append(flow if isinstance(flow, np.ndarray) else flow.cpu().numpy())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return np.concatenate(flows), TimePerPair(wall_s=wall / len(pairs), cpu_s=cpu / len(pairs))


def evaluate_known_pair(
    known: KnownPair, estimators: _Estimators
) -> tuple[dict[str, KnownResult], Case]:
    """Errors at full resolution on one pair with known flow."""
    flows, results, truth = {}, {}, metrics.Truth(known.flow, known.valid)
    for name, estimator in estimators.items():
        (flow,), spent = _estimate_timed(estimator, [known.source, known.target], [(0, 1)])
        flows[name] = flow
        results[name] = KnownResult(**vars(compare_with_truth(flow, truth)), **vars(spent))
    case = Case(
        name=known.name, image=known.source, truth=known.flow, valid=known.valid, flows=flows
    )
    return results, case


def compare_with_truth(flow: Flow, truth: metrics.Truth) -> FlowErrors:
    """All measures of one flow beside the truth."""
    error = metrics.end_point_error(flow, truth.flow)
    return FlowErrors(
        epe_px=metrics.masked_mean(error, truth.valid),
        angle_deg=metrics.masked_mean(metrics.angular_error(flow, truth.flow), truth.valid),
        epe_near_px=metrics.masked_mean(error, truth.near_edges),
        epe_inside_px=metrics.masked_mean(error, truth.away_from_edges),
        blur_px=metrics.equivalent_blur(flow, truth),
        details=metrics.measure_details(flow, truth),
    )


def _render_scene_frames(
    name: str, seed: int, frames: int
) -> tuple[list[Picture], Float32[np.ndarray, "time 2 height width"], _Mask]:
    """Frames of a procedural scene at the working resolution and rate, its true motion, and the
    mask of the pixels at which that can be trusted.
    """
    scene = SCENES[name](np.random.default_rng([seed, *name.encode()]))
    times = np.arange(frames) / FPS
    images = [
        cv2.resize(
            render_frame(scene, float(t), VIDEO_SIZE), WORKING_SIZE, interpolation=cv2.INTER_AREA
        )
        for t in times
    ]
    motion = true_motion(scene, 0.0, times)
    return images, motion, trusted_mask(scene, 0.0, motion[::3], times[::3])


def evaluate_scene(
    name: str, seed: int, frames: int, estimators: _Estimators
) -> tuple[dict[str, SceneResult], Case]:
    """Errors of flow from the first frame to all later ones, over time and in frequency, and its
    smoothing at the time of the largest motion.

    Averages are over the pixels at which the truth can be trusted. It cannot at motion edges, so
    measures near edges are over all pixels.
    """
    images, truth, valid = _render_scene_frames(name, seed, frames)
    moment = int(np.hypot(truth[:, 0], truth[:, 1]).mean(axis=(1, 2)).argmax())
    true_spectrum = to_spectrum(truth, FREQUENCIES)
    truth_at_moment = metrics.Truth(truth[moment], np.ones_like(valid))
    flows, results = {}, {}
    for key, estimator in estimators.items():
        motion, spent = _estimate_timed(estimator, images, [(0, i) for i in range(frames)])
        errors = [
            metrics.masked_mean(metrics.end_point_error(flow, true_flow), valid)
            for flow, true_flow in zip(motion[1:], truth[1:], strict=True)
        ]
        spectrum = to_spectrum(motion, FREQUENCIES)
        fit = metrics.regress(spectrum[1:, :, valid], true_spectrum[1:, :, valid])
        at_moment = vars(compare_with_truth(motion[moment], truth_at_moment))
        results[key] = SceneResult(
            **at_moment | dict(epe_px=fmean(error for error in errors if error is not None)),
            bands=metrics.band_errors(spectrum, true_spectrum, valid, frames),
            spectrum_error=fit.error if fit else None,
            **vars(spent),
        )
        flows[key] = motion[moment]
    case = Case(name=name, image=images[0], truth=truth[moment], valid=valid, flows=flows)
    return results, case


def evaluate_clip(
    name: str, images: Sequence[Picture], estimators: _Estimators
) -> tuple[dict[str, ClipResult], Case]:
    """Consistency of flow from the first image to all others and back, and the difference of the
    images after warping.

    All estimators are measured on the pixels that all of them keep in the image
    (docs/design/maths.md, 54): otherwise each would choose its own.
    """
    later = range(1, len(images))
    pairs = [(0, i) for i in later] + [(i, 0) for i in later]
    motions = {
        key: _estimate_timed(estimator, images, pairs) for key, estimator in estimators.items()
    }
    inside = {
        key: [metrics.stays_inside(flow) for flow in motion[: len(later)]]
        for key, (motion, _) in motions.items()
    }
    visible = [np.logical_and.reduce(masks) for masks in zip(*inside.values(), strict=True)]
    still = np.zeros((len(later), 2, *images[0].shape[:2]), np.float32)
    photometric_still = _mean_photometric_error(images, still, visible)
    flows, results = {}, {}
    for key, (motion, spent) in motions.items():
        forward, backward = motion[: len(later)], motion[len(later) :]
        agreement = metrics.consistency(list(zip(forward, backward, strict=True)), visible)
        results[key] = ClipResult(
            **agreement._asdict(),
            inside_share=float(np.mean(inside[key])),
            common_share=float(np.mean(visible)),
            photometric=_mean_photometric_error(images, forward, visible),
            photometric_still=photometric_still,
            **vars(spent),
        )
        flows[key] = forward[len(later) // 2]
    everywhere = np.ones(images[0].shape[:2], bool)
    return results, Case(name=name, image=images[0], truth=None, valid=everywhere, flows=flows)


def _mean_photometric_error(
    images: Sequence[Picture],
    forward: Float32[np.ndarray, "later 2 height width"],
    visible: Sequence[_Mask],
) -> float | None:
    """Mean `metrics.photometric_error` of the later images; None if no pixel is visible."""
    errors = [
        metrics.photometric_error(images[0], image, flow, mask)
        for image, flow, mask in zip(images[1:], forward, visible, strict=True)
    ]
    errors = [error for error in errors if error is not None]
    return fmean(errors) if errors else None
