"""Which frames are looked at together: excerpts of a video, each so many frames long, begun every
so many frames (docs/maths.md, 33).

Length and stride are part of an evaluation's protocol; nothing is drawn at random. Frames after the
last whole excerpt are left out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy.lib.stride_tricks import sliding_window_view

from model.evaluate.feature_networks import DT_I3D, DT_I3D_32, I3D, INCEPTION, FeatureNetwork
from model.evaluate.lpips import Lpips
from model.evaluate.motion import magnitude_distance, oscillation_share, spatial_coherence
from model.evaluate.spectral import log_spectral_distance, phase_coherence, seam
from model.evaluate.temporal import flicker, warping_error
from model.evaluate.upper_bound import psnr_ssim
from pipeline.flow.estimator import FlowEstimator
from pipeline.images.draw import busiest_row
from pipeline.motion.spectrum import GRID_STEP, modulus, power_spectrum, to_spectrum
from pipeline.whole_clip.flow import flow_between, flow_from_start, resample_flow
from schemas.arrays import Frames

CROP_SIZE = (256, 128)
"""Of the paper's crop, width x height."""
FREQUENCIES = 16
SPECTRUM_FPS = 30.0
"""To which displacements are brought before their spectrum is taken."""
MIN_PAIR_FRAMES = 16
"""Frames of a pair: one excerpt of FVD."""
_FEATURE_CELLS = (8, 4)
"""Across and down, of features that need no weights."""
_MAX_BATCH_FRAMES = 300
"""Frames that are looked at in one call."""

Samples = UInt8[np.ndarray, "samples *time height width 3"]
_FeatureFunction = Callable[[Any], Any]


@runtime_checkable
class _TimedFrames(Protocol):
    """Frames of a video, and when each is shown, seconds after the first."""

    @property
    def frames(self) -> np.ndarray: ...
    @property
    def times(self) -> np.ndarray: ...


class FeatureExtractor(NamedTuple):
    """Features of a video: of its frames one by one (length 1), or of excerpts of it."""

    name: str
    length: int
    stride: int
    function: _FeatureFunction | None
    """Samples to features; None where its weights were not given."""
    weights_option: str = ""
    """By which they are given."""
    protocol: Mapping[str, Any] = {}


class Evaluators(NamedTuple):
    """What a measurement is made with."""

    estimator: FlowEstimator
    extractors: Sequence[FeatureExtractor]
    lpips: Lpips | None = None


class VideoMetrics(NamedTuple):
    """What is kept of one video of a pair."""

    flicker: float
    warping_error: float | None
    """None where nothing is visible."""
    visible: float
    """Share of the pixels over which it is, 0 to 1."""
    oscillation_share: float
    spatial_coherence: float
    phase_coherence: float
    seam: float
    motion_px: float
    amplitude: Float[np.ndarray, " all_freq"]
    """2/T sqrt(P_k) of x and y together, pixels, at all T/2 + 1 frequencies, of every GRID-th
    pixel.
    """
    features: Mapping[str, Float32[np.ndarray, "_ _"]]
    """By the name of the look."""
    xt_slice: UInt8[np.ndarray, "time width 3"]
    """X-t, of the row in which the real video moves most."""


class PairMetrics(NamedTuple):
    """A pair."""

    name: str
    times: Float[np.ndarray, " time"]
    window: int
    """T, of the spectra, at FPS."""
    slice_row: int
    """Of the X-t slices."""
    psnr_db: Float[np.ndarray, " later"]
    """Of the frames after the first, which may be what the video was made from."""
    ssim: Float[np.ndarray, " later"]
    lpips: Float[np.ndarray, " later"] | None
    spectral_db: Float[np.ndarray, " bands"]
    """Log-spectral distance of bands 1 .. K-1."""
    magnitude_px: float
    real: VideoMetrics
    generated: VideoMetrics


