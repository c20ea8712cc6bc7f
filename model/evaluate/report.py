"""The pages of `quiver evaluate` and `quiver upper-bound`: tables, curves and slices of the numbers
that were measured.

Both are pages of sections (pipeline/report/layout.py); no script runs in them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.report import charts
from pipeline.report.canvas import ACCENT, INK, MUTED
from pipeline.report.charts import Line
from pipeline.report.labels import format_count, format_number
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

_CURVE_STYLES = {
    "still": Line(np.empty(0), MUTED, (1, 2)),
    "K = 4": Line(np.empty(0), ACCENT, (4, 2)),
    "K = 16": Line(np.empty(0), ACCENT),
    "true motion": Line(np.empty(0), INK),
}
"""The motions whose curves a clip's figure shows, with the style of each."""
_CURVE_LEGEND = Markup(
    '<span class="key still">First frame, still</span>, <span class="key k4">K = 4</span>, <span '
    'class="key">K = 16</span>, <span class="key true">true motion</span>'
)


def render_upper_bound_page(
    report: Mapping[str, Any], slices: Mapping[str, Mapping[str, Slice]]
) -> str:
    """The page, from the content of ceiling.json and the X-t slices of each clip, by the clip and
    the motion.
    """
    clips = report["clips"]
    sections = [
        Section("All clips", _UPPER_BOUND_TEXTS, table=_upper_bound_table(clips, report["mean"]))
    ]
    sections += [
        _upper_bound_section(i, clip, slices[clip["name"]]) for i, clip in enumerate(clips)
    ]
    sections.append(protocol_section(report["protocol"]))
    gain = np.mean(
        [clip["motions"][-1]["psnr_db"] - clip["motions"][0]["psnr_db"] for clip in clips]
    )
    tiles = [
        Tile("clips", format_number(len(clips))),
        Tile("over a still picture, by true motion", f"{gain:+.1f}", "dB", accent=True),
    ]
    lede = (
        f"The first frame of {format_count(len(clips), 'clip')}, moved by the motion that was "
        "measured in it: whole, and from its first K frequencies. No network had a part in it."
    )
    return render_sections(
        over="Ceiling of the representation",
        title="How good can it get?",
        lede=lede,
        tiles=tiles,
        sections=sections,
        slices_per_row=5,
    )


_UPPER_BOUND_TEXTS = (
    "A predictor of spectral volumes gives K frequencies, and a renderer makes frames of them. "
    "Here both are replaced by the truth as far as it is known: what is "
    "still wrong is the flow, what splatting cannot show, and what the frequencies beyond K would "
    "have said.",
    "PSNR and SSIM compare every later frame with the real one; the error of the motion is that of "
    "the displacements, as a root mean square over frames and pixels.",
)


def _upper_bound_table(
    clips: Sequence[Mapping[str, Any]], mean: Sequence[Mapping[str, Any]]
) -> Table:
    """A row for each clip and measure; first the `mean` over clips, if there is one."""
    names = [motion["name"] for motion in clips[0]["motions"]]
    measures = (
        ("PSNR, dB", "psnr_db", "{:.2f}"),
        ("SSIM", "ssim", "{:.4f}"),
        ("error of the motion, px", "error_px", "{:.3f}"),
    )
    motions_by_title = [
        *([("mean over clips", mean)] if mean else []),
        *((clip["name"], clip["motions"]) for clip in clips),
    ]
    rows = [
        [
            Cell(name if i == 0 else ""),
            Cell(title),
            *(Cell(form.format(motion[key])) for motion in motions),
        ]
        for name, motions in motions_by_title
        for i, (title, key, form) in enumerate(measures)
    ]
    return Table(["clip", "", *names], rows)


