"""Keeps several decoder processes alive, and decodes frames before they are needed."""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain, islice
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int64

from pipeline.decode.client import DecoderDied, DecoderProcess
from pipeline.decode.config import DecodeConfig
from pipeline.decode.media_file import PictureResult
from schemas.arrays import Image
from schemas.clip import VideoInfo
from schemas.outcome import Quarantined, Reason, Stage

Item = TypeVar("Item")

MAX_ATTEMPTS = 3
"""Attempts at a clip whose decoder dies, which may be the machine's fault."""
MAX_PROCESS_REQUESTS = 200
"""Requests after which a decoder process is replaced, because it may leak memory."""
_MIN_PIECE_FRAMES = 64
"""Smallest number of frames that are decoded in one piece; pieces begin at key frames."""
_PREFETCH_BYTES = 32 << 20
"""Largest size of the frames that are decoded and not yet used."""
_END_OF_ITEMS = object()


class DecoderPool:
    """`count` decoder processes that stay alive between clips. Several threads may use the pool."""

    def __init__(
        self,
        config: DecodeConfig,
        count: int = 1,
        make: Callable[[DecodeConfig], DecoderProcess] = DecoderProcess,
    ):
        self.config, self.count, self.make = config, count, make
        self.idle_processes: queue.SimpleQueue[DecoderProcess | None] = queue.SimpleQueue()
        for _ in range(count):
            self.idle_processes.put(None)

    def probe(self, path: str) -> VideoInfo:
        """Times and properties of a video. Raises Quarantined."""
        absolute = os.path.abspath(path)  # FFmpeg takes the 12 of 12:30.mp4 for a protocol
        (video,) = self._retry(Stage.PROBE, lambda process, _: iter([process.probe(absolute)]))
        return video

    def frames(
        self, path: str, video: VideoInfo, indices: Sequence[int], size: tuple[int, int]
    ) -> Iterator[Image]:
        """The images of `pictures`. Raises Quarantined at the first frame that is damaged."""
        for index, picture in zip(indices, self.pictures(path, video, indices, size), strict=True):
            if picture.image is None:
                raise damaged_frame_error(index, float(video.times[index]), picture.damage)
            yield picture.image

    def pictures(
        self, path: str, video: VideoInfo, indices: Sequence[int], size: tuple[int, int]
    ) -> Iterator[PictureResult]:
        """The frames at `indices` (ascending) of a probed video, in order, of `size` = (width,
        height) and decoded by all processes of the pool; the damage of those that are damaged.

        The pieces do not depend on the number of processes, and so no pixel does. Raises
        Quarantined if the file cannot be read any further.
        """
        absolute = os.path.abspath(path)

        def read(piece: Sequence[int]) -> Iterator[PictureResult]:
            return self._retry(
                Stage.DECODE,
                lambda process, done: process.pictures(absolute, video, piece[done:], size),
            )

        pieces = map(read, split_at_keyframes(indices, video.keyframes))
        if self.count == 1:
            return chain.from_iterable(pieces)
        return _prefetch_in_order(pieces, self.count, prefetch_depth(size))

    def _retry(
        self, stage: Stage, request: Callable[[DecoderProcess, int], Iterator[Any]]
    ) -> Iterator[Any]:
        """The items of a process's answer; if the process dies, another one continues after the
        items that it has sent. Raises Quarantined after MAX_ATTEMPTS deaths.

        `request` takes the process and the number of items that are done.
        """
        done = 0
        for attempt in range(1, MAX_ATTEMPTS + 1):
            process, is_usable = self._acquire(), False
            try:
                for item in request(process, done):
                    done += 1
                    yield item
                is_usable = True
                return
            except Quarantined:
                is_usable = True
                raise
            except DecoderDied as error:
                if attempt == MAX_ATTEMPTS:
                    raise Quarantined(
                        stage, error.reason, error.detail, attempts=attempt
                    ) from error
            finally:
                if not is_usable:
                    # dead, or in the middle of an answer that nobody reads any more
                    process.close()
                self.idle_processes.put(process)

    def _acquire(self) -> DecoderProcess:
        """An idle process that is alive and not worn, or a new one."""
        process = self.idle_processes.get()
        if process is not None and process.is_alive() and not process.is_worn(MAX_PROCESS_REQUESTS):
            return process
        if process is not None:
            process.close()
        try:
            return self.make(self.config)
        except BaseException:
            self.idle_processes.put(None)  # or the pool would have one process fewer from now on
            raise

    def close(self) -> None:
        """Ends all processes. None of them may be in use."""
        for _ in range(self.count):
            process = self.idle_processes.get()
            if process is not None:
                process.close()
            self.idle_processes.put(None)


