"""Flow over a whole clip that is held in memory, for what is measured of it; data sets consume
theirs as it is produced (window.py).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from pipeline.extract.window import to_array
from pipeline.flow.estimator import FlowEstimator
from pipeline.motion.spectrum import BLOCK_FRAMES, interpolation_matrix
from schemas.arrays import Frames


def resample_flow(
    flows: Float32[np.ndarray, "source 2 height width"],
    times: Float64[np.ndarray, " source"],
    time: int,
    fps: float,
) -> Float32[np.ndarray, "time 2 height width"]:
    """Displacements at `times` (seconds from 0) at t = 0 .. time-1 at `fps` (docs/maths.md, 3)."""
    matrix = interpolation_matrix(times, time, fps).astype(np.float32)
    return (matrix @ flows.reshape(len(flows), -1)).reshape(time, *flows.shape[1:])


def flow_from_start(
    frames: Frames, estimator: FlowEstimator
) -> Float32[np.ndarray, "time 2 height width"]:
    """Displacement of every pixel of the first frame to each frame, pixels; that to itself is 0."""
    prepared = estimator.prepare(list(frames))
    return _estimate_pairs([(prepared[0], one) for one in prepared], estimator)


def flow_between(
    frames: Frames, estimator: FlowEstimator
) -> Float32[np.ndarray, "steps 2 height width"]:
    """Displacement of every pixel of each frame to the one after it, pixels."""
    prepared = estimator.prepare(list(frames))
    return _estimate_pairs(list(pairwise(prepared)), estimator)


def _estimate_pairs(
    pairs: Sequence[tuple[Any, Any]], estimator: FlowEstimator
) -> Float32[np.ndarray, "pairs 2 height width"]:
    """Of prepared frames, in blocks."""
    return np.concatenate([to_array(estimator.displace(some)) for some in _split_blocks(pairs)])


def _split_blocks(pairs: Sequence[tuple[Any, Any]]) -> Iterator[Sequence[tuple[Any, Any]]]:
    return (pairs[i : i + BLOCK_FRAMES] for i in range(0, len(pairs), BLOCK_FRAMES))
