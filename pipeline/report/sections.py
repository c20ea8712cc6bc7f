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
from pipeline.dataset.open import Selection
from pipeline.report import figures, queries, stats
from pipeline.report import gallery as pictures
from pipeline.report.labels import MEASURES, REASONS, Measure, shown
from schemas.outcome import Outcome
from schemas.run_contract import flatten
from schemas.statistics import SpectrumStatistics

AVERAGED = 1000
"""Windows of which spectra are averaged, as in the paper's figure 2."""
SHOWN_HZ = (0.2, 0.4, 0.8, 1.6, 2.4, 3.0)
"""Frequencies of the paper's histograms."""
MARKED = (4, 8, 16, 24)
"""Numbers of frequencies that the paper compares."""
CELLS = 60
STRIPS, LISTED = 6, 50


def counted(values: pa.ChunkedArray) -> list[tuple[Any, int]]:
    """How often each value is there, the commonest first."""
    pairs = [(entry["values"], entry["counts"]) for entry in pc.value_counts(values.cast(pa.string())).to_pylist()]  # pyright: ignore[reportAttributeAccessIssue]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0] or ""))


def head(selections: Sequence[Selection], statistics: SpectrumStatistics, rows: pa.Table) -> dict[str, Any]:
    """What there is, how much of it, and what became of the rest."""
    outcomes = dict(counted(rows["outcome"]))
    kept = queries.where(rows, outcome=Outcome.KEPT.value)
    clips = rows.group_by(["set", "clip_id", "uri"]).aggregate([("duration_s", "max")])
    return dict(
        statistics=statistics, seconds=statistics.frames / statistics.fps, frequencies=len(statistics.frequencies), top_hz=statistics.frequencies[-1].hz,
        clips=len(clips), hours=float(np.nansum(queries.column(clips, "duration_s_max"))) / 3600,
        windows=len(rows) - rows["key"].null_count, bytes=sum(int(np.nansum(queries.column(kept, name))) for name in queries.SIZES),
        outcomes=[(outcome.value, outcomes.get(outcome.value, 0)) for outcome in Outcome], total=len(rows),
        splits=sorted(counted(kept["split"]), reverse=True), licences=counted(kept["licence"])[:20],
        reasons={o: reasons(queries.where(rows, outcome=o)) for o in (Outcome.REJECTED.value, Outcome.QUARANTINED.value)},
        sources=[source(one, int(np.sum(kept["set"].to_numpy() == i))) for i, one in enumerate(selections)], flows=sorted({flow(one) for one in selections}),
    )  # fmt: skip


def reasons(rows: pa.Table) -> list[dict[str, Any]]:
    """Every reason with its number of rows, the commonest first, and the longest bar as 1."""
    pairs = counted(rows["reason"])
    return [dict(reason=reason, words=REASONS.get(reason, ""), count=count, share=count / pairs[0][1]) for reason, count in pairs]


def source(selection: Selection, kept: int) -> dict[str, Any]:
    """A data set, by name, with its settings and number of kept windows."""
    contract = selection.dataset.begun()
    thresholds = {f"thresholds.{name}": value for name, value in asdict(selection.thresholds()).items()}
    return dict(
        name=selection.dataset.root.absolute().name, view=selection.view, kept=kept, run=selection.index()["run"][:12],
        config=sorted((flatten(contract.config) | thresholds).items()), versions=sorted(contract.versions.items()),
    )  # fmt: skip


def flow(selection: Selection) -> str:
    """What measured its flow."""
    return str(selection.dataset.begun().config.get("flow", {}).get("flow", "?"))


class Averaged(NamedTuple):
    """The training windows of which spectra are averaged."""

    rows: pa.Table
    power: Float64[np.ndarray, "windows 2 all_freq"]


def averaged(selections: Sequence[Selection], rows: pa.Table) -> Averaged:
    """At most AVERAGED of them."""
    chosen = queries.drawn(queries.where(rows, outcome=Outcome.KEPT.value, split="train"), AVERAGED)
    return Averaged(chosen, queries.powers(selections, chosen))


