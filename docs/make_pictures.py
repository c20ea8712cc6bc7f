"""Makes the pictures of README.md and docs/quickstart.md from procedural clips:

- docs/images/moving.webp, a loop: the first frame of a clip, moved by the motion of the clip;
- docs/images/demo.png, measured beside true motion of the first window of three clips;
- docs/images/report.jpg, parts of the dataset's report as a browser shows them.

    python docs/make_pictures.py [DEMO]

DEMO is the folder that `make demo` wrote; without one, the same commands fill a temporary folder,
which takes about three minutes on two cores. It needs everything that `make install` installs, and
a chromium or google-chrome.
"""

import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipeline.dataset.folder import Dataset  # noqa: E402
from pipeline.dataset.shards import read_sample  # noqa: E402
from tests.support.pages import find_chromium, open_page, wait_until  # noqa: E402

IMAGES = ROOT / "docs" / "images"
MAX_BYTES = 400_000
"""The largest size of a picture in the repository."""
MOVING_CLIP, MOVING_FPS = "plant-30fps.mp4", 12
CLIPS = ("lantern-50fps", "reeds-25fps", "ripples-vfr")
"""The clips whose first windows demo.png shows."""
TITLES = ("start frame", "mean displacement W", "amplitude, measured", "amplitude, true")
WINDOW_FRAMES = 150
PANEL_WIDTH, GAP, HEAD = 256, 6, 22
"""The layout of demo.png, pixels: a panel, the gap between panels, and the line of titles."""
REPORT_PARTS = ("header > .tiles", "#spectrum > .columns", "#gallery > article:nth-of-type(1)")
"""CSS selectors of what report.jpg shows, from top to bottom."""
VIDEO_S = 1.0
"""The moment at which the videos of the report are shown, seconds."""


def main() -> None:
    """Writes the three pictures."""
    if find_chromium() is None:
        sys.exit("there is no chromium and no google-chrome on this machine, expected one of them")
    with tempfile.TemporaryDirectory() as temporary:
        if len(sys.argv) > 1:
            demo = Path(sys.argv[1])
        else:
            demo = Path(temporary) / "demo"
            _make_demo(demo)
        pictures = {
            "moving.webp": _animate_clip(demo / "clips" / MOVING_CLIP, Path(temporary)),
            "demo.png": _encode(_draw_windows(demo), "png", optimize=True),
            "report.jpg": _encode(
                _photograph_report(demo / "dataset" / "report.html"), "jpeg", quality=80
            ),
        }
    for name, encoded in pictures.items():
        if len(encoded) > MAX_BYTES:
            sys.exit(f"{name} has {len(encoded)} bytes, expected at most {MAX_BYTES}")
        (IMAGES / name).write_bytes(encoded)
        print(f"docs/images/{name}: {len(encoded) / 1000:.0f} kB")


def _run_quiver(*words: str | Path) -> None:
    command = [sys.executable, "-m", "jobs.cli.main", *map(str, words)]
    subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603 - the words are those of this file


def _make_demo(demo: Path) -> None:
    """Makes clips, dataset and report as `make demo` does."""
    clips, dataset = demo / "clips", demo / "dataset"
    _run_quiver("make-clips", "--out", clips, "--seconds", "7")
    _run_quiver(
        *("extract-flow", "--clips", clips / "clips.csv", "--out", dataset),
        *("--windows-per-shard", "16"),
    )
    _run_quiver("report-statistics", dataset)


def _animate_clip(clip: Path, temporary: Path) -> bytes:
    """A loop of the first frame of `clip`, moved by its own motion, doubled."""
    film = temporary / "moving.webp"
    _run_quiver(
        *("animate", "--motion-from", clip, "--magnify", "2", "--loop", "snap"),
        *("--seconds", "3", "--fps", str(MOVING_FPS), "--width", "320", "--out", film),
    )
    with Image.open(film) as loop:
        frames = []
        for i in range(loop.n_frames):
            loop.seek(i)
            frames.append(loop.convert("RGB"))
    options: dict[str, Any] = dict(duration=round(1000 / MOVING_FPS), loop=0, quality=60, method=4)
    return _encode(frames[0], "webp", save_all=True, append_images=frames[1:], **options)


