"""Dense optical flow from one frame to others, behind one interface.

An estimator prepares each frame once, however many windows of a stretch need it, and then measures displacements
between prepared frames. The direction is forward: source(p) is seen at p + F(p) in the target.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

PreparedImage = TypeVar("PreparedImage")
RAFT_TOO_SMALL_PX = 120
"""Pixels a side that RAFT needs more of: with fewer, the coarsest level of its correlations is one cell."""


@runtime_checkable
class FlowEstimator(Protocol[PreparedImage]):
    @property
    def device(self) -> str | None:
        """Where its results are: torch's name of the device, or None for arrays of this process."""
        ...

    def prepare(self, images: Sequence[UInt8[np.ndarray, "height width 3"]]) -> list[PreparedImage]:
        """What is computed once per frame, for these frames."""
        ...

    def displace(self, pairs: Sequence[tuple[PreparedImage, PreparedImage]]) -> Float32[Any, "pairs 2 height width"]:
        """Displacement (x, y), in pixels, of every pixel of each pair's source to its target; of a frame to itself it is
        exactly 0. An array, or a tensor that stays on the device, which need not have finished.
        """
        ...

    def description(self) -> dict[str, Any]:
        """What decides its results, as a sample's metadata says it."""
        ...


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    flow: Literal["dis", "raft_small", "raft_large"] = "dis"
    """Flow estimator: dis is OpenCV's dense inverse search on the CPU; raft_small and raft_large are torchvision's networks."""
    dis_preset: Literal["ultrafast", "fast", "medium", "fine"] = "medium"
    """Accuracy of dis against time; fine is medium on full-resolution pixels: 4 times as long, better under a pixel."""
    weights: str = "default"
    """raft: a file of weights, in torchvision's layout or that of RAFT's authors; default: torchvision's own, by torch.hub."""
    networks: str = "torchvision"
    """raft: whose code torch.hub runs: torchvision (the installed one), hub (pytorch/vision), or a folder with a hubconf.py."""
    updates: int = 12
    """raft: refinements of the flow per pair."""
    pairs_per_batch: int = 32
    """raft: pairs computed together, at most one block of 32."""
    device: Literal["cuda", "cpu"] = "cuda"
    """raft: where the network runs."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """raft: of the network's activations."""
    compile: bool = False
    """raft: compile the network with torch.compile; minutes at the start, faster after."""
    warm_start: bool = False
    """raft: begin each batch where the frame before it ended; no gain was seen on small sways."""

    def __post_init__(self):
        for name in ("updates", "pairs_per_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")


def describe_estimator(config: FlowConfig) -> dict[str, Any]:
    """The description of the estimator that `config` names, without its device, for the run contract.

    Raises ValueError where code or weights are missing or do not fit together.
    """
    if config.flow == "dis":
        return {"flow": config.flow, "dis_preset": config.dis_preset}
    from pipeline.flow.raft import network_description
    from pipeline.flow.raft_weights import load_network

    return network_description(config, load_network(config)[1])


def uses_gpu(config: FlowConfig) -> bool:
    return config.flow != "dis" and config.device == "cuda"


@lru_cache(1)
def make_estimator(config: FlowConfig) -> FlowEstimator:
    """The estimator that `config` names, kept between shards. Raises ValueError where its weights, code or device are missing."""
    if config.flow == "dis":
        from pipeline.flow.dis import DenseInverseSearch

        return DenseInverseSearch(config.dis_preset)
    from pipeline.flow.raft import Raft  # torch is slow to import, and a run with dis does without

    return Raft(config)
