"""The page of a flow quality card: flow_card.html, filled with the numbers of
pipeline/flow_benchmark/run.py and pictures of its cases.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from jaxtyping import Bool
from markupsafe import Markup

from pipeline.flow_benchmark import metrics, run
from pipeline.images import draw
from pipeline.report import figures
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
"""Of each part: measure, heading and factor."""
_UNRANKED_MEASURES = ("inside_share",)
"""Measures of which less is not better."""


def render_page(about: dict[str, Any], cases: Mapping[str, Sequence[run.Case]]) -> str:
    """One file that asks for nothing; equal cards give equal bytes."""
    names = list(about["estimators"])
    return render_template(
        "report.html",
        dict(
            names=names,
            common=run.mean_over_cases(about["clips"], names[0], "common_share"),
            learned=[name for name in names if run.is_learned(name)],
            leads=run.headline_sentences(about),
            claims=run.smoothing_sentences(about),
            left_out=list(about["left_out"].values()),
            tables={
                part: _estimator_table(about[part], names, part)
                for part in _TABLE_COLUMNS
                if about[part]
            },
            times={name: run.seconds_per_pair(about, name) for name in names},
            figures=_draw_figures(about, names),
            cases={part: [_case_pictures(one) for one in found] for part, found in cases.items()},
            about=about,
            columns=_TABLE_COLUMNS,
            protocol=flatten(about["protocol"]).items(),
            described={name: flatten(one).items() for name, one in about["estimators"].items()},
        ),
        Path(__file__).parent,
    )


def _estimator_table(
    part: Mapping[str, run.Numbers], names: Sequence[str], kind: str
) -> list[dict[str, Any]]:
    """A row for each estimator, with the least value of each column marked."""
    found = {
        name: [run.mean_over_cases(part, name, key) for key, _, _ in _TABLE_COLUMNS[kind]]
        for name in names
    }
    keys, factors = (
        [key for key, _, _ in _TABLE_COLUMNS[kind]],
        [factor for _, _, factor in _TABLE_COLUMNS[kind]],
    )
    columns = zip(keys, zip(*found.values(), strict=True), strict=True)
    least = [
        None
        if key in _UNRANKED_MEASURES
        else min((value for value in column if value is not None), default=None)
        for key, column in columns
    ]
    cells = {
        name: [
            (value is not None and value == low, value and factor * value)
            for value, low, factor in zip(row, least, factors, strict=True)
        ]
        for name, row in found.items()
    }
    return [dict(name=name, cells=row) for name, row in cells.items()]


def _draw_figures(about: dict[str, Any], names: Sequence[str]) -> dict[str, Markup]:
    """The figures for which there are numbers."""
    learned = [name for name in names if run.is_learned(name)]
    found = {}
    sizes = [f"{fine:g} to {coarse:g}" for fine, coarse in pairwise(metrics.OCTAVE_SIGMAS_PX)]
    for part in ("known", "scenes"):
        if about[part]:
            lines = {
                name: [_mean_detail_kept(about[part], name, i) for i in range(len(sizes))]
                for name in names
            }
            found[part] = figures.plot_estimators(
                f"details-{part}",
                range(len(sizes)),
                lines,
                learned,
                label="size of detail, px",
                other="kept, % of the truth's",
                ticks=sizes,
            )
    if about["scenes"]:
        hz = [
            k * run.FPS / about["protocol"]["scenes"]["frames"] for k in range(1, run.FREQUENCIES)
        ]
        errors = {name: _mean_bands(about["scenes"], name, "error_px") for name in names} | dict(
            truth=_mean_bands(about["scenes"], names[0], "truth_px")
        )
        found["bands"] = figures.plot_estimators(
            "bands",
            hz,
            errors,
            learned,
            label="frequency, Hz",
            other="error of the amplitude, px",
            log=True,
        )
        gains = {
            name: [value and 100 * value for value in _mean_bands(about["scenes"], name, "kept")]
            for name in names
        }
        found["gains"] = figures.plot_estimators(
            "gains", hz, gains, learned, label="frequency, Hz", other="found, % of the truth's sway"
        )
    return found


def _mean_detail_kept(part: Mapping[str, run.Numbers], name: str, size: int) -> float | None:
    """Share kept of the details of one size, percent; mean over the cases that have them."""
    found = [
        100 * case[name]["details"][size]["kept"]
        for case in part.values()
        if case[name]["details"][size] is not None
    ]
    return fmean(found) if found else None


def _mean_bands(part: Mapping[str, run.Numbers], name: str, key: str) -> list[float | None]:
    """A measure at each frequency from the first on that is not 0, mean over the scenes."""
    columns = zip(
        *([band[key] for band in case[name]["bands"][1:]] for case in part.values()), strict=True
    )
    found = [[value for value in column if value is not None] for column in columns]
    return [fmean(values) if values else None for values in found]


def _case_pictures(case: run.Case) -> dict[str, Any]:
    """Pictures of one case: all flows in the colours of one scale, and where there is a truth the
    errors in those of another.
    """
    truth = (
        case.truth
        if case.truth is not None
        else np.median(np.stack(list(case.flows.values())), axis=0).astype(np.float32)
    )
    full = draw.scale_limit(np.hypot(truth[0], truth[1]))
    errors = (
        {}
        if case.truth is None
        else {name: metrics.end_point_error(flow, case.truth) for name, flow in case.flows.items()}
    )
    largest = (
        draw.scale_limit(np.concatenate([error[case.valid] for error in errors.values()]))
        if errors
        else 1.0
    )
    colours = {
        name: webp_uri(fit_to_width(draw.flow_colors(flow, full)))
        for name, flow in case.flows.items()
    }
    known = None if case.truth is None else _color_truth(case.truth, case.valid, full)
    return dict(
        name=case.name,
        image=webp_uri(fit_to_width(case.image)),
        truth=known,
        full=full,
        largest=largest,
        flows=colours,
        aspect=case.image.shape[1] / len(case.image),
        errors={
            name: webp_uri(
                fit_to_width(
                    draw.heat_map(np.where(case.valid, error, 0).astype(np.float32), largest)
                )
            )
            for name, error in errors.items()
        },
    )


def _color_truth(truth: run.Flow, valid: Bool[np.ndarray, "height width"], full: float) -> str:
    """With the wheel of colours in its corner; grey where it is not known."""
    picture = fit_to_width(np.where(valid[..., None], draw.flow_colors(truth, full), np.uint8(128)))
    return webp_uri(
        draw.draw_inset(picture, draw.draw_color_wheel(min(_WHEEL_PX, len(picture) // 4)))
    )
