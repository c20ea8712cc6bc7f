"""Layout shared by the pages of evaluation, ablation and flow benchmark: the templates and what
fills them.

base.html and page.css frame every page. layout.html extends them to a heading with tiles and a list
of `Section`s; `render_sections` fills it. A page of another form has its own template, which
extends base.html, and calls `render_template`.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from pipeline.images.photo import shrink_to_width
from pipeline.report.labels import TEMPLATE_FILTERS

_TEMPLATE_FOLDER = Path(__file__).parent
_PICTURE_WIDTH_PX = 256
"""Pictures are at most so wide, because they are shown no larger."""
_MIN_SLICE_ROWS = 100
"""A slice of fewer frames shows each of them as several rows, so that there is something to see."""

Slice = UInt8[np.ndarray, "time width 3"]
"""One row of pixels of every frame, time downwards (pipeline.images.draw.slice_xt)."""


class Cell(NamedTuple):
    text: str
    wide: int = 0
    """Columns over which a sentence goes; 0 for an ordinary cell."""


class Table(NamedTuple):
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Figure(NamedTuple):
    svg: Markup
    caption: Markup


class SlicePicture(NamedTuple):
    picture: str
    """The slice as a data URI."""
    caption: str


class Section(NamedTuple):
    title: str
    texts: Sequence[str | Markup] = ()
    table: Table | None = None
    figures: Sequence[Figure] = ()
    slices: Sequence[SlicePicture] = ()
    facts: Sequence[tuple[str, Any]] = ()
    """Names and values, one pair per line."""


class Tile(NamedTuple):
    """A number in the heading of a page."""

    name: str
    value: str
    unit: str = ""
    accent: bool = False


def render_sections(
    *,
    over: str,
    title: str,
    lede: str,
    tiles: Sequence[Tile],
    sections: Sequence[Section],
    slices_per_row: int,
) -> str:
    """Fills layout.html: the small line `over` the title, the lede, the tiles and the sections."""
    return render_template(
        "layout.html",
        dict(
            over=over,
            title=title,
            lede=lede,
            tiles=tiles,
            sections=sections,
            across=slices_per_row,
        ),
    )


def render_template(name: str, values: Mapping[str, Any], folder: Path = _TEMPLATE_FOLDER) -> str:
    """Fills the template `name` of `folder`, which may extend base.html of this package."""
    environment = Environment(
        loader=FileSystemLoader([folder, _TEMPLATE_FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= TEMPLATE_FILTERS
    return environment.get_template(name).render(**values)


def slice_picture(pixels: Slice, caption: str) -> SlicePicture:
    """A slice for a section, its rows repeated if there are few."""
    repeats = max(1, -(-_MIN_SLICE_ROWS // len(pixels)))
    return SlicePicture(webp_uri(pixels.repeat(repeats, axis=0)), caption)


def protocol_section(facts: Mapping[str, Any]) -> Section:
    """The last section of a page: how everything was measured, as the JSON file has it."""
    return Section(
        "How it was measured",
        facts=[(name.replace("_", " "), _format_fact(value)) for name, value in facts.items()],
    )


def _format_fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_format_fact(part)}" for name, part in value.items())
    return ", ".join(map(_format_fact, value)) if isinstance(value, list | tuple) else str(value)


def fit_to_width(
    image: UInt8[np.ndarray, "_ _ 3"], width: int = _PICTURE_WIDTH_PX
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The picture, shrunk if it is wider than it is shown."""
    return shrink_to_width(image, width)


def webp_uri(image: UInt8[np.ndarray, "height width channels"]) -> str:
    """The picture as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "webp", quality=84, method=4)
    return data_uri("image/webp", buffer.getvalue())


def data_uri(media_type: str, data: bytes) -> str:
    """The bytes of a file as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"
