from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.decode import cover_size, frames, probe
from schemas.outcome import Quarantined, Reason
from tests import videos


def numbered(count: int, size: tuple[int, int] = (128, 80)) -> list[np.ndarray]:
    """Pictures that carry their number as eight black or white squares across the middle."""
    pictures = []
    for number in range(count):
        image = np.full((size[1], size[0], 3), 96, np.uint8)
        for bit in range(8):
            image[size[1] // 2 - 8 : size[1] // 2 + 8, bit * 16 : bit * 16 + 16] = 235 if number >> bit & 1 else 16
        pictures.append(image)
    return pictures


def number(image: np.ndarray) -> int:
    """The number that a picture carries."""
    squares = image[image.shape[0] // 2, image.shape[1] // 16 :: image.shape[1] // 8, 1]
    return sum(1 << bit for bit, level in enumerate(squares) if level > 128)


def numbers(path: Path, indices: list[int], size: tuple[int, int] = (128, 80)) -> list[int]:
    return [number(image) for image in frames(str(path), probe(str(path)), indices, size)]


@pytest.mark.parametrize("codec, suffix", [("libx264", ".mp4"), ("libx264", ".mkv"), ("libvpx-vp9", ".webm"), ("mpeg4", ".mp4")])
def test_every_frame_is_the_one_asked_for(tmp_path, codec, suffix):
    path = videos.write_video(tmp_path / f"a{suffix}", numbered(120), np.arange(120) / 30, codec)
    assert numbers(path, list(range(120))) == list(range(120))
    assert numbers(path, [3, 50, 51, 119]) == [3, 50, 51, 119]
    assert numbers(path, list(range(70, 100))) == list(range(70, 100))


@pytest.mark.parametrize("rate", [24, 25, 30000 / 1001, 50])
def test_times_are_the_presentation_times_and_the_end_is_the_last_frames_end(tmp_path, rate):
    path = videos.write_video(tmp_path / "a.mp4", numbered(60), np.arange(60) / rate)
    video = probe(str(path))
    np.testing.assert_allclose(video.times, np.arange(60) / rate, atol=1e-4)
    assert video.end_s == pytest.approx(60 / rate, abs=1e-3)


def test_irregular_times_are_kept(tmp_path):
    times = np.cumsum(np.random.default_rng(0).uniform(1 / 60, 1 / 12, 50))
    times -= times[0]
    path = videos.write_video(tmp_path / "a.mp4", numbered(50), times)
    np.testing.assert_allclose(probe(str(path)).times, times, atol=1e-4)
    assert numbers(path, [0, 20, 49]) == [0, 20, 49]


@pytest.mark.parametrize(
    "aspect, size, expected", [(16 / 9, (256, 160), (284, 160)), (4 / 3, (256, 160), (256, 192)), (1.6, (256, 160), (256, 160)), (0.5, (64, 64), (64, 128))]
)
def test_the_picture_covers_the_size_with_its_own_aspect(aspect, size, expected):
    assert cover_size(aspect, size) == expected


def test_the_crop_is_about_the_centre(tmp_path):
    wide = [np.pad(image, ((0, 0), (64, 64), (0, 0))) for image in numbered(10)]
    path = videos.write_video(tmp_path / "a.mp4", wide, np.arange(10) / 30)
    assert numbers(path, [0, 5, 9]) == [0, 5, 9]


@pytest.mark.parametrize("degrees, corner", [(0, "top left"), (90, "bottom left"), (180, "bottom right"), (270, "top right")])
def test_rotation_is_applied(tmp_path, degrees, corner):
    path = tmp_path / "a.mp4"
    image = np.full((80, 128, 3), 40, np.uint8)
    image[:20, :20] = 230
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 128, 80, "yuv420p"
        stream.set_display_rotation(degrees)
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    size = (128, 80) if degrees % 180 == 0 else (80, 128)
    shown = next(frames(str(path), probe(str(path)), [0], size))[..., 0]
    rows, columns = np.nonzero(shown > 150)
    vertical, horizontal = "top" if rows.mean() < shown.shape[0] / 2 else "bottom", "left" if columns.mean() < shown.shape[1] / 2 else "right"
    assert f"{vertical} {horizontal}" == corner


@pytest.mark.parametrize(
    "make, reason",
    [
        (videos.empty, Reason.NOT_MEDIA),
        (videos.text, Reason.NOT_MEDIA),
        (videos.playlist, Reason.NOT_MEDIA),
        (videos.picture, Reason.NOT_MEDIA),
        (videos.truncated, Reason.TRUNCATED),
        (videos.cut_off, Reason.TRUNCATED),
        (videos.audio_only, Reason.NO_VIDEO),
        (videos.without_frames, Reason.NO_FRAMES),
        (lambda path: path, Reason.MISSING),
        (lambda path: path.mkdir() or path, Reason.UNREADABLE),
    ],
)
def test_what_is_no_whole_video_is_quarantined_with_its_reason(tmp_path, make, reason):
    with pytest.raises(Quarantined) as caught:
        probe(str(make(tmp_path / "broken.mp4")))
    assert caught.value.reason == reason
    assert str(tmp_path) not in caught.value.detail


def test_a_matroska_file_that_ends_early_is_truncated(tmp_path):
    data = videos.swaying(tmp_path / "a.mkv", seconds=6).read_bytes()
    (tmp_path / "a.mkv").write_bytes(data[: len(data) // 2])
    with pytest.raises(Quarantined) as caught:
        probe(str(tmp_path / "a.mkv"))
    assert caught.value.reason == Reason.TRUNCATED


def test_a_codec_that_decord_cannot_seek_in_is_refused(tmp_path):
    path = videos.write_video(tmp_path / "a.mp4", numbered(10), np.arange(10) / 30, "libx265")
    with pytest.raises(Quarantined) as caught:
        probe(str(path))
    assert caught.value.reason == Reason.UNSUPPORTED_CODEC
