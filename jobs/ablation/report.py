"""The page of `quiver ablate`: the numbers of the variants side by side, and the paper's."""

from collections.abc import Mapping, Sequence
from math import ceil, log10
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.report import charts
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
"""The metrics that have a figure."""
_SMALL_VALUE = 0.01
"""A metric below this in all variants is shown times a power of ten."""


def render_ablation_page(
    results: Mapping[str, Any], slices: Mapping[str, Mapping[str, Slice]]
) -> str:
    """The page, from the content of ablation.json and the X-t slices of some photographs, by
    photograph and title of the variant.
    """
    variants, reference = results["variants"], _reference_index(results)
    films = len(results["protocol"]["photographs"])
    reference_note = (
        [] if reference is None else [_REFERENCE_NOTE.format(title=variants[reference]["title"])]
    )
    remarks = [
        f"{results['caution']}.",
        " ".join([_BARS_NOTE, *reference_note, _CHANCE_NOTE]),
        *(f"{remark}." for remark in results["remarks"]),
    ]
    sections = [
        Section(
            "Ours",
            remarks,
            figures=[_metric_figure(variants, key, reference) for key in _FIGURE_METRICS],
        ),
        *(Section(title, [text], table=table) for title, text, table in _build_tables(results)),
        *(_slices_section(name, row) for name, row in slices.items()),
        Section(
            "Commands",
            ["Each can be run alone, from the folder in which the whole was."],
            facts=list(map(_command_fact, results["commands"])),
        ),
        protocol_section(results["protocol"]),
    ]
    tiles = [
        Tile("films of each", format_number(films)),
        Tile("variants", format_number(len(variants)), accent=True),
        Tile("trainings", format_number(results["trainings"])),
    ]
    lede = (
        f"{format_count(len(variants), 'variant')} of one method, each trained on the same clips "
        f"and measured by films of the same {format_count(films, 'photograph')}."
    )
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
    "The dashed line is the value of {title}, which has an interval of its own. All variants film "
    "the same photographs, so whether bars overlap proves nothing either way: "
    "the differences, photograph by photograph, say what these films tell apart."
)
_CHANCE_NOTE = "What one training differs from the next by chance is in none of these intervals."
_DIFFERENCES_NOTE = (
    "Mean over {photographs} of a variant's number less that of {title} for the same photograph, "
    "with Student's 95 % interval. Where that leaves out 0, marked by *, these films tell the two "
    "apart; where it does not, they do not. Between equals, one in twenty leaves out 0 by chance. "
    "Distances between sets of films have no number for a photograph, and are not here."
)


_TRAINING_NOTE = (
    "Steps x samples of a step. They are not equal: a step of one frequency sees some of a "
    "sample's frequencies, one of coordination or of the volume all K; coordination goes on where "
    "one frequency "
    "ended, and only what is coordinated has it. So variants differ in how much they were trained "
    "as well as in method."
)


def _reference_index(results: Mapping[str, Any]) -> int | None:
    """The index of the variant that the others are compared with; None if it was not made."""
    return next(
        (
            i
            for i, variant in enumerate(results["variants"])
            if variant["name"] == results["compared_with"]
        ),
        None,
    )


def _metric_figure(
    variants: Sequence[Mapping[str, Any]], key: str, reference: int | None
) -> Figure:
    """The figure of one metric, with all variants."""
    metrics = [_find_metric(variant, key) for variant in variants]
    metric = metrics[-1]
    values, low, high = (
        np.array([np.nan if m[part] is None else m[part] for m in metrics], float)
        for part in ("value", "low", "high")
    )
    label = " ".join(filter(None, [metric["name"], metric["unit"] and f"({metric['unit']})"]))
    text = Markup("<b>{}</b>; {} is better.").format(
        metric["name"], _BETTER_WORDS[metric["better"]]
    )
    return Figure(
        charts.plot_intervals(
            f"metric-{key}", [v["title"] for v in variants], values, low, high, label, reference
        ),
        text,
    )


