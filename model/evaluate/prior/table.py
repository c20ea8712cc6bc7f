"""The results of all windows in a few tables: windows are averaged within their scene, and scenes
have equal weights and are what intervals are over (docs/design/maths.md, 32 and 44).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.evaluate.distributions import estimate_mean
from model.evaluate.paired import difference
from model.evaluate.prior.baselines import BASELINES
from model.evaluate.prior.evaluation import PRIORS, WindowResult

REAL = "real motion"
"""The row of the real windows themselves."""


@dataclass(frozen=True)
class PriorMeasure:
    """A column of the table."""

    key: str
    title: str
    more_is_better: bool | None
    """None for what a motion is by itself, which is neither good nor bad."""


MEASURES = (
    PriorMeasure("where", "where", True),
    PriorMeasure("level", "how much", False),
    PriorMeasure("spectrum", "spectrum, dB", False),
    PriorMeasure("space", "in space", False),
    PriorMeasure("phase", "in phase", False),
    PriorMeasure("rest", "rest at start", False),
)
"""What is compared with the real motion."""
ITSELF = (
    PriorMeasure("space_itself", "in space", None),
    PriorMeasure("phase_itself", "in phase", None),
    PriorMeasure("rest_itself", "rest at start", None),
    PriorMeasure("variety", "variety", None),
)
"""What a motion is by itself."""


@dataclass(frozen=True)
class Estimate:
    """A mean over scenes with its 95 % interval."""

    row: str
    measure: str
    value: float
    low: float | None
    """None for a single scene."""
    high: float | None
    scenes: int
    than: str | None = None
    """The row whose value was subtracted, scene by scene, if any was."""

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.high is None else self.high - self.value


SceneMeans = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Means over the windows of a scene, by scene, row and measure."""


def average_within_scenes(results: Sequence[WindowResult]) -> SceneMeans:
    """The means over the windows of each scene that have the row."""
    values: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for result in results:
        real = {f"{name}_itself": value for name, value in result.real.items()}
        for row, measures in {REAL: real, **result.rows}.items():
            for key, value in measures.items():
                values[result.window.scene][row][key].append(value)
    return {
        scene: {
            row: {key: float(np.mean(numbers)) for key, numbers in measures.items()}
            for row, measures in rows.items()
        }
        for scene, rows in values.items()
    }


def build_table(scenes: SceneMeans) -> list[Estimate]:
    """The mean of each measure of each row over the scenes that have it."""
    table = []
    for row in (*PRIORS, *BASELINES, REAL):
        keys = dict.fromkeys(key for rows in scenes.values() for key in rows.get(row, ()))
        for key in keys:
            values = [rows[row][key] for rows in scenes.values() if key in rows.get(row, ())]
            interval = estimate_mean(values) if len(values) > 1 else (values[0], None, None)
            table.append(Estimate(row, key, *interval, len(values)))
    return table


def compare_rows(scenes: SceneMeans) -> list[Estimate]:
    """The difference of each row of the prior from each baseline, in each of MEASURES, over the
    scenes that have both.
    """
    differences = []
    for row in PRIORS:
        for baseline in BASELINES:
            for measure in MEASURES:
                pairs = [
                    (rows[row][measure.key], rows[baseline][measure.key])
                    for rows in scenes.values()
                    if all(measure.key in rows.get(name, ()) for name in (row, baseline))
                ]
                if pairs:
                    found = difference(*zip(*pairs, strict=True))
                    interval = found.value, found.low, found.high, found.photographs
                    differences.append(Estimate(row, measure.key, *interval, than=baseline))
    return differences


def grid_of(
    estimates: Sequence[Estimate], measures: Sequence[PriorMeasure]
) -> dict[tuple[str, str | None], list[Estimate | None]]:
    """The estimates of these measures by row, in order; None for a measure that a row has not.
    Rows without any of them are left out.
    """
    by_row: dict = defaultdict(dict)
    for estimate in estimates:
        by_row[estimate.row, estimate.than][estimate.measure] = estimate
    grid = {
        names: [found.get(measure.key) for measure in measures] for names, found in by_row.items()
    }
    return {names: cells for names, cells in grid.items() if any(cells)}


def mark_difference(estimate: Estimate, measure: PriorMeasure) -> str:
    """`better` or `worse` if the interval of a difference leaves out 0, else an empty string."""
    if estimate.low is None or estimate.high is None or estimate.low <= 0 <= estimate.high:
        return ""
    return "better" if (estimate.value > 0) == measure.more_is_better else "worse"
