"""The parts of the page: each function gives the values that page.html shows in one section."""

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
from pipeline.report import figures, queries, stats
from pipeline.report import gallery as pictures
from pipeline.report.labels import MEASURE_LABELS, REASON_TEXTS, MeasureLabel, format_threshold
from schemas.outcome import Outcome
from schemas.run_contract import flatten
from schemas.statistics import SpectrumStatistics

_MAX_AVERAGED_WINDOWS = 1000
"""Windows of which spectra are averaged, as in the paper's figure 2."""
_PAPER_HZ = (0.2, 0.4, 0.8, 1.6, 2.4, 3.0)
"""Frequencies of the paper's histograms."""
_PAPER_FREQUENCY_COUNTS = (4, 8, 16, 24)
"""Numbers of frequencies that the paper compares."""
_HISTOGRAM_CELLS = 60
_STRIPS_PER_REASON, _MAX_LISTED_ROWS = 6, 50


def _count_values(values: pa.ChunkedArray) -> list[tuple[Any, int]]:
    """How often each value is there, the commonest first."""
    pairs = [
        (entry["values"], entry["counts"])
        for entry in pc.value_counts(values.cast(pa.string())).to_pylist()
    ]  # pyright: ignore[reportAttributeAccessIssue]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0] or ""))


def build_head(
    selections: Sequence[DatasetView], statistics: SpectrumStatistics, rows: pa.Table
) -> dict[str, Any]:
    """What there is, how much of it, and what became of the rest."""
    outcomes = dict(_count_values(rows["outcome"]))
    kept = queries.filter_rows(rows, outcome=Outcome.KEPT.value)
    clips = rows.group_by(["set", "clip_id", "uri"]).aggregate([("duration_s", "max")])
    return dict(
        statistics=statistics,
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
        total=len(rows),
        splits=sorted(_count_values(kept["split"]), reverse=True),
        licences=_count_values(kept["licence"])[:20],
        reasons={
            o: _count_reasons(queries.filter_rows(rows, outcome=o))
            for o in (Outcome.REJECTED.value, Outcome.QUARANTINED.value)
        },
        sources=[
            _describe_source(one, int(np.sum(kept["set"].to_numpy() == i)))
            for i, one in enumerate(selections)
        ],
        flows=sorted({_flow_name(one) for one in selections}),
    )


def _count_reasons(rows: pa.Table) -> list[dict[str, Any]]:
    """Every reason with its number of rows, the commonest first, and the longest bar as 1."""
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
    """A data set, by name, with its settings and number of kept windows."""
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


def _flow_name(selection: DatasetView) -> str:
    """What measured its flow."""
    return str(selection.dataset.contract().config.get("flow", {}).get("flow", "?"))


class _AveragedWindows(NamedTuple):
    """The training windows of which spectra are averaged."""

    rows: pa.Table
    power: Float64[np.ndarray, "windows 2 all_freq"]


def select_averaged(selections: Sequence[DatasetView], rows: pa.Table) -> _AveragedWindows:
    """At most AVERAGED of them."""
    chosen = queries.draw_windows(
        queries.filter_rows(rows, outcome=Outcome.KEPT.value, split="train"), _MAX_AVERAGED_WINDOWS
    )
    return _AveragedWindows(chosen, queries.read_powers(selections, chosen))


def build_spectrum(
    selections: Sequence[DatasetView],
    statistics: SpectrumStatistics,
    power: Float64[np.ndarray, "windows 2 all_freq"],
) -> dict[str, Any]:
    """Average power, and what keeping K frequencies of it loses."""
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
        damped=any(one.dataset.contract().config.get("damp") for one in selections),
        power=figures.plot_power(hz, power.mean(axis=0), kept, frames),
        error=figures.plot_truncation_error(relative, kept, marked),
        table=[
            dict(k=k, hz=hz[k - 1], relative=relative[:, k - 1], pixels=pixels[:, k - 1])
            for k in marked
        ],
    )


def _summarize_errors(errors: np.ndarray) -> np.ndarray:
    """Over the windows: 10 %, median, 90 %, and mean."""
    return np.concatenate([np.quantile(errors, (0.1, 0.5, 0.9), axis=0), errors.mean(axis=0)[None]])


