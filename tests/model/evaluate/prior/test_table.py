"""Tables of results: scenes have equal weights, and differences are taken scene by scene."""

import pytest

from model.evaluate.prior.baselines import OTHER_WINDOW, STILL
from model.evaluate.prior.evaluation import PRIOR_SAMPLE, WindowResult
from model.evaluate.prior.table import (
    MEASURES,
    REAL,
    Estimate,
    average_within_scenes,
    build_table,
    compare_rows,
    format_estimate,
    format_grid,
)
from tests.model.evaluate.prior.test_windows import window


def result(scene: str, where: float, still: float = 0.5, **rows: dict) -> WindowResult:
    return WindowResult(
        window=window(0, scene=scene),
        nearest_key="other",
        other_key=None,
        real=dict(rest=where / 10),
        rows={PRIOR_SAMPLE: dict(where=where), STILL: dict(where=still)} | rows,
        pictures=None,
    )


def estimate(table: list[Estimate], row: str, than: str | None = None) -> Estimate:
    (found,) = [one for one in table if (one.row, one.than) == (row, than)]
    return found


RESULTS = [result("a", 0.6), result("a", 0.8), result("a", 1.0, 0.2), result("b", 0.4, 0.4)]


def test_a_scene_of_three_windows_weighs_as_much_as_one_of_one():
    scenes = average_within_scenes(RESULTS)
    assert scenes["a"][PRIOR_SAMPLE]["where"] == pytest.approx(0.8)
    found = estimate(build_table(scenes), PRIOR_SAMPLE)
    assert (found.value, found.scenes) == (pytest.approx(0.6), 2)
    assert found.low is not None and found.low < 0.6 < found.high
    assert estimate(build_table(scenes), REAL).value == pytest.approx(0.06)


def test_differences_are_of_scenes_that_have_both():
    other = {OTHER_WINDOW: dict(where=0.9)}
    scenes = average_within_scenes([*RESULTS, result("c", 0.5, **other)])
    differences = compare_rows(scenes)
    found = estimate(differences, PRIOR_SAMPLE, STILL)
    assert (found.value, found.scenes) == (pytest.approx((0.4 + 0.0 + 0.0) / 3), 3)
    single = estimate(differences, PRIOR_SAMPLE, OTHER_WINDOW)
    assert (single.value, single.low, single.scenes) == (pytest.approx(-0.4), None, 1)


@pytest.mark.parametrize(
    ("key", "value", "half", "text"),
    [
        ("where", 0.2, 0.1, "+0.200 ± 0.100 *"),
        ("where", -0.2, 0.1, "-0.200 ± 0.100 !"),
        ("level", 0.2, 0.1, "+0.20 ± 0.10 !"),
        ("level", -0.2, 0.1, "-0.20 ± 0.10 *"),
        ("level", -0.2, 0.3, "-0.20 ± 0.30  "),
    ],
)
def test_better_and_worse_stand_only_where_the_interval_leaves_out_0(key, value, half, text):
    (measure,) = [one for one in MEASURES if one.key == key]
    found = Estimate("prior", key, value, value - half, value + half, 5, than="still")
    assert format_estimate(found, measure) == text


def test_a_grid_has_no_empty_row_and_no_empty_column():
    table = build_table(average_within_scenes(RESULTS))
    head, *rows = format_grid(table, MEASURES)
    assert head == ["", "where", "scenes"]
    assert [row[0] for row in rows] == [PRIOR_SAMPLE, STILL] and {row[-1] for row in rows} == {"2"}
