"""P11: of a video of which bytes were changed, a window is kept only if its frames are those of the
sound file, or if FFmpeg itself shows it so in a read from the beginning without any flag.
"""

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import av
import av.logging
import numpy as np
import pytest

from pipeline.decode.client import DecoderDied, DecoderProcess
from pipeline.decode.config import DecodeConfig
from schemas.outcome import Quarantined
from tests.faults.reference import choose_count
from tests.faults.test_hostile_videos import mutated
from tests.pipeline.decode.test_damage import SLICES, busy
from tests.support.numbered import FRAME_DURATION, LEADING_PICTURE_OPTIONS, SIZE, x265_options

WINDOW, STRIDE = 15, 10
SAME = 2.5
"""Mean difference in brightness of two decoders' pictures of one frame, grey levels: two ways of
rounding.
"""

KINDS: dict[str, Callable[[Path], Path]] = {
    "h264.mp4": lambda p: busy(p),
    "h264_leading.mp4": lambda p: busy(p, options=LEADING_PICTURE_OPTIONS),
    "h264_slices.mp4": lambda p: busy(p, options=SLICES),
    "h264.mkv": lambda p: busy(p),
    "h264.ts": lambda p: busy(p, options=LEADING_PICTURE_OPTIONS),
    "hevc.mp4": lambda p: busy(p, "libx265", x265_options("open-gop=1:bframes=3")),
    "vp9.webm": lambda p: busy(
        p, "libvpx-vp9", {"g": "40", "deadline": "realtime", "cpu-used": "8"}
    ),
    "mpeg2.ts": lambda p: busy(p, "mpeg2video", {"g": "15", "bf": "2"}, clock=FRAME_DURATION),
    "mpeg4.mp4": lambda p: busy(p, "mpeg4", {"g": "24"}, clock=FRAME_DURATION),
    "mpeg4.avi": lambda p: busy(p, "mpeg4", {"g": "24"}, clock=FRAME_DURATION),
    "mjpeg.avi": lambda p: busy(p, "mjpeg", {}, pixels="yuvj420p", clock=FRAME_DURATION),
}


def luma(image: np.ndarray) -> np.ndarray:
    """Brightness (BT.601): how color is scaled up differs between two decoders."""
    return image.astype(float) @ (0.299, 0.587, 0.114)


def shown_by_ffmpeg(path: Path) -> dict[int, tuple[np.ndarray, bool]]:
    """Brightness of every frame of a read from the beginning, by its time in milliseconds, and
    whether FFmpeg flags it or reported an error in its packet.
    """
    frames: list[tuple[int, np.ndarray, bool, int]] = []
    bad: set[int] = set()
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.codec_context.thread_count, stream.codec_context.copy_opaque = 1, True
        for number, packet in enumerate(file.demux(stream)):
            packet.opaque, before = number, av.logging.get_last_error()[0]
            try:
                output = packet.decode()
            except av.error.FFmpegError:
                output = []
            if av.logging.get_last_error()[0] > before or packet.is_corrupt:
                bad.add(number)
            for frame in (one for one in output if one.pts is not None):
                image = luma(frame.reformat(*SIZE, "rgb24").to_ndarray())
                frames.append(
                    (
                        round(1000 * frame.pts * float(stream.time_base)),
                        image,
                        frame.is_corrupt,
                        frame.opaque,
                    )
                )
    return {time: (image, corrupt or number in bad) for time, image, corrupt, number in frames}


def kept_windows(process: DecoderProcess, path: Path) -> list[list[tuple[int, np.ndarray]]]:
    """The frames of each window that no damage touches, with their times in milliseconds."""
    try:
        video = process.probe(str(path))
        pictures = list(process.pictures(str(path), video, range(len(video.times)), SIZE))
    except (Quarantined, DecoderDied):
        return []
    frames = [
        (round(1000 * time), one.image) for time, one in zip(video.times, pictures, strict=True)
    ]
    windows = (frames[i : i + WINDOW] for i in range(0, len(frames) - WINDOW + 1, STRIDE))
    return [
        one
        for one in windows
        if all(image is not None for _, image in one)
        and all(b[0] - a[0] < 100 for a, b in pairwise(one))
    ]


def same(a: np.ndarray | None, b: np.ndarray) -> bool:
    return a is not None and float(np.abs(a - luma(b)).mean()) <= SAME


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.promise("P11")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_no_kept_window_has_a_frame_that_ffmpeg_flags_or_shows_otherwise(
    tmp_path, record_property, capsys, kind
):
    sound = KINDS[kind](tmp_path / kind)
    right = {time: image for time, (image, _) in shown_by_ffmpeg(sound).items()}
    data, rng = sound.read_bytes(), random.Random(f"windows {kind}")
    process, count, kept, silent = (
        DecoderProcess(DecodeConfig(deadline_s=20.0)),
        choose_count(38, 3),
        0,
        0,
    )
    assert len(kept_windows(process, sound)) >= 13
    for number in range(count):
        path = tmp_path / f"{number}{sound.suffix}"
        path.write_bytes(mutated(data, rng))
        if not process.is_alive():
            process.close()
            process = DecoderProcess(DecodeConfig(deadline_s=20.0))
        windows = kept_windows(process, path)
        kept += len(windows)
        wrong = [
            window
            for window in windows
            if not all(same(right.get(time), image) for time, image in window)
        ]
        if wrong:
            shown = shown_by_ffmpeg(path)
            for time, image in (frame for window in wrong for frame in window):
                theirs, flagged = shown.get(time, (None, True))
                assert same(right.get(time), image) or (same(theirs, image) and not flagged), (
                    f"{path.name}: frame at {time} ms"
                )
        silent += len(wrong)
    process.close()
    record_property("injections", count)
    with capsys.disabled():
        print(
            f" [{kind}: {count} mutated files, {kept} windows kept, {silent} of them wrong without "
            "any flag of FFmpeg's] ",
            end="",
        )