def build_normalization(
    selections: Sequence[DatasetView], statistics: SpectrumStatistics
) -> dict[str, Any]:
    """Amplitudes under both normalisations, and the scales."""
    counts = scales.merge_histograms(selections)[: len(statistics.frequencies)]
    hz = np.array([frequency.hz for frequency in statistics.frequencies])
    places = _paper_bins(hz)
    scale = np.array([np.atleast_1d(s) for s in statistics.scale]).T
    fan = stats.quantile_fan(counts)
    side = np.linspace(
        0, max(fan[4, k] for k in places) / min(statistics.size) or 1.0, _HISTOGRAM_CELLS + 1
    )
    unit = np.linspace(0, 2, _HISTOGRAM_CELLS + 1)
    plain = np.stack(
        [
            stats.amplitude_shares(counts[k], side, stats.resolution_scalings(statistics.size))
            for k in places
        ]
    )
    adapted = np.stack(
        [
            stats.amplitude_shares(counts[k], unit, stats.adaptive_scalings(statistics.scale[k]))
            for k in places
        ]
    )
    return dict(
        resolution=figures.plot_ridges(
            "resolution", hz[places].tolist(), side, plain, "|S| / width (x), |S| / height (y)"
        ),
        adaptive=figures.plot_ridges("adaptive", hz[places].tolist(), unit, adapted, "√(|S| / s)"),
        scales=figures.plot_scales(hz, scale, fan),
        fan=stats.FAN_QUANTILES,
        quantile=statistics.quantile,
        pool=statistics.pool,
        definition=statistics.definition,
        table=[dict(hz=f, scale=scale[:, k], fan=fan[:, k]) for k, f in enumerate(hz)],
        windows=statistics.windows,
    )


def _paper_bins(hz: Float64[np.ndarray, " freq"]) -> list[int]:
    """Indices of the paper's frequencies; the lowest ones where a data set has none of them."""
    places = [
        int(np.abs(hz - wanted).argmin())
        for wanted in _PAPER_HZ
        if np.abs(hz - wanted).min() < 0.05
    ]
    return places or list(range(min(len(hz), len(_PAPER_HZ))))


def build_filters(selections: Sequence[DatasetView], rows: pa.Table) -> dict[str, Any]:
    """Distribution of every measure, with what other thresholds would keep."""
    windows = queries.select_measured(rows)
    groups = [
        group for group in queries.group_by_dataset(windows, selections) if len(group.is_stored)
    ]
    kept = queries.filter_rows(windows, outcome=Outcome.KEPT.value)
    different = len({group.thresholds for group in groups}) > 1
    return dict(
        windows=len(windows),
        kept=len(kept),
        different=different,
        views=any(one.view for one in selections),
        measures=[
            _build_measure(name, words, groups, windows, kept)
            for name, words in MEASURE_LABELS.items()
        ]
        if groups
        else [],
    )


def _build_measure(
    name: str,
    words: MeasureLabel,
    groups: Sequence[stats.MeasuredWindows],
    windows: pa.Table,
    kept: pa.Table,
) -> dict[str, Any]:
    """One measure: its histogram, and a slider for each of its thresholds."""
    rules = [rule for rule in stats.THRESHOLD_RULES if rule.measure == name]
    log, all_values = name in stats.LOG_AXIS_MEASURES, queries.read_numbers(windows, name)
    low, high = stats.axis_limits(
        name, all_values, [getattr(groups[0].thresholds, rule.threshold) for rule in rules]
    )
    edges = (
        np.geomspace(low, high, _HISTOGRAM_CELLS + 1)
        if log
        else np.linspace(low, high, _HISTOGRAM_CELLS + 1)
    )
    inside = [
        np.histogram(values.clip(low, high), edges)[0]
        for values in (all_values, queries.read_numbers(kept, name))
    ]
    plot = figures.plot_measure(f"measure-{name}", edges, inside[1], inside[0] - inside[1], log)
    return dict(
        name=name,
        words=words,
        plot=plot,
        most=int(inside[0].max()),
        sliders=[_build_slider(groups, rule, edges, log) for rule in rules],
    )


