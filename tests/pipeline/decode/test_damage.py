"""Damage costs only the windows that touch it: each frame is the right one, or is refused with the
reason why it cannot be trusted.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest

from pipeline.decode.config import DecodeConfig
from pipeline.decode.pool import DecoderPool
from pipeline.decode.probe import probe
from pipeline.decode.readers import read_pictures
from pipeline.extract.build_shard import build_windows
from pipeline.extract.config import BuildConfig, PlanConfig
from pipeline.extract.timing import ShardTimer
from pipeline.filters import PRESETS
from pipeline.flow.estimator import make_estimator
from schemas.outcome import Outcome, Quarantined, Reason
from tests.support import videos
from tests.support.building import plan_video
from tests.support.numbered import (
    FRAME_COUNT,
    FRAME_DURATION,
    LEADING_PICTURE_OPTIONS,
    OPEN_GOP_OPTIONS,
    SIZE,
    VIDEO_KINDS,
    encode_numbered,
    read_number,
    x264_options,
    x265_options,
)

TS = 188
"""Bytes of a packet of a transport stream."""


def without_a_piece(path: Path, share: float) -> Path:
    """A transport stream without one packet of the video, at that share of its length."""
    data = path.read_bytes()
    pieces = [data[i : i + TS] for i in range(0, len(data), TS)]
    video = [i for i, piece in enumerate(pieces) if (piece[1] & 0x1F) << 8 | piece[2] == 0x100]
    del pieces[video[int(share * len(video))]]
    path.write_bytes(b"".join(pieces))
    return path


def with_noise(path: Path, packet_number: int) -> Path:
    """A file with noise in the middle of a packet: that one if it is a key frame, otherwise the
    largest of the ten from it on.
    """
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size][packet_number:]
        packet = packets[0]
        if not packet.is_keyframe:
            packet = max(packets[:10], key=lambda packet: packet.size)
        begin, length = packet.pos + packet.size // 3, packet.size // 2
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(packet_number)
    data[begin : begin + length] = rng.bytes(length)
    path.write_bytes(data)
    return path


def flagged_frames(path: Path) -> list[int]:
    """Time stamps of the frames that FFmpeg flags as corrupt when it reads the whole file."""
    with av.open(str(path)) as file:
        file.streams.video[0].codec_context.thread_count = 1
        return [
            frame.pts
            for packet in file.demux(video=0)
            for frame in packet.decode()
            if frame.is_corrupt
        ]


def with_flags(path: Path) -> list[int]:
    """Damages a file in the third of its groups so that FFmpeg notices, and returns the time stamps
    that it flags.
    """
    data = path.read_bytes()
    for packet_number in range(49, 62):
        path.write_bytes(data)
        if flagged := flagged_frames(with_noise(path, packet_number)):
            return flagged
    raise AssertionError("FFmpeg noticed none of these")


SLICES = x264_options("slices=4:scenecut=0")


def without_a_slice(path: Path, packet_number: int) -> Path:
    """An mp4 in which a picture lacks its second slice: FFmpeg makes it up and reports no error."""
    with av.open(str(path)) as file:
        packet = [packet for packet in file.demux(video=0) if packet.size][packet_number]
        data, at, slices = bytes(packet), 0, []
        while at < len(data):
            length = 4 + int.from_bytes(data[at : at + 4], "big")
            if data[at + 4] & 31 in (1, 5):
                slices.append((packet.pos + at, length))
            at += length
    content = bytearray(path.read_bytes())
    begin, length = slices[1]
    content[begin + 4] = content[begin + 4] & 0xE0 | 12  # filler data
    path.write_bytes(content)
    return path


def busy(path: Path, codec: str = "libx264", options: dict[str, str] | None = None, **more) -> Path:
    """Numbered pictures with noise below the numbers, so that the packets have some size."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (16, 2 * SIZE[0], 3), np.uint8)

    def stored(image: np.ndarray) -> np.ndarray:
        shift = 3 * read_number(image) % SIZE[0]
        return np.concatenate([image[:-16], noise[:, shift : shift + SIZE[0]]])

    return encode_numbered(
        path, codec, options={"g": "24"} if options is None else options, stored=stored, **more
    ).path


def pictures(path: Path, decoder: str = "auto") -> list[int | None]:
    """The number of each frame; None for one that is refused, or of which the file has lost every
    trace.
    """
    source = probe(str(path), DecodeConfig(decoder=decoder))
    places = np.rint(30 * (source.video.times - source.video.times[0])).astype(int)
    numbers: list[int | None] = [None] * (places[-1] + 1)
    for place, picture in zip(places, read_pictures(source, range(len(places)), SIZE), strict=True):
        numbers[place] = None if picture.image is None else read_number(picture.image)
    return numbers


