"""Small data sets whose samples a test makes up, written and committed as a run does, without any
video.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.commit import ShardDraft
from pipeline.dataset.finalize import finalize
from pipeline.dataset.folder import Dataset
from pipeline.extract.config import BuildConfig, PlanConfig, to_contract
from pipeline.filters import PRESETS, judge
from schemas.outcome import FilterMeasures, Outcome, Stage
from schemas.records import PlanRow
from schemas.sample import FORMAT_VERSION, Sample
from schemas.shard_record import RecordRow

CONFIG = BuildConfig(
    size=(40, 32),
    frequencies=4,
    pairs=2,
    plan=PlanConfig(frames=24),
    thresholds=PRESETS["paper"],
)
PASSING_MEASURES = dict(
    cut_correlation=0.99,
    cut_histogram=0.01,
    light_change=0.02,
    contrast_change=0.02,
    frozen_share=0.0,
    frame_rate=30.0,
    longest_gap_s=0.034,
    believed_share=0.9,
    mean_motion_px=2.0,
    moving_share=0.5,
    sway_px=2.0,
    large_motion_px=2.4,
    camera_share=0.1,
    trend_share=0.1,
    drift_px=0.5,
    reversing_share=0.9,
    passing_share=0.0,
    moving_confidence=0.9,
    unexplained_share=0.1,
    inconsistent_share=0.05,
)
"""Measures that every set of thresholds keeps."""


def random_spectrum(rng: np.random.Generator, config: BuildConfig = CONFIG) -> np.ndarray:
    """Coefficients that fall with frequency, heavy-tailed; real at frequency 0."""
    (width, height), freq = config.size, config.frequencies
    channels = (
        rng.normal(size=(freq, 4, height, width))
        * rng.lognormal(0, 1, (height, width))
        * (20 / (1 + np.arange(freq)))[:, None, None, None]
    )
    channels[0, 1::2] = 0
    return channels.astype(np.float16)


def random_sample(
    row: PlanRow,
    rng: np.random.Generator,
    config: BuildConfig = CONFIG,
    channels: np.ndarray | None = None,
) -> Sample:
    (width, height), pairs = config.size, config.pairs
    return Sample(
        key=row.window().key,
        image=rng.integers(0, 255, (height, width, 3), np.uint8),
        spectrum=random_spectrum(rng, config) if channels is None else channels,
        weight=rng.random((height, width)).astype(np.float16),
        confidence=np.full((height, width), 255, np.uint8),
        pair_time=np.linspace(0.1, 0.5, pairs, dtype=np.float32),
        pair_flow=np.zeros((pairs, 2, height, width), np.float16),
        pair_image=np.zeros((pairs, height, width, 3), np.uint8),
        meta=dict(format=FORMAT_VERSION, key=row.key, split=row.split, size=list(config.size)),
    )


def make_plan_row(shard: str, number: int, **clip: Any) -> PlanRow:
    """A row of the plan."""
    name = f"clip-{shard}-{number // 3}"
    columns: dict[str, Any] = dict(
        key=f"{name}-{number:06d}",
        start_frame=number * 10,
        start_time_s=number / 3,
        split=shard.split("-")[0],
        shard=shard,
        clip_id=name,
    )
    content = hashlib.sha256(name.encode()).hexdigest()
    columns |= dict(
        uri=f"/gone/{name}.mp4", sha256=content, bytes=1, duration_s=8.0, licence="CC0-1.0"
    )
    return PlanRow(**(columns | clip))


def write_dataset(
    root: Path,
    shards: Mapping[str, Sequence[Mapping[str, float]]],
    *,
    seed: int = 0,
    config: BuildConfig = CONFIG,
    finished: bool = True,
    **clip: Any,
) -> Dataset:
    """A data set of these shards; each window by what differs from CALM in its measures, and kept
    or not by them.
    """
    dataset, rng = Dataset(root), np.random.default_rng(seed)
    rows = [
        make_plan_row(shard, i, **clip)
        for shard, windows in sorted(shards.items(), key=lambda item: item[0].startswith("test"))
        for i in range(len(windows))
    ]
    root.mkdir(parents=True, exist_ok=True)
    dataset.create_or_resume(rows, to_contract(config), {"python": "3"})
    for shard, windows in shards.items():
        draft = ShardDraft(dataset, shard, config.frequencies)
        for row, changes in zip([row for row in rows if row.shard == shard], windows, strict=True):
            draft.add(
                *judge_window(row, FilterMeasures(**(PASSING_MEASURES | changes)), rng, config)
            )
        draft.commit()
    if finished:
        finalize(dataset)
    return dataset


def judge_window(
    row: PlanRow, measures: FilterMeasures, rng: np.random.Generator, config: BuildConfig
) -> tuple[RecordRow, Sample | None, str | None]:
    verdicts = judge(measures, config.thresholds)
    power = [float(p) for p in rng.random(config.plan.frames // 2 + 1)]
    kept = RecordRow(
        key=row.window().key,
        outcome=Outcome.KEPT,
        stage=Stage.WRITE,
        measures=measures,
        power_x=power,
        power_y=power,
        energy_x=1.0,
        energy_y=1.0,
    )
    if not verdicts:
        return kept, random_sample(row, rng, config), None
    rejected = replace(
        kept,
        outcome=Outcome.REJECTED,
        stage=Stage.FILTER,
        reason=verdicts[0],
        verdicts=list(verdicts),
    )
    return rejected, None, None
