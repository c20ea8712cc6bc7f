"""The tables of an ablation in a terminal: the paper's numbers, ours, and the differences of ours
from those of the full method.
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
"""The metrics that are shown: the paper's, if their weights were given, and some that need none.
The page has all.
"""


def format_tables(result: Mapping[str, Any]) -> Iterator[str]:
    """The tables, from the content of ablation.json."""
    variants = result["variants"]
    yield f"{result['paper']['words']}:"
    yield align_columns(
        [
            ["variant", *PAPER_COLUMNS],
            *(
                [v["title"], *("-" if number is None else f"{number:g}" for number in v["paper"])]
                for v in variants
            ),
        ]
    )
    metrics = [{metric["key"]: metric for metric in v["metrics"]} for v in variants]
    columns = [
        key
        for key in (*_PAPER_METRICS, *_OTHER_METRICS)
        if all(by_key[key]["value"] is not None for by_key in metrics)
    ]
    yield f"\n{result['caution']}. 95 % intervals over films; less is nearer to the real films:"
    yield from (
        f"  [{i}] {metrics[0][key]['name']} {metrics[0][key]['unit']}".rstrip()
        for i, key in enumerate(columns, 1)
    )
    yield align_columns(
        [
            _column_headings(columns, columns),
            *(
                [v["title"], *(_format_interval(by_key[key]) for key in columns)]
                for v, by_key in zip(variants, metrics, strict=True)
            ),
        ]
    )
    if result["compared_with"]:
        yield from _format_differences(variants, result["compared_with"], columns)


def _format_differences(
    variants: Sequence[Mapping[str, Any]], name: str, columns: Sequence[str]
) -> Iterator[str]:
    """The differences of each variant's films from those of the variant `name`, in the metrics of
    `columns` that are means over films.
    """
    title = next(v["title"] for v in variants if v["name"] == name)
    others = [v for v in variants if v["name"] != name]
    keys = [key for key in columns if all(key in v["differences"] for v in others)]
    if others and keys:
        yield (
            f"\nDifference from {title}, photograph by photograph, with Student's 95 % interval; "
            "* where it leaves out 0:"
        )
        yield align_columns(
            [
                _column_headings(keys, columns),
                *(
                    [v["title"], *(_format_difference(v["differences"][key]) for key in keys)]
                    for v in others
                ),
            ]
        )


def _column_headings(keys: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The headings of the metrics: their numbers in the legend."""
    return ["variant", *(f"[{columns.index(key) + 1}]" for key in keys)]


def _format_interval(metric: Mapping[str, Any]) -> str:
    """A value and its interval: `3.1 (2.2 to 4)`."""
    value = f"{metric['value']:.3g}"
    if metric["low"] is None:
        return value
    return f"{value} ({metric['low']:.3g} to {metric['high']:.3g})"


def _format_difference(difference: Mapping[str, Any]) -> str:
    """A difference and half its interval: `+3.1 +/- 0.9 *`."""
    value, low, high = (difference[part] for part in ("value", "low", "high"))
    if low is None:
        return f"{value:+.3g}"
    return f"{value:+.3g} +/- {high - value:.2g} {' ' if low <= 0 <= high else '*'}"