DAMAGED: dict[str, tuple[Callable[[Path], Path], int]] = {
    "a piece of a transport stream.ts": (lambda p: without_a_piece(busy(p), 0.5), 24),
    "a piece of an open one.ts": (
        lambda p: without_a_piece(busy(p, options=LEADING_PICTURE_OPTIONS), 0.5),
        34,
    ),
    "a picture of mp4.mp4": (lambda p: with_noise(busy(p), 60), 24),
    "a picture of mkv.mkv": (lambda p: with_noise(busy(p), 60), 24),
    "a picture of an open group.mp4": (
        lambda p: with_noise(busy(p, options=OPEN_GOP_OPTIONS), 60),
        28,
    ),
    "a key frame.mp4": (lambda p: with_noise(busy(p), 48), 24),
    "a picture of hevc.mp4": (
        lambda p: with_noise(busy(p, "libx265", x265_options("open-gop=1:bframes=3")), 60),
        28,
    ),
    "a picture of mpeg4.mp4": (
        lambda p: with_noise(busy(p, "mpeg4", {"g": "24"}, clock=FRAME_DURATION), 60),
        24,
    ),
    "a slice of four.mp4": (lambda p: without_a_slice(busy(p, options=SLICES), 60), 24),
    "a key frame of an open group.ts": (
        lambda p: with_noise(
            busy(p, "mpeg2video", {"g": "15", "bf": "2"}, clock=FRAME_DURATION), 43
        ),
        20,
    ),
    "a picture before a key frame.avi": (
        lambda p: with_noise(busy(p, "mpeg4", {"g": "24", "bf": "2"}, clock=FRAME_DURATION), 61),
        28,
    ),
    "a picture of mjpeg.avi": (
        lambda p: with_noise(busy(p, "mjpeg", {}, pixels="yuvj420p", clock=FRAME_DURATION), 60),
        1,
    ),
}
"""A damaged file, and the largest number of frames that may be refused: those up to the next key
frame, and those that refer to both groups.
"""


@pytest.mark.sample(7)
@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("kind", DAMAGED)
def test_one_damaged_packet_costs_its_group_and_no_more(tmp_path, kind, decoder):
    make, most = DAMAGED[kind]
    numbers = pictures(make(tmp_path / f"a{Path(kind).suffix}"), decoder)
    assert len(numbers) == FRAME_COUNT and numbers.count(None) <= most
    assert all(number is None or number == i for i, number in enumerate(numbers))


def test_two_recordings_in_one_file_are_shown_one_after_the_other(tmp_path):
    """Their time stamps begin again, and a player continues."""
    data = busy(tmp_path / "a.ts").read_bytes()
    (tmp_path / "a.ts").write_bytes(data + data)
    source = probe(str(tmp_path / "a.ts"), DecodeConfig())
    np.testing.assert_allclose(np.diff(source.video.times), 1 / 30, atol=0.002)
    numbers = pictures(tmp_path / "a.ts")
    offset = len(numbers) - FRAME_COUNT
    assert offset >= FRAME_COUNT - 3
    assert numbers[: FRAME_COUNT - 24] == list(range(FRAME_COUNT - 24))
    assert numbers[offset + 24 :] == list(range(24, FRAME_COUNT))
    assert all(number in (None, i, i - offset) for i, number in enumerate(numbers))


def test_frames_that_ffmpeg_flags_are_refused(tmp_path):
    """This holds for either decoder: decord does not tell that a picture is made up."""
    path = busy(tmp_path / "a.mp4")
    flagged = with_flags(path)
    source = probe(str(path), DecodeConfig())
    assert source.video.decoder.startswith("decord")
    numbers = pictures(path)
    assert all(numbers[int(np.searchsorted(source.pts, pts))] is None for pts in flagged)


SMALL = BuildConfig(
    size=(64, 40),
    frequencies=4,
    plan=PlanConfig(frames=10, stride=10, test_fraction=0.0),
    thresholds=PRESETS["none"],
)


class BuiltWindow(NamedTuple):
    key: str
    outcome: Outcome
    reason: Reason | None
    detail: str | None
    spectrum: bytes | None


def build(path: Path, decoders: int = 1, rows: slice = slice(None)) -> list[BuiltWindow]:
    pool = DecoderPool(SMALL.decode, decoders)
    results = list(
        build_windows(
            plan_video(path, SMALL)[rows], SMALL, make_estimator(SMALL.flow), pool, ShardTimer()
        )
    )
    pool.close()
    return [
        BuiltWindow(
            result.row.key,
            result.row.outcome,
            result.row.reason,
            result.row.detail,
            result.sample and result.sample.spectrum.tobytes(),
        )
        for result in results
    ]


@pytest.mark.slow
def test_windows_that_touch_damage_are_quarantined_and_the_others_are_kept(tmp_path):
    """The others have the bytes that they have in the intact file, whatever was read before."""
    intact = build(busy(tmp_path / "a.mp4"))
    assert {window.outcome for window in intact} == {Outcome.KEPT}
    with_flags(tmp_path / "a.mp4")
    windows = build(tmp_path / "a.mp4")
    away = [i for i in range(len(windows)) if 10 * i + 10 <= 48 or 10 * i >= 72]
    kept = {i for i, window in enumerate(windows) if window.outcome == Outcome.KEPT}
    assert kept >= set(away) and len(away) < len(windows)
    refused = [window for window in windows if window.outcome != Outcome.KEPT]
    assert refused
    for window in refused:
        assert (window.outcome, window.reason) == (Outcome.QUARANTINED, Reason.DECODE_ERROR)
        assert "frame" in window.detail and "s: " in window.detail
    assert [windows[i].spectrum for i in away] == [intact[i].spectrum for i in away]
    assert build(tmp_path / "a.mp4", decoders=2) == windows
    for i in range(0, len(windows), 2):
        assert build(tmp_path / "a.mp4", rows=slice(i, i + 1)) == windows[i : i + 1]


