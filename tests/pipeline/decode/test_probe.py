"""A probe finds the times of a file, and refuses files before anything is decoded."""

import os

import av
import numpy as np
import pytest

from pipeline.decode.config import DecodeConfig
from pipeline.decode.picture import cover_size
from pipeline.decode.probe import probe
from schemas.outcome import Quarantined, Reason
from tests.support import videos
from tests.support.numbered import (
    FRAME_COUNT,
    FRAME_DURATION,
    draw_number,
    encode_numbered,
    read_frames,
    read_number,
    x264_options,
    x265_options,
)

CONFIG = DecodeConfig()


@pytest.mark.parametrize("rate", [24, 25, 30000 / 1001, 50])
def test_times_are_the_presentation_times_and_the_end_is_the_last_frames_end(tmp_path, rate):
    path = videos.write_video(
        tmp_path / "a.mp4", [draw_number(i) for i in range(60)], np.arange(60) / rate
    )
    video = probe(str(path), CONFIG).video
    np.testing.assert_allclose(video.times, np.arange(60) / rate, atol=1e-4)
    assert video.end_s == pytest.approx(60 / rate, abs=1e-3)


@pytest.mark.parametrize(
    "aspect, size, expected",
    [
        (16 / 9, (256, 160), (284, 160)),
        (4 / 3, (256, 160), (256, 192)),
        (1.6, (256, 160), (256, 160)),
        (0.5, (64, 64), (64, 128)),
    ],
)
def test_the_picture_covers_the_size_with_its_own_aspect(aspect, size, expected):
    assert cover_size(aspect, size) == expected


@pytest.mark.parametrize(
    "make, reason",
    [
        (videos.write_empty, Reason.NOT_MEDIA),
        (videos.write_text_file, Reason.NOT_MEDIA),
        (videos.write_playlist, Reason.NOT_MEDIA),
        (videos.write_jpeg, Reason.NOT_MEDIA),
        (videos.write_truncated, Reason.TRUNCATED),
        (videos.write_cut_off, Reason.TRUNCATED),
        (videos.write_audio_only, Reason.NO_VIDEO),
        (videos.write_without_frames, Reason.NO_FRAMES),
        (lambda path: path, Reason.MISSING),
        (lambda path: path.mkdir() or path, Reason.NOT_MEDIA),
        (lambda path: os.mkfifo(path) or path, Reason.NOT_MEDIA),
    ],
)
def test_what_is_no_whole_video_is_quarantined_with_its_reason(tmp_path, make, reason):
    with pytest.raises(Quarantined) as caught:
        probe(str(make(tmp_path / "broken.mp4")), CONFIG)
    assert caught.value.reason == reason
    assert str(tmp_path) not in caught.value.detail


def test_a_matroska_file_that_ends_early_is_truncated(tmp_path):
    data = videos.write_swaying(tmp_path / "a.mkv", seconds=6).read_bytes()
    (tmp_path / "a.mkv").write_bytes(data[: len(data) // 2])
    with pytest.raises(Quarantined) as caught:
        probe(str(tmp_path / "a.mkv"), CONFIG)
    assert caught.value.reason == Reason.TRUNCATED


def test_the_crop_is_about_the_center(tmp_path):
    wide = [np.pad(draw_number(i), ((0, 0), (64, 64), (0, 0))) for i in range(10)]
    path = videos.write_video(tmp_path / "a.mp4", wide, np.arange(10) / 30)
    images = read_frames(probe(str(path), CONFIG), [0, 5, 9], (128, 80))
    assert [read_number(image) for image in images] == [0, 5, 9]


def refusal(path, **limits) -> Quarantined:
    with pytest.raises(Quarantined) as caught:
        probe(str(path), DecodeConfig(**limits))
    return caught.value


def test_a_codec_that_is_not_on_the_list_is_refused(tmp_path):
    error = refusal(encode_numbered(tmp_path / "a.avi", "magicyuv", pixels="yuv422p").path)
    assert error.reason == Reason.UNSUPPORTED_CODEC and "magicyuv" in error.detail


DAMAGED = {
    "h264.mp4": ("libx264", x264_options("scenecut=0:bframes=0")),
    "hevc.mp4": ("libx265", x265_options("open-gop=1")),
    "mpeg4.avi": ("mpeg4", {"g": "24"}),
}


def with_a_lost_picture(path, kind: str, lost: int):
    """A file whose packet number `lost` has only zeros, and gives no frame."""
    codec, options = DAMAGED[kind]
    encode_numbered(path, codec, options=options, clock=FRAME_DURATION)
    with av.open(str(path)) as file:
        packet = [packet for packet in file.demux(video=0) if packet.size][lost]
    data = bytearray(path.read_bytes())
    data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(data)
    return path


@pytest.mark.sample(5)
@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("first", [0, 24, 48])
def test_a_lost_picture_never_shifts_the_others(tmp_path, kind, first):
    """The frames are right, or refused; the lost picture itself is always refused."""
    source = probe(str(with_a_lost_picture(tmp_path / kind, kind, 30)), CONFIG)
    indices, numbers = range(first, first + 24), []
    try:
        numbers.extend(read_number(image) for image in read_frames(source, indices, (128, 80)))
    except Quarantined as error:
        assert error.reason == Reason.DECODE_ERROR
    assert numbers == list(indices)[: len(numbers)]
    # decord reads ahead of the frames that are requested
    may_refuse = first == 24 or (first == 0 and kind == "h264.mp4")
    assert len(numbers) == 24 or may_refuse


def test_limits_hold_before_anything_is_decoded(tmp_path):
    path = encode_numbered(tmp_path / "a.mp4").path
    assert refusal(path, max_pixels=128 * 79).reason == Reason.TOO_MANY_PIXELS
    error = refusal(path, max_frames=FRAME_COUNT - 1)
    assert error.reason == Reason.TOO_MANY_FRAMES and str(FRAME_COUNT - 1) in error.detail
    limits = DecodeConfig(max_pixels=128 * 80, max_frames=FRAME_COUNT)
    assert len(probe(str(path), limits).video.times) == FRAME_COUNT


def test_a_thousand_frames_a_second_are_refused(tmp_path):
    path = encode_numbered(tmp_path / "a.mkv", times=np.arange(FRAME_COUNT) / 1000).path
    error = refusal(path, max_frame_rate=120)
    assert error.reason == Reason.TOO_MANY_FRAMES and "within a second" in error.detail


@pytest.mark.parametrize(
    "values", [{"max_frames": 0}, {"deadline_s": float("nan")}, {"decoder_memory_mb": 10}]
)
def test_a_limit_without_sense_is_refused(values):
    with pytest.raises(ValueError, match="expected"):
        DecodeConfig(**values)
