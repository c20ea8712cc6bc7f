"""What is encoded can be decoded by others: as many frames, of this size, at this time, in these
colours.
"""

import io
import os
import subprocess
import sys
import weakref
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from pipeline.images.encode import ENCODERS, encode_animation, write_pictures

ROOT = Path(__file__).resolve().parents[3]


def moving(count: int = 7, size: tuple[int, int] = (96, 64)) -> list[np.ndarray]:
    """A smooth colour gradient with a block of another colour, elsewhere in each frame."""
    width, height = size
    x, y = np.meshgrid(np.linspace(40, 215, width), np.linspace(60, 190, height))
    ground = np.stack([x, y, 255 - x], axis=2).astype(np.uint8)
    frames = [ground.copy() for _ in range(count)]
    for i, frame in enumerate(frames):
        frame[8:40, 4 + 8 * i : 28 + 8 * i] = (200, 60, 40)
    return frames


def decoded(data: bytes) -> tuple[list[np.ndarray], list[float]]:
    """Frames and times of an mp4, with the colour space that it is tagged with."""
    with av.open(io.BytesIO(data)) as file:
        frames = list(file.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [
        float(frame.pts * frame.time_base) for frame in frames
    ]


@pytest.mark.parametrize(("suffix", "clock"), [(".mp4", 90_000), (".webm", 1000)])
@pytest.mark.parametrize("fps", [30.0, 10.0, 24000 / 1001])
def test_a_film_has_the_frames_at_their_times_in_their_colours(fps, suffix, clock):
    frames = moving()
    found, times = decoded(encode_animation(iter(frames), fps, suffix))
    assert times == pytest.approx(np.arange(len(frames)) / fps, abs=0.51 / clock)
    for i, (image, original) in enumerate(zip(found, frames, strict=True)):
        block = np.s_[12:36, 8 + 8 * i : 24 + 8 * i]
        assert np.abs(image.astype(int) - original).mean() < 3
        assert np.abs(image[block].mean((0, 1)) - original[block].mean((0, 1))).max() < 4


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "h264"), (".webm", "vp9")])
def test_a_film_says_which_colours_it_means(suffix, codec):
    with av.open(io.BytesIO(encode_animation(moving(), 30.0, suffix))) as file:
        context = file.streams.video[0].codec_context
        assert (context.codec.canonical_name, context.pix_fmt) == (codec, "yuv420p")
        assert (
            context.colorspace,
            context.color_primaries,
            context.color_trc,
            context.color_range,
        ) == (1, 1, 1, 1)


def test_an_mp4_begins_with_its_index():
    data = encode_animation(moving(), 30.0, ".mp4")
    assert 0 < data.find(b"moov") < data.find(b"mdat")


def test_a_picture_of_odd_size_keeps_all_its_pixels():
    frames = moving(size=(97, 63))
    found, _ = decoded(encode_animation(frames, 30.0, ".mp4"))
    assert found[0].shape == (64, 98, 3)
    assert np.abs(found[3][:63, :97].astype(int) - frames[3]).mean() < 3


@pytest.mark.parametrize("suffix, clock", [(".gif", 100), (".webp", 1000)])
def test_an_animation_has_the_frames_repeats_and_keeps_time(suffix, clock):
    frames, fps = moving(), 29.97
    with Image.open(io.BytesIO(encode_animation(frames, fps, suffix))) as file:
        found = [
            (np.asarray(image.convert("RGB")), image.info["duration"])
            for image in ImageSequence.Iterator(file)
        ]
        assert file.info["loop"] == 0
    for (image, _), original in zip(found, frames, strict=True):
        error = np.abs(image.astype(int) - original)
        assert (
            error.mean() < 5
            and np.abs(image[12:36, :].mean((0, 1)) - original[12:36, :].mean((0, 1))).max() < 3
        )
    assert sum(duration for _, duration in found) == pytest.approx(
        1000 * len(frames) / fps, abs=500 / clock
    )