def _cell_colors(
    samples: UInt8[np.ndarray, "samples height width 3"],
) -> Float32[np.ndarray, "samples features"]:
    """Of pictures, 0 to 1: mean colours of CELLS, without weights (docs/maths.md, 42)."""
    return (
        np.stack(
            [
                cv2.resize(one, _FEATURE_CELLS, interpolation=cv2.INTER_AREA).ravel()
                for one in samples
            ]
        ).astype(np.float32)
        / 255
    )


def _cell_changes(
    samples: UInt8[np.ndarray, "samples time height width 3"],
) -> Float32[np.ndarray, "samples features"]:
    """Of excerpts, 0 to 1: for each of CELLS how much its pixels change from frame to frame, and
    how far they range about their mean (docs/maths.md, 42).
    """
    found = []
    for one in samples:
        grey = (
            np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in one]).astype(np.float32)
            / 255
        )
        steps, spread = np.abs(np.diff(grey, axis=0)).mean(axis=0), grey.std(axis=0)
        found.append(
            np.concatenate(
                [
                    cv2.resize(part, _FEATURE_CELLS, interpolation=cv2.INTER_AREA).ravel()
                    for part in (steps, spread)
                ]
            )
        )
    return np.stack(found).astype(np.float32)


NETWORK_SPECS = {"inception": INCEPTION, "i3d": I3D, "dt-i3d": DT_I3D, "dt-i3d-32": DT_I3D_32}
"""By the option that names its file: how each is called."""


