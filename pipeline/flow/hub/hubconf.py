"""The installed torchvision's networks, for torch.hub."""

from pipeline.vision import raft_large, raft_small

__all__ = ["raft_large", "raft_small"]
dependencies = ["torch", "torchvision"]
