"""The scales by which coefficients are normalised, from the merged histograms of the training
shards.

s_f is the 95th percentile of |S_k| over all pixels of all training samples, x and y together
(docs/maths.md, 8). The histograms give it within 0.4 %; `exact` counts give it to the last bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Int64

from pipeline.dataset import histogram as statistics
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
"""(frequency, component) pairs whose values are taken together."""
FineCounts = dict[tuple[int, int, int], np.ndarray]
"""By frequency, component and bin: counts of the lower 16 bits of the values in that bin."""


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
    """Quantiles of the counted moduli over cells; with fine counts, to the last bit."""

    counts: Int64[np.ndarray, "freq 2 bins"]
    fine_counts: FineCounts = field(default_factory=dict)

    def cell_counts(self, cell: _Cell) -> Int64[np.ndarray, " bins"]:
        """Counts of a cell."""
        return np.sum([self.counts[k, c] for k, c in cell], axis=0)

    def required_fine_bins(self, cell: _Cell, q: float) -> set[tuple[int, int, int]]:
        """The (frequency, component, bin) whose fine counts an exact quantile needs."""
        counts = self.cell_counts(cell)
        wanted = {
            statistics.find_bin(counts, rank) for rank in statistics.ranks(int(counts.sum()), q)
        }
        return {(k, c, which) for k, c in cell for which in wanted}

    def __call__(self, cell: _Cell, q: float) -> float:
        counts = self.cell_counts(cell)
        if not self.fine_counts:
            return statistics.quantile(counts, q)
        count = int(counts.sum())
        return statistics.interpolate_ranks(
            [self._order_statistic(cell, counts, rank) for rank in statistics.ranks(count, q)],
            count,
            q,
        )

    def _order_statistic(self, cell: _Cell, counts: np.ndarray, rank: int) -> float:
        which = statistics.find_bin(counts, rank)
        fine = np.sum([self.fine_counts[k, c, which] for k, c in cell], axis=0)
        return statistics.fine_value(which, fine, rank - int(counts[:which].sum()))


def _scale_cells(frequencies: int, pool: Pool) -> list[tuple[_Cell, ...]]:
    """Of each frequency, the cell, or the two of x and y, whose quantile is its scale."""
    if pool == "all":
        return [(tuple(product(range(frequencies), range(2))),)] * frequencies
    if pool == "none":
        return [(((k, 0),), ((k, 1),)) for k in range(frequencies)]
    return [(((k, 0), (k, 1)),) for k in range(frequencies)]


def compute_statistics(
    selections: Sequence[DatasetView],
    config: ScaleConfig | None = None,
    fine: FineCounts | None = None,
) -> SpectrumStatistics:
    """Statistics of these data sets taken together; with the `fine` counts of `needed`, exact ones.

    Raises ValueError where they do not fit together, or hold no training window.
    """
    common = check_compatible(selections)
    sources = tuple(
        sorted(
            map(_describe_source, selections), key=lambda source: (source.run, source.view or "")
        )
    )
    return summarize_quantiles(
        Quantiles(merge_histograms(selections), fine or {}),
        config or ScaleConfig(),
        sources=sources,
        shards=training_digest(selections),
        **common,
    )


def summarize_quantiles(
    quantiles: Quantiles,
    config: ScaleConfig,
    *,
    fps: float,
    frames: int,
    sources: tuple[Source, ...],
    **said: Any,
) -> SpectrumStatistics:
    """Statistics of counted moduli; `said` are the fields that tell where they come from."""
    scale = tuple(compute_scales(quantiles, config))
    frequencies = [
        FrequencyStatistics(
            hz=k * fps / frames,
            scale=one,
            x=_component(quantiles, k, 0),
            y=_component(quantiles, k, 1),
        )
        for k, one in enumerate(scale)
    ]
    return SpectrumStatistics(
        scale=scale,
        quantile=config.quantile,
        pool=config.pool,
        method="exact" if quantiles.fine_counts else "histogram",
        definition=DEFINITION[config.pool],
        frequencies=tuple(frequencies),
        windows=sum(source.windows for source in sources),
        sources=sources,
        fps=fps,
        frames=frames,
        **said,
    )


def merge_histograms(selections: Sequence[DatasetView]) -> Int64[np.ndarray, "freq 2 bins"]:
    """The histogram of the training windows of all of them; of the frequencies that all of them
    have.
    """
    return statistics.merge(selection.read_histogram() for selection in selections)


def compute_scales(quantiles: Quantiles, config: ScaleConfig) -> list[Any]:
    """s_f of each frequency, pixels; pairs (x, y) where components are not pooled."""
    if config.pool == "all":
        (cell,) = _scale_cells(len(quantiles.counts), "all")[0]
        return [quantiles(cell, config.quantile)] * len(quantiles.counts)
    values = [
        tuple(quantiles(cell, config.quantile) for cell in cells)
        for cells in _scale_cells(len(quantiles.counts), config.pool)
    ]
    return values if config.pool == "none" else [value for (value,) in values]


def _component(quantiles: Quantiles, k: int, c: int) -> ComponentStatistics:
    """Statistics of one displacement component at one frequency."""
    counts, cell = quantiles.counts[k, c], ((k, c),)
    values = {str(q): quantiles(cell, q) for q in QUANTILES}
    return ComponentStatistics(
        count=int(counts.sum()),
        p95=values["0.95"],
        quantiles=values,
        mean_power=statistics.mean_power(counts),
    )


def required_fine_bins(
    counts: Int64[np.ndarray, "freq 2 bins"], config: ScaleConfig
) -> set[tuple[int, int, int]]:
    """The (frequency, component, bin) whose fine counts make every quantile of `compute_statistics`
    exact.
    """
    quantiles = Quantiles(counts)
    pooled = [
        (cell, config.quantile)
        for cells in set(_scale_cells(len(counts), config.pool))
        for cell in cells
    ]
    alone = [(((k, c),), q) for k in range(len(counts)) for c in range(2) for q in QUANTILES]
    return set().union(*(quantiles.required_fine_bins(cell, q) for cell, q in pooled + alone))


def count_fine_bins(
    selection: DatasetView, shard: str, wanted: set[tuple[int, int, int]]
) -> FineCounts:
    """The fine counts of one shard's kept samples. Raises ValueError for a sample that cannot be
    read.
    """
    fine = {place: np.zeros(statistics.FINE_BINS, np.int64) for place in wanted}
    for sample in iter_samples(selection, shard):
        values = statistics.moduli(sample.spectrum)
        for k, c, which in wanted:
            fine[k, c, which] += statistics.fine_histogram(values[k, c], which)
    return fine


def check_compatible(selections: Sequence[DatasetView]) -> dict[str, Any]:
    """Working rate, length and size, which all must share. Raises ValueError where they do not, or
    one is given twice.
    """
    found = []
    for selection in selections:
        config = selection.dataset.contract().config
        found.append(
            dict(
                fps=float(config["plan"]["fps"]),
                frames=config["plan"]["frames"],
                size=tuple(config["size"]),
            )
        )
    for selection, common in zip(selections, found, strict=True):
        if common != found[0]:
            raise ValueError(
                f"{selection} has {_describe_common_settings(common)}, and {selections[0]} {_describe_common_settings(found[0])}: their scales cannot be merged"
            )
    _check_unique_shards(
        [
            str(entry.tar)
            for selection in selections
            for entry in selection.training_shards().values()
        ]
    )
    return found[0]


def _describe_common_settings(common: dict[str, Any]) -> str:
    return f"{common['size'][0]}x{common['size'][1]} pixels and {common['frames']} frames at {common['fps']:g} a second"


def _check_unique_shards(tars: Sequence[str]) -> None:
    """Raises ValueError where a shard is there twice."""
    if len(set(tars)) != len(tars):
        raise ValueError(
            "a training shard is there twice: two of the data sets are the same, or a data set and a view of it; expected each sample once"
        )


def _describe_source(selection: DatasetView) -> Source:
    """What is counted of a data set."""
    training = selection.training_shards()
    run = selection.read_index().run
    quiver = contract_provenance(selection.dataset.contract()).get("quiver")
    windows = sum(entry.kept for entry in training.values())
    view, shards = selection.view, len(training)
    return Source(run=run, quiver=quiver, view=view, shards=shards, windows=windows)


def check_matches_shards(statistics: SpectrumStatistics, selections: Sequence[DatasetView]) -> None:
    """Raises ValueError unless the statistics were computed from just these training shards: what a
    trainer asks first.
    """
    if statistics.shards != training_digest(selections):
        names = ", ".join(map(str, selections))
        words = f"{statistics.windows} windows in {sum(source.shards for source in statistics.sources)} shards"
        raise ValueError(
            f"the statistics are of another set of training shards ({words}) than {names}: quiver report-statistics makes them anew"
        )
