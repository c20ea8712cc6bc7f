"""A photograph of 1920x1080 becomes a film of 5 s at 30 frames a second, against ffmpeg, which only
encodes the film's frames.

Quiver is the real command, from the start of Python to the finished mp4: a JPEG and a file of
motion are read, 150 frames are splatted and encoded. The photograph is procedural, noise of
amplitude 1/f over things with sharp edges, and the motion smooth, 16 frequencies of 256x144 pixels,
1.3 px there on average and 10 in the photograph. ffmpeg, with its own libx264 and the same
settings, gets the frames of that film ready in a file of raw yuv420p; this is the lower bound for
anything that writes such a film. Both have one CPU; with more, Quiver makes frames while others are
encoded.
"""

import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from benchmarks.memory import watched
from benchmarks.rounds import (
    Target,
    arguments,
    interleaved,
    medians,
    one_cpu,
    report,
    speedup,
    timings_table,
)
from pipeline.images.film import DETERMINISTIC_OPTIONS, X264
from schemas.spectral_volume import SpectralVolume, encode_volume

WIDTH, HEIGHT, FPS = 1920, 1080, 30
SIZE, FREQUENCIES, FRAMES = (256, 144), 16, 150
GOAL = 3
MOST_MB = 1500


def main() -> None:
    options = arguments(__doc__).parse_args()
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise SystemExit("ffmpeg is not there, so there is nothing to compare")
    one_cpu()
    seconds = 0.4 if options.quick else 5
    with tempfile.TemporaryDirectory(prefix="quiver-bench-animate-") as name:
        folder = Path(name)
        Image.fromarray(photograph()).save(folder / "photo.jpg", quality=95)
        (folder / "motion.safetensors").write_bytes(
            encode_volume(SpectralVolume(spectrum=motion(), fps=FPS, frames=FRAMES, provenance={}))
        )
        command = animate(folder, seconds)
        peak = watched(command)
        run(
            [
                ffmpeg,
                "-v",
                "error",
                "-i",
                str(folder / "film.mp4"),
                "-f",
                "rawvideo",
                "-pix_fmt",
                "yuv420p",
                str(folder / "frames.yuv"),
            ]
        )
        contenders = {
            "Quiver": partial(run, command),
            "ffmpeg, encoding alone": partial(run, encoding(ffmpeg, folder)),
        }
        timings = interleaved(contenders, 1 if options.quick else options.rounds, warm_up=False)
        megabytes = {path.name: path.stat().st_size / 1e6 for path in folder.glob("*.mp4")}
    quiver, peer = timings.values()
    targets = [
        replace(
            speedup(f"a film of {seconds:g} s: Quiver / ffmpeg", GOAL, peer, quiver), at_most=True
        ),
        Target(
            name="largest memory of Quiver", goal=MOST_MB, reached=peak, unit="MB", at_most=True
        ),
    ]
    rate = (
        f"{seconds * FPS / medians(quiver).clock:.3g} frames a second, start and end included. "
        "Files: " + ", ".join(f"{name} {size:.1f} MB" for name, size in megabytes.items())
    )
    report(
        "animate",
        "A photograph moves",
        __doc__,
        f"{timings_table(timings)}\n\n{rate}.",
        targets,
        keep=not options.quick,
    )


def photograph() -> UInt8[np.ndarray, "rows columns 3"]:
    """Draws ellipses of many sizes, one before the other, under noise of amplitude 1/f."""
    random = np.random.default_rng(0)
    picture = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for size in np.geomspace(500, 8, 400):
        centre, axes = (
            random.integers(0, (WIDTH, HEIGHT)),
            (size * random.uniform(0.3, 1, 2)).astype(int),
        )
        cv2.ellipse(
            picture,
            centre.tolist(),
            axes.tolist(),
            random.uniform(0, 180),
            0,
            360,
            random.uniform(40, 215, 3).tolist(),
            cv2.FILLED,
            cv2.LINE_AA,
        )
    return np.clip(picture + 18 * noise(random)[..., None], 0, 255).astype(np.uint8)


def noise(random: np.random.Generator) -> Float32[np.ndarray, "rows columns"]:
    """Draws noise of amplitude 1/f and deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH))
    waves = np.fft.rfft2(random.normal(size=(HEIGHT, WIDTH))) / np.maximum(frequency, 1 / WIDTH)
    grey = np.fft.irfft2(waves, (HEIGHT, WIDTH))
    return ((grey - grey.mean()) / grey.std()).astype(np.float32)


def motion() -> Float32[np.ndarray, "freq 4 height width"]:
    """Draws smooth coefficients that fall with frequency; the mean motion is zero."""
    random = np.random.default_rng(1)
    coarse = random.normal(size=(FREQUENCIES, 4, 6, 9)).astype(np.float32)
    fine = np.stack(
        [
            [cv2.resize(part, SIZE, interpolation=cv2.INTER_CUBIC) for part in plane]
            for plane in coarse
        ]
    )
    falling = np.concatenate([[0], FRAMES / 2 / np.arange(1, FREQUENCIES)]).astype(np.float32)
    return fine * falling[:, None, None, None]


def animate(folder: Path, seconds: float) -> list[str]:
    """Runs the command."""
    options = dict(
        motion=folder / "motion.safetensors", seconds=seconds, fps=FPS, out=folder / "film.mp4"
    )
    return [
        sys.executable,
        "-m",
        "jobs.animate",
        str(folder / "photo.jpg"),
        *(str(part) for name, value in options.items() for part in (f"--{name}", value)),
    ]


def encoding(ffmpeg: str, folder: Path) -> list[str]:
    """Encodes the same frames with the same settings."""
    raw = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "yuv420p",
        "-s",
        f"{WIDTH}x{HEIGHT}",
        "-r",
        str(FPS),
        "-i",
        str(folder / "frames.yuv"),
    ]
    settings = [
        part
        for name, value in (X264.options | DETERMINISTIC_OPTIONS[X264.name]).items()
        for part in (f"-{name}", value)
    ]
    return [
        ffmpeg,
        "-v",
        "error",
        "-y",
        *raw,
        "-c:v",
        X264.name,
        *settings,
        "-movflags",
        "+faststart",
        str(folder / "ffmpeg.mp4"),
    ]


def run(command: list[str]) -> None:
    subprocess.run(
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    main()
