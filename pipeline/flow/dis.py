"""Estimates flow with OpenCV's dense inverse search (DIS), on the CPU and without weights."""

from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

Preset = Literal["ultrafast", "fast", "medium", "fine"]
_GrayImage = UInt8[np.ndarray, "height width"]


class DenseInverseSearch:
    """DIS with variational refinement (Kroeger et al., ECCV 2016); the same bits for any number of
    threads.
    """

    device = None

    def __init__(self, preset: Preset):
        presets = {
            "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
            "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
        }
        self.preset: Preset = preset
        self.dis = cv2.DISOpticalFlow.create(presets.get(preset, cv2.DISOPTICAL_FLOW_PRESET_MEDIUM))
        if preset == "fine":  # medium, down to full-resolution pixels
            self.dis.setFinestScale(0)
        cv2.setNumThreads(1)

    def prepare(self, images: Sequence[UInt8[np.ndarray, "height width 3"]]) -> list[_GrayImage]:
        return [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]

    def displace(
        self, pairs: Sequence[tuple[_GrayImage, _GrayImage]]
    ) -> Float32[np.ndarray, "pairs 2 height width"]:
        motion = np.empty((len(pairs), 2, *pairs[0][0].shape), np.float32)
        for (x, y), (source, target) in zip(motion, pairs, strict=True):
            if source is target:
                x[:], y[:] = 0, 0
            else:
                flow = self.dis.calc(source, target, None)  # pyright: ignore
                cv2.split(flow, [x, y])
        return motion

    def description(self) -> dict[str, Any]:
        return describe_dis(self.preset)


def describe_dis(preset: Preset) -> dict[str, Any]:
    """All settings that decide the results of DIS."""
    return {"flow": "dis", "dis_preset": preset}
