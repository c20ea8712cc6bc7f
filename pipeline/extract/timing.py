"""What a shard costs, and whether its device was kept busy."""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar

from pipeline.flow import FlowEstimator

Item = TypeVar("Item")
END = object()


class Effort(NamedTuple):
    """Of no consequence for a shard's content."""

    seconds: float
    waiting_share: float
    """Share of the time in which nothing was done but wait for frames, 0 to 1."""
    idle_share: float | None
    """Share of the time in which the flow's device neither prepared frames nor measured flow, 0 to 1; None without one."""


class Clock:
    """Measures the effort from its making on."""

    def __init__(self):
        self.began, self.waited_s = time.monotonic(), 0.0
        self.busy: Any = None

    def waiting(self, items: Iterator[Item]) -> Iterator[Item]:
        """The same items; the time until each comes is counted."""
        while True:
            asked = time.monotonic()
            try:
                item = next(items, END)
            finally:
                self.waited_s += time.monotonic() - asked
            if item is END:
                return
            yield item  # pyright: ignore[reportReturnType]

    def watched(self, estimator: FlowEstimator) -> FlowEstimator:
        """The same estimator; where it works on a device, the device's time is counted."""
        if estimator.device is None:
            return estimator
        from pipeline.motion.spectrum_gpu import BusyClock

        self.busy = BusyClock(estimator.device)
        return Watched(estimator, self.busy)

    def effort(self) -> Effort:
        """What it took so far."""
        seconds = time.monotonic() - self.began
        return Effort(round(seconds, 2), round(self.waited_s / seconds, 3), round(self.busy.idle_share(), 3) if self.busy else None)


class Watched:
    """An estimator whose work is done within a context."""

    def __init__(self, estimator: FlowEstimator, working: AbstractContextManager[Any]):
        self.estimator, self.working, self.device = estimator, working, estimator.device

    def prepare(self, images: Sequence[Any]) -> list[Any]:
        with self.working:
            return self.estimator.prepare(images)

    def displace(self, pairs: Sequence[tuple[Any, Any]]) -> Any:
        with self.working:
            return self.estimator.displace(pairs)

    def description(self) -> dict[str, Any]:
        return self.estimator.description()
