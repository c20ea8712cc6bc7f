"""Measures how much real clips move, how fast, and what their photographs are like: the table
REAL in pipeline/synthetic/world/statistics.py, from which painted scenes draw their sway.

    python -m benchmarks.real_statistics DATASET [--compare OTHER]

Only the windows that the default filters keep count, and every clip counts the same, however many
windows it has. Prints the 5th, 25th, 50th, 75th and 95th percentile of each number over clips.
"""

import argparse
from collections import defaultdict

import numpy as np

from pipeline.dataset.open import DatasetSample, open_dataset
from pipeline.filters import PRESETS, judge
from pipeline.synthetic.world.statistics import PERCENTILES, describe_photograph, describe_sway
from schemas.records import ManifestRow


def measure(path: str) -> dict[str, np.ndarray]:
    """The percentiles of each number over the clips of a dataset."""
    view = open_dataset(path)
    rows = {row.key: row for row in map(ManifestRow.load, view.read_table().to_pylist())}
    clips: dict[str, list[dict[str, float]]] = defaultdict(list)
    for sample in view:
        row = rows[sample.key]
        if row.measures and not judge(row.measures, PRESETS["subtle"]):
            clips[str(row.clip_id)].append(_describe(row, sample))
    print(f"{path}: {sum(map(len, clips.values()))} windows of {len(clips)} clips")
    names = next(iter(clips.values()))[0]
    means = {
        name: [np.mean([w[name] for w in windows]) for windows in clips.values()] for name in names
    }
    return {name: np.percentile(values, PERCENTILES) for name, values in means.items()}


def _describe(row: ManifestRow, sample: DatasetSample) -> dict[str, float]:
    assert row.measures and row.power_x and row.power_y
    energies = np.array([row.energy_x, row.energy_y], float)
    weight = sample.stored.weight.astype(np.float32)
    return (
        describe_sway(row.measures, np.add(row.power_x, row.power_y), weight)
        | {"x_share": float(energies[0] / energies.sum())}
        | describe_photograph(sample.image)
    )


def main() -> None:
    """Prints the table as Python, and beside it that of another dataset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--compare")
    options = parser.parse_args()
    for path in filter(None, (options.dataset, options.compare)):
        for name, values in measure(path).items():
            print(f"    {name}=({', '.join(f'{value:.3g}' for value in values)}),")


if __name__ == "__main__":
    main()