def spectrum(selections: Sequence[Selection], statistics: SpectrumStatistics, power: Float64[np.ndarray, "windows 2 all_freq"]) -> dict[str, Any]:
    """Average power, and what keeping K frequencies of it loses."""
    kept, frames = len(statistics.frequencies), statistics.frames
    hz = stats.hertz(power.shape[2], statistics.fps, frames)
    relative, pixels = (spread(errors) for errors in stats.truncation(power.sum(axis=1), frames))
    marked = sorted({k for k in (*MARKED, kept) if k <= len(hz)})
    return dict(
        windows=len(power), nyquist=statistics.fps / 2, kept=kept, damped=any(one.dataset.begun().config.get("damp") for one in selections),
        power=figures.power(hz, power.mean(axis=0), kept, frames), error=figures.error(relative, kept, marked),
        table=[dict(k=k, hz=hz[k - 1], relative=relative[:, k - 1], pixels=pixels[:, k - 1]) for k in marked],
    )  # fmt: skip


def spread(errors: np.ndarray) -> np.ndarray:
    """Over the windows: 10 %, median, 90 %, and mean."""
    return np.concatenate([np.quantile(errors, (0.1, 0.5, 0.9), axis=0), errors.mean(axis=0)[None]])


def normalisation(selections: Sequence[Selection], statistics: SpectrumStatistics) -> dict[str, Any]:
    """Amplitudes under both normalisations, and the scales."""
    counts = scales.merged(selections)[: len(statistics.frequencies)]
    hz = np.array([frequency.hz for frequency in statistics.frequencies])
    places = shown_places(hz)
    scale = np.array([np.atleast_1d(s) for s in statistics.scale]).T
    fan = stats.fan(counts)
    side = np.linspace(0, max(fan[4, k] for k in places) / min(statistics.size) or 1.0, CELLS + 1)
    unit = np.linspace(0, 2, CELLS + 1)
    plain = np.stack([stats.amplitudes(counts[k], side, stats.by_resolution(statistics.size)) for k in places])
    adapted = np.stack([stats.amplitudes(counts[k], unit, stats.by_scale(statistics.scale[k])) for k in places])
    return dict(
        resolution=figures.ridges("resolution", hz[places].tolist(), side, plain, "|S| / width (x), |S| / height (y)"),
        adaptive=figures.ridges("adaptive", hz[places].tolist(), unit, adapted, "√(|S| / s)"),
        scales=figures.scales(hz, scale, fan), fan=stats.FAN, quantile=statistics.quantile, pool=statistics.pool, definition=statistics.definition,
        table=[dict(hz=f, scale=scale[:, k], fan=fan[:, k]) for k, f in enumerate(hz)], windows=statistics.windows,
    )  # fmt: skip


def shown_places(hz: Float64[np.ndarray, " freq"]) -> list[int]:
    """Indices of the paper's frequencies; the lowest ones where a data set has none of them."""
    places = [int(np.abs(hz - wanted).argmin()) for wanted in SHOWN_HZ if np.abs(hz - wanted).min() < 0.05]
    return places or list(range(min(len(hz), len(SHOWN_HZ))))


def filters(selections: Sequence[Selection], rows: pa.Table) -> dict[str, Any]:
    """Distribution of every measure, with what other thresholds would keep."""
    windows = queries.measured(rows)
    groups = [group for group in queries.judged(windows, selections) if len(group.stored)]
    kept = queries.where(windows, outcome=Outcome.KEPT.value)
    different = len({group.thresholds for group in groups}) > 1
    return dict(
        windows=len(windows), kept=len(kept), different=different, views=any(one.view for one in selections),
        measures=[measure(name, words, groups, windows, kept) for name, words in MEASURES.items()] if groups else [],
    )  # fmt: skip


def measure(name: str, words: Measure, groups: Sequence[stats.Judged], windows: pa.Table, kept: pa.Table) -> dict[str, Any]:
    """One measure: its histogram, and a slider for each of its thresholds."""
    rules = [rule for rule in stats.THRESHOLDS if rule.measure == name]
    log, all_values = name in stats.LOGARITHMIC, queries.column(windows, name)
    low, high = stats.axis(name, all_values, [getattr(groups[0].thresholds, rule.threshold) for rule in rules])
    edges = np.geomspace(low, high, CELLS + 1) if log else np.linspace(low, high, CELLS + 1)
    inside = [np.histogram(values.clip(low, high), edges)[0] for values in (all_values, queries.column(kept, name))]
    plot = figures.measure(f"measure-{name}", edges, inside[1], inside[0] - inside[1], log)
    return dict(name=name, words=words, plot=plot, most=int(inside[0].max()), sliders=[slider(groups, rule, edges, log) for rule in rules])


