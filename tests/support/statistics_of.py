"""Statistics of a histogram that a test made."""

from typing import Any

import numpy as np

from pipeline.dataset.scales import Quantiles, ScaleConfig, summarize_quantiles
from schemas.statistics import Source, SpectrumStatistics


def statistics_of(
    counts: np.ndarray, *, size: tuple[int, int] = (256, 160), **config: Any
) -> SpectrumStatistics:
    """T = 150 at 30 frames a second."""
    source = Source(run="0" * 64, quiver=None, view=None, shards=1, windows=1)
    return summarize_quantiles(
        Quantiles(counts),
        ScaleConfig(**config),
        fps=30.0,
        frames=150,
        size=size,
        sources=(source,),
        shards="0" * 64,
    )
