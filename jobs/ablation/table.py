"""An ablation in a terminal: the paper's numbers, ours, and by how much ours differ from those of
the full method.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.ablation.variants import PAPER_COLUMNS
from jobs.cli.results import align_columns

_PAPER_METRICS = ("fid", "kid", "fvd", "fvd32", "dt_fvd", "dt_fvd32")
_OTHER_METRICS = (
    "changes_frechet",
    "log_spectral_db",
    "magnitude_px",
    "phase_coherence",
    "warping_error",
)
"""Metrics that are shown: the paper's where their weights are given, and some that need none. The
page has all.
"""


def format_tables(found: Mapping[str, Any]) -> Iterator[str]:
    """Of what ablation.json says."""
    variants = found["variants"]
    yield f"{found['paper']['words']}:"
    yield align_columns(
        [
            ["variant", *PAPER_COLUMNS],
            *(
                [v["title"], *("-" if one is None else f"{one:g}" for one in v["paper"])]
                for v in variants
            ),
        ]
    )
    metrics = [{one["key"]: one for one in v["metrics"]} for v in variants]
    columns = [
        key
        for key in (*_PAPER_METRICS, *_OTHER_METRICS)
        if all(one[key]["value"] is not None for one in metrics)
    ]
    yield f"\n{found['caution']}. 95 % intervals over films; less is nearer to the real films:"
    yield from (
        f"  [{i}] {metrics[0][key]['name']} {metrics[0][key]['unit']}".rstrip()
        for i, key in enumerate(columns, 1)
    )
    yield align_columns(
        [
            _column_headings(columns, columns),
            *(
                [v["title"], *(_format_interval(one[key]) for key in columns)]
                for v, one in zip(variants, metrics, strict=True)
            ),
        ]
    )
    if found["compared_with"]:
        yield from _format_differences(variants, found["compared_with"], columns)


def _format_differences(
    variants: Sequence[Mapping[str, Any]], name: str, columns: Sequence[str]
) -> Iterator[str]:
    """By how much each variant's films differ from those of that name, in the metrics of `columns`
    that are means over films.
    """
    title, others = (
        next(v["title"] for v in variants if v["name"] == name),
        [v for v in variants if v["name"] != name],
    )
    shown = [key for key in columns if all(key in v["differences"] for v in others)]
    if others and shown:
        yield f"\nDifference from {title}, photograph by photograph, with Student's 95 % interval; * where it leaves out 0:"
        yield align_columns(
            [
                _column_headings(shown, columns),
                *(
                    [v["title"], *(_format_difference(v["differences"][key]) for key in shown)]
                    for v in others
                ),
            ]
        )


def _column_headings(shown: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Metrics by their numbers in the legend."""
    return ["variant", *(f"[{columns.index(key) + 1}]" for key in shown)]


def _format_interval(one: Mapping[str, Any]) -> str:
    """`3.1 (2.2 to 4)`."""
    return f"{one['value']:.3g}" + (
        "" if one["low"] is None else f" ({one['low']:.3g} to {one['high']:.3g})"
    )


def _format_difference(one: Mapping[str, Any]) -> str:
    """`+3.1 +/- 0.9 *`."""
    if one["low"] is None:
        return f"{one['value']:+.3g}"
    return f"{one['value']:+.3g} +/- {one['high'] - one['value']:.2g} {' ' if one['low'] <= 0 <= one['high'] else '*'}"