def _build_slider(
    groups: Sequence[stats.MeasuredWindows], rule: stats.Rule, edges: np.ndarray, log: bool
) -> dict[str, Any]:
    """Values of a threshold, counts for each, and where each stands on the axis, as a share of its
    width.
    """
    found = stats.sweep_threshold(groups, rule, (float(edges[0]), float(edges[-1])))
    low, high = np.log(edges[[0, -1]]) if log else edges[[0, -1]]
    finite = np.array([value if isfinite(value) else np.nan for value in found.values])
    places = ((np.log(np.maximum(finite, edges[0])) if log else finite) - low) / (high - low)
    places = np.where(np.isnan(finite), float(rule.rejects_above), places).clip(0, 1)
    return dict(
        rule=rule,
        found=found,
        names=[format_threshold(value) for value in found.values],
        places=[f"{100 * place:.2f}" for place in places],
    )


def build_gallery(
    selections: Sequence[DatasetView],
    statistics: SpectrumStatistics,
    rows: pa.Table,
    chosen: _AveragedWindows,
) -> dict[str, Any]:
    """Samples as pictures."""
    relative, _ = stats.truncation_errors(chosen.power.sum(axis=1), statistics.frames)
    windows = pictures.choose_windows(
        queries.filter_rows(rows, outcome=Outcome.KEPT.value),
        chosen.rows,
        relative[:, len(statistics.frequencies) - 1],
    )
    hz = np.array([frequency.hz for frequency in statistics.frequencies])
    return dict(
        cards=pictures.build_cards(selections, windows, hz[_paper_bins(hz)].tolist()),
        legends=pictures.draw_legends(),
        random=sum("at random" in window["why"] for window in windows),
    )


def build_rejected(selections: Sequence[DatasetView], rows: pa.Table) -> list[dict[str, Any]]:
    """For each reason a few windows with their stored pictures and what was measured of them."""
    table = queries.filter_rows(rows, outcome=Outcome.REJECTED.value)
    by_reason = {
        reason: queries.filter_rows(table, reason=reason)
        for reason, _ in _count_values(table["reason"])
    }
    chosen = {
        reason: queries.draw_varied_windows(part.filter(part["key"].is_valid()), _STRIPS_PER_REASON)
        for reason, part in by_reason.items()
    }
    stored = _read_strip_pictures([row for some in chosen.values() for row in some], selections)
    windows = {
        reason: [row | dict(picture=stored.get((row["set"], row["key"]))) for row in some]
        for reason, some in chosen.items()
    }
    return [
        dict(_describe_reason(reason, len(by_reason[reason])), windows=rows)
        for reason, rows in windows.items()
    ]


def _read_strip_pictures(
    chosen: Sequence[dict], selections: Sequence[DatasetView]
) -> dict[tuple[int, str], str]:
    """Of rejected windows: the strip in their record, or, of those that only a view rejects, frames
    of their sample.
    """
    samples = [row for row in chosen if row[queries.SIZE_COLUMNS[0]] is not None]
    frames = {
        (row["set"], row["key"]): pictures.draw_strip(selections[row["set"]], row)
        for row in queries.read_full_rows(selections, samples)
    }
    return frames | queries.read_strips(selections, chosen)


def _describe_reason(reason: str, count: int) -> dict[str, Any]:
    """A reason for rejection, with the measures that can be its cause."""
    return dict(
        reason=reason,
        words=REASON_TEXTS.get(reason, ""),
        count=count,
        measures=[name for name in MEASURE_LABELS if _can_cause(name, reason)],
    )


def _can_cause(name: str, reason: str) -> bool:
    """Whether this measure can be the cause of a rejection."""
    return any(rule.measure == name and rule.reason == reason for rule in stats.THRESHOLD_RULES)


def build_quarantined(selections: Sequence[DatasetView], rows: pa.Table) -> dict[str, Any]:
    """The first of what could not be read."""
    count = len(queries.filter_rows(rows, outcome=Outcome.QUARANTINED.value))
    return dict(
        count=count, rows=queries.read_quarantined(selections, _MAX_LISTED_ROWS) if count else []
    )


def build_run(selections: Sequence[DatasetView]) -> dict[str, Any] | None:
    """How fast it was; None where it was not recorded."""
    logs = [log for one in selections if (log := queries.read_log(one))]
    found = stats.merge_logs(logs)
    if found is None:
        return None
    return found._asdict() | dict(
        logs=len(logs),
        sets=len(selections),
        figure=figures.plot_throughput(found.minutes, found.windows, found.restarts),
    )
