"""Several decoder processes, and frames that are ready before they are needed."""

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
"""How often a clip is tried whose decoder dies: it may have been the machine."""
MAX_PROCESS_REQUESTS = 200
"""Requests after which a decoder process is replaced, whatever it may have leaked."""
_MIN_PIECE_FRAMES = 64
"""Frames of a stretch that are decoded in one piece, at least; pieces begin at key frames."""
_PREFETCH_BYTES = 32 << 20
"""How much memory the frames may take that wait for the one who needs them."""
_END_OF_ITEMS = object()


class DecoderPool:
    """Decoder processes that stay alive between clips. May be used from several threads."""

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
        """The video's times, without decoding it. Raises Quarantined."""
        whole = os.path.abspath(path)  # of 12:30.mp4 FFmpeg takes the 12 for a protocol
        (video,) = self._retry(Stage.PROBE, lambda process, _: iter([process.probe(whole)]))
        return video

    def frames(
        self, path: str, video: VideoInfo, indices: Sequence[int], size: tuple[int, int]
    ) -> Iterator[Image]:
        """The frames at `indices` as `pictures` gives them. Raises Quarantined at the first that is
        damaged.
        """
        for index, picture in zip(indices, self.pictures(path, video, indices, size), strict=True):
            if picture.image is None:
                raise damaged_frame_error(index, float(video.times[index]), picture.damage)
            yield picture.image

    def pictures(
        self, path: str, video: VideoInfo, indices: Sequence[int], size: tuple[int, int]
    ) -> Iterator[PictureResult]:
        """The frames at `indices` (ascending) of a probed video, in order, decoded by all processes
        of the pool; of one that is damaged, why.

        The pieces do not depend on the number of processes, so neither does a pixel. Raises
        Quarantined if the file cannot be read any further.
        """
        whole = os.path.abspath(path)
        pieces = (
            self._read_piece(whole, video, piece, size)
            for piece in split_at_keyframes(indices, video.keyframes)
        )
        return (
            chain.from_iterable(pieces)
            if self.count == 1
            else _prefetch_in_order(pieces, self.count, prefetch_depth(size))
        )

    def _read_piece(
        self, path: str, video: VideoInfo, indices: Sequence[int], size: tuple[int, int]
    ) -> Iterator[PictureResult]:
        return self._retry(
            Stage.DECODE, lambda process, done: process.pictures(path, video, indices[done:], size)
        )

    def _retry(
        self, stage: Stage, ask: Callable[[DecoderProcess, int], Iterator[Any]]
    ) -> Iterator[Any]:
        """What a process answers; where it dies, another goes on after the items that came. Raises
        Quarantined after ATTEMPTS deaths.
        """
        done = 0
        for attempt in range(1, MAX_ATTEMPTS + 1):
            process, whole = self._acquire(), False
            try:
                for item in ask(process, done):
                    done += 1
                    yield item
                whole = True
                return
            except Quarantined:
                whole = True
                raise
            except DecoderDied as error:
                if attempt == MAX_ATTEMPTS:
                    raise Quarantined(
                        stage, error.reason, error.detail, attempts=attempt
                    ) from error
            finally:
                if not whole:
                    # dead, or in the middle of an answer that nobody wants any more
                    process.close()
                self.idle_processes.put(process)

    def _acquire(self) -> DecoderProcess:
        """A process that nobody uses, alive and not too old."""
        process = self.idle_processes.get()
        if process is not None and process.is_alive() and not process.is_worn(MAX_PROCESS_REQUESTS):
            return process
        if process is not None:
            process.close()
        made = None
        try:
            made = self.make(self.config)
            return made
        finally:
            if made is None:
                self.idle_processes.put(None)  # its place must not be lost

    def close(self) -> None:
        """Ends the processes, which nobody may be using."""
        for _ in range(self.count):
            process = self.idle_processes.get()
            if process is not None:
                process.close()
            self.idle_processes.put(None)


@lru_cache(1)
def shared_pool(config: DecodeConfig, count: int = 1) -> DecoderPool:
    """The pool of this process, kept between shards."""
    return DecoderPool(config, count)


def damaged_frame_error(index: int, time_s: float, damage: str | None) -> Quarantined:
    """The refusal of a frame that cannot be trusted."""
    return Quarantined(
        Stage.DECODE, Reason.DECODE_ERROR, f"frame {index}, at {time_s:.3f} s: {damage}"
    )


def split_at_keyframes(
    indices: Sequence[int], keyframes: Int64[np.ndarray, " keyframes"]
) -> Iterator[Sequence[int]]:
    """`indices` in pieces of at least PIECE that begin at or after a key frame, the first as it is."""
    starts = np.searchsorted(indices, keyframes)
    begin = 0
    for start in starts:
        if start - begin >= _MIN_PIECE_FRAMES and len(indices) - start >= _MIN_PIECE_FRAMES:
            yield indices[begin:start]
            begin = int(start)
    yield indices[begin:]


def prefetch_depth(size: tuple[int, int]) -> int:
    """How many pictures of `size` may wait."""
    return max(2, _PREFETCH_BYTES // (3 * size[0] * size[1]))


def _prefetch_in_order(pieces: Iterator[Iterator[Item]], count: int, most: int) -> Iterator[Item]:
    """The items of all pieces in order, `count` pieces under way at once, `most` items waiting in
    all.
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
        for one in running:
            one.close()


class Prefetcher(Iterator[Item]):
    """The same items, taken in a thread of their own, at most `depth` of them before they are
    needed.

    What `items` raises is raised here, after the items that came before. The thread begins at once;
    after `close` it ends, with `items` closed, when the item that it is taking has come.
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
        except Exception as error:  # noqa: BLE001 - raised by the one who takes the items
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
        """Ends the thread; nobody may be waiting for an item."""
        self.stopped.set()
