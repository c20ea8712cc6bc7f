"""The page of `quiver evaluate-prior`: tables, and pictures of some scenes, without a script."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from model.evaluate.prior.evaluation import PRIOR_SAMPLE, PRIORS, WindowResult
from model.evaluate.prior.table import (
    ITSELF,
    MEASURES,
    Estimate,
    PriorMeasure,
    format_grid,
)
from pipeline.images.draw import heat_map, scale_limit
from pipeline.report.labels import format_count, format_number
from pipeline.report.layout import (
    Cell,
    Section,
    SlicePicture,
    Table,
    Tile,
    protocol_section,
    render_sections,
    slice_picture,
    webp_uri,
)

_MEASURE_TEXTS = (
    "Where: how well the amplitude finds the quarter of the picture that moves most, as the area "
    "under the ROC curve; 1 finds all of it, 0.5 is chance. How much: the size of the logarithm of "
    "the ratio of mean amplitudes; 0.69 is twice or half. Spectrum: the root mean square over "
    "frequencies of the difference in power; 6 dB is twice the amplitude.",
    "In space, in phase and rest at start say how far the motion is from the real one in what it "
    "is by itself: how alike pixels move that are 8 px apart, how alike the phase turns from band "
    "to band, and how far it is from rest at its first instant, relative to its root mean square.",
)


def render_prior_page(
    record: Mapping[str, Any],
    table: Sequence[Estimate],
    differences: Sequence[Estimate],
    results: Sequence[WindowResult],
) -> str:
    """The page, from the content of prior_evaluation.json, its tables, and the windows with their
    pictures.
    """
    count = len(record["scenes"])
    sections = [
        Section(
            "Beside the real motion",
            [*_MEASURE_TEXTS, *(f"{remark}." for remark in record["remarks"])],
            table=_make_table(table, MEASURES),
        ),
        Section(
            "By itself",
            [
                "None of these is good or bad: the last row is what the prior should come to. "
                "Variety is the mean distance of the motions of several seeds, each brought to "
                "length 1: 0 if all are alike, 1.41 if they have nothing in common. A "
                "seam is the jump where a loop begins again, relative to the greatest change from "
                "frame to frame inside: up to about 1 it is not seen."
            ],
            table=_make_table(table, ITSELF),
        ),
        *_difference_sections(differences),
        *(_scene_section(result) for result in results if result.pictures),
        protocol_section(
            dict(command=record["command"], checkpoints=record["checkpoints"]) | record["protocol"]
        ),
    ]
    values = {(cell.row, cell.measure): cell.value for cell in table}
    tiles = [
        Tile("scenes", format_number(count)),
        Tile("windows", format_number(len(results))),
        *(
            Tile(
                f"where, {row.removeprefix('prior, ')}", f"{values[row, 'where']:.3f}", accent=True
            )
            for row in PRIORS
            if (row, "where") in values
        ),
    ]
    return render_sections(
        over="Evaluation of a motion prior",
        title="Does it know what moves?",
        lede=(
            f"Motion sampled for photographs of {format_count(count, 'scene')} that the prior was "
            "not trained on, beside the real motion and beside predictions that need no prior."
        ),
        tiles=tiles,
        sections=sections,
        slices_per_row=4,
    )


def _make_table(estimates: Sequence[Estimate], measures: Sequence[PriorMeasure]) -> Table:
    head, *rows = format_grid(estimates, measures)
    return Table(head, [[Cell(text) for text in row] for row in rows])


def _difference_sections(differences: Sequence[Estimate]) -> list[Section]:
    """What each row of the prior has more than each prediction."""
    text = (
        "The number of the prior less that of the prediction, scene by scene, so that easy and "
        "hard scenes cancel. It is better at a * and worse at a !, where the interval of 95 % "
        "leaves out 0."
    )
    of_priors = {row: [found for found in differences if found.row == row] for row in PRIORS}
    return [
        Section(
            f"{row[0].upper()}{row[1:]}, less each prediction", [text], _make_table(own, MEASURES)
        )
        for row, own in of_priors.items()
        if own
    ]


def _scene_section(result: WindowResult) -> Section:
    """The pictures of one scene's first window, and its own numbers."""
    pictures, sample = result.pictures, result.rows[PRIOR_SAMPLE]
    assert pictures is not None  # noqa: S101
    names = {"real": "real motion", "sampled": "the prior", "nearest": "nearest window"}
    limits = {name: scale_limit(values) for name, values in pictures.amplitudes.items()}
    maps = [
        _picture(
            heat_map(values, limits[name]), f"amplitude, {names[name]}, to {limits[name]:g} px"
        )
        for name, values in pictures.amplitudes.items()
    ]
    slices = [
        slice_picture(pixels, f"row {pictures.row} over time, {names[name]}")
        for name, pixels in pictures.slices.items()
    ]
    text = (
        f"One sample: where {sample['where']:.2f}, how much {sample['level']:.2f}, spectrum "
        f"{sample['spectrum']:.1f} dB. Each amplitude has a scale of its own, from 0, black; the "
        "prior's is the mean of its samples, its slice is of the first."
    )
    return Section(
        result.window.key,
        [text],
        slices=[
            _picture(pictures.photograph, "photograph"),
            *maps,
            _picture(pictures.nearest_photograph, "photograph of the nearest window"),
            *slices,
        ],
    )


def _picture(pixels: UInt8[np.ndarray, "height width 3"], caption: str) -> SlicePicture:
    return SlicePicture(webp_uri(pixels), caption)
