"""The process that decodes videos: it may hang, leak or crash, and that costs one clip.

    python -m pipeline.decode.worker CONNECTION MEMORY LIMIT_MB PARENT

It gives up all rights that decoding does not need (sandbox.py), sends READY and the names of the
defenses that hold, and then answers requests on CONNECTION, one at a time. A request for frames is
answered in batches: the images are in one of SLOT_COUNT slots of MEMORY, the message has their
number, and a slot is filled again after the parent has released it. After the last batch comes
DONE, or a refusal (the fields of a Quarantined).

Messages are JSON; the times and key frames of a video follow as raw numbers. Nothing is unpickled,
since a hostile video may have taken over this process. It never loads torch.
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
"""About the size of one batch of images."""
RELEASE_SLOT = b""
"""The parent's message that the oldest slot may be filled again."""
READY, DONE = b"ready", b"done"
_VIDEO_FIELDS = ("end_s", "aspect", "height", "decoder", "decoder_reason")
"""The fields of VideoInfo that are sent as they are."""
_ORPHAN_CHECK_S = 1.0


def batch_size(size: tuple[int, int]) -> int:
    """Number of images of `size` = (width, height) in one batch."""
    return max(1, _SLOT_BYTES // (3 * size[0] * size[1]))


def view_slots(memory: mmap.mmap, size: tuple[int, int]) -> np.ndarray:
    """The memory as images, uint8 [SLOT_COUNT, batch, height, width, 3]."""
    shape = (SLOT_COUNT, batch_size(size), size[1], size[0], 3)
    return np.frombuffer(memory, np.uint8, int(np.prod(shape))).reshape(shape)


def memory_bytes(size: tuple[int, int]) -> int:
    """Size of the memory for images of `size`."""
    return SLOT_COUNT * batch_size(size) * 3 * size[0] * size[1]


def _serialize_video(video: VideoInfo) -> bytes:
    """The message that carries a video."""
    fields = {name: getattr(video, name) for name in (*_VIDEO_FIELDS, "signature")}
    head = fields | dict(frames=len(video.times), keyframes=len(video.keyframes))
    return (
        json.dumps(head).encode()
        + b"\n"
        + video.times.astype("<f8").tobytes()
        + video.keyframes.astype("<i8").tobytes()
    )


def deserialize_video(message: bytes) -> VideoInfo:
    """Inverse of `_serialize_video`. Raises ValueError, KeyError or TypeError for any other
    message.
    """
    line, _, data = message.partition(b"\n")
    head = json.loads(line)
    times = np.frombuffer(data, "<f8", head["frames"])
    keyframes = np.frombuffer(data, "<i8", head["keyframes"], offset=times.nbytes)
    fields = {name: head[name] for name in _VIDEO_FIELDS}
    return VideoInfo(times=times, keyframes=keyframes, signature=tuple(head["signature"]), **fields)


def _serve(connection: Connection, descriptor: int) -> None:
    """Answers requests until the parent closes the connection."""
    while True:
        message = connection.recv_bytes()
        if message == RELEASE_SLOT:  # left over from an answer that ended early
            continue
        request = json.loads(message)
        try:
            for message in answer_request(request, connection, descriptor):
                connection.send_bytes(message)
        except Quarantined as error:
            connection.send_bytes(_refusal(error.stage, error.reason, error.detail))
        except MemoryError:
            detail = "the decoder asked for more memory than it may have"
            connection.send_bytes(_refusal(Stage.DECODE, Reason.OUT_OF_MEMORY, detail))


def _refusal(stage: Stage, reason: Reason, detail: str) -> bytes:
    return json.dumps(dict(stage=stage, reason=reason, detail=detail)).encode()


def answer_request(
    request: dict[str, Any], connection: Connection, descriptor: int
) -> Iterator[bytes]:
    """The messages that answer a request: to probe `path`, or, if it has `indices`, to read frames.

    Raises Quarantined.
    """
    config, signature = DecodeConfig(**request["config"]), None
    with suppress(OSError):  # the parent checks the file too, and reports its errors
        signature = file_signature(request["path"])
    if "indices" in request and list(signature or ()) != request["signature"]:
        raise Quarantined(
            Stage.DECODE, Reason.HASH_MISMATCH, "the file was replaced while it was read"
        )
    source = _probe_cached(request["path"], signature, config)
    if "indices" not in request:
        yield _serialize_video(source.video)
        return
    yield from _stream_batches(source, request, connection, descriptor)


def _stream_batches(
    source: Source, request: dict[str, Any], connection: Connection, descriptor: int
) -> Iterator[bytes]:
    """Fills one slot after the other, and yields a message for each; waits for the parent to
    release a slot before it is filled again.

    If the file cannot be read any further, the images before that point are sent first.
    """
    from pipeline.decode.readers import read_pictures

    size = tuple(request["size"])
    memory = view_slots(mmap.mmap(descriptor, memory_bytes(size)), size)
    pictures, end = _take_until_quarantined(read_pictures(source, request["indices"], size))
    for turn, batch in enumerate(iter(lambda: list(islice(pictures, batch_size(size))), [])):
        if turn >= SLOT_COUNT:
            connection.recv_bytes()
        exceptions = {}
        for i, picture in enumerate(batch):
            if picture.image is not None:
                memory[turn % SLOT_COUNT, i] = picture.image
            if picture.image is None or picture.decoder != source.video.decoder:
                exceptions[i] = dict(decoder=picture.decoder, damage=picture.damage)
        yield json.dumps(dict(pictures=len(batch), others=exceptions)).encode()
    if end:
        raise end[0]
    yield DONE


def _take_until_quarantined(
    pictures: Iterator[PictureResult],
) -> tuple[Iterator[PictureResult], list[Quarantined]]:
    """The pictures up to a Quarantined, and a list that has it as soon as it was raised."""
    end: list[Quarantined] = []

    def take() -> Iterator[PictureResult]:
        try:
            yield from pictures
        except Quarantined as error:
            end.append(error)

    return take(), end


@lru_cache(1)
def _probe_cached(
    path: str,
    signature: FileSignature | None,  # noqa: ARG001 - part of the cache's key
    config: DecodeConfig,
) -> Source:
    """The probe of the last file, kept for the requests for its frames."""
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
    """Confines this process, and answers requests until the parent closes the connection."""
    handle, descriptor, limit_mb, parent = map(int, arguments)
    connection = Connection(handle)
    defenses = sandbox.isolate()
    resource.setrlimit(resource.RLIMIT_DATA, (limit_mb << 20, limit_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from pipeline.decode import probe, readers  # noqa: F401 - loaded before the first request

    defenses += sandbox.confine()
    _exit_with_parent(parent)  # only now: Landlock does not confine threads that already run
    try:
        connection.send_bytes("\n".join([READY.decode(), *defenses]).encode())
        _serve(connection, descriptor)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    main(sys.argv[1:])
