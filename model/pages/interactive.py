"""Builds a page of one file in which a photograph can be pulled and let go:
model/pages/interactive.html, filled with a picture and its modes.

The JavaScript of the page does what model/motion/modal.py does in Python (docs/maths.md, 24 to 26).
The page is self-contained.
"""

import json
from base64 import b64encode
from hashlib import sha256
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Complex, Complex64, Float64, Int16
from PIL import Image

from model.motion.modal import (
    ALPHA,
    BETA,
    GUSTINESS,
    WAVES_PER_MODE,
    Modes,
    depth_from_weight,
    make_wind,
    to_modes,
)
from pipeline.images.photo import Picture, crop_to_aspect
from pipeline.motion.spectrum import to_motion
from pipeline.sizes import human_size
from schemas.spectral_volume import SpectralVolume

_TEMPLATE = Path(__file__).with_name("interactive.html")
_MAX_SIDE_PX = 1280
"""Largest length of the picture's longer side, pixels."""
_MESH = 160, 100
"""Largest numbers of columns and rows of the mesh; a smaller volume keeps its own."""
_MAX_MODES = 128
"""So many layers of a texture work on every graphics card."""
_INSTANTS = 1024
"""Instants of a window at which motion is averaged: eight in each period of the fastest mode."""
_MAX_PAGE_BYTES = 10_000_000
_MIN_MOVING_SHARE = 0.25
"""If less of the photograph moves, the motion is taken to belong to another one."""
_INT16_MAX = 32767


def build_interactive_page(photograph: Picture, volume: SpectralVolume, title: str) -> str:
    """The whole page, on which the middle of the photograph moves, in the aspect of the volume.

    Raises ValueError if the photograph is smaller than the volume or has a very different aspect,
    if the volume has no mode or more than _MAX_MODES, or if the page exceeds _MAX_PAGE_BYTES.
    """
    rows, columns = volume.spectrum.shape[2:]
    crop = _centered_crop(photograph.shape[1], photograph.shape[0], columns, rows)
    crop_to_aspect(photograph, (columns, rows))  # raises ValueError for a smaller one
    spectrum = resample_to_mesh(volume.spectrum[:, ::2] + 1j * volume.spectrum[:, 1::2])
    if len(spectrum) > _MAX_MODES + 1:
        raise ValueError(
            f"the motion has {len(spectrum)} frequencies, expected at most {_MAX_MODES + 1}"
        )
    modes = to_modes(spectrum, volume.frames, volume.fps)
    picture = _shrink_photo(photograph)
    jpeg = BytesIO()
    Image.fromarray(picture).save(jpeg, "JPEG", quality=90)
    values = dict(
        width=columns,
        height=rows,
        crop=crop,
        picture=[picture.shape[1], picture.shape[0]],
        jpeg=_to_base64(jpeg.getvalue()),
        **_modal_parameters(modes),
        nyquist=len(modes.omega) * 2 == volume.frames,
        **_pack_layers(modes, _compute_mesh_weight(spectrum, volume.frames)),
    )
    page = fill_template(_TEMPLATE, title, values)
    if len(page) > _MAX_PAGE_BYTES:
        raise ValueError(
            f"the page would have {human_size(len(page))},"
            f" expected at most {human_size(_MAX_PAGE_BYTES)}:"
            f" the motion has {len(spectrum)} frequencies"
        )
    return page


def _centered_crop(width: int, height: int, columns: int, rows: int) -> list[float]:
    """Left, top, width and height of the middle of a photograph in the aspect of `columns` by
    `rows`, as shares of its size, 0 to 1. Raises ValueError if it is a small part.
    """
    scale = min(width / columns, height / rows)
    crop_width, crop_height = columns * scale / width, rows * scale / height
    if crop_width * crop_height < _MIN_MOVING_SHARE:
        raise ValueError(
            f"the motion is of {columns}x{rows} and the photograph of {width}x{height} pixels,"
            " expected nearly the same aspect"
        )
    return [(1 - crop_width) / 2, (1 - crop_height) / 2, crop_width, crop_height]