@lru_cache(1)
def shared_pool(config: DecodeConfig, count: int = 1) -> DecoderPool:
    """The pool of this process, which is kept between shards."""
    return DecoderPool(config, count)


def damaged_frame_error(index: int, time_s: float, damage: str | None) -> Quarantined:
    """The exception for a frame that cannot be trusted."""
    return Quarantined(
        Stage.DECODE, Reason.DECODE_ERROR, f"frame {index}, at {time_s:.3f} s: {damage}"
    )


def split_at_keyframes(
    indices: Sequence[int], keyframes: Int64[np.ndarray, " keyframes"]
) -> Iterator[Sequence[int]]:
    """Splits `indices` into pieces of at least _MIN_PIECE_FRAMES; each except the first begins at
    the first index at or after a key frame.
    """
    starts = np.searchsorted(indices, keyframes)
    begin = 0
    for start in starts:
        if start - begin >= _MIN_PIECE_FRAMES and len(indices) - start >= _MIN_PIECE_FRAMES:
            yield indices[begin:start]
            begin = int(start)
    yield indices[begin:]


def prefetch_depth(size: tuple[int, int]) -> int:
    """Number of frames of `size` that may be decoded before they are needed."""
    return max(2, _PREFETCH_BYTES // (3 * size[0] * size[1]))


def _prefetch_in_order(pieces: Iterator[Iterator[Item]], count: int, most: int) -> Iterator[Item]:
    """The items of all pieces in order; `count` pieces are read at once, and at most `most` items
    wait in all.
    """
    running: deque[Prefetcher[Item]] = deque()
    try:
        while True:
            running.extend(
                Prefetcher(piece, max(1, most // count))
                for piece in islice(pieces, count - len(running))
            )
            if not running:
                return
            yield from running[0]
            running.popleft()
    finally:
        for prefetcher in running:
            prefetcher.close()


class Prefetcher(Iterator[Item]):
    """Iterates over `items` in a thread of its own, at most `depth` items ahead.

    An exception of `items` is raised here, after the items before it. The thread starts at once.
    After `close` it ends as soon as it has the item that it is waiting for, and closes `items`.
    """

    def __init__(self, items: Iterator[Item], depth: int):
        self.ready: queue.Queue = queue.Queue(depth)
        self.stopped = threading.Event()
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._fill, args=(items,), daemon=True)
        self.thread.start()

    def _fill(self, items: Iterator[Item]) -> None:
        try:
            for item in items:
                self._put(item)
                if self.stopped.is_set():
                    break
            if isinstance(items, Generator):
                items.close()
        except Exception as error:  # noqa: BLE001 - `__next__` raises it
            self.error = error
        self._put(_END_OF_ITEMS)

    def _put(self, item: Any) -> None:
        while not self.stopped.is_set():
            with suppress(queue.Full):
                return self.ready.put(item, timeout=0.1)

    def __next__(self) -> Item:
        item = self.ready.get()
        if item is not _END_OF_ITEMS:
            return item
        self.ready.put(_END_OF_ITEMS)
        raise self.error or StopIteration

    def close(self) -> None:
        """Ends the thread. No other thread may be waiting for an item."""
        self.stopped.set()
