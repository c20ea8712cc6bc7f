"""Compute the scales that normalize coefficients, from the histograms of the training shards.

s_f is the 95th percentile of |S_k| over all believed pixels of all training samples, x and y
together (docs/design/maths.md, section 8). The histograms give it within 0.4 %, fine counts to the
last bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Int64

from pipeline.dataset import histogram
from pipeline.dataset.open import DatasetView, iter_samples, training_digest
from schemas.run_contract import contract_provenance
from schemas.statistics import (
    DEFINITION,
    QUANTILES,
    ComponentStatistics,
    FrequencyStatistics,
    Pool,
    Source,
    SpectrumStatistics,
)

_Cell = tuple[tuple[int, int], ...]
"""(frequency, component) pairs whose values are pooled."""
_Bin = tuple[int, int, int]
"""Frequency, component and bin of a histogram."""
FineCounts = dict[_Bin, np.ndarray]
"""For some bins, the counts of the lower 16 bits of their values."""


@dataclass(frozen=True, kw_only=True)
class ScaleConfig:
    quantile: float = 0.95
    """Which quantile of the coefficient modulus becomes the scale of a frequency; another wants
    --out.
    """
    pool: Pool = "components"
    """components: x and y share a scale; none: each has its own; all: one scale for all
    frequencies; the last two want --out.
    """

    def __post_init__(self):
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile is {self.quantile:g}, expected a number between 0 and 1")


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of the counted moduli of a cell; exact to the last bit with fine counts."""

    counts: Int64[np.ndarray, "freq 2 bins"]
    fine_counts: FineCounts = field(default_factory=dict)

    def cell_counts(self, cell: _Cell) -> Int64[np.ndarray, " bins"]:
        """Returns the pooled counts of a cell."""
        return np.sum([self.counts[k, c] for k, c in cell], axis=0)

    def required_fine_bins(self, cell: _Cell, q: float) -> set[_Bin]:
        """Returns the bins whose fine counts an exact quantile needs."""
        counts = self.cell_counts(cell)
        if not counts.any():
            return set()
        ranks = histogram.ranks(int(counts.sum()), q)
        bins = {histogram.find_bin(counts, rank) for rank in ranks}
        return {(k, c, coarse_bin) for k, c in cell for coarse_bin in bins}

    def __call__(self, cell: _Cell, q: float) -> float:
        """Returns the q-quantile of a cell, in pixels; 0 if no value was counted, as if nothing
        moved.
        """
        counts = self.cell_counts(cell)
        if not counts.any():
            return 0.0
        if not self.fine_counts:
            return histogram.quantile(counts, q)
        count = int(counts.sum())
        ranks = histogram.ranks(count, q)
        values = [self._order_statistic(cell, counts, rank) for rank in ranks]
        return histogram.interpolate_ranks(values, count, q)

    def _order_statistic(self, cell: _Cell, counts: np.ndarray, rank: int) -> float:
        coarse_bin = histogram.find_bin(counts, rank)
        fine = np.sum([self.fine_counts[k, c, coarse_bin] for k, c in cell], axis=0)
        return histogram.fine_value(coarse_bin, fine, rank - int(counts[:coarse_bin].sum()))


def _scale_cells(frequencies: int, pool: Pool) -> list[tuple[_Cell, ...]]:
    """Returns, for each frequency, the cell whose quantile is its scale, or those of x and y."""
    if pool == "all":
        return [(tuple(product(range(frequencies), range(2))),)] * frequencies
    if pool == "none":
        return [(((k, 0),), ((k, 1),)) for k in range(frequencies)]
    return [(((k, 0), (k, 1)),) for k in range(frequencies)]


def compute_statistics(
    views: Sequence[DatasetView],
    config: ScaleConfig | None = None,
    fine_counts: FineCounts | None = None,
) -> SpectrumStatistics:
    """Computes the statistics of these datasets together. They are exact with the fine counts of
    `required_fine_bins`.

    Raises ValueError if the datasets are not compatible, or have no training window.
    """
    common = check_compatible(views)
    sources = sorted(map(_describe_source, views), key=lambda s: (s.run, s.view or ""))
    return summarize_quantiles(
        Quantiles(merge_histograms(views), fine_counts or {}),
        config or ScaleConfig(),
        sources=tuple(sources),
        shards=training_digest(views),
        **common,
    )


def summarize_quantiles(
    quantiles: Quantiles,
    config: ScaleConfig,
    *,
    fps: float,
    frames: int,
    sources: tuple[Source, ...],
    **fields: Any,
) -> SpectrumStatistics:
    """Returns the statistics of counted moduli; `fields` say what was counted."""
    scales = tuple(compute_scales(quantiles, config))
    frequencies = [
        FrequencyStatistics(
            hz=k * fps / frames,
            scale=scale,
            x=_component(quantiles, k, 0),
            y=_component(quantiles, k, 1),
        )
        for k, scale in enumerate(scales)
    ]
    return SpectrumStatistics(
        scale=scales,
        quantile=config.quantile,
        pool=config.pool,
        method="exact" if quantiles.fine_counts else "histogram",
        definition=DEFINITION[config.pool],
        frequencies=tuple(frequencies),
        windows=sum(source.windows for source in sources),
        sources=sources,
        fps=fps,
        frames=frames,
        **fields,
    )


