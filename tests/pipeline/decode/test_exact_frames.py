"""Every frame of every kind of file is the right one, at its own time, whichever frames were
requested before.
"""

import struct

import av
import numpy as np
import pytest

from pipeline.decode.config import DecodeConfig
from pipeline.decode.picture import cover_size
from pipeline.decode.probe import probe
from pipeline.decode.pyav_reader import find_frames
from pipeline.extract.config import PlanConfig
from pipeline.extract.plan_clip import plan_windows
from tests.support.numbered import (
    SIZE,
    VIDEO_KINDS,
    encode_numbered,
    read_frames,
    read_number,
    x265_options,
)


@pytest.fixture(scope="session")
def file(tmp_path_factory):
    """name -> the file of that kind, which is written once."""
    folder, files = tmp_path_factory.mktemp("kinds"), {}

    def make(name: str):
        if name not in files:
            files[name] = VIDEO_KINDS[name][1](folder / name)
        return files[name]

    return make


def read_numbers(source, indices) -> list[int]:
    size = cover_size(source.video.aspect, SIZE)
    return [read_number(image) for image in read_frames(source, indices, size)]


@pytest.mark.sample(3)
@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("kind", VIDEO_KINDS)
def test_every_frame_is_the_one_asked_for(file, kind, decoder):
    path, numbers, times = file(kind)
    source = probe(str(path), DecodeConfig(decoder=decoder))
    assert source.video.decoder.split()[0] == (
        "PyAV" if decoder == "pyav" else VIDEO_KINDS[kind][0]
    )
    assert len(source.video.times) == len(numbers)
    np.testing.assert_allclose(
        source.video.times - source.video.times[0],
        np.asarray(times) - times[0],
        atol=0.011 if path.suffix == ".gif" else 0.0011,
    )
    assert read_numbers(source, range(len(numbers))) == list(numbers)
    starts = [
        i for i, _ in plan_windows(source.video.times, source.video.end_s, PlanConfig(frames=15))
    ]
    assert len(starts) >= 8
    for start in (*starts[::-1], *starts[::3]):
        indices = [start, start + 1, start + 4]
        assert read_numbers(source, indices) == [numbers[i] for i in indices]


TURNS = {
    "hflip": ((-1, 0, 0, 1), np.fliplr),
    "vflip": ((1, 0, 0, -1), np.flipud),
    "half": ((-1, 0, 0, -1), lambda image: image[::-1, ::-1]),
    "transpose": ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    "clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, 1)),
    "counterclockwise": ((0, -1, 1, 0), lambda image: np.rot90(image, -1)),
    "transverse": ((0, -1, -1, 0), lambda image: image[::-1, ::-1].swapaxes(0, 1)),
    "upright": ((1, 0, 0, 1), lambda image: image),
}
"""Display matrices a, b, c, d (ISO 14496-12, 8.3.2), and how an image must be stored to be shown
upright.
"""


def with_matrix(path, matrix):
    """Writes a display matrix into the header of an mp4's track, and returns the path."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.sample(13)
@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("turn", TURNS)
def test_all_eight_display_matrices_show_the_picture_upright(tmp_path, turn, codec, decoder):
    matrix, stored = TURNS[turn]
    options = {"libx265": x265_options("open-gop=0")}.get(codec, {"g": "24"})
    path = with_matrix(
        encode_numbered(
            tmp_path / "a.mp4", codec, options=options, times=np.arange(40) / 30, stored=stored
        ).path,
        matrix,
    )
    source = probe(str(path), DecodeConfig(decoder=decoder))
    assert source.video.aspect == pytest.approx(SIZE[0] / SIZE[1])
    images = list(read_frames(source, [7, 30], SIZE))
    assert [read_number(image) for image in images] == [7, 30]
    assert images[0][2, 2, 0] > 150 and images[0][2, 2, 1] < 90


def colored_blocks(path, pixels):
    """Moving blocks of 24 pixels in many colors. The stream says that it was made by a build of
    x264 with an error in 4:4:4.
    """
    rng = np.random.default_rng(0)
    big = rng.integers(0, 256, (20, 30, 3), np.uint8).repeat(24, 0).repeat(24, 1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(
            "libx264", rate=30, options={"g": "30", "threads": "1", "x264-params": "scenecut=0"}
        )
        stream.width, stream.height, stream.pix_fmt = 192, 128, pixels
        for i in range(90):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(big[i : i + 128, 3 * i : 3 * i + 192]), "rgb24"
            ).reformat(format=pixels)
            frame.pts = i
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    data = path.read_bytes()
    assert b"x264 - core 165" in data
    path.write_bytes(data.replace(b"x264 - core 165", b"x264 - core 148"))
    return path


def test_frames_after_a_seek_are_those_of_a_read_from_the_beginning(tmp_path):
    """A decoder learns from the first packet alone which build of x264 made a stream, and so how
    4:4:4 is to be read.
    """
    path = colored_blocks(tmp_path / "a.mp4", "yuv444p")
    with av.open(str(path)) as file:
        file.streams.video[0].codec_context.thread_count = 1
        expected = {frame.pts: frame.to_ndarray() for frame in file.decode(video=0)}
    source = probe(str(path), DecodeConfig())
    frames = [located.frame for located in find_frames(source, range(30, 70)) if located.frame]
    assert len(frames) > 30
    assert all(np.array_equal(frame.to_ndarray(), expected[frame.pts]) for frame in frames)


@pytest.mark.parametrize(
    "name, start", [("h264_late.mp4", 7.3), ("h264_late.ts", 7.3), ("h264_long_gop.mp4", 0.0)]
)
def test_times_are_the_files_own(file, name, start):
    assert probe(str(file(name).path), DecodeConfig()).video.times[0] == pytest.approx(
        start, abs=1e-4
    )


@pytest.mark.sample(4)
@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotated_video_shows_its_frames_upright(tmp_path, degrees, decoder):
    """An image is stored rotated and shown upright: its red corner is at the top left."""
    path = encode_numbered(
        tmp_path / "a.mp4", setup=lambda stream: stream.set_display_rotation(degrees)
    ).path
    source = probe(str(path), DecodeConfig(decoder=decoder))
    turned = [
        np.rot90(image, -degrees // 90)
        for image in read_frames(source, [7, 60], SIZE if degrees == 180 else SIZE[::-1])
    ]
    assert [read_number(image) for image in turned] == [7, 60]
    assert turned[0][2, 2, 0] > 150 and turned[0][2, 2, 1] < 90


def test_pixels_that_are_not_square_are_shown_in_their_aspect(file):
    video = probe(str(file("h264_wide_pixels.mp4").path), DecodeConfig()).video
    assert video.aspect == pytest.approx(2 * SIZE[0] / SIZE[1])


@pytest.mark.sample(7)
@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind, (decoder, _) in VIDEO_KINDS.items()
        if decoder == "decord" and kind != "h264_interlaced.mp4"
    ],
)
def test_both_decoders_show_the_same_picture(file, kind):
    """The decoder of a clip shows in its metadata and not in its pixels, except for interlaced
    clips, of which PyAV scales each field.
    """
    sources = [
        probe(str(file(kind).path), DecodeConfig(decoder=decoder)) for decoder in ("auto", "pyav")
    ]
    a, b = (next(read_frames(source, [40], (64, 40))).astype(int) for source in sources)
    assert np.abs(a - b).mean() < 2.5  # hard edges, and two ways of rounding
