"""P9 and P11: videos made to take all memory or time, and videos of which bytes were changed, cost
themselves alone.
"""

import random
import re
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.decode.client import DecoderDied, DecoderProcess
from pipeline.decode.config import DecodeConfig
from schemas.outcome import Quarantined, Reason
from tests.faults.reference import choose_count
from tests.support.numbered import FRAME_COUNT, SIZE, encode_numbered
from tests.support.videos import TIME_BASE

SECONDS = 15.0


def still(path: Path, size: tuple[int, int], count: int, rate: float) -> Path:
    """One grey picture over and over, in few bytes."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(
            "libx264", rate=30, options={"preset": "ultrafast", "threads": "1", "g": "100000"}
        )
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = stream.codec_context.time_base = TIME_BASE
        frame = av.VideoFrame.from_ndarray(
            np.full((size[1] * 3 // 2, size[0]), 128, np.uint8), format="yuv420p"
        )
        for number in range(count):
            frame.pts, frame.time_base = round(number / rate / TIME_BASE), TIME_BASE
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def said(path: Path, true: tuple[int, int], told: tuple[int, int]) -> Path:
    """Its header says another size than its pictures have."""
    data = bytearray(still(path, true, 3, 30).read_bytes())
    place = data.index(b"avc1", data.index(b"stsd"))
    data[place + 28 : place + 32] = struct.pack(">HH", *told)
    path.write_bytes(data)
    return path


def growing(path: Path) -> Path:
    """Its pictures become large in the middle, of which its beginning says nothing."""
    with av.open(str(path), "w", format="mpegts") as file:
        stream, ticks = None, iter(range(0, 1 << 30, 3000))
        for size in ((64, 64), (8192, 8192)):
            with av.open(str(still(path.with_suffix(".mkv"), size, 10, 30))) as part:
                stream = stream or file.add_stream_from_template(part.streams.video[0])
                filters = av.BitStreamFilterContext("h264_mp4toannexb", part.streams.video[0])
                for packet in [
                    packet
                    for source in part.demux(video=0)
                    if source.size
                    for packet in filters.filter(source)
                ]:
                    packet.pts = packet.dts = next(ticks)
                    packet.time_base, packet.stream = TIME_BASE, stream
                    file.mux(packet)
    return path


BOMBS = {
    "8192 x 8192": (
        lambda path: still(path, (8192, 8192), choose_count(30, 3), 30),
        {Reason.TOO_MANY_PIXELS},
    ),
    "300,000 frames": (lambda path: still(path, (32, 32), 300_000, 30), {Reason.TOO_MANY_FRAMES}),
    "a header that says less": (
        lambda path: said(path, (8192, 8192), (64, 64)),
        {Reason.TOO_MANY_PIXELS},
    ),
    "a header that says more": (lambda path: said(path, (64, 64), (16384, 16384)), {None}),
    "pictures that grow": (growing, {Reason.TOO_MANY_PIXELS}),
    "1000 frames a second": (
        lambda path: still(path, (64, 64), 3000, 1000),
        {Reason.TOO_MANY_FRAMES},
    ),
    "ten hours": (lambda path: still(path, (32, 32), 36_000, 1), {None}),
}
"""None: it is what it is, and its frames come."""


class Peak(threading.Thread):
    """The most memory that a process ever held, as the kernel keeps it, until it ends."""

    def __init__(self, process: int):
        super().__init__(daemon=True)
        self.path, self.bytes = Path(f"/proc/{process}/status"), 0
        self.start()

    def run(self) -> None:
        with suppress(OSError):  # it has ended
            while found := re.search(r"VmHWM:\s+(\d+) kB", self.path.read_text()):
                self.bytes = int(found[1]) << 10
                time.sleep(0.02)


def decoded(process: DecoderProcess, path: Path) -> Reason | None:
    """Why it was refused; None where frames came."""
    try:
        video = process.probe(str(path))
        pictures = process.pictures(str(path), video, range(min(len(video.times), 24)), SIZE)
        assert all(one.damage or one.image.shape == (SIZE[1], SIZE[0], 3) for one in pictures)
    except (Quarantined, DecoderDied) as error:
        return error.reason


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return encode_numbered(tmp_path_factory.mktemp("sound") / "sound.mp4").path


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.promise("P9")
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_in_time_and_within_the_memory(tmp_path, sound, bomb):
    """By one process, which goes on to a sound video."""
    make, reasons = BOMBS[bomb]
    path, config = (
        make(tmp_path / "bomb.mp4"),
        DecodeConfig(deadline_s=SECONDS, decoder_memory_mb=1024),
    )
    process = DecoderProcess(config)
    peak, before = Peak(process.process.pid), time.monotonic()
    assert decoded(process, path) in reasons
    assert time.monotonic() - before < SECONDS
    assert decoded(process, sound) is None
    process.close()
    peak.join()
    assert 0 < peak.bytes <= 1.1 * 1024 * 2**20


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, a piece zeroed, taken out, put in twice, or the end cut off."""
    changed, begin = bytearray(data), rng.randrange(len(data))
    end = min(len(data), begin + rng.randint(1, 400))
    how = rng.randrange(5)
    if how == 0:
        for _ in range(rng.randint(1, 40)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    elif how == 1:
        changed[begin:end] = bytes(end - begin)
    elif how == 2:
        del changed[begin:end]
    elif how == 3:
        changed[begin:begin] = changed[begin:end]
    else:
        del changed[begin:]
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.promise("P11")
@pytest.mark.parametrize("kind", ["a.mp4", "a.mkv", "a.avi", "a.webm"])
def test_videos_of_which_bytes_were_changed_are_decoded_or_refused(tmp_path, record_property, kind):
    """The parent lives, each answer comes within the deadline, and a sound video is still decoded
    afterwards.

    Nothing is said of the pixels of those that decode: every library takes light damage for a
    picture.
    """
    codec = {"a.avi": "mpeg4", "a.webm": "libvpx-vp9"}.get(kind, "libx264")
    options = {"cpu-used": "8", "deadline": "realtime"} if kind == "a.webm" else {"g": "24"}
    clock = {"clock": None} if kind == "a.avi" else {}
    video = encode_numbered(tmp_path / kind, codec, options=options, **clock).path
    data, rng, config = video.read_bytes(), random.Random(kind), DecodeConfig(deadline_s=20.0)
    process, count, found = DecoderProcess(config), choose_count(500, 12), set()
    for number in range(count):
        path = tmp_path / f"{number}{video.suffix}"
        path.write_bytes(mutated(data, rng))
        before = time.monotonic()
        found.add(decoded(process, path))
        assert time.monotonic() - before < 2 * config.deadline_s + 2
        if not process.is_alive():
            process.close()
            process = DecoderProcess(config)
    record_property("injections", count)
    assert len(process.probe(str(video)).times) == FRAME_COUNT and None in found and len(found) > 1
    process.close()