def test_what_stands_still_has_the_same_colours_in_every_frame_of_a_gif():
    with Image.open(io.BytesIO(encode_animation(moving(), 10.0, ".gif"))) as file:
        corners = [np.asarray(image.convert("RGB"))[:8] for image in ImageSequence.Iterator(file)]
    assert all((a == b).all() for a, b in pairwise(corners))


def test_a_png_is_the_picture_itself():
    (frame,) = moving(1)
    with Image.open(io.BytesIO(encode_animation([frame], 30.0, ".png"))) as file:
        assert (np.asarray(file) == frame).all()


@pytest.mark.parametrize("suffix", ENCODERS)
def test_equal_frames_give_equal_bytes(suffix):
    frames = moving(1 if suffix == ".png" else 7)
    assert encode_animation(frames, 30.0, suffix) == encode_animation(iter(frames), 30.0, suffix)


DIGEST = """
import hashlib
import numpy as np
from pipeline.images.encode import encode_animation
from tests.support.videos import make_texture

image = make_texture(300, 182)
frames = [np.roll(image, (i // 2, i), (0, 1)) for i in range(40)]
print(hashlib.sha256(encode_animation(frames, 30.0, ".mp4")).hexdigest())
"""


@pytest.mark.slow
def test_what_memory_held_before_does_not_matter():
    """glibc fills new memory with the complement of MALLOC_PERTURB_; x264's macroblock tree reads
    some before it writes it.
    """
    settings = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TOP_PAD_": str(10**8)}
    digests = set()
    for fill in ("0", "1", "170"):
        environment = os.environ | settings | {"MALLOC_PERTURB_": fill, "PYTHONPATH": str(ROOT)}
        digests.add(
            subprocess.run(
                [sys.executable, "-c", DIGEST],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
    assert len(digests) == 1


def test_an_mp4_is_encoded_as_its_frames_come():
    made, most = [], 0

    def frames():
        nonlocal most
        for i in range(300):
            frame = np.full((64, 96, 3), i % 256, np.uint8)
            made.append(weakref.ref(frame))
            most = max(most, sum(one() is not None for one in made))
            yield frame

    found, _ = decoded(encode_animation(frames(), 30.0, ".mp4"))
    assert len(found) == len(made) == 300 and most < 10


@pytest.mark.parametrize(
    "frames, fps, suffix, words",
    [
        (
            moving(2),
            30.0,
            ".mov",
            "suffix is '.mov', expected one of .mp4, .webm, .gif, .webp, .png",
        ),
        (moving(2), 30.0, "", "suffix is ''"),
        (moving(2), 30.0, ".png", "several frames, expected 1"),
        ([], 30.0, ".mp4", "0 frames, expected at least 1"),
        ([], 30.0, ".gif", "0 frames, expected at least 1"),
        ([], 30.0, ".png", "0 frames, expected at least 1"),
        ([*moving(2), *moving(1, (64, 48))], 30.0, ".mp4", "frame 2 is 64x48, expected 96x64"),
        (moving(2), 0.0, ".mp4", "fps is 0, expected more than 0"),
        (moving(2), float("nan"), ".webp", "fps is nan"),
        (moving(2), 60.0, ".gif", "fps is 60, expected more than 0 and at most 50 for .gif"),
    ],
)
def test_what_cannot_be_encoded_is_refused_in_a_sentence(frames, fps, suffix, words):
    with pytest.raises(ValueError) as refused:
        encode_animation(iter(frames), fps, suffix)
    assert words in str(refused.value)


def test_pictures_in_a_folder_are_its_frames_and_none_is_left_of_a_failure(tmp_path):
    size = write_pictures(tmp_path / "out", iter(moving()))
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in files] == [
        f"frame-{number:04}.png" for number in range(7)
    ] and size == sum(path.stat().st_size for path in files)
    for path, frame in zip(files, moving(), strict=True):
        np.testing.assert_array_equal(np.array(Image.open(path)), frame)
    with pytest.raises(ValueError, match="expected"):
        write_pictures(tmp_path / "torn", iter([*moving(3), *moving(1, (50, 40))]))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
