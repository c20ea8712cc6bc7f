"""The interface of flow estimators, and the one place that makes them from a FlowConfig.

A new estimator is a file with a class of this interface, a choice in FlowConfig.flow, and a branch
in `make_estimator` and in `describe_estimator`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from pipeline.flow.config import FlowConfig

PreparedImage = TypeVar("PreparedImage")


@runtime_checkable
class FlowEstimator(Protocol[PreparedImage]):
    """Measures dense optical flow between images that it has prepared."""

    @property
    def device(self) -> str | None:
        """torch's name of the device that has the results, or None for numpy arrays."""
        ...

    def prepare(self, images: Sequence[UInt8[np.ndarray, "height width 3"]]) -> list[PreparedImage]:
        """Computes what is needed once per image, whatever pairs it is in later."""
        ...

    def displace(
        self, pairs: Sequence[tuple[PreparedImage, PreparedImage]]
    ) -> Float32[Any, "pairs 2 height width"]:
        """Displacement (x, y), in pixels, of every pixel of each pair's source to its target.

        It is exactly 0 from an image to itself. The result is an array, or a tensor that stays on
        the device and may still be being computed.
        """
        ...

    def description(self) -> dict[str, Any]:
        """All settings that decide the results, as they are written to a sample's metadata."""
        ...


def describe_estimator(config: FlowConfig) -> dict[str, Any]:
    """The description of the estimator that `config` names, for the run contract. It does not need
    the estimator's device.

    Raises ValueError if code or weights are missing or do not fit together.
    """
    if config.flow == "dis":
        from pipeline.flow.dis import describe_dis

        return describe_dis(config.dis_preset)
    from pipeline.flow.raft import describe_raft
    from pipeline.flow.raft_weights import load_network

    return describe_raft(config, load_network(config)[1])


@lru_cache(1)
def make_estimator(config: FlowConfig) -> FlowEstimator:
    """The estimator that `config` names; the last one is cached, so that shards share it.

    Raises ValueError if its weights, code or device are missing.
    """
    if config.flow == "dis":
        from pipeline.flow.dis import DenseInverseSearch

        return DenseInverseSearch(config.dis_preset)
    from pipeline.flow.raft import Raft  # late: torch is slow to import, and DIS does not need it

    return Raft(config)
