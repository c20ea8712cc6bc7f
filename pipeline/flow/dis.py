"""OpenCV's dense inverse search on the CPU."""

from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

Grey = UInt8[np.ndarray, "height width"]


class DenseInverseSearch:
    """DIS with variational refinement (Kroeger et al., ECCV 2016); the same bits for any number of threads."""

    device = None

    def __init__(self, preset: Literal["ultrafast", "fast", "medium", "fine"]):
        presets = {"ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST, "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST}
        self.preset = preset
        self.dis = cv2.DISOpticalFlow.create(presets.get(preset, cv2.DISOPTICAL_FLOW_PRESET_MEDIUM))
        if preset == "fine":
            self.dis.setFinestScale(0)
        cv2.setNumThreads(1)

    def prepare(self, images: Sequence[UInt8[np.ndarray, "height width 3"]]) -> list[Grey]:
        return [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]

    def displace(self, pairs: Sequence[tuple[Grey, Grey]]) -> Float32[np.ndarray, "pairs 2 height width"]:
        motion = np.empty((len(pairs), 2, *pairs[0][0].shape), np.float32)
        for out, (source, target) in zip(motion, pairs, strict=True):
            flow = None if source is target else self.dis.calc(source, target, None)  # pyright: ignore[reportArgumentType, reportCallIssue]
            for axis in range(2):
                out[axis] = 0 if flow is None else cv2.extractChannel(flow, axis)
        return motion

    def description(self) -> dict[str, Any]:
        return {"flow": "dis", "dis_preset": self.preset}
