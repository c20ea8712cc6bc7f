"""Draws the README's picture from what `make demo` left: measured beside true motion of the first
window of a few clips.

python -m benchmarks.demo_picture demo docs/images/demo.png
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont
from safetensors.numpy import load_file

from pipeline.dataset.folder import Dataset
from pipeline.dataset.shards import read_sample

CLIPS = ("lantern-50fps", "reeds-25fps", "ripples-vfr")
TITLES = ("start frame", "mean displacement W", "amplitude, measured", "amplitude, true")
GAP, HEAD = 6, 22


def main(demo: Path, out: Path) -> None:
    rows = pq.read_table(
        demo / "dataset" / "manifest.parquet",
        filters=[("outcome", "=", "kept"), ("start_frame", "=", 0)],
    ).to_pylist()
    by_clip = {row["clip_id"]: row for row in rows}
    strips = [strip(demo, by_clip[name]) for name in CLIPS]
    width = len(TITLES) * (256 + GAP) - GAP
    sheet = Image.new("RGB", (width, HEAD + sum(s.shape[0] + GAP for s in strips) - GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for i, title in enumerate(TITLES):
        pen.text((i * (256 + GAP) + 2, 2), title, "black", font)
    for i, panels in enumerate(strips):
        sheet.paste(Image.fromarray(panels), (0, HEAD + i * (panels.shape[0] + GAP)))
    sheet.quantize(255).save(out, optimize=True)


def strip(demo: Path, row: dict) -> np.ndarray:
    """Draws the panels of one window side by side, each with the strongest frequency's label."""
    sample = read_sample(Dataset(demo / "dataset").tar_path(row["shard"]), row["key"], row)
    true = amplitude(load_file(demo / "clips" / f"{row['clip_id']}.truth.safetensors")["spectrum"])
    measured_size = amplitude(sample.spectrum.astype(np.float32))
    k = 1 + int(np.square(true[1:]).sum(axis=(1, 2)).argmax())
    top = np.quantile(true[k], 0.99)
    weight = sample.weight.astype(np.float32)
    panels = [
        sample.image,
        heat(weight, np.quantile(weight, 0.99)),
        labelled(heat(measured_size[k], top), k),
        labelled(heat(true[k], top), k),
    ]
    gap = np.full((sample.image.shape[0], GAP, 3), 255, np.uint8)
    return np.hstack([part for panel in panels for part in (panel, gap)][:-1])


def amplitude(channels: np.ndarray) -> np.ndarray:
    """Returns 2 |S_k| / T over both components, pixels [K, H, W]."""
    return 2 * np.sqrt(np.square(channels).sum(axis=1)) / 150


def heat(values: np.ndarray, top: float) -> np.ndarray:
    levels = np.clip(255 * values / top, 0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def labelled(panel: np.ndarray, k: int) -> np.ndarray:
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
    main(Path(sys.argv[1]), Path(sys.argv[2]))
