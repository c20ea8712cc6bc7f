"""TODO: what this file is."""

from dataclasses import dataclass
from typing import Literal

RAFT_TOO_SMALL_PX = 120
"""Pixels a side that RAFT needs more of: with fewer, the coarsest level of its correlations is one
cell.
"""


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    flow: Literal["dis", "raft_small", "raft_large"] = "dis"
    """Flow estimator: dis is OpenCV's dense inverse search on the CPU; raft_small and raft_large
    are torchvision's networks.
    """
    dis_preset: Literal["ultrafast", "fast", "medium", "fine"] = "medium"
    """Accuracy of dis against time; fine is medium on full-resolution pixels: 4 times as long,
    better under a pixel.
    """
    weights: str = "default"
    """raft: a file of weights, in torchvision's layout or that of RAFT's authors; default:
    torchvision's own, by torch.hub.
    """
    networks: str = "torchvision"
    """raft: whose code torch.hub runs: torchvision (the installed one), hub (pytorch/vision), or a
    folder with a hubconf.py.
    """
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


def uses_gpu(config: FlowConfig) -> bool:
    return config.flow != "dis" and config.device == "cuda"
