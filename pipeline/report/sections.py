"""Builds the sections of the report: each function returns the values that page.html shows in one
section.
"""

from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64

from pipeline.dataset import scales
from pipeline.dataset.open import DatasetView
from pipeline.report import figures, gallery, queries, stats
from pipeline.report.labels import MEASURE_LABELS, REASON_TEXTS, MeasureLabel, format_threshold
from schemas.outcome import Outcome
from schemas.run_contract import flatten
from schemas.statistics import SpectrumStatistics

_MAX_AVERAGED_WINDOWS = 1000
"""Spectra of at most so many windows are averaged, as in the paper's figure 2."""
_PAPER_HZ = (0.2, 0.4, 0.8, 1.6, 2.4, 3.0)
"""The frequencies of the paper's histograms."""
_PAPER_FREQUENCY_COUNTS = (4, 8, 16, 24)
"""The numbers of frequencies K that the paper compares."""
_HISTOGRAM_CELLS = 60
_STRIPS_PER_REASON, _MAX_LISTED_ROWS = 6, 50


def _count_values(values: pa.ChunkedArray) -> list[tuple[Any, int]]:
    """Each value with the number of its occurrences, the most frequent first."""
    counts = pc.value_counts(values.cast(pa.string())).to_pylist()  # pyright: ignore
    pairs = [(entry["values"], entry["counts"]) for entry in counts]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0] or ""))


def build_head(
    selections: Sequence[DatasetView], statistics: SpectrumStatistics, rows: pa.Table
) -> dict[str, Any]:
    """The heading: counts of clips, windows and outcomes, and the sources."""
    outcomes = dict(_count_values(rows["outcome"]))
    kept = queries.filter_rows(rows, outcome=Outcome.KEPT.value)
    clips = rows.group_by(["set", "clip_id", "uri"]).aggregate([("duration_s", "max")])
    return dict(
        seconds=statistics.frames / statistics.fps,
        frequencies=len(statistics.frequencies),
        top_hz=statistics.frequencies[-1].hz,
        clips=len(clips),
        hours=float(np.nansum(queries.read_numbers(clips, "duration_s_max"))) / 3600,
        windows=len(rows) - rows["key"].null_count,
        bytes=sum(
            int(np.nansum(queries.read_numbers(kept, name))) for name in queries.SIZE_COLUMNS
        ),
        outcomes=[(outcome.value, outcomes.get(outcome.value, 0)) for outcome in Outcome],
        splits=sorted(_count_values(kept["split"]), reverse=True),
        licences=_count_values(kept["licence"])[:20],
        reasons={
            outcome: _count_reasons(queries.filter_rows(rows, outcome=outcome))
            for outcome in (Outcome.REJECTED.value, Outcome.QUARANTINED.value)
        },
        sources=[
            _describe_source(selection, int(np.sum(kept["set"].to_numpy() == i)))
            for i, selection in enumerate(selections)
        ],
    )


def _count_reasons(rows: pa.Table) -> list[dict[str, Any]]:
    """Every reason with its number of rows, the most frequent first; its bar has length 1."""
    pairs = _count_values(rows["reason"])
    return [
        dict(
            reason=reason,
            words=REASON_TEXTS.get(reason, ""),
            count=count,
            share=count / pairs[0][1],
        )
        for reason, count in pairs
    ]


def _describe_source(selection: DatasetView, kept: int) -> dict[str, Any]:
    """The name of a dataset, its settings and its number of kept windows."""
    contract = selection.dataset.contract()
    thresholds = {
        f"thresholds.{name}": value for name, value in asdict(selection.thresholds()).items()
    }
    return dict(
        name=selection.dataset.root.absolute().name,
        view=selection.view,
        kept=kept,
        run=selection.read_index().run[:12],
        config=sorted((flatten(contract.config) | thresholds).items()),
        versions=sorted(contract.versions.items()),
    )


class _AveragedWindows(NamedTuple):
    """The training windows whose spectra are averaged."""

    rows: pa.Table
    power: Float64[np.ndarray, "windows 2 all_freq"]


def select_averaged(selections: Sequence[DatasetView], rows: pa.Table) -> _AveragedWindows:
    """Draws at most _MAX_AVERAGED_WINDOWS of the kept training windows, and reads their power."""
    kept = queries.filter_rows(rows, outcome=Outcome.KEPT.value, split="train")
    chosen = queries.draw_windows(kept, _MAX_AVERAGED_WINDOWS)
    return _AveragedWindows(chosen, queries.read_powers(selections, chosen))