def _find_metric(variant: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return next(metric for metric in variant["metrics"] if metric["key"] == key)


def _build_tables(results: Mapping[str, Any]) -> list[tuple[str, str, Table]]:
    """Title, text and table of all our metrics, their differences from the full method, the
    trainings, and the paper's table 2.
    """
    variants, columns = results["variants"], results["paper"]["columns"]
    names = [variant["title"] for variant in variants]
    our_table = Table(
        ["metric", *names],
        [_metric_row(variants, metric["key"]) for metric in variants[-1]["metrics"]],
    )
    paper_table = Table(
        ["", *columns],
        [
            [Cell(v["title"]), *(Cell("–" if n is None else f"{n:g}") for n in v["paper"])]
            for v in variants
        ],
    )
    return [
        (
            "Every metric of ours",
            f"{results['ours']}. Below each the 95 % interval over films.",
            our_table,
        ),
        *_difference_tables(variants, _reference_index(results)),
        ("How long each was trained", _TRAINING_NOTE, _training_table(variants, results["stages"])),
        ("The paper's table 2", f"{results['paper']['words']}.", paper_table),
    ]


def _difference_tables(
    variants: Sequence[Mapping[str, Any]], reference: int | None
) -> list[tuple[str, str, Table]]:
    """The differences of the others from the full method; empty if there is none, or no other."""
    others = [variant for i, variant in enumerate(variants) if i != reference]
    if reference is None or not others:
        return []
    keys = [
        metric["key"]
        for metric in variants[reference]["metrics"]
        if all(metric["key"] in variant["differences"] for variant in others)
    ]
    rows = [_difference_row(variants, others, key) for key in keys]
    title, photographs = (
        variants[reference]["title"],
        max(
            difference["photographs"]
            for variant in others
            for difference in variant["differences"].values()
        ),
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
    """A row for each variant; a stage that it does not use is a dash."""
    used = [stage for stage in stages if any(stage in variant["trained"] for variant in variants)]
    return Table(
        ["variant", *used],
        [
            [Cell(v["title"]), *(Cell(_format_effort(v["trained"].get(stage))) for stage in used)]
            for v in variants
        ],
    )


def _format_effort(effort: Mapping[str, int] | None) -> Markup:
    """`240 x 2`, and below it `480 samples`."""
    return (
        _format_two_lines(
            f"{format_number(effort['steps'])} x {format_number(effort['batch'])}",
            format_count(effort["samples"], "sample"),
        )
        if effort
        else Markup("–")
    )


_BETTER_WORDS = {"higher": "more", "lower": "less", "nearer": "less"}
"""Which number is better, by a metric's `better`: for "nearer" the number is a distance."""


def _difference_row(
    variants: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], key: str
) -> list[Cell]:
    """The row of one metric in the table of differences."""
    metrics = [_find_metric(variant, key) for variant in variants]
    factor = _display_factor(metrics)
    return [
        Cell(_metric_title(metrics[0], factor)),
        *(Cell(_format_difference(variant["differences"][key], factor)) for variant in others),
        Cell(_BETTER_WORDS[metrics[0]["better"]]),
    ]


def _format_difference(difference: Mapping[str, Any], factor: int) -> Markup:
    """`+3.1 *`, and below it `± 0.9`."""
    sign = "+" if difference["value"] > 0 else "−" if difference["value"] < 0 else ""
    value = f"{sign}{format_number(factor * abs(difference['value']))}"
    if difference["low"] is None:
        return _format_two_lines(value, "")
    return _format_two_lines(
        value + ("" if difference["low"] <= 0 <= difference["high"] else " *"),
        f"± {format_number(factor * (difference['high'] - difference['value']), 2)}",
    )


def _metric_row(variants: Sequence[Mapping[str, Any]], key: str) -> list[Cell]:
    """The row of one metric in the table of all metrics."""
    metrics = [_find_metric(variant, key) for variant in variants]
    if all(metric["value"] is None for metric in metrics):
        return [
            Cell(_metric_title(metrics[0])),
            Cell(f"needs {metrics[0]['needs']}", wide=len(variants)),
        ]
    factor = _display_factor(metrics)
    return [
        Cell(_metric_title(metrics[0], factor)),
        *(Cell(_format_with_interval(metric, factor)) for metric in metrics),
    ]


def _format_with_interval(metric: Mapping[str, Any], factor: int) -> Markup:
    """`3.1`, and below it `2.2 – 4`."""
    if metric["value"] is None:
        return _format_two_lines("–", f"needs {metric['needs']}")
    interval = ""
    if metric["low"] is not None:
        low, high = (format_number(factor * metric[bound], 2) for bound in ("low", "high"))
        interval = f"{low} – {high}"
    return _format_two_lines(format_number(factor * metric["value"]), interval)


def _format_two_lines(value: str, note: str) -> Markup:
    return Markup("{}<small>{}</small>").format(value, note)


def _display_factor(metrics: Sequence[Mapping[str, Any]]) -> int:
    """The power of ten that gives the largest of small numbers a digit before the point."""
    largest = max(
        (abs(metric["value"]) for metric in metrics if metric["value"] is not None), default=0
    )
    return 10 ** ceil(-log10(largest)) if 0 < largest < _SMALL_VALUE else 1


def _metric_title(metric: Mapping[str, Any], factor: int = 1) -> str:
    """A metric's name and unit."""
    return " ".join(
        filter(None, [metric["name"], metric["unit"], f"x {factor:,}" if factor > 1 else ""])
    )


def _slices_section(name: str, row: Mapping[str, Slice]) -> Section:
    """A photograph's films, each as one row of pixels over time."""
    return Section(
        f"{name} over time",
        ["One row of the picture, time downwards: straight lines stand still, waves sway."],
        slices=[slice_picture(pixels, title) for title, pixels in row.items()],
    )


def _command_fact(command: Mapping[str, Any]) -> tuple[str, str]:
    """How long it took, and the command."""
    return " ".join(format_duration(command["seconds"] / 3600)), command["command"]
