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
    digits: int
    """Digits after the point."""
    more_is_better: bool = False


MEASURES = (
    PriorMeasure("where", "where", 3, True),
    PriorMeasure("level", "how much", 2),
    PriorMeasure("spectrum", "spectrum, dB", 1),
    PriorMeasure("space", "in space", 3),
    PriorMeasure("phase", "in phase", 3),
    PriorMeasure("rest", "rest at start", 3),
)
"""What is compared with the real motion."""
ITSELF = (
    PriorMeasure("space_itself", "in space", 3),
    PriorMeasure("phase_itself", "in phase", 3),
    PriorMeasure("rest_itself", "rest at start", 3),
    PriorMeasure("variety", "variety", 3),
    PriorMeasure("seam_position", "seam, position", 2),
    PriorMeasure("seam_velocity", "seam, velocity", 2),
)
"""What a motion is by itself, which is neither good nor bad."""


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


def format_grid(estimates: Sequence[Estimate], measures: Sequence[PriorMeasure]) -> list[list[str]]:
    """A head, and a line for each row, or for each row that was subtracted, with the number of its
    scenes. Measures that no row has, and rows that have no measure, are left out.
    """
    measures = [m for m in measures if any(estimate.measure == m.key for estimate in estimates)]
    by_name: dict[str, dict[str, Estimate]] = defaultdict(dict)
    for estimate in estimates:
        by_name[estimate.than or estimate.row][estimate.measure] = estimate
    lines = [["", *(measure.title for measure in measures), "scenes"]]
    for name, row in by_name.items():
        cells = [format_estimate(row.get(measure.key), measure) for measure in measures]
        if any(cells):
            lines.append([name, *cells, str(max(estimate.scenes for estimate in row.values()))])
    return lines


def format_estimate(estimate: Estimate | None, measure: PriorMeasure) -> str:
    """The value and half its interval; a difference with its sign, and with `*` if it is better or
    `!` if it is worse and the interval leaves out 0.
    """
    if estimate is None:
        return ""
    sign = "+" if estimate.than else ""
    text = f"{estimate.value:{sign}.{measure.digits}f}"
    if estimate.low is None or estimate.high is None:
        return text
    text += f" ± {estimate.high - estimate.value:.{measure.digits}f}"
    if not estimate.than:
        return text
    if estimate.low <= 0 <= estimate.high:
        return f"{text}  "
    return f"{text} {'*' if (estimate.value > 0) == measure.more_is_better else '!'}"
