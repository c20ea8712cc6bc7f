"""Clips as people have them: H.264 in mp4, libx264's own preset, quality, keyframes (one in 250
frames) and B-frames.

A clip is a procedural scene of swaying plants with camera grain. It is rendered once and kept in a
folder, since rendering takes longer than what is measured. The muxer's defaults stand too: the edit
list that ffmpeg writes for B-frames only moves the first frame to time 0, and decord was checked to
return the same frames as PyAV with it.
"""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from pipeline.synthetic.render import ASPECT, render_frame
from pipeline.synthetic.scenes import SCENES

FPS = 30
GRAIN = 2.0
"""Camera noise, levels."""


def ordinary_clip(
    folder: Path, size: tuple[int, int], seconds: float, scene: str = "plant"
) -> Path:
    """The path of a clip of `size` = (width, height), 30 frames a second; written if it is
    not in `folder` yet.
    """
    path = folder / f"{scene}-{size[0]}x{size[1]}-{seconds:g}s.mp4"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        encode(draft, pictures(scene, size, round(seconds * FPS)), size)
        draft.replace(path)
    return path


def pictures(
    name: str, size: tuple[int, int], count: int
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Yields the scene's frames, cropped from its own aspect ratio to that of `size`."""
    scene = replace(SCENES[name](np.random.default_rng(0)), grain=GRAIN)
    scene_size = (size[0], round(size[0] * ASPECT))
    top = (scene_size[1] - size[1]) // 2
    for i in range(count):
        yield render_frame(scene, i / FPS, scene_size)[top : top + size[1]]


def encode(
    path: Path, frames: Iterator[UInt8[np.ndarray, "height width 3"]], size: tuple[int, int]
) -> None:
    """Writes `frames` with libx264's defaults."""
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream(
            "libx264",
            rate=FPS,
            width=size[0],
            height=size[1],
            pix_fmt="yuv420p",
            options={"preset": "medium", "g": "250"},
        )
        stream.codec_context.time_base = Fraction(1, FPS)
        for i, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def repeated(path: Path, times: int) -> Path:
    """Writes one file in which the clip plays `times` times in a row, its packets copied."""
    out = path.with_stem(f"{path.stem}-x{times}")
    if out.exists():
        return out
    draft = out.with_suffix(".part")
    with av.open(str(path)) as source, av.open(str(draft), "w", format="mp4") as file:
        stream = file.add_stream_from_template(source.streams.video[0])
        for turn in range(times):
            source.seek(0)
            for packet in source.demux(video=0):
                if packet.size:
                    shift = turn * source.streams.video[0].frames * packet.duration
                    packet.pts, packet.dts, packet.stream = (
                        packet.pts + shift,
                        packet.dts + shift,
                        stream,
                    )
                    file.mux(packet)
    draft.replace(out)
    return out
