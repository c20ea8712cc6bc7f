"""The installed torchvision's networks, for torch.hub."""

from pipeline.torchvision_import import raft_large, raft_small

__all__ = ["raft_large", "raft_small"]
_dependencies = ["torch", "torchvision"]
