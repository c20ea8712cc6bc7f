"""The report of a data set: one HTML file that shows whether it is any good.

    reading.py    what is read: columns of the manifests, chosen records and samples, the log
    numbers.py    the mathematics of it, pure
    figures.py    numbers to SVG, one function per figure
    gallery.py    samples to pictures that move
    sections.py   the page's parts, as values for page.html (with page.css and page.js)

The file asks for nothing: no network, no other file. Whatever came from a file is text in it,
escaped by the template, and its policy lets no script run but its own. Equal data sets give equal
bytes.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.dataset.open import DatasetView
from pipeline.report import labels, queries, sections
from schemas.statistics import SpectrumStatistics

_TEMPLATE_FOLDER = Path(__file__).parent


def render_report(selections: Sequence[DatasetView], statistics: SpectrumStatistics) -> str:
    """The page for these data sets taken together, whose scales are `statistics`.

    Raises ValueError where a file of theirs is missing or damaged.
    """
    rows = queries.read_rows(selections)
    averaged = sections.select_averaged(selections, rows)
    parts = dict(
        head=sections.build_head(selections, statistics, rows),
        spectrum=sections.build_spectrum(selections, statistics, averaged.power),
        normalisation=sections.build_normalization(selections, statistics),
        filters=sections.build_filters(selections, rows),
        gallery=sections.build_gallery(selections, statistics, rows, averaged),
        rejected=sections.build_rejected(selections, rows),
        quarantined=sections.build_quarantined(selections, rows),
        run=sections.build_run(selections),
    )
    return render_page(parts)


def render_page(parts: dict) -> str:
    """page.html with its style and its one script inside."""
    script = (_TEMPLATE_FOLDER / "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own_script = Markup(script)  # noqa: S704 - our own file
    return render_template(
        "page.html",
        parts | dict(words=labels.MEASURE_LABELS, script=own_script, script_digest=digest),
    )


def render_template(template: str, parts: dict, folder: Path = _TEMPLATE_FOLDER) -> str:
    """A page from the template of that name in `folder`, which may extend the base of this one."""
    environment = Environment(
        loader=FileSystemLoader([folder, _TEMPLATE_FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= labels.TEMPLATE_FILTERS
    return environment.get_template(template).render(**parts)
