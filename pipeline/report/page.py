"""The dataset report: READ THIS FIRST. It renders page.html from the sections of one or several
datasets.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.dataset.open import DatasetView
from pipeline.report import clips, labels, queries, sections
from pipeline.report.layout import render_template
from schemas.statistics import SpectrumStatistics

_SCRIPT = Path(__file__).with_name("page.js")


def render_report(selections: Sequence[DatasetView], statistics: SpectrumStatistics) -> str:
    """The report of these datasets taken together, whose scales are `statistics`.

    Equal datasets give equal bytes. Raises ValueError if a file of a dataset is missing or damaged.
    """
    rows = queries.read_rows(selections)
    averaged = sections.select_averaged(selections, rows)
    return _fill_page(
        dict(
            head=sections.build_head(selections, statistics, rows),
            spectrum=sections.build_spectrum(selections, statistics, averaged.power),
            normalisation=sections.build_normalization(selections, statistics),
            clips=clips.build_clips(selections, rows),
            filters=sections.build_filters(selections, rows),
            gallery=sections.build_gallery(selections, statistics, rows, averaged),
            rejected=sections.build_rejected(selections, rows),
            quarantined=sections.build_quarantined(selections, rows),
            run=sections.build_run(selections),
        )
    )


def _fill_page(parts: Mapping[str, Any]) -> str:
    """Fills page.html; its policy names its one script by hash, so that no other runs."""
    script = _SCRIPT.read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own_script = Markup(script)  # noqa: S704 - the text of page.js, from no dataset
    return render_template(
        "page.html",
        {**parts, "words": labels.MEASURE_LABELS, "script": own_script, "script_digest": digest},
    )