def build_spectrum(
    selections: Sequence[DatasetView],
    statistics: SpectrumStatistics,
    power: Float64[np.ndarray, "windows 2 all_freq"],
) -> dict[str, Any]:
    """The average power, and the error of keeping K frequencies."""
    kept, frames = len(statistics.frequencies), statistics.frames
    hz = stats.bin_frequencies_hz(power.shape[2], statistics.fps, frames)
    relative, pixels = (
        _summarize_errors(errors) for errors in stats.truncation_errors(power.sum(axis=1), frames)
    )
    marked = sorted({k for k in (*_PAPER_FREQUENCY_COUNTS, kept) if k <= len(hz)})
    return dict(
        windows=len(power),
        nyquist=statistics.fps / 2,
        kept=kept,
        damped=any(selection.dataset.contract().config.get("damp") for selection in selections),
        power=figures.plot_power(hz, power.mean(axis=0), kept, frames),
        error=figures.plot_truncation_error(relative, kept, marked),
        table=[
            dict(k=k, hz=hz[k - 1], relative=relative[:, k - 1], pixels=pixels[:, k - 1])
            for k in marked
        ],
    )


def _summarize_errors(errors: np.ndarray) -> np.ndarray:
    """10 % quantile, median, 90 % quantile and mean over the windows."""
    return np.concatenate([np.quantile(errors, (0.1, 0.5, 0.9), axis=0), errors.mean(axis=0)[None]])


def build_normalization(
    selections: Sequence[DatasetView], statistics: SpectrumStatistics
) -> dict[str, Any]:
    """Histograms of amplitudes under both normalizations, and the scales."""
    counts = scales.merge_histograms(selections)[: len(statistics.frequencies)]
    hz = np.array([frequency.hz for frequency in statistics.frequencies])
    places = _paper_bins(hz)
    scale = np.array([np.atleast_1d(s) for s in statistics.scale]).T
    fan = stats.quantile_fan(counts)
    shown_hz = hz[places].tolist()
    longest = max(fan[4, k] for k in places) / min(statistics.size) or 1.0
    resolution_edges = np.linspace(0, longest, _HISTOGRAM_CELLS + 1)
    adaptive_edges = np.linspace(0, 2, _HISTOGRAM_CELLS + 1)
    to_pixels = stats.resolution_scalings(statistics.size)
    resolution = np.stack(
        [stats.amplitude_shares(counts[k], resolution_edges, to_pixels) for k in places]
    )
    adaptive = np.stack(
        [
            stats.amplitude_shares(
                counts[k], adaptive_edges, stats.adaptive_scalings(statistics.scale[k])
            )
            for k in places
        ]
    )
    return dict(
        resolution=figures.plot_ridges(
            "resolution",
            shown_hz,
            resolution_edges,
            resolution,
            "|S| / width (x), |S| / height (y)",
        ),
        adaptive=figures.plot_ridges("adaptive", shown_hz, adaptive_edges, adaptive, "√(|S| / s)"),
        scales=figures.plot_scales(hz, scale, fan),
        fan=stats.FAN_QUANTILES,
        quantile=statistics.quantile,
        pool=statistics.pool,
        table=[dict(hz=f, scale=scale[:, k], fan=fan[:, k]) for k, f in enumerate(hz)],
        windows=statistics.windows,
    )


def _paper_bins(hz: Float64[np.ndarray, " freq"]) -> list[int]:
    """Indices of the paper's frequencies; of the lowest ones if the dataset has none of them."""
    places = [
        int(np.abs(hz - paper_hz).argmin())
        for paper_hz in _PAPER_HZ
        if np.abs(hz - paper_hz).min() < 0.05
    ]
    return places or list(range(min(len(hz), len(_PAPER_HZ))))


def build_filters(selections: Sequence[DatasetView], rows: pa.Table) -> dict[str, Any]:
    """The distribution of every measure, and how many windows other thresholds would keep."""
    windows = queries.select_measured(rows)
    groups = [
        group for group in queries.group_by_dataset(windows, selections) if len(group.is_stored)
    ]
    kept = queries.filter_rows(windows, outcome=Outcome.KEPT.value)
    measures = MEASURE_LABELS.items() if groups else ()
    return dict(
        windows=len(windows),
        kept=len(kept),
        different=len({group.thresholds for group in groups}) > 1,
        measures=[_build_measure(name, label, groups, windows, kept) for name, label in measures],
    )


def _build_measure(
    name: str,
    label: MeasureLabel,
    groups: Sequence[stats.MeasuredWindows],
    windows: pa.Table,
    kept: pa.Table,
) -> dict[str, Any]:
    """The histogram of one measure, and a slider for each of its thresholds."""
    rules = [rule for rule in stats.THRESHOLD_RULES if rule.measure == name]
    log, all_values = name in stats.LOG_AXIS_MEASURES, queries.read_numbers(windows, name)
    low, high = stats.axis_limits(
        name, all_values, [getattr(groups[0].thresholds, rule.threshold) for rule in rules]
    )
    edges = (np.geomspace if log else np.linspace)(low, high, _HISTOGRAM_CELLS + 1)
    all_counts, kept_counts = (
        np.histogram(values.clip(low, high), edges)[0]
        for values in (all_values, queries.read_numbers(kept, name))
    )
    return dict(
        words=label,
        plot=figures.plot_measure(
            f"measure-{name}", edges, kept_counts, all_counts - kept_counts, log
        ),
        sliders=[_build_slider(groups, rule, edges, log) for rule in rules],
    )


