"""Measures how long a shard took, and how busy its device was."""

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar

from pipeline.flow.estimator import FlowEstimator

Item = TypeVar("Item")
_END = object()


class ShardTiming(NamedTuple):
    """How long a shard took; it changes nothing in its content."""

    seconds: float
    waiting_share: float
    """Share of the time in which nothing was done but wait for frames, 0 to 1."""
    idle_share: float | None
    """Share of the time in which the flow's device neither prepared frames nor measured flow, 0 to
    1; None without one.
    """


class ShardTimer:
    """Measures a shard from the moment at which the timer is made."""

    def __init__(self):
        self.start_s, self.wait_s = time.monotonic(), 0.0
        self.busy_clock: Any = None

    def measure_wait(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yields the same items and counts the time until each one comes."""
        while True:
            asked_s = time.monotonic()
            try:
                item = next(items, _END)
            finally:
                self.wait_s += time.monotonic() - asked_s
            if item is _END:
                return
            yield item  # pyright: ignore[reportReturnType]

    def wrap_estimator(self, estimator: FlowEstimator) -> FlowEstimator:
        """Returns the same estimator, with the time of its device counted if it has one."""
        if estimator.device is None:
            return estimator
        from pipeline.motion.gpu import BusyClock

        self.busy_clock = BusyClock(estimator.device)
        return _TimedEstimator(estimator, self.busy_clock)

    def timing(self) -> ShardTiming:
        """Returns what the shard took so far."""
        seconds = time.monotonic() - self.start_s
        return ShardTiming(
            round(seconds, 2),
            round(self.wait_s / seconds, 3),
            round(self.busy_clock.idle_share(), 3) if self.busy_clock else None,
        )


class _TimedEstimator:
    """An estimator that works within a context, which counts the time of the device."""

    def __init__(self, estimator: FlowEstimator, working: AbstractContextManager[Any]):
        self.estimator, self.busy_clock, self.device = estimator, working, estimator.device

    def prepare(self, images: Sequence[Any]) -> list[Any]:
        with self.busy_clock:
            return self.estimator.prepare(images)

    def displace(self, pairs: Sequence[tuple[Any, Any]]) -> Any:
        with self.busy_clock:
            return self.estimator.displace(pairs)

    def description(self) -> dict[str, Any]:
        return self.estimator.description()