def slider(groups: Sequence[stats.Judged], rule: stats.Rule, edges: np.ndarray, log: bool) -> dict[str, Any]:
    """Values of a threshold, counts for each, and where each stands on the axis, as a share of its width."""
    found = stats.what_if(groups, rule, (float(edges[0]), float(edges[-1])))
    low, high = np.log(edges[[0, -1]]) if log else edges[[0, -1]]
    finite = np.array([value if isfinite(value) else np.nan for value in found.values])
    places = ((np.log(np.maximum(finite, edges[0])) if log else finite) - low) / (high - low)
    places = np.where(np.isnan(finite), float(rule.rejects_above), places).clip(0, 1)
    return dict(rule=rule, found=found, names=[shown(value) for value in found.values], places=[f"{100 * place:.2f}" for place in places])


def gallery(selections: Sequence[Selection], statistics: SpectrumStatistics, rows: pa.Table, chosen: Averaged) -> dict[str, Any]:
    """Samples as pictures."""
    relative, _ = stats.truncation(chosen.power.sum(axis=1), statistics.frames)
    windows = pictures.choose(queries.where(rows, outcome=Outcome.KEPT.value), chosen.rows, relative[:, len(statistics.frequencies) - 1])
    hz = np.array([frequency.hz for frequency in statistics.frequencies])
    return dict(
        cards=pictures.cards(selections, windows, hz[shown_places(hz)].tolist()), legends=pictures.legends(),
        random=sum("at random" in window["why"] for window in windows),
    )  # fmt: skip


def rejected(selections: Sequence[Selection], rows: pa.Table) -> list[dict[str, Any]]:
    """For each reason a few windows with their stored pictures and what was measured of them."""
    table = queries.where(rows, outcome=Outcome.REJECTED.value)
    by_reason = {reason: queries.where(table, reason=reason) for reason, _ in counted(table["reason"])}
    chosen = {reason: queries.varied(part.filter(part["key"].is_valid()), STRIPS) for reason, part in by_reason.items()}
    stored = pictures_of([row for some in chosen.values() for row in some], selections)
    windows = {reason: [row | dict(picture=stored.get((row["set"], row["key"]))) for row in some] for reason, some in chosen.items()}
    return [dict(about(reason, len(by_reason[reason])), windows=rows) for reason, rows in windows.items()]


def pictures_of(chosen: Sequence[dict], selections: Sequence[Selection]) -> dict[tuple[int, str], str]:
    """Of rejected windows: the strip in their record, or, of those that only a view rejects, frames of their sample."""
    samples = [row for row in chosen if row[queries.SIZES[0]] is not None]
    frames = {(row["set"], row["key"]): pictures.strip(selections[row["set"]], row) for row in queries.whole_rows(selections, samples)}
    return frames | queries.strips(selections, chosen)


def about(reason: str, count: int) -> dict[str, Any]:
    """A reason for rejection, with the measures that can be its cause."""
    return dict(reason=reason, words=REASONS.get(reason, ""), count=count, measures=[name for name in MEASURES if blames(name, reason)])


def blames(name: str, reason: str) -> bool:
    """Whether this measure can be the cause of a rejection."""
    return any(rule.measure == name and rule.reason == reason for rule in stats.THRESHOLDS)


def quarantined(selections: Sequence[Selection], rows: pa.Table) -> dict[str, Any]:
    """The first of what could not be read."""
    count = len(queries.where(rows, outcome=Outcome.QUARANTINED.value))
    return dict(count=count, rows=queries.quarantined(selections, LISTED) if count else [])


def run(selections: Sequence[Selection]) -> dict[str, Any] | None:
    """How fast it was; None where it was not recorded."""
    logs = [log for one in selections if (log := queries.log(one))]
    found = stats.past(logs)
    if found is None:
        return None
    return found._asdict() | dict(logs=len(logs), sets=len(selections), figure=figures.throughput(found.minutes, found.windows, found.restarts))