def _build_slider(
    groups: Sequence[stats.MeasuredWindows], rule: stats.Rule, edges: np.ndarray, log: bool
) -> dict[str, Any]:
    """The values of a threshold, the counts for each, and their places on the axis, in percent of
    its width.
    """
    sweep = stats.sweep_threshold(groups, rule, (float(edges[0]), float(edges[-1])))
    low, high = np.log(edges[[0, -1]]) if log else edges[[0, -1]]
    finite = np.array([value if isfinite(value) else np.nan for value in sweep.values])
    places = ((np.log(np.maximum(finite, edges[0])) if log else finite) - low) / (high - low)
    places = np.where(np.isnan(finite), float(rule.rejects_above), places).clip(0, 1)
    return dict(
        rule=rule,
        sweep=sweep,
        names=[format_threshold(value) for value in sweep.values],
        places=[f"{100 * place:.2f}" for place in places],
    )


def build_gallery(
    selections: Sequence[DatasetView],
    statistics: SpectrumStatistics,
    rows: pa.Table,
    averaged: _AveragedWindows,
) -> dict[str, Any]:
    """Chosen samples as pictures."""
    relative, _ = stats.truncation_errors(averaged.power.sum(axis=1), statistics.frames)
    windows = gallery.choose_windows(
        queries.filter_rows(rows, outcome=Outcome.KEPT.value),
        averaged.rows,
        relative[:, len(statistics.frequencies) - 1],
    )
    hz = np.array([frequency.hz for frequency in statistics.frequencies])
    return dict(
        cards=gallery.build_cards(selections, windows, hz[_paper_bins(hz)].tolist()),
        legends=gallery.draw_legends(),
        random=sum("at random" in window["why"] for window in windows),
    )


def build_rejected(selections: Sequence[DatasetView], rows: pa.Table) -> list[dict[str, Any]]:
    """A few windows for each reason, with pictures and the measures that can be the cause."""
    rejected = queries.filter_rows(rows, outcome=Outcome.REJECTED.value)
    chosen: dict[str, list[dict[str, Any]]] = {}
    counts = _count_values(rejected["reason"])
    for reason, _ in counts:
        windows = queries.filter_rows(rejected, reason=reason)
        windows = windows.filter(windows["key"].is_valid())
        chosen[reason] = queries.draw_varied_windows(windows, _STRIPS_PER_REASON)
    strips = _read_strips(selections, [row for windows in chosen.values() for row in windows])
    causes = {(rule.reason, rule.measure) for rule in stats.THRESHOLD_RULES}
    return [
        dict(
            reason=reason,
            words=REASON_TEXTS.get(reason, ""),
            count=count,
            measures=[name for name in MEASURE_LABELS if (reason, name) in causes],
            windows=[
                row | dict(picture=strips.get((row["set"], row["key"]))) for row in chosen[reason]
            ],
        )
        for reason, count in counts
    ]


def _read_strips(
    selections: Sequence[DatasetView], rejected: Sequence[dict]
) -> dict[tuple[int, str], str]:
    """Pictures of rejected windows: the strip in their record, or frames of their sample if only a
    view rejects them.
    """
    stored = [row for row in rejected if row[queries.SIZE_COLUMNS[0]] is not None]
    frames = {
        (row["set"], row["key"]): gallery.draw_strip(selections[row["set"]], row)
        for row in queries.read_full_rows(selections, stored)
    }
    return frames | queries.read_strips(selections, rejected)


def build_quarantined(selections: Sequence[DatasetView], rows: pa.Table) -> dict[str, Any]:
    """The number of quarantined rows, and the first of them."""
    count = len(queries.filter_rows(rows, outcome=Outcome.QUARANTINED.value))
    return dict(
        count=count, rows=queries.read_quarantined(selections, _MAX_LISTED_ROWS) if count else []
    )


def build_run(selections: Sequence[DatasetView]) -> dict[str, Any] | None:
    """How fast the datasets were extracted; None if no log says so."""
    logs = [log for selection in selections if (log := queries.read_log(selection))]
    history = stats.merge_logs(logs)
    if history is None:
        return None
    return history._asdict() | dict(
        logs=len(logs),
        sets=len(selections),
        figure=figures.plot_throughput(history.minutes, history.windows, history.restarts),
    )
