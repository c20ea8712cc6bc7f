"""Every frame of every kind of file is the right one, at its own time, whichever frames were asked for before."""

import numpy as np
import pytest

from pipeline.decode import DecodeConfig
from pipeline.decode.probe import probe
from pipeline.decode.readers import cover_size, frames
from pipeline.plan import PlanConfig, plan_windows
from tests.numbered import KINDS, SIZE, encode, number


@pytest.fixture(scope="session")
def file(tmp_path_factory):
    """name -> the file of that kind, made once each."""
    folder, made = tmp_path_factory.mktemp("kinds"), {}

    def make(name: str):
        if name not in made:
            made[name] = KINDS[name][1](folder / name)
        return made[name]

    return make


def seen(source, indices) -> list[int]:
    return [number(image) for image in frames(source, indices, cover_size(source.video.aspect, SIZE))]


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_the_one_asked_for(file, kind, decoder):
    path, numbers, times = file(kind)
    source = probe(str(path), DecodeConfig(decoder=decoder))
    assert source.video.decoder.split()[0] == ("PyAV" if decoder == "pyav" else KINDS[kind][0])
    assert len(source.video.times) == len(numbers)
    np.testing.assert_allclose(source.video.times - source.video.times[0], np.asarray(times) - times[0], atol=0.011 if path.suffix == ".gif" else 0.0011)
    assert seen(source, range(len(numbers))) == list(numbers)
    starts = [i for i, _ in plan_windows(source.video.times, source.video.end_s, PlanConfig(frames=15))]
    assert len(starts) >= 8
    for start in (*starts[::-1], *starts[::3]):
        indices = [start, start + 1, start + 4]
        assert seen(source, indices) == [numbers[i] for i in indices]


@pytest.mark.parametrize("name, start", [("h264_late.mp4", 7.3), ("h264_late.ts", 7.3), ("h264_long_gop.mp4", 0.0)])
def test_times_are_the_files_own(file, name, start):
    assert probe(str(file(name).path), DecodeConfig()).video.times[0] == pytest.approx(start, abs=1e-4)


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_rotated_video_shows_its_frames_upright(tmp_path, degrees, decoder):
    """A picture is stored turned, and shown as it was: the corner stands where it stands unturned."""
    path = encode(tmp_path / "a.mp4", setup=lambda stream: stream.set_display_rotation(degrees)).path
    source = probe(str(path), DecodeConfig(decoder=decoder))
    turned = [np.rot90(image, -degrees // 90) for image in frames(source, [7, 60], SIZE if degrees == 180 else SIZE[::-1])]
    assert [number(image) for image in turned] == [7, 60]
    assert turned[0][2, 2, 0] > 150 and turned[0][2, 2, 1] < 90


def test_pixels_that_are_not_square_are_shown_in_their_aspect(file):
    video = probe(str(file("h264_wide_pixels.mp4").path), DecodeConfig()).video
    assert video.aspect == pytest.approx(2 * SIZE[0] / SIZE[1])


@pytest.mark.parametrize("kind", [kind for kind, (decoder, _) in KINDS.items() if decoder == "decord" and kind != "h264_interlaced.mp4"])
def test_both_decoders_show_the_same_picture(file, kind):
    """Which one reads a clip is seen in its metadata, not in its pixels (but for interlaced ones, of which PyAV scales each field)."""
    sources = [probe(str(file(kind).path), DecodeConfig(decoder=decoder)) for decoder in ("auto", "pyav")]
    a, b = (next(frames(source, [40], (64, 40))).astype(int) for source in sources)
    assert np.abs(a - b).mean() < 2.5  # hard edges, and two ways of rounding
