"""Histograms of coefficient moduli against numpy.partition: time, accuracy of the quantiles, and
the time to merge histograms.

Both get the same float32 moduli in memory: 16 frequencies and 2 components of 40,960 pixels for
each of a number of samples, heavy-tailed as in real data. Quiver counts them sample by sample, as a
run does; numpy.partition gets all values of a frequency and component at once, to the 95th
percentile, which for a dataset would have to fit into memory.
"""

from functools import reduce

import numpy as np

from benchmarks.rounds import (
    Target,
    arguments,
    interleaved,
    medians,
    one_cpu,
    report,
    speedup,
    table,
    timings_table,
)
from pipeline.dataset import histogram
from pipeline.dataset.scales import Quantiles, ScaleConfig, compute_scales
from schemas.statistics import QUANTILES

FREQUENCIES, PIXELS = 16, 256 * 160


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--samples", type=int, default=24)
    options = parser.parse_args()
    one_cpu()
    values = moduli(2 if options.quick else options.samples)
    apart = np.ascontiguousarray(np.moveaxis(values, 0, 2).reshape(2 * FREQUENCIES, -1))
    place = round(0.95 * (apart.shape[1] - 1))
    parts = [histogram.encode(counts(values[:1])) for _ in range(8)]
    merged = counts(values)
    contenders = {
        "Quiver, histograms": lambda: counts(values),
        "numpy.partition": lambda: [np.partition(part, place)[place] for part in apart],
        "Quiver, merging 8 shards' files": lambda: reduce(np.add, map(histogram.decode, parts)),
        "Quiver, 16 scales from the histogram": lambda: compute_scales(
            Quantiles(merged), ScaleConfig()
        ),
    }
    timings = interleaved(contenders, 1 if options.quick else options.rounds)
    quiver_times, numpy_times, *_ = timings.values()
    targets = [
        speedup("numpy.partition / Quiver, histograms", 3, quiver_times, numpy_times),
        Target(
            name="largest relative error of a quantile against numpy",
            goal=0.4,
            reached=100 * largest_error(merged, apart),
            unit="%",
            at_most=True,
        ),
    ]
    rates = table(
        ("values a second", "millions"),
        [(name, values.size / medians(timings[name]).clock / 1e6) for name in list(contenders)[:2]],
    )
    report(
        "statistics",
        "Statistics",
        __doc__,
        timings_table(timings, "ms", 1e3) + "\n\n" + rates,
        targets,
        keep=not options.quick,
    )


def moduli(samples: int) -> np.ndarray:
    """Draws moduli, float32 [samples, K, 2, pixels]."""
    rng = np.random.default_rng(0)
    return rng.lognormal(1, 1.5, (samples, FREQUENCIES, 2, PIXELS)).astype(np.float32)


def counts(values: np.ndarray) -> np.ndarray:
    """Returns the histograms of these samples, as a shard's are summed."""
    total = np.zeros((FREQUENCIES, 2, histogram.BINS), np.int64)
    for sample in values:
        for k, c in np.ndindex(FREQUENCIES, 2):
            histogram.count_bins(sample[k, c], total[k, c])
    return total


def largest_error(merged: np.ndarray, apart: np.ndarray) -> float:
    """Compares all listed quantiles of every frequency and component."""
    errors = [
        [histogram.quantile(part, q) for q in QUANTILES]
        for part in merged.reshape(-1, histogram.BINS)
    ]
    exact = np.quantile(apart.astype(np.float64), QUANTILES, axis=1).T
    return float(np.abs(np.array(errors) / exact - 1).max())


if __name__ == "__main__":
    main()
