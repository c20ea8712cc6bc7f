"""How much the films of the same photographs differ between two variants (docs/design/maths.md,
44).

Only metrics that each film has by itself are compared; a distance between sets of films has no
value for a single one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from model.evaluate.distributions import estimate_mean


class _Difference(NamedTuple):
    """The mean of value - reference value over photographs, with Student's 95 % interval."""

    value: float
    low: float | None
    """None for a single photograph."""
    high: float | None
    photographs: int


def difference(values: Sequence[float], reference_values: Sequence[float]) -> _Difference:
    """The difference of paired numbers. Raises ValueError for no pair, or different lengths."""
    if len(values) != len(reference_values) or not values:
        raise ValueError(
            f"there are {len(values)} and {len(reference_values)} numbers, expected pairs of them"
        )
    differences = [a - b for a, b in zip(values, reference_values, strict=True)]
    if len(differences) == 1:
        return _Difference(differences[0], None, None, 1)
    return _Difference(*estimate_mean(differences), len(differences))


def compare_evaluations(
    pairs: Iterable[Mapping[str, Any]],
    reference_pairs: Iterable[Mapping[str, Any]],
    keys: Iterable[str],
) -> dict[str, _Difference]:
    """The difference of two evaluations in each of the metrics that has a number for every pair.
    `pairs` and `reference_pairs` are the `pairs` of their evaluation.json, with the same names.
    """
    by_name = {pair["name"]: pair for pair in pairs}
    references = {pair["name"]: pair for pair in reference_pairs}
    differences = {}
    for key in keys:
        values = [pair_metric(pair, key) for pair in by_name.values()]
        reference_values = [pair_metric(references[name], key) for name in by_name]
        sides = [values, reference_values]
        numbers = [[value for value in side if value is not None] for side in sides]
        if numbers == sides:
            differences[key] = difference(*numbers)
    return differences


def pair_metric(pair: Mapping[str, Any], key: str) -> float | None:
    """The value of a metric for one pair of evaluation.json: that of the pair, or
    |generated - real| of the values of both videos; None if there is none.
    """
    if key in pair:
        return pair[key]
    real, generated = (pair[side].get(key) for side in ("real", "generated"))
    return None if real is None or generated is None else abs(generated - real)
