"""The page of `quiver ablate`: the variants beside each other, and the paper's numbers, apart."""

from collections.abc import Mapping, Sequence
from math import ceil, log10
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.report import figures
from pipeline.report.labels import format_count, format_duration, format_number
from pipeline.report.layout import (
    Cell,
    Figure,
    Section,
    Slice,
    Table,
    Tile,
    protocol_section,
    render_sections,
    slice_picture,
)

_FIGURE_METRICS = ("changes_frechet", "log_spectral_db", "magnitude_px", "warping_error")
"""Of which the page has a figure."""
_SMALL_VALUE = 0.01
"""Metrics that are less than this in all variants are shown times a power of ten."""


def render_ablation_page(
    found: Mapping[str, Any], slices: Mapping[str, Mapping[str, Slice]]
) -> str:
    """Of what ablation.json says, and X-t slices of some photographs by the variants' titles."""
    variants, films, full = (
        found["variants"],
        len(found["protocol"]["photographs"]),
        _reference_index(found),
    )
    beside = [] if full is None else [_REFERENCE_NOTE.format(title=variants[full]["title"])]
    said = [
        f"{found['caution']}.",
        " ".join([_BARS_NOTE, *beside, _CHANCE_NOTE]),
        *(f"{remark}." for remark in found["remarks"]),
    ]
    sections = [
        Section(
            "Ours", said, figures=[_metric_figure(variants, key, full) for key in _FIGURE_METRICS]
        ),
        *(Section(title, [text], table=table) for title, text, table in _build_tables(found)),
        *(_slices_section(name, row) for name, row in slices.items()),
        Section(
            "Commands",
            ["Each can be run alone, from the folder in which the whole was."],
            facts=list(map(_command_fact, found["commands"])),
        ),
        protocol_section(found["protocol"]),
    ]
    tiles = [
        Tile("films of each", format_number(films)),
        Tile("variants", format_number(len(variants)), accent=True),
        Tile("trainings", format_number(found["trainings"])),
    ]
    lede = f"{format_count(len(variants), 'variant')} of one method, each trained on the same clips and measured by films of the same {format_count(films, 'photograph')}."
    return render_sections(
        over="Ablation",
        title="What does each part do?",
        lede=lede,
        tiles=tiles,
        sections=sections,
        slices_per_row=5,
    )


_BARS_NOTE = "Bars are 95 % intervals over films, as quiver evaluate has them."
_REFERENCE_NOTE = (
    "The dashed line is the value of {title}, which has an interval of its own. All variants film the same photographs, so whether bars overlap proves nothing either way: "
    "the differences, photograph by photograph, say what these films tell apart."
)
_CHANCE_NOTE = "What one training differs from the next by chance is in none of these intervals."
_DIFFERENCES_NOTE = (
    "Mean over {photographs} of a variant's number less that of {title} for the same photograph, with Student's 95 % interval. Where that leaves out 0, marked by *, these films tell the two "
    "apart; where it does not, they do not. Between equals, one in twenty leaves out 0 by chance. Distances between sets of films have no number for a photograph, and are not here."
)


_TRAINING_NOTE = (
    "Steps x samples of a step. They are not equal: a step of one frequency sees some of a sample's frequencies, one of coordination or of the volume all K; coordination goes on where one frequency "
    "ended, and only what is coordinated has it. So variants differ in how much they were trained as well as in method."
)


def _reference_index(found: Mapping[str, Any]) -> int | None:
    """Of the variant that the others are compared with, among them."""
    return next(
        (
            i
            for i, variant in enumerate(found["variants"])
            if variant["name"] == found["compared_with"]
        ),
        None,
    )


def _metric_figure(
    variants: Sequence[Mapping[str, Any]], key: str, reference: int | None
) -> Figure:
    """One metric of all variants."""
    metrics = [_find_metric(variant, key) for variant in variants]
    one = metrics[-1]
    values, low, high = (
        np.array([np.nan if m[part] is None else m[part] for m in metrics], float)
        for part in ("value", "low", "high")
    )
    label = " ".join(filter(None, [one["name"], one["unit"] and f"({one['unit']})"]))
    text = Markup("<b>{}</b>; {} is better.").format(one["name"], _BETTER_WORDS[one["better"]])
    return Figure(
        figures.plot_intervals(
            f"metric-{key}", [v["title"] for v in variants], values, low, high, label, reference
        ),
        text,
    )