def make_extractors(networks: Mapping[str, FeatureNetwork]) -> list[FeatureExtractor]:
    """All that are asked for, whether their network was given or not."""
    plain = (
        dict(features=f"mean colours of {_FEATURE_CELLS[0]}x{_FEATURE_CELLS[1]} cells"),
        dict(features=f"change and range of grey in {_FEATURE_CELLS[0]}x{_FEATURE_CELLS[1]} cells"),
    )
    found = [
        FeatureExtractor("colours", 1, 1, _cell_colors, protocol=plain[0]),
        *(
            FeatureExtractor(f"changes{n}", n, n // 2, _cell_changes, protocol=plain[1])
            for n in (16, 32)
        ),
    ]
    seen = (
        ("inception", "inception", 1),
        ("i3d16", "i3d", 16),
        ("i3d32", "i3d", 32),
        ("dt-i3d16", "dt-i3d", 16),
        ("dt-i3d32", "dt-i3d-32", 32),
    )
    return found + [_make_network_extractor(networks, *names) for names in seen]


def _make_network_extractor(
    networks: Mapping[str, FeatureNetwork], name: str, option: str, length: int
) -> FeatureExtractor:
    network = networks.get(option)
    sees, protocol = (network.extract, network.protocol()) if network else (None, {})
    return FeatureExtractor(name, length, max(1, length // 2), sees, f"--{option} FILE", protocol)


def measure_pair(
    name: str, real: _TimedFrames, generated: _TimedFrames, given: Evaluators
) -> PairMetrics:
    """A pair of videos with as many frames of one size, at least LEAST. Raises ValueError for
    others, and where a network refuses them.
    """
    if real.frames.shape != generated.frames.shape or len(real.frames) < MIN_PAIR_FRAMES:
        raise ValueError(
            f"{name} has frames {real.frames.shape} and {generated.frames.shape}, expected equal shapes of at least {MIN_PAIR_FRAMES} frames"
        )
    window = int(min(real.times[-1], generated.times[-1]) * SPECTRUM_FPS + 1e-6) + 1
    motions = [
        resample_flow(flow_from_start(one.frames, given.estimator), one.times, window, SPECTRUM_FPS)
        for one in (real, generated)
    ]
    spectra = [
        to_spectrum(motion, min(FREQUENCIES, window // 2)).astype(np.complex64)
        for motion in motions
    ]
    row = busiest_row(motions[0])
    sides = [
        _measure_video(one.frames, motion, spectrum, row, given)
        for one, motion, spectrum in zip((real, generated), motions, spectra, strict=True)
    ]
    later = generated.frames[1:], real.frames[1:]
    return PairMetrics(
        name,
        real.times,
        window,
        row,
        *psnr_ssim(*later),
        given.lpips.measure_frames(*later) if given.lpips else None,
        log_spectral_distance(spectra[1], spectra[0], window),
        magnitude_distance(
            *(one[:, :, ::GRID_STEP, ::GRID_STEP] for one in (motions[1], motions[0]))
        ),
        *sides,
    )


def _measure_video(
    frames: Frames, motion: np.ndarray, spectrum: np.ndarray, row: int, given: Evaluators
) -> VideoMetrics:
    """One video by itself."""
    forward, backward = (
        flow_between(frames, given.estimator),
        flow_between(frames[::-1], given.estimator)[::-1],
    )
    warping = warping_error(frames, list(zip(forward, backward, strict=True)))
    amplitude = (
        np.sqrt(power_spectrum(motion[:, :, ::GRID_STEP, ::GRID_STEP]).sum(axis=0))
        * 2
        / len(motion)
    )
    return VideoMetrics(
        flicker(frames),
        *warping,
        oscillation_share(motion, len(spectrum)),
        spatial_coherence(motion),
        phase_coherence(spectrum),
        seam(motion).position_typical,
        float(modulus(motion[:, 0], motion[:, 1]).mean()),
        amplitude,
        {
            look.name: extract(frames, look)
            for look in given.extractors
            if _supports(look, len(frames))
        },
        frames[:, row].copy(),
    )


def _supports(look: FeatureExtractor, frames: int) -> bool:
    """Whether it can see a video of so many frames."""
    return look.function is not None and look.length <= frames


def extract(frames: Frames, look: FeatureExtractor) -> Float32[np.ndarray, "samples features"]:
    """Features of frames, or of excerpts."""
    samples: Any = frames if look.length == 1 else cut_excerpts(frames, look.length, look.stride)
    step = max(1, _MAX_BATCH_FRAMES // look.length)
    assert look.function is not None  # noqa: S101 - `_supports` was asked
    return np.concatenate(
        [look.function(samples[i : i + step]) for i in range(0, len(samples), step)]
    )


FVD, FVD32 = 16, 32
"""Frames of an excerpt of which I3D makes one sample."""
SLIDING_FID_FRAMES, _SLIDING_FVD = 30, 16
"""Frames of an excerpt of which the paper draws a distance over time."""


def cut_excerpts(
    frames: UInt8[np.ndarray, "time height width 3"], length: int, stride: int
) -> UInt8[np.ndarray, "excerpts length height width 3"]:
    """A view of a video's frames. Raises ValueError where it is too short for one, or the stride is
    under 1.
    """
    _check_excerpt_length(len(frames), length, stride)
    return np.moveaxis(sliding_window_view(frames, length, axis=0)[::stride], -1, 1)


def iter_feature_windows(
    features: Float[np.ndarray, "videos time dimensions"], length: int, stride: int
) -> Iterator[Float[np.ndarray, "samples dimensions"]]:
    """The features of all videos within one excerpt after the other, for `distances.sliding`.

    Of frames (sliding-window FID), or of excerpts with a length of 1 (sliding FVD). Raises
    ValueError as `cut_excerpts`.
    """
    count, time, dimensions = features.shape
    _check_excerpt_length(time, length, stride)
    starts = range(0, time - length + 1, stride)
    return (
        features[:, start : start + length].reshape(count * length, dimensions) for start in starts
    )


def _check_excerpt_length(time: int, length: int, stride: int) -> None:
    if not (1 <= length <= time and stride >= 1):
        raise ValueError(
            f"excerpts of {length} frames every {stride} of a video of {time}, expected at least 1 and at most as many as it has"
        )
