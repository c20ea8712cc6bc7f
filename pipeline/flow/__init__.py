"""Estimates dense optical flow from one image to others, behind one interface.

    estimator.py      READ FIRST: the interface `FlowEstimator`, and `make_estimator`
    config.py         the settings
    dis.py            OpenCV's dense inverse search (CPU, no weights)
    raft.py           RAFT on torchvision's networks (torch)
    raft_weights.py   loads RAFT's networks and weights (torch)
    hub/              hubconf.py, through which torch.hub gets the installed torchvision's networks
    consistency.py    how far each pixel's flow can be trusted, and damping of what cannot

An estimator prepares each frame once, however many windows of a chunk need it, and then measures
displacements between prepared frames. The direction is forward: what is at p in the source is at
p + F(p) in the target. Imports run one way: pipeline.decode, pipeline.motion, pipeline.flow.
"""

from pipeline.flow.config import FlowConfig
from pipeline.flow.estimator import FlowEstimator, describe_estimator, make_estimator

__all__ = ["FlowConfig", "FlowEstimator", "describe_estimator", "make_estimator"]
