"""Dense optical flow from one frame to others, behind one interface.

An estimator prepares each frame once, however many windows of a stretch need it, and then measures displacements from
one prepared frame to several. The direction is forward: source(p) is seen at p + F(p) in the target.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

Prepared = TypeVar("Prepared")


@runtime_checkable
class FlowEstimator(Protocol[Prepared]):
    def prepare(self, image: UInt8[np.ndarray, "height width 3"]) -> Prepared:
        """What is computed once per frame."""
        ...

    def displace(self, source: Prepared, targets: Sequence[Prepared]) -> Float32[np.ndarray, "targets 2 height width"]:
        """Displacement (x, y) in pixels of every pixel of `source` to each target."""
        ...


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    flow: Literal["dis"] = "dis"
    """Flow estimator: dis is OpenCV's coarse-to-fine dense inverse search, on the CPU, without weights."""
    dis_preset: Literal["ultrafast", "fast", "medium", "fine"] = "medium"
    """Accuracy of dis against time; fine is medium on full-resolution pixels: 4 times as long, better under a pixel."""


def make_estimator(config: FlowConfig) -> FlowEstimator:
    """The estimator that `config` names."""
    return DenseInverseSearch(config.dis_preset)


class DenseInverseSearch:
    """DIS with variational refinement (Kroeger et al., ECCV 2016); the same bits for any number of threads."""

    def __init__(self, preset: Literal["ultrafast", "fast", "medium", "fine"]):
        presets = {"ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST, "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST}
        self.dis = cv2.DISOpticalFlow.create(presets.get(preset, cv2.DISOPTICAL_FLOW_PRESET_MEDIUM))
        if preset == "fine":
            self.dis.setFinestScale(0)
        cv2.setNumThreads(1)

    def prepare(self, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width"]:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)

    def displace(self, source: UInt8[np.ndarray, "h w"], targets: Sequence[UInt8[np.ndarray, "h w"]]) -> Float32[np.ndarray, "targets 2 h w"]:
        motion = np.empty((len(targets), 2, *source.shape), np.float32)
        for out, target in zip(motion, targets, strict=True):
            out[:] = np.moveaxis(self.dis.calc(source, target, None), 2, 0)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return motion
