"""Pairs of a real and a generated video: which videos make a pair, and what is measured of one.

Videos are paired by name. `match_pairs` opens them and checks that they can be compared frame by
frame; `measure_pair` computes the metrics of one pair, and keeps little of its frames. `table` and
`curves` then combine the pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8

from model.evaluate.extractors import FeatureExtractor
from model.evaluate.image_quality import MAX_PSNR_DB, frame_psnr_ssim
from model.evaluate.lpips import Lpips
from model.evaluate.motion import magnitude_distance, oscillation_share, spatial_coherence
from model.evaluate.spectral import log_spectral_distance, phase_coherence, seam
from model.evaluate.temporal import flicker, warping_error
from pipeline.dataset.open import open_dataset
from pipeline.decode.pool import DecoderPool
from pipeline.flow.estimator import FlowEstimator
from pipeline.images.draw import busiest_row
from pipeline.motion.spectrum import GRID_STEP, modulus, power_spectrum, to_spectrum
from pipeline.preview.reconstruct import read_manifest, read_settings
from pipeline.whole_clip.flow import flow_between, flow_from_start, resample_flow
from pipeline.whole_clip.frames import ClipSpan, collect_videos, open_clip, open_window
from schemas.outcome import Outcome

CROP_SIZE = (256, 128)
"""Width and height of the paper's crop."""
FREQUENCIES = 16
"""K, of the spectra that are compared."""
SPECTRUM_FPS = 30.0
"""The rate to which displacements are resampled before their spectrum is taken."""
MIN_PAIR_FRAMES = 16
"""Fewest frames of a pair: one excerpt of FVD."""
_MIN_SECONDS = 0.5
"""Shortest pair: a shorter one has no meaningful spectrum."""
_MAX_ASPECT_DIFFERENCE = 0.02
"""Relative difference allowed between the aspects of a pair: sizes are whole numbers, often even
ones.
"""
_MAX_EXAMPLE_NAMES = 3
"""Most names that a message lists."""

Frames = UInt8[np.ndarray, "time height width 3"]
SpanOpener = Callable[[], ClipSpan]
"""Opens a video without decoding its frames."""


class VideoPair(NamedTuple):
    """A real and a generated video that can be compared frame by frame."""

    name: str
    real: ClipSpan
    generated: ClipSpan
    frames: int
    """How many frames are compared, from the first on."""


def find_real(place: str, pool: DecoderPool) -> dict[str, SpanOpener]:
    """The real videos by name: those of a folder, or the kept windows of DATASET or DATASET:VIEW by
    their keys. Raises ValueError if there are none.
    """
    if not Path(place.partition(":")[0]).exists():
        raise ValueError(
            f"--real is {place!r}, which does not exist, expected a folder of videos, DATASET or "
            "DATASET:VIEW"
        )
    if Path(place).is_dir() and not (Path(place) / "run.json").exists():
        return find_videos(Path(place), "--real", pool)
    view = open_dataset(place)
    settings = read_settings(view.dataset)
    rows = read_manifest(view, filters=[("outcome", "==", str(Outcome.KEPT))])
    return {row.window().key: partial(open_window, row, settings, pool) for row in rows}


def find_videos(folder: Path, option: str, pool: DecoderPool) -> dict[str, SpanOpener]:
    """The videos of a folder by their names without suffix. Raises ValueError, which names the
    option, if there are none.
    """
    videos = collect_videos(folder, option)
    return {name: partial(open_clip, path, pool) for name, path in videos.items()}


