"""Measures how close generated videos are to real ones, and what the best possible ones reach.

pairs               READ FIRST: which videos make a pair, and what is measured of one
table               one row per metric over all pairs; remarks
curves              metrics over time, amplitude spectra
metrics             the list of metrics: keys, names, units, inputs
extractors          features of frames and excerpts, for distances of distributions
feature_networks    Inception and I3D from TorchScript files
distributions       FID, KID, FVD, confidence intervals
image_quality       PSNR, SSIM
lpips               LPIPS
temporal            flicker, warping error
motion              metrics of displacements
spectral            metrics of spectral volumes; the seam of a loop
paired              differences between two evaluations of the same photographs
upper_bound         the first frame moved by its own true motion
prior/              a prior on scenes that it was not trained on
report              the HTML pages of `quiver evaluate` and `quiver upper-bound`
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.evaluate.image_quality import psnr, ssim
    from model.evaluate.pairs import Evaluators, PairMetrics, match_pairs, measure_pair
    from model.evaluate.spectral import Seam
    from model.evaluate.table import MetricRow, build_table
    from model.evaluate.upper_bound import UpperBound, measure_upper_bounds

__all__ = [
    "Evaluators",
    "MetricRow",
    "PairMetrics",
    "Seam",
    "UpperBound",
    "build_table",
    "match_pairs",
    "measure_pair",
    "measure_upper_bounds",
    "psnr",
    "ssim",
]
_MODULES = {
    "Evaluators": "pairs",
    "MetricRow": "table",
    "PairMetrics": "pairs",
    "Seam": "spectral",
    "UpperBound": "upper_bound",
    "build_table": "table",
    "match_pairs": "pairs",
    "measure_pair": "pairs",
    "measure_upper_bounds": "upper_bound",
    "psnr": "image_quality",
    "ssim": "image_quality",
}
"""The module of each name; they import torch or pyarrow, so they are loaded on first use."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
