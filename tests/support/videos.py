"""Writes small video files with PyAV: swaying textures whose displacement is known, and files that
are broken.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

TIME_BASE = Fraction(1, 30000)


def make_texture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """An image with detail at several scales, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    layers = [
        gaussian_filter(rng.normal(size=(height, width)), s, mode="wrap") for s in (1.0, 2.0, 5.0)
    ]
    gray = sum(layer / layer.std() for layer in layers)
    colors = np.stack([gray, np.roll(gray, 7, 1), np.roll(gray, 13, 0)], axis=2)
    return np.clip(128 + 32 * colors, 0, 255).astype(np.uint8)


def shift_image(image: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """The image, shifted by (dx, dy) pixels and wrapped around."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].astype(float)
    return _sample(image, rows - dy, columns - dx)


def _sample(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The colors of the image at these places, cubic, wrapped around."""
    channels = [
        map_coordinates(image[..., c].astype(float), [rows, columns], order=3, mode="grid-wrap")
        for c in range(3)
    ]
    return np.clip(np.stack(channels, axis=2), 0, 255).round().astype(np.uint8)


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    times: Sequence[float],
    codec: str = "libx264",
    **options: str,
) -> Path:
    """Encodes RGB frames with these presentation times (seconds), and returns the path."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            codec, rate=30, options={"crf": "14", "threads": "1"} | options
        )
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = TIME_BASE
        for image, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(time / TIME_BASE), TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_swaying(
    path: Path,
    *,
    seconds: float = 6.0,
    fps: float = 30.0,
    amplitude: float = 1.0,
    hertz: float = 0.4,
    size: tuple[int, int] = (96, 64),
    seed: int = 0,
) -> Path:
    """A texture whose middle third sways left and right by `amplitude` pixels, so that it cannot be
    taken for the motion of a camera.
    """
    image, times = make_texture(*size, seed), np.arange(round(seconds * fps)) / fps
    soft = np.clip(1.5 - 3 * np.abs(np.linspace(-1, 1, size[1])), 0, 1)[:, None]
    rows, columns = np.mgrid[: size[1], : size[0]].astype(float)

    shifts = [amplitude * soft * np.sin(2 * np.pi * hertz * time) for time in times]
    return write_video(path, [_sample(image, rows, columns - dx) for dx in shifts], times)


def write_empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def write_text_file(path: Path) -> Path:
    path.write_text("not a video\n" * 200)
    return path


def write_playlist(path: Path) -> Path:
    path.write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n/etc/hostname\n#EXT-X-ENDLIST\n"
    )
    return path


def write_jpeg(path: Path) -> Path:
    from PIL import Image

    with path.open("wb") as file:
        Image.fromarray(make_texture(64, 48)).save(file, "jpeg")
    return path


def write_truncated(path: Path) -> Path:
    """An mp4 without its index, which is at its end."""
    data = write_swaying(path, seconds=2).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def write_cut_off(path: Path) -> Path:
    """An mp4 with its index at the beginning, but without a part of its content."""
    write_video(
        path,
        [make_texture(96, 64, i % 3) for i in range(60)],
        np.arange(60) / 30,
        preset="ultrafast",
    )
    with (
        av.open(str(path)) as source,
        av.open(
            str(path.with_suffix(".tmp.mp4")), "w", options={"movflags": "faststart"}
        ) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    data = path.with_suffix(".tmp.mp4").read_bytes()
    path.with_suffix(".tmp.mp4").unlink()
    path.write_bytes(data[: 2 * len(data) // 3])
    return path


def write_audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for i in range(50):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = 44100, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_without_frames(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.start_encoding()
    return path


BROKEN_VIDEO_WRITERS: dict[str, Callable[[Path], Path]] = {
    "not_media": write_text_file,
    "truncated": write_truncated,
    "no_video": write_audio_only,
    "no_frames": write_without_frames,
}
"""A writer of a broken file for each of these reasons."""