def match_pairs(
    real: Mapping[str, SpanOpener],
    generated: Mapping[str, SpanOpener],
    max_frames: int,
    report: Callable[[str], None],
) -> tuple[list[VideoPair], dict[str, list[str]]]:
    """The pairs of videos with the same name, and the names without a partner for each side.

    `report` gets a sentence about videos without a partner, and about pairs of different lengths.
    Raises ValueError if there is no pair, or one cannot be compared.
    """
    names = [name for name in generated if name in real]
    if not names:
        examples = (", ".join(list(side)[:_MAX_EXAMPLE_NAMES]) for side in (real, generated))
        raise ValueError(
            "no generated video has the name of a real one, expected the same file names: "
            "real are {}, generated {}".format(*examples)
        )
    unmatched = dict(
        real=[name for name in real if name not in generated],
        generated=[name for name in generated if name not in real],
    )
    for side, unpaired in unmatched.items():
        if unpaired:
            examples = ", ".join(unpaired[:_MAX_EXAMPLE_NAMES])
            more = ", ..." if len(unpaired) > _MAX_EXAMPLE_NAMES else ""
            report(f"{len(unpaired)} {side} without a partner, left out: {examples}{more}")
    return [
        _make_pair(name, real[name](), generated[name](), max_frames, report) for name in names
    ], unmatched


def _make_pair(
    name: str,
    real: ClipSpan,
    generated: ClipSpan,
    max_frames: int,
    report: Callable[[str], None],
) -> VideoPair:
    """Returns a pair. Raises ValueError if its videos cannot be compared frame by frame."""
    lengths = len(real.times), len(generated.times)
    count = min(*lengths, max_frames)
    if count < MIN_PAIR_FRAMES:
        raise ValueError(
            f"{name} has {lengths[0]} real and {lengths[1]} generated frames, expected at least "
            f"{MIN_PAIR_FRAMES} of both"
        )
    seconds = min(span.times[count - 1] for span in (real, generated))
    if seconds < _MIN_SECONDS:
        raise ValueError(
            f"{name} has {count} frames in {seconds:.2f} s, expected at least {_MIN_SECONDS:g} s"
        )
    aspects = [span.size[0] / span.size[1] for span in (real, generated)]
    if abs(aspects[0] / aspects[1] - 1) > _MAX_ASPECT_DIFFERENCE:
        sizes = "{}x{} pixels and generated {}x{}".format(*real.size, *generated.size)
        raise ValueError(
            f"{name} has real {sizes}, expected the same aspect: their crops would not show the "
            "same"
        )
    lag = np.abs(real.times[:count] - generated.times[:count]).max()
    if lag > np.median(np.diff(real.times)) / 2:
        rates = [(count - 1) / span.times[count - 1] for span in (real, generated)]
        raise ValueError(
            f"{name} has real {rates[0]:.2f} and generated {rates[1]:.2f} frames a second, "
            "expected frames of the same instants"
        )
    if lengths[0] != lengths[1] and count < max_frames:
        report(
            f"{name} has {lengths[0]} real and {lengths[1]} generated frames: the first {count} "
            "are compared"
        )
    return VideoPair(name, real, generated, count)


@runtime_checkable
class _TimedFrames(Protocol):
    """Frames of a video, and when each is shown, in seconds after the first."""

    @property
    def frames(self) -> np.ndarray: ...
    @property
    def times(self) -> np.ndarray: ...


class Evaluators(NamedTuple):
    """The flow estimator and the networks of an evaluation."""

    estimator: FlowEstimator
    extractors: Sequence[FeatureExtractor]
    lpips: Lpips | None = None

    def extractor(self, name: str) -> FeatureExtractor:
        """The extractor of that name."""
        return next(extractor for extractor in self.extractors if extractor.name == name)


class VideoMetrics(NamedTuple):
    """The metrics of one video of a pair."""

    flicker: float
    warping_error: float | None
    """None if no pixel is visible."""
    visible: float
    """Share of the pixels over which the warping error is taken, 0 to 1."""
    oscillation_share: float
    spatial_coherence: float
    phase_coherence: float
    seam: float
    motion_px: float
    amplitude: Float[np.ndarray, " all_freq"]
    """2/T sqrt(P_k) of x and y together, pixels, at all T/2 + 1 frequencies, over every
    GRID_STEP-th pixel.
    """
    features: Mapping[str, Float32[np.ndarray, "_ _"]]
    """Features by the name of their extractor."""
    xt_slice: UInt8[np.ndarray, "time width 3"]
    """The row of pixels in which the real video moves most, over time."""


