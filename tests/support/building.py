"""Windows of a video built in this process."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from pipeline.decode.config import DecodeConfig
from pipeline.decode.pool import shared_pool
from pipeline.extract.build_shard import PendingWindow, WindowResult, build_windows, start_windows
from pipeline.extract.config import BuildConfig
from pipeline.extract.frame_stream import ChunkStream
from pipeline.extract.plan import plan_rows
from pipeline.extract.plan_clip import plan_clip
from pipeline.extract.timing import ShardTimer
from pipeline.flow.estimator import FlowEstimator, make_estimator
from schemas.clip import Clip, VideoInfo
from schemas.records import PlanRow


def probe_video(path: str) -> VideoInfo:
    """In a decoder process, as a run does."""
    return shared_pool(DecodeConfig(), 1).probe(path)


def plan_video(path: Path, config: BuildConfig) -> list[PlanRow]:
    """The windows of a video."""
    return [
        row
        for row in plan_rows(
            [plan_clip(Clip(uri=str(path)), config.plan, probe_video)], config.plan
        )
        if row.key
    ]


def build_results(
    rows: Sequence[PlanRow], config: BuildConfig, estimator: FlowEstimator | None = None
) -> list[WindowResult]:
    """What becomes of each window."""
    return list(
        build_windows(
            rows,
            config,
            estimator or make_estimator(config.flow),
            shared_pool(config.decode, 1),
            ShardTimer(),
        )
    )


def begin_video(
    rows: Sequence[PlanRow], config: BuildConfig, estimator: FlowEstimator | None = None
) -> list[PendingWindow]:
    """The windows of one video with their flow."""
    with closing(
        ChunkStream([rows], shared_pool(config.decode, 1), config.plan, config.size)
    ) as decoded:
        return [
            window
            for stretch, stream in decoded
            for window in start_windows(
                stretch, stream, config, estimator or make_estimator(config.flow)
            )
        ]
