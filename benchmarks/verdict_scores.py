"""Scores the verdicts of the filters against labels by eye, and cross-validates the thresholds.

    quiver extract-flow --clips LABELS.csv --out DATASET
    python -m benchmarks.verdict_scores DATASET LABELS.csv [--curves]

LABELS.csv is the table of clips with three more columns: `expect` (keep, reject, or either, which
is left out of the scores), `false_reason` (a first reason that would be untrue) and `why`. Every
clip counts once, by the share of its windows that is kept: precision is the kept mass that is
labeled keep, recall the mass labeled keep that is kept.

In the cross-validation every threshold is chosen again on the scenes (`source`) that are not
judged, one after the other, where kept mass minus six times what is kept wrongly is greatest; of a
plateau, the middle is taken. --curves prints both scores along each threshold, the others as in the
preset.
"""

import argparse
import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq

from pipeline.filters import PRESETS, RULES, Thresholds
from schemas.outcome import FilterMeasures

CHOICES = dict(
    light_change=[0.15, 0.2, 0.25, 0.3],
    no_sway_px=[0.2, 0.25, 0.3, 0.35, 0.4],
    too_much_sway_px=[14, 16, 18, 20, 22, 25],
    large_motion_px=[20, 22, 24, 26, 28, 32],
    camera_share=[0.35, 0.4, 0.45, 0.5, 0.55, 0.58, 0.65, 0.7],
    drift_share=[0.3, 0.35, 0.4, 0.45],
    drift_px=[2, 2.5, 3, 4],
    passing_share=[0.3, 0.5, 0.7],
    moving_confidence=[0.2, 0.22, 0.24, 0.26, 0.27, 0.28, 0.3, 0.32, 0.35],
    unexplained_share=[0.4, 0.42, 0.44, 0.46, 0.48, 0.5, 0.52],
    unexplained_share_fast=[0.3, 0.33, 0.36, 0.4, 0.46],
    inconsistent_share=[0.65, 0.7, 0.75, 0.8],
)
WRONG_COST = 6
FOLDS = 8
SHUFFLES = 3


class LabeledWindows:
    """The windows of the labeled clips of a dataset, with their measures."""

    def __init__(self, dataset: Path, labels: Path):
        with open(labels, newline="") as file:
            self.labels = {row["clip_id"]: row for row in csv.DictReader(file)}
        names = [field.name for field in fields(FilterMeasures)]
        rows = [
            row
            for row in pq.read_table(dataset / "manifest.parquet").to_pylist()
            if row["clip_id"] in self.labels and row["key"] and row["sway_px"] is not None
        ]
        self.measures = SimpleNamespace(
            **{name: np.array([row[name] for row in rows]) for name in names}
        )
        self.clips = np.array([row["clip_id"] for row in rows])
        windows = Counter(self.clips)
        self.weights = np.array([1 / windows[clip] for clip in self.clips])
        self.expected = np.array([self.labels[clip]["expect"] for clip in self.clips])
        self.scenes = np.array([self.labels[clip]["source"] or clip for clip in self.clips])

    def kept(self, thresholds: Thresholds) -> np.ndarray:
        """Whether each window is kept."""
        rejections = [rule(self.measures, thresholds) for rule in RULES.values()]
        return ~np.any(rejections, axis=0)

    def masses(self, kept: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
        """(kept rightly, kept wrongly, rejected wrongly), clips."""
        weights = self.weights if chosen is None else self.weights * chosen
        keep, reject = self.expected == "keep", self.expected == "reject"
        return np.array(
            [weights @ (kept & keep), weights @ (kept & reject), weights @ (~kept & keep)]
        )

    def first_reasons(self, thresholds: Thresholds) -> list[str]:
        """The first reason of each window, or `kept`."""
        verdicts = [rule(self.measures, thresholds) for rule in RULES.values()]
        return [
            next(
                (str(reason) for reason, applies in zip(RULES, row, strict=True) if applies), "kept"
            )
            for row in np.transpose(verdicts)
        ]


def precision_and_recall(masses: np.ndarray) -> tuple[float, float]:
    right, wrong, missed = masses
    return right / max(right + wrong, 1e-9), right / max(right + missed, 1e-9)


def fit(windows: LabeledWindows, chosen: np.ndarray, thresholds: Thresholds) -> Thresholds:
    """Chooses each threshold on the chosen windows, twice in turn."""
    for name, values in [*CHOICES.items()] * 2:
        gains = []
        for value in values:
            kept = windows.kept(replace(thresholds, **{name: value}))
            right, wrong, _ = windows.masses(kept, chosen)
            gains.append(right - WRONG_COST * wrong)
        plateau = [v for v, gain in zip(values, gains, strict=True) if gain > max(gains) - 1e-9]
        thresholds = replace(thresholds, **{name: plateau[len(plateau) // 2]})
    return thresholds


def cross_validate(windows: LabeledWindows) -> Iterator[tuple[float, float]]:
    """Yields (precision, recall) of each shuffle of the scenes into folds."""
    scenes = np.unique(windows.scenes)
    for seed in range(SHUFFLES):
        order = np.random.default_rng(seed).permutation(scenes)
        kept = np.zeros(len(windows.clips), bool)
        for fold in range(FOLDS):
            judged = np.isin(windows.scenes, order[fold::FOLDS])
            thresholds = fit(windows, ~judged, PRESETS["subtle"])
            kept[judged] = windows.kept(thresholds)[judged]
        yield precision_and_recall(windows.masses(kept))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--curves", action="store_true")
    options = parser.parse_args()
    windows = LabeledWindows(options.dataset, options.labels)

    print("| preset | kept rightly | kept wrongly | rejected wrongly | precision | recall |")
    print("|---|---|---|---|---|---|")
    for name, thresholds in PRESETS.items():
        masses = windows.masses(windows.kept(thresholds))
        numbers = [*(f"{mass:.2f}" for mass in masses)]
        numbers += [f"{score:.3f}" for score in precision_and_recall(masses)]
        print(f"| {name} |", " | ".join(numbers), "|")
    for seed, (precision, recall) in enumerate(cross_validate(windows)):
        print(f"cross-validated by scene, shuffle {seed}: {precision:.3f}, {recall:.3f}")

    print("\n| clip | label | kept | first reasons | why |\n|---|---|---|---|---|")
    reasons = np.array(windows.first_reasons(PRESETS["subtle"]))
    for clip in np.unique(windows.clips):
        label, counts = windows.labels[clip], Counter(reasons[windows.clips == clip])
        share = counts["kept"] / counts.total()
        wrong = share < 1 if label["expect"] == "keep" else share > 0
        wrong &= label["expect"] != "either"
        if wrong or label["false_reason"] in counts:
            listed = ", ".join(f"{reason} {n}" for reason, n in counts.most_common())
            print(f"| {clip} | {label['expect']} | {share:.2f} | {listed} | {label['why']} |")

    if options.curves:
        for name, values in CHOICES.items():
            print(f"\n| {name} | precision | recall |\n|---|---|---|")
            for value in values:
                kept = windows.kept(replace(PRESETS["subtle"], **{name: value}))
                precision, recall = precision_and_recall(windows.masses(kept))
                print(f"| {value:g} | {precision:.3f} | {recall:.3f} |")


if __name__ == "__main__":
    main()