def _upper_bound_section(
    place: int, clip: Mapping[str, Any], slices: Mapping[str, Slice]
) -> Section:
    """The section of one clip: its curves and slices."""
    motions = {motion["name"]: motion for motion in clip["motions"]}
    names = [name.removeprefix("K = ").removesuffix(" motion") for name in motions]
    by_count = charts.plot_steps(
        f"count-{place}",
        names,
        [Line(np.array([motion["psnr_db"] for motion in motions.values()]))],
        "PSNR, dB",
    )
    seconds = np.array(clip["seconds"][1:])
    lines = [
        line._replace(values=np.array(motions[name]["psnr_db_of_frames"]))
        for name, line in _CURVE_STYLES.items()
        if name in motions
    ]
    over_time = charts.plot_curves(f"time-{place}", seconds, lines, "PSNR, dB")
    plots = [
        Figure(
            by_count,
            Markup(
                "<b>PSNR</b> by the number of frequencies K, of the first frame that stands still, "
                "and by the true motion."
            ),
        ),
        Figure(over_time, Markup("<b>PSNR over time.</b> ") + _CURVE_LEGEND),
    ]
    size, crop = clip["size"], clip["working_size"]
    text = (
        f"{len(clip['seconds'])} frames in {clip['seconds'][-1]:.2f} s, {size[0]}x{size[1]}, "
        f"compared at {crop[0]}x{crop[1]}; "
        f"the true motion is {clip['motion_px']:.2f} px on average."
    )
    pictures = [slice_picture(pixels, name) for name, pixels in slices.items()]
    return Section(clip["name"], [text], figures=plots, slices=pictures)


def render_evaluation_page(
    report: Mapping[str, Any], slices: Mapping[str, tuple[Slice, Slice]]
) -> str:
    """The page, from the content of evaluation.json and the X-t slices of each pair, real and
    generated.
    """
    metrics, pairs = report["metrics"], report["pairs"]
    sections = [
        Section(
            "Numbers",
            [*_EVALUATION_TEXTS, *(f"{remark}." for remark in report["remarks"])],
            table=_metrics_table(metrics),
        ),
        _curves_section(report["curves"]),
        _spectra_section(report["spectra"]),
    ]
    sections += [_pair_section(pair, *slices[pair["name"]]) for pair in pairs]
    sections.append(protocol_section(report["protocol"]))
    frames = sum(pair["frames"] for pair in pairs)
    tiles = [
        Tile("pairs", format_number(len(pairs))),
        Tile("frames of each side", format_number(frames)),
        *(
            Tile(metric["name"], f"{metric['value']:.3g}", metric["unit"], accent=True)
            for metric in metrics[:2]
        ),
    ]
    lede = (
        f"{format_count(len(pairs), 'generated video')} beside the real ones of the same names, "
        f"cropped to {'x'.join(map(str, report['protocol']['crop']))} pixels."
    )
    return render_sections(
        over="Evaluation of generated videos",
        title="How near to real?",
        lede=lede,
        tiles=tiles,
        sections=sections,
        slices_per_row=2,
    )


_EVALUATION_TEXTS = (
    "Intervals are of 95 %: by Student's t of means over the pairs, and of distances of "
    "distributions (FID, KID, FVD, colours, changes) by drawing pairs anew. Where a measure is of "
    "each video by itself, its distance is the mean of |generated - real| over the pairs, and both "
    "means "
    "stand beside it. A distance of distributions is too large for few samples: compare it only "
    "between sets of the same number.",
    "A line without a number says what it needs. Nothing is downloaded, and nothing is replaced by "
    "something else.",
)
_REAL_GENERATED_LEGEND = Markup(
    '<span class="key real">Real</span> and <span class="key">generated</span>'
)


