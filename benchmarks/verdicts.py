"""Prints a dataset's verdicts and measures per clip, as a Markdown table.

python -m benchmarks.verdicts DATASET
"""

import sys
from collections import Counter
from dataclasses import fields
from itertools import groupby
from pathlib import Path

import pyarrow.parquet as pq

from schemas.outcome import FilterMeasures


def main(dataset: str) -> None:
    names = [field.name for field in fields(FilterMeasures)]
    rows = sorted(
        pq.read_table(Path(dataset) / "manifest.parquet").to_pylist(),
        key=lambda row: (row["uri"], row["start_frame"] or 0),
    )
    print("| clip | windows | verdicts |", " | ".join(names), "|")
    print("|---" * (3 + len(names)) + "|")
    for uri, group in groupby(rows, key=lambda row: row["uri"]):
        clip = list(group)
        verdicts = Counter(row["reason"] or row["outcome"] for row in clip)
        cells = [
            Path(uri).name,
            str(sum(row["key"] is not None for row in clip)),
            ", ".join(f"{v} {n}" for v, n in verdicts.most_common()),
        ]
        print(
            "|",
            " | ".join(
                cells
                + [span([row[name] for row in clip if row[name] is not None]) for name in names]
            ),
            "|",
        )


def span(values: list[float]) -> str:
    """Returns the smallest and largest value, or nothing."""
    if not values:
        return ""
    low, high = f"{min(values):.3g}", f"{max(values):.3g}"
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    main(sys.argv[1])
