"""BT.601 and BT.709, full and limited range: the painted colors come out."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.decode.config import DecodeConfig
from pipeline.decode.probe import probe
from tests.support.numbered import read_frames

KR_KB = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
H273 = {"bt601": 6, "bt709": 1}
"""Matrix coefficients by their number in H.273."""
PATCHES = np.array(
    [
        [200, 40, 40],
        [40, 200, 40],
        [40, 40, 200],
        [128, 128, 128],
        [235, 235, 235],
        [20, 20, 20],
        [220, 210, 60],
        [60, 200, 210],
    ],
    np.uint8,
)


def painted(size: tuple[int, int]) -> np.ndarray:
    """Eight patches of one color each, four by two."""
    width, height = size
    return PATCHES.reshape(2, 4, 3).repeat(height // 2, 0).repeat(width // 4, 1)


def planes(image: np.ndarray, matrix: str, full: bool) -> list[np.ndarray]:
    """Y, Cb, Cr (H.273, equations 4 to 16) of an image, chroma at half size."""
    kr, kb = KR_KB[matrix]
    r, g, b = (image[..., i] / 255 for i in range(3))
    y = kr * r + (1 - kr - kb) * g + kb * b
    chroma = [((c - y) / (2 * (1 - k)))[::2, ::2] for c, k in ((b, kb), (r, kr))]
    scaled = (
        [255 * y, *(128 + 255 * c for c in chroma)]
        if full
        else [16 + 219 * y, *(128 + 224 * c for c in chroma)]
    )
    return [np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in scaled]


def write(path: Path, size: tuple[int, int], matrix: str, full: bool, label: bool = True) -> Path:
    """A video of the patches, which names its color matrix and range if `label`."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=30, options={"crf": "1", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        if label:
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = H273[matrix]
            context.color_range = 2 if full else 1
        for i in range(5):
            frame = av.VideoFrame(*size, "yuv420p")
            for plane, values in zip(
                frame.planes, planes(painted(size), matrix, full), strict=True
            ):
                padded = np.zeros((plane.height, plane.line_size), np.uint8)
                padded[:, : values.shape[1]] = values
                plane.update(padded.tobytes())
            frame.pts, frame.time_base = i, Fraction(1, 30)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def worst(path: Path, decoder: str, size: tuple[int, int]) -> float:
    """Largest difference from the painted colors in the middle of the patches, gray levels."""
    source = probe(str(path), DecodeConfig(decoder=decoder))
    image = next(read_frames(source, [2], size)).astype(float)
    rows, columns = ((np.arange(n) + 0.5) * side / n for n, side in ((2, size[1]), (4, size[0])))
    middles = [
        image[int(r) - 3 : int(r) + 3, int(c) - 3 : int(c) + 3] for r in rows for c in columns
    ]
    return max(
        np.abs(middle - patch).max()
        for middle, patch in zip(middles, PATCHES.astype(float), strict=True)
    )


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", KR_KB)
def test_colors_come_out_within_two_levels(tmp_path, matrix, full, decoder):
    path = write(tmp_path / "a.mp4", (256, 160), matrix, full)
    assert worst(path, decoder, (128, 80)) <= 2
    assert worst(path, decoder, (256, 160)) <= 2


@pytest.mark.parametrize("size, matrix", [((640, 360), "bt601"), ((1280, 720), "bt709")])
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_a_video_that_does_not_name_its_colors_has_those_of_its_size(
    tmp_path, size, matrix, decoder
):
    path = write(tmp_path / "a.mp4", size, matrix, full=False, label=False)
    assert worst(path, decoder, (128, 80)) <= 2