@pytest.mark.sample(6)
@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [kind for kind, (decoder, _) in VIDEO_KINDS.items() if decoder == "decord"]
)
def test_a_frame_has_the_same_pixels_whatever_else_is_asked_for(tmp_path, kind):
    source = probe(str(VIDEO_KINDS[kind][1](tmp_path / kind).path), DecodeConfig())
    everything = list(read_pictures(source, range(len(source.video.times)), (64, 40)))
    for first in (30, 47, 100):
        part = list(read_pictures(source, range(first, first + 10), (64, 40)))
        for a, b in zip(part, everything[first : first + 10], strict=True):
            assert a.decoder == b.decoder and np.array_equal(a.image, b.image)


@pytest.mark.thorough
@pytest.mark.parametrize("packet_number", [4, 8, 70, 140])
def test_neither_the_decoder_nor_a_pixel_is_left_to_chance(tmp_path, monkeypatch, packet_number):
    """decord reads ahead in a thread, and meets the damage sooner or later; or it does not, if few
    frames fit into memory.
    """
    path = with_noise(busy(tmp_path / "a.mp4", options=SLICES), packet_number)
    image_bytes, results = 3 * SIZE[0] * SIZE[1], set()
    for size in (128 << 20, 128 << 20, 20 * image_bytes, 7 * image_bytes):
        monkeypatch.setattr("pipeline.decode.readers.MAX_BUFFER_BYTES", size)
        source = probe(str(path), DecodeConfig())
        images = [picture.image for picture in read_pictures(source, range(FRAME_COUNT), SIZE)]
        pixels = b"".join(b"" if image is None else image.tobytes() for image in images)
        results.add((source.video.decoder, pixels))
    assert len(results) == 1


def test_what_stands_beside_the_picture_in_the_stream_damages_none(tmp_path):
    """Cameras write messages (SEI) that are shorter than they say."""
    path = busy(tmp_path / "a.h264", options={"g": "24", "bf": "0"})
    sei = b"\0\0\0\1\x06\xc3\xc8" + 40 * b"x" + b"\x80"
    with av.open(str(path), format="h264") as raw, av.open(str(tmp_path / "b.ts"), "w") as target:
        stream = target.add_stream_from_template(raw.streams.video[0])
        for number, packet in enumerate(packet for packet in raw.demux(video=0) if packet.size):
            changed = av.Packet(sei + bytes(packet))
            changed.stream, changed.pts, changed.dts = stream, 3000 * number, 3000 * number
            changed.time_base, changed.is_keyframe = Fraction(1, 90000), packet.is_keyframe
            target.mux(changed)
    assert pictures(tmp_path / "b.ts") == list(range(FRAME_COUNT))


def test_a_file_that_is_damaged_at_its_beginning_begins_after_that(tmp_path):
    numbers = pictures(with_noise(busy(tmp_path / "a.mp4"), 0))
    assert [number for number in numbers if number is not None] == list(range(24, FRAME_COUNT))


def test_a_picture_that_no_decoder_takes_has_too_many_pixels(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(
        b"GIF89a\xff\xff\xff\xff\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\0\x0a\0\0\0"
        b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x44\x01\0;"
    )
    with pytest.raises(Quarantined) as caught:
        probe(str(path), DecodeConfig())
    assert caught.value.reason == Reason.TOO_MANY_PIXELS and "65535 x 65535" in caught.value.detail


def test_sound_with_a_picture_on_its_cover_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as file:
        cover = file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = file.add_stream("aac", rate=44100)
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), "rgb24").reformat(
            format="yuvj420p"
        )
        frame.pts = 0
        file.mux(cover.encode(frame))
        file.mux(cover.encode())
        for i in range(50):
            piece = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            piece.sample_rate, piece.pts = 44100, 1024 * i
            file.mux(sound.encode(piece))
        file.mux(sound.encode())
    with pytest.raises(Quarantined) as caught:
        probe(str(tmp_path / "a.m4a"), DecodeConfig())
    assert caught.value.reason == Reason.NO_VIDEO


def test_the_decoder_and_why_it_is_that_one_stand_in_the_sample(tmp_path):
    path = videos.write_swaying(tmp_path / "a.mp4", seconds=1.5)
    pool = DecoderPool(SMALL.decode, 1)
    (result,) = build_windows(
        plan_video(path, SMALL)[:1], SMALL, make_estimator(SMALL.flow), pool, ShardTimer()
    )
    pool.close()
    meta = result.sample.meta
    assert meta["decoder"].startswith("decord") and "PyAV" in meta["decoder_reason"]
