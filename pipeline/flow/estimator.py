"""TODO: what this file is."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from pipeline.flow.config import FlowConfig

PreparedImage = TypeVar("PreparedImage")


@runtime_checkable
class FlowEstimator(Protocol[PreparedImage]):
    @property
    def device(self) -> str | None:
        """Where its results are: torch's name of the device, or None for arrays of this process."""
        ...

    def prepare(self, images: Sequence[UInt8[np.ndarray, "height width 3"]]) -> list[PreparedImage]:
        """What is computed once per frame, for these frames."""
        ...

    def displace(
        self, pairs: Sequence[tuple[PreparedImage, PreparedImage]]
    ) -> Float32[Any, "pairs 2 height width"]:
        """Displacement (x, y), in pixels, of every pixel of each pair's source to its target; of a
        frame to itself it is exactly 0. An array, or a tensor that stays on the device, which need
        not have finished.
        """
        ...

    def description(self) -> dict[str, Any]:
        """What decides its results, as a sample's metadata says it."""
        ...


def describe_estimator(config: FlowConfig) -> dict[str, Any]:
    """The description of the estimator that `config` names, without its device, for the run
    contract.

    Raises ValueError where code or weights are missing or do not fit together.
    """
    if config.flow == "dis":
        return {"flow": config.flow, "dis_preset": config.dis_preset}
    from pipeline.flow.raft import network_description
    from pipeline.flow.raft_weights import load_network

    return network_description(config, load_network(config)[1])


@lru_cache(1)
def make_estimator(config: FlowConfig) -> FlowEstimator:
    """The estimator that `config` names, kept between shards. Raises ValueError where its weights,
    code or device are missing.
    """
    if config.flow == "dis":
        from pipeline.flow.dis import DenseInverseSearch

        return DenseInverseSearch(config.dis_preset)
    from pipeline.flow.raft import Raft  # torch is slow to import, and a run with dis does without

    return Raft(config)