def _find_metric(variant: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return next(one for one in variant["metrics"] if one["key"] == key)


def _build_tables(found: Mapping[str, Any]) -> list[tuple[str, str, Table]]:
    """Every metric of ours, how they differ from full, and the paper's table 2."""
    variants, columns = found["variants"], found["paper"]["columns"]
    names = [variant["title"] for variant in variants]
    ours = Table(
        ["metric", *names], [_metric_row(variants, one["key"]) for one in variants[-1]["metrics"]]
    )
    theirs = Table(
        ["", *columns],
        [
            [Cell(v["title"]), *(Cell("–" if n is None else f"{n:g}") for n in v["paper"])]
            for v in variants
        ],
    )
    return [
        (
            "Every metric of ours",
            f"{found['ours']}. Below each the 95 % interval over films.",
            ours,
        ),
        *_difference_tables(variants, _reference_index(found)),
        ("How long each was trained", _TRAINING_NOTE, _training_table(variants, found["stages"])),
        ("The paper's table 2", f"{found['paper']['words']}.", theirs),
    ]


def _difference_tables(
    variants: Sequence[Mapping[str, Any]], full: int | None
) -> list[tuple[str, str, Table]]:
    """How the others differ from full; nothing where it is not there, or alone."""
    others = [variant for i, variant in enumerate(variants) if i != full]
    if full is None or not others:
        return []
    shown = [
        one["key"]
        for one in variants[full]["metrics"]
        if all(one["key"] in variant["differences"] for variant in others)
    ]
    rows = [_difference_row(variants, others, key) for key in shown]
    title, photographs = (
        variants[full]["title"],
        max(one["photographs"] for variant in others for one in variant["differences"].values()),
    )
    text = _DIFFERENCES_NOTE.format(
        title=title, photographs=format_count(photographs, "photograph")
    )
    return [
        (
            f"Difference from {title}",
            text,
            Table(["metric", *(variant["title"] for variant in others), "better"], rows),
        )
    ]


def _training_table(variants: Sequence[Mapping[str, Any]], stages: Sequence[str]) -> Table:
    """A line for each variant; nothing of what it has no part in."""
    some = [stage for stage in stages if any(stage in variant["trained"] for variant in variants)]
    return Table(
        ["variant", *some],
        [
            [Cell(v["title"]), *(Cell(_format_effort(v["trained"].get(stage))) for stage in some)]
            for v in variants
        ],
    )


def _format_effort(one: Mapping[str, int] | None) -> Markup:
    """`240 x 2`, and below it `480 samples`."""
    return (
        _format_two_lines(
            f"{format_number(one['steps'])} x {format_number(one['batch'])}",
            format_count(one["samples"], "sample"),
        )
        if one
        else Markup("–")
    )


_BETTER_WORDS = {"higher": "more", "lower": "less", "nearer": "less"}
"""Which number is the better one, of what a metric says: of what should be near to the real films'
it is the distance.
"""


def _difference_row(
    variants: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], key: str
) -> list[Cell]:
    """Of one metric."""
    metrics = [_find_metric(variant, key) for variant in variants]
    factor = _display_factor(metrics)
    return [
        Cell(_metric_title(metrics[0], factor)),
        *(Cell(_format_difference(variant["differences"][key], factor)) for variant in others),
        Cell(_BETTER_WORDS[metrics[0]["better"]]),
    ]


def _format_difference(one: Mapping[str, Any], factor: int) -> Markup:
    """`+3.1 *`, and below it `± 0.9`."""
    value = f"{'+' if one['value'] > 0 else '−' if one['value'] < 0 else ''}{format_number(factor * abs(one['value']))}"
    if one["low"] is None:
        return _format_two_lines(value, "")
    return _format_two_lines(
        value + ("" if one["low"] <= 0 <= one["high"] else " *"),
        f"± {format_number(factor * (one['high'] - one['value']), 2)}",
    )


def _metric_row(variants: Sequence[Mapping[str, Any]], key: str) -> list[Cell]:
    """Of one metric."""
    metrics = [_find_metric(variant, key) for variant in variants]
    if all(one["value"] is None for one in metrics):
        return [
            Cell(_metric_title(metrics[0])),
            Cell(f"needs {metrics[0]['needs']}", wide=len(variants)),
        ]
    factor = _display_factor(metrics)
    return [
        Cell(_metric_title(metrics[0], factor)),
        *(Cell(_format_with_interval(one, factor)) for one in metrics),
    ]


def _format_with_interval(one: Mapping[str, Any], factor: int) -> Markup:
    """`3.1`, and below it `2.2 – 4`."""
    if one["value"] is None:
        return _format_two_lines("–", f"needs {one['needs']}")
    return _format_two_lines(
        format_number(factor * one["value"]),
        ""
        if one["low"] is None
        else f"{format_number(factor * one['low'], 2)} – {format_number(factor * one['high'], 2)}",
    )


def _format_two_lines(value: str, doubt: str) -> Markup:
    return Markup("{}<small>{}</small>").format(value, doubt)


def _display_factor(metrics: Sequence[Mapping[str, Any]]) -> int:
    """By what small numbers are multiplied, so that the largest has a digit before the point."""
    largest = max((abs(one["value"]) for one in metrics if one["value"] is not None), default=0)
    return 10 ** ceil(-log10(largest)) if 0 < largest < _SMALL_VALUE else 1


def _metric_title(one: Mapping[str, Any], factor: int = 1) -> str:
    """A metric's name and unit."""
    return " ".join(filter(None, [one["name"], one["unit"], f"x {factor:,}" if factor > 1 else ""]))


def _slices_section(name: str, row: Mapping[str, Slice]) -> Section:
    """A photograph's films, each as one row of pixels over time."""
    return Section(
        f"{name} over time",
        ["One row of the picture, time downwards: straight lines stand still, waves sway."],
        slices=[slice_picture(pixels, title) for title, pixels in row.items()],
    )


def _command_fact(one: Mapping[str, Any]) -> tuple[str, str]:
    """How long it took, and the command."""
    return " ".join(format_duration(one["seconds"] / 3600)), one["command"]
