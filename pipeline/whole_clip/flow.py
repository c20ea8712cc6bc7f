"""Flow over a whole clip that is held in memory, for metrics. Extraction consumes flow as it is
produced instead (pipeline/extract/window.py).
"""

from collections.abc import Sequence
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
    """Displacements given at `times` (seconds from 0), interpolated to the instants 0 .. time - 1
    at `fps` (docs/design/maths.md, 3).
    """
    matrix = interpolation_matrix(times, time, fps).astype(np.float32)
    return (matrix @ flows.reshape(len(flows), -1)).reshape(time, *flows.shape[1:])


def flow_from_start(
    frames: Frames, estimator: FlowEstimator
) -> Float32[np.ndarray, "time 2 height width"]:
    """Displacement of every pixel from the first frame to each frame, pixels; to itself it is 0."""
    prepared = estimator.prepare(list(frames))
    return _estimate_pairs([(prepared[0], frame) for frame in prepared], estimator)


def flow_between(
    frames: Frames, estimator: FlowEstimator
) -> Float32[np.ndarray, "steps 2 height width"]:
    """Displacement of every pixel from each frame to the next one, pixels."""
    prepared = estimator.prepare(list(frames))
    return _estimate_pairs(list(pairwise(prepared)), estimator)


def _estimate_pairs(
    pairs: Sequence[tuple[Any, Any]], estimator: FlowEstimator
) -> Float32[np.ndarray, "pairs 2 height width"]:
    """Flow between pairs of prepared frames, estimated a block of pairs at a time."""
    blocks = [pairs[i : i + BLOCK_FRAMES] for i in range(0, len(pairs), BLOCK_FRAMES)]
    return np.concatenate([to_array(estimator.displace(block)) for block in blocks])