def merge_histograms(views: Sequence[DatasetView]) -> Int64[np.ndarray, "freq 2 bins"]:
    """Returns the histogram of all training windows, for the frequencies that all datasets have."""
    return histogram.merge(view.read_histogram() for view in views)


def compute_scales(quantiles: Quantiles, config: ScaleConfig) -> list[Any]:
    """Returns s_f of each frequency in pixels; pairs (x, y) if components are not pooled."""
    if config.pool == "all":
        (cell,) = _scale_cells(len(quantiles.counts), "all")[0]
        return [quantiles(cell, config.quantile)] * len(quantiles.counts)
    values = [
        tuple(quantiles(cell, config.quantile) for cell in cells)
        for cells in _scale_cells(len(quantiles.counts), config.pool)
    ]
    return values if config.pool == "none" else [value for (value,) in values]


def _component(quantiles: Quantiles, k: int, c: int) -> ComponentStatistics:
    """Returns the statistics of one displacement component at one frequency."""
    counts, cell = quantiles.counts[k, c], ((k, c),)
    values = {str(q): quantiles(cell, q) for q in QUANTILES}
    return ComponentStatistics(
        count=int(counts.sum()),
        p95=values["0.95"],
        quantiles=values,
        mean_power=histogram.mean_power(counts),
    )


def required_fine_bins(counts: Int64[np.ndarray, "freq 2 bins"], config: ScaleConfig) -> set[_Bin]:
    """Returns the bins whose fine counts make every quantile of `compute_statistics` exact."""
    quantiles = Quantiles(counts)
    pooled = [
        (cell, config.quantile)
        for cells in set(_scale_cells(len(counts), config.pool))
        for cell in cells
    ]
    single = [(((k, c),), q) for k in range(len(counts)) for c in range(2) for q in QUANTILES]
    return set().union(*(quantiles.required_fine_bins(cell, q) for cell, q in pooled + single))


def count_fine_bins(view: DatasetView, shard: str, bins: set[_Bin]) -> FineCounts:
    """Counts the lower 16 bits of the values in these bins, over the kept samples of one shard.
    Raises DamagedShard for a sample that cannot be read.
    """
    counts = {place: np.zeros(histogram.FINE_BINS, np.int64) for place in bins}
    for sample in iter_samples(view, shard):
        values = histogram.moduli(sample)
        for k, c, coarse_bin in bins:
            counts[k, c, coarse_bin] += histogram.fine_histogram(values[k, c], coarse_bin)
    return counts


def check_compatible(views: Sequence[DatasetView]) -> dict[str, Any]:
    """Returns the frame rate, number of frames and size that all datasets share. Raises ValueError
    if they differ, or if a training shard is there twice.
    """
    settings = [_common_settings(view) for view in views]
    for view, common in zip(views, settings, strict=True):
        if common != settings[0]:
            raise ValueError(
                f"{view} has {_describe_common_settings(common)}, and {views[0]} "
                f"{_describe_common_settings(settings[0])}: their scales cannot be merged"
            )
    tars = [entry.tar for view in views for entry in view.training_shards().values()]
    if len(set(tars)) != len(tars):
        raise ValueError(
            "a training shard is there twice: two of the datasets are the same, or a dataset and "
            "a view of it; expected each sample once"
        )
    return settings[0]


def _common_settings(view: DatasetView) -> dict[str, Any]:
    config = view.dataset.contract().config
    plan = config["plan"]
    return dict(fps=float(plan["fps"]), frames=plan["frames"], size=tuple(config["size"]))


def _describe_common_settings(common: dict[str, Any]) -> str:
    width, height = common["size"]
    return f"{width}x{height} pixels and {common['frames']} frames at {common['fps']:g} a second"


def _describe_source(view: DatasetView) -> Source:
    """Returns what is counted of a dataset."""
    training = view.training_shards()
    return Source(
        run=view.read_index().run,
        quiver=contract_provenance(view.dataset.contract()).get("quiver"),
        view=view.view,
        shards=len(training),
        windows=sum(entry.kept for entry in training.values()),
    )


def check_matches_shards(statistics: SpectrumStatistics, views: Sequence[DatasetView]) -> None:
    """Raises ValueError unless the statistics are those of exactly these training shards."""
    if statistics.shards != training_digest(views):
        shards = sum(source.shards for source in statistics.sources)
        raise ValueError(
            f"the statistics are of another set of training shards ({statistics.windows} windows "
            f"in {shards} shards) than {', '.join(map(str, views))}: "
            "quiver report-statistics makes them anew"
        )
