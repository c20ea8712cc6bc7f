"""Renders the page of a flow card: report.html, filled with its numbers and images of its cases."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32
from markupsafe import Markup

from pipeline.flow_benchmark import metrics, summary
from pipeline.flow_benchmark.run import FPS, FREQUENCIES, Case, Flow, FlowCard
from pipeline.images import draw
from pipeline.report import charts
from pipeline.report.layout import fit_to_width, render_template, webp_uri
from schemas.run_contract import flatten

_WHEEL_PX = 40
_TABLE_COLUMNS = {
    "known": (
        ("epe_px", "error, px", 1),
        ("angle_deg", "angle, °", 1),
        ("epe_near_px", "near edges, px", 1),
        ("epe_inside_px", "inside, px", 1),
        ("blur_px", "edge blur, px", 1),
    ),
    "scenes": (
        ("epe_px", "error, px", 1),
        ("spectrum_error", "of spectrum, %", 100),
        ("epe_near_px", "near edges, px", 1),
        ("blur_px", "edge blur, px", 1),
    ),
    "clips": (
        ("disagreement_px", "there and back, px", 1),
        ("inconsistent_share", "inconsistent, %", 100),
        ("photometric", "grey levels", 1),
        ("inside_share", "stays inside, %", 100),
    ),
}
"""The columns of each part's table: measure, heading and factor."""
_UNRANKED_MEASURES = ("inside_share",)
"""Measures whose least value is not the best."""


def render_page(card: FlowCard, cases: Mapping[str, Sequence[Case]]) -> str:
    """An HTML page that loads no other file; equal cards give equal bytes.

    `cases` has the cases of each part, in the order in which they are shown.
    """
    names = list(card.estimators)
    return render_template(
        "report.html",
        dict(
            names=names,
            common=summary.mean_over_cases(card.clips, names[0], "common_share"),
            learned=[name for name in names if summary.is_learned(name)],
            leads=summary.headline_sentences(card),
            claims=summary.smoothing_sentences(card),
            left_out=list(card.left_out.values()),
            tables={
                part: _estimator_table(getattr(card, part), names, part)
                for part in _TABLE_COLUMNS
                if getattr(card, part)
            },
            times={name: summary.seconds_per_pair(card, name) for name in names},
            figures=_draw_figures(card, names),
            cases={part: list(map(_case_pictures, shown)) for part, shown in cases.items()},
            about=card,
            columns=_TABLE_COLUMNS,
            protocol=flatten(card.protocol).items(),
            described={
                name: flatten(description).items() for name, description in card.estimators.items()
            },
        ),
        Path(__file__).parent,
    )


def _estimator_table(
    part: summary.Results, names: Sequence[str], kind: str
) -> list[dict[str, Any]]:
    """A row for each estimator; each cell has whether it is the least of its column, and its value
    times the column's factor.
    """
    rows: list[dict[str, Any]] = [dict(name=name, cells=[]) for name in names]
    for measure, _, factor in _TABLE_COLUMNS[kind]:
        column = [summary.mean_over_cases(part, name, measure) for name in names]
        least = min((value for value in column if value is not None), default=None)
        is_ranked = least is not None and measure not in _UNRANKED_MEASURES
        for row, value in zip(rows, column, strict=True):
            row["cells"].append((is_ranked and value == least, value and factor * value))
    return rows


def _draw_figures(card: FlowCard, names: Sequence[str]) -> dict[str, Markup]:
    """The figures for which there are numbers."""
    learned = [name for name in names if summary.is_learned(name)]
    plots = {}
    sizes = [f"{fine:g} to {coarse:g}" for fine, coarse in pairwise(metrics.OCTAVE_SIGMAS_PX)]
    for part, results in (("known", card.known), ("scenes", card.scenes)):
        if results:
            lines = {
                name: [_mean_detail_kept(results, name, i) for i in range(len(sizes))]
                for name in names
            }
            plots[part] = charts.plot_estimators(
                f"details-{part}",
                range(len(sizes)),
                lines,
                learned,
                x_label="size of detail, px",
                y_label="kept, % of the truth's",
                ticks=sizes,
            )
    if card.scenes:
        hz = [k * FPS / card.protocol["scenes"]["frames"] for k in range(1, FREQUENCIES)]
        errors = {name: _mean_bands(card.scenes, name, "error_px") for name in names}
        errors["truth"] = _mean_bands(card.scenes, names[0], "truth_px")
        plots["bands"] = charts.plot_estimators(
            "bands",
            hz,
            errors,
            learned,
            x_label="frequency, Hz",
            y_label="error of the amplitude, px",
            log=True,
        )
        gains = {
            name: [value and 100 * value for value in _mean_bands(card.scenes, name, "kept")]
            for name in names
        }
        plots["gains"] = charts.plot_estimators(
            "gains",
            hz,
            gains,
            learned,
            x_label="frequency, Hz",
            y_label="found, % of the truth's sway",
        )
    return plots


def _mean_detail_kept(part: summary.Results, name: str, octave: int) -> float | None:
    """Share of the details of one size that is kept, percent; mean over the cases with details."""
    details = [case[name].details[octave] for case in part.values()]
    shares = [100 * detail.kept for detail in details if detail is not None]
    return fmean(shares) if shares else None


def _mean_bands(part: summary.Results, name: str, measure: str) -> list[float | None]:
    """A measure at each frequency from the first one above 0 on, mean over the scenes."""
    means = []
    for bands in zip(*(case[name].bands[1:] for case in part.values()), strict=True):
        values = [getattr(band, measure) for band in bands]
        values = [value for value in values if value is not None]
        means.append(fmean(values) if values else None)
    return means


def _case_pictures(case: Case) -> dict[str, Any]:
    """Pictures of one case: all flows in the colors of one scale, and if there is a truth the
    errors in those of another.
    """
    truth, errors, largest, true_picture = case.truth, {}, 1.0, None
    if truth is None:
        flows = np.stack(list(case.flows.values()))
        truth = np.median(flows, axis=0).astype(np.float32)
    full = draw.scale_limit(np.hypot(truth[0], truth[1]))
    if case.truth is not None:
        errors = {
            name: metrics.end_point_error(flow, case.truth) for name, flow in case.flows.items()
        }
        known_errors = np.concatenate([error[case.valid] for error in errors.values()])
        largest = draw.scale_limit(known_errors)
        true_picture = _color_truth(case.truth, case.valid, full)
    return dict(
        name=case.name,
        image=webp_uri(fit_to_width(case.image)),
        truth=true_picture,
        full=full,
        largest=largest,
        flows={
            name: webp_uri(fit_to_width(draw.flow_colors(flow, full)))
            for name, flow in case.flows.items()
        },
        aspect=case.image.shape[1] / len(case.image),
        errors={
            name: _color_error(np.where(case.valid, error, 0).astype(np.float32), largest)
            for name, error in errors.items()
        },
    )


def _color_error(error: Float32[np.ndarray, "height width"], largest: float) -> str:
    return webp_uri(fit_to_width(draw.heat_map(error, largest)))


def _color_truth(truth: Flow, valid: Bool[np.ndarray, "height width"], full: float) -> str:
    """The true flow, gray where it is not known, with the color wheel in its corner."""
    picture = fit_to_width(np.where(valid[..., None], draw.flow_colors(truth, full), np.uint8(128)))
    wheel = draw.draw_color_wheel(min(_WHEEL_PX, len(picture) // 4))
    return webp_uri(draw.draw_inset(picture, wheel))
