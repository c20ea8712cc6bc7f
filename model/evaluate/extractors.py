"""Features of a video for distances between sets of videos: of its frames one by one, or of its
excerpts (docs/maths.md, 33 and 42).

An excerpt is a fixed number of frames, and one begins every few frames. Both numbers are part of an
evaluation's protocol; nothing is drawn at random. Frames after the last full excerpt are left out.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy.lib.stride_tricks import sliding_window_view

from model.evaluate.feature_networks import DT_I3D, DT_I3D_32, I3D, INCEPTION, FeatureNetwork

NETWORK_SPECS = {"inception": INCEPTION, "i3d": I3D, "dt-i3d": DT_I3D, "dt-i3d-32": DT_I3D_32}
"""How each network is called, by the option that names its file."""
_NETWORK_EXTRACTORS = (
    ("inception", "inception", 1),
    ("i3d16", "i3d", 16),
    ("i3d32", "i3d", 32),
    ("dt-i3d16", "dt-i3d", 16),
    ("dt-i3d32", "dt-i3d-32", 32),
)
"""Name, network and frames of an excerpt."""
_FEATURE_CELLS = (8, 4)
"""Cells, across and down, of the features that need no weights."""
_MAX_BATCH_FRAMES = 300
"""Most frames that go into one call of a feature function."""


class FeatureExtractor(NamedTuple):
    """Computes features of a video: of each frame (length 1), or of each excerpt."""

    name: str
    length: int
    """Frames of an excerpt."""
    stride: int
    """Frames from the beginning of one excerpt to the next."""
    function: Callable[[Any], Any] | None
    """From samples to features; None if its weights were not given."""
    weights_option: str = ""
    """The option that gives them."""
    protocol: Mapping[str, Any] = {}

    def supports(self, frames: int) -> bool:
        """Whether there are features for a video of that many frames."""
        return self.function is not None and self.length <= frames

    def extract(
        self, frames: UInt8[np.ndarray, "time height width 3"]
    ) -> Float32[np.ndarray, "samples features"]:
        """The features of a video that is supported."""
        assert self.function is not None  # noqa: S101 - `supports` says so
        samples: Any = (
            frames if self.length == 1 else cut_excerpts(frames, self.length, self.stride)
        )
        step = max(1, _MAX_BATCH_FRAMES // self.length)
        return np.concatenate(
            [self.function(samples[i : i + step]) for i in range(0, len(samples), step)]
        )


def make_extractors(networks: Mapping[str, FeatureNetwork]) -> list[FeatureExtractor]:
    """All extractors; `networks` has those networks whose file was given, by their option."""
    cells = "{}x{} cells".format(*_FEATURE_CELLS)
    colors = dict(features=f"mean colours of {cells}")
    changes = dict(features=f"change and range of grey in {cells}")
    extractors = [FeatureExtractor("colours", 1, 1, _cell_colors, protocol=colors)]
    extractors += [
        FeatureExtractor(f"changes{n}", n, n // 2, _cell_changes, protocol=changes)
        for n in (16, 32)
    ]
    for name, option, length in _NETWORK_EXTRACTORS:
        network = networks.get(option)
        function, protocol = (network.extract, network.protocol()) if network else (None, {})
        stride = max(1, length // 2)
        extractors.append(
            FeatureExtractor(name, length, stride, function, f"--{option} FILE", protocol)
        )
    return extractors


def _cell_colors(
    samples: UInt8[np.ndarray, "samples height width 3"],
) -> Float32[np.ndarray, "samples features"]:
    """The mean color, 0 to 1, of each cell of a frame (docs/maths.md, 42)."""
    cells = [
        cv2.resize(frame, _FEATURE_CELLS, interpolation=cv2.INTER_AREA).ravel() for frame in samples
    ]
    return np.stack(cells).astype(np.float32) / 255


def _cell_changes(
    samples: UInt8[np.ndarray, "samples time height width 3"],
) -> Float32[np.ndarray, "samples features"]:
    """For each cell of an excerpt, 0 to 1: how much its pixels change from frame to frame, and the
    standard deviation of each over time (docs/maths.md, 42).
    """
    features = []
    for excerpt in samples:
        frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in excerpt]
        gray = np.stack(frames).astype(np.float32) / 255
        cells = [
            cv2.resize(part, _FEATURE_CELLS, interpolation=cv2.INTER_AREA).ravel()
            for part in (np.abs(np.diff(gray, axis=0)).mean(axis=0), gray.std(axis=0))
        ]
        features.append(np.concatenate(cells))
    return np.stack(features).astype(np.float32)


def cut_excerpts(
    frames: UInt8[np.ndarray, "time height width 3"], length: int, stride: int
) -> UInt8[np.ndarray, "excerpts length height width 3"]:
    """The excerpts of a video, as a view of its frames. Raises ValueError if the video is shorter
    than one, or the stride is under 1.
    """
    _check_excerpt_length(len(frames), length, stride)
    return np.moveaxis(sliding_window_view(frames, length, axis=0)[::stride], -1, 1)


def iter_feature_windows(
    features: Float[np.ndarray, "videos time dimensions"], length: int, stride: int
) -> Iterator[Float[np.ndarray, "samples dimensions"]]:
    """The features of all videos within one window after the other, for `sliding_distances`.

    Features are those of frames (sliding FID), or those of excerpts, with a length of 1 (sliding
    FVD). Raises ValueError as `cut_excerpts` does.
    """
    count, time, dimensions = features.shape
    _check_excerpt_length(time, length, stride)
    starts = range(0, time - length + 1, stride)
    return (
        features[:, start : start + length].reshape(count * length, dimensions) for start in starts
    )


def _check_excerpt_length(time: int, length: int, stride: int) -> None:
    if not (1 <= length <= time and stride >= 1):
        raise ValueError(
            f"excerpts of {length} frames every {stride} of a video of {time}, expected at least 1 "
            "and at most as many as it has"
        )
