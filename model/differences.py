"""By how much films of the same photographs differ from one variant to another (docs/maths.md, 44).

Of what each film has a number: distances of whole sets of films have none of a single one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t

from model.distances import CONFIDENCE


class Difference(NamedTuple):
    """Mean of ours - theirs over photographs."""

    value: float
    low: float | None
    high: float | None
    """Of Student's 95 % interval; None of a single photograph."""
    photographs: int


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Of numbers in pairs, at least one. Raises ValueError where they are not as many."""
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"there are {len(ours)} and {len(theirs)} numbers, expected pairs of them")
    apart = np.subtract(ours, theirs, dtype=np.float64)
    value, count = float(apart.mean()), len(apart)
    if count < 2:
        return Difference(value, None, None, count)
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1) * apart.std(ddof=1) / np.sqrt(count))
    return Difference(value, value - half, value + half, count)


def differences(ours: Iterable[Mapping[str, Any]], theirs: Iterable[Mapping[str, Any]], keys: Iterable[str]) -> dict[str, Difference]:
    """Of two evaluations' `pairs`, which have the same names: of each of the metrics that has a number for every pair."""
    sides = [{pair["name"]: pair for pair in side} for side in (ours, theirs)]
    numbers = {key: [[of_pair(side[name], key) for name in sides[0]] for side in sides] for key in keys}
    whole = {key: [[one for one in side if one is not None] for side in both] for key, both in numbers.items()}
    return {key: difference(*whole[key]) for key, both in numbers.items() if whole[key] == both}


def of_pair(pair: Mapping[str, Any], key: str) -> float | None:
    """A metric of one pair, as evaluation.json has it: of both videos together, or |generated - real| of what each has by itself. None where it has none."""
    if key in pair:
        return pair[key]
    real, generated = (pair[side].get(key) for side in ("real", "generated"))
    return None if real is None or generated is None else abs(generated - real)