class PairMetrics(NamedTuple):
    """The metrics of a pair."""

    name: str
    times: Float[np.ndarray, " time"]
    """Seconds, of the real video."""
    window: int
    """T of the spectra, at SPECTRUM_FPS."""
    slice_row: int
    """The row of the X-t slices."""
    psnr_db: Float[np.ndarray, " later"]
    """Of the frames after the first, which may be what the video was made from."""
    ssim: Float[np.ndarray, " later"]
    lpips: Float[np.ndarray, " later"] | None
    spectral_db: Float[np.ndarray, " bands"]
    """Log-spectral distance of bands 1 .. K-1."""
    magnitude_px: float
    real: VideoMetrics
    generated: VideoMetrics


def measure_pair(
    name: str, real: _TimedFrames, generated: _TimedFrames, evaluators: Evaluators
) -> PairMetrics:
    """Measures two videos with equally many frames of one size.

    Raises ValueError if their shapes differ, for fewer than MIN_PAIR_FRAMES frames, and if a
    network cannot take the frames.
    """
    if real.frames.shape != generated.frames.shape or len(real.frames) < MIN_PAIR_FRAMES:
        raise ValueError(
            f"{name} has frames {real.frames.shape} and {generated.frames.shape}, expected equal "
            f"shapes of at least {MIN_PAIR_FRAMES} frames"
        )
    window = int(min(real.times[-1], generated.times[-1]) * SPECTRUM_FPS + 1e-6) + 1
    motions = [
        resample_flow(
            flow_from_start(video.frames, evaluators.estimator), video.times, window, SPECTRUM_FPS
        )
        for video in (real, generated)
    ]
    spectra = [
        to_spectrum(motion, min(FREQUENCIES, window // 2)).astype(np.complex64)
        for motion in motions
    ]
    row = busiest_row(motions[0])
    real_metrics, generated_metrics = (
        _measure_video(video.frames, motion, spectrum, row, evaluators)
        for video, motion, spectrum in zip((real, generated), motions, spectra, strict=True)
    )
    later_frames = generated.frames[1:], real.frames[1:]
    psnr_db, ssim = frame_psnr_ssim(*later_frames)
    sampled_motions = [motion[:, :, ::GRID_STEP, ::GRID_STEP] for motion in motions]
    return PairMetrics(
        name=name,
        times=real.times,
        window=window,
        slice_row=row,
        psnr_db=np.minimum(psnr_db, MAX_PSNR_DB),
        ssim=ssim,
        lpips=evaluators.lpips.measure_frames(*later_frames) if evaluators.lpips else None,
        spectral_db=log_spectral_distance(spectra[1], spectra[0], window),
        magnitude_px=magnitude_distance(sampled_motions[1], sampled_motions[0]),
        real=real_metrics,
        generated=generated_metrics,
    )


def _measure_video(
    frames: Frames, motion: np.ndarray, spectrum: np.ndarray, row: int, evaluators: Evaluators
) -> VideoMetrics:
    """Measures one video by itself."""
    forward = flow_between(frames, evaluators.estimator)
    backward = flow_between(frames[::-1], evaluators.estimator)[::-1]
    warping = warping_error(frames, list(zip(forward, backward, strict=True)))
    power = power_spectrum(motion[:, :, ::GRID_STEP, ::GRID_STEP]).sum(axis=0)
    return VideoMetrics(
        flicker=flicker(frames),
        warping_error=warping.error,
        visible=warping.visible,
        oscillation_share=oscillation_share(motion, len(spectrum)),
        spatial_coherence=spatial_coherence(motion),
        phase_coherence=phase_coherence(spectrum),
        seam=seam(motion).position_typical,
        motion_px=float(modulus(motion[:, 0], motion[:, 1]).mean()),
        amplitude=np.sqrt(power) * 2 / len(motion),
        features={
            extractor.name: extractor.extract(frames)
            for extractor in evaluators.extractors
            if extractor.supports(len(frames))
        },
        xt_slice=frames[:, row].copy(),
    )
