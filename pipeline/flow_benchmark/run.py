"""What a card says of flow estimators: each on pairs with known flow, on swaying scenes with known
motion, and on real clips.

Every function takes one case and all estimators, and gives numbers by the estimator's name and
pictures of one pair. What comes of them is said by `compare_smoothing` and `_best_estimator`, from
the numbers alone.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from pipeline.flow.config import FlowConfig
from pipeline.flow.estimator import FlowEstimator
from pipeline.flow_benchmark import metrics
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
_DEFAULT_ESTIMATOR = f"{FlowConfig.flow}_{FlowConfig.dis_preset}"
_DETAIL_OCTAVE = 3
"""Which of quality.OCTAVES tells smooth flow from sharp: finer ones hardly any estimator finds,
coarser ones all.
"""
_DETAIL_SIZE_TEXT = f"{metrics.OCTAVE_SIGMAS_PX[_DETAIL_OCTAVE]:g} to {metrics.OCTAVE_SIGMAS_PX[_DETAIL_OCTAVE + 1]:g}"
_LEARNED_PREFIXES = ("raft_",)
"""How the names of estimators begin that were trained."""

Picture = UInt8[np.ndarray, "height width 3"]
_Estimators = Mapping[str, FlowEstimator]
Numbers = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One pair of pictures, what was found in it, and the truth where it is known."""

    name: str
    image: Picture
    truth: Flow | None
    valid: Bool[np.ndarray, "height width"]
    flows: dict[str, Flow]


def is_learned(name: str) -> bool:
    return name.startswith(_LEARNED_PREFIXES)


def _estimate_timed(
    estimator: FlowEstimator, images: Sequence[Picture], pairs: Sequence[tuple[int, int]]
) -> tuple[Float32[np.ndarray, "pairs 2 height width"], Numbers]:
    """Flow between images, by their indices, and the time a pair took with its share of what is
    done once per image.

    `cpu_s` is of this process, and on an idle machine the same as `wall_s` where the estimator runs
    on one core.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    prepared = estimator.prepare(images)
    found = [
        _to_host(
            estimator.displace(
                [(prepared[i], prepared[j]) for i, j in pairs[first : first + BLOCK_FRAMES]]
            )
        )
        for first in range(0, len(pairs), BLOCK_FRAMES)
    ]
    count = len(pairs)
    return np.concatenate(found), dict(
        wall_s=(time.perf_counter() - wall) / count, cpu_s=(time.process_time() - cpu) / count
    )


def _to_host(flow: Any) -> np.ndarray:
    """In this process's memory; waits for a device."""
    return flow if isinstance(flow, np.ndarray) else flow.cpu().numpy()


def evaluate_known_pair(known: KnownPair, estimators: _Estimators) -> tuple[Numbers, Case]:
    """Errors at full resolution, of one pair with known flow."""
    flows, found, truth = {}, {}, metrics.Truth(known.flow, known.valid)
    for name, estimator in estimators.items():
        (flows[name],), spent = _estimate_timed(estimator, [known.source, known.target], [(0, 1)])
        found[name] = compare_with_truth(flows[name], truth) | spent
    case = Case(
        name=known.name, image=known.source, truth=known.flow, valid=known.valid, flows=flows
    )
    return found, case


def compare_with_truth(flow: Flow, truth: metrics.Truth) -> Numbers:
    """All measures of one flow beside the truth. Those near motion edges are None where the truth
    has none.
    """
    error = metrics.end_point_error(flow, truth.flow)
    return dict(
        epe_px=metrics.masked_mean(error, truth.valid),
        angle_deg=metrics.masked_mean(metrics.angular_error(flow, truth.flow), truth.valid),
        epe_near_px=metrics.masked_mean(error, truth.near_edges),
        epe_inside_px=metrics.masked_mean(error, truth.away_from_edges),
        blur_px=metrics.equivalent_blur(flow, truth),
        details=metrics.measure_details(flow, truth),
    )