def resample_to_mesh(
    spectrum: Complex[np.ndarray, "freq 2 height width"],
) -> Complex64[np.ndarray, "freq 2 rows columns"]:
    """The volume at the vertices of the mesh, in pixels of its original size."""
    height, width = spectrum.shape[2:]
    scale = min(1, _MESH[0] / width, _MESH[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    planes = [
        cv2.resize(
            np.ascontiguousarray(part(plane), np.float32), size, interpolation=cv2.INTER_AREA
        )
        for plane in spectrum.reshape(-1, height, width)
        for part in (np.real, np.imag)
    ]
    real, imaginary = planes[::2], planes[1::2]
    return (
        (np.stack(real) + 1j * np.stack(imaginary))
        .reshape(len(spectrum), 2, size[1], size[0])
        .astype(np.complex64)
    )


def _compute_mesh_weight(
    spectrum: Complex[np.ndarray, "freq 2 rows columns"], frames: int
) -> Float64[np.ndarray, "rows columns"]:
    """W, pixels: the mean displacement of each vertex over at most _INSTANTS of the window."""
    instants = min(frames, _INSTANTS)
    spectrum = spectrum * np.float32(instants / frames)  # the same motion at fewer instants
    total = np.zeros(spectrum.shape[2:])
    for row in range(len(total)):  # row by row, because the motion of a long window is large
        motion = to_motion(spectrum[:, :, row : row + 1], instants)
        total[row] = np.hypot(motion[:, 0, 0], motion[:, 1, 0]).mean(axis=0, dtype=np.float64)
    return total


def _shrink_photo(photograph: Picture) -> Picture:
    """The photograph with at most _MAX_SIDE_PX on its longer side."""
    image = Image.fromarray(photograph)
    image.thumbnail((_MAX_SIDE_PX, _MAX_SIDE_PX), Image.Resampling.LANCZOS)
    return np.array(image)


def _modal_parameters(modes: Modes) -> dict[str, Any]:
    """The parameters of the modes, and the waves of a wind of strength 1 in proportion to omega."""
    wind = make_wind(modes, 1.0, 0)
    waves = dict(
        ratio=(wind.omega / modes.omega[:, None]).tolist(),
        phase=np.angle(wind.amplitude).tolist(),
        loudness=2 / WAVES_PER_MODE**0.5,
    )
    gusts = dict(
        omega=wind.gust_omega.tolist(), phase=wind.gust_phase.tolist(), gustiness=GUSTINESS
    )
    return dict(
        alpha=ALPHA,
        beta=BETA,
        omega=modes.omega.tolist(),
        least=modes.min_power,
        waves=waves,
        gusts=gusts,
    )


def _pack_layers(modes: Modes, weight: Float64[np.ndarray, "rows columns"]) -> dict[str, Any]:
    """A texture of int16 with the layers of depth, and of each mode as re x, im x, re y, im y in
    units of its `scale`.
    """
    rows, columns = weight.shape
    shapes = (
        np.stack([np.real(modes.shapes), np.imag(modes.shapes)], axis=2)
        .reshape(len(modes.omega), 4, rows, columns)
        .transpose(0, 2, 3, 1)
    )
    scale = np.maximum(np.abs(shapes).max(axis=(1, 2, 3)), 1e-30) / _INT16_MAX
    depth = np.zeros((1, rows, columns, 4))
    depth[0, :, :, 0] = _INT16_MAX * depth_from_weight(weight)
    stacked: Int16[np.ndarray, "layers rows columns 4"] = np.rint(
        np.concatenate([depth, shapes / scale[:, None, None, None]])
    ).astype("<i2")
    row, column = np.unravel_index(int(weight.argmax()), weight.shape)
    return dict(
        columns=columns,
        rows=rows,
        scale=scale.tolist(),
        layers=_to_base64(stacked.tobytes()),
        liveliest=[int(column), int(row)],
    )


def _to_base64(data: bytes) -> str:
    return b64encode(data).decode()


def fill_template(path: Path, title: str, values: dict[str, Any]) -> str:
    """A template filled with a title and values as JSON. Its policy names its one script by hash,
    so that no other runs.
    """
    template = path.read_text(encoding="utf-8")
    script = template.split("<script>")[1].split("</script>")[0]
    digest = _to_base64(sha256(script.encode()).digest())
    data = json.dumps(values, allow_nan=False).replace("<", "\\u003c")
    page = template.replace("@SCRIPT@", f"'sha256-{digest}'").replace("@DATA@", data)
    return page.replace("@TITLE@", escape(title))