def _metrics_table(metrics: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each metric."""
    return Table(
        ["metric", "distance", "95 % interval", "real", "generated", "better", "measured on"],
        [_metric_row(metric) for metric in metrics],
    )


def _metric_row(metric: Mapping[str, Any]) -> list[Cell]:
    if metric["needs"]:
        return [Cell(metric["name"]), Cell(f"needs {metric['needs']}", wide=6)]
    interval = (
        f"{metric['low']:.3g} – {metric['high']:.3g}" if metric["low"] is not None else "one pair"
    )
    averages = [
        "" if metric[side] is None else f"{metric[side]:.3g}" for side in ("real", "generated")
    ]
    return [
        Cell(text)
        for text in (
            ", ".join(filter(None, (metric["name"], metric["unit"]))),
            f"{metric['value']:.4g}",
            interval,
            *averages,
            metric["better"],
            _describe_measured_part(metric["protocol"]),
        )
    ]


def _describe_measured_part(protocol: Mapping[str, Any]) -> str:
    """How much of the videos was measured, in few words; evaluation.json has all of it."""
    if "samples" in protocol:
        excerpts = (
            f" of {protocol['window']} frames, every {protocol['stride']}"
            if protocol["window"] > 1
            else " of 1 frame"
        )
        return f"{protocol['samples']} samples{excerpts}"
    if "visible" in protocol:
        return "{}, {real:.0%} and {generated:.0%} of the pixels".format(
            format_count(protocol["pairs"], "pair"), **protocol["visible"]
        )
    return (
        format_count(protocol["frames"], "frame")
        if "frames" in protocol
        else format_count(protocol["pairs"], "pair")
    )


def _curves_section(curves: Sequence[Mapping[str, Any]]) -> Section:
    """The metrics that are curves over time."""
    plots = [
        Figure(
            charts.plot_curves(
                f"curve-{i}",
                np.array(curve["seconds"]),
                [Line(np.array(curve["values"]))],
                curve["unit"] or curve["name"].split(" x ")[0],
            ),
            Markup("<b>{}</b>{}").format(
                curve["name"],
                " of each frame after the first beside the real one, averaged over pairs."
                if curve["unit"] is not None
                else ", sliding over the videos.",
            ),
        )
        for i, curve in enumerate(curves)
        if len(curve["values"]) > 1
    ]
    missing = [
        f"{curve['name']}, sliding over the videos, needs {curve['needs']}."
        for curve in curves
        if curve["needs"]
    ]
    return Section(
        "Over time",
        ["Generated videos decay: what is near at the beginning may not stay so.", *missing],
        figures=plots,
    )


def _spectra_section(spectra: Mapping[str, Any]) -> Section:
    """The spectra of the motion, real and generated, by frequency."""
    hz = np.array(spectra["hz"])
    lines = [
        Line(np.array(spectra["real_px"]), INK),
        Line(np.array(spectra["generated_px"]), ACCENT),
    ]
    slow = slice(1, int(np.searchsorted(hz, 4.0)))
    plots = [
        Figure(
            charts.plot_curves(
                "spectrum",
                hz[1:],
                [line._replace(values=line.values[1:]) for line in lines],
                "amplitude, px",
                log=True,
                across="frequency, Hz",
            ),
            Markup("<b>Spectrum of the motion.</b> ")
            + _REAL_GENERATED_LEGEND
            + Markup(
                ", root mean square of a sway's amplitude over every {}th pixel and pairs."
            ).format(spectra["every_pixel"]),
        ),
        Figure(
            charts.plot_curves(
                "slow",
                hz[slow],
                [line._replace(values=line.values[slow]) for line in lines],
                "amplitude, px",
                across="frequency, Hz",
            ),
            Markup("The same up to 4 Hz, on a linear axis: ")
            + _REAL_GENERATED_LEGEND
            + Markup("."),
        ),
    ]
    return Section("How fast does it sway?", figures=plots)


def _pair_section(pair: Mapping[str, Any], real: Slice, generated: Slice) -> Section:
    """The section of one pair: its X-t slices and its own numbers."""
    text = (
        f"{pair['frames']} frames of {pair['real']['frames']} real and "
        f"{pair['generated']['frames']} generated. PSNR {pair['psnr_db']:.2f} dB, SSIM "
        f"{pair['ssim']:.3f}, "
        f"log-spectral distance {pair['log_spectral_db']:.1f} dB; mean motion "
        f"{pair['real']['motion_px']:.2f} px real, {pair['generated']['motion_px']:.2f} px "
        "generated."
    )
    pictures = [
        slice_picture(pixels, f"{name}, row {pair['row']} over time, downwards")
        for name, pixels in (("real", real), ("generated", generated))
    ]
    return Section(pair["name"], [text], slices=pictures)
