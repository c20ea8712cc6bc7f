"""Which metrics an evaluation has: their keys in evaluation.json, names, units, and inputs
(docs/maths.md, 30 to 42).
"""

from dataclasses import dataclass
from typing import Literal

from model.evaluate.distributions import Distance, frechet, kid


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """What a metric is called, and what it is computed from."""

    key: str
    """Its name in evaluation.json; also the attribute of `PairMetrics` or `VideoMetrics`, if it is
    a mean over pairs.
    """
    name: str
    unit: str = ""
    better: Literal["higher", "lower", "nearer"] = "lower"
    """nearer: to the value of the real videos."""
    extractor: str = ""
    """For a distance of distributions: the name of its `FeatureExtractor`."""
    distance: Distance = frechet
    scale: float = 1.0
    """The factor of the distance."""
    window: int = 1
    """For a distance that slides over the videos: samples of a window, ..."""
    stride: int = 1
    """... and from one window to the next."""


PAIRED_METRICS = (
    MetricSpec(key="psnr_db", name="PSNR", unit="dB", better="higher"),
    MetricSpec(key="ssim", name="SSIM", better="higher"),
    MetricSpec(key="lpips", name="LPIPS, AlexNet"),
)
"""Metrics that compare each generated frame with the real one."""
PER_VIDEO_METRICS = (
    MetricSpec(key="flicker", name="Flicker", unit="grey levels", better="nearer"),
    MetricSpec(key="warping_error", name="Warping error", better="nearer"),
    MetricSpec(key="oscillation_share", name="Oscillation share", better="nearer"),
    MetricSpec(key="spatial_coherence", name="Spatial coherence", better="nearer"),
    MetricSpec(key="phase_coherence", name="Phase coherence", better="nearer"),
    MetricSpec(key="seam", name="Seam", better="nearer"),
    MetricSpec(key="motion_px", name="Mean motion", unit="px", better="nearer"),
)
"""Metrics that each video has by itself; compared is how much real and generated ones differ."""
LOG_SPECTRAL_METRIC = MetricSpec(key="log_spectral_db", name="Log-spectral distance", unit="dB")
MAGNITUDE_METRIC = MetricSpec(key="magnitude_px", name="Wasserstein distance of motion", unit="px")
DISTRIBUTION_METRICS = (
    MetricSpec(key="fid", name="FID", extractor="inception"),
    MetricSpec(key="kid", name="KID x 100", extractor="inception", distance=kid, scale=100.0),
    MetricSpec(key="fvd", name="FVD", extractor="i3d16"),
    MetricSpec(key="fvd32", name="FVD32", extractor="i3d32"),
    MetricSpec(key="dt_fvd", name="DT-FVD", extractor="dt-i3d16"),
    MetricSpec(key="dt_fvd32", name="DT-FVD32", extractor="dt-i3d32"),
    MetricSpec(
        key="colours_frechet",
        name="Frechet distance of colours x 100",
        extractor="colours",
        scale=100.0,
    ),
    MetricSpec(
        key="colours_kernel",
        name="Kernel distance of colours x 100",
        extractor="colours",
        distance=kid,
        scale=100.0,
    ),
    MetricSpec(
        key="changes_frechet",
        name="Frechet distance of changes x 10,000",
        extractor="changes16",
        scale=1e4,
    ),
    MetricSpec(
        key="changes32_frechet",
        name="Frechet distance of changes x 10,000, 32 frames",
        extractor="changes32",
        scale=1e4,
    ),
)
"""Distances between the features of all real and of all generated videos."""
SLIDING_METRICS = (
    MetricSpec(
        key="sliding_fid", name="FID of 30 frames", extractor="inception", window=30, stride=10
    ),
    MetricSpec(key="sliding_dt_fvd", name="DT-FVD of 16 frames", extractor="dt-i3d16"),
    MetricSpec(
        key="sliding_colours",
        name="Frechet distance of colours x 100, of 30 frames",
        extractor="colours",
        scale=100.0,
        window=30,
        stride=10,
    ),
    MetricSpec(
        key="sliding_changes",
        name="Frechet distance of changes x 10,000, of 16 frames",
        extractor="changes16",
        scale=1e4,
    ),
)
"""Distances that slide over the videos. 30 frames and 16 are the paper's windows."""