def _render_scene_frames(
    name: str, seed: int, frames: int
) -> tuple[
    list[Picture], Float32[np.ndarray, "time 2 height width"], Bool[np.ndarray, "height width"]
]:
    """Frames of a procedural scene at the working resolution and rate, its true motion, and where
    that can be trusted.
    """
    scene, times = (
        SCENES[name](np.random.default_rng([seed, *name.encode()])),
        np.arange(frames) / FPS,
    )
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
) -> tuple[Numbers, Case]:
    """Errors of flow from the first frame to every later one, over time and in frequency; smoothing
    at the time of the largest motion.

    Averages are over what can be trusted. Edges are where the truth is not: so what is measured
    near them is over all pixels.
    """
    images, truth, valid = _render_scene_frames(name, seed, frames)
    moment = int(np.hypot(truth[:, 0], truth[:, 1]).mean(axis=(1, 2)).argmax())
    spectrum, at_once = (
        to_spectrum(truth, FREQUENCIES),
        metrics.Truth(truth[moment], np.ones_like(valid)),
    )
    flows, found = {}, {}
    for key, estimator in estimators.items():
        motion, spent = _estimate_timed(estimator, images, [(0, i) for i in range(frames)])
        errors = [
            metrics.masked_mean(metrics.end_point_error(one, true), valid)
            for one, true in zip(motion[1:], truth[1:], strict=True)
        ]
        found_spectrum = to_spectrum(motion, FREQUENCIES)
        bands = metrics.band_errors(found_spectrum, spectrum, valid, frames)
        both = metrics.regress(found_spectrum[1:, :, valid], spectrum[1:, :, valid])
        flows[key] = motion[moment]
        found[key] = (
            compare_with_truth(motion[moment], at_once)
            | dict(
                epe_px=fmean(e for e in errors if e is not None),
                bands=bands,
                spectrum_error=both[1] if both else None,
            )
            | spent
        )
    return found, Case(name=name, image=images[0], truth=truth[moment], valid=valid, flows=flows)


