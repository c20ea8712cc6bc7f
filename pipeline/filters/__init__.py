"""Decides whether a window is something a motion prior should learn from: measure, then judge.

    rules          thresholds, presets and rules; `judge` gives every reason to reject a window
    frames         measures of the pictures alone: cuts, fades, repeated frames
    motion         measures of the displacements: how much sways, drifts, or only passes
    camera         the motion that the whole picture shares
    flow_quality   whether the flow explains what changes where it claims motion

Where is a clip rejected? Its windows are rejected one by one in `judge`: `RULES` compares the
measures of a window with `Thresholds`, and the first rule that applies is the reason.
pipeline/extract/build_shard calls it for each window, pipeline/dataset/views for `quiver refilter`.
(Duplicates and clips that are too short are rejected earlier, by pipeline/extract/plan. A clip that
cannot be read is not rejected but quarantined, by the code that failed to read it.)

Flow that is not believed decides nothing: displacements count only where their confidence is at
least `pipeline.flow.consistency.BELIEVED`.

How do I add a filter?
    1. schemas/outcome.py: a member of `Reason`, and a field of `FilterMeasures` for the number.
    2. Here: the number in `frames`, `motion` or `flow_quality`, and in rules.py a field of
       `Thresholds` and a line in `RULES`. Unless it is to be on by default, its threshold is inf,
       or -inf if it rejects what is below; if it is on, PRESETS["none"] switches it off.
    3. pipeline/report: a line in `stats.THRESHOLD_RULES`, and the words for it in
       `labels.MEASURE_LABELS` and `labels.REASON_TEXTS`.
    4. tests: a scene that it rejects and one that it keeps in tests/pipeline/filters, and a value
       that passes in `PASSING_MEASURES` of tests/support/datasets.py.
    5. A new measure is a new format: datasets that were written before lack it, and their records
       are refused (schemas/shard_record.py). Raise `FORMAT_VERSION` in schemas/run_contract.py.
The command line, the run contract and the views take it from there.

All functions here are pure. Every measure is taken on every window and recorded, so that another
threshold is a new judgment of old numbers and never a new computation.
"""

from pipeline.filters.frames import (
    FrameDelta,
    FrameStats,
    compute_frame_delta,
    compute_frame_stats,
    measure_frames,
)
from pipeline.filters.rules import PRESETS, RULES, Thresholds, judge

__all__ = [
    "PRESETS",
    "RULES",
    "FrameDelta",
    "FrameStats",
    "Thresholds",
    "compute_frame_delta",
    "compute_frame_stats",
    "judge",
    "measure_frames",
]
