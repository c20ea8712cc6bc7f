"""The settings of flow estimation."""

from dataclasses import dataclass
from typing import Literal

RAFT_TOO_SMALL_PX = 120
"""RAFT needs images of more than this many pixels a side: otherwise the coarsest level of its
correlations is a single cell.
"""


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    flow: Literal["dis", "raft_small", "raft_large"] = "dis"
    """Flow estimator: dis is OpenCV's dense inverse search on the CPU; raft_small and raft_large
    are torchvision's networks.
    """
    dis_preset: Literal["ultrafast", "fast", "medium", "fine"] = "medium"
    """dis: accuracy against time; fine is medium on full-resolution pixels, which takes 4 times as
    long and is better below a pixel.
    """
    weights: str = "default"
    """raft: file of weights, in torchvision's layout or that of RAFT's authors; default means
    torchvision's own, through torch.hub.
    """
    networks: str = "torchvision"
    """raft: code that torch.hub runs: torchvision (the installed one), hub (pytorch/vision), or a
    folder with a hubconf.py.
    """
    updates: int = 12
    """raft: refinements of the flow per pair."""
    pairs_per_batch: int = 32
    """raft: pairs computed together, at most one block of 32."""
    device: Literal["cuda", "cpu"] = "cuda"
    """raft: device that the network runs on."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """raft: precision of the network's activations."""
    compile: bool = False
    """raft: compile the network with torch.compile; minutes at the start, faster afterwards."""
    warm_start: bool = False
    """raft: begin each batch where the previous frame ended; this showed no gain on small sways."""

    def __post_init__(self):
        for name in ("updates", "pairs_per_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")


def uses_gpu(config: FlowConfig) -> bool:
    """Whether the estimator that `config` names runs on a GPU."""
    return config.flow != "dis" and config.device == "cuda"
