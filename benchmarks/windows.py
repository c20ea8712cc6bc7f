"""Reads windows of one video with their flow, as a run measures it."""

from contextlib import closing
from pathlib import Path

from pipeline.decode.pool import shared_pool
from pipeline.extract.build_shard import PendingWindow, start_windows
from pipeline.extract.config import BuildConfig
from pipeline.extract.frame_stream import ChunkStream
from pipeline.extract.plan import plan_rows
from pipeline.extract.plan_clip import plan_clip
from pipeline.flow.estimator import make_estimator
from schemas.clip import Clip
from schemas.records import PlanRow


def planned(path: Path, config: BuildConfig) -> list[PlanRow]:
    """Returns the windows of a video."""
    probe = shared_pool(config.decode, 1).probe
    return [
        row
        for row in plan_rows([plan_clip(Clip(uri=str(path)), config.plan, probe)], config.plan)
        if row.key
    ]


def begun(rows: list[PlanRow], config: BuildConfig) -> list[PendingWindow]:
    """Returns these windows of one video with their flow."""
    with closing(
        ChunkStream([rows], shared_pool(config.decode, 1), config.plan, config.size)
    ) as stretches:
        return [
            window
            for stretch, stream in stretches
            for window in start_windows(stretch, stream, config, make_estimator(config.flow))
        ]


def first_window(path: Path, config: BuildConfig) -> PendingWindow:
    """Returns the first window of a video with its flow."""
    (window,) = begun(planned(path, config)[:1], config)
    return window
