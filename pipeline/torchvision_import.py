"""Imports torchvision's optical flow networks; no other file imports torchvision.

Its CUDA wheel can be installed beside a CPU build of torch, but then importing it fails on two
operators that are not compiled. If they are declared beforehand, everything else works.
"""

import sys
from importlib import import_module

import torch


def _import_torchvision() -> None:
    """Imports torchvision, without its compiled operators if they do not match torch."""
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}",
                "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            )
        import_module("torchvision")


_import_torchvision()

from torchvision.models.optical_flow import (  # noqa: E402
    Raft_Large_Weights,
    Raft_Small_Weights,
    raft_large,
    raft_small,
)

__all__ = ["Raft_Large_Weights", "Raft_Small_Weights", "raft_large", "raft_small"]
