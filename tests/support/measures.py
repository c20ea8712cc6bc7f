"""Turns pictures in memory into the measures of a window, by the flow and the filters of a run."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from pipeline.extract.config import BuildConfig, PlanConfig
from pipeline.extract.frame_stream import PreparedFrame
from pipeline.extract.window import measure_flow, measure_window, synchronize
from pipeline.filters import compute_frame_delta, compute_frame_stats
from pipeline.flow.estimator import make_estimator
from schemas.outcome import FilterMeasures

SIZE = (256, 160)
"""Width and height at which the thresholds of the filters are meant."""


class MeasuredPictures(NamedTuple):
    """What a run would measure of a window of these pictures."""

    measures: FilterMeasures
    weight: np.ndarray
    """W of every pixel [H, W], pixels, whether its flow is believed or not."""
    confidence: np.ndarray
    """Confidence of the flow of every pixel [H, W], 0 to 255."""


def measure_images(images: Sequence[np.ndarray], fps: float = 30.0) -> MeasuredPictures:
    """Measures RGB pictures [H, W, 3], uint8, that follow each other at `fps`, as one window."""
    height, width = images[0].shape[:2]
    config = BuildConfig(
        size=(width, height), plan=PlanConfig(frames=round(len(images) * 30 / fps))
    )
    estimator = make_estimator(config.flow)
    frames, before = [], None
    for i, (image, flow_input) in enumerate(zip(images, estimator.prepare(images), strict=True)):
        stats = compute_frame_stats(image)
        delta = None if before is None else compute_frame_delta(before, stats)
        frames.append(PreparedFrame(image, i / fps, "none", flow_input, stats, delta))
        before = stats
    motion = synchronize(measure_flow("key", frames, config, estimator), frames[0].stats.gray)
    return MeasuredPictures(measure_window(frames, motion), motion.sums.weight(), motion.confidence)


def move_image(image: np.ndarray, dx: np.ndarray | float, dy: np.ndarray | float) -> np.ndarray:
    """The picture [H, W, 3], uint8 or float, whose content is displaced by (dx, dy) pixels at each
    place; beyond its border it is its mirror image.
    """
    rows, columns = np.indices(image.shape[:2], np.float32)
    return cv2.remap(
        image,
        columns - np.float32(dx),
        rows - np.float32(dy),
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def add_grain(images: Sequence[np.ndarray], levels: float = 1.5) -> list[np.ndarray]:
    """The pictures as uint8 with the noise of a camera, standard deviation in gray levels."""
    rng = np.random.default_rng(7)
    return [
        np.clip(
            np.rint(image + levels * rng.standard_normal(image.shape, np.float32)), 0, 255
        ).astype(np.uint8)
        for image in images
    ]
