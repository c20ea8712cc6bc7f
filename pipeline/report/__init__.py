"""The dataset report: one HTML file that shows whether a dataset is any good.

    page.py       render_report, the whole page (READ THIS FIRST)
    sections.py   the values of each section of the page
    clips.py      counts what became of each clip
    queries.py    reads manifests, chosen records and samples, and the log of a run
    stats.py      computes the numbers behind the figures from arrays
    canvas.py     the style, axes and SVG of every figure
    figures.py    draws the figures of the report, one function per figure
    charts.py     draws the figures of evaluations and benchmarks
    gallery.py    turns samples into still and moving pictures
    labels.py     texts for measures and reasons, and formats of numbers
    layout.py     templates and building blocks that pages of other packages share

The page is self-contained: it loads nothing from the network or from other files. Any text from a
dataset is escaped by the template, and a content security policy lets no script run but its own.
Equal datasets give equal bytes.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.report.page import render_report

__all__ = ["render_report"]


def __getattr__(name: str) -> Any:
    """Imports jinja2, matplotlib and pyarrow only if the report is rendered."""
    if name != "render_report":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.report.page import render_report

    return render_report