def _encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _photograph_report(page: Path) -> Image.Image:
    """The parts of the report one below the other, in a window 1120 pixels wide."""
    ready = "[...document.querySelectorAll('video')].every(v => v.readyState >= 2)"
    with open_page(
        page, "--disable-gpu", ready=ready, viewport=dict(width=1120, height=900)
    ) as opened:
        tab, _ = opened
        tab.evaluate(
            f"document.querySelectorAll('video').forEach(v => {{ v.pause();"
            f" v.currentTime = {VIDEO_S}; }})"
        )
        wait_until(tab, "[...document.querySelectorAll('video')].every(v => !v.seeking)")
        parts = [
            Image.open(io.BytesIO(tab.locator(selector).screenshot())).convert("RGB")
            for selector in REPORT_PARTS
        ]
    margin = 32
    sheet = Image.new(
        "RGB",
        (parts[0].width + 2 * margin, sum(part.height + margin for part in parts) + margin),
        parts[0].getpixel((0, 0)),
    )
    top = margin
    for part in parts:
        sheet.paste(part, (margin, top))
        top += part.height + margin
    return sheet


def _draw_windows(demo: Path) -> Image.Image:
    """The sheet of the first windows of `CLIPS`, a row for each, in 255 colors."""
    rows = pq.read_table(
        demo / "dataset" / "manifest.parquet",
        filters=[("outcome", "=", "kept"), ("start_frame", "=", 0)],
    ).to_pylist()
    by_clip = {row["clip_id"]: row for row in rows}
    strips = [_draw_window(demo, by_clip[clip]) for clip in CLIPS]
    width = len(TITLES) * (PANEL_WIDTH + GAP) - GAP
    height = HEAD + sum(strip.shape[0] + GAP for strip in strips) - GAP
    sheet = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for i, title in enumerate(TITLES):
        pen.text((i * (PANEL_WIDTH + GAP) + 2, 2), title, "black", font)
    for i, strip in enumerate(strips):
        sheet.paste(Image.fromarray(strip), (0, HEAD + i * (strip.shape[0] + GAP)))
    return sheet.quantize(255)


def _draw_window(demo: Path, row: dict[str, Any]) -> UInt8[np.ndarray, "height width 3"]:
    """The panels of one window side by side; amplitudes are those of the strongest frequency."""
    sample = read_sample(Dataset(demo / "dataset").tar_path(row["shard"]), row["key"], row)
    truth = load_file(demo / "clips" / f"{row['clip_id']}.truth.safetensors")["spectrum"]
    true, measured = _amplitude(truth), _amplitude(sample.spectrum.astype(np.float32))
    k = 1 + int(np.square(true[1:]).sum(axis=(1, 2)).argmax())
    top = float(np.quantile(true[k], 0.99))
    weight = sample.weight.astype(np.float32)
    panels = [
        sample.image,
        _color_map(weight, float(np.quantile(weight, 0.99))),
        _label_frequency(_color_map(measured[k], top), k),
        _label_frequency(_color_map(true[k], top), k),
    ]
    gap = np.full((sample.image.shape[0], GAP, 3), 255, np.uint8)
    return np.hstack([part for panel in panels for part in (panel, gap)][:-1])


def _amplitude(
    channels: Float[np.ndarray, "K channel height width"],
) -> Float[np.ndarray, "K height width"]:
    """2 |S_k| / T over both components, pixels."""
    return 2 * np.sqrt(np.square(channels).sum(axis=1)) / WINDOW_FRAMES


def _color_map(
    values: Float[np.ndarray, "height width"], top: float
) -> UInt8[np.ndarray, "height width 3"]:
    """Values from 0 to `top` as colors from black to yellow."""
    levels = np.clip(255 * values / top, 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def _label_frequency(
    panel: UInt8[np.ndarray, "height width 3"], k: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The panel with the frequency k / 5 s in its corner."""
    image = Image.fromarray(panel)
    ImageDraw.Draw(image).text(
        (6, panel.shape[0] - 20),
        f"{0.2 * k:.1f} Hz",
        "white",
        ImageFont.load_default(13),
        stroke_width=2,
        stroke_fill="black",
    )
    return np.asarray(image)


if __name__ == "__main__":
    main()
