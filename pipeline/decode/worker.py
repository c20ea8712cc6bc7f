"""The process in which videos are decoded: it may hang, leak or crash, and costs one clip. It never
loads torch.

    python -m pipeline.decode.worker CONNECTION MEMORY LIMIT_MB PARENT

It gives up what decoding does not need (sandbox.py), says READY and what holds, then answers
requests on CONNECTION, one at a time. A request for frames is answered in batches: the
pictures stand in one of SLOTS parts of MEMORY, the message says how many, and a part is filled
again when the parent has let it go; after the last comes DONE, or a refusal. Messages are JSON, a
video's times and key frames follow it as raw numbers; nothing is unpickled, since the bytes of a
video may have got hold of this process.
"""

import json
import mmap
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from pipeline.decode import sandbox
from pipeline.decode.config import DecodeConfig
from pipeline.decode.media_file import PictureResult, Source, file_signature
from schemas.clip import FileSignature, VideoInfo
from schemas.outcome import Quarantined, Reason, Stage

SLOT_COUNT = 2
_SLOT_BYTES = 4 << 20
"""About how much of the memory one batch of pictures takes."""
RELEASE_SLOT = b""
"""The parent's message that the oldest slot may be filled again."""
READY, DONE = b"ready", b"done"
_VIDEO_FIELDS = ("end_s", "aspect", "height", "decoder", "decoder_reason")
"""What is told of a video beside its signature, its times and its key frames."""
_ORPHAN_CHECK_S = 1.0


def batch_size(size: tuple[int, int]) -> int:
    """Pictures of `size` in one batch."""
    return max(1, _SLOT_BYTES // (3 * size[0] * size[1]))


def view_slots(memory: mmap.mmap, size: tuple[int, int]) -> np.ndarray:
    """The memory as pictures, uint8 [SLOTS, batch, height, width, 3]."""
    shape = (SLOT_COUNT, batch_size(size), size[1], size[0], 3)
    return np.frombuffer(memory, np.uint8, int(np.prod(shape))).reshape(shape)


def memory_bytes(size: tuple[int, int]) -> int:
    """How large the memory must be for pictures of `size`."""
    return SLOT_COUNT * batch_size(size) * 3 * size[0] * size[1]


def _serialize_video(video: VideoInfo) -> bytes:
    """A video as a message."""
    told = {name: getattr(video, name) for name in (*_VIDEO_FIELDS, "signature")}
    head = told | dict(frames=len(video.times), keyframes=len(video.keyframes))
    return (
        json.dumps(head).encode()
        + b"\n"
        + video.times.astype("<f8").tobytes()
        + video.keyframes.astype("<i8").tobytes()
    )


def deserialize_video(message: bytes) -> VideoInfo:
    """Inverse of `_serialize_video`. Raises ValueError, KeyError or TypeError where the message is
    another.
    """
    line, _, data = message.partition(b"\n")
    head = json.loads(line)
    times = np.frombuffer(data, "<f8", head["frames"])
    keyframes = np.frombuffer(data, "<i8", head["keyframes"], offset=times.nbytes)
    told = {name: head[name] for name in _VIDEO_FIELDS}
    return VideoInfo(times=times, keyframes=keyframes, signature=tuple(head["signature"]), **told)


def _serve(connection: Connection, descriptor: int) -> None:
    """Answers requests until the parent is gone."""
    while True:
        message = connection.recv_bytes()
        if message == RELEASE_SLOT:  # left over from an answer that ended early
            continue
        request = json.loads(message)
        try:
            for message in answer_request(request, connection, descriptor):
                connection.send_bytes(message)
        except Quarantined as error:
            connection.send_bytes(
                json.dumps(
                    dict(stage=error.stage, reason=error.reason, detail=error.detail)
                ).encode()
            )
        except MemoryError:
            words = dict(
                stage=Stage.DECODE,
                reason=Reason.OUT_OF_MEMORY,
                detail="the decoder asked for more memory than it may have",
            )
            connection.send_bytes(json.dumps(words).encode())


def answer_request(
    request: dict[str, Any], connection: Connection, descriptor: int
) -> Iterator[bytes]:
    config, found = DecodeConfig(**request["config"]), None
    with suppress(OSError):  # what is wrong is the parent's to say, who looks too
        found = file_signature(request["path"])
    if "indices" in request and list(found or ()) != request["signature"]:
        raise Quarantined(
            Stage.DECODE, Reason.HASH_MISMATCH, "the file was replaced while it was read"
        )
    source = _probe_cached(request["path"], found, config)
    if "indices" not in request:
        yield _serialize_video(source.video)
        return
    yield from _stream_batches(source, request, connection, descriptor)


def _stream_batches(
    source: Source, request: dict[str, Any], connection: Connection, descriptor: int
) -> Iterator[bytes]:
    """Fills one slot after the other; waits for the parent to let one go that is filled again. If
    the file cannot be read any further, the pictures before that come first.
    """
    from pipeline.decode.readers import read_pictures

    size = tuple(request["size"])
    memory = view_slots(mmap.mmap(descriptor, memory_bytes(size)), size)
    pictures, end = _take_until_quarantined(read_pictures(source, request["indices"], size))
    for turn, batch in enumerate(iter(lambda: list(islice(pictures, batch_size(size))), [])):
        if turn >= SLOT_COUNT:
            connection.recv_bytes()
        others = {}
        for i, picture in enumerate(batch):
            if picture.image is not None:
                memory[turn % SLOT_COUNT, i] = picture.image
            if picture.image is None or picture.decoder != source.video.decoder:
                others[i] = dict(decoder=picture.decoder, damage=picture.damage)
        yield json.dumps(dict(pictures=len(batch), others=others)).encode()
    if end:
        raise end[0]
    yield DONE


def _take_until_quarantined(
    pictures: Iterator[PictureResult],
) -> tuple[Iterator[PictureResult], list[Quarantined]]:
    """The pictures up to a refusal, which then stands in the list."""
    end: list[Quarantined] = []

    def those_before() -> Iterator[PictureResult]:
        try:
            yield from pictures
        except Quarantined as error:
            end.append(error)

    return those_before(), end


@lru_cache(1)
def _probe_cached(path: str, found: FileSignature | None, config: DecodeConfig) -> Source:  # noqa: ARG001 - part of the key
    """The probe of the last file, kept for its pieces."""
    from pipeline.decode.probe import probe

    return probe(path, config)


def _exit_with_parent(parent: int) -> None:
    """Ends this process when its parent is gone, even if it is busy decoding."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_ORPHAN_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> None:
    """Serves on the connection until it is closed."""
    handle, descriptor, limit_mb, parent = map(int, arguments)
    connection = Connection(handle)
    defenses = sandbox.isolate()
    resource.setrlimit(resource.RLIMIT_DATA, (limit_mb << 20, limit_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from pipeline.decode import probe, readers  # noqa: F401 - what the first clip would wait for

    defenses += sandbox.confine()
    _exit_with_parent(parent)  # only now: a thread that runs already might be left outside
    try:
        connection.send_bytes("\n".join([READY.decode(), *defenses]).encode())
        _serve(connection, descriptor)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    main(sys.argv[1:])
