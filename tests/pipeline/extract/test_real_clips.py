"""Real videos, each for its own reason. No threshold was chosen on them:
docs/design/decisions/0005-filters.md.
"""

from pathlib import Path

import pytest

from pipeline.extract.config import BuildConfig, PlanConfig
from pipeline.extract.plan import plan_rows
from pipeline.extract.plan_clip import plan_clip
from pipeline.filters import PRESETS
from schemas.clip import Clip
from tests.support.building import build_results, probe_video

# every 100th frame, with the flow for which the thresholds are meant: the whole table is in
# docs/dev/log.md
CONFIG = BuildConfig(plan=PlanConfig(stride=100), thresholds=PRESETS["subtle"])
CUT = {"cut", "fade", "too_much_motion"}
EXPECTED = {
    "oscillating/ducks_water.mp4": {"kept"},
    "oscillating/tacoma_bridge.mp4": {"camera_motion", "too_much_motion"},
    "oscillating/opencv_tree.avi": {"low_frame_rate"},
    "reject/carphone_lowres.mp4": {"too_short"},
    "reject/stream_of_water.mp4": {"too_short"},
    "reject/flower_bloom_timelapse.mp4": {"drift"},
    "reject/friday_actors.mp4": {"camera_motion", "unreliable_flow"},
    "reject/slides_no_motion.mp4": {"frozen"},
    "reject/greatwall_drone.mp4": {"camera_motion", "too_much_motion"},
    "reject/ocean_topdown_surf.mp4": {"camera_motion", "too_much_motion"},
    "reject/bikes_cuts.mp4": CUT,
    "reject/sample_cuts_drone.mp4": CUT,
    "reject/sintel_10s_cuts.mp4": CUT,
}


def fates(path: Path) -> list[tuple[int | None, str]]:
    """(start frame, reason or `kept`) of each row of a clip."""
    rows = plan_rows([plan_clip(Clip(uri=str(path)), CONFIG.plan, probe_video)], CONFIG.plan)
    if rows[0].key is None:
        return [(None, rows[0].reason)]
    return [
        (row.start_frame, result.row.reason or result.row.outcome)
        for row, result in zip(rows, build_results(rows, CONFIG), strict=True)
    ]


@pytest.mark.sample(3)
@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_a_clip_comes_out_for_its_own_reason(material, name):
    assert {fate for _, fate in fates(material / "clips" / name)} <= EXPECTED[name]


@pytest.mark.slow
def test_breathing_is_kept_but_where_she_leans(material):
    found = dict(fates(material / "clips/oscillating/breathing_seated.mp4"))
    outside = {start: fate for start, fate in found.items() if start + 150 < 480 or start > 870}
    assert len(outside) >= 6 and set(outside.values()) == {"kept"}


@pytest.mark.slow
def test_most_generated_loops_are_kept(material):
    found = [fates(path)[0][1] for path in sorted((material / "clips/generated").glob("*.mp4"))]
    assert found.count("kept") >= 8


@pytest.mark.slow
def test_a_window_with_a_cut_in_it_is_never_kept(material):
    """The cut of this clip is between frames 239 and 240; the windows beyond it show one scene and
    may be kept or not.
    """
    found = dict(fates(material / "clips/reject/nasa_13013_cuts.mp4"))
    assert all(fate in CUT for start, fate in found.items() if start <= 239 < start + 150)