def evaluate_clip(
    name: str, images: Sequence[Picture], estimators: _Estimators
) -> tuple[Numbers, Case]:
    """Consistency of flow from the first image to all others and back, and what the pictures say of
    it; there is no truth. All of them are measured on the pixels that every one of them keeps in
    the picture (docs/maths.md, 54), else each would choose its own. None where there is no such
    pixel.
    """
    later = range(1, len(images))
    pairs = [(0, i) for i in later] + [(i, 0) for i in later]
    motions = {
        key: _estimate_timed(estimator, images, pairs) for key, estimator in estimators.items()
    }
    kept = {
        key: [metrics.stays_inside(flow) for flow in motion[: len(later)]]
        for key, (motion, _) in motions.items()
    }
    seen = [np.logical_and.reduce(masks) for masks in zip(*kept.values(), strict=True)]
    still = np.zeros((len(later), 2, *images[0].shape[:2]), np.float32)
    about = dict(
        photometric_still=_mean_photometric_error(images, still, seen),
        common_share=float(np.mean(seen)),
    )
    flows, found = {}, {}
    for key, (motion, spent) in motions.items():
        forward, backward = motion[: len(later)], motion[len(later) :]
        inside = dict(
            inside_share=float(np.mean(kept[key])),
            photometric=_mean_photometric_error(images, forward, seen),
        )
        found[key] = (
            metrics.consistency(list(zip(forward, backward, strict=True)), seen)
            | inside
            | about
            | spent
        )
        flows[key] = forward[len(later) // 2]
    return found, Case(
        name=name,
        image=images[0],
        truth=None,
        valid=np.ones(images[0].shape[:2], bool),
        flows=flows,
    )


def _mean_photometric_error(
    images: Sequence[Picture],
    forward: Float32[np.ndarray, "later 2 height width"],
    seen: Sequence[Bool[np.ndarray, "height width"]],
) -> float | None:
    """How far the later images, moved back by the flow to them, are from the first, grey levels;
    None where no pixel is seen.
    """
    errors = [
        metrics.photometric_error(images[0], image, flow, mask)
        for image, flow, mask in zip(images[1:], forward, seen, strict=True)
    ]
    found = [error for error in errors if error is not None]
    return fmean(found) if found else None


def mean_over_cases(part: Mapping[str, Numbers], name: str, key: str) -> float | None:
    """Mean of a measure over the cases of a part; None where no case has it."""
    values = [case[name][key] for case in part.values() if case[name][key] is not None]
    return fmean(values) if values else None


def seconds_per_pair(about: Numbers, name: str) -> float | None:
    """A pair at the working resolution, of the scenes or else of the clips: of a GPU by the wall,
    of a core by its own clock.
    """
    part = about["scenes"] or about["clips"]
    return mean_over_cases(
        part,
        name,
        "wall_s" if is_learned(name) and about["protocol"]["device"] == "cuda" else "cpu_s",
    )


def _best_estimator(part: Mapping[str, Numbers], key: str, names: Sequence[str]) -> str | None:
    """The estimator with the least mean of a measure, among these; None where none has it."""
    found = {name: mean_over_cases(part, name, key) for name in names} if part else {}
    return min(
        (name for name, value in found.items() if value is not None),
        key=lambda name: found[name] or 0.0,
        default=None,
    )


def compare_smoothing(
    known: Mapping[str, Numbers], scenes: Mapping[str, Numbers], names: Sequence[str]
) -> list[Numbers]:
    """The claim that learned flow smooths too much, on each part: every learned estimator beside
    the classical one of least error and the default.
    """
    classical = [name for name in names if not is_learned(name)]
    entries = []
    for part, cases in (("known", known), ("scenes", scenes)):
        peers = dict.fromkeys(
            peer
            for peer in (_best_estimator(cases, "epe_px", classical), _DEFAULT_ESTIMATOR)
            if peer in classical
        )
        entries += [
            _compare_with_classical(part, cases, name, peer)
            for name in names
            if is_learned(name)
            for peer in peers
            if cases
        ]
    return entries


def _compare_with_classical(
    part: str, cases: Mapping[str, Numbers], learned: str, peer: str
) -> Numbers:
    """Of each measure the means of both, and in how many of the cases that have motion edges the
    learned one is the smoother: keeps less, has less detail, blurs edges more, and has more error
    near edges beside that inside.
    """
    pairs = [
        (_smoothing_summary(case[learned]), _smoothing_summary(case[peer]))
        for case in cases.values()
        if _has_edges(case[learned])
    ]
    smoother = dict(kept=-1, amount=-1, blur_px=1, steepness=1)
    measures = {
        key: dict(
            learned=fmean(a[key] for a, _ in pairs),
            classical=fmean(b[key] for _, b in pairs),
            smoother=sum(sign * a[key] > sign * b[key] for a, b in pairs),
        )
        for key, sign in smoother.items()
        if pairs
    }
    return dict(part=part, learned=learned, classical=peer, cases=len(pairs), measures=measures)


def _has_edges(numbers: Numbers) -> bool:
    """And an inside, and details."""
    return None not in (
        numbers["epe_near_px"],
        numbers["epe_inside_px"],
        numbers["details"][_DETAIL_OCTAVE],
    )


def _smoothing_summary(numbers: Numbers) -> dict[str, float]:
    """What smoothing shows in."""
    one = numbers["details"][_DETAIL_OCTAVE]
    steepness = numbers["epe_near_px"] / max(numbers["epe_inside_px"], 1e-6)
    return dict(
        kept=one["kept"], amount=one["amount"], blur_px=numbers["blur_px"], steepness=steepness
    )


_PART_TITLES = dict(known="pairs with known flow", scenes="procedural scenes")


def headline_sentences(about: Numbers) -> list[str]:
    """What came out of a whole card, in sentences: which estimator errs least, and which is
    fastest.
    """
    names = list(about["estimators"])
    sentences = [
        f"Least error on the {_PART_TITLES[part]}: {name}, {mean_over_cases(about[part], name, 'epe_px'):.3f} px."
        for part in _PART_TITLES
        if (name := _best_estimator(about[part], "epe_px", names))
    ]
    spent = {name: value for name in names if (value := seconds_per_pair(about, name)) is not None}
    if spent:
        quickest = min(spent, key=lambda name: spent[name])
        sentences.append(
            f"Fastest at {WORKING_SIZE[0]} x {WORKING_SIZE[1]}: {quickest}, {1000 * spent[quickest]:.2g} ms a pair."
        )
    return sentences


def smoothing_sentences(about: Numbers) -> list[str]:
    """Whether learned flow smooths too much, in sentences."""
    return [smoothing_sentence(entry) for entry in about["smoothing"] if entry["cases"]]


def smoothing_sentence(entry: Numbers) -> str:
    """Of one learned estimator beside a classical one, on one part."""
    n, found = entry["cases"], entry["measures"]
    kept, amount, blur, steep = (found[key] for key in ("kept", "amount", "blur_px", "steepness"))
    less, smooth = kept["smoother"] > n / 2, amount["smoother"] > n / 2
    verdict = (
        "smooths more than"
        if less and smooth
        else "finds less detail but is not smoother than"
        if less
        else "does not smooth more than"
    )
    return (
        f"On the {_PART_TITLES[entry['part']]} {entry['learned']} {verdict} {entry['classical']}: of details of {_DETAIL_SIZE_TEXT} px it finds {100 * kept['learned']:.0f} % "
        f"against {100 * kept['classical']:.0f} % (less in {kept['smoother']} of {n}), has {100 * amount['learned']:.0f} % as much, right or wrong, against "
        f"{100 * amount['classical']:.0f} % (less in {amount['smoother']} of {n}); motion edges are blurred like by a Gaussian of {blur['learned']:.1f} px "
        f"against {blur['classical']:.1f} (more in {blur['smoother']} of {n}), and the error near them is {steep['learned']:.1f} times that inside "
        f"against {steep['classical']:.1f}."
    )
